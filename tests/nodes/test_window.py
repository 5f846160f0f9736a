import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.processors.window import Window

from streamflow.errors import NodeError
from streamflow.packet import EVENT, Events, Packet
from streamflow.testing import cut, drive, events

streams = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 600)), min_size=1, max_size=80)
both = st.sampled_from(
    [{"duration": 1e-6}, {"duration": 70e-6}, {"duration": 1.0}, {"count": 1}, {"count": 7},
     {"count": 1000}]
)  # fmt: skip


def stream(steps, start=0):
    times = start + np.cumsum([step for step, _ in steps])
    return events([(int(t), x, 3, 1) for t, (_, x) in zip(times, steps, strict=True)], start=start)


def windows_of(out):
    return [(p.start, p.stop, p.data.array.tolist()) for p in out["windows"]]


@settings(max_examples=40, deadline=None)
@given(steps=streams, setting=both, size=st.integers(1, 30), start=st.integers(-300, 300))
def test_windows_do_not_depend_on_how_events_are_cut_into_packets(steps, setting, size, start):
    whole = drive(Window(setting), events=[stream(steps, start)])

    pieces = drive(Window(setting), events=cut(stream(steps, start), size))

    assert windows_of(pieces) == windows_of(whole)


@settings(max_examples=40, deadline=None)
@given(steps=streams, duration=st.integers(1, 200), start=st.integers(-300, 300))
def test_windows_of_equal_duration_hold_the_events_of_their_span(steps, duration, start):
    packet = stream(steps, start)

    out = drive(Window({"duration": duration * 1e-6}), events=[packet])

    expected = {}
    for row in packet.data.array.tolist():
        expected.setdefault(row[0] // duration * duration, []).append(row)
    assert windows_of(out) == [(at, at + duration, rows) for at, rows in expected.items()]


@settings(max_examples=30, deadline=None)
@given(steps=streams, count=st.integers(1, 20))
def test_windows_of_equal_count_hold_that_many_events(steps, count):
    packet = stream(steps)

    out = drive(Window({"count": count}), events=[packet])

    rows = packet.data.array.tolist()
    pieces = [rows[at : at + count] for at in range(0, len(rows), count)]
    assert windows_of(out) == [(p[0][0], p[-1][0] + 1, p) for p in pieces]


@settings(max_examples=20, deadline=None)
@given(steps=streams, setting=both, size=st.integers(1, 30), stop=st.integers(0, 4))
def test_a_restarted_node_goes_on_as_if_nothing_had_happened(steps, setting, size, stop):
    packets = cut(stream(steps), size)
    whole = drive(Window(setting), events=packets)

    before, after = Window(setting), Window(setting)
    out = windows_of(drive(before, events=packets[:stop], end=False))
    after.open()
    after.restore(before.snapshot())
    out += windows_of(drive(after, events=packets[stop:], opened=True))

    assert out == windows_of(whole)


def test_silence_closes_a_window():
    node = Window({"duration": 0.001})
    node.open()
    assert list(node.on_events(events([(1100, 1, 1, 1)]))) == []
    assert list(node.advance(1999)) == []

    emitted = list(node.advance(2000))

    assert [(e.packet.start, e.packet.stop) for e in emitted] == [(1000, 2000)]


def test_stream_time_that_passed_in_silence_leaves_the_next_window_its_start():
    node = Window({"duration": 0.001})
    node.open()

    assert list(node.advance(1550)) == []

    assert node.holds_from == 1000


def test_an_event_from_the_past_stays_and_is_counted():
    rows = [(100, 1, 1, 1), (1200, 2, 1, 1), (300, 3, 1, 1)]

    out = drive(Window({"duration": 0.001}), events=[events(rows, start=0, stop=2000)])

    assert [[row[1] for row in w[2]] for w in windows_of(out)] == [[1], [2, 3]]
    assert out.faults == {"late": 1}


def test_packets_without_events_make_no_window():
    empty = Packet(0, 5000, Events(np.empty(0, EVENT), 640, 480))

    assert drive(Window({"duration": 0.001}), events=[empty])["windows"] == []


@pytest.mark.parametrize("setting", [{}, {"duration": 0.001, "count": 5}])
def test_exactly_one_of_duration_and_count_is_asked_for(setting):
    with pytest.raises(NodeError, match="expected exactly one of them"):
        Window(setting).open()
