import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.processors.time_surface import TimeSurface

from streamflow.errors import NodeError
from streamflow.testing import cut, drive, events

WIDTH, HEIGHT = 5, 4
streams = st.lists(
    st.tuples(st.integers(0, 90), st.integers(0, 4), st.integers(0, 3), st.integers(0, 1)),
    min_size=1,
    max_size=60,
)


def stream(steps):
    times = np.cumsum([step[0] for step in steps])
    rows = [(int(t), *step[1:]) for t, step in zip(times, steps, strict=True)]
    return events(rows, width=WIDTH, height=HEIGHT)


def frames_of(out):
    return [(p.start, p.stop, p.data.array.tobytes()) for p in out["frames"]]


@settings(max_examples=40, deadline=None)
@given(
    steps=streams,
    period=st.integers(5, 200),
    tau=st.floats(1e-6, 1e-2),
    per_polarity=st.booleans(),
)
def test_surfaces_are_what_the_equation_gives(steps, period, tau, per_polarity):
    packet = stream(steps)
    setting = {"tau": tau, "period": period * 1e-6, "per_polarity": per_polarity}

    out = drive(TimeSurface(setting), events=[packet])

    for frame in out["frames"]:
        expected = np.zeros((2, HEIGHT, WIDTH))
        for time, x, y, polarity in packet.data.array.tolist():
            if time < frame.stop:
                expected[polarity, y, x] = np.exp(-(frame.stop - time) * 1e-6 / tau)
        if not per_polarity:
            expected = expected.max(axis=0)
        # float32: the exponent (at most 87) is rounded to 24 bits before exp
        np.testing.assert_allclose(frame.data.array, expected, rtol=87 * 2.0**-23, atol=2e-38)
        assert frame.data.array.dtype == np.float32


@settings(max_examples=30, deadline=None)
@given(steps=streams, size=st.integers(1, 30), per_polarity=st.booleans())
def test_surfaces_do_not_depend_on_how_events_are_cut(steps, size, per_polarity):
    setting = {"tau": 1e-4, "period": 130e-6, "per_polarity": per_polarity}
    whole = drive(TimeSurface(setting), events=[stream(steps)])

    pieces = drive(TimeSurface(setting), events=cut(stream(steps), size))

    assert frames_of(pieces) == frames_of(whole)


@settings(max_examples=15, deadline=None)
@given(steps=streams, size=st.integers(1, 30), stop=st.integers(0, 4))
def test_a_restarted_node_goes_on_as_if_nothing_had_happened(steps, size, stop):
    packets, setting = cut(stream(steps), size), {"tau": 1e-4, "period": 130e-6}
    whole = drive(TimeSurface(setting), events=packets)

    before, after = TimeSurface(setting), TimeSurface(setting)
    out = frames_of(drive(before, events=packets[:stop], end=False))
    after.open()
    after.restore(before.snapshot())
    out += frames_of(drive(after, events=packets[stop:], opened=True))

    assert out == frames_of(whole)


def test_the_surface_fades_while_nothing_happens():
    node = TimeSurface({"tau": 0.001, "period": 0.001})
    node.open()
    assert list(node.on_events(events([(0, 3, 2, 1)]))) == []

    seen = [float(e.packet.data.array[1, 2, 3]) for e in node.advance(3000)]

    np.testing.assert_allclose(seen, np.exp([-1.0, -2.0, -3.0]), rtol=1e-6)
    assert node.holds_from == 3000


def test_axes_say_whether_polarities_are_apart():
    packet = events([(0, 3, 2, 1)])

    apart = drive(TimeSurface(), events=[packet])["frames"][0].data
    together = drive(TimeSurface({"per_polarity": False}), events=[packet])["frames"][0].data

    assert (apart.axes, apart.array.shape) == (("polarity", "y", "x"), (2, 480, 640))
    assert (together.axes, together.array.shape) == (("y", "x"), (480, 640))


def test_an_event_older_than_its_pixels_latest_changes_nothing():
    rows = [(500, 3, 2, 1), (100, 3, 2, 1)]

    out = drive(TimeSurface(), events=[events(rows, start=0, stop=600)])

    expected = drive(TimeSurface(), events=[events(rows[:1], start=0, stop=600)])
    assert frames_of(out) == frames_of(expected)


def test_events_outside_the_sensor_are_dropped_and_counted():
    rows = [(1, -1, 0, 1), (2, 640, 0, 1), (3, 0, 480, 1), (4, 0, -1, 1), (5, 0, 0, 1)]

    out = drive(TimeSurface(), events=[events(rows)])

    assert np.count_nonzero(out["frames"][0].data.array) == 1
    assert out.faults["outside_sensor"] == 4


def test_a_sensor_that_changes_its_size_is_an_error():
    with pytest.raises(NodeError, match="was 640x480 and is now 64x48"):
        drive(
            TimeSurface(),
            events=[events([(1, 0, 0, 1)]), events([(2, 0, 0, 1)], width=64, height=48)],
        )
