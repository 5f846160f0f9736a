"""The graph `digits` in processes: equal to the engine alone, and to Norse, on every recording.

And in fixed point: equal to the emulator alone.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamflow_nodes.events.datasets import open_dataset
from streamflow_nodes.networks.compiler import compile_network
from streamflow_nodes.networks.engine import State, warm_up
from streamflow_nodes.networks.loihi2_network import Loihi2Emulator
from streamflow_nodes.networks.quantise import from_arrays, quantise, to_arrays
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.wiring import read_network

from streamflow.graph import shipped

GRAPH = shipped()["digits"].parent
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "nir" / "nmnist100"


def run(folder: Path, *options: str, graph: str = "digits") -> tuple[dict[str, Any], Any]:
    """The run's report, and what each output counted in each recording."""
    command = [sys.executable, "-m", "streamflow.cli", "run", graph, "--quiet"]
    done = subprocess.run(
        [*command, "--report", "report.json", *options], cwd=folder, capture_output=True,
        text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with (folder / "decisions.csv").open() as file:
        counts = [[int(row[f"counts_{n}"]) for n in range(10)] for row in csv.DictReader(file)]
    return json.loads((folder / "report.json").read_text()), np.array(counts)


def steps_of(dataset: Path) -> Iterator[tuple[Any, Any]]:
    """Of each recording, places and where each step of 1 ms ends in them; the last one left out."""
    for recording in open_dataset(str(dataset)):
        events = recording.read()
        step = (events["timestamp"] - events["timestamp"][0]) // 1000
        place = (events["polarity"].astype(np.int64) * 34 + events["y"]) * 34 + events["x"]
        ends = np.searchsorted(step, np.arange(1, int(step[-1]) + 1)).astype(np.int64)
        yield np.ascontiguousarray(place), ends


def offline(dataset: Path) -> Any:
    """Counts of each recording by the engine alone."""
    warm_up()
    program = compile_network(read_network(GRAPH / "model.nir"), Rules(), totals=["12"])
    counts = []
    for places, ends in steps_of(dataset):
        state = State(program)
        state.run(places, ends)
        counts.append(state.totals("12"))
    return np.array(counts)


def emulated(dataset: Path) -> Any:
    """Counts of each recording by the emulator alone, at rest before each."""
    arrays = read_network(GRAPH / "loihi2.nir").metadata
    emulator = Loihi2Emulator(from_arrays(arrays).network)
    counts = []
    for places, ends in steps_of(dataset):
        emulator.reset()
        total = np.zeros(10, int)
        for frame in np.split(places, ends)[:-1]:
            emulator.step(np.bincount(frame, minlength=2 * 34 * 34).astype(np.int32))
            total += emulator.messages("12")
        counts.append(total)
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


def test_the_shipped_integers_are_those_of_the_shipped_network() -> None:
    made = to_arrays(quantise(read_network(GRAPH / "model.nir"), Rules(), bits=8))
    shipped_arrays = read_network(GRAPH / "loihi2.nir").metadata

    for name, value in made.items():
        assert np.array_equal(shipped_arrays[name], value), name
    assert len(made) > 5


def test_in_fixed_point_the_graph_counts_as_the_emulator_does(tmp_path: Path) -> None:
    """On N-MNIST too, where it is at hand, of which at least 98 of 100 are right."""
    dataset = DATA / "nmnist_test100.npz" if DATA.exists() else GRAPH / "sample.npz"

    report, counts = run(
        tmp_path, "--set", f"digits.path={dataset}", "--set", "digits.packet_duration=0.05",
        graph=str(GRAPH / "loihi2.yaml"),
    )  # fmt: skip

    assert report["results"]["network"]["answered"] == "emulator"
    assert report["results"]["network"]["integers"] == "the file's integers, 8 bits"
    assert (counts == emulated(dataset)).all()
    assert counts.any(axis=1).all()
    if not DATA.exists():
        pytest.skip("100 recordings of N-MNIST are not in ../shared/data/nir/nmnist100")
    score = report["results"]["score"]
    assert score["trials"] == 100
    assert score["correct"] >= 0.98
