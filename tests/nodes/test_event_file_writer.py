"""What is recorded reads back as it was, whatever happens in between."""

from __future__ import annotations

import shutil
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from runs import Run  # the engine tests' way to run a graph

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


# format: the end of the name, the largest sensor, the longest time from the file's begin
FORMATS = {
    "evt3": (".raw", 2048, 1 << 40),
    "evt2": (".raw", 2048, 1 << 44),
    "aedat4": (".aedat4", 32767, 1 << 50),
    "es": (".es", 32767, 1 << 30),
    "csv": (".csv", 32767, 1 << 50),
    "hdf5": (".h5", 32767, 1 << 50),
    "parquet": (".parquet", 32767, 1 << 50),
}
each_format = pytest.mark.parametrize("form", FORMATS)


def needed(form: str) -> None:
    for module in {"aedat4": ["faery"], "hdf5": ["h5py"], "parquet": ["pyarrow"]}.get(form, []):
        pytest.importorskip(module)


def named(folder: Path, form: str) -> Path:
    return folder / f"a{FORMATS[form][0]}"


def node_for(path: Path, form: str) -> EventFileWriter:
    return EventFileWriter({"path": str(path), "format": form})


def size_for(form: str, width: int = 640, height: int = 480) -> dict[str, int]:
    """What `event_file` must be told: CSV does not say how large the sensor is."""
    return {"width": width, "height": height} if form == "csv" else {}


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@each_format
def test_a_real_recording_reads_back_event_for_event(form: str, tmp_path: Path) -> None:
    needed(form)
    path, recording = named(tmp_path, form), indoor()

    out = drive(node_for(path, form), events=cut(events(recording), 1000))

    same(read(path, **size_for(form)), recording)
    assert out.results["events"] == len(recording)
    assert out.results["bytes"] == path.stat().st_size
    assert left(tmp_path) == [path.name]


def far_apart(form: str) -> Array:
    """A recording past the wraps of `form`, and over silences that jump whole wraps."""
    recording = indoor()
    wrap = {"evt3": 1 << 24, "evt2": 1 << 34}.get(form, 1 << 26)
    count = len(recording)
    recording["timestamp"] += np.linspace(0, 12 * wrap, count).astype(np.int64) // 40
    recording["timestamp"][count // 2 :] += 3 * wrap + wrap // 3
    return recording


@pytest.mark.parametrize("form", ["evt3", "evt2", "es", "aedat4"])
def test_faery_reads_what_was_written(form: str, tmp_path: Path) -> None:
    faery = pytest.importorskip("faery")
    path, recording = named(tmp_path, form), far_apart(form)

    drive(node_for(path, form), events=cut(events(recording), 1000))

    stream = faery.events_stream_from_file(path, dimensions_fallback=(1, 1))
    theirs = np.concatenate([part.copy() for part in stream])
    assert stream.dimensions() == (640, 480)
    for name, field in (("timestamp", "t"), ("x", "x"), ("y", "y"), ("polarity", "on")):
        np.testing.assert_array_equal(recording[name], theirs[field], err_msg=name)


def test_dv_processing_reads_the_aedat4_that_was_written(tmp_path: Path) -> None:
    dv = pytest.importorskip("dv_processing")
    path, recording = tmp_path / "a.aedat4", indoor()
    recording["timestamp"] += 1_605_537_493_718_345

    write(path, *cut(events(recording), 1000))

    reader, theirs = dv.io.MonoCameraRecording(str(path)), []
    while (batch := reader.getNextEventBatch()) is not None:
        theirs.append(batch.numpy())
    assert reader.getEventResolution() == (640, 480)
    same(np.concatenate(theirs), recording)


def test_numpy_reads_the_csv_that_was_written(tmp_path: Path) -> None:
    path, recording = tmp_path / "a.csv", indoor()
    recording["timestamp"][-1] += 1 << 60

    write(path, *cut(events(recording), 1000))

    theirs = np.loadtxt(path, np.int64, delimiter=",", skiprows=1)
    for column, name in enumerate(("timestamp", "x", "y", "polarity")):
        np.testing.assert_array_equal(theirs[:, column], recording[name], err_msg=name)


def test_hdf5_is_indexed_as_dsec_says(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path, recording = tmp_path / "a.h5", indoor()[::7].copy()
    recording["timestamp"][-50:] += 12_345

    write(path, *cut(events(recording), 1000))

    with h5py.File(path) as file:
        t, index = file["events/t"][:], file["ms_to_idx"][:].astype(int)
        offset = int(file["t_offset"][()])
        for name, ours in (("x", "x"), ("y", "y"), ("p", "polarity")):
            np.testing.assert_array_equal(file["events"][name][:], recording[ours])
    np.testing.assert_array_equal(t + offset, recording["timestamp"])
    # DSEC's readme: t[ms_to_idx[ms]] >= ms * 1000 and t[ms_to_idx[ms] - 1] < ms * 1000
    assert index.tolist() == [int(np.sum(t < 1000 * ms)) for ms in range(len(index))]
    assert index[-1] == len(t)
    assert 0 <= t[0] < 1000


def test_pandas_reads_the_parquet_that_was_written(tmp_path: Path) -> None:
    pandas, parquet = pytest.importorskip("pandas"), pytest.importorskip("pyarrow.parquet")
    path, recording = tmp_path / "a.parquet", indoor()

    write(path, *cut(events(recording), 1000))

    frame = pandas.read_parquet(path)
    for theirs, ours in (("t", "timestamp"), ("x", "x"), ("y", "y"), ("p", "polarity")):
        np.testing.assert_array_equal(frame[theirs], recording[ours])
    metadata = parquet.read_metadata(path).metadata
    assert (metadata[b"width"], metadata[b"height"]) == (b"640", b"480")


STEP = st.one_of(st.just(0), st.integers(0, 10), st.integers(0, 1 << 27), st.integers(0, 1 << 36))
PLACE = st.tuples(st.sampled_from([0.0, 0.01, 0.011, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0]))
BEGIN = st.sampled_from([0, 913_716_224, (1 << 32) - 1, 1 << 32, 1 << 34, 1_605_537_493_718_345])


@each_format
@settings(deadline=None, max_examples=8)
@given(
    BEGIN, st.lists(st.tuples(STEP, PLACE, st.integers(0, 1)), min_size=1, max_size=30),
    st.integers(1, 30),
)  # fmt: skip
def test_any_events_read_back_however_they_were_cut(
    form: str, begin: int, steps: list[tuple[int, tuple[float, float], int]], size: int
) -> None:
    needed(form)
    _, side, longest = FORMATS[form]
    times = begin % longest + np.minimum(np.cumsum([step for step, _, _ in steps]), longest)
    rows = np.array(
        [
            (int(t), int(x * (side - 1)), int(y * (side - 1)), p)
            for t, (_, (x, y), p) in zip(times, steps, strict=True)
        ],
        EVENT,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = named(Path(folder), form)

        packet = events(rows, width=side, height=side)
        drive(node_for(path, form), events=cut(packet, size))

        same(read(path, packet_duration=1.0, **size_for(form, side, side)), rows)


@each_format
def test_a_stream_without_events_gives_a_file_without_events(form: str, tmp_path: Path) -> None:
    needed(form)
    path = named(tmp_path, form)
    empty = events([], width=640, height=480, start=0, stop=9)

    drive(node_for(path, form), events=[empty])

    assert len(read(path, **size_for(form))) == 0
    assert left(tmp_path) == [path.name]


@pytest.mark.parametrize("form", ["evt3", "evt2", "csv", "hdf5", "parquet"])
def test_a_stream_without_packets_gives_a_file_that_does_not_say_the_sensor(
    form: str, tmp_path: Path
) -> None:
    needed(form)
    path = named(tmp_path, form)

    drive(node_for(path, form), events=[])

    assert len(read(path, width=640, height=480)) == 0


@pytest.mark.parametrize("form", ["es", "aedat4"])
def test_a_stream_without_packets_gives_an_empty_file_where_a_sensor_must_be_said(
    form: str, tmp_path: Path
) -> None:
    path = named(tmp_path, form)
    path.write_bytes(b"of an earlier run")

    drive(node_for(path, form), events=[])

    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.RAW", "evt3"), ("a.txt", "csv"), ("a.hdf5", "hdf5"), ("a.b.es", "es")],
)
def test_the_name_says_the_format(name: str, form: str, tmp_path: Path) -> None:
    needed(form)

    assert write(tmp_path / name, events([(5, 1, 2, 1)])).results["format"] == form


def test_a_name_that_says_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"ends in \.raw, .*or the setting 'format'"):
        write(tmp_path / "a.bin", events([(5, 1, 2, 1)]))


@each_format
def test_the_file_of_an_earlier_run_is_replaced(form: str, tmp_path: Path) -> None:
    needed(form)
    path = named(tmp_path, form)
    drive(node_for(path, form), events=[events(indoor())])

    drive(node_for(path, form), events=[events([(5, 1, 2, 1)])])

    same(read(path, **size_for(form)), np.array([(5, 1, 2, 1)], EVENT))


@each_format
@settings(deadline=None, max_examples=3)
@given(st.integers(0, 40), st.integers(0, 5))
def test_after_a_crash_no_event_is_repeated_or_lost(
    form: str, covered: int, unacknowledged: int
) -> None:
    needed(form)
    packets = cut(events(indoor()[:4000]), 100)
    with tempfile.TemporaryDirectory() as folder:
        path = named(Path(folder), form)
        first = node_for(path, form)
        first.open()
        drive(first, events=packets[:covered], opened=True, end=False)
        state = first.snapshot()
        # handled, but the process dies before the snapshot that covers it
        more = packets[covered : covered + unacknowledged]
        drive(first, events=more, opened=True, end=False)
        first.close()

        second = node_for(path, form)
        second.open()
        second.restore(state)
        out = drive(second, events=packets[covered:], opened=True)

        same(read(path, **size_for(form)), indoor()[:4000])
        assert out.results["events"] == 4000
        assert out.results["packets"] == len(packets)
        assert left(Path(folder)) == [path.name]


@pytest.mark.parametrize("form", ["hdf5", "parquet"])
def test_a_successor_of_a_finished_node_leaves_the_finished_file(form: str, tmp_path: Path) -> None:
    needed(form)
    path = named(tmp_path, form)
    first = node_for(path, form)
    first.open()
    drive(first, events=cut(events(indoor()[:4000]), 100), opened=True, end=False)
    first.finish()
    state = first.snapshot()
    first.close()

    second = node_for(path, form)
    second.open()
    second.restore(state)
    second.close()

    same(read(path), indoor()[:4000])
    assert second.results()["bytes"] == path.stat().st_size
    assert left(tmp_path) == [path.name]


@pytest.mark.parametrize("form", ["hdf5", "parquet"])
def test_a_death_between_completing_the_file_and_saying_so_loses_nothing(
    form: str, tmp_path: Path
) -> None:
    needed(form)
    first = node_for(named(tmp_path / "first", form), form)
    first.open()
    drive(first, events=cut(events(indoor()[:4000]), 100), opened=True, end=False)
    state = first.snapshot()
    first.finish()
    shutil.copytree(tmp_path / "first", tmp_path / "then")  # as the dead process left it
    first.close()

    path = named(tmp_path / "then", form)
    second = node_for(path, form)
    second.open()
    second.restore(state)
    drive(second, events=[], opened=True)

    same(read(path), indoor()[:4000])
    assert left(path.parent) == [path.name]


@pytest.mark.parametrize("form", ["hdf5", "parquet"])
def test_until_the_end_the_events_are_in_a_journal_and_the_file_is_as_it_was(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    needed(form)
    pytest.importorskip("faery")
    path = named(tmp_path, form)
    path.write_bytes(b"of an earlier run")
    node = node_for(path, form)
    node.open()
    drive(node, events=cut(events(indoor()), 1000), opened=True, end=False)

    same(read(tmp_path / f"{path.name}.part.aedat4"), indoor())
    node.close()  # as after a failure: there was no finish

    assert path.read_bytes() == b"of an earlier run"
    assert left(tmp_path) == [path.name, f"{path.name}.part.aedat4"]
    assert f"what was written is in {path}.part.aedat4" in caplog.text


def test_a_long_recording_is_built_while_it_runs(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    many = np.zeros(3 << 20, EVENT)
    many["timestamp"] = np.arange(len(many))
    many["x"] = np.arange(len(many)) % 640
    node = node_for(tmp_path / "a.h5", "hdf5")
    node.open()
    drive(node, events=cut(events(many), 50_000), opened=True, end=False)

    behind = node.snapshot()["length"] - node._file.file._builder.position  # type: ignore[union-attr]  # an AssembledFile
    node.finish()
    node.close()

    assert behind < 20 << 20 < node.snapshot()["length"]
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["events/t"][:], many["timestamp"])
        np.testing.assert_array_equal(file["events/x"][:], many["x"])


GRAPH = """
clock: paced
speed: 0.1
nodes:
  camera: {{kind: event_file, settings: {{path: {recording}, packet_duration: 0.0002}}}}
  keep: {{kind: event_file_writer, inputs: {{events: camera.events}}, settings: {{path: {path}}}}}
processes:
  sink: {{nodes: [keep], restart: {{when: on_failure, maximum: 9, backoff: 0.01}}}}
"""


def killed_when(run: Run, growing: Path, sizes: list[int], process: str) -> None:
    """Kill -9 a process of `run` each time that the file has grown to the next of `sizes`."""
    for size in sizes:
        run.wait_for(lambda least=size: growing.exists() and growing.stat().st_size > least)
        run.kill(process)


def test_kill_9_repeats_and_loses_no_event(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    run = Run(tmp_path, GRAPH.format(recording=INDOOR, path=tmp_path / "a.h5"))

    killed_when(run, tmp_path / "a.h5.part.aedat4", [10_000, 30_000], "sink")

    assert run.end() == 0, run.err
    assert run.report["processes"]["sink"]["restarts"] == 2
    same(read(tmp_path / "a.h5"), indoor())


def test_when_everything_is_killed_a_whole_beginning_is_in_the_journal(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("faery")
    run = Run(tmp_path, GRAPH.format(recording=INDOOR, path=tmp_path / "a.parquet"))
    journal = tmp_path / "a.parquet.part.aedat4"

    run.wait_for(lambda: journal.exists() and journal.stat().st_size > 60_000)
    run.process.kill()
    run.process.wait()

    found = drive(EventFile({"path": str(journal)})).items("events")
    assert len(found) > 3000
    same(found, indoor()[: len(found)])
    assert not (tmp_path / "a.parquet").exists()


FULL_AT_THE_END = """
import resource, signal, sys
import numpy as np
from streamflow_nodes.sinks.event_file_writer import EventFileWriter
from streamflow.errors import DeviceError
from streamflow.packet import EVENT
from streamflow.testing import events
recording = np.zeros(100_000, EVENT)
recording["timestamp"] = np.arange(len(recording))
node = EventFileWriter({"path": sys.argv[1]})
node.open()
node.on_events(events(recording))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
try:
    node.finish()
except DeviceError as error:
    print(error)
finally:
    node.close()
"""


def test_a_disk_that_is_full_at_the_end_leaves_the_journal_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("h5py")

    done = subprocess.run(
        [sys.executable, "-c", FULL_AT_THE_END, str(tmp_path / "a.h5")],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip

    assert "cannot build" in done.stdout
    assert "a.h5.part.aedat4, which can be read: free space" in done.stdout
    assert left(tmp_path) == ["a.h5.part.aedat4"]


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
        drive(node_for(Path("/dev/full"), "evt3"), events=[events([(5, 1, 2, 1)])])


@each_format
def test_a_path_that_is_a_directory_is_refused(form: str, tmp_path: Path) -> None:
    needed(form)

    with pytest.raises(DeviceError, match="Is a directory"):
        drive(node_for(tmp_path, form))


@pytest.mark.parametrize(
    ("packets", "says"),
    [
        ([events([(5, 640, 2, 1)])], "event 0 at 5 us, x 640"),
        ([events([(5, 1, 480, 1)])], "y 480"),
        ([events([(5, 1, -1, 1)])], "y -1"),
        ([events([(5, 1, 1, 1), (4, 1, 1, 1)], stop=9)], "event 1 at 4 us"),
        ([events([(5, 1, 1, 1)], stop=6), events([(4, 1, 1, 1)], start=6)], "event 0 at 4 us"),
        ([events([(-5, 1, 1, 1)])], "before time 0"),
        ([events([(5, 1, 1, 1)], width=2049)], "EVT3 has room for 2048 each way"),
        ([events([(5, 1, 1, 1)]), events([(9, 1, 1, 1)], width=320)], "320x480 pixels after one"),
        ([events([(5, 1, 1, 1), (1 << 41, 1, 1, 1)])], "305.4 hours"),
    ],
)
def test_what_evt3_cannot_hold_is_refused_and_nothing_of_the_packet_written(
    tmp_path: Path, packets: list[Packet[Events]], says: str
) -> None:
    with pytest.raises(NodeError, match=says):
        drive(EventFileWriter({"path": str(tmp_path / "a.raw")}), events=packets)

    content = (tmp_path / "a.raw").read_bytes()
    assert (len(packets) == 1) == (content == b"")


@pytest.mark.parametrize(
    ("form", "packet", "says"),
    [
        ("evt2", events([(5, 1, 1, 1)], width=2049), "EVT2 has room for 2048 each way"),
        ("es", events([(1_605_537_493_718_345, 1, 1, 1)]), "after 0 us; ES spells out silence"),
        ("es", events([(5, 1, 1, 1), (1 << 34, 1, 1, 1)]), "at most 2.4 hours"),
        ("hdf5", events([(5, 640, 1, 1)]), "event 0 at 5 us, x 640"),
    ],
)
def test_what_another_format_cannot_hold_is_refused(
    tmp_path: Path, form: str, packet: Packet[Events], says: str
) -> None:
    needed(form)

    with pytest.raises(NodeError, match=says):
        drive(node_for(named(tmp_path, form), form), events=[packet])


def test_a_format_that_is_not_written_is_refused() -> None:
    with pytest.raises(NodeError, match="format"):
        EventFileWriter({"path": "a.raw", "format": "dat"})


WITHOUT = """
import sys
sys.modules[sys.argv[1].split(".")[0]] = None
from streamflow_nodes.sinks.event_file_writer import EventFileWriter
EventFileWriter({"path": sys.argv[2]}).open()
"""


def test_a_missing_library_is_named_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "h5py", str(tmp_path / "a.h5")],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip

    assert "needs h5py: pip install 'streamflow-neuro[files]'" in done.stderr
    assert left(tmp_path) == []
