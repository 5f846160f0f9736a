"""A processor that speaks at the end."""

from collections.abc import Iterator

import numpy as np

from streamflow import In, Node, Out, Packet, Settings, Table
from streamflow.node import Emission

from .number_source import ROW


class LastWordSettings(Settings, frozen=True, kw_only=True):
    """Nothing to set."""


class LastWord(Node[LastWordSettings], stateless=True):
    """One row when the stream has ended."""

    rows = In(Table)
    word = Out(Table)

    def on_rows(self, packet: Packet[Table]) -> None:
        pass

    def finish(self) -> Iterator[Emission]:
        yield self.word(Table(np.zeros(1, ROW)), 0, 0)
