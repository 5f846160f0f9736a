"""What the benchmarks on the flow-cytometry path share: its nodes, its recordings, its runs."""

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
GRAPH = HERE.parent / "graphs" / "flow_cytometry" / "graph.yaml"
RECORDINGS = HERE.parent.parent / "shared" / "data" / "cytometry"
NAMES = [f"{name}{session}.raw" for session in range(1, 5) for name in "AB"]
TIMEOUT_S = 300


def recordings(folder: Path) -> list[str]:
    """The recordings A1, B1, ... B4 (SIMULATED; 64 x 48 pixels, 100 particles/s, 3 s each)."""
    found = [str(folder / name) for name in NAMES if (folder / name).is_file()]
    if len(found) < len(NAMES):
        raise SystemExit(f"{folder}: expected {', '.join(NAMES)}; give --recordings FOLDER")
    return found


def hot_nodes() -> dict[str, Any]:
    """Filter, trigger and spiking classifier, the latter two as the shipped graph has them."""
    shipped = yaml.safe_load(GRAPH.read_text())["nodes"].values()
    by_kind = {node["kind"]: dict(node.get("settings", {})) for node in shipped}
    classifier = by_kind["spiking_classifier"]
    for key in ("model", "linear"):
        if isinstance(classifier.get(key), str):
            classifier[key] = str(GRAPH.parent / classifier[key])
    return {
        "quiet": {"kind": "background_activity", "inputs": {"events": "camera.events"},
                  "settings": {"window": 0.002}},
        "bursts": {"kind": "burst_trigger", "inputs": {"events": "quiet.kept"},
                   "settings": by_kind["burst_trigger"]},
        "spiking": {"kind": "spiking_classifier", "inputs": {"bursts": "bursts.bursts"},
                    "settings": classifier},
    }  # fmt: skip


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
