"""Edges as pure logic: no sockets, no processes, no clocks.

An edge has two ends. The `Sender` stands at the producer: packets wait (at most `capacity`) until
the consumer has granted a credit, then fly (at most `window`) until they are acknowledged. The
`Receiver` stands at the consumer: it refuses what it has seen before and returns a credit for every
packet that is finished with. Both keep a ledger, and the two must agree at the end of the stream:

    Sender:    produced = acknowledged + in_flight + dropped + lost
    Receiver:  received = handled + duplicates + held
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Any, Literal

Policy = Literal["block", "drop_oldest", "drop_newest", "latest"]

ENDED = 1 << 62  # the watermark of an input that has ended: later than any stream time
NEVER = -(1 << 62)  # the watermark of an input that has said nothing yet


class InputOrder:
    """Hands a node's inputs over in (stream time, port order), whatever order they arrived in.

    A packet may go when no other port can still bring one that sorts before it, which the ports'
    watermarks tell: a watermark `w` promises that every later packet starts at or after `w`.
    """

    def __init__(self, ports: int) -> None:
        self._queues: list[deque[tuple[int, Any]]] = [deque() for _ in range(ports)]
        self._watermarks = [NEVER] * ports

    def push(self, port: int, start: int, item: Any) -> None:
        """A packet that starts at `start` has arrived on `port`."""
        self._queues[port].append((start, item))

    def advance(self, port: int, watermark: int) -> None:
        """Nothing that starts before `watermark` will arrive on `port` any more."""
        if watermark > self._watermarks[port]:
            self._watermarks[port] = watermark

    def end(self, port: int) -> None:
        """Nothing more will arrive on `port`."""
        self._watermarks[port] = ENDED

    def pop(self) -> tuple[int, Any] | None:
        """The next (port, item) in order, or None while it must still wait."""
        if len(self._queues) == 1:
            return (0, self._queues[0].popleft()[1]) if self._queues[0] else None
        best = -1
        for port, queue in enumerate(self._queues):
            if queue and (best < 0 or queue[0][0] < self._queues[best][0][0]):
                best = port
        if best < 0:
            return None
        start = self._queues[best][0][0]
        for port, queue in enumerate(self._queues):
            if port != best and not queue and (self._watermarks[port], port) < (start, best):
                return None
        return best, self._queues[best].popleft()[1]

    def waiting(self, port: int) -> int:
        """Packets of `port` that have arrived and not been handed over."""
        return len(self._queues[port])

    def queued(self, port: int) -> list[Any]:
        """What has arrived on `port` and not been handed over, first in first place."""
        return [item for _start, item in self._queues[port]]

    @property
    def time(self) -> int:
        """Stream time before which everything has been handed over."""
        if len(self._queues) == 1:  # the usual case, asked several times for every packet
            return self._queues[0][0][0] if self._queues[0] else self._watermarks[0]
        return min(
            (
                queue[0][0] if queue else watermark
                for queue, watermark in zip(self._queues, self._watermarks, strict=True)
            ),
            default=ENDED,  # no input is connected, so none will ever say anything
        )

    @property
    def ended(self) -> bool:
        """Every port has ended and nothing waits."""
        return self.time == ENDED


class Sender:
    """The producer's end of one edge. Packets are known by their sequence numbers, 1, 2, 3, ...

    `items` of a packet (events, rows) are counted beside the packets themselves.
    """

    def __init__(self, policy: Policy, capacity: int, window: int) -> None:
        self.policy: Policy = policy
        self.capacity = 1 if policy == "latest" else capacity
        self.window = window
        self.produced = self.acknowledged = self.dropped = self.lost = 0
        self.produced_items = self.acknowledged_items = self.dropped_items = self.lost_items = 0
        self.waiting_max = 0
        self.connected = False
        self.waiting: deque[int] = deque()
        self.again: deque[int] = deque()  # sent to a consumer that died; to be sent once more
        self.flying: dict[int, int] = {}  # sent, and not acknowledged yet: their items
        self._items: dict[int, int] = {}  # of those that wait, or are to be sent again

    @property
    def in_flight(self) -> int:
        """Packets neither acknowledged nor dropped: waiting, sent, or to be sent again."""
        return len(self.waiting) + len(self.again) + len(self.flying)

    @property
    def in_flight_items(self) -> int:
        """Items of the packets in flight."""
        return sum(self._items.values()) + sum(self.flying.values())

    def room(self, more: int = 0) -> bool:
        """Whether a packet may be offered after `more` others; lossy edges always have room."""
        return self.policy != "block" or len(self.waiting) + more < self.capacity

    def offer(self, sequence: int, items: int) -> list[int]:
        """Take a new packet; the sequence numbers that the policy drops because of it."""
        self.produced += 1
        self.produced_items += items
        self._items[sequence] = items
        self.waiting.append(sequence)
        dropped: list[int] = []
        # a packet that can leave at once does not wait, so it does not push another one out
        free = self.window - len(self.flying) - len(self.again) if self.connected else 0
        excess = len(self.waiting) - self.capacity - max(0, free)
        if excess > 0 and self.policy != "block":
            dropped = [self._drop() for _ in range(excess)]
        if len(self.waiting) > self.waiting_max:
            self.waiting_max = len(self.waiting)
        return dropped

    def pass_on(self, sequence: int, items: int) -> bool:
        """`offer` and `take` in one, where nothing waits and there is a credit; else False."""
        flying = self.flying
        if not self.connected or self.waiting or self.again or len(flying) >= self.window:
            return False
        self.produced += 1
        self.produced_items += items
        flying[sequence] = items
        if not self.waiting_max:
            self.waiting_max = 1  # as `offer` has it: a packet waits until it is taken
        return True

    def take(self) -> int | None:
        """The next packet to send, or None without credit, connection or packets."""
        if not self.connected or len(self.flying) >= self.window:
            return None
        if self.again:
            sequence = self.again.popleft()
        elif self.waiting:
            sequence = self.waiting.popleft()
        else:
            return None
        self.flying[sequence] = self._items.pop(sequence)
        return sequence

    def acknowledge(self, sequences: Iterable[int]) -> list[int]:
        """Credits came back; the packets that are done with (unknown numbers are ignored)."""
        flying = self.flying
        done, acknowledged_items = [], 0
        for sequence in sequences:
            items = flying.pop(sequence, None)
            if items is not None:
                acknowledged_items += items
                done.append(sequence)
        self.acknowledged += len(done)
        self.acknowledged_items += acknowledged_items
        return done

    def connect(
        self, window: int, received_through: int, handled_through: int, held: Collection[int]
    ) -> list[int]:
        """A consumer has come and said where it stands; the packets whose memory it needs no more.

        `received_through` and `handled_through` are its highest sequence numbers; `held` are the
        numbers up to there that it still holds a view of. What it never received is sent again.
        """
        self.window = window
        self.connected = True
        unsettled = self.flying | {sequence: self._items.pop(sequence) for sequence in self.again}
        self.flying = {}
        done, again = [], []
        for sequence, items in unsettled.items():
            if sequence > received_through:
                again.append(sequence)
                self._items[sequence] = items
            elif sequence > handled_through or sequence in held:
                self.flying[sequence] = items
            else:
                self.acknowledged += 1
                self.acknowledged_items += items
                done.append(sequence)
        self.again = deque(sorted(again))
        if self.policy != "block":
            done += self._thin()
        return done

    def _thin(self) -> list[int]:
        """What a producer's successor sends again on a lossy edge, back within its bounds.

        Its memory does not tell which packets had been sent and which were waiting.
        """
        while self.again and len(self.flying) + len(self.again) > self.window:
            self.waiting.appendleft(self.again.pop())
        dropped = []
        while len(self.waiting) > self.capacity:
            dropped.append(self._drop())
        return dropped

    def _drop(self) -> int:
        """Give up one of those waiting: the policy says which."""
        gone = self.waiting.pop() if self.policy == "drop_newest" else self.waiting.popleft()
        self.dropped += 1
        self.dropped_items += self._items.pop(gone)
        return gone

    def disconnect(self) -> None:
        """The consumer is gone. What it had in hand stays until its successor says."""
        self.connected = False

    def recover(self, unacknowledged: Iterable[tuple[int, int]]) -> None:
        """After the producer's own death: the (sequence, items) that its memory still holds."""
        for sequence, items in sorted(unacknowledged):
            self.again.append(sequence)
            self._items[sequence] = items

    def reconcile(self, handled: int, handled_items: int, held: Collection[int]) -> None:
        """After the producer's own death: settle the ledger with what the consumer has handled.

        Its own count of acknowledgements died with it, so the consumer's is taken (less the views
        it still holds); whatever is then unexplained was lost with it.
        """
        views = [sequence for sequence in held if sequence in self.flying]
        self.acknowledged = handled - len(views)
        self.acknowledged_items = handled_items - sum(self.flying[view] for view in views)
        self.lost = self.produced - self.acknowledged - self.in_flight - self.dropped
        self.lost_items = (
            self.produced_items
            - self.acknowledged_items
            - self.in_flight_items
            - self.dropped_items
        )

    @property
    def settled(self) -> bool:
        """Nothing is in flight any more."""
        return not (self.waiting or self.again or self.flying)


class Receiver:
    """The consumer's end of one edge."""

    def __init__(self) -> None:
        self.received = self.handled = self.duplicates = self.handled_items = 0
        self.received_through = self.handled_through = 0
        self.watermark = NEVER
        self.ended = False
        self.unfinished: dict[int, None] = {}  # received, and no credit returned yet

    @property
    def held(self) -> int:
        """Packets received and not handled yet."""
        return self.received - self.handled - self.duplicates

    def accept(self, sequence: int) -> bool:
        """A packet has arrived; False when it was seen before and must only be credited."""
        self.received += 1
        if sequence <= self.received_through:
            self.duplicates += 1
            return False
        self.received_through = sequence
        self.unfinished[sequence] = None
        return True

    def handle(self, sequence: int, items: int) -> None:
        """The packet has been handled."""
        self.handled += 1
        self.handled_items += items
        self.handled_through = sequence

    def finish(self, sequence: int) -> None:
        """A credit for this packet goes back."""
        self.unfinished.pop(sequence, None)

    def held_views(self) -> list[int]:
        """Handled packets whose memory is still looked at: the producer must not reuse it."""
        return [s for s in self.unfinished if s <= self.handled_through]


class Slots:
    """Which slots of an output's memory are free, and how many edges hold each of the others."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count - 1, -1, -1))
        self.holders: dict[int, int] = {}  # slot -> bit mask of the edges that hold it

    @property
    def free(self) -> int:
        """How many slots are free."""
        return len(self._free)

    def acquire(self, edges: int) -> int:
        """A free slot (the last freed: its memory is warm), held by the edges in the bit mask."""
        slot = self._free.pop()
        self.holders[slot] = edges
        return slot

    def hold(self, slot: int, edges: int) -> None:
        """Mark a slot as held (recovery)."""
        self._free.remove(slot)
        self.holders[slot] = edges

    def release(self, slot: int, edge: int) -> int:
        """Edge number `edge` is done with the slot; the bit mask that is left."""
        left = self.holders[slot] & ~(1 << edge)
        if left:
            self.holders[slot] = left
        else:
            del self.holders[slot]
            self._free.append(slot)
        return left
