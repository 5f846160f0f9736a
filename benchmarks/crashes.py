"""What crashes cost: kill -9 again and again, under load, and every packet accounted for.

    python benchmarks/crashes.py [--kills 500] [--seed 1] [--every 0.5]

Soaks graphs of one source, one processor and one sink, each a process, and kills: the stateless,
the snapshotting or the stateful processor, the source, the sink, anyone, two at once, while the
graph starts and while it drains. After every run the sink's file is read: every row must be there
once, in order. Prints a table and the time from a kill until data flows again.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _table import print_machine, print_table, verdict

TESTKINDS = Path(__file__).resolve().parents[1] / "tests" / "testkinds"
ROWS = 3
FLOWING_S = 1.0  # promised median from kill -9 to data flowing again
RUN_S = 20.0


class Case(NamedTuple):
    """Who is killed, what the processor is, and by which faults."""

    name: str
    victims: tuple[str, ...]
    kind: str = "running_sum"
    port: str = "summed"
    faults: tuple[str, ...] = ("kill",)
    filler: int = 0  # rows that only take room: 1100 leave the message for shared memory


EVERYONE = ("numbers", "middle", "rows")
CASES = (
    Case("stateless processor", ("middle",), "doubler", "doubled"),
    Case("stateless processor, shared memory", ("middle",), "doubler", "doubled", filler=1100),
    Case("snapshotting processor", ("middle",)),
    Case("snapshotting processor, shared memory", ("middle",), filler=1100),
    Case("stateful processor, no snapshot", ("middle",), "forgetful_sum", "counted"),
    Case("source", ("numbers",)),
    Case("sink", ("rows",)),
    Case("anyone", EVERYONE),
    Case("two at once", EVERYONE, faults=("kill_two",)),
    Case("frozen (SIGSTOP)", EVERYONE, faults=("stop",)),
    Case("during start", EVERYONE, faults=("kill_in_start",)),
    Case("during drain", EVERYONE, faults=("kill_in_drain",)),
)


def graph(case: Case) -> str:
    """A source that never ends, one processor, one file."""
    return f"""
name: crashes
nodes:
  numbers:
    kind: number_source
    settings: {{count: 1000000000, rows: {ROWS}, delay: 0.0005, filler: {case.filler}}}
  middle: {{kind: {case.kind}, inputs: {{rows: numbers.rows}}}}
  rows: {{kind: csv_file, inputs: {{rows: middle.{case.port}}}, settings: {{path: rows.csv}}}}
"""


def wrong_rows(case: Case, file: Path) -> int:
    """Rows that are missing, too many, out of order, or have another value than they must."""
    with file.open() as opened:
        found = np.array([(int(r["n"]), int(r["t"])) for r in csv.DictReader(opened)], np.int64)
    found = found.reshape(-1, 2)
    found = found[found[:, 0] >= 0]
    n, t = found.T
    expected = (2 if case.kind == "doubler" else 1) * np.arange(len(n))
    wrong = int((n != expected).sum()) + len(n) % ROWS
    if case.kind == "running_sum" and not case.filler:
        wrong += int((t != np.cumsum(expected)).sum())
    return wrong


class Outcome:
    """What one case came to."""

    def __init__(self) -> None:
        self.kills = self.runs = self.packets = self.duplicates = self.wrong_rows = 0
        self.unexplained: Counter[str] = Counter()
        self.state_lost = 0
        self.state_expected = ""
        self.flowing: list[float] = []
        self.wrong: list[str] = []


def measure(case: Case, kills: int, every: float, seed: int) -> Outcome:
    """Soak one case until that many processes were hurt."""
    from streamflow.graph import load
    from streamflow.soak import Options, prepare, soak

    Path("graph.yaml").write_text(graph(case))
    prepared, _all = prepare(load("graph.yaml"), restart=True)
    short = case.faults[0] in ("kill_in_start", "kill_in_drain")
    options = Options(
        seconds=3600.0, run_seconds=1.0 if short else RUN_S, every=every, seed=seed,
        kinds=case.faults, faults=kills, spare=False,
    )  # fmt: skip
    outcome = Outcome()

    def after_a_run(run: dict[str, Any]) -> None:
        outcome.wrong_rows += wrong_rows(case, Path("rows.csv"))
        outcome.packets += run["packets"]

    found = soak(prepared, list(case.victims), options, after_a_run)
    outcome.kills = sum(found["faults"].values())
    outcome.runs = len(found["runs"])
    for edge in found["edges"].values():
        outcome.duplicates += edge["duplicates"]
        for end in ("producer", "consumer"):
            outcome.unexplained[end] += edge.get(f"unexplained_at_{end}", 0)
    middle = found["processes"]["middle"]
    outcome.state_lost = sum(found["state_lost"].values())
    outcome.flowing = found["times_s"].get("killed_flowing", [])
    outcome.wrong = [*found["why"]]
    # one that dies before it is connected has no state to lose, and is or is not counted
    least, most = middle["died_with_data"], middle["restarts"]
    if case.kind != "forgetful_sum":
        least = most = 0
    if not least <= outcome.state_lost <= most:
        outcome.wrong.append(f"state lost {outcome.state_lost} times; expected {least} to {most}")
    outcome.state_expected = f"{least}" if least == most else f"{least} to {most}"
    return outcome


def row(case: Case, outcome: Outcome) -> list[str]:
    times = outcome.flowing
    p50 = f"{np.median(times):.2f}" if times else ""
    return [
        case.name, str(outcome.kills), str(outcome.runs), f"{outcome.packets:,}",
        str(outcome.unexplained["producer"]), str(outcome.unexplained["consumer"]),
        str(outcome.wrong_rows), f"{outcome.state_lost} ({outcome.state_expected})", p50,
        f"{max(times):.2f}" if times else "",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--every", type=float, default=0.5, help="seconds between kills")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sys.path.insert(0, str(TESTKINDS))
    os.environ["PYTHONPATH"] = str(TESTKINDS)
    logging.getLogger("streamflow").setLevel(logging.ERROR)  # each restart would be a line
    print_machine()
    began = time.monotonic()
    rows, times, wrong = [], [], []
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for index, case in enumerate(CASES):
            # frozen processes take seconds each, and those while starting or draining a run each
            share = 0.5 if case.faults[0] in ("stop", "kill_in_start", "kill_in_drain") else 1.0
            kills = round(share * options.kills / (len(CASES) - 1.5))
            outcome = measure(case, max(1, kills), options.every, options.seed + index)
            rows.append(row(case, outcome))
            times += outcome.flowing
            wrong += [f"{case.name}: {what}" for what in outcome.wrong]
            total.update(
                kills=outcome.kills, runs=outcome.runs, packets=outcome.packets,
                rows=outcome.wrong_rows, **outcome.unexplained,
            )  # fmt: skip
            print(" | ".join(rows[-1]), flush=True)
        os.chdir("/")
    rows.append(
        ["all", str(total["kills"]), str(total["runs"]), f"{total['packets']:,}",
         str(total["producer"]), str(total["consumer"]), str(total["rows"]), "",
         f"{np.median(times):.2f}", f"{max(times):.2f}"]
    )  # fmt: skip
    head = ["who", "kills", "runs", "packets", "unexplained at producers", "at consumers",
            "wrong rows", "state lost (expected)", "flows again p50 s", "max s"]  # fmt: skip
    print_table(f"Crashes (seed {options.seed}, {time.monotonic() - began:.0f} s)", head, rows)
    median = float(np.median(times))
    print(f"\nkill -9 to data flowing again: p50 {median:.2f} s, p99 "
          f"{np.quantile(times, 0.99):.2f} s; promise p50 <= {FLOWING_S:g} s: "
          f"{verdict(median, FLOWING_S)}")  # fmt: skip
    for what in wrong:
        print(f"WRONG: {what}")
    if wrong or total["rows"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
