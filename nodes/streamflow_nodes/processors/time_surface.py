"""Images of how recently each pixel fired, at a constant rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow.node import Emission, In, Node, Out, Seconds, Settings
from streamflow.packet import Events, Packet, Tensor

from ..event_packets import Sensor, check_sensor, microseconds, no_words, words_of
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
        self._period = microseconds(self, "period", setting.period)
        self._tau = setting.tau * 1e6
        self._polarities = 2 if setting.per_polarity else 1
        self._sensor: Sensor | None = None
        self._start = 0  # of the frame to come, us
        self._reached = NEVER  # where the data end so far, us
        self._last = np.full(self._polarities, NEVER, np.int64)
        note_times(no_words(), 0, 1, 1, 1, self._polarities, self._last)
        exponents(self._last, 1, self._tau, np.zeros(self._polarities, np.float32))

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        words = words_of(self, packet)
        sensor = check_sensor(self, self._sensor, packet)
        if self._sensor is None:
            self._sensor = sensor
            self._start = packet.start // self._period * self._period
            self._last = np.full(self._polarities * sensor[0] * sensor[1], NEVER, np.int64)
        self.holds_from = self._start
        first, number = 0, words.size // 2
        while first < number:
            first, outside = note_times(
                words, first, self._start + self._period, *sensor, self._polarities, self._last
            )
            if outside:
                self.count_fault("outside_sensor", outside)
            if first < number:
                yield self._leave(sensor)
        self._reached = max(self._reached, packet.stop)

    def advance(self, time: int) -> Iterator[Emission]:
        if self._sensor is None:
            self.holds_from = time // self._period * self._period
            return
        while time >= self._start + self._period:
            yield self._leave(self._sensor)

    def finish(self) -> Iterator[Emission]:
        while self._sensor is not None and self._start < self._reached:
            yield self._leave(self._sensor)

    def snapshot(self) -> dict[str, Any]:
        if self._sensor is None:
            return {}
        return {
            "width": self._sensor[0],
            "height": self._sensor[1],
            "start": self._start,
            "reached": self._reached,
            "last": self._last,
        }

    def restore(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self._sensor = (state["width"], state["height"])
        self._start, self._reached = state["start"], state["reached"]
        self._last = state["last"]
        self.holds_from = self._start

    def _leave(self, sensor: Sensor) -> Emission:
        """The surface at the end of the present period; the next period begins."""
        width, height = sensor
        start, stop = self._start, self._start + self._period
        surface = np.empty(self._last.size, np.float32)
        exponents(self._last, stop, self._tau, surface)
        np.exp(surface, out=surface)  # vectorised, which the same call inside the kernel is not
        self._start = self.holds_from = stop
        if self._polarities == 1:
            return self.frames(Tensor(surface.reshape(height, width), ("y", "x")), start, stop)
        frame = Tensor(surface.reshape(2, height, width), ("polarity", "y", "x"))
        return self.frames(frame, start, stop)
