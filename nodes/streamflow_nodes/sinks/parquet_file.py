"""`parquet_file`: rows as a Parquet file, for data frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from streamflow.errors import NodeError
from streamflow.node import In, Node, OutputPath, Positive
from streamflow.packet import Packet, Table

from ..files.columns import Path as Place
from ..files.columns import Rows, column, distinct, file_columns, text_of
from ..files.output import FullDiskSettings, OutputFile
from ..files.records import AssembledFile, library


class ParquetFileSettings(FullDiskSettings, frozen=True, kw_only=True):
    """Where to write, which columns, and what to do when the disk is full."""

    path: OutputPath
    columns: list[str] = []
    """Columns to write, in this order; empty for all."""
    row_group: Positive = 100_000
    """Rows in a row group: what a reader can skip, and what is held in memory at a time."""


class ParquetFile(Node[ParquetFileSettings]):
    r"""A Parquet file of any table, which pandas, polars, DuckDB and Arrow read; Zstandard inside.

    Numbers keep their types (float16 becomes float32), bytes become UTF-8 text, where bytes that
    are not UTF-8 become `\xNN` and are counted. A field that is itself an array or a record gives
    several columns, named as `csv_file` names them: `position_0`, `gate.low`.

    Parquet has its table of contents at the end and cannot be read before that is written. So until
    the run has ended the rows are in `<path>.part.arrows`, an Arrow IPC stream that
    `pyarrow.ipc.open_stream` and `polars.read_ipc_stream` read up to the last whole packet; the
    Parquet file is built from that while the graph runs, and is there whole or not at all. The file
    of an earlier run stays until then. After a crash no row is repeated or lost; on a full disk
    whole packets remain in the journal. A stream without packets gives a file without columns.
    With `stop_writing` or `rotate`, a full disk costs the Parquet file that is being built before
    it costs rows: it is built at the end, where there is room, and else the journal is what stays.

    Needs the extra `files`. Emits nothing. Keeps the length of the journal and the columns' types.

        keep: {kind: parquet_file, inputs: {rows: classify.particles}, settings: {path: a.parquet}}
    """

    rows = In(Table)
    faults = ("text_not_utf8", "not_written")

    def open(self) -> None:
        path = self.settings.path
        self._arrow = library("pyarrow", path, "files")
        library("pyarrow.parquet", path, "files")
        self._header = distinct(self.settings.columns, self.name)
        self._file = OutputFile(path, self.settings, self.name, self._opened)
        self._dtype: np.dtype[Any] | None = None
        self._places: dict[str, Place] = {}
        self._schema: Any = None
        self._written = 0

    def _opened(self, path: Path) -> AssembledFile:
        settings = self.settings
        return AssembledFile(
            path,
            self.name,
            ".arrows",
            lambda journal, draft: _Builder(journal, draft, settings.row_group),
            reserve=settings.reserve,
            draft_may_wait=settings.when_disk_full != "fail",
        )

    def on_rows(self, packet: Packet[Table]) -> None:
        rows = packet.data.array
        # numpy takes None for float64 in a comparison of dtypes
        if self._dtype is None or rows.dtype != self._dtype:
            is_chosen = bool(self.settings.columns)
            self._places = file_columns(
                rows.dtype, self._header, is_chosen, self.name, "parquet_file"
            )
            self._dtype, self._header = rows.dtype, list(self._places)
        cells = [self._cells(name, column(rows, at)) for name, at in self._places.items()]
        batch = self._arrow.record_batch(cells, names=self._header)
        if self._schema is not None and batch.schema != self._schema:
            different = _different(batch.schema, self._schema)
            raise self._refused(
                f"columns of other types than the file's: {different}; a file has one type for "
                "each column: write a file for each table"
            )
        self._schema = batch.schema
        if self._file.append(lambda: self._record(batch)):
            self._written += len(rows)
        else:
            self.count_fault("not_written", len(rows))

    def _record(self, batch: Any) -> bytes:
        head = b"" if self._file.length else bytes(batch.schema.serialize())
        return head + (bytes(batch.serialize()) if batch.num_rows else b"")

    def _cells(self, name: str, values: Rows) -> Any:
        """One column as an Arrow array."""
        arrow = self._arrow
        values = np.ascontiguousarray(values)
        match values.dtype.kind:
            case "S":
                text, wrong = text_of(values)
                self.count_fault("text_not_utf8", wrong)
                return arrow.array(text, arrow.string())
            case "U":
                return arrow.array(values.tolist(), arrow.string())
            case "V":
                return arrow.array([bytes(cell) for cell in values], arrow.binary())
            case "f" if values.dtype.itemsize == 2:
                return arrow.array(values.astype(np.float32))
            case "b" | "i" | "u" | "f" | "m" | "M" if values.dtype.itemsize <= 8:
                try:
                    return arrow.array(values.astype(values.dtype.newbyteorder("="), copy=False))
                except (arrow.ArrowException, NotImplementedError):
                    pass
        raise self._refused(
            f"a column {name!r} of {values.dtype}, which Parquet has no type for: leave it out "
            "with the setting 'columns', or convert it in the node before"
        )

    def _refused(self, what: str) -> NodeError:
        return NodeError(self.name, f"got {what}", kind="parquet_file")

    def finish(self) -> None:
        self._file.complete()

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def snapshot(self) -> dict[str, Any]:
        return {
            **self._file.snapshot(),
            "rows": self._written,
            "header": "\n".join(self._header),
            "schema": b"" if self._schema is None else self._schema.serialize().to_pybytes(),
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._file.restore(state)
        self._written = int(state["rows"])
        self._header = state["header"].split("\n") if state["header"] else []
        schema = self._arrow.py_buffer(state["schema"])
        self._schema = self._arrow.ipc.read_schema(schema) if len(schema) else None
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}

    def results(self) -> dict[str, Any]:
        """Path, rows, bytes of the finished file, and what a full disk has changed."""
        file = self._file.file
        size = file.path.stat().st_size if file.is_complete else 0
        return {
            "path": self.settings.path,
            "rows": self._written,
            "bytes": size,
            **self._file.results(),
        }


def _different(found: Any, expected: Any) -> str:
    """The columns whose types differ, and how."""
    return ", ".join(
        f"{ours.name} is {theirs.type} instead of {ours.type}"
        for theirs, ours in zip(found, expected, strict=True)
        if theirs.type != ours.type
    )


class _Builder:
    """A `files.Builder` that reads an Arrow stream and writes row groups."""

    def __init__(self, journal: str, draft: str, group: int) -> None:
        self._arrow = library("pyarrow", draft, "files")
        parquet = library("pyarrow.parquet", draft, "files")
        self._journal = self._arrow.OSFile(journal)
        self._stream: Any = None
        schema = self._arrow.schema([])
        if self._journal.size():
            self._stream = self._arrow.ipc.open_stream(self._journal)
            schema = self._stream.schema
        self.position = self._journal.tell()
        self._writer = parquet.ParquetWriter(draft, schema, compression="zstd")
        self._group = group
        self._held: list[Any] = []
        self._count = 0

    def move(self) -> None:
        batch = self._stream.read_next_batch()
        self.position = self._journal.tell()
        self._held.append(batch)
        self._count += batch.num_rows
        if self._count >= self._group:
            self._flush()

    def complete(self) -> None:
        if self._held:
            self._flush()
        self._writer.close()

    def close(self) -> None:
        try:
            self._writer.close()
        finally:
            self._journal.close()

    def _flush(self) -> None:
        table = self._arrow.Table.from_batches(self._held)
        self._held, self._count = [], 0
        self._writer.write_table(table, row_group_size=self._group)
