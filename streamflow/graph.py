"""Graph files: YAML -> a checked, immutable Graph, with every fault told at once.

Checking needs no process, device or socket, and imports only the kinds that the graph names. Each
fault says `file:line: node 'x': what is wrong; what was expected; did you mean`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec

from . import settings, yaml_file
from .clock import Pace
from .edge import Policy
from .errors import Fault, GraphError
from .faults import Faults, like
from .graph_file import (
    MEBIBYTE,
    NAME,
    ORIGIN,
    GraphFile,
    HostFile,
    InputFile,
    Limits,
    NodeFile,
    OnError,
    ProcessFile,
    RestartSpec,
    is_loopback,
)
from .kinds import KindFile, class_name, kinds, load_class, node_class, scan
from .node import Node
from .packet import Events
from .packing import Compression
from .yaml_file import Scalar, Tree, WholeFault, short

__all__ = [
    "EdgeSpec", "Graph", "KindFile", "Limits", "NodeSpec", "ProcessSpec", "RestartSpec",
    "kinds", "load", "node_class", "shipped",
]  # fmt: skip

# --- what a graph is, once checked ----------------------------------------------------------------


class EdgeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One `Out` joined to one `In`; bytes and packets as checked, `line` in the graph file."""

    source: str
    output: str
    node: str
    input: str
    when_full: Policy = "block"
    capacity: int = 64
    window: int = 8
    max_packet: int = 16 * MEBIBYTE
    compress: Compression = "none"
    line: int = 0

    @property
    def name(self) -> str:
        """The edge as reports call it: `camera.events -> quiet.events`."""
        return f"{self.source}.{self.output} -> {self.node}.{self.input}"


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One node: `settings` are validated, plain, complete, and their paths are absolute.

    `inputs` holds one edge per connected input, in the order of the class's ports; `outputs` are
    all its output ports.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    inputs: tuple[EdgeSpec, ...]
    process: str
    outputs: tuple[str, ...] = ()
    on_error: OnError = "stop"
    line: int = 0


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One process and its nodes, producers before consumers. `python` is None for this one."""

    name: str
    nodes: tuple[str, ...]
    restart: RestartSpec = RestartSpec()
    python: str | None = None
    host: str | None = None


class HostSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that processes may run on: where it listens, and the file with its public key."""

    name: str
    address: str
    key: str | None = None
    line: int = 0


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """A checked graph. Nodes and processes are ordered producers first.

    `digest` is the SHA-256 of what the graph says: equal for equal graphs, however they are laid
    out in YAML and wherever they lie.
    """

    name: str
    path: str
    nodes: dict[str, NodeSpec]
    processes: dict[str, ProcessSpec]
    edges: tuple[EdgeSpec, ...]
    clock: Pace = "fast"
    speed: float = 1.0
    limits: Limits = Limits()
    hosts: dict[str, HostSpec] = {}
    insecure: bool = False
    digest: str = ""


def shipped() -> dict[str, Path]:
    """The graphs that come with streamflow, by name."""
    folder = Path(str(files("streamflow"))) / "graphs"
    if not folder.is_dir():  # a checkout, where they lie beside the package
        folder = folder.parent.parent / "graphs"
    return {path.parent.name: path for path in sorted(folder.glob("*/graph.yaml"))}


def load(source: str | Path, overrides: Sequence[str] = (), clock: str | None = None) -> Graph:
    """The checked graph in a file, in a folder's `graph.yaml`, or of a shipped graph's name.

    `overrides` are `node.setting=value`, the value being YAML; paths in them are relative to the
    working directory, paths in the file to the file. `clock` replaces the file's. Raises GraphError
    with every fault found.
    """
    path, shown = _locate(source)
    tree = yaml_file.read(path, shown)
    if not isinstance(tree, yaml_file.Mapping):
        found = short(yaml_file.plain(tree))
        what = f"the file holds {found}; expected a mapping with 'nodes'"
        raise GraphError([Fault(shown, tree.line, what)])
    return _Check(path, shown, tree).graph(overrides, clock)


def _locate(source: str | Path) -> tuple[Path, str]:
    path = Path(source)
    if path.is_dir() and (path / "graph.yaml").is_file():
        path = path / "graph.yaml"
    if path.exists() and not path.is_dir():
        return path.absolute(), str(path)
    graphs = shipped()
    if (found := graphs.get(str(source))) is not None:
        return found, str(found)
    names = ", ".join(graphs) or "none"
    hint = like(str(source), graphs)
    what = f"no such graph; expected a file, or a shipped graph ({names}){hint}"
    raise GraphError([WholeFault(str(source), 0, what)])


class _Setting(NamedTuple):
    """One setting as it was written, and where: a line of the file, or an override's text."""

    tree: Tree
    line: int
    override: str = ""


class _Draft(NamedTuple):
    """A node whose parts are being checked."""

    name: str
    line: int
    kind: str
    node_class: type[Node[Any]] | None
    inputs: yaml_file.Mapping
    settings: dict[str, _Setting]
    on_error: OnError


class _Check:
    """One file on its way to a Graph: gathers faults, and raises them all together."""

    def __init__(self, path: Path, shown: str, tree: yaml_file.Mapping) -> None:
        self.path, self.tree = path, tree
        self.faults = Faults(shown)
        self._packages = scan()
        self._classes: dict[str, type[Node[Any]] | str] = {}

    def graph(self, overrides: Sequence[str], clock: str | None) -> Graph:
        shape = self.faults.fields(
            self.tree, GraphFile, "", apart=("nodes", "processes", "limits", "hosts")
        )
        limits = Limits()
        if (given := self.faults.mapping(self.tree, "limits", "limits")) is not None:
            limits = Limits(**self.faults.fields(given, Limits, "limits: "))
        drafts = self._drafts(overrides)
        inputs = {name: self._edges(draft, drafts) for name, draft in drafts.items()}
        order = self._order(inputs, {name: draft.line for name, draft in drafts.items()})
        values = {name: self._settings(draft) for name, draft in drafts.items()}
        hosts = self._hosts(insecure=shape.get("insecure", False))
        processes = self._processes(drafts, order, hosts)
        if clock is not None and clock not in get_args(Pace):
            expected = ", ".join(get_args(Pace))
            self.faults.found.append(
                WholeFault("--clock", 0, f"{clock!r} is no pace; expected one of: {expected}")
            )
        self.faults.raise_found()
        name = shape.get("name") or (
            self.path.parent.name if self.path.name == "graph.yaml" else self.path.stem
        )
        home = {node: process.name for process in processes for node in process.nodes}
        nodes = {
            node: NodeSpec(
                name=node,
                kind=drafts[node].kind,
                settings=values[node][1],
                inputs=tuple(inputs[node]),
                process=home[node],
                outputs=tuple(drafts[node].node_class.outputs),  # type: ignore[union-attr]  # None is a fault, raised above
                on_error=drafts[node].on_error,
                line=drafts[node].line,
            )
            for node in order
        }
        graph = Graph(
            name=name,
            path=str(self.path),
            nodes=nodes,
            processes={process.name: process for process in processes},
            edges=tuple(edge for node in nodes.values() for edge in node.inputs),
            clock=clock or shape.get("clock", "fast"),  # type: ignore[arg-type]  # checked above
            speed=shape.get("speed", 1.0),
            limits=limits,
            hosts=hosts,
            insecure=shape.get("insecure", False),
        )
        written = {node: as_written for node, (as_written, _) in values.items()}
        return msgspec.structs.replace(graph, digest=self._digest(graph, written))

    # --- nodes ------------------------------------------------------------------------------------

    def _drafts(self, overrides: Sequence[str]) -> dict[str, _Draft]:
        nodes = self.faults.mapping(self.tree, "nodes", "'nodes'")
        drafts: dict[str, _Draft] = {}
        if nodes is None:
            return drafts
        if not nodes.entries:
            self.faults.tell(
                nodes.line, "the graph has no nodes; expected at least one under 'nodes'"
            )
        for name, tree in nodes.entries.items():
            line = nodes.lines[name]
            if not (isinstance(name, str) and NAME.fullmatch(name)):
                what = "expected small letters, digits and '_', beginning with a letter"
                self.faults.tell(line, f"node name {short(name)}: {what}")
            elif not isinstance(tree, yaml_file.Mapping):
                found = short(yaml_file.plain(tree))
                self.faults.tell(line, f"node {name!r} is {found}; expected a mapping with 'kind'")
            else:
                drafts[name] = self._draft(name, line, tree)
        for text in overrides:
            self._override(text, drafts)
        return drafts

    def _draft(self, name: str, line: int, tree: yaml_file.Mapping) -> _Draft:
        where = f"node {name!r}: "
        # a node without lines of its own, {}, is told at its name
        tree = yaml_file.Mapping(tree.entries, tree.lines, line)
        values = self.faults.fields(tree, NodeFile, where, apart=("inputs", "settings"))
        kind = values.get("kind", "")
        given = self.faults.mapping(tree, "settings", f"{where}'settings'")
        inputs = self.faults.mapping(tree, "inputs", f"{where}'inputs'")
        found = self._class(kind) if "kind" in values else None
        if isinstance(found, str):
            self.faults.tell(tree.entries["kind"].line, f"{where}{found}")
            found = None
        written = (
            {}
            if given is None
            else {
                str(key): _Setting(value, given.lines[key]) for key, value in given.entries.items()
            }
        )
        return _Draft(
            name, line, kind, found, inputs or yaml_file.Mapping({}, {}, line), written,
            values.get("on_error", "stop"),
        )  # fmt: skip

    def _class(self, kind: str) -> type[Node[Any]] | str:
        """The kind's class, or why there is none."""
        if kind not in self._classes:
            self._classes[kind] = self._find_class(kind)
        return self._classes[kind]

    def _find_class(self, kind: str) -> type[Node[Any]] | str:
        packages = self._packages
        file = packages.kinds.get(kind)
        if file is None:
            if kind in packages.nearly:
                name = class_name(kind)
                return (
                    f"unknown kind {kind!r}: its file {packages.nearly[kind]} has no class {name}; "
                    f"expected `class {name}(Node[{name}Settings])`"
                )
            broken = "".join(f" ({reason})" for reason in packages.broken)
            hint = self.faults.like(kind, packages.kinds) or "; `streamflow nodes` lists them"
            return f"unknown kind {short(kind)}{hint}{broken}"
        if file.also:
            return f"kind {kind!r} is ambiguous: {file.file} and {file.also}; rename one of them"
        try:
            return load_class(kind, file)
        except GraphError as error:
            return f"kind {kind!r}: {error}"

    def _override(self, text: str, drafts: Mapping[str, _Draft]) -> None:
        """Put `node.setting=value` in the place of what the file says."""
        target, equals, value = text.partition("=")
        node, dot, setting = target.strip().partition(".")
        if not (equals and dot and node and setting):
            self.faults.tell(0, "expected node.setting=value", text)
            return
        draft = drafts.get(node)
        if draft is None:
            known = ", ".join(drafts) or "none"
            hint = self.faults.like(node, drafts)
            self.faults.tell(0, f"the graph has no node {node!r}; it has: {known}{hint}", text)
            return
        wanted = None
        if draft.node_class is not None:
            wanted = settings.types_of(draft.node_class.settings_type).get(setting)
        tree = self._override_value(text, value, wanted)
        if tree is not None:
            draft.settings[setting] = _Setting(tree, 0, text)

    def _override_value(self, text: str, value: str, wanted: Any) -> Tree | None:
        only_text = wanted is not None and settings.is_text(wanted)
        try:
            tree = yaml_file.parse(value or "''", "--set")
        except GraphError as error:
            if only_text:  # a path may look like broken YAML: it was never meant to be YAML
                return Scalar(value, value, False, 0)
            self.faults.tell(0, f"the value is {error.faults[0].message}", text)
            return None
        if only_text and not (isinstance(tree, Scalar) and not tree.plain):
            null = isinstance(tree, Scalar) and tree.value is None and settings.allows_null(wanted)
            return tree if null else Scalar(value, value, False, 0)
        return settings.as_text(tree, wanted) if wanted is not None else tree

    # --- edges ------------------------------------------------------------------------------------

    def _edges(self, draft: _Draft, drafts: Mapping[str, _Draft]) -> list[EdgeSpec]:
        """The node's edges in the order of its ports, for as much of it as is right."""
        if draft.node_class is None:  # its ports are unknown: only the far ends can be checked
            for name, tree in draft.inputs.entries.items():
                self._edge(draft, str(name), tree, drafts)
            return []
        where, ports = f"node {draft.name!r}: ", draft.node_class.inputs
        for name in draft.inputs.entries:
            if name not in ports:
                known = ", ".join(ports) or "none, it is a source"
                hint = self.faults.like(name, ports)
                line = draft.inputs.lines[name]
                what = f"{draft.kind} has no input {short(name)}; it has: {known}{hint}"
                self.faults.tell(line, f"{where}{what}")
        edges = []
        for name, port in ports.items():
            if name in draft.inputs.entries:
                edge = self._edge(draft, name, draft.inputs.entries[name], drafts)
                if edge is not None:
                    edges.append(edge)
            elif not port.optional:
                fitting = _fitting(port.payload, draft, drafts)
                what = (
                    f"input {name!r} is not connected; expected `inputs: {{{name}: node.output}}`"
                )
                self.faults.tell(draft.line, f"{where}{what}{fitting}")
        return edges

    def _edge(
        self, draft: _Draft, name: str, tree: Tree, drafts: Mapping[str, _Draft]
    ) -> EdgeSpec | None:
        where = f"node {draft.name!r}: input {name!r}: "
        line = draft.inputs.lines.get(name, tree.line)
        if not isinstance(tree, yaml_file.Mapping):
            tree = yaml_file.Mapping({"from": tree}, {"from": tree.line}, tree.line)
        values = self.faults.fields(tree, InputFile, where, apart=("from",))
        when_full = values.get("when_full", "block")
        if when_full == "latest":
            for key in ("capacity", "window"):
                if values.get(key) not in (None, 1):
                    what = f"{key!r} is {values[key]}; 'latest' always has 1: leave it out"
                    self.faults.tell(tree.lines[key], f"{where}{what}")
        origin = self._origin(draft, name, tree, drafts)
        if origin is None:
            return None
        source, output = origin
        return EdgeSpec(
            source=source,
            output=output,
            node=draft.name,
            input=name,
            when_full=when_full,
            capacity=values.get("capacity") or (1 if when_full == "latest" else 64),
            window=values.get("window") or (8 if when_full == "block" else 1),
            max_packet=values.get("max_packet", 16 * MEBIBYTE),
            compress=values.get("compress", "none"),
            line=line,
        )

    def _origin(
        self, draft: _Draft, name: str, tree: yaml_file.Mapping, drafts: Mapping[str, _Draft]
    ) -> tuple[str, str] | None:
        """The producer's node and output, when its payload is one that the input takes."""
        where = f"node {draft.name!r}: input {name!r}: "
        given = tree.entries.get("from")
        if given is None:
            return None
        line, value = given.line, yaml_file.plain(given)
        if isinstance(value, list):
            what = "'from' is a list, but an input has one producer; join the streams in a node"
            self.faults.tell(line, f"{where}{what}")
            return None
        if not (isinstance(value, str) and ORIGIN.fullmatch(value)):
            there = drafts.get(value) if isinstance(value, str) else None
            outputs = there.node_class.outputs if there and there.node_class else {}
            hint = "".join(f"; did you mean {value}.{output}?" for output in list(outputs)[:1])
            self.faults.tell(line, f"{where}{short(value)}; expected node.output{hint}")
            return None
        source, _, output = value.partition(".")
        producer = drafts.get(source)
        if producer is None:
            hint = self.faults.like(source, drafts)
            self.faults.tell(line, f"{where}the graph has no node {source!r}{hint}")
            return None
        if producer.node_class is None:  # its own fault is told already
            return source, output
        outputs = producer.node_class.outputs
        if output not in outputs:
            known = ", ".join(outputs) or "none, it is a sink"
            hint = self.faults.like(output, outputs)
            what = f"{source!r} ({producer.kind}) has no output {output!r}; it has: {known}{hint}"
            self.faults.tell(line, f"{where}node {what}")
            return None
        packing = tree.entries.get("compress")
        if packing is not None and yaml_file.plain(packing) == "events8":
            carried = outputs[output].payload
            if not issubclass(carried, Events):
                what = f"compress: events8 packs Events, but {value} carries {carried.__name__}"
                self.faults.tell(packing.line, f"{where}{what}; expected lz4, zstd or none")
        port = draft.node_class.inputs.get(name) if draft.node_class else None
        if port is not None and port.payload is not outputs[output].payload:
            wants, gives = port.payload.__name__, outputs[output].payload.__name__
            fitting = _fitting(port.payload, draft, drafts)
            self.faults.tell(line, f"{where}takes {wants}, but {value} carries {gives}{fitting}")
            return None
        return source, output

    def _order(
        self, inputs: Mapping[str, Sequence[EdgeSpec]], lines: Mapping[str, int]
    ) -> list[str]:
        """Nodes, producers first, otherwise as written; a fault for every loop."""
        producers = {name: [edge.source for edge in edges] for name, edges in inputs.items()}
        order: list[str] = []
        done: dict[str, bool] = {}  # False while the node is on the path

        for root in producers:  # depth first, with a stack of our own: a file may be long
            stack = [(root, iter(producers[root]))] if root not in done else []
            done.setdefault(root, False)
            while stack:
                name, left = stack[-1]
                for source in left:
                    if source not in done:
                        done[source] = False
                        stack.append((source, iter(producers[source])))
                        break
                    if not done[source]:
                        path = [node for node, _ in stack]
                        loop = [source, *reversed(path[path.index(source) :])]
                        what = f"{' -> '.join(loop)} is a loop; a graph has none: cut one edge"
                        self.faults.tell(lines[source], f"node {source!r}: {what}")
                else:
                    stack.pop()
                    done[name] = True
                    order.append(name)
        return order

    # --- settings ---------------------------------------------------------------------------------

    def _settings(self, draft: _Draft) -> tuple[dict[str, Any], dict[str, Any]]:
        """The node's settings as written (for the digest) and with absolute paths, all valid."""
        if draft.node_class is None:
            return {}, {}
        where, settings_type = f"node {draft.name!r}: ", draft.node_class.settings_type
        fields = settings.fields_of(settings_type)
        types = settings.types_of(settings_type)
        before, plain = len(self.faults.found), {}
        for key, setting in draft.settings.items():
            if key not in fields:
                known = ", ".join(fields) or "none"
                hint = self.faults.like(key, fields)
                what = f"{draft.kind} has no setting {short(key)}; it has: {known}{hint}"
                self.faults.tell(setting.line, f"{where}{what}", setting.override)
                continue
            what = f"{where}setting {key!r}"
            self.faults.convert(
                setting.tree, fields[key].type, what, setting.line, setting.override
            )
            plain[key] = yaml_file.plain(setting.tree)
        for key, field in fields.items():
            if field.required and key not in draft.settings:
                wants = settings.words(types[key])
                self.faults.tell(draft.line, f"{where}setting {key!r} is missing; expected {wants}")
        if len(self.faults.found) > before:
            return {}, {}
        try:
            whole = msgspec.convert(plain, settings_type)
        except (msgspec.ValidationError, ValueError) as error:
            overridden = [s.override for s in draft.settings.values() if s.override]
            at = f" (with --set {overridden[0]})" if overridden else ""
            self.faults.tell(draft.line, f"{where}settings: {error}{at}")
            return {}, {}
        written = msgspec.to_builtins(whole)
        absolute = dict(written)
        for key in fields:
            setting_given = draft.settings.get(key)
            here = setting_given is not None and setting_given.override
            folder = Path.cwd() if here else self.path.parent
            absolute[key] = settings.absolute(written[key], types[key], folder)
        return written, absolute

    # --- hosts ------------------------------------------------------------------------------------

    def _hosts(self, *, insecure: bool) -> dict[str, HostSpec]:
        given = self.faults.mapping(self.tree, "hosts", "'hosts'")
        found: dict[str, HostSpec] = {}
        for name, tree in given.entries.items() if given else ():
            line = given.lines[name] if given else 0
            if not (isinstance(name, str) and NAME.fullmatch(name)):
                what = "expected small letters, digits and '_', beginning with a letter"
                self.faults.tell(line, f"host name {short(name)}: {what}")
            elif not isinstance(tree, yaml_file.Mapping):
                shown = short(yaml_file.plain(tree))
                what = f"host {name!r} is {shown}; expected a mapping with 'address'"
                self.faults.tell(line, what)
            else:
                tree = yaml_file.Mapping(tree.entries, tree.lines, line)
                values = self.faults.fields(tree, HostFile, f"host {name!r}: ")
                key = values.get("key")
                address = values.get("address", "")
                if address and key is None and not insecure and not is_loopback(address):
                    what = (
                        f"host {name!r}: {address} is not this machine and has no 'key'; expected "
                        "the file with its public key (streamflow keys new), or `insecure: true`"
                    )
                    self.faults.tell(line, what)
                if key is not None:
                    key = os.path.abspath(self.path.parent / Path(key).expanduser())
                found[name] = HostSpec(name=name, address=address, key=key, line=line)
        return found

    # --- processes --------------------------------------------------------------------------------

    def _processes(
        self,
        drafts: Mapping[str, _Draft],
        order: Sequence[str],
        hosts: Mapping[str, HostSpec],
    ) -> list[ProcessSpec]:
        given = self.faults.mapping(self.tree, "processes", "'processes'")
        home: dict[str, str] = {}
        found: dict[str, ProcessSpec] = {}
        for name, tree in given.entries.items() if given else ():
            line = given.lines[name] if given else 0
            if not (isinstance(name, str) and NAME.fullmatch(name)):
                what = "expected small letters, digits and '_', beginning with a letter"
                self.faults.tell(line, f"process name {short(name)}: {what}")
            elif not isinstance(tree, yaml_file.Mapping):
                shown = short(yaml_file.plain(tree))
                self.faults.tell(
                    line, f"process {name!r} is {shown}; expected a mapping with 'nodes'"
                )
            else:
                tree = yaml_file.Mapping(tree.entries, tree.lines, line)
                found[name] = self._process(name, tree, drafts, home, hosts)
        for node in order:
            if node not in home and node in found:
                what = f"process {node!r} has the name of a node that it does not hold; rename it"
                self.faults.tell(given.lines[node] if given else 0, what)
            elif node not in home:
                home[node] = node
                found[node] = ProcessSpec(name=node, nodes=(node,))
        place = {node: index for index, node in enumerate(order)}
        specs = [
            msgspec.structs.replace(spec, nodes=tuple(sorted(spec.nodes, key=place.__getitem__)))
            for spec in found.values()
        ]
        return sorted(specs, key=lambda spec: min((place[n] for n in spec.nodes), default=0))

    def _process(
        self,
        name: str,
        tree: yaml_file.Mapping,
        drafts: Mapping[str, _Draft],
        home: dict[str, str],
        hosts: Mapping[str, HostSpec],
    ) -> ProcessSpec:
        where = f"process {name!r}: "
        restart_tree = tree.entries.get("restart")
        apart = ("restart",) if isinstance(restart_tree, yaml_file.Mapping) else ()
        values = self.faults.fields(tree, ProcessFile, where, apart)
        nodes, written = [], tree.entries.get("nodes")
        lines = (
            [item.line for item in written.items] if isinstance(written, yaml_file.Sequence) else []
        )
        for node, line in zip(values.get("nodes", ()), lines, strict=False):
            if node not in drafts:
                hint = self.faults.like(node, drafts)
                self.faults.tell(line, f"{where}the graph has no node {short(node)}{hint}")
            elif node in home:
                other = "twice here" if home[node] == name else f"in process {home[node]!r} too"
                self.faults.tell(line, f"{where}node {node!r} is {other}; a node has one process")
            else:
                home[node] = name
                nodes.append(node)
        restart = RestartSpec(when=values.get("restart", "never"))
        if isinstance(restart_tree, yaml_file.Mapping):
            fields = self.faults.fields(restart_tree, RestartSpec, f"{where}restart: ")
            if "when" not in restart_tree.entries:
                what = "'when' is missing; expected never or on_failure"
                self.faults.tell(restart_tree.line, f"{where}restart: {what}")
            restart = RestartSpec(**fields)
        host = values.get("host")
        if host is not None and host not in hosts:
            known = ", ".join(hosts) or "none"
            hint = self.faults.like(host, hosts)
            what = f"{where}the graph has no host {short(host)}; it has: {known}{hint}"
            self.faults.tell(tree.entries["host"].line, what)
        python = self._python(values.get("python"), tree, where, here=host is None)
        return ProcessSpec(name=name, nodes=tuple(nodes), restart=restart, python=python, host=host)

    def _python(
        self, given: str | None, tree: yaml_file.Mapping, where: str, *, here: bool
    ) -> str | None:
        """The interpreter's absolute path. Links are kept: a virtual environment is one."""
        if given is None:
            return None
        if not here:
            if not given.startswith("/"):
                what = f"{short(given)} on another host; expected an absolute path there"
                self.faults.tell(tree.entries["python"].line, f"{where}python: {what}")
            return given
        path = os.path.abspath(self.path.parent / Path(given).expanduser())
        found = shutil.which(path) or (None if "/" in given else shutil.which(given))
        if found is None:
            what = f"{short(given)} is no program here; expected a Python interpreter's path"
            self.faults.tell(tree.entries["python"].line, f"{where}python: {what}")
        return found

    def _digest(self, graph: Graph, written: Mapping[str, dict[str, Any]]) -> str:
        """The SHA-256 (hex) of what the graph says, without lines and absolute paths."""
        content = {
            "name": graph.name,
            "nodes": {
                name: [node.kind, written[name], node.inputs, node.on_error]
                for name, node in graph.nodes.items()
            },
            "processes": {
                name: [spec.nodes, spec.restart, bool(spec.python), spec.host]
                for name, spec in graph.processes.items()
            },
            "clock": [graph.clock, graph.speed],
            "limits": graph.limits,
        }
        content = msgspec.to_builtins(content)
        for node in content["nodes"].values():
            for edge in node[2]:
                del edge["line"]
        return hashlib.sha256(msgspec.msgpack.encode(content, order="deterministic")).hexdigest()


def _fitting(payload: type, draft: _Draft, drafts: Mapping[str, _Draft]) -> str:
    """`; Events: camera.events` for the outputs that an input could be fed from."""
    outputs = (
        f"{name}.{output}"
        for name, other in drafts.items()
        if other.node_class is not None and other is not draft
        for output, port in other.node_class.outputs.items()
        if port.payload is payload
    )
    first = list(islice(outputs, 5))
    more = ", ..." if len(first) == 5 else ""
    return f"; {payload.__name__}: {', '.join(first)}{more}" if first else ""
