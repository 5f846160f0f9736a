"""Records decode to what their formats say, however they are cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from streamflow_nodes.kernels import event_order, event_records

Words = NDArray[np.int64]
Rows = list[tuple[int, int, int, int]]


def unpacked(words: Words) -> Rows:
    pairs = words.reshape(-1, 2).tolist()
    return [(t, a & 0xFFFF, a >> 16 & 0xFFFF, a >> 32 & 0xFF) for t, a in pairs]


def in_pieces(
    data: bytes, size: int, registers: int, decode: Callable[[NDArray[np.uint8], Words, Words], int]
) -> Rows:
    """What `decode` says of `data` in pieces of `size` bytes, with its registers kept."""
    state, rows = np.zeros(registers, np.int64), []
    state[0] = -1 if decode in (dat, dvs128) else 0
    for at in range(0, max(len(data), 1), size):
        piece = np.frombuffer(data[at : at + size], np.uint8)
        events = np.empty(2 * len(piece) + 2, np.int64)
        rows += unpacked(events[: 2 * decode(piece, state, events)])
    return rows


def dat(piece: NDArray[np.uint8], state: Words, events: Words) -> int:
    return int(event_records.decode_dat(piece.view("<u4"), 2, state, events))


def dvs128(piece: NDArray[np.uint8], state: Words, events: Words) -> int:
    return int(event_records.decode_dvs128(piece, state, events))


def nmnist(piece: NDArray[np.uint8], state: Words, events: Words) -> int:
    return int(event_records.decode_nmnist(piece, state, events))


def es(piece: NDArray[np.uint8], state: Words, events: Words) -> int:
    return int(event_records.decode_es(piece, 240, state, events))


@pytest.mark.parametrize(
    ("decode", "record", "registers"),
    [(dat, 8, 2), (dvs128, 8, 3), (nmnist, 5, 1), (es, 1, 5)],
    ids=["dat", "dvs128", "nmnist", "es"],
)
@settings(deadline=None)  # the first example compiles
@given(data=st.data())
def test_events_do_not_depend_on_how_bytes_are_cut(
    decode: Callable[[NDArray[np.uint8], Words, Words], int],
    record: int,
    registers: int,
    data: st.DataObject,
) -> None:
    count = data.draw(st.integers(0, 40))
    raw = data.draw(st.binary(min_size=count * record, max_size=count * record))
    size = record * data.draw(st.integers(1, 7))

    whole = in_pieces(raw, max(len(raw), record), registers, decode)

    assert in_pieces(raw, size, registers, decode) == whole


@pytest.mark.parametrize(("version", "x_bits", "y_bits"), [(1, 9, 8), (2, 14, 14)])
def test_dat_fields_lie_where_the_version_says(version: int, x_bits: int, y_bits: int) -> None:
    address = 200 | 100 << x_bits | 1 << (x_bits + y_bits)
    words, events = np.array([77, address], np.uint32), np.empty(2, np.int64)

    event_records.decode_dat(words, version, np.array([-1, 0]), events)

    assert unpacked(events) == [(77, 200, 100, 1)]


def test_dat_time_goes_on_past_two_to_the_32_and_back_over_the_wrap() -> None:
    times = [2**32 - 2, 2**32 - 1, 0, 2**32 - 1, 1]
    words = np.array([[t, 0] for t in times], np.uint32).ravel()
    events = np.empty(2 * len(times), np.int64)

    event_records.decode_dat(words, 2, np.array([-1, 0]), events)

    assert events[::2].tolist() == [2**32 - 2, 2**32 - 1, 2**32, 2**32 - 1, 2**32 + 1]


def test_nmnist_overflow_records_add_to_time_and_are_no_events() -> None:
    data = bytes([5, 6, 0x80, 0, 9, 0, 240, 0, 0, 0, 7, 8, 0, 1, 0])

    assert in_pieces(data, len(data), 1, nmnist) == [(9, 5, 6, 1), (8192 + 256, 7, 8, 0)]


def test_es_rows_are_counted_from_the_top_and_padding_is_skipped() -> None:
    data = bytes([0xFE, 0xFF, 3 << 1 | 1, 10, 1, 0, 0])

    assert in_pieces(data, len(data), 5, es) == [(130, 266, 239, 1)]


def csv(text: str, columns: str = "txyp", delimiter: str = ",", scale: int = 1) -> Rows | list[int]:
    """The rows of `text`, or what the kernel says is wrong with it (code, line, column)."""
    data = np.frombuffer(text.encode(), np.uint8)
    events, result = np.empty(2 * text.count("\n"), np.int64), np.zeros(3, np.int64)
    order = np.array([columns.index(name) for name in "txyp"])
    count = event_records.decode_csv(data, order, ord(delimiter), scale, result, events)
    return unpacked(events[: 2 * count]) if result[0] == 0 else result.tolist()


@pytest.mark.parametrize(
    ("text", "options", "rows"),
    [
        ("1,2,3,1\n", {}, [(1, 2, 3, 1)]),
        ("2,3,-1,7\r\n2,3,1,8\r\n", {"columns": "xypt"}, [(7, 2, 3, 0), (8, 2, 3, 1)]),
        (" 1 , 2,\t3 ,0 \n\n# note\n5,6,7,1\n", {}, [(1, 2, 3, 0), (5, 6, 7, 1)]),
        ("1  2 3 1 \n4\t5 6 0\n", {"delimiter": " "}, [(1, 2, 3, 1), (4, 5, 6, 0)]),
        ("1\t2\t3\t1\n", {"delimiter": "\t"}, [(1, 2, 3, 1)]),
        ("0.0000015;2;3;1\n", {"delimiter": ";", "scale": 10**6}, [(2, 2, 3, 1)]),
        ("1.5,2,3,1\n2,2,3,1\n", {"scale": 10**6}, [(1500000, 2, 3, 1), (2000000, 2, 3, 1)]),
        ("1.00,2.0,3,1.0\n", {}, [(1, 2, 3, 1)]),
        ("1,2,9,3,1,8\n", {"columns": "tx_yp"}, [(1, 2, 3, 1)]),
        ("-5,-1,99999,1\n", {}, [(-5, 32767, 32767, 1)]),
    ],
)
def test_text_becomes_rows(text: str, options: dict[str, object], rows: Rows) -> None:
    assert csv(text, **options) == rows  # type: ignore[arg-type]  # of several types


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("1,2,3,1\n1,2,x,1\n", [event_records.NOT_A_NUMBER, 1, 2]),
        ("1,,3,1\n", [event_records.NOT_A_NUMBER, 0, 1]),
        ("1,2,3\n", [event_records.MISSING_COLUMN, 0, 2]),
        ("9999999999999999999999,2,3,1\n", [event_records.TOO_LARGE, 0, 0]),
        ("1.5,2,3,1\n", [event_records.HAS_DECIMALS, 0, 0]),
        ("1.05,2,3,1\n", [event_records.HAS_DECIMALS, 0, 0]),
        ("1.0.3,2,3,1\n", [event_records.NOT_A_NUMBER, 0, 0]),
        ("-,2,3,1\n", [event_records.NOT_A_NUMBER, 0, 0]),
    ],
)
def test_a_bad_line_is_named(text: str, wrong: list[int]) -> None:
    assert csv(text) == wrong


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.tuples(*[st.integers(-(2**40), 2**40)] * 2, *[st.integers(0, 99)] * 2)))
def test_numbers_read_as_python_reads_them(rows: list[tuple[int, int, int, int]]) -> None:
    text = "".join(f"{t},{x},{y},{p}\n" for t, x, y, p in rows)

    assert csv(text) == [
        (t, x if 0 <= x < 32767 else 32767, y, int(p > 0)) for t, x, y, p in rows
    ]  # fmt: skip


# --- order ----------------------------------------------------------------------------------------

EVENT = st.tuples(
    st.integers(-5, 30), st.integers(-2, 12), st.integers(-2, 12), st.integers(0, 1)
)  # fmt: skip


def ordered_slowly(rows: Rows, drop: bool) -> tuple[Rows, list[int]]:
    """Inside a sensor of 10 x 8 and in order, the obvious way; and events outside, back in time."""
    kept: Rows = []
    faults, newest = [0, 0], -(2**62)
    for t, x, y, p in rows:
        if not (0 <= x < 10 and 0 <= y < 8):
            faults[0] += 1
        elif t < newest:
            faults[1] += 1
            if not drop:
                kept.append((newest, x, y, p))
        else:
            newest = t
            kept.append((t, x, y, p))
    return kept, faults


@settings(deadline=None)  # the first example compiles
@given(st.lists(EVENT, max_size=60), st.booleans(), st.integers(1, 9))
def test_order_and_sensor_are_kept_as_the_obvious_loop_keeps_them(
    rows: Rows, drop: bool, pieces: int
) -> None:
    words = np.array([w for t, x, y, p in rows for w in (
        t, (x & 0xFFFF) | (y & 0xFFFF) << 16 | p << 32 | 0x5A << 40
    )], np.int64)  # fmt: skip
    newest, faults, kept = np.array([-(2**62)]), np.array([0, 0, -1, -1]), []

    for piece in np.array_split(words.reshape(-1, 2), pieces):
        flat = piece.ravel()
        kept += unpacked(flat[: 2 * event_order.keep_ordered(flat, 10, 8, drop, newest, faults)])

    assert (kept, faults[:2].tolist()) == ordered_slowly(rows, drop)


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.integers(-100, 100), max_size=60), st.integers(1, 50))
def test_slices_start_where_whole_divisions_change(times: list[int], duration: int) -> None:
    times.sort()
    words = np.array([w for t in times for w in (t, 0)], np.int64)
    starts = np.empty(len(times), np.int64)

    count = event_order.slice_starts(words, duration, starts)

    slices = [t // duration for t in times]
    expected = [i for i, k in enumerate(slices) if i == 0 or k != slices[i - 1]]
    assert starts[:count].tolist() == expected
