"""The papers' protocol as a graph: its decisions about the shipped sample, however it is run.

The sample is SIMULATED (graphs/flow_cytometry/README.md).
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import h5py
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from runs import Run  # the engine tests' way to run a graph

GRAPHS = Path(__file__).resolve().parents[2] / "graphs"
TRUTH = GRAPHS / "flow_cytometry" / "sample.truth.csv"


def text() -> str:
    """The shipped graph, with paths that hold from anywhere."""
    folder = GRAPHS / "flow_cytometry_papers"
    out = (folder / "graph.yaml").read_text()
    out = out.replace("path: ../flow_cytometry", f"path: {GRAPHS / 'flow_cytometry'}")
    for name in ("linear.npz", "model.nir"):
        out = out.replace(f"model: {name}", f"model: {folder / name}")
    return out


def rows_of(folder: Path):
    """The linear model's decisions (a table), and the spiking network's (text)."""
    with h5py.File(folder / "linear.rtdc") as file:
        return file["tables/particles"][:], (folder / "spiking.csv").read_text()


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """The graph, run once as shipped."""
    run = Run(tmp_path_factory.mktemp("once"), text())
    assert run.end() == 0, run.err
    return run


def test_bins_with_one_particle_get_its_class(once):
    with TRUTH.open(newline="") as file:
        truth = [(float(r["time_us"]), r["class"], r["kind"]) for r in csv.DictReader(file)]
    linear, spiking = rows_of(once.folder)
    decided = {
        "linear": [(r["start_us"], r["stop_us"], r["class"].decode()) for r in linear],
        "spiking": [
            (int(r["start_us"]), int(r["stop_us"]), r["class"])
            for r in csv.DictReader(spiking.splitlines())
        ],
    }

    for model, decisions in decided.items():
        right = total = 0
        for start, stop, label in decisions:
            inside = [c for t, c, kind in truth if start <= t < stop and kind != "debris"]
            if len(inside) == 1:
                total += 1
                right += inside[0] == label
        # 76 and 77 of 78 when the models were made; a coin would get 39 +- 4
        assert total > 70, model
        assert right / total > 0.9, model


def test_every_kept_bin_is_decided_by_both_models(once):
    report = once.report

    kept = report["nodes"]["kept"]["packets_out"]
    assert 100 < kept < report["nodes"]["kept"]["packets_in"]
    for sink in ("linear_decisions", "spiking_decisions"):
        assert report["nodes"][sink]["items_in"] == kept


def test_decisions_do_not_depend_on_how_the_recording_is_cut(once, tmp_path):
    run = Run(tmp_path, text(), "--set", "camera.packet_duration=0.0137")
    assert run.end() == 0, run.err

    linear, spiking = rows_of(tmp_path)

    assert linear.tobytes() == rows_of(once.folder)[0].tobytes()
    assert spiking == rows_of(once.folder)[1]


def test_killed_sinks_and_classifiers_neither_repeat_nor_lose_a_decision(once, tmp_path):
    run = Run(tmp_path, text(), "--clock", "paced")
    for name in ("files", "hot"):
        run.wait_for(lambda: (tmp_path / "linear.rtdc").exists())
        run.kill(name)
    assert run.end() == 0, run.err

    assert run.report["processes"]["files"]["restarts"] == 1
    linear, spiking = rows_of(tmp_path)
    assert linear.tobytes() == rows_of(once.folder)[0].tobytes()
    assert spiking == rows_of(once.folder)[1]
    with h5py.File(tmp_path / "linear.rtdc") as file:
        assert len(file["events/time"]) == len(linear)
    assert not (tmp_path / "linear.rtdc.rows").exists()
