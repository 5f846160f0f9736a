"""A processor with several inputs, one of them optional."""

from __future__ import annotations

from streamflow import In, Node, Out, Packet, Settings, Tensor
from streamflow.node import Emissions


class Joiner(Node[Settings], stateless=True):
    """What comes in, from anywhere."""

    first = In(Tensor)
    second = In(Tensor)
    third = In(Tensor, optional=True)
    joined = Out(Tensor)
    rejected = Out(Tensor)

    def on_first(self, packet: Packet[Tensor]) -> Emissions:
        yield self.joined(packet.data, packet.start, packet.stop)

    on_second = on_first
    on_third = on_first
