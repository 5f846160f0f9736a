"""Rows are in the Parquet file as they were, whoever reads it and whatever happens in between."""

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
from streamflow_nodes.sinks.parquet_file import ParquetFile

from streamflow.errors import DeviceError, NodeError
from streamflow.packet import Packet, Table
from streamflow.testing import drive, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from runs import Run  # the engine tests' way to run a graph

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROW = np.dtype(
    [
        ("time_us", "<i8"), ("size", "<f4"), ("class", "S8"), ("position", "<i2", (2,)),
        ("gate", [("low", ">f8"), ("is_open", "?")]), ("half", "<f2"), ("at", "<M8[us]"),
        ("label", "<U4"), ("code", "V2"),
    ]
)  # fmt: skip
COLUMNS = ["time_us", "size", "class", "position_0", "position_1", "gate.low", "gate.is_open",
           "half", "at", "label", "code"]  # fmt: skip
Rows = np.ndarray[Any, Any]


def rows(count: int, first: int = 0) -> Rows:
    out = np.zeros(count, ROW)
    number = np.arange(first, first + count)
    out["time_us"], out["size"], out["half"] = number, number / 7, number % 100 / 4
    out["class"] = [f"k{n % 5}".encode() for n in number]
    out["position"] = np.stack([number % 99, -number % 99], axis=1)
    out["gate"]["low"], out["gate"]["is_open"] = number / 3, number % 2
    out["at"] = number.astype("M8[us]")
    out["label"] = [f"µ{n % 9}" for n in number]
    out["code"] = number.astype("<u2").view("V2") if count else out["code"]
    return out


def cut(array: Rows, size: int) -> list[Packet[Table]]:
    return [
        table(array[at : at + size], at, min(at + size, len(array)))
        for at in range(0, len(array), size)
    ]


def same(path: Path, expected: Rows) -> None:
    found = parquet.read_table(path)
    assert found.column_names == COLUMNS
    assert found["time_us"].to_pylist() == expected["time_us"].tolist()
    assert found["size"].to_pylist() == expected["size"].tolist()
    assert found["class"].to_pylist() == [name.decode() for name in expected["class"].tolist()]
    assert found["position_1"].to_pylist() == expected["position"][:, 1].tolist()
    assert found["gate.low"].to_pylist() == expected["gate"]["low"].tolist()
    assert found["gate.is_open"].to_pylist() == expected["gate"]["is_open"].tolist()
    assert found["half"].to_pylist() == expected["half"].tolist()
    assert found["at"].to_pylist() == expected["at"].tolist()
    assert found["label"].to_pylist() == expected["label"].tolist()
    assert found["code"].to_pylist() == [bytes(code) for code in expected["code"]]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 100))
def test_rows_read_back_however_they_were_cut(count: int, size: int, group: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"

        out = drive(
            ParquetFile({"path": str(path), "row_group": group}), rows=cut(rows(count), size)
        )

        same(path, rows(count))
        assert out.results == {"path": str(path), "rows": count, "bytes": path.stat().st_size}
        assert left(Path(folder)) == ["a.parquet"]


def test_row_groups_hold_at_most_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"

    drive(ParquetFile({"path": str(path), "row_group": 64}), rows=cut(rows(500), 10))

    metadata = parquet.read_metadata(path)
    sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
    assert sum(sizes) == 500
    assert max(sizes) == 64


def test_pandas_reads_it_as_a_frame_with_the_types_of_the_rows(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "a.parquet"

    drive(ParquetFile({"path": str(path)}), rows=cut(rows(50), 7))

    frame = pandas.read_parquet(path)
    assert frame["time_us"].dtype == np.int64
    assert frame["size"].dtype == np.float32
    np.testing.assert_array_equal(frame["size"], rows(50)["size"])


def test_chosen_columns_are_written_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"

    drive(ParquetFile({"path": str(path), "columns": ["size", "time_us"]}), rows=cut(rows(3), 2))

    assert parquet.read_table(path).column_names == ["size", "time_us"]


def test_bytes_that_are_no_text_are_escaped_and_counted(tmp_path: Path) -> None:
    path, array = tmp_path / "a.parquet", rows(3)
    array["class"][1] = b"\xffx"

    out = drive(ParquetFile({"path": str(path)}), rows=cut(array, 3))

    assert out.faults["text_not_utf8"] == 1
    assert parquet.read_table(path)["class"].to_pylist() == ["k0", "\\xffx", "k2"]


def test_a_stream_without_packets_gives_a_file_without_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"

    drive(ParquetFile({"path": str(path)}), rows=[])

    assert parquet.read_table(path).shape == (0, 0)


def test_a_stream_of_empty_packets_gives_a_file_with_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"

    drive(ParquetFile({"path": str(path)}), rows=[table(rows(0), 0, 9)])

    same(path, rows(0))


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 30), st.integers(0, 5))
def test_after_a_crash_no_row_is_repeated_or_lost(covered: int, unacknowledged: int) -> None:
    packets = cut(rows(300), 10)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        first = ParquetFile({"path": str(path), "row_group": 64})
        first.open()
        drive(first, rows=packets[:covered], opened=True, end=False)
        state = first.snapshot()
        more = packets[covered : covered + unacknowledged]
        drive(first, rows=more, opened=True, end=False)
        first.close()

        second = ParquetFile({"path": str(path), "row_group": 64})
        second.open()
        second.restore(state)
        out = drive(second, rows=packets[covered:], opened=True)

        same(path, rows(300))
        assert out.results["rows"] == 300
        assert left(Path(folder)) == ["a.parquet"]


def test_until_the_end_whole_packets_are_in_an_arrow_stream(tmp_path: Path) -> None:
    path, journal = tmp_path / "a.parquet", tmp_path / "a.parquet.part.arrows"
    path.write_bytes(b"of an earlier run")
    node = ParquetFile({"path": str(path)})
    node.open()
    drive(node, rows=cut(rows(100), 10), opened=True, end=False)
    node.close()  # as after a failure: there was no finish
    torn = journal.read_bytes()[:-7]

    stream = arrow.ipc.open_stream(torn)
    found = [stream.read_next_batch() for _ in range(9)]

    assert arrow.Table.from_batches(found)["time_us"].to_pylist() == list(range(90))
    assert path.read_bytes() == b"of an earlier run"


NUMBERS = """
nodes:
  numbers: {kind: number_source, settings: {count: 1500, rows: 3, filler: 0, delay: 0.001}}
  keep: {kind: parquet_file, inputs: {rows: numbers.rows}, settings: {path: a.parquet}}
processes:
  sink: {nodes: [keep], restart: {when: on_failure, maximum: 9, backoff: 0.01}}
"""


def test_kill_9_repeats_and_loses_no_row(tmp_path: Path) -> None:
    run = Run(tmp_path, NUMBERS)
    journal = tmp_path / "a.parquet.part.arrows"
    for size in (50_000, 150_000):
        run.wait_for(lambda least=size: journal.exists() and journal.stat().st_size > least)
        run.kill("sink")

    assert run.end() == 0, run.err
    assert run.report["processes"]["sink"]["restarts"] == 2
    found = parquet.read_table(tmp_path / "a.parquet")["n"].to_pylist()
    assert [n for n in found if n >= 0] == list(range(4500))


@pytest.mark.parametrize(
    ("first", "then", "says"),
    [
        (np.dtype([("n", "<c8")]), None, "a column 'n' of complex64"),
        (np.dtype("<i4"), None, "without named fields"),
        (np.dtype([("n", "<i4")]), np.dtype([("n", "<i8")]), "n is int64 instead of int32"),
        (np.dtype([("n", "<i4")]), np.dtype([("m", "<i4")]), "without the columns"),
    ],
)
def test_what_parquet_cannot_hold_is_refused(
    first: Any, then: Any, says: str, tmp_path: Path
) -> None:
    packets = [
        table(np.zeros(2, kind), at, at + 1) for at, kind in enumerate((first, then)) if kind
    ]

    with pytest.raises(NodeError, match=says):
        drive(ParquetFile({"path": str(tmp_path / "a.parquet")}), rows=packets)


def test_a_directory_in_the_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="Is a directory"):
        drive(ParquetFile({"path": str(tmp_path)}), rows=[])


FULL_DISK = """
import resource, signal, sys
import numpy as np
from streamflow_nodes.sinks.parquet_file import ParquetFile
from streamflow.errors import DeviceError
from streamflow.testing import table
node = ParquetFile({"path": sys.argv[1]})
node.open()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
numbers = np.random.default_rng(1).integers(0, 1 << 62, 5000)
rows = numbers.view([("n", "<i8")])
node.on_rows(table(rows, 0, 1))
if sys.argv[2] == "building":
    length = 20_000
else:
    length = node.snapshot()["length"] + 100
resource.setrlimit(resource.RLIMIT_FSIZE, (length, resource.RLIM_INFINITY))
try:
    if sys.argv[2] == "building":
        node.finish()
    else:
        node.on_rows(table(rows, 1, 2))
except DeviceError as error:
    print(node.snapshot()["rows"], error)
finally:
    node.close()
"""


@pytest.mark.parametrize(("when", "says"), [("writing", "keeps its"), ("building", "are in")])
def test_on_a_full_disk_whole_packets_remain_in_the_journal(
    when: str, says: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.parquet"), when],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip

    assert done.stdout.startswith("5000 ")
    assert says in done.stdout
    assert "free space" in done.stdout
    assert left(tmp_path) == ["a.parquet.part.arrows"]
    stream = arrow.ipc.open_stream((tmp_path / "a.parquet.part.arrows").read_bytes())
    assert stream.read_next_batch().num_rows == 5000
