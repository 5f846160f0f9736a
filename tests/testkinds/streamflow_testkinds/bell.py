"""A processor that speaks when time has passed."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow import In, Node, Out, Packet, Settings, Table
from streamflow.node import Emission

from .number_source import ROW


class BellSettings(Settings, frozen=True, kw_only=True):
    """How old (us) a row must be to go; `ballast` bytes of state, so that snapshots cost."""

    delay: int = 3000
    ballast: int = 0


class Bell(Node[BellSettings]):
    """Each row once it is `delay` old: how many go in one packet depends on who asks when."""

    rows = In(Table)
    rung = Out(Table)

    def open(self) -> None:
        self.held = np.empty(0, ROW)
        self.ballast = np.zeros(self.settings.ballast, np.uint8)

    def on_rows(self, packet: Packet[Table]) -> None:
        self.held = np.concatenate([self.held, packet.data.array])
        self.holds_from = int(self.held["t"][0])

    def advance(self, time: int) -> Iterator[Emission]:
        yield from self._ring(int(np.count_nonzero(self.held["t"] + self.settings.delay <= time)))

    def finish(self) -> Iterator[Emission]:
        yield from self._ring(len(self.held))

    def _ring(self, count: int) -> Iterator[Emission]:
        old, self.held = self.held[:count].copy(), self.held[count:].copy()
        if count:
            yield self.rung(Table(old), int(old["t"][0]), int(old["t"][-1]))
        self.holds_from = int(self.held["t"][0]) if len(self.held) else None

    def snapshot(self) -> dict[str, Any]:
        return {"held": self.held, "ballast": self.ballast}

    def restore(self, state: dict[str, Any]) -> None:
        self.held = state["held"]
        self.holds_from = int(self.held["t"][0]) if len(self.held) else None
