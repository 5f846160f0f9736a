from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.processors.refractory import Refractory

from streamflow.testing import drive, events

streams = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 3), st.integers(0, 2), st.integers(0, 1)),
    max_size=80,
)


def rested(rows, period) -> Iterator[tuple[int, int, int, int]]:
    """The obvious way: remember when each pixel's last event was kept."""
    kept = {}
    for time, x, y, polarity in rows:
        if (x, y) not in kept or time - kept[x, y] >= period:
            kept[x, y] = time
            yield time, x, y, polarity


@settings(max_examples=40, deadline=None)
@given(steps=streams, period=st.integers(1, 90))
def test_what_is_kept_is_what_the_rule_says(steps, period):
    times = np.cumsum([0, *(step[0] for step in steps)])
    rows = [(int(t), *step[1:]) for t, step in zip(times[1:], steps, strict=True)]

    out = drive(Refractory({"period": period * 1e-6}), events=[events(rows, width=4, height=3)])

    found = [tuple(r) for p in out["kept"] for r in p.data.array.tolist()]
    assert found == list(rested(rows, period))


def test_the_rest_restarts_with_kept_events_only():
    rows = [(t, 5, 5, 1) for t in range(0, 3000, 400)]

    out = drive(Refractory({"period": 0.001}), events=[events(rows)])

    # 400 and 800 fall into the rest after 0; they do not prolong it
    assert out.items("kept")["timestamp"].tolist() == [0, 1200, 2400]


def test_pixels_rest_each_for_themselves_and_both_polarities_together():
    rows = [(0, 1, 1, 1), (1, 2, 1, 1), (2, 1, 1, 0)]

    out = drive(Refractory(), events=[events(rows)])

    assert out.items("kept")["timestamp"].tolist() == [0, 1]
