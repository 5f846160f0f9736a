"""`fcs_file`: particles as a flow cytometry list-mode file."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import FilePath, In, Node, OutputPath, Seconds
from streamflow.packet import Packet, Table

from ..files.output import FullDiskSettings, OutputFile
from ..files.records import RecordFile, file_digest
from ..particles.rows import CHANNELS, LATE, MERGED, channel_values, require_particles

PAGE = 4096
"""Bytes at the start of the file that a killed process leaves whole (see `RecordFile`)."""
CLASSES_ROOM = 1024
"""Bytes kept for the class names, which may become known only while the file grows."""
HEADER_LIMIT = 99_999_999
"""Largest offset that the eight digits of the FCS header hold; beyond, they are zeros."""
SEPARATOR = "\f"
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
TIME = next(i for i, channel in enumerate(CHANNELS) if channel.field == "time_us")


class FcsFileSettings(FullDiskSettings, frozen=True, kw_only=True):
    """Where to write, in which precision, what to say of the sample, and when the disk is full."""

    path: OutputPath
    datatype: Literal["D", "F"] = "D"
    """D: 64-bit numbers. F: 32-bit, for programs that read no others."""
    time_step: Seconds | None = None
    """Unit of the Time parameter in seconds. Default: 1e-6 for D; 1e-3 for F, where Time is exact
    up to 2^24 steps (4.6 hours of milliseconds, but 16.8 s of microseconds)."""
    classes: list[str] = []
    """Class names in the order that gives CLASS its numbers from 0; empty: as they first appear."""
    model: list[FilePath] = []
    """Files whose sha256 goes into the file: what the decisions were made with."""
    graph: FilePath | None = None
    """The graph file, likewise."""
    cytometer: str = "streamflow"
    source: str = ""
    """Specimen ($SRC)."""
    sample: str = ""
    """Sample number ($SMNO)."""
    operator: str = ""
    volume_nl: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Sample volume that ran, in nanolitres ($VOL)."""
    note: str = ""
    """A remark, such as 'simulated' ($COM)."""


class FcsFile(Node[FcsFileSettings]):
    """An FCS 3.1 list-mode file with one event per particle.

    Its parameters are `streamflow_nodes.particles.rows.CHANNELS`: Time, then FSC-A (events of the
    passage), FSC-H (peak rate), FSC-W (duration) and SSC-A (events far from the centre), which
    cytometry programs take for scatter, and then what has no such meaning: ON_FRAC, X, Y, CLASS,
    P_CLASS, LATENCY_US, FLAGS, DIAM_UM. SF_CLASSES holds the names as a JSON list; CLASS indexes it
    from 0. $ABRT counts passages of several particles that were not separated (MERGED), $LOST those
    decided after their deadline (LATE); both kinds are in the file as well. SF_MODEL_SHA256
    and SF_GRAPH_SHA256 say which files the decisions came from, one digest per file.

    After every packet the file can be read up to its last particle: a process that is killed, or a
    full disk, leaves a valid file, and a restart repeats and loses no particle. Numbers that
    are not finite are written as they are and counted, and so are times that 32-bit numbers round.
    With `rotate` each file is whole and says what is in itself.

    Emits nothing. Keeps the file's length, the class names and each parameter's largest value.

    Source: Spidlen et al. 2010, Data File Standard for Flow Cytometry, version FCS 3.1.

        results: {kind: fcs_file, inputs: {rows: classify.particles}, settings: {path: run.fcs}}
    """

    rows = In(Table)
    faults = ("not_finite", "time_rounded", "class_not_utf8", "not_written")

    def open(self) -> None:
        settings = self.settings
        self._file = OutputFile(
            settings.path, settings, self.name,
            lambda path: RecordFile(path, self.name, reserve=settings.reserve),
        )  # fmt: skip
        if not self._file.file.is_regular:
            raise NodeError(
                self.name,
                f"{settings.path} is a device or a pipe; an FCS file says at its start how long it "
                "is: give the path of an ordinary file",
                kind="fcs_file",
            )
        default = 1e-6 if settings.datatype == "D" else 1e-3
        self._time_step = settings.time_step or default
        self._number = np.dtype("<f8" if settings.datatype == "D" else "<f4")
        self._begun = datetime.now().isoformat()
        self._text_end = self._data_at = 0
        self._events = self._merged = self._late = 0  # of this file
        self._before = (0, 0, 0)  # the same of the files whose disks were full
        self._largest = np.zeros(len(CHANNELS))
        self._classes: tuple[str, ...] = tuple(settings.classes)
        self._classes_text()
        self._digests = {
            "SF_MODEL_SHA256": ",".join(file_digest(path, self.name) for path in settings.model),
            "SF_GRAPH_SHA256": file_digest(settings.graph, self.name) if settings.graph else "",
        }

    def on_rows(self, packet: Packet[Table]) -> None:
        rows = packet.data.array
        try:
            require_particles(rows.dtype)
        except ValueError as error:
            raise NodeError(self.name, str(error), kind="fcs_file") from error
        if self._file.is_stopped:
            self.count_fault("not_written", len(rows))
            return
        rows = self._named(rows)
        values = channel_values(rows, self._classes)
        values[:, TIME] /= round(self._time_step * 1e6, 6)
        data = values.astype(self._number).tobytes()
        if self._file.append(lambda: data if self._file.length else self._begun_text() + data):
            self._count(rows, values)
            self._file.file.overwrite(0, self._head())
        else:
            self.count_fault("not_written", len(rows))

    def finish(self) -> None:
        if not self._file.length:
            self._file.append(self._begun_text)

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def snapshot(self) -> dict[str, Any]:
        return {
            **self._file.snapshot(),
            "before": np.array(self._before, np.int64),
            "text_end": self._text_end,
            "data_at": self._data_at,
            "begun": self._begun,
            "events": self._events,
            "merged": self._merged,
            "late": self._late,
            "largest": self._largest.copy(),
            "classes": json.dumps(self._classes),
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._text_end, self._data_at = int(state["text_end"]), int(state["data_at"])
        self._begun = str(state["begun"])
        self._events, self._merged = int(state["events"]), int(state["merged"])
        self._late, self._largest = int(state["late"]), np.array(state["largest"], np.float64)
        self._classes = tuple(json.loads(state["classes"]))
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}
        before = state["before"].tolist()
        self._before = (before[0], before[1], before[2])
        self._file.restore(state, self._head() if int(state["length"]) else b"")

    def results(self) -> dict[str, Any]:
        return {
            "path": self.settings.path,
            "particles": self._before[0] + self._events,
            "merged": self._before[1] + self._merged,
            "late": self._before[2] + self._late,
            "classes": list(self._classes),
            **self._file.results(),
        }

    def _named(self, rows: NDArray[Any]) -> NDArray[Any]:
        """`rows` with classes that are all text, and known: new ones join the file's list."""
        known, renamed = set(self._classes), rows
        names, first = np.unique(rows["class"], return_index=True)
        for name in names[np.argsort(first)].tolist():
            try:
                text = name.decode()
            except UnicodeDecodeError:
                text = name.decode(errors="backslashreplace")[:16]
                is_it = rows["class"] == name
                self.count_fault("class_not_utf8", int(is_it.sum()))
                renamed = rows.copy() if renamed is rows else renamed
                renamed["class"][is_it] = text.encode()
            if text in known:
                continue
            if self.settings.classes:
                raise NodeError(
                    self.name,
                    f"class {text!r} is not among the setting 'classes' {self.settings.classes}; "
                    "add it, or leave the setting out",
                    kind="fcs_file",
                )
            known.add(text)
            self._classes += (text,)
            self._classes_text()
        return renamed

    def _count(self, rows: NDArray[Any], values: NDArray[np.float64]) -> None:
        is_finite = np.isfinite(values)
        self.count_fault("not_finite", int((~is_finite.all(1)).sum()))
        if self.settings.datatype == "F":
            self.count_fault("time_rounded", int((np.abs(values[:, TIME]) > 2**24).sum()))
        largest = np.where(is_finite, values, 0).max(0, initial=0)
        self._largest = np.maximum(self._largest, largest)
        self._events += len(rows)
        self._merged += int(np.count_nonzero(rows["flags"] & MERGED))
        self._late += int(np.count_nonzero(rows["flags"] & LATE))

    def _begun_text(self) -> bytes:
        """All that stands before the events of a new file, up to a whole page."""
        counts = zip(self._before, (self._events, self._merged, self._late), strict=True)
        before, merged, late = (earlier + here for earlier, here in counts)
        self._before = (before, merged, late)
        self._events = self._merged = self._late = 0
        self._largest[:] = 0
        fixed = _text(self._fixed_keywords())
        self._text_end = len(self._head()) + len(fixed) - 1
        self._data_at = -(-(self._text_end + 1) // PAGE) * PAGE
        return (self._head() + fixed).ljust(self._data_at)

    def _head(self) -> bytes:
        """The start of the file, with everything in it that changes while the file grows.

        Its length never changes, and it is shorter than a page.
        """
        data_end = self._data_at + self._events * len(CHANNELS) * self._number.itemsize - 1
        offsets = (self._data_at, data_end) if data_end <= HEADER_LIMIT else (0, 0)
        header = "FCS3.1    " + "".join(f"{at:8d}" for at in (58, self._text_end, *offsets, 0, 0))
        changing = {
            "$BEGINDATA": f"{self._data_at:012d}",
            "$ENDDATA": f"{data_end:012d}",
            "$TOT": f"{self._events:012d}",
            "$ABRT": f"{self._merged:012d}",
            "$LOST": f"{self._late:012d}",
            "$ETIM": _time_of_day(datetime.now()),
            "SF_CLASSES": self._classes_text(),
        }
        for number, largest in enumerate(self._largest.tolist(), 1):
            # the range of a parameter is one more than the largest value it may take
            changing[f"$P{number}R"] = f"{min(int(largest) + 1, 10**16 - 1):016d}"
        return header.encode() + SEPARATOR.encode() + _text(changing)

    def _fixed_keywords(self) -> dict[str, str]:
        """What the file says that is known when it is begun. Empty values are left out."""
        settings, begun = self.settings, datetime.fromisoformat(self._begun)
        out = {
            "$BEGINSTEXT": "0",
            "$ENDSTEXT": "0",
            "$BEGINANALYSIS": "0",
            "$ENDANALYSIS": "0",
            "$NEXTDATA": "0",
            "$BYTEORD": "1,2,3,4",
            "$DATATYPE": settings.datatype,
            "$MODE": "L",
            "$PAR": str(len(CHANNELS)),
            "$TIMESTEP": f"{self._time_step:.12f}".rstrip("0"),
            "$DATE": f"{begun.day:02d}-{MONTHS[begun.month - 1]}-{begun.year}",
            "$BTIM": _time_of_day(begun),
            "$FIL": os.path.basename(settings.path),
            "$SYS": f"{platform.system()} {platform.release()}",
            "$CYT": settings.cytometer,
            "$SRC": settings.source,
            "$SMNO": settings.sample,
            "$OP": settings.operator,
            "$VOL": f"{settings.volume_nl:.3f}" if settings.volume_nl else "",
            "$COM": settings.note,
            **self._digests,
        }
        for number, channel in enumerate(CHANNELS, 1):
            meaning = channel.meaning
            if channel.field == "time_us":
                meaning = f"centre of the passage, in units of {out['$TIMESTEP']} s"
            out[f"$P{number}N"] = channel.name
            out[f"$P{number}S"] = meaning
            out[f"$P{number}B"] = str(8 * self._number.itemsize)
            out[f"$P{number}E"] = "0,0"
        return out

    def _classes_text(self) -> str:
        text = json.dumps(self._classes)
        if len(text) > CLASSES_ROOM:
            raise NodeError(
                self.name,
                f"{len(self._classes)} class names take {len(text)} bytes; an FCS file has room "
                f"for {CLASSES_ROOM}: check that the rows' class column holds classes",
                kind="fcs_file",
            )
        return text.ljust(CLASSES_ROOM)


def _text(keywords: dict[str, str]) -> bytes:
    """`keywords` as a TEXT segment holds them; control characters in a value become blanks."""
    cells = []
    for key, value in keywords.items():
        if value:
            if not value.isprintable():
                value = "".join(c if c.isprintable() else " " for c in value)
            cells.append(f"{key}{SEPARATOR}{value}{SEPARATOR}")
    return "".join(cells).encode(errors="replace")


def _time_of_day(at: datetime) -> str:
    return f"{at:%H:%M:%S}.{at.microsecond // 10_000:02d}"
