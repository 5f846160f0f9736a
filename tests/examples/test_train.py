"""The training script makes models that the graph's nodes run."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from streamflow_nodes.classifiers.count_classifier import CountClassifier
from streamflow_nodes.classifiers.spiking_classifier import SpikingClassifier

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "cytometry"
TRAIN = ROOT / "examples" / "flow_cytometry" / "train.py"


def run(*arguments):
    command = [sys.executable, "-W", "ignore", str(TRAIN), "--threads", "1", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


@pytest.fixture
def recordings(tmp_path):
    """The first half second of two sessions; SIMULATED recordings."""
    if not all(importlib.util.find_spec(name) for name in ("sklearn", "torch")):
        pytest.skip("training needs scikit-learn and torch: extras train and norse")
    if not (DATA / "A1.raw").exists():
        pytest.skip("simulated cytometry recordings are not in ../shared/data/cytometry")
    for name in ("A1", "B1", "A2", "B2"):
        with open(DATA / f"{name}.raw", "rb") as file:
            (tmp_path / f"{name}.raw").write_bytes(file.read(700_000))
    return tmp_path


def test_quick_training_beats_chance_on_an_unseen_session_and_its_models_open(recordings):
    size = ["--width", 64, "--height", 48]

    done = run("--recordings", recordings, *size, "--quick", "--output", recordings / "out")

    assert done.returncode == 0, done.stderr
    linear = re.search(r"^linear, 600 us +(\S+)", done.stdout, re.MULTILINE)
    assert linear is not None, done.stdout
    assert float(linear[1]) > 0.75
    assert "every burst" in done.stdout  # no truth files: the recording's class is the label
    for node in (
        CountClassifier({"model": str(recordings / "out" / "linear.npz")}),
        SpikingClassifier({"model": str(recordings / "out" / "model.nir"), "classes": ["A", "B"]}),
    ):
        node.open()


def test_a_session_without_one_of_the_classes_is_refused(recordings):
    shutil.move(recordings / "B2.raw", recordings / "mixed.raw")

    done = run("--recordings", recordings, "--width", 64, "--height", 48)

    assert done.returncode == 1
    assert "missing ['B2.raw']" in done.stderr
