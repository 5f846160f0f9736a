"""Runs a linear recurrent network in float32, frame after frame, with its state between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import linear_rnn as kernel
from .model_file import Dense, Layer, Model, Recurrent
from .operations import counts

ACTIVATIONS = {
    "none": kernel.NONE, "relu": kernel.RELU, "sigmoid": kernel.SIGMOID, "tanh": kernel.TANH,
    "gelu_tanh": kernel.GELU_TANH,
}  # fmt: skip


INPUT, DRIVE, SUM, GATE = 0, 1, 2, 3  # rows of the scratch array


def padded(count: int) -> int:
    """`count`, or what it takes to fill the last vector."""
    return -(-count // kernel.LANES) * kernel.LANES


class Flat:
    """Arrays one after the other in one array, which begins where a cache line does."""

    def __init__(self, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._parts: list[NDArray[Any]] = []
        self._size = 0

    def add(self, array: NDArray[Any], size: int = 0) -> int:
        """Append an array, padded with zeros to `size`; where it begins."""
        at, size = self._size, padded(max(array.size, size))
        part = np.zeros(size, self._dtype)
        part[: array.size] = array.ravel()
        self._parts.append(part)
        self._size += size
        return at

    def array(self) -> NDArray[Any]:
        raw = np.zeros((self._size + kernel.LANES) * self._dtype.itemsize + 64, np.uint8)
        skip = -raw.ctypes.data % 64
        out: NDArray[Any] = raw[skip : skip + self._size * self._dtype.itemsize].view(self._dtype)
        if self._parts:
            np.concatenate(self._parts, out=out)
        return out


def halves(array: NDArray[np.complex128], axis: int, size: int, sign: int = 1) -> NDArray[Any]:
    """Real parts and `sign` times the imaginary ones side by side, each padded to `size`."""
    fill = [(0, 0)] * array.ndim
    fill[axis] = (0, size - array.shape[axis])
    return np.concatenate([np.pad(array.real, fill), np.pad(sign * array.imag, fill)], axis=axis)


def halves_padded(parts: NDArray[Any], size: int) -> NDArray[Any]:
    """The rows (2, states) side by side, each padded with zeros to `size`."""
    return np.pad(parts, ((0, 0), (0, size - parts.shape[1]))).ravel()


class FloatEngine:
    """A network in float32. Frame by frame or many at a time: the outputs are the same bits."""

    precision = "f32"
    clipped = 0

    def __init__(self, model: Model) -> None:
        self.model = model
        self._weights, self._vectors = Flat(np.float32), Flat(np.float32)
        self._poles, self._fan_out = Flat(np.float64), Flat(np.int32)
        self._states = 0
        self._rows: list[list[int]] = []
        for number, layer in enumerate(model.layers):
            if isinstance(layer, Dense):
                self._add_dense(layer, number)
            else:
                self._add_recurrent(layer, number)
        self._constant = (
            np.array(self._rows, np.int64), self._weights.array(), self._vectors.array(),
            self._poles.array(), self._fan_out.array(),
        )  # fmt: skip
        self.state = np.zeros(self._states)
        widest = max(widest_of(layer) for layer in model.layers)
        self._scratch = np.zeros((4, padded(widest)), np.float32)
        self._index = np.zeros(padded(widest), np.int32)
        self.operations = np.zeros(len(model.layers), np.int64)
        """Products of a weight and an input that were both not 0, for each layer, so far."""
        self.frames = 0
        """Frames run so far."""

    def run(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network gives for (frames, inputs) float32: (frames, outputs) float32."""
        out = np.empty((len(frames), self.model.outputs), np.float32)
        self.run_into(frames, out)
        return out

    def run_into(self, frames: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """As `run`, into an array; `frames` C-contiguous and read-only."""
        kernel.run_frames(
            frames, *self._constant, self.state, self._scratch, self._index, self.operations, out
        )
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
            "state": self.state.copy(), "operations": self.operations.copy(), "frames": self.frames
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self.state[:] = state["state"]
        self.operations[:] = state["operations"]
        self.frames = int(state["frames"])

    def counts(self, frames_a_second: float | None = None) -> dict[str, Any]:
        """Frames, weights, states and operations for the run report."""
        return counts(self.model, self.operations, self.frames, frames_a_second)

    def _add_dense(self, layer: Dense, number: int) -> None:
        self._op(kernel.SET, SUM, count=padded(layer.outputs), at=self._vectors.add(layer.bias))
        self._product(layer.weight, SUM, INPUT, number)
        self._activate(layer.activation, SUM, layer.outputs)
        self._op(kernel.MOVE, INPUT, SUM, count=layer.outputs)

    def _add_recurrent(self, layer: Recurrent, number: int) -> None:
        size, width = padded(layer.states), layer.outputs
        at = self._vectors.add(halves(layer.input_bias, 0, size))
        self._op(kernel.SET, DRIVE, count=2 * size, at=at)
        self._product(halves(layer.b, 0, size), DRIVE, INPUT, number)
        self._op(
            kernel.POLES, DRIVE, count=size, kind=layer.state_activation == "relu_re",
            at=self._poles.add(halves(layer.a, 0, size)), second=self._states,
        )  # fmt: skip
        self._states += 2 * size
        at, second = self._vectors.add(layer.output_bias), self._vectors.add(layer.d)
        self._op(kernel.SET_SCALED, SUM, INPUT, count=padded(width), at=at, second=second)
        self._product(halves(layer.c, 1, size, -1), SUM, DRIVE, number)
        self._activate(layer.activation, SUM, width)
        if layer.gate_weight is not None and layer.gate_bias is not None:
            at = self._vectors.add(layer.gate_bias)
            self._op(kernel.SET, GATE, count=padded(width), at=at)
            self._product(layer.gate_weight, GATE, SUM, number)
            self._op(kernel.GATE, SUM, GATE, count=width)
        if layer.skip:
            self._op(kernel.ADD, SUM, INPUT, count=width)
        self._activate(layer.final_activation, SUM, width)
        self._op(kernel.MOVE, INPUT, SUM, count=width)

    def _product(self, matrix: NDArray[Any], to: int, source: int, layer: int) -> None:
        at = self._weights.add(kernel.pack(matrix))
        fan_out = self._fan_out.add(np.count_nonzero(matrix, axis=0))
        rows, columns = matrix.shape
        self._op(
            kernel.PRODUCT, to, source, count=padded(rows), at=at, second=fan_out, columns=columns,
            layer=layer,
        )  # fmt: skip

    def _activate(self, activation: str, to: int, count: int) -> None:
        if activation != "none":
            self._op(kernel.ACTIVATE, to, count=count, kind=ACTIVATIONS[activation])

    def _op(
        self, code: int, to: int, source: int = 0, *, count: int, kind: int = 0, at: int = 0,
        second: int = 0, columns: int = 0, layer: int = 0,
    ) -> None:  # fmt: skip
        self._rows.append([code, to, source, count, int(kind), at, second, columns, layer])


def widest_of(layer: Layer) -> int:
    """The most numbers that are under way at a time in a layer."""
    inside = 2 * padded(layer.states) if isinstance(layer, Recurrent) else 0
    return max(layer.inputs, layer.outputs, inside)
