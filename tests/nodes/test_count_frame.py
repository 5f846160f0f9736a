from collections import deque
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.processors.count_frame import CountFrame

from streamflow.errors import NodeError
from streamflow.packet import EVENT, Events, Packet
from streamflow.testing import cut, drive, events

WIDTH, HEIGHT = 5, 4
streams = st.lists(
    st.tuples(st.integers(0, 90), st.integers(0, 4), st.integers(0, 3), st.integers(0, 1)),
    min_size=1,
    max_size=80,
)


PRODUCTS = [
    {"polarity": "separate", "dtype": "uint16"},
    {"polarity": "merged", "dtype": "uint8"},
    {"polarity": "signed", "dtype": "int16"},
]
each_product = pytest.mark.parametrize("product", PRODUCTS, ids=lambda p: p["polarity"])


def stream(steps, start=0):
    times = start + np.cumsum([step[0] for step in steps])
    rows = [(int(t), *step[1:]) for t, step in zip(times, steps, strict=True)]
    return events(rows, width=WIDTH, height=HEIGHT, start=start)


def frames_of(out):
    return [(p.start, p.stop, p.data.array.tolist()) for p in out["frames"]]


@settings(max_examples=40, deadline=None)
@given(steps=streams, period=st.integers(1, 200), start=st.integers(-500, 500))
def test_frames_are_what_counting_by_hand_gives(steps, period, start):
    packet = stream(steps, start)

    out = drive(CountFrame({"period": period * 1e-6}), events=[packet])

    expected = {}
    for number in range(packet.start // period, (packet.stop - 1) // period + 1):
        expected[number] = np.zeros((2, HEIGHT, WIDTH), int)
    for time, x, y, polarity in packet.data.array.tolist():
        expected[time // period][polarity, y, x] += 1
    assert frames_of(out) == [
        (number * period, (number + 1) * period, frame.tolist())
        for number, frame in expected.items()
    ]


@each_product
@settings(max_examples=10, deadline=None)
@given(steps=streams, period=st.integers(1, 200))
def test_every_product_comes_from_the_same_counts(product, steps, period):
    setting, packet = {"period": period * 1e-6}, stream(steps)
    apart = drive(CountFrame(setting), events=[packet])["frames"]

    out = drive(CountFrame(setting | product), events=[packet])["frames"]

    assert [(p.start, p.stop) for p in out] == [(p.start, p.stop) for p in apart]
    for frame, both in zip(out, apart, strict=True):
        off, on = both.data.array.astype(int)
        expected = {"separate": both.data.array, "merged": off + on, "signed": on - off}
        np.testing.assert_array_equal(frame.data.array, expected[product["polarity"]])
        assert frame.data.array.dtype == product["dtype"]
        is_apart = product["polarity"] == "separate"
        assert frame.data.axes == (("polarity", "y", "x") if is_apart else ("y", "x"))


@each_product
@settings(max_examples=10, deadline=None)
@given(steps=streams, size=st.integers(1, 30), period=st.integers(1, 200))
def test_frames_do_not_depend_on_how_events_are_cut_into_packets(product, steps, size, period):
    setting = {"period": period * 1e-6} | product
    whole = drive(CountFrame(setting), events=[stream(steps)])

    pieces = drive(CountFrame(setting), events=cut(stream(steps), size))

    assert frames_of(pieces) == frames_of(whole)


@settings(max_examples=30, deadline=None)
@given(steps=streams, period=st.integers(1, 200), held=st.integers(0, 6))
def test_frames_are_the_same_whether_or_not_a_consumer_keeps_them(steps, period, held):
    setting, packet = {"period": period * 1e-6}, stream(steps)
    expected = frames_of(drive(CountFrame(setting), events=[packet]))

    node, seen, kept = CountFrame(setting), [], deque(maxlen=held)
    node.open()
    for emission in chain(node.on_events(packet), node.finish()):
        frame = emission.packet
        seen.append((frame.start, frame.stop, frame.data.array.tolist()))
        kept.append((frame.data.array[..., 1:, 1:], seen[-1][2]))
        del emission, frame

    assert seen == expected
    for part, whole in kept:
        np.testing.assert_array_equal(part, np.array(whole)[..., 1:, 1:])


@settings(max_examples=15, deadline=None)
@given(steps=streams, size=st.integers(1, 30), stop=st.integers(0, 4))
def test_a_restarted_node_goes_on_as_if_nothing_had_happened(steps, size, stop):
    packets, setting = cut(stream(steps), size), {"period": 150e-6}
    whole = drive(CountFrame(setting), events=packets)

    before, after = CountFrame(setting), CountFrame(setting)
    out = frames_of(drive(before, events=packets[:stop], end=False))
    after.open()
    after.restore(before.snapshot())
    out += frames_of(drive(after, events=packets[stop:], opened=True))

    assert out == frames_of(whole)


def test_silence_gives_empty_frames_as_stream_time_passes():
    node = CountFrame({"period": 0.001})
    node.open()
    assert list(node.on_events(events([(100, 1, 1, 1)]))) == []

    emitted = list(node.advance(4500))

    assert [e.packet.start for e in emitted] == [0, 1000, 2000, 3000]
    assert [int(e.packet.data.array.sum()) for e in emitted] == [1, 0, 0, 0]
    assert node.holds_from == 4000


def test_stream_time_that_passed_before_the_first_packet_leaves_its_frame_open():
    node = CountFrame({"period": 0.001})
    node.open()

    assert list(node.advance(1550)) == []

    # the frame of a first packet at 1600 will start at 1000
    assert node.holds_from == 1000


def test_packets_without_events_make_frames_too():
    empty = Packet(0, 2500, Events(np.empty(0, EVENT), 640, 480))

    out = drive(CountFrame({"period": 0.001}), events=[empty])

    assert [(p.start, p.data.array.shape, p.data.array.dtype) for p in out["frames"]] == [
        (start, (2, 480, 640), np.int16) for start in (0, 1000, 2000)
    ]
    assert out["frames"][0].data.axes == ("polarity", "y", "x")


def test_an_event_from_the_past_counts_in_the_open_frame_and_as_late():
    rows = [(500, 1, 1, 1), (1500, 2, 2, 1), (400, 3, 3, 1)]

    out = drive(CountFrame({"period": 0.001}), events=[events(rows, start=0, stop=2000)])

    assert [int(p.data.array.sum()) for p in out["frames"]] == [1, 2]
    assert out.faults == {"outside_sensor": 0, "late": 1, "saturated": 0}


def test_events_outside_the_sensor_are_dropped_and_counted():
    rows = [(1, -1, 0, 1), (2, 640, 0, 1), (3, 0, 480, 1), (4, 0, -1, 1), (5, 0, 0, 1)]

    out = drive(CountFrame(), events=[events(rows)])

    assert int(out["frames"][0].data.array.sum()) == 1
    assert out.faults["outside_sensor"] == 4


def test_a_polarity_that_is_neither_on_nor_off_stays_inside_the_frame():
    rows = [(1, 639, 479, -1), (2, 639, 479, 127), (3, 639, 479, 1)]

    out = drive(CountFrame(), events=[events(rows)])

    assert out["frames"][0].data.array[:, 479, 639].tolist() == [2, 1]


def test_a_sensor_that_changes_its_size_is_an_error():
    with pytest.raises(NodeError, match="was 640x480 and is now 64x48"):
        drive(
            CountFrame(),
            events=[events([(1, 0, 0, 1)]), events([(2, 0, 0, 1)], width=64, height=48)],
        )


def test_a_period_below_a_microsecond_is_refused():
    with pytest.raises(NodeError, match=r"period is 1e-07 s; expected at least one microsecond"):
        CountFrame({"period": 1e-7}).open()


@pytest.mark.parametrize(("dtype", "most"), [("uint8", 255), ("int16", 32_767), ("uint16", 65_535)])
def test_a_pixel_counts_no_further_than_it_can_and_says_so(dtype, most):
    array = np.zeros(70_000, EVENT)
    array["x"][-1] = 1

    out = drive(CountFrame({"dtype": dtype}), events=[Packet(0, 1, Events(array, 2, 1))])

    assert out["frames"][0].data.array[0, 0].tolist() == [most, 1]
    assert out.faults["saturated"] == 69_999 - most


@pytest.mark.parametrize(("polarity", "end"), [(0, -32_767), (1, 32_767)])
def test_a_balance_ends_where_its_numbers_end_on_both_sides(polarity, end):
    array = np.zeros(40_001, EVENT)
    array["polarity"] = polarity
    array["polarity"][-1] = 1 - polarity

    out = drive(CountFrame({"polarity": "signed"}), events=[Packet(0, 1, Events(array, 2, 1))])

    assert out["frames"][0].data.array[0].tolist() == [end - (2 * polarity - 1), 0]
    assert out.faults["saturated"] == 40_000 - 32_767


def test_a_balance_in_numbers_without_a_sign_is_refused():
    with pytest.raises(NodeError, match="which dtype uint8 cannot; set dtype: int16"):
        CountFrame({"polarity": "signed", "dtype": "uint8"}).open()
