"""Consumers ten times too slow: what is dropped, how old packets get, and what memory does.

    python benchmarks/overload.py [--minutes N] [--write]

A source makes a packet of 64 KiB every 2 ms. Sinks take 20 ms for each: one for each lossy policy,
beside a recorder that takes all; then one with `block` and nothing beside it. Every node has a
process of its own. Looked at every second: the resident memory of every process, whose slope is
fitted to the second half of the run: before, slots of shared memory are touched for the first time.

The age of a packet is from its capture until the sink was done with it. What is expected of it, by
how the policies choose, with a period p of the source and a service time s of the sink:
`drop_oldest` lets the newest `capacity` packets wait, so (capacity) p + (window) s; `latest` the
same with a capacity of 1; `drop_newest` and `block` queue, so (capacity + window) s. What still
waits when the source has ended grows older than that, so the tail is shown by the 90th percentile.
With --write, the figures go to docs/results/overload.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _table import print_machine, print_table, verdict
from processes import children

HERE = Path(__file__).resolve().parent
PERIOD, SERVICE = 0.002, 0.02  # s
CAPACITY, WINDOW = 64, 8  # the defaults of `block`; lossy edges have a window of 1
PAGE = os.sysconf("SC_PAGE_SIZE")
FLAT_MIB = 1.0  # a minute
AGE = 1.25  # of the expected age, at the median: sleeps and wake-ups take time too

LOSSY = {
    "drop_oldest 64/1": ("drop_oldest", 64, 1),
    "drop_oldest 64/8": ("drop_oldest", 64, 8),
    "drop_newest 64/1": ("drop_newest", 64, 1),
    "latest": ("latest", 1, 1),
}
BLOCK = {"block 64/8": ("block", CAPACITY, WINDOW)}
TEXT = """# Overload

Written by `benchmarks/overload.py`; what is measured, and how, is said at the top of that file.
Ages are from capture until the sink was done, `expected` is what the policies' own arithmetic
gives, and rows marked MISSED are not what was set out to be reached. Run it on your own machine.

- Counts are exact: on every edge `produced = acknowledged + dropped`, and what the sink counted is
  what was acknowledged.
- A lossy edge keeps its source at its rate, and a recorder on the same output gets everything.
- `block` holds the source back to the rate of the sink: it makes a tenth of its packets.

"""


def graph(edges: dict[str, tuple[str, int, int]], seconds: float, recorder: bool) -> dict[str, Any]:
    """A source with a slow sink for each of the edges: policy, capacity, window."""
    source = {"period": PERIOD, "seconds": seconds}
    nodes: dict[str, Any] = {"source": {"kind": "steady_source", "settings": source}}
    for index, (policy, capacity, window) in enumerate(edges.values()):
        edge: dict[str, Any] = {"from": "source.data", "when_full": policy, "window": window}
        if policy != "latest":
            edge["capacity"] = capacity
        nodes[f"slow{index}"] = {
            "kind": "slow_sink", "inputs": {"data": edge}, "settings": {"seconds": SERVICE},
        }  # fmt: skip
    if recorder:
        nodes["recorder"] = {
            "kind": "slow_sink", "inputs": {"data": "source.data"}, "settings": {"seconds": 0},
        }  # fmt: skip
    # what waits at the end is handled within the drain: 72 packets of 20 ms
    return {"name": "overload", "nodes": nodes, "limits": {"drain_seconds": 30}}


def run(described: dict[str, Any], seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report, and (s, MiB) of every process once a second, by its name."""
    memory: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        file, report = Path(folder, "graph.yaml"), Path(folder, "report.json")
        file.write_text(yaml.safe_dump(described))
        command = [str(Path(sys.executable).with_name("streamflow")), "run", str(file), "--quiet"]
        process = subprocess.Popen(
            [*command, "--report", str(report)], env={**os.environ, "PYTHONPATH": str(HERE)}
        )
        began = time.monotonic()
        while process.poll() is None:
            if time.monotonic() > began + seconds + 90:
                process.kill()
                raise SystemExit("the graph did not end")
            _look(process.pid, time.monotonic() - began, memory)
            time.sleep(1.0)
        if process.returncode:
            raise SystemExit(f"streamflow run ended with code {process.returncode}")
        return json.loads(report.read_text()), memory


def _look(root: int, now: float, memory: dict[str, list[tuple[float, float]]]) -> None:
    """Note the resident memory of a process and of all below it."""
    with contextlib.suppress(OSError):  # it may end meanwhile
        name = Path(f"/proc/{root}/comm").read_text().strip()
        pages = int(Path(f"/proc/{root}/statm").read_text().split()[1])
        memory[name].append((now, pages * PAGE / 2**20))
        for child in children(root):
            _look(child, now, memory)


def slope(samples: list[tuple[float, float]]) -> float:
    """MiB a minute in the second half; the last sample may be of a process that is ending."""
    kept = np.array(samples[len(samples) // 2 : -1])
    return float(np.polyfit(kept[:, 0], kept[:, 1], 1)[0]) * 60 if len(kept) > 2 else 0.0


def expected(policy: str, capacity: int, window: int, took: float) -> float:
    """The age (ms) of packets under overload, where one takes `took` ms."""
    if policy in ("drop_oldest", "latest"):
        return capacity * PERIOD * 1e3 + window * took
    return (capacity + window) * took


def table_rows(
    edges: dict[str, tuple[str, int, int]], report: dict[str, Any]
) -> tuple[list[list[str]], bool]:
    """A row for each edge, and whether all counts agree."""
    rows, is_exact = [], not report["unbalanced"]
    for index, (title, (policy, capacity, window)) in enumerate(edges.items()):
        edge = report["edges"][f"source.data -> slow{index}.data"]
        found = report["results"][f"slow{index}"]
        counts = [edge[key] for key in ("produced", "acknowledged", "dropped")]
        made, acknowledged, dropped = counts
        is_exact &= made == acknowledged + dropped and acknowledged == found["count"]
        is_exact &= not edge["lost"] and not edge["in_flight"]
        age = expected(policy, capacity, window, found["took"])
        rows.append(
            [
                title, *(f"{count:,}" for count in counts), f"{found['took']:.1f}", f"{age:.0f}",
                f"{found['p50']:.0f}", f"{found['p90']:.0f}", verdict(found["p50"], AGE * age),
            ]
        )  # fmt: skip
    return rows, is_exact


def measure(minutes: float) -> None:
    """Run both graphs and print what they gave."""
    print_machine()
    head = ["edge", "produced", "acknowledged", "dropped", "took ms", "expected age ms", "p50",
            "p90", f"p50 <= {AGE:g} x expected"]  # fmt: skip
    promises = []
    for what, edges in (("lossy", LOSSY), ("block", BLOCK)):
        seconds = 60 * minutes
        report, memory = run(graph(edges, seconds, what == "lossy"), seconds)
        rows, is_exact = table_rows(edges, report)
        print_table(f"{what.capitalize()} edges, {minutes:g} minutes, tenfold overload", head, rows)
        steepest = max(memory, key=lambda name: slope(memory[name]))
        growth = slope(memory[steepest])
        source = report["results"]["source"]
        promises += [
            [what, "counts agree", "yes" if is_exact else "no", "yes",
             "kept" if is_exact else "MISSED"],
            [what, f"steepest memory, MiB a minute ({steepest})", f"{growth:.2f}",
             f"<= {FLAT_MIB:g}", verdict(growth, FLAT_MIB)],
        ]  # fmt: skip
        if what == "lossy":
            recorder, wanted = report["results"]["recorder"], round(seconds / PERIOD)
            promises += [
                [what, "packets that the source made", f"{source['count']:,}", f"{wanted:,}",
                 verdict(source["count"], wanted, at_least=True)],
                [what, "how late it made them, p99 ms", f"{source['late_p99_ms']:.1f}", "", ""],
                [what, "packets that the recorder has", f"{recorder['count']:,}", f"{wanted:,}",
                 verdict(recorder["count"], wanted, at_least=True)],
            ]  # fmt: skip
    print_table("Promises", ["edges", "figure", "found", "promise", ""], promises)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="for each of the two graphs")
    parser.add_argument("--write", action="store_true", help="into docs/results/overload.md")
    options = parser.parse_args()
    said = io.StringIO()
    with contextlib.redirect_stdout(said) if options.write else contextlib.nullcontext():
        measure(options.minutes)
    if options.write:
        command = f"    python benchmarks/overload.py --minutes {options.minutes:g} --write\n\n"
        path = HERE.parent / "docs" / "results" / "overload.md"
        path.write_text(f"{TEXT}{command}{said.getvalue()}")
        print(said.getvalue())


if __name__ == "__main__":
    main()
