"""Our engine as a back end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiler import compile_network
from .engine import State, warm_up
from .rules import Rules
from .wiring import Wiring


class NumbaBackend:
    """Event-driven, compiled once for all networks; see `engine`."""

    name = "numba"

    def load(self, wiring: Wiring, rules: Rules) -> None:
        """NetworkError where the rules do not fit the network."""
        warm_up()
        self._state = State(compile_network(wiring, rules))
        self._wiring, self._rules = wiring, rules
        self._size = wiring.only_input().size

    def step(
        self, frame: NDArray[Any], names: Sequence[str] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        flat = np.asarray(frame).reshape(-1)
        if flat.size != self._size:
            raise ValueError(f"a frame of {flat.size} numbers; expected {self._size}")
        cells = np.flatnonzero(flat)
        values = flat[cells].astype(np.float32)
        self._state.step(cells, values)
        every = (*self._wiring.spiking, *self._wiring.outputs)
        return {name: self._state.values(name) for name in every if names is None or name in names}

    def membrane(self, name: str) -> NDArray[np.float32]:
        return np.asarray(self._state.potential(name))

    def snapshot(self) -> dict[str, Any]:
        return self._state.snapshot()

    def restore(self, state: dict[str, Any]) -> None:
        self._state.restore(state)

    def results(self) -> dict[str, Any]:
        return {"backend": self.name, **self._rules.as_dict()}

    def close(self) -> None:
        """Nothing to release."""
