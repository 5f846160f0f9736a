"""Re-cuts events into windows of equal duration or equal count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow.errors import NodeError
from streamflow.node import Emission, In, Node, Out, Positive, Seconds, Settings
from streamflow.packet import Events, Packet

from ..events.packets import Sensor, Words, check_sensor, events_of, no_words, words_of
from ..kernels.pixel_times import NEVER
from ..kernels.window import find_stop
from ..spans import microseconds


class WindowSettings(Settings, frozen=True, kw_only=True):
    """What a window holds: exactly one of the two is given."""

    duration: Seconds | None = None  # rounded to whole microseconds
    count: Positive | None = None  # events


class Window(Node[WindowSettings]):
    """The same events, one packet per window.

    With `duration`, a window covers [k duration, (k + 1) duration) of stream time and leaves when
    stream time has passed its end; a window without events is left out. With `count`, a window is
    that many events and covers [first, last + 1) of their times; the last one may hold fewer. The
    windows are the same however the events arrive. State: the events of the window being filled.
    An event older than its window (time stepped back) goes into the window being filled, and is
    counted as `late`.

        windows:
          kind: window
          inputs: {events: camera.events}
          settings: {duration: 0.001}
    """

    events = In(Events)
    windows = Out(Events)
    faults = ("late",)

    def open(self) -> None:
        setting = self.settings
        if (setting.duration is None) == (setting.count is None):
            raise NodeError(
                self.name,
                f"settings: duration is {setting.duration} and count is {setting.count}; expected "
                "exactly one of them",
            )
        self._duration = 0
        if setting.duration is not None:
            self._duration = microseconds(self, "duration", setting.duration)
        self._count = setting.count or 0
        self._sensor: Sensor | None = None
        self._held: list[Words] = []
        self._start = NEVER  # of the window being filled, or no window starts before it, us
        find_stop(no_words(), 0, 0, 1)

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        words = words_of(self, packet)
        self._sensor = check_sensor(self, self._sensor, packet)
        cut = self._by_duration if self._duration else self._by_count
        return cut(words, self._sensor)

    def advance(self, time: int) -> Iterator[Emission]:
        if not self._duration:
            return
        if self._held and self._sensor and time >= self._start + self._duration:
            yield self._leave(self._sensor)
        if not self._held:
            self._start = max(self._start, time // self._duration * self._duration)
            self.holds_from = self._start

    def finish(self) -> Iterator[Emission]:
        if self._held and self._sensor:
            yield self._leave(self._sensor)

    def snapshot(self) -> dict[str, Any]:
        state: dict[str, Any] = {"start": self._start, "words": self._whole()}
        if self._sensor is not None:
            state["width"], state["height"] = self._sensor
        return state

    def restore(self, state: dict[str, Any]) -> None:
        self._start = state["start"]
        self._held = [state["words"]] if state["words"].size else []
        if "width" in state:
            self._sensor = (state["width"], state["height"])
        if self._held or self._duration:
            self.holds_from = self._start

    def _by_duration(self, words: Words, sensor: Sensor) -> Iterator[Emission]:
        first, number = 0, words.size // 2
        while first < number:
            if not self._held:
                time = int(words[2 * first])
                self._start = max(self._start, time // self._duration * self._duration)
            stop, late = find_stop(words, first, self._start, self._start + self._duration)
            if late:
                self.count_fault("late", late)
            if stop > first:
                self._held.append(words[2 * first : 2 * stop])
                self.holds_from = self._start
            if stop < number:
                yield self._leave(sensor)
            first = stop

    def _by_count(self, words: Words, sensor: Sensor) -> Iterator[Emission]:
        first, number = 0, words.size // 2
        held = sum(piece.size // 2 for piece in self._held)
        while first < number:
            if not self._held:
                self._start = max(self._start, int(words[2 * first]))
                self.holds_from = self._start
            stop = min(number, first + self._count - held)
            _, late = find_stop(words[: 2 * stop], first, self._start, 1 << 62)
            if late:
                self.count_fault("late", late)
            self._held.append(words[2 * first : 2 * stop])
            held += stop - first
            if held == self._count:
                yield self._leave(sensor)
                held = 0
            first = stop

    def _whole(self) -> Words:
        return np.concatenate([no_words(), *self._held])

    def _leave(self, sensor: Sensor) -> Emission:
        """The window being filled, as it leaves."""
        start, words = self._start, self._whole()
        self._held = []
        if self._duration:
            stop = self._start = self.holds_from = start + self._duration
        else:
            stop = max(start, int(words[::2].max())) + 1
            self.holds_from = None
        return self.windows(events_of(words, words.size // 2, sensor), start, stop)
