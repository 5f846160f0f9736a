"""RTP (RFC 3550) with L16 audio (RFC 3551, 4.5.11): headers, jitter buffer, concealment.

Nothing here has a socket or a clock: times come in, so tests can tell any story of a network.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .samples import FULL_SCALE, Frames, to_integers

HEADER = struct.Struct(">BBHII")
VERSION = 2
STATIC = {(44_100, 2): 10, (44_100, 1): 11}  # RFC 3551, table 4: payload types of L16
DYNAMIC = range(96, 128)
RTCP = range(72, 77)  # RFC 5761: how RTCP on the same port reads as a payload type
WRAP = 1 << 32

WINDOW = 8  # s over which the fastest packet says how long the way is
LONGEST = 5  # s between two packets' timestamps; more is another origin of time
# so many packets in a row, over so long (ns), are too late before the way is believed to have grown
# longer: a stall ends in a burst that is shorter, and taking that in would be delay for good
STREAK, STREAK_NS = 5, 200_000_000

PITCH = (1 / 400, 1 / 66)  # s: the periods of voices (G.711 Appendix I has 200 to 66 Hz at 8 kHz)
HISTORY = 0.04  # s kept to make up lost samples from
FULL, FADED = 0.01, 0.06  # s of concealment at full level, and after which it is silent


@dataclass(frozen=True)
class RtpPacket:
    """One RTP packet, its timestamp in samples."""

    sequence: int
    timestamp: int
    ssrc: int
    payload_type: int
    marker: bool
    payload: bytes


def parse_rtp(datagram: bytes) -> RtpPacket | None:
    """The packet in a datagram, without its extension, sources and padding; None if it is none."""
    if len(datagram) < HEADER.size:
        return None
    first, second, sequence, timestamp, ssrc = HEADER.unpack_from(datagram)
    begin, end = HEADER.size + 4 * (first & 15), len(datagram)
    if first & 0x10 and begin + 4 <= end:
        begin += 4 + 4 * int.from_bytes(datagram[begin + 2 : begin + 4], "big")
    if first & 0x20 and end > begin:
        end -= datagram[-1] or end  # padding counts itself, so 0 is wrong
    if first >> 6 != VERSION or begin > end:
        return None
    marker, kind = bool(second & 0x80), second & 0x7F
    return RtpPacket(sequence, timestamp, ssrc, kind, marker, datagram[begin:end])


def build_rtp(packet: RtpPacket) -> bytes:
    """The datagram of a packet."""
    second = packet.payload_type | packet.marker << 7
    head = (VERSION << 6, second, packet.sequence, packet.timestamp, packet.ssrc)
    return HEADER.pack(*head) + packet.payload


def decode_l16(payload: bytes, channels: int) -> Frames | None:
    """The samples of an L16 payload, (frames, channels); None where it is not whole frames."""
    if not payload or len(payload) % (2 * channels):
        return None
    integers = np.frombuffer(payload, ">i2").reshape(-1, channels)
    return integers.astype(np.float32) / np.float32(FULL_SCALE["int16"])


def encode_l16(frames: Frames) -> tuple[bytes, int]:
    """Samples as an L16 payload, and how many were beyond full scale and are limited."""
    integers, clipped = to_integers(frames, "int16")
    return integers.astype(">i2").tobytes(), clipped


def pitch_period(history: Frames, rate: int) -> int:
    """The period (samples) by which the end of `history` repeats itself best.

    The largest normalised correlation of the last half of it with itself, over the lags of voices.
    """
    voice = history.mean(axis=1, dtype=np.float64)
    shortest, longest = (round(seconds * rate) for seconds in PITCH)
    size = len(voice) // 2
    longest = min(longest, len(voice) - size)
    if shortest < 1 or longest <= shortest or not voice[-size:].any():
        return max(1, min(longest, len(voice)))
    lags = np.arange(shortest, longest + 1)
    region = voice[len(voice) - size - longest :]
    # dot products of the last `size` samples with those `lag` before them, longest lag first
    products = np.correlate(region[: len(region) - shortest], voice[-size:], "valid")[::-1]
    energy = np.concatenate(([0.0], np.cumsum(region**2)))
    starts = len(region) - size - lags
    norms = np.sqrt(energy[starts + size] - energy[starts])
    return int(lags[np.argmax(products / np.maximum(norms, 1e-9))])


def conceal(history: Frames, begin: int, count: int, period: int, rate: int) -> Frames:
    """`count` samples to stand for lost ones, from the `begin`th lost one on, (count, channels).

    The last period of `history` again and again, at full level for 10 ms and then faded to silence
    within 50 ms more: ITU-T G.711 Appendix I (1999), simplified: one period throughout, and no
    overlap with what was received, which stays as it came.
    """
    if not len(history):
        return np.zeros((count, history.shape[1]), np.float32)
    at = begin + np.arange(count)
    gain = np.clip((FADED - at / rate) / (FADED - FULL), 0, 1).astype(np.float32)
    return np.asarray(history[len(history) - period + at % period] * gain[:, None])


@dataclass(frozen=True)
class Piece:
    """Samples that leave the buffer: index of the first, and when they arrived (ns).

    Made-up ones have the time at which they were made.
    """

    first: int
    frames: Frames
    arrived: int


class JitterBuffer:
    """Samples of RTP packets in order, each `target` ns after the fastest would have brought them.

    The way's length is taken from the fastest packet of the last 8 s (arrival minus timestamp), so
    a sender's clock that runs fast or slow is followed and adds nothing to the delay. What has not
    come by its time is made up (`conceal`), and what comes later is dropped: a loss or a stall
    never makes the stream later for good. If for 0.2 s all packets come too late, five at least,
    the way has grown longer, or the sender had stopped: the stream goes on with the next packet
    where it stands. So it does with a new sender (SSRC) or a jump of its timestamps, once two
    packets in sequence confirm that.

    Index 0 is the first packet's first sample; indices follow the sender's timestamps.
    """

    def __init__(self, rate: int, channels: int, target: int) -> None:
        self.rate, self.channels, self._target = rate, channels, target
        self.faults = dict.fromkeys(FAULTS, 0)
        self.received = 0  # packets, with neither duplicates nor those not believed
        self.position: int | None = None  # index of the next sample to leave
        self.ssrc = -1
        self._sequence = self._lowest = 0  # the newest and the first, extended
        self._timestamp = 0  # the newest, extended
        self._offset = 0  # index minus extended timestamp
        self._doubt: tuple[int, int] | None = None  # ssrc and sequence that would confirm
        self._seen: deque[int] = deque(maxlen=1024)  # extended sequence numbers
        self._held: dict[int, Piece] = {}
        self._fastest: deque[tuple[int, int]] = deque()  # second, least transit (ns) in it
        self._size = max(1, rate // 50)  # frames in the newest packet
        self._late, self._late_since = 0, 0  # packets in a row, and when the first came (ns)
        self._history = np.empty((0, channels), np.float32)
        self._made_up, self._period = 0, 1  # samples in a row, and from which period
        self.jitter = 0.0  # s, RFC 3550 A.8
        self._transit: int | None = None

    @property
    def lost(self) -> int:
        """Packets of the present sender that never came (RFC 3550, A.3)."""
        return max(0, self._sequence - self._lowest + 1 - self.received) if self.received else 0

    def put(self, packet: RtpPacket, frames: Frames, now: int) -> None:
        """Take a packet and its samples, which arrived at `now` (ns)."""
        if not self._believed(packet, now):
            return
        sequence = self._sequence + _signed(packet.sequence - self._sequence, 16)
        if sequence in self._seen:
            self.faults["duplicate"] += 1
            return
        self._seen.append(sequence)
        self.received += 1
        self._sequence = max(self._sequence, sequence)
        self._lowest = min(self._lowest, sequence)
        timestamp = self._timestamp + _signed(packet.timestamp - self._timestamp, 32)
        self._timestamp = max(self._timestamp, timestamp)
        self._size = len(frames)
        index = timestamp + self._offset
        if self._is_late(index, len(frames), now):
            index = timestamp + self._offset  # it may have been moved
        self._measure(now - index * 1_000_000_000 // self.rate, now)
        assert self.position is not None
        if index + len(frames) > self.position:
            self._held.setdefault(index, Piece(index, frames, now))

    def _believed(self, packet: RtpPacket, now: int) -> bool:
        """Whether the packet goes on from those before it; one that begins anew has to be two."""
        if self.position is None:
            self.position = 0
            self._begin(packet, now)
            return True
        step = _signed(packet.timestamp - self._timestamp, 32)
        if packet.ssrc == self.ssrc and abs(step) <= LONGEST * self.rate:
            self._doubt = None
            return True
        if self._doubt == (packet.ssrc, packet.sequence):
            self.faults["restart"] += 1
            self._begin(packet, now)
            return True
        self._doubt = (packet.ssrc, (packet.sequence + 1) % (1 << 16))
        self.faults["unconfirmed"] += 1
        return False

    def _begin(self, packet: RtpPacket, now: int) -> None:
        """A new origin of sequence numbers and timestamps."""
        self.ssrc, self._doubt = packet.ssrc, None
        self._sequence = self._lowest = packet.sequence
        self._timestamp, self.received = packet.timestamp, 0
        self._seen.clear()
        self._transit = None
        self._move(packet.timestamp, now)

    def _move(self, timestamp: int, now: int) -> None:
        """Go on with the sample of that (extended) timestamp where the stream stands."""
        assert self.position is not None
        end = max((index + len(p.frames) for index, p in self._held.items()), default=0)
        at = max(self.position, end)
        self._offset = at - timestamp
        self._fastest.clear()
        self._late = 0
        self._measure(now - at * 1_000_000_000 // self.rate, now)

    def _is_late(self, index: int, count: int, now: int) -> bool:
        """Count a packet whose time has passed; True where the stream was moved because of it."""
        assert self.position is not None
        if index + count > self.position:
            self._late = 0
            return False
        self._late += 1
        if self._late == 1:
            self._late_since = now
        if self._late < STREAK or now - self._late_since < STREAK_NS:
            self.faults["late"] += 1
            return False
        self.faults["moved"] += 1
        self._move(index - self._offset, now)
        return True

    def _measure(self, transit: int, now: int) -> None:
        second = now // 1_000_000_000
        if self._transit is not None:
            self.jitter += (abs(transit - self._transit) / 1e9 - self.jitter) / 16
        self._transit = transit
        if self._fastest and self._fastest[-1][0] == second:
            self._fastest[-1] = (second, min(transit, self._fastest[-1][1]))
        else:
            self._fastest.append((second, transit))
        while self._fastest[0][0] <= second - WINDOW:
            self._fastest.popleft()

    def due(self) -> int | None:
        """When the next sample leaves (ns); None before the first packet."""
        if self.position is None:
            return None
        way = min(transit for _, transit in self._fastest)
        return way + self._target + self.position * 1_000_000_000 // self.rate

    def take(self, now: int) -> Iterator[Piece]:
        """What leaves by `now` (ns), in order and without a gap."""
        while (due := self.due()) is not None and due <= now:
            assert self.position is not None
            piece = self._next(now)
            self.position += len(piece.frames)
            yield piece

    def rest(self, now: int) -> Iterator[Piece]:
        """What is held at the end, at once; what lacks between is made up."""
        while self._held and self.position is not None:
            piece = self._next(now)
            self.position += len(piece.frames)
            yield piece

    def _next(self, now: int) -> Piece:
        """The samples at the position: received ones, or as many made-up ones as a packet has."""
        assert self.position is not None
        following = min(self._held, default=None)
        if following is not None and following <= self.position:
            piece = self._held.pop(following)
            frames = piece.frames[self.position - following :]
            if not len(frames):
                return self._next(now)  # it was overtaken by an overlapping one
            self._made_up = 0
            kept = round(HISTORY * self.rate)
            self._history = np.concatenate([self._history, frames])[-kept:]
            return Piece(self.position, frames, piece.arrived)
        count = self._size
        if following is not None:
            count = min(count, following - self.position)
        if not self._made_up and len(self._history):
            self._period = pitch_period(self._history, self.rate)
        frames = conceal(self._history, self._made_up, count, self._period, self.rate)
        self._made_up += count
        self.faults["concealed"] += count
        return Piece(self.position, frames, now)

    def snapshot(self) -> dict[str, Any]:
        """Where the stream stands; what is held is lost with the process."""
        if self.position is None:
            return {}
        way = min(transit for _, transit in self._fastest)
        names = (
            "ssrc", "_sequence", "_lowest", "_timestamp", "_offset", "position", "received",
            "_size",
        )  # fmt: skip
        second = self._fastest[-1][0]
        return {
            "way": way,
            "second": second,
            **{name.strip("_"): getattr(self, name) for name in names},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after what the predecessor gave out, with the same sender."""
        if "position" not in state:
            return
        for name in ("_sequence", "_lowest", "_timestamp", "_offset", "_size"):
            setattr(self, name, int(state[name.strip("_")]))
        self.ssrc, self.position = int(state["ssrc"]), int(state["position"])
        self.received = int(state["received"])
        self._fastest.append((int(state["second"]), int(state["way"])))


FAULTS = ("concealed", "late", "duplicate", "unconfirmed", "restart", "moved")


def _signed(difference: int, bits: int) -> int:
    """A difference of numbers that wrap, from minus half of their range on."""
    half = 1 << bits - 1
    return (difference + half) % (1 << bits) - half
