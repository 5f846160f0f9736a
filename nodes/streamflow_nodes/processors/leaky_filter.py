"""Thins out events by a leaky integrate-and-fire neuron for each pixel and polarity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np

from streamflow.node import Emission, Fraction, In, Node, Out, Settings
from streamflow.packet import Events, Packet

from ..event_packets import Sensor, check_sensor, events_of, no_words, words_for, words_of
from ..kernels.leaky_filter import leak_and_fire
from ..kernels.pixel_times import NEVER


class LeakyFilterSettings(Settings, frozen=True, kw_only=True):
    """The neuron. An event weighs 1, and a spike resets it to 0."""

    threshold: Annotated[float, msgspec.Meta(gt=0)] = 3.0
    """Events; the neuron spikes where it reaches it."""
    leak: Fraction = 0.9
    """What is left of the membrane potential after one microsecond. 0: it counts only events of the
    same microsecond; 1: it never leaks."""
    refractory: Annotated[int, msgspec.Meta(ge=0)] | None = 2
    """For so long after a spike (us), its own microsecond included, events are left out; null:
    never."""


class LeakyFilter(Node[LeakyFilterSettings]):
    """The events that make the leaky integrate-and-fire neuron of their pixel and polarity spike.

    A temporal low pass: bursts of events become fewer, single events go. With dt the time since the
    neuron's last event (us), an event outside the refractory time does

        v = leak^dt v + 1;   where v >= threshold: v = 0, and the event is kept

    Nothing is emitted for a packet of which nothing is kept. State: each neuron's potential, its
    time and its last spike. The result does not depend on how the events are cut into packets;
    where time steps back nothing leaks. Events outside the sensor are dropped and counted as
    `outside_sensor`.

    Source: Abreu, Gouda, Lugnan and Bienstman (2023), "Flow cytometry with event-based vision and
    spiking neuromorphic hardware", whose parameters are the defaults: threshold 3, leak 0.9, reset
    0, refractory time 2 us. **Their published program does something else**: it never moves the
    time that the leak is counted from, and looks spikes up under keys that do not occur. So, from
    the first milliseconds on, nothing is left of v at each new microsecond, and there is no
    refractory time. `leak: 0, refractory: null` gives exactly what it gives: every third event of
    the same pixel, polarity and microsecond.

        quiet: {kind: leaky_filter, inputs: {events: coarse.kept}, settings: {leak: 0.9}}
    """

    events = In(Events)
    kept = Out(Events)
    faults = ("outside_sensor",)

    def open(self) -> None:
        setting = self.settings.refractory
        self._rest = -1 if setting is None else setting
        self._sensor: Sensor | None = None
        self._reset((1, 1))
        self._filter(no_words(), (1, 1))

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        words = words_of(self, packet)
        sensor = check_sensor(self, self._sensor, packet)
        if self._sensor is None:
            self._sensor = sensor
            self._reset(sensor)
        kept, count, outside = self._filter(words, sensor)
        if outside:
            self.count_fault("outside_sensor", outside)
        if count:
            yield self.kept(events_of(kept, count, sensor), packet.start, packet.stop)

    def snapshot(self) -> dict[str, Any]:
        if self._sensor is None:
            return {}
        width, height = self._sensor
        state = {"v": self._v, "last": self._last, "fired": self._fired}
        return {"width": width, "height": height, **state}

    def restore(self, state: dict[str, Any]) -> None:
        if state:
            self._sensor = (state["width"], state["height"])
            self._v, self._last, self._fired = state["v"], state["last"], state["fired"]

    def _reset(self, sensor: Sensor) -> None:
        neurons = 2 * sensor[0] * sensor[1]
        self._v = np.zeros(neurons)
        self._last = np.full(neurons, NEVER, np.int64)
        self._fired = np.full(neurons, NEVER, np.int64)

    def _filter(self, words: Any, sensor: Sensor) -> tuple[Any, int, int]:
        kept = words_for(words.size // 2)
        count, outside = leak_and_fire(
            words, *sensor, self.settings.threshold, self.settings.leak, self._rest,
            self._v, self._last, self._fired, kept,
        )  # fmt: skip
        return kept, count, outside
