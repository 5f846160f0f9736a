"""A sensor's time that jumps an hour ahead and back, in a file and live, through whole graphs.

No camera can be had here: the live stream is of datagrams. What a camera's driver gives goes
through the same code (test_event_camera.py).
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamflow_nodes.kernels.event_order import join_jumps
from streamflow_nodes.sources.event_file import EventFile

from streamflow.testing import drive

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from runs import Run

HOUR = 3_600_000_000  # us
STEP = 100  # us between events
N = 3000
GRAPH = """
nodes:
  camera: {{kind: {kind}, settings: {{{settings}, width: 64, height: 48}}}}
  quiet:
    kind: refractory
    inputs: {{events: camera.events}}
    settings: {{period: 0.000001}}
  keep: {{kind: event_file_writer, inputs: {{events: quiet.kept}}, settings: {{path: kept.csv}}}}
"""


def recording(path: Path) -> np.ndarray[Any, Any]:
    """A CSV file whose middle third is an hour ahead; the times as they are in it."""
    times = 1000 + STEP * np.arange(N, dtype=np.int64)
    times[N // 3 : 2 * N // 3] += HOUR
    at = np.arange(N)
    rows = np.column_stack([times, at % 64, at // 64 % 48, at % 2])
    np.savetxt(path, rows, "%d", delimiter=",", header="t,x,y,p", comments="")
    return times


def kept(folder: Path) -> np.ndarray[Any, Any]:
    """Time and x of all that came through the graph."""
    return np.loadtxt(folder / "kept.csv", np.int64, delimiter=",", skiprows=1)


@pytest.mark.parametrize("longest", [None, 1.0])
def test_an_hour_ahead_and_back_in_a_file_is_counted_and_the_graph_goes_on(
    tmp_path: Path, longest: float | None
) -> None:
    times = recording(tmp_path / "a.csv")
    settings = "path: a.csv" + (f", longest_step: {longest}" if longest else "")

    run = Run(tmp_path, GRAPH.format(kind="event_file", settings=settings))

    assert run.end() == 0, run.err
    report, found = run.report, kept(tmp_path)
    assert report["unbalanced"] == {}
    faults = report["nodes"]["camera"]["faults"]
    np.testing.assert_array_equal(found[:, 1], np.arange(N) % 64)
    if longest is None:  # believed: an hour without events, then what comes too late is raised
        assert (faults["time_backward"], faults["time_jump"]) == (N // 3, 0)
        np.testing.assert_array_equal(found[:, 0], np.maximum.accumulate(times))
    else:  # all events at the times that they have among each other
        assert (faults["time_backward"], faults["time_jump"]) == (0, 2)
        steps = np.full(N, STEP)
        steps[[0, N // 3, 2 * N // 3]] = 1000, 0, 0
        np.testing.assert_array_equal(found[:, 0], np.cumsum(steps))


def test_an_hour_ahead_and_back_in_datagrams_is_counted_and_the_graph_goes_on(
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = f"port: {port}, end_after: 1.0"
    run = Run(tmp_path, GRAPH.format(kind="udp_events", settings=settings), "--clock", "realtime")
    sender = threading.Thread(target=_send, args=(run, port))
    sender.start()

    code = run.end()
    sender.join()

    assert code == 0, run.err
    report, found = run.report, kept(tmp_path)
    faults = report["nodes"]["camera"]["faults"]
    assert report["unbalanced"] == {}
    assert faults["time_restart"] == 2
    assert faults["time_jump"] == 2  # one event before each was believed
    assert len(found) + 2 == report["results"]["camera"]["datagrams"] == 90
    assert (np.diff(found[:, 0]) >= 0).all()
    assert found[-1, 0] - found[0, 0] < 60_000_000  # nobody was told of an hour


def _send(run: Run, port: int) -> None:
    """Ninety datagrams of an event each, 5 ms apart; the middle third an hour ahead."""
    run.wait_for(lambda: "listening for UDP" in run.err)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for number in range(90):
            at = 10_000_000 + 5000 * number + (HOUR if 30 <= number < 60 else 0)
            out.sendto(struct.pack("<QHHB", at, number % 64, 1, 1), ("127.0.0.1", port))
            time.sleep(0.005)


@given(
    st.lists(st.integers(-(1 << 60), 1 << 60), max_size=40),
    st.lists(st.integers(0, 5), max_size=20),
    st.integers(1, 1 << 40),
)
def test_jumps_are_the_same_however_the_events_were_cut(
    times: list[int], sizes: list[int], longest: int
) -> None:
    words = np.zeros(2 * len(times), np.int64)
    words[::2] = times
    expected, total = joined(times, longest)

    registers, jumps, at = np.zeros(3, np.int64), 0, 0
    for size in [*sizes, len(times)]:
        jumps += join_jumps(words[2 * at : 2 * (at + size)], longest, registers)
        at = min(len(times), at + size)

    assert words[::2].tolist() == expected
    assert jumps == total


def joined(times: list[int], longest: int) -> tuple[list[int], int]:
    """The slow obvious version."""
    out: list[int] = []
    shift = jumps = 0
    for raw in times:
        if out and abs(raw + shift - max(out)) > longest:
            shift = max(out) - raw
            jumps += 1
        out.append(raw + shift)
    return out, jumps


def test_times_beyond_reason_are_refused_with_jumps_taken_out_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"t,x,y,p\n5,1,1,1\n{(1 << 62) + 5},1,1,1\n")
    node = EventFile(
        {"path": str(tmp_path / "a.csv"), "width": 64, "height": 48, "longest_step": 1.0}
    )

    with pytest.raises(Exception, match=r"within 2\^62"):
        drive(node)
