"""Thins out the events of pixels that fire in quick succession."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow.node import Emission, In, Node, Out, Seconds, Settings
from streamflow.packet import Events, Packet

from ..events.packets import OneSensor, Sensor, no_words, pick, words_for
from ..kernels.pixel_times import NEVER
from ..kernels.refractory import keep_rested
from ..spans import microseconds


class RefractorySettings(Settings, frozen=True, kw_only=True):
    """How long a pixel rests."""

    period: Seconds = 0.001


class Refractory(Node[RefractorySettings]):
    """At most one event a pixel in every `period`.

    An event at time t is kept when its pixel's last *kept* event lies at t - period or before: the
    rest restarts with every kept event, not with every event seen (evlib's rule, under which a
    pixel that never pauses falls silent). Both polarities share the rest. A pixel's first event is
    kept.

    Nothing is emitted for a packet of which nothing is kept. State: each pixel's last kept time.
    Events outside the sensor are dropped and counted as `outside_sensor`.

        rested: {kind: refractory, inputs: {events: camera.events}, settings: {period: 0.001}}
    """

    events = In(Events)
    kept = Out(Events)
    faults = ("outside_sensor",)

    def open(self) -> None:
        self._period = microseconds(self, "period", self.settings.period)
        self._sensor = OneSensor(self, self._begin)
        self._last = np.full(1, NEVER, np.int64)
        keep_rested(no_words(), 1, 1, self._period, self._last, words_for(0))

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        sensor = self._sensor.check(packet)
        rule = (*sensor, self._period)
        return pick(self, self.kept, packet, sensor, keep_rested, *rule, self._last)

    def snapshot(self) -> dict[str, Any]:
        state = self._sensor.snapshot()
        return state and {**state, "last": self._last}

    def restore(self, state: dict[str, Any]) -> None:
        self._sensor.restore(state)
        self._last = state.get("last", self._last)

    def _begin(self, sensor: Sensor) -> None:
        self._last = np.full(sensor[0] * sensor[1], NEVER, np.int64)
