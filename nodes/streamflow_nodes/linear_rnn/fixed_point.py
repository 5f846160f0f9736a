"""A network in integers: how it is made from a float one, checked, kept in its file and read.

The rules are in docs/fixed-point.md, "Linear RNNs".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError

from .model_file import Dense, Layer, Model, Recurrent

Mode = Literal["w8a16", "w8a8"]
MODES: tuple[Mode, ...] = ("w8a16", "w8a8")
Exponent = Annotated[int, msgspec.Meta(ge=-30, le=40)]
Integers = NDArray[np.int64]

SUM = 1 << 31  # sums of products stay below it
NONE = np.zeros((0, 0))
SIGMOID_IN, SIGMOID_OUT, KNOTS = 12, 15, 16


class Bits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Widths of the numbers, and how the products of the recurrence are rounded."""

    weights: Annotated[int, msgspec.Meta(ge=2, le=8)] = 8
    poles: Annotated[int, msgspec.Meta(ge=3, le=16)] = 16
    activations: Annotated[int, msgspec.Meta(ge=3, le=16)] = 16
    state: Annotated[int, msgspec.Meta(ge=8, le=31)] = 24
    rounding: Literal["nearest", "zero", "floor"] = "nearest"


BITS: dict[Mode, Bits] = {"w8a16": Bits(), "w8a8": Bits(activations=8)}


class LayerExponents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value is integer 2^-exponent. `state`, `hidden` (what goes into C) and `inner` (what goes
    into the gate) are those of recurrent layers.
    """

    output: Exponent
    state: Exponent = 0
    hidden: Exponent = 0
    inner: Exponent = 0


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the metadata say of a network in one precision."""

    bits: Bits
    input: Exponent
    input_is_unsigned: bool = False
    layers: tuple[LayerExponents, ...]


@dataclass(frozen=True, eq=False)
class Matrix:
    """Integers of a product: sums are bias + weights x, row i at exponents[i] + that of x.

    weights : (rows, columns) int8; exponents : (rows,) int64; bias : (rows,) int64, below 2^31
    """

    weights: NDArray[np.int8]
    exponents: Integers
    bias: Integers


@dataclass(frozen=True, eq=False)
class FixedDense:
    """A dense layer in integers."""

    layer: Dense
    exponents: LayerExponents
    weight: Matrix


@dataclass(frozen=True, eq=False)
class FixedRecurrent:
    """A recurrent layer in integers.

    poles : (2, states) int64, real and imaginary parts; b : rows are the real parts of the
    states, then the imaginary ones; c : columns likewise; d, d_exponents : (width,) int64.
    """

    layer: Recurrent
    exponents: LayerExponents
    poles: Integers
    b: Matrix
    c: Matrix
    d: Integers
    d_exponents: Integers
    gate: Matrix | None


FixedLayer = FixedDense | FixedRecurrent


@dataclass(frozen=True, eq=False)
class FixedModel:
    """A network in integers, checked: no sum can overflow, every state fades."""

    model: Model
    mode: str
    record: Record
    layers: tuple[FixedLayer, ...]


def span(bits: int, *, is_unsigned: bool) -> tuple[int, int]:
    """Least and largest integer of so many bits. Unsigned ones exist up to 8 bits only."""
    if is_unsigned and bits <= 8:
        return 0, (1 << bits) - 1
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def never_negative(activation: str) -> bool:
    """Whether what leaves an activation is unsigned."""
    return activation in ("relu", "sigmoid")


def output_span(bits: int, activation: str) -> tuple[int, int]:
    """Range of what leaves an activation: a ReLU is the clipping at 0."""
    low, high = span(bits, is_unsigned=never_negative(activation))
    return (0 if never_negative(activation) else low), high


def sigmoid_table() -> Integers:
    """sigmoid(k / 16) for k = -128..129, at exponent 15, at most 32767: (258,) int64."""
    k = np.arange(-8 * KNOTS, 8 * KNOTS + 2) / KNOTS
    table = np.rint((1 << SIGMOID_OUT) / (1 + np.exp(-k))).astype(np.int64)
    return np.minimum(table, (1 << SIGMOID_OUT) - 1)


# --- checking and reading -------------------------------------------------------------------------


def fixed_model(model: Model, mode: str) -> FixedModel:
    """The integers of a quantised file. DeviceError when there are none, or they break a rule."""
    raw = model.header.fixed_point.get(mode)
    if raw is None:
        held = sorted(model.header.fixed_point) or "none"
        raise DeviceError(
            f"{model.path}: not quantised for {mode} (it holds: {held}): streamflow model quantise "
            f"{model.path} --calibrate FRAMES.npy"
        )
    try:
        record = msgspec.convert(raw, Record)
    except msgspec.ValidationError as error:
        raise DeviceError(f"{model.path}: fixed_point.{mode}: {error}") from error
    if len(record.layers) != len(model.layers):
        raise DeviceError(
            f"{model.path}: fixed_point.{mode} has {len(record.layers)} layers, the network "
            f"{len(model.layers)}"
        )
    read = _Reader(model, mode, record)
    layers: list[FixedLayer] = []
    low, high = span(record.bits.activations, is_unsigned=record.input_is_unsigned)
    for layer, exponents in zip(model.layers, record.layers, strict=True):
        check_supported(model.path, layer)
        if isinstance(layer, Dense):
            weight = read.matrix(layer, "weight", (layer.outputs, layer.inputs), (low, high))
            layers.append(FixedDense(layer, exponents, weight))
            activation = layer.activation
        else:
            layers.append(read.recurrent(layer, exponents, (low, high)))
            activation = layer.final_activation
        low, high = output_span(record.bits.activations, activation)
    return FixedModel(model, mode, record, tuple(layers))


def check_supported(path: str, layer: Layer) -> None:
    """DeviceError for what has no rule in fixed point."""
    allowed = ("none", "relu", "sigmoid") if isinstance(layer, Dense) else ("none", "relu")
    kinds = [layer.activation] if isinstance(layer, Dense) else [
        layer.activation, layer.final_activation
    ]  # fmt: skip
    for kind in kinds:
        if kind not in allowed:
            raise DeviceError(
                f"{path}: layer {layer.name}: activation {kind} has no fixed-point rule; expected "
                f"one of {', '.join(allowed)}"
            )


@dataclass(frozen=True)
class _Reader:
    model: Model
    mode: str
    record: Record

    def tensor(self, layer: Layer, name: str, shape: tuple[int, ...], dtype: type) -> Integers:
        full = f"fixed_point.{self.mode}.{layer.name}.{name}"
        array = self.model.tensors.get(full)
        if array is None or array.shape != shape or array.dtype != np.dtype(dtype):
            found = "missing" if array is None else f"{array.dtype} {array.shape}"
            raise DeviceError(
                f"{self.model.path}: tensor {full}: {found}; expected {np.dtype(dtype)} {shape}"
            )
        return array.astype(np.int64)

    def matrix(
        self, layer: Layer, name: str, shape: tuple[int, int], inputs: tuple[int, int]
    ) -> Matrix:
        weights = self.tensor(layer, name, shape, np.int8)
        exponents = self.tensor(layer, f"{name}.exponents", shape[:1], np.int8)
        bias = self.tensor(layer, f"{name}.bias", shape[:1], np.int32)
        most = (1 << (self.record.bits.weights - 1)) - 1
        if np.abs(weights).max() > most:
            self.fail(layer, name, f"a weight beyond +-{most}, {self.record.bits.weights} bits")
        if (largest_sum(weights, bias, inputs) >= SUM).any():
            self.fail(layer, name, "a row whose sum can pass 2^31")
        if exponents.min() < -30 or exponents.max() > 40:
            self.fail(layer, name, "an exponent beyond -30..40")
        return Matrix(weights.astype(np.int8), exponents, bias)

    def recurrent(
        self, layer: Recurrent, exponents: LayerExponents, inputs: tuple[int, int]
    ) -> FixedRecurrent:
        bits, states, width = self.record.bits, layer.states, layer.outputs
        poles = self.tensor(layer, "poles", (2, states), np.int16)
        check_poles(self.model.path, layer, self.mode, poles, bits.poles)
        hidden = span(bits.activations, is_unsigned=False)
        inner = output_span(bits.activations, layer.activation)
        gate = None
        if layer.gate_weight is not None:
            gate = self.matrix(layer, "gate", (width, width), inner)
        return FixedRecurrent(
            layer, exponents, poles,
            self.matrix(layer, "B", (2 * states, width), inputs),
            self.matrix(layer, "C", (width, 2 * states), hidden),
            self.tensor(layer, "D", (width,), np.int8),
            self.tensor(layer, "D.exponents", (width,), np.int8),
            gate,
        )  # fmt: skip

    def fail(self, layer: Layer, name: str, what: str) -> None:
        raise DeviceError(
            f"{self.model.path}: tensor fixed_point.{self.mode}.{layer.name}.{name}: {what}"
        )


def largest_sum(weights: Integers, bias: Integers, inputs: tuple[int, int]) -> Integers:
    """What a row's sum can reach at the most, in any order, the offset of 8-bit inputs included."""
    most = max(255, *map(abs, inputs)) if max(map(abs, inputs)) <= 255 else max(map(abs, inputs))
    most += 128 if most == 255 else 0
    return np.asarray(np.abs(weights.astype(np.int64)).sum(axis=1) * most + np.abs(bias))


def check_poles(path: str, layer: Layer, mode: str, poles: Integers, bits: int) -> None:
    """DeviceError where the integers of an eigenvalue have an absolute value of 1 or more."""
    one = 1 << (bits - 1)
    power = poles[0] ** 2 + poles[1] ** 2
    if (power >= one * one).any():
        at = int(power.argmax())
        raise DeviceError(
            f"{path}: layer {layer.name}, {mode}: state {at} becomes {poles[0, at]} + "
            f"{poles[1, at]} i of {one}, |A| >= 1, in {bits} bits: it would not fade; give the "
            "poles more bits"
        )


# --- making ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Passed:
    """What passes a layer, (frames, numbers) each: states x (complex) and z of recurrent ones."""

    y: NDArray[Any]
    x: NDArray[Any]
    z: NDArray[Any]


def activate(kind: str, values: NDArray[Any]) -> NDArray[Any]:
    """An activation that has a fixed-point rule, in floating point."""
    if kind == "relu":
        return np.asarray(np.maximum(values, 0))
    return 1 / (1 + np.exp(-values)) if kind == "sigmoid" else values


def trace(model: Model, frames: NDArray[Any]) -> list[Passed]:
    """Run frames through the float network in double precision, keeping what passes each layer."""
    out, u = [], np.asarray(frames, np.float64)
    for layer in model.layers:
        check_supported(model.path, layer)
        if isinstance(layer, Dense):
            y = activate(layer.activation, u @ layer.weight.T + layer.bias)
            out.append(Passed(y, NONE, NONE))
        else:
            x = u @ layer.b.T + layer.input_bias
            state = np.zeros(layer.states, complex)
            for t in range(len(x)):
                state = layer.a * state + x[t]
                x[t] = state
            h = np.where(x.real > 0, x, 0) if layer.state_activation == "relu_re" else x
            z = activate(layer.activation, (h @ layer.c.T).real + layer.d * u + layer.output_bias)
            gated = z
            if layer.gate_weight is not None and layer.gate_bias is not None:
                gated = z * activate("sigmoid", z @ layer.gate_weight.T + layer.gate_bias)
            y = activate(layer.final_activation, u + gated if layer.skip else gated)
            out.append(Passed(y, x, z))
        u = y
    return out


def activation_exponent(values: NDArray[Any], bits: int, *, is_unsigned: bool) -> int:
    """The exponent for activations: over 8 bits with one bit to spare over the largest value, else
    the one of the least squared error over `values`.
    """
    low, high = span(bits, is_unsigned=is_unsigned)
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0:
        return min(bits, 30)
    whole = int(np.floor(np.log2(high / largest)))
    if bits > 8:
        return _within(whole - 1)

    def error(exponent: int) -> float:
        scale = 2.0**exponent
        return float(((np.clip(np.rint(values * scale), low, high) / scale - values) ** 2).sum())

    return _within(min(range(whole, whole + 4), key=error))


def _within(exponent: int) -> int:
    return max(-30, min(40, exponent))


def weight_exponents(rows: NDArray[Any], bits: int) -> Integers:
    """For each row the largest exponent, 24 at most, at which its weights fit."""
    most = (1 << (bits - 1)) - 1
    largest = np.abs(rows).max(axis=1)
    with np.errstate(divide="ignore"):
        exponents = np.floor(np.log2((most + 0.499) / largest))
    return np.where(largest > 0, np.clip(exponents, -30, 24), 24).astype(np.int64)


def quantised_matrix(
    rows: NDArray[Any], bias: NDArray[Any], bits: int, exponent: int, inputs: tuple[int, int],
    mean: NDArray[Any],
) -> Matrix:  # fmt: skip
    """Integers of `rows` x + bias, for x at `exponent` in the range `inputs`.

    The bias takes up what rounding the weights changes at the `mean` of x, (columns,), as inputs
    with a mean far from 0 (logarithms of powers) would else be off by the same in every frame:
    bias correction after M. Nagel and others (2019), "Data-free quantization through weight
    equalization and bias correction". A row whose sum could pass 2^31 gets a smaller exponent until
    it cannot.
    """
    exponents = weight_exponents(rows, bits)
    while True:
        scale = 2.0 ** exponents[:, None]
        weights = np.rint(rows * scale).astype(np.int64)
        right = bias + (rows - weights / scale) @ mean
        whole = np.rint(np.clip(right * 2.0 ** (exponents + exponent), -(2.0**40), 2.0**40))
        over = largest_sum(weights, whole.astype(np.int64), inputs) >= SUM
        if not over.any():
            return Matrix(weights.astype(np.int8), exponents, whole.astype(np.int64))
        exponents = exponents - over


def state_shifts(x: NDArray[Any]) -> Integers:
    """For each state the power of two that brings its largest part into (1/2, 1]: (states,)."""
    largest = np.maximum(np.abs(x.real).max(axis=0), np.abs(x.imag).max(axis=0))
    with np.errstate(divide="ignore"):
        powers = np.floor(-np.log2(largest))
    return np.where(largest > 0, np.clip(powers, -30, 30), 0).astype(np.int64)


def quantise(
    model: Model, frames: NDArray[Any], mode: str, bits: Bits, *, traced: list[Passed] | None = None
) -> tuple[Record, dict[str, NDArray[Any]]]:
    """The record and tensors (without the prefix of the mode) of `model` in integers.

    frames : (frames, inputs) real, calibration: activations and states get the range they have here
    DeviceError where an eigenvalue would reach 1, or an activation has no rule.
    """
    traces = traced if traced is not None else trace(model, frames)
    input_is_unsigned = bool((np.asarray(frames) >= 0).all())
    exponent = activation_exponent(
        np.asarray(frames, np.float64), bits.activations, is_unsigned=input_is_unsigned
    )
    first, inputs = exponent, span(bits.activations, is_unsigned=input_is_unsigned)
    tensors: dict[str, NDArray[Any]] = {}
    records = []
    mean = np.asarray(frames, np.float64).mean(axis=0)
    for layer, seen in zip(model.layers, traces, strict=True):
        activation = layer.activation if isinstance(layer, Dense) else layer.final_activation
        output = activation_exponent(
            seen.y, bits.activations, is_unsigned=never_negative(activation)
        )
        if isinstance(layer, Dense):
            matrix = quantised_matrix(
                layer.weight, layer.bias, bits.weights, exponent, inputs, mean
            )
            _put(tensors, layer, "weight", matrix)
            records.append(LayerExponents(output=output))
        else:
            records.append(
                _recurrent(
                    model.path, mode, layer, seen, bits, exponent, inputs, mean, output, tensors
                )
            )
        exponent, inputs = output, output_span(bits.activations, activation)
        mean = seen.y.mean(axis=0)
    record = Record(
        bits=bits, input=first, input_is_unsigned=input_is_unsigned, layers=tuple(records)
    )
    return record, tensors


def _recurrent(
    path: str, mode: str, layer: Recurrent, seen: Passed, bits: Bits, exponent: int,
    inputs: tuple[int, int], mean: NDArray[Any], output: int, tensors: dict[str, NDArray[Any]],
) -> LayerExponents:  # fmt: skip
    scale = 2.0 ** state_shifts(seen.x)
    x = seen.x * scale
    h = np.where(x.real > 0, x, 0) if layer.state_activation == "relu_re" else x
    parts = np.concatenate([h.real, h.imag], axis=1)
    hidden = activation_exponent(parts, bits.activations, is_unsigned=False)
    inner = activation_exponent(
        seen.z, bits.activations, is_unsigned=never_negative(layer.activation)
    )
    one = 1 << (bits.poles - 1)
    whole = np.stack([layer.a.real, layer.a.imag]) * one
    poles = np.clip(np.rint(whole), 1 - one, one - 1).astype(np.int64)
    check_poles(path, layer, mode, poles, bits.poles)
    b, bias = layer.b * scale[:, None], layer.input_bias * scale
    c = layer.c / scale
    signed = span(bits.activations, is_unsigned=False)
    _put(tensors, layer, "B", quantised_matrix(
        np.concatenate([b.real, b.imag]), np.concatenate([bias.real, bias.imag]), bits.weights,
        exponent, inputs, mean,
    ))  # fmt: skip
    d = quantised_matrix(
        layer.d[:, None], np.zeros(layer.outputs), bits.weights, exponent, inputs, np.zeros(1)
    )
    lost = (layer.d - d.weights[:, 0] * 2.0**-d.exponents) * mean  # D has no bias of its own
    _put(tensors, layer, "C", quantised_matrix(
        np.concatenate([c.real, -c.imag], axis=1), layer.output_bias + lost, bits.weights, hidden,
        signed, parts.mean(axis=0),
    ))  # fmt: skip
    tensors[f"{layer.name}.poles"] = poles.astype(np.int16)
    tensors[f"{layer.name}.D"] = d.weights[:, 0].copy()
    tensors[f"{layer.name}.D.exponents"] = d.exponents.astype(np.int8)
    if layer.gate_weight is not None and layer.gate_bias is not None:
        _put(tensors, layer, "gate", quantised_matrix(
            layer.gate_weight, layer.gate_bias, bits.weights, inner,
            output_span(bits.activations, layer.activation), seen.z.mean(axis=0),
        ))  # fmt: skip
    # two bits to spare: a state may grow to four times what it was in calibration
    return LayerExponents(output=output, state=bits.state - 3, hidden=hidden, inner=inner)


def _put(tensors: dict[str, NDArray[Any]], layer: Layer, name: str, matrix: Matrix) -> None:
    tensors[f"{layer.name}.{name}"] = matrix.weights
    tensors[f"{layer.name}.{name}.exponents"] = matrix.exponents.astype(np.int8)
    tensors[f"{layer.name}.{name}.bias"] = matrix.bias.astype(np.int32)


def quantised(
    model: Model, frames: NDArray[Any], bits: Mapping[Any, Bits] = BITS
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """`fixed_point` of the metadata, and the tensors, for each precision in `bits`.

    Write them with `write_model(..., {**model.tensors, **tensors}, fixed_point=metadata)`.
    """
    traced = trace(model, frames)
    metadata: dict[str, Any] = {}
    tensors: dict[str, NDArray[Any]] = {}
    for mode, widths in bits.items():
        record, made = quantise(model, frames, mode, widths, traced=traced)
        metadata[mode] = msgspec.to_builtins(record)
        tensors |= {f"fixed_point.{mode}.{name}": array for name, array in made.items()}
    return metadata, tensors
