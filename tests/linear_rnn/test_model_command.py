"""`streamflow model show | check | quantise` for linear RNNs, as a user calls them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from streamflow_nodes.linear_rnn.model_file import read_model, write_model
from streamflow_nodes.model_command import command

sys.path.insert(0, str(Path(__file__).parent))
from linear_rnn_reference import stack


def call(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path):
    layers, tensors = stack(8, width=24, states=16)
    tensors["s5.0.gate.weight"][:, ::2] = 0
    write_model(
        tmp_path / "m.safetensors", layers, tensors, about={"licence": "none"},
        front_end={"rate": 16000, "hop": 128, "window": 512},
    )  # fmt: skip
    frames = np.random.default_rng(0).normal(0, 1, (150, 9))
    np.save(tmp_path / "frames.npy", frames)
    return tmp_path / "m.safetensors"


def test_show_says_layers_weights_operations_and_precisions(model):
    facts = json.loads(call("show", model, "--json").output)
    text = call("show", model).output

    assert [layer["name"] for layer in facts["layers"]] == ["encoder", "s5.0", "s5.1", "decoder"]
    assert facts["layers"][1]["weights"] == 4 * 24 * 16 + 24 * 24
    assert facts["layers"][1]["weights_not_zero"] == 4 * 24 * 16 + 24 * 12
    assert facts["layers"][1]["density"]["gate.weight"] == 0.5
    assert facts["precisions"] == ["f32"]
    assert facts["frames_a_second"] == 125
    power = (facts["weights_not_zero"] + 10 * facts["neuron_operations"]) * 125 / 1e6
    assert facts["power_proxy_mops_at_most"] == pytest.approx(power, abs=1e-3)
    assert facts["pdp_proxy_mop_at_most"] == pytest.approx(power * 0.032, abs=1e-3)
    assert "s5.1" in text
    assert "licence: none" in text


def test_quantise_makes_one_file_of_three_precisions_and_says_what_is_lost(model):
    before = read_model(model).tensors

    out = call("quantise", model, "--calibrate", model.with_name("frames.npy"), "--sweep", "--json")
    report = json.loads(out.output)

    after = read_model(model)
    assert sorted(after.header.fixed_point) == ["w8a16", "w8a8"]
    assert all(after.tensors[name].tobytes() == array.tobytes() for name, array in before.items())
    assert after.front_end == {"rate": 16000, "hop": 128, "window": 512}
    assert report["snr_db"]["w8a16"] > report["snr_db"]["w8a8"] > 15
    weights = [report["sweep"]["weights"][bits] for bits in "8654"]
    assert weights == sorted(weights, reverse=True)
    assert report["sweep"]["state"]["24"] > report["sweep"]["state"]["8"] + 6
    assert call("check", model).output.strip().endswith("precisions: f32, w8a16, w8a8")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((5, 8)), r"expected (frames, 9)"),
        (np.full((5, 9), np.nan), "not finite"),
        (np.array(["a"]), "real numbers"),
    ],
)
def test_frames_that_do_not_fit_are_refused(model, array, says):
    np.save(model.with_name("frames.npy"), array)

    out = call("quantise", model, "--calibrate", model.with_name("frames.npy"))

    assert out.exit_code == 1
    assert says in out.output
