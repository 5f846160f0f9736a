"""Runs a network over an array of steps, and compares what two back ends gave."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .backend import Backend
from .nir_file import NetworkError
from .rules import Rules
from .wiring import Wiring

Outputs = dict[str, NDArray[np.float32]]
LIMIT = 1 << 32  # bytes of all outputs


def run_network(
    backend: Backend, wiring: Wiring, rules: Rules, frames: NDArray[Any], *, membranes: bool = False
) -> tuple[Outputs, dict[str, Any]]:
    """What every spiking, integrating and Output unit gives over `frames` (steps, inputs).

    Each is (steps, shape...) float32, by the unit's name; with `membranes` also every neuron's
    potential after each step, as NAME.membrane. Second: what answered and the rules. The back end
    is loaded, stepped once for each row, and closed.
    """
    units = wiring.units
    names = list(dict.fromkeys((*wiring.spiking, *wiring.outputs)))
    integrating = [n for n in wiring.neurons if n not in names]
    potentials = [f"{n}.membrane" for n in wiring.neurons] if membranes else []
    numbers = sum(units[n.removesuffix(".membrane") if n in potentials else n].size
                  for n in (*names, *integrating, *potentials))  # fmt: skip
    if 4 * numbers * len(frames) > LIMIT:
        raise NetworkError(
            f"{len(frames)} steps of {numbers} numbers are more than {LIMIT} bytes: run it in parts"
        )
    out: Outputs = {
        name: np.zeros((len(frames), *units[name].output_shape), np.float32)
        for name in (*names, *integrating)
    }
    out |= {
        f"{n}.membrane": np.zeros((len(frames), *units[n].output_shape), np.float32)
        for n in wiring.neurons
        if membranes
    }
    try:
        backend.load(wiring, rules)
        for step, frame in enumerate(frames):
            given = backend.step(frame)
            for name in names:
                out[name][step] = given[name].reshape(units[name].output_shape)
            for name in integrating:
                out[name][step] = backend.membrane(name).reshape(units[name].output_shape)
            for name in wiring.neurons if membranes else ():
                out[f"{name}.membrane"][step] = backend.membrane(name)
        said = backend.results()
    finally:
        backend.close()
    return out, {**rules.as_dict(), **said, "repairs": list(wiring.repairs)}


class Compared(NamedTuple):
    """How one layer of two runs agrees: `differ` of `of` numbers, first in step `first`."""

    name: str
    of: int
    differ: int
    first: int | None
    cosine: float


def compare_outputs(one: Outputs, other: Outputs) -> list[Compared]:
    """Layer by layer, those that both have; numbers within 1e-5 of each other (relative to the
    largest) count as equal, so spikes differ when they are not the same.

    Cosine similarity is over all numbers of a layer: 1 for two that give nothing at all, 0 where
    one alone does.
    """  # fmt: skip
    found = []
    for name in (name for name in one if name in other):
        a, b = one[name].astype(np.float64), other[name].astype(np.float64)
        most = max(float(np.abs(a).max(initial=0)), float(np.abs(b).max(initial=0)))
        off = np.abs(a - b) > 1e-5 * max(most, 1e-30)
        steps = off.reshape(len(off), -1).any(axis=1)
        first = int(steps.argmax()) if steps.any() else None
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        cosine = float((a * b).sum()) / norms if norms else float(not (a.any() or b.any()))
        found.append(Compared(name, a.size, int(off.sum()), first, cosine))
    return found
