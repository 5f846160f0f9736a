"""A branch that hardly ever says anything."""

from collections.abc import Iterator

from streamflow import In, Node, Out, Packet, Settings, Table
from streamflow.node import Emission


class OneInSettings(Settings, frozen=True, kw_only=True):
    """One packet in `k` goes on."""

    k: int = 1000


class OneIn(Node[OneInSettings], stateless=True):
    """Packets whose number is a multiple of `k`."""

    rows = In(Table)
    some = Out(Table)

    def on_rows(self, packet: Packet[Table]) -> Iterator[Emission]:
        if packet.start // 1000 % self.settings.k == 0:
            yield self.some(packet.data, packet.start, packet.stop)
