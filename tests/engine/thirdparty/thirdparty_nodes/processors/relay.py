"""A processor."""

from __future__ import annotations

from streamflow import In, Node, Out, Packet, Settings, Tensor
from streamflow.node import Emissions


class Relay(Node[Settings], stateless=True):
    """What comes in."""

    values = In(Tensor)
    passed = Out(Tensor)

    def on_values(self, packet: Packet[Tensor]) -> Emissions:
        yield self.passed(packet.data, packet.start, packet.stop)
