"""The emulator against Lava itself: run by `make test-lava`, whose Python has it.

Lava starts a process for each population and connection: each comparison takes a second or more.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from streamflow_nodes.networks.loihi2_devices import LavaDevice, make_device
from streamflow_nodes.networks.loihi2_network import (
    INPUT,
    Connection,
    Loihi2Emulator,
    Loihi2Network,
    Population,
)
from streamflow_nodes.networks.nir_file import NetworkError

pytest.importorskip("lava", reason="Lava is not installed here; `make test-lava` has it")
pytestmark = [
    pytest.mark.filterwarnings("default"),  # Lava's and its dependencies' own
    pytest.mark.timeout(400),  # a dozen processes that start, and kernels that compile
]
sys.path.append(str(Path(__file__).resolve().parents[1] / "networks"))


def equal(network, outputs, frames):
    """Step Lava and the emulator side by side; the spikes that there were."""
    device, emulator = LavaDevice(), Loihi2Emulator(network)
    device.load(network, outputs)
    total = 0
    try:
        for frame in frames:
            device.step(frame)
            emulator.step(frame)
            for name in outputs:
                if network.population(name).kind == "readout":
                    np.testing.assert_array_equal(device.value(name), emulator.state(name, "v"))
                else:
                    np.testing.assert_array_equal(device.messages(name), emulator.messages(name))
                    total += emulator.sent(name)
    finally:
        device.close()
    return total


def frames_of(rng, steps, size, graded=False):
    frames = (rng.random((steps, size)) < 0.3).astype(np.int32)
    return frames * rng.integers(1, 20, frames.shape, dtype=np.int32) if graded else frames


@pytest.mark.parametrize("seed", range(3))
def test_layers_and_a_readout_equal_lava_with_random_integers(seed):
    rng = np.random.default_rng(seed)
    mode = ["mixed", "excitatory", "inhibitory"][seed]
    first = rng.integers(-250, 250, (12, 9))
    populations = (
        Population(
            "a", (12,), du=int(rng.integers(300, 4096)), dv=int(rng.integers(0, 500)),
            vth=int(rng.integers(100, 900)), bias_mant=rng.integers(-500, 900, 12),
            bias_exp=rng.integers(0, 5, 12),
        ),
        Population("b", (6,), du=4095, dv=100, vth=40, bias_mant=100),
        Population("out", (3,), "readout", bias_mant=rng.integers(-50, 50, 3), bias_exp=2),
    )  # fmt: skip
    connections = (
        Connection(INPUT, "a", first, weight_exp=int(rng.integers(-2, 4)), weight_bits=8 - seed),
        Connection("a", "b", rng.integers(-100, 250, (6, 12)), weight_exp=-1),
        Connection("b", "b", rng.integers(-60, 90, (6, 6))),
        Connection("b", "out", np.abs(rng.integers(0, 99, (3, 6))) * (-1) ** seed,
                   sign_mode=mode if seed != 1 else None),
    )  # fmt: skip
    network = Loihi2Network((9,), populations, connections, 1)

    spikes = equal(network, ["a", "b", "out"], frames_of(rng, 60, 9, graded=seed == 2))

    assert spikes > 20


def test_delays_and_one_value_for_each_neuron_equal_lava():
    rng = np.random.default_rng(7)
    population = Population(
        "a", (5,), du=rng.integers(0, 4096, 5), dv=rng.integers(0, 900, 5),
        vth=rng.integers(50, 400, 5),
    )  # fmt: skip
    connection = Connection(
        INPUT, "a", rng.integers(-80, 200, (5, 4)), delays=rng.integers(0, 6, (5, 4)), delay=2,
        weight_exp=-1,
    )  # fmt: skip
    network = Loihi2Network((4,), (population,), (connection,), 1)

    assert equal(network, ["a"], frames_of(rng, 60, 4)) > 20


def test_a_convolution_behind_a_pool_equals_lava():
    rng = np.random.default_rng(8)
    populations = (
        Population("a", (2, 4, 6), vth=120),
        Population("b", (3, 2, 2), dv=300, vth=90),
    )
    connections = (
        Connection(INPUT, "a", rng.integers(-90, 120, (2, 1, 3, 3)), "conv", padding=(1, 1)),
        Connection(
            "a", "b", rng.integers(-90, 160, (3, 2, 1, 2)), "conv",
            pools=(((2, 2), (2, 2), (0, 0)),),
        ),
    )  # fmt: skip
    network = Loihi2Network((1, 4, 6), populations, connections, 1)

    assert equal(network, ["a", "b"], frames_of(rng, 40, 24)) > 40


def test_sigma_delta_equals_lava_where_nothing_is_shifted_away():
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.dense.process import Dense
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Source
    from lava.proc.sdn.process import Delta, SigmaDelta
    from lava.utils.weightutils import SignMode

    rng = np.random.default_rng(9)
    x = np.cumsum(rng.integers(-9, 10, (5, 50)), axis=1)
    weights = 2 * rng.integers(-40, 40, (4, 5))
    source, encoder = Source(data=x), Delta(shape=(5,), vth=6, spike_exp=1)
    dense = Dense(weights=weights, sign_mode=SignMode.MIXED, num_message_bits=16)
    neurons = SigmaDelta(shape=(4,), vth=30, bias=5, spike_exp=1)
    sinks = [Sink(shape=(5,), buffer=50), Sink(shape=(4,), buffer=50)]
    source.s_out.connect(encoder.a_in)
    encoder.s_out.connect(dense.s_in)
    dense.a_out.connect(neurons.a_in)
    encoder.s_out.connect(sinks[0].a_in)
    neurons.s_out.connect(sinks[1].a_in)
    neurons.run(RunSteps(50), Loihi2SimCfg(select_tag="fixed_pt"))
    recorded = [sink.data.get().astype(int).T for sink in sinks]
    neurons.stop()

    network = Loihi2Network(
        (5,),
        (
            Population("delta", (5,), "delta", vth=6, spike_exp=1),
            Population("sdn", (4,), "sigma_delta", vth=30, bias_mant=5, spike_exp=1),
        ),
        (
            Connection(INPUT, "delta", np.ones(1, int), "direct"),
            Connection("delta", "sdn", weights, sign_mode="mixed"),
        ),
        1,
    )
    emulator = Loihi2Emulator(network)
    sent = {"delta": [], "sdn": []}
    for frame in x.T.astype(np.int32):
        emulator.step(frame)
        for name, rows in sent.items():
            rows.append(emulator.messages(name))

    np.testing.assert_array_equal(sent["delta"], recorded[0])
    np.testing.assert_array_equal(sent["sdn"], recorded[1])
    assert np.count_nonzero(recorded[1]) > 20


def test_the_node_answers_with_lava_what_it_answers_with_the_emulator(tmp_path):
    import nir
    from streamflow_nodes.processors.loihi2 import Loihi2

    from streamflow.testing import drive, events

    rng = np.random.default_rng(10)
    one = np.ones(5)
    nodes = {
        "in": nir.Input(np.array([2, 3, 4])),
        "flat": nir.Flatten({"input": np.array([2, 3, 4])}, 0, -1),
        "fc": nir.Affine(rng.normal(0.3, 0.6, (5, 24)), rng.normal(0, 0.1, 5)),
        "lif": nir.LIF(np.linspace(0.005, 0.02, 5), 10 * one, 0 * one, one, 0 * one),
        "out": nir.Output(np.array([5])),
    }
    names = list(nodes)
    graph = nir.NIRGraph(nodes, list(zip(names, names[1:])))  # noqa: B905, RUF007  # 3.10 runs this
    nir.write(tmp_path / "net.nir", graph)
    times = np.sort(rng.integers(0, 40_000, 300))
    rows = [(int(t), *map(int, rng.integers(0, (4, 3, 2)))) for t in times]
    settings = {"model": str(tmp_path / "net.nir"), "dt": 0.001, "synaptic_delay": 1}

    out = {
        backend: drive(
            Loihi2(settings | {"backend": backend}), events=[events(rows, width=4, height=3)]
        )
        for backend in ("emulator", "lava")
    }

    assert out["lava"].items("spikes").tolist() == out["emulator"].items("spikes").tolist()
    assert len(out["lava"].items("spikes")) > 10
    assert out["lava"].results["answered"] == "lava"


def test_a_process_of_lava_that_dies_is_told_at_once_and_leaves_no_other():
    population = Population("a", (2,), vth=9)
    connection = Connection(INPUT, "a", np.full((2, 3), 40))
    device = LavaDevice()
    device.load(Loihi2Network((3,), (population,), (connection,), 1), ["a"])
    device.step(np.ones(3, np.int32))
    actors = device._actors()
    pids = [actor.pid for actor in actors]
    actors[-1].kill()

    def go_on():
        for _ in range(3):  # what was under way may still be answered
            device.step(np.ones(3, np.int32))

    with pytest.raises(NetworkError, match="one of Lava's processes failed: exit status -9"):
        go_on()
    device.close()

    assert len(pids) > 3
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_hardware_is_refused_with_what_lavas_probe_says():
    with pytest.raises(NetworkError, match="Lava is here without its extension for Loihi"):
        make_device("hardware")


@pytest.mark.parametrize(
    ("population", "delay", "words"),
    [
        (Population("a", (2,)), 0, "set synaptic_delay 1"),
        (Population("a", (2,), refractory=2), 1, "which Lava has in float only"),
    ],
)
def test_what_lava_would_run_otherwise_is_refused(population, delay, words):
    connection = Connection(INPUT, "a", np.ones((2, 3), int))

    with pytest.raises(NetworkError, match=words):
        LavaDevice().load(Loihi2Network((3,), (population,), (connection,), delay), ["a"])
