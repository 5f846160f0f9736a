"""Two event streams of one sensor size as one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.node import Emission, In, Node, Out, Settings
from streamflow.packet import Events, Packet

from ..events.packets import Sensor, Words, check_sensor, events_of, no_words, words_for, words_of
from ..kernels.merge import in_order, merge_sorted
from ..kernels.pixel_times import NEVER

Times = NDArray[np.int64]


class MergeSettings(Settings, frozen=True, kw_only=True):
    """Nothing to set."""


class _Waiting:
    """The events of one input that the other input may still put something in front of."""

    def __init__(self) -> None:
        self.newest = NEVER
        self.events: list[tuple[Words, Times]] = []

    def add(self, words: Words, start: int) -> int:
        """Keep a packet's events; how many of them were older than its start or one before."""
        times = np.empty(words.size // 2, np.int64)
        self.newest = max(self.newest, start)
        self.newest, late = in_order(words, self.newest, times)
        if times.size:
            self.events.append((words, times))
        return late

    def take(self, before: int | None) -> tuple[Words, Times]:
        """The events before `before` (us; None: all of them), which no longer wait."""
        words, times = self.whole()
        count = times.size if before is None else int(np.searchsorted(times, before))
        self.events = [(words[2 * count :], times[count:])] if count < times.size else []
        return words[: 2 * count], times[:count]

    def whole(self) -> tuple[Words, Times]:
        """All events that wait, in one piece."""
        if len(self.events) == 1:
            return self.events[0]
        words = np.concatenate([no_words(), *(words for words, _ in self.events)])
        words.flags.writeable = False  # as packets arrive: the kernel knows no other type
        return words, np.concatenate([np.empty(0, np.int64), *(times for _, times in self.events)])

    @property
    def start(self) -> int | None:
        return int(self.events[0][1][0]) if self.events else None


class Merge(Node[MergeSettings]):
    """The events of both inputs by time; at equal times those of `first` go first.

    Both inputs have the same sensor size. An event leaves once stream time has passed it on both
    inputs, so a stream that falls silent holds nothing back as long as its source tells the time.
    Each input keeps its own order: an event older than one before it on the same input (counted as
    `late`) goes where that one went. Nothing is emitted while one input may still come first.
    State: the events that wait.

        both: {kind: merge, inputs: {first: left.events, second: right.events}}
    """

    first = In(Events)
    second = In(Events)
    merged = Out(Events)
    faults = ("late",)

    def open(self) -> None:
        self._sensor: Sensor | None = None
        self._waiting = {"first": _Waiting(), "second": _Waiting()}
        empty, times = no_words(), np.empty(0, np.int64)
        in_order(empty, NEVER, times)
        merge_sorted(empty, times, empty, times, words_for(0))

    def on_first(self, packet: Packet[Events]) -> None:
        self._take_in("first", packet)

    def on_second(self, packet: Packet[Events]) -> None:
        self._take_in("second", packet)

    def advance(self, time: int) -> Iterator[Emission]:
        return self._leave(time)

    def finish(self) -> Iterator[Emission]:
        return self._leave(None)

    def snapshot(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        if self._sensor is not None:
            state["width"], state["height"] = self._sensor
        for port, waiting in self._waiting.items():
            state[f"{port}_newest"] = waiting.newest
            state[f"{port}_words"], state[f"{port}_times"] = waiting.whole()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        if "width" in state:
            self._sensor = (state["width"], state["height"])
        for port, waiting in self._waiting.items():
            waiting.newest = state[f"{port}_newest"]
            words, times = state[f"{port}_words"], state[f"{port}_times"]
            words.flags.writeable = False
            waiting.events = [(words, times)] if times.size else []
        self._hold()

    def _take_in(self, port: str, packet: Packet[Events]) -> None:
        words = words_of(self, packet)
        self._sensor = check_sensor(self, self._sensor, packet)
        late = self._waiting[port].add(words, packet.start)
        if late:
            self.count_fault("late", late)
        self._hold()

    def _leave(self, before: int | None) -> Iterator[Emission]:
        first, first_times = self._waiting["first"].take(before)
        second, second_times = self._waiting["second"].take(before)
        self._hold()
        count = first_times.size + second_times.size
        if count and self._sensor is not None:
            merged = words_for(count)
            merge_sorted(first, first_times, second, second_times, merged)
            start = min(int(times[0]) for times in (first_times, second_times) if times.size)
            stop = max(int(times[-1]) for times in (first_times, second_times) if times.size) + 1
            yield self.merged(events_of(merged, count, self._sensor), start, stop)

    def _hold(self) -> None:
        starts = [w.start for w in self._waiting.values() if w.start is not None]
        self.holds_from = min(starts, default=None)
