"""Removes the background activity of an event sensor: events without company."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from streamflow.node import Emission, In, Node, Out, Seconds, Settings
from streamflow.packet import Events, Packet

from ..events.packets import OneSensor, Sensor, no_words, pick, words_for
from ..kernels.background_activity import keep_supported, keep_supported_by
from ..kernels.pixel_times import NEVER, quiet_pixels
from ..spans import microseconds

Neighbours = Annotated[int, msgspec.Meta(ge=1, le=8)]


class BackgroundActivitySettings(Settings, frozen=True, kw_only=True):
    """How recent the company must be, and how much of it."""

    window: Seconds = 0.002
    min_neighbours: Neighbours = 1  # of the eight around the pixel
    unfired_at_zero: bool = False  # count a pixel that never fired as fired at stream time 0


class BackgroundActivity(Node[BackgroundActivitySettings]):
    """The events that have company: a neighbouring pixel fired less than `window` before.

    An event at time t is kept when at least `min_neighbours` of its eight neighbours last fired
    after t - window (strictly; either polarity, kept or not). Filter of Delbruck (2008),
    "Frame-free dynamic digital vision", with the pixel's own earlier events not counting.

    Event for event what dv-processing's BackgroundActivityNoiseFilter keeps, but for the start of a
    stream whose time starts near zero: there dv takes a pixel that has never fired as fired at time
    0, so that everything before `window` passes; `unfired_at_zero: true` does the same.

    Nothing is emitted for a packet of which nothing is kept. State: each pixel's last time.
    Events outside the sensor are dropped and counted as `outside_sensor`.

        quiet:
          kind: background_activity
          inputs: {events: camera.events}
          settings: {window: 0.002}
    """

    events = In(Events)
    kept = Out(Events)
    faults = ("outside_sensor",)

    def open(self) -> None:
        self._window = microseconds(self, "window", self.settings.window)
        self._sensor = OneSensor(self, self._begin)
        self._last = quiet_pixels(1, 1)
        keep_supported(no_words(), 1, 1, self._window, self._last, words_for(0))
        keep_supported_by(no_words(), 1, 1, self._window, 1, self._last, words_for(0))

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        sensor, needed = self._sensor.check(packet), self.settings.min_neighbours
        rule = (*sensor, self._window)
        if needed == 1:
            return pick(self, self.kept, packet, sensor, keep_supported, *rule, self._last)
        return pick(self, self.kept, packet, sensor, keep_supported_by, *rule, needed, self._last)

    def snapshot(self) -> dict[str, Any]:
        state = self._sensor.snapshot()
        return state and {**state, "last": self._last}

    def restore(self, state: dict[str, Any]) -> None:
        self._sensor.restore(state)
        self._last = state.get("last", self._last)

    def _begin(self, sensor: Sensor) -> None:
        self._last = quiet_pixels(*sensor, 0 if self.settings.unfired_at_zero else NEVER)
