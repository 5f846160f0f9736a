"""Events leave in datagrams that faery and `udp_events` read; what cannot leave is counted."""

from __future__ import annotations

import re
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
from streamflow_nodes.sinks.udp_events_sender import UdpEventsSender
from streamflow_nodes.sources.udp_events import UdpEvents

from streamflow.errors import DeviceError
from streamflow.packet import EVENT
from streamflow.testing import cut, drive, events

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from runs import Run  # the engine tests' way to run a graph

INDOOR = Path(__file__).resolve().parents[1] / "data" / "indoor_640x480_evt3.raw"
LIMIT = 20.0


def recorded() -> Any:
    """The events of a real recording (`tests/data`), as a packet."""
    theirs = faery.events_stream_from_file(INDOOR).to_array()
    array = np.zeros(len(theirs), EVENT)
    for ours, name in zip(EVENT.names or (), ("t", "x", "y", "on"), strict=True):
        array[ours] = theirs[name]
    return events(array, start=0)


@pytest.fixture
def receiver() -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        found.settimeout(LIMIT)
        yield found


def port_of(receiver: Any) -> int:
    return int(receiver.getsockname()[1])


def test_a_packet_leaves_in_as_few_datagrams_as_its_events_fit(receiver: Any) -> None:
    rows = [(1_000 + number, number, 2, 1) for number in range(12)]
    node = UdpEventsSender({"port": port_of(receiver), "datagram_bytes": 70})

    out = drive(node, events=[events(rows), events([], start=5_000, stop=6_000)])

    sizes, content = [], b""
    for _ in range(out.results["datagrams"]):
        datagram = receiver.recv(65_536)
        sizes.append(len(datagram))
        content += datagram
    assert sizes == [65, 65, 26]
    assert content == b"".join(struct.pack("<QHHB", *row) for row in rows)
    assert out.results["events"] == 12
    assert not any(out.faults.values())


# faery leaves its socket to the garbage collector
@pytest.mark.filterwarnings("ignore:.*:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("format", ["t64_x16_y16_on8", "t32_x16_y15_on1"])
def test_faery_reads_what_is_sent_event_for_event(format: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = port_of(free)
    packet, found = recorded(), list[Any]()
    batches = iter(faery.events_stream_from_udp((640, 480), ("127.0.0.1", port), format=format))
    parts = [events([(0, 0, 0, 0)]), *cut(packet, 800)]

    def read() -> None:
        while count() < len(packet.data):
            found.append(next(batches))

    def count() -> int:
        return sum(int(np.count_nonzero(batch["t"])) for batch in found)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    node = UdpEventsSender({"port": port, "format": format})
    node.open()
    wanted, end = 0, time.monotonic() + LIMIT
    while not found:  # faery listens only once it is asked for events, and does not say when
        node.on_events(parts[0])
        time.sleep(0.01)
    for part in parts[1:]:  # one after the other: faery's socket keeps no more than a few
        node.on_events(part)
        wanted += len(part.data)
        while count() < wanted:
            assert time.monotonic() < end, "faery did not receive everything"
            time.sleep(0.005)
    node.close()
    reader.join(LIMIT)
    batches.close()

    theirs = np.concatenate(found)
    theirs = theirs[theirs["t"] > 0]  # the knocks are those at time 0
    for ours, name in zip(EVENT.names or (), ("t", "x", "y", "on"), strict=True):
        np.testing.assert_array_equal(packet.data.array[ours], theirs[name])


@pytest.mark.parametrize("format", ["t64_x16_y16_on8", "t32_x16_y15_on1", "spif_t32", "spif"])
def test_udp_events_reads_what_is_sent_in_every_format(format: str) -> None:
    source = UdpEvents(
        {"port": 0, "format": format, "width": 640, "height": 480, "end_after": 0.3}
    )  # fmt: skip
    source.open()
    packet = recorded()

    sent = drive(
        UdpEventsSender({"port": source.results()["port"], "format": format}),
        events=cut(packet, 700),
    )
    out = drive(source, opened=True)

    assert out.results["datagrams"] == sent.results["datagrams"]
    found = out.items("events")
    for name in EVENT.names or ():
        if name != "timestamp" or format != "spif":
            np.testing.assert_array_equal(found[name], packet.data.array[name])


def test_a_receiver_that_nobody_is_is_counted() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = port_of(free)

    out = drive(
        UdpEventsSender({"port": port}),
        events=[events([(time, 1, 1, 1)]) for time in range(1, 6)],
    )

    assert out.faults["refused"] >= 1
    assert out.results["events"] == 5  # they have left; that is all that UDP says


def test_events_that_no_format_can_hold_are_counted(receiver: Any) -> None:
    rows = [(-5, 1, 1, 1), (4, -1, 1, 1), (5, 3, 3, 0)]

    out = drive(UdpEventsSender({"port": port_of(receiver)}), events=[events(rows)])

    assert receiver.recv(100) == struct.pack("<QHHB", 5, 3, 3, 0)
    assert out.faults["unencodable"] == 2
    assert out.results["events"] == 1


def test_counts_go_on_after_a_restart(receiver: Any) -> None:
    settings = {"port": port_of(receiver)}
    first, second = UdpEventsSender(settings), UdpEventsSender(settings)
    drive(first, events=[events([(1, 1, 1, 1)])])

    second.open()
    second.restore(first.snapshot())
    out = drive(second, opened=True, events=[events([(2, 1, 1, 1), (3, 1, 1, 1)])])

    assert (out.results["events"], out.results["datagrams"]) == (3, 2)


def test_a_host_that_is_no_name_is_one_clear_error() -> None:
    with pytest.raises(DeviceError, match=r"no\.\.such:3333: cannot send .* check 'host'"):
        UdpEventsSender({"port": 3333, "host": "no..such"}).open()


def test_a_host_that_cannot_be_found_is_one_clear_error() -> None:
    with pytest.raises(DeviceError, match=r"no\.such\.host\.invalid:9: cannot send .*check 'host'"):
        UdpEventsSender({"port": 9, "host": "no.such.host.invalid"}).open()


def test_a_graph_passes_on_what_it_receives_and_says_where_it_listens(
    tmp_path: Path, receiver: Any
) -> None:
    relay = Run(
        tmp_path,
        "clock: realtime\n"
        "nodes:\n"
        "  net: {kind: udp_events, settings: {port: 0, width: 64, height: 48, end_after: 0.5}}\n"
        "  send:\n"
        "    kind: udp_events_sender\n"
        "    inputs: {events: net.events}\n"
        f"    settings: {{port: {port_of(receiver)}}}\n"
        "processes: {all: {nodes: [net, send]}}\n",
    )
    heard = relay.wait_for(lambda: re.search(r"listening for UDP at 127.0.0.1:(\d+)", relay.err))
    contents = [
        b"".join(struct.pack("<QHHB", 1_000_000 + 100 * number + each, each, 7, 1)
                 for each in range(50))
        for number in range(100)
    ]  # fmt: skip

    for content in contents:
        receiver.sendto(content, ("127.0.0.1", int(heard[1])))
    code = relay.end()

    assert code == 0, relay.err
    nodes, results = relay.report["nodes"], relay.report["results"]
    assert results["net"]["datagrams"] == 100
    assert nodes["net"]["items_out"] == results["send"]["events"] == 5_000
    assert not any(nodes["net"]["faults"].values())
    passed_on = b"".join(receiver.recv(65_536) for _ in range(results["send"]["datagrams"]))
    assert passed_on == b"".join(contents)


def test_a_killed_receiver_listens_again_and_stream_time_goes_on(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = port_of(free)
    listening = "listening for UDP"
    run = Run(
        tmp_path,
        "clock: realtime\n"
        "nodes:\n"
        "  net:\n"
        "    kind: udp_events\n"
        f"    settings: {{port: {port}, width: 64, height: 48, end_after: 0.5}}\n"
        "  send: {kind: udp_events_sender, inputs: {events: net.events}, settings: {port: 9}}\n"
        "processes: {net: {nodes: [net], restart: {when: on_failure, backoff: 0.05}}}\n",
    )
    run.wait_for(lambda: listening in run.err)
    begun, sent = time.monotonic(), 0

    def send_while(wanted: Callable[[], bool]) -> None:
        nonlocal sent
        while wanted():
            now = 1_000_000 + int((time.monotonic() - begun) * 1_000_000)
            sender.sendto(struct.pack("<QHHB", now, 1, 7, 1), ("127.0.0.1", port))
            sent += 1
            time.sleep(0.002)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        send_while(lambda: sent < 50)
        run.kill("net")
        send_while(lambda: run.err.count(listening) < 2)
        missed = sent - 50
        send_while(lambda: sent < 100 + missed)
    code = run.end()

    assert code == 0, run.err
    node = run.report["nodes"]["net"]
    assert (node["restarts"], node["state_lost"]) == (1, 0)
    assert not any(node["faults"].values())
    assert 50 <= node["items_out"] == run.report["nodes"]["send"]["items_in"] <= sent
