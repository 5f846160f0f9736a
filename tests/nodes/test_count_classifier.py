"""The count classifier applies its model to each burst, and refuses one that does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.classifiers.count_classifier import CountClassifier
from streamflow_nodes.particles.rows import PARTICLE

from streamflow.errors import NodeError
from streamflow.packet import EVENT
from streamflow.testing import drive, events

ROWS, COLUMNS, WINDOW = 3, 4, 600


def model(path, **changes):
    random = np.random.default_rng(0)
    features = 2 * ROWS * COLUMNS
    fields = {
        "weights": random.normal(size=(3, features)),
        "bias": random.normal(size=3),
        "mean": random.random(features),
        "scale": random.random(features) + 0.5,
        "grid": np.array([ROWS, COLUMNS]),
        "window_us": np.int64(WINDOW),
        "classes": np.array(["small", "large", "dust"]),
    }
    fields.update(changes)
    np.savez(path, **{name: value for name, value in fields.items() if value is not None})
    return fields


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.npz"
    model(path)
    return str(path)


def burst(seed=0, count=200, width=8, height=6, length=1000):
    random = np.random.default_rng(seed)
    array = np.zeros(count, EVENT)
    array["timestamp"] = np.sort(random.integers(5_000, 5_000 + length, count))
    array["x"], array["y"] = random.integers(0, width, count), random.integers(0, height, count)
    array["polarity"] = random.integers(0, 2, count)
    return events(array, width=width, height=height, start=5_000, stop=5_000 + length)


def expected_probabilities(fields, packet, factor):
    """The equation of the docstring, event by event."""
    image = np.zeros((2, ROWS, COLUMNS))
    middle = (packet.start + packet.stop) // 2
    for time, x, y, polarity in packet.data.array.tolist():
        if middle - WINDOW // 2 <= time < middle + WINDOW // 2:
            image[polarity, y // factor, x // factor] += 1
    power = fields.get("power", 0.5)
    standard = (image.reshape(-1) ** power - fields["mean"]) / fields["scale"]
    scores = fields["weights"] @ standard + fields["bias"]
    return np.exp(scores) / np.exp(scores).sum()


@pytest.mark.parametrize("seed", range(8))
def test_a_burst_gets_the_class_and_probability_of_the_equation(tmp_path, seed):
    fields = model(tmp_path / "m.npz")
    packet = burst(seed)

    rows = drive(CountClassifier({"model": str(tmp_path / "m.npz")}), bursts=[packet]).items(
        "particles"
    )

    expected = expected_probabilities(fields, packet, 2)
    assert rows.dtype == PARTICLE
    assert rows["class"][0].decode() == fields["classes"][expected.argmax()]
    assert rows["probability"][0] == pytest.approx(expected.max(), rel=1e-9)


def test_a_model_may_ask_for_the_counts_themselves(tmp_path):
    fields = model(tmp_path / "m.npz", power=np.float64(1))
    packet = burst()

    rows = drive(CountClassifier({"model": str(tmp_path / "m.npz")}), bursts=[packet]).items(
        "particles"
    )

    expected = expected_probabilities(fields, packet, 2)
    assert rows["probability"][0] == pytest.approx(expected.max(), rel=1e-9)
    assert rows["class"][0].decode() == fields["classes"][expected.argmax()]


def test_a_row_says_when_and_from_what_it_was_decided(model_file):
    packet = burst()

    (row,) = drive(CountClassifier({"model": model_file}), bursts=[packet]).items("particles")

    array = packet.data.array
    assert (row["time_us"], row["start_us"], row["stop_us"]) == (5_500, 5_000, 6_000)
    assert row["decided_us"] == 6_000
    assert row["events"] == 200
    assert row["on_fraction"] == pytest.approx(array["polarity"].mean())
    assert row["x"] == pytest.approx(array["x"].mean())
    assert row["y"] == pytest.approx(array["y"].mean())
    far = np.hypot(array["x"] - array["x"].mean(), array["y"] - array["y"].mean()) > 1.5
    assert row["outer_events"] == far.sum()
    times = array["timestamp"]
    most = max(((times > t - 100) & (times <= t)).sum() for t in times)
    assert row["peak_rate"] == pytest.approx(most * 1e4)
    assert row["width_us"] == times[180] - times[20]


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(6)))
def test_each_burst_is_decided_for_itself_whatever_came_before(order, tmp_path_factory):
    path = str(tmp_path_factory.getbasetemp() / "shared.npz")
    model(path)
    alone = [
        drive(CountClassifier({"model": path}), bursts=[burst(seed)]).items("particles")
        for seed in range(6)
    ]

    together = drive(CountClassifier({"model": path}), bursts=[burst(seed) for seed in order])

    assert [row.tobytes() for row in together.items("particles")] == [
        alone[seed][0].tobytes() for seed in order
    ]


def test_a_burst_without_events_still_gives_a_row(model_file):
    (row,) = drive(CountClassifier({"model": model_file}), bursts=[burst(count=0)]).items(
        "particles"
    )

    assert row["events"] == 0


def test_events_outside_the_sensor_are_left_out_and_counted(model_file):
    packet = burst()
    packet.data.array["x"][:5] = 20
    packet.data.array["timestamp"][:] = 5_500

    out = drive(CountClassifier({"model": model_file}), bursts=[packet])

    assert out.faults["outside_sensor"] == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": None}, r"has no \['bias'\]"),
        ({"weights": np.zeros((3, 7))}, r"weights has shape \(3, 7\); expected \(3, 24\)"),
        ({"mean": np.full(24, np.nan)}, "mean has shape .* finite"),
        ({"scale": np.zeros(24)}, "scale must be above 0"),
        ({"grid": np.array([3])}, "grid"),
        ({"classes": np.array(["a", "a", "b"])}, "two or more different names"),
        ({"classes": np.array(["a", "b" * 17, "c"])}, "1 to 16 printable ASCII"),
    ],
)
def test_a_model_that_is_not_whole_is_refused_when_opened(tmp_path, changes, message):
    path = tmp_path / "model.npz"
    model(path, **changes)

    with pytest.raises(NodeError, match=message):
        CountClassifier({"model": str(path)}).open()


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("not a model")
    np.savez(tmp_path / "pickle.npz", weights=np.array([{}], dtype=object))

    for name in ("text.npz", "pickle.npz"):
        with pytest.raises(NodeError, match="not a readable model"):
            CountClassifier({"model": str(tmp_path / name)}).open()
    with pytest.raises(NodeError, match="no such file"):
        CountClassifier({"model": str(tmp_path / "missing.npz")}).open()


@pytest.mark.parametrize(("width", "height"), [(9, 6), (8, 7), (12, 6), (2, 2)])
def test_a_sensor_that_does_not_fit_the_grid_is_refused(model_file, width, height):
    with pytest.raises(NodeError, match=f"grid of 4x3 and the sensor {width}x{height}"):
        drive(CountClassifier({"model": model_file}), bursts=[burst(width=width, height=height)])


def test_a_burst_shorter_than_the_model_looks_at_is_refused(model_file):
    with pytest.raises(NodeError, match="looks at 600 us and the burst lasts 400 us"):
        drive(CountClassifier({"model": model_file}), bursts=[burst(length=400)])
