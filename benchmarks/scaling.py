"""What graphs cost as they grow: 2, 8, 32 and 64 nodes, a process each or all in one.

    python benchmarks/scaling.py [--quick]

Chains of a source, nodes that pass packets on, and a sink. Latency and CPU are of packets of 64 B
at 100 a second, from the first node to the last: what the engine takes and nothing else. PSS counts
shared pages by their share. `throughput` is of packets as fast as they are taken.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from _runs import run_graph
from _table import median, print_machine, print_table
from processes import Run, pss_mib, settled

SIZES = (2, 8, 32, 64)
RATE = 100.0  # packets/s
SECONDS = 4.0


def chain(nodes: int, *, fused: bool, packets: int, rate: float | None) -> dict[str, Any]:
    """A source, `nodes` - 2 nodes that pass on, and a sink."""
    source: dict[str, Any] = {"packets": packets}
    if rate is not None:
        source["rate"] = rate
    described: dict[str, Any] = {"source": {"kind": "many_source", "settings": source}}
    origin = "source.data"
    for hop in range(nodes - 2):
        described[f"hop{hop}"] = {"kind": "pass_on", "inputs": {"data": origin}}
        origin = f"hop{hop}.same"
    described["sink"] = {
        "kind": "stopwatch", "inputs": {"data": origin}, "settings": {"skip": 50},
    }  # fmt: skip
    graph: dict[str, Any] = {"name": "scaling", "nodes": described}
    if fused:
        graph["processes"] = {"all": {"nodes": list(described)}}
    return graph


def cpu_s(pid: int) -> float:
    """CPU time of all threads of a process, to the nanosecond: short wakes escape the clock tick
    by which /proc/PID/stat counts.
    """  # fmt: skip
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def measure(nodes: int, *, fused: bool, seconds: float) -> dict[str, float]:
    """One graph at rest and at work, and once as fast as it goes."""
    packets = int(RATE * (seconds + 60.0))
    with Run(chain(nodes, fused=fused, packets=packets, rate=RATE), 1 if fused else nodes) as run:
        everyone = settled(run, busy=1.0)
        memory = sum(pss_mib(pid) for pid in everyone)
        before, began = [cpu_s(pid) for pid in everyone], time.monotonic()
        time.sleep(seconds)
        used = [cpu_s(pid) - earlier for pid, earlier in zip(everyone, before, strict=True)]
        passed = time.monotonic() - began
        run.stop()
    report = run.report
    latency = report["results"]["sink"]
    fast = run_graph(chain(nodes, fused=fused, packets=10_000, rate=None))
    return {
        "ready": report["ready_s"],
        "pss": memory,
        "cpu": 100 * sum(used) / passed,
        "engine": 100 * sum(used[:2]) / passed,
        "p50": latency["p50"],
        "p99": latency["p99"],
        "rate": fast["results"]["sink"]["rate"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 round, for a first look")
    rounds = 1 if parser.parse_args().quick else 3
    print_machine()
    found: dict[tuple[bool, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for fused in (False, True):
            for nodes in SIZES:
                one = measure(nodes, fused=fused, seconds=SECONDS)
                found.setdefault((fused, nodes), []).append(one)
    rows = []
    for (fused, nodes), runs in found.items():
        of = {key: median(run[key] for run in runs) for key in runs[0]}
        rows.append(
            [
                "one" if fused else f"{nodes}", f"{nodes}", f"{of['ready']:.2f}",
                f"{of['pss']:,.0f}", f"{of['cpu']:.1f}", f"{of['engine']:.1f}",
                f"{of['p50'] / 1e3:.2f}", f"{of['p99'] / 1e3:.2f}",
                f"{of['p50'] / (nodes - 1):.0f}", f"{of['rate']:,.0f}",
            ]
        )  # fmt: skip
    head = [
        "processes", "nodes", "ready (s)", "PSS (MiB)", "CPU (% of a core)", "of it supervisor",
        "p50 (ms)", "p99 (ms)", "p50 an edge (us)", "throughput (1/s)",
    ]  # fmt: skip
    load = os.getloadavg()[0]
    print_table(
        f"Chains at {RATE:g} packets/s ({rounds} rounds, load {load:.1f} at the end)", head, rows
    )


if __name__ == "__main__":
    main()
