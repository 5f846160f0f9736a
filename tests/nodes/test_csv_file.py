"""Rows reach the text file complete, exact and once."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from streamflow_nodes.particles.rows import PARTICLE
from streamflow_nodes.sinks.csv_file import CsvFile

from streamflow.errors import DeviceError, NodeError
from streamflow.packet import Packet, Table
from streamflow.testing import drive, table

ROW = np.dtype([("time", "<i8"), ("level", "<f8"), ("fine", "<f4"), ("name", "S8"), ("ok", "?")])


def rows_of(*rows: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    return np.array(list(rows), ROW)


def packets(rows: np.ndarray[Any, Any], sizes: list[int]) -> list[Packet[Table]]:
    """`rows` in packets of the given sizes, and what remains in a last one."""
    out, at = [], 0
    for size in [*sizes, len(rows)]:
        out.append(table(rows[at : at + size].copy(), at, at + size))
        at = min(at + size, len(rows))
    return out


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table_becomes_a_header_and_one_line_per_row(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "rows.csv"
    rows = rows_of((-3, 0.1, 0.1, b"A", True), (2**62, 1e300, 2.5, b'"b", c', False))

    out = drive(CsvFile({"path": str(path)}), rows=[table(rows, 0, 5)])

    assert path.read_text() == (
        'time,level,fine,name,ok\n-3,0.1,0.1,A,1\n4611686018427387904,1e+300,2.5,"""b"", c",0\n'
    )
    assert out.results == {"path": str(path), "rows": 2, "bytes": path.stat().st_size}


@settings(deadline=None)
@given(
    rows=hnp.arrays(
        np.dtype([("t", "<i8"), ("d", "<f8"), ("f", "<f4"), ("h", "<f2"), ("u", "<u4")]),
        st.integers(0, 12),
    ),
    sizes=st.lists(st.integers(0, 4), max_size=4),
)
def test_every_number_reads_back_the_same_however_the_rows_were_cut(
    tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray[Any, Any], sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole, parts = folder / "whole.csv", folder / "parts.csv"

    drive(CsvFile({"path": str(whole)}), rows=packets(rows, []))
    drive(CsvFile({"path": str(parts)}), rows=packets(rows, sizes))

    assert whole.read_bytes() == parts.read_bytes()
    back = np.array(
        [tuple(r[name] for name in rows.dtype.names or ()) for r in read(whole)],
        dtype=[(name, "U64") for name in rows.dtype.names or ()],
    )
    for name in rows.dtype.names or ():
        np.testing.assert_array_equal(back[name].astype(rows.dtype[name]), rows[name])


@settings(deadline=None)
@given(cut=st.integers(0, 6), extra=st.integers(0, 6))
def test_a_restart_repeats_and_loses_no_row(
    tmp_path_factory: pytest.TempPathFactory, cut: int, extra: int
) -> None:
    folder = tmp_path_factory.mktemp("restart")
    rows = rows_of(*[(i, i / 3, i / 7, b"\xff" if i == 2 else b"A", i % 2) for i in range(6)])
    each = packets(rows, [1] * 6)
    first = CsvFile({"path": str(folder / "a.csv")})
    first.open()
    drive(first, rows=each[:cut], opened=True, end=False)
    state = first.snapshot()
    drive(first, rows=each[cut : cut + extra], opened=True, end=False)
    first.close()  # what a killed process leaves behind: rows that no snapshot covers

    second = CsvFile({"path": str(folder / "a.csv")})
    second.open()
    second.restore(state)
    out = drive(second, rows=each[cut:], opened=True)
    undisturbed = drive(CsvFile({"path": str(folder / "b.csv")}), rows=each)

    assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()
    assert out.results["rows"] == 6
    assert out.faults == undisturbed.faults == {"text_not_utf8": 1, "not_written": 0}


def test_named_columns_give_a_header_without_any_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("results of an earlier run")

    drive(CsvFile({"path": str(path), "columns": ["time_us", "class"]}), rows=[])

    assert path.read_text() == "time_us,class\n"


def test_an_empty_table_gives_a_header(tmp_path: Path) -> None:
    drive(CsvFile({"path": str(tmp_path / "a.csv")}), rows=[table(np.empty(0, PARTICLE), 0, 9)])

    assert (tmp_path / "a.csv").read_text() == ",".join(PARTICLE.names or ()) + "\n"


def test_nothing_at_all_replaces_the_older_file_by_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("results of an earlier run")

    drive(CsvFile({"path": str(tmp_path / "a.csv")}), rows=[])

    assert (tmp_path / "a.csv").read_text() == ""


def test_columns_choose_and_order_what_is_written(tmp_path: Path) -> None:
    rows = rows_of((1, 2.5, 0, b"A", 1))

    drive(
        CsvFile({"path": str(tmp_path / "a.csv"), "columns": ["name", "time"]}),
        rows=[table(rows, 0, 2)],
    )

    assert (tmp_path / "a.csv").read_text() == "name,time\nA,1\n"


def test_a_column_that_the_rows_lack_is_named_with_those_they_have(tmp_path: Path) -> None:
    node = CsvFile({"path": str(tmp_path / "a.csv"), "columns": ["time", "clas"]})

    with pytest.raises(NodeError, match=r"without the columns \['clas'\].*'level'.*'columns'"):
        drive(node, rows=[table(rows_of((1, 2, 3, b"", 0)), 0, 2)])


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"names \['a'\] twice"):
        drive(CsvFile({"path": str(tmp_path / "a.csv"), "columns": ["a", "b", "a"]}), rows=[])


@pytest.mark.parametrize("names", [["time"], ["time", "level", "more"]])
def test_columns_that_change_on_the_way_are_an_error(tmp_path: Path, names: list[str]) -> None:
    before = np.ones(1, [("time", "<i8"), ("level", "<f8")])
    after = np.ones(1, [(name, "<f8") for name in names])

    with pytest.raises(NodeError, match=r"\['level'\]|\['more'\]"):
        drive(
            CsvFile({"path": str(tmp_path / "a.csv")}),
            rows=[table(before, 0, 1), table(after, 1, 2)],
        )


def test_the_same_columns_in_another_format_go_on(tmp_path: Path) -> None:
    before = np.array([(1, b"A")], [("time", "<i8"), ("class", "S1")])
    after = np.array([(b"long name", 2)], [("class", "S16"), ("time", "<i4")])

    drive(
        CsvFile({"path": str(tmp_path / "a.csv")}), rows=[table(before, 0, 1), table(after, 1, 2)]
    )

    assert (tmp_path / "a.csv").read_text() == "time,class\n1,A\n2,long name\n"


def test_rows_without_fields_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="expected a structured table"):
        drive(CsvFile({"path": str(tmp_path / "a.csv")}), rows=[table(np.ones(3), 0, 1)])


def test_fields_with_several_values_give_several_columns(tmp_path: Path) -> None:
    inner = np.dtype([("low", "<f4"), ("high", "<f4")])
    rows = np.zeros(1, [("at", "<i2", (2,)), ("gate", inner), ("blob", "V2"), ("when", "<M8[us]")])
    rows["at"] = [3, 4]
    rows["gate"]["high"] = 0.1

    drive(CsvFile({"path": str(tmp_path / "a.csv")}), rows=[table(rows, 0, 1)])

    assert (tmp_path / "a.csv").read_text() == (
        "at_0,at_1,gate.low,gate.high,blob,when\n3,4,0.0,0.1,0000,1970-01-01T00:00:00.000000\n"
    )


def test_hostile_rows_are_written_as_they_are_and_counted(tmp_path: Path) -> None:
    rows = np.zeros(3, PARTICLE)
    rows["probability"] = [np.nan, np.inf, -0.0]
    rows["class"] = ["größe".encode(), b"\xff\n", b""]

    out = drive(CsvFile({"path": str(tmp_path / "a.csv")}), rows=[table(rows, 0, 1)])

    back = read(tmp_path / "a.csv")
    assert [row["class"] for row in back] == ["größe", "\\xff\n", ""]
    assert [row["probability"] for row in back] == ["nan", "inf", "-0.0"]
    assert out.faults == {"text_not_utf8": 1, "not_written": 0}


FILL = """
import resource, sys
import numpy as np
from streamflow.errors import DeviceError
from streamflow.testing import drive, table
from streamflow_nodes.sinks.csv_file import CsvFile
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
rows = np.array([(i, i / 3) for i in range(1000)], [("index", "<i8"), ("value", "<f8")])
try:
    drive(CsvFile({"path": sys.argv[1]}, name="results"),
          rows=(table(rows[i:i + 7].copy(), i, i + 7) for i in range(0, 1000, 7)))
except DeviceError as error:
    print(error)
"""


def test_a_full_disk_leaves_whole_rows_and_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"

    run = subprocess.run(
        [sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, check=True
    )

    back = read(path)
    assert len(back) > 100
    assert [(r["index"], r["value"]) for r in back] == [
        (str(i), repr(i / 3)) for i in range(len(back))
    ]
    assert run.stdout.startswith(f"results: cannot write {path}: File too large")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_without_space_is_one_clear_error() -> None:
    with pytest.raises(DeviceError, match="cannot write /dev/full: No space left on device"):
        drive(CsvFile({"path": "/dev/full"}), rows=[table(rows_of((1, 2, 3, b"", 0)), 0, 2)])
