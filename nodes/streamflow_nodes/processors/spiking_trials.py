"""`spiking_trials`: a spiking network that goes back to rest where the input falls silent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow.errors import NodeError
from streamflow.node import Emission, Node, Seconds

from .spiking_network import SpikingNetwork, SpikingNetworkSettings

_NEVER = -(1 << 62)


class SpikingTrialsSettings(SpikingNetworkSettings, frozen=True, kw_only=True):
    """Those of spiking_network, and when a trial is over."""

    rest_after: Seconds = 0.05
    """Silence after which the network is put to rest (s), whole steps."""


class SpikingTrials(SpikingNetwork, Node[SpikingTrialsSettings]):
    """As spiking_network, but each trial finds the network at rest, as in its training.

    A network that was trained on recordings begins each of them at rest. In a stream what one left
    in the membranes would drive the next, for ever in neurons that do not leak (IF). Here, when no
    input has come for `rest_after`, all states go back to what they were before the first step.
    Silence is counted in steps of stream time, so nothing depends on packets or speed. All
    `instances` share the silence. Ports, settings and the rest are those of spiking_network, but
    for `values`: a row of zeros is silence.

    State: spiking_network's, and when the last input came.

        network:
          kind: spiking_trials
          inputs: {events: digits.events}
          settings: {model: model.nir, step: 0.001, rest_after: 0.05}
    """

    settings: SpikingTrialsSettings

    def open(self) -> None:
        super().open()
        self._silence = self._whole("rest_after", self.settings.rest_after) // self._step
        if self._silence < 1 or self._silence * self._step != round(self.settings.rest_after * 1e6):
            raise NodeError(
                self.name,
                f"settings: rest_after {self.settings.rest_after} s is not a multiple of the step "
                f"of {self._step} us",
            )
        self._resting = [stepper.snapshot() for stepper in self._steppers]
        self._last = _NEVER  # step of the last input

    def _run(
        self, first: int, last: int, steps: Any, cells: Any, values: Any = None
    ) -> Iterator[Emission]:
        before = np.unique(np.append(steps, self._last))
        after = np.append(before[1:], last + self._silence)
        # silent for so long: at rest from the step that follows
        rests = before[after - before > self._silence] + self._silence + 1
        for until in [*rests[(rests > first) & (rests < last)].tolist(), last]:
            if first in rests:
                self._rest()
            a, b = np.searchsorted(steps, (first, until))
            given = None if values is None else values[a:b]
            yield from super()._run(first, until, steps[a:b], cells[a:b], given)
            first = until
        self._last = int(before[-1])

    def _rest(self) -> None:
        for stepper, state in zip(self._steppers, self._resting, strict=True):
            stepper.restore(state)

    def snapshot(self) -> dict[str, Any]:
        state = super().snapshot()
        return state and {**state, "last": self._last}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        if state:
            self._last = int(state["last"])
