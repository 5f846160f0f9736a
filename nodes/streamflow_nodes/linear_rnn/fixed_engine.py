"""Runs a linear recurrent network in integers, frame after frame, with its state between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import linear_rnn_fixed as kernel
from .engine import DRIVE, GATE, INPUT, SUM, Flat, halves_padded, padded, widest_of
from .fixed_point import (
    SIGMOID_IN,
    SIGMOID_OUT,
    FixedDense,
    FixedRecurrent,
    Matrix,
    fixed_model,
    output_span,
    sigmoid_table,
    span,
)  # fmt: skip
from .model_file import Model
from .operations import counts

ROUNDING = {"nearest": kernel.NEAREST, "zero": kernel.ZERO, "floor": kernel.FLOOR}
RAW = (-(1 << 31), (1 << 31) - 1)  # what needs no clipping


class FixedEngine:
    """A network in integers: the same bits on every machine, frame by frame or many at a time."""

    def __init__(self, model: Model, precision: str, *, use_vnni: bool | None = None) -> None:
        """`use_vnni`: whether the CPU's dot products are used; None: where it has them.

        DeviceError when the file was not quantised for `precision`.
        """
        if use_vnni and not kernel.HAS_VNNI:
            raise ValueError("this CPU has no AVX-512 VNNI")
        self.model, self.precision = model, precision
        self.uses_vnni = kernel.HAS_VNNI if use_vnni is None else use_vnni
        self.fixed = fixed_model(model, precision)
        self._weights, self._biases = Flat(np.int8), Flat(np.int32)
        self._shifts, self._scales = Flat(np.int32), Flat(np.int32)
        self._poles, self._fan_out = Flat(np.int32), Flat(np.int32)
        self._rows: list[list[int]] = []
        self._states = 0
        record = self.fixed.record
        self._bits = record.bits
        self._is_wide = record.bits.activations > 8
        exponent = record.input
        range_ = span(record.bits.activations, is_unsigned=record.input_is_unsigned)
        self._input = (2.0**exponent, *range_)
        self._signed = range_[0] < 0  # whether what goes into the next layer is
        for number, layer in enumerate(self.fixed.layers):
            is_last = number == len(self.fixed.layers) - 1
            if isinstance(layer, FixedDense):
                exponents = self._add_dense(layer, number, exponent, is_last=is_last)
                activation = layer.layer.activation
            else:
                exponents = self._add_recurrent(layer, number, exponent)
                activation = layer.layer.final_activation
            exponent = layer.exponents.output
            self._signed = output_span(record.bits.activations, activation)[0] < 0
        weights = self._weights.array()
        self._constant: Any = (
            np.array(self._rows, np.int64), weights, weights.view(np.int16), self._biases.array(),
            self._shifts.array(), self._scales.array(), self._poles.array(),
            sigmoid_table().astype(np.int32), self._fan_out.array(),
            (2.0 ** -exponents.astype(np.float64)).astype(np.float32),
        )  # fmt: skip
        self.state = np.zeros(self._states, np.int32)
        widest = max(widest_of(layer) for layer in model.layers)
        self._scratch = np.zeros((4, padded(widest)), np.int32)
        packed = Flat(np.uint8)
        packed.add(np.zeros(2 * padded(widest) + 64, np.uint8))
        whole = packed.array()
        self._packed = (whole, whole.view(np.int16))
        self.operations = np.zeros(len(model.layers), np.int64)
        """Products of a weight and an input that were both not 0, for each layer, so far."""
        self.frames = self.clipped = 0

    def run(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network gives for (frames, inputs) float32: (frames, outputs) float32."""
        out = np.empty((len(frames), self.model.outputs), np.float32)
        self.run_into(frames, out)
        return out

    def run_into(self, frames: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """As `run`, into an array; `frames` C-contiguous and read-only."""
        run_frames: Any = kernel.run_frames
        self.clipped += run_frames(
            self.uses_vnni, frames, *self._input, *self._constant, self.state, self._scratch,
            *self._packed, self.operations, out,
        )  # fmt: skip
        self.frames += len(frames)

    def warm_up(self) -> None:
        """Compile, or load from disk, without running a frame."""
        nothing = np.zeros((0, self.model.inputs), np.float32)
        nothing.flags.writeable = False
        self.run_into(nothing, np.zeros((0, self.model.outputs), np.float32))

    def reset(self) -> None:
        """Forget all frames; what was counted stays."""
        self.state[:] = 0

    def snapshot(self) -> dict[str, Any]:
        """The state as it is after the last frame."""
        return {
            "state": self.state.copy(), "operations": self.operations.copy(),
            "frames": self.frames, "clipped": self.clipped,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self.state[:] = state["state"]
        self.operations[:] = state["operations"]
        self.frames, self.clipped = int(state["frames"]), int(state["clipped"])

    def counts(self, frames_a_second: float | None = None) -> dict[str, Any]:
        """Frames, weights, states and operations for the run report."""
        return {
            **counts(self.model, self.operations, self.frames, frames_a_second),
            "dot_products": "avx512_vnni" if self.uses_vnni else "portable",
        }

    def _add_dense(
        self, fixed: FixedDense, number: int, exponent: int, *, is_last: bool
    ) -> NDArray[np.int64]:
        """The layer's operations; the exponent of each output."""
        layer, wide = fixed.layer, padded(fixed.layer.outputs)
        sums = fixed.weight.exponents + exponent
        self._dot(fixed.weight, SUM, INPUT, number, is_signed=self._signed)
        low, high = output_span(self._bits.activations, layer.activation)
        out = np.full(layer.outputs, fixed.exponents.output)
        if layer.activation == "sigmoid":
            limit = 8 << SIGMOID_IN
            self._shift(sums - SIGMOID_IN, SUM, -limit, limit)
            self._op(kernel.SIGMOID, SUM, count=wide)
            if is_last:
                out = np.full(layer.outputs, SIGMOID_OUT)
            else:
                self._shift(SIGMOID_OUT - out, SUM, low, high)
        elif is_last:  # the last layer's sums leave as they are
            out = sums
            if layer.activation == "relu":
                self._shift(0 * sums, SUM, 0, RAW[1])
        else:
            self._shift(sums - out, SUM, low, high)
        self._op(kernel.MOVE, INPUT, SUM, count=wide)
        return out

    def _add_recurrent(
        self, fixed: FixedRecurrent, number: int, exponent: int
    ) -> NDArray[np.int64]:
        """The layer's operations; the exponent of each output."""
        layer, at, bits = fixed.layer, fixed.exponents, self._bits
        size, width = padded(layer.states), padded(layer.outputs)
        top = (1 << (bits.state - 1)) - 1
        b = _spread(fixed.b, layer.states, size, axis=0)
        self._dot(b, DRIVE, INPUT, number, is_signed=self._signed)
        self._shift(b.exponents + exponent - at.state, DRIVE, -top - 1, top)
        low, high = span(bits.activations, is_unsigned=False)
        self._op(
            kernel.POLES, DRIVE, count=size, kind=layer.state_activation == "relu_re",
            at=self._poles.add(halves_padded(fixed.poles, size)), second=self._states,
            columns=bits.poles - 1, low=low, high=high, bits=bits.state,
            rounding=ROUNDING[bits.rounding], offset=at.state - at.hidden,
        )  # fmt: skip
        self._states += 2 * size
        c = _spread(fixed.c, layer.states, size, axis=1)
        self._dot(c, SUM, DRIVE, number)
        self._shift(c.exponents + at.hidden - at.inner, SUM, *RAW)
        low, high = output_span(bits.activations, layer.activation)
        self._op(
            kernel.ADD_SCALED, SUM, INPUT, count=width, at=self._scales.add(fixed.d),
            second=self._shifts.add(fixed.d_exponents + exponent - at.inner), low=low, high=high,
        )  # fmt: skip
        inner = at.inner
        if fixed.gate is not None:
            limit = 8 << SIGMOID_IN
            inner_is_signed = output_span(bits.activations, layer.activation)[0] < 0
            self._dot(fixed.gate, GATE, SUM, number, is_signed=inner_is_signed)
            self._shift(fixed.gate.exponents + at.inner - SIGMOID_IN, GATE, -limit, limit)
            self._op(kernel.SIGMOID, GATE, count=width)
            self._op(kernel.TIMES, SUM, GATE, count=width)
            inner += SIGMOID_OUT
        low, high = output_span(bits.activations, layer.final_activation)
        self._op(
            kernel.MIX, SUM, INPUT, count=width, kind=layer.skip, at=exponent - at.output,
            second=inner - at.output, low=low, high=high,
        )  # fmt: skip
        self._op(kernel.MOVE, INPUT, SUM, count=width)
        return np.full(layer.outputs, at.output)

    def _dot(
        self, matrix: Matrix, to: int, source: int, layer: int, *, is_signed: bool = True
    ) -> None:
        rows, columns = matrix.weights.shape
        # vpdpbusd multiplies unsigned inputs: 128 is added to signed ones, and taken away here
        offset = -1 if self._is_wide else 128 * is_signed
        bias = matrix.bias - max(offset, 0) * matrix.weights.astype(np.int64).sum(axis=1)
        self._op(
            kernel.DOT, to, source, count=padded(rows), columns=columns, layer=layer,
            at=self._weights.add(kernel.pack(matrix.weights, is_wide=self._is_wide)),
            second=self._biases.add(bias), offset=offset,
            fan_out=self._fan_out.add(np.count_nonzero(matrix.weights, axis=0)),
        )  # fmt: skip

    def _shift(self, by: NDArray[np.int64], to: int, low: int, high: int) -> None:
        second = self._shifts.add(by)
        self._op(kernel.SHIFT, to, count=padded(by.size), second=second, low=low, high=high)

    def _op(
        self, code: int, to: int, source: int = 0, *, count: int, kind: int = 0, at: int = 0,
        second: int = 0, columns: int = 0, layer: int = 0, low: int = 0, high: int = 0,
        bits: int = 0, rounding: int = 0, offset: int = 0, fan_out: int = 0,
    ) -> None:  # fmt: skip
        self._rows.append(
            [code, to, source, count, int(kind), at, second, columns, layer, low, high, bits,
             rounding, offset, fan_out]
        )  # fmt: skip


def _spread(matrix: Matrix, states: int, size: int, *, axis: int) -> Matrix:
    """A matrix with its rows or columns for real and imaginary parts padded to `size` each."""

    def wider(array: NDArray[Any], axis: int = 0) -> NDArray[Any]:
        shape = (*array.shape[:axis], 2, states, *array.shape[axis + 1 :])
        fill = [(0, 0)] * (array.ndim + 1)
        fill[axis + 1] = (0, size - states)
        whole = np.pad(array.reshape(shape), fill)
        return whole.reshape(*array.shape[:axis], 2 * size, *array.shape[axis + 1 :])

    if axis == 1:
        return Matrix(wider(matrix.weights, 1), matrix.exponents, matrix.bias)
    return Matrix(wider(matrix.weights), wider(matrix.exponents), wider(matrix.bias))
