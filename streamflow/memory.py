"""Shared memory that nobody can leak: memfds, created by the supervisor and passed as descriptors.

Nothing here has a name in the file system, so a killed process leaves nothing behind, and the
memory outlives both ends of an edge: a successor maps it and finds what was not acknowledged.

- `Segment`: the payload slots of one output port.
- `Board`: the counters of one process, readable by the supervisor while it runs and after it died.
- `Vault`: the snapshots of one process.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import PacketError, TransportError
from .packet import MAXIMUM_META, Array

PAGE = 4096
_SEALS = 1033  # F_ADD_SEALS; fcntl has the name from Python 3.9 on some platforms only
_SHRINK_GROW_SEAL = 0x2 | 0x4 | 0x1


def create(name: str, size: int) -> int:
    """A descriptor of `size` bytes of zeroed shared memory, reserved sparse and never resized."""
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, _SEALS, _SHRINK_GROW_SEAL)
    except OSError as error:
        raise TransportError(
            f"cannot reserve {size >> 20} MiB of shared memory for {name}: {error}"
        ) from error
    return fd


def read_only(fd: int) -> int:
    """A second descriptor of the same memory that cannot be mapped for writing."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def _map(fd: int, writable: bool) -> mmap.mmap:
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return mmap.mmap(fd, os.fstat(fd).st_size, mmap.MAP_SHARED, protection)


# holders (bit mask of edges; 0 = free), sequence, start, stop, captured, watermark, items, nbytes,
# meta length
SLOT = struct.Struct("<QQqqqqQQI")
_WORD = struct.Struct("<Q")
_PUBLISHED = struct.Struct("<QQ")  # sequence, items: kept twice, word 0 says which one is current


class SlotHead(msgspec.Struct, frozen=True, gc=False):
    """What the head of a slot says; `holders` is the bit mask of edges that hold it."""

    holders: int
    sequence: int
    start: int
    stop: int
    captured: int
    watermark: int
    items: int
    nbytes: int
    meta: int


def segment_bytes(slots: int, slot_size: int) -> int:
    """Bytes to reserve for a segment."""
    stride = PAGE + -(-slot_size // PAGE) * PAGE
    return PAGE + slots * stride


class Segment:
    """The slots of one output port. A slot is a head page and the payload on pages of its own."""

    def __init__(self, fd: int, slots: int, slot_size: int, *, writable: bool) -> None:
        self.slots, self.slot_size = slots, slot_size
        self._stride = PAGE + -(-slot_size // PAGE) * PAGE
        self._map = _map(fd, writable)
        if len(self._map) != segment_bytes(slots, slot_size):
            raise TransportError(f"a segment of {len(self._map)} bytes, not {slots} x {slot_size}")
        self._view = memoryview(self._map)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._address = int(self._bytes.ctypes.data)

    @property
    def published(self) -> tuple[int, int]:
        """The highest sequence number that a consumer may have seen, and the items up to there."""
        current = _WORD.unpack_from(self._map, 0)[0]
        sequence, items = _PUBLISHED.unpack_from(self._map, 64 + 64 * (current & 1))
        return sequence, items

    def publish(self, sequence: int, items: int) -> None:
        """From here on a consumer may see everything up to `sequence`."""
        current = _WORD.unpack_from(self._map, 0)[0] + 1
        _PUBLISHED.pack_into(self._map, 64 + 64 * (current & 1), sequence, items)
        _WORD.pack_into(self._map, 0, current)

    def payload(self, slot: int, nbytes: int) -> NDArray[np.uint8]:
        """The first `nbytes` of a slot's payload; read-only where the map is."""
        at = self._at(slot, nbytes)
        return self._bytes[at : at + nbytes]

    def write(self, slot: int, payload: bytes) -> None:
        """Store a small payload: quicker than through an array where there is little to copy."""
        at = self._at(slot, len(payload))
        self._view[at : at + len(payload)] = payload

    def _at(self, slot: int, nbytes: int) -> int:
        """Where a slot's payload begins; PacketError when it would not lie in the slot."""
        if slot >= self.slots or nbytes > self.slot_size:
            raise PacketError(f"slot {slot} with {nbytes} bytes lies outside the segment")
        return PAGE + slot * self._stride + PAGE

    def write_head(self, slot: int, head: SlotHead, watermark: int, meta: bytes) -> None:
        """Describe the payload that was written to the slot; the holders word is set last."""
        at = PAGE + slot * self._stride
        self._view[at + SLOT.size : at + SLOT.size + len(meta)] = meta
        SLOT.pack_into(
            self._map, at, 0, head.sequence, head.start, head.stop, head.captured, watermark,
            head.items, head.nbytes, head.meta,
        )  # fmt: skip
        _WORD.pack_into(self._map, at, head.holders)

    def read_head(self, slot: int) -> tuple[SlotHead, bytes]:
        """What the slot holds, and its payload's description."""
        at = PAGE + slot * self._stride
        head = SlotHead(*SLOT.unpack_from(self._map, at))
        return head, bytes(self._view[at + SLOT.size : at + SLOT.size + head.meta])

    def set_holders(self, slot: int, holders: int) -> None:
        """Say which edges hold the slot."""
        _WORD.pack_into(self._map, PAGE + slot * self._stride, holders)

    def view(self, slot: int, nbytes: int, released: Callable[[], None]) -> NDArray[np.uint8]:
        """A consumer's array on the payload; `released` is called when the last view is gone.

        The hook sits on the array's own base: numpy wraps whatever buffer it is given in a
        memoryview of its own, and only that one lives exactly as long as the arrays do.
        """
        array = np.frombuffer(self._map, np.uint8, nbytes, self._at(slot, nbytes))
        _watch(array.base, released)
        return array

    def loan(self, slot: int, shape: tuple[int, ...], dtype: Any) -> Array:
        """A writable array in the slot, to be filled by the node."""
        array: Array = np.ndarray(shape, dtype, self._map, PAGE + slot * self._stride + PAGE)
        return array

    def address(self, slot: int) -> int:
        """Where the slot's payload lies in this process: recognises a loan that comes back."""
        return self._address + PAGE + slot * self._stride + PAGE


_watched: dict[int, weakref.ref[Any]] = {}


def _watch(base: Any, released: Callable[[], None]) -> None:
    """Call `released` once `base` is gone, in a finaliser: it may only append to a deque."""
    key = id(base)

    def gone(reference: weakref.ref[Any]) -> None:
        _watched.pop(key, None)
        released()

    _watched[key] = weakref.ref(base, gone)


_BUSY = struct.Struct("<qqq")
_ALIVE = struct.Struct("<qqqq")


class Board:
    """The counters of one process: two copies, of which one is always whole.

    The worker counts in `live` (plain Python ints are fastest) and commits now and then by copying
    it to the copy that is not current and counting the commit: one word decides. `now` words are
    not committed: they say what the process is doing this moment.
    """

    NOW = 16  # words: see the constants below
    HEARTBEAT, NODE, PORT, SINCE, INCARNATION, PHASE, WAITING = range(1, 8)

    def __init__(self, fd: int, words: int, *, histograms: int = 0, writable: bool) -> None:
        self._map = _map(fd, writable)
        self._words = memoryview(self._map).cast("q")
        self.count, self._histograms = words, histograms
        if len(self._words) * 8 < self.size(words, histograms):
            raise TransportError("the board is smaller than the plan says")
        self.busy = partial(_BUSY.pack_into, self._map, 8 * self.NODE)
        """Says which node handles which port since when (ns): three words that lie together."""
        self.alive = partial(_ALIVE.pack_into, self._map, 8 * self.HEARTBEAT)
        """Says when the loop turned (ns), and then the same three."""
        self._live = bytearray(8 * words)
        self.live = memoryview(self._live).cast("q")

    @classmethod
    def size(cls, words: int, histograms: int) -> int:
        """Bytes to reserve."""
        return 8 * (cls.NOW + 2 * words + histograms * Histogram.BUCKETS)

    def now(self, word: int) -> int:
        """One of the words that say what the process is doing."""
        return self._words[word]

    def say(self, word: int, value: int) -> None:
        """Set one of the words that say what the process is doing."""
        self._words[word] = value

    def _copy(self, commits: int) -> int:
        """Where the copy lies that is current after so many commits."""
        return self.NOW + (commits & 1) * self.count

    def write(self, at: int, *values: int) -> None:
        """Set words of `live` from word `at` on."""
        struct.pack_into(f"<{len(values)}q", self._live, 8 * at, *values)

    def commit(self) -> None:
        """Make `live` the whole, current copy: one 8-byte store decides."""
        commits = self._words[0] + 1
        at = self._copy(commits)
        self._words[at : at + self.count] = self.live
        self._words[0] = commits

    def read(self) -> list[int]:
        """The last whole copy; safe while the worker writes."""
        while True:
            commits = self._words[0]
            at = self._copy(commits)
            words = self._words[at : at + self.count].tolist()
            if self._words[0] == commits:  # a second commit meanwhile would have written here
                return words

    def load(self, data: bytes) -> None:
        """Be a copy of the board whose bytes these are: that of a process on another host."""
        if len(data) != len(self._map):
            raise TransportError(f"a board of {len(data)} bytes; expected {len(self._map)}")
        self._map[:] = data

    def recover(self) -> None:
        """Take the last committed copy as `live`: the successor of a dead process starts there."""
        at = self._copy(self._words[0])
        self.live[:] = self._words[at : at + self.count]

    def histogram(self, index: int) -> Histogram:
        """The latency histogram number `index`."""
        at = self.NOW + 2 * self.count + index * Histogram.BUCKETS
        return Histogram(self._words[at : at + Histogram.BUCKETS])


_FEW = 24  # durations; fewer are quicker one by one


class Histogram:
    """Counts of durations in log-linear buckets: 8 per octave, so at most 12.5 % wide.

    After the HdrHistogram idea (Tene, 2012). Durations are in nanoseconds; the last bucket but one
    counts what is above two hours, the last holds the maximum.
    """

    BUCKETS = 8 * 41

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def add(self, nanoseconds: int) -> None:
        """Count one duration."""
        value = nanoseconds if nanoseconds > 8 else 8
        octave = value.bit_length() - 4
        index = 8 * octave + (value >> octave) - 8
        words = self._words
        words[index if index < self.BUCKETS - 2 else self.BUCKETS - 2] += 1
        if nanoseconds > words[self.BUCKETS - 1]:
            words[self.BUCKETS - 1] = nanoseconds

    def extend(self, durations: list[int]) -> None:
        """Count many durations: each costs a tenth of what `add` takes."""
        if len(durations) < _FEW:
            for duration in durations:
                self.add(duration)
            return
        values = np.array(durations, np.int64)
        clipped = np.maximum(values, 8)
        # the exponent is the bit length: exact as far as there are buckets
        octaves = np.frexp(clipped.astype(np.float64))[1].astype(np.int64) - 4
        indices = np.minimum(8 * octaves + (clipped >> octaves) - 8, self.BUCKETS - 2)
        counts = np.frombuffer(self._words, np.int64)
        counts += np.bincount(indices, minlength=self.BUCKETS)
        counts[-1] = max(counts[-1], values.max())

    def summary(self) -> dict[str, float]:
        """p50, p99, p999 and max in microseconds, and the count."""
        counts = self._words[: self.BUCKETS - 1].tolist()
        total, maximum = sum(counts), self._words[self.BUCKETS - 1]
        out: dict[str, float] = {}
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
            rank, seen, value = share * total, 0, 0.0
            for index, count in enumerate(counts):
                seen += count
                if count and seen >= rank:
                    octave, step = divmod(index, 8)
                    value = (step + 8.5) * 2**octave
                    break
            out[name] = round(min(value, maximum) / 1e3, 1)
        return {**out, "max": round(maximum / 1e3, 1), "count": total}


class Vault:
    """Where a process keeps its snapshots: two halves, so that one is always whole.

    Which half is current, and its length, are words of the board: the flip that commits the
    counters commits the snapshot that belongs to them.
    """

    def __init__(self, fd: int, *, writable: bool) -> None:
        self._map = _map(fd, writable)
        self.half = len(self._map) // 2

    def write(self, half: int, data: bytes) -> None:
        """Store a snapshot in a half."""
        if len(data) > self.half:
            raise TransportError(
                f"a snapshot of {len(data) >> 20} MiB; a process has room for {self.half >> 20} MiB"
            )
        at = half * self.half
        self._map[at : at + len(data)] = data

    def read(self, half: int, length: int) -> bytes:
        """The snapshot in a half."""
        at = half * self.half
        return bytes(self._map[at : at + length])


def _encode_hook(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("arrays of Python objects cannot be kept")
        words = msgspec.msgpack.encode((np.lib.format.dtype_to_descr(value.dtype), value.shape))
        head = len(words).to_bytes(4, "little")
        return msgspec.msgpack.Ext(1, head + words + np.ascontiguousarray(value).tobytes())
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be part of a snapshot")


def _descr(words: Any) -> Any:
    """Undo what msgpack did to a dtype description: its tuples became lists."""
    if isinstance(words, str):
        return words
    return [
        (name, _descr(form), *(tuple(x) if isinstance(x, list) else x for x in rest))
        for name, form, *rest in words
    ]


def _ext_hook(code: int, data: memoryview) -> Any:
    if code != 1:
        raise TransportError(f"unknown snapshot item {code}")
    length = int.from_bytes(data[:4], "little")
    descr, shape = msgspec.msgpack.decode(data[4 : 4 + length])
    dtype = np.lib.format.descr_to_dtype(_descr(descr))
    return np.frombuffer(data[4 + length :], dtype).reshape(shape).copy()


encode_state = msgspec.msgpack.Encoder(enc_hook=_encode_hook).encode
"""A snapshot (dicts of arrays, numbers, strings, bytes) as bytes; nothing is pickled."""
decode_state = msgspec.msgpack.Decoder(ext_hook=_ext_hook).decode
"""The snapshot back, its arrays writable."""

__all__ = [
    "MAXIMUM_META", "Board", "Histogram", "Segment", "Vault", "create", "decode_state",
    "encode_state", "read_only", "segment_bytes",
]  # fmt: skip
