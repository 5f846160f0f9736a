"""Compiles a wiring to the tables that `engine` steps.

Compilation decides which units become points. A connection (Affine, Linear, Conv) with one reader
adds straight into that reader's accumulator; Flatten, Scale and pooling without overlap become a
map from the places of one point to those of the next; the rest are points of their own. Weights are
laid out with one contiguous row for each input, states that a convolution writes to with channels
last. Places are turned back into NIR's order where they leave the engine.

There is no separate dense form: at a density of 100 % adding the rows reads the same memory as a
matrix product does, eight rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..kernels import spiking_network as k
from .nir_file import NetworkError
from .rules import Rules
from .wiring import CONNECTIONS, Unit, Wiring

Precision = Literal["single", "double"]
_TYPES = {"single": np.float32, "double": np.float64}
_KINDS = {
    "Input": k.INPUT, "I": k.INTEGRATOR, "IF": k.IF, "LI": k.LI, "LIF": k.LIF, "CubaLI": k.CUBA_LI,
    "CubaLIF": k.CUBA_LIF, "Threshold": k.THRESHOLD, "Delay": k.DELAY,
}  # fmt: skip
_LEAKY = (k.LI, k.LIF, k.CUBA_LI, k.CUBA_LIF)
_NEVER = np.inf  # threshold of what does not spike
LINE = 64  # bytes of a cache line
LIMIT = 1 << 26  # numbers in a table of the plan

_Int = NDArray[np.int64]


@dataclass(frozen=True)
class Point:
    """Where a unit stands in the tables: its row, and its places in NIR's order (None: the same).

    `offsets` names the columns of its row.
    """

    number: int
    unit: Unit
    order: _Int | None
    row: _Int


@dataclass(frozen=True)
class Program:
    """A compiled network; it has no state, and any number of `States` can be run with it."""

    wiring: Wiring
    rules: Rules
    points: dict[str, Point]
    given: dict[str, str]  # the point that holds what each Output (or tapped unit) gives
    plan: _Int
    weights: NDArray[np.float32]
    coefficients: NDArray[Any]
    state: NDArray[Any]  # at rest
    marks: _Int  # at rest
    lasting_state: int  # from here on it lasts from step to step; lists before, as counts say
    lasting_marks: int
    operations: dict[str, int] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """How many numbers go in."""
        return self.wiring.only_input().size

    def watched(self) -> list[Point]:
        """The points whose entries are recorded, in evaluation order."""
        return [p for p in self.points.values() if p.row[k.IS_RECORDED]]


def compile_network(
    wiring: Wiring,
    rules: Rules,
    *,
    watch: Sequence[str] = (),
    totals: Sequence[str] = (),
    precision: Precision = "single",
) -> Program:
    """The wiring as tables.

    `watch` are units whose every entry is recorded; of `totals` sums over all steps are kept. Both
    may name any unit but an Input. `precision` is of sums and states; weights and biases are
    float32.
    NetworkError where the rules do not fit the network.
    """
    return _Compiler(wiring, rules, watch, totals, precision).program()


@dataclass
class _Path:
    """From a point: how many steps ago, and where each of its places (NIR's order) leads."""

    source: str
    ago: int
    places: _Int  # -1: nowhere
    scale: NDArray[np.float64] | None


@dataclass
class _Connection:
    """What leads into a point: `through` is the connection unit, None for the values themselves."""

    path: _Path
    through: Unit | None


class _Compiler:
    def __init__(
        self, wiring: Wiring, rules: Rules, watch: Sequence[str], totals: Sequence[str],
        precision: Precision,
    ) -> None:  # fmt: skip
        wiring.check_dt(rules.dt)
        wiring.only_input()
        for name in (*watch, *totals):
            if name not in wiring.units or wiring.units[name].kind == "Input":
                known = ", ".join(n for n, u in wiring.units.items() if u.kind != "Input")
                raise NetworkError(f"no unit {name!r} to look at; the network has: {known}")
        self.wiring, self.rules = wiring, rules
        self.type = _TYPES[precision]
        self.watch, self.totals = set(watch), set(totals)
        self.seen = self.watch | self.totals
        self.plan: list[_Int] = []
        self.planned = 0
        self.weights: list[NDArray[np.float32]] = []
        self.weighed = 0
        self.coefficients: list[NDArray[np.float64]] = []
        self.counted = 0
        self.state: list[NDArray[np.float64]] = []
        self.stated = 0
        self.marked = 1
        self.operations: dict[str, int] = {}

    # --- which units become points

    def program(self) -> Program:
        units = self.wiring.units
        self.readers = {name: self.wiring.consumers(name) for name in units}
        given = {
            name: source
            for name, unit in units.items()
            if unit.kind == "Output" and (source := self._alias(unit)) is not None
        }
        names = [name for name in units if name not in given and self._is_point(units[name])]
        self.number = {name: index for index, name in enumerate(names)}
        connections = {name: self._connections(units[name]) for name in names}
        self.order = {name: self._layout(units[name], connections[name]) for name in names}
        depth = dict.fromkeys(names, 0)
        for leading in connections.values():
            for one in leading:
                depth[one.path.source] = max(depth[one.path.source], one.path.ago)
        head = np.zeros(k.HEAD, np.int64)
        longest = max(unit.size for unit in units.values())
        head[k.SCRATCH_AT] = self._mark(longest + 1)
        head[k.SCRATCH_VALUES_AT] = self._hold(np.zeros(longest))
        lists = {name: self._list(units[name], depth[name] + 1) for name in names}
        lasting_state, lasting_marks = self.stated, self.marked
        rows = {name: self._row(units[name], depth[name] + 1, lists[name]) for name in names}
        table: list[_Int] = []
        for name in names:
            rows[name][k.FIRST] = len(table)
            table += [self._connect(one, units[name], rows[name]) for one in connections[name]]
            rows[name][k.LAST] = len(table)
            self._watch(name, rows[name], given)
        head[k.POINTS], head[k.IS_SUBTRACT] = len(names), self.rules.reset == "subtract"
        head[k.POINTS_AT] = self._tell(np.concatenate([rows[name] for name in names]))
        head[k.CONNECTIONS_AT] = self._tell(np.concatenate([*table, np.zeros(0, np.int64)]))
        head[k.ROOM] = sum(row[k.SIZE] for row in rows.values() if row[k.IS_RECORDED])
        plan = np.concatenate([head, *self.plan])
        return Program(
            self.wiring,
            self.rules,
            {n: Point(self.number[n], units[n], self.order[n], rows[n]) for n in names},
            given,
            _fixed(plan),
            _fixed(aligned(np.concatenate([*self.weights, np.zeros(1, np.float32)]))),
            _fixed(aligned(np.concatenate([*self.coefficients, np.zeros(1)]).astype(self.type))),
            _fixed(np.concatenate(self.state).astype(self.type)),
            _fixed(self._marks(names, rows)),
            lasting_state,
            lasting_marks,
            self.operations,
        )

    def _alias(self, output: Unit) -> str | None:
        """The point whose values an Output hands out as they are."""
        links = output.inputs
        if len(links) != 1 or links[0].recurrent:
            return None
        source = self.wiring.units[links[0].source]
        return source.name if self._is_point(source) and source.kind != "Input" else None

    def _is_point(self, unit: Unit) -> bool:
        if unit.name in self.seen or unit.kind in _KINDS or unit.kind == "Output":
            return True
        if unit.kind in CONNECTIONS:
            return not self._is_fused(unit)
        return not _is_map(unit)

    def _is_fused(self, unit: Unit) -> bool:
        readers = self.readers[unit.name]
        if unit.name in self.seen or len(readers) != 1 or readers[0][1].recurrent:
            return False
        if unit.parameters["weight"].ndim != 2 and unit.kind in ("Affine", "Linear"):
            return False
        reader = self.wiring.units[readers[0][0]]
        return reader.kind in _KINDS and reader.output_shape == unit.output_shape

    # --- what leads into a point

    def _connections(self, unit: Unit) -> list[_Connection]:
        if unit.kind in CONNECTIONS or (
            unit.kind in ("SumPool2d", "AvgPool2d") and not _is_map(unit)
        ):
            return self._through(unit)
        found: list[_Connection] = []
        for link in unit.inputs:
            source = self.wiring.units[link.source]
            if source.name not in self.number and not _is_map(source):
                found += self._through(source)
                continue
            found += [
                _Connection(_followed(path, unit), None) if _is_map(unit)
                else _Connection(path, None)
                for path in self._paths(link.source, self._age(link.recurrent, unit))
            ]  # fmt: skip
        return found

    def _through(self, connection: Unit) -> list[_Connection]:
        return [
            _Connection(path, connection)
            for link in connection.inputs
            for path in self._paths(link.source, self._age(link.recurrent, connection))
        ]

    def _age(self, recurrent: bool, reader: Unit) -> int:
        synaptic = self.rules.synaptic_delay if reader.kind in CONNECTIONS else 0
        return max(self.rules.recurrent_delay, synaptic) if recurrent else synaptic

    def _paths(self, name: str, ago: int) -> list[_Path]:
        """From the points that give what unit `name` gives."""
        unit = self.wiring.units[name]
        if name in self.number:
            return [_Path(name, ago, np.arange(unit.size), None)]
        return [
            _followed(path, unit)
            for link in unit.inputs
            for path in self._paths(
                link.source, ago + (self.rules.recurrent_delay if link.recurrent else 0)
            )
        ]

    # --- layouts

    def _layout(self, unit: Unit, connections: list[_Connection]) -> _Int | None:
        """Places in NIR's order, as the engine has them: channels last where one convolves."""
        convolves = any(one.through is not None and _is_spatial(one.through) for one in connections)
        if not convolves or len(unit.output_shape) < 2:
            return None
        places = np.arange(unit.size).reshape(unit.output_shape)
        return np.ascontiguousarray(np.moveaxis(places, 0, -1)).reshape(-1)

    def _list(self, unit: Unit, slots: int) -> tuple[int, int, int]:
        """Where the list of a point, its values, and the accumulator of an Input are."""
        values = self._hold(np.zeros(unit.size * slots))
        # an Input's holds sums within a step only
        sums = self._hold(np.zeros(unit.size)) if unit.kind == "Input" else -1
        return self._mark(unit.size * slots), values, sums

    def _row(self, unit: Unit, slots: int, lists: tuple[int, int, int]) -> _Int:
        row = np.full(k.POINT_WIDTH, -1, np.int64)
        size, kind = unit.size, _KINDS.get(unit.kind, k.SUM)
        row[[k.KIND, k.SIZE, k.SLOTS]] = kind, size, slots
        bias = self._bias(unit)
        at_rest = self._bias(unit, is_first=True)
        row[[k.LIST, k.VALUES, k.ACCUMULATOR]] = lists
        if unit.kind != "Input":
            row[k.ACCUMULATOR] = self._hold(np.zeros(size) if at_rest is None else at_rest)
        row[k.BIAS] = self._count(np.zeros(size) if bias is None else bias)
        row[k.COUNTS], row[k.SPIKES] = self._mark(2 * slots), self._mark(1)
        row[k.IS_RECORDED] = row[k.BLOCK] = row[k.IS_WHOLE] = 0
        row[[k.POTENTIAL, k.CURRENT, k.COEFFICIENTS]] = row[k.ACCUMULATOR], row[k.ACCUMULATOR], 0
        self._neurons(unit, row)
        if kind in (k.IF, k.SUM, k.INPUT):
            row[k.BLOCK] = 1 if kind == k.INPUT else size
            if self.order[unit.name] is not None:
                row[k.BLOCK] = unit.output_shape[0]  # the channels of a pixel
            bits = size // row[k.BLOCK]
            row[k.WORDS] = -(-bits // 64)
            row[k.TOUCHED] = self._mark(row[k.WORDS] + -(-row[k.WORDS] // 64))
            row[k.IS_WHOLE] = bias is not None
        if kind == k.INPUT:
            row[k.BLOCK] = 0
        order = self.order[unit.name]
        row[k.ORDER] = -1 if order is None else self._tell(order)
        return row

    def _watch(self, name: str, row: _Int, given: dict[str, str]) -> None:
        handed = {name} | {output for output, source in given.items() if source == name}
        if handed & self.watch:
            row[k.IS_RECORDED] = 1
        if handed & self.totals:
            row[k.TOTALS] = self._hold(np.zeros(row[k.SIZE]))

    def _ordered(self, unit: Unit, values: NDArray[Any]) -> NDArray[Any]:
        """Values of each place of a unit, from NIR's order to the engine's."""
        flat = np.ascontiguousarray(values, np.float64).reshape(-1)
        order = self.order[unit.name]
        return flat if order is None else flat[order]

    def _bias(self, unit: Unit, is_first: bool = False) -> NDArray[np.float64] | None:
        """What each place of a point takes in every step (in the first), whatever comes."""
        total = np.zeros(unit.output_shape)
        sources = [unit] if unit.kind in CONNECTIONS else [
            self.wiring.units[link.source] for link in unit.inputs
            if link.source not in self.number and self.wiring.units[link.source].kind in CONNECTIONS
        ]  # fmt: skip
        for source in sources:
            is_late = bool(source.inputs) and all(link.recurrent for link in source.inputs)
            if is_first and is_late and self.rules.recurrent_start == "nothing":
                continue
            if (bias := source.parameters.get("bias")) is not None:
                spatial = source.kind in ("Conv1d", "Conv2d")
                extra = (1,) * (len(source.output_shape) - 1) if spatial else ()
                bias = bias.astype(np.float32)  # as weights are
                total = total + bias.reshape(bias.shape + extra)
        return self._ordered(unit, total) if total.any() else None

    def _neurons(self, unit: Unit, row: _Int) -> None:
        kind, p = row[k.KIND], unit.parameters
        if kind == k.IF:
            row[k.COEFFICIENTS] = self._count(
                np.concatenate(
                    [self._ordered(unit, p[what]) for what in ("r", "v_threshold", "v_reset")]
                )
            )
            row[k.POTENTIAL] = self._hold(np.zeros(unit.size))
        elif kind == k.INTEGRATOR:
            row[k.COEFFICIENTS] = self._count(self._ordered(unit, p["r"]))
            row[k.POTENTIAL] = self._hold(np.zeros(unit.size))
        elif kind == k.THRESHOLD:
            row[k.COEFFICIENTS] = self._count(self._ordered(unit, p["threshold"]))
        elif kind in _LEAKY:
            cuba = kind in (k.CUBA_LI, k.CUBA_LIF)
            zero = np.zeros(unit.output_shape)
            columns = [
                self._gain(unit, "tau_mem" if cuba else "tau"),
                p["v_leak"],
                p["r"],
                p.get("v_threshold", zero + _NEVER),
                p.get("v_reset", zero),
                self._gain(unit, "tau_syn") if cuba else zero,
                p["w_in"] if cuba else zero,
            ]
            row[k.COEFFICIENTS] = self._count(
                np.concatenate([self._ordered(unit, column) for column in columns])
            )
            row[k.POTENTIAL] = self._hold(self._ordered(unit, p["v_leak"]))
            row[k.CURRENT] = self._hold(np.zeros(unit.size))
        elif kind == k.DELAY:
            delays = self._steps(unit)
            length = int(delays.max()) + 1
            row[k.RING] = self._tell(np.concatenate([[length], self._ordered(unit, delays)]))
            row[k.POTENTIAL] = self._hold(np.zeros(unit.size * length))

    def _gain(self, unit: Unit, what: str) -> NDArray[np.float64]:
        dt, tau = self.rules.dt, unit.parameters[what]
        assert dt is not None  # check_dt has seen to it
        if self.rules.integrator == "exact":
            return np.asarray(-np.expm1(-dt / tau))
        if (tau < dt).any():
            raise NetworkError(
                f"node {unit.name!r}: {what} {tau.min()} s is shorter than the time step {dt} s, "
                "which the euler integrator cannot follow: use a shorter dt, or integrator exact"
            )
        return np.asarray(dt / tau)

    def _steps(self, unit: Unit) -> _Int:
        delay = unit.parameters["delay"]
        if not delay.any():
            return np.zeros(delay.shape, np.int64)
        assert self.rules.dt is not None  # check_dt has seen to it
        exact = delay / self.rules.dt
        steps = np.rint(exact).astype(np.int64)
        if (off := np.abs(exact - steps) > 1e-6 * np.maximum(1, steps)).any():
            raise NetworkError(
                f"node {unit.name!r}: a delay of {delay[off].flat[0]} s is not a whole number of "
                f"time steps of {self.rules.dt} s: choose a dt that divides it"
            )
        if steps.max() * delay.size > LIMIT:
            raise NetworkError(
                f"node {unit.name!r}: a delay of {steps.max()} steps of {delay.size} values needs "
                "too much memory: use a longer dt"
            )
        return np.asarray(steps, np.int64)

    # --- connections

    def _connect(self, one: _Connection, unit: Unit, into: _Int) -> _Int:
        row = np.full(k.CONNECTION_WIDTH, -1, np.int64)
        path, through = one.path, one.through
        row[k.SOURCE], row[k.STEPS_AGO] = self.number[path.source], path.ago
        order = self.order[path.source]
        places = path.places if order is None else path.places[order]
        if path.scale is not None:
            row[k.SCALE] = self._count(path.scale if order is None else path.scale[order])
        if through is None:
            row[k.TYPE] = k.DIRECT
            self._map(row, _inverse(self.order[unit.name], unit.size)[places], places)
        elif _is_spatial(through):
            row[k.TYPE] = k.CONVOLUTION
            self._convolution(row, through, places)
        else:
            row[k.TYPE] = k.ROWS
            self._rows(row, through, unit)
            self._map(row, places, places)
        return row

    def _map(self, row: _Int, targets: _Int, places: _Int) -> None:
        """Set where entries lead, unless that is where they are."""
        targets = np.where(places < 0, -1, targets)
        if row[k.SCALE] >= 0 or (targets != np.arange(len(targets))).any():
            row[k.MAP] = self._tell(targets)

    def _rows(self, row: _Int, through: Unit, unit: Unit) -> None:
        weight = through.parameters["weight"]
        rows = np.swapaxes(weight, -1, -2)  # (..., inputs, outputs)
        if weight.ndim == 2 and self.order[unit.name] is not None:
            rows = rows[:, self.order[unit.name]]
        row[k.INPUTS], row[k.OUTPUTS] = weight.shape[-1], weight.shape[-2]
        row[k.WEIGHTS] = self._weigh(rows)
        self.operations[through.name] = int(weight.shape[-2])

    def _convolution(self, row: _Int, through: Unit, places: _Int) -> None:
        c = _Spatial.of(through)
        _, height, width = c.shape
        if max(c.shape) >= 1 << 20:
            raise NetworkError(f"node {through.name!r} takes {c.shape}; expected below 2^20 each")
        channel, rest = np.divmod(places, height * width)
        y, x = np.divmod(rest, width)
        packed = (channel << k.CHANNEL_SHIFT) | (y << k.ROW_SHIFT) | x
        row[k.MAP] = self._tell(np.where(places < 0, -1, packed))
        per_group, group_inputs, kh, kw = c.weight.shape[0] // c.groups, *c.weight.shape[1:]
        weight = c.weight.reshape(c.groups, per_group, group_inputs, kh, kw)
        row[k.WEIGHTS] = self._weigh(weight.transpose(0, 2, 3, 4, 1))
        row[k.INPUTS], row[k.PER_GROUP] = kh * kw * per_group, per_group
        row[k.CHANNELS] = group_inputs if c.groups > 1 else 0
        outputs, out_width = c.weight.shape[0], c.out[1]
        row[k.ROW_TAPS] = self._taps(c, 0, kw * per_group, out_width * outputs, out_width, height)
        row[k.COLUMN_TAPS] = self._taps(c, 1, per_group, outputs, 1, width)
        self.operations[through.name] = round(
            c.weight[0, 0].size * outputs / c.groups * math.prod(c.out) / (height * width)
        )

    def _taps(self, c: _Spatial, axis: int, weight: int, out: int, pixel: int, length: int) -> int:
        """For each row (column): (first, last) of its triples; then the triples."""
        head: list[tuple[int, int]] = []
        triples: list[tuple[int, int, int]] = []
        base = k.HEAD + self.planned + 2 * length
        for at in range(length):
            first = base + 3 * len(triples)
            for tap in range(c.weight.shape[2 + axis]):
                reach = at + c.padding[axis] - tap * c.dilation[axis]
                number, off = divmod(reach, c.stride[axis])
                if not off and 0 <= number < c.out[axis]:
                    triples.append((tap * weight, number * out, number * pixel))
            head.append((first, base + 3 * len(triples)))
        flat = [n for group in (*head, *triples) for n in group]
        return self._tell(np.array(flat, np.int64))

    # --- the arrays

    def _tell(self, table: NDArray[Any]) -> int:
        """Put a table into the plan: where."""
        at = k.HEAD + self.planned
        self.plan.append(np.ascontiguousarray(table, np.int64).reshape(-1))
        self.planned += self.plan[-1].size
        if self.planned > LIMIT:
            raise NetworkError(f"the network needs tables of more than {LIMIT} numbers")
        return at

    def _weigh(self, weights: NDArray[Any]) -> int:
        at = self.weighed
        flat = np.ascontiguousarray(weights, np.float32).reshape(-1)
        if not np.isfinite(flat).all():
            raise NetworkError("weights beyond float32")
        self.weights.append(_padded(flat))
        self.weighed += self.weights[-1].size
        return at

    def _count(self, values: NDArray[Any]) -> int:
        at = self.counted
        self.coefficients.append(_padded(np.ascontiguousarray(values, np.float64).reshape(-1)))
        self.counted += self.coefficients[-1].size
        return at

    def _hold(self, values: NDArray[Any]) -> int:
        at = self.stated
        self.state.append(_padded(np.asarray(values, np.float64).reshape(-1)))
        self.stated += self.state[-1].size
        if self.stated > LIMIT:
            raise NetworkError(f"the network has a state of more than {LIMIT} numbers")
        return at

    def _mark(self, count: int) -> int:
        at = self.marked
        self.marked += int(count)
        return at

    def _marks(self, names: list[str], rows: dict[str, _Int]) -> _Int:
        """At rest; integrate-and-fire neurons whose threshold is below rest are looked at."""
        marks = np.zeros(self.marked, np.int64)
        for name in names:
            row, unit = rows[name], self.wiring.units[name]
            if row[k.KIND] == k.IF and (unit.parameters["v_threshold"] < 0).any():
                for bit in range(unit.size // row[k.BLOCK]):
                    word = bit >> 6
                    marks.view(np.uint64)[row[k.TOUCHED] + word] |= np.uint64(1 << (bit & 63))
                    upper = row[k.TOUCHED] + row[k.WORDS] + (word >> 6)
                    marks.view(np.uint64)[upper] |= np.uint64(1 << (word & 63))
        return marks


@dataclass(frozen=True)
class _Spatial:
    """A convolution or a pooling in two dimensions; those in one have a height of 1."""

    shape: tuple[int, int, int]
    out: tuple[int, int]
    weight: NDArray[np.float32]  # (out, in / groups, height, width)
    groups: int
    stride: tuple[int, int]
    padding: tuple[int, int]  # before
    dilation: tuple[int, int]

    @classmethod
    def of(cls, unit: Unit) -> _Spatial:
        p = unit.parameters
        if unit.kind in ("SumPool2d", "AvgPool2d"):
            kernel = p["kernel_size"]
            value = 1.0 if unit.kind == "SumPool2d" else 1.0 / float(np.prod(kernel))
            weight = np.full((unit.input_shape[0], 1, *kernel), value, np.float32)
            groups, dilation = unit.input_shape[0], np.ones(2, np.int64)
        else:
            weight, groups, dilation = p["weight"], p["groups"], p["dilation"]
        line = unit.kind == "Conv1d"
        channels, *spatial = unit.input_shape
        _, *out = unit.output_shape
        if line:
            weight = weight[:, :, None, :]

        def two(values: Any, fill: int) -> tuple[int, int]:
            given = [int(n) for n in values]
            return (fill, given[0]) if line else (given[0], given[1])

        height, width = two(spatial, 1)
        return cls(
            (channels, height, width), two(out, 1), weight, groups, two(p["stride"], 1),
            two(p["padding"][:, 0], 0), two(dilation, 1),
        )  # fmt: skip


def _is_spatial(unit: Unit) -> bool:
    return unit.kind in ("Conv1d", "Conv2d", "SumPool2d", "AvgPool2d")


def _is_map(unit: Unit) -> bool:
    """Whether each input place leads to at most one output place."""
    if unit.kind in ("SumPool2d", "AvgPool2d"):
        p = unit.parameters
        return bool((p["stride"] >= p["kernel_size"]).all() and not p["padding"].any())
    return unit.kind in ("Flatten", "Scale", "Output")


def _followed(path: _Path, unit: Unit) -> _Path:
    """The path led on through a unit that is a map."""
    places, scale = path.places, path.scale
    if unit.kind in ("SumPool2d", "AvgPool2d"):
        _, height, width = unit.input_shape
        _, out_height, out_width = unit.output_shape
        (kh, kw), (sh, sw) = unit.parameters["kernel_size"], unit.parameters["stride"]
        channel, rest = np.divmod(places, height * width)
        y, x = np.divmod(rest, width)
        is_in = (
            (places >= 0) & (y % sh < kh) & (x % sw < kw)
            & (y // sh < out_height) & (x // sw < out_width)
        )  # fmt: skip
        target = (channel * out_height + y // sh) * out_width + x // sw
        places = np.where(is_in, target, -1)
        if unit.kind == "AvgPool2d":
            scale = (np.ones(len(places)) if scale is None else scale) / float(kh * kw)
    elif unit.kind == "Scale":
        own = unit.parameters["scale"].reshape(-1)[np.maximum(places, 0)]
        scale = own if scale is None else scale * own
    return _Path(path.source, path.ago, places, scale)


def _inverse(order: _Int | None, size: int) -> _Int:
    if order is None:
        return np.arange(size)
    inverse = np.empty(size, np.int64)
    inverse[order] = np.arange(size)
    return inverse


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """A copy that begins with a cache line: a vector that straddles two is read half as fast."""
    room = np.empty(array.nbytes + LINE, np.uint8)
    first = -room.ctypes.data % LINE
    moved = room[first : first + array.nbytes].view(array.dtype)
    moved[:] = array
    return moved


def _padded(values: NDArray[Any]) -> NDArray[Any]:
    """Followed by zeros up to a whole number of cache lines, whatever the precision."""
    return np.concatenate([values, np.zeros(-len(values) % (LINE // 4), values.dtype)])


def _fixed(array: Any) -> Any:
    array.flags.writeable = False
    return array
