"""Events as the binary input of a network that runs in time steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.node import Emission, In, Microseconds, Node, Out, Settings
from streamflow.packet import Events, Packet

from ..events.packets import OneSensor, Sensor, no_words, pick, words_for
from ..kernels.once_per_step import keep_first
from ..kernels.pixel_times import NEVER


class OncePerStepSettings(Settings, frozen=True, kw_only=True):
    """How long a step is (us)."""

    step: Microseconds


class OncePerStep(Node[OncePerStepSettings]):
    """The first event of each pixel and polarity in every step [k step, (k + 1) step).

    What is left is a binary image a step: the input of networks that a pixel can either excite or
    not, as in Abreu, Gouda, Lugnan and Bienstman (2023), "Flow cytometry with event-based vision
    and spiking neuromorphic hardware" (steps of 1, 10 and 100 us). Where time steps back behind the
    step of a pixel's last event, an event is left out.

    Nothing is emitted for a packet of which nothing is kept. State: the step of each pixel's last
    event. Events outside the sensor are dropped and counted as `outside_sensor`.

        binary: {kind: once_per_step, inputs: {events: bins.kept}, settings: {step: 10}}
    """

    events = In(Events)
    kept = Out(Events)
    faults = ("outside_sensor",)
    _last: NDArray[np.int64]

    def open(self) -> None:
        self._sensor = OneSensor(self, self._begin)
        self._begin((1, 1))
        keep_first(no_words(), 1, 1, self.settings.step, self._last, words_for(0))

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        sensor = self._sensor.check(packet)
        rule = (*sensor, self.settings.step)
        return pick(self, self.kept, packet, sensor, keep_first, *rule, self._last)

    def snapshot(self) -> dict[str, Any]:
        state = self._sensor.snapshot()
        return state and {**state, "last": self._last}

    def restore(self, state: dict[str, Any]) -> None:
        self._sensor.restore(state)
        self._last = state.get("last", self._last)

    def _begin(self, sensor: Sensor) -> None:
        self._last = np.full(2 * sensor[0] * sensor[1], NEVER, np.int64)
