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

Compression = Literal["none", "lz4", "zstd"]


class Codec(NamedTuple):
    """A way to pack, and the number that a header has in the place of a slot."""

    slot: int
    pack: Callable[[bytes], bytes]
    unpack: Callable[[bytes, int], bytes]


def codec(name: Compression) -> Codec:
    """The codec of that name; TransportError when its library is not installed."""
    try:
        return _lz4() if name == "lz4" else _zstd()
    except ImportError as error:
        raise TransportError(
            f"compress: {name} needs {error.name}, which is not installed: "
            "pip install 'streamflow-neuro[hosts]'"
        ) from error


def unpack(slot: int, data: bytes, nbytes: int) -> NDArray[np.uint8]:
    """The payload of `nbytes` bytes, read-only; PacketError for anything that no codec made."""
    names: dict[int, Compression] = {LZ4: "lz4", ZSTD: "zstd"}
    try:
        raw = codec(names[slot]).unpack(data, nbytes)
    except (KeyError, TransportError) as error:
        raise PacketError(f"a payload packed by codec {slot}: {error}") from error
    except Exception as error:  # each library has errors of its own
        raise PacketError(f"a packed payload that cannot be unpacked: {error}") from error
    if len(raw) != nbytes:
        raise PacketError(f"a packed payload of {len(raw)} bytes; {nbytes} were declared")
    return np.frombuffer(raw, np.uint8)


LZ4, ZSTD = -2, -3


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
