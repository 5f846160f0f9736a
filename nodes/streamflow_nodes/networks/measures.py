"""What a network holds, and what a step of it is expected to cost."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .wiring import CONNECTIONS, Unit, Wiring


class Figures(NamedTuple):
    """One layer. `operations` of a step: synaptic operations, plus one for each neuron."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    neurons: int
    synapses: int
    operations: float


def figures(wiring: Wiring, density: float) -> list[Figures]:
    """The figures of every layer, with `density` (0 to 1) of what leads into it active in a step.

    Synapses of a convolution are counted one by one, with those that padding leaves out left out.
    """
    return [_of(unit, density) for unit in wiring.units.values()]


def _of(unit: Unit, density: float) -> Figures:
    neurons = unit.size if unit.is_neuron or unit.kind == "Threshold" else 0
    synapses = synapses_of(unit)
    parameters = sum(
        np.size(value)
        for what, value in unit.parameters.items()
        if unit.kind not in ("SumPool2d", "AvgPool2d")
        and what not in ("stride", "padding", "dilation", "groups")
    )
    return Figures(
        unit.name, unit.kind, unit.output_shape, parameters, neurons, synapses,
        density * synapses + neurons,
    )  # fmt: skip


def synapses_of(unit: Unit) -> int:
    """How many weights join one input to one output, each as often as it is used."""
    if unit.kind not in CONNECTIONS:
        return 0
    weight = unit.parameters["weight"]
    if unit.kind in ("Affine", "Linear"):
        return int(weight.size)
    p = unit.parameters
    taps = 1
    for axis, length in enumerate(unit.input_shape[1:]):
        out = np.arange(unit.output_shape[1 + axis])[:, None] * p["stride"][axis]
        at = out + np.arange(weight.shape[2 + axis]) * p["dilation"][axis] - p["padding"][axis, 0]
        taps *= int(((at >= 0) & (at < length)).sum())
    return int(taps * math.prod(weight.shape[:2]))
