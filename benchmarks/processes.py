"""What processes cost: time until a graph is ready, memory for each more worker, CPU when idle.

    python benchmarks/processes.py [--quick]

Runs `streamflow run` on graphs of a silent source and sinks, one process a node. Medians over the
rounds; PSS counts shared pages by their share, so it is what one more worker really costs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from _table import median, print_machine, print_table, verdict

HERE = Path(__file__).resolve().parent
TICK = os.sysconf("SC_CLK_TCK")
TIMEOUT_S = 90
LOADING = 0.05  # share of a core: more, and a graph is still being started
READY_S, WORKER_MIB, IDLE_PERCENT = 3.0, 45.0, 2.0  # what is promised


def graph(nodes: int, seconds: float) -> dict[str, Any]:
    """A source that says nothing for `seconds`, and sinks that wait for it."""
    described: dict[str, Any] = {
        "source": {"kind": "silent_source", "settings": {"seconds": seconds}}
    }
    for index in range(nodes - 1):
        described[f"sink{index}"] = {"kind": "load_sink", "inputs": {"data": "source.data"}}
    return {"name": "silence", "nodes": described}


class Run:
    """A graph that runs as a command; leave the block to wait for its report."""

    def __init__(self, described: dict[str, Any], processes: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name, "graph.yaml")
        file.write_text(yaml.safe_dump(described))
        self._report = Path(self._folder.name, "report.json")
        command = [str(Path(sys.executable).with_name("streamflow")), "run", str(file), "--quiet"]
        self.began = time.monotonic()
        self._process = subprocess.Popen(
            [*command, "--report", str(self._report)],
            env={**os.environ, "PYTHONPATH": str(HERE)},
        )
        self.processes = processes
        self.report: dict[str, Any] = {}
        self.wall_s = 0.0

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None:
            self._process.kill()
        code = self._process.wait(TIMEOUT_S)
        self.wall_s = time.monotonic() - self.began
        if exception[0] is None and code:
            raise SystemExit(f"streamflow run ended with code {code}")
        if exception[0] is None:
            self.report = json.loads(self._report.read_text())
        self._folder.cleanup()

    def stop(self) -> None:
        """End it before its source does."""
        self._process.terminate()

    def workers(self) -> list[int]:
        """The worker processes, once all of them are there."""
        while True:
            found = [pid for child in children(self._process.pid) for pid in children(child)]
            if len(found) >= self.processes:
                return found
            if self._process.poll() is not None or time.monotonic() > self.began + TIMEOUT_S:
                raise SystemExit(f"{len(found)} of {self.nodes} workers were started")
            time.sleep(0.01)

    def everyone(self) -> list[int]:
        """Supervisor, fork server and workers."""
        workers = self.workers()  # first: before them there may be no fork server yet
        return [self._process.pid, *children(self._process.pid), *workers]


def children(pid: int) -> list[int]:
    """The processes that `pid` has started."""
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(word) for word in words]


def pss_mib(pid: int) -> float:
    """Memory of a process, pages shared with others counted by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/{pid}/smaps_rollup says nothing of Pss")


def cpu_s(pid: int) -> float:
    """CPU time that a process has used, its own threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def settled(run: Run, busy: float = LOADING) -> list[int]:
    """Everyone, once all nodes are open: nothing is being loaded any more.

    `busy` is the share of a core that the graph may take once it runs.
    """
    everyone = run.everyone()
    used = -1.0
    while used < 0 or used > busy:
        before = sum(cpu_s(pid) for pid in everyone)
        time.sleep(1.0)
        used = sum(cpu_s(pid) for pid in everyone) - before
        if time.monotonic() > run.began + TIMEOUT_S:
            raise SystemExit(f"still busy after {TIMEOUT_S} s")
    return everyone


def measure_ready(nodes: int) -> tuple[float, float, float]:
    """Seconds until a graph runs, until the command is over (less 0.1 s of silence), and of CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Run(graph(nodes, 0.1), nodes) as run:
        pass
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return run.report["ready_s"], run.wall_s - 0.1, cpu


def measure_memory(nodes: int) -> float:
    """PSS of everyone, MiB."""
    with Run(graph(nodes, 30.0), nodes) as run:
        found = sum(pss_mib(pid) for pid in settled(run))
        run.stop()
    return found


def measure_idle(nodes: int, seconds: float) -> dict[str, float]:
    """Share of a core that a silent graph uses, in per cent: supervisor, fork server, workers."""
    with Run(graph(nodes, seconds + 30.0), nodes) as run:
        everyone = settled(run)
        before, began = [cpu_s(pid) for pid in everyone], time.monotonic()
        time.sleep(seconds)
        used = [cpu_s(pid) - earlier for pid, earlier in zip(everyone, before, strict=True)]
        share = [100 * second / (time.monotonic() - began) for second in used]
        run.stop()
    return {"supervisor": share[0], "fork server": share[1], "workers": sum(share[2:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 round, for a first look")
    rounds = 1 if parser.parse_args().quick else 5
    print_machine()
    measure_ready(10)  # fills the cache of compiled kernels and the page cache
    ready, whole, cpu, workers = [], [], [], []
    for _ in range(rounds):
        seconds, wall, used = measure_ready(10)
        ready.append(seconds)
        whole.append(wall)
        cpu.append(used)
        few, many = measure_memory(2), measure_memory(10)
        workers.append((many - few) / 8)
    idle = measure_idle(10, 10.0)
    total = sum(idle.values())
    memory = median(workers)
    rows = [
        ["10 processes ready after (s)", f"{median(ready):.2f}", f"{READY_S:g}",
         verdict(median(ready), READY_S)],
        ["the whole command (s)", f"{median(whole):.2f}", "", ""],
        ["CPU of the whole command (s)", f"{median(cpu):.2f}", "", ""],
        ["PSS of one more worker (MiB)", f"{memory:.1f}", f"{WORKER_MIB:g}",
         verdict(memory, WORKER_MIB)],
        ["idle CPU of 10 processes (% of a core)", f"{total:.2f}", f"{IDLE_PERCENT:g}",
         verdict(total, IDLE_PERCENT)],
        *([f"  of it {who}", f"{share:.2f}", "", ""] for who, share in idle.items()),
    ]  # fmt: skip
    print_table(f"Processes ({rounds} rounds)", ["figure", "median", "at most", ""], rows)


if __name__ == "__main__":
    main()
