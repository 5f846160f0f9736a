"""dclab reads what the particles were, also after a kill, a restart or on a full disk.

dclab (GPL) is an oracle of these tests only; without it they are skipped.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.particles.rows import PARTICLE
from streamflow_nodes.sinks.rtdc_file import FEATURES, RtdcFile

from streamflow.errors import DeviceError, NodeError
from streamflow.packet import Packet, Table
from streamflow.testing import drive, table

SETUP = {"channel_width": 50, "flow_rate": 0.04, "pixel_size": 15, "width": 64, "height": 48}


def particles(count: int, *, first: int = 0, dtype: np.dtype[Any] = PARTICLE) -> Any:
    """`count` rows in which every number tells its row."""
    rows = np.zeros(count, dtype)
    at = np.arange(first, first + count)
    for name in dtype.names or ():
        if dtype[name].kind != "S":
            rows[name] = at + 0.5 if dtype[name].kind == "f" else at
    rows["time_us"] = at * 1000 + 0.25
    rows["class"] = np.where(at % 3 == 0, b"A", b"B")
    rows["probability"] = 0.5 + 0.5 / (at + 1)
    return rows


def packets(rows: Any, size: int) -> list[Packet[Table]]:
    """Packets of `size` rows, one second of stream time each."""
    second = 1_000_000
    return [
        table(rows[i : i + size].copy(), n * second, (n + 1) * second)
        for n, i in enumerate(range(0, len(rows), size))
    ]


def node(path: Path, **more: Any) -> RtdcFile:
    return RtdcFile({"path": str(path), **SETUP, **more}, name="results")


def content(path: Path) -> dict[str, bytes]:
    """All of a file but when it was written: every attribute and every array."""
    out = {}
    with h5py.File(path) as file:
        clock = ("experiment:date", "experiment:time")
        out.update({k: repr(v).encode() for k, v in file.attrs.items() if k not in clock})
        for name, each in file["events"].items():
            out[name] = each[:].tobytes()
        if "tables" in file:
            out["table"] = file["tables/particles"][:].tobytes()
    return out


@pytest.fixture(scope="module")
def dclab():
    return pytest.importorskip("dclab", reason="dclab reads the files back")


def test_dclab_finds_no_violation_and_every_particle_with_what_it_means(dclab, tmp_path) -> None:
    path, rows = tmp_path / "new folder" / "run.rtdc", particles(50)

    out = drive(node(path, note="simulated"), rows=packets(rows, 7))

    violations, _, _ = dclab.rtdc_dataset.check_dataset(path)
    assert violations == []
    with dclab.new_dataset(path) as found:
        assert len(found) == 50
        for feature in FEATURES:
            expected = {
                "time": rows["time_us"] * 1e-6,
                "ml_class": (rows["class"] != b"A").astype(float),
                "pos_x": rows["x"] * 15,
                "pos_y": rows["y"] * 15,
                "userdef7": rows["decided_us"] - rows["time_us"],
            }.get(feature.name, rows[feature.column])
            np.testing.assert_array_equal(found[feature.name][:], expected, feature.name)
            assert found.config["user"][feature.name] == feature.meaning
        assert json.loads(found.config["user"]["classes"]) == ["A", "B"]
        assert found.config["user"]["note"] == "simulated"
        assert found.config["imaging"]["roi size x"] == 64
        assert found.config["setup"]["flow rate"] == 0.04
        np.testing.assert_array_equal(found.tables["particles"][:], rows)
    assert out.results == {"path": str(path), "particles": 50, "classes": ["A", "B"]}
    assert list(path.parent.iterdir()) == [path]  # nothing of its own is left beside it


def test_its_own_checker_says_so_too(dclab, tmp_path: Path) -> None:
    drive(node(tmp_path / "run.rtdc"), rows=packets(particles(5), 5))

    command = [Path(sys.executable).with_name("dclab-verify-dataset"), tmp_path / "run.rtdc"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert "0 violations" in done.stdout, done.stdout + done.stderr


def test_columns_go_by_their_names_and_unknown_ones_are_kept(dclab, tmp_path: Path) -> None:
    fewer = [("class", "S4"), ("spare", "<f4", (2,)), ("events", "<i4"), ("time_us", "<f8")]
    rows = np.zeros(6, fewer)
    rows["class"], rows["events"], rows["spare"] = b"dust", np.arange(6), 1.5

    drive(node(tmp_path / "run.rtdc"), rows=packets(rows, 4))

    assert dclab.rtdc_dataset.check_dataset(tmp_path / "run.rtdc")[0] == []
    with dclab.new_dataset(tmp_path / "run.rtdc") as found:
        assert set(found.features_innate) == {"time", "ml_class", "userdef1"}
        np.testing.assert_array_equal(found["userdef1"][:], np.arange(6))
        np.testing.assert_array_equal(found.tables["particles"][:], rows)


def test_two_given_classes_get_a_score_each_that_names_the_same_class(dclab, tmp_path) -> None:
    rows = particles(9)

    drive(node(tmp_path / "run.rtdc", classes=["B", "A"]), rows=packets(rows, 9))

    with dclab.new_dataset(tmp_path / "run.rtdc") as found:
        scores = np.array([found["ml_score_c00"][:], found["ml_score_c01"][:]])
        np.testing.assert_array_equal(found["ml_class"][:], rows["class"] == b"A")
    np.testing.assert_allclose(scores.sum(0), 1)
    chosen = scores[(rows["class"] == b"A").astype(int), np.arange(9)]
    np.testing.assert_allclose(chosen, rows["probability"])


@pytest.mark.parametrize("inputs", [[], [table(np.empty(0, PARTICLE), 0, 9)]])
def test_a_run_without_particles_gives_a_file_without_events(dclab, tmp_path, inputs) -> None:
    (tmp_path / "run.rtdc").write_bytes(b"an earlier run" * 1000)

    drive(node(tmp_path / "run.rtdc"), rows=inputs)

    assert dclab.rtdc_dataset.check_dataset(tmp_path / "run.rtdc")[0] == []
    with dclab.new_dataset(tmp_path / "run.rtdc") as found:
        assert len(found) == 0


def test_more_rows_than_are_in_memory_at_once_are_all_there(tmp_path: Path) -> None:
    rows = particles(150_000)

    drive(node(tmp_path / "run.rtdc"), rows=packets(rows, 50_000))

    with h5py.File(tmp_path / "run.rtdc") as file:
        np.testing.assert_array_equal(file["tables/particles"][:], rows)
        np.testing.assert_array_equal(file["events/time"][:], rows["time_us"] * 1e-6)


@settings(deadline=None, max_examples=10)
@given(sizes=st.lists(st.integers(1, 9), max_size=8))
def test_the_cut_of_the_stream_changes_nothing(tmp_path_factory, sizes: list[int]) -> None:
    folder, rows = tmp_path_factory.mktemp("cut"), particles(40)
    bounds = [0, *np.cumsum(sizes).clip(max=40).tolist(), 40]
    parts = [table(rows[a:b].copy(), a, b) for a, b in itertools.pairwise(bounds)]

    drive(node(folder / "whole.rtdc"), rows=packets(rows, 40))
    drive(node(folder / "parts.rtdc"), rows=parts)

    assert content(folder / "whole.rtdc") == content(folder / "parts.rtdc")


@settings(deadline=None, max_examples=10)
@given(cut=st.integers(0, 5), extra=st.integers(0, 5), flush=st.sampled_from([1e-6, 2.5, 100]))
def test_a_restart_repeats_and_loses_no_particle(tmp_path_factory, cut, extra, flush) -> None:
    folder, each = tmp_path_factory.mktemp("restart"), packets(particles(20), 4)
    first = node(folder / "a.rtdc", flush=flush)
    first.open()
    drive(first, rows=each[:cut], opened=True, end=False)
    state = first.snapshot()
    drive(first, rows=each[cut : cut + extra], opened=True, end=False)
    first.close()

    second = node(folder / "a.rtdc", flush=flush)
    second.open()
    second.restore(state)
    if cut:
        with h5py.File(folder / "a.rtdc") as file:
            assert len(file["events/time"]) == cut * 4
    drive(second, rows=each[cut:], opened=True)
    drive(node(folder / "b.rtdc"), rows=each)

    assert content(folder / "a.rtdc") == content(folder / "b.rtdc")
    assert not (folder / "a.rtdc.rows").exists()


def test_a_restart_after_the_end_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    first = node(tmp_path / "a.rtdc")
    first.open()
    drive(first, rows=packets(particles(20), 4), opened=True, end=False)
    first.finish()
    state, before = first.snapshot(), content(tmp_path / "a.rtdc")
    first.close()

    second = node(tmp_path / "a.rtdc")
    second.open()
    second.restore(state)
    drive(second, opened=True)

    assert content(tmp_path / "a.rtdc") == before


def test_the_file_is_renewed_as_stream_time_passes(tmp_path: Path) -> None:
    it, each = node(tmp_path / "a.rtdc", flush=2), packets(particles(60), 10)
    found = []
    it.open()
    for packet in each:
        drive(it, rows=[packet], opened=True, end=False)
        with h5py.File(tmp_path / "a.rtdc") as file:
            found.append(len(file["events/time"]))
    it.close()

    # at the first particle (1 s), and at the packets that end at 3 s and 5 s
    assert found == [10, 10, 30, 30, 50, 50]


ENDLESS = """
import itertools, sys
import importlib.util
spec = importlib.util.spec_from_file_location("here", sys.argv[2])
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
node = here.node(here.Path(sys.argv[1]), flush=1e-6)
node.open()
for i in itertools.count():
    node.on_rows(here.table(here.particles(5, first=5 * i), i, i + 1))
    node.advance(i + 1)
    if i == 20:
        print("going", flush=True)
"""


@pytest.mark.parametrize("wait", [0.0, 0.023])
def test_a_killed_process_leaves_a_file_that_others_read(tmp_path: Path, wait: float) -> None:
    path = tmp_path / "run.rtdc"
    command = [sys.executable, "-c", ENDLESS, str(path), __file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "going\n"
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(wait)  # another moment to be killed at
        run.kill()

    with h5py.File(path) as file:
        found = file["tables/particles"][:]
        count = file.attrs["experiment:event count"]

    assert count == len(found) >= 100
    np.testing.assert_array_equal(found, particles(len(found)))
    kept = np.fromfile(path.with_name("run.rtdc.rows"), PARTICLE)
    assert len(kept) >= len(found)
    np.testing.assert_array_equal(kept, particles(len(kept)))


DYING = """
import os, signal, sys
import importlib.util
from streamflow_nodes.sinks.rtdc_file import RtdcFile
from streamflow.testing import drive
spec = importlib.util.spec_from_file_location("here", sys.argv[2])
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
class Dying(RtdcFile):
    def _fill(self, file):
        os.kill(os.getpid(), signal.SIGKILL)
drive(Dying({"path": sys.argv[1], **here.SETUP}), rows=here.packets(here.particles(5), 5))
"""


def test_what_a_killed_process_was_writing_does_not_pile_up(tmp_path: Path) -> None:
    path = tmp_path / "run.rtdc"
    for _ in range(2):  # killed while it writes
        subprocess.run([sys.executable, "-c", DYING, str(path), __file__], check=False)
    left = len(list(tmp_path.iterdir()))

    drive(node(path), rows=packets(particles(5), 5))

    assert left == 2  # the rows, and one file that was not done
    assert list(tmp_path.iterdir()) == [path]


def test_an_endless_flush_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="flush is inf s; expected"):
        node(tmp_path / "run.rtdc", flush=float("inf")).open()


FILL = """
import resource, sys
from streamflow.errors import DeviceError
from streamflow.testing import drive
import importlib.util
spec = importlib.util.spec_from_file_location("here", sys.argv[2])
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))
try:
    drive(here.node(here.Path(sys.argv[1]), flush=1e-6),
          rows=here.packets(here.particles(1000), 10))
except DeviceError as error:
    print(error)
"""


def test_a_full_disk_leaves_a_readable_file_and_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "run.rtdc"

    run = subprocess.run(
        [sys.executable, "-c", FILL, str(path), __file__],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    with h5py.File(path) as file:
        found = file["tables/particles"][:]
    assert len(found) >= 100
    np.testing.assert_array_equal(found, particles(len(found)))
    assert run.stdout.startswith(f"results: cannot write {path}: File too large")
    assert "free space" in run.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.rtdc", "run.rtdc.rows"]


def test_hostile_rows_are_stored_as_they_are_and_counted(tmp_path: Path) -> None:
    rows = particles(4)
    rows["probability"][1] = np.nan
    rows["peak_rate"][2] = np.inf
    rows["class"] = ["größe".encode(), b"\xff", b"", b"\xff"]
    rows["decided_us"][3] = -(2**63)

    out = drive(node(tmp_path / "run.rtdc"), rows=packets(rows, 2))

    with h5py.File(tmp_path / "run.rtdc") as file:
        assert json.loads(file.attrs["user:classes"]) == ["größe", "\\xff", ""]
        assert file["events/ml_class"][:].tolist() == [0, 1, 2, 1]
        assert file["tables/particles"][:].tobytes() == rows.tobytes()
    assert out.faults == {"not_finite": 2, "class_not_utf8": 2, "not_written": 0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros(1, [("a", "f8")]), r"rows with \['a'\] have no \['time_us', 'class'\]"),
        (np.zeros(1, [("time_us", "f8"), ("class", "i4")]), "column class is int32; expected text"),
        (
            np.zeros(1, [("time_us", "f8"), ("class", "S4"), ("word", "U4")]),
            "HDF5 has no type for a column of",
        ),
    ],
)
def test_rows_that_are_not_particles_are_an_error(tmp_path: Path, rows, message: str) -> None:
    with pytest.raises(NodeError, match=message):
        drive(node(tmp_path / "run.rtdc"), rows=[table(rows, 0, 1)])


def test_columns_that_change_are_an_error(tmp_path: Path) -> None:
    other = np.zeros(1, [("time_us", "f8"), ("class", "S4")])

    with pytest.raises(NodeError, match="a file has one set of columns"):
        drive(node(tmp_path / "run.rtdc"), rows=[table(particles(1), 0, 1), table(other, 1, 2)])


def test_a_class_that_was_not_given_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="class 'B', which is not among the setting 'classes'"):
        drive(node(tmp_path / "run.rtdc", classes=["A"]), rows=packets(particles(4), 1))


def test_a_device_is_refused() -> None:
    with pytest.raises(NodeError, match="/dev/null is not an ordinary file"):
        node(Path("/dev/null")).open()


def test_two_writers_of_one_file_are_an_error(tmp_path: Path) -> None:
    first = node(tmp_path / "run.rtdc")
    first.open()

    with pytest.raises(DeviceError, match="is being written by another node"):
        node(tmp_path / "run.rtdc").open()
    first.close()
