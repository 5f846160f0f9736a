"""`rtdc_file`: particles as the HDF5 file that Shape-In writes and dclab and DCscope read."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError, NodeError
from streamflow.node import In, Node, OutputPath, Positive, Seconds
from streamflow.packet import Packet, Table

from ..files.output import FullDiskSettings, OutputFile
from ..files.records import DraftFile, RecordFile, check_reserve, disk_advice, is_full, library
from ..spans import microseconds

Rows = NDArray[Any]
Above0 = Annotated[float, msgspec.Meta(gt=0)]
Not0 = Annotated[float, msgspec.Meta(ge=0)]

BLOCK = 1 << 16  # rows that are in memory at once while the file is written
GROWTH = 16  # the file is written anew when it would grow by 1/GROWTH: all writes stay O(its size)
FEW = 20_000  # particles up to which it is written as often as asked for


class Feature(NamedTuple):
    """A feature of the file: its name, the column it shows, and what it means."""

    name: str
    column: str
    meaning: str


FEATURES = (
    Feature("time", "time_us", "centre of the passage, s of stream time"),
    Feature("ml_class", "class", "index of the class among the file's classes"),
    Feature("pos_x", "x", "mean column of the events times the pixel size, um"),
    Feature("pos_y", "y", "mean row of the events times the pixel size, um"),
    Feature("userdef1", "events", "events of the passage"),
    Feature("userdef2", "outer_events", "events far from the centre"),
    Feature("userdef3", "peak_rate", "highest event rate, events/s"),
    Feature("userdef4", "width_us", "duration of the passage, us"),
    Feature("userdef5", "on_fraction", "ON events / events"),
    Feature("userdef6", "probability", "probability of the class"),
    Feature("userdef7", "decided_us", "stream time from the centre to the decision, us"),
    Feature("userdef8", "flags", "bits that say what is odd about the particle"),
)
"""What the file shows of a particle; a column that the rows do not have leaves its feature out."""
REQUIRED = ("time_us", "class")
SCORES = ("ml_score_c00", "ml_score_c01")


class RtdcFileSettings(FullDiskSettings, frozen=True, kw_only=True):
    """Where to write, what the format wants to be told, and what to do when the disk is full."""

    path: OutputPath
    channel_width: Above0
    """Width of the channel where it is looked at (um)."""
    flow_rate: Above0
    """Of the sample and the sheath together (ul/s)."""
    pixel_size: Above0
    """Side of a pixel of the events, seen in the channel (um)."""
    width: Positive
    height: Positive
    """The sensor, or the part of it that is looked at (pixels of the events)."""
    medium: str = "other"
    """What the particles are suspended in, such as `water`."""
    chip_region: Literal["channel", "reservoir"] = "channel"
    light: str = "continuous"
    """The light source ([imaging] flash device)."""
    flash_duration: Not0 = 0.0
    """Of a light that is not continuous (us)."""
    frame_rate: Above0 = 1e6
    """Event cameras have none: the time steps of the events (1/s)."""
    instrument: str = "streamflow"
    """Which one measured ([setup] identifier)."""
    sample: str = "unnamed"
    run: Positive = 1
    """Which measurement of the sample this is."""
    classes: list[str] = []
    """Class names in the order that gives `ml_class` its numbers from 0; empty: as they first
    appear."""
    note: str = ""
    """A remark, such as `simulated` ([user] note)."""
    flush: Seconds = 10.0
    """Stream time between two states of the file that others can read (s)."""


class RtdcFile(Node[RtdcFileSettings]):
    """An `.rtdc` file (HDF5) with one event per particle, for dclab, DCscope and Shape-Out.

    Rows need `time_us` and `class`; what else becomes a feature, by the name of the column, is in
    `FEATURES`: `time`, `ml_class`, `pos_x`, `pos_y` and `userdef1` to `userdef8`. With exactly two
    classes in the settings and a column `probability`, `ml_score_c00` and `ml_score_c01` are the
    probabilities of both. Every column, whatever its name, is also in the table `particles` (dclab:
    `dataset.tables["particles"]`) as it came. What the numbers mean stands in the file, in the
    section [user]: `classes` (JSON list) and one line for each feature.

    HDF5 files that are being written do not survive a kill. So rows go to `<path>.rows` first,
    whole and in order, and the file at `path` is only ever replaced by a complete newer one: at the
    first particle, then every `flush` of stream time (beyond 20,000 particles, also not before it
    has grown by 1/16), after a restart, and at the end, when `<path>.rows` is removed. A reader may
    copy or open `path` at any time. A restart repeats and loses no particle. A run that is killed
    as a whole leaves `path` as of the last flush, and every row in `<path>.rows`: the bare records
    of the table.

    On a full disk `path` stays as of the last flush. With `stop_writing` the rows that still fit
    are in `<path>.rows`, which is not removed if `path` lacks some of them at the end (`in_file` in
    the results says how many it has, `rows` where all are). With `rotate` all rows move: what was
    written is copied into the next spare folder, where one file will hold everything.

    Values that are not finite are written as they are and counted (dclab leaves such events out on
    request). Emits nothing. Keeps the length of `<path>.rows`, the columns and the class names.
    Needs h5py.

    Source: the RT-DC format of dclab 0.73 (Müller et al., dclab documentation, "Supported data
    formats"), which its `dclab-verify-dataset` finds no violation of.

        results:
          kind: rtdc_file
          inputs: {rows: classify.particles}
          settings:
            {path: run.rtdc, channel_width: 50, flow_rate: 0.04, pixel_size: 15, width: 640,
             height: 480}
    """

    rows = In(Table)
    faults = ("not_finite", "class_not_utf8", "not_written")

    def open(self) -> None:
        self._h5py = library("h5py", self.settings.path, "files")
        settings = self.settings
        self._period = microseconds(self, "flush", settings.flush)
        path = Path(settings.path)
        if path.exists() and not path.is_file():
            raise NodeError(
                self.name, f"{path} is not an ordinary file: give the path of one",
                kind="rtdc_file",
            )  # fmt: skip
        self._journal = OutputFile(
            f"{path}.rows", settings, self.name,
            lambda rows: RecordFile(rows, self.name, reserve=settings.reserve), carries=True,
        )  # fmt: skip
        self._begun = datetime.now().isoformat()
        self._dtype: np.dtype[Any] | None = None
        self._classes: tuple[str, ...] = tuple(settings.classes)
        self._count = self._published = self._tried = 0  # rows; in the file; when last written
        self._flush_at: int | None = None  # stream time of the next flush, us
        self._is_final = False

    def on_rows(self, packet: Packet[Table]) -> None:
        rows = packet.data.array
        # numpy takes None for float64 in a comparison of dtypes
        if self._dtype is None:
            self._dtype = self._checked(rows.dtype)
        elif rows.dtype != self._dtype:
            raise self._refused(
                packet, f"rows with {rows.dtype.names} after rows with {self._dtype.names}; a file "
                "has one set of columns: give each kind of rows a file",
            )  # fmt: skip
        if self._journal.is_stopped:
            self.count_fault("not_written", len(rows))
            return
        self._name_classes(packet, rows)
        if not self._journal.append(rows.tobytes):
            self.count_fault("not_written", len(rows))
            return
        self._count_not_finite(rows)
        self._count += len(rows)
        if self._flush_at is None:
            self._publish(packet.stop)

    @property
    def _path(self) -> Path:
        return self._journal.path.with_suffix("")  # without the .rows

    def advance(self, time: int) -> None:
        grown = self._count - self._tried
        is_small = self._count <= FEW and self._tried == self._published
        is_worth_it = grown > 0 and (is_small or grown * GROWTH >= self._count)
        if self._flush_at is not None and time >= self._flush_at and is_worth_it:
            self._publish(time)

    def finish(self) -> None:
        if not self._is_final:
            self._journal.file.begin()
            self._is_final = self._publish(0)

    def close(self) -> None:
        if hasattr(self, "_journal"):
            self._journal.close()
            if self._is_final:
                for rows in (self._journal.path, *self._journal.left):
                    rows.unlink(missing_ok=True)

    def snapshot(self) -> dict[str, Any]:
        descr = "" if self._dtype is None else repr(np.lib.format.dtype_to_descr(self._dtype))
        return {
            **self._journal.snapshot(),
            "count": self._count,
            "published": self._published,
            "dtype": descr,
            "classes": json.dumps(self._classes),
            "begun": self._begun,
            "is_final": self._is_final,
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._count, self._begun = int(state["count"]), str(state["begun"])
        self._classes = tuple(json.loads(state["classes"]))
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}
        if state["dtype"]:
            self._dtype = np.lib.format.descr_to_dtype(ast.literal_eval(state["dtype"]))
        self._is_final = bool(state["is_final"])
        self._published = int(state["published"])
        if self._is_final:  # the rows may have been removed already
            state = {**state, "length": 0}
        self._journal.restore(state)
        if self._count and not self._is_final:
            self._publish(0)

    def results(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "path": str(self._path),
            "particles": self._count,
            "classes": list(self._classes),
        }
        if not self._is_final:
            out |= {"in_file": self._published, "rows": str(self._journal.path)}
        return out

    def _refused(self, packet: Packet[Table], what: str) -> NodeError:
        return NodeError(
            self.name, f"got {what}", kind="rtdc_file", span=f"{packet.start}..{packet.stop} us"
        )

    def _checked(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """`dtype`, if its rows can be written."""
        columns = dtype.names or ()
        if missing := [name for name in REQUIRED if name not in columns]:
            raise NodeError(
                self.name,
                f"rows with {list(columns) or str(dtype)} have no {missing}; expected particles, "
                "as classifiers emit them",
                kind="rtdc_file",
            )
        if dtype["class"].kind != "S":
            raise NodeError(
                self.name, f"column class is {dtype['class']}; expected text as bytes (S16)",
                kind="rtdc_file",
            )  # fmt: skip
        try:
            self._h5py.h5t.py_create(dtype)
        except TypeError as error:
            raise NodeError(
                self.name, f"HDF5 has no type for a column of {dtype}: {error}", kind="rtdc_file"
            ) from error
        return dtype

    def _name_classes(self, packet: Packet[Table], rows: Rows) -> None:
        """Let the rows' classes be known, in the order in which they first appear."""
        names, first = np.unique(rows["class"], return_index=True)
        for name in names[np.argsort(first)].tolist():
            text = _text(name)
            if text.encode() != name:
                self.count_fault("class_not_utf8", int((rows["class"] == name).sum()))
            if text in self._classes:
                continue
            if self.settings.classes:
                raise self._refused(
                    packet,
                    f"class {text!r}, which is not among the setting 'classes' "
                    f"{self.settings.classes}; add it, or leave the setting out",
                )
            self._classes += (text,)

    def _count_not_finite(self, rows: Rows) -> None:
        values = [rows[f.column] for f in FEATURES if f.column in (rows.dtype.names or ())]
        is_finite = [np.isfinite(column) for column in values if column.dtype.kind == "f"]
        self.count_fault("not_finite", int((~np.all(is_finite, axis=0)).sum()))

    def _publish(self, time: int) -> bool:
        """Put a complete file with all rows so far at the path; False if the disk has no room."""
        self._flush_at, self._tried = time + self._period, self._count
        while True:
            try:
                self._write()
                self._published = self._count
                return True
            except DeviceError as error:
                if self.settings.when_disk_full == "stop_writing" and is_full(error):
                    # the rows may still fit, and there may be room again at the next flush
                    self.log.warning("%s", error)
                    return False
                self._journal.full(error)

    def _write(self) -> None:
        """Write the file beside its path and put it there in one step."""
        path = self._path.with_name(f".{self._path.name}.draft")  # the journal's lock guards it
        try:
            try:
                check_reserve(path, self.settings.reserve, self._journal.length)
                with DraftFile(path) as draft:
                    with self._h5py.File(draft, "w") as file:
                        self._fill(file)
                    draft.finish()
                os.replace(path, self._path)
            finally:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise DeviceError(
                f"{self.name}: cannot write {self._path}: {error.strerror}; all {self._count} "
                f"particles are in {self._journal.path}; {disk_advice(error)}"
            ) from error

    def _fill(self, file: Any) -> None:
        """Write attributes, features and the table into an empty HDF5 file."""
        for key, value in self._attributes().items():
            file.attrs[key] = value
        events = file.create_group("events")
        if self._dtype is None:
            events.create_dataset("time", shape=(0,), dtype="<f8")
            return
        columns = self._dtype.names or ()
        shown = [feature for feature in FEATURES if feature.column in columns]
        names = [feature.name for feature in shown]
        if len(self.settings.classes) == 2 and "probability" in columns:
            names += SCORES
        for name in names:
            events.create_dataset(name, shape=(self._count,), dtype="<f8")
        table = file.create_dataset("tables/particles", shape=(self._count,), dtype=self._dtype)
        at = 0
        for rows in self._blocks(self._dtype):
            part = slice(at, at + len(rows))
            table[part] = rows
            for feature in shown:
                events[feature.name][part] = self._values(feature, rows)
            if names[-1] == SCORES[1]:
                second = self._indices(rows) == 1
                score = np.where(second, rows["probability"], 1 - rows["probability"])
                events[SCORES[0]][part], events[SCORES[1]][part] = 1 - score, score
            at += len(rows)

    def _blocks(self, dtype: np.dtype[Any]) -> Iterator[Rows]:
        """All rows so far, from the file where they were put first."""
        with self._journal.path.open("rb") as file:
            left = self._count
            while left:
                rows = np.fromfile(file, dtype, min(left, BLOCK))
                if not len(rows):
                    raise DeviceError(
                        f"{self.name}: {self._journal.path} lacks {left} of {self._count} rows "
                        "that were written to it; keep other programs from changing it"
                    )
                left -= len(rows)
                yield rows

    def _values(self, feature: Feature, rows: Rows) -> Rows:
        values = rows[feature.column]
        match feature.name:
            case "time":
                return np.asarray(values * 1e-6)
            case "ml_class":
                return self._indices(rows)
            case "pos_x" | "pos_y":
                return np.asarray(values * self.settings.pixel_size)
            case "userdef7":
                return np.asarray(values - rows["time_us"])
            case _:
                return np.asarray(values)

    def _indices(self, rows: Rows) -> NDArray[np.int64]:
        """The index of each row's class among the classes."""
        names, index = np.unique(rows["class"], return_inverse=True)
        number = np.array([self._classes.index(_text(name)) for name in names.tolist()], np.int64)
        return number[index]

    def _attributes(self) -> dict[str, Any]:
        """The metadata that the format requires, and what the numbers mean."""
        s, begun = self.settings, datetime.fromisoformat(self._begun)
        columns = (self._dtype.names or ()) if self._dtype is not None else ()
        meanings = {f"user:{f.name}": f.meaning for f in FEATURES if f.column in columns}
        return {
            "experiment:date": f"{begun:%Y-%m-%d}",
            "experiment:time": f"{begun:%H:%M:%S}",
            "experiment:event count": self._count,
            "experiment:run index": s.run,
            "experiment:sample": s.sample,
            "imaging:flash device": s.light,
            "imaging:flash duration": s.flash_duration,
            "imaging:frame rate": s.frame_rate,
            "imaging:pixel size": s.pixel_size,
            "imaging:roi position x": 0,
            "imaging:roi position y": 0,
            "imaging:roi size x": s.width,
            "imaging:roi size y": s.height,
            "setup:channel width": s.channel_width,
            "setup:chip region": s.chip_region,
            "setup:flow rate": s.flow_rate,
            "setup:identifier": s.instrument,
            "setup:medium": s.medium,
            "setup:module composition": "event camera",
            "setup:software version": "streamflow",
            "user:classes": json.dumps(self._classes),
            **({"user:note": s.note} if s.note else {}),
            **meanings,
        }


def _text(name: bytes) -> str:
    r"""A class name; bytes that are not UTF-8 become `\xNN`."""
    return name.decode(errors="backslashreplace")
