"""One process of a run: its nodes and its loop.

The loop is single-threaded: it waits for edges, for the supervisor, and for the sources' own
threads; hands packets to nodes in stream-time order; and, after every packet, commits. A packet's
outputs are written to shared memory, then the commit makes them, the counters and the snapshot one
whole, then the outputs are sent and the input's credit goes back. A process that dies anywhere in
between is continued by its successor from the last commit.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import sys
import time
from typing import Any

import msgspec

from .accounts import Accounts
from .compilation import no_compilation
from .connections import Connections
from .consumer_end import Gap
from .control import Control, Message
from .dead_letters import leave_out
from .edge import ENDED, NEVER
from .errors import NodeError, StreamflowError
from .memory import Board, Vault
from .metrics import VERBS
from .node import Emission, check_emission
from .packet import Packet
from .producer_end import Output
from .recovery import Recovery
from .runner import Feed, Local, Route, Runner, Source
from .snapshots import Snapshots
from .sockets import Poll
from .text import cause
from .wiring import BACKWARD, Wiring

IDLE_MS = 200  # the loop wakes at least this often, to show that it lives
SNAPSHOT_SHARE = 20  # snapshots take at most 1/20 of the time
BATCH = 16  # packets of a node or an edge before the loop looks at the others
CREDIT_S = 0.02  # how late less than half a window of credits may leave a process that sleeps
TICK_S = 0.001  # how late a mere tick of stream time may leave a process that has packets to handle


class Worker:
    """One process of a run."""

    def __init__(self, control: Control, plan: Message) -> None:
        self.control, self.plan = control, plan
        self.incarnation: int = plan["incarnation"]
        self.keeps = plan["restart"] == "on_failure"
        self.poll = Poll()
        wiring = self._wiring = Wiring(plan)
        self.runners, self.feeds, self.locals = wiring.runners, wiring.feeds, wiring.locals
        self.in_links, self.out_links = wiring.in_links, wiring.out_links
        self.outputs = wiring.outputs
        self._connections: Connections
        self._dirty: list[Route] = []  # with something to send
        self._late: list[Route] = []  # whose stream time has advanced, without a packet
        self._tick_at = 0.0
        self._credit_due = math.inf
        self._waiting: list[Runner] = []  # whose handlers gave more than their edges take
        self._captured = 0
        self._commit_due = self._board_at = 0.0
        self._uncommitted = False
        self._finished_said = False
        self._closing = False
        self._emitted_by_time = False
        self._handled = 0  # packets that had waited and were given to a node
        self._told_backward = False
        self._inside = (0, 0)  # the node that is busy (1 for the first) and its port; none: 0

    def build(self) -> None:
        """Make the nodes, their edges, and what a successor needs."""
        board_fd, vault_fd, *fds = self.plan["fds"]
        self._wiring.make(fds)
        self.layout = layout = self._wiring.layout()
        histograms = len(layout.histograms)
        self.board = Board(board_fd, layout.words, histograms=histograms, writable=True)
        self._busy = self.board.busy
        self._snapshotting = [
            runner for runner in self.runners
            if self.keeps and type(runner.node).is_snapshotting()
        ]  # fmt: skip
        self._snapshots = Snapshots(
            Vault(vault_fd, writable=True), self._snapshotting, self.locals.values(), self._running
        )
        self._accounts = Accounts(
            self._wiring, self.board, layout, self._snapshots, self.incarnation
        )
        # what the loop asks for every packet lies no further away than it must
        self._full_since = self._accounts.full_since
        self._note_blocked = self._accounts.note_blocked
        for fd in self.plan["fds"]:
            os.close(fd)
        self._repeats = all(runner.repeats for runner in self.runners)
        self.board.say(Board.INCARNATION, self.incarnation)

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
        found = Recovery(self._wiring, self.layout, self.board.live.tolist())
        self._captured = found.recover(self._snapshots, self._accounts, self._running)
        for runner in self.runners:
            if runner.finished:
                for route in runner.ways:
                    self._mark(route)

    # --- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the supervisor says that everything is done."""
        self._connections = Connections(
            self.control, self.poll, self._wiring, arrived=self._arrived,
            last_arrived=self._arrived_last, closed=self._unfinished,
        )  # fmt: skip
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

    def _arrived(self, feed: Feed) -> None:
        """Take in what an edge brings; a node with one input is given it at once."""
        self._take_in(feed, BATCH if feed.runner.alone and not self._waiting else 0)

    def _arrived_last(self, feed: Feed) -> None:
        """Take in all that an edge has brought, before its connection is closed."""
        self._take_in(feed, 0)

    def _unfinished(self) -> None:
        """An edge's connection was closed: if all is finished that is to be said again."""
        self._finished_said = False

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
            self._connections.say_broken(feed.name)
        if link.receiver.ended:
            order.end(port)

    def _work(self) -> bool:
        """Hand over what is ready; whether more is ready now."""
        more = blocked = False
        if self._full_since:
            self._accounts.note_freed()
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
                plan = self.plan
                leave_out(runner, port, kept, error, plan["graph"], plan["limits"]["dead_letters"])
            elif isinstance(error, NodeError) and error.span:
                raise
            else:
                what = f"on_{runner.ports[port]}"
                raise self._node_error(runner, what, error, (start, stop)) from error
        self._inside = outer
        if outer[0]:  # else the next packet says so, or the loop when it turns
            self._busy(outer[0], outer[1], time.monotonic_ns())

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
        self._accounts.note_freed()
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
        if self._snapshotting or any(local.waiting for local in self.locals.values()):
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
        self._snapshots.take()
        self._board_at = self._accounts.write(self._captured)
        self._uncommitted = False
        for link in self.in_links.values():
            link.commit()
            link.credit(all_of_them=False)
        now = time.monotonic()
        self._commit_due = now + SNAPSHOT_SHARE * (now - began)

    def _refresh(self, *, between: bool) -> None:
        """Bring the counters on the board up to date, where no commit does.

        A successor starts from them, so where there may be one they must be those of the last
        commit, but for what the edges' other ends said since: not so in the midst of a packet.
        """
        settled = not self._uncommitted and not any(
            link.recovering for link, _output in self.out_links.values()
        )
        if not self.keeps or (between and settled):
            self._board_at = self._accounts.write(self._captured)

    # --- the supervisor -----------------------------------------------------------------------

    def _obey(self, _nothing: None) -> None:
        for message in self.control.receive():
            operation = message["op"]
            if operation == "link":
                self._connections.link(message)
            elif operation == "ahead":
                self.in_links[message["edge"]].ahead = message["ahead"]
            elif operation == "unlink":
                self._connections.unlink(message["edge"])
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
        for runner in self.runners:
            source = runner.source
            if source is not None and not runner.finished:
                # once data flows, a source's thread must not wait 5 ms for the interpreter
                sys.setswitchinterval(0.0005)
                source.start()

    def _say_finished(self) -> None:
        """Tell the supervisor, once, when every node here has ended and every edge has closed."""
        done = all(runner.finished for runner in self.runners) and all(
            output.closed for output in self.outputs.values()
        )
        if done and not self._finished_said and not self._uncommitted:
            self._accounts.enter_latencies()
            self._board_at = self._accounts.write(self._captured)
            self.control.send("finished")
        elif self._finished_said and not done:
            self.control.send("unfinished")
        self._finished_said = done and not self._uncommitted

    # --- the end ------------------------------------------------------------------------------

    def _close(self) -> None:
        """Everything is done: results, then close the nodes, then say goodbye."""
        self._connections.say_refused()
        results: dict[str, Any] = {}
        for runner in self.runners:
            with self._running(runner, "results"):
                if found := runner.node.results():
                    msgspec.msgpack.encode(found)  # plain JSON, or an error that names the node
                    results[runner.node.name] = found
        for runner in self.runners:
            with self._running(runner, "close"):
                runner.node.close()
        self._accounts.enter_latencies()
        self._refresh(between=False)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.control.send(
            "closed", results=results, cpu_s=usage.ru_utime + usage.ru_stime,
            rss_peak_mib=usage.ru_maxrss / 1024,
        )  # fmt: skip

    def show_last(self) -> None:
        """The run has failed: bring the board up to date once more, if there is one yet."""
        if hasattr(self, "_accounts"):
            with contextlib.suppress(Exception):
                self._refresh(between=False)

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
        what = str(error) if isinstance(error, StreamflowError) else cause(error)
        if isinstance(error, NodeError):
            what = error.what
        where = f"{verb}" if span is None else f"{verb}, packet [{span[0]}, {span[1]}) us"
        return NodeError(runner.node.name, what, kind=runner.kind, span=where)


class Stopped(BaseException):
    """The supervisor closed the run while a handler waited for room."""


def _verb(verb: str) -> int:
    """What the board's PORT says of a verb that is not a handler."""
    return -1 - VERBS.index(verb)
