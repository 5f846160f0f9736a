"""Recordings in HDF5 and Parquet give their events, or one error that says why they cannot."""

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
from streamflow_nodes.sources.event_file import EventFile

from streamflow.errors import DeviceError
from streamflow.packet import EVENT
from streamflow.testing import Driven, drive

h5py = pytest.importorskip("h5py")
arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

Array = np.ndarray[Any, Any]
SIZED = {"width": 640, "height": 480}
THREE = np.array([(5, 1, 2, 1), (6, 3, 4, 0), (9, 639, 479, 1)], EVENT)
RECORD = np.dtype([("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])  # Prophesee's


def read(path: Path, **options: Any) -> Driven:
    return drive(EventFile({"path": str(path), **options}))


def same(found: Array, expected: Array) -> None:
    assert len(found) == len(expected)
    for name in ("timestamp", "x", "y", "polarity"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def columns(events: Array = THREE) -> dict[str, Array]:
    return {
        "t": events["timestamp"], "x": events["x"], "y": events["y"], "p": events["polarity"]
    }  # fmt: skip


def records(events: Array = THREE) -> Array:
    out = np.zeros(len(events), RECORD)
    for name, column in columns(events).items():
        out[name] = column
    return out


def hdf5(folder: Path, name: str = "a.h5", **groups: dict[str, Any]) -> Path:
    """A file with one group of datasets for each keyword."""
    with h5py.File(folder / name, "w") as file:
        for group, sets in groups.items():
            for key, data in sets.items():
                file[f"{group}/{key}"] = data
    return folder / name


def many(count: int) -> Array:
    events = np.zeros(count, EVENT)
    events["timestamp"], events["x"] = np.arange(count), np.arange(count) % 640
    events["y"], events["polarity"] = np.arange(count) // 640 % 480, np.arange(count) % 2
    return events


# --- HDF5 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_a_file_as_dsec_has_it_is_read_with_its_offset(
    compression: str | None, tmp_path: Path
) -> None:
    events = many(150_000)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        kinds = {"t": np.uint32, "x": np.uint16, "y": np.uint16, "p": np.uint8}
        for name, column in columns(events).items():
            file.create_dataset(
                f"events/{name}", data=column.astype(kinds[name]), chunks=(4096,),
                compression=compression,
            )  # fmt: skip
        file["t_offset"], file["ms_to_idx"] = np.int64(49_599_300_523), np.arange(9)

    out = read(tmp_path / "a.h5", packet_duration=0.01, **SIZED)

    events["timestamp"] += 49_599_300_523
    same(out.items("events"), events)
    assert out.results["format"] == "HDF5"


def test_a_file_as_prophesee_has_it_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["CD/events"] = records(many(100_000))
        file["CD/indexes"] = np.zeros(3, [("id", "<u8"), ("ts", "<i8")])
        file["EXT_TRIGGER/events"] = np.zeros(2, [("p", "<i2"), ("t", "<i8"), ("id", "<i2")])
        file.attrs["geometry"] = "1280x720"

    out = read(tmp_path / "a.hdf5", packet_duration=0.01)

    same(out.items("events"), many(100_000))
    assert (out.results["width"], out.results["height"]) == (1280, 720)


def test_polarity_may_be_minus_one_or_a_truth_value(tmp_path: Path) -> None:
    signed = {**columns(), "p": np.array([1, -1, 1], np.int8)}
    truth = {**columns(), "p": np.array([True, False, True])}

    same(read(hdf5(tmp_path, "a.h5", events=signed), **SIZED).items("events"), THREE)
    same(read(hdf5(tmp_path, "b.h5", events=truth), **SIZED).items("events"), THREE)


def test_of_several_recordings_in_a_file_one_is_named(tmp_path: Path) -> None:
    path = hdf5(tmp_path, left=columns(THREE[:1]), right=columns(THREE[:2]))

    with pytest.raises(DeviceError, match=r"2 places .*\(left, right\).*setting 'dataset'"):
        read(path, **SIZED)
    with pytest.raises(DeviceError, match=r"names 'middle'; .* left, right"):
        read(path, dataset="middle", **SIZED)
    same(read(path, dataset="/right", **SIZED).items("events"), THREE[:2])


def test_columns_may_lie_at_the_top_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, data in columns().items():
            file[name] = data
        file.attrs["width"], file.attrs["height"] = 640, 480

    same(read(path).items("events"), THREE)


def test_what_is_wrong_with_the_events_is_counted(tmp_path: Path) -> None:
    events = np.array([(5, 1, 2, 1), (4, 3, 4, 0), (9, 640, 1, 1)], EVENT)
    sets = {**columns(events), "x": np.array([1, 3, 70_000])}

    out = read(hdf5(tmp_path, events=sets), **SIZED)

    assert out.items("events")["timestamp"].tolist() == [5, 5]
    assert (out.faults["time_backward"], out.faults["outside_sensor"]) == (1, 1)


def external(path: Path) -> None:
    (path.parent / "raw").write_bytes(bytes(24))
    with h5py.File(path, "w") as file:
        for name in "xyp":
            file[f"events/{name}"] = np.zeros(3, np.int16)
        file.create_dataset("events/t", (3,), "<i8", external=[(str(path.parent / "raw"), 0, 24)])


def virtual(path: Path) -> None:
    other = hdf5(path.parent, "other.h5", events=columns())
    layout = h5py.VirtualLayout((3,), "<i8")
    layout[:] = h5py.VirtualSource(other, "events/t", (3,))
    with h5py.File(path, "w") as file:
        for name in "xyp":
            file[f"events/{name}"] = np.zeros(3, np.int16)
        file.create_virtual_dataset("events/t", layout)


def linked(path: Path) -> None:
    other = hdf5(path.parent, "other.h5", events=columns())
    with h5py.File(path, "w") as file:
        for name in "txyp":
            file[f"events/{name}"] = h5py.ExternalLink(str(other), f"events/{name}")


def promised(path: Path, rows: int, chunk: int, held: int) -> None:
    """Columns that say they have `rows` rows and hold next to nothing."""
    with h5py.File(path, "w") as file:
        for name in "txyp":
            data = file.create_dataset(f"events/{name}", (rows,), "<i8", chunks=(chunk,))
            data[:held] = 7


def unstored(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name in "txyp":
            file.create_dataset(f"events/{name}", (1 << 45,), "<i8")


def cut_off(path: Path) -> None:
    whole = hdf5(path.parent, "whole.h5", events=columns(many(50_000))).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def damaged(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, column in columns(many(50_000)).items():
            file.create_dataset(f"events/{name}", data=column, chunks=(9999,), compression="gzip")
    content = bytearray(path.read_bytes())
    content[-30_000:-20_000] = bytes(10_000)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: hdf5(path.parent, path.name, other={"t": [1]}), "nothing in the HDF5 file"),
        (lambda path: hdf5(path.parent, path.name, events={**columns(), "t": [0.1, 0.2, 0.3]}),
         "whole numbers"),
        (lambda path: hdf5(path.parent, path.name, events={**columns(), "x": np.zeros((3, 2))}),
         "shape"),
        (lambda path: hdf5(path.parent, path.name, events={**columns(), "x": [1, 2]}),
         "different lengths"),
        (lambda path: hdf5(path.parent, path.name, events={**columns(), "t_offset": [1.5, 2.5]}),
         "t_offset"),
        (lambda path: hdf5(
            path.parent, path.name, events={**columns(), "t": np.full(3, 1 << 63, "<u8")}),
         "beyond 2\\^62"),
        (external, "lies in other files"),
        (virtual, "lies in other files"),
        (linked, "nothing in the HDF5 file"),
        (lambda path: promised(path, 1 << 45, 1024, 3), "at most 1024 are in the file"),
        (lambda path: promised(path, 1 << 30, 1 << 26, 0), "chunks of 536870912 bytes"),
        (unstored, "at most 0 are in the file"),
        (cut_off, "cannot be read"),
        (damaged, "cannot be read"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(900)), "cannot be read"),
    ],
    ids=["no events", "seconds", "two-dimensional", "lengths", "offset", "huge times", "external",
         "virtual", "linked", "promised", "huge chunks", "unstored", "cut off", "damaged", "zeros"],
)  # fmt: skip
def test_hdf5_that_cannot_be_read_is_one_clear_error(make: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    make(path)

    with pytest.raises(DeviceError, match=says) as caught:
        read(path, packet_duration=1.0, **SIZED)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("code", "says"),
    [(36559, "Prophesee's HDF5 plugin"), (32999, r"filter 32999 .*pip install hdf5plugin")],
)
def test_a_filter_that_is_not_installed_is_named(code: int, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((8,))
        plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, ())
        kind, space = h5py.h5t.py_create(RECORD, logical=True), h5py.h5s.create_simple((8,))
        h5py.h5d.create(file.create_group("CD").id, b"events", kind, space, plist)

    with pytest.raises(DeviceError, match=says):
        read(path, **SIZED)


def test_blosc_as_dsec_uses_it_is_read_where_its_plugin_is_installed(tmp_path: Path) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, column in columns(many(50_000)).items():
            file.create_dataset(
                f"events/{name}", data=column, chunks=(9999,),
                **hdf5plugin.Blosc(cname="zstd", shuffle=1),
            )  # fmt: skip

    same(read(tmp_path / "a.h5", packet_duration=0.1, **SIZED).items("events"), many(50_000))


@pytest.mark.parametrize("suffix", ["h5", "parquet"])
@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_files_with_changed_bytes_are_read_or_refused(
    suffix: str, changes: list[tuple[float, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{suffix}"
        if suffix == "h5":
            hdf5(path.parent, path.name, events=columns(many(300)))
        else:
            parquet.write_table(arrow.table(columns(many(300))), path)
        content = bytearray(path.read_bytes())
        for place, value in changes:
            content[int(place * (len(content) - 1))] = value
        path.write_bytes(content)

        count, refused = 0, str(path)
        try:
            count = read(path, packet_duration=1e6, **SIZED).results["events"]
        except DeviceError as error:
            refused = str(error)

        assert count <= 300
        assert str(path) in refused


# --- Parquet --------------------------------------------------------------------------------------


def written(folder: Path, table: Any, **options: Any) -> Path:
    parquet.write_table(table, folder / "a.parquet", **options)
    return folder / "a.parquet"


@pytest.mark.parametrize(
    "times",
    [
        arrow.array([5, 6, 9], arrow.uint32()),
        arrow.array([5, 6, 9], arrow.timestamp("us")),
        arrow.array([5000, 6000, 9000], arrow.timestamp("ns")),
        arrow.array([5, 6, 9], arrow.duration("us")),
    ],
    ids=str,
)
def test_parquet_with_any_type_of_time_is_read(times: Any, tmp_path: Path) -> None:
    table = arrow.table({**columns(), "t": times, "p": THREE["polarity"] > 0})

    same(read(written(tmp_path, table), **SIZED).items("events"), THREE)


def test_parquet_under_other_names_with_columns_of_its_own_is_read(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    sets = columns()
    frame = pandas.DataFrame(
        {"polarity": sets["p"], "timestamp": sets["t"], "x": sets["x"], "note": ["a", "b", "c"],
         "y": sets["y"]}
    )  # fmt: skip
    frame.to_parquet(tmp_path / "a.parquet")

    same(read(tmp_path / "a.parquet", **SIZED).items("events"), THREE)


def test_parquet_of_many_row_groups_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, arrow.table(columns(many(200_000))), row_group_size=30_000)

    same(read(path, packet_duration=0.1, **SIZED).items("events"), many(200_000))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (arrow.table({"t": [1], "x": [1], "y": [1]}), "expected t"),
        (arrow.table({**columns(), "t": [0.1, 0.2, 0.3]}), "column t .* double"),
        (arrow.table({**columns(), "x": ["1", "2", "3"]}), "column x .* string"),
        (arrow.table({**columns(), "x": [1, None, 3]}), "rows without a value"),
    ],
    ids=["missing", "seconds", "text", "null"],
)
def test_parquet_that_holds_something_else_is_refused(
    table: Any, says: str, tmp_path: Path
) -> None:
    with pytest.raises(DeviceError, match=says):
        read(written(tmp_path, table), **SIZED)


@pytest.mark.parametrize("length", [4, 40, 900])
def test_parquet_that_is_cut_off_is_one_clear_error(length: int, tmp_path: Path) -> None:
    path = written(tmp_path, arrow.table(columns(many(1000))))
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(DeviceError, match=r"a\.parquet: the Parquet file cannot be read"):
        read(path, **SIZED)


def test_parquet_that_promises_a_huge_footer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1")

    with pytest.raises(DeviceError, match="cannot be read"):
        read(path, **SIZED)


# --- both -----------------------------------------------------------------------------------------

READ_ALL = """
import resource, sys
from streamflow_nodes.sources.event_file import EventFile
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
node = EventFile({"path": sys.argv[1], "width": 640, "height": 480, "packet_duration": 0.01})
node.open()
stream = node.produce()
next(stream)
before = peak()
count = sum(len(emission.packet.data) for emission in stream)
print(count, peak() - before)
"""


@pytest.mark.parametrize("suffix", ["h5", "parquet"])
def test_a_recording_is_never_in_memory_as_a_whole(suffix: str, tmp_path: Path) -> None:
    path, count = tmp_path / f"a.{suffix}", 2_000_000  # 32 MB as events
    if suffix == "h5":
        hdf5(tmp_path, path.name, events=columns(many(count)))
    else:
        parquet.write_table(arrow.table(columns(many(count))), path, row_group_size=1 << 18)

    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(path)],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip

    events, grown = map(int, done.stdout.split())
    assert events == count - 10_000
    assert grown < 16_000  # KiB


WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None
from streamflow_nodes.sources.event_file import EventFile
EventFile({"path": sys.argv[2], "width": 640, "height": 480}).open()
"""


def test_a_missing_library_is_named_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    path = written(tmp_path, arrow.table(columns()))

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "pyarrow", str(path)],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip

    assert "needs pyarrow: pip install 'streamflow-neuro[files]'" in done.stderr
