"""Datagrams from real sockets become events in stream time, and what is wrong is counted."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faery
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.events.live import LiveLimits, LiveStream
from streamflow_nodes.sources.udp_events import UdpEvents

from streamflow.clock import Clock
from streamflow.errors import DeviceError, NodeError
from streamflow.packet import EVENT
from streamflow.testing import Driven, drive

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live import LIMIT, Live, Rows

INDOOR = Path(__file__).resolve().parents[1] / "data" / "indoor_640x480_evt3.raw"


def t64(rows: Rows) -> bytes:
    return b"".join(struct.pack("<QHHB", *row) for row in rows)


class Listener(Live):
    """A node that listens at a free port until it is told to stop, and a socket to send from."""

    def __init__(self, *, pace: str = "fast", **options: Any) -> None:
        node = UdpEvents({"port": 0, "width": 64, "height": 48, **options})
        node.clock = Clock(pace)  # type: ignore[arg-type]  # a word of Pace
        node.open()
        self.port = node.results()["port"]
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        super().__init__(node)

    def send(self, *contents: bytes) -> None:
        """Send datagrams one by one: each is taken before the next, so each is a read of its own"""
        for content in contents:
            before = self.node.results()["datagrams"]
            self.socket.sendto(content, ("127.0.0.1", self.port))
            self.wait(lambda before=before: self.node.results()["datagrams"] > before)

    def stop(self) -> None:
        super().stop()
        self.socket.close()


@pytest.fixture
def listen() -> Any:
    """Makes listeners that are gone when the test is over."""
    made: list[Listener] = []

    def make(**options: Any) -> Listener:
        made.append(Listener(**options))
        return made[-1]

    yield make
    for listener in made:
        listener.node.clock.stop()
        listener.node.close()
        listener.socket.close()


def while_sending(node: UdpEvents, send: Callable[[int], None]) -> Driven:
    """What the node makes of everything that `send(port)` sends; it ends by `end_after`."""
    node.open()
    sender = threading.Thread(target=send, args=(node.results()["port"],))
    sender.start()
    out = drive(node, opened=True)
    sender.join()
    return out


# faery leaves its socket to the garbage collector
@pytest.mark.filterwarnings("ignore:.*:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("format", ["t64_x16_y16_on8", "t32_x16_y15_on1"])
def test_what_faery_sends_arrives_event_for_event(format: str) -> None:
    options = {"port": 0, "width": 640, "height": 480, "format": format, "end_after": 0.4}
    expected = faery.events_stream_from_file(INDOOR).to_array()

    out = while_sending(
        UdpEvents(options),
        lambda port: faery.events_stream_from_file(INDOOR).to_udp(
            ("127.0.0.1", port), format=format
        ),
    )

    assert not any(out.faults.values())
    found = out.items("events")
    assert len(found) == len(expected) == 10301
    for ours, theirs in zip(EVENT.names or (), ("t", "x", "y", "on"), strict=True):
        np.testing.assert_array_equal(found[ours], expected[theirs])
    starts = [packet.start for packet in out["events"]]
    assert all(start % 1000 == 0 for start in starts)


def test_each_packet_holds_the_events_of_its_time_and_silence_is_one_packet(listen: Any) -> None:
    listener = listen()

    listener.send(
        t64([(1_500, 1, 2, 1), (1_999, 3, 4, 0), (2_000, 5, 6, 1)]), t64([(9_100, 7, 8, 1)])
    )
    listener.stop()

    spans = [(p.start, p.stop, len(p.data)) for p in listener.packets]
    assert spans == [(1000, 2000, 2), (2000, 3000, 1), (3000, 9000, 0), (9000, 10_000, 1)]
    assert listener.rows == [(1_500, 1, 2, 1), (1_999, 3, 4, 0), (2_000, 5, 6, 1), (9_100, 7, 8, 1)]
    assert listener.faults == {}


def test_hostile_datagrams_are_counted_and_the_stream_goes_on(listen: Any) -> None:
    listener, far = listen(), 1 << 62

    listener.send(
        t64([(10_000_000, 1, 1, 1)]),
        b"",  # no events at all
        b"x",
        t64([(10_000_001, 1, 1, 1)])[:-1],
        t64([(10_000_002, 64, 1, 1), (10_000_002, 1, 48, 1), (10_000_002, 65535, 65535, 255)]),
        t64([(far, 1, 1, 1)]),
        t64([(10_000_004, 2, 2, 0)]),
        t64([(5, 1, 1, 1)]),
        bytes([255]) * 13,
        bytes(60_000),  # as many bytes as no datagram of ours has
        t64([(9_999_999, 3, 3, 1), (10_000_006, 4, 4, 1)]),
    )
    listener.stop()

    assert listener.rows == [
        (10_000_000, 1, 1, 1), (10_000_004, 2, 2, 0), (10_000_004, 3, 3, 1), (10_000_006, 4, 4, 1),
    ]  # fmt: skip
    assert listener.faults == {
        "malformed": 3, "outside_sensor": 4, "time_jump": 2, "time_backward": 1,
    }  # fmt: skip


@settings(max_examples=25)
@given(st.lists(st.one_of(st.binary(max_size=60), st.binary(min_size=13, max_size=13)), max_size=8))
def test_no_bytes_end_the_node_or_break_the_order_of_packets(datagrams: list[bytes]) -> None:
    listener = Listener()

    listener.send(*datagrams)
    listener.stop()

    listener.check_time()
    assert all(row[1] < 64 and row[2] < 48 for row in listener.rows)


def test_a_sender_that_begins_anew_is_heard_from_its_second_datagram_on(listen: Any) -> None:
    listener = listen()

    listener.send(
        t64([(10_000_000, 1, 1, 1)]), t64([(50, 2, 2, 1)]), t64([(70, 3, 3, 1), (90, 4, 4, 1)])
    )
    listener.stop()

    assert listener.rows == [(10_000_000, 1, 1, 1), (10_000_000, 3, 3, 1), (10_000_020, 4, 4, 1)]
    assert listener.faults == {"time_jump": 1, "time_restart": 1}


def test_datagrams_that_overtook_each_other_are_late_and_dropped_if_wanted(listen: Any) -> None:
    first, second = t64([(1_000, 1, 1, 1)]), t64([(1_400, 2, 2, 1)])
    clamp, drop = listen(), listen(backward_time="drop")

    for listener in (clamp, drop):
        listener.send(second, first)
        listener.stop()

    assert clamp.rows == [(1_400, 2, 2, 1), (1_400, 1, 1, 1)]
    assert drop.rows == [(1_400, 2, 2, 1)]
    assert clamp.faults == drop.faults == {"time_backward": 1}


def test_what_the_kernel_drops_is_counted_datagram_for_datagram() -> None:
    node = UdpEvents(
        {"port": 0, "width": 64, "height": 48, "receive_buffer": 4096, "end_after": 0.2}
    )
    node.open()
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    contents = [t64([(1_000 + number, 1, 1, 1)] * 100) for number in range(400)]

    for content in contents:  # before the node takes any
        sender.sendto(content, ("127.0.0.1", node.results()["port"]))
    out = drive(node, opened=True)
    sender.close()

    assert out.faults["kernel_dropped"] > 300
    assert out.faults["kernel_dropped"] + out.results["datagrams"] == 400
    assert len(out.items("events")) == 100 * out.results["datagrams"]


def test_a_time_that_stands_still_does_not_fill_the_memory(
    listen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamflow_nodes.events.live.LIMIT", 1000)
    listener = listen()

    listener.send(*[t64([(5_500, 1, 1, 1)] * 100) for _ in range(30)])
    listener.stop()

    assert max(len(packet.data) for packet in listener.packets) <= 1100
    assert [packet.start for packet in listener.packets][:2] == [5_000, 6_000]
    assert len(listener.rows) == 3000  # later ones are raised, and none is lost
    assert listener.faults["time_backward"] > 1000


def test_few_events_do_not_hold_the_memory_of_many_that_were_dropped() -> None:
    stream = LiveStream(
        UdpEvents({"port": 0, "width": 64, "height": 48}),
        LiveLimits(duration=10**6, longest=10**6, silence=None),
    )

    for number in range(5):
        rows = np.zeros(10_000, EVENT)
        rows["timestamp"], rows["x"] = number, 64  # outside, but for one
        rows["x"][number] = 1
        stream.add(rows.view(np.int64), np.array([10_000]), 0, (64, 48))
    held = [it if it.base is None else it.base for it in stream._held]
    ((_, _, array),) = stream.rest()

    assert array["timestamp"].tolist() == list(range(5))
    assert len(held) == 5
    assert sum(it.nbytes for it in held) < 16 * 10_000


def test_only_the_sender_that_was_named_is_heard(listen: Any) -> None:
    listener = listen(sender="127.0.0.2")
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.bind(("127.0.0.2", 0))

    listener.socket.sendto(t64([(1, 1, 1, 1)]), ("127.0.0.1", listener.port))
    listener.wait(lambda: listener.faults == {"foreign": 1})
    other.sendto(t64([(2, 2, 2, 1)]), ("127.0.0.1", listener.port))
    listener.wait(lambda: listener.node.results()["datagrams"] == 1)
    listener.stop()
    other.close()

    assert listener.rows == [(2, 2, 2, 1)]


def test_datagrams_of_others_do_not_keep_the_stream_from_ending() -> None:
    node = UdpEvents(
        {"port": 0, "width": 64, "height": 48, "sender": "127.0.0.2", "end_after": 0.2}
    )
    node.open()
    port, over = node.results()["port"], threading.Event()

    def talk() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign:
            while not over.wait(0.01):
                foreign.sendto(t64([(1, 1, 1, 1)]), ("127.0.0.1", port))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as named:
        named.bind(("127.0.0.2", 0))
        named.sendto(t64([(2, 2, 2, 1)]), ("127.0.0.1", port))
    talker = threading.Thread(target=talk)
    talker.start()
    listener = Live(node)
    try:
        listener.join()
    finally:
        over.set()
        talker.join()
        node.clock.stop()
        node.close()

    assert listener.rows == [(2, 2, 2, 1)]
    assert listener.faults["foreign"] > 1


def test_in_real_time_silence_closes_slices_and_moves_stream_time_on(listen: Any) -> None:
    listener = listen(pace="realtime", silence=0.02)

    listener.send(t64([(1_000_100, 1, 1, 1)]))
    listener.wait(lambda: bool(listener.packets) and listener.packets[-1].stop > 1_050_000)
    listener.stop()

    assert listener.rows == [(1_000_100, 1, 1, 1)]
    assert (listener.packets[0].start, listener.packets[0].stop) == (1_000_000, 1_001_000)
    # the clock has gone on from the event's time at its own speed, and no faster
    assert listener.packets[-1].stop < 1_000_000 + LIMIT * 1_000_000


def test_otherwise_only_the_sender_moves_stream_time(listen: Any) -> None:
    listener = listen(silence=0.001)

    listener.send(t64([(1_000_100, 1, 1, 1)]))
    time.sleep(0.05)  # of silence
    listener.send(t64([(1_000_200, 2, 2, 1)]))
    listener.stop()

    assert listener.rows == [(1_000_100, 1, 1, 1), (1_000_200, 2, 2, 1)]
    assert listener.faults == {}


def test_spif_without_times_counts_from_the_start_of_the_run(listen: Any) -> None:
    listener = listen(format="spif", silence=0.01)

    listener.send(struct.pack("<I", 1 << 31 | 5 << 16 | 1 << 15 | 6))
    listener.send(struct.pack("<I", 1 << 31 | 7 << 16 | 8))
    listener.wait(lambda: len(listener.rows) == 2)
    listener.stop()

    (first, *one), (second, *two) = listener.rows
    assert (one, two) == ([5, 6, 1], [7, 8, 0])
    assert 0 <= first <= second < LIMIT * 1_000_000


def test_a_restarted_node_goes_on_after_what_was_given_out(listen: Any) -> None:
    first, second = listen(), UdpEvents({"port": 0, "width": 64, "height": 48})
    first.send(t64([(5_500, 1, 1, 1)]), t64([(7_500, 2, 2, 1)]))
    first.wait(lambda: first.packets[-1].stop == 7_000 if first.packets else False)
    state = first.node.snapshot()
    first.stop()

    second.open()
    second.restore(state)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for rows in [(6_999, 3, 3, 1)], [(8_100, 4, 4, 1)], [(9_000, 5, 5, 1)]:
        sender.sendto(t64(rows), ("127.0.0.1", second.results()["port"]))
    out = drive(second, opened=True, limit=2)
    sender.close()

    assert [tuple(row) for row in out.items("events").tolist()] == [
        (7_000, 3, 3, 1),
        (8_100, 4, 4, 1),
    ]
    assert out.faults["time_backward"] == 1
    assert second.snapshot()["events"] == 4 - 1  # what the first one held is gone


def test_a_restarted_node_counts_arrivals_from_the_first_start(listen: Any) -> None:
    first = listen(format="spif")
    state = first.node.snapshot()
    first.stop()
    state["begun"] -= 10_000_000_000  # as if it had begun 10 s earlier

    second = UdpEvents({"port": 0, "width": 64, "height": 48, "format": "spif", "end_after": 0.05})
    second.open()
    second.restore(state)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        content = struct.pack("<I", 1 << 31 | 5 << 16 | 6)
        sender.sendto(content, ("127.0.0.1", second.results()["port"]))
    out = drive(second, opened=True)

    (row,) = out.items("events").tolist()
    assert 10_000_000 <= row[0] < 10_000_000 + LIMIT * 1_000_000


def test_a_port_that_is_taken_is_one_clear_error() -> None:
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("127.0.0.1", 0))
    port = taken.getsockname()[1]

    with pytest.raises(DeviceError, match=rf"127\.0\.0\.1:{port}: cannot listen .*'port'"):
        UdpEvents({"port": port, "width": 64, "height": 48}).open()
    taken.close()


def test_an_address_of_another_machine_is_one_clear_error() -> None:
    with pytest.raises(DeviceError, match=r"cannot listen .* expected an address of this machine"):
        UdpEvents({"port": 0, "host": "192.0.2.1", "width": 64, "height": 48}).open()


@pytest.mark.parametrize("host", ["no..such", "x" * 70])
def test_a_host_that_is_no_address_is_one_clear_error(host: str) -> None:
    with pytest.raises(DeviceError, match=r"cannot listen .* expected a machine's name or address"):
        UdpEvents({"port": 0, "host": host, "width": 64, "height": 48}).open()


@pytest.mark.parametrize("setting", ["packet_duration", "silence", "longest_gap", "end_after"])
def test_an_endless_duration_is_one_clear_error(setting: str) -> None:
    node = UdpEvents({"port": 0, "width": 64, "height": 48, setting: float("inf")})

    with pytest.raises(NodeError, match=f"{setting} is inf s; expected"):
        node.open()


def test_a_restarted_node_listens_at_the_port_that_it_had_taken() -> None:
    first, second = (UdpEvents({"port": 0, "width": 64, "height": 48}) for _ in range(2))
    first.open()
    port, state = first.results()["port"], first.snapshot()
    first.close()

    second.open()
    second.restore(state)

    assert second.results()["port"] == port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for rows in [(1_000, 1, 1, 1)], [(5_000, 2, 2, 1)]:
            sender.sendto(t64(rows), ("127.0.0.1", port))
    assert drive(second, opened=True, limit=1).items("events").tolist() == [(1_000, 1, 1, 1)]


@pytest.mark.parametrize(
    "wrong", [{"port": 65536}, {"format": "csv"}, {"width": 0}, {"height": 32768}]
)
def test_settings_are_checked_before_anything_starts(wrong: dict[str, Any]) -> None:
    with pytest.raises(NodeError, match="settings"):
        UdpEvents({"port": 1, "width": 64, "height": 48, **wrong})
