"""Every recording gives its events, exactly and once, or says why it cannot."""

from __future__ import annotations

import datetime
import io
import os
import struct
import threading
import time
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.sources.event_file import EventFile

from streamflow.errors import DeviceError, NodeError
from streamflow.packet import EVENT
from streamflow.testing import Driven, drive

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "events"
INDOOR = Path(__file__).resolve().parents[1] / "data" / "indoor_640x480_evt3.raw"
Array = np.ndarray[Any, Any]
HEADER = b"% evt 3.0\n% geometry 640x480\n% end\n"


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not here: its licence does not let it travel with the code")
    return path


def read(path: Path | str, **options: Any) -> Driven:
    return drive(EventFile({"path": str(path), **options}))


def events_in(path: Path | str, **options: Any) -> Array:
    out = read(path, **options)
    return out.items("events") if out["events"] else np.empty(0, EVENT)


def rows(*events: tuple[int, int, int, int]) -> Array:
    return np.array(list(events), EVENT)


def same(found: Array, expected: Array) -> None:
    assert len(found) == len(expected)
    for name in ("timestamp", "x", "y", "polarity"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def written(folder: Path, content: bytes, name: str = "recording.raw") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def words(*values: int) -> bytes:
    return np.array(values, "<u2").tobytes()


# --- slow, obvious decoders: the second opinion ---------------------------------------------------


def body(path: Path, mark: bytes = b"%") -> bytes:
    """The bytes after the header's lines."""
    content, at = path.read_bytes(), 0
    while content[at : at + 2] == mark + b" " or content[at : at + 2] == b"#!":
        at = content.index(b"\n", at) + 1
    return content[at:]


def slow_evt3(content: bytes) -> Array:
    out: list[tuple[int, int, int, int]] = []
    loop = high = low = x = y = polarity = 0
    for (word,) in struct.iter_unpack("<H", content):
        kind, value = word >> 12, word & 0xFFF
        if kind == 0x0:
            y = value & 0x7FF
        elif kind in (0x2, 0x3):
            x, polarity = value & 0x7FF, value >> 11
            if kind == 0x2:
                out.append((loop + (high << 12) + low, x, y, polarity))
        elif kind in (0x4, 0x5):
            size = 12 if kind == 0x4 else 8
            for bit in range(size):
                if value >> bit & 1:
                    out.append((loop + (high << 12) + low, x + bit, y, polarity))
            x += size
        elif kind == 0x6:
            low = value
        elif kind == 0x8 and value != high:
            loop += (1 << 24) if high - value > 2048 else 0
            high, low = value, 0
    return rows(*out)


def slow_evt2(content: bytes) -> Array:
    out, high = [], 0
    for (word,) in struct.iter_unpack("<I", content):
        if word >> 28 in (0, 1):
            t = high << 6 | word >> 22 & 63
            out.append((t, word >> 11 & 2047, word & 2047, word >> 28))
        elif word >> 28 == 8:
            high = word & 0xFFFFFFF
    return rows(*out)


def slow_dat(content: bytes) -> Array:
    return rows(*(
        (t, a & 0x3FFF, a >> 14 & 0x3FFF, int(a >> 28 > 0))
        for t, a in struct.iter_unpack("<II", content[2:])
    ))  # fmt: skip


def slow_dvs128(content: bytes) -> Array:
    return rows(*(
        (t, a >> 1 & 127, a >> 8 & 127, 1 - (a & 1)) for a, t in struct.iter_unpack(">II", content)
    ))  # fmt: skip


def slow_nmnist(content: bytes) -> Array:
    return rows(*(
        ((p & 127) << 16 | t1 << 8 | t0, x, y, p >> 7)
        for x, y, p, t1, t0 in struct.iter_unpack("5B", content)
    ))  # fmt: skip


def slow_es(content: bytes) -> Array:
    height = struct.unpack_from("<H", content, 18)[0]
    out, t, at = [], 0, 20
    while at < len(content):
        first = content[at]
        at += 1
        if first == 0xFF:
            t += 127
        elif first != 0xFE:
            t += first >> 1
            x, y = struct.unpack_from("<HH", content, at)
            out.append((t, x, height - 1 - y, first & 1))
            at += 4
    return rows(*out)


def by_faery(path: Path, **options: Any) -> Array:
    faery = pytest.importorskip("faery")
    parts = [part.copy() for part in faery.events_stream_from_file(path, **options)]
    packed = np.concatenate(parts)
    out = np.zeros(len(packed), EVENT)
    for ours, theirs in (("timestamp", "t"), ("x", "x"), ("y", "y"), ("polarity", "on")):
        out[ours] = packed[theirs]
    return out


# --- real recordings ------------------------------------------------------------------------------

SIZED = {"width": 640, "height": 480}


@pytest.mark.parametrize(
    ("name", "slow", "options", "count", "seconds"),
    [
        ("gen3_640x480_evt2.raw", slow_evt2, {}, 521252, 0.0959),
        ("gen3_640x480_evt2_b.raw", slow_evt2, {}, 539481, 0.0500),
        ("gen41_1280x720_evt3_timejitter.raw", slow_evt3, {}, 219596, 0.0088),
        ("evt3_640x480_ros_extract.raw", slow_evt3, {}, 343474, 2.0782),
        ("ncars_td.dat", slow_dat, {"width": 304, "height": 240}, 2009, 0.1000),
        ("ncars_td_b.dat", slow_dat, {"width": 304, "height": 240}, 4407, 0.0999),
    ],
)  # fmt: skip
def test_prophesee_recordings_equal_a_slow_decoder_event_for_event(
    name: str, slow: Any, options: dict[str, int], count: int, seconds: float
) -> None:
    path = shared(name)

    out = read(path, **options)

    found = out.items("events")
    same(found, slow(body(path)))
    assert len(found) == count
    assert round((found["timestamp"][-1] - found["timestamp"][0]) / 1e6, 4) == seconds
    assert not any(out.faults.values())


def test_es_equals_a_slow_decoder_event_for_event() -> None:
    path = shared("raster_320x240.es")

    same(events_in(path), slow_es(path.read_bytes()))


def test_dvs128_equals_a_slow_decoder_event_for_event() -> None:
    path = shared("dvs128_moving_box_aedat2.aedat")

    found = events_in(path, width=128, height=128, packet_duration=0.1)

    same(found, slow_dvs128(body(path, b"#")))
    assert len(found) == 489834


def test_nmnist_equals_a_slow_decoder_event_for_event() -> None:
    path = shared("nmnist_34x34.bin")

    found = events_in(path, width=34, height=34)

    same(found, slow_nmnist(path.read_bytes()))
    assert len(found) == 4325


def test_csv_equals_numpy_event_for_event() -> None:
    path = shared("moke_microscopy_640x480.csv")
    table = np.loadtxt(path, delimiter=",", dtype=np.int64)

    found = events_in(path, columns="x,y,p,t", packet_duration=0.1, **SIZED)

    same(found, rows(*((t, x, y, p) for x, y, p, t in table.tolist())))
    assert len(found) == 214496


def test_aedat4_equals_dv_processing_event_for_event() -> None:
    dv = pytest.importorskip("dv_processing")
    path = shared("dvxplorer_320x240.aedat4")
    reader, theirs = dv.io.MonoCameraRecording(str(path)), []
    while (batch := reader.getNextEventBatch()) is not None:
        theirs.append(batch.numpy())

    out = read(path)

    same(out.items("events"), np.concatenate(theirs))
    assert len(out.items("events")) == 111954
    assert (out.results["width"], out.results["height"]) == (320, 240)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("gen3_640x480_evt2.raw", (640, 480)),
        ("gen3_640x480_evt2_b.raw", (640, 480)),
        ("evt3_640x480_ros_extract.raw", (640, 480)),
        ("raster_320x240.es", (320, 240)),
        ("ncars_derived_54x240.es", (54, 239)),
    ],
)
def test_faery_reads_the_same_events(name: str, size: tuple[int, int]) -> None:
    path = shared(name)

    out = read(path)

    same(out.items("events"), by_faery(path))
    assert (out["events"][0].data.width, out["events"][0].data.height) == size


def test_times_that_faery_raises_are_read_as_the_words_say() -> None:
    # TIME_LOW steps back there, but between events: no event is out of order. faery holds time at
    # the highest word seen, so 0.66 % of its events are late by up to 11 us.
    path = shared("gen41_1280x720_evt3_timejitter.raw")

    found, theirs = events_in(path), by_faery(path)

    late = theirs["timestamp"] - found["timestamp"]
    assert late.min() == 0
    assert late.max() == 11
    assert 0.005 < np.count_nonzero(late) / len(late) < 0.008
    assert found["timestamp"][-1] - found["timestamp"][0] == 8801


def test_triggers_are_skipped_and_counted() -> None:
    assert read(shared("evt3_640x480_ros_extract.raw")).results["triggers"] == 4157


def test_the_recording_in_this_repository_equals_a_slow_decoder() -> None:
    same(events_in(INDOOR), slow_evt3(body(INDOOR)))


# --- what is no recording of events ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("generic_notdvs.es", "generic data"),
        ("cochlea_vowels_aedat2.aedat", "does not say of which sensor"),
        ("ncars_td.dat", "'width' and 'height'"),
        ("README.md", "not a recording of events"),
    ],
)
def test_what_is_not_read_is_refused_with_its_name(name: str, says: str) -> None:
    path = shared(name)

    with pytest.raises(DeviceError, match=says) as caught:
        read(path)

    assert str(path) in str(caught.value)
    assert "expected" in str(caught.value)


ARCHIVE = io.BytesIO()
np.savez(ARCHIVE, t=np.zeros(2, object), x=np.zeros(2, int), y=np.zeros(2, int), p=np.zeros(2, int))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.raw", b"", "empty"),
        ("a.raw", b"\x01\x80\x02\x20", "no '% evt' header"),
        ("a.raw", b"%\x01\x02\x03", "no Prophesee header"),
        ("a.raw", b"% evt 2.1\n% geometry 640x480\n", "EVT 2.1"),
        ("a.raw", b"% evt 3.0\n% end\n", "'width' and 'height'"),
        ("a.raw", b"% evt 3.0\n% geometry 640x0\n", "640x0"),
        ("a.raw", b"% evt 3.0\n% geometry 640x480\n% t0 " + b"9" * 30 + b"\n", "t0"),
        ("a.dat", b"% Version 2\n% Width 9\n% Height 9\n\x0e\x08", "0e 08"),
        ("a.dat", b"% Version 2\n% Width 9\n% Height 9\n", "damaged"),
        ("a.aedat", b"#!AER-DAT3.1\r\n", "AEDAT of a version"),
        (
            "a.aedat4",
            b"#!AER-DAT4.0\r\n" + b"\x08\x00\x00\x00" * 64,
            "header cannot be read",
        ),
        ("a.aedat4", b"#!AER-DAT4.0\r\n", "0 bytes"),
        ("a.aedat4", b"#!AER-DAT4.0\r\n\xff\xff\xff\xff", "4294967295 bytes"),
        ("a.bag", b"#ROSBAG V1.2\n", "ROS bag of a version"),
        ("a.es", b"Event Stream", "cut off"),
        ("a.es", b"Event Stream\x01\x00\x00\x01\x01\x00\x01\x00", "version 1"),
        ("a.txt", b"Dear reader,\nthis is prose.\n", "which column is which"),
        ("a.csv", b"1,2,3,4\n", "which column is which"),
        ("a.csv", b"t,x,y,p\n" + b"1" * 100_000, "not CSV"),
        ("a.npz", b"PK\x03\x04 and nothing else", "not a zip file"),
        ("a.npz", ARCHIVE.getvalue(), "Python objects"),
    ],
)
def test_bad_files_are_refused_in_one_clear_error(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    if content.startswith(b"#!AER-DAT4"):
        pytest.importorskip("faery")
    path = written(tmp_path, content, name)
    sized = {"width": 640, "height": 480} if name[2:] in ("csv", "npz") else {}

    with pytest.raises(DeviceError, match=says) as caught:
        read(path, **sized)

    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no such file"):
        read(tmp_path / "missing.raw")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="directory"):
        read(tmp_path)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(DeviceError, match="not a regular file"):
        read(tmp_path / "pipe")


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")

    with pytest.raises(DeviceError, match="Permission denied"):
        read(path)


def test_a_sensor_that_the_settings_contradict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="setting 'width' says 320"):
        read(written(tmp_path, HEADER), width=320)


def test_a_csv_error_names_file_and_line(tmp_path: Path) -> None:
    lines = b"".join(b"%d,1,1,1\n" % t for t in range(100_000))
    path = written(tmp_path, b"# made by hand\nt,x,y,p\n" + lines + b"7,1,one,1\n", "a.csv")

    with pytest.raises(DeviceError, match=r"a\.csv:100003: column 3 is not a number .*7,1,one,1"):
        read(path, packet_duration=1.0, **SIZED)


def test_an_archive_that_claims_a_huge_array_allocates_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in "txyp":
            raw = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                raw, {"descr": "<i8", "fortran_order": False, "shape": (1 << 50,)}
            )
            archive.writestr(f"{name}.npy", raw.getvalue() + bytes(64))

    with pytest.raises(DeviceError, match="ends before its header says"):
        read(tmp_path / "a.npz", **SIZED)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(NodeError, match="packet_duration"):
        EventFile({"path": "a.raw", "packet_duration": 0})


# --- what is wrong with the data ------------------------------------------------------------------

BACKWARD = HEADER + words(0x8000, 0x6009, 0x2001, 0x6005, 0x2002, 0x6007, 0x2003, 0x600A, 0x2004)


@pytest.mark.parametrize(
    ("policy", "times"), [("clamp", [9, 9, 9, 10]), ("drop", [9, 10])]
)  # fmt: skip
def test_time_that_goes_back_is_counted_and_handled_as_told(
    tmp_path: Path, policy: str, times: list[int]
) -> None:
    out = read(written(tmp_path, BACKWARD), backward_time=policy)

    assert out.items("events")["timestamp"].tolist() == times
    assert out.faults["time_backward"] == 2


def test_time_that_goes_back_is_an_error_if_wanted(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="time goes back 2 times"):
        read(written(tmp_path, BACKWARD), backward_time="fail")


OUTSIDE = HEADER + words(0x8000, 0x0001, 0x2280, 0x2001, 0x01E0, 0x2002, 0x0001, 0x3279, 0x4FFF)


def test_events_outside_the_sensor_are_dropped_and_counted(tmp_path: Path) -> None:
    out = read(written(tmp_path, OUTSIDE))

    # x 640 and y 480 are outside; so are 5 of the vector from 633, which ends at 644
    assert out.items("events")["x"].tolist() == [1, *range(633, 640)]
    assert out.faults["outside_sensor"] == 7


def test_events_outside_the_sensor_are_an_error_if_wanted(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="outside the sensor of 640x480"):
        read(written(tmp_path, OUTSIDE), outside_sensor="fail")


def test_words_that_are_no_events_are_skipped_and_counted(tmp_path: Path) -> None:
    content = HEADER + words(0x2001, 0x8000, 0x1000, 0x9000, 0xA001, 0xE000, 0x2002)

    out = read(written(tmp_path, content))

    assert out.items("events")["x"].tolist() == [2]
    assert (out.faults["untimed"], out.faults["unknown_word"]) == (1, 2)
    assert out.results["triggers"] == 1


def test_evt3_keeps_sensor_time_past_its_wraps(tmp_path: Path) -> None:
    highs = [*range(0, 4096, 500), 4095] * 3
    content = HEADER + b"".join(words(0x8000 | high, 0x6001, 0x2001) for high in highs)

    times = events_in(written(tmp_path, content), packet_duration=10.0)["timestamp"]

    per_loop = [(high << 12) + 1 for high in highs[:10]]
    assert times.tolist() == [loop * (1 << 24) + t for loop in range(3) for t in per_loop]


def test_the_time_that_a_header_takes_off_is_added_again(tmp_path: Path) -> None:
    content = b"% evt 3.0\n% geometry 640x480\n% t0 1600000000000000\n% end\n"

    found = events_in(written(tmp_path, content + words(0x8000, 0x6005, 0x2001)))

    assert found["timestamp"].tolist() == [1600000000000005]


def cut_short(tmp_path: Path, content: bytes, name: str, lost: int, **options: Any) -> Driven:
    return read(written(tmp_path, content[: len(content) - lost], name), **options)


def test_a_truncated_evt_file_gives_its_whole_words(tmp_path: Path) -> None:
    content = INDOOR.read_bytes()

    out = cut_short(tmp_path, content, "a.raw", 1001)

    same(out.items("events"), slow_evt3(body(INDOOR)[:-1002]))
    assert out.faults["truncated"] == 1


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.dat", b"% Version 2\n\x0c\x08" + struct.pack("<4I", 5, 1, 6, 2), SIZED),
        ("a.bin", bytes([1, 1, 0, 0, 5, 2, 2, 0, 0, 6]), SIZED),
        (
            "a.aedat", b"#!AER-DAT2.0\n" + struct.pack(">4I", 2, 5, 4, 6),
            {"width": 128, "height": 128},
        ),
        (
            "a.es", b"Event Stream\x02\x00\x00\x01\x40\x01\xf0\x00"
            + bytes([10, 1, 0, 0, 0, 2, 2, 0, 0, 0]), {},
        ),
    ],
)  # fmt: skip
def test_a_record_cut_off_at_the_end_is_counted_and_the_rest_delivered(
    tmp_path: Path, name: str, content: bytes, options: dict[str, int]
) -> None:
    whole = read(written(tmp_path, content, name), **options)

    cut = cut_short(tmp_path, content, name, 2, **options)

    assert whole.items("events")["timestamp"].tolist() == [5, 6]
    assert cut.items("events")["timestamp"].tolist() == [5]
    assert (whole.faults["truncated"], cut.faults["truncated"]) == (0, 1)


@pytest.mark.parametrize("length", [20_000, 500_000, 700_001])
def test_a_truncated_aedat4_file_gives_its_whole_packets(tmp_path: Path, length: int) -> None:
    path = shared("dvxplorer_320x240.aedat4")
    whole = events_in(path)

    out = read(written(tmp_path, path.read_bytes()[:length], "cut.aedat4"))

    found = out.items("events")
    assert len(found) > 1000
    same(found, whole[: len(found)])
    assert out.faults["truncated"] == 1


def test_a_damaged_aedat4_packet_is_an_error_that_says_so(tmp_path: Path) -> None:
    content = bytearray(shared("dvxplorer_320x240.aedat4").read_bytes())
    content[400_000:400_400] = bytes(400)

    with pytest.raises(DeviceError, match="cannot be read on"):
        read(written(tmp_path, bytes(content), "damaged.aedat4"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.raw", HEADER),
        ("a.raw", HEADER + words(0x8000, 0x6001)),
        ("a.raw", b"% evt 2.0\n% geometry 640x480\n"),
        ("a.dat", b"% Version 2\n% Width 640\n% Height 480\n\x0c\x08"),
        ("a.es", b"Event Stream\x02\x00\x00\x01\x40\x01\xf0\x00"),
        ("a.csv", b"t,x,y,p\n"),
    ],
)
def test_a_recording_without_events_ends_at_once(tmp_path: Path, name: str, content: bytes) -> None:
    sized = SIZED if name == "a.csv" else {}

    out = read(written(tmp_path, content, name), **sized)

    assert out["events"] == []
    assert not any(out.faults.values())


def test_random_bytes_after_a_header_never_fail(tmp_path: Path) -> None:
    noise = np.random.default_rng(7).integers(0, 256, 400_001, np.uint8).tobytes()

    out = read(written(tmp_path, HEADER + noise), packet_duration=100.0)

    kept = len(out.items("events"))
    assert kept > 5_000
    unseen = {name for name, count in out.faults.items() if not count}
    assert unseen == {"lost_message", "time_jump"}


def test_a_time_that_stands_still_does_not_fill_the_memory(tmp_path: Path) -> None:
    vectors = words(*[0x4FFF] * 53) * 7000

    with pytest.raises(DeviceError, match="packet_duration"):
        read(written(tmp_path, b"% evt 3.0\n% geometry 32767x480\n" + words(0x8000) + vectors))


# --- other ways to write events -------------------------------------------------------------------

THREE = rows((5, 1, 2, 1), (6, 3, 4, 0), (9, 639, 479, 1))


@pytest.mark.parametrize("pack", [np.savez, np.savez_compressed])
def test_npz_of_separate_arrays(tmp_path: Path, pack: Any) -> None:
    pack(tmp_path / "a.npz", t=THREE["timestamp"], x=THREE["x"].astype(np.uint16),
         y=THREE["y"].astype(np.uint8 if THREE["y"].max() < 256 else np.int32),
         p=THREE["polarity"] > 0, width=640, height=480)  # fmt: skip

    same(events_in(tmp_path / "a.npz"), THREE)


def test_npz_of_one_structured_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", events=THREE)

    same(events_in(tmp_path / "a.npz", **SIZED), THREE)


def test_npz_longer_than_a_block(tmp_path: Path) -> None:
    count = 200_000
    many = np.zeros(count, EVENT)
    many["timestamp"] = np.arange(count)
    many["x"] = np.arange(count) % 640
    np.savez(tmp_path / "a.npz", events=many)

    same(events_in(tmp_path / "a.npz", packet_duration=0.01, **SIZED), many)


def test_npz_with_times_in_seconds_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", t=np.array([0.5]), x=[1], y=[1], p=[1])

    with pytest.raises(DeviceError, match="t does not hold whole numbers"):
        read(tmp_path / "a.npz", **SIZED)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("t,x,y,p\n5,1,2,1\n6,3,4,0\n9,639,479,1\n", {}),
        ("x;y;polarity;timestamp\n1;2;1;5\n3;4;-1;6\n639;479;1;9\n", {"delimiter": ";"}),
        ("0.000005 1 2 1\n0.000006 3 4 0\n0.000009 639 479 1",
         {"delimiter": " ", "columns": "t,x,y,p", "time_unit": "s"}),
    ],
)  # fmt: skip
def test_csv_in_several_layouts(tmp_path: Path, text: str, options: dict[str, str]) -> None:
    path = written(tmp_path, text.encode(), "a.csv")

    same(events_in(path, **SIZED, **options), THREE)


def test_csv_without_room_for_a_line_in_one_block(tmp_path: Path) -> None:
    lines = "".join(f"{t},{t % 640},{t % 480},{t % 2}\n" for t in range(60_000))

    found = events_in(written(tmp_path, lines.encode(), "a.csv"), columns="t,x,y,p", **SIZED)

    assert found["timestamp"].tolist() == list(range(60_000))
    assert found["x"].tolist() == [t % 640 for t in range(60_000)]


# --- packets --------------------------------------------------------------------------------------


def test_packets_cover_whole_slices_of_sensor_time_without_gaps() -> None:
    out = read(INDOOR, packet_duration=0.002)

    packets = out["events"]
    assert all(a.stop == b.start for a, b in pairwise(packets))
    assert all(p.start % 2000 == 0 and p.stop % 2000 == 0 for p in packets)
    for packet in packets:
        times = packet.data.array["timestamp"]
        assert ((times >= packet.start) & (times < packet.stop)).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 300_000))
def test_events_do_not_depend_on_the_packets_they_come_in(duration: int) -> None:
    found = events_in(INDOOR, packet_duration=duration / 1e6)

    same(found, slow_evt3_of_indoor())


_indoor: list[Array] = []


def slow_evt3_of_indoor() -> Array:
    if not _indoor:
        _indoor.append(slow_evt3(body(INDOOR)))
    return _indoor[0]


SPARSE = HEADER + words(0x8000, 0x6005, 0x2001, 0x8002, 0x6001, 0x2002)  # at 5 us and 8193 us


def test_one_empty_packet_covers_a_silence_when_nothing_waits(tmp_path: Path) -> None:
    out = read(written(tmp_path, SPARSE))

    spans = [(p.start, p.stop, len(p.data)) for p in out["events"]]
    assert spans == [(0, 1000, 1), (1000, 8000, 0), (8000, 9000, 1)]


def test_a_paced_replay_ticks_through_silence_at_the_recording_s_speed(tmp_path: Path) -> None:
    node = EventFile({"path": str(written(tmp_path, SPARSE))})
    node.clock.pace = "paced"

    begin = time.monotonic()
    out = drive(node)

    assert time.monotonic() - begin >= 0.008  # from the first packet's end to the last one's
    assert [(p.start, p.stop) for p in out["events"]] == [
        (k * 1000, (k + 1) * 1000) for k in range(9)
    ]


def test_long_silence_is_paced_in_coarser_steps(tmp_path: Path) -> None:
    path = written(tmp_path, b"t,x,y,p\n0,1,1,1\n3000000,1,1,1\n", "a.csv")
    node = EventFile({"path": str(path), **SIZED, "packet_duration": 0.01})
    node.clock.pace, node.clock.speed = "paced", 1000.0

    spans = [p.stop - p.start for p in drive(node)["events"]]

    assert spans == [10_000] * 101 + [100_000] * 19 + [90_000] + [10_000]


def test_stopping_the_run_ends_a_paced_replay_at_once(tmp_path: Path) -> None:
    node = EventFile({"path": str(written(tmp_path, SPARSE))})
    node.clock.pace, node.clock.speed = "paced", 1e-6
    node.open()
    stream = node.produce()
    next(stream)

    timer = threading.Timer(0.05, node.clock.stop)
    timer.start()

    assert list(stream) == []
    timer.join()


# --- restarts -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 200))
def test_a_restarted_node_goes_on_with_exactly_the_next_packet(after: int) -> None:
    options = {"path": str(INDOOR), "packet_duration": 0.0003}
    whole = read(INDOOR, packet_duration=0.0003)["events"]
    after = min(after, len(whole) - 1)
    first = EventFile(options)
    first.open()
    stream = first.produce()
    for _ in range(after):
        next(stream)

    second = EventFile(options)
    second.open()
    second.restore(first.snapshot())
    rest = drive(second, opened=True)

    assert [(p.start, p.stop) for p in rest["events"]] == [(p.start, p.stop) for p in whole[after:]]
    same(rest.items("events"), np.concatenate([p.data.array for p in whole[after:]]))
    assert rest.results["packets"] == len(whole)


def test_the_report_says_what_was_read() -> None:
    out = read(INDOOR)

    expected = slow_evt3_of_indoor()
    assert out.results == {
        "format": "EVT3", "width": 640, "height": 480, "events": len(expected),
        "packets": len(out["events"]), "first_us": int(expected["timestamp"][0]),
        "last_us": int(expected["timestamp"][-1]), "triggers": out.results["triggers"],
    }  # fmt: skip


def test_aedat4_written_by_dv_processing_is_read_back(tmp_path: Path) -> None:
    dv = pytest.importorskip("dv_processing")
    path = str(tmp_path / "a.aedat4")
    store = dv.EventStore()
    for t, x, y, p in THREE.tolist():
        store.push_back(t, x, y, bool(p))
    writer = dv.io.MonoCameraWriter(path, dv.io.MonoCameraWriter.EventOnlyConfig("a", (640, 480)))
    writer.writeEvents(store)
    del writer

    assert datetime.timedelta(microseconds=4) == store.duration()
    same(events_in(path), THREE)


def test_progress_rises_to_one_as_the_file_is_read():
    node = EventFile({"path": str(INDOOR)})

    drive(node)

    assert node.progress == 1.0
