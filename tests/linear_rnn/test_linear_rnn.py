"""The node `linear_rnn`: tensors in, tensors out, one network for a whole stream."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from streamflow_nodes.linear_rnn.model_file import read_model, write_model
from streamflow_nodes.processors.linear_rnn import Durations, LinearRnn

from streamflow.errors import NodeError
from streamflow.packet import Packet, Tensor
from streamflow.testing import drive

sys.path.insert(0, str(Path(__file__).parent))
from linear_rnn_reference import run, stack

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "linear_rnn" / "golden.safetensors"
STEP = 8000


def packets(frames, *edges):
    edges = [0, *edges, len(frames)]
    return [
        Packet(a * STEP, b * STEP, Tensor(frames[a:b].copy(), ("time", "feature"), STEP))
        for a, b in pairwise(edges)
    ]


@pytest.fixture
def frames():
    return np.random.default_rng(3).normal(0, 1, (30, 19)).astype(np.float32)


@pytest.mark.parametrize("precision", ["f32", "w8a16", "w8a8"])
def test_the_outputs_do_not_depend_on_packets_and_stand_at_the_frames_times(frames, precision):
    settings = {"model": str(GOLDEN), "precision": precision}

    whole = drive(LinearRnn(settings), frames=packets(frames))
    cut = drive(LinearRnn(settings), frames=packets(frames, 1, 2, 2, 17))

    assert cut.items("values").tobytes() == whole.items("values").tobytes()
    assert [(p.start, p.stop) for p in cut["values"]] == [
        (a * STEP, b * STEP) for a, b in [(0, 1), (1, 2), (2, 17), (17, 30)]
    ]
    assert whole["values"][0].data.axes == ("time", "feature")
    assert whole["values"][0].data.step == STEP


def test_it_computes_the_network_that_its_file_describes(tmp_path, frames):
    layers, tensors = stack(2, inputs=19)
    write_model(tmp_path / "m.safetensors", layers, tensors)

    out = drive(LinearRnn({"model": str(tmp_path / "m.safetensors")}), frames=packets(frames))

    np.testing.assert_allclose(out.items("values"), run(layers, tensors, frames), atol=1e-5)


def test_a_restored_node_goes_on_as_if_nothing_had_been(frames):
    settings = {"model": str(GOLDEN), "precision": "w8a8"}
    whole = drive(LinearRnn(settings), frames=packets(frames))
    first, second = LinearRnn(settings), LinearRnn(settings)

    before = drive(first, frames=packets(frames[:12]), end=False)
    second.open()
    second.restore(first.snapshot())
    after = drive(second, frames=packets(frames[12:]), opened=True)

    joined = np.concatenate([before.items("values"), after.items("values")])
    assert joined.tobytes() == whole.items("values").tobytes()
    assert after.results["frames"] == 30


def test_values_that_are_not_finite_are_counted_and_do_not_stay(frames):
    spoilt = frames.copy()
    spoilt[4, 3], spoilt[4, 5], spoilt[9, 0] = np.nan, np.inf, -np.inf
    mended = np.where(np.isfinite(spoilt), spoilt, 0)

    out = drive(LinearRnn({"model": str(GOLDEN)}), frames=packets(spoilt))
    same = drive(LinearRnn({"model": str(GOLDEN)}), frames=packets(mended))

    assert out.faults["not_finite"] == 2
    assert out.items("values").tobytes() == same.items("values").tobytes()


def test_frames_beyond_the_range_of_the_integers_are_counted(frames):
    loud = frames.copy()
    loud[[2, 7]] *= 100

    out = drive(LinearRnn({"model": str(GOLDEN), "precision": "w8a16"}), frames=packets(loud))

    assert out.faults["clipped"] == 2


def test_the_results_say_how_much_was_computed(frames):
    out = drive(LinearRnn({"model": str(GOLDEN)}), frames=packets(frames))
    results = out.results

    model = read_model(GOLDEN)
    weights = sum(
        a.size for n, a in model.tensors.items()
        if a.ndim == 2 and not n.startswith("fixed_point.")
    )  # fmt: skip
    assert results["weights"] == weights
    assert results["weights_not_zero"] == weights
    assert 0 < results["synaptic_operations"] < weights
    assert results["neuron_operations"] == 33 + 2 * (2 * 18 + 2 * 33) + 21
    proxy = (results["synaptic_operations"] + 10 * results["neuron_operations"]) * 125 / 1e6
    assert results["power_proxy_mops"] == pytest.approx(proxy, abs=1e-3)
    assert results["frame_us"]["p50"] > 0


def test_a_tensor_that_is_not_frames_is_refused_with_what_is_expected(frames):
    with pytest.raises(NodeError, match=r"19 features"):
        drive(LinearRnn({"model": str(GOLDEN)}), frames=packets(frames[:, :7]))


def test_the_histogram_of_durations_is_right_within_its_bins():
    durations, values = Durations(), np.random.default_rng(0).lognormal(3, 1, 5000)
    for value in values:
        durations.add(float(value), 1)

    for name, share in (("p50", 50), ("p99", 99), ("p999", 99.9)):
        exact = np.percentile(values, share, method="inverted_cdf")
        assert 0.98 * exact <= durations.figures()[name] <= 1.03 * exact  # a bin, and a neighbour
    assert durations.figures()["max"] == pytest.approx(values.max(), abs=0.01)
