"""The training script makes models that the graph's nodes run."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from streamflow_nodes.classifiers.count_classifier import CountClassifier
from streamflow_nodes.classifiers.spiking_classifier import SpikingClassifier

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "cytometry"
TRAIN = ROOT / "examples" / "flow_cytometry" / "train.py"


def run(*arguments):
    command = [sys.executable, "-W", "ignore", str(TRAIN), "--threads", "1", "--quick"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=115, check=False
    )


@pytest.fixture
def recordings(tmp_path):
    """The first half second of two sessions, without truth; SIMULATED recordings."""
    if not (DATA / "A1.raw").exists():
        pytest.skip("simulated cytometry recordings are not in ../shared/data/cytometry")
    for name in ("A1", "B1", "A2", "B2"):
        with open(DATA / f"{name}.raw", "rb") as file:
            (tmp_path / f"{name}.raw").write_bytes(file.read(700_000))
    return tmp_path


def needs(*modules):
    if not all(importlib.util.find_spec(name) for name in modules):
        pytest.skip(f"needs {', '.join(modules)}: extras norse and cytometry")


def outputs_of(folder):
    """What both models say; opened by the nodes that run them."""
    CountClassifier({"model": str(folder / "linear.npz")}).open()
    SpikingClassifier({"model": str(folder / "model.nir"), "classes": ["A", "B"]}).open()
    with np.load(folder / "linear.npz") as model:
        return model["outputs"].tolist()


def test_quick_training_on_simulated_sessions_beats_chance_on_another_one(tmp_path):
    needs("torch", "miepython")

    done = run("--output", tmp_path)

    assert done.returncode == 0, done.stderr
    # a class at random would be right for half of those found
    rows = re.findall(r"^spiking +\S+ +(\d+) +\S+ +(\S+)", done.stdout, re.MULTILINE)
    particles = [int(count) for count, _ in rows]
    right = sum(int(count) * float(share) for count, share in rows) / sum(particles)
    assert sum(particles) >= 40
    assert right > 0.62, done.stdout
    assert {"nothing", "A", "B", "A+B", "diameter_um"} <= set(outputs_of(tmp_path))


def test_recordings_without_truth_give_a_model_of_their_classes(recordings):
    needs("torch")
    size = ["--width", 64, "--height", 48]

    done = run("--recordings", recordings, *size, "--output", recordings / "out")

    assert done.returncode == 0, done.stderr
    spiking = re.search(r"^spiking +B2.raw +\d+ +1.0000 +(\S+)", done.stdout, re.MULTILINE)
    assert spiking is not None, done.stdout
    assert float(spiking[1]) > 0.6
    assert outputs_of(recordings / "out") == ["A", "B"]


def test_a_session_without_one_of_the_classes_is_refused(recordings):
    needs("torch")
    shutil.move(recordings / "B2.raw", recordings / "mixed.raw")

    done = run("--recordings", recordings, "--output", recordings / "out")

    assert done.returncode == 1
    assert "missing ['B2.raw']" in done.stderr
