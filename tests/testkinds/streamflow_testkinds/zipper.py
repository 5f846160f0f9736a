"""A node with two inputs."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow import In, Node, Out, Packet, Settings, Table
from streamflow.node import Emission


class ZipperSettings(Settings, frozen=True, kw_only=True):
    """Nothing to set."""


class Zipper(Node[ZipperSettings], stateless=True):
    """Both inputs as one, `t` saying which (0 first, 1 second), in the order they were given."""

    first = In(Table)
    second = In(Table)
    both = Out(Table)

    def on_first(self, packet: Packet[Table]) -> Iterator[Emission]:
        yield self._mark(packet, 0)

    def on_second(self, packet: Packet[Table]) -> Iterator[Emission]:
        yield self._mark(packet, 1)

    def _mark(self, packet: Packet[Any], which: int) -> Emission:
        rows: np.ndarray[Any, Any] = packet.data.array.copy()
        rows["t"] = which
        return self.both(Table(rows), packet.start, packet.stop)
