"""Edges to other processes at their producer: an output port, its shared memory, its connections.

One edge between two processes of a host is one ZeroMQ ipc connection (DEALER to DEALER) for headers
and credits, and the producer's shared-memory segment for payloads. A connection belongs to one pair
of process incarnations: when either end dies, its successor gets a new endpoint, so nothing stale
can arrive.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from typing import Any

import msgspec
import numpy as np

from .edge import NEVER, Policy, Sender, Slots
from .edge_messages import MARK, TIME, Hello, read_credits, read_hello
from .errors import PacketError, TransportError
from .memory import Segment, SlotHead
from .packet import (
    CREDIT,
    DATA,
    END,
    ENDED,
    HEADER,
    HELLO,
    TICK,
    TICKED,
    WIRE_VERSION,
    Array,
    Header,
    Packet,
    data_frame,
    describe,
    is_plain,
    kind_of,
    payload_bytes,
    read_header,
)
from .packing import Codec, Compression, codec
from .sockets import Channel

SELDOM_S = 0.1  # how often a consumer that does not heed it is told of mere stream time
_CREDITS = MARK[CREDIT]


class Entry(msgspec.Struct, gc=False):
    """A published packet: where it lies, and the message that announces it."""

    slot: int
    frame: bytes
    items: int
    watermark: int


class OutLink:
    """One edge at its producer: a `Sender` and the connection it speaks through."""

    def __init__(
        self, policy: Policy, capacity: int, window: int, far: Compression | None = None
    ) -> None:
        self.bit = 0  # in the slots' holder masks; the output says
        self.far = far is not None  # the consumer is on another host: payloads go along
        self.codec = codec(far) if far is not None and far != "none" else None
        self.sender = Sender(policy, capacity, window)
        self.channel: Channel | None = None
        self.ending = self.ended = self.end_sent = False
        self.recovering = False
        self.bytes = 0
        self.sent_bytes = self.sent_plain = 0  # to another host; packets that were not packed
        self.watermark = self._ticked = NEVER
        self._tick_out = False
        self._heeds_time, self._tick_due = True, 0.0
        self.tells_later = False  # a tick waits for its turn

    def attach(self, channel: Channel) -> None:
        """A new connection was made; the consumer will say HELLO."""
        self.channel = channel
        self._tick_out = self.end_sent = self.ended = False
        self._ticked = NEVER

    def detach(self) -> Channel | None:
        """The consumer is gone: close the connection, keep what it had not acknowledged."""
        channel, self.channel = self.channel, None
        self.sender.disconnect()
        if channel is not None:
            channel.close()
        return channel

    def pump(self, output: Output) -> None:
        """Send what may be sent: packets, then the watermark, then the end of the stream."""
        sender, channel = self.sender, self.channel
        if channel is None or not sender.connected:
            return
        while (sequence := sender.take()) is not None:
            if not self.transmit(output, output.entries[sequence]):
                return
        if sender.waiting or sender.again:
            return
        if self.ending:
            if not self.end_sent:
                body = TIME.pack(self.watermark, output.sequence, sender.dropped)
                self.end_sent = channel.send(MARK[END] + body)
            return
        self.tells_later = False
        if self.watermark > self._ticked and not self._tick_out:
            if not self._heeds_time:
                now = time.monotonic()
                if now < self._tick_due:
                    self.tells_later = True
                    return
                self._tick_due = now + SELDOM_S
            self._tick_out = channel.send(MARK[TICK] + TIME.pack(self.watermark, 0, 0))
            self._ticked = self.watermark

    def transmit(self, output: Output, entry: Entry) -> bool:
        """Send a packet that was taken; False when the consumer is gone."""
        channel = self.channel
        frame = output.whole(entry, self.codec) if self.far else entry.frame
        if channel is None or not channel.send(frame):
            self.sender.disconnect()  # the supervisor will tell of the death behind it
            return False
        if self.far:
            self.sent_bytes += len(frame)
            self.sent_plain += self.codec is not None and is_plain(frame)
        mark = entry.watermark
        if mark > self._ticked:
            self._ticked = mark  # the packet carried it
        return True

    def receive(self, output: Output) -> None:
        """Take in credits and greetings, then send what they allow."""
        channel = self.channel
        frame = channel.receive() if channel is not None else None
        while channel is not None and frame is not None:
            kind = CREDIT if frame[:4] == _CREDITS else kind_of(frame)
            if kind == CREDIT:
                output.release(self, self.sender.acknowledge(read_credits(frame)))
            elif kind == TICKED:
                self._tick_out = False
            elif kind == ENDED:
                self.ended = True
            elif kind == HELLO:
                self._greeted(output, read_hello(frame))
            else:
                raise PacketError(f"message kind {kind} at a producer")
            frame = channel.receive() if channel.more else None
        self.pump(output)

    def _greeted(self, output: Output, hello: Hello) -> None:
        done = self.sender.connect(
            hello.window, hello.received_through, hello.handled_through, hello.held
        )
        output.release(self, done)
        if self.recovering:
            self.sender.reconcile(hello.handled, hello.handled_items, hello.held)
            self.recovering = False
        self.ended = self.end_sent = hello.ended
        self._heeds_time, self._tick_due = hello.heeds_time, 0.0

    @property
    def closed(self) -> bool:
        """Everything was acknowledged, the end of the stream too."""
        return self.ended and self.sender.settled


Staged = tuple[int, int, int, int, int, int, int, bytes, bytes]
"""Slot, sequence, start, stop, captured, items, nbytes, meta, and the payload if it is small."""


class Output:
    """One output port with its edges to other processes, and the memory behind them."""

    def __init__(
        self,
        segment: Segment,
        links: list[OutLink],
        inline_bytes: int,
        *,
        recoverable: bool = True,
    ) -> None:
        """With `recoverable` a successor finds in the memory what was not acknowledged; in a
        process that is never restarted nobody would look, and small packets leave it untouched.
        """  # fmt: skip
        self.segment, self.links, self.inline_bytes = segment, links, inline_bytes
        self.recoverable = recoverable
        self.slots = Slots(segment.slots)
        self.entries: dict[int, Entry] = {}
        self.sequence = self.items = 0
        self._staged: list[Staged] = []
        self._prepared: list[int] = []
        self._loan = -1
        self._everyone = (1 << len(links)) - 1
        self._published = 0
        for bit, link in enumerate(links):
            link.bit = bit

    def recover(self, sequence: int, items: int, dropped: list[tuple[int, int]]) -> None:
        """Take over from a dead predecessor whose last commit had made `sequence` packets.

        `dropped` has (packets, items) per edge. What the predecessor had published stays published:
        a packet that a handler makes once more is known by its number and not sent again.
        """
        self.sequence, self.items = sequence, items
        self._published, published_items = max(self.segment.published, (sequence, items))
        unacknowledged: list[list[tuple[int, int]]] = [[] for _ in self.links]
        for slot in range(self.segment.slots):
            head, meta = self.segment.read_head(slot)
            if head.holders == 0:
                continue
            if head.sequence > self._published:
                self.segment.set_holders(slot, 0)  # written, never seen by anyone
                continue
            self.slots.hold(slot, head.holders)
            frame = self._frame(slot, head, meta)
            self.entries[head.sequence] = Entry(slot, frame, head.items, head.watermark)
            for link in self.links:
                if head.holders >> link.bit & 1:
                    unacknowledged[link.bit].append((head.sequence, head.items))
        for link in self.links:
            sender = link.sender
            sender.produced, sender.produced_items = self._published, published_items
            sender.dropped, sender.dropped_items = dropped[link.bit]
            sender.recover(unacknowledged[link.bit])
            link.recovering = True

    def _frame(self, slot: int, head: SlotHead, meta: bytes) -> bytes:
        """The message that announces what a slot holds."""
        inline = head.nbytes <= self.inline_bytes
        header = Header(
            head.sequence, head.start, head.stop, head.captured, head.watermark, head.items,
            head.nbytes, -1 if inline else slot, head.meta,
        )  # fmt: skip
        payload = self.segment.payload(slot, head.nbytes).tobytes() if inline else b""
        return data_frame(header, meta, payload)

    @property
    def staged(self) -> bool:
        """Whether there is a packet that was not published yet."""
        return bool(self._staged)

    def whole(self, entry: Entry, codec: Codec | None) -> bytes:
        """A packet's message with its payload in it, for a consumer that cannot see our memory."""
        header = read_header(entry.frame)
        body = HEADER.size + header.meta
        if header.slot < 0:
            raw = entry.frame[body:]
        else:
            raw = self.segment.payload(header.slot, header.nbytes).tobytes()
        if codec is not None:
            packed = codec.pack(raw)
            if packed is not None and len(packed) < len(raw):
                header = msgspec.structs.replace(header, slot=codec.slot)
                return data_frame(header, entry.frame[HEADER.size : body], packed)
        if header.slot < 0:
            return entry.frame
        header = msgspec.structs.replace(header, slot=-1)
        return data_frame(header, entry.frame[HEADER.size : body], raw)

    def room(self) -> bool:
        """Whether a packet may be staged: each lossless edge has room, and a slot is free."""
        staged = len(self._staged)
        for link in self.links:
            if not link.sender.room(staged):
                return False
        return self._loan >= 0 or self.slots.free > 0

    def loan(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array in the next packet's slot; plain memory where that has no room for it."""
        if math.prod(shape) * np.dtype(dtype).itemsize > self.segment.slot_size:
            return np.empty(shape, dtype)  # `stage` says what is wrong with it
        if self._loan < 0:
            if not self.slots.free:  # the handler has just filled the last; `stage` waits for one
                return np.empty(shape, dtype)
            self._loan = self.slots.acquire(self._everyone)
        return self.segment.loan(self._loan, shape, dtype)

    def stage(self, packet: Packet[Any]) -> None:
        """Write a packet's payload to shared memory. `prepare` and `publish` make it visible."""
        data = packet.data
        items = len(data)
        self.sequence += 1
        self.items += items
        if self.sequence <= self._published:
            return  # made again after a crash: it is on its way already
        nbytes, meta = data.array.nbytes, describe(data)
        if nbytes > self.segment.slot_size:
            raise TransportError(
                f"a packet of {nbytes} bytes; the edge takes {self.segment.slot_size}: "
                "set max_packet (bytes) on the edge, or send smaller packets"
            )
        slot, self._loan = self._loan, -1
        lent = slot >= 0
        if not lent:
            slot = self.slots.acquire(self._everyone)
        inline = b""
        if nbytes <= self.inline_bytes:
            inline = data.array.tobytes()  # plain bytes: a third of what numpy takes for so little
            if self.recoverable:
                self.segment.write(slot, inline)
        else:
            raw = payload_bytes(data)
            if not lent or raw.__array_interface__["data"][0] != self.segment.address(slot):
                self.segment.payload(slot, nbytes)[:] = raw  # no loan, or not what came back
        self._staged.append(
            (slot, self.sequence, packet.start, packet.stop, packet.captured, items, nbytes, meta,
             inline)
        )  # fmt: skip

    def prepare(self, watermark: int) -> None:
        """Describe what was staged, so that a successor finds it; the last one carries the mark."""
        for index in range(len(self._prepared), len(self._staged)):
            last = index == len(self._staged) - 1
            entry, sequence = self._described(self._staged[index], watermark if last else NEVER)
            self.entries[sequence] = entry
            self._prepared.append(sequence)

    def _described(self, staged: Staged, watermark: int) -> tuple[Entry, int]:
        """The entry of a packet that was staged, with its sequence number."""
        slot, sequence, start, stop, captured, items, nbytes, meta, payload = staged
        mark = watermark if watermark > start else start
        inline = nbytes <= self.inline_bytes  # then the payload goes along
        # spelt out rather than through Header: this is the hot path
        frame = HEADER.pack(
            b"SF", WIRE_VERSION, DATA, sequence, start, stop, captured, mark, items, nbytes,
            -1 if inline else slot, len(meta),
        )  # fmt: skip
        if self.recoverable:
            head = SlotHead(
                self._everyone, sequence, start, stop, captured, start, items, nbytes, len(meta)
            )
            self.segment.write_head(slot, head, mark, meta)
        return Entry(slot, frame + meta + payload, items, mark), sequence

    def publish(self) -> None:
        """Hand what was prepared to the edges."""
        if not self._prepared:
            return
        self._published = self._prepared[-1]
        if self.recoverable:
            self.segment.publish(self._published, self.items)
        for sequence in self._prepared:
            self._offer(sequence, self.entries[sequence])
        self._prepared.clear()
        self._staged.clear()

    def send(self, watermark: int) -> None:
        """`prepare` and `publish` in one, where nothing is committed between them."""
        if len(self._staged) != 1 or self._prepared:
            self.prepare(watermark)
            self.publish()
            return
        entry, sequence = self._described(self._staged.pop(), watermark)
        self.entries[sequence] = entry
        self._published = sequence
        if self.recoverable:
            self.segment.publish(sequence, self.items)
        self._offer(sequence, entry)

    def _offer(self, sequence: int, entry: Entry) -> None:
        """Hand one packet to every edge; where it can leave at once, it does."""
        for link in self.links:
            link.bytes += len(entry.frame)
            if entry.watermark > link.watermark:
                link.watermark = entry.watermark
            if link.channel is not None and link.sender.pass_on(sequence, entry.items):
                link.transmit(self, entry)
                continue
            dropped = link.sender.offer(sequence, entry.items)
            if dropped:
                self.release(link, dropped)
            link.pump(self)

    def release(self, link: OutLink, sequences: Collection[int]) -> None:
        """An edge is done with these packets; free the slots that nobody holds any more."""
        for sequence in sequences:
            slot = self.entries[sequence].slot
            left = self.slots.release(slot, link.bit)
            if self.recoverable:
                self.segment.set_holders(slot, left)
            if not left:
                del self.entries[sequence]

    def tick(self, watermark: int) -> bool:
        """Stream time has advanced, packets or not; whether an edge is told of it later."""
        later = False
        for link in self.links:
            if watermark > link.watermark or link.tells_later:
                link.watermark = max(watermark, link.watermark)
                link.pump(self)
                later |= link.tells_later
        return later

    def end(self) -> None:
        """The stream has ended."""
        for link in self.links:
            link.ending = True
            link.pump(self)

    @property
    def closed(self) -> bool:
        """Every edge has acknowledged everything."""
        return all(link.closed for link in self.links)
