"""Many small packets, as fast as they are taken or at a rate."""

from __future__ import annotations

import time

from streamflow import Node, Out, Settings, Tensor
from streamflow.node import Emissions, Positive

from .._load import payload


class ManySourceSettings(Settings, frozen=True, kw_only=True):
    """How many packets of how many bytes, and how many a second (0: as fast as they are taken)."""

    packets: Positive
    size: Positive = 64
    rate: float = 0.0


class ManySource(Node[ManySourceSettings]):
    """`packets` tensors of bytes, each spanning one microsecond. Keeps no state."""

    data = Out(Tensor)

    def produce(self) -> Emissions:
        array = payload(self.settings.size)
        began = time.monotonic()
        for start in range(self.settings.packets):
            if self.settings.rate:
                time.sleep(max(0.0, began + start / self.settings.rate - time.monotonic()))
            if self.clock.stopped:
                return
            yield self.data(Tensor(array, ("byte",)), start, start + 1)
