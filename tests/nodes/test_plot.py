"""The page shows what the rows say, the same one however the stream was cut."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from streamflow_nodes.particles.figure import Page
from streamflow_nodes.particles.rows import OVERLAP, PARTICLE
from streamflow_nodes.sinks.plot import Plot

from streamflow.errors import DeviceError, NodeError
from streamflow.packet import EVENT, Events, Packet, Table
from streamflow.testing import Driven, cut, drive, events, table

image = pytest.importorskip("matplotlib.image", reason="the page is drawn with matplotlib")
COUNT = 30


def particles(count: int = COUNT) -> np.ndarray[Any, Any]:
    """Particles 1 ms apart, with windows of 400 us, of the classes A and B in turn."""
    rows, at = np.zeros(count, PARTICLE), np.arange(count)
    rows["start_us"], rows["stop_us"] = at * 1000 + 100, at * 1000 + 500
    rows["time_us"], rows["decided_us"] = at * 1000 + 300, at * 1000 + 900
    rows["class"] = np.where(at % 2, b"B", b"A")
    rows["probability"] = 0.5 + 0.5 * (at % 7) / 7
    rows["events"], rows["outer_events"] = 2000 + at, 100 + at
    rows["width_us"], rows["flags"] = 300, np.where(at % 5, 0, OVERLAP)
    return rows


def sensor_events(count: int = COUNT, per_particle: int = 40) -> np.ndarray[Any, Any]:
    """In each window events at x = 10 (A, ON) or x = 20 (B, OFF); others between the windows."""
    out = np.zeros(count * per_particle * 2, EVENT)
    at, number = np.divmod(np.arange(len(out)), per_particle * 2)
    is_inside = number < per_particle
    inside, outside = 100 + number * 10, 600 + number
    out["timestamp"] = at * 1000 + np.where(is_inside, inside, outside)
    out["x"] = np.where(is_inside, np.where(at % 2, 20, 10), 5)
    out["y"] = number % 40
    out["polarity"] = at % 2 == 0
    return out


def packets(rows: np.ndarray[Any, Any], size: int) -> list[Packet[Table]]:
    return [
        table(part.copy(), int(part["start_us"][0]), int(part["stop_us"][-1]))
        for part in (rows[i : i + size] for i in range(0, len(rows), size))
    ]


def draw(path: Path, size: int = 5, chunk: int = 333, **more: Any) -> Driven:
    stream = events(sensor_events(), width=64, height=48)
    node = Plot({"path": str(path), "dpi": 40, **more})
    return drive(node, rows=packets(particles(), size), bursts=cut(stream, chunk))


def write_truth(path: Path) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["time_us", "class", "kind", "overlaps"])
        writer.writerows([i * 1000 + 290, "AB"[i % 2], "bead", 0] for i in range(COUNT + 10))
    return path


def test_a_page_is_a_png_of_the_asked_size(tmp_path: Path) -> None:
    out = draw(tmp_path / "new folder" / "page.png", truth=str(write_truth(tmp_path / "t.csv")))

    pixels = image.imread(tmp_path / "new folder" / "page.png")
    assert pixels.shape == (328, 556, 4)
    assert 0.02 < (pixels[..., :3].min(2) < 0.5).mean() < 0.6  # neither blank nor black
    assert out.results == {
        "path": str(tmp_path / "new folder" / "page.png"),
        "particles": 30,
        "one_in": 1,
        "pictured": {"A": 15, "B": 15},
    }
    assert set(out.faults.values()) == {0}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Page]:
    """What is drawn, instead of drawing it, which takes a second."""
    seen: list[Page] = []

    def collecting(page: Page, dpi: int) -> bytes:
        seen.append(page)
        return b""

    monkeypatch.setattr("streamflow_nodes.sinks.plot.draw", collecting)
    return seen


def assert_same(one: Page, other: Page) -> None:
    np.testing.assert_array_equal(one.particles, other.particles)
    assert one.pictures.keys() == other.pictures.keys()
    for name, picture in one.pictures.items():
        np.testing.assert_array_equal(picture.counts, other.pictures[name].counts)
        assert picture.particles == other.pictures[name].particles
    assert one._replace(particles=0, pictures=0) == other._replace(particles=0, pictures=0)


def test_a_picture_holds_the_events_of_its_classs_windows_only(
    tmp_path: Path, drawn: list[Page]
) -> None:

    draw(tmp_path / "page.png")

    expected = np.zeros((2, 48, 64), np.int64)
    expected[1, :40, 10] = 15
    np.testing.assert_array_equal(drawn[0].pictures["A"].counts, expected)
    expected = np.zeros((2, 48, 64), np.int64)
    expected[0, :40, 20] = 15
    np.testing.assert_array_equal(drawn[0].pictures["B"].counts, expected)


def test_an_event_that_overlapping_bursts_share_counts_once_for_each_particle(
    tmp_path: Path, drawn: list[Page]
) -> None:
    stream = events(sensor_events(2), width=64, height=48).data.array
    rows = particles(2)
    rows["start_us"], rows["stop_us"] = [0, 300], [1500, 1800]
    bursts = [
        events(
            stream[(stream["timestamp"] >= start) & (stream["timestamp"] < stop)],
            width=64, height=48, start=start, stop=stop,
        )
        for start, stop in rows[["start_us", "stop_us"]].tolist()
    ]  # fmt: skip

    drive(
        Plot({"path": str(tmp_path / "page.png")}),
        rows=[table(rows[i : i + 1].copy(), *rows[i][["start_us", "stop_us"]]) for i in range(2)],
        bursts=bursts,
    )

    for index, name in enumerate("AB"):
        assert drawn[0].pictures[name].counts.sum() == len(bursts[index].data.array)


def test_a_large_sensor_is_summed_over_squares(tmp_path: Path, drawn: list[Page]) -> None:
    stream = events([(200, 639, 479, 1), (201, 636, 476, 1), (202, 0, 0, 0)])

    drive(
        Plot({"path": str(tmp_path / "page.png")}), rows=packets(particles(1), 1), bursts=[stream]
    )

    picture = drawn[0].pictures["A"]
    assert (picture.counts.shape, picture.pixels) == ((2, 120, 160), 4)
    assert (picture.counts[1, 119, 159], picture.counts[0, 0, 0]) == (2, 1)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, COUNT), chunk=st.integers(60, 3000))
def test_what_is_drawn_is_the_same_however_the_stream_was_cut(
    tmp_path: Path, drawn: list[Page], size: int, chunk: int
) -> None:
    draw(tmp_path / "whole.png", size=1, chunk=10_000)

    draw(tmp_path / "parts.png", size=size, chunk=chunk)

    assert_same(drawn[-1], drawn[-2])


def test_the_same_page_is_the_same_file(tmp_path: Path) -> None:
    draw(tmp_path / "whole.png", size=1, chunk=10_000)

    draw(tmp_path / "parts.png", size=7, chunk=500)

    assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "parts.png").read_bytes()


@pytest.mark.parametrize("part", [0, 3, 11, 29])
def test_a_restart_draws_the_same_page(tmp_path: Path, drawn: list[Page], part: int) -> None:
    truth = str(write_truth(tmp_path / "t.csv"))
    rows, stream = packets(particles(), 1), events(sensor_events(), width=64, height=48)
    split = part * 1000 + 350  # within a window: half of its events come after the restart
    early = stream.data.array["timestamp"] < split
    before = Packet(0, split, Events(stream.data.array[early], 64, 48))
    after = Packet(split, stream.stop, Events(stream.data.array[~early], 64, 48))
    first = Plot({"path": str(tmp_path / "a.png"), "truth": truth, "dpi": 40})
    first.open()
    first_rows = [packet for packet in rows if packet.start < split]
    for packet in first_rows:
        packet.data.array.flags.writeable = False
    first.on_bursts(before)
    for packet in first_rows:
        first.on_rows(packet)
    first.advance(split)

    second = Plot({"path": str(tmp_path / "a.png"), "truth": truth, "dpi": 40})
    second.open()
    second.restore(first.snapshot())
    out = drive(second, rows=rows[len(first_rows) :], bursts=[after], opened=True)
    draw(tmp_path / "b.png", truth=truth)

    assert_same(drawn[0], drawn[1])
    assert out.results["pictured"] == {"A": 15, "B": 15}


def test_the_confusion_is_that_of_the_scorer(tmp_path: Path, drawn: list[Page]) -> None:

    draw(tmp_path / "page.png", truth=str(write_truth(tmp_path / "t.csv")))

    assert drawn[0].score is not None
    assert drawn[0].score.correct == 0.75
    assert drawn[0].score.confusion == {
        "A": {"A": 15, "(missed)": 5},
        "B": {"B": 15, "(missed)": 5},
    }


@settings(deadline=None)
@given(total=st.integers(0, 200), size=st.integers(1, 50), points=st.integers(1, 40))
def test_no_more_rows_are_kept_than_asked_and_they_are_spread_evenly(
    total: int, size: int, points: int
) -> None:
    rows = particles(total)
    node = Plot({"path": "never drawn", "points": points})
    node.open()

    drive(node, rows=packets(rows, size), opened=True, end=False)

    state = node.snapshot()
    assert len(state["kept"]) <= points
    assert len(state["kept"]) * 2 >= min(total, points)
    np.testing.assert_array_equal(state["kept"], rows[:: state["stride"]])
    assert state["total"] == total


def test_events_are_forgotten_when_no_particle_can_need_them(tmp_path: Path) -> None:
    node = Plot({"path": str(tmp_path / "page.png")})
    node.open()
    stream = events(sensor_events(500), width=64, height=48)

    drive(node, rows=packets(particles(500), 1), bursts=cut(stream, 80), opened=True, end=False)

    # half a second of events came; 50 ms of them, and packets that lie across its edge, are kept
    assert len(node.snapshot()["times"]) <= 53 * 80


def test_a_particle_whose_events_are_gone_is_counted(tmp_path: Path) -> None:
    stream = events(sensor_events(200), width=64, height=48)
    late = particles(1)
    late["start_us"], late["stop_us"] = 100, 500

    out = drive(
        Plot({"path": str(tmp_path / "page.png")}),
        rows=[table(late, 150_000, 150_001)],
        bursts=cut(stream, 500),
    )

    assert out.faults["not_pictured"] == 1
    assert out.results["pictured"] == {}


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("with_truth", [False, True])
def test_hardly_any_particle_still_gives_a_page(
    tmp_path: Path, count: int, with_truth: bool
) -> None:
    truth = str(write_truth(tmp_path / "t.csv")) if with_truth else None

    out = drive(
        Plot({"path": str(tmp_path / "page.png"), "truth": truth, "dpi": 40}),
        rows=packets(particles(count), 1),
    )

    assert image.imread(tmp_path / "page.png").ndim == 3
    assert out.results["particles"] == count


def test_hostile_rows_are_drawn_where_they_can_be_and_counted(tmp_path: Path) -> None:
    rows = particles(10)
    rows["time_us"][:3] = [np.nan, np.inf, -np.inf]
    rows["probability"][:4] = [np.nan, np.inf, -5, 7]
    rows["width_us"][0], rows["decided_us"][1] = np.nan, -(2**63)
    names = ["größe", "細胞", "_a", "$x$", "", "(late)", "\n", "B"]
    rows["class"][:8] = [name.encode()[:16] for name in names]
    rows["class"][8] = b"\xff\xfe"

    out = drive(
        Plot(
            {
                "path": str(tmp_path / "page.png"),
                "title": "größe $x",
                "note": "_$",
                "truth": str(write_truth(tmp_path / "t.csv")),
            }
        ),
        rows=packets(rows, 3),
        bursts=cut(events(sensor_events(10), width=64, height=48), 100),
    )

    assert image.imread(tmp_path / "page.png").ndim == 3
    assert out.faults["not_finite"] == 3
    json.dumps(out.results, allow_nan=False)


def test_every_field_may_be_missing_a_number_at_once(tmp_path: Path) -> None:
    rows = particles(3)
    for field in ("time_us", "probability", "width_us", "peak_rate"):
        rows[field] = np.nan

    drive(Plot({"path": str(tmp_path / "page.png")}), rows=packets(rows, 1))

    assert image.imread(tmp_path / "page.png").ndim == 3


def test_a_note_is_on_the_page(tmp_path: Path) -> None:
    draw(tmp_path / "plain.png")
    draw(tmp_path / "noted.png", note="simulated data")

    plain, noted = (image.imread(tmp_path / f"{name}.png") for name in ("plain", "noted"))
    different = np.argwhere((plain != noted).any(2))
    # only in the upper right corner, where it stands
    assert len(different) > 100
    assert (different[:, 0] < 40).all()
    assert (different[:, 1] > 380).all()


def test_rows_that_are_not_particles_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="expected particles"):
        drive(
            Plot({"path": str(tmp_path / "page.png")}),
            rows=[table(np.zeros(1, [("a", "f8")]), 0, 1)],
        )


def test_two_sensors_on_one_page_are_an_error(tmp_path: Path) -> None:
    streams = [events([(1, 1, 1, 1)], width=64, height=48), events([(2, 1, 1, 1)])]

    with pytest.raises(NodeError, match="640x480 pixels after 64x48"):
        drive(Plot({"path": str(tmp_path / "page.png")}), rows=[], bursts=streams)


def test_a_page_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "page.png").mkdir()

    with pytest.raises(DeviceError, match=r"cannot write .*page\.png: Is a directory"):
        draw(tmp_path / "page.png")
    assert [path.name for path in tmp_path.iterdir()] == ["page.png"]


def test_drawing_leaves_no_trace_in_matplotlibs_settings(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="the page is drawn with matplotlib")
    before = dict(matplotlib.rcParams)

    draw(tmp_path / "page.png")

    assert dict(matplotlib.rcParams) == before
