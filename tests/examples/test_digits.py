"""The training example, in small: Norse to NIR to a running graph."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = Path(__file__).resolve().parents[2] / "examples" / "digits" / "train.py"


def test_what_norse_trained_tells_digits_apart_in_the_running_graph(tmp_path: Path) -> None:
    for module in ("norse", "sklearn"):
        pytest.importorskip(module, reason=f"{module} is not installed (extras norse, train)")
    command = [sys.executable, str(TRAIN), "--output", "out", "--run"]

    done = subprocess.run(
        [*command, "--digits", "150", "--epochs", "6"], cwd=tmp_path, text=True,
        capture_output=True, timeout=110, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r"in the running graph: ([\d.]+)% of (\d+) test digits right", done.stdout)
    assert said is not None, done.stdout
    assert int(said[2]) == 30
    assert float(said[1]) >= 40  # chance is 10; all digits and epochs give more than 90
