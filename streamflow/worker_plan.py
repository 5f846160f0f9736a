"""The part of a plan that one worker is told: its nodes, the ends of its edges, its counters."""

from __future__ import annotations

from pathlib import Path

import msgspec

from .control import Message
from .graph import ProcessSpec
from .metrics import Layout
from .plan import EdgePlan, Plan, SegmentPlan


class WorkerPlan:
    """What the process `spec` has of a plan.

    `ins` come from other processes, `inside` are the edges that stay within; `outputs` is the
    memory of its ports.
    """

    def __init__(self, plan: Plan, spec: ProcessSpec) -> None:
        self._plan, self._spec = plan, spec
        nodes = set(spec.nodes)
        coming = [edge for edge in plan.edges if edge.spec.node in nodes]
        self.ins = [edge for edge in coming if edge.transport != "reference"]
        self.inside = [edge for edge in coming if edge.transport == "reference"]
        self.outputs = [segment for segment in plan.segments if segment.node in nodes]

    def layout(self) -> Layout:
        """Where its counters lie."""
        return Layout(
            list(self._spec.nodes),
            [edge.spec.name for edge in self.ins],
            [edge.spec.name for output in self.outputs for edge in self._leaving(output)],
            [edge.spec.name for edge in self.inside],
            [port_of(output) for output in self.outputs],
        )

    @property
    def near(self) -> list[str]:
        """The outputs of other processes of its host whose memory it reads, one for each edge."""
        return [source_of(edge) for edge in self.ins if edge.transport == "shared"]

    def _leaving(self, output: SegmentPlan) -> list[EdgePlan]:
        """The edges that lead from an output to other processes."""
        edges = [self._plan.edges[index] for index in output.edges]
        return [edge for edge in edges if edge.transport != "reference"]

    def words(self, incarnation: int, directory: Path) -> Message:
        """Everything the worker needs but its memory."""
        graph, spec = self._plan.graph, self._spec
        return {
            "graph": graph.name,
            "process": spec.name,
            "directory": str(directory),
            "incarnation": incarnation,
            "restart": spec.restart.when,
            "clock": graph.clock,
            "speed": graph.speed,
            "limits": msgspec.to_builtins(graph.limits),
            "nodes": [
                {
                    "name": name,
                    "kind": graph.nodes[name].kind,
                    "settings": graph.nodes[name].settings,
                    "inputs": [edge.input for edge in graph.nodes[name].inputs],
                    "on_error": graph.nodes[name].on_error,
                }
                for name in spec.nodes
            ],
            "outputs": [
                {
                    "name": port_of(output),
                    "slots": output.slots,
                    "slot_size": output.slot_bytes,
                    "links": [
                        {
                            "edge": edge.spec.name,
                            "policy": edge.spec.when_full,
                            "capacity": edge.spec.capacity,
                            "window": edge.spec.window,
                            "far": edge.spec.compress if edge.transport == "tcp" else None,
                        }
                        for edge in self._leaving(output)
                    ],
                }
                for output in self.outputs
            ],
            "ins": [self._in_words(edge) for edge in self.ins],
            "locals": [
                {
                    "edge": edge.spec.name,
                    "output": source_of(edge),
                    "node": edge.spec.node,
                    "input": edge.spec.input,
                    "capacity": edge.spec.capacity + edge.spec.window,  # as between processes
                }
                for edge in self.inside
            ],
        }

    def _in_words(self, edge: EdgePlan) -> Message:
        segment = next(s for s in self._plan.segments if port_of(s) == source_of(edge))
        return {
            "edge": edge.spec.name,
            "node": edge.spec.node,
            "port": edge.spec.input,
            "window": edge.spec.window,
            "slots": segment.slots,
            "slot_size": segment.slot_bytes,
            "far": edge.transport == "tcp",
            "lossless": edge.spec.when_full == "block",
        }


def port_of(segment: SegmentPlan) -> str:
    """The output port whose packets lie in a segment: `node.port`."""
    return f"{segment.node}.{segment.output}"


def source_of(edge: EdgePlan) -> str:
    """The output port that an edge leaves from: `node.port`."""
    return f"{edge.spec.source}.{edge.spec.output}"
