"""Makes the nodes of a process and the edges between them and to others, as its plan says."""

from __future__ import annotations

from .clock import Clock
from .consumer_end import InLink
from .control import Message
from .dead_letters import ERRORS
from .errors import NodeError, StreamflowError
from .kinds import kinds, node_class
from .memory import Segment
from .metrics import Layout
from .producer_end import OutLink, Output
from .runner import Feed, Local, Route, Runner, Source

BACKWARD = "time_backward"  # the fault of a device whose clock began again with its process


class Wiring:
    """The nodes of a process, and the ends of its edges by their names.

    `runners` are in topological order; `routes` and `outputs` are called `node.port`.
    """

    def __init__(self, plan: Message) -> None:
        """Empty: whoever takes one of the collections now sees what `make` puts into it."""
        self.runners: list[Runner] = []
        self.routes: dict[str, Route] = {}
        self.in_links: dict[str, InLink] = {}
        self.feeds: dict[str, Feed] = {}
        self.out_links: dict[str, tuple[OutLink, Output]] = {}
        self.outputs: dict[str, Output] = {}
        self.locals: dict[str, Local] = {}
        self._plan = plan
        self._keeps = plan["restart"] == "on_failure"
        self._by_name: dict[str, Runner] = {}

    def make(self, fds: list[int]) -> None:
        """Make everything. `fds` is the memory of the outputs, then of the near inputs."""
        plan = self._plan
        self._make_nodes()
        for index, words in enumerate(plan["outputs"]):
            self._make_output(words, fds[index])
        memories = iter(fds[len(plan["outputs"]) :])
        for words in plan["ins"]:
            self._make_in_link(words, None if words["far"] else next(memories))
        for words in plan["locals"]:
            self._make_local(words)
        self._find_reach()

    def layout(self) -> Layout:
        """Where the counters of all this lie on the board."""
        return Layout(
            [runner.node.name for runner in self.runners], list(self.in_links),
            list(self.out_links), list(self.locals), list(self.outputs),
        )  # fmt: skip

    def _make_nodes(self) -> None:
        known = kinds()
        clock = Clock(self._plan["clock"], self._plan["speed"])
        for words in self._plan["nodes"]:
            name, kind = words["name"], words["kind"]
            try:
                node = node_class(kind, known)(words["settings"], name=name)
            except StreamflowError:
                raise
            except Exception as error:
                raise NodeError(name, f"could not be made: {error}", kind=kind) from error
            node.clock = clock
            runner = Runner(len(self.runners), node, kind, words["inputs"], words["on_error"])
            if runner.on_error != "stop":
                node.fault_counts.setdefault(ERRORS, 0)
            for port, declared in type(node).outputs.items():
                route = Route(runner, port, declared.payload)
                runner.routes[port] = self.routes[route.name] = route
                runner.ways.append(route)
            if type(node).is_source():
                runner.source = Source(runner, self._keeps and type(node).is_snapshotting())
                if self._keeps and not type(node).is_snapshotting():
                    node.fault_counts.setdefault(BACKWARD, 0)
            self.runners.append(runner)
            self._by_name[name] = runner

    def _make_output(self, words: Message, fd: int) -> None:
        segment = Segment(fd, words["slots"], words["slot_size"], writable=True)
        links = [
            OutLink(link["policy"], link["capacity"], link["window"], link["far"])
            for link in words["links"]
        ]
        inline_bytes = self._plan["limits"]["inline_bytes"]
        output = Output(segment, links, inline_bytes, recoverable=self._keeps)
        for link_words, link in zip(words["links"], links, strict=True):
            self.out_links[link_words["edge"]] = (link, output)
        self.outputs[words["name"]] = output
        route = self.routes[words["name"]]
        route.output, route.links = output, links

    def _make_in_link(self, words: Message, fd: int | None) -> None:
        segment = None
        if fd is not None:
            segment = Segment(fd, words["slots"], words["slot_size"], writable=False)
        runner = self._by_name[words["node"]]
        node_type = type(runner.node)
        payload = node_type.inputs[words["port"]].payload
        heeds = bool(node_type.outputs) or len(runner.ports) > 1 or runner.advances
        link = InLink(
            payload, words["window"], segment, heeds_time=heeds, lossless=words["lossless"]
        )
        self.in_links[words["edge"]] = link
        port = runner.ports.index(words["port"])
        self.feeds[words["edge"]] = Feed(words["edge"], link, runner, port)

    def _make_local(self, words: Message) -> None:
        target = self._by_name[words["node"]]
        route, port = self.routes[words["output"]], target.ports.index(words["input"])
        local = Local(words["edge"], route, target, port, words["capacity"])
        route.locals.append(local)
        self.locals[words["edge"]] = local

    def _find_reach(self) -> None:
        """For each node, the outputs and inner edges that may fill while it handles a packet."""
        for runner in self.runners:
            for route in runner.routes.values():
                for local in route.locals:
                    local.target.repeats &= runner.repeats
        for runner in reversed(self.runners):  # in topological order, so targets come first
            reach: dict[int, Output | Local] = {}
            for route in runner.routes.values():
                if route.output is not None:
                    reach[id(route.output)] = route.output
                    if not route.locals and runner.source is None:
                        # a loan lies in the edge's memory; a source fills it in another thread,
                        # and a consumer in this process would look at memory that is reused
                        runner.node.__dict__[route.port].lender = route.output.loan
                for local in route.locals:
                    runner.below |= {local.target.index} | local.target.below
                    reach.update({id(output): output for output in local.target.reach})
                    if len(local.target.ports) > 1:
                        reach[id(local)] = local
            runner.reach = list(reach.values())
