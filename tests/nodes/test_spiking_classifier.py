"""The spiking classifier runs exactly the network of its file, and refuses what it cannot run."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import nir
import numpy as np
import pytest
from streamflow_nodes.classifiers.spiking_classifier import SpikingClassifier
from streamflow_nodes.networks.compiler import compile_network
from streamflow_nodes.networks.engine import State
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.wiring import wire

from streamflow.errors import NodeError
from streamflow.packet import EVENT
from streamflow.testing import drive, events

ROWS, COLUMNS, INPUTS = 3, 4, 24
DT = 50e-6


def lif(units, random, **changes):
    fields = {
        "tau": random.uniform(1e-4, 4e-4, units),
        "r": random.uniform(0.5, 1.5, units),
        "v_leak": random.normal(0, 0.1, units),
        "v_threshold": random.uniform(0.3, 1, units),
        "v_reset": random.normal(0, 0.1, units),
    }
    return nir.LIF(**{**fields, **changes})


def cuba_lif(units, random):
    return nir.CubaLIF(
        tau_syn=random.uniform(1e-4, 2e-4, units),
        tau_mem=random.uniform(1e-4, 4e-4, units),
        r=random.uniform(0.5, 1.5, units),
        v_leak=random.normal(0, 0.1, units),
        v_threshold=random.uniform(0.2, 0.6, units),
        v_reset=random.normal(0, 0.1, units),
        w_in=random.uniform(0.5, 1.5, units),
    )


def chain(*middle, metadata=None, shape=(2, ROWS, COLUMNS)):
    nodes = {"input": nir.Input(np.array(shape)), "flat": nir.Flatten(np.array(shape), 0, -1)}
    nodes |= {f"n{i}": node for i, node in enumerate(middle)}
    nodes["output"] = nir.Output(np.array([2]))
    names = list(nodes)
    edges = list(itertools.pairwise(names))
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata or {}, type_check=False)


def three_layers(seed=0):
    """Every kind of layer: LIF, CubaLIF, and values that leave without a neuron."""
    random = np.random.default_rng(seed)
    return chain(
        nir.Affine(random.normal(0, 1, (16, INPUTS)), random.normal(0, 0.1, 16)),
        lif(16, random),
        nir.Linear(random.normal(0, 2, (8, 16))),
        cuba_lif(8, random),
        nir.Affine(random.normal(0, 1, (2, 8)), random.normal(0, 0.1, 2)),
    )


def obvious_run(graph, counts, integrator, reset):
    """Slow reference: one array per layer and step, straight from the equations."""
    layers = nir.Affine | nir.Linear | nir.LIF | nir.CubaLIF
    middle = [node for node in graph.nodes.values() if isinstance(node, layers)]
    state = {}
    for index, node in enumerate(middle):
        if isinstance(node, nir.LIF | nir.CubaLIF):
            state[index] = (np.zeros_like(node.v_leak), np.array(node.v_leak, float))
    total, fired = 0.0, [0] * len(middle)

    def decay(tau):
        return 1 - DT / tau if integrator == "euler" else np.exp(-DT / tau)

    for x in counts:
        for index, node in enumerate(middle):
            if index not in state:
                weight = np.asarray(node.weight, np.float32).astype(float)
                bias = getattr(node, "bias", 0.0)
                x = weight @ x + np.asarray(bias, np.float32)
                continue
            i, v = state[index]
            if isinstance(node, nir.CubaLIF):
                i = decay(node.tau_syn) * i + (1 - decay(node.tau_syn)) * node.w_in * x
                x = i
            a = decay(node.tau_mem if isinstance(node, nir.CubaLIF) else node.tau)
            v = a * v + (1 - a) * (node.v_leak + node.r * x)
            spike = v > node.v_threshold
            v = np.where(spike, node.v_reset if reset == "value" else v - node.v_threshold, v)
            state[index] = i, v
            x = spike.astype(float)
            fired[index] += int(spike.sum())
        total = total + x
    return total, [fired[index] for index in sorted(state)]


def steps_of(counts):
    """Counts (steps, inputs) as cells and step ends, in an arbitrary but fixed order."""
    cells = [np.repeat(np.arange(counts.shape[1]), row) for row in counts]
    ends = np.cumsum([len(c) for c in cells]).astype(np.int64)
    return np.concatenate(cells).astype(np.int64), ends


def run(graph, counts, *layers, integrator="euler", reset="value"):
    """The output summed over the steps, and the spikes of `layers`, as the classifier runs it."""
    rules = Rules(DT, integrator, reset)
    program = compile_network(
        wire(graph), rules, totals=["output"], watch=layers, precision="double"
    )
    state = State(program, records=10_000)
    done, records, outside = state.run(*steps_of(counts))
    assert (done, outside) == (len(counts), 0)
    return state.totals("output"), [state.entries(name) for name in layers], records


def some_counts(seed=0, steps=40):
    return np.random.default_rng(seed).poisson(0.15, (steps, INPUTS))


@pytest.mark.parametrize("reset", ["value", "subtract"])
@pytest.mark.parametrize("integrator", ["euler", "exact"])
@pytest.mark.parametrize("seed", range(4))
def test_the_kernel_makes_the_spikes_of_the_equations(seed, integrator, reset):
    graph, counts = three_layers(seed), some_counts(seed)

    total, spikes, _ = run(graph, counts, "n1", "n3", integrator=integrator, reset=reset)

    expected, fired = obvious_run(graph, counts, integrator, reset)
    assert sum(fired) > 20  # else nothing was tested
    assert spikes == fired
    assert total == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_single_neuron_follows_the_hand_calculated_trace():
    one = {"tau": np.array([1e-4]), "r": np.ones(1), "v_leak": np.zeros(1)}
    graph = chain(
        nir.Linear(np.array([[1.2] + [0.0] * (INPUTS - 1)])),
        nir.LIF(**one, v_threshold=np.array([0.7]), v_reset=np.zeros(1)),
        nir.Linear(np.ones((2, 1))),
    )
    counts = np.zeros((4, INPUTS), np.int64)
    counts[:, 0] = [1, 1, 2, 0]  # v: 0.6, then 0.9 > 0.7 -> 0, then 1.2 > 0.7 -> 0, then 0

    total, spikes, _ = run(graph, counts, "n1")

    assert spikes == [2]
    assert total.tolist() == [2.0, 2.0]


def norse_spikes(folder, graph, counts, node):
    """Norse's own import of the NIR file, in a process of its own: torch, once imported, stays."""
    if importlib.util.find_spec("norse") is None:
        pytest.skip("Norse is not installed: extra norse")
    nir.write(folder / "m.nir", graph)
    np.save(folder / "counts.npy", counts)
    files = [str(folder / name) for name in ("m.nir", "counts.npy", "spikes.npy")]
    command = [sys.executable, str(Path(__file__).with_name("norse_spikes.py")), *files]
    subprocess.run([*command, str(DT), node], check=True, timeout=100)
    return np.load(folder / "spikes.npy")


def test_spikes_equal_norse_step_by_step(tmp_path):
    random = np.random.default_rng(5)
    graph = chain(
        nir.Affine(random.normal(0, 1, (16, INPUTS)).astype(np.float32), np.zeros(16, np.float32)),
        lif(16, random, r=np.ones(16), v_leak=np.zeros(16), v_reset=np.zeros(16)),
        nir.Linear(np.eye(2, 16, dtype=np.float32)),
    )
    trials = np.stack([some_counts(seed) for seed in range(20)])

    ours = [
        np.bincount(run(graph, trial, "n1")[2][:, 0].astype(int), minlength=40).tolist()
        for trial in trials
    ]

    theirs = norse_spikes(tmp_path, graph, trials.reshape(20, 40, 2, ROWS, COLUMNS), "n1")
    assert theirs.sum() > 500  # else nothing was compared
    assert ours == theirs.tolist()


def burst(seed=0, count=300):
    random = np.random.default_rng(seed)
    array = np.zeros(count, EVENT)
    array["timestamp"] = np.sort(random.integers(5_000, 6_000, count))
    array["x"], array["y"] = random.integers(0, 8, count), random.integers(0, 6, count)
    array["polarity"] = random.integers(0, 2, count)
    return events(array, width=8, height=6, start=5_000, stop=6_000)


@pytest.fixture
def model_file(tmp_path):
    nir.write(tmp_path / "model.nir", three_layers())
    return str(tmp_path / "model.nir")


@pytest.mark.parametrize("seed", range(5))
def test_a_burst_is_given_to_the_network_cell_by_cell_and_step_by_step(model_file, seed):
    packet = burst(seed)

    (row,) = drive(
        SpikingClassifier({"model": model_file, "classes": ["A", "B"]}), bursts=[packet]
    ).items("particles")

    counts = np.zeros((12, 2, ROWS, COLUMNS), np.int64)
    for time, x, y, polarity in packet.data.array.tolist():
        if 5_200 <= time < 5_800:
            counts[(time - 5_200) // 50, polarity, y // 2, x // 2] += 1
    scores, _ = obvious_run(three_layers(), counts.reshape(12, -1), "euler", "value")
    assert row["class"].decode() == "AB"[scores.argmax()]
    assert row["probability"] == pytest.approx(np.exp(scores.max()) / np.exp(scores).sum())
    assert (row["time_us"], row["decided_us"]) == (5_500, 6_000)


def test_each_burst_starts_from_rest(model_file):
    def rows(seeds):
        node = SpikingClassifier({"model": model_file, "classes": ["A", "B"]})
        return drive(node, bursts=[burst(seed) for seed in seeds]).items("particles")

    together = rows([0, 1, 2, 0])

    assert together[3].tobytes() == together[0].tobytes()
    assert together[2].tobytes() == rows([2])[0].tobytes()


def test_the_report_says_the_rules_that_nir_leaves_open(model_file):
    node = SpikingClassifier({"model": model_file, "classes": ["A", "B"], "integrator": "exact"})

    results = drive(node, bursts=[burst()]).results

    assert (results["dt_us"], results["integrator"], results["reset"]) == (50, "exact", "value")


RANDOM = np.random.default_rng(0)
WEIGHTS = nir.Linear(RANDOM.normal(size=(2, INPUTS)))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (chain(nir.Linear(np.ones((2, 5)))), r"'flat' gives \(24,\) and 'n0'"),
        (chain(WEIGHTS, lif(2, RANDOM, tau=np.full(2, 1e-5))), "shorter than the time step"),
        (chain(WEIGHTS, lif(2, RANDOM, tau=np.zeros(2))), "expected above 0"),
    ],
)
def test_what_cannot_be_run_is_refused_by_the_name_of_its_node(tmp_path, graph, message):
    nir.write(tmp_path / "m.nir", graph)

    with pytest.raises(NodeError, match=rf"m\.nir: .*{message}"):
        SpikingClassifier({"model": str(tmp_path / "m.nir"), "classes": ["A", "B"]}).open()


def test_a_convolutional_network_decides_as_well(tmp_path):
    """Any network that the engine runs: the rate of each polarity's spikes, summed over places."""
    shape = np.array([2, ROWS, COLUMNS])
    graph = nir.NIRGraph.from_list(
        nir.Input(shape),
        nir.Conv2d((ROWS, COLUMNS), np.eye(2)[:, :, None, None], 1, 0, 1, 1, np.zeros(2)),
        nir.IF(np.ones(shape), np.full(shape, 0.5)),
        nir.Flatten(shape, 0, -1),
        nir.Linear(np.repeat(np.eye(2), ROWS * COLUMNS, axis=1)),
    )
    nir.write(tmp_path / "m.nir", graph)
    packet = burst()

    node = SpikingClassifier({"model": str(tmp_path / "m.nir"), "classes": ["OFF", "ON"]})
    (row,) = drive(node, bursts=[packet]).items("particles")

    places = {
        ((time - 5_200) // 50, polarity, y // 2, x // 2)
        for time, x, y, polarity in packet.data.array.tolist()
        if 5_200 <= time < 5_800
    }
    on, off = (sum(place[1] == which for place in places) for which in (1, 0))
    assert on != off  # else nothing was decided
    assert row["class"].decode() == ("ON" if on > off else "OFF")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ["A", "B", "C"]}, "2 outputs for the 3 names"),
        ({"dt": 70}, "not a multiple of dt"),
        ({"dt": 25}, "trained with dt_us 50, and the settings say 25"),
        ({"classes": ["B", "A"]}, "trained with classes A,B, and the settings say B,A"),
        ({"reset": "subtract"}, "trained with reset value"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(tmp_path, settings, message):
    graph = three_layers()
    graph.metadata = {"dt_us": 50, "classes": "A,B", "reset": "value"}
    nir.write(tmp_path / "m.nir", graph)
    model = {"model": str(tmp_path / "m.nir"), "classes": ["A", "B"]}

    with pytest.raises(NodeError, match=message):
        SpikingClassifier({**model, **settings}).open()


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "text.nir").write_text("not a network")

    for name, message in {"text.nir": "not a readable NIR", "missing.nir": "no such file"}.items():
        with pytest.raises(NodeError, match=message):
            SpikingClassifier({"model": str(tmp_path / name), "classes": ["A", "B"]}).open()


def test_a_network_for_other_inputs_is_refused(tmp_path):
    nir.write(tmp_path / "m.nir", chain(WEIGHTS, shape=(4, 6)))

    with pytest.raises(NodeError, match=r"its input has shape \(4, 6\)"):
        SpikingClassifier({"model": str(tmp_path / "m.nir"), "classes": ["A", "B"]}).open()
