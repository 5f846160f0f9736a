"""Feed-forward spiking networks from NIR files, compiled to flat arrays for the kernels.

NIR says which neurons there are and how they are joined. It does not say the time step, the
integration rule or what a spike does to the membrane: `compile_network` is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nir
import numpy as np
from numpy.typing import NDArray

from .bounded_files import check_model
from .kernels import spiking_layers as rules
from .kernels.spiking_layers import run_window

Integrator = Literal["euler", "exact"]
Reset = Literal["value", "subtract"]
SUPPORTED = "Input, Flatten, Affine, Linear, LIF, CubaLIF and Output, one after another"


class NetworkError(ValueError):
    """A network that cannot be run as it is: which node, what was found, what is supported."""


@dataclass(frozen=True)
class Network:
    """A compiled network: what `run_window` needs, and what its file says about it."""

    input_shape: tuple[int, ...]
    sizes: NDArray[np.int64]  # (layers + 1,)
    kinds: NDArray[np.int64]  # (layers,)
    weights: NDArray[np.float32]  # (inputs, outputs) of each layer, flat
    bias: NDArray[np.float32]
    coefficients: NDArray[np.float64]  # (8, neurons)
    subtract: bool
    metadata: dict[str, Any]

    @property
    def outputs(self) -> int:
        """How many values the last layer gives."""
        return int(self.sizes[-1])

    def run(
        self, cells: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The output summed over all steps, (outputs,) float64, and the spikes of each layer.

        `cells` : (n,) int64, the input that each event excites, in time order; `ends` : (steps,)
        int64, where in `cells` each step ends.
        """
        total = np.empty(self.outputs, np.float64)
        spikes = np.zeros(len(self.kinds), np.int64)
        run_window(
            cells, ends, self.sizes, self.kinds, self.weights, self.bias,
            self.coefficients, self.subtract, total, spikes,
        )  # fmt: skip
        return total, spikes


def read_network(path: str, *, dt: float, integrator: Integrator, reset: Reset) -> Network:
    """The network of a NIR file, compiled for time steps of `dt` seconds.

    Raises NetworkError for a file that is not a NIR network or that holds what is not supported.
    """
    if not Path(path).is_file():
        raise NetworkError(f"{path}: no such file; expected a network in NIR format (.nir)")
    try:
        check_model(path)
        graph = nir.read(path)
    except Exception as error:  # nir raises whatever h5py, numpy or an assertion raises
        raise NetworkError(f"{path}: not a readable NIR network ({error})") from error
    try:
        return compile_network(graph, dt=dt, integrator=integrator, reset=reset)
    except NetworkError as error:
        raise NetworkError(f"{path}: {error}") from error


def compile_network(
    graph: nir.NIRGraph, *, dt: float, integrator: Integrator, reset: Reset
) -> Network:
    """The chain of NIR nodes as flat arrays, for time steps of `dt` seconds.

    LIF (tau v' = v_leak - v + r I) and CubaLIF (tau_syn i' = -i + w_in I, tau_mem v' = v_leak - v +
    r i) step with a = 1 - dt / tau, b = dt / tau (`euler`) or a = exp(-dt / tau), b = 1 - a
    (`exact`), the synapse before the membrane; see `kernels/spiking_layers.py`.
    """
    nodes = list(_chain(graph))
    (_, first), *middle = nodes
    shape = tuple(int(n) for n in np.asarray(first.input_type["input"]).reshape(-1))
    width = int(np.prod(shape))
    sizes: list[int] = [width]
    kinds: list[int] = []
    weights: list[NDArray[np.float32]] = []
    biases: list[NDArray[np.float32]] = []
    coefficients: list[NDArray[np.float64]] = []
    for name, node in middle:
        if isinstance(node, nir.Output):
            break
        if isinstance(node, nir.Flatten):
            _check_flatten(name, node, first=not kinds)
        elif isinstance(node, nir.Affine | nir.Linear):
            weight = np.asarray(node.weight)
            if weight.ndim != 2 or weight.shape[1] != sizes[-1]:
                raise NetworkError(
                    f"node {name!r} has weights {weight.shape}; expected (outputs, {sizes[-1]})"
                )
            sizes.append(weight.shape[0])
            kinds.append(rules.LINEAR)
            weights.append(np.ascontiguousarray(weight.T, np.float32).reshape(-1))
            bias = node.bias if isinstance(node, nir.Affine) else 0.0
            biases.append(_per_unit(name, "bias", bias, sizes[-1]).astype(np.float32))
            coefficients.append(np.zeros((8, sizes[-1])))
        elif isinstance(node, nir.LIF | nir.CubaLIF):
            if not kinds or kinds[-1] != rules.LINEAR:
                raise NetworkError(
                    f"node {name!r} ({type(node).__name__}) does not follow an Affine or Linear"
                )
            kinds[-1] = rules.CUBA_LIF if isinstance(node, nir.CubaLIF) else rules.LIF
            coefficients[-1] = _coefficients(name, node, sizes[-1], dt, integrator)
        else:
            raise NetworkError(
                f"node {name!r} is a {type(node).__name__}; this engine runs {SUPPORTED}"
            )
    if not kinds:
        raise NetworkError(f"no Affine or Linear layer; this engine runs {SUPPORTED}")
    return Network(
        shape,
        _fixed(np.array(sizes, np.int64)),
        _fixed(np.array(kinds, np.int64)),
        _fixed(np.concatenate(weights)),
        _fixed(np.concatenate(biases)),
        _fixed(np.ascontiguousarray(np.concatenate(coefficients, axis=1))),
        reset == "subtract",
        dict(graph.metadata),
    )


def _fixed(array: Any) -> Any:
    """The array, read-only: one Numba type for every network."""
    array.flags.writeable = False
    return array


def _chain(graph: nir.NIRGraph) -> Iterator[tuple[str, Any]]:
    """The nodes from Input to Output; NetworkError where the graph is not a chain."""
    after: dict[str, list[str]] = {}
    for source, target in graph.edges:
        after.setdefault(source, []).append(target)
    inputs = [name for name, node in graph.nodes.items() if isinstance(node, nir.Input)]
    if len(inputs) != 1:
        raise NetworkError(f"{len(inputs)} inputs {inputs}; this engine runs one")
    name, seen = inputs[0], set()
    while True:
        if name in seen:
            raise NetworkError(f"node {name!r} is in a cycle; this engine runs {SUPPORTED}")
        seen.add(name)
        yield name, graph.nodes[name]
        if isinstance(graph.nodes[name], nir.Output):
            break
        following = after.get(name, [])
        if len(following) != 1:
            raise NetworkError(
                f"node {name!r} leads to {following or 'nothing'}; this engine runs {SUPPORTED}"
            )
        name = following[0]
    if unused := set(graph.nodes) - seen:
        raise NetworkError(
            f"nodes {sorted(unused)} are off the chain; this engine runs {SUPPORTED}"
        )


def _check_flatten(name: str, node: Any, *, first: bool) -> None:
    start, end = int(node.start_dim), int(node.end_dim)
    length = len(np.asarray(node.input_type["input"]).reshape(-1))
    if not first or start not in (0, 1) or end not in (-1, length - 1):
        raise NetworkError(
            f"node {name!r} flattens dimensions {start} to {end} of {length}; expected all of the "
            "input's, before the first layer"
        )


def _per_unit(name: str, what: str, value: Any, units: int) -> NDArray[np.float64]:
    """`value` for each unit, (units,) float64; NetworkError when it does not fit."""
    array = np.asarray(value, np.float64)
    if array.size == 1:
        array = np.full(units, float(array.reshape(-1)[0]))
    array = array.reshape(-1)
    if array.shape != (units,) or not np.isfinite(array).all():
        raise NetworkError(
            f"node {name!r}: {what} has {array.size} values; expected {units} finite"
        )
    return array


def _coefficients(
    name: str, node: Any, units: int, dt: float, integrator: Integrator
) -> NDArray[np.float64]:
    """What one time step multiplies: (8, units), rows as in `kernels/spiking_layers.py`."""
    is_cuba = isinstance(node, nir.CubaLIF)

    def of(what: str) -> NDArray[np.float64]:
        return _per_unit(name, what, getattr(node, what), units)

    def decay(what: str) -> NDArray[np.float64]:
        tau = of(what)
        if (tau <= 0).any():
            raise NetworkError(f"node {name!r}: {what} {tau.min()} s; expected above 0")
        if integrator == "exact":
            return np.asarray(np.exp(-dt / tau))
        if (tau < dt).any():
            raise NetworkError(
                f"node {name!r}: {what} {tau.min()} s is shorter than the time step {dt} s, which "
                "the euler integrator cannot follow: use a shorter dt, or integrator exact"
            )
        return 1.0 - dt / tau

    out = np.zeros((8, units))
    out[rules.DECAY] = decay("tau_mem" if is_cuba else "tau")
    out[rules.GAIN] = 1.0 - out[rules.DECAY]
    out[rules.RESISTANCE] = of("r")
    out[rules.LEAK] = of("v_leak")
    out[rules.THRESHOLD] = of("v_threshold")
    out[rules.RESET] = of("v_reset")
    if is_cuba:
        out[rules.SYNAPSE_DECAY] = decay("tau_syn")
        out[rules.SYNAPSE_GAIN] = (1.0 - out[rules.SYNAPSE_DECAY]) * of("w_in")
    return out
