"""Bursts are cut where particles pass, whatever the packets look like."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.processors.burst_trigger import BurstTrigger, BurstTriggerSettings
from streamflow_nodes.sources.event_file import EventFile

from streamflow.errors import NodeError
from streamflow.packet import EVENT
from streamflow.testing import cut, drive, events

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cytometry"
SMALL = {"contrast": 20, "minimum_events": 10}


def passage(centre, count=400, spread=150, seed=0):
    """ON events before `centre`, OFF events after it."""
    random = np.random.default_rng(seed)
    distance = np.abs(random.normal(0, spread, count)).astype(np.int64) + 1
    on = random.integers(0, 2, count).astype(bool)
    array = np.zeros(count, EVENT)
    array["timestamp"] = np.where(on, centre - distance, centre + distance)
    array["x"], array["y"] = random.integers(0, 64, count), random.integers(0, 48, count)
    array["polarity"] = on
    return array


def noise(count, until, seed=1):
    random = np.random.default_rng(seed)
    array = np.zeros(count, EVENT)
    array["timestamp"] = random.integers(0, until, count)
    array["x"], array["y"] = random.integers(0, 64, count), random.integers(0, 48, count)
    array["polarity"] = random.integers(0, 2, count)
    return array


def stream(*parts):
    array = np.concatenate(parts).astype(EVENT)  # concatenating drops the layout's padding
    array = array[np.argsort(array["timestamp"], kind="stable")]
    return events(array, width=64, height=48)


def spans(driven):
    return [(p.start, p.stop, p.data.array.tolist()) for p in driven["bursts"]]


def expected_bursts(array, *, step, half, guard, contrast, reach, least):
    """The definition, centre by centre: slow and obvious."""
    time, sign = array["timestamp"], np.where(array["polarity"] == 1, 1, -1)
    first, last = int(time[0]) // step - 2 * half, int(time[-1]) // step + 2 * half
    value = {}
    for c in range(first - guard, last + guard + 1):
        before = sign[(time >= (c - half) * step) & (time < c * step)].sum()
        after = sign[(time >= c * step) & (time < (c + half) * step)].sum()
        value[c] = int(before - after)
    bursts = []
    for c in range(first, last + 1):
        earlier = [value.get(c - k, -1) for k in range(1, guard + 1)]
        later = [value.get(c + k, -1) for k in range(1, guard + 1)]
        is_peak = all(value[c] > v for v in earlier) and all(value[c] >= v for v in later)
        inside = (time >= c * step - reach) & (time < c * step + reach)
        if value[c] >= contrast and is_peak and inside.sum() >= least:
            bursts.append((c * step - reach, c * step + reach, array[inside].tolist()))
    return bursts


def test_a_passage_gives_one_burst_centred_where_on_turns_into_off():
    out = drive(BurstTrigger(), events=cut(stream(passage(5_000, spread=100)), 100))

    (burst,) = out["bursts"]
    assert (burst.start + burst.stop) / 2 == pytest.approx(5_000, abs=20)
    assert burst.stop - burst.start == 1_000
    assert len(burst.data) == 400


def test_two_overlapping_passages_give_a_burst_each_and_share_their_events():
    both = stream(passage(5_000, spread=80), passage(5_500, spread=80, seed=2))

    out = drive(BurstTrigger(), events=[both])

    centres = [(burst.start + burst.stop) / 2 for burst in out["bursts"]]
    assert centres == pytest.approx([5_000, 5_500], abs=40)
    assert out["bursts"][1].start < out["bursts"][0].stop
    assert len(out.items("bursts")) > len(both.data)


def test_noise_at_the_rate_of_a_busy_sensor_gives_no_burst():
    out = drive(BurstTrigger(), events=cut(stream(noise(50_000, 1_000_000)), 4096))

    assert not out["bursts"]


def test_silence_closes_the_last_window():
    node = BurstTrigger()
    node.open()
    packet = stream(passage(5_000))

    before = [*node.on_events(packet), *node.advance(5_499)]
    after = list(node.advance(5_500))

    assert before == []
    assert [(e.packet.start, e.packet.stop) for e in after] == [(4_500, 5_500)]
    node.close()


@settings(max_examples=40, deadline=None)
@given(
    centres=st.lists(st.integers(1_000, 20_000), min_size=1, max_size=6),
    count=st.integers(5, 60),
    background=st.integers(1, 300),
    seed=st.integers(0, 1000),
    size=st.integers(1, 200),
)
def test_bursts_are_those_of_the_definition_however_packets_are_cut(
    centres, count, background, seed, size
):
    parts = [passage(c, count, seed=seed + k) for k, c in enumerate(centres)]
    packet = stream(noise(background, 21_000, seed), *parts)

    whole = drive(BurstTrigger(SMALL), events=[packet])
    pieces = drive(BurstTrigger(SMALL), events=cut(packet, size))

    expected = expected_bursts(
        packet.data.array, step=10, half=30, guard=16, contrast=20, reach=500, least=10
    )
    assert spans(pieces) == spans(whole)
    assert spans(whole) == expected


@settings(max_examples=30, deadline=None)
@given(at=st.integers(1, 900), size=st.integers(1, 150), ticks=st.integers(0, 3))
def test_a_restarted_trigger_goes_on_with_the_same_bursts(at, size, ticks):
    parts = passage(3_000), passage(3_400, seed=3), passage(8_000, seed=4), noise(50, 9_000)
    packet = stream(*parts)
    pieces = cut(packet, size)
    half = min(at // size, len(pieces))
    first, second = BurstTrigger(), BurstTrigger()

    begun = drive(first, events=pieces[:half], end=False)
    emitted = spans(begun)
    for tick in range(ticks):  # ticks between packets change nothing
        mark = pieces[half - 1].stop if half else 0
        emitted += [
            (e.packet.start, e.packet.stop, e.packet.data.array.tolist())
            for e in first.advance(mark - ticks + tick) or ()
        ]
    second.open()
    second.restore(first.snapshot())
    ended = drive(second, events=pieces[half:], opened=True)

    assert emitted + spans(ended) == spans(drive(BurstTrigger(), events=[packet]))


def test_a_restarted_trigger_closes_in_silence_the_window_of_what_came_before():
    first, second = BurstTrigger(), BurstTrigger()
    drive(first, events=[stream(passage(5_000))], end=False)

    second.open()
    second.restore(first.snapshot())
    after = list(second.advance(5_500))

    assert [(e.packet.start, e.packet.stop) for e in after] == [(4_500, 5_500)]
    second.close()


@pytest.mark.parametrize("size", [97, 100_000])
def test_one_packet_may_last_longer_than_the_steps_that_are_counted_at_once(size):
    parts = [passage(centre, seed=centre) for centre in (2_000, 31_000, 31_600, 120_000)]
    packet = stream(noise(300, 121_000), *parts)

    out = drive(BurstTrigger(), events=cut(packet, size))

    expected = expected_bursts(
        packet.data.array, step=10, half=30, guard=16, contrast=300, reach=500, least=200
    )
    assert len(expected) >= 3
    assert spans(out) == expected


def test_events_that_go_back_in_time_are_dropped_and_counted():
    packet = stream(passage(5_000))
    late = packet.data.array[:3].copy()
    array = np.concatenate([packet.data.array, late]).astype(EVENT)
    broken = events(array, width=64, height=48, stop=int(array["timestamp"].max()) + 1)

    out = drive(BurstTrigger(), events=[broken])

    assert out.faults["time_backward"] == 3
    assert spans(out) == spans(drive(BurstTrigger(), events=[packet]))


def test_windows_with_too_few_events_are_counted():
    settings = BurstTriggerSettings(contrast=20, minimum_events=1000)

    out = drive(BurstTrigger(settings), events=[stream(passage(5_000))])

    assert not out["bursts"]
    assert out.results == {"bursts": 0, "too_few_events": 1}


def test_no_events_give_no_bursts():
    empty = events(np.empty(0, EVENT), width=64, height=48, start=0, stop=1000)

    assert not drive(BurstTrigger(), events=[empty])["bursts"]


def test_a_window_too_short_to_know_its_burst_is_refused():
    with pytest.raises(NodeError, match="lengthen the window"):
        drive(BurstTrigger(BurstTriggerSettings(window=0.0004)), events=[])


def test_a_sensor_that_changes_size_is_refused():
    small = stream(passage(5_000))
    large = events(passage(9_000)[:0], width=640, height=480, start=9_000, stop=9_100)

    with pytest.raises(NodeError, match="the sensor was 64x48 and is now 640x480"):
        drive(BurstTrigger(), events=[small, large])


@pytest.mark.parametrize(("name", "detected"), [("A1", 0.93), ("B3", 0.93)])
def test_nearly_every_simulated_particle_is_found_at_its_own_time(name, detected):
    if not (DATA / f"{name}.raw").exists():
        pytest.skip("simulated cytometry recordings are not in ../shared/data/cytometry")
    camera = EventFile({"path": str(DATA / f"{name}.raw"), "width": 64, "height": 48})
    out = drive(BurstTrigger(), events=drive(camera)["events"])

    with open(DATA / f"{name}.truth.csv") as file:
        beads = [float(r["time_us"]) for r in csv.DictReader(file) if r["kind"] != "debris"]
    centres = np.array([(p.start + p.stop) / 2 for p in out["bursts"]])
    near = [np.abs(centres - time).min() <= 600 for time in beads]
    assert np.mean(near) >= detected
    assert len(centres) <= len(beads) * 1.05
