"""Packets and payloads, and their bytes.

A packet is an immutable payload that covers `[start, stop)` of stream time (int64 microseconds of
the sensor's clock). A payload is one contiguous numpy array and a few words that say what it means;
nothing is ever pickled. On the wire a packet is a fixed header, the payload's words as msgpack, and
the array's bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import PacketError

WIRE_VERSION = 1
MAXIMUM_META = 3968  # bytes of payload description that fit a slot's first page

EVENT = np.dtype(
    {
        "names": ["timestamp", "x", "y", "polarity"],
        "formats": ["<i8", "<i2", "<i2", "i1"],
        "offsets": [0, 8, 10, 12],
        "itemsize": 16,
    }
)
"""One event: timestamp (us), x, y (pixels, y grows downwards), polarity (0 OFF, 1 ON).

The memory layout of dv-processing's event store, so its arrays pass untouched.
"""

SPIKE = np.dtype([("timestamp", "<i8"), ("unit", "<i8")])
"""One spike: timestamp (us) and the index of the unit that fired."""

Array = NDArray[Any]


class Payload(msgspec.Struct, frozen=True, eq=False):
    """What a packet carries: one contiguous array, and `words()` that say what it means.

    A third party's payload subclasses this, names its fields with `array` first, and overrides
    `words` and `from_wire` where more than the array must travel.
    """

    array: Array
    name: ClassVar[str] = "payload"

    def __len__(self) -> int:
        """Items in the payload (events, samples, rows): the unit of the ledger."""
        return int(self.array.shape[0]) if self.array.ndim else 1

    def words(self) -> tuple[Any, ...]:
        """What a reader must know besides the bytes: msgpack-able values."""
        return (_format_of(self.array.dtype), self.array.shape)

    @classmethod
    def from_wire(cls, words: list[Any], raw: NDArray[np.uint8]) -> Payload:
        """Rebuild the payload from its words and its bytes (a uint8 array; not copied)."""
        return cls(_shape(raw, *words))


class Events(Payload, frozen=True, eq=False):
    """Camera events: `array` (n,) of `EVENT`, in time order; sensor width and height in pixels."""

    width: int
    height: int
    name: ClassVar[str] = "events"

    def words(self) -> tuple[Any, ...]:
        return (self.width, self.height)

    @classmethod
    def from_wire(cls, words: list[Any], raw: NDArray[np.uint8]) -> Events:
        width, height = words
        if raw.size % 16 or not (0 < width <= 32767 and 0 < height <= 32767):
            raise PacketError(f"{raw.size} bytes, sensor {width}x{height}: not events")
        return cls(np.ndarray(raw.size // 16, EVENT, raw), width, height)  # half of what view costs


class Samples(Payload, frozen=True, eq=False):
    """Audio: `array` (frames, channels) float32, `rate` (Hz), index of the `first` sample."""

    rate: int
    first: int = 0
    name: ClassVar[str] = "samples"

    def words(self) -> tuple[Any, ...]:
        return (*super().words(), self.rate, self.first)

    @classmethod
    def from_wire(cls, words: list[Any], raw: NDArray[np.uint8]) -> Samples:
        *shape, rate, first = words
        return cls(_shape(raw, *shape), rate, first)


class Spikes(Payload, frozen=True, eq=False):
    """Spikes: `array` (n,) of `SPIKE`, in time order; `units` is how many units there are."""

    units: int
    name: ClassVar[str] = "spikes"

    def words(self) -> tuple[Any, ...]:
        return (self.units,)

    @classmethod
    def from_wire(cls, words: list[Any], raw: NDArray[np.uint8]) -> Spikes:
        if raw.size % SPIKE.itemsize:
            raise PacketError(f"{raw.size} bytes are not spikes of {SPIKE.itemsize} bytes")
        return cls(raw.view(SPIKE), words[0])


class Tensor(Payload, frozen=True, eq=False):
    """An array with named `axes` (one per dimension) and `step` (us per step of axis 'time')."""

    axes: tuple[str, ...]
    step: int = 0
    name: ClassVar[str] = "tensor"

    def __len__(self) -> int:
        return int(self.array.shape[0]) if self.axes[:1] == ("time",) else 1

    def words(self) -> tuple[Any, ...]:
        return (*super().words(), self.axes, self.step)

    @classmethod
    def from_wire(cls, words: list[Any], raw: NDArray[np.uint8]) -> Tensor:
        *shape, axes, step = words
        return cls(_shape(raw, *shape), tuple(axes), step)


class Table(Payload, frozen=True, eq=False):
    """Structured rows: `array` (n,) of any structured dtype (particles, decisions, scores)."""

    name: ClassVar[str] = "table"


class Text(Payload, frozen=True, eq=False):
    """UTF-8 text: `array` (n,) uint8. Build with `Text.of`, read with `str`."""

    name: ClassVar[str] = "text"

    @classmethod
    def of(cls, text: str) -> Text:
        """The payload that holds `text`."""
        return cls(np.frombuffer(text.encode(), np.uint8))

    def __str__(self) -> str:
        return self.array.tobytes().decode(errors="replace")

    def __len__(self) -> int:
        return 1


P = TypeVar("P", bound=Payload, covariant=True)


class Packet(msgspec.Struct, Generic[P], frozen=True, eq=False):
    """A payload that covers `[start, stop)` of stream time.

    `captured` is when the data was captured (CLOCK_MONOTONIC, ns); 0 lets the engine say.
    """

    start: int
    stop: int
    data: P
    captured: int = 0


def _format(dtype: np.dtype[Any]) -> Any:
    """A dtype as msgpack-able words; object dtypes are refused."""
    if dtype.hasobject:
        raise PacketError(f"dtype {dtype} holds Python objects: only plain numbers travel")
    if dtype.subdtype is not None:  # a column whose cells are arrays
        cell, shape = dtype.subdtype
        return [_format(cell), list(shape)]
    if dtype.names is None:
        return dtype.str
    fields: Any = dtype.fields or {}
    return [
        list(dtype.names),
        [_format(fields[name][0]) for name in dtype.names],
        [fields[name][1] for name in dtype.names],
        dtype.itemsize,
    ]


_formats: dict[int, tuple[np.dtype[Any], Any]] = {}  # by identity: the entry keeps its type alive


def _format_of(dtype: np.dtype[Any]) -> Any:
    """As `_format`, and remembered: a node's packets mostly share one dtype."""
    known = _formats.get(id(dtype))
    if known is not None:
        return known[1]
    words = _format(dtype)
    if len(_formats) < _KNOWN:
        _formats[id(dtype)] = (dtype, words)
    return words


_KNOWN = 256  # descriptions that are remembered


def _dtype(words: Any) -> np.dtype[Any]:
    try:
        if isinstance(words, str):
            if not _PLAIN.fullmatch(words):
                raise ValueError("not the name of a plain type")
            dtype = np.dtype(words)
        elif len(words) == 2:
            cell, shape = words
            dtype = np.dtype((_dtype(cell), tuple(shape)))
        else:
            names, formats, offsets, itemsize = words
            dtype = np.dtype(
                {
                    "names": list(names),
                    "formats": [_dtype(f) for f in formats],
                    "offsets": list(offsets),
                    "itemsize": itemsize,
                }
            )
    except (TypeError, ValueError, SyntaxError, RecursionError) as error:
        raise PacketError(f"{words!r} is not a dtype: {error}") from error
    if dtype.hasobject:
        raise PacketError("a dtype with Python objects is refused")
    return dtype


# what `dtype.str` gives: numpy itself would take far more, short-hands and deprecated names too
_PLAIN = re.compile(r"[<>|][biufcmMSUV][0-9]{1,9}(\[[0-9]*[A-Za-z]{1,2}\])?")
_dtypes: dict[Any, np.dtype[Any]] = {}


def _shape(raw: NDArray[np.uint8], format_words: Any, shape: list[int]) -> Array:
    """The bytes `raw` as an array; PacketError when they do not fit."""
    key = format_words if type(format_words) is str else msgspec.msgpack.encode(format_words)
    dtype = _dtypes.get(key)
    if dtype is None:
        dtype = _dtype(format_words)
        if len(_dtypes) < _KNOWN:
            _dtypes[key] = dtype
    try:
        count = 1
        for length in shape:
            if length < 0:
                raise ValueError(f"negative length {length}")
            count *= length
        if count * dtype.itemsize != raw.size:
            raise ValueError(f"{raw.size} bytes are not {shape} of {dtype}")
        if count:
            return np.ndarray(shape, dtype, raw)  # half of what view and reshape cost
        nothing = np.empty(shape, dtype)
        nothing.flags.writeable = False  # as every other payload: kernels are compiled for that
        return nothing
    except (TypeError, ValueError) as error:
        raise PacketError(f"payload does not fit its description: {error}") from error


# --- the wire ---------------------------------------------------------------------------------
# Every message starts with magic, version and kind. A data message goes on with sequence, start,
# stop, captured, watermark, items, nbytes, slot and meta length, then the payload's description,
# then the payload itself unless it lies in a slot of shared memory (slot -1: it is in the frame).
# Nothing in it assumes one host.
PREFIX = b"SF" + bytes([WIRE_VERSION])
DATA, TICK, END, HELLO, CREDIT, TICKED, ENDED = range(1, 8)
HEADER = struct.Struct("<2sBBQqqqqQQiI")
_SLOT = struct.Struct("<i")  # the last but one of it
_DATA = PREFIX + bytes([DATA])


class Header(msgspec.Struct, frozen=True, gc=False):
    """What a data message says before its payload.

    `slot` is -1 for a payload in the frame, and less for one that is packed there (`packing`).
    """

    sequence: int
    start: int
    stop: int
    captured: int
    watermark: int
    items: int
    nbytes: int
    slot: int
    meta: int


_encode_words = msgspec.msgpack.Encoder().encode
_decode_words = msgspec.msgpack.Decoder(list[Any]).decode


def kind_of(frame: bytes | memoryview) -> int:
    """The kind of message; PacketError when it is not one of ours."""
    if frame[:3] != PREFIX or len(frame) < 4:
        if frame[:2] == PREFIX[:2] and len(frame) > 2:
            raise PacketError(f"wire version {frame[2]}; this build speaks {WIRE_VERSION}")
        raise PacketError(f"not a streamflow message: it starts with {bytes(frame[:4])!r}")
    return frame[3]


def read_header(frame: bytes | memoryview) -> Header:
    """The header of a data message; PacketError when it is not one or does not add up."""
    if frame[:4] != _DATA and kind_of(frame) != DATA:
        raise PacketError(f"message kind {frame[3]} where data was expected")
    try:
        header = Header(*HEADER.unpack_from(frame)[3:])
    except struct.error as error:
        raise PacketError(f"{len(frame)} bytes are too short for a header") from error
    body = HEADER.size + header.meta + (header.nbytes if header.slot == -1 else 0)
    fits = len(frame) >= body if header.slot < -1 else len(frame) == body
    if not fits or header.meta > MAXIMUM_META:
        raise PacketError(
            f"a message of {len(frame)} bytes whose header declares {header.meta} + "
            f"{header.nbytes} bytes in slot {header.slot}"
        )
    if header.start > header.stop:
        raise PacketError(f"a packet that stops ({header.stop}) before it starts ({header.start})")
    return header


def is_plain(frame: bytes) -> bool:
    """Whether a data message has its payload as it is, not packed."""
    slot: int = _SLOT.unpack_from(frame, HEADER.size - 8)[0]
    return slot == -1


def data_frame(header: Header, meta: bytes, payload: bytes = b"") -> bytes:
    """A data message. The payload is left out where `header.slot` says where it lies."""
    words = (
        header.sequence, header.start, header.stop, header.captured, header.watermark,
        header.items, header.nbytes, header.slot, header.meta,
    )  # fmt: skip
    return HEADER.pack(b"SF", WIRE_VERSION, DATA, *words) + meta + payload


_ZEROS = bytes(16)


def describe(payload: Payload) -> bytes:
    """The payload's name and words as msgpack.

    Zeros before it bring what follows it in a message to a multiple of 16 bytes: an array that is
    not aligned is another type to a compiled kernel.
    """
    like = _LIKE.get(type(payload))  # by exact type: a subclass may say more in its `words`
    if like is None:
        return _description(payload)
    key = like(payload)
    meta = _descriptions.get(key)
    if meta is None:
        meta = _description(payload)
        if len(_descriptions) >= _KNOWN:
            _descriptions.clear()
        _descriptions[key] = meta
    return meta


# What the description of a payload depends on. Not for Samples: each packet has another `first`.
_LIKE: dict[type[Payload], Callable[[Any], Any]] = {
    Events: lambda events: (Events, events.width, events.height),
    Spikes: lambda spikes: (Spikes, spikes.units),
    Tensor: lambda t: (Tensor, t.array.dtype, t.array.shape, t.axes, t.step),
    Table: lambda table: (Table, table.array.dtype, table.array.shape),
}
_descriptions: dict[Any, bytes] = {}


def _description(payload: Payload) -> bytes:
    meta = _encode_words((payload.name, *payload.words()))
    meta = _ZEROS[: -(HEADER.size + len(meta)) % 16] + meta
    if len(meta) > MAXIMUM_META:
        raise PacketError(f"a payload description of {len(meta)} bytes; at most {MAXIMUM_META}")
    return meta


_described: dict[bytes, list[Any]] = {}


def rebuild(
    payload_type: type[Payload], meta: bytes | memoryview, raw: NDArray[np.uint8]
) -> Payload:
    """The payload from its description and its bytes (a view: nothing is copied)."""
    meta = bytes(meta)
    known = _described.get(meta)  # the packets of an edge are mostly described alike
    if known is None:
        try:
            known = _decode_words(meta.lstrip(b"\0"))
            if not known:
                raise ValueError("it is empty")
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise PacketError(f"unreadable payload description: {error}") from error
        if len(_described) >= _KNOWN:
            _described.clear()
        _described[meta] = known
    name, *words = known
    if name != payload_type.name:
        raise PacketError(f"got a payload {name!r} where {payload_type.name!r} is declared")
    try:
        return payload_type.from_wire(words, raw)
    except PacketError:
        raise
    except (
        TypeError,
        ValueError,
        LookupError,
        OverflowError,
        AttributeError,
        RecursionError,
    ) as error:
        raise PacketError(f"payload {name!r} does not fit its description: {error}") from error


def payload_bytes(payload: Payload) -> NDArray[np.uint8]:
    """The payload's array as flat uint8; copied only if it is not contiguous."""
    array = np.ascontiguousarray(payload.array)
    return array.reshape(-1).view(np.uint8) if array.size else np.empty(0, np.uint8)


def encode(packet: Packet[Any]) -> bytes:
    """The packet as one self-contained message."""
    meta, raw = describe(packet.data), payload_bytes(packet.data)
    header = Header(
        0, packet.start, packet.stop, packet.captured, packet.stop,
        len(packet.data), raw.size, -1, len(meta),
    )  # fmt: skip
    return data_frame(header, meta, raw.tobytes())


def decode(message: bytes | memoryview, payload_type: type[P]) -> Packet[P]:
    """The packet in `message`; PacketError for anything that `encode` did not make."""
    header = read_header(message)
    if header.slot != -1:
        raise PacketError(f"the payload lies in slot {header.slot} of a memory that is not here")
    return packet_of(header, message, payload_type)


def packet_of(
    header: Header, frame: bytes | memoryview, payload_type: type[P], raw: Any = None
) -> Packet[P]:
    """The packet of a data message; `raw` is its payload where that is not in the frame."""
    body, nbytes = HEADER.size + header.meta, header.nbytes
    meta = bytes(frame[HEADER.size : body])
    plan = _plans.get(meta)
    data: Any
    if plan is not None and plan.payload is payload_type and plan.fits(nbytes):
        shape = nbytes // plan.dtype.itemsize if plan.shape is None else plan.shape
        if raw is None:
            array = np.ndarray(shape, plan.dtype, frame, body)
        else:
            array = np.ndarray(shape, plan.dtype, raw)
        data = payload_type(array, *plan.rest)
    else:
        if raw is None:
            raw = np.frombuffer(frame, np.uint8, offset=body) if nbytes else _NOTHING
        data = rebuild(payload_type, meta, raw)
        if nbytes and payload_type in _LIKE:
            if len(_plans) >= _KNOWN:
                _plans.clear()
            _plans[meta] = _plan(data)
    return Packet(header.start, header.stop, data, header.captured)


class _Plan(msgspec.Struct, frozen=True):
    """How to rebuild what was described in the same words before, and found to be right then."""

    payload: type[Payload]
    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None  # None: as many items as there are bytes for
    nbytes: int
    rest: tuple[Any, ...]

    def fits(self, nbytes: int) -> bool:
        """Whether so many bytes can be what is described."""
        if self.shape is None:
            return nbytes > 0 and nbytes % self.nbytes == 0
        return nbytes == self.nbytes


def _plan(data: Payload) -> _Plan:
    rest = tuple(getattr(data, name) for name in type(data).__struct_fields__[1:])
    array = data.array
    if isinstance(data, Events | Spikes):
        return _Plan(type(data), array.dtype, None, array.dtype.itemsize, rest)
    return _Plan(type(data), array.dtype, array.shape, array.nbytes, rest)


_plans: dict[bytes, _Plan] = {}
_NOTHING = np.frombuffer(b"", np.uint8)  # read-only
