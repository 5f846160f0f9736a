"""A network in Loihi's integers, and the emulator that runs it: the rules are in
`docs/fixed-point.md`, their kernel in `kernels/loihi2.py`.

A network is populations, in the order in which they are updated, and the connections between them.
Numbers are integers as they would be loaded; where they come from a float network, `quantise` keeps
the scale factors beside them.
"""  # fmt: skip

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..kernels import loihi2 as kernel
from .nir_file import NetworkError

Kind = Literal["lif", "sigma_delta", "delta", "readout"]
SignMode = Literal["mixed", "excitatory", "inhibitory"]
Ints = int | Sequence[int] | NDArray[Any]

KINDS: dict[str, int] = {
    "lif": kernel.LIF,
    "sigma_delta": kernel.SIGMA_DELTA,
    "delta": kernel.DELTA,
    "readout": kernel.READOUT,
}
INPUT = "input"
"""The source of connections that carry what is given to a step."""

NO_THRESHOLD = (1 << 17) - 1  # above what a saturated membrane exceeds, once shifted: see `_vth`
LONGEST_DELAY = 63  # steps: 6 bits


class Loihi2Error(NetworkError):
    """What Loihi 2 cannot represent: which layer, what was found, what is possible."""


# Bounds of what is loaded: (least, most), and what Loihi keeps it in.
BOUNDS = {
    "du": (0, 4095, "12 bits"),
    "dv": (0, 4095, "12 bits"),
    "bias_mant": (-4096, 4095, "13 bits with a sign"),
    "bias_exp": (0, 7, "3 bits"),
    "vth": (0, NO_THRESHOLD, "17 bits"),
    "refractory": (0, 63, "6 bits"),
}


@dataclass(frozen=True)
class Population:
    """Neurons of one kind. Each parameter is one number for all, or one for each in NIR's order.

    `lif` uses du, dv, bias_mant, bias_exp, vth, refractory; `sigma_delta` uses vth and bias_mant
    (both shifted left by spike_exp + state_exp), relu, spike_exp, state_exp; `delta` encodes values
    into changes by vth, spike_exp, state_exp; a `readout` gives its sums plus bias_mant <<
    bias_exp. `spikes=False` makes a `lif` that only integrates.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind = "lif"
    du: Ints = 4095
    dv: Ints = 0
    bias_mant: Ints = 0
    bias_exp: Ints = 0
    vth: Ints = 0
    refractory: Ints = 0
    relu: bool = True
    spike_exp: int = 0
    state_exp: int = 0
    spikes: bool = True

    @property
    def size(self) -> int:
        """Neurons."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Connection:
    """Weights from a population (or the input) to another, as Loihi has them.

    `weights` are what is loaded, -256..255 at most: `weight_bits` and `sign_mode` (None: by the
    weights' signs) truncate them as `effective_weights` says. The sum of a step is shifted by
    `weight_exp`. Layouts, channels first:

    dense   (outputs, inputs), of the flattened source after its `pools`
    conv    (outputs, inputs / groups, rows, columns), a correlation as in torch and NIR
    direct  (inputs,) or one number: each unit to its own, after the pools

    `pools` are sum pools (kernel, stride, padding), each of (y, x), before the weights. `delay` is
    in steps, for all; `delays` for each weight of a dense connection.
    """

    source: str
    target: str
    weights: NDArray[Any]
    kind: Literal["dense", "conv", "direct"] = "dense"
    weight_exp: int = 0
    weight_bits: int = 8
    sign_mode: SignMode | None = None
    delay: int = 0
    delays: NDArray[Any] | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    pools: tuple[tuple[tuple[int, int], tuple[int, int], tuple[int, int]], ...] = ()

    @property
    def name(self) -> str:
        """As it is called in errors."""
        return f"{self.source} -> {self.target}"


@dataclass(frozen=True)
class Loihi2Network:
    """Populations in the order of their updates, and connections.

    `synaptic_delay` is how many steps every message through dense or conv weights takes besides: 0
    (NIR), or 1 (Lava, where each layer answers a step later). A connection to an earlier
    population, or to its own, takes one step at least.
    """

    input_shape: tuple[int, ...]
    populations: tuple[Population, ...]
    connections: tuple[Connection, ...]
    synaptic_delay: int = 0

    def population(self, name: str) -> Population:
        """By its name."""
        for population in self.populations:
            if population.name == name:
                return population
        raise KeyError(name)

    def shape_of(self, source: str) -> tuple[int, ...]:
        """Of a population, or of the input."""
        return self.input_shape if source == INPUT else self.population(source).shape


def sign_mode_of(weights: NDArray[Any]) -> SignMode:
    """The mode that Lava takes for weights whose mode is not said."""
    if weights.size == 0 or weights.min() >= 0:
        return "excitatory"
    return "inhibitory" if weights.max() <= 0 else "mixed"


def effective_weights(
    weights: NDArray[Any], weight_bits: int = 8, sign_mode: SignMode | None = None
) -> NDArray[np.int16]:
    """The weights as they act: clipped to 8 bits and a sign, and cut to `weight_bits`.

        n = 8 - weight_bits, one more where signs are mixed
        mixed       clip to -256..255, then (w >> n) << n: toward minus infinity
        excitatory  clip to 0..255, then the same
        inhibitory  as excitatory, of -w: toward zero

    So 8 bits with mixed signs are the even numbers -256..254. Lava's `clip_weights` and
    `truncate_weights`.
    """
    mode = sign_mode or sign_mode_of(weights)
    flip = -1 if mode == "inhibitory" else 1
    cut = 8 - weight_bits + (mode == "mixed")
    clipped = np.clip(flip * np.asarray(weights, np.int64), -256 if mode == "mixed" else 0, 255)
    return np.asarray(flip * ((clipped >> cut) << cut), np.int16)


@dataclass
class Tables:
    """A network as the kernel takes it: `kernels/loihi2.py` says what each array is."""

    populations: NDArray[np.int64]
    connections: NDArray[np.int64]
    incoming: NDArray[np.int64]
    outgoing: NDArray[np.int64]
    run_ends: NDArray[np.int32]
    runs: NDArray[np.int32]
    weights: NDArray[np.int16]
    delays: NDArray[np.uint8]
    neurons: NDArray[np.int32]
    sums: int
    scratch: int
    places: dict[str, NDArray[np.int64]]
    """For each population, where each neuron of NIR's order is in the kernel's."""

    def packed(self) -> tuple[NDArray[Any], ...]:
        """What does not change, as `step_packed` takes it: plan, tables, weights, delays."""
        head = [
            len(self.populations), len(self.connections), len(self.incoming), len(self.outgoing),
            len(self.run_ends), len(self.runs), self.neurons.shape[1], self.sums, self.scratch,
        ]  # fmt: skip
        plan = [self.populations, self.connections, self.incoming, self.outgoing]
        tables = [self.run_ends, self.runs, self.neurons]
        return (
            _fixed(np.concatenate([head, *(part.reshape(-1) for part in plan)]).astype(np.int64)),
            _fixed(np.concatenate([part.reshape(-1) for part in tables])),
            self.weights,
            self.delays,
        )


def places_of(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Where each neuron of NIR's order (channel, y, x) is in the kernel's (y, x, channel)."""
    size = int(np.prod(shape))
    if len(shape) != 3:
        return np.arange(size)
    channels, rows, columns = shape
    order = np.arange(size).reshape(rows, columns, channels)
    return np.ascontiguousarray(order.transpose(2, 0, 1)).reshape(-1)


def compile_tables(network: Loihi2Network) -> Tables:
    """The network's flat arrays; Loihi2Error where a number does not fit what Loihi keeps it in."""
    index = {population.name: at for at, population in enumerate(network.populations)}
    if len(index) < len(network.populations) or INPUT in index:
        raise Loihi2Error(f"two populations of one name, or one called {INPUT!r}: {list(index)}")
    places = {p.name: places_of(p.shape) for p in network.populations}
    firsts = np.cumsum([0, *(p.size for p in network.populations)])
    ordered = sorted(network.connections, key=lambda c: _index(index, c, c.target))
    rows, run_ends, runs, weights, delays = [], [np.zeros(0, np.int32)], [], [], []
    ends = used = sums = total = scratch = 0
    any_delays = any(connection.delays is not None for connection in ordered)
    for connection in ordered:
        size = network.population(connection.target).size
        later = _later(network, index, connection)
        table = _runs(network, connection, places)
        depth = later + 1
        if connection.delays is not None:
            depth += int(table.delays.max(initial=0))
            scratch = max(scratch, depth * size)
        rows.append(
            [index[connection.target], ends, later, _exponent(connection), sums, depth,
             connection.delays is not None, _is_whole(table, size)]
        )  # fmt: skip
        run_ends.append(table.ends + total)
        runs.append(table.runs + np.array([0, used, 0], np.int32))
        weights.append(table.weights)
        if any_delays:  # one for each weight, whatever the connection
            delays.append(
                table.delays
                if connection.delays is not None
                else np.zeros(len(table.weights), np.uint8)
            )
        ends += len(table.ends)
        total += len(table.runs)
        used += len(table.weights)
        sums += depth * size
    targets = [row[kernel.TARGET] for row in rows]
    outgoing: list[int] = []
    about = np.zeros((len(network.populations), kernel.POPULATION_COLUMNS), np.int64)
    neurons = np.zeros((5, int(firsts[-1])), np.int32)
    for at, population in enumerate(network.populations):
        mine = slice(int(firsts[at]), int(firsts[at + 1]))
        neurons[:, mine] = _neurons(population, places[population.name])
        into = [row for row, target in zip(rows, targets, strict=True) if target == at]
        sends = [i for i, c in enumerate(ordered) if c.source == population.name]
        about[at] = (
            KINDS[population.kind], firsts[at], population.size,
            _is_lazy(population, neurons[:, mine], into),
            targets.index(at) if into else 0, targets.index(at) + len(into) if into else 0,
            len(outgoing), len(outgoing) + len(sends),
            population.relu, population.state_exp, population.spike_exp,
        )  # fmt: skip
        outgoing += sends
    longest = max(p.size for p in network.populations)
    return Tables(
        _fixed(about), _fixed(np.array(rows, np.int64)),
        _fixed(np.array([i for i, c in enumerate(ordered) if c.source == INPUT], np.int64)),
        _fixed(np.array(outgoing, np.int64)), _fixed(np.concatenate(run_ends).astype(np.int32)),
        _fixed(np.concatenate(runs).astype(np.int32)), _fixed(np.concatenate(weights)),
        _fixed(np.concatenate(delays) if any_delays else np.zeros(0, np.uint8)),
        _fixed(neurons), sums, max(scratch, longest), places,
    )  # fmt: skip


def _fixed(array: Any) -> Any:
    """The array, contiguous and read-only: one Numba type for every network."""
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array


def _index(index: dict[str, int], connection: Connection, name: str) -> int:
    if name not in index:
        raise Loihi2Error(
            f"connection {connection.name}: no population {name!r}; there are {list(index)}"
        )
    return index[name]


def _later(network: Loihi2Network, index: dict[str, int], connection: Connection) -> int:
    """The steps that every message of the connection waits."""
    later = network.synaptic_delay if connection.kind != "direct" else 0
    if connection.source != INPUT:
        source = _index(index, connection, connection.source)
        if source >= index[connection.target]:
            later = max(later, 1)
    most = connection.delay
    if connection.delays is not None:
        most += int(np.max(connection.delays, initial=0))
        if connection.kind != "dense" or np.shape(connection.delays) != connection.weights.shape:
            raise Loihi2Error(
                f"connection {connection.name}: delays {np.shape(connection.delays)} for "
                f"{connection.kind} weights {connection.weights.shape}; expected one for each "
                "weight of a dense connection"
            )
        if np.min(connection.delays, initial=0) < 0:
            raise Loihi2Error(f"connection {connection.name}: a delay below 0")
    if connection.delay < 0 or most > LONGEST_DELAY:
        raise Loihi2Error(
            f"connection {connection.name}: a delay of {most} steps; Loihi 2 has 0 to "
            f"{LONGEST_DELAY} (6 bits): use a longer time step"
        )
    return later + connection.delay


def _is_whole(table: _RunTable, size: int) -> bool:
    """Whether each unit of the source has one run, over the whole target."""
    whole = (table.runs[:, kernel.RUN_TARGET] == 0) & (table.runs[:, kernel.RUN_LENGTH] == size)
    return bool((np.diff(table.ends) == 1).all() and whole.all())


def _exponent(connection: Connection) -> int:
    if not -8 <= connection.weight_exp <= 7:
        raise Loihi2Error(
            f"connection {connection.name}: weight exponent {connection.weight_exp}; Loihi has -8 "
            "to 7 (4 bits)"
        )
    return connection.weight_exp


def _neurons(population: Population, places: NDArray[np.int64]) -> NDArray[np.int32]:
    """keep_u, keep_v, bias, vth and refractory of each neuron, in the kernel's order."""

    def of(what: str) -> NDArray[np.int64]:
        value = np.asarray(getattr(population, what))
        least, most, kept = BOUNDS[what]
        if value.dtype.kind not in "iub" or value.size not in (1, population.size):
            raise Loihi2Error(
                f"population {population.name!r}: {what} is {value.dtype} of {value.size}; "
                f"expected 1 or {population.size} integers"
            )
        if population.kind == "lif" and (value.min() < least or value.max() > most):
            worst = value.min() if value.min() < least else value.max()
            raise Loihi2Error(
                f"population {population.name!r}: {what} {worst}; Loihi keeps it in {kept}: "
                f"{least} to {most}"
            )
        out = np.empty(population.size, np.int64)
        out[places] = np.broadcast_to(value.astype(np.int64).reshape(-1), population.size)
        return out

    shift = population.spike_exp + population.state_exp
    keep_u, keep_v = 4096 - (of("du") + 1), 4096 - of("dv")
    if population.kind in ("sigma_delta", "delta"):
        bias, vth = of("bias_mant") << shift, of("vth") << shift
    else:
        bias, vth = of("bias_mant") << of("bias_exp"), of("vth") << kernel.ALIGN
    if not population.spikes:
        vth = np.full(population.size, kernel.LIMIT)
    if population.kind == "delta" and bias.any():
        raise Loihi2Error(f"population {population.name!r}: a delta encoder has no bias")
    return np.stack([keep_u, keep_v, bias, vth, of("refractory")]).astype(np.int32)


def _is_lazy(population: Population, neurons: NDArray[np.int32], into: list[list[Any]]) -> bool:
    """Whether a neuron that no message reached cannot change: see the kernel's `_integrate`."""
    keep_u, keep_v, bias, _, refractory = neurons
    return (
        population.kind == "lif"
        and not (keep_u.any() or bias.any() or refractory.any())
        and bool((keep_v == 4096).all())
        and len(into) == 1
        and into[0][kernel.DEPTH] == 1
        and not into[0][kernel.DELAYED]
    )


@dataclass
class _RunTable:
    """The runs of one connection: where each unit's start, the runs, the weights, their delays."""

    ends: NDArray[np.int32]
    runs: NDArray[np.int32]
    weights: NDArray[np.int16]
    delays: NDArray[np.uint8]


def _runs(
    network: Loihi2Network, connection: Connection, places: dict[str, NDArray[np.int64]]
) -> _RunTable:
    shape = network.shape_of(connection.source)
    target = network.population(connection.target)
    source_places = (
        np.arange(int(np.prod(shape))) if connection.source == INPUT else places[connection.source]
    )
    raw = np.asarray(connection.weights)
    if raw.dtype.kind not in "iu":
        raise Loihi2Error(f"connection {connection.name}: weights are {raw.dtype}, not integers")
    if not 1 <= connection.weight_bits <= 8:
        raise Loihi2Error(
            f"connection {connection.name}: {connection.weight_bits} weight bits; Loihi has 1 to 8"
        )
    effective = effective_weights(raw, connection.weight_bits, connection.sign_mode)
    if connection.kind == "dense":
        found = _dense_runs(connection, effective, shape, target, places[target.name])
    elif connection.kind == "conv":
        found = _conv_runs(connection, effective, shape, target)
    else:
        found = _direct_runs(connection, effective, shape, target, places[target.name])
    sources, runs, weights, delays = found
    sources = source_places[sources]
    order = np.argsort(sources, kind="stable")
    counts = np.bincount(sources, minlength=int(np.prod(shape)))
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return _RunTable(ends, runs[order].astype(np.int32), weights, delays)


def matrix_of(network: Loihi2Network, connection: Connection) -> NDArray[np.int16]:
    """The connection as a matrix of effective weights, (targets, sources) in NIR's order.

    A way through overlapping pools adds up, and may leave what one weight can hold: Loihi2Error.
    """
    places = {p.name: places_of(p.shape) for p in network.populations}
    table = _runs(network, connection, places)
    target = network.population(connection.target)
    size = int(np.prod(network.shape_of(connection.source)))
    rows = np.zeros((size, target.size), np.int64)
    for unit in range(size):
        for first, weight, length in table.runs[table.ends[unit] : table.ends[unit + 1]]:
            rows[unit, first : first + length] += table.weights[weight : weight + length]
    if np.abs(rows).max(initial=0) > 256:
        raise Loihi2Error(f"connection {connection.name}: pools overlap, and weights add up")
    sources = np.arange(size) if connection.source == INPUT else places[connection.source]
    return np.asarray(rows[sources][:, places[target.name]].T, np.int16)


Runs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int16], NDArray[np.uint8]]


def _dense_runs(
    connection: Connection,
    weights: NDArray[np.int16],
    shape: tuple[int, ...],
    target: Population,
    places: NDArray[np.int64],
) -> Runs:
    """One run for each input: its whole row of weights."""
    unit, pooled, pooled_shape = _pooled(connection, shape)
    inputs = int(np.prod(pooled_shape))
    if weights.shape != (target.size, inputs):
        raise Loihi2Error(
            f"connection {connection.name}: weights {weights.shape}; expected "
            f"({target.size}, {inputs})"
        )
    rows = np.empty((inputs, target.size), np.int16)
    rows[:, places] = weights.T
    delays = np.zeros(0, np.uint8)
    if connection.delays is not None:
        late = np.empty((inputs, target.size), np.uint8)
        late[:, places] = np.asarray(connection.delays).T
        delays = late.reshape(-1)
    runs = np.stack(
        [np.zeros_like(pooled), pooled * target.size, np.full_like(pooled, target.size)], axis=1
    )
    return unit, runs, rows.reshape(-1), delays


def _conv_runs(
    connection: Connection,
    weights: NDArray[np.int16],
    shape: tuple[int, ...],
    target: Population,
) -> Runs:
    """A run for each tap of the kernel that an input reaches: the channels of one pixel."""
    if len(shape) != 3 or len(target.shape) != 3 or weights.ndim != 4:
        raise Loihi2Error(
            f"connection {connection.name}: a convolution from {shape} to {target.shape}; expected "
            "(channels, rows, columns)"
        )
    unit, pooled, (channels, rows, columns) = _pooled(connection, shape)
    outputs, per_group, height, width = weights.shape
    groups = connection.groups
    fits = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(
            (rows, columns), connection.padding, connection.dilation, (height, width),
            connection.stride, strict=True,
        )
    )  # fmt: skip
    if (outputs, *fits) != target.shape or per_group * groups != channels or outputs % groups:
        raise Loihi2Error(
            f"connection {connection.name}: weights {weights.shape} in {groups} groups over "
            f"{(channels, rows, columns)} give {(outputs, *fits)}; its target is {target.shape}"
        )
    channel, y, x = np.unravel_index(pooled, (channels, rows, columns))
    together = outputs // groups
    # (input channel, tap, output channel of its group): the outputs of a tap lie together
    grouped = weights.reshape(groups, together, per_group, height, width)
    flat = np.ascontiguousarray(grouped.transpose(0, 2, 3, 4, 1)).reshape(-1)
    sources, found = [], []
    for row in range(height):
        for column in range(width):
            down = y + connection.padding[0] - row * connection.dilation[0]
            right = x + connection.padding[1] - column * connection.dilation[1]
            out_y, rest_y = np.divmod(down, connection.stride[0])
            out_x, rest_x = np.divmod(right, connection.stride[1])
            reaches = (
                (rest_y == 0) & (rest_x == 0)
                & (out_y >= 0) & (out_y < fits[0]) & (out_x >= 0) & (out_x < fits[1])
            )  # fmt: skip
            into = (out_y * fits[1] + out_x) * outputs + channel // per_group * together
            tap = ((channel * height + row) * width + column) * together
            sources.append(unit[reaches])
            found.append(np.stack([into, tap, np.full_like(tap, together)], axis=1)[reaches])
    return np.concatenate(sources), np.concatenate(found), flat, np.zeros(0, np.uint8)


def _direct_runs(
    connection: Connection,
    weights: NDArray[np.int16],
    shape: tuple[int, ...],
    target: Population,
    places: NDArray[np.int64],
) -> Runs:
    """A run of one weight for each input."""
    unit, pooled, pooled_shape = _pooled(connection, shape)
    size = int(np.prod(pooled_shape))
    if size != target.size or weights.size not in (1, size):
        raise Loihi2Error(
            f"connection {connection.name}: {weights.size} weights for {size} inputs of "
            f"{target.size} neurons; expected one for each"
        )
    one = pooled if weights.size > 1 else np.zeros_like(pooled)
    runs = np.stack([places[pooled], one, np.ones_like(pooled)], axis=1)
    return unit, runs, weights.reshape(-1), np.zeros(0, np.uint8)


def _pooled(
    connection: Connection, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[int, ...]]:
    """Pairs of an input and a unit behind the pools, both in NIR's order, and the pools' shape."""
    unit = np.arange(int(np.prod(shape)))
    pooled = unit
    for kernel_size, stride, padding in connection.pools:
        if len(shape) != 3:
            raise Loihi2Error(f"connection {connection.name}: a pool over {shape}; expected 3 axes")
        channel, y, x = np.unravel_index(pooled, shape)
        fits = tuple(
            (n + 2 * p - k) // s + 1
            for n, p, k, s in zip(shape[1:], padding, kernel_size, stride, strict=True)
        )
        units, found = [], []
        for row in range(kernel_size[0]):
            for column in range(kernel_size[1]):
                out_y, rest_y = np.divmod(y + padding[0] - row, stride[0])
                out_x, rest_x = np.divmod(x + padding[1] - column, stride[1])
                reaches = (
                    (rest_y == 0) & (rest_x == 0)
                    & (out_y >= 0) & (out_y < fits[0]) & (out_x >= 0) & (out_x < fits[1])
                )  # fmt: skip
                units.append(unit[reaches])
                found.append(((channel * fits[0] + out_y) * fits[1] + out_x)[reaches])
        unit, pooled = np.concatenate(units), np.concatenate(found)
        shape = (shape[0], *fits)
    return unit, pooled, shape


class Loihi2Emulator:
    """A network under Loihi's integer rules, one step at a time.

    The state is small and flat: `snapshot` and `restore` carry it.
    """

    def __init__(self, network: Loihi2Network) -> None:
        self.network = network
        self._tables = tables = compile_tables(network)
        self._index = {p.name: at for at, p in enumerate(network.populations)}
        self._sizes = [population.size for population in network.populations]
        self._firsts = [int(first) for first in tables.populations[:, kernel.FIRST]]
        neurons, populations = tables.neurons.shape[1], len(network.populations)
        self._inputs = int(np.prod(network.input_shape))
        self._units = np.zeros(self._inputs + 1, np.int32)
        self._values = np.zeros(self._inputs + 1, np.int32)
        self._sent = np.zeros(neurons + populations, np.int32)
        self._messages = np.zeros(neurons + populations, np.int32)
        self._counts = np.zeros(populations, np.int64)
        self._plan, self._numbers, self._weights, self._delays = tables.packed()
        self.reset()
        self.step(np.zeros(self._inputs, np.int32))  # compiled before any data flows
        self.reset()

    def reset(self) -> None:
        """Back to rest: no current, no potential, nothing on its way."""
        neurons, populations = self._tables.neurons.shape[1], len(self.network.populations)
        self._step = 0
        size = 3 * neurons + 4 * (neurons + populations) + self._tables.sums + self._tables.scratch
        self._state = np.zeros(size, np.int32)
        self._marks = np.zeros(2 * populations, np.int64)
        self._reached = np.zeros(neurons, np.uint8)

    def step(self, frame: NDArray[np.int32]) -> None:
        """One step with a frame of messages: (inputs,) int32 in NIR's order, 0 for none."""
        count = kernel.messages_of(frame, self._units, self._values)
        self._advance(self._units, self._values, count)

    def step_messages(self, units: NDArray[np.int32], values: NDArray[np.int32]) -> None:
        """One step with the messages of some inputs, in any order: both (n,) int32."""
        self._advance(units, values, len(units))

    def _advance(self, units: NDArray[np.int32], values: NDArray[np.int32], count: int) -> None:
        kernel.step_packed(  # arguments by name: Numba is called slower with a starred one
            units, values, count, self._step, self._plan, self._numbers, self._weights,
            self._delays, self._state, self._marks, self._reached, self._sent, self._messages,
            self._counts,
        )  # fmt: skip
        self._step += 1

    def messages(self, name: str) -> NDArray[np.int32]:
        """What each neuron of a population sent in the last step: (n,) int32, in NIR's order."""
        first, at = self._first(name)
        count = int(self._counts[at])
        out = np.zeros(self._sizes[at], np.int32)
        if not count:
            return out
        sent = slice(first + at, first + at + count)
        out[self._sent[sent]] = self._messages[sent]
        return out[self._tables.places[name]]

    def places(self, name: str) -> NDArray[np.int64]:
        """Where each neuron of NIR's order is in the kernel's."""
        return self._tables.places[name]

    def sent(self, name: str) -> int:
        """How many neurons of a population sent a message in the last step."""
        return int(self._counts[self._index[name]])

    def _first(self, name: str) -> tuple[int, int]:
        at = self._index[name]
        return self._firsts[at], at

    def state(self, name: str, which: Literal["u", "v"]) -> NDArray[np.int32]:
        """The current u (or sigma), or the membrane v (or what was sent; of a readout its sums).

        (n,) int32 in NIR's order, a copy.
        """
        first, at = self._first(name)
        first += 0 if which == "u" else self._tables.neurons.shape[1]
        row = self._state[first : first + self.network.populations[at].size]
        return np.asarray(row[self._tables.places[name]], np.int32)

    def snapshot(self) -> dict[str, Any]:
        """The whole state, a flat dict of arrays and a number."""
        return {
            "step": self._step,
            "state": self._state.copy(),
            "marks": self._marks.copy(),
            "reached": self._reached.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `snapshot` gave."""
        self._step = int(state["step"])
        self._state[:] = state["state"]
        self._marks[:] = state["marks"]
        self._reached[:] = state["reached"]

    def synapses(self) -> dict[str, int]:
        """Weights that act, by the target's name: each use of a shared one counts."""
        return {
            population.name: int(sum(self._lengths(at)))
            for at, population in enumerate(self.network.populations)
        }

    def fan_out(self) -> dict[str, NDArray[np.int64]]:
        """For the input and each population, the synapses that a message of each unit acts on.

        In the kernel's order of units.
        """
        out: dict[str, NDArray[np.int64]] = {}
        for name, connections in self._by_source():
            size = int(np.prod(self.network.shape_of(name)))
            total = np.zeros(size, np.int64)
            for connection in connections:
                total += self._of_units(connection, size)
            out[name] = total
        return out

    def _by_source(self) -> Iterable[tuple[str, list[Any]]]:
        t = self._tables
        yield INPUT, [t.connections[at] for at in t.incoming]
        for at, population in enumerate(self.network.populations):
            low, high = t.populations[at, kernel.OUT_FIRST], t.populations[at, kernel.OUT_LAST]
            yield population.name, [t.connections[i] for i in t.outgoing[low:high]]

    def _of_units(self, connection: Any, size: int) -> NDArray[np.int64]:
        ends = self._tables.run_ends[connection[kernel.ROW] :][: size + 1].astype(np.int64)
        lengths = self._tables.runs[:, kernel.RUN_LENGTH].astype(np.int64)
        total = np.concatenate([[0], np.cumsum(lengths)])
        return np.asarray(total[ends[1:]] - total[ends[:-1]])

    def _lengths(self, target: int) -> Iterable[int]:
        for name, connections in self._by_source():
            size = int(np.prod(self.network.shape_of(name)))
            for connection in connections:
                if connection[kernel.TARGET] == target:
                    yield int(self._of_units(connection, size).sum())
