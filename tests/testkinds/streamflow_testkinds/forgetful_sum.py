"""A processor whose state does not survive."""

from collections.abc import Iterator

from streamflow import In, Node, Out, Packet, Settings, Table
from streamflow.node import Emission


class ForgetfulSumSettings(Settings, frozen=True, kw_only=True):
    """Nothing to set."""


class ForgetfulSum(Node[ForgetfulSumSettings]):
    """Each packet with `t` replaced by how many packets have come since the start."""

    rows = In(Table)
    counted = Out(Table)

    def open(self) -> None:
        self.count = 0

    def on_rows(self, packet: Packet[Table]) -> Iterator[Emission]:
        self.count += 1
        rows = packet.data.array.copy()
        rows["t"] = self.count
        yield self.counted(Table(rows), packet.start, packet.stop)
