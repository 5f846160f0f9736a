"""How late pulses begin: the planned start against the clock, with and without load.

    python benchmarks/sort_trigger.py [--rate HZ] [--seconds S] [--runs N] [--priority P]

One `sort_trigger` in this process, as in a graph: 1000 packets of events a second for its clock,
and `--rate` particles a second, evenly spaced, each known 20 ms before its pulse. Pulses go to a
pseudo-terminal that another process reads. `fired` is the last look at the clock before the device
is driven, `written` when the device had taken it, both in microseconds after the planned start.
`spin` is how long before a pulse the thread looks at the clock without a pause; with `load` a
process for each core computes without end, beside whatever else the machine does. Kinds of runs
follow one another and then all again; a row is over all its runs. `aborted` counts pulses that
would have begun more than 0.5 ms late. With `--priority` there are runs with that real-time
priority, too (needs CAP_SYS_NICE).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import multiprocessing
import os
import subprocess
import tempfile
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _table import print_machine, print_table
from streamflow_nodes.particles.rows import PARTICLE
from streamflow_nodes.sinks.sort_trigger import SortTrigger

from streamflow.clock import Clock
from streamflow.packet import EVENT, Events, Packet, Table

AHEAD_US = 20_000
NO_EVENTS = np.empty(0, EVENT)

Kind = tuple[float, int, bool]  # spin (s), priority, load


@contextlib.contextmanager
def load(wanted: bool) -> Iterator[None]:
    """Processes that compute without end, one for each core."""
    count = len(os.sched_getaffinity(0)) if wanted else 0
    burners = [multiprocessing.get_context("spawn").Process(target=burn) for _ in range(count)]
    for burner in burners:
        burner.start()
    time.sleep(1.0 if wanted else 0.0)  # until they compute
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


def burn() -> None:
    while True:
        pass


@contextlib.contextmanager
def terminal() -> Iterator[str]:
    """A pseudo-terminal whose other end is read."""
    master, slave = os.openpty()
    tty.setraw(slave)
    reader = subprocess.Popen(["cat"], stdin=master, stdout=subprocess.DEVNULL)
    os.close(master)
    try:
        yield os.ttyname(slave)
    finally:
        reader.kill()
        reader.wait()
        os.close(slave)


def run(kind: Kind, rate: int, seconds: float) -> tuple[list[tuple[float, float]], int]:
    """(fired, written) after the planned start of each pulse, us, and how many were aborted."""
    spin, priority, _ = kind
    with tempfile.TemporaryDirectory() as folder, terminal() as port:
        log = Path(folder, "log.csv")
        node = SortTrigger(
            {
                "classes": ["A"], "delay": AHEAD_US * 1e-6, "width": 0.0005, "mode": "yield",
                "spin": spin, "priority": priority, "settle": 1, "log": str(log),
                "serial": {"port": port},
            }
        )  # fmt: skip
        node.clock = Clock("realtime")
        node.open()
        try:
            feed(node, rate, seconds)
            node.finish()
        finally:
            node.close()
        with log.open(newline="") as file:
            lines = list(csv.DictReader(file))
    made = [line for line in lines if line["action"] == "pulsed"]
    late = [tuple((int(line[n]) - int(line["due_ns"])) / 1e3 for n in ("fired_ns", "written_ns"))
            for line in made]  # fmt: skip
    return [(fired, written) for fired, written in late], len(lines) - len(made)


def feed(node: SortTrigger, rate: int, seconds: float) -> None:
    """What the node gets in a graph, at the time when it gets it there."""
    origin, sent = time.monotonic_ns(), 0
    for tick in range(1, int(seconds * 1000) + 1):
        left = origin + tick * 1_000_000 - time.monotonic_ns()
        if left > 0:
            time.sleep(left / 1e9)
        start, stop = 1000 * (tick - 1), 1000 * tick
        events = Events(NO_EVENTS, 64, 48)
        node.on_events(Packet(start, stop, events, origin + tick * 1_000_000))
        while (at := sent * 1_000_000 // rate) < stop:
            row = np.zeros(1, PARTICLE)
            row["time_us"], row["class"], row["probability"] = at, b"A", 1.0
            node.on_rows(Packet(start, stop, Table(row)))
            sent += 1
        node.advance(stop)


def cells(values: Any) -> list[str]:
    """p50, p99, p99.9 and the maximum."""
    return [f"{v:.0f}" for v in (*np.percentile(values, [50, 99, 99.9]), np.max(values))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--priority", type=int, default=0)
    options = parser.parse_args()
    print_machine()
    priorities = sorted({0, options.priority})
    kinds: list[Kind] = [
        (spin, priority, is_loaded)
        for is_loaded in (False, True)
        for priority in priorities
        for spin in (0.0, 0.0002)
    ]
    found: dict[Kind, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    aborted = dict.fromkeys(kinds, 0)
    for _ in range(options.runs):
        for kind in kinds:
            with load(kind[2]):
                late, lost = run(kind, options.rate, options.seconds)
            found[kind] += late
            aborted[kind] += lost
    rows = []
    for kind in kinds:
        spin, priority, is_loaded = kind
        late = np.array(found[kind])
        name = ["yes" if is_loaded else "no", f"{1e6 * spin:.0f} us", str(priority or "-")]
        rows.append([*name, *cells(late[:, 0]), *cells(late[:, 1]),
                     f"{aborted[kind]} / {aborted[kind] + len(late)}"])  # fmt: skip
    head = ["load", "spin", "priority", *(f"fired {q}" for q in ("p50", "p99", "p99.9", "max")),
            *(f"written {q}" for q in ("p50", "p99", "p99.9", "max")), "aborted"]  # fmt: skip
    title = (
        f"{options.rate} pulses/s, {options.runs} runs of {options.seconds:.0f} s each; us after"
    )
    print_table(f"{title} the planned start", head, rows)


if __name__ == "__main__":
    main()
