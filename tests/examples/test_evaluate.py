"""The evaluation script runs recordings through the graph and compares as the scorer does."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from streamflow_nodes.particles.rows import MERGED, OVERLAP

ROOT = Path(__file__).resolve().parents[2]
EVALUATE = ROOT / "examples" / "flow_cytometry" / "evaluate.py"
SAMPLE = ROOT / "graphs" / "flow_cytometry" / "sample.raw"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(EVALUATE.parent))
    try:
        spec = importlib.util.spec_from_file_location("evaluate", EVALUATE)
        module = importlib.util.module_from_spec(spec)
        sys.modules["evaluate"] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(EVALUATE.parent))
        sys.modules.pop("evaluate", None)


def particle(time, name="A", kind="bead", diameter=16.0):
    return {"time_us": str(time), "class": name, "kind": kind, "diameter_um": str(diameter)}


def decision(time, name="A", flags=0, delay=500, diameter=16.5):
    return {"time_us": str(time), "class": name, "decided_us": str(time + delay),
            "flags": str(flags), "diameter_um": str(diameter)}  # fmt: skip


def test_misses_wrong_classes_and_late_decisions_are_not_right(script):
    truth = [particle(10_000), particle(20_000), particle(30_000), particle(40_000)]
    rows = [decision(10_050), decision(20_000, "B"), decision(30_000, delay=6_000)]

    tally = script.compare(truth, [*rows, decision(90_000)])

    assert [o.is_right for o in tally.outcomes] == [True, False, False, False]
    assert [o.is_found for o in tally.outcomes] == [True, True, True, False]
    assert (tally.decisions, tally.false) == (4, 1)


def test_gaps_and_flags_are_those_of_the_nearest_other_particle(script):
    truth = [particle(10_000), particle(10_150), particle(20_000, kind="debris")]
    rows = [decision(10_020, flags=OVERLAP | MERGED), decision(20_000)]

    tally = script.compare(truth, rows)

    assert [o.gap for o in tally.outcomes] == pytest.approx([0.15, 0.15])
    (first, second) = tally.rows
    assert first.truths["overlap"]
    assert first.truths["merged"]
    assert second.truths["debris"]
    assert not second.truths["overlap"]
    assert tally.diameters == [(16.5, 16.0)]


def test_the_shipped_sample_is_run_and_told_about(tmp_path):
    shutil.copy(SAMPLE, tmp_path / "some.raw")
    shutil.copy(SAMPLE.with_suffix(".truth.csv"), tmp_path / "some.truth.csv")

    command = [sys.executable, str(EVALUATE), str(tmp_path / "some.raw")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)

    assert done.returncode == 0, done.stderr
    for classifier in ("spiking", "linear"):
        row = re.search(rf"^\| some \| {classifier} \| 90 \| \S+ \| (\S+) \|", done.stdout, re.M)
        assert row is not None, done.stdout
        assert float(row[1]) > 0.88
    assert "| overlap | spiking |" in done.stdout
