"""`streamflow soak`, as a user calls it: real processes, killed for real."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from runs import TESTKINDS

from streamflow.graph import EdgeSpec, Graph, NodeSpec
from streamflow.procfs import Holding, holding
from streamflow.soak import nodes_that_differ, slopes, unexplained

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
name: small
nodes:
  numbers: {kind: number_source, settings: {count: 100000000, delay: 0.001}}
  middle: {kind: running_sum, inputs: {rows: numbers.rows}}
  total: {kind: row_total, inputs: {rows: middle.summed}}
processes:
  middle: {nodes: [middle], restart: on_failure}
  total: {nodes: [total], restart: on_failure}
"""


def soak(folder: Path, graph: str, *options: str) -> subprocess.CompletedProcess[str]:
    """One `streamflow soak`; its report goes to report.json."""
    if "\n" in graph:
        (folder / "graph.yaml").write_text(graph)
        graph = "graph.yaml"
    command = [sys.executable, "-m", "streamflow.cli", "soak", graph, "--report", "report.json"]
    with tempfile.TemporaryDirectory(prefix="sf-") as runtime:
        environment = {**os.environ, "PYTHONPATH": str(TESTKINDS), "XDG_RUNTIME_DIR": runtime}
        done = subprocess.run(
            [*command, *options], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=100,
        )  # fmt: skip
        assert list(Path(runtime).glob("streamflow/*")) == []
    return done


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def test_a_graph_that_keeps_the_crash_promise_passes_a_soak(tmp_path: Path) -> None:
    done = soak(tmp_path, SMALL, "--minutes", "0.07", "--every", "0.3", "--run", "2", "--seed", "1")

    assert done.returncode == 0, done.stdout + done.stderr
    found = report(tmp_path)
    assert found["verdict"] == "passed"
    assert sum(found["faults"].values()) >= 5
    killed = {name: counts["killed"] for name, counts in found["processes"].items()}
    assert killed["numbers"] == 0  # it has no restart policy
    assert killed["middle"] + killed["total"] >= 3
    for edge in found["edges"].values():
        assert edge["produced"] == edge["handled"] > 0
        assert edge["unexplained_at_producer"] == edge["unexplained_at_consumer"] == 0
    assert found["recovery_s"]["killed_flowing"]["count"] >= 1
    assert "passed: small" in done.stdout


def test_the_cytometer_passes_a_soak(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "graphs" / "flow_cytometry", tmp_path / "graph")
    graph = tmp_path / "graph" / "graph.yaml"
    # a busy machine may take longer than the usual 10 s to restart twice and to draw a page
    graph.write_text(graph.read_text() + "\nlimits: {drain_seconds: 80}\n")

    done = soak(tmp_path, str(graph), "--minutes", "0.02", "--every", "0.4", "--seed", "1")

    assert done.returncode == 0, done.stdout + done.stderr
    found = report(tmp_path)
    assert found["victims"] == ["hot", "files"]
    assert sum(found["faults"].values()) >= 1
    first = found["runs"][0]
    assert first["outcome"] == "completed"
    assert first["wrong"] == []


def test_a_graph_without_a_restart_policy_is_not_soaked_but_told_how(tmp_path: Path) -> None:
    graph = SMALL.partition("processes:")[0]

    done = soak(tmp_path, graph, "--minutes", "0.1")

    assert done.returncode == 1
    assert "no process of graph 'small' has `restart: on_failure`" in done.stderr
    assert "--restart" in done.stderr


def test_a_death_that_the_soak_is_not_guilty_of_fails_it(tmp_path: Path) -> None:
    graph = """
name: dying
nodes:
  numbers: {kind: number_source, settings: {count: 50, delay: 0.001}}
  middle: {kind: trouble, inputs: {rows: numbers.rows}, settings: {what: die_once, marker: once}}
  total: {kind: row_total, inputs: {rows: middle.same}}
"""

    done = soak(tmp_path, graph, "--restart", "--minutes", "0.01", "--every", "30", "--seed", "3")

    assert done.returncode == 1, done.stdout
    (why, *_) = (line for line in report(tmp_path)["why"] if "process 'middle'" in line)
    assert "was restarted" in why
    assert "killed by SIGKILL while in node 'middle' (on_rows)" in why
    assert "WRONG" in done.stdout


# --- what counts as wrong -------------------------------------------------------------------------

CLOSED = {
    "produced": 10, "acknowledged": 8, "in_flight": 0, "dropped": 2, "lost": 0,
    "received": 9, "handled": 8, "duplicates": 1, "held": 0,
}  # fmt: skip


def test_a_ledger_that_closes_leaves_nothing_unexplained() -> None:
    assert set(unexplained(CLOSED).values()) == {0}


@pytest.mark.parametrize(
    ("change", "producer", "consumer"),
    [
        ({"acknowledged": 7, "lost": 1}, 1, 1),  # `lost` is a word for it, not an explanation
        ({"acknowledged": 7, "in_flight": 1}, 1, 1),
        ({"received": 10, "held": 1}, 0, 1),
        ({"produced": 11}, 1, 0),
    ],
)
def test_what_is_lost_on_its_way_or_held_at_the_end_is_unexplained(
    change: dict[str, int], producer: int, consumer: int
) -> None:
    found = unexplained(CLOSED | change)

    assert found == {"unexplained_at_producer": producer, "unexplained_at_consumer": consumer}


def life(minutes: float, **rise: float) -> list[tuple[float, Holding]]:
    """A sample a second of a process whose holdings rise by so much a minute after a jump."""
    start = Holding(100.0, 20, 3)._asdict()
    return [
        (float(at), Holding(**{k: v + at / 60 * rise.get(k, 0.0) for k, v in start.items()}))
        for at in range(int(60 * minutes))
    ]


def test_shared_memory_counts_from_the_moment_it_is_mapped() -> None:
    descriptor = os.memfd_create("tests")
    os.truncate(descriptor, 8 << 20)
    before = holding(os.getpid())
    with mmap.mmap(descriptor, 8 << 20) as memory:
        mapped = holding(os.getpid())
        memory[:] = bytes(8 << 20)
        touched = holding(os.getpid())
    os.close(descriptor)
    after = holding(os.getpid())

    assert before
    assert mapped
    assert touched
    assert after
    assert mapped.memory_mib - before.memory_mib == pytest.approx(8, abs=2)
    assert touched.memory_mib - before.memory_mib == pytest.approx(8, abs=2)
    assert after.memory_mib - before.memory_mib == pytest.approx(0, abs=2)


def test_a_process_that_holds_the_same_for_long_is_flat() -> None:
    found = slopes(life(10))

    assert found is not None
    assert found["rising"] == []
    assert found["minutes"] == pytest.approx(6.7, abs=0.1)  # less the first third


@pytest.mark.parametrize(("what", "rise"), [("memory_mib", 2.0), ("fds", 1.0), ("threads", 0.5)])
def test_a_process_that_holds_ever_more_is_named_with_the_rise(what: str, rise: float) -> None:
    found = slopes(life(10, **{what: rise}))

    assert found is not None
    (said,) = found["rising"]
    assert said.startswith(f"{what} rose by")
    assert found[what]["per_minute"] == pytest.approx(rise, rel=0.05)


def test_memory_that_is_touched_once_at_the_start_is_no_rise() -> None:
    line = life(10)
    late = [(at, held._replace(memory_mib=500.0)) for at, held in line[100:]]

    found = slopes(line[:100] + late)

    assert found is not None
    assert found["rising"] == []


def test_a_short_life_says_nothing_of_a_slope() -> None:
    assert slopes(life(0.5, fds=100.0)) is None


def test_a_node_that_counts_other_packets_than_its_edges_is_named() -> None:
    edges = tuple(
        EdgeSpec(source="source", output="rows", node=node, input="rows")
        for node in ("score", "page")
    )
    graph = Graph(
        name="two", path="", processes={}, edges=edges,
        nodes={
            name: NodeSpec(name=name, kind="sink", settings={}, process="", inputs=(edge,))
            for name, edge in zip(("score", "page"), edges, strict=True)
        },
    )  # fmt: skip
    ends = {edge.name: {"produced": 5, "handled": 5, "items_handled": 50} for edge in edges}
    nodes = {name: {"packets_in": 5, "items_in": 50} for name in graph.nodes}
    assert nodes_that_differ({"edges": ends, "nodes": nodes}, graph) == []

    nodes["score"]["packets_in"] = 4
    ends[edges[1].name]["produced"] = 6

    assert nodes_that_differ({"edges": ends, "nodes": nodes}, graph) == [
        "node 'score': packets_in 4, its edges say 5",
        "source.rows: its edges were given [5, 6] packets",
    ]
