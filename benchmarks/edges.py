"""What an edge costs: beside raw ZeroMQ, in a graph, and inside one process.

    python benchmarks/edges.py [--quick] [--only edge node hop]

- edge: `Output` and `InLink` (shared memory, credits; nothing configured) in two bare processes.
- node: `streamflow run` of a graph whose source and sink have a process each.
- hop: nodes of one process, which pass packets by reference.

The first two take turns with a pair of plain pyzmq sockets (PUSH/PULL, ipc, copying, high-water
mark 32). Figures are medians over the rounds; a ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from _runs import run_graph
from _table import median, print_machine, print_table, ratio, size_name, verdict
from benchmark_nodes._load import OVER, SIZES, SLOTS, Record, messages, payload, touch

from streamflow.consumer_end import InLink
from streamflow.memory import Segment, create, read_only, segment_bytes
from streamflow.packet import Packet, Tensor
from streamflow.producer_end import OutLink, Output
from streamflow.sockets import Context, Poll

INLINE = 16384  # bytes; these four are the defaults of graph files
SLOT = 16 << 20
CAPACITY, WINDOW = 64, 8
TIMEOUT_S = 60

Summary = dict[str, Any]
Runs = dict[str, dict[int, list[Summary]]]  # path -> size -> one summary a round


# --- two bare processes ---------------------------------------------------------------------------


def pair(send: Callable[..., None], receive: Callable[..., Record], *arguments: Any) -> Summary:
    """Run `send` and `receive` in a process each; what the receiver saw."""
    fork = multiprocessing.get_context("fork")  # descriptors are inherited; no sockets exist yet
    ours, theirs = fork.Pipe(duplex=False)
    processes = [
        fork.Process(target=_report, args=(receive, theirs, arguments), daemon=True),
        fork.Process(target=send, args=arguments, daemon=True),
    ]
    for process in processes:
        process.start()
    found: Summary | None = ours.recv() if ours.poll(TIMEOUT_S) else None
    for process in processes:
        process.kill()
        process.join()
    if found is None:
        raise SystemExit(f"{receive.__name__}: not done within {TIMEOUT_S} s")
    return found


def _report(receive: Callable[..., Record], pipe: Connection, arguments: tuple[Any, ...]) -> None:
    pipe.send(receive(*arguments).summary())


def measure_zeromq(size: int, seconds: float) -> Summary:
    """Raw pyzmq: what a thin Python pipeline would use."""
    with tempfile.TemporaryDirectory() as folder:
        return pair(send_zeromq, receive_zeromq, f"ipc://{folder}/peer", size, seconds)


def send_zeromq(address: str, size: int, seconds: float) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.setsockopt(zmq.SNDHWM, 32)
    socket.connect(address)
    array = payload(size).copy()
    head = array[:16].view(np.int64)
    for phase in messages(size, seconds):
        head[:] = phase, time.monotonic_ns()
        socket.send(array)
    signal.pause()  # closing now could lose what the receiver has not taken yet


def receive_zeromq(address: str, size: int, seconds: float) -> Record:
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    socket.setsockopt(zmq.RCVHWM, 32)
    socket.bind(address)
    record = Record()
    phase = -1
    while phase != OVER:
        array = np.frombuffer(socket.recv(), np.uint8)
        touch(array)
        now = time.monotonic_ns()
        phase, sent = array[:16].view(np.int64).tolist()
        record.note(phase, sent, now)
    return record


def measure_edge(size: int, seconds: float) -> Summary:
    """The edge layer alone: no nodes, no worker."""
    fd = create("benchmark", segment_bytes(SLOTS, SLOT))
    reader = read_only(fd)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return pair(send_edge, receive_edge, Path(folder, "edge"), fd, reader, size, seconds)
    finally:
        os.close(fd)
        os.close(reader)


def send_edge(path: Path, fd: int, reader: int, size: int, seconds: float) -> None:
    context, poll = Context(), Poll()
    channel = context.channel()
    channel.bind(path)
    link = OutLink("block", CAPACITY, WINDOW)
    link.attach(channel)
    segment = Segment(fd, SLOTS, SLOT, writable=True)
    output = Output(segment, [link], INLINE, recoverable=False)  # as graphs have it by default
    poll.add(channel, "edge")
    while not link.sender.connected:
        poll.wait(None)
        link.receive(output)
    data = Tensor(payload(size), ("byte",))
    start = 0
    for phase in messages(size, seconds):
        link.receive(output)
        while not output.room():
            poll.wait(None)
            link.receive(output)
        stop = start + phase + 1
        output.stage(Packet(start, stop, data, time.monotonic_ns()))
        output.send(stop)
        start = stop
    output.end()
    while True:
        poll.wait(None)
        link.receive(output)


def receive_edge(path: Path, fd: int, reader: int, size: int, seconds: float) -> Record:
    context, poll = Context(), Poll()
    channel = context.channel()
    channel.connect(path)
    link = InLink(Tensor, WINDOW, Segment(reader, SLOTS, SLOT, writable=False))
    link.attach(channel)
    poll.add(channel, "edge")
    record = Record()
    while not link.receiver.ended:
        poll.wait(None)
        for arrival in link.receive():
            if isinstance(arrival, int):
                continue
            packet = link.packet(arrival)
            touch(packet.data.array)
            now = time.monotonic_ns()
            record.note(packet.stop - packet.start - 1, packet.captured, now)
            del packet  # its view would keep the slot
            link.handled(arrival)
            link.commit()
            link.credit(all_of_them=False)
        link.credit(all_of_them=True)
    return record


# --- graphs ---------------------------------------------------------------------------------------


def measure_graph(sizes: list[int], seconds: float) -> dict[int, Summary]:
    """A source and a sink in a process each: what users get."""
    report = run_graph(
        {
            "name": "edges",
            "nodes": {
                "source": {
                    "kind": "load_source",
                    "settings": {"sizes": sizes, "seconds": seconds},
                },
                "sink": {"kind": "load_sink", "inputs": {"data": "source.data"}},
            },
        }
    )
    return {int(size): summary for size, summary in report["results"]["sink"].items()}


def chain(hops: int, packets: int) -> Summary:
    """A source, `hops` nodes and a sink, all in one process; what the sink measured."""
    nodes: dict[str, Any] = {"source": {"kind": "many_source", "settings": {"packets": packets}}}
    origin = "source.data"
    for hop in range(hops):
        nodes[f"hop{hop}"] = {
            "kind": "pass_on", "inputs": {"data": origin}, "settings": {"stamp": hop == 0},
        }  # fmt: skip
        origin = f"hop{hop}.same"
    nodes["sink"] = {"kind": "stopwatch", "inputs": {"data": origin}}
    graph = {"name": "hops", "nodes": nodes, "processes": {"all": {"nodes": list(nodes)}}}
    found: Summary = run_graph(graph)["results"]["sink"]
    return found


# --- the tables -----------------------------------------------------------------------------------


def bench_edge(rounds: int, seconds: float) -> None:
    runs: Runs = {"pyzmq": defaultdict(list), "edge": defaultdict(list)}
    for _ in range(rounds):
        for size in SIZES:
            runs["pyzmq"][size].append(measure_zeromq(size, seconds))
            runs["edge"][size].append(measure_edge(size, seconds))
    show("Edge layer beside raw pyzmq", runs, "edge")
    promises(runs["edge"], runs["pyzmq"])


def bench_node(rounds: int, seconds: float) -> None:
    runs: Runs = {"pyzmq": defaultdict(list), "graph": defaultdict(list)}
    for _ in range(rounds):
        for size in SIZES:
            runs["pyzmq"][size].append(measure_zeromq(size, seconds))
        for size, summary in measure_graph(list(SIZES), seconds).items():
            runs["graph"][size].append(summary)
    show("A graph of a source and a sink beside raw pyzmq", runs, "graph")


def bench_hop(rounds: int, packets: int) -> None:
    short, long = [], []
    for _ in range(rounds):
        short.append(chain(1, packets))
        long.append(chain(9, packets))
    latency = median(run["p50"] / 9 for run in long)
    cost = median((b["cpu_us"] - a["cpu_us"]) / 8 for a, b in zip(short, long, strict=True))
    rows = [
        ["from node to node (p50, us)", f"{latency:.1f}", "5.0", verdict(latency, 5.0)],
        ["CPU a hop costs, all told (us)", f"{cost:.1f}", "", ""],
        ["1 hop: packets/s", f"{median(run['rate'] for run in short):,.0f}", "", ""],
        ["9 hops: packets/s", f"{median(run['rate'] for run in long):,.0f}", "", ""],
    ]
    print_table("By reference inside one process, 64 B", ["figure", "median", "at most", ""], rows)


def show(title: str, runs: Runs, ours: str) -> None:
    """One table: each path and size, and how ours compares."""
    rows = []
    for size in SIZES:
        theirs = runs["pyzmq"][size]
        for path in ("pyzmq", ours):
            found = runs[path][size]
            rate = median(run["rate"] for run in found)
            rows.append(
                [
                    size_name(size),
                    path,
                    f"{median(run['p50'] for run in found):,.0f}",
                    f"{median(run['p99'] for run in found):,.0f}",
                    f"{rate:,.0f}",
                    f"{rate * size / 2**30:.2f}",
                    f"{_ratio(found, theirs, 'p50'):.2f}" if path == ours else "",
                    f"{_ratio(found, theirs, 'rate'):.2f}" if path == ours else "",
                ]
            )
    head = ["size", "path", "p50 us", "p99 us", "msg/s", "GiB/s", "p50 ratio", "msg/s ratio"]
    print_table(f"{title} ({len(theirs)} rounds)", head, rows)


def _ratio(ours: list[Summary], theirs: list[Summary], figure: str) -> float:
    return ratio([run[figure] for run in ours], [run[figure] for run in theirs])


def promises(edge: dict[int, list[Summary]], peer: dict[int, list[Summary]]) -> None:
    """What the design promises of the edge layer, and what was found."""
    small, large, huge = SIZES[0], SIZES[3], SIZES[4]
    bandwidth = median(run["rate"] for run in edge[large]) * large / 2**30
    milliseconds = median(run["p50"] for run in edge[huge]) / 1e3
    ratios = {size: _ratio(edge[size], peer[size], "p50") for size in (small, large)}
    rows = [
        ["64 B p50 / pyzmq", f"{ratios[small]:.2f}", "<= 1.3", verdict(ratios[small], 1.3)],
        ["1 MiB p50 / pyzmq", f"{ratios[large]:.2f}", "<= 0.6", verdict(ratios[large], 0.6)],
        ["1 MiB GiB/s", f"{bandwidth:.2f}", ">= 5", verdict(bandwidth, 5, at_least=True)],
        ["8 MiB p50 ms", f"{milliseconds:.2f}", "<= 2.5", verdict(milliseconds, 2.5)],
    ]
    print_table("Promises", ["figure", "median", "promise", ""], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 short rounds, for a first look")
    layers = ("edge", "node", "hop")
    parser.add_argument("--only", nargs="+", choices=layers, default=layers, metavar="LAYER")
    options = parser.parse_args()
    rounds, seconds = (3, 0.15) if options.quick else (5, 0.4)
    print_machine()
    if "edge" in options.only:
        bench_edge(rounds, seconds)
    if "node" in options.only:
        bench_node(rounds, seconds)
    if "hop" in options.only:
        bench_hop(rounds, 5_000 if options.quick else 20_000)


if __name__ == "__main__":
    main()
