"""Packets of several sizes: paced ones, then as many as the edge takes."""

from __future__ import annotations

import time

from streamflow import Node, Out, Settings, Tensor
from streamflow.node import Emissions, Seconds

from .._load import messages, payload


class LoadSourceSettings(Settings, frozen=True, kw_only=True):
    """`sizes` in bytes, one after the other; `seconds` for each of a size's two parts."""

    sizes: list[int]
    seconds: Seconds


class LoadSource(Node[LoadSourceSettings]):
    """Tensors of bytes whose span [start, stop) has `phase + 1` us: see `_load`. Keeps no state."""

    data = Out(Tensor)

    def produce(self) -> Emissions:
        start = 0
        for size in self.settings.sizes:
            array = payload(size)
            for phase in messages(size, self.settings.seconds):
                stop = start + phase + 1
                yield self.data(Tensor(array, ("byte",)), start, stop, time.monotonic_ns())
                start = stop
            time.sleep(0.05)  # the next size begins on an empty edge
