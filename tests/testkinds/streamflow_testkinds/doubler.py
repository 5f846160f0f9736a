"""A stateless processor."""

from collections.abc import Iterator

from streamflow import In, Node, Out, Packet, Settings, Table
from streamflow.node import Emission


class DoublerSettings(Settings, frozen=True, kw_only=True):
    """The factor."""

    factor: int = 2


class Doubler(Node[DoublerSettings], stateless=True):
    """Each packet with `n` doubled."""

    rows = In(Table)
    doubled = Out(Table)

    def on_rows(self, packet: Packet[Table]) -> Iterator[Emission]:
        rows = packet.data.array.copy()
        rows["n"] *= self.settings.factor
        yield self.doubled(Table(rows), packet.start, packet.stop)
