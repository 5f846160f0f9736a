"""Datagrams hold the bytes that the formats' own descriptions say, and give them back."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from streamflow_nodes.kernels import udp_events as udp

Rows = list[tuple[int, int, int, int]]
LAYOUTS = [udp.T64, udp.T32, udp.SPIF, udp.SPIF_T32]


def described(layout: int, row: tuple[int, int, int, int]) -> bytes:
    """An event as the format is described, written in the obvious way."""
    t, x, y, p = row
    if layout == udp.T64:
        return struct.pack("<QHHB", t, x, y, p)
    if layout == udp.T32:
        return struct.pack("<IHH", t & 0xFFFFFFFF, x, y << 1 | p)
    word = x << 16 | p << 15 | y
    if layout == udp.SPIF:
        return struct.pack("<I", word | 1 << 31)
    return struct.pack("<II", word, t & 0xFFFFFFFF)


def words_of(rows: Rows) -> NDArray[np.int64]:
    flat = [word for t, x, y, p in rows for word in (t, x | y << 16 | p << 32)]
    return np.array(flat, np.int64)


def decoded(
    layout: int, datagrams: list[bytes], arrivals: list[int] | None = None, compiled: bool = True
) -> tuple[Rows, list[int]]:
    data = np.frombuffer(b"".join(datagrams), np.uint8)
    lengths = np.array([len(datagram) for datagram in datagrams], np.int64)
    groups = np.empty(len(datagrams), np.int64)
    events = np.empty(2 * (len(data) // udp.SIZES[layout] + 1), np.int64)
    decode = udp.decode_datagrams if compiled else udp.decode_datagrams.py_func
    count = decode(
        data, lengths, np.array(arrivals or [0] * len(datagrams), np.int64), layout,
        udp.SIZES[layout], groups, events,
    )  # fmt: skip
    pairs = events[: 2 * count].reshape(-1, 2).tolist()
    return [(t, a & 0xFFFF, a >> 16 & 0xFFFF, a >> 32) for t, a in pairs], groups.tolist()


event = st.tuples(
    st.integers(0, (1 << 63) - 1), st.integers(0, 0x7FFF), st.integers(0, 0x7FFF), st.integers(0, 1)
)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=40)
@given(rows=st.lists(event, max_size=12))
def test_events_are_encoded_as_described_and_come_back(layout: int, rows: Rows) -> None:
    data = np.empty(len(rows) * udp.SIZES[layout], np.uint8)

    assert udp.encode_events(words_of(rows), layout, udp.SIZES[layout], data) == len(rows)

    assert data.tobytes() == b"".join(described(layout, row) for row in rows)
    kept = {udp.T64: (1 << 63) - 1, udp.T32: 0xFFFFFFFF, udp.SPIF: 0, udp.SPIF_T32: 0xFFFFFFFF}
    back, groups = decoded(layout, [data.tobytes()])
    assert back == [(t & kept[layout], x, y, p) for t, x, y, p in rows]
    assert groups == [len(rows)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_events_with_a_negative_time_or_place_are_left_out(layout: int) -> None:
    rows = [(-1, 1, 1, 1), (7, 0xFFFF, 1, 1), (8, 1, 0x8000, 0), (9, 3, 4, 1)]
    data = np.empty(len(rows) * udp.SIZES[layout], np.uint8)

    assert udp.encode_events(words_of(rows), layout, udp.SIZES[layout], data) == 1
    assert data[: udp.SIZES[layout]].tobytes() == described(layout, rows[3])


def test_spif_events_have_the_time_their_datagram_arrived_at() -> None:
    datagrams = [described(udp.SPIF, (0, 5, 6, 1)), described(udp.SPIF, (0, 7, 8, 0)) * 2]

    rows, groups = decoded(udp.SPIF, datagrams, [100, 230])

    assert rows == [(100, 5, 6, 1), (230, 7, 8, 0), (230, 7, 8, 0)]
    assert groups == [1, 2]


@pytest.mark.parametrize(("layout", "other"), [(udp.SPIF, udp.SPIF_T32), (udp.SPIF_T32, udp.SPIF)])
def test_a_datagram_of_the_other_spif_format_is_left_out_as_a_whole(
    layout: int, other: int
) -> None:
    good, wrong = described(layout, (9, 1, 2, 1)), described(other, (9, 1, 2, 1)) * 2

    rows, groups = decoded(layout, [good, good + wrong, good])

    assert groups == [1, -1, 1]
    assert len(rows) == 2


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=60)
@given(datagrams=st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_are_events_or_a_datagram_left_out(layout: int, datagrams: list[bytes]) -> None:
    rows, groups = decoded(layout, datagrams)

    assert decoded(layout, datagrams, compiled=False) == (rows, groups)
    assert len(rows) == sum(group for group in groups if group > 0)
    for datagram, group in zip(datagrams, groups, strict=True):
        assert group in (-1, len(datagram) / udp.SIZES[layout])
    alone = [decoded(layout, [datagram])[0] for datagram in datagrams]
    assert rows == [row for part in alone for row in part]
