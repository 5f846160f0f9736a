"""Payloads made smaller for the way to another host, and back.

What is unpacked is bounded by what the header declares, so a small message cannot become a large
array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import PacketError, TransportError

Compression = Literal["none", "lz4", "zstd", "events8"]


class Codec(NamedTuple):
    """A way to pack, and the number that a header has in the place of a slot.

    `pack` gives None for a payload that this way cannot hold.
    """

    slot: int
    pack: Callable[[bytes], bytes | None]
    unpack: Callable[[bytes, int], bytes]


def codec(name: Compression) -> Codec:
    """The codec of that name; TransportError when its library is not installed."""
    try:
        return {"lz4": _lz4, "zstd": _zstd, "events8": _events8}[name]()
    except ImportError as error:
        raise TransportError(
            f"compress: {name} needs {error.name}, which is not installed: "
            "pip install 'streamflow-neuro[hosts]'"
        ) from error


def unpack(slot: int, data: bytes, nbytes: int) -> NDArray[np.uint8]:
    """The payload of `nbytes` bytes, read-only; PacketError for anything that no codec made."""
    names: dict[int, Compression] = {LZ4: "lz4", ZSTD: "zstd", EVENTS8: "events8"}
    try:
        raw = codec(names[slot]).unpack(data, nbytes)
    except (KeyError, TransportError) as error:
        raise PacketError(f"a payload packed by codec {slot}: {error}") from error
    except Exception as error:  # each library has errors of its own
        raise PacketError(f"a packed payload that cannot be unpacked: {error}") from error
    if len(raw) != nbytes:
        raise PacketError(f"a packed payload of {len(raw)} bytes; {nbytes} were declared")
    return np.frombuffer(raw, np.uint8)


LZ4, ZSTD, EVENTS8 = -2, -3, -4


def _lz4() -> Codec:
    import lz4.block

    return Codec(
        LZ4,
        lambda data: bytes(lz4.block.compress(data, store_size=False)),
        lambda data, nbytes: bytes(lz4.block.decompress(data, uncompressed_size=nbytes)),
    )


def _zstd() -> Codec:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # Python 3.14
    except ImportError:
        from backports import zstd

    def unpack(data: bytes, nbytes: int) -> bytes:
        reader = zstd.ZstdDecompressor()
        out = bytes(reader.decompress(data, max_length=nbytes + 1))
        if not reader.eof and len(out) == nbytes:
            out += bytes(reader.decompress(b"", max_length=1))  # only more than declared is wrong
        return out

    return Codec(ZSTD, lambda data: bytes(zstd.compress(data, 1)), unpack)


# --- camera events in 8 bytes ---------------------------------------------------------------------
# The first event's timestamp (us, int64), then for each event a word of 64 bits, all little-endian:
# x (15 bits), y (15 bits), polarity (1 bit), microseconds since the first event (33 bits, 2.4 h).
# In memory an event is two words (`packet.EVENT`): the time; x, y, polarity, 3 spare bytes.

_TIME_BITS = 33
_WRONG = 0xFE_8000_8000  # of the second word: bits that a polarity of 0 or 1 and places >= 0 lack
_X, _Y, _ON = 0x7FFF, 0x7FFF << 15, 1 << 30


def _events8() -> Codec:
    return Codec(EVENTS8, pack_events, unpack_events)


def pack_events(data: bytes) -> bytes | None:
    """Camera events (bytes of `EVENT`s) in 8 bytes each and 8 more; exact, or None.

    None where an event is earlier than the first or 2**33 us later, has a negative x or y, or a
    polarity other than 0 and 1. The three spare bytes of an event are not kept.
    """
    words = np.frombuffer(data, "<i8").reshape(-1, 2)
    if not len(words):
        return None
    first = words[0, 0]
    since, place = words[:, 0] - first, words[:, 1]
    if np.bitwise_or.reduce(place) & _WRONG or np.bitwise_or.reduce(since) >> _TIME_BITS:
        return None
    out = np.empty(len(words) + 1, "<i8")
    out[0] = first
    packed = out[1:]
    np.left_shift(since, 31, out=packed)
    packed |= place & _X
    packed |= place >> 1 & _Y
    packed |= place >> 2 & _ON
    return out.tobytes()


def unpack_events(data: bytes, nbytes: int) -> bytes:
    """What `pack_events` was given, its spare bytes zero; ValueError for other lengths."""
    if nbytes <= 0 or nbytes % 16 or len(data) != 8 + nbytes // 2:
        raise ValueError(f"{len(data)} bytes are not {nbytes} bytes of events")
    packed = np.frombuffer(data, "<i8")
    words = np.empty((nbytes // 16, 2), "<i8")
    since = packed[1:].view("<u8") >> np.uint64(31)
    words[:, 0] = packed[0] + since.view("<i8")
    words[:, 1] = packed[1:] & _X | (packed[1:] & _Y) << 1 | (packed[1:] & _ON) << 2
    return words.tobytes()
