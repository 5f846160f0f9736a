"""What a classifier's outputs stand for becomes particles, flags and diameters."""

from __future__ import annotations

import itertools

import nir
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.classifiers.count_classifier import CountClassifier
from streamflow_nodes.classifiers.spiking_classifier import SpikingClassifier
from streamflow_nodes.kernels.read_out import DEBRIS as IS_DEBRIS
from streamflow_nodes.kernels.read_out import NO_SECOND, NOTHING, read_out
from streamflow_nodes.particles.model_outputs import Readout
from streamflow_nodes.particles.rows import ABORTED, DEBRIS, DOUBLET, LATE, MERGED, OVERLAP

from streamflow.errors import NodeError
from streamflow.packet import EVENT
from streamflow.testing import drive, events

OUTPUTS = [
    "nothing", "A", "B", "debris", "A+A", "A+B", "B+A", "B+B",
    "overlap", "doublet", "offset_us", "second_offset_us", "diameter_um", "second_diameter_um",
]  # fmt: skip


def burst(count=200):
    random = np.random.default_rng(0)
    array = np.zeros(count, EVENT)
    array["timestamp"] = np.sort(random.integers(5_000, 6_000, count))
    array["x"], array["y"] = random.integers(0, 8, count), random.integers(0, 6, count)
    array["polarity"] = random.integers(0, 2, count)
    return events(array, width=8, height=6, start=5_000, stop=6_000)


def scores(**values):
    """Logits of -9 but for those that are named; measures of 0."""
    out = {name: -9.0 if index < 10 else 0.0 for index, name in enumerate(OUTPUTS)}
    return out | {name.replace("_and_", "+"): value for name, value in values.items()}


def model(path, values, **changes):
    """A linear model that gives the same outputs for every burst."""
    fields = {
        "weights": np.zeros((len(values), 24)),
        "bias": np.array(list(values.values()), float),
        "mean": np.zeros(24),
        "scale": np.ones(24),
        "grid": np.array([3, 4]),
        "window_us": np.int64(600),
        "classes": np.array(["A", "B"]),
        "outputs": np.array(list(values)),
    }
    np.savez(path, **(fields | changes))
    return str(path)


def decided(folder, values, **chosen):
    node = CountClassifier({"model": model(folder / "m.npz", values), **chosen})
    return drive(node, bursts=[burst()])


def slow_read_out(values, first, second, none_from, two_from):
    """The docstring's words, one after the other."""
    p = np.exp(values - values.max())
    p /= p.sum()
    groups = list(zip(first, second, p, strict=True))
    if sum(x for a, b, x in groups if a == NOTHING) >= none_from:
        return []
    pairs = [(a, b, x) for a, b, x in groups if b != NO_SECOND]
    every = sum(x for *_, x in pairs)
    if pairs and every >= two_from:
        a, b, _ = max(pairs, key=lambda pair: pair[2])
        return [
            (a, sum(x for c, _, x in pairs if c == a) / every),
            (b, sum(x for _, c, x in pairs if c == b) / every),
        ]
    q = {}
    for name in range(max(first) + 1):
        alone = sum(x for a, b, x in groups if a == name and b == NO_SECOND)
        q[name] = alone + sum(x * (int(a == name) + int(b == name)) / 2 for a, b, x in pairs)
    best = max(q, key=lambda name: q[name])
    return [(best, q[best] / sum(q.values()))]


@settings(deadline=None, max_examples=200)
@given(
    values=st.lists(st.floats(-6, 6), min_size=8, max_size=8),
    thresholds=st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)),
)
def test_scores_give_the_particles_that_the_docstring_says(values, thresholds):
    first = np.array([NOTHING, 0, 1, IS_DEBRIS, 0, 0, 1, 1])
    second = np.array([NO_SECOND] * 4 + [0, 1, 0, 1])
    shares, out = np.empty(3), np.empty((2, 2))

    count = read_out(np.array(values), first, second, *thresholds, shares, out)
    same = read_out.py_func(np.array(values), first, second, *thresholds, shares, np.empty((2, 2)))

    expected = slow_read_out(np.array(values), first, second, *thresholds)
    assert count == same == len(expected)
    for row, (_, probability) in zip(out[:count], expected, strict=True):
        assert row[1] == pytest.approx(probability)
    assert shares.sum() <= 1 + 1e-9


def test_a_burst_that_holds_nothing_gives_no_row(tmp_path):
    assert not decided(tmp_path, scores(nothing=9))["particles"]


def test_a_single_particle_has_its_own_time_and_diameter(tmp_path):
    (row,) = decided(tmp_path, scores(B=5, offset_us=-40, diameter_um=19.5)).items("particles")

    assert (row["class"], row["time_us"], row["diameter_um"]) == (b"B", 5_460, 19.5)
    assert row["flags"] == 0


def test_two_particles_in_one_burst_are_two_rows_in_the_order_of_time(tmp_path):
    values = scores(
        B_and_A=5, offset_us=-60, second_offset_us=20, diameter_um=20, second_diameter_um=16
    )

    rows = decided(tmp_path, values).items("particles")

    assert rows["class"].tolist() == [b"B", b"A"]
    assert rows["time_us"].tolist() == [5_440, 5_520]
    assert rows["diameter_um"].tolist() == [20, 16]
    assert (rows["flags"] == OVERLAP).all()


@pytest.mark.parametrize(
    ("values", "chosen", "flags"),
    [
        ({"A": 5, "overlap": 1}, {}, OVERLAP),
        ({"A": 5, "doublet": 1}, {}, DOUBLET),
        ({"A": 1, "debris": 6}, {}, DEBRIS | ABORTED),
        ({"A": 5, "A_and_A": 4}, {}, MERGED | ABORTED),
        ({"A": 5}, {"deadline": 400}, LATE | ABORTED),
        ({"A": 5, "B": 4.5}, {"act_above": 0.9}, ABORTED),
    ],
)
def test_what_is_odd_about_a_particle_is_flagged(tmp_path, values, chosen, flags):
    out = decided(tmp_path, scores(**values), **chosen)

    (row,) = out.items("particles")
    assert row["class"] == b"A"
    assert row["flags"] == flags
    assert out.faults["late"] == (1 if flags & LATE else 0)


def test_a_model_without_names_says_nothing_of_diameters(tmp_path):
    (row,) = decided(tmp_path, {"A": 0.0, "B": 1.0}).items("particles")

    assert row["class"] == b"B"
    assert row["probability"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert np.isnan(row["diameter_um"])


def test_slices_of_the_window_are_counted_apart(tmp_path):
    random = np.random.default_rng(1)
    weights = random.normal(size=(2, 72))
    path = model(
        tmp_path / "m.npz", {"A": 0.0, "B": 0.0}, weights=weights, mean=np.zeros(72),
        scale=np.ones(72), slices=np.int64(3),
    )  # fmt: skip
    packet = burst()

    (row,) = drive(CountClassifier({"model": path}), bursts=[packet]).items("particles")

    counts = np.zeros((3, 2, 3, 4))
    for time, x, y, polarity in packet.data.array.tolist():
        if 5_200 <= time < 5_800:
            counts[(time - 5_200) // 200, polarity, y // 2, x // 2] += 1
    powers = np.exp(weights @ np.sqrt(counts).reshape(-1))
    assert row["probability"] == pytest.approx(powers.max() / powers.sum())


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["A", "B", "C"], "has an output 'C'; expected a class"),
        (["A", "B", "A+C"], "has an output 'A[+]C'"),
        (["A", "overlap", "B"], "expected measures to come last"),
        (["A", "nothing"], "lack the class 'B'"),
    ],
)
def test_outputs_that_mean_nothing_are_refused(outputs, message):
    with pytest.raises(NodeError, match=message):
        Readout(CountClassifier({"model": "-"}), outputs, ["A", "B"], deadline=1, act_above=0)


def test_a_network_names_its_outputs_in_its_metadata(tmp_path):
    nodes = {
        "input": nir.Input(np.array([2, 3, 4])),
        "flat": nir.Flatten(np.array([2, 3, 4]), 0, -1),
        "scores": nir.Affine(np.zeros((len(OUTPUTS), 24)), np.zeros(len(OUTPUTS))),
        "output": nir.Output(np.array([len(OUTPUTS)])),
    }
    values = scores(A=5, diameter_um=16.5)
    nodes["scores"].bias = np.array(list(values.values())) / 12  # summed over 12 steps
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False)
    graph.metadata = {"outputs": ",".join(OUTPUTS)}
    nir.write(tmp_path / "m.nir", graph)

    node = SpikingClassifier({"model": str(tmp_path / "m.nir"), "classes": ["A", "B"]})
    (row,) = drive(node, bursts=[burst()]).items("particles")

    assert row["class"] == b"A"
    assert row["diameter_um"] == pytest.approx(16.5)
