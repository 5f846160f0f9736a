"""The float engine against complex128, over long streams, cut anywhere."""

from __future__ import annotations

import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.kernels.linear_rnn import sigmoid
from streamflow_nodes.linear_rnn.engine import FloatEngine
from streamflow_nodes.linear_rnn.model_file import write_model

sys.path.insert(0, str(Path(__file__).parent))
from linear_rnn_reference import run, stack


@cache
def engine(folder, **changes):
    layers, tensors = stack(5, inputs=17, width=40, states=21, outputs=33, **changes)
    return FloatEngine(write_model(folder / "m.safetensors", layers, tensors)), layers, tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def noise(count, inputs=17, seed=0):
    frames = np.random.default_rng(seed).normal(0, 1, (count, inputs)).astype(np.float32)
    frames.flags.writeable = False
    return frames


@pytest.mark.parametrize(
    ("count", "changes"),
    [
        (10_000, {}),
        (1_000, {"kind": "lru", "state_activation": "none", "activation": "gelu_tanh"}),
        (1_000, {"norm": "none", "gate": "none", "skip": False, "final_activation": "tanh",
         "decoder": "sigmoid"}),
    ],
)  # fmt: skip
def test_ten_thousand_frames_stay_within_1e_5_of_complex128(folder, count, changes):
    ours, layers, tensors = engine(folder, **changes)
    frames = noise(count)
    ours.reset()

    found, expected = ours.run(frames), run(layers, tensors, frames)

    # the complex ReLU is not continuous where Re x = 0: on another CPU a state within rounding of
    # it may pass on one side only. That is a frame or two, not a drift; here it is none.
    off = np.abs(found - expected).max(axis=1) > 1e-5
    assert off.sum() <= (2 if not changes else 0)
    assert not off[-100:].any()


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 60), max_size=8))
def test_frames_give_the_same_bits_however_they_are_cut(folder, cuts):
    ours, _, _ = engine(folder)
    frames = noise(60, seed=1)
    ours.reset()
    whole = ours.run(frames)

    ours.reset()
    edges = [0, *sorted(cuts), 60]
    parts = [ours.run(frames[a:b]) for a, b in pairwise(edges)]

    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_a_snapshot_goes_on_where_it_was_taken(folder):
    ours, _, _ = engine(folder)
    frames = noise(50, seed=2)
    ours.reset()
    ours.run(frames[:20])
    state = ours.snapshot()
    rest = ours.run(frames[20:])

    ours.run(noise(30, seed=3))
    ours.restore(state)

    assert ours.run(frames[20:]).tobytes() == rest.tobytes()


def test_operations_are_counted_where_neither_weight_nor_input_is_0(tmp_path):
    layers, tensors = stack(6, inputs=8, width=16, states=4, outputs=3, count=0)
    rng = np.random.default_rng(0)
    for name in ("encoder.weight", "decoder.weight"):
        tensors[name] = np.where(rng.random(tensors[name].shape) < 0.5, 0, tensors[name])
    ours = FloatEngine(write_model(tmp_path / "m.safetensors", layers, tensors))
    frames = np.where(rng.random((40, 8)) < 0.5, 0, noise(40, 8)).astype(np.float32)
    frames.flags.writeable = False

    ours.run(frames)

    hidden = np.maximum(frames @ tensors["encoder.weight"].T + tensors["encoder.bias"], 0)
    for layer, values in (("encoder", frames), ("decoder", hidden)):
        at = ["encoder", "decoder"].index(layer)
        used = (tensors[f"{layer}.weight"] != 0).astype(int) @ (values != 0).T.astype(int)
        assert ours.operations[at] == used.sum()


def test_the_sigmoid_is_within_2e_7_everywhere():
    x = np.concatenate([np.linspace(-100, 100, 4001), [-1e30, 1e30, 0]]).astype(np.float32)

    found = np.array([sigmoid(value) for value in x])

    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-7)
