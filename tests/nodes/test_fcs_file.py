"""Cytometry programs read what the particles were, also after a crash or on a full disk."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.particles.rows import CHANNELS, LATE, MERGED, PARTICLE, channel_values
from streamflow_nodes.sinks.fcs_file import FcsFile

from streamflow.errors import DeviceError, NodeError
from streamflow.packet import Packet, Table
from streamflow.testing import drive, table

flowio = pytest.importorskip("flowio", reason="flowio reads the FCS files back")


def particles(count: int, *, first: int = 0) -> np.ndarray[Any, Any]:
    """`count` rows in which every value tells its row and its column."""
    rows = np.zeros(count, PARTICLE)
    at = np.arange(first, first + count)
    rows["time_us"] = at * 1000 + 0.25
    rows["class"] = np.where(at % 3 == 0, b"A", b"B")
    rows["probability"] = 1 / (at + 1)
    rows["decided_us"] = at * 1000 + 700
    rows["events"], rows["outer_events"] = at + 2000, at + 100
    rows["peak_rate"], rows["width_us"] = at * 1e3, at + 300.5
    rows["on_fraction"], rows["x"], rows["y"] = 0.5, at % 64, at % 48
    rows["flags"] = at % 64
    return rows


def packets(rows: np.ndarray[Any, Any], size: int) -> list[Packet[Table]]:
    return [table(rows[i : i + size].copy(), i, i + size) for i in range(0, len(rows), size)]


def read(path: Path) -> tuple[Any, np.ndarray[Any, Any]]:
    """The file's keywords, and its events as they are stored: (events, channels)."""
    file = flowio.FlowData(path)
    return file, np.array(file.events).reshape(-1, file.channel_count)


def test_a_reader_finds_every_particle_and_what_it_means(tmp_path: Path) -> None:
    path, rows = tmp_path / "new folder" / "run.fcs", particles(50)

    out = drive(FcsFile({"path": str(path)}), rows=packets(rows, 7))

    file, stored = read(path)
    np.testing.assert_array_equal(stored, channel_values(rows, ("A", "B")))
    assert file.pnn_labels == [channel.name for channel in CHANNELS]
    assert file.version == "3.1"
    assert file.event_count == 50
    assert json.loads(file.text["sf_classes"]) == ["A", "B"]
    assert out.results == {
        "path": str(path),
        "particles": 50,
        "merged": int(np.count_nonzero(rows["flags"] & MERGED)),
        "late": int(np.count_nonzero(rows["flags"] & LATE)),
        "classes": ["A", "B"],
    }


def test_flowkit_takes_the_size_readings_for_scatter(tmp_path: Path) -> None:
    path, rows = tmp_path / "run.fcs", particles(50)
    drive(FcsFile({"path": str(path)}), rows=packets(rows, 50))

    flowkit = pytest.importorskip("flowkit", reason="flowkit is a reader to compare with")
    sample = flowkit.Sample(path)

    names = sample.pnn_labels
    scatter = [names[i] for i in sample.scatter_indices]
    assert scatter == ["FSC-A", "FSC-H", "FSC-W", "SSC-A"]
    assert names[sample.time_index] == "Time"
    events = sample.get_events(source="raw")
    np.testing.assert_array_equal(events[:, names.index("FSC-A")], rows["events"])
    np.testing.assert_allclose(events[:, 0], rows["time_us"] * 1e-6, rtol=1e-15)


def test_keywords_say_when_how_and_with_what_it_was_measured(tmp_path: Path) -> None:
    model, graph = tmp_path / "model.nir", tmp_path / "graph.yaml"
    model.write_bytes(b"weights")
    graph.write_bytes(b"name: run")

    settings = {
        "path": str(tmp_path / "run.fcs"),
        "model": [str(model), str(graph)],
        "graph": str(graph),
        "cytometer": "bench / 2",
        "source": "PMMA\fbeads größer",
        "sample": "7",
        "operator": "C. Y.",
        "volume_nl": 2.5,
        "note": "simulated",
    }
    drive(FcsFile(settings), rows=packets(particles(64), 64))

    text = read(tmp_path / "run.fcs")[0].text
    digests = [hashlib.sha256(each).hexdigest() for each in (b"weights", b"name: run")]
    assert text["sf_model_sha256"] == ",".join(digests)
    assert text["sf_graph_sha256"] == digests[1]
    assert (text["cyt"], text["src"]) == ("bench / 2", "PMMA beads größer")
    assert (text["smno"], text["op"], text["vol"], text["com"]) == (
        "7", "C. Y.", "2.500", "simulated",
    )  # fmt: skip
    assert (int(text["abrt"]), int(text["lost"])) == (32, 32)
    assert float(text["timestep"]) == 1e-6
    assert time.strptime(text["date"], "%d-%b-%Y")
    for key in ("btim", "etim"):
        assert time.strptime(text[key][:8], "%H:%M:%S")
    assert {text[f"p{n}e"] for n in range(1, 13)} == {"0,0"}


def test_a_parameters_range_is_above_all_its_values(tmp_path: Path) -> None:
    rows = particles(300)

    drive(FcsFile({"path": str(tmp_path / "run.fcs")}), rows=packets(rows, 11))

    file, stored = read(tmp_path / "run.fcs")
    assert (np.array(file.pnr_values) > stored.max(0)).all()
    assert file.pnr_values[1] == 2300


def test_64_bit_times_stay_exact_where_32_bits_would_break(tmp_path: Path) -> None:
    rows = particles(3)
    rows["time_us"] = [2**24 + 1, 3.6e9 + 0.5, 1.7e15 + 1]

    out = drive(FcsFile({"path": str(tmp_path / "run.fcs")}), rows=packets(rows, 3))

    np.testing.assert_array_equal(read(tmp_path / "run.fcs")[1][:, 0], rows["time_us"])
    assert out.faults["time_rounded"] == 0


def test_32_bit_files_have_coarser_time_and_count_what_they_round(tmp_path: Path) -> None:
    rows = particles(3)
    rows["time_us"] = [1500.0, 16_777_215_000.0, 16_777_217_000.0]

    out = drive(
        FcsFile({"path": str(tmp_path / "run.fcs"), "datatype": "F"}), rows=packets(rows, 1)
    )

    file, stored = read(tmp_path / "run.fcs")
    assert (file.data_type, file.text["timestep"]) == ("F", "0.001")
    np.testing.assert_array_equal(stored[:, 0], [1.5, 16_777_215, 16_777_216])
    assert out.faults["time_rounded"] == 1


def test_a_time_step_is_what_was_asked_for(tmp_path: Path) -> None:
    drive(
        FcsFile({"path": str(tmp_path / "run.fcs"), "time_step": 1e-4}),
        rows=packets(particles(3), 3),
    )

    file, stored = read(tmp_path / "run.fcs")
    assert file.text["timestep"] == "0.0001"
    np.testing.assert_allclose(stored[:, 0] * 1e-4, particles(3)["time_us"] * 1e-6)


@pytest.mark.parametrize("inputs", [[], [table(np.empty(0, PARTICLE), 0, 9)]])
def test_a_run_without_particles_gives_a_file_without_events(
    tmp_path: Path, inputs: list[Packet[Table]]
) -> None:
    (tmp_path / "run.fcs").write_bytes(b"an earlier run" * 1000)

    drive(FcsFile({"path": str(tmp_path / "run.fcs"), "classes": ["A"]}), rows=inputs)

    file, stored = read(tmp_path / "run.fcs")
    assert (file.event_count, stored.shape) == (0, (0, 13))


def test_one_particle_is_one_event(tmp_path: Path) -> None:
    drive(FcsFile({"path": str(tmp_path / "run.fcs")}), rows=packets(particles(1), 1))

    assert read(tmp_path / "run.fcs")[1].shape == (1, 13)


def test_a_file_beyond_the_headers_eight_digits_is_read_by_its_text(tmp_path: Path) -> None:
    path = tmp_path / "run.fcs"
    rows = particles(1_050_000)

    drive(FcsFile({"path": str(path)}), rows=packets(rows, 50_000))

    assert path.stat().st_size > 100_000_000
    assert path.read_bytes()[26:42] == b"       0       0"
    file, stored = read(path)
    assert file.event_count == 1_050_000
    np.testing.assert_array_equal(stored[-1], channel_values(rows[-1:], ("A", "B"))[0])


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 9), max_size=8))
def test_the_cut_of_the_stream_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    folder, rows = tmp_path_factory.mktemp("cut"), particles(40)
    bounds = [0, *np.cumsum(sizes).clip(max=40).tolist(), 40]
    parts = [table(rows[a:b].copy(), a, b) for a, b in itertools.pairwise(bounds)]

    drive(FcsFile({"path": str(folder / "whole.fcs")}), rows=packets(rows, 40))
    drive(FcsFile({"path": str(folder / "parts.fcs")}), rows=parts)

    assert comparable(folder / "whole.fcs") == comparable(folder / "parts.fcs")


def comparable(path: Path) -> tuple[dict[str, str], bytes]:
    """All of a file but the time of day at which it was written, and its name."""
    file, stored = read(path)
    clock = {"btim", "etim", "date", "fil"}
    return {key: v for key, v in file.text.items() if key not in clock}, stored.tobytes()


@settings(deadline=None)
@given(cut=st.integers(0, 5), extra=st.integers(0, 5))
def test_a_restart_repeats_and_loses_no_particle(
    tmp_path_factory: pytest.TempPathFactory, cut: int, extra: int
) -> None:
    folder, each = tmp_path_factory.mktemp("restart"), packets(particles(20), 4)
    first = FcsFile({"path": str(folder / "a.fcs")})
    first.open()
    drive(first, rows=each[:cut], opened=True, end=False)
    state = first.snapshot()
    drive(first, rows=each[cut : cut + extra], opened=True, end=False)
    first.close()

    second = FcsFile({"path": str(folder / "a.fcs")})
    second.open()
    second.restore(state)
    if cut:
        assert read(folder / "a.fcs")[0].event_count == cut * 4
    drive(second, rows=each[cut:], opened=True)
    drive(FcsFile({"path": str(folder / "b.fcs")}), rows=each)

    assert comparable(folder / "a.fcs") == comparable(folder / "b.fcs")


ENDLESS = """
import itertools, sys
from streamflow_nodes.sinks.fcs_file import FcsFile
import importlib.util
spec = importlib.util.spec_from_file_location("here", sys.argv[2])
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
node = FcsFile({"path": sys.argv[1]})
node.open()
for i in itertools.count():
    node.on_rows(here.table(here.particles(5, first=5 * i), i, i + 1))
    if i == 50:
        print("going", flush=True)
"""


def test_a_killed_process_leaves_a_file_that_reads_to_its_last_packet(tmp_path: Path) -> None:
    path = tmp_path / "run.fcs"
    command = [sys.executable, "-c", ENDLESS, str(path), __file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "going\n"
        run.kill()

    file, stored = read(path)

    assert file.event_count >= 255
    assert file.event_count % 5 == 0
    expected = channel_values(particles(file.event_count), ("A", "B"))
    np.testing.assert_array_equal(stored, expected)


FILL = """
import resource, sys
from streamflow.errors import DeviceError
from streamflow.testing import drive
from streamflow_nodes.sinks.fcs_file import FcsFile
import importlib.util
spec = importlib.util.spec_from_file_location("here", sys.argv[2])
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    drive(FcsFile({"path": sys.argv[1]}, name="results"),
          rows=here.packets(here.particles(1000), 10))
except DeviceError as error:
    print(error)
"""


def test_a_full_disk_leaves_a_readable_file_and_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "run.fcs"

    run = subprocess.run(
        [sys.executable, "-c", FILL, str(path), __file__],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    file, stored = read(path)
    assert file.event_count >= 100
    np.testing.assert_array_equal(stored, channel_values(particles(file.event_count), ("A", "B")))
    assert run.stdout.startswith(f"results: cannot write {path}: File too large")
    assert run.stdout.count("\n") == 1


def test_hostile_rows_are_stored_as_they_are_and_counted(tmp_path: Path) -> None:
    rows = particles(4)
    rows["probability"][1] = np.nan
    rows["peak_rate"][2] = np.inf
    rows["class"] = ["größe".encode(), b"\xff", b"", b"\xff"]
    rows["decided_us"][3] = -(2**63)

    out = drive(FcsFile({"path": str(tmp_path / "run.fcs")}), rows=packets(rows, 2))

    file, stored = read(tmp_path / "run.fcs")
    assert json.loads(file.text["sf_classes"]) == ["größe", "\\xff", ""]
    assert stored[:, 8].tolist() == [0, 1, 2, 1]
    assert np.isnan(stored[1, 9])
    assert np.isinf(stored[2, 2])
    assert out.faults == {"not_finite": 2, "time_rounded": 0, "class_not_utf8": 2, "not_written": 0}


def test_given_classes_keep_their_numbers_whatever_comes_first(tmp_path: Path) -> None:
    drive(
        FcsFile({"path": str(tmp_path / "run.fcs"), "classes": ["C", "B", "A"]}),
        rows=packets(particles(4), 1),
    )

    assert read(tmp_path / "run.fcs")[1][:, 8].tolist() == [2, 1, 1, 2]


def test_a_class_that_was_not_given_is_an_error(tmp_path: Path) -> None:
    node = FcsFile({"path": str(tmp_path / "run.fcs"), "classes": ["A"]})

    with pytest.raises(NodeError, match="class 'B' is not among the setting 'classes'"):
        drive(node, rows=packets(particles(4), 1))


def test_more_classes_than_the_file_has_room_for_are_an_error(tmp_path: Path) -> None:
    rows = particles(200)
    rows["class"] = [f"particle {i}".encode() for i in range(200)]

    with pytest.raises(NodeError, match="an FCS file has room for 1024"):
        drive(FcsFile({"path": str(tmp_path / "run.fcs")}), rows=packets(rows, 10))


def test_rows_that_are_not_particles_are_an_error(tmp_path: Path) -> None:
    node = FcsFile({"path": str(tmp_path / "run.fcs")})

    with pytest.raises(NodeError, match=r"rows with \['a'\]; expected particles"):
        drive(node, rows=[table(np.zeros(1, [("a", "f8")]), 0, 1)])


def test_a_missing_model_file_is_an_error_before_any_data_flows(tmp_path: Path) -> None:
    node = FcsFile({"path": str(tmp_path / "run.fcs"), "model": [str(tmp_path / "absent")]})

    with pytest.raises(DeviceError, match=r"cannot read .*absent: No such file"):
        node.open()
    node.close()


def test_a_device_is_refused() -> None:
    node = FcsFile({"path": "/dev/null"})

    with pytest.raises(NodeError, match="give the path of an ordinary file"):
        node.open()
    node.close()
