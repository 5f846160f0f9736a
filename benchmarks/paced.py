"""From capture to decision in a graph that runs live, and from the command to the first decision.

    python benchmarks/paced.py [--minutes M] [--packet MICROSECONDS] [--recordings FOLDER]

Simulated recordings of 100 particles/s (64 x 48 pixels) are merged to 200 and 500 particles/s and
looped at the speed they were made, in packets of 500 us. Camera, hot process (filter, trigger,
spiking classifier) and the sink that notes the decisions are three processes.

A decision's latency runs from the wall time at which the paced source released the packet with the
newest event that the decision needed (`captured` in that packet) to the arrival of the decision at
the sink: queues, kernels, sockets, wake-ups. What it does not hold is stream time: a burst's window
closes half a window after the particle's centre, and its last event waits for its packet to be full
(at most the packet's duration); both are in the table's heading. A decision is late when it
comes more than 4 ms after its data: with the stream time above, 5 ms after the centre.

`start to first decision` runs from starting the command to the first decision at the sink, and so
has the time to the first particle in it.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from _cytometry import RECORDINGS, hot_nodes, recordings
from _runs import run_graph
from _table import print_machine, print_table, verdict

RATES = {200: ("A1", "B1"), 500: ("A1", "B1", "A2", "B2", "A3")}  # particles/s: recordings merged
SECONDS = 3.0  # one recording
PROMISE_MS = 3.0
DEADLINE_US = 4000


def graph(paths: list[str], packet: int, seconds: float) -> dict[str, Any]:
    """A paced camera, the hot process, and the sink that looks at its watch."""
    hot = hot_nodes()
    loops = max(1, round(seconds / SECONDS))
    settings = {"paths": paths, "together": True, "duration": packet, "loops": loops}
    return {
        "name": "paced",
        "clock": "paced",
        "nodes": {
            "camera": {"kind": "looped_recordings", "settings": settings},
            **hot,
            "decisions": {
                "kind": "decision_log",
                "inputs": {"rows": "spiking.particles"},
                "settings": {"deadline_us": DEADLINE_US},
            },
        },
        "processes": {"hot": {"nodes": list(hot)}},
    }


def measure(paths: list[str], packet: int, seconds: float) -> dict[str, Any]:
    """What the sink noted, the hot process's share of a core, and how the start went."""
    began = time.monotonic_ns()
    report = run_graph(graph(paths, packet, seconds), timeout=seconds + 120)
    found: dict[str, Any] = report["results"]["decisions"]
    ran = report["wall_s"] - report["ready_s"]
    return {
        **found,
        "first_s": (found["first_ns"] - began) / 1e9,
        "ready_s": report["ready_s"],
        "events": report["nodes"]["camera"]["items_out"],
        "cpu": 100 * report["processes"]["hot"]["cpu_s"] / ran,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="at each rate")
    parser.add_argument("--packet", type=int, default=500, metavar="MICROSECONDS")
    parser.add_argument("--recordings", type=Path, default=RECORDINGS, metavar="FOLDER")
    options = parser.parse_args()
    recordings(options.recordings)  # all of them are there
    print_machine()
    rows, starts = [], []
    for rate, names in RATES.items():
        paths = [str(options.recordings / f"{name}.raw") for name in names]
        found = measure(paths, options.packet, 60 * options.minutes)
        p50, p99, p999, most = (found[key] / 1e3 for key in ("p50", "p99", "p999", "max"))
        rows.append(
            [
                f"{rate}", f"{found['count']:,}", f"{p50:.2f}", f"{p99:.2f}", f"{p999:.2f}",
                f"{most:.2f}", f"{found['missed']}", f"{found['cpu']:.0f}",
                f"p99 < {PROMISE_MS:g} {verdict(p99, PROMISE_MS)}, "
                f"none late {verdict(found['missed'], 0)}",
            ]
        )  # fmt: skip
        starts.append([f"{rate}", f"{found['ready_s']:.2f}", f"{found['first_s']:.2f}"])
    window = hot_nodes()["bursts"]["settings"].get("window", 0.001) * 1e3
    print_table(
        f"Capture to decision, ms ({options.minutes:g} minutes at each rate, load "
        f"{os.getloadavg()[0]:.1f} at the end; besides {window / 2:g} ms of window after the "
        f"centre and at most {options.packet / 1e3:g} ms of packet)",
        ["particles/s", "decisions", "p50", "p99", "p99.9", "max", f"> {DEADLINE_US / 1e3:g} ms",
         "hot: % of a core", "promise"],
        rows,
    )  # fmt: skip
    print_table("Start", ["particles/s", "ready (s)", "first decision (s)"], starts)


if __name__ == "__main__":
    main()
