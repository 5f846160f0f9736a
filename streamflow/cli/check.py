"""Check a graph without starting it, and show how it would run."""

from __future__ import annotations

import sys

import click

from ..errors import GraphError
from ..graph import load
from ..plan import Plan, make_plan
from ._options import clock, emit_json, graph, overrides


@click.command()
@graph
@overrides
@clock
@click.option("--json", "as_json", is_flag=True, help="Print the plan, or the faults, as JSON.")
def command(graph: str, overrides: tuple[str, ...], clock: str | None, as_json: bool) -> int:
    """Check GRAPH without starting anything, and show how it would run.

    Exit code 0: the graph is right. 2: it is wrong, and every fault is told.
    """
    try:
        plan = make_plan(load(graph, overrides, clock))
    except GraphError as error:
        if not as_json:
            raise
        faults = [fault._asdict() for fault in error.faults]
        emit_json({"valid": False, "faults": faults})
        return 2
    if as_json:
        emit_json(_json(plan))
    else:
        click.echo(str(plan))
    return 0


def _json(plan: Plan) -> dict[str, object]:
    graph = plan.graph
    return {
        "valid": True,
        "graph": graph.name,
        "digest": graph.digest,
        "clock": graph.clock,
        "nodes": {node.name: {"kind": node.kind, "process": node.process, "settings": node.settings}
                  for node in graph.nodes.values()},
        "processes": {process.name: process for process in plan.processes},
        "edges": {edge.spec.name: edge for edge in plan.edges},
        "segments": plan.segments,
        "unused": plan.unused,
        "memory": plan.memory,
        "python": sys.version.split()[0],
    }  # fmt: skip
