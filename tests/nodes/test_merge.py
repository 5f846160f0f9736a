import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.processors.merge import Merge

from streamflow.errors import NodeError
from streamflow.packet import EVENT, Events, Packet
from streamflow.testing import cut, drive, events

steps = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 300)), max_size=60)


def stream(pairs, polarity):
    times = np.cumsum([step for step, _ in pairs], dtype=int)
    rows = [(int(t), x, 0, polarity) for t, (_, x) in zip(times, pairs, strict=True)]
    if not rows:
        return Packet(0, 1, Events(np.empty(0, EVENT), 640, 480))
    return events(rows, start=0)


def cut_any(packet, size):
    return cut(packet, size) or [packet]


def rows_of(out):
    return [tuple(row) for p in out["merged"] for row in p.data.array.tolist()]


@settings(max_examples=60, deadline=None)
@given(left=steps, right=steps, a=st.integers(1, 30), b=st.integers(1, 30))
def test_any_cut_of_both_gives_the_stable_sort_of_both(left, right, a, b):
    first, second = stream(left, 0), stream(right, 1)

    out = drive(Merge(), first=cut_any(first, a), second=cut_any(second, b))

    both = first.data.array.tolist() + second.data.array.tolist()
    assert rows_of(out) == sorted(both, key=lambda row: row[0])


@settings(max_examples=20, deadline=None)
@given(left=steps, right=steps, size=st.integers(1, 20), stop=st.integers(0, 4))
def test_a_restarted_node_goes_on_as_if_nothing_had_happened(left, right, size, stop):
    first, second = cut_any(stream(left, 0), size), cut_any(stream(right, 1), size)
    whole = drive(Merge(), first=first, second=second)

    # all of `first` and the beginning of `second` before the crash: much is held
    before, after = Merge(), Merge()
    before.open()
    out = [e for p in first for e in before.on_first(p) or ()]
    for packet in second[:stop]:
        before.on_second(packet)
    after.open()
    after.restore({k: np.copy(v) if np.ndim(v) else v for k, v in before.snapshot().items()})
    for packet in second[stop:]:
        after.on_second(packet)
    out += list(after.finish())

    assert [tuple(r) for e in out for r in e.packet.data.array.tolist()] == rows_of(whole)


def test_events_wait_until_the_other_input_has_passed_them():
    node = Merge()
    node.open()
    node.on_first(events([(10, 1, 1, 0), (90, 1, 1, 0)], start=0, stop=100))
    node.on_second(events([(20, 2, 2, 1), (40, 2, 2, 1)], start=0, stop=50))

    emitted = list(node.advance(50))

    assert [e.packet.data.array["timestamp"].tolist() for e in emitted] == [[10, 20, 40]]
    assert (emitted[0].packet.start, emitted[0].packet.stop) == (10, 41)
    assert node.holds_from == 90


def test_at_equal_times_the_first_input_goes_first():
    out = drive(
        Merge(), first=[events([(5, 1, 0, 0), (5, 2, 0, 0)])], second=[events([(5, 3, 0, 1)])]
    )

    assert [row[1] for row in rows_of(out)] == [1, 2, 3]


def test_an_input_that_says_nothing_leaves_the_other_whole():
    rows = [(t, 1, 1, 1) for t in range(50)]

    out = drive(Merge(), first=[events(rows)], second=[])

    assert rows_of(out) == rows


def test_time_that_steps_back_keeps_the_inputs_own_order_and_is_counted():
    back = events([(10, 1, 0, 0), (50, 2, 0, 0), (20, 3, 0, 0)], start=0, stop=100)

    out = drive(Merge(), first=[back], second=[events([(30, 9, 0, 1), (60, 8, 0, 1)], start=0)])

    assert [row[1] for row in rows_of(out)] == [1, 9, 2, 3, 8]
    assert out.faults == {"late": 1}


def test_two_sensor_sizes_are_an_error_that_names_both():
    with pytest.raises(NodeError, match="was 640x480 and is now 64x48"):
        drive(
            Merge(),
            first=[events([(1, 0, 0, 1)])],
            second=[events([(1, 0, 0, 1)], width=64, height=48)],
        )
