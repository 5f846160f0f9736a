"""Recordings named here are simulated (CC0): a hot pixel at 500 Hz among bursts of particles."""

import csv
from pathlib import Path

import numpy as np
import pytest
from streamflow_nodes.processors.hot_pixels import HotPixels

from streamflow.errors import NodeError
from streamflow.packet import EVENT
from streamflow.testing import cut, drive, events

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cytometry"


def in_time_order(*parts):
    rows = np.concatenate([np.array(part, EVENT).view(np.int64).reshape(-1, 2) for part in parts])
    return rows[np.argsort(rows[:, 0], kind="stable")].reshape(-1).view(EVENT)


def fires(x, y, hertz, seconds, start=0):
    times = start + np.arange(int(hertz * seconds)) * int(1e6 / hertz)
    return [(int(t), x, y, 1) for t in times]


def bursts(hertz, seconds):
    """Every pixel of a 16x12 sensor fires four times in each burst of 0.4 ms."""
    rows = []
    for number in range(int(hertz * seconds)):
        start = 700 + int(number * 1e6 / hertz)
        for turn in range(4):
            rows += [
                (start + 100 * turn + (x + y) % 7, x, y, 1) for x in range(16) for y in range(12)
            ]
    return rows


def run(array, **setting):
    packet = events(array, width=16, height=12)
    return drive(HotPixels(setting), events=cut(packet, 1000))


def test_a_pixel_that_fires_alone_is_removed_once_it_was_seen_often_enough():
    out = run(in_time_order(fires(5, 5, 500, 2.0)))

    assert out.results["hot_pixels"] == [[5, 5]]
    # forty events alone make 20 a second over 2 s; decay and the first event add a few
    assert 40 <= len(out.items("kept")) <= 50


def test_a_signal_is_not_hot_however_often_its_pixels_fire():
    signal = bursts(200, 3)

    out = run(in_time_order(signal))

    assert out.results == {"hot_pixels": [], "removed": 0}
    assert len(out.items("kept")) == len(signal)


def test_a_hot_pixel_is_found_among_bursts_and_only_it():
    out = run(in_time_order(bursts(100, 3), fires(8, 6, 503, 3.0)))

    assert out.results["hot_pixels"] == [[8, 6]]
    kept = out.items("kept")
    others = (kept["x"] != 8) | (kept["y"] != 6)
    assert others.sum() == len(bursts(100, 3)) * 191 // 192


def irregular(pixels, hertz, count):
    draw = np.random.default_rng(3)
    return in_time_order(
        *(
            [(int(t), x, y, 1) for t in np.cumsum(draw.exponential(1e6 / hertz, count))]
            for x, y in pixels
        )
    )


def test_two_hot_pixels_side_by_side_are_both_found():
    out = run(irregular([(3, 3), (4, 4)], 500, 2000))

    assert out.results["hot_pixels"] == [[3, 3], [4, 4]]


def test_a_clump_of_hot_pixels_is_found_at_a_lower_rate():
    clump = irregular([(3, 3), (4, 3), (4, 4)], 500, 4000)

    assert run(clump, rate=10.0).results["hot_pixels"] == [[3, 3], [4, 3], [4, 4]]


def test_a_pixel_that_calms_down_is_given_back():
    later = fires(5, 5, 1, 10, start=2_000_000)

    out = run(in_time_order(fires(5, 5, 500, 1.0), later))

    assert out.results["hot_pixels"] == []
    assert out.items("kept")["timestamp"][-1] == later[-1][0]


def test_ordinary_noise_loses_nothing():
    draw = np.random.default_rng(5)
    array = np.zeros(20_000, EVENT)  # 192 pixels at 5 Hz
    array["timestamp"] = np.sort(draw.integers(0, 20_000_000, 20_000))
    array["x"], array["y"] = draw.integers(0, 16, 20_000), draw.integers(0, 12, 20_000)

    assert run(array).results == {"hot_pixels": [], "removed": 0}


def test_a_limit_of_a_single_event_is_refused():
    with pytest.raises(NodeError, match=r"is 1.0 events.*expected at least 2"):
        HotPixels({"rate": 10.0, "memory": 0.1}).open()


@pytest.mark.parametrize("name", ["A1", "mixed_50", "mixed_200"])
def test_beads_keep_their_events_and_the_hot_pixel_goes(name):
    faery = pytest.importorskip("faery", reason="faery is not installed: EVT3 cannot be read")
    if not (DATA / f"{name}.raw").exists():
        pytest.skip(f"the simulated recording {name}.raw is not at {DATA}")
    raw = faery.events_stream_from_file(DATA / f"{name}.raw", dimensions_fallback=(64, 48))
    raw = raw.to_array()
    array = np.zeros(len(raw), EVENT)
    for column, theirs in zip(EVENT.names, ("t", "x", "y", "on"), strict=True):
        array[column] = raw[theirs]
    is_particle = np.zeros(int(array["timestamp"][-1]) + 10_000, bool)
    with open(DATA / f"{name}.truth.csv") as file:
        for row in csv.DictReader(file):
            is_particle[max(0, int(row["start_us"]) - 1000) : int(row["stop_us"]) + 1000] = True
    inside = is_particle[array["timestamp"]]
    pixel = array["y"].astype(np.int64) * 64 + array["x"]
    rate = np.bincount(pixel[~inside], minlength=64 * 48) / (~is_particle).sum() * 1e6
    hot = int(rate.argmax())
    assert rate[hot] > 400
    assert np.sort(rate)[-2] < 10

    out = drive(HotPixels(), events=cut(events(array, width=64, height=48), 4096))

    kept = out.items("kept")
    kept_pixel = kept["y"].astype(np.int64) * 64 + kept["x"]
    kept_inside = is_particle[kept["timestamp"]]
    assert [hot % 64, hot // 64] in out.results["hot_pixels"]
    # measured: 1.0000, 1.0000 and 0.9993 of the beads' events
    assert (kept_inside & (kept_pixel != hot)).sum() > 0.999 * (inside & (pixel != hot)).sum()
    last_second = kept["timestamp"] > array["timestamp"][-1] - 1_000_000
    assert not (last_second & (kept_pixel == hot)).any()
