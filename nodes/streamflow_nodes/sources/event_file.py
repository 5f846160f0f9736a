"""A recording of an event camera, replayed in packets of stream time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamflow import DeviceError, Events, Node, Out, Settings
from streamflow.node import Emission, FilePath, Positive, Seconds
from streamflow.packet import EVENT

from ..events.readers import open_recording, warm_up
from ..events.recording import SKIPPED, Layout, Recording
from ..kernels.event_order import join_jumps, keep_ordered, slice_starts
from ..spans import microseconds

EventArray = NDArray[Any]  # (n,) of EVENT
EventWords = NDArray[np.int64]  # the same memory, two words an event
Slice = tuple[int, int, EventArray]

LIMIT = 1 << 22  # events in one packet (64 MiB): more is a time that stands still, not a scene
EARLIEST, LATEST = -(1 << 62), 1 << 62  # us; beyond, arithmetic on times could wrap
SILENCE = 1_000_000  # us of silence after which a paced replay ticks more coarsely,
COARSE = 100_000  # us: ten times a second


class EventFileSettings(Settings, frozen=True, kw_only=True):
    """Which file, how it is cut into packets, and what to do where its data are wrong."""

    path: FilePath
    packet_duration: Seconds = 0.001
    """Stream time a packet covers (s), in whole microseconds."""
    width: Positive | None = None
    height: Positive | None = None
    """Sensor size (pixels), for a file that does not say it."""
    backward_time: Literal["clamp", "drop", "fail"] = "clamp"
    """An event older than the newest before it: raised to that time, left out, or an error."""
    longest_step: Seconds | None = None
    """An event further than this (s) from the newest before it, back or ahead, belongs to a clock
    that began anew: time goes on where it stood. By default all times are believed."""
    outside_sensor: Literal["drop", "fail"] = "drop"
    """An event outside the sensor: left out, or an error."""
    columns: str = ""
    """CSV without a header: the order of its columns, such as `x,y,p,t`."""
    delimiter: Literal[",", ";", " ", "\t"] = ","
    time_unit: Literal["us", "s"] = "us"
    """CSV: microseconds, or seconds with decimals."""
    dataset: str = ""
    """HDF5 with several: the group that holds t, x, y and p, or the dataset of such records."""
    topic: str = ""
    """ROS bag with several: the topic of the events."""


class EventFile(Node[EventFileSettings]):
    """Events of a recording, in packets that each cover `[k d, (k + 1) d)` of the sensor's time.

    Reads EVT2 and EVT3 `.raw`, DAT, AEDAT4 (needs the extra `events`), AEDAT2 of a DVS128, Event
    Stream `.es`, N-MNIST `.bin`, CSV and NPZ, and with the extra `files` HDF5 (DSEC's columns and
    Prophesee's records), Parquet and ROS bags (EVT3 in `event_camera_msgs`; ROS 1, and ROS 2 as a
    folder, `.db3` or `.mcap`), recognised by content. docs/files.md says what each is tested
    against. `y` grows downwards. Times are the sensor's, in 64 bits, past the formats' own wraps
    (2^24 us in EVT3); nothing is shifted to zero. In silence packets are empty: one for a whole run
    of empty slices when replayed as fast as possible, one per slice when paced (ten a second after
    one second of silence). A recording without events ends the stream at once.

    Faults: `time_backward` (raised to the newest time, or dropped), `time_jump` (steps beyond
    `longest_step`, taken out), `outside_sensor` (dropped), `untimed` (EVT events before the first
    time word, dropped), `unknown_word` (EVT words of types that the format does not define,
    skipped), `truncated` (the file ends inside a record; all before it is delivered),
    `lost_message` (numbers missing in the sequence of a ROS bag). A jump in an EVT file shows by
    what is left of it beyond the format's wraps. External triggers are skipped and counted in the
    results. The decoder of AEDAT4 (faery) raises backward times itself, uncounted, and ends at an
    event outside the sensor.

    State: how far the recording has been read. A restarted node decodes from the beginning and goes
    on with exactly the next packet; its faults are those of the whole recording again.

        recording: {kind: event_file, settings: {path: sample.raw, packet_duration: 0.001}}
    """

    events = Out(Events)
    faults = ("time_backward", "time_jump", "outside_sensor", *SKIPPED)

    def open(self) -> None:
        s = self.settings
        self._duration = max(1, round(s.packet_duration * 1_000_000))
        scale = 1 if s.time_unit == "us" else 1_000_000
        layout = Layout(s.columns, s.delimiter, scale, s.dataset, s.topic, s.width, s.height)
        self._recording: Recording = open_recording(s.path, layout)
        width, height = self._recording.width, self._recording.height
        assert width is not None
        assert height is not None  # open_recording has refused a file without
        self._size = (width, height)
        self._newest = np.array([EARLIEST], np.int64)
        self._joined = np.zeros(3, np.int64)
        self._longest = 0
        if s.longest_step is not None:
            self._longest = microseconds(self, "longest_step", s.longest_step)
        self._first: int | None = None
        self._last = 0
        self._packets = self._events = 0
        self._stop = EARLIEST
        warm_up(self._recording)
        none, one = np.empty(0, np.int64), np.zeros(4, np.int64)
        keep_ordered(none, width, height, False, one[:1], one)
        join_jumps(none, 1, one[:3])
        slice_starts(none, 1, one)

    def produce(self) -> Iterator[Emission]:
        resumed = self._stop
        for start, stop, array in self._slices():
            if stop <= resumed:
                continue
            if not self.clock.wait_until(stop):
                return
            self._packets += 1
            self._events += len(array)
            self._stop = stop
            self.progress = self._recording.read
            yield self.events(Events(array, *self._size), start, stop)

    def _slices(self) -> Iterator[Slice]:
        """Start, stop (us) and events of every packet, silence included, from the beginning."""
        held: list[EventWords] = []
        current = 0
        for words in self._chunks():
            starts = np.empty(len(words) // 2, np.int64)
            count = slice_starts(words, self._duration, starts)
            bounds = [*(2 * starts[:count]).tolist(), len(words)]
            for first, last in pairwise(bounds):
                start = int(words[first]) // self._duration * self._duration
                if held and start != current:
                    yield current, current + self._duration, _joined(held)
                    yield from self._silence(current + self._duration, start)
                    held = []
                current = start
                held.append(words[first:last])
            self._check_size(held, current)
        if held:
            yield current, current + self._duration, _joined(held)

    def _silence(self, start: int, stop: int) -> Iterator[Slice]:
        """Empty packets from `start` to `stop` (us)."""
        fine = self._duration
        coarse = max(fine, COARSE // fine * fine)
        begin = start
        while start < stop:
            step = fine if start - begin < SILENCE else coarse
            end = stop if self.clock.pace == "fast" else min(start + step, stop)
            yield start, end, np.empty(0, EVENT)
            start = end

    def _check_size(self, held: list[EventWords], start: int) -> None:
        if (count := sum(map(len, held)) // 2) > LIMIT:
            raise DeviceError(
                f"{self.settings.path}: {count} events from {start} us to "
                f"{start + self._duration} us; expected at most {LIMIT} in a packet: shorten "
                "'packet_duration', or set 'longest_step' where the file's clock jumps, or "
                "'backward_time' to 'drop'"
            )

    def _chunks(self) -> Iterator[EventWords]:
        """The recording's events, inside the sensor and in order; faults are counted."""
        s, (width, height) = self.settings, self._size
        for words in self._recording.chunks():
            if s.longest_step is not None:
                jumps = join_jumps(words, self._longest, self._joined)
                self.count_fault("time_jump", jumps)
            faults = np.array([0, 0, -1, -1], np.int64)
            kept = keep_ordered(
                words, width, height, s.backward_time == "drop", self._newest, faults
            )
            self._count(faults)
            if kept:
                words = words[: 2 * kept]
                self._check_times(int(words[0]), int(words[-2]))
                yield words
        self._count_skipped()

    def _count(self, faults: NDArray[np.int64]) -> None:
        self._count_skipped()
        outside, backward, first_outside, first_backward = faults.tolist()
        s = self.settings
        if outside and s.outside_sensor == "fail":
            event = f"event {self.fault_counts['outside_sensor'] + first_outside}"
            raise DeviceError(
                f"{s.path}: {outside} events in one block lie outside the sensor of "
                f"{self._size[0]}x{self._size[1]} pixels (the first is the block's {event}); "
                "expected none: set 'width' and 'height', or 'outside_sensor' to 'drop'"
            )
        if backward and s.backward_time == "fail":
            raise DeviceError(
                f"{s.path}: time goes back {backward} times near {self._newest[0]} us (the first "
                f"is the block's event {first_backward}); expected times in order: set "
                "'backward_time' to 'clamp' or 'drop'"
            )
        self.count_fault("outside_sensor", outside)
        self.count_fault("time_backward", backward)

    def _count_skipped(self) -> None:
        for fault in SKIPPED:
            self.fault_counts[fault] = self._recording.counts[fault]

    def _check_times(self, first: int, last: int) -> None:
        if first <= EARLIEST or last >= LATEST:
            raise DeviceError(
                f"{self.settings.path}: times from {first} to {last} us; expected microseconds "
                "within 2^62: the file is damaged or its times have another unit"
            )
        self._first = first if self._first is None else self._first
        self._last = last

    def snapshot(self) -> dict[str, Any]:
        return {"packets": self._packets, "events": self._events, "stop": self._stop}

    def restore(self, state: dict[str, Any]) -> None:
        self._packets, self._events = int(state["packets"]), int(state["events"])
        self._stop = int(state["stop"])

    def results(self) -> dict[str, Any]:
        """Format, sensor, what was yielded, first and last time (us), triggers skipped."""
        return {
            "format": self._recording.format,
            "width": self._size[0],
            "height": self._size[1],
            "events": self._events,
            "packets": self._packets,
            "first_us": self._first,
            "last_us": None if self._first is None else self._last,
            "triggers": self._recording.counts["triggers"],
        }


def _joined(pieces: list[EventWords]) -> EventArray:
    """The events of one slice in one array; those of a single piece are not copied."""
    return (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).view(EVENT)
