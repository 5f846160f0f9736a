"""A source."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streamflow import Node, Out, Settings, Tensor
from streamflow.node import Emission, FilePath, Positive, Seconds


class RampSettings(Settings, frozen=True, kw_only=True):
    """What to make."""

    count: Positive = 10  # packets until the stream ends
    step: Seconds = 0.001
    """Stream time of a packet."""
    path: FilePath | None = None
    label: str = "x"


class Ramp(Node[RampSettings]):
    """Numbers that rise by one. Nothing else."""

    values = Out(Tensor)

    def produce(self) -> Iterator[Emission]:
        for i in range(self.settings.count):
            yield self.values(Tensor(np.full(4, i, np.float32), ("channel",)), i, i + 1)
