"""What the classifiers of bursts share: the part that is looked at, and what it looks like.

A burst is a packet whose middle is the centre of a passage.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamflow.errors import NodeError
from streamflow.node import Node
from streamflow.packet import Events, Packet

from ..events.packets import Words
from ..kernels.burst_measures import measure_burst
from ..spans import span_of
from .rows import PARTICLE

OUTER = 0.25  # of the sensor's height: farther from the mean position is outside


def warm_up(words: Words) -> None:
    """Compile what `look` calls; `words` as they will arrive."""
    event = np.zeros(2, np.int64)  # a burst has at least one
    event.flags.writeable = words.flags.writeable
    measure_burst(event, 1.0, np.empty(6))


def particle_classes(node: Node[Any], names: list[str]) -> list[bytes]:
    """The names as a particle's row holds them; NodeError when one does not fit."""
    length = PARTICLE["class"].itemsize
    for name in names:
        if not (name.isascii() and name.isprintable() and 0 < len(name) <= length):
            raise NodeError(
                node.name, f"class name {name!r}; expected 1 to {length} printable ASCII characters"
            )
    if len(set(names)) != len(names) or len(names) < 2:
        raise NodeError(node.name, f"classes {names}; expected two or more different names")
    return [name.encode() for name in names]


def inner_window(node: Node[Any], packet: Packet[Any], window: int) -> tuple[int, int]:
    """The `window` us in the middle of the burst: start and stop (us)."""
    length = packet.stop - packet.start
    if window > length:
        raise NodeError(
            node.name,
            f"the model looks at {window} us and the burst lasts {length} us: lengthen the "
            f"trigger's window to at least {window / 1e6} s",
            span=span_of(packet),
        )
    start = packet.start + (length - window) // 2
    return start, start + window


def cell_size(node: Node[Any], packet: Packet[Events], rows: int, columns: int) -> int:
    """Pixels on each side of a cell of the model's grid; NodeError when the sensor does not fit."""
    width, height = packet.data.width, packet.data.height
    factor = width // columns
    if factor < 1 or factor * columns != width or factor * rows != height:
        raise NodeError(
            node.name,
            f"the model has a grid of {columns}x{rows} and the sensor {width}x{height} pixels; "
            "expected a whole number of pixels, the same both ways, to a cell: use a model "
            "trained for this sensor, or crop the events to a multiple of the grid",
            span=span_of(packet),
        )
    return factor


def look(packet: Packet[Events], words: Words) -> tuple[float, ...]:
    """What the burst looks like: the seven fields of `PARTICLE` from `events` to `y`."""
    if not words.size:
        return (0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)
    measures = np.empty(6)
    measure_burst(words, OUTER * packet.data.height, measures)
    return (words.size // 2, *measures.tolist())
