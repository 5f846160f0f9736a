"""The papers' low pass: what they describe, and what their published program computes.

That program has no licence, so it is not here: `published` is written from reading it, and was
compared with it once (60,000 events: the same 509).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.kernels.leaky_filter import leak_and_fire
from streamflow_nodes.processors.leaky_filter import LeakyFilter

from streamflow.testing import cut, drive, events

streams = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 1), st.integers(0, 1)),
    max_size=120,
)


def packet(steps, width=3, height=2):
    times = np.cumsum([5_000_000, *(step[0] for step in steps)])[1:]
    rows = [(int(t), *step[1:]) for t, step in zip(times, steps, strict=True)]
    return rows, events(rows, width=width, height=height)


def described(rows, threshold=3.0, leak=0.9, refractory=2):
    """The neuron of the papers, one microsecond after the other."""
    v, blocked, kept = {}, {}, []
    for row, before in zip(rows, [rows[0], *rows], strict=False):
        for _ in range(row[0] - before[0]):
            v = {neuron: leak * value for neuron, value in v.items()}
            blocked = {neuron: left - 1 for neuron, left in blocked.items()}
        neuron = row[1:]
        if blocked.get(neuron, -1) >= 0:
            continue
        v[neuron] = v.get(neuron, 0.0) + 1.0
        if v[neuron] >= threshold:
            v[neuron] = 0.0
            kept.append(row)
            blocked[neuron] = -1 if refractory is None else refractory
    return kept


def published(rows):
    """Every third event of the same microsecond, place and polarity."""
    seen, kept = {}, []
    for row in rows:
        seen[row] = seen.get(row, 0) + 1
        if seen[row] % 3 == 0:
            kept.append(row)
    return kept


@settings(max_examples=30, deadline=None)
@given(
    steps=streams,
    threshold=st.sampled_from([1.0, 2.5, 3.0]),
    leak=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    refractory=st.sampled_from([None, 0, 2, 5]),
)
def test_what_is_kept_is_what_the_neuron_says(steps, threshold, leak, refractory):
    rows, whole = packet(steps)

    node = LeakyFilter({"threshold": threshold, "leak": leak, "refractory": refractory})
    kept = drive(node, events=[whole]).items("kept").tolist()

    expected = described(rows, threshold, leak, refractory) if rows else []
    assert kept == expected


@settings(max_examples=15, deadline=None)
@given(steps=streams)
def test_without_memory_it_is_the_published_program(steps):
    rows, whole = packet(steps)

    out = drive(LeakyFilter({"leak": 0.0, "refractory": None}), events=[whole])

    assert out.items("kept").tolist() == published(rows)


@settings(max_examples=15, deadline=None)
@given(steps=streams, size=st.integers(1, 7), at=st.integers(0, 20))
def test_neither_the_cut_nor_a_restart_changes_anything(steps, size, at):
    _, whole = packet(steps)
    parts = cut(whole, size)
    at = min(at, len(parts))

    first = LeakyFilter({"threshold": 1.9})
    first.open()
    before = drive(first, events=parts[:at], opened=True, end=False)
    second = LeakyFilter({"threshold": 1.9})
    second.open()
    second.restore({k: np.copy(v) if np.ndim(v) else v for k, v in first.snapshot().items()})
    after = drive(second, events=parts[at:], opened=True)

    together = [*before.items("kept").tolist(), *after.items("kept").tolist()]
    expected = drive(LeakyFilter({"threshold": 1.9}), events=[whole])
    assert together == expected.items("kept").tolist()


def test_a_trace_by_hand():
    # v: 1, 1.9, 2.71, 3.439 and a spike; then two events while it rests, and three at once
    times = [10, 11, 12, 13, 14, 15, 16, 16, 16]

    out = drive(LeakyFilter(), events=[events([(t, 1, 1, 1) for t in times], width=3, height=2)])

    assert out.items("kept")["timestamp"].tolist() == [13, 16]


def test_polarities_and_pixels_are_neurons_of_their_own():
    rows = [(5, x, 0, p) for x in (0, 1) for p in (0, 1) for _ in range(2)]

    out = drive(LeakyFilter({"leak": 1.0}), events=[events(rows, width=2, height=1)])

    assert len(out.items("kept")) == 0


def test_a_neuron_that_never_leaks_keeps_every_third_event():
    rows = [(t * 1_000_000, 0, 0, 1) for t in range(30)]

    out = drive(LeakyFilter({"leak": 1.0}), events=[events(rows, width=1, height=1)])

    assert out.items("kept")["timestamp"].tolist() == [t * 1_000_000 for t in range(2, 30, 3)]


def test_time_that_steps_back_does_not_leak_and_later_events_still_count():
    rows = [(100, 0, 0, 1), (50, 0, 0, 1), (100, 0, 0, 1)]  # three at once, but for the disorder

    out = drive(LeakyFilter(), events=[events(rows, width=1, height=1, start=50, stop=101)])

    assert out.items("kept")["timestamp"].tolist() == [100]


def test_events_outside_the_sensor_are_dropped_and_counted():
    rows = [(1, 5, 0, 1)] * 3 + [(1, 0, 9, 0), (1, -1, 0, 0)]

    out = drive(LeakyFilter({"threshold": 1}), events=[events(rows, width=5, height=5)])

    assert out.faults == {"outside_sensor": 5}
    assert out["kept"] == []


def test_compiled_equals_interpreted():
    random = np.random.default_rng(0)
    words = np.empty(2000, np.int64)
    words[::2] = np.sort(random.integers(0, 2000, 1000))
    words[1::2] = random.integers(0, 3, 1000) | random.integers(0, 2, 1000) << 32
    results = []
    for run in (leak_and_fire, leak_and_fire.py_func):
        state = (np.zeros(6), np.zeros(6, np.int64), np.full(6, -9), np.zeros(2000, np.int64))
        counts = run(words, 3, 1, 2.0, 0.9, 2, *state)
        results.append((counts, *(part.tolist() for part in state)))

    assert results[0] == results[1]
    assert 0 < results[0][0][0] < 1000


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"leak": 1.1}, {"refractory": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(Exception, match="settings"):
        LeakyFilter(wrong)
