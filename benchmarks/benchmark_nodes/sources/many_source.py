"""Many small packets, as fast as they are taken."""

from __future__ import annotations

from streamflow import Node, Out, Settings, Tensor
from streamflow.node import Emissions, Positive

from .._load import payload


class ManySourceSettings(Settings, frozen=True, kw_only=True):
    """How many packets of how many bytes."""

    packets: Positive
    size: Positive = 64


class ManySource(Node[ManySourceSettings]):
    """`packets` tensors of bytes, each spanning one microsecond. Keeps no state."""

    data = Out(Tensor)

    def produce(self) -> Emissions:
        array = payload(self.settings.size)
        for start in range(self.settings.packets):
            yield self.data(Tensor(array, ("byte",)), start, start + 1)
