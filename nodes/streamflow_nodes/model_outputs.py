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

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import Node
from streamflow.packet import Events, Packet

from .bursts import class_names, particle
from .event_packets import Words
from .kernels.read_out import DEBRIS as IS_DEBRIS
from .kernels.read_out import NO_SECOND, NOTHING, read_out
from .particles import ABORTED, DEBRIS, DOUBLET, LATE, MERGED, OVERLAP

MEASURES = (
    "overlap", "doublet", "offset_us", "diameter_um", "second_offset_us", "second_diameter_um",
)  # fmt: skip
NONE_FROM, TWO_FROM = 0.6, 0.4
"""Probabilities from which a burst is said to hold nothing, and two particles. A particle that is
missed is lost, so a doubt counts for it; chosen on simulated sessions."""
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
        self._names = class_names(node, classes)
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
        row = particle(packet, words)
        rows = row if count == 1 else np.concatenate([row, row])
        for index, prefix in enumerate(("", "second_")[:count]):
            self._fill(rows[index], scores, prefix, index, is_pair=count == 2)
        if count == 2 and rows["time_us"][1] < rows["time_us"][0]:
            rows["time_us"] = rows["time_us"][::-1].copy()
        return rows

    def _fill(
        self, row: Any, scores: NDArray[np.float64], prefix: str, index: int, *, is_pair: bool
    ) -> None:
        at, (_, debris, pairs) = self._at, self._shares
        row["class"] = self._names[int(self._decided[index, 0])]
        row["probability"] = probability = self._decided[index, 1]
        row["diameter_um"] = scores[at[name]] if (name := prefix + "diameter_um") in at else np.nan
        if (name := prefix + "offset_us") in at:
            row["time_us"] += scores[at[name]]
        flags = 0
        if is_pair or ("overlap" in at and scores[at["overlap"]] > 0):
            flags |= OVERLAP
        if "doublet" in at and not is_pair and scores[at["doublet"]] > 0:
            flags |= DOUBLET
        if not is_pair and debris >= 0.5:
            flags |= DEBRIS
        if not is_pair and pairs >= MERGED_FROM:
            flags |= MERGED
        if row["decided_us"] > row["time_us"] + self._deadline:
            flags |= LATE
            self._node.count_fault("late")
        if flags & (MERGED | LATE | DEBRIS) or probability < self._act_above:
            flags |= ABORTED
        row["flags"] = flags


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
