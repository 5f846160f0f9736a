"""The file of linear RNNs: what is written is read, what is wrong is refused with its place."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.linear_rnn.model_file import Dense, read_model, write_model

from streamflow.errors import DeviceError

sys.path.insert(0, str(Path(__file__).parent))
from linear_rnn_reference import activate, run, stack


def computed(model, frames):
    """What the layers say, folded and discretised as they are."""
    values = np.asarray(frames, np.float64)
    for layer in model.layers:
        if isinstance(layer, Dense):
            values = activate(layer.activation, values @ layer.weight.T + layer.bias)
            continue
        x, out = np.zeros(layer.states, complex), []
        for u in values:
            x = layer.a * x + layer.b @ u + layer.input_bias
            h = np.where(x.real > 0, x, 0) if layer.state_activation == "relu_re" else x
            z = activate(layer.activation, (layer.c @ h).real + layer.d * u + layer.output_bias)
            if layer.gate_weight is not None:
                z = z * activate("sigmoid", layer.gate_weight @ z + layer.gate_bias)
            out.append(activate(layer.final_activation, u + z if layer.skip else z))
        values = np.array(out)
    return values


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kind": "lru", "state_activation": "none", "activation": "gelu_tanh"},
        {"norm": "none", "gate": "none", "skip": False, "final_activation": "tanh"},
    ],
)
def test_what_is_read_computes_what_was_written_with_the_norm_folded_exactly(tmp_path, changes):
    layers, tensors = stack(3, **changes)
    frames = np.random.default_rng(1).normal(0, 1, (60, 9))

    write_model(tmp_path / "a.safetensors", layers, tensors, front_end={"hop": 128})
    model = read_model(tmp_path / "a.safetensors")

    assert model.front_end == {"hop": 128}
    assert (model.inputs, model.outputs) == (9, 5)
    np.testing.assert_allclose(
        computed(model, frames), run(layers, tensors, frames), rtol=1e-9, atol=1e-11
    )


def test_mostly_zero_matrices_are_stored_by_rows_and_come_back_bit_for_bit(tmp_path):
    layers, tensors = stack(4, inputs=40, width=64, states=32)
    dense = write_model(tmp_path / "dense.safetensors", layers, tensors)
    rng = np.random.default_rng(0)
    for name, array in tensors.items():
        if array.ndim == 2:
            tensors[name] = np.where(rng.random(array.shape) < 0.9, 0, array).astype(np.float32)
            tensors[name][3] = 0  # a row without any

    write_model(tmp_path / "sparse.safetensors", layers, tensors)
    model = read_model(tmp_path / "sparse.safetensors")

    for name, array in tensors.items():
        assert model.tensors[name].tobytes() == array.tobytes(), name
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("dense", "sparse")]
    assert sizes[1] < 0.45 * sizes[0]
    assert dense.header.sparse == {}


def spoilt(tensors, name, array):
    return {**tensors, name: array}


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (lambda r, t: (r, spoilt(t, "s5.0.D", np.full(12, np.nan, "f4"))), "s5.0.D: numbers that"),
        (lambda r, t: (r, spoilt(t, "s5.1.B_im", np.zeros((7, 3), "f4"))), r"expected \(7, 12\)"),
        (
            lambda r, t: (r, spoilt(t, "s5.0.lambda_re", np.full(7, 1e-3, "f4"))),
            r"s5.0: \|A\| of state .*expected below 1",
        ),
        (lambda r, t: (r, spoilt(t, "s5.0.dt", np.full(7, -1, "f4"))), "above 0"),
        (
            lambda r, t: (r, spoilt(t, "s5.0.norm.variance", np.full(12, -1, "f4"))),
            "norm.variance: a variance of 0 or below",
        ),
        (lambda r, t: (r, spoilt(t, "s5.0.E", np.zeros(3, "f4"))), r"of no layer: \['s5.0.E'\]"),
        (lambda r, t: (r, spoilt(t, "encoder.bias", np.zeros(12, "i4"))), "dtype int32; expected"),
        (lambda r, t: (r[:1] + r[3:], {}), "no tensor encoder.weight"),
        (lambda r, t: ([*r, r[0]], t), "two layers have the same name"),
        (lambda r, t: ([r[1], r[0], *r[2:]], t), "layer encoder takes 9 numbers, and s5.0"),
        (lambda r, t: ([{**r[0], "type": "conv"}, *r[1:]], t), "conv"),
        (lambda r, t: ([{**r[0], "activaton": "relu"}, *r[1:]], t), "activaton"),
        (lambda r, t: ([], t), "length >= 1"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path, what, says):
    layers, tensors = what(*stack())

    with pytest.raises(DeviceError, match=says) as caught:
        write_model(tmp_path / "a.safetensors", layers, tensors)

    assert str(tmp_path / "a.safetensors") in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_ours_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    for data, says in [
        (b"", "not a readable"),
        (b"PK\3\4" + bytes(100), "its header has|not a readable"),
        (struct.pack("<Q", 1 << 40) + b"{}", "its header has"),
        (struct.pack("<Q", 2) + b"{}", "no metadata 'streamflow'"),
    ]:
        path.write_bytes(data)
        with pytest.raises(DeviceError, match=says):
            read_model(path)
    with pytest.raises(DeviceError, match="cannot be read"):
        read_model(tmp_path / "absent.safetensors")


@settings(max_examples=60)
@given(
    at=st.integers(0, 6000), with_byte=st.integers(0, 255), cut=st.one_of(st.none(), st.integers(0))
)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path_factory, at, with_byte, cut):
    path = tmp_path_factory.mktemp("m") / "a.safetensors"
    layers, tensors = stack(count=1)
    tensors["encoder.weight"][:, 1:] = 0  # a part by rows
    write_model(path, layers, tensors)
    data = bytearray(path.read_bytes())
    data[at % len(data)] = with_byte
    path.write_bytes(data if cut is None else data[: cut % len(data)])

    try:
        model = read_model(path)
    except DeviceError:
        return
    assert all(np.isfinite(array).all() for array in model.tensors.values())


def test_a_number_that_json_cannot_say_is_refused(tmp_path):
    layers, tensors = stack()
    with pytest.raises(DeviceError, match="front_end: a number that is not finite"):
        write_model(tmp_path / "a", layers, tensors, front_end={"floor": [1.0, float("inf")]})
