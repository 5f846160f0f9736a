"""What the nodes that count the spikes of a network's outputs share."""

from __future__ import annotations

from typing import Any

from streamflow.errors import NodeError
from streamflow.node import Node
from streamflow.packet import SPIKE, Packet, Spikes

from ..spans import span_of


def output_classes(node: Node[Any], classes: list[str]) -> list[bytes]:
    """The classes as cells of a table; NodeError unless they are two or more and distinct."""
    names = [name.encode() for name in classes]
    if len(set(names)) != len(names) or len(names) < 2 or not all(0 < len(n) <= 64 for n in names):
        raise NodeError(
            node.name,
            f"settings: classes is {classes}; expected two or more different names of at most 64 "
            "bytes, one for each output of the network",
        )
    return names


def check_units(node: Node[Any], packet: Packet[Spikes], expected: int) -> None:
    """NodeError unless the packet holds spikes, in time order, of as many units as expected."""
    array = packet.data.array
    if packet.data.units != expected or array.dtype != SPIKE:
        raise NodeError(
            node.name,
            f"got spikes of {packet.data.units} units as {array.dtype}; the setting classes names "
            f"{expected}: name each output of the network once, in its order",
            span=span_of(packet),
        )
    units, times = array["unit"], array["timestamp"]
    if len(array) and (
        units.min() < 0 or units.max() >= expected or (times[1:] < times[:-1]).any()
    ):
        raise NodeError(
            node.name,
            f"spikes of units {units.min()} to {units.max()} of {expected}, or not in time order: "
            "the node before is wrong",
            span=span_of(packet),
        )
