"""What a worker tells on its board: every counter, latencies, how long its edges were full."""

from __future__ import annotations

import time

from .memory import Board, Histogram
from .metrics import FAULTS, NODE, Layout
from .runner import Feed, Local
from .snapshots import Snapshots
from .wiring import Wiring

REFRESH_S = 0.1  # how old the counters on the board may get where no commit is due
# How old the histograms may get: to enter many latencies costs little more than to enter one.
LATENCIES_S = 0.25


class Accounts:
    """The accounts of one process."""

    def __init__(
        self, wiring: Wiring, board: Board, layout: Layout, snapshots: Snapshots, incarnation: int
    ) -> None:
        self.full_since: dict[str, int] = {}  # edges that are full, and since when (ns)
        self.blocked = dict.fromkeys(wiring.out_links, 0)  # how long edges were full (ns)
        self._wiring, self._board, self._offsets = wiring, board, layout.offsets
        self._snapshots, self._incarnation = snapshots, incarnation
        self._latencies: list[tuple[list[int], Histogram]] = []  # ns, not in the histogram yet
        self._latencies_at = 0.0
        ends: list[Feed | Local] = [*wiring.feeds.values(), *wiring.locals.values()]
        for end in ends:
            taken: list[int] = []
            end.latency = taken.append  # a tenth of what the histogram itself costs
            self._latencies.append((taken, board.histogram(layout.histograms[end.name])))

    def note_blocked(self) -> None:
        """Note since when each lossless edge is full."""
        since = self.full_since
        for name, (link, _output) in self._wiring.out_links.items():
            if name not in since and not link.sender.room():
                since[name] = time.monotonic_ns()

    def note_freed(self, *, so_far: bool = False) -> None:
        """Add up how long edges were full that are no longer; `so_far`, also of those that are."""
        for name in list(self.full_since):
            is_full = not self._wiring.out_links[name][0].sender.room()
            if so_far or not is_full:
                now = time.monotonic_ns()
                self.blocked[name] += now - self.full_since.pop(name)
                if is_full:
                    self.full_since[name] = now

    def enter_latencies(self) -> None:
        """Bring the histograms up to date."""
        for taken, histogram in self._latencies:
            if taken:
                histogram.extend(taken)
                taken.clear()

    def write(self, captured: int) -> float:
        """Bring the board up to date; until when (monotonic s) that will do.

        `captured` is when the data that is being handled was captured (monotonic ns).
        """
        write, offsets, wiring = self._board.write, self._offsets, self._wiring
        now = time.monotonic()
        if now >= self._latencies_at:
            self._latencies_at = now + LATENCIES_S
            self.enter_latencies()
        if self.full_since:
            self.note_freed(so_far=True)
        snapshots = self._snapshots
        write(
            0, snapshots.half, snapshots.bytes, snapshots.commits, self._incarnation, captured,
        )  # fmt: skip
        for runner in wiring.runners:
            at = offsets["node", runner.node.name]
            write(
                at, runner.packets_in, runner.packets_out, runner.items_in, runner.items_out,
                runner.state_lost, runner.time, runner.finished,
                -1 if runner.node.progress is None else int(1000 * runner.node.progress),
            )  # fmt: skip
            if runner.node.fault_counts:
                write(at + len(NODE), *list(runner.node.fault_counts.values())[:FAULTS])
        for name, link in wiring.in_links.items():
            r = link.receiver
            write(
                offsets["in", name], r.received, r.handled, r.duplicates, r.handled_items,
                r.received_through,
                r.handled_through, r.watermark, r.ended and r.handled_through == r.received_through,
                link.bytes,
            )  # fmt: skip
        for name, (out, _output) in wiring.out_links.items():
            s = out.sender
            write(
                offsets["out", name], s.produced, s.produced_items, s.acknowledged,
                s.acknowledged_items, s.dropped,
                s.dropped_items, s.lost, s.lost_items, s.in_flight,
                len(s.waiting), s.waiting_max, self.blocked[name], out.bytes, out.watermark,
                out.sent_bytes, out.sent_plain,
            )  # fmt: skip
        for name, local in wiring.locals.items():
            write(
                offsets["local", name], local.produced, local.produced_items, local.handled,
                local.handled_items,
                local.bytes, local.watermark, local.ended, local.waiting_max,
            )  # fmt: skip
        for name, output in wiring.outputs.items():
            write(offsets["output", name], output.sequence, output.items)
        self._board.commit()
        return now + REFRESH_S
