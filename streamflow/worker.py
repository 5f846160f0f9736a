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
import os
import platform
import resource
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from . import __version__
from .clock import Clock
from .compilation import no_compilation
from .control import PROTOCOL, Control, Message
from .edge import ENDED, NEVER, InputOrder
from .errors import NodeError, StreamflowError
from .kinds import node_class
from .memory import Board, Segment, Vault, decode_state, encode_state
from .metrics import FAULTS, NODE, VERBS, Layout
from .node import Emission, Node, check_emission
from .packet import Packet, decode, encode
from .transport import Context, InLink, OutLink, Output, Poll

IDLE_MS = 200  # the loop wakes at least this often, to show that it lives
REFRESH_S = 0.02  # how old the counters on the board may get where no commit is due
SNAPSHOT_SHARE = 20  # snapshots take at most 1/20 of the time
AHEAD = 4  # packets a source's thread may be ahead of the edges
BACKWARD = "time_backward"  # the fault of a device whose clock began again with its process


class Local:
    """An edge inside the process. At most `capacity` packets wait for the target's other inputs."""

    def __init__(self, name: str, route: Route, target: Runner, port: int, capacity: int) -> None:
        self.name, self.route, self.target, self.port = name, route, target, port
        self.capacity = capacity
        self.produced = self.produced_items = self.handled = self.handled_items = 0
        self.bytes = self.waiting_max = 0
        self.watermark, self.ended = NEVER, False

    @property
    def waiting(self) -> int:
        """Packets that the target has not been given yet."""
        return self.produced - self.handled

    def room(self) -> bool:
        """Whether one more may wait."""
        return self.waiting < self.capacity


class Route:
    """What leaves a node by one port: edges to other processes, and edges inside this one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.output: Output | None = None
        self.links: list[OutLink] = []
        self.locals: list[Local] = []
        self.watermark = NEVER


class Runner:
    """A node and what the loop knows of it."""

    def __init__(self, node: Node[Any], kind: str, ports: list[str]) -> None:
        self.node, self.kind, self.ports = node, kind, ports
        self.order = InputOrder(len(ports))
        self.handlers: list[Callable[[Packet[Any]], Iterable[Emission] | None]] = [
            getattr(node, f"on_{port}") for port in ports
        ]
        self.routes: dict[str, Route] = {}
        self.reach: list[Output | Local] = []  # what handling a packet here may fill
        self.time = NEVER
        self.advances = type(node).advance is not Node.advance
        # whether a successor makes the same packets again; not where one that feeds it does not
        self.repeats = type(node).stateless or type(node).is_snapshotting()
        self.finished = False
        self.packets_in = self.packets_out = self.items_in = self.items_out = self.state_lost = 0
        self.source: Source | None = None


Made = tuple[Emission | None, dict[str, Any] | None, BaseException | None]
"""What a source's thread made: a packet and the state after it; no packet ends the stream."""


class Source:
    """Runs `produce()` in a thread of its own, so that a blocking device never stops the loop."""

    def __init__(self, runner: Runner, snapshots: bool) -> None:
        self.runner = runner
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.ready: deque[Made] = deque()
        self.state: dict[str, Any] | None = None  # after the last packet taken
        self.over = False
        self._room = threading.Semaphore(AHEAD)
        self._snapshots = snapshots
        self._stop = False
        self._deciding = threading.Lock()  # whether a packet comes before the end
        self._thread = threading.Thread(target=self._run, name=runner.node.name, daemon=True)

    def start(self) -> None:
        """Let the source begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the stream: what the thread has made goes out, what it is waiting for does not."""
        with self._deciding:
            self._stop = True
            self.ready.append((None, None, None))
        self.runner.node.clock.stop()
        self._room.release()
        os.eventfd_write(self.wake, 1)

    @property
    def silent(self) -> bool:
        """Whether the loop can only wait for the device."""
        return not self.ready and not self.over

    def take(self) -> tuple[Emission | None, BaseException | None]:
        """The next packet; None for the end of the stream, with what it ended by."""
        emission, state, error = self.ready.popleft()
        if emission is None:
            self.over = True
        else:
            self.state = state if state is not None else self.state
            self._room.release()
        return emission, error

    def _run(self) -> None:
        node = self.runner.node
        try:
            for emission in node.produce():
                captured = emission.packet.captured or time.monotonic_ns()
                state = node.snapshot() if self._snapshots else None
                self._room.acquire()
                with self._deciding:
                    if self._stop:
                        return
                    self._put(emission, state, captured)
        except BaseException as error:
            self.ready.append((None, None, error))
        else:
            self.ready.append((None, None, None))
        os.eventfd_write(self.wake, 1)

    def _put(self, emission: Emission, state: dict[str, Any] | None, captured: int) -> None:
        packet = emission.packet
        stamped = Packet(packet.start, packet.stop, packet.data, captured)
        self.ready.append((Emission(emission.port, stamped), state, None))
        os.eventfd_write(self.wake, 1)


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
        self._ports: dict[str, tuple[Runner, int]] = {}  # the consumer of each edge
        self.out_links: dict[str, tuple[OutLink, Output]] = {}
        self.outputs: dict[str, Output] = {}
        self.locals: dict[str, Local] = {}
        self._heard: set[str] = set()
        self._dirty: set[str] = set()  # routes with something to send, by name
        self._routes: dict[str, Route] = {}
        self._captured = 0
        self._commit_due = 0.0
        self._snapshot_half = self._snapshot_bytes = self._commits = 0
        self._board_at = 0.0
        self._uncommitted = False
        self._finished_said = False
        self._closing = False
        self._started = False
        self._blocked: dict[str, int] = {}
        self._blocked_since: dict[str, int] = {}
        self._emitted_by_time = False
        self._told_backward = False
        self._inside = (0, 0)  # the node that is busy (1 for the first) and its port; none: 0
        self._generation: dict[str, int] = {}  # of each edge's connection

    # --- building -----------------------------------------------------------------------------

    def build(self) -> None:
        """Make the nodes and their edges, and take over from a predecessor if there was one."""
        plan, fds = self.plan, list(self.plan["fds"])
        board_fd, vault_fd = fds.pop(0), fds.pop(0)
        self._make_nodes()
        for index, words in enumerate(plan["outputs"]):
            self._make_output(words, fds[index])
        for index, words in enumerate(plan["ins"], len(plan["outputs"])):
            self._make_in_link(words, fds[index])
        for words in plan["locals"]:
            self._make_local(words)
        self.layout = Layout(
            [runner.node.name for runner in self.runners], list(self.in_links),
            list(self.out_links), list(self.locals), list(self.outputs),
        )  # fmt: skip
        histograms = self.layout.histograms
        self.board = Board(board_fd, self.layout.words, histograms=len(histograms), writable=True)
        self.vault = Vault(vault_fd, writable=True)
        self._histograms = {name: self.board.histogram(index) for name, index in histograms.items()}
        for fd in fds:
            os.close(fd)
        os.close(board_fd)
        os.close(vault_fd)
        self._find_reach()
        self._index = {id(runner): index for index, runner in enumerate(self.runners)}
        self._edge_names = {id(link): name for name, link in self.in_links.items()}
        self._snapshots = [
            runner for runner in self.runners
            if self.keeps and type(runner.node).is_snapshotting()
        ]  # fmt: skip
        self._repeats = all(runner.repeats for runner in self.runners)
        self.board.say(Board.INCARNATION, self.incarnation)

    def _make_nodes(self) -> None:
        for words in self.plan["nodes"]:
            name, kind = words["name"], words["kind"]
            try:
                node = node_class(kind)(words["settings"], name=name)
            except StreamflowError:
                raise
            except Exception as error:
                raise NodeError(name, f"could not be made: {error}", kind=kind) from error
            node.clock = self.clock
            runner = Runner(node, kind, words["inputs"])
            for port in type(node).outputs:
                route = Route(f"{name}.{port}")
                runner.routes[port] = self._routes[route.name] = route
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
            link = OutLink(link_words["policy"], link_words["capacity"], link_words["window"])
            links.append(link)
            self._blocked[link_words["edge"]] = 0
        output = Output(segment, links, self.inline_bytes)
        for link_words, link in zip(words["links"], links, strict=True):
            self.out_links[link_words["edge"]] = (link, output)
        self.outputs[words["name"]] = output
        route = self._routes[words["name"]]
        route.output, route.links = output, links

    def _make_in_link(self, words: Message, fd: int) -> None:
        segment = Segment(fd, words["slots"], words["slot_size"], writable=False)
        runner = self.by_name[words["node"]]
        payload = type(runner.node).inputs[words["port"]].payload
        link = InLink(payload, words["window"], segment)
        self.in_links[words["edge"]] = link
        self._ports[words["edge"]] = (runner, runner.ports.index(words["port"]))

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
                        runner.node.__dict__[route.name.split(".")[1]].lender = route.output.loan
                for local in route.locals:
                    reach.update({id(output): output for output in local.target.reach})
                    if len(local.target.ports) > 1:
                        reach[id(local)] = local
            runner.reach = list(reach.values())

    def open(self) -> None:
        """Open every node, then take back what a predecessor had committed."""
        self.board.say(Board.PHASE, 1)
        for index, runner in enumerate(self.runners):
            with self._running(index, runner, "open"):
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
        for index, runner in enumerate(self.runners):
            counts = layout.read(words, "node", runner.node.name)
            for name in ("packets_in", "packets_out", "items_in", "items_out", "state_lost"):
                setattr(runner, name, counts[name])
            runner.finished = bool(counts["finished"])
            runner.time = counts["time"] if self._commits else NEVER
            names = list(runner.node.fault_counts)
            runner.node.fault_counts.update(layout.read_faults(words, runner.node.name, names))
            if runner.node.name in state:
                with self._running(index, runner, "restore"):
                    runner.node.restore(state[runner.node.name])
                if runner.source is not None:
                    runner.source.state = state[runner.node.name]
            elif not (type(runner.node).stateless or type(runner.node).is_snapshotting()):
                runner.state_lost += bool(runner.packets_in or runner.packets_out)
        for name, link in self.in_links.items():
            self._recover_in(layout.read(words, "in", name), name, link)
        for name, output in self.outputs.items():
            self._recover_output(words, name, output)
        for name, local in self.locals.items():
            self._recover_local(layout.read(words, "local", name), local, waiting.get(name, []))
        for runner in self.runners:
            if runner.finished:
                self._dirty.update(r.name for r in runner.routes.values() if r.output is not None)

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

    def _recover_in(self, counts: dict[str, int], name: str, link: InLink) -> None:
        receiver = link.receiver
        receiver.handled, receiver.duplicates = counts["handled"], counts["duplicates"]
        receiver.received = receiver.handled + receiver.duplicates
        receiver.handled_items = counts["handled_items"]
        receiver.handled_through = receiver.received_through = counts["handled_through"]
        receiver.ended = bool(counts["ended"])
        link.bytes = counts["bytes"]
        runner, port = self._ports[name]
        if self._commits:
            receiver.watermark = counts["watermark"]
            runner.order.advance(port, ENDED if receiver.ended else receiver.watermark)

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
                    self._blocked[link_words["edge"]] = out["blocked_ns"]
                    if self._commits:
                        link.watermark = self._routes[name].watermark = out["watermark"]
        made = counts["sequence"], counts["items"]
        if not self.by_name[name.split(".")[0]].repeats:
            # what comes next is not what a consumer has seen under the numbers that follow
            made = max(made, output.segment.published)
        output.recover(*made, dropped)

    # --- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the supervisor says that everything is done."""
        self.context = Context()
        self.poll.add(self.control.fileno(), ("control", None))
        for runner in self.runners:
            if runner.source is not None:
                self.poll.add(runner.source.wake, ("source", runner))
        names = {runner.node.name: list(runner.node.fault_counts) for runner in self.runners}
        self.control.send("ready", faults=names)
        self._publish()  # a successor of a finished process ends its edges again
        with no_compilation():
            while not self._closing:
                if self._work():
                    if time.monotonic() >= self._board_at:
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
        for link in self.in_links.values():
            link.credit(all_of_them=True)
        self._say_finished()
        self.board.say(Board.WAITING, self._waits_for())
        if self._uncommitted:
            return max(1, int(1000 * (self._commit_due - now)))
        return IDLE_MS

    def _waits_for(self) -> int:
        """What the board says of waiting: -1 for a device, n for edge n (from 1), 0 for nothing."""
        for runner in self.runners:
            if runner.source is not None and not runner.finished and runner.source.silent:
                return -1
        names = [*self.out_links, *self.locals]
        for name, (link, output) in self.out_links.items():
            if not link.sender.room() or not output.room():
                return 1 + names.index(name)
        for name, local in self.locals.items():
            if not local.room():
                return 1 + names.index(name)
        return 0

    def _once(self, milliseconds: int) -> None:
        """Wait for something to arrive and take it in."""
        self.board.say(Board.HEARTBEAT, time.monotonic_ns())
        for what, who in self.poll.wait(milliseconds):
            if what == "in":
                self._arrived(who)
            elif what == "out":
                link, output = self.out_links[who]
                link.receive(output)
                if link.sender.connected and who not in self._heard:
                    self._heard.add(who)
                    self.control.send("linked", edge=who, generation=self._generation[who])
            elif what == "source":
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(who.source.wake)
            else:
                self._obey()

    def _arrived(self, name: str) -> None:
        link = self.in_links[name]
        runner, port = self._ports[name]
        for arrival in link.receive():
            if isinstance(arrival, int):
                runner.order.advance(port, arrival)
            else:
                runner.order.push(port, arrival.header.start, (link, arrival))
                runner.order.advance(port, arrival.header.watermark)
                link.bytes += arrival.header.nbytes
        if link.receiver.ended:
            runner.order.end(port)

    def _work(self) -> bool:
        """Hand over what is ready; whether more is ready now."""
        more = False
        if self._blocked_since:
            self._note_blocked()
        for index, runner in enumerate(self.runners):
            if runner.finished:
                continue
            if runner.source is not None:
                more |= self._work_source(index, runner)
                continue
            for _ in range(16):  # then look at the edges again
                if not all(place.room() for place in runner.reach):
                    self._note_blocked()
                    break
                item = runner.order.pop()
                if item is None:
                    self._settle_item(index, runner)
                    break
                self._handle(index, runner, item[0], item[1])
                self._item_done()
            else:
                more = True
        return more

    def _work_source(self, index: int, runner: Runner) -> bool:
        source = runner.source
        assert source is not None
        for _ in range(16):
            if not source.ready:
                return False
            if not all(place.room() for place in runner.reach):
                self._note_blocked()
                return False
            emission, error = source.take()
            if error is not None:
                raise self._node_error(runner, "produce", error) from error
            if emission is None:
                self._finish(index, runner)
            elif self._is_backward(runner, emission):
                continue
            else:
                self._captured = emission.packet.captured
                self._emit(index, runner, emission)
                self._source_time(index, runner, emission)
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

    def _source_time(self, index: int, runner: Runner, emission: Emission) -> None:
        """A source's packets are in order: this port is past the packet, the others are at it."""
        runner.time = emission.packet.start
        for port, route in runner.routes.items():
            packet = emission.packet
            self._let_pass(route, packet.stop if port == emission.port else packet.start)

    def _note_blocked(self) -> None:
        """Add up how long each lossless edge has been full."""
        now = time.monotonic_ns()
        for name, (link, _output) in self.out_links.items():
            if not link.sender.room():
                since = self._blocked_since.get(name)
                if since is not None:
                    self._blocked[name] += now - since
                self._blocked_since[name] = now
            elif name in self._blocked_since:
                self._blocked[name] += now - self._blocked_since.pop(name)

    # --- handing over -------------------------------------------------------------------------

    def _handle(self, index: int, runner: Runner, port: int, item: Any) -> None:
        """Give one packet to a node, and everything it causes in this process to the others."""
        owner, arrival = item
        if isinstance(owner, InLink):
            packet = owner.packet(arrival)
            name = self._edge_names[id(owner)]
            items = arrival.header.items
        else:
            packet, name, items = arrival, owner.name, len(arrival.data)
        if packet.captured:
            self._histograms[name].add(time.monotonic_ns() - packet.captured)
        self._captured = packet.captured
        runner.packets_in += 1
        runner.items_in += items
        span = (packet.start, packet.stop)
        outer = self._enter(index, port)
        try:
            emissions = runner.handlers[port](packet)
            del packet  # a view that only we still hold would keep its slot
            if emissions is not None:
                for emission in emissions:
                    self._emit(index, runner, emission)
        except StreamflowError as error:
            if isinstance(error, NodeError) and error.span:
                raise
            raise self._node_error(runner, f"on_{runner.ports[port]}", error, span) from error
        except Exception as error:
            raise self._node_error(runner, f"on_{runner.ports[port]}", error, span) from error
        self._leave(outer)
        if isinstance(owner, InLink):
            owner.handled(arrival)
            owner.receiver.watermark = max(owner.receiver.watermark, arrival.header.watermark)
        else:
            owner.handled += 1
            owner.handled_items += items
        self._settle(index, runner)

    def _enter(self, index: int, port: int) -> tuple[int, int]:
        """Say on the board what is busy; returns what was, where one node runs inside another."""
        outer, self._inside = self._inside, (index + 1, port)
        self.board.busy(index + 1, port, time.monotonic_ns())
        return outer

    def _leave(self, outer: tuple[int, int]) -> None:
        """Say that it is done, and what goes on."""
        self._inside = outer
        self.board.busy(*outer, time.monotonic_ns() if outer[0] else 0)

    def _emit(self, index: int, runner: Runner, emission: Emission) -> None:
        """Send a packet on its way: to this process's nodes at once, to others' with the commit."""
        route = runner.routes.get(emission.port)
        check_emission(runner.node, emission, route.watermark if route is not None else NEVER)
        assert route is not None
        packet = emission.packet
        if not packet.captured:
            packet = Packet(packet.start, packet.stop, packet.data, self._captured)
        items = len(packet.data)
        packet.data.array.flags.writeable = False
        runner.packets_out += 1
        runner.items_out += items
        route.watermark = max(route.watermark, packet.start)
        if route.output is not None:
            if not route.output.room():
                self._wait_for_room(route.output)
            try:
                route.output.stage(packet)
            except StreamflowError as error:
                raise NodeError(
                    runner.node.name, f"output {emission.port!r}: {error}", kind=runner.kind
                ) from error
            self._dirty.add(route.name)
        for local in route.locals:
            local.produced += 1
            local.produced_items += items
            local.bytes += packet.data.array.nbytes
            local.watermark = packet.start
            target, captured = local.target, self._captured
            target.order.advance(local.port, packet.start)
            if len(target.ports) == 1:  # nothing to wait for
                self._handle(self._index[id(target)], target, 0, (local, packet))
            else:
                target.order.push(local.port, packet.start, (local, packet))
                self._run_local(target)
            self._captured = captured
            local.waiting_max = max(local.waiting_max, local.waiting)

    def _run_local(self, runner: Runner) -> None:
        index = self._index[id(runner)]
        item = runner.order.pop()
        if item is None:
            self._settle(index, runner)
        while item is not None:  # handling settles
            self._handle(index, runner, item[0], item[1])
            item = runner.order.pop()

    def _settle(self, index: int, runner: Runner) -> None:
        """Let a node see how far stream time is, and its consumers after it."""
        now = runner.order.time
        if now == ENDED:
            if not runner.finished:
                self._finish(index, runner)
            return
        if now > runner.time:
            runner.time = now
            if runner.advances:
                self._call(index, runner, "advance", now)
        held = runner.node.holds_from
        mark = runner.time if held is None else min(held, runner.time)
        for route in runner.routes.values():
            if mark > route.watermark:
                self._let_pass(route, mark)

    def _let_pass(self, route: Route, mark: int) -> None:
        """Stream time on a port has reached `mark`."""
        route.watermark = mark
        if route.output is not None:
            self._dirty.add(route.name)
        for local in route.locals:
            local.watermark = mark
            local.target.order.advance(local.port, mark)
            self._run_local(local.target)

    def _finish(self, index: int, runner: Runner) -> None:
        self._call(index, runner, "finish")
        runner.finished = True
        runner.node.holds_from = None
        self._end_outputs(runner)
        self._commit_due = 0.0  # the end is worth a commit at once

    def _end_outputs(self, runner: Runner) -> None:
        for route in runner.routes.values():
            if route.output is not None:
                self._dirty.add(route.name)
            for local in route.locals:
                local.ended = True
                local.target.order.end(local.port)
                self._run_local(local.target)

    def _call(self, index: int, runner: Runner, verb: str, *arguments: int) -> None:
        """Call a verb that may emit."""
        outer = self._enter(index, _verb(verb))
        try:
            emissions = getattr(runner.node, verb)(*arguments)
            if emissions is not None:
                for emission in emissions:
                    self._emit(index, runner, emission)
                    self._emitted_by_time = True
        except NodeError as error:
            if error.span:
                raise
            raise self._node_error(runner, verb, error) from error
        except Exception as error:
            raise self._node_error(runner, verb, error) from error
        self._leave(outer)

    def _wait_for_room(self, output: Output) -> None:
        """A handler gave more than its edge takes: send what there is, wait, then go on."""
        output.prepare(NEVER)
        output.publish()
        board = self.board
        board.say(Board.SINCE, 0)  # waiting for others is not a hanging handler
        while not output.room():
            self._note_blocked()
            for link in self.in_links.values():
                link.credit(all_of_them=True)
            self._refresh(between=False)
            board.say(Board.WAITING, self._waits_for())
            self._once(IDLE_MS)
            if self._closing:
                raise Stopped
        self._note_blocked()
        self._leave(self._inside)

    # --- committing ---------------------------------------------------------------------------

    def _settle_item(self, index: int, runner: Runner) -> None:
        """Nothing to hand over, but stream time may have advanced or the stream ended."""
        if runner.order.time > runner.time:
            self._settle(index, runner)
            self._item_done()

    def _item_done(self) -> None:
        """A packet and everything it caused is handled: commit now or soon, and send."""
        self._prepare()
        if self.keeps:
            self._uncommitted = True
            if self._must_commit() or time.monotonic() >= self._commit_due:
                self._commit()
        self._publish()
        if not self.keeps:
            for link in self.in_links.values():
                if link.uncommitted:
                    link.commit()
                    link.credit(all_of_them=False)

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

    def _prepare(self) -> None:
        for name in self._dirty:
            route = self._routes[name]
            if route.output is not None:
                route.output.prepare(route.watermark)

    def _publish(self) -> None:
        for name in self._dirty:
            route = self._routes[name]
            if route.output is not None:
                route.output.publish()
                route.output.tick(route.watermark)
                if self.by_name[name.split(".")[0]].finished:
                    route.output.end()
        self._dirty.clear()

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
            with self._running(self._index[id(runner)], runner, "snapshot"):
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
        self._board_at = time.monotonic() + REFRESH_S
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

    # --- the supervisor -----------------------------------------------------------------------

    def _obey(self) -> None:
        for message in self.control.receive():
            operation = message["op"]
            if operation == "link":
                self._generation[message["edge"]] = message["generation"]
                self._link(message["edge"], message["path"])
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

    def _link(self, edge: str, path: str) -> None:
        context = self.context
        assert context is not None
        channel = context.channel()
        if edge in self.out_links:
            link, _output = self.out_links[edge]
            channel.bind(Path(path))
            link.attach(channel)
            self.poll.add(channel, ("out", edge))
        else:
            channel.connect(Path(path))
            self.in_links[edge].attach(channel)
            self.poll.add(channel, ("in", edge))

    def _unlink(self, edge: str) -> None:
        self._heard.discard(edge)
        link = self.out_links[edge][0] if edge in self.out_links else self.in_links[edge]
        if link.channel is not None:
            if edge in self.in_links:
                self._arrived(edge)  # what had arrived is ours already
            self.poll.remove(link.channel)
        link.detach()
        self._finished_said = False

    def _say_finished(self) -> None:
        """Tell the supervisor, once, when every node here has ended and every edge has closed."""
        done = all(runner.finished for runner in self.runners) and all(
            output.closed for output in self.outputs.values()
        )
        if done and not self._finished_said and not self._uncommitted:
            self._write_board()
            self.control.send("finished")
        elif self._finished_said and not done:
            self.control.send("unfinished")
        self._finished_said = done and not self._uncommitted

    # --- the end ------------------------------------------------------------------------------

    def _close(self) -> None:
        """Everything is done: results, then close the nodes, then say goodbye."""
        results: dict[str, Any] = {}
        for index, runner in enumerate(self.runners):
            with self._running(index, runner, "results"):
                if found := runner.node.results():
                    msgspec.msgpack.encode(found)  # plain JSON, or an error that names the node
                    results[runner.node.name] = found
        for index, runner in enumerate(self.runners):
            with self._running(index, runner, "close"):
                runner.node.close()
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
    def _running(self, index: int, runner: Runner, verb: str) -> Any:
        outer = self._enter(index, _verb(verb))
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


def main(path: str, process: str, incarnation: int, parent: int) -> int:
    """Run one process of a graph; returns its exit code."""
    die_with_parent(parent)
    _prctl(15, process.encode()[:15])  # PR_SET_NAME: what ps and top call it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the supervisor decides how the run ends
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
