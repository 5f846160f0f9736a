"""The integer engine, bit for bit against plain Python integers, and against recorded outputs."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from streamflow_nodes.kernels.linear_rnn_fixed import HAS_VNNI, step_poles
from streamflow_nodes.linear_rnn.engine import FloatEngine
from streamflow_nodes.linear_rnn.fixed_engine import FixedEngine
from streamflow_nodes.linear_rnn.fixed_point import (
    BITS,
    Bits,
    largest_sum,
    quantised,
    quantised_matrix,
    sigmoid_table,
)
from streamflow_nodes.linear_rnn.model_file import read_model, write_model

from streamflow.errors import DeviceError

sys.path.insert(0, str(Path(__file__).parent))
import integer_reference
from linear_rnn_reference import stack

# no shrinking: a failure names its network, and each try takes long in plain Python
QUICK = (Phase.explicit, Phase.reuse, Phase.generate)
DATA = Path(__file__).resolve().parents[1] / "data" / "linear_rnn"


def noise(count, inputs, seed=0, loudness=1.0):
    frames = np.random.default_rng(seed).normal(0, loudness, (count, inputs)).astype(np.float32)
    frames.flags.writeable = False
    return frames


def network(path, seed, bits=BITS, frames=None, **changes):
    layers, tensors = stack(seed, **changes)
    model = write_model(path, layers, tensors)
    frames = noise(200, model.inputs, seed) if frames is None else frames
    metadata, integers = quantised(model, frames, bits)
    write_model(path, layers, {**tensors, **integers}, fixed_point=metadata)
    return read_model(path)


def same_as_plain_integers(engine, frames):
    expected, states = integer_reference.run(engine.fixed, frames)
    found = engine.run(frames)
    assert found.tobytes() == np.array(expected).astype(np.float32).tobytes()
    width = engine.state.size // max(1, 2 * len(states))
    kept = engine.state.reshape(len(states), 2, width)
    for layer, expected_state in zip(kept, states, strict=True):
        n = len(expected_state)
        assert layer[:, :n].T.tolist() == expected_state
        assert not layer[:, n:].any()  # the padding


@pytest.mark.parametrize("use_vnni", [False, True])
@settings(max_examples=12, phases=QUICK)
@given(data=st.data())
def test_states_and_outputs_are_those_of_plain_integers(tmp_path_factory, use_vnni, data):
    if use_vnni and not HAS_VNNI:
        pytest.skip("this CPU has no AVX-512 VNNI")
    draw = data.draw
    changes = {
        "inputs": draw(st.integers(1, 19)), "width": draw(st.integers(1, 40)),
        "states": draw(st.integers(1, 21)), "outputs": draw(st.integers(1, 19)),
        "count": draw(st.integers(0, 2)), "kind": draw(st.sampled_from(["s5", "lru"])),
        "state_activation": draw(st.sampled_from(["none", "relu_re"])),
        "activation": draw(st.sampled_from(["none", "relu"])),
        "final_activation": draw(st.sampled_from(["none", "relu"])),
        "gate": draw(st.sampled_from(["none", "half1"])), "skip": draw(st.booleans()),
        "decoder": draw(st.sampled_from(["none", "relu", "sigmoid"])),
    }  # fmt: skip
    bits = Bits(
        weights=draw(st.integers(3, 8)), activations=draw(st.integers(4, 16)),
        state=draw(st.integers(12, 31)),
        rounding=draw(st.sampled_from(["nearest", "zero", "floor"])),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("m") / "m.safetensors"
    seed = draw(st.integers(0, 1000))
    model = network(path, seed, {"w8a16": bits}, **changes)

    engine = FixedEngine(model, "w8a16", use_vnni=use_vnni)

    # beyond the calibration, too: what is clipped must be clipped alike
    same_as_plain_integers(engine, noise(25, model.inputs, seed + 1, 3.0))


@pytest.mark.parametrize(("mode", "least_db"), [("w8a16", 25.0), ("w8a8", 18.0)])
def test_integers_say_what_floats_say(tmp_path, mode, least_db):
    # a floor for random networks of independent weights; trained ones do better
    model = network(tmp_path / "m.safetensors", 5, width=40, states=21, count=3)
    frames = noise(400, model.inputs, 9)

    floats, integers = FloatEngine(model).run(frames), FixedEngine(model, mode).run(frames)

    error = ((floats - integers) ** 2).sum()
    assert 10 * np.log10((floats**2).sum() / error) > least_db


@settings(max_examples=8)
@given(cuts=st.lists(st.integers(0, 40), max_size=6), mode=st.sampled_from(["w8a16", "w8a8"]))
def test_frames_give_the_same_bits_however_they_are_cut(tmp_path_factory, cuts, mode):
    model = network(tmp_path_factory.mktemp("m") / "m.safetensors", 1)
    frames, edges = noise(40, model.inputs, 2), [0, *sorted(cuts), 40]
    whole = FixedEngine(model, mode).run(frames)

    first, second = FixedEngine(model, mode), FixedEngine(model, mode)
    parts = []
    for number, (start, stop) in enumerate(pairwise(edges)):
        engine = (first, second)[number % 2]
        other = (second, first)[number % 2]
        engine.restore(other.snapshot())
        parts.append(engine.run(frames[start:stop]))

    assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("mode", ["w8a16", "w8a8"])
def test_recorded_outputs_come_out_on_every_machine(mode):
    """Made by `python tests/linear_rnn/make_golden.py`, checked there against plain integers."""
    model = read_model(DATA / "golden.safetensors")
    with np.load(DATA / "golden.npz") as golden:
        frames, expected, state = golden["frames"], golden[mode], golden[f"{mode}_state"]
    frames.flags.writeable = False

    engine = FixedEngine(model, mode)

    assert engine.run(frames).tobytes() == expected.tobytes()
    assert engine.state.tobytes() == state.tobytes()


def test_the_tables_sigmoid_depends_on_no_rounding_of_exp():
    k = np.arange(-128, 130) / 16
    exact = 32768 / (1 + np.exp(-k))

    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-5
    assert sigmoid_table().tolist() == integer_reference.TABLE


def test_an_eigenvalue_that_reaches_1_in_its_bits_is_refused(tmp_path):
    layers, tensors = stack(0)
    # at 45 degrees, 90.51 of 128 in each part: 91 and 91 lie beyond the unit circle
    tensors["s5.1.lambda_re"][2] = -1e-6
    tensors["s5.1.lambda_im"][2] = np.pi / 4 / tensors["s5.1.dt"][2]
    model = write_model(tmp_path / "m.safetensors", layers, tensors)

    with pytest.raises(DeviceError, match=r"s5\.1, w8a16: state 2 becomes .*would not fade"):
        quantised(model, noise(50, model.inputs), {"w8a16": Bits(poles=8, rounding="zero")})


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("s5.0.poles", lambda a: np.full_like(a, 32767), "would not fade"),
        ("s5.0.poles", lambda a: a * 0 + np.array([[-32768], [0]], a.dtype), "would not fade"),
        ("s5.0.B", lambda a: a[:, 1:].copy(), "expected int8"),
        ("encoder.weight.bias", lambda a: np.full_like(a, (1 << 31) - 5), "sum can pass"),
        ("encoder.weight.exponents", lambda a: np.full_like(a, 60), "exponent beyond"),
        ("s5.1.gate", lambda a: a.astype(np.int16), "int16"),
        ("s5.1.C", lambda a: np.full_like(a, -128), r"beyond \+-127"),
    ],
)
def test_integers_that_break_a_rule_are_refused(tmp_path, name, change, says):
    model = network(tmp_path / "m.safetensors", 0)
    full = f"fixed_point.w8a16.{name}"
    tensors = {**model.tensors, full: change(model.tensors[full])}
    layers = [msgspec.to_builtins(layer) for layer in model.header.layers]
    spoilt = write_model(
        tmp_path / "m.safetensors", layers, tensors, fixed_point=model.header.fixed_point
    )

    with pytest.raises(DeviceError, match=says):
        FixedEngine(spoilt, "w8a16")


def test_a_row_whose_sum_could_overflow_is_made_coarser_until_it_cannot():
    rows, bias, inputs = np.ones((2, 4)), np.array([1500.0, 15.0]), (-32768, 32767)

    matrix = quantised_matrix(rows, bias, 8, 15, inputs, np.zeros(4))

    # 1500 2^(6 + 15) is 1.46 of 2^31; a bit less, and 0.73 of it, with room for four inputs
    assert matrix.exponents.tolist() == [5, 6]
    assert matrix.bias.tolist() == [1500 << 20, 15 << 21]
    assert (largest_sum(matrix.weights, matrix.bias, inputs) < 1 << 31).all()


def test_rounded_weights_give_the_same_at_the_mean_of_their_inputs():
    rng = np.random.default_rng(3)
    rows, bias, mean = rng.normal(size=(5, 200)), rng.normal(size=5), -3 + rng.normal(size=200)

    matrix = quantised_matrix(rows, bias, 8, 10, (-32768, 32767), mean)

    scale = 2.0**-matrix.exponents
    weights = matrix.weights * scale[:, None]
    assert np.abs((rows - weights) @ mean).max() > 0.02  # what the bias has to take up
    got = weights @ mean + matrix.bias * scale * 2.0**-10
    np.testing.assert_allclose(got, rows @ mean + bias, atol=1e-4)


def test_what_has_no_integers_says_how_to_make_them(tmp_path):
    layers, tensors = stack(0)
    model = write_model(tmp_path / "m.safetensors", layers, tensors)

    with pytest.raises(DeviceError, match=r"not quantised for w8a8 .*streamflow model quantise"):
        FixedEngine(model, "w8a8")


def test_a_tanh_has_no_rule_in_fixed_point(tmp_path):
    layers, tensors = stack(0, decoder="tanh")
    model = write_model(tmp_path / "m.safetensors", layers, tensors)

    with pytest.raises(DeviceError, match="decoder: activation tanh has no fixed-point rule"):
        quantised(model, noise(9, model.inputs))


def test_a_state_stays_within_its_bits():
    poles, state = np.zeros(2, np.int32), np.zeros(2, np.int32)
    drive = np.array([200, -200], np.int32)

    step_poles(poles, state, 1, 15, 0, 8, False, 0, -1000, 1000, drive)

    assert state.tolist() == drive.tolist() == [127, -128]
