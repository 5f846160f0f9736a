"""Makes the run report out of what the processes' boards say."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import __version__
from .metrics import far_edge, reference_edge, shared_edge
from .plan import EdgePlan, Plan
from .supervised import Process


class Counts:
    """What was counted in a run so far, for its report."""

    def __init__(self, plan: Plan, processes: Mapping[str, Process]) -> None:
        self._plan, self._processes = plan, processes
        self._home = {name: processes[spec.process] for name, spec in plan.graph.nodes.items()}

    @property
    def made(self) -> bool:
        """Whether there is anything to count with."""
        return all(hasattr(process, "board") for process in self._processes.values())

    def edges(self) -> dict[str, dict[str, Any]]:
        """Every edge's ledger, from both of its ends."""
        return {
            edge.spec.name: {
                "transport": edge.transport, "policy": edge.spec.when_full, **self._edge(edge),
            }
            for edge in self._plan.edges
        }  # fmt: skip

    def _edge(self, edge: EdgePlan) -> dict[str, Any]:
        name, consumer = edge.spec.name, self._home[edge.spec.node]
        if edge.transport == "reference":
            return reference_edge(consumer.layout.read(consumer.words(), "local", name))
        producer = self._home[edge.spec.source]
        out = producer.layout.read(producer.words(), "out", name)
        into = consumer.layout.read(consumer.words(), "in", name)
        return (far_edge if edge.transport == "tcp" else shared_edge)(out, into)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """What every node has handled and made."""
        report = {}
        for name, process in self._home.items():
            words = process.words()
            counts = process.layout.read(words, "node", name)
            faults = process.layout.read_faults(words, name, process.faults.get(name, []))
            report[name] = {
                "process": process.name,
                **{
                    key: counts[key]
                    for key in ("packets_in", "packets_out", "items_in", "items_out")
                },
                "restarts": process.restarts,
                "state_lost": counts["state_lost"],
                "stream_time": counts["time"],
                "progress": counts["progress"],
                "faults": faults,
            }
        return report

    def latencies(self) -> dict[str, dict[str, float]]:
        """Capture to arrival at every node without outputs, in microseconds."""
        report = {}
        for name, spec in self._plan.graph.nodes.items():
            if not spec.outputs and spec.inputs and hasattr(self._home[name], "board"):
                worst = [self.latency(edge.name) for edge in spec.inputs]
                report[name] = max(worst, key=lambda summary: summary["p99"])
        return report

    def latency(self, edge_name: str) -> dict[str, float]:
        """Capture to arrival at the consumer of one edge, in microseconds."""
        for edge in self._plan.edges:
            if edge.spec.name == edge_name:
                process = self._home[edge.spec.node]
                return process.board.histogram(process.layout.histograms[edge_name]).summary()
        raise KeyError(edge_name)


def versions() -> dict[str, str]:
    """What ran: Python, streamflow, and the libraries that decide results."""
    found = {"python": platform.python_version(), "streamflow": __version__}
    for name in ("numpy", "numba", "pyzmq", "msgspec", "dv-processing", "faery", "nir"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def write_report(report: dict[str, Any], path: str | Path) -> None:
    """Write a run report as JSON."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(report, indent=1) + "\n")
