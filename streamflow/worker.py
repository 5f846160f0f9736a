"""One process of a run: its nodes and its loop.

The loop is single-threaded: it waits for edges, for the supervisor, and for the sources' own
threads; hands packets to nodes in stream-time order; and, after every packet, commits. A packet's
outputs are written to shared memory, then the commit makes them, the counters and the snapshot one
whole, then the outputs are sent and the input's credit goes back. A process that dies anywhere in
between is continued by its successor from the last commit.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import platform
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from . import __version__
from .clock import Clock
from .compilation import no_compilation
from .control import PROTOCOL, Control, Message
from .dead_letters import keep
from .edge import ENDED, NEVER
from .errors import NodeError, StreamflowError
from .kinds import kinds, node_class
from .memory import Board, Histogram, Segment, Vault, decode_state, encode_state
from .metrics import FAULTS, NODE, VERBS, Layout
from .network import Gate, Joiner, Keys, Listener, Security
from .node import Emission, check_emission
from .packet import Packet, decode, encode
from .runner import Feed, Local, Route, Runner, Source
from .transport import Channel, Context, Gap, InLink, OutLink, Output, Poll

IDLE_MS = 200  # the loop wakes at least this often, to show that it lives
REFRESH_S = 0.05  # how old the counters on the board may get where no commit is due
SNAPSHOT_SHARE = 20  # snapshots take at most 1/20 of the time
BATCH = 16  # packets of a node or an edge before the loop looks at the others
CREDIT_S = 0.02  # how late less than half a window of credits may leave a process that sleeps
TICK_S = 0.001  # how late a mere tick of stream time may leave a process that has packets to handle
ERRORS = "errors"  # the fault of a node that goes on after its handler raised
BACKWARD = "time_backward"  # the fault of a device whose clock began again with its process


class Worker:
    """One process of a run."""

    def __init__(self, control: Control, plan: Message) -> None:
        self.control, self.plan = control, plan
        self.process: str = plan["process"]
        self.directory = Path(plan["directory"])
        self.incarnation: int = plan["incarnation"]
        self.keeps = plan["restart"] == "on_failure"
        self.inline_bytes: int = plan["limits"]["inline_bytes"]
        self.clock = Clock(plan["clock"], plan["speed"])
        self.context: Context | None = None
        self.poll = Poll()
        self.runners: list[Runner] = []
        self.by_name: dict[str, Runner] = {}
        self.in_links: dict[str, InLink] = {}
        self.feeds: dict[str, Feed] = {}
        self.out_links: dict[str, tuple[OutLink, Output]] = {}
        self.outputs: dict[str, Output] = {}
        self.locals: dict[str, Local] = {}
        self._heard: set[str] = set()
        self._dirty: list[Route] = []  # with something to send
        self._late: list[Route] = []  # whose stream time has advanced, without a packet
        self._tick_at = 0.0
        self._credit_due = math.inf
        self._waiting: list[Runner] = []  # whose handlers gave more than their edges take
        self._routes: dict[str, Route] = {}
        self._captured = 0
        self._commit_due = 0.0
        self._snapshot_half = self._snapshot_bytes = self._commits = 0
        self._board_at = self._latencies_at = 0.0
        self._latencies: list[tuple[list[int], Histogram]] = []  # ns, not in the histogram yet
        self._uncommitted = False
        self._finished_said = False
        self._closing = False
        self._started = False
        self._blocked: dict[str, int] = {}
        self._blocked_since: dict[str, int] = {}
        self._emitted_by_time = False
        self._handled = 0  # packets that had waited and were given to a node
        self._told_backward = False
        self._inside = (0, 0)  # the node that is busy (1 for the first) and its port; none: 0
        self._generation: dict[str, int] = {}  # of each edge's connection
        self._gate: Gate | None = None

    # --- building -----------------------------------------------------------------------------

    def build(self) -> None:
        """Make the nodes and their edges, and take over from a predecessor if there was one."""
        plan, fds = self.plan, list(self.plan["fds"])
        board_fd, vault_fd = fds.pop(0), fds.pop(0)
        self._make_nodes()
        for index, words in enumerate(plan["outputs"]):
            self._make_output(words, fds[index])
        memories = iter(fds[len(plan["outputs"]) :])
        for words in plan["ins"]:
            self._make_in_link(words, None if words["far"] else next(memories))
        for words in plan["locals"]:
            self._make_local(words)
        self.layout = Layout(
            [runner.node.name for runner in self.runners], list(self.in_links),
            list(self.out_links), list(self.locals), list(self.outputs),
        )  # fmt: skip
        histograms = self.layout.histograms
        self.board = Board(board_fd, self.layout.words, histograms=len(histograms), writable=True)
        self._busy = self.board.busy
        self.vault = Vault(vault_fd, writable=True)
        ends: list[Feed | Local] = [*self.feeds.values(), *self.locals.values()]
        for end in ends:
            taken: list[int] = []
            end.latency = taken.append  # a tenth of what the histogram itself costs
            self._latencies.append((taken, self.board.histogram(histograms[end.name])))
        for fd in fds:
            os.close(fd)
        os.close(board_fd)
        os.close(vault_fd)
        self._find_reach()
        self._snapshots = [
            runner for runner in self.runners
            if self.keeps and type(runner.node).is_snapshotting()
        ]  # fmt: skip
        self._repeats = all(runner.repeats for runner in self.runners)
        self.board.say(Board.INCARNATION, self.incarnation)

    def _make_nodes(self) -> None:
        known = kinds()
        for words in self.plan["nodes"]:
            name, kind = words["name"], words["kind"]
            try:
                node = node_class(kind, known)(words["settings"], name=name)
            except StreamflowError:
                raise
            except Exception as error:
                raise NodeError(name, f"could not be made: {error}", kind=kind) from error
            node.clock = self.clock
            runner = Runner(len(self.runners), node, kind, words["inputs"], words["on_error"])
            if runner.on_error != "stop":
                node.fault_counts.setdefault(ERRORS, 0)
            for port, declared in type(node).outputs.items():
                route = Route(runner, port, declared.payload)
                runner.routes[port] = self._routes[route.name] = route
                runner.ways.append(route)
            if type(node).is_source():
                runner.source = Source(runner, self.keeps and type(node).is_snapshotting())
                if self.keeps and not type(node).is_snapshotting():
                    node.fault_counts.setdefault(BACKWARD, 0)
            self.runners.append(runner)
            self.by_name[name] = runner

    def _make_output(self, words: Message, fd: int) -> None:
        segment = Segment(fd, words["slots"], words["slot_size"], writable=True)
        links = []
        for link_words in words["links"]:
            link = OutLink(
                link_words["policy"], link_words["capacity"], link_words["window"],
                link_words["far"],
            )  # fmt: skip
            links.append(link)
            self._blocked[link_words["edge"]] = 0
        output = Output(segment, links, self.inline_bytes, recoverable=self.keeps)
        for link_words, link in zip(words["links"], links, strict=True):
            self.out_links[link_words["edge"]] = (link, output)
        self.outputs[words["name"]] = output
        route = self._routes[words["name"]]
        route.output, route.links = output, links

    def _make_in_link(self, words: Message, fd: int | None) -> None:
        segment = None
        if fd is not None:
            segment = Segment(fd, words["slots"], words["slot_size"], writable=False)
        runner = self.by_name[words["node"]]
        payload = type(runner.node).inputs[words["port"]].payload
        node_type = type(runner.node)
        heeds = bool(node_type.outputs) or len(runner.ports) > 1 or runner.advances
        link = InLink(
            payload, words["window"], segment, heeds_time=heeds, lossless=words["lossless"]
        )
        self.in_links[words["edge"]] = link
        port = runner.ports.index(words["port"])
        self.feeds[words["edge"]] = Feed(words["edge"], link, runner, port)

    def _make_local(self, words: Message) -> None:
        target = self.by_name[words["node"]]
        route, port = self._routes[words["output"]], target.ports.index(words["input"])
        local = Local(words["edge"], route, target, port, words["capacity"])
        route.locals.append(local)
        self.locals[words["edge"]] = local

    def _find_reach(self) -> None:
        """For each node, the outputs and inner edges that may fill while it handles a packet."""
        for runner in self.runners:
            for route in runner.routes.values():
                for local in route.locals:
                    local.target.repeats &= runner.repeats
        for runner in reversed(self.runners):  # in topological order, so targets come first
            reach: dict[int, Output | Local] = {}
            for route in runner.routes.values():
                if route.output is not None:
                    reach[id(route.output)] = route.output
                    if not route.locals and runner.source is None:
                        # a loan lies in the edge's memory; a source fills it in another thread,
                        # and a consumer in this process would look at memory that is reused
                        runner.node.__dict__[route.port].lender = route.output.loan
                for local in route.locals:
                    runner.below |= {local.target.index} | local.target.below
                    reach.update({id(output): output for output in local.target.reach})
                    if len(local.target.ports) > 1:
                        reach[id(local)] = local
            runner.reach = list(reach.values())

    def open(self) -> None:
        """Open every node, then take back what a predecessor had committed."""
        self.board.say(Board.PHASE, 1)
        for runner in self.runners:
            with self._running(runner, "open"):
                runner.node.open()
        if self.incarnation:
            self._recover()
        self.board.say(Board.PHASE, 2)

    def _recover(self) -> None:
        self.board.recover()
        words, layout = self.board.live.tolist(), self.layout
        process = layout.read(words, "process", "process")
        self._snapshot_half, self._snapshot_bytes = (
            process["snapshot_half"], process["snapshot_bytes"],
        )  # fmt: skip
        self._commits, self._captured = process["commits"], process["captured"]
        state: dict[str, Any] = {}
        waiting: dict[str, list[bytes]] = {}
        if self._snapshot_bytes:
            kept = decode_state(self.vault.read(self._snapshot_half, self._snapshot_bytes))
            state, waiting = kept["nodes"], kept["waiting"]
        for runner in self.runners:
            counts = layout.read(words, "node", runner.node.name)
            for name in ("packets_in", "packets_out", "items_in", "items_out", "state_lost"):
                setattr(runner, name, counts[name])
            runner.finished = bool(counts["finished"])
            runner.time = counts["time"] if self._commits else NEVER
            names = list(runner.node.fault_counts)
            runner.node.fault_counts.update(layout.read_faults(words, runner.node.name, names))
            if runner.node.name in state:
                with self._running(runner, "restore"):
                    runner.node.restore(state[runner.node.name])
                if runner.source is not None:
                    runner.source.state = state[runner.node.name]
            elif not (type(runner.node).stateless or type(runner.node).is_snapshotting()):
                runner.state_lost += bool(runner.packets_in or runner.packets_out)
        for name, feed in self.feeds.items():
            self._recover_in(layout.read(words, "in", name), feed)
        for name, output in self.outputs.items():
            self._recover_output(words, name, output)
        for name, local in self.locals.items():
            self._recover_local(layout.read(words, "local", name), local, waiting.get(name, []))
        for runner in self.runners:
            if runner.finished:
                for route in runner.ways:
                    self._mark(route)

    def _recover_local(self, counts: dict[str, int], local: Local, waiting: list[bytes]) -> None:
        local.produced, local.produced_items = counts["produced"], counts["produced_items"]
        local.handled, local.handled_items = counts["handled"], counts["handled_items"]
        local.bytes, local.waiting_max = counts["bytes"], counts["waiting_max"]
        target = local.target
        payload = type(target.node).inputs[target.ports[local.port]].payload
        for frame in waiting:
            packet = decode(frame, payload)
            target.order.push(local.port, packet.start, (local, packet))
        if self._commits:
            local.watermark, local.ended = counts["watermark"], bool(counts["ended"])
            local.route.watermark = max(local.route.watermark, local.watermark)
            target.order.advance(local.port, ENDED if local.ended else local.watermark)

    def _recover_in(self, counts: dict[str, int], feed: Feed) -> None:
        link, order = feed.link, feed.runner.order
        receiver = link.receiver
        receiver.handled, receiver.duplicates = counts["handled"], counts["duplicates"]
        receiver.received = receiver.handled + receiver.duplicates
        receiver.handled_items = counts["handled_items"]
        receiver.handled_through = receiver.received_through = counts["handled_through"]
        receiver.ended = bool(counts["ended"])
        link.bytes = counts["bytes"]
        if self._commits:
            receiver.watermark = counts["watermark"]
            order.advance(feed.port, ENDED if receiver.ended else receiver.watermark)

    def _recover_output(self, words: list[int], name: str, output: Output) -> None:
        counts = self.layout.read(words, "output", name)
        dropped = []
        for words_of in self.plan["outputs"]:
            if words_of["name"] == name:
                for link_words in words_of["links"]:
                    out = self.layout.read(words, "out", link_words["edge"])
                    dropped.append((out["dropped"], out["dropped_items"]))
                    link = self.out_links[link_words["edge"]][0]
                    link.bytes, link.sender.waiting_max = out["bytes"], out["waiting_max"]
                    link.sent_bytes, link.sent_plain = out["sent_bytes"], out["sent_plain"]
                    self._blocked[link_words["edge"]] = out["blocked_ns"]
                    if self._commits:
                        link.watermark = self._routes[name].watermark = out["watermark"]
        made = counts["sequence"], counts["items"]
        if not self._routes[name].runner.repeats:
            # what comes next is not what a consumer has seen under the numbers that follow
            made = max(made, output.segment.published)
        output.recover(*made, dropped)

    # --- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the supervisor says that everything is done."""
        self.context = Context()
        self.poll.add(self.control.fileno(), (self._obey, None))
        for runner in self.runners:
            if runner.source is not None:
                self.poll.add(runner.source.wake, (self._woken, runner.source))
        names = {runner.node.name: list(runner.node.fault_counts) for runner in self.runners}
        self.control.send("ready", faults=names)
        self._publish()  # a successor of a finished process ends its edges again
        with no_compilation():
            while not self._closing:
                if self._work():
                    now = time.monotonic()
                    if now >= self._tick_at:
                        self._tick_at = now + TICK_S
                        self._tick()
                    if now >= self._board_at:
                        self._refresh(between=True)
                    self._once(0)
                else:
                    self._once(self._pause())
        self._close()

    def _pause(self) -> int:
        """Milliseconds the loop may sleep; whatever is due before that is done now."""
        now = time.monotonic()
        if self._uncommitted and (not self.keeps or now >= self._commit_due):
            self._commit()
        elif now >= self._board_at:
            self._refresh(between=True)
        self._tick()
        wake = min(self._credit(now), self._commit_due if self._uncommitted else math.inf)
        self._say_finished()
        self.board.say(Board.WAITING, self._waits_for())
        return IDLE_MS if wake == math.inf else max(1, min(IDLE_MS, int(1000 * (wake - now))))

    def _credit(self, now: float) -> float:
        """Send credits before the process sleeps; when those that are still owed must go.

        Half a window of them may wait a little where the producer has the other half and nothing
        that arrived waits here: a message for each packet would wake it for nothing.
        """
        overdue = now >= self._credit_due
        owed = False
        for feed in self.feeds.values():
            link = feed.link
            link.credit(all_of_them=overdue or not (feed.runner.alone and link.may_owe))
            owed |= link.owes
        if not owed:
            self._credit_due = math.inf
        elif self._credit_due == math.inf or overdue:
            self._credit_due = now + CREDIT_S
        return self._credit_due

    def _waits_for(self) -> int:
        """What the board says of waiting: -1 for a device, n for edge n (from 1), 0 for nothing."""
        for runner in self.runners:
            if runner.source is not None and not runner.finished and runner.source.silent:
                return -1
        place = 0
        for link, output in self.out_links.values():
            place += 1
            if not link.sender.room() or not output.room():
                return place
        for local in self.locals.values():
            place += 1
            if not local.room():
                return place
        return 0

    def _once(self, milliseconds: int) -> None:
        """Wait for something to arrive and take it in."""
        # and that no node is busy, or that the one whose handler waits for room is not to blame
        self.board.alive(time.monotonic_ns(), *self._inside, 0)
        for take_in, what in self.poll.wait(milliseconds):
            take_in(what)

    def _woken(self, source: Source) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(source.wake)

    def _heard_from(self, name: str) -> None:
        """The consumer of an edge says something: credits, or that it is there."""
        link, output = self.out_links[name]
        link.receive(output)
        if link.sender.connected and name not in self._heard:
            self._heard.add(name)
            self.control.send("linked", edge=name, generation=self._generation[name])

    def _arrived(self, feed: Feed) -> None:
        """Take in what an edge brings; a node with one input is given it at once."""
        self._take_in(feed, BATCH if feed.runner.alone and not self._waiting else 0)

    def _take_in(self, feed: Feed, at_once: int) -> None:
        """Take in what has arrived: all of it, or, where packets are handled at once, so many."""
        link, runner, port = feed.link, feed.runner, feed.port
        order = runner.order
        try:
            for arrival in link.receive():
                if isinstance(arrival, int):
                    order.advance(port, arrival)
                    continue
                header = arrival.header
                link.bytes += header.nbytes
                order.push(port, header.start, (feed, arrival))
                order.advance(port, header.watermark)
                if at_once:
                    at_once -= 1
                    self._work_node(runner, 1)
                    if not at_once:
                        break  # others have waited; what is left is seen again
        except Gap:
            self._break(feed.name)
        if link.receiver.ended:
            order.end(port)

    def _work(self) -> bool:
        """Hand over what is ready; whether more is ready now."""
        more = blocked = False
        if self._blocked_since:
            self._note_freed()
        handled = self._handled
        for runner in self.runners:
            if runner.finished:
                continue
            if runner.source is not None:
                more |= self._work_source(runner)
                blocked |= bool(runner.source.ready)
            else:
                more |= self._work_node(runner, BATCH)
        # a source that was blocked by what a node further down has handled since can go on
        return more or (blocked and self._handled != handled)

    def _work_node(self, runner: Runner, most: int) -> bool:
        """Give a node up to so many packets; whether there may be more."""
        order = runner.order
        for _ in range(most):
            for place in runner.reach:
                if not place.room():
                    self._note_blocked()
                    return False
            item = order.pop()
            if item is None:
                if order.time > runner.time:  # or the stream has ended
                    self._settle(runner)
                    self._item_done()
                return False
            self._handle(runner, item[0], item[1])
            self._settle(runner)
            self._item_done()
        return True

    def _work_source(self, runner: Runner) -> bool:
        source = runner.source
        assert source is not None
        ready = source.ready
        for left in range(BATCH - 1, -1, -1):
            room = all(place.room() for place in runner.reach)
            if not ready or not room:
                if self._tell_time(runner):
                    self._item_done()
                if not room:
                    self._note_blocked()
                return False
            emission, error = source.take()
            if error is not None:
                raise self._node_error(runner, "produce", error) from error
            if emission is None:
                self._finish(runner)
            elif self._is_backward(runner, emission):
                continue
            else:
                self._captured = emission.packet.captured
                self._emit(runner, emission)
                self._source_time(runner, emission)
                if not left or not ready:  # else the next packet says it better
                    self._tell_time(runner)
            self._item_done()
            if runner.finished:
                return False
        return True

    def _is_backward(self, runner: Runner, emission: Emission) -> bool:
        """Whether a device that was opened again gives stream time that has passed; counted."""
        route = runner.routes.get(emission.port)
        faults = runner.node.fault_counts
        if not self.incarnation or runner.repeats or route is None:
            return False
        start = emission.packet.start
        if start >= route.watermark:
            return False
        if not self._told_backward:
            self._told_backward = True
            runner.node.log.warning(
                "node %r began again at stream time %d us, but %d us had passed: its packets are "
                "dropped until then, and counted as %s",
                runner.node.name, start, route.watermark, BACKWARD,
            )  # fmt: skip
        faults[BACKWARD] = faults.get(BACKWARD, 0) + 1
        return True

    def _source_time(self, runner: Runner, emission: Emission) -> None:
        """A source's packets are in order: this port is past the packet, the others are at it."""
        packet = emission.packet
        runner.time = packet.start
        for route in runner.ways:
            mark = packet.stop if route.port == emission.port else packet.start
            if mark > route.watermark:
                route.watermark = mark
                self._mark(route)

    def _tell_time(self, runner: Runner) -> bool:
        """Tell the nodes of this process how far their source is; whether that was new to them."""
        told = False
        for route in runner.ways:
            for local in route.locals:
                if route.watermark > local.watermark:
                    told = True
                    self._tell(local, route.watermark)
        return told

    def _note_blocked(self) -> None:
        """Note since when each lossless edge is full."""
        since = self._blocked_since
        for name, (link, _output) in self.out_links.items():
            if name not in since and not link.sender.room():
                since[name] = time.monotonic_ns()

    def _note_freed(self, *, so_far: bool = False) -> None:
        """Add up how long edges were full that are no longer; `so_far`, also of those that are."""
        for name in list(self._blocked_since):
            is_full = not self.out_links[name][0].sender.room()
            if so_far or not is_full:
                now = time.monotonic_ns()
                self._blocked[name] += now - self._blocked_since.pop(name)
                if is_full:
                    self._blocked_since[name] = now

    # --- handing over -------------------------------------------------------------------------

    def _handle(self, runner: Runner, port: int, item: Any) -> None:
        """Give one packet that had waited to a node, and its effects to the others here."""
        owner, arrival = item
        self._handled += 1
        if type(owner) is Feed:
            link, header = owner.link, arrival.header
            # the node alone holds the packet: a view that we held too would keep its slot
            self._give(runner, port, link.packet(arrival), header.items, owner)
            link.handled(arrival)
            if header.watermark > link.receiver.watermark:
                link.receiver.watermark = header.watermark
        else:
            items = len(arrival.data)
            self._give(runner, port, arrival, items, owner)
            owner.handled += 1
            owner.handled_items += items

    def _give(
        self, runner: Runner, port: int, packet: Packet[Any], items: int, owner: Feed | Local
    ) -> None:
        """Call a node's handler, and send on its way what that yields."""
        now = time.monotonic_ns()
        self._captured = packet.captured
        if packet.captured:
            owner.latency(now - packet.captured)
        runner.packets_in += 1
        runner.items_in += items
        start, stop = packet.start, packet.stop
        kept = packet if runner.on_error == "dead_letter" else None
        outer = self._inside
        self._inside = (runner.index + 1, port)
        self._busy(runner.index + 1, port, now)
        try:
            emissions = runner.handlers[port](packet)
            del packet
            if emissions is not None:
                for emission in emissions:
                    self._emit(runner, emission)
        except Exception as error:
            if isinstance(error, NodeError) and error.span and error.node != runner.node.name:
                raise  # of a node behind this one
            if runner.on_error != "stop":
                self._skip(runner, port, kept, error)
            elif isinstance(error, NodeError) and error.span:
                raise
            else:
                what = f"on_{runner.ports[port]}"
                raise self._node_error(runner, what, error, (start, stop)) from error
        self._inside = outer
        if outer[0]:  # else the next packet says so, or the loop when it turns
            self._busy(outer[0], outer[1], time.monotonic_ns())

    def _skip(
        self, runner: Runner, port: int, packet: Packet[Any] | None, error: Exception
    ) -> None:
        """Go on after a handler raised: count it, and keep the packet if that is asked for.

        What the handler had emitted before stays; what it had changed in the node, too.
        """
        node, input_ = runner.node, runner.ports[port]
        node.fault_counts[ERRORS] += 1
        times = node.fault_counts[ERRORS]
        where = "counted"
        if packet is not None:
            if times > self.plan["limits"]["dead_letters"]:
                raise NodeError(
                    node.name, f"{times} dead letters (limits: dead_letters)", kind=runner.kind,
                    span=f"on_{input_}",
                ) from error  # fmt: skip
            try:
                path = keep(
                    self.plan["graph"], node.name, runner.kind, input_, runner.packets_in, packet,
                    _say(error), "".join(traceback.format_exception(error)),
                )  # fmt: skip
            except OSError as why:
                what = f"cannot keep a dead letter: {why}; make room, or use skip_and_count"
                raise self._node_error(runner, f"on_{input_}", NodeError(node.name, what)) from why
            where = f"kept in {path}"
        if times in (1, 10, 100) or times % 1000 == 0:
            node.log.warning(
                "node %r (%s): on_%s: %s; the packet is left out and %s (error number %d)",
                node.name, runner.kind, input_, _say(error), where, times,
            )  # fmt: skip

    def _enter(self, index: int, port: int) -> tuple[int, int]:
        """Say on the board what is busy; returns what was, where one node runs inside another."""
        outer, self._inside = self._inside, (index + 1, port)
        self._busy(index + 1, port, time.monotonic_ns())
        return outer

    def _leave(self, outer: tuple[int, int]) -> None:
        """Say that it is done, and what goes on."""
        self._inside = outer
        self._busy(*outer, time.monotonic_ns() if outer[0] else 0)

    def _emit(self, runner: Runner, emission: Emission) -> None:
        """Send a packet on its way: to this process's nodes at once, to others' with the commit."""
        route = runner.routes.get(emission.port)
        packet = emission.packet
        data, start = packet.data, packet.start
        if (
            route is None
            or type(data) is not route.payload
            or not route.watermark <= start <= packet.stop
        ):
            check_emission(runner.node, emission, route.watermark if route is not None else NEVER)
        assert route is not None  # the check has said what is wrong
        if not packet.captured and self._captured:
            packet = Packet(start, packet.stop, data, self._captured)
        items, array = len(data), data.array
        array.setflags(False)  # not write=False: that takes twice as long
        runner.packets_out += 1
        runner.items_out += items
        route.watermark = start
        if route.output is not None:
            self._stage(route, packet)
        for local in route.locals:
            local.produced += 1
            local.produced_items += items
            local.bytes += array.nbytes
            local.watermark = start
            target, captured = local.target, self._captured
            target.order.advance(local.port, start)
            if target.alone:
                self._give(target, 0, packet, items, local)
                local.handled += 1
                local.handled_items += items
                self._settle(target)
            else:
                target.order.push(local.port, start, (local, packet))
                self._run_local(target)
                local.waiting_max = max(local.waiting_max, local.waiting)
            self._captured = captured

    def _stage(self, route: Route, packet: Packet[Any]) -> None:
        """Write a packet to the memory of its edges; it leaves when the item is done."""
        output = route.output
        assert output is not None
        if not output.room():
            self._wait_for_room(route.runner, output)
        try:
            output.stage(packet)
        except StreamflowError as error:
            node, kind = route.runner.node.name, route.runner.kind
            raise NodeError(node, f"output {route.port!r}: {error}", kind=kind) from error
        self._mark(route)

    def _mark(self, route: Route) -> None:
        """Note that a route has something to send."""
        if not route.dirty and route.output is not None:
            route.dirty = True
            self._dirty.append(route)

    def _run_local(self, runner: Runner) -> None:
        """Give a node what may go now that something new is known of its inputs."""
        item = None if runner.alone else runner.order.pop()
        if item is None:
            self._settle(runner)
        while item is not None:
            self._handle(runner, item[0], item[1])
            self._settle(runner)
            item = runner.order.pop()

    def _settle(self, runner: Runner) -> None:
        """Let a node see how far stream time is, and its consumers after it."""
        now = runner.order.time
        if now == ENDED:
            if not runner.finished:
                self._finish(runner)
            return
        if now > runner.time:
            runner.time = now
            if runner.advances:
                self._call(runner, "advance", now)
        held, mark = runner.node.holds_from, runner.time
        if held is not None and held < mark:
            mark = held
        for route in runner.ways:
            if mark > route.watermark:
                self._let_pass(route, mark)

    def _let_pass(self, route: Route, mark: int) -> None:
        """Stream time on a port has reached `mark`."""
        route.watermark = mark
        if route.output is not None:
            self._mark(route)
        for local in route.locals:
            self._tell(local, mark)

    def _tell(self, local: Local, mark: int) -> None:
        local.watermark = mark
        local.target.order.advance(local.port, mark)
        self._run_local(local.target)

    def _finish(self, runner: Runner) -> None:
        self._call(runner, "finish")
        runner.finished = True
        runner.node.holds_from = None
        self._end_outputs(runner)
        self._commit_due = 0.0  # the end is worth a commit at once

    def _end_outputs(self, runner: Runner) -> None:
        for route in runner.ways:
            self._mark(route)
            for local in route.locals:
                local.ended = True
                local.target.order.end(local.port)
                self._run_local(local.target)

    def _call(self, runner: Runner, verb: str, *arguments: int) -> None:
        """Call a verb that may emit."""
        outer = self._enter(runner.index, _verb(verb))
        try:
            emissions = getattr(runner.node, verb)(*arguments)
            if emissions is not None:
                for emission in emissions:
                    self._emit(runner, emission)
                    self._emitted_by_time = True
        except NodeError as error:
            if error.span:
                raise
            raise self._node_error(runner, verb, error) from error
        except Exception as error:
            raise self._node_error(runner, verb, error) from error
        self._leave(outer)

    def _wait_for_room(self, runner: Runner, output: Output) -> None:
        """A handler gave more than its edge takes: send what there is, wait, then go on.

        Meanwhile other nodes of this process go on where they can: what has no room may wait for
        one of them, further down the graph.
        """
        output.send(NEVER)
        board, captured = self.board, self._captured
        board.say(Board.SINCE, 0)  # waiting for others is not a hanging handler
        self._waiting.append(runner)
        while not output.room():
            self._note_blocked()
            if not self.keeps:
                self._publish()
            self._tick()
            for link in self.in_links.values():
                link.credit(all_of_them=True)
            self._refresh(between=False)
            board.say(Board.WAITING, self._waits_for())
            self._once(0 if self._work_others() else IDLE_MS)
            if self._closing:
                raise Stopped
        self._waiting.pop()
        self._captured = captured
        self._note_freed()
        self._leave(self._inside)

    def _work_others(self) -> bool:
        """Hand over what is ready to nodes that lead to none whose handler waits for room.

        Whether more is ready now. Not in a process that commits: it would commit half an item.
        """
        more = False
        if not self.keeps:
            busy = {runner.index for runner in self._waiting}
            for other in self.runners:
                idle = other.source is None and not other.finished
                if idle and other.index not in busy and not other.below & busy:
                    more |= self._work_node(other, BATCH)
        return more

    # --- committing ---------------------------------------------------------------------------

    def _item_done(self) -> None:
        """A packet and everything it caused is handled: commit now or soon, and send."""
        if not self.keeps:
            if self._dirty:
                self._publish()
            for link in self.in_links.values():
                if link.uncommitted:
                    link.commit()
                    link.credit(all_of_them=False)
            return
        for route in self._dirty:
            if route.output is not None:
                route.output.prepare(route.watermark)
        self._uncommitted = True
        if self._must_commit() or time.monotonic() >= self._commit_due:
            self._commit()
        self._publish()

    def _must_commit(self) -> bool:
        """Whether this item must be safe before anyone sees what it caused.

        A later commit will do where a successor makes the same packets again. It does not where
        something is not repeated, and not where time completed them: how many go in a packet
        depends on when time was seen to pass.
        """
        by_time, self._emitted_by_time = self._emitted_by_time, False
        if by_time or not self._repeats:
            return True
        if self._snapshots or any(local.waiting for local in self.locals.values()):
            return self._window_is_full()
        return True  # nothing to save but the counters

    def _window_is_full(self) -> bool:
        return any(2 * link.uncommitted >= link.window for link in self.in_links.values())

    def _publish(self) -> None:
        """Send what is dirty: packets at once, mere ticks of stream time soon."""
        for route in self._dirty:
            output = route.output
            route.dirty = False
            if output is None:
                continue
            if output.staged:
                if self.keeps:
                    output.publish()
                else:
                    output.send(route.watermark)
            elif not route.runner.finished:
                if not route.late:
                    route.late = True
                    self._late.append(route)
                continue
            output.tick(route.watermark)
            if route.runner.finished:
                output.end()
        self._dirty.clear()

    def _tick(self) -> None:
        """Tell of stream time that has passed without a packet."""
        late = self._late
        if late:
            self._late = []
            for route in late:
                route.late = route.output is not None and route.output.tick(route.watermark)
                if route.late:
                    self._late.append(route)

    def _commit(self) -> None:
        """Make counters, snapshot and everything staged one whole; then credits may go back."""
        began = time.monotonic()
        nodes = dict(self._node_states())
        waiting = {
            name: [encode(packet) for _, packet in local.target.order.queued(local.port)]
            for name, local in self.locals.items() if local.waiting
        }  # fmt: skip
        self._snapshot_bytes = 0
        if nodes or waiting:
            data = encode_state({"nodes": nodes, "waiting": waiting})
            self.vault.write(1 - self._snapshot_half, data)
            self._snapshot_half = 1 - self._snapshot_half
            self._snapshot_bytes = len(data)
        self._commits += 1
        self._write_board()
        self._uncommitted = False
        for link in self.in_links.values():
            link.commit()
            link.credit(all_of_them=False)
        now = time.monotonic()
        self._commit_due = now + SNAPSHOT_SHARE * (now - began)

    def _node_states(self) -> Iterator[tuple[str, msgspec.Raw]]:
        for runner in self._snapshots:
            with self._running(runner, "snapshot"):
                if runner.source is None:
                    state: Any = runner.node.snapshot()
                else:
                    state = runner.source.state
                if state is not None:
                    yield runner.node.name, msgspec.Raw(encode_state(state))

    def _refresh(self, *, between: bool) -> None:
        """Bring the counters on the board up to date, where no commit does.

        A successor starts from them, so where there may be one they must be those of the last
        commit, but for what the edges' other ends said since: not so in the midst of a packet.
        """
        settled = not self._uncommitted and not any(
            link.recovering for link, _output in self.out_links.values()
        )
        if not self.keeps or (between and settled):
            self._write_board()

    def _write_board(self) -> None:
        write, offsets = self.board.write, self.layout.offsets
        now = time.monotonic()
        self._board_at = now + REFRESH_S
        if now >= self._latencies_at:
            self._latencies_at = now + REFRESH_S
            self._enter_latencies()
        if self._blocked_since:
            self._note_freed(so_far=True)
        write(
            0, self._snapshot_half, self._snapshot_bytes, self._commits, self.incarnation,
            self._captured,
        )  # fmt: skip
        for runner in self.runners:
            at = offsets["node", runner.node.name]
            write(
                at, runner.packets_in, runner.packets_out, runner.items_in, runner.items_out,
                runner.state_lost, runner.time, runner.finished,
                -1 if runner.node.progress is None else int(1000 * runner.node.progress),
            )  # fmt: skip
            if runner.node.fault_counts:
                write(at + len(NODE), *list(runner.node.fault_counts.values())[:FAULTS])
        for name, link in self.in_links.items():
            r = link.receiver
            write(
                offsets["in", name], r.received, r.handled, r.duplicates, r.handled_items,
                r.received_through,
                r.handled_through, r.watermark, r.ended and r.handled_through == r.received_through,
                link.bytes,
            )  # fmt: skip
        for name, (out, _output) in self.out_links.items():
            s = out.sender
            write(
                offsets["out", name], s.produced, s.produced_items, s.acknowledged,
                s.acknowledged_items, s.dropped,
                s.dropped_items, s.lost, s.lost_items, s.in_flight,
                len(s.waiting), s.waiting_max, self._blocked[name], out.bytes, out.watermark,
                out.sent_bytes, out.sent_plain,
            )  # fmt: skip
        for name, local in self.locals.items():
            write(
                offsets["local", name], local.produced, local.produced_items, local.handled,
                local.handled_items,
                local.bytes, local.watermark, local.ended, local.waiting_max,
            )  # fmt: skip
        for name, output in self.outputs.items():
            write(offsets["output", name], output.sequence, output.items)
        self.board.commit()

    def _enter_latencies(self) -> None:
        for taken, histogram in self._latencies:
            if taken:
                histogram.extend(taken)
                taken.clear()

    # --- the supervisor -----------------------------------------------------------------------

    def _obey(self, _nothing: None) -> None:
        for message in self.control.receive():
            operation = message["op"]
            if operation == "link":
                self._link(message)
            elif operation == "ahead":
                self.in_links[message["edge"]].ahead = message["ahead"]
            elif operation == "unlink":
                self._unlink(message["edge"])
            elif operation == "start":
                self._start()
            elif operation == "drain":
                for runner in self.runners:
                    if runner.source is not None and not runner.finished:
                        runner.source.stop()
            elif operation == "close":
                self._closing = True
        if not self.control.open:
            os._exit(1)  # the supervisor is gone, and so is the run

    def _start(self) -> None:
        self._started = True
        for runner in self.runners:
            source = runner.source
            if source is not None and not runner.finished:
                # once data flows, a source's thread must not wait 5 ms for the interpreter
                sys.setswitchinterval(0.0005)
                source.start()

    def _link(self, message: Message) -> None:
        edge = message["edge"]
        self._generation[edge] = message["generation"]
        assert self.context is not None
        if edge in self.out_links:
            channel = self._listen(message)
            self.out_links[edge][0].attach(channel)
            self.poll.add(channel, (self._heard_from, edge))
        else:
            channel = self._join(message)
            self.in_links[edge].attach(channel)
            self.poll.add(channel, (self._arrived, self.feeds[edge]))

    def _listen(self, message: Message) -> Channel:
        assert self.context is not None
        if "path" in message:
            channel = self.context.channel()
            channel.bind(Path(message["path"]))
            return channel
        security, domain = _security(message), f"{message['edge']} {message['generation']}"
        if security.mine is not None:
            if self._gate is None:
                self._gate = Gate(self.context.raw)
            self._gate.allow(domain, [security.peer])
        listener = Listener(
            self.context.raw, message["where"], message["maximum"], security, domain
        )
        self.control.send(
            "listening", edge=message["edge"], generation=message["generation"],
            address=listener.address,
        )  # fmt: skip
        return listener

    def _join(self, message: Message) -> Channel:
        assert self.context is not None
        if "path" in message:
            channel = self.context.channel()
            channel.connect(Path(message["path"]))
            return channel
        self.in_links[message["edge"]].ahead = message["ahead"]
        joiner = Joiner(
            self.context.raw, message["address"], message["maximum"], _security(message)
        )
        self.poll.add(joiner.monitor, (self._say_lost, message["edge"]))
        return joiner

    def _say_lost(self, edge: str) -> None:
        channel = self.in_links[edge].channel
        if isinstance(channel, Joiner) and channel.is_lost():
            self._break(edge)

    def _break(self, edge: str) -> None:
        """The connection of an edge is not what it was: the supervisor makes a new one."""
        self.control.send("broken", edge=edge, generation=self._generation[edge])
        self._unlink(edge)

    def _unlink(self, edge: str) -> None:
        self._heard.discard(edge)
        link = self.out_links[edge][0] if edge in self.out_links else self.in_links[edge]
        if link.channel is not None:
            if edge in self.in_links and not isinstance(link.channel, Joiner):
                self._take_in(self.feeds[edge], 0)  # what had arrived is ours already
            self.poll.remove(link.channel)
            if isinstance(link.channel, Joiner):
                self.poll.remove(link.channel.monitor)
            self._tell_refused(edge)
        link.detach()
        self._finished_said = False

    def _tell_refused(self, edge: str) -> None:
        """Say how many messages of strangers an edge to another host was sent."""
        if edge in self.out_links:
            channel = self.out_links[edge][0].channel
            if isinstance(channel, Listener) and channel.refused:
                self.control.send("refused", edge=edge, count=channel.refused)
                channel.refused = 0

    def _say_finished(self) -> None:
        """Tell the supervisor, once, when every node here has ended and every edge has closed."""
        done = all(runner.finished for runner in self.runners) and all(
            output.closed for output in self.outputs.values()
        )
        if done and not self._finished_said and not self._uncommitted:
            self._enter_latencies()
            self._write_board()
            self.control.send("finished")
        elif self._finished_said and not done:
            self.control.send("unfinished")
        self._finished_said = done and not self._uncommitted

    # --- the end ------------------------------------------------------------------------------

    def _close(self) -> None:
        """Everything is done: results, then close the nodes, then say goodbye."""
        for edge in self.out_links:
            self._tell_refused(edge)
        results: dict[str, Any] = {}
        for runner in self.runners:
            with self._running(runner, "results"):
                if found := runner.node.results():
                    msgspec.msgpack.encode(found)  # plain JSON, or an error that names the node
                    results[runner.node.name] = found
        for runner in self.runners:
            with self._running(runner, "close"):
                runner.node.close()
        self._enter_latencies()
        self._refresh(between=False)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.control.send(
            "closed", results=results, cpu_s=usage.ru_utime + usage.ru_stime,
            rss_peak_mib=usage.ru_maxrss / 1024,
        )  # fmt: skip

    def abandon(self) -> None:
        """The run has failed: let every node release what it holds."""
        for runner in self.runners:
            try:
                runner.node.close()
            except Exception:
                runner.node.log.warning("close failed after the run had failed", exc_info=True)

    @contextlib.contextmanager
    def _running(self, runner: Runner, verb: str) -> Any:
        outer = self._enter(runner.index, _verb(verb))
        try:
            yield
        except Exception as error:
            raise self._node_error(runner, verb, error) from error
        self._leave(outer)

    def _node_error(
        self, runner: Runner, verb: str, error: BaseException, span: tuple[int, int] | None = None
    ) -> NodeError:
        what = str(error) if isinstance(error, StreamflowError) else _say(error)
        if isinstance(error, NodeError):
            what = error.what
        where = f"{verb}" if span is None else f"{verb}, packet [{span[0]}, {span[1]}) us"
        return NodeError(runner.node.name, what, kind=runner.kind, span=where)


class Stopped(BaseException):
    """The supervisor closed the run while a handler waited for room."""


def _verb(verb: str) -> int:
    """What the board's PORT says of a verb that is not a handler."""
    return -1 - VERBS.index(verb)


def _security(message: Message) -> Security:
    """What a link message says of how its two ends know each other."""
    mine = message["keys"]
    return Security(message["token"], Keys(*mine) if mine else None, message["peer"])


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


class _Forward(logging.Handler):
    """Log records go to the supervisor, which says them once, in one place."""

    def __init__(self, control: Control, process: str) -> None:
        super().__init__()
        self._control, self._process = control, process

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self._control.send(
            "log", level=record.levelno, logger=record.name, text=text, process=self._process
        )


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies. Only from a main thread."""
    _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)  # it died before the call


def _prctl(option: int, value: int | bytes) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value)


def _keep_memory() -> None:
    """Have the C library keep freed memory: a frame for each packet would else be mapped from the
    kernel, page by page, and given back every time. Other C libraries than glibc have no such call.
    """  # fmt: skip
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def main(path: str, process: str, incarnation: int, parent: int) -> int:
    """Run one process of a graph; returns its exit code."""
    die_with_parent(parent)
    _prctl(15, process.encode()[:15])  # PR_SET_NAME: what ps and top call it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the supervisor decides how the run ends
    _keep_memory()
    control = Control.connect(path)
    control.send(
        "hello", process=process, pid=os.getpid(), incarnation=incarnation, protocol=PROTOCOL,
        version=__version__, python=platform.python_version(),
    )  # fmt: skip
    handler = _Forward(control, process)
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(message)s", force=True)
    worker: Worker | None = None
    try:
        plan = _await_plan(control)
        worker = Worker(control, plan)
        worker.build()
        worker.open()
        worker.run()
    except Exception as error:
        _tell_failure(control, worker, process, error)
        if worker is not None:
            worker.abandon()
        return 1
    except Stopped:
        if worker is not None:
            worker.abandon()
        return 1
    return 0


def _await_plan(control: Control) -> Message:
    while control.open:
        control.socket.settimeout(None)
        poll = Poll()
        poll.add(control.fileno(), "control")
        poll.wait(None)
        for message in control.receive():
            if message["op"] == "plan":
                return message
    os._exit(1)


def _tell_failure(
    control: Control, worker: Worker | None, process: str, error: BaseException
) -> None:
    node = error.node if isinstance(error, NodeError) else ""
    text = "".join(traceback.format_exception(error))
    if worker is not None and hasattr(worker, "board"):
        with contextlib.suppress(Exception):
            worker._refresh(between=False)
    what = str(error) if isinstance(error, StreamflowError) else _say(error)
    control.send("failed", node=node, error=what, traceback=text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
