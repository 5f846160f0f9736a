"""What the benchmarks on the flow-cytometry path share: its nodes and its recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
GRAPH = HERE.parent / "graphs" / "flow_cytometry" / "graph.yaml"
RECORDINGS = HERE.parent.parent / "shared" / "data" / "cytometry"
NAMES = [f"{name}{session}.raw" for session in range(1, 5) for name in "AB"]


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
