"""Instances of a network that are stepped over lists of active inputs, whatever the back end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .backend import Backend, make_backend
from .compiler import compile_network
from .engine import State, warm_up
from .rules import Rules
from .wiring import Wiring

_Int = NDArray[np.int64]
Entries = tuple[_Int, _Int, NDArray[np.float64]]
ROOM = 1 << 16  # rows of records


class Stepper(Protocol):
    """One instance. Taps are layers of it, their places numbered through in the order of `tap`."""

    def run(self, cells: _Int, ends: _Int, values: NDArray[Any] | None) -> Iterator[Entries]:
        """Step, and give what the taps give that is not 0: steps from 0 on, places, values.

        `cells`, `ends` and `values` as `engine.State.run` takes them.
        """

    def membranes(self) -> NDArray[np.float32]:
        """Potentials of all taps that have one, after the last step."""

    def snapshot(self) -> dict[str, Any]:
        """The state, flat."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `snapshot` gave."""

    def results(self) -> dict[str, Any]:
        """What answered, under which rules."""

    def close(self) -> None:
        """Release what the back end holds."""


def make_steppers(
    backend: str, wiring: Wiring, rules: Rules, tap: Sequence[str], instances: int
) -> list[Stepper]:
    """So many instances of the network, at rest; NetworkError when it cannot be run."""
    if backend == "numba":
        warm_up()
        program = compile_network(wiring, rules, watch=tap)
        return [_Compiled(State(program, records=ROOM), tap) for _ in range(instances)]
    made: list[Stepper] = []
    for _ in range(instances):
        engine = make_backend(backend)
        engine.load(wiring, rules)
        made.append(_Framed(engine, wiring, tap))
    return made


def offsets_of(wiring: Wiring, tap: Sequence[str]) -> dict[str, int]:
    """Where the places of each tapped layer begin."""
    sizes = [wiring.units[name].size for name in tap]
    return dict(zip(tap, np.cumsum([0, *sizes]).tolist(), strict=False))


class _Compiled:
    """Our engine."""

    def __init__(self, state: State, tap: Sequence[str]) -> None:
        self._state, program = state, state.program
        self._membranes = [name for name in tap if program.wiring.units[name].is_neuron]
        self._first = np.zeros(len(program.points), np.int64)
        self._shared: dict[int, list[int]] = {}
        for name, first in offsets_of(program.wiring, tap).items():
            number = program.points[program.given.get(name, name)].number
            self._shared.setdefault(number, []).append(first)
        for number, firsts in self._shared.items():
            self._first[number] = firsts[0]

    def run(self, cells: _Int, ends: _Int, values: NDArray[Any] | None) -> Iterator[Entries]:
        done, before = 0, self._state.steps
        while done < len(ends):
            done, records, _ = self._state.run(cells, ends, values, done)
            if not len(records):
                continue
            points = records[:, 1].astype(np.int64)
            steps = records[:, 0].astype(np.int64) - before
            places = records[:, 2].astype(np.int64) + self._first[points]
            yield self._doubled(steps, places, records[:, 3].copy(), points)

    def _doubled(self, steps: _Int, places: _Int, values: Any, points: _Int) -> Entries:
        """An Output that was tapped as well as the layer before it stands for the same entries."""
        for number, firsts in self._shared.items():
            for first in firsts[1:]:
                of = points == number
                steps = np.concatenate([steps, steps[: len(of)][of]])
                moved = places[: len(of)][of] - firsts[0] + first
                places = np.concatenate([places, moved])
                values = np.concatenate([values, values[: len(of)][of]])
        return steps, places, values

    def membranes(self) -> NDArray[np.float32]:
        parts = [self._state.potential(name).reshape(-1) for name in self._membranes]
        return np.concatenate([np.empty(0, np.float32), *parts])

    def snapshot(self) -> dict[str, Any]:
        return self._state.snapshot()

    def restore(self, state: dict[str, Any]) -> None:
        self._state.restore(state)

    def results(self) -> dict[str, Any]:
        return {"backend": "numba", **self._state.program.rules.as_dict()}

    def close(self) -> None:
        """Nothing to release."""


class _Framed:
    """Any back end, handed one frame after another."""

    def __init__(self, engine: Backend, wiring: Wiring, tap: Sequence[str]) -> None:
        self._engine, self._tap = engine, tap
        self._units = wiring.units
        self._size = wiring.only_input().size
        self._membranes = [name for name in tap if wiring.units[name].is_neuron]
        self._first = offsets_of(wiring, tap)

    def run(self, cells: _Int, ends: _Int, values: NDArray[Any] | None) -> Iterator[Entries]:
        first = 0
        for step, end in enumerate(ends.tolist()):
            given = None if values is None else values[first:end]
            frame = np.bincount(cells[first:end], given, self._size).astype(np.float32)
            first = end
            out = self._engine.step(frame, self._tap)
            for name in self._tap:
                flat = (
                    out[name] if name in out else self._engine.membrane(name)
                ).reshape(-1)  # fmt: skip
                places = np.flatnonzero(flat)
                yield (
                    np.full(len(places), step),
                    places + self._first[name],
                    flat[places].astype(np.float64),
                )

    def membranes(self) -> NDArray[np.float32]:
        parts = [self._engine.membrane(name).reshape(-1) for name in self._membranes]
        return np.concatenate([np.empty(0, np.float32), *parts]).astype(np.float32)

    def snapshot(self) -> dict[str, Any]:
        return self._engine.snapshot()

    def restore(self, state: dict[str, Any]) -> None:
        self._engine.restore(state)

    def results(self) -> dict[str, Any]:
        return self._engine.results()

    def close(self) -> None:
        self._engine.close()
