"""`labelled_recordings`: a dataset's recordings one after another, with what they show."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError, NodeError
from streamflow.node import Emission, FilePath, Node, Out, Positive, Seconds, Settings
from streamflow.packet import Events, Table

from ..events.datasets import LabelledRecording, open_dataset, rows_of
from ..spans import microseconds

TRIAL = np.dtype([("start_us", "<i8"), ("stop_us", "<i8"), ("class", "S64"), ("recording", "S64")])
"""One recording in the stream: where it lies, its label, its name in the dataset."""


class LabelledRecordingsSettings(Settings, frozen=True, kw_only=True):
    """Which dataset, which of it, and how far apart."""

    path: FilePath
    """An .npz, a folder of N-MNIST, or one of its files; see LabelledRecordings."""
    width: Positive = 34
    height: Positive = 34
    """Sensor size (pixels)."""
    gap: Seconds = 0.1
    """Silence between one recording and the next, at the least."""
    align: Seconds = 0.001
    """Recordings start at whole multiples of this, and `stop_us` is cut down to one: set it to the
    time step of the network behind, so that steps and recordings begin together."""
    packet_duration: Seconds = 0.01
    """Stream time a packet covers (s), in whole microseconds."""
    first: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How many recordings are left out before the first."""
    count: Positive | None = None
    """How many are played; without it, all."""


class LabelledRecordings(Node[LabelledRecordingsSettings]):
    """Events of recordings one after another, and a row for each that says what it shows.

    The first event of a recording lies at its start, whatever its time in the file; the next
    recording starts `gap` after its last event, or up to `align` later. `path` is

    - an `.npz` with `t` (n,) us, `x`, `y`, `p` (n,), `labels` (k,), `offsets` (k + 1,) and, where
      recordings have names, `ids` (k,);
    - N-MNIST as it is published: a folder, with one inside it for each label, of `.bin` files; or
      one such file, which then has no label.

    `events` has packets of `packet_duration`, empty ones too; times start at 0. `trials` has one
    row for each recording, when it starts: `start_us`, `stop_us` (the last whole `align` of it),
    `class`, `recording`. Events outside the sensor are left out and counted as `outside_sensor`; an
    event that is older than the one before is moved to its time and counted as `time_backward`;
    a recording without events is passed over and counted as `empty`.

    State: the recording and where it started; a restarted node goes on with the next packet.

        digits: {kind: labelled_recordings, settings: {path: Test, gap: 0.1}}
    """

    events = Out(Events)
    trials = Out(Table)
    faults = ("outside_sensor", "time_backward", "empty")

    def open(self) -> None:
        s = self.settings
        if max(s.width, s.height) > 32767:
            raise NodeError(
                self.name, f"settings: a sensor of {s.width}x{s.height}; at most 32767 each way"
            )
        self._duration = microseconds(self, "packet_duration", s.packet_duration)
        self._gap = microseconds(self, "gap", s.gap)
        self._align = microseconds(self, "align", s.align)
        every = open_dataset(s.path)
        self._recordings = every[s.first :][: s.count]
        if not self._recordings:
            raise DeviceError(
                f"{self.name}: {s.path} has {len(every)} recordings; the setting first leaves "
                f"{s.first} out: expected fewer"
            )
        self._number = 0  # of the recording that is played
        self._start = 0  # of it, us
        self._stop = 0  # up to where packets have been given
        self._is_announced = False
        self._given = 0

    def produce(self) -> Iterator[Emission]:
        for number in range(self._number, len(self._recordings)):
            recording = self._recordings[number]
            events = self._read(recording)
            if not len(events):
                continue
            self._number = number
            if (yield from self._play(recording, events)):
                return
            self._start, self._number, self._is_announced = self._stop, number + 1, False

    def _read(self, recording: LabelledRecording) -> NDArray[Any]:
        """The recording's events inside the sensor and in order, from the recording's start on."""
        events, s = recording.read(), self.settings
        is_inside = (
            (events["x"] >= 0) & (events["x"] < s.width)
            & (events["y"] >= 0) & (events["y"] < s.height)
        )  # fmt: skip
        events = rows_of(events, is_inside)
        times = np.maximum.accumulate(events["timestamp"])
        if not self._is_announced:  # else they were counted before the restart
            self.count_fault("outside_sensor", int((~is_inside).sum()))
            self.count_fault("time_backward", int((times != events["timestamp"]).sum()))
            self.count_fault("empty", int(not len(events)))
        events["timestamp"] = times - (times[0] if len(times) else 0) + self._start
        return events

    def _play(
        self, recording: LabelledRecording, events: NDArray[Any]
    ) -> Generator[Emission, None, bool]:
        """The recording and the gap behind it; gives whether the run is to stop."""
        times = events["timestamp"]
        ending = int(times[-1]) + 1
        after = -(-(ending + self._gap) // self._align) * self._align
        if not self._is_announced:
            whole = max((int(times[-1]) - self._start) // self._align, 1) * self._align
            row = (self._start, self._start + whole, recording.label.encode(),
                   recording.name.encode())  # fmt: skip
            self._is_announced = True
            yield self.trials(Table(np.array([row], TRIAL)), self._start, self._start + whole)
        while self._stop < after:
            start, stop = self._stop, min(self._stop + self._duration, after)
            first, last = np.searchsorted(times, [start, stop]).tolist()
            if not self.clock.wait_until(stop):
                return True
            self._stop = stop
            self._given += last - first
            done = self._number + min(1.0, (stop - self._start) / (after - self._start))
            self.progress = done / len(self._recordings)
            part = rows_of(events, slice(first, last))
            yield self.events(Events(part, self.settings.width, self.settings.height), start, stop)
        return False

    def snapshot(self) -> dict[str, Any]:
        return {
            "number": self._number,
            "start": self._start,
            "stop": self._stop,
            "is_announced": self._is_announced,
            "given": self._given,
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._number, self._start = int(state["number"]), int(state["start"])
        self._stop, self._given = int(state["stop"]), int(state["given"])
        self._is_announced = bool(state["is_announced"])
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}

    def results(self) -> dict[str, Any]:
        """Which dataset, how many recordings it has, how many were played, events, stop (us)."""
        return {
            "path": self.settings.path,
            "recordings": len(self._recordings),
            "played": self._number,
            "events": self._given,
            "stop_us": self._stop,
        }
