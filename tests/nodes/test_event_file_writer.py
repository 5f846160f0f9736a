"""What is recorded reads back as it was, whatever happens in between."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.sinks.event_file_writer import EventFileWriter
from streamflow_nodes.sources.event_file import EventFile

from streamflow.errors import DeviceError, NodeError
from streamflow.packet import EVENT, Events, Packet
from streamflow.testing import Driven, cut, drive, events

INDOOR = Path(__file__).resolve().parents[1] / "data" / "indoor_640x480_evt3.raw"
Array = np.ndarray[Any, Any]


def write(path: Path, *packets: Packet[Events]) -> Driven:
    return drive(EventFileWriter({"path": str(path)}), events=packets)


def read(path: Path, **options: Any) -> Array:
    out = drive(EventFile({"path": str(path), **options}))
    assert not any(out.faults.values())
    # joining structured arrays packs them: 13 bytes an event where EVENT has 16
    return out.items("events").astype(EVENT) if out["events"] else np.empty(0, EVENT)


def same(found: Array, expected: Array) -> None:
    assert len(found) == len(expected)
    for name in ("timestamp", "x", "y", "polarity"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def indoor() -> Array:
    return read(INDOOR)


def test_a_real_recording_reads_back_event_for_event(tmp_path: Path) -> None:
    recording = indoor()

    out = write(tmp_path / "a.raw", *cut(events(recording), 1000))

    same(read(tmp_path / "a.raw"), recording)
    assert out.results["events"] == len(recording)
    assert out.results["bytes"] == (tmp_path / "a.raw").stat().st_size


def test_faery_reads_what_was_written(tmp_path: Path) -> None:
    faery = pytest.importorskip("faery")
    # past the wrap at 2^24 us, and over silences that jump whole wraps
    recording = indoor()
    recording["timestamp"] += np.linspace(0, 200_000_000, len(recording)).astype(np.int64) // 40
    recording["timestamp"][len(recording) // 2 :] += 55_000_000

    write(tmp_path / "a.raw", *cut(events(recording), 1000))

    stream = faery.events_stream_from_file(tmp_path / "a.raw", dimensions_fallback=(1, 1))
    theirs = np.concatenate([part.copy() for part in stream])
    assert stream.dimensions() == (640, 480)
    for name, field in (("timestamp", "t"), ("x", "x"), ("y", "y"), ("polarity", "on")):
        np.testing.assert_array_equal(recording[name], theirs[field], err_msg=name)


ADDRESS = st.tuples(st.integers(0, 60), st.integers(0, 5), st.integers(0, 1))
STEP = st.one_of(st.just(0), st.integers(0, 10), st.integers(0, 1 << 27))
BEGIN = st.sampled_from([0, 913_716_224, (1 << 32) - 1, 1 << 32, 1_605_537_493_718_345])


@settings(deadline=None, max_examples=60)
@given(BEGIN, st.lists(st.tuples(STEP, ADDRESS), min_size=1, max_size=40), st.integers(1, 40))
def test_any_events_read_back_however_they_were_cut(
    begin: int, steps: list[tuple[int, tuple[int, int, int]]], size: int
) -> None:
    times = begin + np.cumsum([step for step, _ in steps])
    rows = np.array(
        [(int(t), *address) for t, (_, address) in zip(times, steps, strict=True)], EVENT
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.raw"

        write(path, *cut(events(rows, width=64, height=8), size))

        same(read(path, packet_duration=1.0), rows)


@pytest.mark.parametrize("packets", [[], [events([], width=640, height=480, start=0, stop=9)]])
def test_a_stream_without_events_gives_a_file_without_events(
    tmp_path: Path, packets: list[Packet[Events]]
) -> None:
    write(tmp_path / "a.raw", *packets)

    sized = {} if packets else {"width": 640, "height": 480}
    assert len(read(tmp_path / "a.raw", **sized)) == 0


def test_the_file_of_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "a.raw", events(indoor()))

    write(tmp_path / "a.raw", events([(5, 1, 2, 1)]))

    same(read(tmp_path / "a.raw"), np.array([(5, 1, 2, 1)], EVENT))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 40), st.integers(0, 5))
def test_after_a_crash_no_event_is_repeated_or_lost(covered: int, unacknowledged: int) -> None:
    packets = cut(events(indoor()[:4000]), 100)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.raw"
        first = EventFileWriter({"path": str(path)})
        first.open()
        drive(first, events=packets[:covered], opened=True, end=False)
        state = first.snapshot()
        # handled, but the process dies before the snapshot that covers it
        more = packets[covered : covered + unacknowledged]
        drive(first, events=more, opened=True, end=False)
        first.close()

        second = EventFileWriter({"path": str(path)})
        second.open()
        second.restore(state)
        out = drive(second, events=packets[covered:], opened=True)

        same(read(path), indoor()[:4000])
        assert out.results["events"] == 4000
        assert out.results["packets"] == len(packets)


FULL_DISK = """
import resource, signal, sys
import numpy as np
from streamflow_nodes.sinks.event_file_writer import EventFileWriter
from streamflow.errors import DeviceError
from streamflow.packet import EVENT
from streamflow.testing import cut, events
recording = np.frombuffer(open(sys.argv[1], "rb").read(), EVENT)
node = EventFileWriter({"path": sys.argv[2]})
node.open()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    for packet in cut(events(recording), 1000):
        node.on_events(packet)
except DeviceError as error:
    print(node.snapshot()["events"], error)
finally:
    node.close()
"""


def test_on_a_full_disk_whole_packets_remain_and_the_error_says_how_much(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(indoor().tobytes())

    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "events"), str(tmp_path / "a.raw")],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip

    count, said = done.stdout.split(" ", 1)
    found = read(tmp_path / "a.raw")
    assert 0 < (tmp_path / "a.raw").stat().st_size <= 20_000
    assert len(found) == int(count)
    assert len(found) % 1000 == 0
    same(found, indoor()[: len(found)])
    assert "a.raw" in said
    assert f"keeps its {(tmp_path / 'a.raw').stat().st_size} bytes" in said
    assert "free space" in said


def test_a_device_without_space_is_an_error_that_says_so() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    with pytest.raises(DeviceError, match=r"/dev/full: No space left.*free space"):
        write(Path("/dev/full"), events([(5, 1, 2, 1)]))


def test_a_path_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="Is a directory"):
        write(tmp_path)


@pytest.mark.parametrize(
    ("packets", "says"),
    [
        ([events([(5, 640, 2, 1)])], "event 0 at 5 us, x 640"),
        ([events([(5, 1, 480, 1)])], "y 480"),
        ([events([(5, 1, -1, 1)])], "y -1"),
        ([events([(5, 1, 1, 1), (4, 1, 1, 1)], stop=9)], "event 1 at 4 us"),
        ([events([(5, 1, 1, 1)], stop=6), events([(4, 1, 1, 1)], start=6)], "event 0 at 4 us"),
        ([events([(-5, 1, 1, 1)])], "before time 0"),
        ([events([(5, 1, 1, 1)], width=2049)], "EVT3 has room for 2048"),
        ([events([(5, 1, 1, 1)]), events([(9, 1, 1, 1)], width=320)], "320x480 pixels after one"),
        ([events([(5, 1, 1, 1), (1 << 41, 1, 1, 1)])], "twelve days"),
    ],
)
def test_what_evt3_cannot_hold_is_refused_and_nothing_of_the_packet_written(
    tmp_path: Path, packets: list[Packet[Events]], says: str
) -> None:
    with pytest.raises(NodeError, match=says):
        drive(EventFileWriter({"path": str(tmp_path / "a.raw")}), events=packets)

    content = (tmp_path / "a.raw").read_bytes()
    assert (len(packets) == 1) == (content == b"")


def test_another_format_is_refused() -> None:
    with pytest.raises(NodeError, match="format"):
        EventFileWriter({"path": "a.raw", "format": "aedat4"})
