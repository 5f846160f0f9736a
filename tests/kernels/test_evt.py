"""EVT words decode to what the format says, however they are cut, and encode back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from streamflow_nodes.kernels import evt
from streamflow_nodes.kernels.event_order import first_disordered

Words = NDArray[np.int64]

WORDS16 = st.lists(st.integers(0, 0xFFFF), max_size=200)
WORDS32 = st.lists(st.integers(0, 0xFFFFFFFF), max_size=200)


def packed(*events: tuple[int, int, int, int]) -> Words:
    """(time, x, y, polarity) as the kernels' two words an event."""
    return np.array([w for t, x, y, p in events for w in (t, x | y << 16 | p << 32)], np.int64)


def unpacked(words: Words) -> list[tuple[int, int, int, int]]:
    pairs = words.reshape(-1, 2).tolist()
    return [(t, a & 0xFFFF, a >> 16 & 0xFFFF, a >> 32 & 0xFF) for t, a in pairs]


def decoded3(
    words: list[int], pieces: int = 1, registers: Words | None = None
) -> list[tuple[int, int, int, int]]:
    """What `decode_evt3` says of `words` given to it in `pieces`."""
    registers = evt.new_registers() if registers is None else registers
    out: list[tuple[int, int, int, int]] = []
    for piece in np.array_split(np.array(words, np.uint16), pieces):
        events = np.empty(2 * evt.count_evt3(piece), np.int64)
        out += unpacked(events[: 2 * evt.decode_evt3(piece, registers, events)])
    return out


def decoded2(words: list[int], pieces: int = 1) -> list[tuple[int, int, int, int]]:
    registers = evt.new_registers()
    out: list[tuple[int, int, int, int]] = []
    for piece in np.array_split(np.array(words, np.uint32), pieces):
        events = np.empty(2 * len(piece), np.int64)
        out += unpacked(events[: 2 * evt.decode_evt2(piece, registers, events)])
    return out


def encoded(events: Words, pieces: int = 1, offset: int = 0, version: int = 3) -> list[int]:
    room, encode, kind = {
        2: (evt.encoded_evt2, evt.encode_evt2, np.uint32),
        3: (evt.encoded_evt3, evt.encode_evt3, np.uint16),
    }[version]
    registers = np.array(evt.NOTHING_WRITTEN[: 1 if version == 2 else 3], np.int64)
    out: list[int] = []
    for piece in np.array_split(events.reshape(-1, 2), pieces):
        flat = piece.reshape(-1)
        words = np.empty(room(flat, offset, registers), kind)
        out += words[: encode(flat, offset, registers, words)].tolist()
    return out


def test_a_hand_written_evt3_line_gives_its_events() -> None:
    words = [
        0x2005,  # an event before any time: left out
        0x8001, 0x6002,  # time 1 << 12 | 2
        0x0007, 0x2805,  # row 7: x 5, ON
        0x3010, 0x4801, 0x5002,  # vector from x 16, OFF: 16 and 27, then from 28: 29
        0xA101, 0x1000, 0xE000, 0x7000,  # trigger, undefined, OTHERS, CONTINUED
        0x6003, 0x2006,
    ]  # fmt: skip
    registers = evt.new_registers()

    events = decoded3(words, registers=registers)

    assert events == [
        (4098, 5, 7, 1), (4098, 16, 7, 0), (4098, 27, 7, 0), (4098, 29, 7, 0), (4099, 6, 7, 0),
    ]  # fmt: skip
    assert registers[[evt.UNTIMED, evt.TRIGGERS, evt.UNKNOWN]].tolist() == [1, 1, 1]


def test_a_hand_written_evt2_line_gives_its_events() -> None:
    words = [
        0x10000000,  # an event before any time: left out
        0x80000002,  # time 2 << 6
        0x1 << 28 | 3 << 22 | 639 << 11 | 479,
        0xA0000001,
        0x20000000,
        0x80000003,
        0x0 << 28 | 63 << 22 | 1 << 11 | 2,
    ]

    assert decoded2(words) == [(131, 639, 479, 1), (255, 1, 2, 0)]


@pytest.mark.parametrize("high", [4095, 4094, 2100])
def test_evt3_time_goes_on_past_two_to_the_24(high: int) -> None:
    words = [0x8000 | high, 0x2001, 0x8000, 0x6005, 0x2001, 0x8000 | high, 0x2001, 0x8001, 0x2001]

    times = [event[0] for event in decoded3(words)]

    assert times == [high << 12, (1 << 24) + 5, (1 << 24) + (high << 12), (2 << 24) + 4096]


def test_evt2_time_goes_on_past_two_to_the_34() -> None:
    words = [0x8FFFFFFF, 0x10000000, 0x80000000, 0x10000000]

    assert [event[0] for event in decoded2(words)] == [((1 << 28) - 1) << 6, 1 << 34]


def test_a_small_step_back_of_time_high_is_passed_on_and_is_no_wrap() -> None:
    assert [event[0] for event in decoded3([0x8005, 0x2001, 0x8004, 0x2001])] == [20480, 16384]


def test_endless_vectors_do_not_bring_x_back_into_the_sensor() -> None:
    events = decoded3([0x8000, 0x37FF, *[0x4FFF] * 20_000])

    assert min(x for _, x, _, _ in events) == 2047
    assert max(x for _, x, _, _ in events) <= 0x7FFF


@settings(deadline=None)  # the first example compiles
@given(WORDS16, st.integers(1, 9))
def test_evt3_events_do_not_depend_on_how_words_are_cut(words: list[int], pieces: int) -> None:
    assert decoded3(words, pieces) == decoded3(words)


@settings(deadline=None)  # the first example compiles
@given(WORDS32, st.integers(1, 9))
def test_evt2_events_do_not_depend_on_how_words_are_cut(words: list[int], pieces: int) -> None:
    assert decoded2(words, pieces) == decoded2(words)


@settings(deadline=None)  # the first example compiles
@given(WORDS16)
def test_compiled_evt3_equals_the_python_source(words: list[int]) -> None:
    # ints above int16 in Python, so nothing can wrap unnoticed
    array, registers = np.array(words, np.int64), evt.new_registers()
    events = np.empty(2 * evt.count_evt3.py_func(array), np.int64)

    count = evt.decode_evt3.py_func(array, registers, events)

    assert unpacked(events[: 2 * count]) == decoded3(words)


ADDRESS = st.tuples(st.integers(0, 40), st.integers(0, 3), st.integers(0, 1))
STEP = st.one_of(st.just(0), st.integers(0, 10), st.integers(0, 1 << 26))


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.tuples(STEP, ADDRESS), max_size=60), st.integers(1, 9), st.integers(0, 1 << 33))
def test_encoded_events_decode_to_themselves_however_they_are_cut(
    steps: list[tuple[int, tuple[int, int, int]]], pieces: int, offset: int
) -> None:
    times = np.cumsum([0, *(step for step, _ in steps)])[1:] + offset
    rows = [(int(t), *address) for t, (_, address) in zip(times, steps, strict=True)]
    words = encoded(packed(*rows), pieces, offset)

    assert [(t + offset, x, y, p) for t, x, y, p in decoded3(words)] == rows


LONG_STEP = st.one_of(STEP, st.integers(0, 1 << 36))


@settings(deadline=None)  # the first example compiles
@given(
    st.lists(st.tuples(LONG_STEP, ADDRESS), max_size=60), st.integers(1, 9), st.integers(0, 1 << 33)
)
def test_evt2_events_decode_to_themselves_however_they_are_cut(
    steps: list[tuple[int, tuple[int, int, int]]], pieces: int, offset: int
) -> None:
    times = np.cumsum([offset, *(step for step, _ in steps)])[1:]
    rows = [(int(t), *address) for t, (_, address) in zip(times, steps, strict=True)]
    # a decoder knows how often time wrapped before the first event only from the header's t0
    start = rows[0][0] >> 34 << 34 if rows else 0
    words = encoded(packed(*rows), pieces, start, version=2)

    assert [(t + start, x, y, p) for t, x, y, p in decoded2(words)] == rows


def test_evt2_words_are_as_the_format_says() -> None:
    events = packed((131, 639, 479, 1), (255, 1, 2, 0))

    assert encoded(events, version=2) == [
        0x80000002, 0x1 << 28 | 3 << 22 | 639 << 11 | 479,
        0x80000003, 0x0 << 28 | 63 << 22 | 1 << 11 | 2,
    ]  # fmt: skip


def test_a_row_of_neighbours_becomes_one_vector() -> None:
    events = packed(*((10, 100 + x, 7, 1) for x in (0, 1, 5, 11)))

    assert encoded(events) == [0x8000, 0x600A, 0x0007, 0x3864, 0x4823]


def test_bytes_that_mean_nothing_do_not_reach_the_words() -> None:
    clean = packed((1, 1, 1, 0), (1, 2, 1, 0), (1, 3, 1, 0))
    dirty = clean.copy()
    dirty[1::2] |= np.array([0x7A, 0x11, 0x5F], np.int64) << 40

    assert encoded(dirty) == encoded(clean)


@pytest.mark.parametrize(
    "events",
    [
        packed((5, 1, 1, 0), (4, 1, 1, 0)),
        packed((5, 1, 1, 0), (5, 2048, 1, 0)),
        packed((5, 1, 1, 0), (5, 1, 2048, 0)),
    ],
    ids=["time back", "x outside", "y outside"],
)
def test_the_first_event_that_cannot_be_written_is_named(events: Words) -> None:
    assert first_disordered(events, 5, 2048, 2048) == 1
    assert first_disordered(events, 6, 2048, 2048) == 0
    assert first_disordered(events[:2], 5, 2048, 2048) == -1
