"""The node loihi2: equal to the emulator, whatever the packets; and it says what answered."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path

import nir
import numpy as np
import pytest
from streamflow_nodes.networks.loihi2_network import Loihi2Emulator
from streamflow_nodes.networks.quantise import quantise
from streamflow_nodes.networks.quantise_command import write
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.wiring import read_network
from streamflow_nodes.processors.loihi2 import Loihi2

from streamflow.errors import NodeError
from streamflow.packet import Packet, Tensor
from streamflow.testing import cut, drive, events

sys.path.append(str(Path(__file__).resolve().parents[1] / "engine"))
STEP = 1000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A convolution of a sensor of 8x6 pixels, and a layer of LIF neurons of two kinds."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("model") / "net.nir"
    one = np.ones(5)
    nodes = {
        "in": nir.Input(np.array([2, 6, 8])),
        "conv": nir.Conv2d(
            (6, 8), rng.normal(0.2, 0.5, (3, 2, 3, 3)), 2, 1, 1, 1, rng.normal(0, 0.02, 3)
        ),
        "if": nir.IF(np.ones((3, 3, 4)), np.ones((3, 3, 4)), np.zeros((3, 3, 4))),
        "flat": nir.Flatten({"input": np.array([3, 3, 4])}, 0, -1),
        "fc": nir.Affine(rng.normal(0.3, 0.6, (5, 36)), rng.normal(0, 0.1, 5)),
        "lif": nir.LIF(np.linspace(0.005, 0.02, 5), 10 * one, 0 * one, one, 0 * one),
        "out": nir.Output(np.array([5])),
    }
    names = list(nodes)
    nir.write(path, nir.NIRGraph(nodes, [*itertools.pairwise(names)]))
    return path


@pytest.fixture(scope="module")
def recording():
    """60 ms of events, 2,000 of them, in time order."""
    rng = np.random.default_rng(4)
    times = 7_000_000 + np.sort(rng.integers(0, 60_000, 2000))
    places = rng.integers(0, (8, 6, 2), (2000, 3))
    return [(int(t), *map(int, place)) for t, place in zip(times, places, strict=True)]


def settings(model, **more):
    return {"model": str(model), "dt": 0.001, "backend": "emulator", **more}


def expected(quantised, recording, name="lif"):
    """(timestamp, unit) of every spike, step by step in the emulator."""
    emulator = Loihi2Emulator(quantised.network)
    frames = np.zeros((60, 2, 6, 8), np.int32)
    for t, x, y, polarity in recording:
        frames[(t - 7_000_000) // STEP, polarity, y, x] += 1
    found = []
    for step, frame in enumerate(frames.reshape(60, -1)):
        emulator.step(frame)
        units = np.flatnonzero(emulator.messages(name))
        found += [(7_000_000 + step * STEP, int(unit)) for unit in units]
    return found


def test_a_float_model_runs_in_8_bits_however_the_events_are_cut(model, recording):
    whole = events(recording, width=8, height=6)
    wanted = expected(quantise(read_network(model), Rules(dt=1e-3)), recording)

    for size in (2000, 130):
        out = drive(Loihi2(settings(model)), events=cut(whole, size))
        assert out.items("spikes").tolist() == wanted
    assert len(wanted) > 30
    assert out.results["answered"] == "emulator"
    assert out.results["integers"] == "quantised to 8 bits by the weights alone"
    assert out.faults == {"outside": 0, "late": 0}


def test_a_quantised_file_runs_with_its_own_integers(model, recording, tmp_path):
    wiring = read_network(model)
    quantised = quantise(wiring, Rules(dt=1e-3), bits=4)
    write(quantised, wiring, str(tmp_path / "q"))
    node = Loihi2(settings(tmp_path / "q.nir", backend="auto"))

    out = drive(node, events=cut(events(recording, width=8, height=6), 500))

    assert out.items("spikes").tolist() == expected(quantised, recording)
    assert out.results["integers"] == "the file's integers, 4 bits"


def test_it_goes_on_after_a_restart_as_if_nothing_had_happened(model, recording):
    packets = list(cut(events(recording, width=8, height=6), 400))
    whole = drive(Loihi2(settings(model)), events=packets).items("spikes").tolist()
    first, second = Loihi2(settings(model)), Loihi2(settings(model))

    first.open()
    before = drive(first, opened=True, end=False, events=packets[:3])
    second.open()
    second.restore(first.snapshot())
    after = drive(second, opened=True, events=packets[3:])

    assert [*before.items("spikes").tolist(), *after.items("spikes").tolist()] == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backend": "hardware"}, "no Loihi 2 answers here"),
        ({"reset": "subtract"}, "reset is 'subtract'"),
    ],
)
def test_what_cannot_be_is_one_error(model, change, words):
    node = Loihi2(settings(model) | change)

    with pytest.raises(NodeError) as refusal:
        node.open()

    assert words in str(refusal.value)


@pytest.mark.skipif(importlib.util.find_spec("lava") is not None, reason="Lava is installed here")
def test_lava_is_asked_for_by_name_and_said_to_be_missing(model):
    with pytest.raises(NodeError, match=r"Lava is not installed for this Python .* 3\.10"):
        Loihi2(settings(model, backend="lava", synaptic_delay=1)).open()


def test_graded_values_that_are_not_whole_are_refused(model):
    values = Packet(0, 1000, Tensor(np.full((2, 6, 8), 0.5, np.float32), ("channel", "y", "x")))

    with pytest.raises(ValueError, match=r"an input of 0.5; Loihi's messages are whole numbers"):
        drive(Loihi2(settings(model)), values=[values])


LAVA = Path(__file__).resolve().parents[2] / ".venv-lava"


def graph(model, backend):
    """Events to a network to decisions in a file, the network in a process of its own."""
    python = f", python: {LAVA / 'bin' / 'python'}" if backend == "lava" else ""
    return f"""
name: answers
nodes:
  camera: {{kind: event_file, settings: {{path: events.csv, width: 8, height: 6}}}}
  net:
    kind: loihi2
    inputs: {{events: camera.events}}
    settings: {{model: {model}, dt: 0.001, synaptic_delay: 1, backend: {backend}}}
  now:
    kind: spike_rate_classifier
    inputs: {{spikes: net.spikes}}
    settings: {{classes: [a, b, c, d, e], window: 0.002, period: 0.001}}
  rows: {{kind: csv_file, inputs: {{rows: now.decisions}}, settings: {{path: rows.csv}}}}
processes:
  chip: {{nodes: [net]{python}}}
"""


@pytest.mark.skipif(not (LAVA / "lava.stamp").exists(), reason="needs Lava: make test-lava")
def test_a_graph_answers_alike_with_lava_in_its_own_interpreter(model, recording, tmp_path):
    from runs import Run

    reports, rows = {}, {}
    for backend in ("emulator", "lava"):
        folder = tmp_path / backend
        folder.mkdir()
        lines = [f"{t},{x},{y},{polarity}" for t, x, y, polarity in recording]
        (folder / "events.csv").write_text("\n".join(["timestamp,x,y,polarity", *lines]) + "\n")
        it = Run(folder, graph(model, backend))
        assert it.end() == 0, it.err
        reports[backend] = it.report
        rows[backend] = (folder / "rows.csv").read_text()

    assert rows["lava"] == rows["emulator"]
    assert rows["lava"].count("\n") > 20
    assert reports["lava"]["results"]["net"]["answered"] == "lava"
    assert reports["lava"]["unbalanced"] == {}
