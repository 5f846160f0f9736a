"""The slow, obvious way to run a NIR graph: every primitive of NIR 1.0.8, one step at a time.

Plain numpy in float64, written from the equations and not from the engine, which is compared with
it. No speed, no events, no tricks: one function for each primitive, one loop over the steps.

What NIR leaves open is said by the caller: the time step, the integrator, what a spike does to the
membrane, how many steps a recurrent edge and a synapse take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np

SPIKING = (nir.IF, nir.LIF, nir.CubaLIF)
SYNAPSES = (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d)


@dataclass
class Recorded:
    """What each node gave, and where there is one its membrane: (steps, shape...) by node name."""

    given: dict[str, Any] = field(default_factory=dict)
    membrane: dict[str, Any] = field(default_factory=dict)
    output: Any = None


def flattened(graph: nir.NIRGraph, prefix: str = "") -> tuple[dict[str, Any], list[tuple]]:
    """All nodes and edges with those of nested graphs, named `graph.node`, in the file's order.

    An edge to a nested graph is one to its Input, an edge from it one from its Output.
    """
    nodes: dict[str, Any] = {}
    edges: list[tuple] = []

    def port(name: str, kind: type) -> str:
        node = graph.nodes[name]
        while isinstance(node, nir.NIRGraph):
            (inner,) = [key for key, n in node.nodes.items() if isinstance(n, kind)]
            name, node = f"{name}.{inner}", node.nodes[inner]
        return prefix + name

    for name, node in graph.nodes.items():
        if isinstance(node, nir.NIRGraph):
            inner_nodes, inner_edges = flattened(node, f"{prefix}{name}.")
            nodes |= inner_nodes
            edges += inner_edges
        else:
            nodes[prefix + name] = node
    edges += [(port(a, nir.Output), port(b, nir.Input)) for a, b in graph.edges]
    return nodes, edges


def pair(value: Any) -> tuple[int, int]:
    """`value` for rows and for columns."""
    flat = np.broadcast_to(np.asarray(value).reshape(-1), 2)
    return int(flat[0]), int(flat[1])


# --- without state -------------------------------------------------------------------------------


def convolve(x: Any, node: Any) -> Any:
    """Cross-correlation of x (channels, rows, columns) with weight (out, in / groups, kh, kw).

    y[o, i, j] = b[o] + sum_{c, m, n} w[o, c, m, n] x[c, s i + d m - p, s j + d n - p]
    """
    w = np.asarray(node.weight, np.float64)
    (sy, sx), (dy, dx) = pair(node.stride), pair(node.dilation)
    out, per_group, kh, kw = w.shape
    spans = dy * (kh - 1), dx * (kw - 1)
    if isinstance(node.padding, str):  # as torch: the odd one is added behind
        both = [(s // 2, s - s // 2) if node.padding == "same" else (0, 0) for s in spans]
    else:
        both = [(p, p) for p in pair(node.padding)]
    x = np.pad(x, [(0, 0), *both])
    rows, columns = (x.shape[1] - spans[0] - 1) // sy + 1, (x.shape[2] - spans[1] - 1) // sx + 1
    y = np.zeros((out, rows, columns)) + np.asarray(node.bias).reshape(-1, 1, 1)
    of_group = out // int(node.groups)
    for group in range(int(node.groups)):
        outs = slice(group * of_group, (group + 1) * of_group)
        ins = x[group * per_group : (group + 1) * per_group]
        for m in range(kh):
            for n in range(kw):
                piece = ins[:, dy * m :: sy, dx * n :: sx][:, :rows, :columns]
                y[outs] += np.tensordot(w[outs, :, m, n], piece, axes=1)
    return y


def convolve_1d(x: Any, node: Any) -> Any:
    """As `convolve`, over x (channels, length)."""
    flat = nir.Conv2d(
        None, node.weight[:, :, None, :], (1, int(np.squeeze(node.stride))),
        node.padding if isinstance(node.padding, str) else (0, int(np.squeeze(node.padding))),
        (1, int(np.squeeze(node.dilation))), node.groups, node.bias,
    )  # fmt: skip
    return convolve(x[:, None], flat)[:, 0]


def pool(x: Any, node: Any) -> Any:
    """Sums over windows of x (channels, rows, columns); padding counts as zeros."""
    (kh, kw), (sy, sx), (py, px) = (pair(v) for v in (node.kernel_size, node.stride, node.padding))
    x = np.pad(x, [(0, 0), (py, py), (px, px)])
    rows, columns = (x.shape[1] - kh) // sy + 1, (x.shape[2] - kw) // sx + 1
    y = np.zeros((x.shape[0], rows, columns))
    for m in range(kh):
        for n in range(kw):
            y += x[:, m::sy, n::sx][:, :rows, :columns]
    return y


def flatten(x: Any, node: Any) -> Any:
    first, last = int(node.start_dim), int(node.end_dim) % x.ndim
    return x.reshape(*x.shape[:first], -1, *x.shape[last + 1 :])


def stateless(x: Any, node: Any) -> Any:
    """What a node without state makes of `x`."""
    if isinstance(node, nir.Affine):
        return np.asarray(node.weight, np.float64) @ x + node.bias
    if isinstance(node, nir.Linear):
        return np.asarray(node.weight, np.float64) @ x
    if isinstance(node, nir.Scale):
        return x * np.asarray(node.scale, np.float64)
    if isinstance(node, nir.Conv2d):
        return convolve(x, node)
    if isinstance(node, nir.Conv1d):
        return convolve_1d(x, node)
    if isinstance(node, nir.SumPool2d):
        return pool(x, node)
    if isinstance(node, nir.AvgPool2d):
        return pool(x, node) / math.prod(pair(node.kernel_size))
    if isinstance(node, nir.Flatten):
        return flatten(x, node)
    if isinstance(node, nir.Threshold):
        return (x > node.threshold).astype(np.float64)
    return x  # Input, Output


# --- with state ----------------------------------------------------------------------------------


class Neurons:
    """I, IF, LI, LIF, CubaLI, CubaLIF: one step of

    IF:   v += r x                                        (I the same, without a threshold)
    LIF:  v = a v + (1 - a) (v_leak + r x)                (LI the same)
    CUBA: i = a_s i + (1 - a_s) w_in x, then LIF with i in place of x

    a = 1 - dt / tau (euler) or exp(-dt / tau) (exact: x is constant over the step). A spike where
    v > v_threshold; then v = v_reset (value) or v -= v_threshold (subtract).
    """

    def __init__(self, node: Any, dt: float | None, integrator: str, reset: str) -> None:
        self.node, self.reset = node, reset
        names = ("r", "v_leak", "v_threshold", "v_reset", "w_in")
        self.p = {n: np.asarray(getattr(node, n), np.float64) for n in names if hasattr(node, n)}
        self.is_spiking = isinstance(node, SPIKING)
        self.is_cuba = isinstance(node, nir.CubaLI | nir.CubaLIF)
        self.a = self.a_syn = None

        def decay(tau: Any) -> Any:
            assert dt is not None
            ratio = dt / np.asarray(tau, np.float64)
            return 1 - ratio if integrator == "euler" else np.exp(-ratio)

        if not isinstance(node, nir.I | nir.IF):
            self.a = decay(node.tau_mem if self.is_cuba else node.tau)
        if self.is_cuba:
            self.a_syn = decay(node.tau_syn)
        self.v = np.zeros(self.p["r"].shape) + self.p.get("v_leak", 0.0)  # at rest
        self.i = np.zeros(self.p["r"].shape)

    def step(self, x: Any) -> Any:
        p = self.p
        if self.is_cuba:
            self.i = x = self.a_syn * self.i + (1 - self.a_syn) * p["w_in"] * x
        if self.a is None:
            v = self.v + p["r"] * x
        else:
            v = self.a * self.v + (1 - self.a) * (p["v_leak"] + p["r"] * x)
        if not self.is_spiking:
            self.v = v
            return v
        z = v > p["v_threshold"]
        after = p["v_reset"] if self.reset == "value" else v - p["v_threshold"]
        self.v = np.where(z, after, v)
        return z.astype(np.float64)


class Late:
    """Gives each element `steps` steps later; zeros before."""

    def __init__(self, steps: Any) -> None:
        self.steps = np.asarray(steps)
        self.past: list[Any] = []

    def step(self, x: Any) -> Any:
        steps = np.broadcast_to(self.steps, np.shape(x))
        self.past.append(np.array(x, np.float64))
        out = np.zeros(np.shape(x))
        for at in np.ndindex(out.shape):
            index = len(self.past) - 1 - int(steps[at])
            out[at] = self.past[index][at] if index >= 0 else 0.0
        return out


# --- the graph -----------------------------------------------------------------------------------


def late_edges(nodes: dict[str, Any], edges: list[tuple]) -> set[tuple]:
    """The edges that carry the value of an earlier step, so that no cycle is left.

    A walk from the inputs, deeper first, by name: the edge that leads back to where the walk is
    closes a cycle. Where it comes out of a chain of nodes without state, the edge into that chain
    is late instead: a neuron's spikes are late, and a bias behind them is not.
    """
    has_state = (*SPIKING, nir.I, nir.LI, nir.CubaLI, nir.Delay, nir.Threshold, nir.Input)
    found: set[tuple] = set()
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        for a, b in sorted(edges):
            if a != name:
                continue
            if b in [*path, name]:
                found.add((a, b))
            elif b not in done:
                walk(b, [*path, name])
        done.add(name)

    for name in sorted(nodes):
        if not any(b == name for _, b in edges):
            walk(name, [])
    late = set()
    for a, b in found:
        while not isinstance(nodes[a], has_state):
            into = [edge for edge in edges if edge[1] == a]
            out = [edge for edge in edges if edge[0] == a]
            if len(into) != 1 or len(out) != 1 or into[0] in found:
                break
            a, b = into[0]
        late.add((a, b))
    return late


def run(
    graph: nir.NIRGraph,
    x: Any,
    *,
    dt: float | None = None,
    integrator: str = "euler",
    reset: str = "value",
    recurrent_delay: int = 1,
    synaptic_delay: int = 0,
) -> Recorded:
    """The graph over x (steps, input shape...), all states at rest before the first step."""
    nodes, edges = flattened(graph)
    late = late_edges(nodes, edges)
    # those of nested graphs only hand on what they are given
    (entrance,) = [n for n in nodes if isinstance(nodes[n], nir.Input) and n in graph.nodes]
    (output,) = [n for n in nodes if isinstance(nodes[n], nir.Output) and n in graph.nodes]
    neuron_kinds = (nir.I, nir.IF, nir.LI, nir.LIF, nir.CubaLI, nir.CubaLIF)
    states: dict[str, Any] = {}
    for name, node in nodes.items():
        if isinstance(node, neuron_kinds):
            states[name] = Neurons(node, dt, integrator, reset)
        elif isinstance(node, nir.Delay):
            assert dt is not None
            states[name] = Late(np.rint(np.asarray(node.delay) / dt).astype(int))

    # each node's values of all steps so far; an edge takes the one that is as old as it says
    past: dict[str, list[Any]] = {name: [] for name in nodes}
    membranes: dict[str, list[Any]] = {n: [] for n, s in states.items() if isinstance(s, Neurons)}

    def age(edge: tuple) -> int:
        synapse = synaptic_delay if isinstance(nodes[edge[1]], SYNAPSES) else 0
        return max(synapse, recurrent_delay) if edge in late else synapse

    def value(name: str, step: int) -> Any:
        """What the node gives in this step, worked out when it is first asked for."""
        if len(past[name]) > step:
            return past[name][step]
        node = nodes[name]
        if name == entrance:
            given = np.asarray(x[step], np.float64).reshape(node.output_type["output"])
        else:
            into = 0.0  # broadcasts: the node's own shape is in its parameters
            for edge in sorted(edges):
                if edge[1] == name and step - age(edge) >= 0:
                    into = into + value(edge[0], step - age(edge))
            if np.ndim(into) == 0:  # nothing has arrived yet
                into = np.zeros(shape_into(nodes, edges, name))
            given = states[name].step(into) if name in states else stateless(into, node)
        past[name].append(np.array(given, np.float64))
        if name in membranes:
            membranes[name].append(states[name].v.copy())
        return past[name][step]

    for step in range(len(x)):
        for name in sorted(nodes):
            value(name, step)
    return Recorded(
        {name: np.array(values) for name, values in past.items()},
        {name: np.array(values) for name, values in membranes.items()},
        np.array(past[output]),
    )


def shape_into(nodes: dict[str, Any], edges: list[tuple], name: str) -> tuple[int, ...]:
    """The shape of what reaches a node."""
    node = nodes[name]
    if isinstance(node, nir.Affine | nir.Linear):
        return (node.weight.shape[-1],)
    if isinstance(node, nir.Conv1d | nir.Conv2d):  # nir itself takes the groups for one
        channels = node.weight.shape[1] * int(node.groups)
        return (channels, *np.reshape(node.input_shape, -1).tolist())
    for parameter in ("r", "scale", "threshold", "delay"):
        if hasattr(node, parameter):
            return np.shape(getattr(node, parameter))
    if isinstance(node, nir.Input) and not any(b == name for _, b in edges):
        return tuple(int(n) for n in node.input_type["input"])
    before = min(a for a, b in edges if b == name)
    into = np.zeros(shape_into(nodes, edges, before))
    return np.shape(stateless(into, nodes[before]))
