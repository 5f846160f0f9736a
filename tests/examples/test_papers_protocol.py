"""The papers' protocol gives its table, and its models decide in nodes as they did in training."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from streamflow_nodes.classifiers.count_classifier import CountClassifier
from streamflow_nodes.classifiers.spiking_classifier import SpikingClassifier
from streamflow_nodes.processors.downsample import Downsample
from streamflow_nodes.processors.leaky_filter import LeakyFilter
from streamflow_nodes.processors.minimum_events import MinimumEvents
from streamflow_nodes.processors.once_per_step import OncePerStep
from streamflow_nodes.processors.window import Window
from streamflow_nodes.sinks.event_file_writer import EventFileWriter
from streamflow_nodes.sources.event_file import EventFile

from streamflow.testing import drive, events

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "cytometry"
PROTOCOL = ROOT / "examples" / "flow_cytometry" / "papers_protocol.py"
NAMES = ("A1", "B1", "A2", "B2")


def run(*arguments):
    command = [sys.executable, "-W", "ignore", str(PROTOCOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """The first 0.3 s of two recordings of each class; SIMULATED."""
    if not all(importlib.util.find_spec(name) for name in ("sklearn", "torch")):
        pytest.skip("training needs scikit-learn and torch: extras train and norse")
    if not (DATA / "A1.raw").exists():
        pytest.skip("simulated cytometry recordings are not in ../shared/data/cytometry")
    folder = tmp_path_factory.mktemp("recordings")
    for name in NAMES:
        with open(DATA / f"{name}.raw", "rb") as file:
            (folder / f"{name}.raw").write_bytes(file.read(400_000))
    return folder


@pytest.fixture(scope="module")
def table(recordings):
    """What the protocol prints; its models are in `recordings / out`."""
    done = run(
        "--data", recordings, "--width", 64, "--height", 48, "--factor", 2, "--filter", "scaled",
        "--minimum-events", 100, "--models", "linear,spiking", "--hidden", 16, "--epochs", 3,
        "--folds", 1, "--output", recordings / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kept_bins(path):
    """The graph's nodes, called one after the other."""
    size = {"width": 64, "height": 48, "packet_duration": 0.0173}
    packets = drive(EventFile({"path": str(path), **size}))["events"]
    packets = drive(Downsample({"factor": 2}), events=packets)["kept"]
    packets = drive(LeakyFilter({"leak": 0.9**0.01}), events=packets)["kept"]
    packets = drive(Window({"duration": 0.001}), events=packets)["windows"]
    return drive(MinimumEvents({"events": 100}), windows=packets)["kept"]


def test_recordings_left_out_are_told_apart_and_the_table_says_what_was_published(table):
    scores = {row[0]: float(row[1]) for row in re.findall(r"^(\w+) .*?([\d.]+) \+- ", table, re.M)}

    assert scores["linear"] > 75
    assert scores["spiking"] > 75
    assert "96.05 +- 0.80" in table
    assert "98.45" in table
    for name in NAMES:
        assert re.search(rf"^{name} ", table, re.M)


def test_models_decide_in_the_graphs_nodes_as_they_did_in_training(recordings, table):
    out, right, bins = recordings / "out", {"linear.npz": 0, "model.nir": 0}, 0
    for name in NAMES:
        kept = kept_bins(recordings / f"{name}.raw")
        binary = drive(OncePerStep({"step": 10}), events=kept)["kept"]
        bins += len(kept)
        settings = {"model": str(out / "model.nir"), "classes": ["A", "B"], "window": 1000}
        for file, node, packets in (
            ("linear.npz", CountClassifier({"model": str(out / "linear.npz")}), kept),
            ("model.nir", SpikingClassifier(settings | {"dt": 10}), binary),
        ):
            rows = drive(node, bursts=packets).items("particles")
            right[file] += int(np.sum(rows["class"] == name[0].encode()))

    kept_there = [
        int(n) for n in re.findall(r"^[AB]\d .* (\d+) +[\d.]+ +[\d.]+ +\d+$", table, re.M)
    ]
    assert sum(kept_there) == bins > 100
    for file, count in right.items():
        said = re.search(rf"{file}, right about its own bins: ([\d.]+) %", table)
        assert said is not None, table
        # torch adds in float32 and the node in float64: a bin at the threshold may differ
        assert abs(100 * count / bins - float(said[1])) < 100.5 / bins, file


def test_cells_of_another_grid_are_refused(tmp_path):
    pytest.importorskip("sklearn", reason="training needs scikit-learn: extra train")
    spec = importlib.util.spec_from_file_location("papers_protocol", PROTOCOL)
    protocol = importlib.util.module_from_spec(spec)
    sys.modules["papers_protocol"] = protocol  # its dataclasses look there
    spec.loader.exec_module(protocol)
    for name, width, height in (("right", 32, 24), ("wrong", 64, 48)):
        (tmp_path / name).mkdir()
        bins = EventFileWriter({"path": str(tmp_path / name / "bins.raw")})
        rows = [(10, 5, 7, 1), (20, 5, 7, 1), (30, width - 1, height - 1, 0)]
        drive(bins, events=[events(rows, width=width, height=height)])

    counts, codes, ends = protocol.encode(tmp_path / "right", 10)

    assert (counts.shape, counts.sum(), counts[0, (24 + 7) * 32 + 5]) == ((1, 1536), 3, 2)
    assert (len(codes), ends.tolist()) == (3, [3])
    with pytest.raises(SystemExit, match=r"cells of 64x48; expected 32x24: .*--factor"):
        protocol.encode(tmp_path / "wrong", 10)


def test_recordings_that_do_not_pair_are_refused(tmp_path):
    for name in ("A1", "A2", "B1"):
        (tmp_path / f"{name}.raw").touch()

    done = run("--data", tmp_path)

    assert done.returncode == 1
    assert "recordings A1.raw A2.raw B1.raw; expected two or more classes" in done.stderr
