"""A processor that holds back a lot."""

from collections.abc import Iterator
from typing import Any

from streamflow import In, Node, Out, Packet, Settings, Table
from streamflow.node import Emission


class HoardSettings(Settings, frozen=True, kw_only=True):
    """How many packets are held until all of them go."""

    size: int = 1000


class Hoard(Node[HoardSettings]):
    """The packets that came in, `size` at a time, and what is left at the end."""

    rows = In(Table)
    hoarded = Out(Table)

    def open(self) -> None:
        self.held: list[Packet[Any]] = []

    def on_rows(self, packet: Packet[Table]) -> Iterator[Emission]:
        rows = Table(packet.data.array.copy())
        self.held.append(Packet(packet.start, packet.stop, rows))
        self.holds_from = self.held[0].start
        if len(self.held) == self.settings.size:
            yield from self.finish()

    def finish(self) -> Iterator[Emission]:
        for packet in self.held:
            yield self.hoarded(packet.data, packet.start, packet.stop)
        self.held, self.holds_from = [], None
