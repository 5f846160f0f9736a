"""Whatever a sender says of time, what comes out is in order; sound times come out as they are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from streamflow_nodes.kernels import live_order as order

Rows = list[tuple[int, int, int, int]]  # time (us), x, y, polarity
WIDTH, HEIGHT, LATE, LONGEST = 64, 48, 1_000, 1_000_000


def words_of(rows: Rows) -> NDArray[np.int64]:
    flat = [
        word for t, x, y, p in rows for word in (t, (x & 0xFFFF) | (y & 0xFFFF) << 16 | p << 32)
    ]
    return np.array(flat, np.int64)


class Stream:
    """Groups of events, one after the other, through the kernel."""

    def __init__(self, *, drop: bool = False, wrap: int = 0, compiled: bool = True) -> None:
        self.drop, self.wrap = drop, wrap
        self.registers, self.faults = order.new_registers(), np.zeros(4, np.int64)
        self.keep = order.keep_live if compiled else order.keep_live.py_func

    def add(self, *groups: Rows, base: int | None = None) -> Rows:
        if base is not None:
            self.registers[order.BASE] = base
        elif self.registers[order.BEGUN]:
            self.registers[order.BASE] = self.registers[order.NEWEST]
        words = words_of([row for group in groups for row in group])
        lengths = np.array([len(group) for group in groups], np.int64)
        kept = self.keep(
            words, lengths, WIDTH, HEIGHT, self.drop, LATE, LONGEST, self.wrap, self.registers,
            self.faults,
        )  # fmt: skip
        pairs = words[: 2 * kept].reshape(-1, 2).tolist()
        return [(t, a & 0xFFFF, a >> 16 & 0xFFFF, a >> 32 & 1) for t, a in pairs]

    def times(self, *groups: list[int], base: int | None = None) -> list[int]:
        rows = [[(time, 1, 2, 1) for time in group] for group in groups]
        return [row[0] for row in self.add(*rows, base=base)]


def test_sound_times_come_out_as_they_are() -> None:
    rows = [(5, 1, 2, 1), (5, 63, 47, 0), (900_000, 0, 0, 1)]

    stream = Stream()

    assert stream.add(rows[:1], rows[1:]) == rows
    assert stream.faults.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (0, -1), (WIDTH, 0), (0, HEIGHT)])
def test_an_event_outside_the_sensor_is_left_out_and_moves_no_time(x: int, y: int) -> None:
    stream = Stream()

    assert stream.add([(10, 1, 1, 1), (500, x, y, 1), (20, 2, 2, 1)]) == [
        (10, 1, 1, 1), (20, 2, 2, 1),
    ]  # fmt: skip
    assert stream.faults.tolist() == [1, 0, 0, 0]


def test_a_late_event_is_raised_to_the_newest_time_or_left_out() -> None:
    clamp, drop = Stream(), Stream(drop=True)

    assert clamp.times([5_000, 4_500, 5_001]) == [5_000, 5_000, 5_001]
    assert drop.times([5_000, 4_500, 5_001]) == [5_000, 5_001]
    assert clamp.faults[order.BACKWARD] == drop.faults[order.BACKWARD] == 1


@pytest.mark.parametrize("wrong", [0, 20_000_000, 1 << 62, -(1 << 62), (1 << 63) - 1])
def test_one_wrong_datagram_neither_ends_nor_moves_the_stream(wrong: int) -> None:
    stream = Stream()

    assert stream.times([10_000_000], [wrong, wrong], [10_000_005], [wrong], [10_000_009]) == [
        10_000_000, 10_000_005, 10_000_009,
    ]  # fmt: skip
    assert stream.faults.tolist() == [0, 0, 3, 0]


def test_a_sender_that_began_anew_goes_on_where_stream_time_stands() -> None:
    stream = Stream()

    assert stream.times([10_000_000]) == [10_000_000]
    assert stream.times([0, 7], [20, 25], base=10_300_000) == [10_300_000, 10_300_005]
    assert stream.times([40]) == [10_300_020]
    assert stream.faults.tolist() == [0, 0, 2, 1]


def test_a_sender_that_began_anew_within_a_group_is_heard_from_the_next_one_on() -> None:
    stream = Stream()

    times = [stream.times(group) for group in ([10_000_000], [10_000_001, 50], [60, 70])]

    assert times == [[10_000_000], [10_000_001], [10_000_001, 10_000_011]]
    assert stream.faults[[order.JUMPED, order.ADOPTED]].tolist() == [1, 1]


def test_a_camera_that_is_back_begins_at_the_base_at_once() -> None:
    stream = Stream()
    stream.times([10_000_000])

    stream.registers[order.RENEW] = 1

    assert stream.times([3, 8], base=12_000_000) == [12_000_000, 12_000_005]
    assert stream.faults.tolist() == [0, 0, 0, 0]


def test_32_bit_times_go_on_past_their_wrap_and_back_across_it() -> None:
    stream, top = Stream(wrap=32), 1 << 32

    assert stream.times([top - 10], [5, top - 3, 6]) == [top - 10, top + 5, top + 5, top + 6]
    assert stream.faults.tolist() == [0, 1, 0, 0]


anything = st.tuples(
    st.one_of(st.integers(0, 50_000), st.integers(-(1 << 63), (1 << 63) - 1)),
    st.integers(-2, WIDTH + 2), st.integers(-2, HEIGHT + 2), st.integers(0, 1),
)  # fmt: skip


@settings(max_examples=150)
@given(st.lists(st.lists(anything, max_size=6), max_size=8), st.booleans())
def test_whatever_comes_is_given_out_in_order_or_counted(groups: list[Rows], drop: bool) -> None:
    stream, plain = Stream(drop=drop), Stream(drop=drop, compiled=False)

    rows = stream.add(*groups)

    assert plain.add(*groups) == rows
    assert all(before[0] <= after[0] for before, after in pairwise(rows))
    assert all(x < WIDTH and y < HEIGHT for _, x, y, _ in rows)
    outside, backward, jumped, _ = stream.faults.tolist()
    lost = outside + jumped + (backward if drop else 0)
    assert len(rows) + lost == sum(map(len, groups))


near = st.tuples(
    st.integers(0, 2_000), st.integers(-1, WIDTH), st.integers(0, HEIGHT), st.integers(0, 1)
)


@settings(max_examples=60)
@given(st.lists(near, max_size=30), st.integers(1, 7), st.integers(1, 7), st.booleans())
def test_sound_events_are_the_same_in_any_groups_and_calls(
    rows: Rows, group: int, call: int, drop: bool
) -> None:
    # times within LATE of each other, so that no group is in doubt
    rows = [(10_000 + t // 2, x, y, p) for t, x, y, p in rows]
    whole, cut = Stream(drop=drop), Stream(drop=drop)

    expected = whole.add(rows)
    groups = [rows[at : at + group] for at in range(0, len(rows), group)]
    found = [
        row for at in range(0, len(groups), call) for row in cut.add(*groups[at : at + call])
    ]  # fmt: skip

    assert found == expected
    assert cut.faults.tolist() == whole.faults.tolist()
