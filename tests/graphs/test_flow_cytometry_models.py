"""The shipped cytometry models decide about the shipped sample, through the graph's own nodes.

The sample is SIMULATED (graphs/flow_cytometry/README.md).
"""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from streamflow_nodes.classifiers.count_classifier import CountClassifier
from streamflow_nodes.classifiers.spiking_classifier import SpikingClassifier
from streamflow_nodes.networks.compiler import compile_network
from streamflow_nodes.networks.engine import State
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.wiring import read_network
from streamflow_nodes.processors.burst_trigger import BurstTrigger
from streamflow_nodes.sinks.particle_scorer import ParticleScorer
from streamflow_nodes.sources.event_file import EventFile

from streamflow.packet import Events, Packet
from streamflow.testing import drive

GRAPH = Path(__file__).resolve().parents[2] / "graphs" / "flow_cytometry"
FILES = {"path", "model"}


def settings_of(name):
    """The node's settings in the graph file, with paths relative to it made absolute."""
    settings = yaml.safe_load((GRAPH / "graph.yaml").read_text())["nodes"][name]["settings"]
    return {k: str(GRAPH / v) if k in FILES and v else v for k, v in settings.items()}


@pytest.fixture(scope="module")
def bursts():
    packets = drive(EventFile(settings_of("camera")))["events"]
    return drive(BurstTrigger(settings_of("bursts")), events=packets)["bursts"]


def score_of(rows):
    settings = settings_of("score") | {"truth": str(GRAPH / "sample.truth.csv")}
    return drive(ParticleScorer(settings), rows=rows).results


@pytest.mark.parametrize(
    ("name", "kind", "correct"),
    # bounds are below what was measured by about two standard errors of 90 particles
    [("spiking", SpikingClassifier, 0.90), ("linear", CountClassifier, 0.89)],
)
def test_most_particles_of_the_sample_get_their_class_in_time(bursts, name, kind, correct):
    rows = drive(kind(settings_of(name)), bursts=bursts)["particles"]

    result = score_of(rows)

    assert result["particles"] > 80
    assert result["correct"] >= correct
    assert result["late"] == 0


def test_decisions_that_ignore_the_events_score_no_better_than_chance(bursts):
    """What the bounds above are worth: the same bursts with their pixels shuffled."""
    random = np.random.default_rng(0)
    shuffled = []
    for burst in bursts:
        array = burst.data.array.copy()
        array["x"], array["y"] = random.permutation(array["x"]), random.permutation(array["y"])
        array["x"] = random.integers(0, 64, len(array))
        data = Events(array, burst.data.width, burst.data.height)
        shuffled.append(Packet(burst.start, burst.stop, data))

    rows = drive(SpikingClassifier(settings_of("spiking")), bursts=shuffled)["particles"]

    assert score_of(rows)["correct"] < 0.75


def test_models_know_the_classes_that_the_truth_names(bursts):
    with open(GRAPH / "sample.truth.csv", newline="") as file:
        named = {row["class"] for row in csv.DictReader(file)}

    for name, kind in {"spiking": SpikingClassifier, "linear": CountClassifier}.items():
        rows = drive(kind(settings_of(name)), bursts=bursts).items("particles")
        assert {label.decode() for label in rows["class"]} == named


def test_spikes_of_the_shipped_network_equal_norse_on_real_bursts(bursts, tmp_path):
    if importlib.util.find_spec("norse") is None:
        pytest.skip("Norse is not installed: extra norse")
    settings = settings_of("spiking")
    steps, dt = settings["window"] // settings["dt"], settings["dt"]
    wiring = read_network(settings["model"])
    program = compile_network(wiring, Rules(dt * 1e-6), watch=["neurons"], precision="double")
    state = State(program, records=steps * 96)

    counts = np.zeros((30, steps, 1536), np.int64)
    sums = np.zeros((30, steps), np.int64)
    for burst, count, total in zip(bursts, counts, sums, strict=False):
        array = burst.data.array
        at = (array["timestamp"] - (burst.start + burst.stop - settings["window"]) // 2) // dt
        array, at = array[(at >= 0) & (at < steps)], at[(at >= 0) & (at < steps)]
        cells = (array["polarity"].astype(np.int64) * 24 + array["y"] // 2) * 32 + array["x"] // 2
        np.add.at(count, (at, cells), 1)
        state.rest()
        _, records, _ = state.run(cells, np.searchsorted(at, np.arange(steps), "right"))
        total[:] = np.bincount(records[:, 0].astype(np.int64), minlength=steps)

    np.save(tmp_path / "counts.npy", counts.reshape(30, steps, 2, 24, 32))
    files = [settings["model"], str(tmp_path / "counts.npy"), str(tmp_path / "spikes.npy")]
    program = Path(__file__).parents[1] / "nodes" / "norse_spikes.py"
    command = [sys.executable, str(program), *files, str(dt * 1e-6), "neurons"]
    subprocess.run(command, check=True, timeout=100)
    theirs = np.load(tmp_path / "spikes.npy")
    assert theirs.sum() > 1000  # else nothing was compared
    assert sums.tolist() == theirs.tolist()
