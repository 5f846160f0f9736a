"""Every shipped graph, run as a user runs it: by name, from an empty folder, in processes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import flowio
import pytest

from streamflow.graph import shipped

GRAPHS = shipped()
SAMPLE = GRAPHS["flow_cytometry"].parent


def run(folder: Path, graph: str, *options: str) -> tuple[dict[str, Any], str]:
    """Run a graph in `folder`; its report, and what it printed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "streamflow.cli", "run", graph, "--report", "report.json"]
    done = subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, text=True, timeout=100,
        env={**os.environ, "COLUMNS": "100"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "report.json").read_text()), done.stdout


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_a_shipped_graph_runs_from_an_empty_folder(tmp_path: Path, name: str) -> None:
    report, printed = run(tmp_path, name)

    assert report["outcome"] == "completed"
    assert report["unbalanced"] == {}
    assert "completed" in printed
    for edge in report["edges"].values():
        assert edge["produced"] == edge["handled"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_decisions_do_not_depend_on_packets_layout_or_pace(tmp_path: Path) -> None:
    text = (SAMPLE / "graph.yaml").read_text()
    for name in ("sample.raw", "model.nir", "linear.npz"):
        text = text.replace(f": {name}", f": {SAMPLE / name}").replace(
            f"[{name}]", f"[{SAMPLE / name}]"
        )
    head, _, _ = text.partition("\nprocesses:")
    everything = (
        "[camera, bursts, spiking, linear, decisions, particles, page, score, score_linear]"
    )
    layouts = {
        "as shipped": text,
        "one process": f"{head}\nprocesses: {{all: {{nodes: {everything}}}}}\n",
        "a process each": head + "\n",
    }
    ways = [("as shipped", ())]
    ways += [("one process", ()), ("a process each", ())]
    ways += [("as shipped", ("--set", f"camera.packet_duration={d}")) for d in (0.0003, 0.01, 0.2)]
    ways += [("as shipped", ("--clock", "paced"))]
    digests = {}
    for number, (layout, options) in enumerate(ways):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "graph.yaml").write_text(layouts[layout])
        run(folder, "graph.yaml", *options)
        digests[(layout, *options)] = digest(folder / "decisions.csv")

    assert len(set(digests.values())) == 1, digests


def test_the_cytometry_run_is_scored_and_leaves_files_that_others_open(tmp_path: Path) -> None:
    truth = SAMPLE / "sample.truth.csv"
    report, printed = run(
        tmp_path, "flow_cytometry",
        "--set", f"score.truth={truth}", "--set", f"score_linear.truth={truth}",
        "--set", f"page.truth={truth}",
    )  # fmt: skip

    with (tmp_path / "decisions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["time_us", "class", "probability", "decided_us"]
    score = report["results"]["score"]
    assert score["decisions"] == len(rows)
    assert score["correct"] >= 0.9
    assert score["late"] == 0
    fcs = flowio.FlowData(str(tmp_path / "particles.fcs"))
    assert fcs.event_count == len(rows)
    assert (tmp_path / "particles.png").read_bytes().startswith(b"\x89PNG")
    assert "correct" in printed
    assert len({node["process"] for node in report["nodes"].values()}) >= 3


def test_without_truth_the_score_says_so(tmp_path: Path) -> None:
    report, _ = run(tmp_path, "flow_cytometry", "--quiet")

    assert report["results"]["score"]["truth"] == "no truth"
