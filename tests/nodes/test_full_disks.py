"""What every sink leaves, says and counts when its disk is full, by each of the three policies.

The disks are real ones (tmpfs) of some kilobytes, in a mount namespace of their own; `full_disk.py`
fills them. The files are read by libraries that are not ours, wherever there is one.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamflow_nodes.files.output import FullDiskSettings, OutputFile, put_file
from streamflow_nodes.sinks.csv_file import CsvFile

from streamflow.errors import DeviceError, NodeError

sys.path.insert(0, str(Path(__file__).resolve().parent))
from full_disk import EVENTS, PARTICLES, POLICIES, SINKS

Told = dict[str, Any]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Told]]:
    """The folder with what all the runs left, and what they said."""
    for module in ("faery", "flowio", "h5py", "matplotlib", "pyarrow"):
        pytest.importorskip(module)
    if not (unshare := shutil.which("unshare")):
        pytest.skip("no unshare: small disks cannot be mounted without touching the machine")
    space = [unshare, "-m"] if os.geteuid() == 0 else [unshare, "-Urm"]
    probe = [*space, "sh", "-c", "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("mounting is refused here, so there is no small disk to fill")
    out = tmp_path_factory.mktemp("full")
    script = str(Path(__file__).with_name("full_disk.py"))
    with (out / "err.txt").open("w") as said:
        run = subprocess.run(
            [*space, sys.executable, "-W", "error", script, str(out)], stderr=said, check=False
        )
    assert run.returncode == 0, (out / "err.txt").read_text()[-3000:]
    return out, json.loads((out / "told.json").read_text())


def from_csv(path: Path) -> Any:
    with path.open(newline="") as file:
        return [round(float(row["time_us"]) / 1000) for row in csv.DictReader(file)]


def from_fcs(path: Path) -> Any:
    import flowio

    file = flowio.FlowData(str(path))
    return np.round(np.array(file.events).reshape(-1, file.channel_count)[:, 0] / 1000)


def from_arrow(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(path) if path.suffix == ".parquet" else _stream(pa, path)
    return np.round(table["time_us"].to_numpy() / 1000)


def _stream(pa: Any, path: Path) -> Any:
    batches = []
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        while file.tell() < file.size():
            batches.append(stream.read_next_batch())
    return pa.Table.from_batches(batches)


def from_rtdc(path: Path) -> Any:
    import h5py
    from streamflow_nodes.particles.rows import PARTICLE

    if path.suffix == ".rows":
        return np.round(np.fromfile(path, PARTICLE)["time_us"] / 1000)
    with h5py.File(path) as file:
        return np.round(file["tables/particles"]["time_us"] / 1000)


def from_events(path: Path) -> Any:
    """Each event's number, after a check that all of the event is as it was."""
    import faery
    import h5py
    from pyarrow import parquet

    if path.suffix == ".h5":
        with h5py.File(path) as file:
            t, x = (file["events"][name][:] for name in ("t", "x"))
            t = t + file["t_offset"][()]
    elif path.suffix == ".parquet":
        table = parquet.read_table(path)
        t, x = table["t"].to_numpy(), table["x"].to_numpy()
    elif path.suffix == ".csv":
        t, x = np.loadtxt(path, np.int64, delimiter=",", skiprows=1).T[:2]
    else:
        parts = [part.copy() for part in faery.events_stream_from_file(path)]
        found = np.concatenate(parts)
        t, x = found["t"].astype(np.int64), found["x"]
    numbers = (t - 1000) // 7
    np.testing.assert_array_equal(t, 1000 + 7 * numbers)
    np.testing.assert_array_equal(x, numbers % 640)
    return numbers


READERS: dict[str, Callable[[Path], Any]] = {
    "csv_file": from_csv,
    "sort_trigger": from_csv,
    "fcs_file": from_fcs,
    "parquet_file": from_arrow,
    "rtdc_file": from_rtdc,
}


def numbers(folder: Path, name: str, told: Told) -> list[int]:
    """The numbers of all records in the files that a run says it wrote, in their order."""
    results = told["results"]
    path = results.get("path", f"/disk/{SINKS[name][2]}")
    journals = [results["rows"]] if "rows" in results and name == "rtdc_file" else []
    paths = [file["path"] for file in results.get("files", ())] or journals or [path]
    if told["error"] and name in ("parquet_file", "hdf5", "events_parquet"):
        paths = [f"{path}.part{'.arrows' if name == 'parquet_file' else '.aedat4'}"]
    reader = READERS.get(name, from_events)
    out: list[int] = []
    for each in map(Path, paths):
        out += [int(n) for n in reader(folder / each.parent.name / each.name)]
    return sorted(out) if name == "sort_trigger" else out


recording = pytest.mark.parametrize("name", [name for name in SINKS if name != "plot"])


@recording
@pytest.mark.parametrize("policy", POLICIES)
def test_whole_packets_are_on_file_and_every_other_is_counted(
    filled: tuple[Path, dict[str, Told]], name: str, policy: str
) -> None:
    out, told = filled[0] / f"{name} {policy}".replace(" ", "-"), filled[1][f"{name} {policy}"]
    count = EVENTS if SINKS[name][0] == "EventFileWriter" else PARTICLES

    found = numbers(out, name, told)

    assert len(found) == len(set(found))
    assert 0 < len(found) <= count
    if name != "sort_trigger":  # logs what is decided, not what has just come
        assert found == list(range(len(found)))
        assert len(found) % (250 if count == EVENTS else 20) == 0
    not_written = told["faults"]["not_written"]
    if policy == "fail":
        assert "No space left on device" in told["error"]
        assert "free space" in told["error"]
        assert len(found) < count
        assert not_written == 0
    else:
        assert told["error"] is None
        assert len(found) + not_written == count
        assert (not_written > 0) == (policy == "stop_writing")
        assert told["results"].get("stopped_writing", False) == (
            policy == "stop_writing" and name != "rtdc_file"
        )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_page_without_room_is_an_error_or_counted_or_elsewhere(
    filled: tuple[Path, dict[str, Told]], policy: str
) -> None:
    told = filled[1][f"plot {policy}"]

    assert told["left"]["disk"] == []
    assert told["left"]["spare"] == (["a.png"] if policy == "rotate" else [])
    assert told["faults"]["not_written"] == (policy == "stop_writing")
    assert bool(told["error"]) == (policy == "fail")


def test_when_the_spare_folders_are_full_too_the_run_fails(
    filled: tuple[Path, dict[str, Told]],
) -> None:
    told = filled[1]["spare full"]

    found = numbers(filled[0] / "spare-full", "csv_file", {**told, "error": None})

    assert "No folder in 'spare' has room either" in told["error"]
    assert found == list(range(told["results"]["rows"]))


def test_a_reserve_is_left_free(filled: tuple[Path, dict[str, Told]]) -> None:
    told = filled[1]["reserve"]

    assert told["free"] >= 180_000 - 4096  # tmpfs gives out pages
    assert 0 < told["results"]["bytes"] <= 256 * 1024 - 180_000
    assert told["results"]["rows"] + told["faults"]["not_written"] == PARTICLES


def test_a_limit_on_the_size_of_files_is_as_a_full_disk(
    filled: tuple[Path, dict[str, Told]],
) -> None:
    out, told = filled[0] / "limit", filled[1]["limit"]

    found = numbers(out, "evt3", told)

    assert (out / "disk" / "a.raw").stat().st_size <= 20_000
    assert found == list(range(EVENTS - told["faults"]["not_written"]))


def test_a_file_that_cannot_be_built_leaves_its_journal_or_is_built_elsewhere(
    filled: tuple[Path, dict[str, Told]],
) -> None:
    """HDF5's journal fits on the disk; the HDF5 file beside it does not."""
    for name in ("complete in spare", "complete nowhere", "complete fails"):
        told = filled[1][name]
        found = numbers(filled[0] / name.replace(" ", "-"), "hdf5", told)
        assert found == list(range(EVENTS)), name
        assert bool(told["error"]) == (name == "complete fails")
    assert filled[1]["complete in spare"]["left"] == {"disk": [], "spare": ["a.h5"]}
    assert filled[1]["complete nowhere"]["left"]["disk"] == ["a.h5.part.aedat4"]
    assert "cannot build" in filled[1]["complete fails"]["error"]


def test_a_draft_gives_way_to_records(filled: tuple[Path, dict[str, Told]]) -> None:
    """Half of the disk would be the HDF5 file that is being built; all of it is records."""
    told = filled[1]["draft"]

    found = numbers(filled[0] / "draft", "hdf5", told)

    assert told["left"]["disk"] == ["a.h5.part.aedat4"]
    assert (filled[0] / "draft/disk/a.h5.part.aedat4").stat().st_size > 20_000_000
    assert found == list(range(1_500_000 - told["faults"]["not_written"]))


@pytest.mark.parametrize("name", ["hdf5 sizes", "rtdc sizes", "rtdc failing sizes"])
def test_no_write_of_hdf5_that_fails_ends_the_process(
    filled: tuple[Path, dict[str, Told]], name: str
) -> None:
    """A crash inside the HDF5 library would have ended `full_disk.py`."""
    told = filled[1][name]

    assert told["runs"] >= 8
    assert told["whole"] > 0
    assert bool(told["errors"]) == ("failing" in name)
    assert all("No space left on device" in error for error in told["errors"])


@pytest.mark.parametrize("policy", ["stop_writing", "rotate"])
def test_a_sink_that_is_killed_on_a_full_disk_repeats_and_loses_nothing(
    filled: tuple[Path, dict[str, Told]], policy: str
) -> None:
    told, out = filled[1][f"killed {policy}"], filled[0] / f"killed-{policy}"

    paths = [file["path"] for file in told["results"].get("files", [told["results"]])]
    found: list[int] = []
    for path in map(Path, paths):
        with (out / path.parent.name / path.name).open(newline="") as file:
            found += [int(row["n"]) for row in csv.DictReader(file)]

    assert told["code"] == 0
    assert told["restarts"] >= 2
    assert told["unbalanced"] == {}
    assert found == list(range(7200 - told["faults"]["not_written"]))
    assert (told["faults"]["not_written"] > 0) == (policy == "stop_writing")


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(NodeError, match=r"'rotate' with 0 folders in 'spare'"):
        CsvFile({"path": "a.csv", "when_disk_full": "rotate"})
    with pytest.raises(NodeError, match=r"'stop_writing' with 1 folders in 'spare'"):
        CsvFile({"path": "a.csv", "when_disk_full": "stop_writing", "spare": ["b"]})


def test_a_spare_folder_that_is_no_other_place_is_refused(tmp_path: Path) -> None:
    same = CsvFile(
        {"path": str(tmp_path / "a"), "when_disk_full": "rotate", "spare": [str(tmp_path)]}
    )
    (tmp_path / "file").touch()
    blocked = CsvFile(
        {"path": str(tmp_path / "a"), "when_disk_full": "rotate", "spare": [f"{tmp_path}/file"]}
    )

    with pytest.raises(DeviceError, match="names a folder twice"):
        same.open()
    with pytest.raises(DeviceError, match=r"cannot use the spare folder .*: File exists"):
        blocked.open()


def test_an_error_that_is_not_for_want_of_space_ends_the_run_by_any_policy(tmp_path: Path) -> None:
    settings = FullDiskSettings(when_disk_full="stop_writing")
    (tmp_path / "folder").mkdir()

    with pytest.raises(DeviceError, match="Is a directory"):
        put_file(tmp_path / "folder", settings, b"page", "sink")
    with pytest.raises(DeviceError, match="broken"):
        OutputFile.full(_output(tmp_path, settings), DeviceError("broken"))


def _output(folder: Path, settings: FullDiskSettings) -> OutputFile[Any]:
    from streamflow_nodes.files.records import RecordFile

    return OutputFile(folder / "a", settings, "sink", lambda path: RecordFile(path, "sink"))
