"""Float networks in Loihi's integers: what they lose, what is refused, what the files hold."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nir
import numpy as np
import pytest
from click.testing import CliRunner
from streamflow_nodes.networks.backend import make_backend
from streamflow_nodes.networks.calibration import Samples, budget, calibrate, loss, read_samples
from streamflow_nodes.networks.loihi2_network import Loihi2Emulator, Loihi2Error
from streamflow_nodes.networks.quantise import from_arrays, quantise, to_arrays
from streamflow_nodes.networks.quantise_command import commands
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.wiring import read_network, wire

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "nir"
RULES = Rules(dt=1e-3)


def chain(*nodes, shape=(4,)):
    """Nodes one after another, as a wiring."""
    last = nodes[-1].output_type["output"] if nodes[-1].output_type else None
    named = {"in": nir.Input(np.array(shape)), **{str(i): n for i, n in enumerate(nodes)}}
    named["out"] = nir.Output(last)
    names = list(named)
    edges = list(itertools.pairwise(names))
    return wire(nir.NIRGraph(named, edges, {}, type_check=False))


def lif(size, **change):
    one = np.ones(size)
    values = {"tau": 0.02 * one, "r": one, "v_leak": 0 * one, "v_threshold": 0.1 * one,
              "v_reset": 0 * one}  # fmt: skip
    return nir.LIF(**(values | {k: v * one for k, v in change.items()}))


def affine(outputs, inputs, seed=0, bias=0.02):
    rng = np.random.default_rng(seed)
    return nir.Affine(
        rng.normal(0.3, 1.0, (outputs, inputs)).astype(np.float32),
        rng.normal(0, bias, outputs).astype(np.float32),
    )


def cuba(size, threshold=0.05):
    one = np.ones(size)
    return nir.CubaLIF(
        tau_syn=0.008 * one, tau_mem=np.linspace(0.01, 0.03, size), r=one, v_leak=0 * one,
        v_threshold=threshold * one, w_in=2 * one, v_reset=0 * one,
    )  # fmt: skip


def inputs(steps=300, size=4, density=0.2):
    return (np.random.default_rng(5).random((steps, size)) < density).astype(np.int32)


def run(name, wiring, rules, frames):
    backend = make_backend(name)
    backend.load(wiring, rules)
    given = [backend.step(frame) for frame in frames]
    return backend, {key: np.array([one[key] for one in given]) for key in given[0]}


@pytest.mark.parametrize("neurons", [lif(12), cuba(12)], ids=["LIF", "CubaLIF"])
def test_integers_spike_much_as_the_float_network_does(neurons):
    wiring = chain(affine(12, 4), neurons, affine(3, 12, 1, 0.5))
    frames = inputs()

    _, floats = run("numba", wiring, RULES, frames)
    backend, integers = run("loihi2", wiring, RULES, frames)

    assert floats["1"].sum() > 100
    # 8-bit weights and 12-bit decays: a spike may move by a step, few come or go
    assert abs(integers["1"].sum() - floats["1"].sum()) < 0.03 * floats["1"].sum()
    a, b = (given["1"].reshape(30, 10, 12).sum(axis=1).ravel() for given in (floats, integers))
    assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.97
    # the last Affine hands out values: weighted spikes and the bias, in the float's units
    spikes = integers["1"] @ np.asarray(wiring.units["2"].parameters["weight"], float).T
    exact = spikes + wiring.units["2"].parameters["bias"]
    np.testing.assert_allclose(integers["out"], exact, atol=0.01 * np.abs(exact).max())
    assert backend.results()["answered"] == "emulator"
    assert "by the weights alone" in backend.results()["integers"]


def test_calibration_makes_room_for_currents_that_would_wrap():
    wiring = chain(affine(6, 4), lif(6))
    loud = inputs() * 150  # graded: some hundred thresholds in one step

    plain = quantise(wiring, RULES)
    calibrated = calibrate(wiring, RULES, Samples((loud,)))

    cosine = [loss(q, wiring, Samples((loud,)))["layers"]["1"]["cosine"]
              for q in (plain, calibrated)]  # fmt: skip
    assert calibrated.layers[0].weight_exp < plain.layers[0].weight_exp
    assert cosine[1] > 0.999 > cosine[0]


def test_a_network_survives_its_file_bit_for_bit(tmp_path):
    wiring = chain(affine(12, 4), cuba(12), affine(3, 12, 1))
    quantised = quantise(wiring, RULES, bits=6)
    np.savez(tmp_path / "q.npz", **to_arrays(quantised))

    with np.load(tmp_path / "q.npz", allow_pickle=False) as arrays:
        read = from_arrays(dict(arrays))

    one, two = Loihi2Emulator(quantised.network), Loihi2Emulator(read.network)
    for frame in inputs():
        one.step(frame)
        two.step(frame)
        for name in ("1", "out"):
            np.testing.assert_array_equal(one.state(name, "v"), two.state(name, "v"))
    assert read.rules == RULES
    np.testing.assert_array_equal(read.scales["out"], quantised.scales["out"])


def test_recurrence_and_delays_are_as_late_as_in_float():
    weights = np.array([[3.0, 0.0], [0.0, 3.0]])
    nodes = {
        "in": nir.Input(np.array([2])),
        "late": nir.Delay(np.array([0.003, 0.005])),
        "w": nir.Linear(weights),
        "if": nir.IF(np.ones(2), np.ones(2), np.zeros(2)),
        "rec": nir.Linear(np.array([[0.0, 1.5], [0.0, 0.0]])),
        "out": nir.Output(np.array([2])),
    }
    edges = [("in", "late"), ("late", "w"), ("w", "if"), ("if", "rec"), ("rec", "if"),
             ("if", "out")]  # fmt: skip
    wiring = wire(nir.NIRGraph(nodes, edges))
    frames = np.zeros((20, 2), np.int32)
    frames[4] = 1

    for rules in (RULES, Rules(dt=1e-3, recurrent_delay=3), Rules(dt=1e-3, synaptic_delay=1)):
        _, floats = run("numba", wiring, rules, frames)
        _, integers = run("loihi2", wiring, rules, frames)
        np.testing.assert_array_equal(integers["if"], floats["if"])
        assert floats["if"].sum() == 3


@pytest.mark.parametrize(
    ("wiring", "rules", "words"),
    [
        ((affine(3, 4), lif(3)), Rules(dt=1e-3, reset="subtract"), "reset is 'subtract'"),
        ((affine(3, 4), lif(3, v_reset=0.05)), RULES, "unit '1' (LIF): v_reset 0.05 and rest 0"),
        ((affine(3, 4), lif(3, tau=9.0)), RULES, "unit '1' (LIF): tau 9 is more than 8192 steps"),
        ((affine(3, 4), lif(3, r=-1)), RULES, "unit '1' (LIF): r times w_in is -0.05"),
        ((affine(3, 4), lif(3, v_threshold=1e9)), RULES, "threshold"),
        ((affine(3, 4), affine(3, 3), lif(3)), RULES, "unit '1' (Affine) follows other weights"),
        ((affine(3, 4, bias=1e6), lif(3)), RULES, "unit '1'"),
        (
            (affine(3, 4), lif(3, v_threshold=np.array([2e3, 0.1, 1e-4]))),
            RULES,
            "unit '1' (LIF): thresholds of 0 to 49684 units of its weights",
        ),
        (
            (affine(3, 4, bias=1e5), cuba(3, threshold=10)),
            RULES,
            "is more than 8 bits and an exponent of 7 hold",
        ),
        ((nir.Linear(np.zeros((3, 4))), lif(3)), RULES, "unit '1': every weight into it is 0"),
        (
            (affine(3, 4), nir.LI(*np.ones((3, 3))), affine(3, 3), lif(3)),
            RULES,
            "unit '1' (LI) hands its membrane on to",
        ),
    ],
)
def test_what_loihi_cannot_represent_is_refused_with_the_unit_and_the_value(wiring, rules, words):
    with pytest.raises(Loihi2Error) as refusal:
        quantise(chain(*wiring), rules)

    assert words in str(refusal.value)


def test_an_input_that_no_message_carries_is_refused():
    backend = make_backend("loihi2")
    backend.load(chain(affine(3, 4), lif(3)), RULES)

    with pytest.raises(ValueError) as refusal:
        backend.step(np.array([0, 0.5, 0, 0]))

    assert "an input of 0.5; Loihi's messages are whole numbers" in str(refusal.value)


def test_the_budget_counts_what_a_hand_counts():
    wiring = chain(affine(12, 4), lif(12), affine(3, 12))
    frames = np.zeros((10, 4), np.int32)
    frames[0] = 1

    found = budget(quantise(wiring, RULES), Samples((frames,)))

    assert found["estimate"] is True
    assert found["layers"]["1"]["neurons"] == 12
    assert found["layers"]["1"]["synapses"] == 48
    assert found["layers"]["out"]["synapses"] == 36
    _, given = run("loihi2", wiring, RULES, frames)
    messages = 12 * 4 + 3 * given["1"].sum()
    assert found["synaptic_operations_per_step"] == pytest.approx(messages / 10, abs=0.05)


def digits():
    """The recordings in steps of 1 ms, each the pixels that had events and how many, and labels."""
    path = SHARED / "nmnist100" / "nmnist_test100.npz"
    if not path.is_file():
        pytest.skip("needs N-MNIST recordings (share-alike), which are not part of this package")
    events = np.load(path)
    samples = []
    for first, last in itertools.pairwise(events["offsets"]):
        t, x, y, p = (events[what][first:last].astype(np.int64) for what in "txyp")
        step = (t - t[0]) // 1000
        pixels, counts = np.unique((step * 2 + p) * 34 * 34 + y * 34 + x, return_counts=True)
        ends = np.searchsorted(pixels, np.arange(step.max() + 1) * 2 * 34 * 34)
        pixels, counts = (pixels % (2 * 34 * 34)).astype(np.int32), counts.astype(np.int32)
        samples.append([(pixels[a:b], counts[a:b]) for a, b in itertools.pairwise(ends)])
    return samples, events["labels"]


def test_the_papers_convolutional_network_reads_98_of_100_digits_in_8_bits():
    samples, labels = digits()
    quantised = quantise(read_network(SHARED / "cnn_sinabs.nir"), Rules())
    emulator = Loihi2Emulator(quantised.network)
    right = 0

    for sample, label in zip(samples, labels, strict=True):
        emulator.reset()
        counts = np.zeros(10, np.int64)
        for units, values in sample:
            emulator.step_messages(units, values)
            if emulator.sent("12"):
                counts += emulator.messages("12")
        right += counts.argmax() == label

    assert right >= 98


def test_samples_are_read_from_npy_and_npz(tmp_path):
    wiring = chain(affine(3, 4), lif(3))
    x = inputs(6)
    np.save(tmp_path / "one.npy", x)
    np.savez(tmp_path / "more.npz", x=x.reshape(2, 3, 4), labels=[1, 2])
    np.savez(tmp_path / "uneven.npz", x=x, ends=[2, 6])
    np.savez(tmp_path / "wrong.npz", x=x[:, :3])

    one, more, uneven = (
        read_samples(str(tmp_path / name), wiring) for name in ("one.npy", "more.npz", "uneven.npz")
    )

    assert [len(s) for s in one.frames] == [6]
    assert [len(s) for s in more.frames] == [3, 3]
    assert more.labels.tolist() == [1, 2]
    assert [len(s) for s in uneven.frames] == [2, 4]
    with pytest.raises(Loihi2Error, match=r"inputs of shape \(6, 3\); expected \(steps, 4\)"):
        read_samples(str(tmp_path / "wrong.npz"), wiring)


def test_the_command_writes_files_that_run_with_their_integers(tmp_path):
    rng = np.random.default_rng(2)
    one = np.ones(12)
    nodes = {
        "in": nir.Input(np.array([4])),
        "fc": affine(12, 4),
        "lif": nir.LIF(np.linspace(0.01, 0.03, 12), one, 0 * one, 0.05 * one, 0 * one),
        "read": affine(3, 12, 1),
        "out": nir.Output(np.array([3])),
    }
    nir.write(tmp_path / "net.nir", nir.NIRGraph(nodes, list(itertools.pairwise(nodes))))
    x = rng.random((5, 80, 4)) < 0.3
    np.savez(tmp_path / "data.npz", x=x, labels=[0, 1, 2, 0, 1])
    file, prefix = str(tmp_path / "net.nir"), str(tmp_path / "new" / "net8")
    data = ["--calibrate", str(tmp_path / "data.npz"), "--sweep", "--json"]

    made = CliRunner().invoke(
        commands["quantise"], [file, "--output", prefix, "--dt", "1e-3", *data]
    )

    assert made.exit_code == 0, made.output
    report = json.loads(made.output)
    sweep = report["sweep"]
    assert report["loss"]["layers"]["lif"]["cosine"] > 0.99
    assert sweep["8"]["layers"]["lif"]["cosine"] > sweep["2"]["layers"]["lif"]["cosine"]
    assert {"accuracy", "accuracy_float", "decided_alike"} <= set(report["loss"])
    assert report["budget"]["estimate"] is True
    written = read_network(f"{prefix}.nir")
    backend, given = run("loihi2", written, RULES, x[0])
    with np.load(f"{prefix}.npz", allow_pickle=False) as arrays:
        emulator = Loihi2Emulator(from_arrays(dict(arrays)).network)
    for frame, spikes in zip(x[0].astype(np.int32), given["lif"], strict=True):
        emulator.step(frame)
        np.testing.assert_array_equal(emulator.messages("lif"), spikes)
    assert backend.results()["integers"] == "the file's integers, 8 bits"
    # for any other reader of NIR it is a float network of the weights that the integers stand for
    kept, exact = written.units["fc"].parameters["weight"], nodes["fc"].weight
    np.testing.assert_allclose(kept, exact, atol=np.abs(exact).max() / 200)
    assert not np.array_equal(kept, exact)
    with pytest.raises(Loihi2Error, match=r"quantised with dt 0.001, and dt 0.002 is asked for"):
        make_backend("loihi2").load(written, Rules(dt=2e-3))


def test_the_command_says_what_cannot_be_done(tmp_path):
    refused = CliRunner().invoke(
        commands["quantise"], [str(tmp_path / "none.nir"), "--output", str(tmp_path / "x")]
    )

    assert refused.exit_code == 1
    assert "none.nir: no such file" in refused.output
