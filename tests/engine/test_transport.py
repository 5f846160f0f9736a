"""Packets cross between real processes over real sockets: in order, once, and mostly uncopied."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from streamflow.consumer_end import Arrival, InLink
from streamflow.edge import ENDED, NEVER, Policy
from streamflow.errors import PacketError, TransportError
from streamflow.memory import Segment, create, read_only, segment_bytes
from streamflow.packet import CREDIT, END, HELLO, PREFIX, SPIKE, TICK, Packet, Spikes, Table
from streamflow.producer_end import OutLink, Output
from streamflow.run_directory import RunDirectory, endpoint_path, leftovers, runtime_directory
from streamflow.sockets import Channel, Context, Poll

LIMIT_S = 60  # for what takes milliseconds: only reached when it never comes
INLINE = 64  # bytes
SLOT_SIZE = 1 << 16


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory of the test's own, on a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="sf") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


class Tidy(Context):
    """A context whose sockets live until the test is over."""

    def __init__(self) -> None:
        super().__init__()
        self.channels: list[Channel] = []

    def channel(self) -> Channel:
        self.channels.append(super().channel())
        return self.channels[-1]


@pytest.fixture
def context() -> Iterator[Context]:
    made = Tidy()
    yield made
    for channel in made.channels:
        channel.close()
    made.close()


def wait_for(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.0005)


def spikes(number: int, rows: int = 1) -> Packet[Spikes]:
    array = np.full(rows, number, SPIKE)
    return Packet(10 * number, 10 * number + 10, Spikes(array, 1000), captured=1)


class Pair:
    """Both ends of one edge in this process, over a real socket and real shared memory."""

    def __init__(
        self, context: Context, folder: Path, policy: Policy = "block", window: int = 4,
        capacity: int = 8, slot_size: int = SLOT_SIZE,
    ) -> None:  # fmt: skip
        slots = window + capacity + 1
        fd = create("edge", segment_bytes(slots, slot_size))
        weak = read_only(fd)
        self.out = OutLink(policy, capacity, window)
        self.output = Output(
            Segment(fd, slots, slot_size, writable=True), [self.out], inline_bytes=INLINE
        )
        self.into = InLink(Spikes, window, Segment(weak, slots, slot_size, writable=False))
        os.close(fd)
        os.close(weak)
        self.arrivals: list[Arrival] = []
        self.times: list[int] = []
        here, there = context.channel(), context.channel()
        here.bind(folder / "edge")
        self.out.attach(here)
        there.connect(folder / "edge")
        self.into.attach(there)
        self.until(lambda: self.out.sender.connected, "the greeting")

    def serve(self) -> None:
        """What both loops do when their socket is readable."""
        self.out.receive(self.output)
        for arrival in self.into.receive():
            if isinstance(arrival, int):
                self.times.append(arrival)
            else:
                self.arrivals.append(arrival)
        self.into.credit(all_of_them=True)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        def served() -> Any:
            self.serve()
            return condition()

        wait_for(served, what)

    def give(self, *packets: Packet[Any]) -> None:
        for packet in packets:
            self.output.stage(packet)
        self.output.prepare(NEVER)
        self.output.publish()

    def next(self) -> Packet[Spikes]:
        """The next packet, handled and committed."""
        self.until(lambda: self.arrivals, "a packet")
        arrival = self.arrivals.pop(0)
        packet = self.into.packet(arrival)
        self.into.handled(arrival)
        self.into.commit()
        self.into.credit(all_of_them=True)
        return packet

    @property
    def free(self) -> int:
        return self.output.slots.free


@pytest.fixture
def pair(context: Context, private: Path) -> Pair:
    return Pair(context, private)


# --- two processes ------------------------------------------------------------------------------

PRODUCER = """
import sys, time
import numpy as np
from pathlib import Path
from streamflow.memory import Segment
from streamflow.packet import SPIKE, Packet, Spikes
from streamflow.producer_end import OutLink, Output
from streamflow.sockets import Context, Poll

fd, path, policy, count = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
window, capacity, slots, slot_size = map(int, sys.argv[5:9])
context, poll, link = Context(), Poll(), OutLink(policy, capacity, window)
output = Output(Segment(fd, slots, slot_size, writable=True), [link], 64)
channel = context.channel()
channel.bind(path)
link.attach(channel)
poll.add(channel, "out")
number = 0
while not output.closed:
    while number < count and output.room():
        number += 1
        rows = np.full(1 + 97 * (number % 40), number, SPIKE)  # inline, and in shared memory
        if number % 3 == 0:
            lent = output.loan(rows.shape, SPIKE)
            lent[:] = rows
            rows = lent
        output.stage(Packet(10 * number, 10 * number + 10, Spikes(rows, 1000), time.monotonic_ns()))
        output.prepare(10 * number)
        output.publish()
    if number == count:
        output.tick(10 * count + 10)
        output.end()
    poll.wait(1000)
    link.receive(output)
sender = link.sender
print(sender.produced, sender.acknowledged, sender.in_flight, sender.dropped, sender.lost,
      sender.acknowledged_items, sender.waiting_max)
context.close()
"""


def run_producer(
    folder: Path, policy: Policy, count: int, window: int, capacity: int
) -> tuple[subprocess.Popen[str], InLink]:
    """A producer in another process, and the consumer's end here."""
    slots = window + capacity + 1
    fd = create("edge", segment_bytes(slots, SLOT_SIZE))
    words = [fd, folder / "edge", policy, count, window, capacity, slots, SLOT_SIZE]
    process = subprocess.Popen(
        [sys.executable, "-c", PRODUCER, *map(str, words)],
        pass_fds=[fd], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    weak = read_only(fd)
    link = InLink(Spikes, window, Segment(weak, slots, SLOT_SIZE, writable=False))
    os.close(fd)
    os.close(weak)
    return process, link


def consume(
    context: Context, folder: Path, link: InLink, see: Callable[[int, Packet[Any]], None]
) -> None:
    """Handle packets until the stream has ended."""
    poll, channel = Poll(), context.channel()
    channel.connect(folder / "edge")
    link.attach(channel)
    poll.add(channel, "in")
    limit = time.monotonic() + LIMIT_S
    while not link.receiver.ended:
        assert time.monotonic() < limit, "the stream did not end"
        poll.wait(1000)
        for arrival in link.receive():
            if isinstance(arrival, Arrival):
                see(arrival.header.sequence, link.packet(arrival))
                link.handled(arrival)
                link.commit()
                link.credit(all_of_them=False)
        link.credit(all_of_them=True)


@pytest.mark.parametrize(("window", "capacity"), [(1, 1), (2, 3), (8, 64)])
def test_every_packet_crosses_to_another_process_in_order(
    context: Context, private: Path, window: int, capacity: int
) -> None:
    process, link = run_producer(private, "block", 1500, window, capacity)
    seen: list[int] = []

    def see(sequence: int, packet: Packet[Any]) -> None:
        assert set(packet.data.array["timestamp"].tolist()) == {sequence}
        assert len(packet.data) == 1 + 97 * (sequence % 40)
        seen.append(sequence)

    consume(context, private, link, see)
    said, _ = process.communicate(timeout=LIMIT_S)

    items = sum(1 + 97 * (number % 40) for number in range(1, 1501))
    produced, acknowledged, in_flight, dropped, lost, acked_items, waiting = map(int, said.split())
    assert seen == list(range(1, 1501))
    assert (produced, acknowledged, in_flight, dropped, lost) == (1500, 1500, 0, 0, 0)
    assert acked_items == link.receiver.handled_items == items
    assert waiting <= capacity
    assert process.returncode == 0


def test_a_lossy_edge_gives_the_newest_and_counts_the_rest(context: Context, private: Path) -> None:
    process, link = run_producer(private, "latest", 1500, window=1, capacity=1)
    seen: list[int] = []

    consume(context, private, link, lambda sequence, _packet: seen.append(sequence))
    said, _ = process.communicate(timeout=LIMIT_S)

    produced, acknowledged, in_flight, dropped, lost, *_ = map(int, said.split())
    assert seen == sorted(set(seen))
    assert seen[-1] == 1500
    assert (produced, acknowledged, in_flight, lost) == (1500, len(seen), 0, 0)
    assert dropped == 1500 - len(seen)


def test_a_node_that_keeps_every_packet_does_not_stall_the_edge(
    context: Context, private: Path
) -> None:
    process, link = run_producer(private, "block", 300, window=4, capacity=4)
    kept: list[tuple[int, Packet[Any]]] = []

    consume(context, private, link, lambda sequence, packet: kept.append((sequence, packet)))

    for sequence, packet in kept:
        assert set(packet.data.array["timestamp"].tolist()) == {sequence}
    assert len(kept) == 300
    kept.clear()
    gc.collect()
    deadline = time.monotonic() + LIMIT_S
    while process.poll() is None:
        assert time.monotonic() < deadline
        link.credit(all_of_them=True)
        time.sleep(0.001)
    process.communicate()


# --- views, copies, loans -----------------------------------------------------------------------


def base_of(packet: Packet[Any], segment: Segment) -> bool:
    """Whether the packet's array lies in the segment."""
    return bool(np.shares_memory(packet.data.array, segment._bytes))


def test_large_payloads_are_views_of_shared_memory_and_small_ones_travel_in_the_frame(
    pair: Pair,
) -> None:
    pair.give(spikes(1, rows=INLINE // 16), spikes(2, rows=INLINE // 16 + 1))

    small, large = pair.next(), pair.next()

    assert not base_of(small, pair.into.segment)
    assert base_of(large, pair.into.segment)
    assert not small.data.array.flags.writeable
    assert not large.data.array.flags.writeable


def test_a_view_that_is_kept_keeps_its_slot_and_nothing_else_does(pair: Pair) -> None:
    before = pair.free
    pair.give(spikes(1, rows=50), spikes(2, rows=50))

    first = pair.next()
    pair.next()
    pair.until(lambda: pair.free == before - 1, "the second slot")

    assert pair.out.sender.acknowledged == 1
    assert pair.into.receiver.held_views() == [1]
    del first
    pair.into.credit(all_of_them=True)
    pair.until(lambda: pair.free == before, "the kept slot")


def test_views_past_half_the_window_are_copies(context: Context, private: Path) -> None:
    pair = Pair(context, private, window=6)
    pair.give(*(spikes(number, rows=50) for number in range(1, 9)))

    kept = [pair.next() for _ in range(8)]

    assert [base_of(packet, pair.into.segment) for packet in kept] == [True] * 3 + [False] * 5
    assert not any(packet.data.array.flags.writeable for packet in kept)
    for number, packet in enumerate(kept, 1):
        assert set(packet.data.array["timestamp"].tolist()) == {number}


def test_a_credit_goes_back_only_after_the_commit(pair: Pair) -> None:
    pair.give(spikes(1, rows=50))
    pair.until(lambda: pair.arrivals, "the packet")
    arrival = pair.arrivals.pop()

    pair.into.packet(arrival)
    pair.into.handled(arrival)
    pair.into.credit(all_of_them=True)
    assert pair.into.uncommitted == 1
    assert pair.into._credits == []

    pair.into.commit()
    pair.into.credit(all_of_them=True)
    pair.until(lambda: pair.output.slots.holders == {}, "the credit")


def test_a_loan_that_is_yielded_is_not_copied(pair: Pair) -> None:
    lent = pair.output.loan((100,), SPIKE)
    lent[:] = 7

    pair.give(Packet(1, 2, Spikes(lent, 10)))

    slot = pair.output.entries[1].slot
    assert lent.__array_interface__["data"][0] == pair.output.segment.address(slot)
    lent["unit"] = 8  # not allowed to a node, but tells a copy from the thing itself
    assert set(pair.next().data.array["unit"].tolist()) == {8}


def test_the_front_of_a_loan_may_be_yielded_uncopied(pair: Pair) -> None:
    lent = pair.output.loan((100,), SPIKE)
    lent[:] = 7

    pair.give(Packet(1, 2, Spikes(lent[:40], 10)))
    lent["unit"] = 8

    array = pair.next().data.array
    assert len(array) == 40
    assert set(array["unit"].tolist()) == {8}


def test_the_back_of_a_loan_arrives_right_though_it_must_be_moved(pair: Pair) -> None:
    lent = pair.output.loan((100,), SPIKE)
    lent["timestamp"] = lent["unit"] = np.arange(100)

    pair.give(Packet(1, 2, Spikes(lent[10:], 10)))

    assert pair.next().data.array["unit"].tolist() == list(range(10, 100))


def test_a_loan_that_is_not_used_is_not_leaked(pair: Pair) -> None:
    before = pair.free
    for number in range(1, 30):
        pair.output.loan((100,), SPIKE)["unit"] = -1
        pair.output.loan((50,), SPIKE)["unit"] = -2

        pair.give(spikes(number, rows=60))

        assert set(pair.next().data.array["unit"].tolist()) == {number}
    pair.until(lambda: pair.free == before, "the slots")


def test_a_loan_too_large_for_a_slot_touches_no_other_slot(pair: Pair) -> None:
    pair.give(spikes(1, rows=50))
    before = pair.output.segment._map[:]

    lent = pair.output.loan((2 * SLOT_SIZE,), np.uint8)
    lent[:] = 255

    assert pair.output.segment._map[:] == before
    with pytest.raises(TransportError, match=f"a packet of {2 * SLOT_SIZE} bytes"):
        pair.output.stage(Packet(20, 30, Spikes(lent.view(SPIKE), 10)))


def test_a_loan_where_no_slot_is_free_is_ordinary_memory(pair: Pair) -> None:
    while pair.free:
        pair.output.slots.acquire(1)

    lent = pair.output.loan((10,), SPIKE)

    assert not np.shares_memory(lent, pair.output.segment._bytes)
    assert len(lent) == 10


def test_a_packet_larger_than_a_slot_is_refused_with_what_to_do(pair: Pair) -> None:
    with pytest.raises(TransportError) as raised:
        pair.output.stage(spikes(1, rows=SLOT_SIZE // 16 + 1))

    assert str(raised.value) == (
        "a packet of 65552 bytes; the edge takes 65536: "
        "set max_packet (bytes) on the edge, or send smaller packets"
    )


def test_a_packet_exactly_as_large_as_a_slot_passes(pair: Pair) -> None:
    pair.give(spikes(1, rows=SLOT_SIZE // 16))

    assert len(pair.next().data) == SLOT_SIZE // 16


def test_arrays_that_are_not_contiguous_cross_too(pair: Pair) -> None:
    rows = np.zeros(200, SPIKE)
    rows["unit"] = np.arange(200)

    pair.give(Packet(0, 1, Spikes(rows[::-2], 10)))

    assert pair.next().data.array["unit"].tolist() == list(range(199, 0, -2))


def test_another_payload_than_the_port_declares_is_refused(pair: Pair) -> None:
    pair.give(Packet(0, 1, Table(np.zeros(50, SPIKE))))
    pair.until(lambda: pair.arrivals, "the packet")

    with pytest.raises(PacketError, match="got a payload 'table' where 'spikes' is declared"):
        pair.into.packet(pair.arrivals[0])


def test_one_slow_consumer_takes_no_slots_from_another(context: Context, private: Path) -> None:
    # a recorder that never answers, and a view beside it
    slots = (4 + 4) + (1 + 1) + 1
    segment = Segment(
        create("edge", segment_bytes(slots, SLOT_SIZE)), slots, SLOT_SIZE, writable=True
    )
    links = [OutLink("drop_oldest", 4, 4), OutLink("latest", 1, 1)]
    output = Output(segment, links, INLINE)
    for link in links:
        link.sender.connect(link.sender.window, 0, 0, ())

    for number in range(1, 200):
        assert output.room()
        output.stage(spikes(number, rows=50))
        output.prepare(NEVER)
        output.publish()
        view = links[1].sender
        while (sequence := view.take()) is not None:
            output.release(links[1], view.acknowledge([sequence]))

    assert links[1].sender.acknowledged == 199
    assert output.slots.free >= 1


# --- stream time and the end --------------------------------------------------------------------


def test_watermarks_are_coalesced_while_one_is_on_its_way(pair: Pair) -> None:
    for mark in range(1, 1001):
        pair.output.tick(mark)
    pair.until(lambda: pair.times and pair.times[-1] == 1000, "the last watermark")

    assert pair.times == [1, 1000]


def test_a_packet_carries_stream_time_itself(pair: Pair) -> None:
    pair.output.stage(spikes(1))
    pair.output.prepare(15)
    pair.output.publish()
    pair.output.tick(15)
    pair.until(lambda: pair.arrivals, "the packet")

    assert pair.arrivals[0].header.watermark == 15
    pair.output.tick(16)
    pair.until(lambda: pair.times, "the watermark")
    assert pair.times == [16]


def test_stream_time_does_not_overtake_packets_that_wait(context: Context, private: Path) -> None:
    pair = Pair(context, private, window=1)
    pair.give(spikes(1), spikes(2))
    pair.output.tick(30)
    pair.until(lambda: pair.arrivals, "the first packet")
    pair.serve()
    assert pair.times == []

    pair.next()
    pair.next()
    pair.until(lambda: pair.times, "the watermark")

    assert pair.times == [30]


def test_the_end_comes_after_every_packet_and_closes_the_edge(
    context: Context, private: Path
) -> None:
    pair = Pair(context, private, window=1)
    pair.give(spikes(1), spikes(2), spikes(3))
    pair.output.end()

    for number in (1, 2, 3):
        assert not pair.into.receiver.ended
        assert not pair.output.closed
        assert pair.next().start == 10 * number
    pair.until(lambda: pair.output.closed, "the end")

    assert pair.into.receiver.ended
    assert pair.times[-1] < ENDED


# --- successors ---------------------------------------------------------------------------------


def test_a_consumers_successor_is_sent_what_its_predecessor_had_not_committed(
    context: Context, private: Path
) -> None:
    pair = Pair(context, private)
    pair.give(*(spikes(number, rows=50) for number in range(1, 4)))
    pair.next()
    pair.until(lambda: pair.out.sender.acknowledged == 1, "the credit")
    pair.until(lambda: len(pair.arrivals) == 2, "the others")
    pair.arrivals.clear()  # it dies with two packets in hand
    pair.into.detach()
    pair.out.detach()

    successor = InLink(Spikes, 4, pair.into.segment)
    successor.receiver.handled = successor.receiver.received = 1
    successor.receiver.handled_through = successor.receiver.received_through = 1
    pair.into = successor
    here, there = context.channel(), context.channel()
    here.bind(private / "next")
    pair.out.attach(here)
    there.connect(private / "next")
    successor.attach(there)

    assert [pair.next().start for _ in range(2)] == [20, 30]


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "on its way"])
def test_a_consumers_successor_is_told_the_stream_time_again(
    context: Context, private: Path, heard: bool
) -> None:
    pair = Pair(context, private)
    pair.output.tick(500)
    if heard:
        pair.until(lambda: pair.times, "the watermark")
        pair.until(lambda: not pair.out._tick_out, "its receipt")
    pair.times.clear()
    pair.into.detach()
    pair.out.detach()

    pair.into = InLink(Spikes, 4, pair.into.segment)
    here, there = context.channel(), context.channel()
    here.bind(private / "next")
    pair.out.attach(here)
    there.connect(private / "next")
    pair.into.attach(there)

    pair.until(lambda: pair.times, "the watermark")
    assert pair.times == [500]


def test_a_producers_successor_sends_what_shared_memory_holds(
    context: Context, private: Path
) -> None:
    pair = Pair(context, private)
    pair.give(*(spikes(number, rows=50 * (number % 2) + 1) for number in range(1, 4)))
    pair.next()
    pair.out.receive(pair.output)
    segment = pair.output.segment
    pair.into.detach()
    pair.out.detach()

    pair.arrivals.clear()
    pair.into.receiver.received_through = pair.into.receiver.handled_through
    pair.into.receiver.received = pair.into.receiver.handled
    pair.into.receiver.unfinished.clear()
    pair.out = OutLink("block", 8, 4)
    pair.output = Output(segment, [pair.out], INLINE)
    pair.output.recover(0, 0, [(0, 0)])
    for number in range(1, 5):  # the handler makes the same packets again, and one more
        pair.give(spikes(number, rows=50 * (number % 2) + 1))
    here, there = context.channel(), context.channel()
    here.bind(private / "next")
    pair.out.attach(here)
    there.connect(private / "next")
    pair.into.attach(there)

    again = [pair.next() for _ in range(3)]

    assert [packet.start for packet in again] == [20, 30, 40]
    assert [len(packet.data) for packet in again] == [1, 51, 1]
    sender = pair.out.sender
    assert sender.produced == 4
    assert sender.lost == 0


# --- channels -----------------------------------------------------------------------------------


def test_a_second_listener_on_a_living_endpoint_is_refused(context: Context, private: Path) -> None:
    first, second = context.channel(), context.channel()
    first.bind(private / "edge")

    with pytest.raises(TransportError, match="already listened to by another process"):
        second.bind(private / "edge")

    second.close()
    client = context.channel()
    client.connect(private / "edge")
    client.send(b"hello")

    assert next_frame(first) == b"hello"


def test_an_endpoint_can_be_used_again_once_its_listener_is_gone(
    context: Context, private: Path
) -> None:
    first = context.channel()
    first.bind(private / "edge")
    first.close()

    second = context.channel()
    second.bind(private / "edge")

    assert (private / "edge").is_socket()


def test_a_socket_is_for_its_owner_alone(context: Context, private: Path) -> None:
    channel = context.channel()

    channel.bind(private / "edge")

    assert (private / "edge").stat().st_mode & 0o077 == 0


def test_an_endpoint_in_a_missing_folder_is_a_clear_error(context: Context, private: Path) -> None:
    channel = context.channel()
    (private / "gone").mkdir()
    lock = private / "gone" / "edge.lock"
    lock.touch()
    (private / "gone" / "edge").mkdir()  # something else stands where the socket should

    with pytest.raises(TransportError, match="cannot listen at"):
        channel.bind(private / "gone" / "edge")


def test_sending_without_a_peer_says_so(context: Context, private: Path) -> None:
    channel = context.channel()
    channel.bind(private / "edge")

    assert channel.send(b"hello") is False
    assert channel.receive() is None


def raw_peer(context: Context, folder: Path) -> tuple[Channel, zmq.Socket[bytes]]:
    """A channel, and a socket that may send it anything."""
    channel = context.channel()
    channel.bind(folder / "edge")
    peer = context.channel()
    peer.connect(folder / "edge")
    return channel, peer.socket


def next_frame(channel: Channel) -> bytes:
    poll = Poll()
    poll.add(channel, "channel")
    assert poll.wait(1000 * LIMIT_S), "no frame came"
    frame = channel.receive()
    assert frame is not None
    return frame


def test_a_message_of_several_frames_is_refused_and_the_next_one_read(
    context: Context, private: Path
) -> None:
    channel, peer = raw_peer(context, private)
    peer.send_multipart([b"a", b"b", b"c"])
    peer.send(b"whole")

    next_frame(channel)
    with pytest.raises(PacketError, match="several frames"):
        assert channel.more

    assert next_frame(channel) == b"whole"


def test_a_frame_that_is_too_large_never_arrives(context: Context, private: Path) -> None:
    channel, peer = raw_peer(context, private)
    peer.send(b"first")
    assert next_frame(channel) == b"first"

    peer.send(bytes(9 << 20))
    peer.send(b"after")  # ZeroMQ closes the connection, and the peer connects again

    assert next_frame(channel) == b"after"


HOSTILE = [
    b"",
    b"SF",
    b"GET / HTTP/1.1",
    PREFIX + b"\x63",
    PREFIX + bytes([TICK]) + b"short",
    PREFIX + bytes([END]),
    PREFIX + bytes([HELLO]) + b"\xff\xff",
    PREFIX + bytes([HELLO]) + msgspec.msgpack.encode(["no", "hello"]),
    PREFIX + bytes([CREDIT]) + b"seven b",
    PREFIX + b"\x01" + bytes(10),
    b"SF\x09\x01",
]


@pytest.mark.parametrize("frame", HOSTILE, ids=repr)
def test_a_producer_refuses_what_is_not_for_it(
    context: Context, private: Path, frame: bytes
) -> None:
    channel, peer = raw_peer(context, private)
    segment = Segment(create("edge", segment_bytes(2, 100)), 2, 100, writable=True)
    link = OutLink("block", 1, 1)
    output = Output(segment, [link], INLINE)
    link.attach(channel)
    peer.send(frame)

    def refused() -> bool:
        with contextlib.suppress(PacketError):
            link.receive(output)
            return False
        return True

    wait_for(refused, "the refusal")


@pytest.mark.parametrize("frame", HOSTILE, ids=repr)
def test_a_consumer_refuses_what_is_not_for_it(
    context: Context, private: Path, frame: bytes
) -> None:
    channel, peer = raw_peer(context, private)
    fd = create("edge", segment_bytes(2, 100))
    link = InLink(Spikes, 1, Segment(fd, 2, 100, writable=False))
    os.close(fd)
    link.channel = channel
    peer.send(frame)

    def refused() -> bool:
        with contextlib.suppress(PacketError):
            list(link.receive())
            return False
        return True

    wait_for(refused, "the refusal")


def test_credits_for_packets_that_were_never_sent_are_ignored(pair: Pair) -> None:
    channel = pair.into.channel
    assert channel is not None
    channel.send(PREFIX + bytes([CREDIT]) + struct.pack("<3Q", 1, 2, 2**64 - 1))
    pair.give(spikes(1, rows=50))

    assert pair.next().start == 10
    pair.until(lambda: pair.out.sender.acknowledged == 1, "the credit")


def test_polling_says_what_is_readable(context: Context, private: Path) -> None:
    channel, peer = raw_peer(context, private)
    ours, theirs = socket.socketpair()
    poll = Poll()
    poll.add(channel, "channel")
    poll.add(ours.fileno(), "descriptor")
    assert poll.wait(0) == []

    theirs.send(b"x")
    assert poll.wait(1000 * LIMIT_S) == ["descriptor"]
    ours.recv(1)
    peer.send(b"x")
    assert poll.wait(1000 * LIMIT_S) == ["channel"]

    poll.remove(channel)
    assert poll.wait(0) == []
    ours.close()
    theirs.close()


# --- the runtime directory ----------------------------------------------------------------------


def test_the_runtime_directory_is_private_to_the_user(private: Path) -> None:
    path = runtime_directory()

    assert path == private / "streamflow"
    assert path.stat().st_mode & 0o777 == 0o700


def test_without_xdg_runtime_dir_there_is_one_in_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)

    assert runtime_directory() == Path(f"/tmp/streamflow-{os.getuid()}")


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770])
def test_a_runtime_directory_that_others_can_enter_is_refused(private: Path, mode: int) -> None:
    path = private / "streamflow"
    path.mkdir()
    path.chmod(mode)

    with pytest.raises(TransportError) as raised:
        runtime_directory()

    assert f"with mode {mode:o}" in str(raised.value)
    assert "a folder of yours with mode 700: remove it, or set XDG_RUNTIME_DIR" in str(raised.value)


def test_a_path_too_long_for_a_socket_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25)

    with pytest.raises(TransportError) as raised:
        endpoint_path(folder, "e1.1")

    assert f"has {len(str(folder)) + 5} bytes" in str(raised.value)
    assert "at most 107: set XDG_RUNTIME_DIR to a shorter path" in str(raised.value)


def test_the_longest_path_a_socket_may_have_works(context: Context, private: Path) -> None:
    folder = private / ("f" * (107 - len(str(private)) - 1 - 5))
    folder.mkdir()
    path = endpoint_path(folder, "edge")
    assert len(str(path)) == 107

    context.channel().bind(path)

    with pytest.raises(TransportError, match="has 108 bytes"):
        endpoint_path(folder, "edge2")


def test_a_run_fails_early_where_its_sockets_would_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))

    with pytest.raises(TransportError, match="set XDG_RUNTIME_DIR to a shorter path"):
        RunDirectory("run")


def test_a_living_runs_folder_is_no_leftover(private: Path) -> None:
    run = RunDirectory("mine")

    assert leftovers() == []

    run.remove()
    assert not run.path.exists()
    assert leftovers() == []


HOLDER = """
import sys
from streamflow.run_directory import RunDirectory
run = RunDirectory("theirs")
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_runs_folder_is_found_and_removed_by_the_next_run(private: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        folder = private / "streamflow" / "theirs"
        assert leftovers() == []

        process.send_signal(signal.SIGKILL)
        process.wait()

    assert leftovers() == [folder]
    run = RunDirectory("mine")
    assert not folder.exists()
    run.remove()
