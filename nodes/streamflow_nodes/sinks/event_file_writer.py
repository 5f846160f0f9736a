"""`event_file_writer`: a recording of events that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import In, Node, OutputPath
from streamflow.packet import EVENT, Events, Packet

from ..events.builders import hdf5_builder, parquet_builder
from ..events.formats import AEDAT4, FORMATS
from ..files.output import FullDiskSettings, OutputFile
from ..files.records import AssembledFile, RecordFile, library
from ..kernels.event_order import first_disordered

# formats that are built from a journal: library they need, ends of file names, builder
BUILT = {
    "hdf5": ("h5py", (".h5", ".hdf5"), hdf5_builder),
    "parquet": ("pyarrow.parquet", (".parquet",), parquet_builder),
}
SUFFIXES = {
    **{suffix: form.name for form in FORMATS.values() for suffix in form.suffixes},
    **{suffix: name for name, (_, suffixes, _) in BUILT.items() for suffix in suffixes},
}


class EventFileWriterSettings(FullDiskSettings, frozen=True, kw_only=True):
    """Where to write, in which format, and what to do when the disk is full."""

    path: OutputPath
    format: Literal["evt3", "evt2", "aedat4", "es", "csv", "hdf5", "parquet"] | None = None
    """By default the path's end says it: `.raw` (EVT3), `.aedat4`, `.es`, `.csv`, `.txt` (CSV),
    `.h5`, `.hdf5`, `.parquet`."""


class EventFileWriter(Node[EventFileWriterSettings]):
    """A file of all events: EVT3, EVT2, AEDAT4, Event Stream, CSV, HDF5 or Parquet.

    Reading it with `event_file` gives the same events at the same times, in the same order, past
    the formats' own wraps too; what else reads it is in docs/files.md. The sensor's size is in the
    file, except in CSV. Empty packets leave no trace: silence before the first and after the last
    event is not in the file. Times in EVT that begin late (above 2^32 us in EVT3, 2^34 us in EVT2,
    such as those that count from 1970) are written from the header's `t0` on, which `event_file`
    and faery add again and other tools may not. AEDAT4 is not compressed. HDF5 has the layout of
    DSEC (`events/t`, `x`, `y`, `p`, `t_offset`, `ms_to_idx`; the latter not beyond 4.6 hours).

    The file of an earlier run is replaced. Every packet's events are on file when the packet has
    been handled; after a crash none is repeated or lost, and on a full disk whole packets remain.
    HDF5 and Parquet can only be read once they are closed, so until the run has ended the events
    are in `<path>.part.aedat4`, an AEDAT4 file; the file itself is there whole or not at all. They
    need the extra `files`. With `stop_writing` or `rotate`, a full disk costs the HDF5 or Parquet
    file that is being built before it costs events: it is built at the end, where there is room,
    and else the AEDAT4 file is what stays. With `rotate` each file is a recording of its own.

    Refused: events outside the sensor, a sensor that changes or is too large (2048 pixels each way
    in EVT), times below 0 or out of order, and silence of more than 12 days in EVT3 or 2.4 hours in
    Event Stream, which counts from 0 and spells silence out.

    Emits nothing. Keeps the length of the file and the encoder's registers. How the stream was cut
    into packets may change the bytes, not the events. Formats: Prophesee, "EVT 2.0 format" and "EVT
    3.0 format", 2020-2024; iniVation, "AEDAT 4.0"; Event Stream 2.0.0 (neuromorphic-paris); Gehrig
    et al. 2021, "DSEC".

        keep: {kind: event_file_writer, inputs: {events: quiet.events}, settings: {path: a.raw}}
    """

    events = In(Events)
    faults = ("not_written",)

    def open(self) -> None:
        self._format = self._chosen()
        self._form = FORMATS.get(self._format, AEDAT4)
        settings = self.settings
        self._file: OutputFile[RecordFile] | OutputFile[AssembledFile]
        if self._format in BUILT:
            library(BUILT[self._format][0], settings.path, "files")
            self._file = OutputFile(settings.path, settings, self.name, self._assembled)
        else:
            self._file = OutputFile(
                settings.path, settings, self.name,
                lambda path: RecordFile(path, self.name, reserve=settings.reserve),
            )  # fmt: skip
        self._registers = np.array(self._form.registers, np.int64)
        self._size: tuple[int, int] | None = None
        self._last = max(0, self._form.first)
        self._written = self._packets = 0
        none = np.empty(0, EVENT).view(np.int64)
        none.flags.writeable = False  # as they arrive: a writable array is another Numba type
        first_disordered(none, 0, 1, 1)
        self._form.encode(none, 1, self._registers)

    def _assembled(self, path: Path) -> AssembledFile:
        return AssembledFile(
            path,
            self.name,
            ".aedat4",
            BUILT[self._format][2],
            reserve=self.settings.reserve,
            draft_may_wait=self.settings.when_disk_full != "fail",
        )

    def _chosen(self) -> str:
        """The format by the settings, else by the path's end."""
        suffix = Path(self.settings.path).suffix.lower()
        chosen = self.settings.format or SUFFIXES.get(suffix)
        if chosen is None:
            raise NodeError(
                self.name,
                f"settings: nothing says which format {self.settings.path} is to have; expected "
                f"a name that ends in {', '.join(SUFFIXES)}, or the setting 'format'",
                kind="event_file_writer",
            )
        return chosen

    def on_events(self, packet: Packet[Events]) -> None:
        data = packet.data
        if self._file.is_stopped:
            self.count_fault("not_written", len(data))
            return
        self._check_sensor(packet)
        if len(data):
            events = self._words_of(packet)
            self._check_events(packet, events)
            before, size = self._registers.copy(), (data.width, data.height)
            try:
                if not self._file.append(lambda: self._record(events, size, before)):
                    self.count_fault("not_written", len(data))
                    return
            except BaseException:
                self._registers[:] = before  # if the disk was full, none of the packet counts
                raise
            self._last = int(events[-2])
        self._size = (data.width, data.height)
        self._written += len(data)
        self._packets += 1

    def _record(
        self, events: NDArray[np.int64], size: tuple[int, int], before: NDArray[np.int64]
    ) -> bytes:
        """The packet for the present file, whose registers were `before`, or with a new head."""
        if self._file.length:
            self._registers[:] = before
            return self._form.encode(events, size[1], self._registers)
        self._registers[:] = self._form.registers
        head = self._form.head(size, int(events[0]), self._registers)
        return head + self._form.encode(events, size[1], self._registers)

    def _check_sensor(self, packet: Packet[Events]) -> None:
        array, size = packet.data.array, (packet.data.width, packet.data.height)
        if array.dtype != EVENT or array.ndim != 1:
            raise self._refused(packet, f"an array of {array.dtype}; expected events (n,) of EVENT")
        if max(size) > self._form.largest:
            raise self._refused(
                packet,
                f"a sensor of {size[0]}x{size[1]} pixels; {self._format.upper()} has room for "
                f"{self._form.largest} each way: give another format",
            )
        if self._size is not None and self._size != size:
            raise self._refused(
                packet,
                f"a sensor of {size[0]}x{size[1]} pixels after one of {self._size[0]}x"
                f"{self._size[1]}; a file holds one sensor: write a file for each",
            )

    def _words_of(self, packet: Packet[Events]) -> NDArray[np.int64]:
        """The packet's events as (2 n,) int64, read-only: time, then the other fields' bytes."""
        words: NDArray[np.int64] = np.ascontiguousarray(packet.data.array).view(np.int64)
        if not words.flags.aligned:
            words = words.copy()
        words.flags.writeable = False
        return words

    def _check_events(self, packet: Packet[Events], events: NDArray[np.int64]) -> None:
        """NodeError when an event cannot be written, or only after a silence that is too long."""
        width, height = packet.data.width, packet.data.height
        wrong = first_disordered(events, self._last if self._file.length else 0, width, height)
        if wrong >= 0:
            time, x, y, _ = packet.data.array[wrong].tolist()
            raise self._refused(
                packet,
                f"event {wrong} at {time} us, x {x}, y {y}, which is outside the sensor of "
                f"{width}x{height} pixels, before time 0 or older than the event before it; "
                "a recording holds events in order: correct the node before",
            )
        begin = self._last
        if not self._file.length and self._form.first < 0:
            begin = int(events[0])  # the head says where the file begins
        longest = self._form.longest
        if longest is not None and int(events[-2]) - begin > longest:
            raise self._refused(
                packet,
                f"events up to {int(events[-2])} us after {begin} us; {self._format.upper()} "
                f"spells out silence, at most {longest / 3.6e9:.1f} hours of it: a time is wrong, "
                "or give another format",
            )

    def _refused(self, packet: Packet[Events], what: str) -> NodeError:
        return NodeError(
            self.name,
            f"got {what}",
            kind="event_file_writer",
            span=f"{packet.start}..{packet.stop} us",
        )

    def finish(self) -> None:
        if not self._file.length:
            self._file.append(lambda: self._form.head(self._size, None, self._registers))
        self._file.complete()

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def snapshot(self) -> dict[str, Any]:
        return {
            **self._file.snapshot(),
            "events": self._written,
            "packets": self._packets,
            "width": self._size[0] if self._size else 0,
            "height": self._size[1] if self._size else 0,
            "last": self._last,
            "registers": self._registers.copy(),
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._file.restore(state)
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}
        self._last = int(state["last"])
        self._written, self._packets = int(state["events"]), int(state["packets"])
        width, height = int(state["width"]), int(state["height"])
        self._size = (width, height) if width else None
        self._registers[:] = state["registers"]

    def results(self) -> dict[str, Any]:
        """Path, format, and what was written: events, packets and bytes (of the finished file)."""
        file = self._file.file
        is_built = isinstance(file, AssembledFile) and file.is_complete
        return {
            "path": self.settings.path,
            "format": self._format,
            "events": self._written,
            "packets": self._packets,
            "bytes": file.path.stat().st_size if is_built else self._file.length,
            **self._file.results(),
        }
