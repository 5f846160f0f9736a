"""Recordings in HDF5 and Parquet: columns of time, x, y and polarity, read in blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError
from streamflow.packet import EVENT

from ..files.bounded import check_heaps, check_storage
from ..files.records import library
from .recording import COLUMN_NAMES, EventWords, Recording, fill_column

ROWS = 1 << 16  # events read at a time
CHUNK_LIMIT = 1 << 28  # bytes of one HDF5 chunk, which is decompressed as a whole
OBJECTS = 10_000  # looked at in one HDF5 file
DAMAGED = "the file is damaged: copy it or save it again"


def _packed(columns: Mapping[str, NDArray[Any]]) -> EventWords:
    """Events from the columns t, x, y and p, of one length."""
    events = np.zeros(len(columns["t"]), EVENT)
    for name, column in columns.items():
        fill_column(events, name, column)
    return events.view(np.int64)


def _roles(names: list[str]) -> dict[str, str]:
    """Which of `names` holds t, x, y and p; not all of them where one is missing."""
    found: dict[str, str] = {}
    for name in names:
        role = COLUMN_NAMES.get(name.lower())
        if role is not None:
            found.setdefault(role, name)
    return found


# --- HDF5 -----------------------------------------------------------------------------------------


@contextmanager
def _hdf5_errors(path: str) -> Iterator[None]:
    # what h5py raises on damaged files
    try:
        yield
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise DeviceError(
            f"{path}: the HDF5 file cannot be read ({error}); expected a whole file with columns "
            f"of events; {DAMAGED}, or the program that writes it still has it open"
        ) from error


def open_hdf5(path: str, wanted: str) -> Recording:
    """The events in an HDF5 file: columns in a group, or records in a dataset.

    Columns are those of DSEC (`events/t`, with `t_offset`), records those of Prophesee
    (`CD/events`). `wanted` is the group or dataset, where there are several.
    """
    h5py = library("h5py", path, "files")
    with _hdf5_errors(path), h5py.File(path, "r", locking=False) as file:
        where = _chosen(h5py, file, path, wanted)
        width, height = _hdf5_size(file, where, path)
        _hdf5_columns(h5py, file[where], path)

    def chunks() -> Iterator[EventWords]:
        with _hdf5_errors(path), h5py.File(path, "r", locking=False) as file:
            sets, offset = _hdf5_columns(h5py, file[where], path), _offset(file, where, path)
            length = len(sets["t"][0])
            for at in range(0, length, ROWS):
                block: dict[str, NDArray[Any]] = {}
                whole: dict[str, NDArray[Any]] = {}
                for role, (dataset, field) in sets.items():
                    # the records of a dataset are read once, whatever they hold
                    if dataset.name not in whole:
                        whole[dataset.name] = dataset[at : at + ROWS]
                    rows = whole[dataset.name]
                    block[role] = rows[field] if field else rows
                words = _packed(block)
                words[::2] += offset
                recording.read = min(1.0, (at + ROWS) / length)
                yield words

    recording = Recording(path, "HDF5", width, height, chunks)
    return recording


def _chosen(h5py: Any, file: Any, path: str, wanted: str) -> str:
    """Name of the group or dataset that holds the events; DeviceError unless there is one."""
    found: list[str] = []
    seen = 0

    def look(name: str, thing: Any) -> bool | None:
        nonlocal seen
        seen += 1
        if len(_hdf5_roles(h5py, thing)) == 4:
            found.append(name or "/")
        return True if seen > OBJECTS else None

    look("", file)
    file.visititems(look)
    known = ", ".join(found[:20]) or "none"
    if wanted:
        if wanted.strip("/") in [name.strip("/") for name in found]:
            return wanted.strip("/") or "/"
        raise DeviceError(
            f"{path}: the setting 'dataset' names {wanted!r}; what holds events there: {known}"
        )
    if not found:
        raise DeviceError(
            f"{path}: nothing in the HDF5 file holds events; expected a group with the datasets t, "
            "x, y and p, such as 'events' in DSEC, or a dataset of such records, such as "
            "'CD/events' of Prophesee: convert it"
        )
    if len(found) > 1:
        raise DeviceError(
            f"{path}: {len(found)} places in the HDF5 file hold events ({known}); expected one: "
            "name it with the setting 'dataset'"
        )
    return found[0]


def _hdf5_roles(h5py: Any, thing: Any) -> dict[str, str]:
    """Which dataset of a group, or which field of a dataset, holds t, x, y and p."""
    if isinstance(thing, h5py.Dataset):
        return _roles(list(thing.dtype.names or ())) if len(thing.shape or ()) == 1 else {}
    names = [
        name
        for name in thing
        # a link to another file is never followed
        if isinstance(thing.get(name, getlink=True), h5py.HardLink)
        and thing.get(name, getclass=True) is h5py.Dataset
    ]
    return _roles(names)


def _hdf5_columns(h5py: Any, thing: Any, path: str) -> dict[str, tuple[Any, str]]:
    """For t, x, y and p the dataset, and the field in it or ''; all of it is there to be read."""
    is_records = isinstance(thing, h5py.Dataset)
    found = {
        role: (thing, name) if is_records else (thing[name], "")
        for role, name in _hdf5_roles(h5py, thing).items()
    }
    for role, (dataset, field) in found.items():
        kind = (dataset.dtype[field] if field else dataset.dtype).kind
        if dataset.ndim != 1 or kind not in "iub":
            raise DeviceError(
                f"{path}: {dataset.name} holds {dataset.dtype} of shape {dataset.shape} for "
                f"{role}; expected one dimension of whole numbers (times in us): convert it"
            )
        _check_storage(h5py, dataset, path)
    lengths = {role: len(dataset) for role, (dataset, _) in found.items()}
    if len(set(lengths.values())) != 1:
        raise DeviceError(
            f"{path}: t, x, y and p of {thing.name} have different lengths {lengths}; expected "
            f"one event for each row: {DAMAGED}"
        )
    return found


def _check_storage(h5py: Any, dataset: Any, path: str) -> None:
    """DeviceError unless the dataset's rows lie in this file, in chunks of a reasonable size."""
    plist = dataset.id.get_create_plist()
    where = f"{path}: {dataset.name}"
    for index in range(plist.get_nfilters()):
        code, _, _, name = plist.get_filter(index)
        _check_filter(h5py, where, code, name.decode(errors="replace"))
    try:
        check_storage(h5py, dataset, CHUNK_LIMIT)
    except ValueError as error:
        raise DeviceError(f"{path}: {error}: save it again") from error
    rows = len(dataset)
    if dataset.chunks is None:
        stored = dataset.id.get_storage_size() // dataset.dtype.itemsize
    else:
        stored = dataset.id.get_num_chunks() * dataset.chunks[0]
    if stored < rows:
        # HDF5 would make the missing rows up as zeros
        raise DeviceError(
            f"{where} says that it has {rows} rows, but at most {stored} are in the file; "
            f"expected all of them: {DAMAGED}"
        )


ECF = 36559  # the number under which Prophesee registered its filter


def _check_filter(h5py: Any, where: str, code: int, name: str) -> None:
    """DeviceError unless what compressed a dataset is there to decompress it."""
    if h5py.h5z.filter_avail(code):
        return
    advice = "pip install hdf5plugin"
    if code == ECF:
        advice = (
            "install Prophesee's HDF5 plugin and let HDF5_PLUGIN_PATH name its folder, or convert "
            "the file to .raw"
        )
    else:
        try:
            import hdf5plugin  # type: ignore  # registers its filters; optional, as are its types

            del hdf5plugin
        except ImportError:
            pass
        if h5py.h5z.filter_avail(code):
            return
    raise DeviceError(
        f"{where} is compressed with filter {code} ({name[:60]}), which is not installed: {advice}"
    )


def _around(file: Any, where: str) -> list[Any]:
    """The group or dataset, what it lies in, and so on to the file itself."""
    parts = where.strip("/").split("/")
    names = ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return [*(file[name] for name in names if name), file]


def _attribute(thing: Any, name: str, path: str) -> Any:
    """An attribute's value, None where there is none."""
    if name in thing.attrs and thing.attrs.get_id(name).dtype.hasobject:
        check_heaps(path)  # a text of any length
    return thing.attrs.get(name)


def _hdf5_size(file: Any, where: str, path: str) -> tuple[int | None, int | None]:
    """Sensor size from attributes `width` and `height`, or Prophesee's `geometry`."""
    for thing in _around(file, where):
        sides = [_attribute(thing, side, path) for side in ("width", "height")]
        if all(np.ndim(side) == 0 and np.asarray(side).dtype.kind in "iu" for side in sides):
            return int(sides[0]), int(sides[1])
        said = _attribute(thing, "geometry", path)
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        if isinstance(text, str) and (match := re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)):
            return int(match[1]), int(match[2])
    return None, None


def _offset(file: Any, where: str, path: str) -> int:
    """What the dataset `t_offset` beside or above the events adds to every time (us)."""
    for thing in _around(file, where):
        if hasattr(thing, "keys") and "t_offset" in thing:
            kept = thing["t_offset"]
            is_number = getattr(kept, "dtype", np.dtype(object)).kind in "iu"
            value = np.asarray(kept[()] if is_number else str(kept))
            if value.size != 1 or value.dtype.kind not in "iu" or abs(int(value.item())) >> 62:
                raise DeviceError(
                    f"{path}: t_offset is {str(value)[:40]}; expected one number of us: {DAMAGED}"
                )
            return int(value.item())
    return 0


# --- Parquet --------------------------------------------------------------------------------------


@contextmanager
def _parquet_errors(path: str, arrow: Any) -> Iterator[None]:
    try:
        yield
    except (arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DeviceError(
            f"{path}: the Parquet file cannot be read ({error}); expected a whole file with the "
            f"columns t (us), x, y and p; {DAMAGED}"
        ) from error


def open_parquet(path: str) -> Recording:
    """The events in a Parquet file: columns of time, x, y and polarity under any of their names.

    Times are whole microseconds, or Arrow's timestamps or durations of any unit. `width` and
    `height` in the file's metadata are the sensor's size.
    """
    parquet, arrow = library("pyarrow.parquet", path, "files"), library("pyarrow", path, "files")
    with _parquet_errors(path, arrow), parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = _roles(schema.names)
        if len(names) < 4:
            raise DeviceError(
                f"{path}: the Parquet file has the columns {schema.names[:20]}; expected t (us), "
                "x, y and p, or names that mean these: rename them"
            )
        for role, name in names.items():
            _check_type(path, arrow, role, name, schema.field(name).type)
        metadata = file.metadata.metadata or {}
        sides = [metadata.get(side, b"").decode(errors="replace") for side in (b"width", b"height")]
        width, height = (int(side) if side.isdecimal() else None for side in sides)

    def chunks() -> Iterator[EventWords]:
        done = 0
        with _parquet_errors(path, arrow), parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS, columns=list(names.values())):
                block = {role: _numbers(path, arrow, batch, name) for role, name in names.items()}
                done += batch.num_rows
                recording.read = min(1.0, done / file.metadata.num_rows)
                if batch.num_rows:
                    yield _packed(block)

    recording = Recording(path, "Parquet", width, height, chunks)
    return recording


def _check_type(path: str, arrow: Any, role: str, name: str, kind: Any) -> None:
    is_time = arrow.types.is_timestamp(kind) or arrow.types.is_duration(kind)
    is_number = arrow.types.is_integer(kind) or arrow.types.is_boolean(kind)
    if not (is_number or (role == "t" and is_time)):
        raise DeviceError(
            f"{path}: the column {name} of the Parquet file holds {kind}; expected whole numbers "
            "(times in us): convert it"
        )


def _numbers(path: str, arrow: Any, batch: Any, name: str) -> NDArray[Any]:
    """A column as numbers, times in us."""
    column = batch.column(name)
    if column.null_count:
        raise DeviceError(
            f"{path}: the column {name} has rows without a value; expected a number in each: "
            "fill them or leave them out"
        )
    kind = column.type
    if arrow.types.is_timestamp(kind):
        column = column.cast(arrow.timestamp("us", kind.tz), safe=False)
    elif arrow.types.is_duration(kind):
        column = column.cast(arrow.duration("us"), safe=False)
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values.astype(np.int64) if values.dtype.kind in "mM" else values
