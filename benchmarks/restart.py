"""From kill -9 to data flowing again: the shipped graph, a small one, dora and Ray, by turns.

    python benchmarks/restart.py [--kills 10] [--small]
        [--dora PYTHON] [--ray PYTHON] [--before PYTHON]

All run at the same time, and are killed one after the other, so that each has the same machine:

- flow_cytometry (paced, half speed, a recording of its SIMULATED sample again and again): its
  processes `hot` (trigger, spiking network, linear model) and `files` (CSV, FCS, scores).
- small: a source, a processor that snapshots, and a CSV file, a process each.
- dora (`--dora` is a Python that has dora-rs and dora-rs-cli): a source of 200 packets a second and
  a sink on dora's own edge, a process each, restarted by dora after 0.1 s. They load nothing,
  keep no state, and lose what was under way.
- Ray (`--ray` is a Python that has ray and pyzmq): two actors that pass ZeroMQ messages on;
  `max_restarts=-1`. As dora, they load and keep nothing.
- before (`--before` is a Python with another streamflow): flow_cytometry with that one.

Ours flows again when a successor has committed a packet that its predecessor had not; 0.1 s of it
is the back-off before a restart. dora's when one message has come from or to the successor, Ray's
when five have arrived.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parent / "graphs" / "flow_cytometry"
TESTKINDS = HERE.parent / "tests" / "testkinds"
LOOPS = 90  # of the sample's 1.95 s: 7 minutes at half speed
SETTLE_S = 1.0  # between a return and the next kill of the same process
PROMISE = 1.0  # s, median
PEERS = ("dora", "Ray")
# on a busy machine Ray takes longer to start than the 30 s that it waits for itself
RAY = {"RAY_raylet_start_wait_time_s": "240", "RAY_USAGE_STATS_ENABLED": "0"}


def shipped(recording: Path) -> str:
    """The shipped graph, that recording as its camera."""
    text = (SHIPPED / "graph.yaml").read_text()
    for old, new in (
        ("sample.raw", str(recording)),
        ("model.nir", str(SHIPPED / "model.nir")),
        ("linear.npz", str(SHIPPED / "linear.npz")),
        ("name: flow_cytometry\n", "name: flow_cytometry\nclock: paced\nspeed: 0.5\n"),
    ):
        if old not in text:
            raise SystemExit(f"{old!r} is not in the shipped graph")
        text = text.replace(old, new)
    return text


SMALL = """
name: small
nodes:
  numbers: {kind: number_source, settings: {count: 1000000000, rows: 3, delay: 0.005}}
  middle: {kind: running_sum, inputs: {rows: numbers.rows}}
  rows: {kind: csv_file, inputs: {rows: middle.summed}, settings: {path: rows.csv}}
processes:
  middle: {nodes: [middle], restart: on_failure}
  rows: {nodes: [rows], restart: on_failure}
"""


def serve(graph: str) -> None:
    """Run a graph; kill the process that each line of stdin names, print the seconds."""
    from streamflow.graph import load
    from streamflow.soak import Wound, prepare
    from streamflow.supervisor import Supervisor

    supervisor = Supervisor(prepare(load(graph), restart=False)[0])

    def obey() -> None:
        while not supervisor.started_at:
            time.sleep(0.01)
        time.sleep(5)  # what a first start leaves to be done
        print("ready", flush=True)
        for line in sys.stdin:
            process = supervisor.processes[line.strip()]
            wound = Wound(process, "kill", time.monotonic())
            os.kill(process.pid, 9)
            while not (wound.look(time.monotonic()) and wound.flowing_s >= 0):
                time.sleep(0.005)
            print(wound.flowing_s, flush=True)
        supervisor.duration = 0.0

    threading.Thread(target=obey, daemon=True).start()
    supervisor.run()


class Subject:
    """A program that kills one of its processes when told to, and says how long it was away."""

    def __init__(self, name: str, victims: list[str], command: list[str], folder: Path) -> None:
        self.name, self.victims = name, victims
        folder.mkdir()
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **RAY, "PYTHONPATH": f"{TESTKINDS}:{HERE}"},
            start_new_session=True,  # the kernel shares the cores between sessions
        )  # fmt: skip
        self.said = self._answer()
        self.times: dict[str, list[float]] = {victim: [] for victim in victims}

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"{self.name} ended")
        return line

    def kill(self, victim: str) -> None:
        """One kill."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{victim}\n")
        self.process.stdin.flush()
        self.times[victim].append(float(self._answer()))
        print(f"{self.name}: {victim} {self.times[victim][-1]:.2f} s", file=sys.stderr, flush=True)

    def end(self) -> None:
        """No more kills."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def row(name: str, times: list[float], rest: list[str]) -> list[str]:
    """A line of the table."""
    p50, p90 = np.quantile(times, (0.5, 0.9)).tolist()
    return [name, str(len(times)), f"{p50:.2f}", f"{p90:.2f}", f"{max(times):.2f}", *rest]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="of each process")
    parser.add_argument("--small", action="store_true", help="without the shipped graph")
    parser.add_argument("--dora", metavar="PYTHON")
    parser.add_argument("--ray", metavar="PYTHON")
    parser.add_argument("--before", metavar="PYTHON")
    parser.add_argument("--serve", metavar="GRAPH", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    from _table import print_machine, print_table, verdict
    from hot_path import write_long

    print_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording = folder / "long.raw"
        if not options.small:
            write_long([str(SHIPPED / "sample.raw")], LOOPS, recording)
        (folder / "shipped.yaml").write_text(shipped(recording))
        (folder / "small.yaml").write_text(SMALL)

        def ours(python: str, graph: str) -> list[str]:
            return [python, str(HERE / "restart.py"), "--serve", str(folder / graph)]

        wanted: list[tuple[str, list[str], list[str]]] = [
            ("flow_cytometry", ["hot", "files"], ours(sys.executable, "shipped.yaml")),
            ("small", ["middle", "rows"], ours(sys.executable, "small.yaml")),
        ][options.small :]
        if options.before:
            wanted.append(
                ("before: flow_cytometry", ["hot", "files"], ours(options.before, "shipped.yaml"))
            )
        if options.dora:
            command = [options.dora, str(HERE / "_restart_dora.py")]
            wanted.append(("dora", ["sink", "source"], command))
        if options.ray:  # first, because it takes longest to start
            command = [options.ray, str(HERE / "_restart_ray.py")]
            wanted.insert(0, ("Ray", ["sink", "source"], command))
        subjects = [
            Subject(name, victims, command, folder / f"{index}")
            for index, (name, victims, command) in enumerate(wanted)
        ]
        began = os.times().elapsed
        loads = []
        for _ in range(options.kills):
            for turn in range(2):
                for subject in subjects:
                    subject.kill(subject.victims[turn])
                    time.sleep(SETTLE_S / len(subjects))
                loads.append(os.getloadavg()[0])
        seconds = os.times().elapsed - began
        for subject in subjects:
            subject.end()
        report(subjects, seconds, loads, print_table, verdict)


def report(
    subjects: list[Subject], seconds: float, loads: list[float], print_table: Any, verdict: Any
) -> None:
    """The table: each process, each subject, and how it compares with the peers."""
    all_of = {s.name: [t for times in s.times.values() for t in times] for s in subjects}
    peers = {name: float(np.median(all_of[name])) for name in PEERS if name in all_of}
    rows = []
    for subject in subjects:
        everything = all_of[subject.name]
        is_peer = subject.name in peers
        name = f"{subject.name} {subject.said}" if is_peer else subject.name
        for victim, times in subject.times.items():
            rows.append(row(f"{name}: {victim}", times, [*len(peers) * [""], ""]))
        p50 = float(np.median(everything))
        against = [f"{p50 / peer:.2f}" for peer in peers.values()]
        kept = "" if is_peer or subject.name.startswith("before") else verdict(p50, PROMISE)
        rows.append(row(name, everything, [*against, kept]))
    load = f"load {min(loads):.1f} to {max(loads):.1f}"
    ratios = [f"p50 / {name}" for name in peers]
    head = ["killed", "kills", "p50 s", "p90 s", "max s", *ratios, f"p50 <= {PROMISE:g} s"]
    print_table(f"From kill -9 to data flowing again ({seconds:.0f} s, {load})", head, rows)


if __name__ == "__main__":
    main()
