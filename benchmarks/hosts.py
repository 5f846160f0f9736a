"""What an edge to another host costs: ours without keys and with CURVE, beside bare ZeroMQ.

    python benchmarks/hosts.py [--runs N]

Two processes on this machine, joined by tcp over loopback. One sends frames of one size; the other
answers every 8th with a credit, as a consumer does, so at most 16 are on their way. `bare` is a
DEALER pair without keys, heartbeats or tokens. Between two machines the network comes on top. The
ways take turns; CPU is that of all threads of both processes, ZeroMQ's own among them, and is what
other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from typing import Any

import zmq
from _table import median, print_machine, print_table, ratio, size_name

from streamflow.network import Gate, Joiner, Listener, Security, new_keys
from streamflow.sockets import Channel

SIZES = {64: 20_000, 1 << 16: 4_000, 1 << 20: 400}
WINDOW, BATCH = 16, 8
MAXIMUM = 8 << 20
WAYS = ("bare", "plain", "CURVE")


def ends(way: str) -> tuple[Security, Security]:
    """How the producer and the consumer know each other."""
    token = b"e" + os.urandom(15)
    if way != "CURVE":
        return Security(token), Security(token)
    ours, theirs = new_keys(), new_keys()
    return Security(token, ours, theirs.public), Security(token, theirs, ours.public)


def consume(way: str, security: Security, count: int, pipe: Connection) -> None:
    """The other process: take `count` frames, give credits."""
    context = zmq.Context()
    address = pipe.recv()
    channel: Any
    if way == "bare":
        socket = context.socket(zmq.DEALER)
        socket.connect(f"tcp://{address}")
        channel = Channel(socket)
    else:
        channel = Joiner(context, address, MAXIMUM, security)
    channel.send(b"here")
    for taken in range(1, count + 1):
        while channel.receive() is None:
            channel.socket.poll(1000)
        if taken % BATCH == 0:
            channel.send(b"credit")
    pipe.send(time.process_time())
    pipe.recv()
    channel.close()
    context.destroy(linger=0)


def run(way: str, size: int, count: int) -> tuple[float, float]:
    """Seconds for `count` frames, and CPU seconds of both ends."""
    listening, joining = ends(way)
    pipe, other = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=consume, args=(way, joining, count, other)
    )
    process.start()
    context = zmq.Context()
    gate = None
    channel: Any
    if way == "bare":
        socket = context.socket(zmq.DEALER)
        address = f"127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"
        channel = Channel(socket)
    else:
        if listening.mine is not None:
            gate = Gate(context)
            gate.allow("edge", [listening.peer])
        channel = Listener(context, "127.0.0.1", MAXIMUM, listening, "edge")
        address = channel.address
    pipe.send(address)
    while channel.receive() is None:
        channel.socket.poll(1000)
    frame = os.urandom(size)
    cpu, began = time.process_time(), time.perf_counter()
    free, sent, credited = WINDOW, 0, 0
    while credited < count:
        while free and sent < count and channel.send(frame):
            free, sent = free - 1, sent + 1
        channel.socket.poll(1000)
        while channel.receive() is not None:
            free, credited = free + BATCH, credited + BATCH
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    used += pipe.recv()
    pipe.send(None)
    process.join()
    channel.close()
    if gate is not None:
        gate.stop()
    context.destroy(linger=0)
    return seconds, used


def main() -> None:
    """Take turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    print_machine()
    rows = []
    for size, count in SIZES.items():
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(runs):
            for way in WAYS:
                found[way].append(run(way, size, count))
        seconds = {way: [taken for taken, _ in found[way]] for way in WAYS}
        cpu = {way: [used for _, used in found[way]] for way in WAYS}
        for way in WAYS:
            rate = count / median(seconds[way])
            against = "bare" if way == "plain" else "plain"
            rows.append(
                [size_name(size), way, f"{rate:,.0f}", f"{rate * size / 1e6:,.0f}",
                 f"{1e6 * median(cpu[way]) / count:.1f}",
                 *(["", ""] if way == "bare" else
                   [f"{ratio(seconds[way], seconds[against]):.2f} of {against}",
                    f"{ratio(cpu[way], cpu[against]):.2f} of {against}"])]
            )  # fmt: skip
    print_table(
        f"frames over tcp, {WINDOW} on their way at most, medians of {runs} runs",
        ["frame", "way", "frames/s", "MB/s", "CPU us a frame", "time", "CPU"],
        rows,
    )


if __name__ == "__main__":
    main()
