"""Edges lose nothing they must keep, and count everything they may lose, whoever dies when."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from streamflow.consumer_end import Arrival, InLink
from streamflow.edge import ENDED, NEVER, InputOrder, Policy, Receiver, Sender, Slots
from streamflow.memory import Segment, create, read_only, segment_bytes
from streamflow.metrics import balance, shared_edge
from streamflow.packet import SPIKE, Packet, Spikes
from streamflow.producer_end import OutLink, Output

# --- the sender, policy by policy ---------------------------------------------------------------


def connected(policy: Policy, capacity: int, window: int) -> Sender:
    sender = Sender(policy, capacity, window)
    sender.connect(window, 0, 0, ())
    return sender


def offer(sender: Sender, *sequences: int) -> list[int]:
    """Offer packets of one item each; what was dropped."""
    return [gone for sequence in sequences for gone in sender.offer(sequence, 1)]


def take_all(sender: Sender) -> list[int]:
    return list(iter(sender.take, None))


def test_latest_keeps_the_newest_of_those_waiting() -> None:
    sender = connected("latest", capacity=64, window=1)
    offer(sender, 1)
    assert take_all(sender) == [1]

    dropped = offer(sender, 2, 3, 4)

    assert dropped == [2, 3]
    assert sender.acknowledge([1]) == [1]
    assert take_all(sender) == [4]


def test_drop_oldest_drops_the_one_that_has_waited_longest() -> None:
    sender = connected("drop_oldest", capacity=2, window=1)
    offer(sender, 1)
    take_all(sender)

    dropped = offer(sender, 2, 3, 4)

    assert dropped == [2]
    assert list(sender.waiting) == [3, 4]


def test_drop_newest_keeps_those_that_came_first() -> None:
    sender = connected("drop_newest", capacity=2, window=1)
    offer(sender, 1)
    take_all(sender)

    dropped = offer(sender, 2, 3, 4, 5)

    assert dropped == [4, 5]
    assert list(sender.waiting) == [2, 3]


def test_block_drops_nothing_and_says_that_it_is_full() -> None:
    sender = connected("block", capacity=2, window=1)
    offer(sender, 1)
    take_all(sender)
    offer(sender, 2)
    assert sender.room()
    assert not sender.room(1)

    dropped = offer(sender, 3)

    assert dropped == []
    assert not sender.room()


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "latest"])
def test_lossy_edges_always_have_room(policy: Policy) -> None:
    sender = Sender(policy, 1, 1)

    for sequence in range(1, 20):
        assert sender.room(5)
        sender.offer(sequence, 3)

    assert (sender.dropped, sender.dropped_items) == (18, 54)


def test_a_packet_that_can_leave_at_once_pushes_no_other_out() -> None:
    sender = connected("latest", capacity=1, window=2)

    dropped = offer(sender, 1, 2, 3)

    assert dropped == []
    assert take_all(sender) == [1, 2]
    assert list(sender.waiting) == [3]


def test_nothing_leaves_before_the_consumer_has_greeted() -> None:
    sender = Sender("block", 4, 4)
    offer(sender, 1, 2)

    assert sender.take() is None

    sender.connect(4, 0, 0, ())
    assert take_all(sender) == [1, 2]


def test_at_most_a_window_flies() -> None:
    sender = connected("block", capacity=8, window=3)
    offer(sender, *range(1, 8))

    assert take_all(sender) == [1, 2, 3]
    sender.acknowledge([2])
    assert take_all(sender) == [4]


def test_an_acknowledgement_of_what_does_not_fly_is_ignored() -> None:
    sender = connected("block", capacity=8, window=1)
    offer(sender, 1, 2)
    take_all(sender)

    done = sender.acknowledge([2, 7, 1, 1])

    assert done == [1]
    assert sender.acknowledged == 1


def test_a_consumers_successor_is_sent_again_what_was_not_committed() -> None:
    sender = connected("block", capacity=8, window=4)
    offer(sender, 1, 2, 3, 4, 5)
    take_all(sender)
    sender.disconnect()

    done = sender.connect(4, received_through=2, handled_through=2, held=())

    assert done == [1, 2]
    assert take_all(sender) == [3, 4, 5]


def test_a_view_that_is_still_held_is_not_done_with_after_a_reconnection() -> None:
    sender = connected("block", capacity=8, window=4)
    offer(sender, 1, 2, 3)
    take_all(sender)
    sender.disconnect()

    done = sender.connect(4, received_through=3, handled_through=2, held=[1])

    assert done == [2]
    assert set(sender.flying) == {1, 3}
    assert sender.acknowledge([1, 3]) == [1, 3]
    assert sender.settled


def test_a_recovered_producer_takes_the_consumers_word_and_counts_the_rest_as_lost() -> None:
    sender = Sender("drop_oldest", 4, 2)
    sender.produced, sender.produced_items = 9, 90
    sender.dropped, sender.dropped_items = 1, 10
    sender.recover([(8, 10), (7, 10), (9, 10)])

    done = sender.connect(2, received_through=7, handled_through=7, held=())
    sender.reconcile(handled=5, handled_items=50, held=())

    assert done == [7]
    assert take_all(sender) == [8, 9]
    assert (sender.acknowledged, sender.in_flight, sender.lost) == (5, 2, 1)
    assert (sender.acknowledged_items, sender.in_flight_items, sender.lost_items) == (50, 20, 10)


def test_after_a_recovery_a_lossy_edge_keeps_to_its_capacity() -> None:
    sender = Sender("latest", 1, 1)
    sender.produced = sender.produced_items = 3
    sender.recover([(2, 1), (3, 1)])  # one flew, one waited

    sender.connect(1, received_through=2, handled_through=1, held=())

    assert list(sender.flying) == [2]
    assert offer(sender, 4) == [3]  # it waits again, and the newest is worth more
    assert list(sender.waiting) == [4]


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "latest"])
def test_before_the_greeting_nothing_is_given_up_that_the_consumer_may_look_at(
    policy: Policy,
) -> None:
    sender = Sender(policy, 1, 1)
    sender.produced = sender.produced_items = 3
    sender.recover([(2, 1), (3, 1)])  # which of them the consumer has, nobody here can tell

    dropped = offer(sender, 4, 5, 6)

    assert not {2, 3} & set(dropped)
    assert len(dropped) >= 2


# --- the receiver -------------------------------------------------------------------------------


def test_what_was_seen_before_is_a_duplicate_and_not_handled() -> None:
    receiver = Receiver()
    assert receiver.accept(1)
    assert receiver.accept(3)

    assert not receiver.accept(3)
    assert not receiver.accept(2)

    receiver.handle(1, 10)
    assert (receiver.received, receiver.duplicates, receiver.handled) == (4, 2, 1)
    assert receiver.held == 1
    assert receiver.handled_items == 10


def test_held_views_are_what_was_handled_and_not_finished_with() -> None:
    receiver = Receiver()
    for sequence in (1, 2, 3):
        receiver.accept(sequence)
    receiver.handle(1, 1)
    receiver.handle(2, 1)

    receiver.finish(1)

    assert receiver.held_views() == [2]


# --- slots --------------------------------------------------------------------------------------


def test_the_slot_freed_last_is_used_first() -> None:
    slots = Slots(4)
    first, second = slots.acquire(1), slots.acquire(1)
    slots.release(first, 0)
    slots.release(second, 0)

    assert slots.acquire(1) == second


def test_a_slot_is_free_once_the_last_edge_has_released_it() -> None:
    slots = Slots(2)
    slot = slots.acquire(0b101)

    assert slots.release(slot, 0) == 0b100
    assert slots.free == 1
    assert slots.release(slot, 2) == 0
    assert slots.free == 2


def test_a_slot_held_by_a_predecessor_is_not_given_out() -> None:
    slots = Slots(3)

    slots.hold(1, 0b1)

    assert {slots.acquire(1), slots.acquire(1)} == {0, 2}
    assert slots.free == 0


# --- input order --------------------------------------------------------------------------------


def test_packets_of_one_time_go_in_port_order() -> None:
    order = InputOrder(2)
    order.push(1, 5, "second")
    order.push(0, 5, "first")

    assert [order.pop(), order.pop()] == [(0, "first"), None]

    order.advance(0, 6)
    assert order.pop() == (1, "second")


def test_a_packet_waits_while_an_earlier_one_may_still_come() -> None:
    order = InputOrder(2)
    order.push(0, 10, "a")
    assert order.pop() is None

    order.advance(1, 9)
    assert order.pop() is None

    order.advance(1, 10)
    assert order.pop() == (0, "a")


def test_one_input_never_waits() -> None:
    order = InputOrder(1)
    order.push(0, 10, "a")

    assert order.pop() == (0, "a")
    assert order.pop() is None


def test_an_ended_input_holds_nobody_up() -> None:
    order = InputOrder(2)
    order.push(0, 10, "a")

    order.end(1)

    assert order.pop() == (0, "a")
    assert not order.ended
    order.end(0)
    assert order.ended
    assert order.time == ENDED


def test_watermarks_never_go_back() -> None:
    order = InputOrder(1)
    order.advance(0, 10)

    order.advance(0, 3)

    assert order.time == 10


def test_a_branch_that_gives_one_packet_in_a_hundred_holds_nobody_up() -> None:
    order = InputOrder(2)
    handed = []

    for time in range(1000):
        order.push(0, time, time)
        order.advance(0, time)
        if time % 100 == 0:
            order.push(1, time, time)
        order.advance(1, time)  # the branch says how far it is, with or without a packet
        while (item := order.pop()) is not None:
            handed.append(item)
        assert order.waiting(0) <= 1

    assert len([item for item in handed if item[0] == 1]) == 10


Step = tuple[str, int, int]  # what, port, stream time


@st.composite
def streams(draw: st.DrawFn) -> list[list[Step]]:
    """For each port: packets and truthful watermarks in order, then the end."""
    out = []
    for port in range(draw(st.integers(1, 4))):
        times = sorted(draw(st.lists(st.integers(0, 12), max_size=8)))
        steps: list[Step] = []
        for index, time in enumerate(times):
            if draw(st.booleans()):
                earlier = times[index - 1] if index else -5
                steps.append(("advance", port, draw(st.integers(earlier, time))))
            steps.append(("push", port, time))
        out.append([*steps, ("end", port, 0)])
    return out


@settings(deadline=None, max_examples=200, derandomize=True)
@given(data=st.data(), ports=streams())
def test_the_order_of_handing_over_does_not_depend_on_the_order_of_arrival(
    data: st.DataObject, ports: list[list[Step]]
) -> None:
    order, handed, left = InputOrder(len(ports)), [], [deque(steps) for steps in ports]
    last = NEVER

    while any(left):
        port = data.draw(st.sampled_from([p for p, steps in enumerate(left) if steps]))
        what, _, time = left[port].popleft()
        if what == "push":
            order.push(port, time, time)
            order.advance(port, time)  # the packet's own header carries it
        elif what == "advance":
            order.advance(port, time)
        else:
            order.end(port)
        while data.draw(st.booleans()) and (item := order.pop()) is not None:
            handed.append((item[1], item[0]))
            if len(ports) > 1:
                assert order.time >= item[1]
        assert order.time >= last
        last = order.time
    while (item := order.pop()) is not None:
        handed.append((item[1], item[0]))

    pushed = [(time, port) for steps in ports for what, port, time in steps if what == "push"]
    assert handed == sorted(pushed)
    assert order.ended


# --- whoever dies when --------------------------------------------------------------------------
# The real `Output` and `InLink` over real shared memory. Only the wire is simulated, so that it can
# be slow or die at any moment; everything a `Worker` does with the two ends is done here in the
# worker's order: stage, prepare, commit, publish; hand over, handle, commit, credit.

SLOT_SIZE = 64
INLINE = 16  # bytes: of the packets below one in three travels in its frame


def items_of(sequence: int) -> int:
    return 1 + sequence % 3


def rows_of(sequence: int) -> np.ndarray[Any, Any]:
    rows = np.empty(items_of(sequence), SPIKE)
    rows["timestamp"], rows["unit"] = sequence, sequence * 7
    return rows


class End:
    """One end of a connection. What is sent arrives when the test says so."""

    def __init__(self) -> None:
        self.sent: deque[bytes] = deque()
        self.inbox: deque[bytes] = deque()
        self.other: End | None = None
        self.refuses = False  # knows that nobody listens any more

    def send(self, frame: bytes) -> bool:
        if not self.refuses:
            self.sent.append(frame)
        return not self.refuses

    @property
    def more(self) -> bool:
        return bool(self.inbox)

    def receive(self) -> bytes | None:
        return self.inbox.popleft() if self.inbox else None

    def close(self) -> None:
        if self.other is not None:
            self.other.other = None

    def arrive(self, count: int) -> None:
        """Let the next `count` frames from the other end arrive."""
        if self.other is not None:
            for _ in range(min(count, len(self.other.sent))):
                self.inbox.append(self.other.sent.popleft())


@dataclass
class Consumer:
    """What a worker with one input does, and what its last commit would give a successor."""

    fd: int
    slots: int
    window: int
    alive: bool = True
    # as committed
    handled: int = 0
    duplicates: int = 0
    handled_items: int = 0
    handled_through: int = 0
    watermark: int = NEVER
    ended: bool = False
    committed_log: tuple[int, ...] = ()
    # of the living process
    log: list[int] = field(default_factory=list)
    queue: deque[Arrival] = field(default_factory=deque)
    kept: list[tuple[int, Packet[Spikes]]] = field(default_factory=list)
    mark: int = NEVER
    end: End | None = None

    def start(self) -> None:
        link = InLink(Spikes, self.window, Segment(self.fd, self.slots, SLOT_SIZE, writable=False))
        receiver = link.receiver
        receiver.handled, receiver.duplicates = self.handled, self.duplicates
        receiver.received = self.handled + self.duplicates
        receiver.handled_items = self.handled_items
        receiver.handled_through = receiver.received_through = self.handled_through
        receiver.ended, receiver.watermark = self.ended, self.watermark
        self.link, self.alive, self.mark = link, True, self.watermark
        self.log, self.queue, self.kept = list(self.committed_log), deque(), []

    def arrived(self) -> None:
        for arrival in self.link.receive():
            if isinstance(arrival, int):
                self.mark = max(self.mark, arrival)
            else:
                assert arrival.header.start >= self.mark, "stream time had passed this packet"
                self.mark = max(self.mark, arrival.header.watermark)
                self.queue.append(arrival)

    def handle(self, *, keep: bool) -> None:
        arrival = self.queue.popleft()
        packet = self.link.packet(arrival)
        sequence = arrival.header.sequence
        assert packet.data.array.tobytes() == rows_of(sequence).tobytes()
        if keep:
            self.kept.append((sequence, packet))
        del packet
        self.link.handled(arrival)
        self.log.append(sequence)
        receiver = self.link.receiver
        receiver.watermark = max(receiver.watermark, arrival.header.watermark)
        if 2 * self.link.uncommitted >= self.window:
            self.commit()

    def commit(self) -> None:
        receiver = self.link.receiver
        self.handled, self.duplicates = receiver.handled, receiver.duplicates
        self.handled_items = receiver.handled_items
        self.handled_through, self.watermark = receiver.handled_through, receiver.watermark
        self.ended = receiver.ended and receiver.handled_through == receiver.received_through
        self.committed_log = tuple(self.log)
        self.link.commit()
        self.link.credit(all_of_them=False)

    def idle(self) -> None:
        self.commit()
        self.link.credit(all_of_them=True)


@dataclass
class Commit:
    """What a producer's board says after a commit."""

    sequence: int = 0
    items: int = 0
    dropped: list[tuple[int, int]] = field(default_factory=list)
    watermark: int = NEVER
    finished: bool = False


class Producer:
    """What a worker with one output does: packet `n` is always the same, however often made."""

    def __init__(self, specs: list[tuple[Policy, int, int]]) -> None:
        self.specs = specs
        # as the plan says; 'latest' has one waiting whatever its capacity
        self.slots = sum(capacity + window for _, capacity, window in specs) + 1
        self.fd = create("edge", segment_bytes(self.slots, SLOT_SIZE))
        self.committed = Commit(dropped=[(0, 0)] * len(specs))
        self.commits = 0
        self.target = 0  # highest number ever made
        self.ends: list[End | None] = [None] * len(specs)
        self.alive = False

    def start(self) -> None:
        segment = Segment(self.fd, self.slots, SLOT_SIZE, writable=True)
        links = [OutLink(*spec) for spec in self.specs]
        self.output = Output(segment, links, INLINE)
        self.alive, self.watermark, self.finished = True, NEVER, False
        if self.commits:
            commit = self.committed
            for link in links:
                link.watermark = commit.watermark
            self.watermark, self.finished = commit.watermark, commit.finished
            self.output.recover(commit.sequence, commit.items, list(commit.dropped))
            if self.finished:
                self.publish()
        elif self.target:
            self.output.recover(0, 0, list(self.committed.dropped))

    def stage(self, loan: str) -> None:
        sequence = self.output.sequence + 1
        rows = rows_of(sequence)
        if loan != "none":
            lent = self.output.loan(rows.shape, SPIKE)
            lent[:] = rows
            if loan == "used":
                rows = lent
            else:
                lent["unit"] = -1  # scribbled on, and not what is yielded
        self.output.stage(Packet(10 * sequence, 10 * sequence + 10, Spikes(rows, 1000)))
        self.watermark = max(self.watermark, 10 * sequence)
        self.target = max(self.target, sequence)

    def commit(self) -> None:
        self.commits += 1
        self.committed = Commit(
            self.output.sequence,
            self.output.items,
            [(link.sender.dropped, link.sender.dropped_items) for link in self.output.links],
            self.watermark,
            self.finished,
        )

    def publish(self) -> None:
        self.output.publish()
        self.output.tick(self.watermark)
        if self.finished:
            self.output.end()


POLICIES: list[Policy] = ["block", "drop_oldest", "drop_newest", "latest"]
EDGE = st.integers(0, 2)
SPARED = st.sampled_from([True, True, True, False])  # most of the time nobody dies


class Edges(RuleBasedStateMachine):
    """One producer, one to three consumers, any of which dies at any moment."""

    @initialize(
        specs=st.lists(
            st.tuples(st.sampled_from(POLICIES), st.integers(1, 8), st.integers(1, 8)),
            min_size=1,
            max_size=3,
        )
    )
    def begin(self, specs: list[tuple[Policy, int, int]]) -> None:
        self.producer = Producer(specs)
        self.producer.start()
        fd = read_only(self.producer.fd)
        self.consumers = [Consumer(fd, self.producer.slots, window) for *_, window in specs]
        for consumer in self.consumers:
            consumer.start()
        self.producer_deaths = 0
        for edge in range(len(specs)):
            self.link(edge)

    def edge(self, number: int) -> int:
        return number % len(self.consumers)

    # --- the producer

    @precondition(lambda self: self.producer.alive and not self.producer.finished)
    @rule(
        many=st.integers(1, 6),
        commit=st.booleans(),
        loan=st.sampled_from(["none", "none", "used", "other"]),
        dies=st.sampled_from([None] * 8 + ["staged", "prepared", "committed", "published"]),
        ends=st.sampled_from([False] * 15 + [True]),
    )
    def produce(self, many: int, commit: bool, loan: str, dies: str | None, ends: bool) -> None:
        """Handle one input that causes `many` packets, or as many as there is room for."""
        producer = self.producer
        for _ in range(many):
            if not producer.output.room():
                break
            producer.stage(loan)
        if dies == "staged":
            return self.kill_producer(noticed=False)
        producer.finished = ends and producer.output.sequence >= producer.target
        producer.output.prepare(producer.watermark)
        if dies == "prepared":
            return self.kill_producer(noticed=False)
        if commit or producer.finished:
            producer.commit()
        if dies == "committed":
            return self.kill_producer(noticed=False)
        producer.publish()
        if dies == "published":
            self.kill_producer(noticed=False)
        return None

    @precondition(lambda self: self.producer.alive and not self.producer.finished)
    @rule(ahead=st.integers(0, 10))
    def time_passes(self, ahead: int) -> None:
        producer = self.producer
        mark = 10 * producer.output.sequence + ahead
        if mark > producer.watermark:
            producer.watermark = mark
            producer.output.tick(mark)

    @precondition(lambda self: self.producer.alive)
    @rule(number=EDGE)
    def producer_receives(self, number: int) -> None:
        self.producer.output.links[self.edge(number)].receive(self.producer.output)

    # --- the wire

    @rule(number=EDGE, count=st.integers(1, 9), onwards=st.booleans())
    def frames_arrive(self, number: int, count: int, onwards: bool) -> None:
        edge = self.edge(number)
        alive = self.consumers[edge].alive if onwards else self.producer.alive
        end = self.consumers[edge].end if onwards else self.producer.ends[edge]
        if end is not None and alive:
            end.arrive(count)

    @rule(number=EDGE, rounds=st.integers(1, 3), keep=st.booleans())
    def all_goes_well(self, number: int, rounds: int, keep: bool) -> None:
        """An edge on which nothing is slow and nobody dies."""
        edge = self.edge(number)
        self.repair(edge)
        for _ in range(rounds):
            self.frames_arrive(edge, 99, onwards=False)
            if self.producer.alive:
                self.producer_receives(edge)
            self.frames_arrive(edge, 99, onwards=True)
            self.consume(edge, 99, keep=keep, commit=False)

    # --- the consumers

    @rule(number=EDGE, count=st.integers(1, 6), keep=st.booleans(), commit=st.booleans())
    def consume(self, number: int, count: int, keep: bool, commit: bool) -> None:
        consumer = self.consumers[self.edge(number)]
        if consumer.alive:
            consumer.arrived()
            for _ in range(min(count, len(consumer.queue))):
                consumer.handle(keep=keep)
            if commit:
                consumer.commit()

    @rule(number=EDGE)
    def consumer_idles(self, number: int) -> None:
        consumer = self.consumers[self.edge(number)]
        if consumer.alive:
            consumer.idle()

    @rule(number=EDGE, count=st.integers(1, 4))
    def consumer_lets_views_go(self, number: int, count: int) -> None:
        del self.consumers[self.edge(number)].kept[:count]

    # --- death and repair

    @precondition(lambda self: self.producer.alive)
    @rule(noticed=st.booleans(), spared=SPARED)
    def kill_producer(self, noticed: bool, spared: bool = False) -> None:
        if spared:
            return
        self.producer.alive = False
        self.producer_deaths += 1
        del self.producer.output
        for edge, consumer in enumerate(self.consumers):
            end = self.producer.ends[edge]
            self.producer.ends[edge] = None
            if end is not None:
                end.inbox.clear()
                if consumer.end is not None:
                    consumer.end.refuses = noticed

    @rule(number=EDGE, noticed=st.booleans(), spared=SPARED)
    def kill_consumer(self, number: int, noticed: bool, spared: bool) -> None:
        edge = self.edge(number)
        consumer = self.consumers[edge]
        if consumer.alive and not spared:
            consumer.alive = False
            consumer.kept.clear()
            if consumer.end is not None and (other := self.producer.ends[edge]) is not None:
                other.refuses = noticed
            consumer.end = None

    @rule(number=EDGE)
    def repair(self, number: int) -> None:
        """What the supervisor does: unlink what has lost its peer, start successors, link."""
        edge = self.edge(number)
        producer, consumer = self.producer, self.consumers[edge]
        if producer.alive and not consumer.alive:
            producer.output.links[edge].detach()
            producer.ends[edge] = None
        if consumer.alive and not producer.alive and consumer.end is not None:
            consumer.arrived()  # what had arrived is its own already
            consumer.link.detach()
            consumer.end = None
        if not consumer.alive:
            consumer.start()
        if not producer.alive and all(other.end is None for other in self.consumers if other.alive):
            producer.start()
        self.link(edge)

    def link(self, edge: int) -> None:
        producer, consumer = self.producer, self.consumers[edge]
        if not (producer.alive and consumer.alive):
            return
        if producer.ends[edge] is not None or consumer.end is not None:
            return
        here, there = End(), End()
        here.other, there.other = there, here
        producer.ends[edge], consumer.end = here, there
        producer.output.links[edge].attach(here)  # type: ignore[arg-type]  # a slow wire
        consumer.link.attach(there)  # type: ignore[arg-type]  # as above

    # --- what holds after every step

    def ready(self) -> bool:
        return hasattr(self, "producer")

    @precondition(ready)
    @invariant()
    def views_still_show_their_packet(self) -> None:
        for consumer in self.consumers:
            for sequence, packet in consumer.kept:
                assert packet.data.array.tobytes() == rows_of(sequence).tobytes()

    @precondition(ready)
    @invariant()
    def consumers_ledgers_add_up(self) -> None:
        for (policy, *_), consumer in zip(self.producer.specs, self.consumers, strict=True):
            receiver = consumer.link.receiver
            assert receiver.received == receiver.handled + receiver.duplicates + receiver.held
            assert receiver.handled == len(consumer.log)
            assert receiver.duplicates == 0  # what a consumer has is not sent to it again
            assert receiver.handled_items == sum(map(items_of, consumer.log))
            assert consumer.log == sorted(set(consumer.log))
            if policy == "block":
                assert consumer.log == list(range(1, len(consumer.log) + 1))

    @precondition(lambda self: self.ready() and self.producer.alive)
    @invariant()
    def producers_ledgers_add_up(self) -> None:
        for link in self.producer.output.links:
            sender = link.sender
            if link.recovering:
                continue
            explained = sender.acknowledged + sender.in_flight + sender.dropped + sender.lost
            assert sender.produced == explained
            assert sender.produced_items == (
                sender.acknowledged_items
                + sender.in_flight_items
                + sender.dropped_items
                + sender.lost_items
            )
            assert min(sender.acknowledged, sender.dropped, sender.lost, sender.lost_items) >= 0
            if sender.policy == "block":
                assert sender.lost == sender.dropped == 0
            if not self.producer_deaths:
                assert sender.lost == 0

    @precondition(lambda self: self.ready() and self.producer.alive)
    @invariant()
    def windows_and_capacities_hold(self) -> None:
        output = self.producer.output
        for link in output.links:
            sender = link.sender
            assert len(sender.flying) <= sender.window
            if sender.connected or sender.policy == "block":
                assert len(sender.waiting) <= sender.capacity
            if sender.policy != "block" and not link.recovering:
                assert len(sender.flying) + len(sender.again) <= sender.window
                assert sender.in_flight <= sender.window + sender.capacity
        settled = not any(link.recovering for link in output.links)
        if settled and all(link.sender.policy != "block" for link in output.links):
            assert output.room(), "a lossy edge made its producer wait"

    @precondition(lambda self: self.ready() and self.producer.alive)
    @invariant()
    def slots_are_held_by_exactly_the_edges_that_need_them(self) -> None:
        output = self.producer.output
        held: dict[int, int] = {}
        for link in output.links:
            sender = link.sender
            for sequence in [*sender.waiting, *sender.again, *sender.flying]:
                slot = output.entries[sequence].slot
                held[slot] = held.get(slot, 0) | 1 << link.bit
        lent = {output._loan: (1 << len(output.links)) - 1} if output._loan >= 0 else {}
        assert output.slots.holders == {**held, **lent}
        assert output.slots.free + len(output.slots.holders) == output.segment.slots
        for slot in range(output.segment.slots):
            assert output.segment.read_head(slot)[0].holders == held.get(slot, 0)

    @precondition(lambda self: self.ready() and self.producer.alive)
    @invariant()
    def what_consumers_hold_is_not_free(self) -> None:
        output = self.producer.output
        for link, consumer in zip(output.links, self.consumers, strict=True):
            if consumer.alive:
                for sequence in consumer.link.receiver.unfinished:
                    assert sequence in output.entries
                    holders = output.slots.holders[output.entries[sequence].slot]
                    assert holders >> link.bit & 1

    # --- the end of the stream

    def drained(self) -> bool:
        return self.producer.alive and self.producer.finished and self.producer.output.closed

    def teardown(self) -> None:
        if not self.ready():
            return
        for _ in range(500):
            for edge, consumer in enumerate(self.consumers):
                self.repair(edge)
                consumer.kept.clear()
                if (end := consumer.end) is not None:
                    end.arrive(1000)
                consumer.arrived()
                while consumer.queue:
                    consumer.handle(keep=False)
                consumer.idle()
                if (end := self.producer.ends[edge]) is not None:
                    end.arrive(1000)
                if self.producer.alive:
                    self.producer_receives(edge)
            if self.drained():
                break
            if self.producer.alive and not self.producer.finished:
                self.produce(many=50, commit=True, loan="none", dies=None, ends=True)
            self.check()
        assert self.drained(), "the stream did not drain"
        self.check()
        assert self.producer.output.slots.free == self.producer.slots - (
            self.producer.output._loan >= 0
        )
        for link, consumer in zip(self.producer.output.links, self.consumers, strict=True):
            self.check_end(link, consumer)

    def check(self) -> None:
        """Hypothesis looks at invariants between rules only."""
        self.views_still_show_their_packet()
        self.consumers_ledgers_add_up()
        if self.producer.alive:
            self.producers_ledgers_add_up()
            self.windows_and_capacities_hold()
            self.slots_are_held_by_exactly_the_edges_that_need_them()
            self.what_consumers_hold_is_not_free()

    def check_end(self, link: OutLink, consumer: Consumer) -> None:
        sender, receiver, made = link.sender, consumer.link.receiver, self.producer.target
        ledger = shared_edge(
            {
                **{name: getattr(sender, name) for name in (
                    "produced", "produced_items", "acknowledged", "acknowledged_items", "dropped",
                    "dropped_items", "lost", "lost_items", "in_flight", "waiting_max",
                )},
                "waiting": len(sender.waiting),
                "blocked_ns": 0,
            },
            {
                **{name: getattr(receiver, name) for name in (
                    "received", "handled", "duplicates", "handled_items",
                )},
                "bytes": 0,
            },
        )  # fmt: skip
        assert balance(ledger) == []
        assert (ledger["in_flight"], ledger["held"], ledger["produced"]) == (0, 0, made)
        assert ledger["items"] == sum(items_of(number) for number in range(1, made + 1))
        assert receiver.ended
        assert consumer.ended
        if sender.policy in ("block", "drop_oldest", "latest") and made:
            assert consumer.log[-1] == made  # the newest is never what these drop


def test_nothing_is_lost_or_repeated_uncounted_whoever_dies_when() -> None:
    run_state_machine_as_test(
        Edges,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("seed", range(60))
def test_long_lives_with_many_deaths_end_with_ledgers_that_agree(seed: int) -> None:
    """The same machine on long random walks, where Hypothesis prefers short varied ones."""
    random = Random(seed)
    edges = Edges()
    number = random.randrange(1, 4)
    edges.begin(
        [
            (random.choice(POLICIES), random.randint(1, 8), random.randint(1, 8))
            for _ in range(number)
        ]
    )
    deadly = random.choice([0.0, 0.02, 0.1])

    for _ in range(200):
        step(edges, random, deadly)
        edges.check()

    edges.teardown()


def step(edges: Edges, random: Random, deadly: float) -> None:
    """One random step of the machine."""
    edge, flag = random.randrange(3), random.random() < 0.5
    if random.random() < deadly:
        if edges.producer.alive and flag:
            edges.kill_producer(noticed=random.random() < 0.5)
        else:
            edges.kill_consumer(edge, noticed=random.random() < 0.5, spared=False)
        return
    producing = edges.producer.alive and not edges.producer.finished
    choice = random.randrange(9)
    if choice <= 1 and producing:
        dies = random.choice(["staged", "prepared", "committed", "published"])
        edges.produce(
            many=random.randint(1, 6),
            commit=flag,
            loan=random.choice(["none", "used", "other"]),
            dies=dies if random.random() < deadly else None,
            ends=random.random() < 0.005,
        )
    elif choice == 2 and producing:
        edges.time_passes(random.randint(0, 10))
    elif choice == 3 and edges.producer.alive:
        edges.producer_receives(edge)
    elif choice == 4:
        edges.frames_arrive(edge, random.randint(1, 9), onwards=flag)
    elif choice == 5:
        edges.consume(edge, random.randint(1, 6), keep=flag, commit=random.random() < 0.5)
    elif choice == 6:
        edges.consumer_idles(edge)
    elif choice == 7:
        edges.consumer_lets_views_go(edge, random.randint(1, 4))
    elif choice == 8:
        edges.repair(edge)
        if flag:
            edges.all_goes_well(edge, random.randint(1, 2), keep=random.random() < 0.5)
