import datetime
from pathlib import Path

import numpy as np
import pytest
from streamflow_nodes.processors.background_activity import BackgroundActivity

from streamflow.packet import EVENT, Events, Packet
from streamflow.testing import cut, drive, events

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "events"
dv = pytest.importorskip("dv_processing", reason="dv-processing is not installed: no oracle")


def recording(name):
    if not (DATA / name).exists():
        pytest.skip(f"the recording {name} is not at {DATA}")
    return str(DATA / name)


def filter_of_dv(size, window_us):
    return dv.noise.BackgroundActivityNoiseFilter(size, datetime.timedelta(microseconds=window_us))


def kept_by_dv(array, size, window_us):
    store = dv.EventStore()
    columns = (array[name].tolist() for name in ("timestamp", "x", "y", "polarity"))
    for time, x, y, polarity in zip(*columns, strict=True):
        store.push_back(time, x, y, bool(polarity))
    noise_filter = filter_of_dv(size, window_us)
    noise_filter.accept(store)
    return noise_filter.generateEvents().numpy()


def kept_by_us(array, size, window_us, **setting):
    packet = events(array, width=size[0], height=size[1])
    node = BackgroundActivity({"window": window_us * 1e-6, **setting})
    out = drive(node, events=cut(packet, 4096))
    arrays = [p.data.array.view(np.int64) for p in out["kept"]]
    return np.concatenate([np.empty(0, np.int64), *arrays]).view(EVENT)


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for name in EVENT.names:
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("window_us", [500, 2000])
def test_a_dvxplorer_recording_keeps_the_events_that_dv_keeps(window_us):
    reader = dv.io.MonoCameraRecording(recording("dvxplorer_320x240.aedat4"))
    size, noise_filter = reader.getEventResolution(), filter_of_dv((320, 240), window_us)
    batches, theirs = [], []
    while (batch := reader.getNextEventBatch()) is not None:
        batches.append(batch.numpy().view(np.int64))
        noise_filter.accept(batch)
        theirs.append(noise_filter.generateEvents().numpy().view(np.int64))

    ours = kept_by_us(np.concatenate(batches).view(EVENT), size, window_us)

    assert 0 < len(ours) < 111_954
    assert_same(ours, np.concatenate(theirs).view(EVENT))


@pytest.mark.parametrize("at_zero", [False, True])
def test_sparks_on_a_vga_sensor_keep_the_events_that_dv_keeps(at_zero):
    faery = pytest.importorskip("faery", reason="faery is not installed: EVT2 cannot be read")
    path = recording("gen3_640x480_evt2.raw")
    raw = faery.events_stream_from_file(path).to_array()[:60_000]
    array = np.zeros(len(raw), EVENT)
    for name, theirs in zip(EVENT.names, ("t", "x", "y", "on"), strict=True):
        array[name] = raw[theirs]
    if at_zero:  # dv's start: with times near 0, everything in the first window passes
        array["timestamp"] -= array["timestamp"][0]

    ours = kept_by_us(array, (640, 480), 300, unfired_at_zero=at_zero)

    assert len(ours) < len(array)
    assert_same(ours, kept_by_dv(array, (640, 480), 300))


def test_every_border_and_corner_agrees_with_dv():
    draw = np.random.default_rng(7)
    array = np.zeros(3000, EVENT)
    array["timestamp"] = 10**6 + np.cumsum(draw.integers(0, 60, 3000))
    array["x"], array["y"] = draw.integers(0, 5, 3000), draw.integers(0, 4, 3000)

    ours = kept_by_us(array, (5, 4), 100)

    assert 0 < len(ours) < 3000
    assert_same(ours, kept_by_dv(array, (5, 4), 100))


def test_a_pixel_that_never_fired_keeps_nobody_company():
    alone = events([(0, 10, 10, 1), (5, 100, 10, 1), (9, 10, 100, 1)])

    kept = drive(BackgroundActivity(), events=[alone])["kept"]
    as_dv = drive(BackgroundActivity({"unfired_at_zero": True}), events=[alone])["kept"]

    assert kept == []
    assert len(as_dv[0].data.array) == 3


def test_the_window_is_open_at_its_far_end():
    rows = [(1000, 10, 10, 1), (1099, 11, 11, 0), (1199, 12, 12, 1)]

    out = drive(BackgroundActivity({"window": 100e-6}), events=[events(rows)])

    # 99 us after a neighbour is kept, 100 us after is not
    assert out.items("kept")["timestamp"].tolist() == [1099]


def test_more_neighbours_can_be_asked_for():
    rows = [(1, 9, 9, 1), (2, 11, 11, 1), (3, 10, 10, 1), (4, 10, 11, 1)]

    two = drive(BackgroundActivity({"min_neighbours": 2}), events=[events(rows)])
    three = drive(BackgroundActivity({"min_neighbours": 3}), events=[events(rows)])

    assert two.items("kept")["timestamp"].tolist() == [3, 4]
    assert three["kept"] == []


def test_few_kept_events_do_not_pin_the_memory_of_all():
    array = np.zeros(10_000, EVENT)
    array["timestamp"] = np.arange(10_000) * 10_000
    array["timestamp"][1] = 1
    array["x"][1] = 1

    out = drive(BackgroundActivity(), events=[Packet(0, 10**9, Events(array, 640, 480))])

    kept = out["kept"][0].data.array
    assert len(kept) == 1
    assert kept.base.nbytes == 16
