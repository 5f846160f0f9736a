"""HDF5 and Parquet files of events, built from the AEDAT4 journal of a run."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..files.records import DraftFile, library
from .formats import Aedat4Records, Size

BLOCK = 1 << 18  # events written at a time
INDEX_LIMIT = 1 << 24  # ms (4.7 hours): a longer index is left out
ROW_GROUP = 1 << 20  # events


class Columns(Protocol):
    """A draft that takes events in blocks."""

    def add(self, events: NDArray[Any]) -> None:
        """Append (n,) events, in order."""

    def complete(self, size: Size) -> None:
        """Write what is left, with the sensor's size, and close the file."""

    def close(self) -> None:
        """Release the file. Safe to call twice."""


class EventsBuilder:
    """A `files.Builder` that reads an AEDAT4 journal and hands its events on in large blocks."""

    def __init__(self, journal: str, columns: Columns) -> None:
        self._records, self._columns = Aedat4Records(journal), columns
        self.position = self._records.position
        self._held: list[NDArray[Any]] = []
        self._count = 0

    def move(self) -> None:
        self._held.append(self._records.read())
        self.position = self._records.position
        self._count += len(self._held[-1])
        if self._count >= BLOCK:
            self._flush()

    def complete(self) -> None:
        if self._held:
            self._flush()
        self._columns.complete(self._records.size)

    def close(self) -> None:
        self._records.close()
        self._columns.close()

    def _flush(self) -> None:
        events = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
        self._held, self._count = [], 0
        self._columns.add(events)


class Hdf5Columns:
    """An HDF5 file in the layout of the DSEC dataset (Gehrig et al. 2021), which tonic, evlib and
    many research tools read: datasets `events/t`, `x`, `y`, `p`, the times in us from `t_offset`
    on, and `ms_to_idx`, whose entry k is the index of the first event at or after k ms.

    `t` has 64 bits where DSEC has 32. The group `events` has the attributes `width` and `height`.
    Nothing is compressed.
    """  # fmt: skip

    TYPES = {"t": np.int64, "x": np.uint16, "y": np.uint16, "p": np.uint8}

    def __init__(self, draft: str) -> None:
        self._draft = DraftFile(draft)
        self._file = library("h5py", draft, "files").File(self._draft, "w")
        group = self._file.create_group("events")
        self._sets = {
            name: group.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(1 << 16,))
            for name, kind in self.TYPES.items()
        }
        self._index = self._file.create_dataset(
            "ms_to_idx", (0,), np.uint64, maxshape=(None,), chunks=(1 << 16,), compression="gzip",
            shuffle=True,
        )  # fmt: skip
        self._offset = 0
        self._last = -1  # us after the offset
        self._count = 0

    def add(self, events: NDArray[Any]) -> None:
        times = events["timestamp"]
        if not self._count:
            self._offset = int(times[0]) // 1000 * 1000
        times = times - self._offset
        self._last = int(times[-1])
        self._extend_index(times)
        columns = {"t": times, "x": events["x"], "y": events["y"], "p": events["polarity"]}
        for name, column in columns.items():
            _append(self._sets[name], column)
        self._count += len(events)
        self._draft.check()

    def complete(self, size: Size) -> None:
        self._file.create_dataset("t_offset", data=np.int64(self._offset))
        if size is not None:
            group = self._file["events"]
            group.attrs["width"], group.attrs["height"] = size
        if self._last // 1000 + 1 < INDEX_LIMIT:
            # one more entry, so that the last millisecond has an end
            _append(self._index, np.array([self._count], np.uint64))
        else:
            del self._file["ms_to_idx"]
        self._file.close()
        self._draft.finish()
        self._draft.close()

    def close(self) -> None:
        self._file.close()
        self._draft.close()

    def _extend_index(self, times: NDArray[np.int64]) -> None:
        """The index up to the last of `times`, as far as it is kept at all."""
        stop = min(self._last // 1000 + 1, INDEX_LIMIT)
        for at in range(len(self._index), stop, 1 << 20):
            starts = np.arange(at, min(stop, at + (1 << 20)), dtype=np.int64) * 1000
            _append(self._index, np.searchsorted(times, starts).astype(np.uint64) + self._count)


def _append(dataset: Any, column: NDArray[Any]) -> None:
    end = len(dataset)
    dataset.resize((end + len(column),))
    dataset[end:] = column


class ParquetColumns:
    """A Parquet file with the columns `t` (us, int64), `x`, `y` (int16) and `p` (int8: 0, 1), and
    `width` and `height` in its metadata; compressed with Zstandard, a million rows a row group.
    """  # fmt: skip

    def __init__(self, draft: str) -> None:
        self._arrow = library("pyarrow", draft, "files")
        fields = {"t": "int64", "x": "int16", "y": "int16", "p": "int8"}
        self._schema = self._arrow.schema(list(fields.items()))
        parquet = library("pyarrow.parquet", draft, "files")
        self._writer = parquet.ParquetWriter(draft, self._schema, compression="zstd")
        self._held: list[Any] = []

    def add(self, events: NDArray[Any]) -> None:
        columns = [np.ascontiguousarray(events[name]) for name in events.dtype.names or ()]
        self._held.append(self._arrow.record_batch(columns, schema=self._schema))
        if sum(batch.num_rows for batch in self._held) >= ROW_GROUP:
            self._flush()

    def complete(self, size: Size) -> None:
        self._flush()
        if size is not None:
            self._writer.add_key_value_metadata({"width": str(size[0]), "height": str(size[1])})
        self._writer.close()

    def close(self) -> None:
        self._writer.close()

    def _flush(self) -> None:
        if self._held:
            table = self._arrow.Table.from_batches(self._held)
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
            self._held = []


def hdf5_builder(journal: str, draft: str) -> EventsBuilder:
    """Builds an HDF5 file of events."""
    return EventsBuilder(journal, Hdf5Columns(draft))


def parquet_builder(journal: str, draft: str) -> EventsBuilder:
    """Builds a Parquet file of events."""
    return EventsBuilder(journal, ParquetColumns(draft))
