"""`csv_file`: rows as comma-separated text."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np

from streamflow.node import In, Node, OutputPath
from streamflow.packet import Packet, Table

from ..files.columns import Path, Rows, column, distinct, file_columns, text_of
from ..files.output import FullDiskSettings, OutputFile
from ..files.records import RecordFile


class CsvFileSettings(FullDiskSettings, frozen=True, kw_only=True):
    """Where to write, which columns, and what to do when the disk is full."""

    path: OutputPath
    columns: list[str] = []
    """Columns to write, in this order; empty for all. Named ones are in the file's first line even
    if no row ever comes."""


class CsvFile(Node[CsvFileSettings]):
    r"""A text file with one line per row of any table, under a line with the columns' names.

    Numbers are written so that reading them gives the same number again (the shortest such form),
    truth values as 0 and 1, text as UTF-8; bytes that are not UTF-8 become `\xNN` and are counted.
    A field that is itself an array or a record gives several columns: `position_0`, `position_1`,
    `gate.low`. The file of an earlier run is replaced. Every packet's rows are in the file when
    the packet has been handled; after a crash no row is repeated or lost, and on a full disk whole
    packets remain. With `rotate` each file has the line with the names.

    Emits nothing. Keeps the length of the file.

        results: {kind: csv_file, inputs: {rows: classify.particles}, settings: {path: rows.csv}}
    """

    rows = In(Table)
    faults = ("text_not_utf8", "not_written")

    def open(self) -> None:
        self._header = distinct(self.settings.columns, self.name)
        settings = self.settings
        self._file = OutputFile(
            settings.path, settings, self.name,
            lambda path: RecordFile(path, self.name, reserve=settings.reserve),
        )  # fmt: skip
        self._dtype: np.dtype[Any] | None = None
        self._paths: list[Path] = []
        self._written = 0

    def on_rows(self, packet: Packet[Table]) -> None:
        rows = packet.data.array
        # numpy takes None for float64 in a comparison of dtypes
        if self._dtype is None or rows.dtype != self._dtype:
            paths = file_columns(
                rows.dtype, self._header, bool(self.settings.columns), self.name, "csv_file"
            )
            self._dtype, self._header, self._paths = rows.dtype, list(paths), list(paths.values())
        text = io.StringIO()
        columns = [self._cells(column(rows, path)) for path in self._paths]
        csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
        lines = text.getvalue().encode()
        if self._file.append(lambda: lines if self._file.length else self._head() + lines):
            self._written += len(rows)
        else:
            self.count_fault("not_written", len(rows))

    def finish(self) -> None:
        if not self._file.length:
            self._file.append(self._head)

    def _head(self) -> bytes:
        text = io.StringIO()
        if self._header:
            csv.writer(text, lineterminator="\n").writerow(self._header)
        return text.getvalue().encode()

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def snapshot(self) -> dict[str, Any]:
        return {
            **self._file.snapshot(),
            "rows": self._written,
            "header": "\n".join(self._header),
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._file.restore(state)
        self._written = int(state["rows"])
        self._header = state["header"].split("\n") if state["header"] else []
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}

    def results(self) -> dict[str, Any]:
        return {
            "path": self.settings.path,
            "rows": self._written,
            "bytes": self._file.length,
            **self._file.results(),
        }

    def _cells(self, values: Rows) -> list[Any]:
        """One column as what `csv` writes with nothing lost."""
        match values.dtype.kind:
            case "S":
                text, wrong = text_of(values)
                self.count_fault("text_not_utf8", wrong)
                return text
            case "b":
                return [int(cell) for cell in values.tolist()]
            case "V":
                return [bytes(cell).hex() for cell in values]
            case "f" if values.dtype.itemsize != 8:
                # a float32 written as a float64 would show digits that it does not have
                return [str(cell) for cell in values]
            case "i" | "u" | "f" | "U":
                return list(values.tolist())
            case _:
                return [str(cell) for cell in values]
