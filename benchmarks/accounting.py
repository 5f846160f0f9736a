"""What all accounting costs the edge: a graph with it and without it, by turns.

    python benchmarks/accounting.py [--pairs 60] [--size 65536]

A source and a sink have a process each, as `streamflow run` makes them. In blocks of packets, all
accounting is taken out of both processes and put back (`benchmark_nodes/_accounting.py` says what
that is); a pair of neighbouring blocks lasts well under a second, so that both have the same
machine. The protocol (sequence numbers, credits) stays. Cost = 1 - throughput with / without, the
median over the pairs. CPU time of both processes is given too: other work on the machine disturbs
it less. With `restart: on_failure` what a commit writes is what a successor needs, and stays.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from _runs import run_graph
from _table import median, print_machine, print_table, size_name, verdict

PROMISE = 3.0  # percent of the throughput


def measure(pairs: int, packets: int, size: int, *, restart: bool) -> dict[str, Any]:
    """What source and sink noted; SystemExit where more or less was counted than should be."""
    settings = {"packets": packets, "commits": restart}
    graph: dict[str, Any] = {
        "name": "accounting",
        "nodes": {
            "source": {
                "kind": "accounted_source", "settings": {**settings, "pairs": pairs, "size": size},
            },
            "sink": {
                "kind": "accounted_sink", "inputs": {"data": "source.data"}, "settings": settings,
            },
        },
    }  # fmt: skip
    if restart:
        graph["processes"] = {
            name: {"nodes": [name], "restart": "on_failure"} for name in ("source", "sink")
        }
    report = run_graph(graph)
    counted = report["edges"]["source.data -> sink.data"]["handled"]
    expected = pairs * (packets + 1)  # a block of each pair, and its leading packet
    if abs(counted - expected) > 2:
        raise SystemExit(f"{counted} packets were counted; {expected} should have been")
    found: dict[str, Any] = report["results"]
    return found


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % of the medians of resampled pairs (bootstrap)."""
    rng = np.random.default_rng(1)
    medians = np.median(rng.choice(values, (2000, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def row(name: str, found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    sink, source = found["sink"], found["source"]
    on, off = np.array(sink["rate_with"]), np.array(sink["rate_without"])
    cost = 100 * (1 - on / off)
    low, high = interval(cost)
    cpu = [
        f"{median(np.array(end['with']) - np.array(end['without'])):+.2f} of "
        f"{median(end['without']):.1f}"
        for end in (source, sink)
    ]
    figure = median(cost)
    return [
        name, str(len(on)), f"{median(off):,.0f}", f"{median(on):,.0f}", f"{figure:.1f}",
        f"{low:.1f} to {high:.1f}", *cpu, verdict(figure, PROMISE),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=60, help="of blocks, an even number")
    parser.add_argument("--packets", type=int, default=1500, help="in a block")
    parser.add_argument("--size", type=int, default=65536, help="bytes")
    options = parser.parse_args()
    print_machine()
    rows = []
    for name, restart in (("restart: never", False), ("restart: on_failure", True)):
        found = measure(options.pairs, options.packets, options.size, restart=restart)
        rows.append(row(name, found))
    head = ["graph", "pairs", "msg/s without", "msg/s with", "cost %", "95 %",
            "source: CPU us", "sink: CPU us", f"at most {PROMISE:g} %"]  # fmt: skip
    print_table(f"The cost of all accounting, {size_name(options.size)} packets", head, rows)


if __name__ == "__main__":
    main()
