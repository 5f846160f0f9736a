"""Float networks from NIR as networks of Loihi's integers, and the files that hold them.

Nothing is guessed: what Loihi 2 cannot represent is refused, with the unit's name and the value.
`docs/fixed-point.md` has the rules, and what a number is worth.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .loihi2_network import (
    INPUT,
    NO_THRESHOLD,
    Connection,
    Loihi2Error,
    Loihi2Network,
    Population,
    sign_mode_of,
)
from .rules import Rules
from .wiring import Unit, Wiring

FORMAT = 1
KEY = "loihi2"
"""The metadata that says that a NIR file holds its network in Loihi's integers too."""
CLOCK = "{}.bias"
"""The neuron that spikes in every step, where a bias has to pass through a synapse."""

VTH = 2048  # thresholds are put below: a drive of 64 of them fits before a current wraps

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """What became of the weights into one population.

    `weight_snr_db` is the power of the float weights over that of their error; `unit` what one unit
    of the synaptic sums is worth in the float network; `vth` the least and greatest threshold.
    """

    name: str
    weight_snr_db: float
    weight_exp: int
    unit: float
    vth: tuple[int, int] | None


@dataclass(frozen=True)
class Quantised:
    """A network in Loihi's integers, and what its numbers are worth.

    `scales`, `rests` : by population, (neurons,) float64 in NIR's order: a float membrane is
    rest + scale * v, a readout scale * v. `outputs` : which population answers for each Output.
    """

    network: Loihi2Network
    bits: int
    rules: Rules
    layers: tuple[Layer, ...]
    scales: dict[str, Floats]
    rests: dict[str, Floats]
    outputs: dict[str, str]
    floats: dict[str, Floats] = field(default_factory=dict)
    """Of each unit with weights, those that its integers stand for; not in files."""


@dataclass
class _Way:
    """One linear way from a source into a population, in float; `Connection` has the layouts."""

    source: str
    recurrent: bool
    kind: Literal["dense", "conv", "direct"] = "direct"
    weights: Floats = field(default_factory=lambda: np.ones(1))
    bias: Floats = field(default_factory=lambda: np.zeros(1))
    delay: int = 0
    delays: NDArray[np.int64] | None = None
    geometry: dict[str, Any] = field(default_factory=dict)
    weighted: str = ""
    factor: Any = 1.0
    """The unit whose weights these are, and what they were multiplied by."""


@dataclass(frozen=True)
class _Neuron:
    """A NIR neuron with its input as the unit of its membrane: T, the decays, what v is worth."""

    threshold: Floats
    du: NDArray[np.int64]
    dv: NDArray[np.int64]
    gain: Floats
    rest: Floats
    spikes: bool


def quantise(
    wiring: Wiring, rules: Rules, *, bits: int = 8, drives: dict[str, float] | None = None
) -> Quantised:
    """The network in Loihi's integers, its weights in `bits` bits.

    `drives` : the largest current seen in each population, in thresholds (`calibrate`); where it is
    not known a current of 64 thresholds fits before it wraps. Loihi2Error, with the unit and the
    value, for what cannot be represented.
    """
    wiring.check_dt(rules.dt)
    if rules.reset != "value":
        raise Loihi2Error(
            "reset is 'subtract': Loihi's neuron goes to zero after a spike; use reset value, and "
            "train with it"
        )
    if not 1 <= bits <= 8:
        raise Loihi2Error(f"{bits} weight bits; Loihi has 1 to 8")
    return _Compiler(wiring, rules, bits, drives or {}).run()


class _Compiler:
    def __init__(self, wiring: Wiring, rules: Rules, bits: int, drives: dict[str, float]) -> None:
        self.wiring, self.rules, self.bits, self.drives = wiring, rules, bits, drives
        self.input = wiring.only_input()
        self.populations: list[Population] = []
        self.connections: list[tuple[Connection, bool]] = []
        self.layers: list[Layer] = []
        self.scales: dict[str, Floats] = {}
        self.rests: dict[str, Floats] = {}
        self.outputs: dict[str, str] = {}
        self.floats: dict[str, Floats] = {}

    def run(self) -> Quantised:
        for unit in self.wiring.units.values():
            if unit.is_neuron or unit.kind == "Threshold":
                self._add_neurons(unit)
            elif unit.kind == "Output":
                before = self.wiring.layer_before(unit.name)
                if before is None or before not in self.scales:
                    self._add_readout(unit)
                self.outputs[unit.name] = unit.name if before not in self.scales else str(before)
        network = Loihi2Network(
            _three(self.input.output_shape), tuple(self.populations), self._in_time(),
            self.rules.synaptic_delay,
        )  # fmt: skip
        return Quantised(
            network, self.bits, self.rules, tuple(self.layers), self.scales, self.rests,
            self.outputs, self.floats,
        )  # fmt: skip

    def _in_time(self) -> tuple[Connection, ...]:
        """The connections, the recurrent ones as late as the rules say."""
        order = {population.name: at for at, population in enumerate(self.populations)}
        out = []
        for connection, recurrent in self.connections:
            late = self.rules.synaptic_delay if connection.kind != "direct" else 0
            closes = connection.source != INPUT and (
                order[connection.source] >= order[connection.target]
            )
            have = max(late, 1) if closes else late
            want = max(late, self.rules.recurrent_delay) if recurrent else late
            out.append(replace(connection, delay=connection.delay + want - have))
        return tuple(out)

    # --- the ways into a unit ---------------------------------------------------------------------

    def _ways(self, unit: Unit) -> list[_Way]:
        return [
            self._way(unit, source, units, recurrent)
            for source, units, recurrent in self._paths(unit, recurrent=False)
        ]

    def _paths(self, unit: Unit, *, recurrent: bool) -> list[tuple[str, list[Unit], bool]]:
        """Sources of a unit, what is on the way from them, and whether the way closes a cycle."""
        found: list[tuple[str, list[Unit], bool]] = []
        for link in unit.inputs:
            before, late = self.wiring.units[link.source], recurrent or link.recurrent
            if before.kind == "Input":
                found.append((INPUT, [], late))
            elif before.is_spiking:
                found.append((before.name, [], late))
            elif before.is_neuron:
                raise Loihi2Error(
                    f"unit {before.name!r} ({before.kind}) hands its membrane on to {unit.name!r}; "
                    "Loihi's neurons send spikes: use IF, LIF or CubaLIF there"
                )
            else:
                found += [
                    (source, [*units, before], is_late)
                    for source, units, is_late in self._paths(before, recurrent=late)
                ]
        return found

    def _way(self, unit: Unit, source: str, units: list[Unit], recurrent: bool) -> _Way:
        way = _Way(source, recurrent)
        shape = self.wiring.units[source].output_shape if source != INPUT else (
            self.input.output_shape
        )  # fmt: skip
        before: Floats = np.ones(1)
        for one in units:
            p = one.parameters
            weighted = way.kind != "direct"
            if one.kind == "Flatten":
                pass
            elif one.kind in ("SumPool2d", "AvgPool2d"):
                if weighted:
                    self._refuse(one, "pools after weights; expected before them, or after neurons")
                if before.size > 1:
                    self._refuse(one, "pools what a Scale of several values gives")
                size = _pair(p["kernel_size"])
                pool = (size, _pair(p["stride"]), self._padding(one))
                way.geometry["pools"] = (*way.geometry.get("pools", ()), pool)
                if one.kind == "AvgPool2d":
                    before = before / (size[0] * size[1])
            elif one.kind == "Scale":
                scale = np.asarray(p["scale"], np.float64).reshape(-1)
                scale = scale[:1] if (scale == scale[0]).all() else scale
                if not weighted:
                    before = before * scale
                else:
                    self._scale_outputs(one, way, scale)
            elif one.kind == "Delay":
                self._delay(one, way, math.prod(shape))
            elif weighted:
                self._refuse(
                    one, f"follows other weights without neurons between, on the way to "
                    f"{unit.name!r}; expected one of them: fold them into one"
                )  # fmt: skip
            elif one.kind in ("Affine", "Linear"):
                self._dense(one, way, before)
            else:
                self._conv(one, way, before)
            shape = one.output_shape
        if way.kind == "direct":
            way.weights = before
        if way.delays is not None and way.kind != "dense":
            self._refuse(unit, "is reached after Delays of different lengths without an Affine")
        return way

    def _refuse(self, unit: Unit, what: str) -> None:
        raise Loihi2Error(f"unit {unit.name!r} ({unit.kind}) {what}")

    def _padding(self, unit: Unit) -> tuple[int, int]:
        padding = np.asarray(unit.parameters["padding"])
        if (padding[:, 0] != padding[:, 1]).any():
            self._refuse(unit, f"pads {padding.tolist()}; expected as much before as after")
        return _pair(padding[:, 0])

    def _dense(self, unit: Unit, way: _Way, before: Floats) -> None:
        weights = np.asarray(unit.parameters["weight"], np.float64)
        if weights.ndim != 2 or weights.shape[1] != math.prod(unit.input_shape):
            self._refuse(unit, f"has weights {weights.shape} for {unit.input_shape}; expected two "
                         "axes, and one of inputs")  # fmt: skip
        way.kind, way.weights = "dense", weights * before
        way.weighted, way.factor = unit.name, before
        if unit.kind == "Affine":
            way.bias = np.asarray(unit.parameters["bias"], np.float64).reshape(-1)
        if way.delays is not None:  # of its inputs
            way.delays = np.broadcast_to(way.delays, weights.shape).copy()

    def _conv(self, unit: Unit, way: _Way, before: Floats) -> None:
        p = unit.parameters
        if before.size > 1:
            self._refuse(unit, "convolves what a Scale of several values gives")
        weights = np.asarray(p["weight"], np.float64)
        axes = {what: np.asarray(p[what]).reshape(-1) for what in ("stride", "dilation")}
        padding = np.asarray(p["padding"])
        if (padding[:, 0] != padding[:, 1]).any():
            self._refuse(unit, f"pads {padding.tolist()}; expected as much before as after")
        if weights.ndim == 3:  # Conv1d is a Conv2d of one row
            weights = weights[:, :, None]
            padding = np.concatenate([np.zeros((1, 2), np.int64), padding])
            axes = {what: np.concatenate([[1], value]) for what, value in axes.items()}
        way.kind, way.weights = "conv", weights * before
        way.weighted, way.factor = unit.name, before
        way.bias = np.repeat(np.asarray(p["bias"], np.float64), unit.size // unit.output_shape[0])
        way.geometry |= {
            **{what: _pair(value) for what, value in axes.items()},
            "padding": _pair(padding[:, 0]),
            "groups": int(p["groups"]),
        }

    def _scale_outputs(self, unit: Unit, way: _Way, scale: Floats) -> None:
        way.bias = way.bias * scale
        way.factor = way.factor * (scale if scale.size == 1 else scale[:, None])
        if scale.size == 1:
            way.weights = way.weights * scale
        elif way.kind == "dense":
            way.weights = way.weights * scale[:, None]
        else:
            self._refuse(
                unit, "scales the outputs of a convolution differently; expected one value"
            )

    def _delay(self, unit: Unit, way: _Way, inputs: int) -> None:
        dt = self.rules.dt or 1.0
        given = np.asarray(unit.parameters["delay"], np.float64).reshape(-1) / dt
        steps = np.rint(given).astype(np.int64)
        if (np.abs(given - steps) > 1e-3).any():
            worst = float(given[np.argmax(np.abs(given - steps))] * dt)
            self._refuse(unit, f"delays by {worst:.6g}; expected whole steps of dt {dt}")
        if way.bias.any():
            self._refuse(unit, "delays a bias; expected the Delay before the weights")
        if (steps == steps[0]).all():
            way.delay += int(steps[0])
        elif way.kind == "dense":
            late = np.broadcast_to(steps[:, None], way.weights.shape)
            way.delays = late + (0 if way.delays is None else way.delays)
        elif way.delays is None and not way.geometry:
            way.delays = steps  # of each input: made one for each weight by what comes next
        else:
            self._refuse(unit, "delays each input differently; expected that before an Affine only")

    # --- populations ------------------------------------------------------------------------------

    def _add_neurons(self, unit: Unit) -> None:
        ways, neuron = self._ways(unit), _neuron(unit, self.rules)
        if self.rules.recurrent_start == "nothing" and any(
            w.recurrent and w.bias.any() for w in ways
        ):
            raise Loihi2Error(
                f"unit {unit.name!r} ({unit.kind}): recurrent_start is nothing, and a recurrent "
                "connection has a bias, which a neuron has from the first step on; use bias"
            )
        bias = sum((_all(way.bias, unit.size) for way in ways), np.zeros(unit.size))
        mode = _mode(ways)
        scales = [_best_scale(way.weights, self.bits, mode) for way in ways]
        coarse = max(scales)
        if coarse <= 0:
            raise Loihi2Error(f"unit {unit.name!r}: every weight into it is 0")
        exponent = self._exponent(unit, neuron, bias, coarse)
        worth = coarse / 2.0**exponent
        error = power = 0.0
        for way, scale in zip(ways, scales, strict=True):
            # a way of smaller weights is finer by a power of two, as far as its exponent goes
            finer = math.floor(math.log2(coarse / scale)) if scale > 0 else 0
            finer = max(0, min(finer, exponent))
            scale = coarse / 2.0**finer
            whole = _rounded(way.weights, scale, self.bits, mode)
            self._connect(way, unit.name, whole, exponent - finer, mode)
            self._keep(way, whole * scale)
            power += float(np.square(way.weights).sum())
            error += float(np.square(way.weights - whole * scale).sum())
        vth = np.rint(neuron.threshold / worth)
        if neuron.spikes and (vth.min() < 1 or vth.max() > NO_THRESHOLD):
            raise Loihi2Error(
                f"unit {unit.name!r} ({unit.kind}): thresholds of {vth.min():.6g} to "
                f"{vth.max():.6g} units of its weights; Loihi has 1 to {NO_THRESHOLD} (17 bits)"
            )
        through_synapse = bias.any() and bool((neuron.du != 4095).any())
        if through_synapse:
            self._clock(unit, bias, worth, exponent)
        mantissa, shift = _mantissa(
            unit.name, np.zeros(1) if through_synapse else bias / worth * 64
        )
        self.populations.append(
            Population(
                unit.name, _three(unit.output_shape), "lif", _one(neuron.du), _one(neuron.dv),
                _one(mantissa), _one(shift), _one(vth.astype(np.int64)) if neuron.spikes else 0,
                spikes=neuron.spikes,
            )
        )  # fmt: skip
        self.scales[unit.name], self.rests[unit.name] = worth * neuron.gain / 64.0, neuron.rest
        self.layers.append(
            Layer(
                unit.name, _decibels(power, error), exponent, float(worth),
                (int(vth.min()), int(vth.max())) if neuron.spikes else None,
            )
        )  # fmt: skip

    def _exponent(self, unit: Unit, neuron: _Neuron, bias: Floats, scale: float) -> int:
        """The weight exponent that makes a threshold as fine as fits the current and the bias."""
        threshold = float(neuron.threshold.max()) if neuron.spikes else scale * VTH
        most = VTH
        if unit.name in self.drives:
            most = int(min(65536, (1 << 17) / (1.25 * max(self.drives[unit.name], 1.0))))
        exponent = math.floor(math.log2(most * scale / threshold))
        if exponent < 0 and unit.name not in self.drives:
            # a sum that is shifted right loses bits: only where nothing else fits
            exponent = min(0, math.floor(math.log2(65536 * scale / threshold)))
        exponent = min(exponent, 7)
        largest = float(np.abs(bias).max(initial=0.0))
        while exponent > -8 and largest / scale * 2.0**exponent * 64 > 4095 << 7:
            exponent -= 1
        if exponent < -8:
            raise Loihi2Error(
                f"unit {unit.name!r} ({unit.kind}): a threshold of {threshold:.6g} is "
                f"{threshold / scale:.4g} units of its weights; Loihi has up to {NO_THRESHOLD} "
                "(17 bits) and exponents from -8: scale its weights up"
            )
        return exponent

    def _connect(
        self, way: _Way, target: str, whole: NDArray[np.int64], exponent: int, mode: Any
    ) -> None:
        connection = Connection(
            way.source, target, whole.astype(np.int16), way.kind, exponent, self.bits, mode,
            way.delay, way.delays, **way.geometry,
        )  # fmt: skip
        self.connections.append((connection, way.recurrent))

    def _keep(self, way: _Way, floats: Any) -> None:
        if way.weighted:
            self.floats[way.weighted] = np.divide(
                floats, way.factor, where=np.asarray(way.factor) != 0, out=np.zeros_like(floats)
            )

    def _clock(self, unit: Unit, bias: Floats, worth: float, exponent: int) -> None:
        """A neuron that spikes in each step, with the bias as its weights: it fills the synapse."""
        mode = sign_mode_of(bias)
        scale = _best_scale(bias, self.bits, mode)
        up = max(-exponent, math.ceil(math.log2(scale / worth))) if scale > 0 else 0
        if up > 7:
            raise Loihi2Error(
                f"unit {unit.name!r} ({unit.kind}): a bias of {float(np.abs(bias).max()):.6g} "
                f"is more than 8 bits and an exponent of 7 hold in units of {worth:.4g}"
            )
        clock = CLOCK.format(unit.name)
        self.populations.append(Population(clock, (1,), bias_mant=1))
        whole = _rounded(bias[:, None], worth * 2.0**up, self.bits, mode)
        self._connect(_Way(clock, False, "dense"), unit.name, whole, up, mode)

    def _add_readout(self, unit: Unit) -> None:
        """Sums for the host: each row of weights has a scale of its own, which the host applies."""
        ways = self._ways(unit)
        bias = sum((_all(way.bias, unit.size) for way in ways), np.zeros(unit.size))
        mode = _mode(ways)
        if all(way.kind == "dense" for way in ways):
            rows = np.max(
                [[_best_scale(row, self.bits, mode) for row in way.weights] for way in ways], axis=0
            )
            rows[rows <= 0] = 1.0
        else:
            rows = np.full(
                unit.size, max(_best_scale(way.weights, self.bits, mode) for way in ways)
            )
        error = power = 0.0
        for way in ways:
            scale = rows[:, None] if way.kind == "dense" else rows[0]
            whole = _rounded(way.weights, scale, self.bits, mode)
            self._connect(way, unit.name, whole, 0, mode)
            self._keep(way, whole * scale)
            power += float(np.square(way.weights).sum())
            error += float(np.square(way.weights - whole * scale).sum())
        mantissa, shift = _mantissa(unit.name, bias / rows)
        self.populations.append(
            Population(
                unit.name, _three(unit.output_shape), "readout",
                bias_mant=_one(mantissa), bias_exp=_one(shift), spikes=False,
            )
        )  # fmt: skip
        self.scales[unit.name], self.rests[unit.name] = rows, np.zeros(unit.size)
        self.layers.append(
            Layer(unit.name, _decibels(power, error), 0, float(np.median(rows)), None)
        )


def _neuron(unit: Unit, rules: Rules) -> _Neuron:
    """The neuron with what it is given as its membrane's unit; Loihi2Error where Loihi has none."""

    def of(what: str, otherwise: float) -> Floats:
        return _all(np.asarray(unit.parameters.get(what, otherwise), np.float64), unit.size)

    def decay(what: str) -> Floats:
        tau, dt = of(what, 0.0), float(rules.dt or 0.0)
        share = dt / tau if rules.integrator == "euler" else 1.0 - np.exp(-dt / tau)
        if (share > 1).any():
            raise Loihi2Error(
                f"unit {unit.name!r} ({unit.kind}): {what} {tau.min():.6g} is shorter than dt "
                f"{dt}; use a shorter dt, or integrator exact"
            )
        if (share < 0.5 / 4096).any():
            raise Loihi2Error(
                f"unit {unit.name!r} ({unit.kind}): {what} {tau.max():.6g} is more than 8192 steps "
                f"of dt {dt}; Loihi's decay has 12 bits: use a longer dt, or a unit without leak"
            )
        return share

    size, kind = unit.size, unit.kind
    rest, gain = of("v_leak", 0.0), of("r", 1.0)
    du, dv = np.full(size, 4095), np.zeros(size, np.int64)
    if kind in ("LI", "LIF"):
        share = decay("tau")
        dv, gain = _twelve(share), gain * share
    elif kind in ("CubaLI", "CubaLIF"):
        share, synapse = decay("tau_mem"), decay("tau_syn")
        dv, du = _twelve(share), np.maximum(np.rint(synapse * 4096).astype(np.int64) - 1, 0)
        gain = gain * share * synapse * of("w_in", 1.0)
    elif kind == "Threshold":
        dv = np.full(size, 4095)
    if (gain <= 0).any():
        raise Loihi2Error(
            f"unit {unit.name!r} ({kind}): r times w_in is {gain.min():.6g} at its least; expected "
            "above 0: turn the sign of its weights instead"
        )
    spikes = unit.is_spiking
    threshold = of("threshold" if kind == "Threshold" else "v_threshold", 0.0) - rest
    reset = of("v_reset", 0.0)
    if (
        spikes
        and kind != "Threshold"
        and np.abs(reset - rest).max() > 1e-6 * np.abs(threshold).max()
    ):
        worst = int(np.argmax(np.abs(reset - rest)))
        raise Loihi2Error(
            f"unit {unit.name!r} ({kind}): v_reset {reset[worst]:.6g} and rest {rest[worst]:.6g}; "
            "Loihi's neuron resets to its rest: expected the same"
        )
    if spikes and (threshold <= 0).any():
        raise Loihi2Error(
            f"unit {unit.name!r} ({kind}): a threshold {threshold.min():.6g} above its rest; "
            "expected above 0"
        )
    return _Neuron(threshold / gain, du, dv, gain, rest, spikes)


def _twelve(share: Floats) -> NDArray[np.int64]:
    """A share that is lost in each step in 12 bits: a whole one keeps 1/4096."""
    return np.minimum(np.rint(share * 4096).astype(np.int64), 4095)


def _mode(ways: list[_Way]) -> Literal["mixed", "excitatory", "inhibitory"]:
    modes = {sign_mode_of(way.weights) for way in ways}
    return modes.pop() if len(modes) == 1 else "mixed"


def _grid(bits: int, mode: str) -> tuple[int, int, int]:
    """Least, greatest and step of the weights that Loihi keeps unchanged in `bits` bits."""
    step = 1 << (8 - bits + (mode == "mixed"))
    high = 256 - step
    low = {"mixed": -256, "excitatory": 0, "inhibitory": -high}[mode]
    return low, 0 if mode == "inhibitory" else high, step


def _rounded(weights: Floats, scale: Any, bits: int, mode: str) -> NDArray[np.int64]:
    """Weights / scale, rounded to the nearest that Loihi keeps unchanged."""
    low, high, step = _grid(bits, mode)
    return np.asarray(np.clip(np.rint(weights / scale / step) * step, low, high), np.int64)


def _best_scale(weights: Floats, bits: int, mode: str) -> float:
    """The scale with the least squared error; 0 where all weights are 0."""
    largest = float(np.abs(weights).max(initial=0.0))
    low, high, _ = _grid(bits, mode)
    reach = max(high, -low) if mode == "inhibitory" else max(high, 1)
    if largest == 0.0:
        return 0.0
    sample = weights.reshape(-1)[:: max(1, weights.size // 50_000)]
    candidates = largest / reach * np.linspace(0.5 if bits < 8 else 0.9, 1.0, 26)
    errors = [np.square(sample - _rounded(sample, s, bits, mode) * s).sum() for s in candidates]
    return float(candidates[int(np.argmin(errors))])


def _mantissa(name: str, bias: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """13 bits with a sign and an exponent of 3 bits for each bias."""
    size = np.abs(bias)
    shift = np.ceil(np.log2(np.maximum(size, 1.0) / 4095.0))
    shift = np.clip(shift, 0, None).astype(np.int64)
    if (shift > 7).any():
        raise Loihi2Error(
            f"unit {name!r}: a bias of {size.max():.6g} units of its state; Loihi has up to "
            f"{4095 << 7} (13 bits with a sign, and an exponent of 3)"
        )
    return np.rint(bias / 2.0**shift).astype(np.int64), shift


def _decibels(power: float, error: float) -> float:
    return round(10 * math.log10(power / error), 2) if error > 0 and power > 0 else math.inf


def _all(value: Floats, size: int) -> Floats:
    """One value for each."""
    return np.broadcast_to(np.asarray(value, np.float64).reshape(-1), size).copy()


def _one(values: NDArray[np.int64]) -> Any:
    """One number where all are the same."""
    return int(values[0]) if (values == values[0]).all() else values


def _pair(value: Any) -> tuple[int, int]:
    first, second = (int(n) for n in np.broadcast_to(np.asarray(value).reshape(-1), 2))
    return first, second


def _three(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(channels, length) as (channels, 1, length): a Conv1d is a Conv2d of one row."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else tuple(shape)


# --- files ----------------------------------------------------------------------------------------


def to_arrays(quantised: Quantised) -> dict[str, NDArray[Any]]:
    """The network as named arrays: `loihi2` is JSON text as bytes, the rest integers and scales.

    What an npz or a NIR file's metadata hold: `from_arrays` reads both.
    """
    arrays: dict[str, NDArray[Any]] = {}

    def plain(thing: Any, prefix: str) -> dict[str, Any]:
        out = {}
        for each in fields(thing):
            value = getattr(thing, each.name)
            if isinstance(value, np.ndarray):
                arrays[f"{prefix}.{each.name}"] = value
                value = {"array": f"{prefix}.{each.name}"}
            out[each.name] = value
        return out

    network = quantised.network
    text = {
        "format": FORMAT,
        "bits": quantised.bits,
        "rules": quantised.rules.as_dict(),
        "outputs": quantised.outputs,
        "layers": [plain(layer, "") for layer in quantised.layers],
        "input_shape": network.input_shape,
        "synaptic_delay": network.synaptic_delay,
        "populations": [plain(p, f"{KEY}.{p.name}") for p in network.populations],
        "connections": [
            plain(c, f"{KEY}.connection{at}") for at, c in enumerate(network.connections)
        ],
    }
    for name, scale in quantised.scales.items():
        arrays[f"{KEY}.{name}.scale"], arrays[f"{KEY}.{name}.rest"] = (
            scale, quantised.rests[name],
        )  # fmt: skip
    words = json.dumps(text).replace("Infinity", "null").encode()
    return {KEY: np.frombuffer(words, np.uint8), **arrays}


def from_arrays(arrays: dict[str, Any]) -> Quantised:
    """The network that `to_arrays` gave; Loihi2Error when these arrays are not one."""
    try:
        text = json.loads(np.asarray(arrays[KEY], np.uint8).tobytes())
        if text["format"] != FORMAT:
            raise Loihi2Error(f"quantised in format {text['format']}; this build reads {FORMAT}")

        def whole(thing: Any, given: dict[str, Any]) -> Any:
            values = {
                name: np.asarray(arrays[value["array"]]) if isinstance(value, dict) else value
                for name, value in given.items()
            }
            for name in ("shape", "stride", "padding", "dilation"):
                if name in values:
                    values[name] = tuple(values[name])
            if "pools" in values:
                values["pools"] = tuple(tuple(map(tuple, pool)) for pool in values["pools"])
            return thing(**values)

        populations = tuple(whole(Population, p) for p in text["populations"])
        scaled = [p.name for p in populations if f"{KEY}.{p.name}.scale" in arrays]
        return Quantised(
            Loihi2Network(
                tuple(text["input_shape"]), populations,
                tuple(whole(Connection, c) for c in text["connections"]), text["synaptic_delay"],
            ),
            text["bits"], Rules(**text["rules"]),
            tuple(
                Layer(**{**one, "weight_snr_db": one["weight_snr_db"] or math.inf})
                for one in text["layers"]
            ),
            {name: np.asarray(arrays[f"{KEY}.{name}.scale"], np.float64) for name in scaled},
            {name: np.asarray(arrays[f"{KEY}.{name}.rest"], np.float64) for name in scaled},
            text["outputs"],
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, json.JSONDecodeError) as error:
        if isinstance(error, Loihi2Error):
            raise
        raise Loihi2Error(
            f"not a network that streamflow quantised ({type(error).__name__}: {error}); quantise "
            "it again"
        ) from error
