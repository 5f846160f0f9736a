"""Graph files: YAML -> a checked, immutable Graph, with every fault told at once.

Checking needs no process, device or socket, and imports only the kinds that the graph names. Each
fault says `file:line: node 'x': what is wrong; what was expected; did you mean`.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta

from . import settings, yaml_file
from .clock import Pace
from .edge import Policy
from .errors import Fault, GraphError
from .kinds import KindFile, class_name, kinds, load_class, node_class, scan
from .node import Node
from .yaml_file import Scalar, Tree, WholeFault, short

__all__ = [
    "EdgeSpec", "Graph", "KindFile", "Limits", "NodeSpec", "ProcessSpec", "RestartSpec",
    "kinds", "load", "node_class", "shipped",
]  # fmt: skip

MEBIBYTE = 1 << 20
NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = ("host", "affinity", "priority", "memory_limit", "on_error", "insecure")

Count = Annotated[int, Meta(ge=1, le=1 << 20)]
Bytes = Annotated[int, Meta(ge=4096, le=1 << 34)]
Duration = Annotated[float, Meta(gt=0, le=1e9)]
_NAMED = Meta(pattern="^[a-z][a-z0-9_]*$")


# --- what a graph file may hold: read from here by the checks, the JSON Schema and the reference --


class RestartSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens when a process dies."""

    when: Annotated[
        Literal["never", "on_failure"],
        Meta(description="`never`: the graph fails; `on_failure`: a successor takes over"),
    ] = "never"
    maximum: Annotated[Count, Meta(description="restarts allowed within `window`")] = 5
    window: Annotated[Duration, Meta(description="seconds over which restarts are counted")] = 60.0
    backoff: Annotated[
        Duration,
        Meta(description="seconds before the first restart; doubles with each, up to 30"),
    ] = 0.1


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds that hold for the whole graph."""

    inline_bytes: Annotated[
        int,
        Meta(ge=0, le=MEBIBYTE, description="payloads up to this many bytes travel in the message"),
    ] = 16384
    handler_seconds: Annotated[
        Duration, Meta(description="seconds a handler may take before its process counts as hung")
    ] = 30.0
    drain_seconds: Annotated[
        Duration, Meta(description="seconds that a stopping graph may take to empty its edges")
    ] = 10.0
    start_seconds: Annotated[
        Duration, Meta(description="seconds that all nodes together may take to open")
    ] = 120.0


class InputFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an input's packets come from and what happens when they come too fast."""

    origin: Annotated[
        str,
        Meta(
            description="the producer's port, as `node.output`",
            pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$",
        ),
    ] = msgspec.field(name="from")
    when_full: Annotated[
        Policy,
        Meta(
            description="`block` loses nothing: the producer waits. The others lose packets and "
            "count them: `drop_oldest` and `drop_newest` of those waiting; `latest` keeps one"
        ),
    ] = "block"
    capacity: Annotated[
        Count | None,
        Meta(description="packets that may wait at the producer (64; 1 for `latest`)"),
    ] = None
    window: Annotated[
        Count | None,
        Meta(description="packets that may be on their way (8 for `block`, 1 for the others)"),
    ] = None
    max_packet: Annotated[Bytes, Meta(description="bytes that one packet may have")] = 16 * MEBIBYTE


class NodeFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One node of the graph."""

    kind: Annotated[str, Meta(description="what the node is: see `streamflow nodes`")]
    inputs: Annotated[
        dict[str, str | InputFile],
        Meta(description="for each input the `node.output` it is fed from, or a mapping with more"),
    ] = {}
    settings: Annotated[dict[str, Any], Meta(description="the settings of this kind")] = {}


class ProcessFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nodes that share a process. Between them packets pass by reference."""

    nodes: Annotated[
        list[str], Meta(min_length=1, description="names of nodes; each in one process at most")
    ]
    restart: Annotated[
        Literal["never", "on_failure"] | RestartSpec,
        Meta(description="what happens when the process dies"),
    ] = "never"
    python: Annotated[
        str | None,
        Meta(description="another Python interpreter, relative to the graph file or on the PATH"),
    ] = None


class GraphFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A graph of nodes. Edges are written at the consumer, under `inputs`."""

    nodes: Annotated[
        dict[Annotated[str, _NAMED], NodeFile], Meta(min_length=1, description="nodes by name")
    ]
    name: Annotated[
        Annotated[str, _NAMED] | None,
        Meta(description="the graph's name (by default that of its folder or file)"),
    ] = None
    processes: Annotated[
        dict[Annotated[str, _NAMED], ProcessFile],
        Meta(description="processes by name; a node that none lists has its own"),
    ] = {}
    clock: Annotated[
        Pace,
        Meta(
            description="`fast`: recordings as fast as they can be handled; `paced`: at the speed "
            "they were made; `realtime`: devices set the pace"
        ),
    ] = "fast"
    speed: Annotated[
        Annotated[float, Meta(gt=0, le=1e6)], Meta(description="times the speed, when `paced`")
    ] = 1.0
    limits: Annotated[Limits, Meta(description="bounds for the whole graph")] = Limits()


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
    line: int = 0


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One process and its nodes, producers before consumers. `python` is None for this one."""

    name: str
    nodes: tuple[str, ...]
    restart: RestartSpec = RestartSpec()
    python: str | None = None


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
    return _Loader(path, shown, yaml_file.read(path, shown)).graph(overrides, clock)


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
    like = _Words().like(str(source), graphs)
    what = f"no such graph; expected a file, or a shipped graph ({names}){like}"
    raise GraphError([WholeFault(str(source), 0, what)])


class _Words:
    """Says "did you mean" a bounded number of times: comparing names costs time."""

    def __init__(self) -> None:
        self._left = 20

    def like(self, name: object, known: Iterable[str]) -> str:
        """`; did you mean 'x'?` when something of the sort is known."""
        if self._left == 0 or len(str(name)) > 64:
            return ""
        self._left -= 1
        close = difflib.get_close_matches(str(name), list(known)[:500], 1)
        return f"; did you mean {close[0]!r}?" if close else ""


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


class _Loader:
    """One file on its way to a Graph: gathers faults, and raises them all together."""

    def __init__(self, path: Path, shown: str, tree: Tree) -> None:
        self.path, self.shown, self.tree = path, shown, tree
        self.faults: list[Fault] = []
        self.words = _Words()
        self._classes: dict[str, type[Node[Any]] | str] = {}

    def fault(self, line: int, message: str) -> None:
        self.faults.append(Fault(self.shown, line, message))

    def graph(self, overrides: Sequence[str], clock: str | None) -> Graph:
        if not isinstance(self.tree, yaml_file.Mapping):
            self.fault(self.tree.line, "a graph is a mapping with 'nodes'")
            raise GraphError(self.faults)
        shape = self._fields(self.tree, GraphFile, "", apart=("nodes", "processes", "limits"))
        limits = Limits()
        if (given := self._part(self.tree, "limits", "limits")) is not None:
            limits = Limits(**self._fields(given, Limits, "limits: "))
        drafts = self._drafts(overrides)
        edges = [edge for draft in drafts.values() for edge in self._edges(draft, drafts)]
        order = self._order(drafts, edges)
        values = {name: self._settings(draft) for name, draft in drafts.items()}
        processes = self._processes(drafts, order)
        if clock is not None and clock not in get_args(Pace):
            expected = ", ".join(get_args(Pace))
            self.faults.append(
                WholeFault("--clock", 0, f"{clock!r} is no pace; expected one of: {expected}")
            )
        self._raise()
        name = shape.get("name") or (
            self.path.parent.name if self.path.name == "graph.yaml" else self.path.stem
        )
        home = {node: process.name for process in processes for node in process.nodes}
        nodes = {
            node: NodeSpec(
                name=node,
                kind=drafts[node].kind,
                settings=values[node][1],
                inputs=tuple(edge for edge in edges if edge.node == node),
                process=home[node],
                outputs=tuple(drafts[node].node_class.outputs),  # type: ignore[union-attr]  # None is a fault, raised above
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
        )
        written = {node: as_written for node, (as_written, _) in values.items()}
        return msgspec.structs.replace(graph, digest=self._digest(graph, written))

    def _raise(self) -> None:
        if not self.faults:
            return
        self.faults.sort(key=lambda fault: (isinstance(fault, WholeFault), fault.line))
        if (more := len(self.faults) - yaml_file.MAXIMUM_FAULTS) > 0:
            self.faults[yaml_file.MAXIMUM_FAULTS :] = [
                WholeFault(self.shown, 0, f"and {more} more faults")
            ]
        raise GraphError(self.faults)

    # --- shapes -----------------------------------------------------------------------------------

    def _part(self, tree: yaml_file.Mapping, key: str, what: str) -> yaml_file.Mapping | None:
        """The mapping under `key`, if it is there; a fault when it is something else."""
        part = tree.entries.get(key)
        if part is None or isinstance(part, yaml_file.Mapping):
            return part
        if not (isinstance(part, Scalar) and part.value is None):
            found = short(yaml_file.plain(part))
            self.fault(part.line, f"{what} is {found}; expected a mapping")
            return None
        return yaml_file.Mapping({}, {}, part.line)

    def _fields(
        self,
        tree: yaml_file.Mapping,
        shape: type[msgspec.Struct],
        where: str,
        apart: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The valid fields of `tree`, by attribute name, but those checked `apart`."""
        fields = {field.encode_name: field for field in msgspec.structs.fields(shape)}
        for key in tree.entries:
            if key not in fields:
                self._unknown(tree.lines[key], where, key, fields)
        values = {}
        for key, field in fields.items():
            if key not in tree.entries:
                if field.required:
                    self.fault(tree.line, f"{where}{key!r} is missing")
            elif key not in apart:
                given = tree.entries[key]
                value = self._convert(given, field.type, f"{where}{key!r}", given.line)
                if value is not _BAD:
                    values[field.name] = value
        return values

    def _unknown(self, line: int, where: str, key: object, known: Iterable[str]) -> None:
        if key in RESERVED:
            what = f"{key!r} is reserved for later work and does nothing yet; remove it"
        else:
            names = ", ".join(known) or "nothing"
            what = f"unknown key {short(key)}; expected: {names}{self.words.like(key, known)}"
        self.fault(line, f"{where}{what}")

    def _convert(self, tree: Tree, wanted: Any, what: str, line: int, override: str = "") -> Any:
        """`tree` as the type `wanted`, or `_BAD` and a fault at the very value that is wrong."""
        value = yaml_file.plain(tree)
        try:
            return msgspec.convert(value, wanted)
        except (msgspec.ValidationError, ValueError, OverflowError) as error:
            why, _, at = str(error).partition(" - at `$")
            culprit, line = _walk(tree, at.rstrip("`"), line)
            found = short(yaml_file.plain(culprit))
            names = settings.choices(msgspec.inspect.type_info(wanted))
            message = f"{what}{at.rstrip('`')} is {found}; {_said(why, names)}"
            if isinstance(culprit, Scalar):
                if why.startswith("Invalid enum value"):
                    message += self.words.like(culprit.text, names)
                elif "Expected `str" in why and culprit.value is not None:
                    message += f'; quote it if it is text: "{culprit.text}"'
            self._tell(override, line, message)
            return _BAD

    def _tell(self, override: str, line: int, message: str) -> None:
        """A fault of the override, if there is one, else of the file's line."""
        if override:
            self.faults.append(WholeFault(f"--set {override}", 0, message))
        else:
            self.fault(line, message)

    # --- nodes ------------------------------------------------------------------------------------

    def _drafts(self, overrides: Sequence[str]) -> dict[str, _Draft]:
        nodes = self._part(self.tree, "nodes", "'nodes'")  # type: ignore[arg-type]  # a Mapping: checked first
        drafts: dict[str, _Draft] = {}
        if nodes is None:
            return drafts
        if not nodes.entries:
            self.fault(nodes.line, "the graph has no nodes; expected at least one under 'nodes'")
        for name, tree in nodes.entries.items():
            line = nodes.lines[name]
            if not (isinstance(name, str) and NAME.fullmatch(name)):
                what = "expected small letters, digits and '_', beginning with a letter"
                self.fault(line, f"node name {short(name)}: {what}")
            elif not isinstance(tree, yaml_file.Mapping):
                found = short(yaml_file.plain(tree))
                self.fault(line, f"node {name!r} is {found}; expected a mapping with 'kind'")
            else:
                drafts[name] = self._draft(name, line, tree)
        for text in overrides:
            self._override(text, drafts)
        return drafts

    def _draft(self, name: str, line: int, tree: yaml_file.Mapping) -> _Draft:
        where = f"node {name!r}: "
        # a node without lines of its own, {}, is told at its name
        tree = yaml_file.Mapping(tree.entries, tree.lines, line)
        kind = self._fields(tree, NodeFile, where, apart=("inputs", "settings")).get("kind", "")
        given = self._part(tree, "settings", f"{where}'settings'")
        inputs = self._part(tree, "inputs", f"{where}'inputs'")
        found = self._class(kind) if kind else None
        if isinstance(found, str):
            self.fault(tree.entries["kind"].line, f"{where}{found}")
            found = None
        written = (
            {}
            if given is None
            else {
                str(key): _Setting(value, given.lines[key]) for key, value in given.entries.items()
            }
        )
        return _Draft(name, line, kind, found, inputs or yaml_file.Mapping({}, {}, line), written)

    def _class(self, kind: str) -> type[Node[Any]] | str:
        """The kind's class, or why there is none."""
        if kind not in self._classes:
            self._classes[kind] = self._find_class(kind)
        return self._classes[kind]

    def _find_class(self, kind: str) -> type[Node[Any]] | str:
        packages = scan()
        file = packages.kinds.get(kind)
        if file is None:
            if kind in packages.nearly:
                name = class_name(kind)
                return (
                    f"unknown kind {kind!r}: its file {packages.nearly[kind]} has no class {name}; "
                    f"expected `class {name}(Node[{name}Settings])`"
                )
            broken = "".join(f" ({reason})" for reason in packages.broken)
            like = self.words.like(kind, packages.kinds) or "; `streamflow nodes` lists them"
            return f"unknown kind {short(kind)}{like}{broken}"
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
            self._tell(text, 0, "expected node.setting=value")
            return
        draft = drafts.get(node)
        if draft is None:
            known = ", ".join(drafts) or "none"
            like = self.words.like(node, drafts)
            self._tell(text, 0, f"the graph has no node {node!r}; it has: {known}{like}")
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
            self._tell(text, 0, f"the value is no YAML: {error.faults[0].message}")
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
                like = self.words.like(name, ports)
                line = draft.inputs.lines[name]
                what = f"{draft.kind} has no input {short(name)}; it has: {known}{like}"
                self.fault(line, f"{where}{what}")
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
                self.fault(draft.line, f"{where}{what}{fitting}")
        return edges

    def _edge(
        self, draft: _Draft, name: str, tree: Tree, drafts: Mapping[str, _Draft]
    ) -> EdgeSpec | None:
        where = f"node {draft.name!r}: input {name!r}: "
        line = draft.inputs.lines.get(name, tree.line)
        if isinstance(tree, yaml_file.Sequence):
            what = "an input has one producer, and here is a list; join the streams in a node first"
            self.fault(line, f"{where}{what}")
            return None
        if isinstance(tree, Scalar):
            if not isinstance(tree.value, str):
                self.fault(line, f"{where}{short(tree.value)}; expected node.output")
                return None
            tree = yaml_file.Mapping({"from": tree}, {"from": tree.line}, tree.line)
        apart = ("from",) if isinstance(tree.entries.get("from"), yaml_file.Sequence) else ()
        values = self._fields(tree, InputFile, where, apart)
        if apart:
            self.fault(
                line, f"{where}'from' is a list; an input has one producer: join the streams first"
            )
        when_full = values.get("when_full", "block")
        if when_full == "latest":
            for key in ("capacity", "window"):
                if values.get(key) not in (None, 1):
                    what = f"{key!r} is {values[key]}; 'latest' always has 1: leave it out"
                    self.fault(tree.lines[key], f"{where}{what}")
        origin = values.get("origin")
        if origin is None or not self._origin(origin, draft, name, tree, drafts):
            return None
        source, _, output = origin.partition(".")
        return EdgeSpec(
            source=source,
            output=output,
            node=draft.name,
            input=name,
            when_full=when_full,
            capacity=values.get("capacity") or (1 if when_full == "latest" else 64),
            window=values.get("window") or (8 if when_full == "block" else 1),
            max_packet=values.get("max_packet", 16 * MEBIBYTE),
            line=line,
        )

    def _origin(
        self,
        origin: str,
        draft: _Draft,
        name: str,
        tree: yaml_file.Mapping,
        drafts: Mapping[str, _Draft],
    ) -> bool:
        """Whether `origin` is an output whose payload the input takes."""
        where = f"node {draft.name!r}: input {name!r}: "
        source, _, output = origin.partition(".")
        line, producer = tree.entries["from"].line, drafts.get(source)
        if producer is None:
            like = self.words.like(source, drafts)
            self.fault(line, f"{where}the graph has no node {source!r}{like}")
            return False
        if producer.node_class is None:  # its own fault is told already
            return True
        outputs = producer.node_class.outputs
        if output not in outputs:
            known = ", ".join(outputs) or "none, it is a sink"
            like = self.words.like(output, outputs)
            what = (
                f"node {source!r} ({producer.kind}) has no output {output!r}; it has: {known}{like}"
            )
            self.fault(line, f"{where}{what}")
            return False
        port = draft.node_class.inputs.get(name) if draft.node_class else None
        if port is not None and port.payload is not outputs[output].payload:
            wants, gives = port.payload.__name__, outputs[output].payload.__name__
            fitting = _fitting(port.payload, draft, drafts)
            self.fault(line, f"{where}takes {wants}, but {origin} carries {gives}{fitting}")
            return False
        return True

    def _order(self, drafts: Mapping[str, _Draft], edges: Sequence[EdgeSpec]) -> list[str]:
        """Nodes, producers first, otherwise as written; a fault for every loop."""
        producers: dict[str, list[str]] = {name: [] for name in drafts}
        for edge in edges:
            producers[edge.node].append(edge.source)
        order: list[str] = []
        done: dict[str, bool] = {}  # False while the node is on the path

        for root in drafts:  # depth first, with a stack of our own: a file may be long
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
                        self.fault(drafts[source].line, f"node {source!r}: {what}")
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
        fields = {field.encode_name: field for field in msgspec.structs.fields(settings_type)}
        types = settings.types_of(settings_type)
        before, plain = len(self.faults), {}
        for key, setting in draft.settings.items():
            if key not in fields:
                known = ", ".join(fields) or "none"
                like = self.words.like(key, fields)
                what = f"{draft.kind} has no setting {short(key)}; it has: {known}{like}"
                self._tell(setting.override, setting.line, f"{where}{what}")
                continue
            what = f"{where}setting {key!r}"
            self._convert(setting.tree, fields[key].type, what, setting.line, setting.override)
            plain[key] = yaml_file.plain(setting.tree)
        for key, field in fields.items():
            if field.required and key not in draft.settings:
                wants = settings.words(types[key])
                self.fault(draft.line, f"{where}setting {key!r} is missing; expected {wants}")
        if len(self.faults) > before:
            return {}, {}
        try:
            whole = msgspec.convert(plain, settings_type)
        except (msgspec.ValidationError, ValueError) as error:
            overridden = [s.override for s in draft.settings.values() if s.override]
            at = f" (with --set {overridden[0]})" if overridden else ""
            self.fault(draft.line, f"{where}settings: {error}{at}")
            return {}, {}
        written = msgspec.to_builtins(whole)
        absolute = dict(written)
        for key in fields:
            setting_given = draft.settings.get(key)
            here = setting_given is not None and setting_given.override
            folder = Path.cwd() if here else self.path.parent
            absolute[key] = settings.absolute(written[key], types[key], folder)
        return written, absolute

    # --- processes --------------------------------------------------------------------------------

    def _processes(self, drafts: Mapping[str, _Draft], order: Sequence[str]) -> list[ProcessSpec]:
        given = self._part(self.tree, "processes", "'processes'")  # type: ignore[arg-type]  # a Mapping: checked first
        home: dict[str, str] = {}
        found: dict[str, ProcessSpec] = {}
        for name, tree in given.entries.items() if given else ():
            line = given.lines[name] if given else 0
            if not (isinstance(name, str) and NAME.fullmatch(name)):
                what = "expected small letters, digits and '_', beginning with a letter"
                self.fault(line, f"process name {short(name)}: {what}")
            elif not isinstance(tree, yaml_file.Mapping):
                shown = short(yaml_file.plain(tree))
                self.fault(line, f"process {name!r} is {shown}; expected a mapping with 'nodes'")
            else:
                tree = yaml_file.Mapping(tree.entries, tree.lines, line)
                found[name] = self._process(name, tree, drafts, home)
        for node in order:
            if node not in home and node in found:
                what = f"process {node!r} has the name of a node that it does not hold; rename it"
                self.fault(given.lines[node] if given else 0, what)
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
    ) -> ProcessSpec:
        where = f"process {name!r}: "
        restart_tree = tree.entries.get("restart")
        apart = ("restart",) if isinstance(restart_tree, yaml_file.Mapping) else ()
        values = self._fields(tree, ProcessFile, where, apart)
        nodes = []
        for node in values.get("nodes", ()):
            line = tree.entries["nodes"].line
            if node not in drafts:
                like = self.words.like(node, drafts)
                self.fault(line, f"{where}the graph has no node {short(node)}{like}")
            elif node in home:
                other = "twice here" if home[node] == name else f"in process {home[node]!r} too"
                self.fault(line, f"{where}node {node!r} is {other}; a node has one process")
            else:
                home[node] = name
                nodes.append(node)
        restart = RestartSpec(when=values.get("restart", "never"))
        if isinstance(restart_tree, yaml_file.Mapping):
            fields = self._fields(restart_tree, RestartSpec, f"{where}restart: ")
            if "when" not in restart_tree.entries:
                what = "'when' is missing; expected never or on_failure"
                self.fault(restart_tree.line, f"{where}restart: {what}")
            restart = RestartSpec(**fields)
        python = self._python(values.get("python"), tree, where)
        return ProcessSpec(name=name, nodes=tuple(nodes), restart=restart, python=python)

    def _python(self, given: str | None, tree: yaml_file.Mapping, where: str) -> str | None:
        """The interpreter's absolute path. Links are kept: a virtual environment is one."""
        if given is None:
            return None
        path = os.path.abspath(self.path.parent / Path(given).expanduser())
        found = shutil.which(path) or (None if "/" in given else shutil.which(given))
        if found is None:
            what = f"{short(given)} is no program here; expected a Python interpreter's path"
            self.fault(tree.entries["python"].line, f"{where}python: {what}")
        return found

    def _digest(self, graph: Graph, written: Mapping[str, dict[str, Any]]) -> str:
        """The SHA-256 (hex) of what the graph says, without lines and absolute paths."""
        content = {
            "name": graph.name,
            "nodes": {
                name: [node.kind, written[name], node.inputs] for name, node in graph.nodes.items()
            },
            "processes": {
                name: [spec.nodes, spec.restart, bool(spec.python)]
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


_BAD: Any = object()


def _walk(tree: Tree, at: str, line: int) -> tuple[Tree, int]:
    """The value at a path such as `[0].name` in `tree`, and its line; as far as there is one."""
    for index, key in re.findall(r"\[(\d+)\]|\.(\w+)", at):
        if index and isinstance(tree, yaml_file.Sequence):
            tree = tree.items[int(index)]
        elif key and isinstance(tree, yaml_file.Mapping) and key in tree.entries:
            tree = tree.entries[key]
        else:
            break
        line = tree.line
    return tree, line


def _said(why: str, names: Sequence[str]) -> str:
    """The reason msgspec gives, as the second half of our sentence."""
    if why.startswith("Invalid enum value") and names:
        return f"expected one of: {', '.join(names)}"
    return why[:1].lower() + why[1:]


def _fitting(payload: type, draft: _Draft, drafts: Mapping[str, _Draft]) -> str:
    """`; Events come from: camera.events` for the outputs that an input could be fed from."""
    outputs = [
        f"{name}.{output}"
        for name, other in drafts.items()
        if other.node_class is not None and other is not draft
        for output, port in other.node_class.outputs.items()
        if port.payload is payload
    ]
    if not outputs:
        return ""
    more = ", ..." if len(outputs) > 5 else ""
    return f"; {payload.__name__} come from: {', '.join(outputs[:5])}{more}"
