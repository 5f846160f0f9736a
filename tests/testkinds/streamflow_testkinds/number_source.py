"""A source of numbered rows."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow import Node, Out, Settings, Table
from streamflow.node import Emission

ROW = np.dtype([("n", "<i8"), ("t", "<i8")])


class NumberSourceSettings(Settings, frozen=True, kw_only=True):
    """How many packets, how many rows in each, and how long (s) the device takes for one.

    A packet starts every `step` us and covers `length` us (0: all of its step). `silent_after` that
    many packets the device says nothing more, and does not end.
    """

    count: int = 1000
    rows: int = 3
    delay: float = 0.0
    filler: int = 0  # further rows' worth of bytes, to leave the inline path
    step: int = 1000
    length: int = 0
    silent_after: int = -1


class NumberSource(Node[NumberSourceSettings]):
    """Rows n = 0, 1, 2, ... in `count` packets of `rows`; stream time 1 ms a packet by default."""

    rows = Out(Table)

    def open(self) -> None:
        self.at = 0

    def produce(self) -> Iterator[Emission]:
        settings = self.settings
        while self.at < settings.count:
            at = self.at
            rows = np.zeros(settings.rows + settings.filler, ROW)
            rows["n"][: settings.rows] = np.arange(at * settings.rows, (at + 1) * settings.rows)
            rows["n"][settings.rows :] = -1
            rows["t"] = at * settings.step
            if at == settings.silent_after:
                self.clock._stopped.wait()
            self.at += 1
            if settings.delay:
                self.clock._stopped.wait(settings.delay)
            if self.clock.stopped:
                return
            start = at * settings.step
            yield self.rows(Table(rows), start, start + (settings.length or settings.step))

    def snapshot(self) -> dict[str, Any]:
        return {"at": self.at}

    def restore(self, state: dict[str, Any]) -> None:
        self.at = state["at"]
