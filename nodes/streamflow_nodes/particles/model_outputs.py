"""What the outputs of a classifier of bursts stand for, and the particles that they give.

Outputs have names. Those that stand for what the burst holds come first and are logits:

    A              a particle of class A, at the burst's centre
    A+B            two particles, A before B, with one burst between them
    debris         a particle smaller than any looked for
    nothing        no particle: a neighbour's tail, a second peak of a slow one

The rest are measures, and optional: `overlap` and `doublet` (logits that another particle's centre
is in the window, that the particle is two stuck together), `offset_us` (the particle's centre less
the burst's) and `diameter_um`; `second_offset_us` and `second_diameter_um` are those of a pair's
second particle. A model without names has one output for each class.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import Node
from streamflow.packet import Events, Packet

from ..events.packets import Words
from ..kernels.read_out import DEBRIS as IS_DEBRIS
from ..kernels.read_out import NO_SECOND, NOTHING, read_out
from .bursts import look, particle_classes
from .rows import ABORTED, DEBRIS, DOUBLET, LATE, MERGED, OVERLAP, PARTICLE

MEASURES = (
    "overlap", "doublet", "offset_us", "diameter_um", "second_offset_us", "second_diameter_um",
)  # fmt: skip
NONE_FROM, TWO_FROM = 0.6, 0.4
"""Probabilities from which a burst is said to hold nothing, and two particles. A particle that is
missed is lost, so a doubt counts for it; chosen on simulated sessions."""
DEBRIS_FROM = 0.5
MERGED_FROM = 0.15
"""Probability of two particles from which one that was decided for is flagged `merged`."""


class Readout:
    """Makes particles of a model's outputs, by the names of the outputs."""

    def __init__(
        self,
        node: Node[Any],
        outputs: list[str],
        classes: list[str],
        *,
        deadline: int,
        act_above: float,
    ) -> None:
        """`deadline` in us from the centre to the decision; below `act_above` a row is aborted.

        NodeError when an output's name means nothing.
        """
        self._node = node
        self._names = particle_classes(node, classes)
        self._deadline, self._act_above = deadline, act_above
        groups = [name for name in outputs if name not in MEASURES]
        first, second = zip(*(_group(node, name, classes) for name in groups), strict=True)
        if groups != outputs[: len(groups)]:
            raise NodeError(
                node.name, f"the model's outputs are {outputs}; expected measures to come last"
            )
        if missing := sorted(set(range(len(classes))) - set(first)):
            raise NodeError(
                node.name,
                f"the model's outputs {outputs} lack the class {classes[missing[0]]!r}",
            )
        self._first, self._second = (np.array(each, np.int64) for each in (first, second))
        self._at = {name: outputs.index(name) for name in MEASURES if name in outputs}
        self._shares, self._decided = np.empty(3), np.empty((2, 2))
        self._read(np.zeros(len(outputs)))

    def _read(self, scores: NDArray[np.float64]) -> int:
        return int(
            read_out(
                scores, self._first, self._second, NONE_FROM, TWO_FROM, self._shares, self._decided
            )
        )

    def rows(
        self, packet: Packet[Events], words: Words, scores: NDArray[np.float64]
    ) -> NDArray[np.void] | None:
        """(1,) or (2,) `PARTICLE`, the earlier one first; None where the burst holds nothing.

        scores : (outputs,) float64, contiguous
        """
        count = self._read(scores)
        if count == 0:
            return None
        seen = look(packet, words)
        found = [self._row(packet, seen, scores.tolist(), index, count) for index in range(count)]
        if count == 2 and found[1][0] < found[0][0]:  # in the order of time all the same
            found = [(times[0], *rest[1:]) for times, rest in zip(found[::-1], found, strict=True)]
        return np.array(found, PARTICLE)

    def _row(
        self, packet: Packet[Events], seen: tuple[float, ...], scores: list[float], index: int,
        count: int,
    ) -> tuple[Any, ...]:  # fmt: skip
        """The fields of `PARTICLE` of particle `index` of `count`."""
        at, prefix = self._at, "second_" if index else ""
        name, probability = self._decided[index].tolist()
        time = (packet.start + packet.stop) / 2
        offset, diameter = at.get(prefix + "offset_us"), at.get(prefix + "diameter_um")
        if offset is not None:
            time += scores[offset]
        flags = self._flags(packet.stop - time, probability, scores, count)
        return (
            time, self._names[int(name)], probability, packet.stop, packet.start, packet.stop,
            *seen, flags, math.nan if diameter is None else scores[diameter],
        )  # fmt: skip

    def _flags(self, age: float, probability: float, scores: list[float], count: int) -> int:
        """The bits that a decision gets, `age` us after the particle's centre."""
        at, (_, debris, pairs) = self._at, self._shares.tolist()
        flags = 0
        if count == 2 or ("overlap" in at and scores[at["overlap"]] > 0):
            flags |= OVERLAP
        if count == 1:
            if "doublet" in at and scores[at["doublet"]] > 0:
                flags |= DOUBLET
            if debris >= DEBRIS_FROM:
                flags |= DEBRIS
            if pairs >= MERGED_FROM:
                flags |= MERGED
        if age > self._deadline:
            flags |= LATE
            self._node.count_fault("late")
        if flags & (MERGED | LATE | DEBRIS) or probability < self._act_above:
            flags |= ABORTED
        return flags


def _group(node: Node[Any], name: str, classes: list[str]) -> tuple[int, int]:
    """Class of the first and of the second particle of the output `name`."""
    if name == "nothing":
        return NOTHING, NO_SECOND
    if name == "debris":
        return IS_DEBRIS, NO_SECOND
    parts = [name] if name in classes else name.split("+")
    if len(parts) > 2 or any(part not in classes for part in parts):
        raise NodeError(
            node.name,
            f"the model has an output {name!r}; expected a class of {classes}, two of them joined "
            f"by '+', nothing, debris, or one of {', '.join(MEASURES)}",
        )
    return classes.index(parts[0]), classes.index(parts[1]) if len(parts) == 2 else NO_SECOND
