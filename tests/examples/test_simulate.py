"""The simulation script writes recordings that the training script and the graph read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("miepython", reason="needs the extra cytometry")

from streamflow_nodes.particles.scoring import read_truth
from streamflow_nodes.particles.simulation import Sample, simulate
from streamflow_nodes.sources.event_file import EventFile

from streamflow.testing import drive

SIMULATE = Path(__file__).resolve().parents[2] / "examples" / "flow_cytometry" / "simulate.py"


def run(*arguments):
    command = [sys.executable, str(SIMULATE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_recordings_of_each_class_are_what_was_simulated(tmp_path):
    done = run("--rate", 300, "--seconds", 0.02, "--session", 4, "--each", "--out", tmp_path)

    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "A4.raw", "A4.truth.csv", "B4.raw", "B4.truth.csv",
    ]  # fmt: skip
    for seed, (name, mix) in enumerate({"A": (1, 0), "B": (0, 1)}.items()):
        events, truth = simulate(Sample(rate=300, mix=mix), seconds=0.02, seed=seed, session=4)
        read = drive(EventFile({"path": str(tmp_path / f"{name}4.raw")})).items("events")
        assert np.array_equal(read, events)
        particles = read_truth(str(tmp_path / f"{name}4.truth.csv"), "test")
        assert [p.time for p in particles] == truth["time_us"].tolist()
        assert {p.name for p in particles} == {name}


def test_a_wrong_option_is_one_clear_line(tmp_path):
    done = run("--mix", "1,2,3", "--out", tmp_path)

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "need 2 shares" in done.stderr
