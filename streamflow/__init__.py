"""Live graphs of event cameras, microphones, spiking networks and neuromorphic sinks."""

from .errors import (
    DeviceError,
    GraphError,
    NodeError,
    PacketError,
    StreamflowError,
    TransportError,
)
from .node import In, Node, Out, Settings
from .packet import EVENT, SPIKE, Events, Packet, Payload, Samples, Spikes, Table, Tensor, Text

__version__ = "0.1.0"

__all__ = [
    "EVENT",
    "SPIKE",
    "DeviceError",
    "Events",
    "GraphError",
    "In",
    "Node",
    "NodeError",
    "Out",
    "Packet",
    "PacketError",
    "Payload",
    "Samples",
    "Settings",
    "Spikes",
    "StreamflowError",
    "Table",
    "Tensor",
    "Text",
    "TransportError",
]  # fmt: skip
