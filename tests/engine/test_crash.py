"""The crash promise, with real processes and kill -9."""

from __future__ import annotations

import csv
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from runs import Run, alive, descendants, gone

ROWS = 3


def graph(count: int, restart: str = "on_failure", filler: int = 0, middle: str = "") -> str:
    middle = middle or "  middle: {kind: doubler, inputs: {rows: numbers.rows}}\n"
    port = {"doubler": "doubled", "running_sum": "summed", "forgetful_sum": "counted"}
    output = next(port[kind] for kind in port if f"kind: {kind}" in middle)
    window = (
        "{maximum: 1000, when: on_failure, backoff: 0.01}" if restart == "on_failure" else restart
    )
    delay = 0.004 if filler else 0.001  # the run must outlast the kills, on a fast machine too
    return f"""
nodes:
  numbers: {{kind: number_source, settings: {{count: {count}, rows: {ROWS}, filler: {filler}, delay: {delay}}}}}
{middle}
  rows: {{kind: csv_file, inputs: {{rows: middle.{output}}}, settings: {{path: rows.csv}}}}
processes:
  numbers: {{nodes: [numbers], restart: {window}}}
  middle: {{nodes: [middle], restart: {window}}}
  rows: {{nodes: [rows], restart: {window}}}
"""  # noqa: E501  # a node a line


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open() as file:
        return list(csv.DictReader(file))


def assert_closed(report: dict[str, Any]) -> None:
    assert report["unbalanced"] == {}
    for name, edge in report["edges"].items():
        assert edge["in_flight"] == 0, name
        assert edge["held"] == 0, name
        assert edge["lost"] == 0, name
        assert edge["dropped"] == 0, name
        assert edge["produced"] == edge["acknowledged"] == edge["handled"], name
        assert edge["items"] == edge["items_handled"], name


def kill_now_and_then(run: Run, names: list[str], times: int, seed: int) -> int:
    """Kill one of the processes at random moments; how many died."""
    rng = random.Random(seed)
    killed = 0
    run.wait_for(lambda: run.last_look().get("nodes", {}).get("rows", {}).get("packets_in"))
    for _ in range(times):
        pause = time.monotonic() + rng.uniform(0.05, 0.25)
        while time.monotonic() < pause:
            time.sleep(0.01)
        pid = run.pids().get(rng.choice(names))
        if pid is not None and run.process.poll() is None:
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed


@pytest.mark.parametrize("filler", [0, 1100], ids=["inline", "shared memory"])
@pytest.mark.parametrize(
    ("victims", "middle"),
    [
        (["middle"], "kind: doubler"),
        (["middle"], "kind: running_sum, settings: {ballast: 2000000}"),
        (["rows"], "kind: doubler"),
        (["numbers"], "kind: doubler"),
        (["numbers", "middle", "rows"], "kind: running_sum"),
    ],
    ids=["stateless", "snapshotting", "sink", "source", "all"],
)
def test_kill_9_loses_nothing_and_repeats_nothing(
    tmp_path: Path, victims: list[str], middle: str, filler: int
) -> None:
    count = 1200 if filler else 4000
    node = f"  middle: {{{middle}, inputs: {{rows: numbers.rows}}}}\n"
    run = Run(tmp_path, graph(count, filler=filler, middle=node))

    killed = kill_now_and_then(run, victims, 6, seed=len(middle) + filler)

    assert run.end() == 0, run.err
    report = run.report
    assert killed >= 1  # how many depends on how fast a new process comes up
    assert sum(process["restarts"] for process in report["processes"].values()) >= killed - 2
    assert_closed(report)
    rows = [row for row in read(tmp_path) if int(row["n"]) >= 0]
    factor = 2 if "doubler" in middle else 1
    assert [int(row["n"]) for row in rows] == [factor * n for n in range(ROWS * count)]
    if "running_sum" in middle and not filler:
        total = 0
        for row in rows:
            total += int(row["n"])
            assert int(row["t"]) == total


def test_a_stateful_node_without_snapshots_says_that_it_lost_its_state(tmp_path: Path) -> None:
    count = 3000
    node = "  middle: {kind: forgetful_sum, inputs: {rows: numbers.rows}}\n"
    run = Run(tmp_path, graph(count, middle=node))
    # who dies before the first packet has no state to lose
    run.wait_for(lambda: run.last_look().get("nodes", {}).get("middle", {}).get("packets_in"))

    killed = kill_now_and_then(run, ["middle"], 3, seed=1)

    assert run.end() == 0, run.err
    report = run.report
    assert killed >= 1
    # one that dies again before it has taken up the counters has lost no state of its own
    assert report["nodes"]["middle"]["state_lost"] >= 1
    assert report["nodes"]["middle"]["state_lost"] <= report["processes"]["middle"]["restarts"]
    assert_closed(report)
    assert [int(row["n"]) for row in read(tmp_path)] == list(range(ROWS * count))


def test_without_a_restart_policy_a_death_ends_the_graph_and_names_the_process(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path, graph(100_000, restart="never"))
    run.wait_for(lambda: run.last_look().get("nodes", {}).get("rows", {}).get("packets_in"))

    run.kill("middle")

    assert run.end() == 1
    report = run.report
    assert report["outcome"] == "failed"
    assert "process 'middle' (middle) was killed by SIGKILL" in report["error"]
    edge = report["edges"]["numbers.rows -> middle.rows"]
    assert edge["produced"] == (
        edge["acknowledged"] + edge["in_flight"] + edge["dropped"] + edge["lost"]
    )


def test_a_crash_loop_gives_up_and_says_so(tmp_path: Path) -> None:
    text = """
nodes:
  numbers: {kind: number_source}
  middle: {kind: trouble, inputs: {rows: numbers.rows}, settings: {what: die, at: 5}}
  total: {kind: row_total, inputs: {rows: middle.same}}
processes:
  middle: {nodes: [middle], restart: {when: on_failure, maximum: 3, window: 60, backoff: 0.01}}
"""
    run = Run(tmp_path, text)

    assert run.end() == 1
    assert "restarted 3 times in 60 s" in run.report["error"]
    assert "killed by SIGKILL while in node 'middle' (on_rows)" in run.report["error"]


@pytest.mark.parametrize("victim", ["supervisor", "fork server"])
def test_nothing_is_left_a_second_after_kill_9(tmp_path: Path, victim: str) -> None:
    run = Run(tmp_path, graph(1_000_000, restart="on_failure"))
    run.wait_for(lambda: run.last_look().get("nodes", {}).get("rows", {}).get("packets_in"))
    everyone = [run.process.pid, *descendants(run.process.pid)]
    assert len(everyone) == 5

    os.kill(run.process.pid if victim == "supervisor" else run.fork_server(), signal.SIGKILL)

    if victim == "supervisor":
        run.process.wait()
    else:
        assert run.end() == 1
        assert "fork server died" in run.report["error"]
    assert gone(everyone, 1.0) == []
    end = time.monotonic() + 1.0
    runtime = run.runtime / "streamflow"
    while time.monotonic() < end and any(runtime.iterdir()):
        time.sleep(0.01)
    assert list(runtime.iterdir()) == []


def test_memory_of_a_dead_run_is_nowhere_to_be_found(tmp_path: Path) -> None:
    before = shared_memory()
    run = Run(tmp_path, graph(1_000_000))
    run.wait_for(lambda: run.last_look().get("nodes", {}).get("rows", {}).get("packets_in"))
    everyone = [run.process.pid, *descendants(run.process.pid)]

    for pid in everyone:
        os.kill(pid, signal.SIGKILL)
    run.process.wait()

    assert gone(everyone) == []
    assert not any(alive(pid) for pid in everyone)
    assert shared_memory() <= before  # other programs may take away what is theirs


def shared_memory() -> set[str]:
    """What lies in shared memory, but for what tests beside this one keep there (torch does)."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith(("fuzz-", "torch_"))}
