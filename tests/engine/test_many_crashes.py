"""Deaths at bad moments: two at once, while a graph starts, while it drains, and of everyone.

`benchmarks/crashes.py` kills hundreds; these few are killed at every change.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import Run, descendants, gone
from test_crash import ROWS, assert_closed, graph, read

SUM = "  middle: {kind: running_sum, inputs: {rows: numbers.rows}}\n"


def assert_whole(it: Run) -> None:
    """Every row that the source made is in the file once, in order, and every ledger closes."""
    assert_closed(it.report)
    made = it.report["edges"]["numbers.rows -> middle.rows"]["produced"]
    assert made > 0
    assert [int(row["n"]) for row in read(it.folder)] == list(range(ROWS * made))


@pytest.mark.parametrize("victims", [("numbers", "middle"), ("middle", "rows")], ids=" and ".join)
def test_two_processes_that_die_together_lose_and_repeat_nothing(
    tmp_path: Path, victims: tuple[str, str]
) -> None:
    it = Run(tmp_path, graph(1500, middle=SUM))
    it.wait_for(lambda: it.last_look().get("nodes", {}).get("rows", {}).get("packets_in"))

    pids = [it.pids()[name] for name in victims]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    assert it.end() == 0, it.err
    assert all(it.report["processes"][name]["restarts"] == 1 for name in victims)
    assert_whole(it)


def test_processes_that_die_while_the_graph_starts_are_started_again(tmp_path: Path) -> None:
    it = Run(tmp_path, graph(300, middle=SUM))

    for name in ("middle", "rows"):
        it.kill(name)  # as soon as it is there: before its nodes are open

    assert it.end() == 0, it.err
    assert it.report["processes"]["middle"]["restarts"] == 1
    assert it.report["processes"]["rows"]["restarts"] == 1
    assert_whole(it)


def test_processes_that_die_while_the_graph_drains_lose_and_repeat_nothing(
    tmp_path: Path,
) -> None:
    it = Run(tmp_path, graph(1_000_000, filler=1100, middle=SUM))
    it.wait_for(lambda: it.last_look().get("nodes", {}).get("rows", {}).get("packets_in"))
    pids = it.pids()

    it.process.send_signal(signal.SIGTERM)
    for name in ("middle", "rows", "numbers"):
        os.kill(pids[name], signal.SIGKILL)

    assert it.end() == 0, it.err
    report = it.report
    assert report["outcome"] == "interrupted"
    assert sum(process["restarts"] for process in report["processes"].values()) >= 1
    assert_closed(report)
    made = report["edges"]["numbers.rows -> middle.rows"]["produced"]
    rows = [int(row["n"]) for row in read(tmp_path) if int(row["n"]) >= 0]
    assert rows == list(range(ROWS * made))


def test_doctor_finds_and_removes_what_a_killed_run_left_and_spares_the_living(
    tmp_path: Path,
) -> None:
    def doctor(*options: str) -> list[dict[str, str]]:
        done = subprocess.run(
            [sys.executable, "-m", "streamflow.cli", "doctor", "--json", *options],
            env={**os.environ, "XDG_RUNTIME_DIR": str(dead.runtime)}, capture_output=True,
            text=True, check=False, timeout=60,
        )  # fmt: skip
        return [found for found in json.loads(done.stdout) if found["subject"] == "leftover"]

    dead = Run(tmp_path / "dead", graph(1_000_000))
    dead.wait_for(lambda: dead.last_look().get("nodes", {}).get("rows", {}).get("packets_in"))
    (folder,) = (dead.runtime / "streamflow").iterdir()
    assert doctor() == []  # it lives

    everyone = [dead.process.pid, *descendants(dead.process.pid)]
    for pid in everyone:  # as a power cut does: nobody is left to clean up
        os.kill(pid, signal.SIGSTOP)
    for pid in everyone:
        os.kill(pid, signal.SIGKILL)
    dead.process.wait()
    assert gone(everyone) == []

    assert [found["what"] for found in doctor()] == [f"{folder} is of a run that died"]
    assert folder.exists()
    assert [found["what"] for found in doctor("--clean")] == [f"{folder} removed"]
    assert list((dead.runtime / "streamflow").iterdir()) == []
