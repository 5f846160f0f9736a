"""Simulated particles: the same however the stream is cut, true to their truth, lifelike."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("miepython", reason="needs the extra cytometry")

import sys

from streamflow_nodes.particles.optics import Optics
from streamflow_nodes.particles.scoring import read_truth
from streamflow_nodes.particles.simulation import (
    SLACK,
    TRUTH,
    Camera,
    Sample,
    Session,
    Simulation,
    simulate,
)
from streamflow_nodes.sources.particle_simulator import ParticleSimulator

from streamflow.clock import Clock
from streamflow.errors import NodeError
from streamflow.testing import drive

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from runs import Run

RECORDINGS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cytometry"
SMALL = {"rate": 400.0, "duration": 0.03, "seed": 1, "session": 2}


@pytest.fixture(scope="module")
def whole():
    """Events and truth of `SMALL`, in one packet."""
    out = drive(ParticleSimulator({**SMALL, "packet_duration": 1.0}))
    return out.items("events"), out.items("truth")


@pytest.mark.parametrize("duration", [0.00025, 0.001, 0.0037, 0.03])
def test_the_stream_is_the_same_however_it_is_cut(whole, duration):
    out = drive(ParticleSimulator({**SMALL, "packet_duration": duration}))

    assert out.items("events").tobytes() == whole[0].tobytes()
    assert out.items("truth").tobytes() == whole[1].tobytes()
    for port, column in (("events", "timestamp"), ("truth", "time_us")):
        for packet in out[port]:
            times = packet.data.array[column]
            assert ((packet.start <= times) & (times < packet.stop)).all()
    assert [p.start for p in out["events"]] == [
        round(k * duration * 1e6) for k in range(len(out["events"]))
    ]
    assert out["events"][-1].stop == 30_000


def test_the_library_call_makes_what_the_node_makes(whole):
    events, truth = simulate(Sample(rate=400.0), seconds=0.03, seed=1, session=2)

    assert events.tobytes() == whole[0].tobytes()
    assert truth.tobytes() == whole[1].tobytes()


@pytest.mark.parametrize("packets", [1, 3, 4, 9, 10, 20, 35])
def test_a_restarted_simulator_goes_on_as_if_nothing_had_happened(whole, packets):
    settings = {**SMALL, "packet_duration": 0.0009}
    first, second = ParticleSimulator(settings), ParticleSimulator(settings)

    before = drive(first, limit=packets, end=False)
    second.open()
    second.restore(first.snapshot())
    after = drive(second, opened=True)

    for port, expected in zip(("events", "truth"), whole, strict=True):
        joined = b"".join(p.data.array.tobytes() for p in before[port] + after[port])
        assert joined == expected.tobytes()
    assert after.results["particles"] == len(whole[1])
    assert after.results["events"] == len(whole[0])


def test_seeds_change_the_particles_and_sessions_the_set_up():
    def set_up(number, drift):
        s = Session(number, drift, Optics(), Sample(), Camera())
        return s.stray.tobytes() + s.on.tobytes(), s.speed

    def particles(**settings):
        return drive(ParticleSimulator({**SMALL, **settings})).items("truth")["time_us"].tolist()

    assert set_up(3, 0.4) == set_up(3, 0.4)
    assert set_up(3, 0.4)[0] != set_up(4, 0.4)[0]
    assert set_up(3, 0.0)[1] == set_up(4, 0.0)[1] == Sample().speed
    assert particles(seed=1) == particles(seed=1) != particles(seed=2)


def test_truth_says_which_passages_overlap_and_what_a_particle_is():
    sample = Sample(rate=800.0, mix=(1, 3), doublets=0.2, debris=0.2)
    simulation = Simulation(sample, seed=3, session=1, end=2e6)

    truth = np.concatenate([simulation.truth(t) for t in range(50_000, 2_000_001, 50_000)])

    start, stop = truth["start_us"], truth["stop_us"]
    meets = (start[:, None] < stop[None, :]) & (start[None, :] < stop[:, None])
    assert (truth["overlaps"] == (meets.sum(1) > 1)).all()
    assert truth["id"].tolist() == list(range(len(truth)))
    assert (np.diff(truth["time_us"]) >= 0).all()
    assert start.min() >= 0
    assert stop.max() <= 2_000_000
    # 2.2 waists of 25 um on both sides
    assert np.allclose((stop - start) / 2 * truth["velocity_m_s"], 55, atol=0.3)
    n = len(truth)
    assert n == pytest.approx(1600, abs=5 * 40)  # Poisson: 5 standard deviations, as below
    for kind, share in ((b"doublet", 0.2), (b"debris", 0.2)):
        assert (truth["kind"] == kind).mean() == pytest.approx(share, abs=5 * (0.16 / n) ** 0.5)
    beads = truth[truth["kind"] == b"bead"]
    assert (beads["class"] == b"B").mean() == pytest.approx(
        0.75, abs=5 * (0.19 / len(beads)) ** 0.5
    )
    for name, mean in ((b"A", 16.0), (b"B", 20.0)):
        sizes = beads["diameter_um"][beads["class"] == name]
        assert sizes.mean() == pytest.approx(mean, abs=5 * 0.05 * mean / len(sizes) ** 0.5)


@pytest.mark.parametrize(
    ("classes", "names", "indices"),
    [("12/16/20", {b"A", b"B", b"C"}, {1.489}), ("15.2/18.6", {b"A", b"B"}, {1.489}),
     ("PMMA/PS", {b"PMMA", b"PS"}, {1.489, 1.587})],
)  # fmt: skip
def test_every_set_of_classes_is_simulated(classes, names, indices):
    settings = {**SMALL, "duration": 0.06, "classes": classes, "debris": 0.0}

    out = drive(ParticleSimulator(settings))

    truth = out.items("truth")
    assert set(truth["class"].tolist()) == names
    assert set(truth["refractive_index"].tolist()) == indices
    assert out.results["events"] > 1000 * len(truth) / 2


def test_without_particles_there_is_background_at_the_stated_rate():
    out = drive(ParticleSimulator({"rate": 0, "duration": 0.5, "packet_duration": 0.1}))

    events = out.items("events")
    pixels = events["y"].astype(int) * 64 + events["x"]
    hot = np.bincount(pixels, minlength=3072) > 50
    expected = 1.1 * 3072 * 0.5
    assert out["truth"] == []
    assert out.results == {
        "simulated": True, "particles": 0, "overlapping": 0, "events": len(events),
        "stop_us": 500_000,
    }  # fmt: skip
    assert (~hot[pixels]).sum() == pytest.approx(expected, abs=5 * expected**0.5)
    assert hot.sum() <= 5


def test_no_pixel_sends_two_events_within_its_refractory_time(whole):
    events = whole[0]
    pixels = events["y"].astype(int) * 64 + events["x"]

    order = np.lexsort((events["timestamp"], pixels))
    gaps = np.diff(events["timestamp"][order])[np.diff(pixels[order]) == 0]

    assert len(events) > 10_000
    assert gaps.min() >= 60 - SLACK


def test_a_particle_switches_its_rings_on_and_off_where_the_truth_says():
    sample = Sample(rate=20.0, doublets=0.0, debris=0.0)
    events, truth = simulate(sample, seconds=0.4, seed=2, camera=Camera(background=0, hot_share=0))

    alone = truth[(truth["overlaps"] == 0) & (np.abs(truth["y_um"]) < 15)]
    assert len(alone) >= 2
    for row in alone:
        centre, half = row["time_us"], (row["stop_us"] - row["start_us"]) / 2
        near = events[np.abs(events["timestamp"] - centre) < half]
        on = near[near["polarity"] == 1]["timestamp"] - centre
        off = near[near["polarity"] == 0]["timestamp"] - centre
        assert len(near) > 1000
        assert (on < 0.05 * half).mean() > 0.85
        assert (off > 0).mean() > 0.85


def test_simulated_sessions_are_like_the_recordings():
    if not (RECORDINGS / "index.csv").exists():
        pytest.skip("simulated cytometry recordings are not in ../shared/data/cytometry")
    with open(RECORDINGS / "index.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["file"].startswith("A")]
    recorded = sum(int(r["events"]) for r in rows) / sum(int(r["particles"]) for r in rows)

    made = [simulate(Sample(mix=(1, 0)), seconds=0.7, seed=1, session=s) for s in (20, 21, 22)]

    events = sum(len(e) for e, _ in made)
    particles = sum(len(t) for _, t in made)
    # sessions differ by a tenth, particles by a third, background adds a few percent
    assert events / particles == pytest.approx(recorded, rel=0.2)
    assert np.concatenate([e["polarity"] for e, _ in made]).mean() == pytest.approx(0.55, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix": [1, 2, 3]}, "classes '16/20' need 2 shares"),
        ({"mix": [0, 0]}, "not all 0"),
        ({"mix": [1, -1]}, "mix"),
        ({"doublets": 0.7, "debris": 0.7}, "sum of at most 1"),
        ({"rate": -1}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": 1e9}, "rate"),
        ({"width": 5000}, "at most 2048"),
        ({"duration": 1e300}, "duration is"),
        ({"duration": 0}, "duration"),
        ({"packet_duration": 1e-9}, "packet_duration is"),
        ({"drift": -1}, "drift"),
        ({"seed": -1}, "seed"),
        ({"classes": "A"}, "classes"),
        ({"speed": 0}, "speed"),
        ({"speed": float("inf")}, "speed"),
        ({"stray": 0}, "stray"),
        ({"stray": 1e-300}, "stray"),
        ({"step": 0}, "step"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(settings, message):
    with pytest.raises(NodeError, match=message):
        ParticleSimulator(settings).open()


@pytest.mark.parametrize("pace", ["paced", "realtime"])
def test_stream_time_waits_for_the_clock_where_the_graph_has_one(pace):
    node = ParticleSimulator({"rate": 0, "duration": 0.06, "packet_duration": 0.01})
    node.clock = Clock(pace)
    node.open()

    begun = time.monotonic()
    out = drive(node, opened=True)

    assert len(out["events"]) == 6
    assert time.monotonic() - begun >= 0.05


@pytest.mark.parametrize("pace", ["fast", "paced", "realtime"])
def test_an_endless_stream_ends_when_the_run_does(pace):
    node = ParticleSimulator({"rate": 0})
    node.clock = Clock(pace)
    node.open()

    produced = []
    for emission in node.produce():
        produced.append(emission)
        if len(produced) == 3:
            node.clock.stop()

    assert len(produced) == 3


GRAPH = """
name: simulated
nodes:
  camera:
    kind: particle_simulator
    settings: {rate: 400, duration: 0.03, seed: 1, session: 2, packet_duration: 0.001}
  keep: {kind: event_file_writer, inputs: {events: camera.events}, settings: {path: a.raw}}
  truth: {kind: csv_file, inputs: {rows: camera.truth}, settings: {path: a.truth.csv}}
processes:
  camera: {nodes: [camera], restart: on_failure}
"""


def test_a_graph_writes_a_recording_and_the_truth_that_the_scorer_reads(tmp_path, whole):
    run = Run(tmp_path, GRAPH)

    assert run.end() == 0, run.err
    assert run.report["results"]["camera"]["events"] == len(whole[0])
    with open(tmp_path / "a.truth.csv", newline="") as file:
        assert next(csv.reader(file)) == list(TRUTH.names)
    particles = read_truth(str(tmp_path / "a.truth.csv"), "test")
    assert [p.time for p in particles] == whole[1]["time_us"].tolist()
    assert [p.overlaps for p in particles] == whole[1]["overlaps"].astype(bool).tolist()
    assert (tmp_path / "a.raw").stat().st_size > 2 * len(whole[0])
