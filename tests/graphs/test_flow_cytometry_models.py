"""The shipped cytometry models decide about the shipped sample, through the graph's own nodes.

The sample is SIMULATED (graphs/flow_cytometry/README.md).
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml
from streamflow_nodes.classifiers.count_classifier import CountClassifier
from streamflow_nodes.classifiers.spiking_classifier import SpikingClassifier
from streamflow_nodes.processors.burst_trigger import BurstTrigger
from streamflow_nodes.sinks.particle_scorer import ParticleScorer
from streamflow_nodes.sources.event_file import EventFile

from streamflow.packet import Events, Packet
from streamflow.testing import drive

GRAPH = Path(__file__).resolve().parents[2] / "graphs" / "flow_cytometry"
FILES = {"path", "model", "truth"}


def settings_of(name):
    """The node's settings in the graph file, with paths relative to it made absolute."""
    settings = yaml.safe_load((GRAPH / "graph.yaml").read_text())["nodes"][name]["settings"]
    return {k: str(GRAPH / v) if k in FILES else v for k, v in settings.items()}


@pytest.fixture(scope="module")
def bursts():
    packets = drive(EventFile(settings_of("camera")))["events"]
    return drive(BurstTrigger(settings_of("bursts")), events=packets)["bursts"]


def score_of(rows):
    return drive(ParticleScorer(settings_of("score")), rows=rows).results


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


def test_spikes_of_the_shipped_network_equal_norse_on_real_bursts(bursts):
    torch = pytest.importorskip("torch", reason="needs the extra norse")
    lif_box = pytest.importorskip("norse.torch.functional.lif_box", reason="needs the extra norse")
    import nir
    from streamflow_nodes.spiking import read_network

    settings = settings_of("spiking")
    steps, dt = settings["window"] // settings["dt"], settings["dt"]
    network = read_network(settings["model"], dt=dt * 1e-6, integrator="euler", reset="value")
    graph = nir.read(settings["model"])
    weights, neurons = graph.nodes["weights"], graph.nodes["neurons"]
    tau = torch.from_numpy(1 / neurons.tau)
    rules = lif_box.LIFBoxParameters(tau_mem_inv=tau, v_th=torch.ones_like(tau))
    matrix = torch.from_numpy(np.asarray(weights.weight, np.float64))
    bias = torch.from_numpy(np.asarray(weights.bias, np.float64))

    spikes = 0
    for burst in bursts[:30]:
        array = burst.data.array
        at = (array["timestamp"] - (burst.start + burst.stop - settings["window"]) // 2) // dt
        array, at = array[(at >= 0) & (at < steps)], at[(at >= 0) & (at < steps)]
        cells = (array["polarity"].astype(np.int64) * 24 + array["y"] // 2) * 32 + array["x"] // 2
        state = lif_box.LIFBoxFeedForwardState(v=torch.zeros_like(tau))
        for step in range(steps):
            counts = np.bincount(cells[at == step], minlength=1536)
            current = matrix @ torch.from_numpy(counts).double() + bias
            fired, state = lif_box.lif_box_feed_forward_step(current, state, rules, dt * 1e-6)
            before = network.run(cells, np.searchsorted(at, np.arange(step), "right"))[1][0]
            after = network.run(cells, np.searchsorted(at, np.arange(step + 1), "right"))[1][0]
            assert after - before == int(fired.sum())
            spikes += int(fired.sum())
    assert spikes > 1000  # else nothing was compared
