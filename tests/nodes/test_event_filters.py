"""What every node that passes events on promises, whichever events it picks."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.processors.background_activity import BackgroundActivity
from streamflow_nodes.processors.crop import Crop
from streamflow_nodes.processors.downsample import Downsample
from streamflow_nodes.processors.hot_pixels import HotPixels
from streamflow_nodes.processors.refractory import Refractory

from streamflow.errors import NodeError
from streamflow.node import Node
from streamflow.packet import EVENT, Events, Packet
from streamflow.testing import Driven, cut, drive, events

WIDTH, HEIGHT = 6, 5
FILTERS: list[tuple[type[Node[Any]], dict[str, Any]]] = [
    (BackgroundActivity, {"window": 50e-6}),
    (BackgroundActivity, {"window": 50e-6, "min_neighbours": 2}),
    (BackgroundActivity, {"window": 50e-6, "unfired_at_zero": True}),
    (Refractory, {"period": 40e-6}),
    (HotPixels, {"window": 20e-6, "memory": 1e-3, "rate": 2500.0}),
    (Crop, {"x": 1, "y": 1, "width": 3, "height": 4}),
    (Downsample, {"factor": 2}),
]
each_filter = pytest.mark.parametrize(
    ("kind", "setting"), FILTERS, ids=[f"{k.__name__}-{len(s)}" for k, s in FILTERS]
)
streams = st.lists(
    st.tuples(
        st.integers(0, 60), st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.integers(0, 1)
    ),
    min_size=1,
    max_size=120,
)


def stream(steps: list[tuple[int, int, int, int]], start: int = 0) -> Packet[Events]:
    time, rows = start, []
    for step, x, y, polarity in steps:
        time += step
        rows.append((time, x, y, polarity))
    return events(rows, width=WIDTH, height=HEIGHT)


def rows_of(out: Driven) -> list[tuple[int, ...]]:
    return [tuple(row) for packet in out["kept"] for row in packet.data.array.tolist()]


@each_filter
@settings(max_examples=25, deadline=None)
@given(steps=streams, size=st.integers(1, 40))
def test_the_same_events_come_out_however_they_are_cut_into_packets(kind, setting, steps, size):
    whole = drive(kind(setting), events=[stream(steps)])

    pieces = drive(kind(setting), events=cut(stream(steps), size))

    assert rows_of(pieces) == rows_of(whole)


@each_filter
@settings(max_examples=15, deadline=None)
@given(steps=streams, size=st.integers(1, 40), stop=st.integers(0, 5))
def test_a_restarted_node_goes_on_as_if_nothing_had_happened(kind, setting, steps, size, stop):
    packets = cut(stream(steps), size)
    whole = drive(kind(setting), events=packets)

    before, after = kind(setting), kind(setting)
    out = rows_of(drive(before, events=packets[:stop], end=False))
    after.open()
    if kind.is_snapshotting():
        state = before.snapshot()
        after.restore({k: v.copy() if hasattr(v, "copy") else v for k, v in state.items()})
    out += rows_of(drive(after, events=packets[stop:], opened=True))

    assert out == rows_of(whole)


@each_filter
def test_events_outside_the_sensor_are_dropped_and_counted(kind, setting):
    outside = [(5, WIDTH, 0, 1), (6, 0, HEIGHT, 1), (7, -1, 0, 0), (8, 0, -1, 0), (9, 32767, 1, 1)]
    inside = [(time, x % WIDTH, 2, 1) for time, x in enumerate(range(40))]
    clean = drive(kind(setting), events=[events(inside, width=WIDTH, height=HEIGHT)])

    rows = sorted(inside + outside)
    out = drive(kind(setting), events=[events(rows, width=WIDTH, height=HEIGHT)])

    assert out.faults["outside_sensor"] == len(outside)
    assert rows_of(out) == rows_of(clean)


@each_filter
def test_an_empty_packet_gives_nothing_and_harms_nothing(kind, setting):
    empty = Packet(0, 100, Events(np.empty(0, EVENT), WIDTH, HEIGHT))
    some = events([(150, 2, 2, 1), (151, 3, 2, 1)], width=WIDTH, height=HEIGHT)

    assert rows_of(drive(kind(setting), events=[empty])) == []
    assert rows_of(drive(kind(setting), events=[empty, some])) == rows_of(
        drive(kind(setting), events=[some])
    )


@each_filter
def test_time_that_steps_back_inside_a_packet_is_survived(kind, setting):
    rows = [(100, 2, 2, 1), (20, 3, 2, 0), (90, 2, 3, 1), (10, 3, 3, 1), (10**15, 2, 2, 1)]
    packet = events(rows, width=WIDTH, height=HEIGHT, start=0, stop=10**15 + 1)

    out = drive(kind(setting), events=[packet])

    assert len(rows_of(out)) <= len(rows)


@each_filter
def test_a_packet_keeps_the_span_it_came_with(kind, setting):
    rows = [(110 + i, 2 + i % 2, 2 + i // 2 % 2, 1) for i in range(10)]

    out = drive(
        kind(setting), events=[events(rows, width=WIDTH, height=HEIGHT, start=100, stop=300)]
    )

    assert [(p.start, p.stop) for p in out["kept"]] == [(100, 300)]


@each_filter
def test_events_of_another_layout_are_refused(kind, setting):
    packed = np.zeros(3, [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "?")])

    with pytest.raises(NodeError, match=r"expected \(n,\) of streamflow\.packet\.EVENT"):
        drive(kind(setting), events=[Packet(0, 1, Events(packed, WIDTH, HEIGHT))])


@each_filter
def test_every_second_event_of_an_array_is_read_as_such(kind, setting):
    array = stream([(3, i % 5, i % 4, 1) for i in range(60)]).data.array[::2]
    fresh = np.zeros(len(array), EVENT)
    fresh[:] = array

    strided = drive(kind(setting), events=[Packet(0, 200, Events(array, WIDTH, HEIGHT))])
    whole = drive(kind(setting), events=[Packet(0, 200, Events(fresh, WIDTH, HEIGHT))])

    assert rows_of(strided) == rows_of(whole)


@each_filter
def test_events_at_an_odd_address_are_read_as_such(kind, setting):
    packet = stream([(3, i % 5, i % 4, 1) for i in range(60)])
    message = b"\0" + packet.data.array.tobytes()
    odd = np.frombuffer(message, np.uint8)[1:].view(EVENT)

    moved = drive(kind(setting), events=[Packet(0, 200, Events(odd, WIDTH, HEIGHT))])

    assert rows_of(moved) == rows_of(drive(kind(setting), events=[packet]))


@pytest.mark.parametrize("kind", [BackgroundActivity, Refractory, HotPixels])
def test_a_sensor_that_changes_its_size_is_an_error_that_names_both(kind):
    small = events([(1, 0, 0, 1)], width=WIDTH, height=HEIGHT)
    large = events([(2, 0, 0, 1)], width=640, height=480)

    with pytest.raises(NodeError, match=r"was 6x5 and is now 640x480.*\[packet \[2, 3\) us\]"):
        drive(kind({}), events=[small, large])


@pytest.mark.parametrize(
    ("kind", "setting"),
    [(BackgroundActivity, {"window": 1e-7}), (Refractory, {"period": 1e13})],
)
def test_a_duration_that_stream_time_cannot_tell_is_refused(kind, setting):
    with pytest.raises(NodeError, match="expected at least one microsecond"):
        kind(setting).open()
