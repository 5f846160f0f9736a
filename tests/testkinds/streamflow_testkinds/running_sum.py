"""A processor whose state survives."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow import In, Node, Out, Packet, Settings, Table
from streamflow.node import Emission


class RunningSumSettings(Settings, frozen=True, kw_only=True):
    """`ballast` bytes of state, so that snapshots cost something."""

    ballast: int = 0


class RunningSum(Node[RunningSumSettings]):
    """Each packet with `t` replaced by the sum of all `n` so far."""

    rows = In(Table)
    summed = Out(Table)

    def open(self) -> None:
        self.total = 0
        self.ballast = np.zeros(self.settings.ballast, np.uint8)

    def on_rows(self, packet: Packet[Table]) -> Iterator[Emission]:
        rows = packet.data.array.copy()
        rows["t"] = self.total + np.cumsum(rows["n"])
        self.total = int(rows["t"][-1])
        yield self.summed(Table(rows), packet.start, packet.stop)

    def snapshot(self) -> dict[str, Any]:
        return {"total": self.total, "ballast": self.ballast}

    def restore(self, state: dict[str, Any]) -> None:
        self.total = state["total"]
