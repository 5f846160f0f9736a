"""The graph `digits` in processes: equal to the engine alone, and to Norse, on every recording."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamflow_nodes.labelled_files import open_dataset
from streamflow_nodes.networks.engine import State, compile_network, warm_up
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.wiring import read_network

from streamflow.graph import shipped

GRAPH = shipped()["digits"].parent
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "nir" / "nmnist100"


def run(folder: Path, *options: str) -> tuple[dict[str, Any], Any]:
    """The run's report, and what each output counted in each recording."""
    command = [sys.executable, "-m", "streamflow.cli", "run", "digits", "--quiet"]
    done = subprocess.run(
        [*command, "--report", "report.json", *options], cwd=folder, capture_output=True,
        text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with (folder / "decisions.csv").open() as file:
        counts = [[int(row[f"counts_{n}"]) for n in range(10)] for row in csv.DictReader(file)]
    return json.loads((folder / "report.json").read_text()), np.array(counts)


def offline(dataset: Path) -> Any:
    """Counts of each recording by the engine alone: frames of 1 ms, the last one left out."""
    warm_up()
    program = compile_network(read_network(GRAPH / "model.nir"), Rules(), totals=["12"])
    counts = []
    for recording in open_dataset(str(dataset)):
        events = recording.read()
        step = (events["timestamp"] - events["timestamp"][0]) // 1000
        place = (events["polarity"].astype(np.int64) * 34 + events["y"]) * 34 + events["x"]
        ends = np.searchsorted(step, np.arange(1, int(step[-1]) + 1)).astype(np.int64)
        state = State(program)
        state.run(np.ascontiguousarray(place), ends)
        counts.append(state.totals("12"))
    return np.array(counts)


def test_the_simulated_sample_gives_what_the_engine_gives_without_a_graph(tmp_path: Path) -> None:
    report, counts = run(tmp_path, "--set", "digits.packet_duration=0.0037")

    assert (counts == offline(GRAPH / "sample.npz")).all()
    assert counts.any(axis=1).all()
    score = report["results"]["score"]
    assert score["trials"] == 10
    assert sum(sum(row.values()) for row in score["confusion"].values()) == 10
    with (tmp_path / "live.csv").open() as file:
        live = list(csv.DictReader(file))
    assert len(live) > 100
    nodes = report["nodes"]
    assert len({nodes[name]["process"] for name in ("digits", "network", "live")}) == 3


def test_every_one_of_100_recordings_of_nmnist_is_right_and_counts_as_norse_does(
    tmp_path: Path,
) -> None:
    if not DATA.exists():
        pytest.skip("100 recordings of N-MNIST are not in ../shared/data/nir/nmnist100")
    dataset = DATA / "nmnist_test100.npz"

    report, counts = run(
        tmp_path, "--set", f"digits.path={dataset}", "--set", "digits.packet_duration=0.05"
    )

    score = report["results"]["score"]
    assert (score["trials"], score["correct"]) == (100, 1.0)
    assert (counts == offline(dataset)).all()
    theirs = np.load(DATA / "scnn_expected.npz")["norse_counts"]
    assert (counts.argmax(axis=1) == theirs.argmax(axis=1)).all()
    assert (counts == theirs).all(axis=1).sum() >= 98  # float32 sums in another order
