"""Graph -> which processes run which nodes, what moves packets on each edge, and how much memory.

Nodes of one process hand packets over by reference; between processes of a host a packet's header
travels over ZeroMQ while its payload lies in memory that both map; to another host both travel over
ZeroMQ and tcp.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .errors import Fault, GraphError
from .graph import EdgeSpec, Graph, ProcessSpec
from .text import columns, many, size

Transport = Literal["reference", "shared", "tcp"]


class EdgePlan(msgspec.Struct, frozen=True, kw_only=True):
    """An edge, its number in the graph, and how its packets travel.

    `memory` bounds the bytes that its packets can hold: (waiting + window) times `max_packet`.
    Slots are reserved for more (see `_slots`), which costs nothing until it is needed.
    """

    index: int
    spec: EdgeSpec
    transport: Transport
    memory: int


class SegmentPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The shared memory of one output port: `slots` of `slot_bytes`, reserved but not touched.

    Edges that stay within the process count too: a packet may lie in a slot for their sake.
    """

    node: str
    output: str
    slots: int
    slot_bytes: int
    edges: tuple[int, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How a graph runs. Processes are in the order in which they start: producers first.

    `unused` are output ports that no edge leaves from: what they yield goes nowhere.
    """

    graph: Graph
    processes: tuple[ProcessSpec, ...]
    edges: tuple[EdgePlan, ...]
    segments: tuple[SegmentPlan, ...]
    unused: tuple[str, ...]

    @property
    def memory(self) -> int:
        """Bytes that all packets together can hold: the sum over the edges."""
        return sum(edge.memory for edge in self.edges)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def make_plan(graph: Graph) -> Plan:
    """The plan of a checked graph. Raises GraphError for a layout that could stop itself."""
    faults = [fault for process in graph.processes.values() for fault in _returns(graph, process)]
    if faults:
        raise GraphError(faults)
    edges = tuple(_edge(graph, index, edge) for index, edge in enumerate(graph.edges))
    leaving: dict[tuple[str, str], list[EdgePlan]] = {
        (node.name, output): [] for node in graph.nodes.values() for output in node.outputs
    }
    for edge in edges:
        leaving[edge.spec.source, edge.spec.output].append(edge)
    return Plan(
        graph=graph,
        processes=tuple(graph.processes.values()),
        edges=edges,
        segments=tuple(
            _segment(port, group)
            for port, group in leaving.items()
            if any(edge.transport != "reference" for edge in group)
        ),
        unused=tuple(".".join(port) for port, group in leaving.items() if not group),
    )


def _returns(graph: Graph, process: ProcessSpec) -> list[Fault]:
    """Where packets leave a process that commits and come back to it by way of another one.

    A handler that gives more packets than its edge takes waits until there is room. If that needs a
    node of the same process, the node must run meanwhile, and a process that commits cannot let it:
    what it acknowledged would be committed together with half of what the handler gives. A lossy
    edge on the way always has room.
    """
    if process.restart.when != "on_failure":
        return []
    faults = []
    for first in process.nodes:
        reached = {first}
        for edge in graph.edges:  # in topological order of their consumers
            if edge.source not in reached or edge.when_full != "block":
                continue
            home = graph.nodes[edge.source].process
            if edge.node not in process.nodes:
                reached.add(edge.node)
            elif home != process.name:
                what = (
                    f"process {process.name!r} (restart: on_failure): its node {first!r} leads to "
                    f"its node {edge.node!r} by way of {edge.source!r} in process {home!r}, so "
                    "that it could wait for itself for ever: put "
                    f"{edge.source!r} into process {process.name!r} too, or {edge.node!r} into "
                    "another process, or have no restart"
                )
                faults.append(Fault(graph.path, edge.line, what))
    return faults


def _edge(graph: Graph, index: int, edge: EdgeSpec) -> EdgePlan:
    source, target = (
        graph.processes[graph.nodes[name].process] for name in (edge.source, edge.node)
    )
    near: Transport = "reference" if source is target else "shared"
    return EdgePlan(
        index=index,
        spec=edge,
        transport=near if source.host == target.host else "tcp",
        memory=(edge.capacity + edge.window) * edge.max_packet,
    )


def _segment(port: tuple[str, str], edges: list[EdgePlan]) -> SegmentPlan:
    return SegmentPlan(
        node=port[0],
        output=port[1],
        # one more, so that the producer can fill a packet while all the others are held
        slots=sum(_slots(edge.spec) for edge in edges) + 1,
        slot_bytes=max(edge.spec.max_packet for edge in edges if edge.transport != "reference"),
        edges=tuple(edge.index for edge in edges),
    )


def _slots(edge: EdgeSpec) -> int:
    """How many slots an edge may hold.

    A lossy edge's producer must never wait. While its successor does not know yet what the consumer
    looks at, everything that waited at its predecessor is kept beside what waits now.
    """
    waiting = edge.capacity if edge.when_full == "block" else 2 * edge.capacity
    return edge.window + waiting


def _lines(plan: Plan) -> list[str]:
    graph = plan.graph
    count = f"{many(len(graph.nodes), 'node')}, {many(len(plan.processes), 'process')}"
    lines = [f"{graph.name}: {count}, {many(len(plan.edges), 'edge')}, clock {graph.clock}", ""]
    rows: list[tuple[str, ...]] = [("process", "nodes", "restart")]
    for process in plan.processes:
        nodes = ", ".join(f"{node} ({graph.nodes[node].kind})" for node in process.nodes)
        python = f"  {process.python}" if process.python else ""
        where = f"  on {process.host}" if process.host else ""
        rows.append((process.name, nodes, process.restart.when + python + where))
    lines += columns(rows)
    if plan.edges:
        rows = [("edge", "transport", "when full", "waiting + window", "memory at most")]
        for edge in plan.edges:
            spec = edge.spec
            room = f"{spec.capacity} + {spec.window}"
            rows.append((spec.name, edge.transport, spec.when_full, room, size(edge.memory)))
        lines += ["", *columns(rows), "", f"memory at most {size(plan.memory)} in packets"]
    lines += [f"note: output {port} goes nowhere" for port in plan.unused]
    return lines
