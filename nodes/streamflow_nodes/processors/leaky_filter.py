"""Thins out events by a leaky integrate-and-fire neuron for each pixel and polarity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np

from streamflow.node import Emission, Fraction, In, Node, Out, Settings
from streamflow.packet import Events, Packet

from ..events.packets import OneSensor, Sensor, no_words, pick, words_for
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
    _state: dict[str, Any]

    def open(self) -> None:
        rest = self.settings.refractory
        self._neuron = (self.settings.threshold, self.settings.leak, -1 if rest is None else rest)
        self._sensor = OneSensor(self, self._begin)
        self._begin((1, 1))
        leak_and_fire(no_words(), *(1, 1, *self._neuron, *self._state.values(), words_for(0)))

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        sensor = self._sensor.check(packet)
        rule = (*sensor, *self._neuron)
        return pick(self, self.kept, packet, sensor, leak_and_fire, *rule, *self._state.values())

    def snapshot(self) -> dict[str, Any]:
        state = self._sensor.snapshot()
        return state and {**state, **self._state}

    def restore(self, state: dict[str, Any]) -> None:
        self._sensor.restore(state)
        self._state = {name: state.get(name, array) for name, array in self._state.items()}

    def _begin(self, sensor: Sensor) -> None:
        neurons = 2 * sensor[0] * sensor[1]
        self._state = {  # in the order of the kernel's arguments
            "v": np.zeros(neurons),
            "last": np.full(neurons, NEVER, np.int64),
            "fired": np.full(neurons, NEVER, np.int64),
        }
