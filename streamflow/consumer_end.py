"""Edges from other processes at their consumer: what arrives, views of it, credits."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from .edge import Receiver
from .edge_messages import MARK, Hello, read_watermark
from .errors import PacketError
from .memory import Segment
from .packet import (
    CREDIT,
    DATA,
    END,
    ENDED,
    HEADER,
    HELLO,
    PREFIX,
    TICK,
    TICKED,
    WIRE_VERSION,
    Header,
    Packet,
    Payload,
    kind_of,
    packet_of,
    read_header,
)
from .packing import unpack
from .sockets import Channel

_PACKET = PREFIX + bytes([DATA])


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A message that has arrived and not been handed to the node yet."""

    header: Header
    frame: bytes


class Gap(Exception):
    """A packet is missing: the connection must be made again, and what is missing sent again."""


class InLink:
    """One edge at its consumer: a `Receiver`, its connection, and the producer's memory."""

    def __init__(
        self,
        payload: type[Payload],
        window: int,
        segment: Segment | None,
        *,
        heeds_time: bool = True,
        lossless: bool = True,
    ) -> None:
        """`segment` is the producer's memory, None when the producer is on another host.

        `heeds_time` is whether the consumer does something when stream time has advanced without
        a packet; others are told now and then.
        """
        self.payload, self.window, self.segment = payload, window, segment
        self.heeds_time = heeds_time
        self.lossless, self._first = lossless, True
        self.ahead = 0  # ns that our clock is ahead of the producer's
        self.receiver = Receiver()
        self.channel: Channel | None = None
        self._released: deque[int] = deque()  # filled by finalisers, which may run anywhere
        self._viewed: set[int] = set()  # handed out as views that are still looked at
        self._uncommitted: list[int] = []
        self._committed: set[int] = set()  # done with, but for a view that is still looked at
        self._credits: list[int] = []
        self._batch = max(1, window // 2)  # a message each; the other half keeps the producer busy
        self.bytes = 0

    def attach(self, channel: Channel) -> None:
        """A new connection was made: say where this end stands."""
        self.channel, self._first = channel, True
        receiver = self.receiver
        self._collect()
        self._credits.clear()  # the greeting says it all
        hello = Hello(
            version=WIRE_VERSION,
            window=self.window,
            received_through=receiver.received_through,
            handled_through=receiver.handled_through,
            handled=receiver.handled,
            handled_items=receiver.handled_items,
            held=tuple(receiver.held_views()),
            ended=receiver.ended,
            heeds_time=self.heeds_time,
        )
        channel.send(MARK[HELLO] + msgspec.msgpack.encode(hello))

    def detach(self) -> Channel | None:
        """The producer is gone; its memory stays."""
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()
        return channel

    def receive(self) -> Iterator[Arrival | int]:
        """What has arrived: packets, and watermarks as plain numbers. Sets `receiver.ended`."""
        channel = self.channel
        receiver = self.receiver
        frame = channel.receive() if channel is not None else None
        while channel is not None and frame is not None:
            kind = DATA if frame[:4] == _PACKET else kind_of(frame)
            if kind == DATA:
                header = read_header(frame)
                if self.segment is None:
                    if self._is_gap(header.sequence):
                        raise Gap
                    if header.captured and self.ahead:
                        header = msgspec.structs.replace(
                            header, captured=header.captured + self.ahead
                        )
                if receiver.accept(header.sequence):
                    yield Arrival(header, frame)
                elif header.sequence not in receiver.unfinished:
                    self._credits.append(header.sequence)
            elif kind == TICK:
                channel.send(MARK[TICKED])
                yield read_watermark(frame)
            elif kind == END:
                receiver.ended = True
                channel.send(MARK[ENDED])
                yield read_watermark(frame)
            else:
                raise PacketError(f"message kind {kind} at a consumer")
            if self.channel is not channel:
                return  # the producer's death was told while the packet was handled
            frame = channel.receive() if channel.more else None

    def _is_gap(self, sequence: int) -> bool:
        """Whether something is missing before this packet: a connection that broke unseen.

        What comes first over a connection is what the greeting asked for.
        """
        first, self._first = self._first, False
        return self.lossless and not first and sequence > self.receiver.received_through + 1

    def packet(self, arrival: Arrival) -> Packet[Any]:
        """The packet to hand to the node: a view of shared memory.

        A copy where too many views are still held (past half the window), so that a node that keeps
        what it was given cannot stall itself.
        """
        header = arrival.header
        if header.slot == -1:
            return packet_of(header, arrival.frame, self.payload)
        if header.slot < -1:
            data = arrival.frame[HEADER.size + header.meta :]
            raw = unpack(header.slot, data, header.nbytes)
            return packet_of(header, arrival.frame, self.payload, raw)
        if self.segment is None:
            raise PacketError(f"a payload in slot {header.slot} of a memory that is not here")
        self._collect()
        copy = len(self._viewed) >= self.window // 2
        if copy:
            raw = self.segment.payload(header.slot, header.nbytes).copy()
            raw.flags.writeable = False
        else:
            self._viewed.add(header.sequence)
            released = partial(self._released.append, header.sequence)
            raw = self.segment.view(header.slot, header.nbytes, released)
        return packet_of(header, arrival.frame, self.payload, raw)

    def handled(self, arrival: Arrival) -> None:
        """The node has handled the packet."""
        self.receiver.handle(arrival.header.sequence, arrival.header.items)
        self._uncommitted.append(arrival.header.sequence)

    @property
    def uncommitted(self) -> int:
        """Packets handled since the last commit: no credit has gone back for them."""
        return len(self._uncommitted)

    @property
    def owes(self) -> bool:
        """Whether there are credits that were not sent."""
        return bool(self._credits)

    @property
    def may_owe(self) -> bool:
        """Whether the producer has all credits but those of which `owes` tells."""
        return not (self._viewed or self._uncommitted or self.receiver.ended)

    def commit(self) -> None:
        """What was handled is safe: credits may go back."""
        for sequence in self._uncommitted:
            if sequence in self._viewed:
                self._committed.add(sequence)
            else:
                self._finish(sequence)
        self._uncommitted.clear()

    def _collect(self) -> None:
        while self._released:
            sequence = self._released.popleft()
            self._viewed.discard(sequence)
            if sequence in self._committed:
                self._committed.discard(sequence)
                self._finish(sequence)

    def _finish(self, sequence: int) -> None:
        self.receiver.finish(sequence)
        self._credits.append(sequence)

    def credit(self, *, all_of_them: bool) -> None:
        """Send the credits that are due: a batch, or all before the process goes to sleep."""
        if self._released:
            self._collect()
        if self._committed and self.receiver.ended and not self.receiver.held:
            # the stream has ended: no slot is used again, so views that are kept hold nothing up
            for sequence in sorted(self._committed):
                self._finish(sequence)
            self._committed.clear()
        credits = self._credits
        if credits and (all_of_them or len(credits) >= self._batch) and self.channel is not None:
            self.channel.send(MARK[CREDIT] + struct.pack(f"<{len(credits)}Q", *credits))
            credits.clear()
