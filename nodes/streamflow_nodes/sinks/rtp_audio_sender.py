"""`rtp_audio_sender`: samples as RTP, for another program or machine."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

import msgspec
import numpy as np

from streamflow import In, Node, Packet, Samples, Settings
from streamflow.node import Seconds

from ..audio.rtp import HEADER, STATIC, WRAP, RtpPacket, build_rtp, encode_l16
from ..audio.samples import Format, Frames, finite, refused, require_samples
from ..udp_sockets import connected, sent

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class RtpAudioSenderSettings(Settings, frozen=True, kw_only=True):
    """Where to send, and how samples are cut into packets."""

    port: Port
    host: str = "127.0.0.1"
    payload_type: Annotated[int, msgspec.Meta(ge=0, le=127)] | None = None
    """By default 10 or 11 for 44.1 kHz in stereo or mono (RFC 3551), else 96."""
    packet_duration: Seconds = 0.02
    """What a packet holds (s), unless that is more than `datagram_bytes`."""
    datagram_bytes: Annotated[int, msgspec.Meta(ge=64, le=65507)] = 1472
    """The most a datagram holds: 1472 fills an Ethernet frame of 1500 bytes."""


class RtpAudioSender(Node[RtpAudioSenderSettings]):
    """Sends samples in RTP packets of 16-bit linear samples (L16, big-endian, interleaved).

    Packets hold `packet_duration`, whatever the stream was cut into; what is left at the end is
    sent in a shorter one. Timestamps follow the samples' indices, so samples that never came are a
    step of them, after which a packet has the marker bit. Sequence number, timestamp and SSRC begin
    at random (RFC 3550, 5.1). Datagrams leave as fast as packets come: with `clock: fast` a file
    overruns any receiver, with `clock: paced` it is sent as it sounds. Nothing is encrypted.

    Faults: `missing_sample` (frames that never came, not sent), `repeated_sample` (frames that came
    before, left out), `clipped` (samples beyond full scale, limited), `not_finite` (samples that
    are not numbers, sent as 0), `refused` (times the receiver's machine said that nobody listens:
    what was sent before is lost), `unsent` (datagrams that found no way out).

    Emits nothing. Keeps the next sequence number and what does not fill a packet yet. After a
    crash, packets that were not acknowledged are sent again: a wire cannot be taken back.

        send: {kind: rtp_audio_sender, inputs: {samples: clean.samples}, settings: {port: 5004}}
    """

    samples = In(Samples)
    faults = ("missing_sample", "repeated_sample", "clipped", "not_finite", "refused", "unsent")

    def open(self) -> None:
        self._format = Format()
        self._rest = np.empty((0, 1), np.float32)
        self._size = 0  # frames in a packet
        self._next = -1  # index of the sample after those that came
        self._origin, self._sequence = secrets.randbits(32), secrets.randbits(16)
        self._ssrc = secrets.randbits(32)
        self._marker = True
        self._sent = self._frames = 0
        self._socket = connected(self.settings.host, self.settings.port)

    def on_samples(self, packet: Packet[Samples]) -> None:
        frames = require_samples(self, packet)
        self._format.check(self, packet, "resample or mix before, or send each to its own port")
        if self._next < 0:
            self._next = packet.data.first
            self._set_size(packet)
        gap = packet.data.first - self._next
        if gap > 0:
            self._send_rest()
            self.count_fault("missing_sample", gap)
            self._next, self._marker = packet.data.first, True
        elif gap < 0:
            self.count_fault("repeated_sample", min(-gap, len(frames)))
            frames = frames[-gap:]
        frames, wrong = finite(frames)
        self.count_fault("not_finite", wrong)
        self._next += len(frames)
        held = np.concatenate([self._rest, frames]) if len(self._rest) else frames
        whole = len(held) // self._size * self._size
        for at in range(0, whole, self._size):
            self._send(held[at : at + self._size], self._next - len(held) + at)
        self._rest = held[whole:].copy()

    def _set_size(self, packet: Packet[Samples]) -> None:
        s, rate, channels = self.settings, self._format.rate, self._format.channels
        room = (s.datagram_bytes - HEADER.size) // (2 * channels)
        if not room:
            raise refused(
                self,
                packet,
                f"{channels} channels; one frame of them is more than {s.datagram_bytes} bytes: "
                "raise 'datagram_bytes', or send fewer channels",
            )
        self._size = max(1, min(round(s.packet_duration * rate), room))
        self._rest = np.empty((0, channels), np.float32)
        self._type = STATIC.get((rate, channels), 96) if s.payload_type is None else s.payload_type

    def _send(self, frames: Frames, index: int) -> None:
        payload, clipped = encode_l16(frames)
        self.count_fault("clipped", clipped)
        packet = RtpPacket(
            self._sequence, (self._origin + index) % WRAP, self._ssrc, self._type, self._marker,
            payload,
        )  # fmt: skip
        self._sequence, self._marker = (self._sequence + 1) % (1 << 16), False
        if sent(self, self._socket, build_rtp(packet)):
            self._sent += 1
            self._frames += len(frames)

    def _send_rest(self) -> None:
        if len(self._rest):
            self._send(self._rest, self._next - len(self._rest))
            self._rest = self._rest[:0]

    def finish(self) -> None:
        self._send_rest()

    def close(self) -> None:
        if hasattr(self, "_socket"):
            self._socket.close()

    def snapshot(self) -> dict[str, Any]:
        return {
            "rate": self._format.rate,
            "channels": self._format.channels,
            "rest": self._rest.copy(),
            "size": self._size,
            "type": self._type if self._size else 0,
            "next": self._next,
            "origin": self._origin,
            "sequence": self._sequence,
            "ssrc": self._ssrc,
            "marker": int(self._marker),
            "sent": self._sent,
            "frames": self._frames,
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._format.rate, self._format.channels = int(state["rate"]), int(state["channels"])
        self._rest, self._size = state["rest"], int(state["size"])
        self._type, self._next = int(state["type"]), int(state["next"])
        self._origin, self._sequence = int(state["origin"]), int(state["sequence"])
        self._ssrc, self._marker = int(state["ssrc"]), bool(state["marker"])
        self._sent, self._frames = int(state["sent"]), int(state["frames"])
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}

    def results(self) -> dict[str, Any]:
        """Where to, and the packets and frames that left."""
        return {
            "host": self.settings.host,
            "port": self.settings.port,
            "packets": self._sent,
            "frames": self._frames,
        }
