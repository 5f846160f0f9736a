"""`spike_rate_classifier`: which output of a network spikes most just now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow.node import Emission, In, Node, Out, Seconds, Settings
from streamflow.packet import SPIKE, Packet, Spikes, Table

from ..networks.spike_counts import check_units, output_classes
from ..spans import microseconds

DECISION = np.dtype([("time_us", "<i8"), ("class", "S64"), ("spikes", "<i8"), ("share", "<f8")])


class SpikeRateClassifierSettings(Settings, frozen=True, kw_only=True):
    """What the outputs stand for, how far back spikes count, and how often it is said."""

    classes: list[str]
    """The class of each unit, in their order."""
    window: Seconds = 0.1
    """Spikes of so much stream time count."""
    period: Seconds = 0.01
    """How often a decision is made."""


class SpikeRateClassifier(Node[SpikeRateClassifierSettings]):
    """The class whose unit spiked most in the last `window`, every `period`: a live read-out.

    At each whole multiple t of `period` in which there are spikes in [t - window, t), one row:
    `time_us` (t), `class`, `spikes` of all units, `share` of them that the class has. Of units
    that spiked equally often the first wins. Nothing is emitted while there are no spikes.

    State: the spikes of the last `window`.

        now:
          kind: spike_rate_classifier
          inputs: {spikes: network.spikes}
          settings: {classes: ["0", "1"], window: 0.1}
    """

    spikes = In(Spikes)
    decisions = Out(Table)

    def open(self) -> None:
        s = self.settings
        self._names = output_classes(self, s.classes)
        self._window = microseconds(self, "window", s.window)
        self._period = microseconds(self, "period", s.period)
        self._recent = np.empty(0, SPIKE)
        self._next: int | None = None  # when the next decision is due, us

    def on_spikes(self, packet: Packet[Spikes]) -> Iterator[Emission]:
        check_units(self, packet, len(self._names))
        yield from self._reach(packet.start)
        self._recent = np.concatenate([self._recent, packet.data.array])

    def advance(self, time: int) -> Iterator[Emission]:
        yield from self._reach(time)

    def finish(self) -> Iterator[Emission]:
        if len(self._recent):
            last = int(self._recent["timestamp"].max())
            yield from self._reach((last // self._period + 1) * self._period)

    def _reach(self, time: int) -> Iterator[Emission]:
        """The decisions that are due at `time` (us) or before."""
        due = time // self._period * self._period + self._period  # the first one after `time`
        if self._next is None:
            self._next = due
        while self._next <= time and len(self._recent):
            at = self._next
            first, last = np.searchsorted(self._recent["timestamp"], [at - self._window, at])
            units = self._recent["unit"][first:last]
            self._recent = self._recent[first:]
            if len(units):
                yield self._decide(at, units)
            self._next = at + self._period
        self._next = max(self._next, due)  # silence has no decisions
        self.holds_from = self._next - self._period

    def _decide(self, at: int, units: Any) -> Emission:
        counts = np.bincount(units, minlength=len(self._names))
        best = int(counts.argmax())
        row = (at, self._names[best], len(units), counts[best] / len(units))
        return self.decisions(Table(np.array([row], DECISION)), at - self._period, at)

    def snapshot(self) -> dict[str, Any]:
        return {"recent": self._recent, "next": -1 if self._next is None else self._next}

    def restore(self, state: dict[str, Any]) -> None:
        self._recent = state["recent"]
        if state["next"] >= 0:
            self._next = int(state["next"])
            self.holds_from = self._next - self._period
