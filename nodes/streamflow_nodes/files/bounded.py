"""Archives and HDF5 files from anyone: what may be read of them without filling the memory.

Both formats say sizes that need not be true, and both compress: a few kilobytes can stand for
gigabytes. What is too large is refused here before anything is allocated for it.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# zipfile and numpy's header parser raise all of these on damaged or hostile archives
NPZ_FAULTS = (
    zipfile.BadZipFile, zlib.error, OSError, ValueError, KeyError, EOFError, SyntaxError, TypeError,
    RuntimeError, NotImplementedError, OverflowError, MemoryError,
)  # fmt: skip
MEMBERS = 1000  # of an archive
ITEM_LIMIT = 4096  # bytes of one item of an array

MODEL_LIMIT = 1 << 28  # bytes of all numbers in a model
OBJECTS = 1000  # groups and datasets of a model
TEXT_LIMIT = 1 << 20  # characters of all text in a model

DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
_MOST = {DEFLATE: 1032, LZF: 88}  # how many times larger what these decompress can be, at the most
INFLATED = 1 << 30  # bytes; a chunk that could become more is decompressed in steps to see

_HEAP = struct.Struct("<4sB3xQ")  # of HDF5 (its format, III.E): "GCOL", version, bytes
_HEAP_ITEM = struct.Struct("<H6xQ")  # number (0: what is free), bytes
HEAP_ITEMS = 1 << 20  # of all heaps
_BLOCK = 1 << 22  # bytes of a file that are looked through at once


# --- .npz -----------------------------------------------------------------------------------------


def open_npz(path: str) -> zipfile.ZipFile:
    """The archive at `path`; ValueError when it has more members than any of ours."""
    archive = zipfile.ZipFile(path)
    if (count := len(archive.namelist())) > MEMBERS:
        archive.close()
        raise ValueError(f"it has {count} members, more than {MEMBERS}")
    return archive


def npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and dtype of the .npy that `stream` is at the start of.

    Nothing is allocated. ValueError for Python objects, which are never loaded.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"NPY version {version}")
    read = (
        np.lib.format.read_array_header_1_0 if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )  # fmt: skip
    shape, is_fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    if dtype.itemsize > ITEM_LIMIT:
        raise ValueError(f"an item of an array has {dtype.itemsize} bytes, over {ITEM_LIMIT}")
    return shape, is_fortran, dtype


def read_npz(path: str) -> dict[str, NDArray[Any]]:
    """Every array of an .npz by its name; one of `NPZ_FAULTS` when it is unfit or too large."""
    left = MODEL_LIMIT
    arrays = {}
    with open_npz(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as stream:
                shape, is_fortran, dtype = npy_header(stream)
                size = math.prod(shape) * dtype.itemsize
                left -= size
                if left < 0 or min(shape, default=0) < 0:
                    raise ValueError(f"its arrays have more than {MODEL_LIMIT} bytes: {shape}")
                raw = stream.read(size)
            if len(raw) != size:
                raise ValueError(f"the array {name} ends before its header says")
            array = np.frombuffer(raw, dtype)
            arrays[name.removesuffix(".npy")] = array.reshape(
                shape, order="F" if is_fortran else "C"
            )
    return arrays


# --- HDF5 -----------------------------------------------------------------------------------------


def check_heaps(path: str) -> None:
    """ValueError when HDF5 would never come back from reading a text in the file.

    Texts of any length lie in global heaps, which HDF5 walks from item to item as far as each says
    (seen with 2.0.0): an item of no bytes keeps it in place for ever.
    """
    with Path(path).open("rb") as file:
        left, at, before = HEAP_ITEMS, 0, b""
        while block := file.read(_BLOCK):
            data = before + block
            found = data.find(b"GCOL")
            while found >= 0:
                left -= _check_heap(file, at - len(before) + found, left)
                found = data.find(b"GCOL", found + 4)
            at += len(block)
            file.seek(at)
            before = data[-3:]


def _check_heap(file: Any, start: int, most: int) -> int:
    """How many items the heap at `start` has, if one is there."""
    file.seek(start)
    head = file.read(_HEAP.size)
    version, size = _HEAP.unpack(head)[1:] if len(head) == _HEAP.size else (0, 0)
    size = min(size, os.fstat(file.fileno()).st_size - start)
    place = _HEAP.size
    for items in range(most):
        if version != 1 or place + _HEAP_ITEM.size > size:
            return items + 1
        file.seek(start + place)
        number, length = _HEAP_ITEM.unpack(file.read(_HEAP_ITEM.size))
        step = _HEAP_ITEM.size + -(-length // 8) * 8 if number else length
        if step in (0, 1 << 64):  # HDF5 adds up in 64 bits
            raise ValueError(f"its texts are damaged: a heap at byte {start} goes round for ever")
        place += step % (1 << 64)
    raise ValueError(f"its texts have more than {HEAP_ITEMS} items")


def check_model(path: str) -> None:
    """ValueError unless the HDF5 file is a tree of plain numbers and text of a model's size.

    A group that is reached twice or a link could make a reader go round for ever, or to other
    files.
    """
    import h5py

    check_heaps(path)
    with h5py.File(path, "r", locking=False) as file:
        left, seen, text = MODEL_LIMIT, {_address(h5py, file)}, TEXT_LIMIT
        waiting = [file]
        while waiting:
            group = waiting.pop()
            for name in group:
                where = f"{group.name}/{name[:60]}"
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ValueError(f"{where} is a link to another place")
                thing = group[name]
                address = _address(h5py, thing)
                if address in seen or len(seen) > OBJECTS:
                    raise ValueError(f"{where} is there twice, or one of over {OBJECTS} objects")
                seen.add(address)
                if isinstance(thing, h5py.Group):
                    waiting.append(thing)
                    continue
                if not isinstance(thing, h5py.Dataset):
                    raise ValueError(f"{where} is neither a group nor a dataset")
                left -= _size(thing)
                if left < 0:
                    raise ValueError(f"its arrays have more than {MODEL_LIMIT} bytes")
                check_storage(h5py, thing, MODEL_LIMIT)
                text -= _text(h5py, thing, text)


def _address(h5py: Any, thing: Any) -> Any:
    return h5py.h5o.get_info(thing.id).addr


def _size(dataset: Any) -> int:
    """Bytes of a dataset in memory."""
    return math.prod(dataset.shape or ()) * int(dataset.dtype.itemsize)


def _text(h5py: Any, dataset: Any, most: int) -> int:
    """Characters of a dataset's text, read one by one: all of them may stand for the same bytes."""
    if not dataset.dtype.hasobject:
        return 0
    if h5py.check_string_dtype(dataset.dtype) is None:
        raise ValueError(f"{dataset.name} holds {dataset.dtype}; expected numbers or text")
    if math.prod(dataset.shape or ()) > OBJECTS:
        raise ValueError(f"{dataset.name} holds {dataset.shape} texts, over {OBJECTS}")
    count = 0
    for at in np.ndindex(dataset.shape or ()):
        count += len(dataset[at])
        if count > most:
            raise ValueError(f"its text has more than {TEXT_LIMIT} characters")
    return count


def check_storage(h5py: Any, dataset: Any, limit: int) -> None:
    """ValueError when the rows lie in other files, or a chunk becomes more than `limit` bytes.

    What a chunk says is not enough: HDF5 itself decompresses as far as the data go.
    """
    plist = dataset.id.get_create_plist()
    if dataset.is_virtual or plist.get_external_count():
        raise ValueError(f"{dataset.name} lies in other files; expected it here: copy it in")
    if dataset.chunks is None:
        return
    size = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if size > limit:
        raise ValueError(f"{dataset.name} has chunks of {size} bytes; expected at most {limit}")
    filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
    packing = [code for code in filters if code not in (SHUFFLE, FLETCHER32)]
    if not packing:
        return
    if len(packing) > 1:
        raise ValueError(f"{dataset.name} is compressed {len(packing)} times over")
    suspects: list[Any] = []

    def look(chunk: Any) -> None:
        if chunk.size * _MOST.get(packing[0], 0) > INFLATED:
            suspects.append(chunk.chunk_offset)

    dataset.id.chunk_iter(look)
    for offset in suspects:
        skipped, data = dataset.id.read_direct_chunk(offset)
        if skipped:
            raise ValueError(f"{dataset.name} has a chunk that is compressed otherwise")
        if packing[0] == LZF or filters[-1] not in (DEFLATE, FLETCHER32):
            raise ValueError(
                f"{dataset.name} has chunks of {len(data)} compressed bytes: too large"
            )
        if len(zlib.decompressobj().decompress(data, size + 1)) > size:
            raise ValueError(f"{dataset.name} has a chunk that becomes more than its {size} bytes")
