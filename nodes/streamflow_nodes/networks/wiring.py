"""A NIR graph flattened: units in evaluation order, with shapes, and cycles opened in known places.

This is what every back end and the quantiser read. Nothing here depends on rules: a back end gets
both, `load(wiring, rules)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .nir_file import NetworkError, NirFile, read_nir

CONNECTIONS = ("Affine", "Linear", "Conv1d", "Conv2d")
"""What has weights, and what `synaptic_delay` delays."""
SPIKING = ("IF", "LIF", "CubaLIF", "Threshold")
"""What gives 0 or 1."""
NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")
"""What has a membrane potential."""
TIMED = {
    "LI": ("tau",), "LIF": ("tau",), "CubaLI": ("tau_syn", "tau_mem"),
    "CubaLIF": ("tau_syn", "tau_mem"), "Delay": ("delay",),
}  # fmt: skip
"""Parameters that are durations, in the file's unit of time (NIR means seconds)."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Link:
    """Where an input of a unit comes from.

    `recurrent` links close a cycle: they carry the value of an earlier step.
    """

    source: str
    recurrent: bool = False


@dataclass(frozen=True)
class Unit:
    """One node of the flattened graph.

    `inputs` are summed (NIR's rule for several edges into one node). Shapes are NIR's: channels
    first, no batch axis. `parameters` by NIR's names, as float64 except weights, which keep the
    file's type, in these forms:

        Affine, Linear        weight (..., outputs, inputs); bias (..., outputs) of an Affine
        Conv1d, Conv2d        weight (out, in / groups, [height,] width), bias (out,), groups int;
                              per spatial axis: stride, dilation (axes,) int64, padding (axes, 2)
                              int64 before and after
        SumPool2d, AvgPool2d  kernel_size, stride (2,) int64, padding (2, 2) int64 (zeros count in
                              the average)
        Flatten               nothing: the same numbers in the same (C) order
        Scale, Threshold, Delay, neurons   arrays of the unit's shape
    """

    name: str
    kind: str
    inputs: tuple[Link, ...]
    input_shape: Shape
    output_shape: Shape
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many numbers the unit gives in each step."""
        return math.prod(self.output_shape)

    @property
    def is_spiking(self) -> bool:
        """Whether the unit gives only 0 or 1."""
        return self.kind in SPIKING

    @property
    def is_neuron(self) -> bool:
        """Whether the unit has a membrane potential."""
        return self.kind in NEURONS


@dataclass(frozen=True)
class Wiring:
    """The units by name, in evaluation order: a unit comes after all that it takes without delay.

    `inputs` and `outputs` are the names of the Input and Output units. `repairs` says what had to
    be read otherwise than written, one sentence each, those of the file included.
    """

    units: dict[str, Unit]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    repairs: tuple[str, ...] = ()

    @property
    def spiking(self) -> tuple[str, ...]:
        """Names of the units that give spikes, in evaluation order."""
        return tuple(name for name, unit in self.units.items() if unit.is_spiking)

    @property
    def neurons(self) -> tuple[str, ...]:
        """Names of the units with a membrane potential, in evaluation order."""
        return tuple(name for name, unit in self.units.items() if unit.is_neuron)

    @property
    def timed(self) -> tuple[str, ...]:
        """Names of the units that hold durations: with any, the rules need a `dt`."""
        return tuple(
            name
            for name, unit in self.units.items()
            if any(np.any(unit.parameters[what] != 0) for what in TIMED.get(unit.kind, ()))
        )

    def consumers(self, name: str) -> tuple[tuple[str, Link], ...]:
        """Units that take what unit `name` gives, each with its link."""
        return tuple(
            (unit.name, link)
            for unit in self.units.values()
            for link in unit.inputs
            if link.source == name
        )

    def only_input(self) -> Unit:
        """The Input unit; NetworkError when there is not exactly one."""
        if len(self.inputs) != 1:
            raise NetworkError(
                f"{len(self.inputs)} inputs {list(self.inputs)}; a stream runs into one: split the "
                "network, or join its inputs into one with an Affine for each"
            )
        return self.units[self.inputs[0]]

    def only_output(self) -> Unit:
        """The Output unit; NetworkError when there is not exactly one."""
        if len(self.outputs) != 1:
            raise NetworkError(
                f"{len(self.outputs)} outputs {list(self.outputs)}; expected one: tap the others "
                "by the names of the layers before them"
            )
        return self.units[self.outputs[0]]

    def layer_before(self, output: str) -> str | None:
        """The unit whose values an Output hands out unchanged; None where several are summed."""
        links = self.units[output].inputs
        return links[0].source if len(links) == 1 and not links[0].recurrent else None

    def check_dt(self, dt: float | None) -> None:
        """NetworkError naming the units whose durations need a `dt` when there is none."""
        if dt is None and self.timed:
            names = ", ".join(f"{name!r} ({self.units[name].kind})" for name in self.timed)
            raise NetworkError(
                f"dt is missing: the file does not say it, and {names} hold time constants; give "
                "the time step that the network was trained with (s)"
            )

    def to_nir(self) -> Any:
        """The flattened, repaired graph as a nir.NIRGraph that passes NIR's own type check."""
        import nir

        nodes = {name: _nir_node(unit) for name, unit in self.units.items()}
        edges = [(link.source, name) for name, unit in self.units.items() for link in unit.inputs]
        return nir.NIRGraph(nodes, edges, dict(self.metadata), type_check=True)


def read_network(path: str | Path) -> Wiring:
    """The wiring of a NIR file; NetworkError, naming the file, when it cannot be had."""
    file = read_nir(path)
    try:
        return wire(file)
    except NetworkError as error:
        raise NetworkError(f"{path}: {error}") from error


def wire(source: NirFile | Any) -> Wiring:
    """The wiring of a NirFile or of a nir.NIRGraph (which need not have been type-checked).

    Nested graphs are taken apart, names joined with dots. Shapes are worked out from the inputs on.
    Of shapes that disagree, those are repaired that hold the same numbers and differ by axes of
    length 1, or by a Flatten that stops short of what its reader takes whole; a graph with one
    entrance or one exit and no Input or Output there gets one.

    Raises NetworkError where parameters or shapes do not fit, inputs lead nowhere, or a unit has
    none.
    """
    repairs: list[str] = []
    graph: Any = source
    if isinstance(source, NirFile):
        graph, repairs = source.graph, list(source.repairs)
    metadata = dict(graph.metadata) if isinstance(graph.metadata, dict) else {}
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    _flatten(graph, "", nodes, edges)
    _add_ends(nodes, edges, repairs)
    order, recurrent = _order(nodes, edges)
    units = _shaped(nodes, edges, order, recurrent, repairs)
    return Wiring(
        units,
        tuple(name for name in units if units[name].kind == "Input"),
        tuple(name for name in units if units[name].kind == "Output"),
        metadata,
        tuple(repairs),
    )


# --- nested graphs --------------------------------------------------------------------------------


def _kind(node: Any) -> str:
    return type(node).__name__


def _flatten(
    graph: Any, prefix: str, nodes: dict[str, Any], edges: list[tuple[str, str]]
) -> tuple[list[str], list[str]]:
    """Add the graph's nodes and edges under `prefix`; names of its Inputs and Outputs."""
    ways: dict[str, tuple[str, str]] = {}  # where edges into and out of a name lead
    for name, node in graph.nodes.items():
        full = prefix + name
        if _kind(node) == "NIRGraph":
            entrances, exits = _flatten(node, full + ".", nodes, edges)
            ways[name] = (
                _only(entrances, full, "Input"),
                _only(exits, full, "Output"),
            )
            continue
        if full in nodes:
            raise NetworkError(
                f"the name {full!r} stands for two nodes once nested graphs are flattened; rename "
                "one of them"
            )
        nodes[full] = node
        ways[name] = (full, full)
    for a, b in graph.edges:
        for name in (a, b):
            if name not in ways:
                raise NetworkError(f"the edge {a!r} to {b!r} names {name!r}, which is not there")
        edges.append((ways[a][1], ways[b][0]))
    if not prefix:
        return [], []
    ends = [
        [prefix + name for name, node in graph.nodes.items() if _kind(node) == kind]
        for kind in ("Input", "Output")
    ]
    return _bypassed(ends, nodes)


class _Way:
    """An Input or Output of a nested graph: handed through, and taken out once all is flat."""

    def __init__(self, node: Any) -> None:
        self.node = node


def _bypassed(ends: list[list[str]], nodes: dict[str, Any]) -> tuple[list[str], list[str]]:
    for names in ends:
        for name in names:
            nodes[name] = _Way(nodes[name])
    return ends[0], ends[1]


def _only(names: list[str], graph: str, what: str) -> str:
    if len(names) != 1:
        raise NetworkError(
            f"the nested graph {graph!r} has {len(names)} {what} nodes; expected one: an edge to "
            "the graph does not say which"
        )
    return names[0]


def _add_ends(nodes: dict[str, Any], edges: list[tuple[str, str]], repairs: list[str]) -> None:
    """Take out what hands through, and give a graph with one entrance or exit its Input, Output."""
    import nir

    for way in [name for name, node in nodes.items() if isinstance(node, _Way)]:
        before = [a for a, b in edges if b == way]
        after = [b for a, b in edges if a == way]
        edges[:] = [edge for edge in edges if way not in edge]
        joined = [(a, b) for a in before for b in after]
        if again := set(joined) & set(edges):
            a, b = next(iter(again))
            raise NetworkError(f"{a!r} reaches {b!r} twice, directly and through {way!r}")
        edges += joined
        del nodes[way]
    for kind, side in (("Input", 1), ("Output", 0)):
        if any(_kind(node) == kind for node in nodes.values()):
            continue
        linked = {edge[side] for edge in edges}
        ends = [name for name in nodes if name not in linked]
        name, verb = kind.lower(), "before" if side else "after"
        if len(ends) != 1 or name in nodes:
            raise NetworkError(
                f"the graph has no {kind}, and {len(ends)} nodes where one could be: {ends}; "
                f"add {kind} nodes where it is exported"
            )
        shape = nodes[ends[0]].input_type["input"] if side else np.array([0])
        if shape is None:
            raise NetworkError(f"the graph has no Input, and {ends[0]!r} does not say its shape")
        nodes[name] = nir.Input(shape) if side else nir.Output(None)
        edges.append((name, ends[0]) if side else (ends[0], name))
        repairs.append(f"The graph has no {kind}: one was put {verb} {ends[0]!r}.")


# --- order ----------------------------------------------------------------------------------------


def _order(
    nodes: dict[str, Any], edges: list[tuple[str, str]]
) -> tuple[list[str], set[tuple[str, str]]]:
    """Names in evaluation order, and the edges that carry the value of an earlier step.

    A depth-first walk from the inputs, by name where there is a choice, so that the order in which
    a file lists edges does not matter. The edge that closes a cycle is recurrent; where it comes
    from a unit with no state and one way in and out, the edge before that is taken instead, so that
    what is late is a neuron's output, and a bias counts from the first step on.
    """
    after: dict[str, list[str]] = {name: [] for name in nodes}
    before: dict[str, list[str]] = {name: [] for name in nodes}
    for a, b in edges:
        after[a].append(b)
        before[b].append(a)
    back = _closing(nodes, after)
    recurrent = set()
    for a, b in back:
        while (
            _kind(nodes[a]) not in (*NEURONS, "Threshold", "Delay", "Input")
            and len(before[a]) == len(after[a]) == 1
            and (before[a][0], a) not in back
        ):
            a, b = before[a][0], a
        recurrent.add((a, b))
    waiting = {name: sum((a, name) not in recurrent for a in before[name]) for name in nodes}
    order: list[str] = []
    ready = sorted((name for name in nodes if not waiting[name]), key=_natural, reverse=True)
    while ready:
        name = ready.pop()
        order.append(name)
        for then in sorted(after[name], key=_natural, reverse=True):
            if (name, then) not in recurrent:
                waiting[then] -= 1
                if not waiting[then]:
                    ready.append(then)
    return order, recurrent


def _closing(nodes: dict[str, Any], after: dict[str, list[str]]) -> set[tuple[str, str]]:
    """The edges that lead back to a node that the walk is still inside of."""
    back: set[tuple[str, str]] = set()
    state = dict.fromkeys(nodes, "new")
    for root in sorted((n for n in nodes if _kind(nodes[n]) == "Input"), key=_natural):
        if state[root] != "new":
            continue
        state[root] = "inside"
        walk: list[tuple[str, Iterator[str]]] = [(root, _sorted(after[root]))]
        while walk:
            name, following = walk[-1]
            for then in following:
                if state[then] == "inside":
                    back.add((name, then))
                elif state[then] == "new":
                    state[then] = "inside"
                    walk.append((then, _sorted(after[then])))
                    break
            else:
                state[name] = "done"
                walk.pop()
    if unreached := sorted(name for name in nodes if state[name] == "new"):
        raise NetworkError(
            f"no way leads from an Input to {', '.join(map(repr, unreached))}; expected every node "
            "to be fed: remove it, or add the missing edge"
        )
    return back


def _sorted(names: Iterable[str]) -> Iterator[str]:
    return iter(sorted(names, key=_natural))


def _natural(name: str) -> tuple[Any, ...]:
    """Sorts `2` before `10`."""
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in name.split("."))


# --- shapes and parameters ------------------------------------------------------------------------


def _shaped(
    nodes: dict[str, Any],
    edges: list[tuple[str, str]],
    order: list[str],
    recurrent: set[tuple[str, str]],
    repairs: list[str],
) -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    for name in order:
        links = tuple(
            Link(a, (a, b) in recurrent)
            for a, b in sorted(edges, key=lambda edge: _natural(edge[0]))
            if b == name
        )
        node = nodes[name]
        arriving = [
            (link.source, units[link.source].output_shape)
            for link in links
            if link.source in units and not link.recurrent
        ]
        arrives = arriving[0][1] if arriving else None
        try:
            units[name] = _unit(name, node, links, arrives, units, repairs)
        except NetworkError:
            raise
        except (ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:
            raise NetworkError(f"node {name!r} ({_kind(node)}): {error}") from error
    for unit in units.values():  # of the edges that close cycles both ends are known only now
        for link in unit.inputs:
            source = units[link.source]
            if source.output_shape == unit.input_shape:
                continue
            if not _is_same(source, unit):
                raise NetworkError(
                    f"{link.source!r} gives {source.output_shape} and {unit.name!r} ({unit.kind}) "
                    f"takes {unit.input_shape}; expected the same shape"
                )
            repairs.append(
                f"{link.source!r} gives {source.output_shape} where {unit.name!r} takes "
                f"{unit.input_shape}: read as the same {unit_count(unit.input_shape)}."
            )
    return units


def unit_count(shape: Shape) -> str:
    """How many numbers a shape holds, in words."""
    count = math.prod(shape)
    return f"{count} number" + ("s" if count != 1 else "")


def _is_same(source: Unit, unit: Unit) -> bool:
    """Whether the two shapes can only mean the same numbers in the same order."""
    a, b = source.output_shape, unit.input_shape
    if [n for n in a if n != 1] == [n for n in b if n != 1]:
        return True
    return math.prod(a) == math.prod(b) and source.kind == "Flatten" and len(b) == 1


def _shape(value: Any) -> Shape:
    shape = tuple(int(n) for n in np.asarray(value).reshape(-1))
    if any(n < 1 for n in shape) or math.prod(shape) > 1 << 28:
        raise ValueError(f"a shape of {shape}; expected lengths above 0")
    return shape


def _unit(
    name: str, node: Any, links: tuple[Link, ...], arrives: Shape | None, units: Any, repairs: Any
) -> Unit:
    kind = _kind(node)
    if kind == "Input":
        if links:
            raise ValueError("an Input that edges lead to")
        shape = _shape(node.input_type["input"])
        return Unit(name, kind, links, shape, shape)
    if kind == "Output":
        if arrives is None:
            raise ValueError("nothing arrives")
        declared = (node.output_type or {}).get("output")
        written = arrives if declared is None else _shape(declared)
        if written != arrives and [n for n in written if n != 1] == [n for n in arrives if n != 1]:
            repairs.append(
                f"Output {name!r} says {written} where {arrives} arrives: read as {arrives}, the "
                f"same {unit_count(arrives)}."
            )
            written = arrives
        return Unit(name, kind, links, written, written)
    build = _BUILDERS.get(kind, _elementwise)
    input_shape, output_shape, parameters = build(node, arrives)
    return Unit(name, kind, links, input_shape, output_shape, parameters)


_Built = tuple[Shape, Shape, dict[str, Any]]

_ELEMENTWISE = {
    "Scale": ("scale",),
    "Threshold": ("threshold",),
    "Delay": ("delay",),
    "I": ("r",),
    "IF": ("r", "v_threshold", "v_reset"),
    "LI": ("tau", "r", "v_leak"),
    "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"),
}


def _elementwise(node: Any, arrives: Shape | None) -> _Built:
    """What does the same at every place: its parameters' shape is its own.

    Parameters of one number, or with axes of length 1, hold for every place of those axes.
    """
    names = _ELEMENTWISE[_kind(node)]
    given = {what: np.asarray(getattr(node, what), np.float64) for what in names}
    shapes = {array.shape for array in given.values()}
    shape: Shape = np.broadcast_shapes(*shapes)
    if arrives is not None and shape != arrives:
        fits = math.prod(shape) == 1 or (
            len(shape) == len(arrives)
            and all(a in (1, b) for a, b in zip(shape, arrives, strict=True))
        )
        if fits:
            shape = arrives
    parameters = {
        what: np.ascontiguousarray(
            np.broadcast_to(array if array.size > 1 else array.reshape(()), shape)
        )
        for what, array in given.items()
    }
    for what in ("tau", "tau_mem", "tau_syn"):
        if what in parameters and (parameters[what] <= 0).any():
            raise ValueError(f"{what} is {parameters[what].min()}; expected above 0")
    if "delay" in parameters and (parameters["delay"] < 0).any():
        raise ValueError(f"delay is {parameters['delay'].min()}; expected 0 or more")
    return shape, shape, parameters


def _matrix(node: Any, arrives: Shape | None) -> _Built:
    weight = _weights(node.weight)
    before = weight.shape[:-2]
    taken, given = (*before, weight.shape[-1]), (*before, weight.shape[-2])
    parameters: dict[str, Any] = {"weight": weight}
    if _kind(node) == "Affine":
        bias = np.asarray(node.bias, np.float64)
        parameters["bias"] = np.ascontiguousarray(np.broadcast_to(bias, given))
    return taken, given, parameters


def _weights(value: Any) -> NDArray[Any]:
    weight = np.asarray(value)
    return np.ascontiguousarray(weight, None if weight.dtype.kind == "f" else np.float64)


def _per_axis(value: Any, axes: int, what: str, least: int) -> NDArray[np.int64]:
    array = np.asarray(value)
    whole = np.broadcast_to(array.reshape(-1), (axes,)).astype(np.int64)
    if (whole != array.reshape(-1)).any() or (whole < least).any():
        raise ValueError(f"{what} is {array}; expected {axes} whole numbers of at least {least}")
    return np.ascontiguousarray(whole)


def _padding(
    value: Any, kernel: NDArray[np.int64], dilation: NDArray[np.int64], stride: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(axes, 2) zeros before and after; `same` as torch does it: the odd one goes after."""
    if isinstance(value, str | bytes):
        word = value.decode() if isinstance(value, bytes) else value
        if word == "valid":
            return np.zeros((len(kernel), 2), np.int64)
        if word != "same" or (stride != 1).any():
            raise ValueError(f"padding {word!r} with stride {stride}; 'same' needs stride 1")
        total = dilation * (kernel - 1)
        return np.stack([total // 2, total - total // 2], axis=1)
    each = _per_axis(value, len(kernel), "padding", 0)
    return np.stack([each, each], axis=1)


def _spatial(shape: Shape, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Shape:
    lengths = (np.asarray(shape) + padding.sum(axis=1) - dilation * (kernel - 1) - 1) // stride + 1
    if (lengths < 1).any():
        raise ValueError(f"a kernel of {kernel} does not fit into {shape} with padding {padding}")
    return tuple(int(n) for n in lengths)


def _convolution(node: Any, arrives: Shape | None) -> _Built:
    axes = 1 if _kind(node) == "Conv1d" else 2
    weight = _weights(node.weight)
    if weight.ndim != axes + 2:
        raise ValueError(f"weight has shape {weight.shape}; expected {axes + 2} axes")
    groups = int(node.groups)
    kernel = np.array(weight.shape[2:], np.int64)
    stride = _per_axis(node.stride, axes, "stride", 1)
    dilation = _per_axis(node.dilation, axes, "dilation", 1)
    padding = _padding(node.padding, kernel, dilation, stride)
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"{groups} groups of {weight.shape[0]} outputs")
    channels = weight.shape[1] * groups
    if node.input_shape is not None:
        spatial = _shape(node.input_shape)
    elif arrives is not None and len(arrives) == axes + 1:
        spatial = arrives[1:]
    else:
        raise ValueError("input_shape is missing, and what arrives does not say it")
    if len(spatial) != axes:
        raise ValueError(f"input_shape is {spatial}; expected {axes} lengths")
    parameters = {
        "weight": weight,
        "bias": np.ascontiguousarray(
            np.broadcast_to(np.asarray(node.bias, np.float64), (weight.shape[0],))
        ),
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
    }
    given = (weight.shape[0], *_spatial(spatial, kernel, stride, padding, dilation))
    return (channels, *spatial), given, parameters


def _pool(node: Any, arrives: Shape | None) -> _Built:
    if arrives is None or len(arrives) != 3:
        raise ValueError(f"what arrives has shape {arrives}; expected (channels, height, width)")
    kernel = _per_axis(node.kernel_size, 2, "kernel_size", 1)
    stride = _per_axis(node.stride, 2, "stride", 1)
    one = np.ones(2, np.int64)
    padding = _padding(node.padding, kernel, one, stride)
    given = (arrives[0], *_spatial(arrives[1:], kernel, stride, padding, one))
    return arrives, given, {"kernel_size": kernel, "stride": stride, "padding": padding}


def _flattening(node: Any, arrives: Shape | None) -> _Built:
    declared = (node.input_type or {}).get("input")
    shape = arrives if declared is None else _shape(declared)
    if shape is None:
        raise ValueError("its input's shape is not known")
    start, end = int(node.start_dim), int(node.end_dim)
    first, last = (n + len(shape) if n < 0 else n for n in (start, end))
    if not 0 <= first < len(shape):
        first = last = 0 if len(shape) == 1 else -1  # start_dim 1 of one axis: nothing to flatten
    if not 0 <= first <= last < len(shape):
        raise ValueError(f"flattens dimensions {start} to {end} of {shape}")
    given = (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])
    return shape, given, {}


_BUILDERS = {
    "Affine": _matrix,
    "Linear": _matrix,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "SumPool2d": _pool,
    "AvgPool2d": _pool,
    "Flatten": _flattening,
}


# --- back to NIR ----------------------------------------------------------------------------------


def _nir_node(unit: Unit) -> Any:
    import nir

    kind, p = unit.kind, unit.parameters
    if kind == "Input":
        return nir.Input(np.array(unit.output_shape))
    if kind == "Output":
        return nir.Output(np.array(unit.output_shape))
    if kind == "Flatten":
        where = {"input": np.array(unit.input_shape)}
        for start in range(len(unit.input_shape)):
            for end in range(start, len(unit.input_shape)):
                node = nir.Flatten(where, start, end)
                if tuple(node.output_type["output"]) == unit.output_shape:
                    return node
        raise NetworkError(f"Flatten {unit.name!r} from {unit.input_shape} cannot be written")
    if kind in ("Conv1d", "Conv2d"):
        if (p["padding"][:, 0] != p["padding"][:, 1]).any():
            padding: Any = "same"
        else:
            padding = p["padding"][:, 0]
        spatial = unit.input_shape[1:]
        if kind == "Conv1d":
            return nir.Conv1d(
                spatial[0], p["weight"], int(p["stride"][0]),
                padding if isinstance(padding, str) else int(padding[0]),
                int(p["dilation"][0]), p["groups"], p["bias"],
            )  # fmt: skip
        return nir.Conv2d(
            np.array(spatial), p["weight"], p["stride"], padding, p["dilation"], p["groups"],
            p["bias"],
        )  # fmt: skip
    if kind in ("SumPool2d", "AvgPool2d"):
        return getattr(nir, kind)(p["kernel_size"], p["stride"], p["padding"][:, 0])
    return getattr(nir, kind)(**p)
