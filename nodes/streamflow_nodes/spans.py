"""Spans of stream time: in settings, and in messages about a packet."""

from __future__ import annotations

from typing import Any

from streamflow.errors import NodeError
from streamflow.node import Node
from streamflow.packet import Packet


def microseconds(node: Node[Any], setting: str, seconds: float) -> int:
    """The setting in whole microseconds; NodeError when it is shorter than one or endless."""
    if not 0.5e-6 < seconds < 1e12:
        raise NodeError(
            node.name,
            f"settings: {setting} is {seconds} s; expected at least one microsecond (stream time's "
            "unit) and less than 1e12 s",
        )
    return round(seconds * 1e6)


def span_of(packet: Packet[Any]) -> str:
    """Where a packet lies in the stream, for messages."""
    return f"packet [{packet.start}, {packet.stop}) us"
