"""Packets survive the wire unchanged, and nothing else is taken for a packet."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamflow.errors import PacketError
from streamflow.packet import (
    EVENT,
    HEADER,
    MAXIMUM_META,
    PREFIX,
    SPIKE,
    WIRE_VERSION,
    Events,
    Header,
    Packet,
    Payload,
    Samples,
    Spikes,
    Table,
    Tensor,
    Text,
    data_frame,
    decode,
    describe,
    encode,
    kind_of,
    payload_bytes,
    read_header,
    rebuild,
)

PROPERTY = settings(deadline=None, max_examples=100, derandomize=True)
TYPES: list[type[Payload]] = [Events, Samples, Spikes, Tensor, Table, Text]
TIME = st.integers(-(2**62), 2**62)

COLUMN = st.one_of(
    hnp.scalar_dtypes(),
    st.sampled_from([np.dtype("S5"), np.dtype("<U3"), np.dtype("V7"), np.dtype("<M8[25s]")]),
)
INNER = st.one_of(
    COLUMN, st.lists(COLUMN, min_size=1, max_size=3).map(lambda cells: row_type(cells, [()] * 3))
)
ROW = st.builds(
    lambda cells, shapes: row_type(cells, shapes),
    st.lists(INNER, min_size=1, max_size=3),
    st.lists(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3), min_size=3, max_size=3),
)


def row_type(cells: list[Any], shapes: list[Any]) -> np.dtype[Any]:
    """A structured dtype; columns with shape () hold one value a row."""
    return np.dtype([(f"c{number}", cell, shapes[number]) for number, cell in enumerate(cells)])


def same(there: Packet[Any], back: Packet[Any]) -> None:
    """Equal in time, words, type, shape and bytes; and what came back is as kernels expect it."""
    array, returned = there.data.array, back.data.array
    assert (back.start, back.stop, back.captured) == (there.start, there.stop, there.captured)
    assert type(back.data) is type(there.data)
    assert returned.dtype == array.dtype
    assert returned.shape == array.shape
    assert returned.tobytes() == array.tobytes()
    assert not returned.flags.writeable
    assert returned.flags.c_contiguous
    assert len(back.data) == len(there.data)
    assert back.data.words() == there.data.words()


def round_trip(payload: Payload, start: int = 1, stop: int = 2) -> None:
    there = Packet(start, stop, payload, captured=9)
    same(there, decode(encode(there), type(payload)))


def blank(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """An array of any dtype with bytes that differ."""
    count = int(np.prod(shape)) * dtype.itemsize
    raw = (np.arange(count) % 251).astype(np.uint8)
    return raw.view(dtype).reshape(shape) if count else np.empty(shape, dtype)


# --- there and back -----------------------------------------------------------------------------


@PROPERTY
@given(count=st.integers(0, 20), width=st.integers(1, 32767), start=TIME, more=st.integers(0, 9))
def test_events_come_back_as_they_went(count: int, width: int, start: int, more: int) -> None:
    round_trip(Events(blank(EVENT, (count,)), width, 480), start, start + more)


@PROPERTY
@given(
    array=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0)),
    rate=st.integers(1, 192_000),
    first=TIME,
)
def test_samples_come_back_as_they_went(array: Any, rate: int, first: int) -> None:
    round_trip(Samples(array, rate, first))


@PROPERTY
@given(count=st.integers(0, 20), units=st.integers(0, 2**40))
def test_spikes_come_back_as_they_went(count: int, units: int) -> None:
    round_trip(Spikes(blank(SPIKE, (count,)), units))


@PROPERTY
@given(
    dtype=COLUMN,
    shape=hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    step=st.integers(0, 10**6),
)
def test_tensors_of_any_shape_and_dtype_come_back_as_they_went(
    dtype: np.dtype[Any], shape: tuple[int, ...], step: int
) -> None:
    axes = ("time", "channel", "y", "x", "z")[: len(shape)]
    round_trip(Tensor(blank(dtype, shape), axes, step))


@PROPERTY
@given(dtype=ROW, count=st.integers(0, 4))
@example(np.dtype([("sizes", "<f4", (3, 2)), ("inner", [("a", "<i2"), ("b", "?")], 2)]), 2)
@example(np.dtype({"names": ["a"], "formats": ["<i4"], "offsets": [3], "itemsize": 16}), 2)
@example(np.dtype([("a", "<i4")], align=True), 2)
def test_tables_with_any_columns_come_back_as_they_went(dtype: np.dtype[Any], count: int) -> None:
    round_trip(Table(blank(dtype, (count,))))


@PROPERTY
@given(text=st.text())
@example("")
@example("µs\x00\U0001f600")
def test_text_comes_back_as_it_went(text: str) -> None:
    payload = Text.of(text)

    back = decode(encode(Packet(0, 0, payload)), Text)

    assert str(back.data) == text
    assert len(back.data) == 1


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24).reshape(4, 6)[:, ::2],
        np.arange(24).reshape(4, 6).T,
        np.arange(6)[::-1],
        np.broadcast_to(np.float32(2.5), (3, 4)),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    ],
    ids=["strided", "transposed", "reversed", "broadcast", "fortran"],
)
def test_arrays_that_are_not_contiguous_arrive_contiguous_and_equal(
    array: np.ndarray[Any, Any],
) -> None:
    payload = Tensor(array, ("a", "b")[: array.ndim])

    back = decode(encode(Packet(0, 1, payload)), Tensor).data.array

    assert np.array_equal(back, array)
    assert back.flags.c_contiguous


def test_a_contiguous_array_is_not_copied_before_it_is_sent() -> None:
    array = np.arange(10)

    raw = payload_bytes(Tensor(array, ("time",)))

    assert np.shares_memory(raw, array)


def test_a_decoded_payload_is_a_view_of_the_message() -> None:
    message = encode(Packet(0, 1, Tensor(np.arange(100), ("time",))))

    array = decode(message, Tensor).data.array

    assert np.shares_memory(array, np.frombuffer(message, np.uint8))


@pytest.mark.parametrize("payload_type", TYPES, ids=lambda t: t.name)
def test_empty_payloads_are_read_only_too(payload_type: type[Payload]) -> None:
    back = decode(encode(Packet(5, 9, EMPTY[payload_type])), payload_type)

    assert back.data.array.size == 0
    assert not back.data.array.flags.writeable


EMPTY: dict[type[Payload], Payload] = {
    Events: Events(np.empty(0, EVENT), 1, 1),
    Samples: Samples(np.empty((0, 2), np.float32), 16_000),
    Spikes: Spikes(np.empty(0, SPIKE), 3),
    Tensor: Tensor(np.empty((0, 4)), ("time", "unit")),
    Table: Table(np.empty(0, [("a", "<i4")])),
    Text: Text.of(""),
}


def test_a_tensor_counts_steps_of_time_and_else_itself() -> None:
    assert len(Tensor(np.zeros((7, 2)), ("time", "unit"))) == 7
    assert len(Tensor(np.zeros((7, 2)), ("unit", "time"))) == 1
    assert len(Tensor(np.zeros(()), ())) == 1


class Spectrum(Payload, frozen=True, eq=False):
    """What a third party may add: an array and a word of its own."""

    centre_hz: float
    name = "acme.spectrum"

    def words(self) -> tuple[Any, ...]:
        return (*super().words(), self.centre_hz)

    @classmethod
    def from_wire(cls, words: list[Any], raw: Any) -> Spectrum:
        *shape, centre_hz = words
        plain = Table.from_wire(shape, raw)
        if plain.array.ndim != 1:
            raise {"KeyError": KeyError, "ZeroDivisionError": ZeroDivisionError}[centre_hz]("odd")
        return cls(plain.array, centre_hz)


def test_a_third_partys_payload_travels_like_those_that_ship() -> None:
    there = Packet(3, 4, Spectrum(np.arange(5.0), 2.5e9))

    back = decode(encode(there), Spectrum)

    same(there, back)
    assert back.data.centre_hz == 2.5e9


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype("O"),
        np.dtype([("a", "<i4"), ("b", "O")]),
        np.dtype([("a", [("b", "O", (2,))])]),
        np.dtype("T"),
    ],
    ids=["object", "column", "nested", "variable string"],
)
def test_python_objects_never_travel(dtype: np.dtype[Any]) -> None:
    with pytest.raises(PacketError, match="only plain numbers travel"):
        encode(Packet(0, 1, Table(np.zeros(2, dtype))))


def described(*words: Any) -> bytes:
    return msgspec.msgpack.encode(words)


@pytest.mark.parametrize(
    "words",
    [
        ["O", [1]],
        ["|O", [1]],
        ["T", [1]],
        ["|T16", [1]],
        ["O8", [1]],
        ["i4,O", [1]],
        [[["a"], ["|O"], [0], 8], [1]],
        [[["a"], [["|O", [1]]], [0], 8], [1]],
        [["|O", [1]], [1]],
        ["a3", [0]],
        ["", [0]],
        ["<i8", [-1]],
        ["<i8", [-1, -1]],
        ["<i8", [1.0]],
        ["<i8", ["1"]],
        ["<i8", [None]],
        ["<i8", None],
        ["<i8", 1],
        ["<i8", [0] * 70],
        ["<i8", [0, 2**62]],
        ["<i8", [0, 2**63]],
        ["<i8", [2**40, 2**40]],
        ["<i8"],
        [],
        [None, [1]],
        [{"a": 1}, [1]],
        [[["a"], ["<i8"], [2**40], 8], [1]],
        [[["a"], ["<i8"], [-8], 8], [1]],
        [[["a"], ["<i8"], [4], 8], [1]],
        [[["a"], ["<i8"], [0], 2**40], [1]],
        [[["a", "a"], ["<i4", "<i4"], [0, 4], 8], [1]],
        [[[1], ["<i8"], [0], 8], [1]],
        [["<i8", [2**30, 2**30]], [1]],
        [["<i8", [-1]], [1]],
        [["<i8", "ab"], [1]],
    ],
    ids=repr,
)
def test_descriptions_that_no_table_has_are_refused(words: list[Any]) -> None:
    with pytest.raises(PacketError):
        rebuild(Table, described("table", *words), np.zeros(8, np.uint8))


@pytest.mark.parametrize(
    ("payload_type", "words", "nbytes"),
    [
        (Events, [640, 480], 17),
        (Events, [0, 480], 16),
        (Events, [640, 40_000], 16),
        (Events, ["640", 480], 16),
        (Events, [640], 16),
        (Spikes, [3], 15),
        (Spikes, [], 16),
        (Samples, ["<f4", [2, 2]], 16),
        (Samples, ["<f4", [2, 3], 48_000, 0], 16),
        (Tensor, ["<f4", [4], None, 0], 16),
        (Tensor, ["<f4", [5], ["time"], 0], 16),
        (Text, ["|u1", [17]], 16),
        (Text, ["|u1", [16], 1], 16),
    ],
)
def test_descriptions_that_do_not_fit_their_bytes_are_refused(
    payload_type: type[Payload], words: list[Any], nbytes: int
) -> None:
    with pytest.raises(PacketError):
        rebuild(payload_type, described(payload_type.name, *words), np.zeros(nbytes, np.uint8))


def test_the_error_says_which_payload_came_and_which_is_declared() -> None:
    message = encode(Packet(0, 1, EMPTY[Spikes]))

    with pytest.raises(PacketError, match="got a payload 'spikes' where 'events' is declared"):
        decode(message, Events)


def test_a_third_partys_failing_reader_is_a_packet_error_too() -> None:
    meta = described("acme.spectrum", "|u1", [2, 4], "KeyError")

    with pytest.raises(PacketError, match=r"'acme\.spectrum' does not fit its description"):
        rebuild(Spectrum, meta, np.zeros(8, np.uint8))


def test_another_wire_version_is_named() -> None:
    message = bytearray(encode(Packet(0, 1, EMPTY[Events])))
    message[2] = WIRE_VERSION + 1

    with pytest.raises(PacketError, match=f"wire version 2; this build speaks {WIRE_VERSION}"):
        decode(bytes(message), Events)


@pytest.mark.parametrize("frame", [b"", b"S", b"SF", PREFIX, b"HTTP/1.1 200 OK", bytes(100)])
def test_what_is_not_a_message_of_ours_is_refused(frame: bytes) -> None:
    with pytest.raises(PacketError):
        kind_of(frame)
    with pytest.raises(PacketError):
        decode(frame, Events)


def test_a_message_of_another_kind_is_not_data() -> None:
    with pytest.raises(PacketError, match="message kind 2 where data was expected"):
        read_header(PREFIX + b"\x02" + bytes(HEADER.size))


def test_a_payload_in_a_slot_cannot_be_decoded_alone() -> None:
    meta = describe(EMPTY[Events])
    frame = data_frame(Header(1, 0, 1, 0, 1, 0, 16, 3, len(meta)), meta)

    with pytest.raises(PacketError, match="slot 3 of a memory that is not here"):
        decode(frame, Events)


def test_a_packet_that_stops_before_it_starts_is_refused() -> None:
    with pytest.raises(PacketError, match="stops"):
        decode(encode(Packet(5, 4, EMPTY[Events])), Events)


def test_a_description_that_does_not_fit_a_slots_head_is_refused_when_it_is_made() -> None:
    wide = np.dtype([(f"column_{number}", "<f8") for number in range(400)])

    with pytest.raises(PacketError, match=f"at most {MAXIMUM_META}"):
        encode(Packet(0, 1, Table(np.zeros(1, wide))))


@pytest.mark.parametrize("nbytes", [2**20, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize("slot", [-1, -2])
def test_a_huge_declared_size_costs_nothing(nbytes: int, slot: int) -> None:
    meta = described("table", "<i8", [nbytes // 8])
    frame = data_frame(Header(1, 0, 1, 0, 1, 0, nbytes, slot, len(meta)), meta, bytes(8))
    tracemalloc.start()

    with pytest.raises(PacketError):
        decode(frame, Table)

    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


# --- hostile bytes ------------------------------------------------------------------------------


@pytest.fixture
def _no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "dumps", refuse)


MESSAGES = [
    (type(payload), encode(Packet(1, 2, payload)))
    for payload in (
        Events(blank(EVENT, (3,)), 640, 480),
        Samples(np.ones((4, 2), np.float32), 16_000, 5),
        Spikes(blank(SPIKE, (3,)), 9),
        Tensor(np.arange(6.0).reshape(2, 3), ("time", "unit"), 10),
        Table(blank(np.dtype([("a", "<i4"), ("b", "<f4", (2,)), ("c", [("d", "S3")])]), (2,))),
        Text.of("words"),
    )
]


def decodes_or_refuses(message: bytes, payload_type: type[Payload]) -> None:
    """PacketError, or a packet that can be looked at; no other exception, no great allocation."""
    try:
        packet = decode(message, payload_type)
    except PacketError:
        return
    array = packet.data.array
    assert array.nbytes <= len(message)
    array.tobytes()
    assert packet.start <= packet.stop


@pytest.mark.usefixtures("_no_pickle")
@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    body=st.binary(max_size=200),
    payload_type=st.sampled_from(TYPES),
    prefix=st.sampled_from([b"", PREFIX, PREFIX + b"\x01"]),
)
def test_random_bytes_are_refused_or_harmless(
    body: bytes, payload_type: type[Payload], prefix: bytes
) -> None:
    decodes_or_refuses(prefix + body, payload_type)


@pytest.mark.usefixtures("_no_pickle")
@settings(deadline=None, max_examples=500, derandomize=True)
@given(
    which=st.sampled_from(range(len(MESSAGES))),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_messages_with_changed_bytes_are_refused_or_harmless(
    which: int, changes: list[tuple[int, int]]
) -> None:
    payload_type, whole = MESSAGES[which]
    message = bytearray(whole)
    for at, value in changes:
        message[at % len(message)] = value

    decodes_or_refuses(bytes(message), payload_type)


@pytest.mark.usefixtures("_no_pickle")
@pytest.mark.parametrize(("payload_type", "whole"), MESSAGES, ids=[t.name for t, _ in MESSAGES])
def test_messages_cut_short_or_with_more_behind_them_are_refused(
    payload_type: type[Payload], whole: bytes
) -> None:
    for length in range(len(whole)):
        with pytest.raises(PacketError):
            decode(whole[:length], payload_type)
    with pytest.raises(PacketError):
        decode(whole + b"\x00", payload_type)


WORD = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(),
        st.text(max_size=6), st.binary(max_size=6),
        st.sampled_from(["<i8", "|O", "|V0", "|S0", "<M8[us]", "time", "a"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner)),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.usefixtures("_no_pickle")
@settings(deadline=None, max_examples=250, derandomize=True)
@given(
    payload_type=st.sampled_from(TYPES), words=st.lists(WORD, max_size=5), nbytes=st.integers(0, 48)
)
def test_any_description_is_refused_or_harmless(
    payload_type: type[Payload], words: list[Any], nbytes: int
) -> None:
    meta = described(payload_type.name, *words)
    frame = data_frame(Header(1, 0, 1, 0, 1, 0, nbytes, -1, len(meta)), meta, bytes(nbytes))

    decodes_or_refuses(frame, payload_type)


def test_a_description_nested_without_end_is_refused() -> None:
    deep: Any = "<i8"
    for _ in range(600):
        deep = [deep, [1]]
    meta = described("table", deep, [1])

    with pytest.raises(PacketError):
        rebuild(Table, meta, np.zeros(8, np.uint8))


@pytest.mark.usefixtures("_no_pickle")
@pytest.mark.parametrize("payload_type", TYPES, ids=lambda t: t.name)
def test_nothing_is_pickled_on_the_way(payload_type: type[Payload]) -> None:
    round_trip(EMPTY[payload_type])


@pytest.mark.parametrize("axis", ["a", "ab", "abc", "abcdefgh", "abcdefghijklm"])
def test_a_payload_inside_a_message_is_aligned_like_any_array(axis: str) -> None:
    packet = Packet(0, 1, Tensor(np.arange(5.0), (axis,)))

    assert decode(encode(packet), Tensor).data.array.flags.aligned
