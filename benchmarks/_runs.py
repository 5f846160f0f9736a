"""Runs a graph as a user does, for benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 300


def run_graph(graph: dict[str, Any], *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
    """Run a graph with `streamflow run`; its report. SystemExit when anything was lost."""
    with tempfile.TemporaryDirectory() as folder:
        file, report = Path(folder, "graph.yaml"), Path(folder, "report.json")
        file.write_text(yaml.safe_dump(graph))
        command = [str(Path(sys.executable).with_name("streamflow")), "run", str(file)]
        subprocess.run(
            [*command, "--quiet", "--report", str(report)],
            env={**os.environ, "PYTHONPATH": str(HERE)},
            check=True,
            timeout=timeout,
        )
        found: dict[str, Any] = json.loads(report.read_text())
    for name, edge in found["edges"].items():
        lost = edge["produced"] - edge["handled"]
        if lost or found["unbalanced"]:
            raise SystemExit(f"{name}: {lost} packets lost; unbalanced: {found['unbalanced']}")
    return found
