"""`drive` hands nodes what a running graph would, and catches what a running graph relies on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from streamflow.compilation import kernels_loaded, no_compilation
from streamflow.errors import NodeError
from streamflow.node import In, Node, Out, Settings
from streamflow.packet import EVENT, Events, Packet, Table, Text
from streamflow.testing import cut, drive, events, table


@njit
def total(values: Any) -> int:
    """A kernel that the tests below warm up, or forget to."""
    found = 0
    for value in values:
        found += value
    return found


class Passing(Node[Settings]):
    """Does with each packet what the test says, and keeps a diary."""

    rows = In(Table)
    more = In(Table)
    out = Out(Table)
    other = Out(Table)

    def __init__(self, act: Callable[[Passing, Packet[Table]], Any] | None = None) -> None:
        super().__init__()
        self.act = act
        self.diary: list[Any] = []

    def open(self) -> None:
        self.diary.append("open")

    def on_rows(self, packet: Packet[Table]) -> Any:
        self.diary.append(("rows", packet.start))
        return self.act(self, packet) if self.act else None

    def on_more(self, packet: Packet[Table]) -> Any:
        self.diary.append(("more", packet.start))
        return self.act(self, packet) if self.act else None

    def advance(self, time: int) -> None:
        self.diary.append(("advance", time))

    def finish(self) -> None:
        self.diary.append("finish")

    def close(self) -> None:
        self.diary.append("close")

    def results(self) -> dict[str, Any]:
        return {"diary": len(self.diary)}


class Source(Node[Settings]):
    """Yields what the test says."""

    out = Out(Table)

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        super().__init__()
        self.spans = spans

    def produce(self) -> Any:
        for start, stop in self.spans:
            yield self.out(Table(numbers(start)), start, stop)


def numbers(*values: int) -> np.ndarray[Any, Any]:
    return np.array([(value,) for value in values], [("value", "<i8")])


def packet(start: int, *values: int, stop: int | None = None) -> Packet[Table]:
    return table(numbers(*values), start, start + 1 if stop is None else stop)


# --- what a node meets --------------------------------------------------------------------------


def test_a_node_is_opened_fed_in_order_finished_and_closed() -> None:
    node = Passing()

    out = drive(node, rows=[packet(1), packet(5, stop=9)], more=[packet(1), packet(3)])

    assert [entry for entry in node.diary if entry[0] != "advance"] == [
        "open", ("rows", 1), ("more", 1), ("more", 3), ("rows", 5), "finish", "close",
    ]  # fmt: skip
    assert out.results == {"diary": 10}


def test_stream_time_advances_to_what_is_still_to_come() -> None:
    node = Passing()

    drive(node, rows=[packet(1), packet(5, stop=9)], more=[packet(3)])

    assert [entry[1] for entry in node.diary if entry[0] == "advance"] == [3, 5, 9]


def test_inputs_are_read_only() -> None:
    def write(_node: Passing, packet: Packet[Table]) -> None:
        packet.data.array["value"] = 0

    with pytest.raises(ValueError, match="read-only"):
        drive(Passing(write), rows=[packet(1, 1)])


def test_a_node_is_closed_after_it_failed() -> None:
    def fail(_node: Passing, _packet: Packet[Table]) -> None:
        raise RuntimeError("broken")

    node = Passing(fail)
    with pytest.raises(RuntimeError, match="broken"):
        drive(node, rows=[packet(1)])

    assert node.diary[-1] == "close"


def test_a_node_can_be_fed_in_parts() -> None:
    node = Passing()

    drive(node, rows=[packet(1)], end=False)
    drive(node, rows=[packet(2)], opened=True)

    assert [entry for entry in node.diary if entry[0] != "advance"] == [
        "open", ("rows", 1), ("rows", 2), "finish", "close",
    ]  # fmt: skip


def test_a_source_is_stopped_at_the_limit() -> None:
    out = drive(Source((time, time + 1) for time in range(10**9)), limit=3)

    assert [packet.start for packet in out["out"]] == [0, 1, 2]
    assert out.items("out")["value"].tolist() == [0, 1, 2]


def test_an_input_that_the_node_has_not_is_named() -> None:
    with pytest.raises(ValueError, match=r"passing has no input \['row'\]: \['rows', 'more'\]"):
        drive(Passing(), row=[packet(1)])


def test_inputs_given_out_of_order_are_the_tests_mistake() -> None:
    with pytest.raises(ValueError, match="input 'rows': a packet starts at 1, before 2"):
        drive(Passing(), rows=[packet(2), packet(1)])


def test_the_items_of_a_port_keep_their_layout() -> None:
    class Echo(Node[Settings]):
        events = In(Events)
        same = Out(Events)

        def on_events(self, packet: Packet[Events]) -> Any:
            yield self.same(packet.data, packet.start, packet.stop)

    out = drive(Echo(), events=cut(events([(n, n, 0, 1) for n in range(5)]), 2))

    assert out.items("same").dtype == EVENT
    assert out.items("same")["x"].tolist() == [0, 1, 2, 3, 4]


# --- what it catches ----------------------------------------------------------------------------


def test_a_reused_buffer_is_caught_when_it_is_written_to() -> None:
    buffer = numbers(0)

    def reuse(node: Passing, packet: Packet[Table]) -> Any:
        buffer["value"] = packet.start
        yield node.out(Table(buffer), packet.start, packet.stop)

    with pytest.raises(ValueError, match="read-only"):
        drive(Passing(reuse), rows=[packet(1), packet(2)])


def test_a_reused_buffer_is_caught_when_views_of_it_are_yielded() -> None:
    buffer = numbers(0, 0)

    def reuse(node: Passing, packet: Packet[Table]) -> Any:
        buffer["value"] = packet.start
        yield node.out(Table(buffer[:1]), packet.start, packet.stop)

    with pytest.raises(NodeError, match="an array yielded on 'out' changed afterwards"):
        drive(Passing(reuse), rows=[packet(1), packet(2)])


def test_fresh_arrays_pass() -> None:
    def fresh(node: Passing, packet: Packet[Table]) -> Any:
        yield node.out(Table(packet.data.array.copy()), packet.start, packet.stop)

    out = drive(Passing(fresh), rows=[packet(1, 5), packet(2, 6)])

    assert out.items("out")["value"].tolist() == [5, 6]


def test_an_undeclared_port_is_caught() -> None:
    def astray(node: Passing, packet: Packet[Table]) -> Any:
        emission = node.out(packet.data, packet.start, packet.stop)
        yield type(emission)("elsewhere", emission.packet)

    with pytest.raises(NodeError, match="'elsewhere', not one of its outputs"):
        drive(Passing(astray), rows=[packet(1)])


def test_a_wrong_payload_is_caught() -> None:
    def wrong(node: Passing, packet: Packet[Table]) -> Any:
        yield node.out(Text.of("x"), packet.start, packet.stop)  # type: ignore[arg-type]  # what is tested

    with pytest.raises(NodeError, match="emitted Text on 'out', which declares Table"):
        drive(Passing(wrong), rows=[packet(1)])


def test_packets_out_of_order_are_caught() -> None:
    def backwards(node: Passing, packet: Packet[Table]) -> Any:
        yield node.out(Table(numbers(1)), packet.start + 5, packet.start + 6)
        yield node.out(Table(numbers(2)), packet.start, packet.start + 1)

    with pytest.raises(NodeError, match="starts at 1, before stream time 6"):
        drive(Passing(backwards), rows=[packet(1)])


def test_a_packet_that_comes_after_its_time_was_let_pass_is_caught() -> None:
    def late(node: Passing, packet: Packet[Table]) -> Any:
        yield node.out(Table(numbers(1)), packet.start - 3, packet.stop)

    with pytest.raises(NodeError, match=r"starts at 7, before stream time 10 .* set holds_from"):
        drive(Passing(late), rows=[packet(1, stop=2), packet(10)])


def test_what_holds_from_announces_may_come_late() -> None:
    class Holding(Passing):
        def on_rows(self, packet: Packet[Table]) -> Any:
            held, self.holds_from = self.holds_from, packet.start
            if held is not None:
                yield self.out(Table(numbers(held)), held, packet.start)

    out = drive(Holding(), rows=[packet(1), packet(10), packet(20)])

    assert [(packet.start, packet.stop) for packet in out["out"]] == [(1, 10), (10, 20)]


def test_each_port_has_an_order_of_its_own() -> None:
    def two(node: Passing, packet: Packet[Table]) -> Any:
        yield node.out(Table(numbers(1)), packet.start + 1, packet.start + 2)
        yield node.other(Table(numbers(2)), packet.start, packet.start + 1)

    out = drive(Passing(two), rows=[packet(1), packet(10)])

    assert len(out["out"]) == len(out["other"]) == 2


def test_a_source_must_not_go_back_into_a_packet_it_gave() -> None:
    with pytest.raises(NodeError, match="starts at 5, before stream time 10"):
        drive(Source([(0, 10), (5, 12)]))


def test_compiling_while_data_flows_is_caught() -> None:
    def cold(_node: Passing, packet: Packet[Table]) -> None:
        total(packet.data.array["value"])

    with pytest.raises(TypeError, match="No matching definition"):
        drive(Passing(cold), rows=[packet(1, 1, 2)])


def test_a_warm_up_with_writable_arrays_does_not_serve_read_only_ones() -> None:
    class Warmed(Passing):
        def open(self) -> None:
            total(np.zeros(1, np.float64))

    def use(_node: Passing, packet: Packet[Table]) -> None:
        fixed = np.frombuffer(packet.data.array.tobytes(), np.float64)
        assert not fixed.flags.writeable
        total(fixed)

    with pytest.raises(TypeError, match="No matching definition"):
        drive(Warmed(use), rows=[packet(1, 1, 2)])


def test_a_kernel_that_open_warmed_up_may_be_used() -> None:
    class Warmed(Passing):
        def open(self) -> None:
            rows = np.frombuffer(bytes(8), np.int32)
            assert total(rows) == 0

    def use(node: Passing, packet: Packet[Table]) -> None:
        node.diary.append(total(np.frombuffer(bytes([3, 0, 0, 0]), np.int32)))

    node = Warmed(use)
    drive(node, rows=[packet(1, 1, 2)])

    assert 3 in node.diary


class Lazy:
    """As the lazy modules of large libraries: it loads what is not there when asked what it is."""

    @property  # type: ignore[misc]  # that is the point
    def __class__(self) -> type:
        raise ImportError("an optional library is not installed")


def test_kernels_are_found_beside_objects_that_cannot_say_what_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(globals(), "lazy", Lazy())

    assert list(kernels_loaded())


def test_kernels_may_compile_again_afterwards() -> None:
    assert total in list(kernels_loaded())

    with no_compilation(), pytest.raises(TypeError, match="No matching definition"):
        total(np.zeros(2, np.uint16))

    assert total(np.ones(2, np.uint16)) == 2


def test_kernels_may_compile_again_after_a_failure() -> None:
    with pytest.raises(RuntimeError, match="broken"), no_compilation():
        raise RuntimeError("broken")

    assert total(np.ones(3, np.uint8)) == 3


# --- packets to feed ----------------------------------------------------------------------------


def test_events_cover_their_own_time_unless_told_otherwise() -> None:
    plain = events([(5, 1, 2, 0), (9, 3, 4, 1)])
    told = events([(5, 1, 2, 0)], start=0, stop=100, width=20, height=10)
    nothing = events([])

    assert (plain.start, plain.stop) == (5, 10)
    assert plain.data.array.tolist() == [(5, 1, 2, 0), (9, 3, 4, 1)]
    assert (told.start, told.stop, told.data.width, told.data.height) == (0, 100, 20, 10)
    assert (nothing.start, nothing.stop, len(nothing.data)) == (0, 0, 0)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    times=st.lists(st.integers(0, 1000), min_size=1, max_size=40).map(sorted),
    size=st.integers(1, 50),
)
def test_cutting_changes_the_packets_and_nothing_else(times: list[int], size: int) -> None:
    whole = events([(time, 0, 0, 1) for time in times], start=-5, stop=2000)

    pieces = cut(whole, size)

    joined = np.concatenate([piece.data.array for piece in pieces])
    assert np.array_equal(joined, whole.data.array)
    assert all(0 < len(piece.data) <= size for piece in pieces)
    assert (pieces[0].start, pieces[-1].stop) == (-5, 2000)
    for piece, after in itertools.pairwise(pieces):
        assert piece.stop == after.start
        assert piece.start <= piece.data.array["timestamp"][0]
