"""Takes back what a predecessor of this process had committed: counters, states, what waited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .accounts import Accounts
from .edge import ENDED, NEVER
from .metrics import Layout
from .packet import decode
from .producer_end import Output
from .runner import Feed, Local, Runner
from .snapshots import Running, Snapshots
from .wiring import Wiring


class Recovery:
    """What the last commit says: the words of the board, laid out as `layout` says."""

    def __init__(self, wiring: Wiring, layout: Layout, words: Sequence[int]) -> None:
        self._wiring, self._layout, self._words = wiring, layout, words
        self._process = layout.read(words, "process", "process")
        self._committed = bool(self._process["commits"])  # else stream time is as at the start

    def recover(self, snapshots: Snapshots, accounts: Accounts, running: Running) -> int:
        """Go on from there; when the data that was handled last was captured (monotonic ns)."""
        snapshots.half = self._process["snapshot_half"]
        snapshots.bytes = self._process["snapshot_bytes"]
        snapshots.commits = self._process["commits"]
        state, waiting = snapshots.read()
        for runner in self._wiring.runners:
            self._recover_node(runner, state, running)
        for name, feed in self._wiring.feeds.items():
            self._recover_in(name, feed)
        for name, output in self._wiring.outputs.items():
            self._recover_output(name, output, accounts.blocked)
        for name, local in self._wiring.locals.items():
            self._recover_local(name, local, waiting.get(name, []))
        return self._process["captured"]

    def _recover_node(self, runner: Runner, state: dict[str, Any], running: Running) -> None:
        node = runner.node
        counts = self._layout.read(self._words, "node", node.name)
        for name in ("packets_in", "packets_out", "items_in", "items_out", "state_lost"):
            setattr(runner, name, counts[name])
        runner.finished = bool(counts["finished"])
        runner.time = counts["time"] if self._committed else NEVER
        names = list(node.fault_counts)
        node.fault_counts.update(self._layout.read_faults(self._words, node.name, names))
        if node.name in state:
            with running(runner, "restore"):
                node.restore(state[node.name])
            if runner.source is not None:
                runner.source.state = state[node.name]
        elif not (type(node).stateless or type(node).is_snapshotting()):
            runner.state_lost += bool(runner.packets_in or runner.packets_out)

    def _recover_local(self, name: str, local: Local, waiting: list[bytes]) -> None:
        counts = self._layout.read(self._words, "local", name)
        local.produced, local.produced_items = counts["produced"], counts["produced_items"]
        local.handled, local.handled_items = counts["handled"], counts["handled_items"]
        local.bytes, local.waiting_max = counts["bytes"], counts["waiting_max"]
        target = local.target
        payload = type(target.node).inputs[target.ports[local.port]].payload
        for frame in waiting:
            packet = decode(frame, payload)
            target.order.push(local.port, packet.start, (local, packet))
        if self._committed:
            local.watermark, local.ended = counts["watermark"], bool(counts["ended"])
            local.route.watermark = max(local.route.watermark, local.watermark)
            target.order.advance(local.port, ENDED if local.ended else local.watermark)

    def _recover_in(self, name: str, feed: Feed) -> None:
        counts = self._layout.read(self._words, "in", name)
        link, order = feed.link, feed.runner.order
        receiver = link.receiver
        receiver.handled, receiver.duplicates = counts["handled"], counts["duplicates"]
        receiver.received = receiver.handled + receiver.duplicates
        receiver.handled_items = counts["handled_items"]
        receiver.handled_through = receiver.received_through = counts["handled_through"]
        receiver.ended = bool(counts["ended"])
        link.bytes = counts["bytes"]
        if self._committed:
            receiver.watermark = counts["watermark"]
            order.advance(feed.port, ENDED if receiver.ended else receiver.watermark)

    def _recover_output(self, name: str, output: Output, blocked: dict[str, int]) -> None:
        counts, route = self._layout.read(self._words, "output", name), self._wiring.routes[name]
        dropped = []
        for edge, (link, owner) in self._wiring.out_links.items():
            if owner is not output:
                continue
            out = self._layout.read(self._words, "out", edge)
            dropped.append((out["dropped"], out["dropped_items"]))
            link.bytes, link.sender.waiting_max = out["bytes"], out["waiting_max"]
            link.sent_bytes, link.sent_plain = out["sent_bytes"], out["sent_plain"]
            blocked[edge] = out["blocked_ns"]
            if self._committed:
                link.watermark = route.watermark = out["watermark"]
        made = counts["sequence"], counts["items"]
        if not route.runner.repeats:
            # what comes next is not what a consumer has seen under the numbers that follow
            made = max(made, output.segment.published)
        output.recover(*made, dropped)
