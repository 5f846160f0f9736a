"""`rtp_audio`: audio that another program or machine sends as RTP."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from streamflow import Node, Out, Samples, Settings
from streamflow.node import Emission, Positive, Seconds

from ..audio.rtp import DYNAMIC, FAULTS, RTCP, STATIC, JitterBuffer, Piece, decode_l16, parse_rtp
from ..audio.samples import sample_time
from ..spans import microseconds
from ..udp_sockets import dropped, listening

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
LARGEST = 1 << 16  # bytes: no datagram is larger
MOST = 256  # datagrams taken before samples are given out
PATIENCE = 10  # ms to wait for a datagram: the run's end must be heard


class RtpAudioSettings(Settings, frozen=True, kw_only=True):
    """Where to listen, what comes there, and how long it is waited for."""

    port: Port
    """0 takes a free one, which is logged and in the results."""
    host: str = "127.0.0.1"
    """The address to listen at; `0.0.0.0` hears every network, with nothing but `sender` to say
    who may send."""
    sender: str | None = None
    """The only address whose datagrams are taken."""
    rate: Positive = 48_000
    """Frames per second, which RTP does not say (Hz)."""
    channels: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    payload_type: Annotated[int, msgspec.Meta(ge=0, le=127)] | None = None
    """The only payload type that is taken. By default any dynamic one (96 to 127), and 10 or 11
    (44.1 kHz, stereo or mono) where `rate` and `channels` are theirs."""
    delay: Seconds = 0.04
    """The jitter buffer's target: how long after the fastest packets would have come samples are
    given out (s). What is later than that is made up."""
    end_after: Seconds | None = None
    """End the stream after so much silence (s) once something has come; else it ends with the
    run."""
    receive_buffer: Positive = 1_048_576
    """Bytes that the kernel is asked to keep while this node is busy; it may allow fewer."""


class RtpAudio(Node[RtpAudioSettings]):
    """Audio from RTP packets with 16-bit linear samples (L16), in order and without gaps.

    Samples leave `delay` after the fastest packets of the last 8 s would have come: late and
    reordered packets find their place within it, and a sender's clock that runs fast or slow is
    followed, so nothing adds up. What is not there by then is made up from the last period of the
    sound, fading to silence within 60 ms, and counted; when it comes after all it is dropped. So
    the delay is bounded under any loss: one lost packet costs its samples and nothing else. Nothing
    is given out before the first packet; when the sender stops, silence is, until it goes on.

    Index 0 and stream time 0 are the first packet's first sample; both follow the sender's
    timestamps. A sender that begins anew goes on where the stream stands.

    Faults: `concealed` (frames made up; with a sender that suppresses silence that silence too),
    `late` (packets that came after their time, dropped), `duplicate`, `unconfirmed` (packets of
    another sender or time before a second confirmed it, dropped), `restart` (times that was so),
    `moved` (times that all packets were late until the stream was moved to them), `malformed`
    (no RTP, or not whole frames), `other_payload` (another payload type), `foreign` (datagrams
    not from `sender`), `kernel_dropped` (datagrams).

    State: where the stream stands. A restarted node goes on with the same sender; what came
    meanwhile is made up. Schulzrinne et al. 2003, RFC 3550; RFC 3551, 4.5.11.

        far: {kind: rtp_audio, settings: {port: 5004, rate: 48000, channels: 1, delay: 0.04}}
    """

    samples = Out(Samples)
    faults = (*FAULTS, "malformed", "other_payload", "foreign", "kernel_dropped")

    def open(self) -> None:
        s = self.settings
        target = 1000 * microseconds(self, "delay", s.delay)
        self._end_ns: int | None = None
        if s.end_after is not None:
            self._end_ns = 1000 * microseconds(self, "end_after", s.end_after)
        self._buffer = JitterBuffer(s.rate, s.channels, target)
        if s.payload_type is not None:
            self._types = {s.payload_type}
        else:
            self._types = {*DYNAMIC, STATIC.get((s.rate, s.channels), 96)}
        self._received = self._given = self._packets = self._dropped = 0
        self._block = bytearray(LARGEST)
        self._using, self._closed = threading.Lock(), False  # between produce's thread and close
        self._listen(s.port)

    def _listen(self, port: int) -> None:
        self._socket = listening(self.settings.host, port, self.settings.receive_buffer)
        self._port = int(self._socket.getsockname()[1])
        self.log.info("listening for RTP at %s:%d", self.settings.host, self._port)

    def produce(self) -> Iterator[Emission]:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        heard: int | None = None
        while not self.clock.stopped:
            with self._using:
                if self._closed:
                    return
                if poll.poll(self._patience()) and self._receive():
                    heard = time.monotonic_ns()
                self._count_drops()
            now = time.monotonic_ns()
            if heard is not None and self._end_ns is not None and now - heard > self._end_ns:
                break
            for piece in self._buffer.take(now):
                yield self._emission(piece)
        for piece in self._buffer.rest(time.monotonic_ns()):
            yield self._emission(piece)

    def _patience(self) -> int:
        """How long to wait for a datagram (ms)."""
        due = self._buffer.due()
        if due is None:
            return PATIENCE
        return max(0, min(PATIENCE, -((time.monotonic_ns() - due) // 1_000_000)))

    def _emission(self, piece: Piece) -> Emission:
        rate, stop = self.settings.rate, piece.first + len(piece.frames)
        for fault, times in self._buffer.faults.items():
            self.fault_counts[fault] = times
        self._packets += 1
        self._given += len(piece.frames)
        samples = Samples(piece.frames, rate, piece.first)
        return self.samples(
            samples, sample_time(piece.first, rate), sample_time(stop, rate), piece.arrived
        )

    def _receive(self) -> bool:
        """Take what waits in the socket, at most `MOST` datagrams; whether any could be used."""
        used, view = False, memoryview(self._block)
        for _ in range(MOST):
            try:
                length, address = self._socket.recvfrom_into(view)
            except BlockingIOError:
                break
            if self.settings.sender is not None and address[0] != self.settings.sender:
                self.count_fault("foreign")
                continue
            used |= self._take(bytes(view[:length]), time.monotonic_ns())
        return used

    def _take(self, datagram: bytes, now: int) -> bool:
        packet = parse_rtp(datagram)
        if packet is None:
            self.count_fault("malformed")
            return False
        if packet.payload_type not in self._types:
            if not (packet.marker and packet.payload_type in RTCP):
                self.count_fault("other_payload")
            return False
        frames = decode_l16(packet.payload, self.settings.channels)
        if frames is None:
            self.count_fault("malformed")
            return False
        self._received += 1
        self._buffer.put(packet, frames, now)
        return True

    def _count_drops(self) -> None:
        total = dropped(self._socket)
        self.count_fault("kernel_dropped", (total - self._dropped) & 0xFFFFFFFF)
        self._dropped = total

    def close(self) -> None:
        if hasattr(self, "_socket"):
            self._closed = True  # first: else produce may take the lock again and again
            with self._using:  # for at most the time that a datagram is waited for
                self._socket.close()

    def snapshot(self) -> dict[str, Any]:
        return {
            **self._buffer.snapshot(),
            "port": self._port,
            "datagrams": self._received,
            "given": self._given,
            "packets": self._packets,
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._buffer.restore(state)
        self._received, self._given = int(state["datagrams"]), int(state["given"])
        self._packets = int(state["packets"])
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}
        self._buffer.faults = {fault: self.fault_counts[fault] for fault in FAULTS}
        if int(state["port"]) != self._port:  # a free one was taken, and its senders know that one
            self._socket.close()
            self._listen(int(state["port"]))

    def results(self) -> dict[str, Any]:
        """Where it listened; RTP packets that came; of the last sender the packets lost (RFC 3550,
        A.3) and the jitter (ms, A.8); frames given out, and the delay (ms) they had.
        """  # fmt: skip
        for fault, times in self._buffer.faults.items():
            self.fault_counts[fault] = times
        return {
            "host": self.settings.host,
            "port": self._port,
            "packets": self._received,
            "lost": self._buffer.lost,
            "jitter_ms": round(1000 * self._buffer.jitter, 3),
            "frames": self._given,
            "delay_ms": 1000 * self.settings.delay,
        }
