"""Binary inputs of a network that runs in steps."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.processors.once_per_step import OncePerStep

from streamflow.packet import EVENT
from streamflow.testing import cut, drive, events

streams = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 1), st.integers(0, 1)),
    max_size=100,
)


def packet(steps):
    times = np.cumsum([-20, *(step[0] for step in steps)])[1:]
    rows = [(int(t), *step[1:]) for t, step in zip(times, steps, strict=True)]
    return rows, events(rows, width=3, height=2)


@settings(max_examples=30, deadline=None)
@given(steps=streams, step=st.integers(1, 15))
def test_the_first_of_each_pixel_polarity_and_step_is_kept(steps, step):
    rows, whole = packet(steps)

    kept = drive(OncePerStep({"step": step}), events=[whole]).items("kept").tolist()

    first = {}
    for row in rows:
        first.setdefault((row[0] // step, *row[1:]), row)
    assert kept == list(first.values())


@settings(max_examples=15, deadline=None)
@given(steps=streams, size=st.integers(1, 7), at=st.integers(0, 20))
def test_neither_the_cut_nor_a_restart_changes_anything(steps, size, at):
    _, whole = packet(steps)
    parts = cut(whole, size)
    at = min(at, len(parts))

    first, second = OncePerStep({"step": 7}), OncePerStep({"step": 7})
    first.open()
    before = drive(first, events=parts[:at], opened=True, end=False)
    second.open()
    second.restore({k: np.copy(v) if np.ndim(v) else v for k, v in first.snapshot().items()})
    after = drive(second, events=parts[at:], opened=True)

    together = [*before.items("kept").tolist(), *after.items("kept").tolist()]
    assert together == drive(OncePerStep({"step": 7}), events=[whole]).items("kept").tolist()


def test_an_event_of_a_step_that_is_over_is_left_out():
    rows = [(25, 0, 0, 1), (19, 0, 0, 1), (15, 1, 0, 1), (31, 0, 0, 1)]
    backward = events(np.array(rows, EVENT), width=2, height=1, start=0, stop=40)

    out = drive(OncePerStep({"step": 10}), events=[backward])

    assert out.items("kept").tolist() == [rows[0], rows[2], rows[3]]


def test_events_outside_the_sensor_are_dropped_and_counted():
    rows = [(1, 5, 0, 1), (1, 0, 9, 0), (1, -1, 0, 0), (2, 0, 0, 0)]

    out = drive(OncePerStep({"step": 10}), events=[events(rows, width=5, height=5)])

    assert out.faults == {"outside_sensor": 3}
    assert len(out.items("kept")) == 1
