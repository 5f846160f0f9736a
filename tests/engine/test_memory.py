"""Shared memory: views give their slot back once, and what a killed process committed is whole."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamflow.errors import PacketError, TransportError
from streamflow.memory import (
    PAGE,
    Board,
    Histogram,
    Segment,
    SlotHead,
    Vault,
    create,
    decode_state,
    encode_state,
    read_only,
    segment_bytes,
)
from streamflow.packet import EVENT

LIMIT_S = 30  # for what takes milliseconds: only reached when it never comes
PROPERTY = settings(deadline=None, max_examples=100, derandomize=True)


@pytest.fixture
def memory() -> Iterator[Callable[[int], int]]:
    """Makes shared memory of a size; closed with the test."""
    fds: list[int] = []

    def make(size: int) -> int:
        fds.append(create("test", size))
        return fds[-1]

    yield make
    for fd in fds:
        os.close(fd)


@pytest.fixture
def ends(memory: Callable[[int], int]) -> tuple[Segment, Segment]:
    """A producer's and a consumer's map of the same three slots of 100 bytes."""
    fd = memory(segment_bytes(3, 100))
    again = read_only(fd)
    try:
        return Segment(fd, 3, 100, writable=True), Segment(again, 3, 100, writable=False)
    finally:
        os.close(again)


# --- descriptors --------------------------------------------------------------------------------


def test_memory_starts_as_zeros_and_costs_nothing_until_it_is_touched(
    memory: Callable[[int], int],
) -> None:
    fd = memory(1 << 32)

    assert os.pread(fd, 8, 1 << 31) == bytes(8)
    assert os.fstat(fd).st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("size", [0, PAGE, 2 * PAGE])
def test_the_size_of_memory_is_sealed(memory: Callable[[int], int], size: int) -> None:
    fd = memory(PAGE + 1)

    with pytest.raises(PermissionError):
        os.ftruncate(fd, size)


def test_seals_cannot_be_taken_off_or_added_to(memory: Callable[[int], int]) -> None:
    fd = memory(PAGE)

    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, 1033, 0x8)


def test_a_read_only_descriptor_cannot_be_mapped_for_writing(
    memory: Callable[[int], int],
) -> None:
    fd = memory(segment_bytes(1, 10))
    weak = read_only(fd)

    with pytest.raises(PermissionError):
        Segment(weak, 1, 10, writable=True)
    with pytest.raises(PermissionError):
        mmap.mmap(weak, PAGE, mmap.MAP_SHARED, mmap.PROT_WRITE)
    with pytest.raises(OSError):
        os.write(weak, b"x")
    os.close(weak)


def test_descriptors_are_not_inherited(memory: Callable[[int], int]) -> None:
    fd = memory(PAGE)
    weak = read_only(fd)

    assert not os.get_inheritable(fd)
    assert not os.get_inheritable(weak)
    os.close(weak)


def test_memory_that_cannot_be_had_is_a_clear_error() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(TransportError) as raised:
            create("camera", 5 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    expected = "cannot reserve 5 MiB of shared memory for camera: [Errno 24] Too many open files"
    assert str(raised.value) == expected


def test_a_segment_of_another_size_is_refused(memory: Callable[[int], int]) -> None:
    fd = memory(segment_bytes(3, 100))

    with pytest.raises(TransportError, match="not 4 x 100"):
        Segment(fd, 4, 100, writable=True)


# --- slots --------------------------------------------------------------------------------------


def test_a_consumer_sees_what_the_producer_wrote(ends: tuple[Segment, Segment]) -> None:
    there, here = ends
    there.payload(1, 100)[:] = np.arange(100)
    head = SlotHead(0b101, 7, -5, 9, 11, 0, 3, 100, 4)
    there.write_head(1, head, 8, b"meta")

    found, meta = here.read_head(1)

    assert np.array_equal(here.payload(1, 100), np.arange(100))
    assert (found.holders, found.sequence, found.start, found.stop) == (0b101, 7, -5, 9)
    assert (found.captured, found.watermark, found.items, found.nbytes) == (11, 8, 3, 100)
    assert meta == b"meta"


def test_slots_do_not_touch_each_other(ends: tuple[Segment, Segment]) -> None:
    there, here = ends
    for slot in range(3):
        there.payload(slot, 100)[:] = slot + 1
        there.write_head(slot, SlotHead(slot, slot, 0, 0, 0, 0, 0, 100, 1), 0, b"%d" % slot)

    for slot in range(3):
        assert set(here.payload(slot, 100).tolist()) == {slot + 1}
        assert here.read_head(slot)[0].sequence == slot
        assert here.read_head(slot)[1] == b"%d" % slot


def test_what_is_published_is_seen_by_everyone(ends: tuple[Segment, Segment]) -> None:
    there, here = ends
    assert here.published == (0, 0)

    for sequence in range(1, 6):
        there.publish(sequence, 10 * sequence)
        assert here.published == (sequence, 10 * sequence)


def test_a_consumers_view_cannot_be_written(ends: tuple[Segment, Segment]) -> None:
    _there, here = ends
    view = here.view(0, 100, lambda: None)

    assert not view.flags.writeable
    with pytest.raises(ValueError):
        view.flags.writeable = True
    assert not here.payload(0, 100).flags.writeable


@pytest.mark.parametrize(("slot", "nbytes"), [(3, 10), (2**31, 10), (0, 101), (2, 2**62)])
def test_a_view_outside_the_segment_is_refused(
    ends: tuple[Segment, Segment], slot: int, nbytes: int
) -> None:
    _there, here = ends

    with pytest.raises(PacketError, match="outside the segment"):
        here.view(slot, nbytes, lambda: None)
    with pytest.raises(PacketError, match="outside the segment"):
        here.payload(slot, nbytes)


def test_a_loan_lies_in_its_slot(ends: tuple[Segment, Segment]) -> None:
    there, here = ends
    array = there.loan(2, (5,), np.float64)

    array[:] = np.arange(5)

    assert array.__array_interface__["data"][0] == there.address(2)
    assert np.array_equal(here.payload(2, 40).view(np.float64), np.arange(5))


# --- when a view is given back ------------------------------------------------------------------

VIEWS: dict[str, Callable[[Any], Any]] = {
    "the array itself": lambda view: view,
    "a slice": lambda view: view[16:48],
    "a view of a view of a view": lambda view: view[16:].view("<i4")[::2].reshape(2, -1)[1],
    "a structured view": lambda view: view.view(EVENT),
    "a column of a structured view": lambda view: view.view(EVENT)["timestamp"],
    "one row of a structured view": lambda view: view.view(EVENT)[1],
    "a memoryview": memoryview,
    "a memoryview of a slice": lambda view: memoryview(view[8:])[3:],
    "an array made from its buffer": lambda view: np.frombuffer(view, np.uint8),
    "an iterator over it": lambda view: iter(view[3:]),
    "a transposed matrix of it": lambda view: view.reshape(8, 12).T,
    "a container that holds it": lambda view: {"a": [view[3:]]},
    "a closure over it": lambda view: lambda: view.sum(),
}


@pytest.mark.parametrize("make", VIEWS.values(), ids=VIEWS)
def test_a_slot_is_given_back_once_and_only_when_its_last_view_is_gone(
    ends: tuple[Segment, Segment], make: Callable[[Any], Any]
) -> None:
    _there, here = ends
    given_back: list[int] = []
    view = here.view(0, 96, lambda: given_back.append(1))

    last = make(view)
    del view
    gc.collect()
    assert given_back == []

    del last
    gc.collect()
    assert given_back == [1]


def test_an_exception_that_holds_a_frame_holds_its_view(ends: tuple[Segment, Segment]) -> None:
    _there, here = ends
    given_back: list[int] = []

    def handler() -> None:
        view = here.view(0, 96, lambda: given_back.append(1))
        raise ValueError(view.sum())

    error: ValueError | None = None
    try:
        handler()
    except ValueError as raised:
        error = raised
    gc.collect()
    assert given_back == []

    del error
    gc.collect()
    assert given_back == [1]


def test_views_of_one_slot_are_given_back_one_by_one(ends: tuple[Segment, Segment]) -> None:
    _there, here = ends
    given_back: list[str] = []
    first = here.view(0, 96, lambda: given_back.append("first"))
    second = here.view(0, 96, lambda: given_back.append("second"))

    del first
    assert given_back == ["first"]
    del second
    assert given_back == ["first", "second"]


def test_a_copy_holds_nothing(ends: tuple[Segment, Segment]) -> None:
    _there, here = ends
    given_back: list[int] = []
    view = here.view(0, 96, lambda: given_back.append(1))

    copy = view.view(EVENT).copy()
    del view

    assert given_back == [1]
    assert len(copy) == 6


def test_ten_thousand_views_come_and_go_without_a_trace(ends: tuple[Segment, Segment]) -> None:
    from streamflow.memory import _watched

    _there, here = ends
    given_back: list[int] = []
    before = len(_watched)

    for number in range(10_000):
        here.view(number % 3, 96, lambda number=number: given_back.append(number))  # type: ignore[misc]  # mypy infers no default

    assert given_back == list(range(10_000))
    assert len(_watched) == before


# --- boards -------------------------------------------------------------------------------------

WORDS = 200


def board(fd: int, *, writable: bool = True) -> Board:
    return Board(fd, WORDS, histograms=1, writable=writable)


def counting(fd: int) -> None:
    """In a child: commit boards whose words are all equal, as fast as possible, until killed."""
    mine = board(fd)
    mine.recover()
    number = mine.live[0]
    while True:
        number += 1
        mine.write(0, *[number] * WORDS)
        mine.commit()


def forked(what: Callable[[], None]) -> int:
    """The id of a child that does `what` and never comes back."""
    child = os.fork()
    if child == 0:
        try:
            what()
        finally:
            os._exit(1)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    _pid, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.0005)


def test_a_board_is_whole_whenever_its_process_is_killed(memory: Callable[[int], int]) -> None:
    fd = memory(Board.size(WORDS, 1))
    here = board(fd, writable=False)
    last = 0

    for _ in range(60):
        child = forked(lambda: counting(fd))
        wait_for(lambda last=last: here.read()[0] > last)  # type: ignore[misc]  # mypy infers no default
        kill(child)

        words = here.read()
        assert len(set(words)) == 1
        assert words[0] > last
        last = words[0]
        successor = board(fd)
        successor.recover()
        assert successor.live.tolist() == words


def test_a_board_is_whole_whenever_it_is_read(memory: Callable[[int], int]) -> None:
    fd = memory(Board.size(WORDS, 1))
    here = board(fd, writable=False)
    child = forked(lambda: counting(fd))

    try:
        wait_for(lambda: here.read()[0] > 0)
        last, end = 0, time.monotonic() + 2
        while time.monotonic() < end:
            words = here.read()
            assert len(set(words)) == 1
            assert words[0] >= last
            last = words[0]
    finally:
        kill(child)


def test_what_was_not_committed_is_not_seen(memory: Callable[[int], int]) -> None:
    fd = memory(Board.size(WORDS, 1))
    mine, here = board(fd), board(fd, writable=False)
    mine.write(3, 5, 6)
    mine.commit()

    mine.write(3, 99)

    assert here.read()[3:5] == [5, 6]
    mine.recover()
    assert mine.live[3] == 5


def test_what_a_process_is_doing_is_seen_at_once(memory: Callable[[int], int]) -> None:
    fd = memory(Board.size(WORDS, 1))
    mine, here = board(fd), board(fd, writable=False)

    mine.say(Board.NODE, 4)

    assert here.now(Board.NODE) == 4
    assert here.read() == [0] * WORDS


def test_a_board_smaller_than_the_plan_says_is_refused(memory: Callable[[int], int]) -> None:
    fd = memory(Board.size(WORDS, 0))

    with pytest.raises(TransportError, match="smaller than the plan says"):
        board(fd)


# --- histograms ---------------------------------------------------------------------------------


def histogram() -> Histogram:
    return Histogram(memoryview(bytearray(8 * Histogram.BUCKETS)).cast("q"))


@PROPERTY
@given(st.lists(st.integers(8, 2 * 3600 * 10**9), min_size=1, max_size=60))
def test_percentiles_are_at_most_one_bucket_wrong(durations: list[int]) -> None:
    counts = histogram()
    for duration in durations:
        counts.add(duration)

    said = counts.summary()

    ordered = sorted(durations)
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
        rank = next(i for i in range(len(ordered)) if i + 1 >= share * len(ordered))
        exact = ordered[rank] / 1e3
        # the middle of a bucket at most 12.5 % wide; summaries have one decimal
        assert said[name] == pytest.approx(exact, rel=0.0626, abs=0.051)
    assert said["max"] == round(max(durations) / 1e3, 1)
    assert said["count"] == len(durations)


@PROPERTY
@given(st.lists(st.integers(-(10**6), 2**63 - 1), max_size=60))
def test_durations_counted_together_are_counted_as_one_by_one(durations: list[int]) -> None:
    words = [memoryview(bytearray(8 * Histogram.BUCKETS)).cast("q") for _ in range(2)]
    together, one_by_one = (Histogram(memory) for memory in words)
    for duration in durations:
        one_by_one.add(duration)
        one_by_one.add(duration)

    together.extend(durations)
    together.extend(durations)

    assert words[0].tolist() == words[1].tolist()


@given(st.integers(-(10**6), 2**63 - 1))
@PROPERTY
def test_any_duration_is_counted_and_the_maximum_is_exact(duration: int) -> None:
    counts = histogram()

    counts.add(duration)

    said = counts.summary()
    assert said["count"] == 1
    assert said["max"] == round(max(0, duration) / 1e3, 1)
    assert said["p50"] <= said["max"]


def test_an_empty_histogram_says_zero() -> None:
    assert histogram().summary() == {"p50": 0, "p99": 0, "p999": 0, "max": 0, "count": 0}


def test_histograms_of_a_board_do_not_touch_its_counters(memory: Callable[[int], int]) -> None:
    fd = memory(Board.size(WORDS, 3))
    mine = Board(fd, WORDS, histograms=3, writable=True)
    for word in range(WORDS):
        mine.write(word, word)
    mine.commit()
    mine.commit()

    for index in range(3):
        for duration in (0, 10**3, 10**14, 2**62):
            mine.histogram(index).add(duration)

    assert mine.read() == list(range(WORDS))
    assert [mine.histogram(index).summary()["count"] for index in range(3)] == [4, 4, 4]


# --- snapshots ----------------------------------------------------------------------------------


def test_a_vault_keeps_two_snapshots_apart(memory: Callable[[int], int]) -> None:
    vault = Vault(memory(2000), writable=True)
    vault.write(0, b"a" * 1000)
    vault.write(1, b"b" * 1000)

    vault.write(0, b"c" * 10)

    assert vault.read(0, 10) == b"c" * 10
    assert vault.read(1, 1000) == b"b" * 1000


def test_a_snapshot_that_does_not_fit_is_a_clear_error(memory: Callable[[int], int]) -> None:
    vault = Vault(memory(4 << 20), writable=True)

    with pytest.raises(TransportError, match="a snapshot of 3 MiB; a process has room for 2 MiB"):
        vault.write(0, bytes(3 << 20))


COLUMN = st.one_of(hnp.scalar_dtypes(), st.sampled_from([np.dtype("S4"), np.dtype("<U3")]))
STATE = st.dictionaries(
    st.text(),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False),
        st.text(),
        st.binary(),
        hnp.arrays(COLUMN, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
    ),
    max_size=5,
)


@PROPERTY
@given(state=STATE)
def test_a_snapshot_comes_back_as_it_was(state: dict[str, Any]) -> None:
    back = decode_state(encode_state({"node": state}))["node"]

    assert list(back) == list(state)
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            assert back[name].dtype == value.dtype
            assert back[name].shape == value.shape
            assert back[name].tobytes() == value.tobytes()
            assert back[name].flags.writeable
        else:
            assert back[name] == value
            assert type(back[name]) is type(value)


@pytest.mark.parametrize(
    "dtype",
    [
        EVENT,
        np.dtype([("a", "<i2"), ("b", [("c", "S3"), ("d", "<f4", (2, 3))])]),
        np.dtype([("a", "<i8")], align=True),
        np.dtype([("a", "<M8[us]"), ("b", "?", 2)]),
    ],
    ids=str,
)
def test_structured_arrays_in_a_snapshot_keep_their_layout(dtype: np.dtype[Any]) -> None:
    array = np.arange(3 * dtype.itemsize).astype(np.uint8).view(dtype)

    back = decode_state(encode_state({"rows": array}))["rows"]

    assert back.dtype == dtype
    assert np.array_equal(back, array)


def test_arrays_that_are_not_contiguous_are_kept_too() -> None:
    array = np.arange(24).reshape(4, 6)[::2, ::-3]

    back = decode_state(encode_state({"a": array}))["a"]

    assert np.array_equal(back, array)


def test_numpys_own_numbers_are_kept_as_plain_ones() -> None:
    back = decode_state(encode_state({"a": np.float32(0.5), "b": np.int64(-7), "c": np.True_}))

    assert back == {"a": 0.5, "b": -7, "c": True}


@pytest.mark.parametrize("value", [object(), np.array([object()]), {1, 2}.__iter__(), len])
def test_what_is_no_plain_data_cannot_be_in_a_snapshot(value: Any) -> None:
    with pytest.raises(TypeError):
        encode_state({"a": value})
