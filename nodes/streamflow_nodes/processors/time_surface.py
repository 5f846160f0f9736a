"""Images of how recently each pixel fired, at a constant rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow.node import Emission, In, Node, Out, Seconds, Settings
from streamflow.packet import Events, Packet, Tensor

from ..events.frames import FrameMemory, Periods
from ..events.packets import Sensor, Words, no_words
from ..kernels.pixel_times import NEVER
from ..kernels.time_surface import exponents, note_times


class TimeSurfaceSettings(Settings, frozen=True, kw_only=True):
    """How fast the past fades, and how often it is looked at."""

    tau: Seconds = 0.01
    period: Seconds = 0.01  # rounded to whole microseconds
    per_polarity: bool = True  # a surface of each polarity, or one of both together


class TimeSurface(Node[TimeSurfaceSettings]):
    """The exponentially decaying time surface of the whole sensor, once every `period`.

        S(p, y, x) = exp(-(t - t_last(p, y, x)) / tau)    at t = (k + 1) period

    where t_last is the latest event before t; 0 for a pixel that has not fired (and after 87 tau).
    Lagorce et al. (2017), "HOTS: a hierarchy of event-based time-surfaces", equation 2, but of the
    whole sensor and at fixed instants instead of around each event.

    A frame is float32 with axes (polarity, y, x), or (y, x) without `per_polarity`, and covers [k
    period, (k + 1) period). The first is the one that the first packet starts in, the last the one
    that the stream ends in; they leave as stream time passes their end, whether or not events
    come. Before the first packet nothing is emitted. State: each pixel's latest time. Events
    outside the sensor are dropped and counted as `outside_sensor`; an event older than its pixel's
    latest one changes nothing.

        surface:
          kind: time_surface
          inputs: {events: camera.events}
          settings: {tau: 0.02, period: 0.01}
    """

    events = In(Events)
    frames = Out(Tensor)
    faults = ("outside_sensor",)

    def open(self) -> None:
        setting = self.settings
        self._tau = setting.tau * 1e6
        self._planes = (2,) if setting.per_polarity else ()
        self._axes = ("polarity", "y", "x") if self._planes else ("y", "x")
        self._periods = Periods(self, setting.period, self._begin, self._fill, self._leave)
        self._begin((1, 1))
        self._fill(no_words(), 0, 0, 1)
        self._leave(0, 1)

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        return self._periods.take(packet)

    def advance(self, time: int) -> Iterator[Emission]:
        return self._periods.advance(time)

    def finish(self) -> Iterator[Emission]:
        return self._periods.finish()

    def snapshot(self) -> dict[str, Any]:
        state = self._periods.snapshot()
        return state and {**state, "last": self._last}

    def restore(self, state: dict[str, Any]) -> None:
        self._periods.restore(state)
        if state:
            self._last = state["last"]
            self._newest = int(self._last.max())

    def _begin(self, sensor: Sensor) -> None:
        shape = (*self._planes, sensor[1], sensor[0])
        self._last = np.full(shape, NEVER, np.int64)
        self._newest = NEVER
        self._memory = FrameMemory(*shape, dtype=np.float32)

    def _fill(self, words: Words, first: int, start: int, stop: int) -> int:
        first, outside, self._newest = note_times(words, first, stop, self._newest, self._last)
        if outside:
            self.count_fault("outside_sensor", outside)
        return first

    def _leave(self, start: int, stop: int) -> Emission:
        """The surface at the end of the period."""
        surface, _ = self._memory.take()
        exponents(self._last, stop, self._tau, surface)
        np.exp(surface, out=surface)  # vectorised, which the same call inside the kernel is not
        return self.frames(Tensor(surface, self._axes), start, stop)
