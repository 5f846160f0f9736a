"""A sink that adds up."""

from typing import Any

from streamflow import In, Node, Packet, Settings, Table


class RowTotalSettings(Settings, frozen=True, kw_only=True):
    """How long (s) a packet takes; how many packets are kept as views."""

    delay: float = 0.0
    keep: int = 0


class RowTotal(Node[RowTotalSettings]):
    """Counts packets and rows, adds up `n`, and tells whether `n` came in order without a gap."""

    rows = In(Table)

    def open(self) -> None:
        self.sum = self.count = self.packets = 0
        self.expected, self.gaps = 0, 0
        self.kept: list[Any] = []

    def on_rows(self, packet: Packet[Table]) -> None:
        rows = packet.data.array
        if self.settings.delay:
            self.clock._stopped.wait(self.settings.delay)
        real = rows["n"][rows["n"] >= 0]
        self.sum += int(real.sum())
        self.count += len(real)
        self.packets += 1
        self.gaps += bool(len(real)) and int(real[0]) != self.expected
        self.expected = int(real[-1]) + 1 if len(real) else self.expected
        if self.settings.keep:
            self.kept = [*self.kept, rows][-self.settings.keep :]

    def results(self) -> dict[str, Any]:
        return {
            "sum": self.sum, "count": self.count, "packets": self.packets, "gaps": self.gaps,
            "kept": [int(rows["n"][0]) for rows in self.kept],
        }  # fmt: skip

    def snapshot(self) -> dict[str, Any]:
        return {"words": [self.sum, self.count, self.packets, self.expected, self.gaps]}

    def restore(self, state: dict[str, Any]) -> None:
        self.sum, self.count, self.packets, self.expected, self.gaps = state["words"]
