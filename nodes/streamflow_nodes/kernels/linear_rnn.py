"""A stack of dense and diagonal complex layers, frame after frame, in one compiled call (float32).

The network is data: a table of operations and flat arrays, so that one compiled function, cached
on disk, computes every network.

A matrix is stored by columns, in blocks of 128, 64, 32 and 16 rows: (columns, rows of the block),
rows padded to 16 with zeros. A product adds one column after the other for each input other than
0, in ascending order: inputs of 0, which ReLUs make many of, cost nothing, and the order of sums
depends on nothing else. States and eigenvalues are float64: rounding an eigenvalue of 0.9999 to
float32 changes its distance from 1, and with it the state, by up to 3 parts in 10,000.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # llvmlite has no types
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

LANES = 16  # of one vector; the compiler splits it where the CPU's are shorter

NONE, RELU, SIGMOID, TANH, GELU_TANH = 0, 1, 2, 3, 4  # activations

# What an operation does, with `to` and `source` the rows of the scratch array that it works on:
SET = 0  # to = vectors[at:]
SET_SCALED = 1  # to = vectors[at:] + vectors[second:] source
PRODUCT = 2  # to += W source, W (rows padded to 16, columns) at weights[at:]
POLES = 3  # one step of the diagonal state, see `step_poles`; kind: whether it is rectified
ACTIVATE = 4  # to = activation of to; kind: which
GATE = 5  # to = to sigmoid(source)
ADD = 6  # to = to + source
MOVE = 7  # to = source

# columns of the table of operations; offsets are in items of the array that they point into
CODE, TO, SOURCE, COUNT, KIND, AT, SECOND, COLUMN_COUNT, LAYER = range(9)
WORDS = 9

_llvm: Any = cgutils  # it has no types
_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_V = ir.VectorType(_F32, LANES)


def _columns(vectors: int) -> Any:
    """out[:16 vectors] += x[j] times column j, for the `count` columns j in `index`; addresses."""

    @intrinsic
    def add(context: Any, weights: Any, index: Any, count: Any, x: Any, out: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
            w, places, number, values, sums = args
            fma = _llvm.get_or_insert_function(
                b.module, ir.FunctionType(_V, [_V, _V, _V]), f"llvm.fmuladd.v{LANES}f32"
            )

            def vector(base: Any, at: int) -> Any:
                return b.inttoptr(b.add(base, ir.Constant(_I64, 4 * LANES * at)), _V.as_pointer())

            kept = [b.load(vector(sums, at), align=4) for at in range(vectors)]
            cells = [_llvm.alloca_once_value(b, value) for value in kept]
            with _llvm.for_range(b, number) as loop:
                place = b.add(places, b.mul(loop.index, ir.Constant(_I64, 4)))
                j = b.sext(b.load(b.inttoptr(place, _I32.as_pointer())), _I64)
                from_x = b.add(values, b.mul(j, ir.Constant(_I64, 4)))
                value = b.load(b.inttoptr(from_x, _F32.as_pointer()))
                many = ir.Constant(_V, None)
                many = b.insert_element(many, value, ir.Constant(_I32, 0))
                zeros = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
                many = b.shuffle_vector(many, many, zeros)
                column = b.add(w, b.mul(j, ir.Constant(_I64, 4 * LANES * vectors)))
                for at, cell in enumerate(cells):
                    weight = b.load(vector(column, at), align=4)
                    b.store(b.call(fma, [weight, many, b.load(cell)]), cell)
            for at, cell in enumerate(cells):
                b.store(b.load(cell), vector(sums, at), align=4)
            return context.get_dummy_value()

        words = (types.uintp, types.uintp, types.intp, types.uintp, types.uintp)
        return types.none(*words), generate

    return add


_add1, _add2, _add4, _add8 = _columns(1), _columns(2), _columns(4), _columns(8)


@intrinsic
def _bitcast(context: Any, bits: Any) -> Any:
    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.bitcast(args[0], _F32)

    return types.float32(types.int32), generate


_float_of_bits: Any = _bitcast


@njit(cache=True, nogil=True, error_model="numpy")
def sigmoid(x: np.float32) -> np.float32:
    """1 / (1 + exp(-x)), within 2e-7 of it.

    exp is 2^n times a polynomial of degree 6 (the Taylor series of 2^f, |f| <= 1/2, with its last
    terms fitted), which the compiler can do for many numbers at once; so it is
    without the check of the divisor, which is never 0.
    """
    scaled = min(max(-x * np.float32(1.4426950408889634), np.float32(-126)), np.float32(126))
    # the nearest whole number by truncation of what is above 0: rint would be a call
    whole = np.int32(np.int32(scaled + np.float32(127.5)) - np.int32(127))
    f = scaled - np.float32(whole)
    p = np.float32(1.5403530e-4)
    p = p * f + np.float32(1.3333558e-3)
    p = p * f + np.float32(9.6181291e-3)
    p = p * f + np.float32(5.5504109e-2)
    p = p * f + np.float32(2.4022651e-1)
    p = p * f + np.float32(6.9314718e-1)
    p = p * f + np.float32(1.0)
    power: Any = _float_of_bits(np.int32(np.int32(whole + np.int32(127)) << np.int32(23)))
    return np.float32(np.float32(1.0) / (np.float32(1.0) + p * power))


@njit(cache=True, nogil=True, error_model="numpy")
def activate(kind: int, x: NDArray[np.float32], count: int) -> None:
    """Put the activation `kind` of x[:count] in its place; x : (n,) float32, updated."""
    if kind == RELU:
        for i in range(count):
            x[i] = max(x[i], np.float32(0))
    elif kind == SIGMOID:
        for i in range(count):
            x[i] = sigmoid(x[i])
    elif kind == TANH:
        for i in range(count):
            x[i] = np.float32(2) * sigmoid(np.float32(2) * x[i]) - np.float32(1)
    elif kind == GELU_TANH:
        for i in range(count):
            cube = x[i] * x[i] * x[i]
            inner = np.float32(1.5957691216057308) * (x[i] + np.float32(0.044715) * cube)
            x[i] = x[i] * sigmoid(inner)


@njit(cache=True, nogil=True, error_model="numpy")
def add_product(
    weights: NDArray[np.float32],
    at: int,
    rows: int,
    columns: int,
    x: NDArray[np.float32],
    index: NDArray[np.int32],
    fan_out: NDArray[np.int32],
    fan_at: int,
    out: NDArray[np.float32],
) -> int:
    """Add W x to out; the number of products of a weight and an input that are both not 0.

    weights : float32, with W (rows, columns) in blocks from `at` on, rows a multiple of 16
    x : (columns or more,) float32
    index : (columns or more,) int32, overwritten
    fan_out : int32, from `fan_at` on the weights other than 0 of each column
    out : (rows or more,) float32, updated
    """
    operations: Any = 0
    fans = fan_out[fan_at : fan_at + columns]  # an index that could be negative costs a test
    for j in range(columns):
        operations += np.int64(fans[j]) if x[j] != np.float32(0) else 0
    count = np.uint64(0)  # unsigned for the same reason
    for j in range(np.uint64(columns)):
        index[count] = np.int32(j)
        count += np.uint64(x[j] != np.float32(0))
    places, values = index.ctypes.data, x.ctypes.data
    address, sums = weights.ctypes.data + 4 * at, out.ctypes.data
    left = rows // LANES
    while left > 0:  # as `pack` does
        if left >= 8:
            size = 8
            _add8(address, places, np.intp(count), values, sums)
        elif left >= 4:
            size = 4
            _add4(address, places, np.intp(count), values, sums)
        elif left >= 2:
            size = 2
            _add2(address, places, np.intp(count), values, sums)
        else:
            size = 1
            _add1(address, places, np.intp(count), values, sums)
        address += 4 * LANES * size * columns
        sums += 4 * LANES * size
        left -= size
    return int(operations)


def pack(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """A (rows, columns) matrix as `add_product` takes it: flat, rows padded to 16 with zeros."""
    rows, columns = matrix.shape
    left = -(-rows // LANES)
    padded = np.zeros((left * LANES, columns), np.float32)
    padded[:rows] = matrix
    parts, at = [], 0
    while left:
        size = next(size for size in (8, 4, 2, 1) if size <= left)
        parts.append(padded[at : at + size * LANES].T.ravel())
        at += size * LANES
        left -= size
    return np.concatenate(parts)


@njit(cache=True, nogil=True, error_model="numpy")
def step_poles(
    poles: NDArray[np.float64],
    pole_at: int,
    state: NDArray[np.float64],
    state_at: int,
    states: int,
    is_rectified: bool,
    drive: NDArray[np.float32],
) -> None:
    """One step of x = a x + drive; drive becomes the state that goes on (float32).

    poles, state : float64, `states` real parts from their offsets on, then as many imaginary ones
    drive : (2 states or more,) float32, likewise; overwritten by x, or where `is_rectified` by x
        where its real part is above 0 and by 0 elsewhere
    """
    a_re, a_im = poles[pole_at : pole_at + states], poles[pole_at + states : pole_at + 2 * states]
    re = state[state_at : state_at + states]
    im = state[state_at + states : state_at + 2 * states]
    out_re, out_im = drive[:states], drive[states : 2 * states]
    for i in range(states):
        x_re = a_re[i] * re[i] - a_im[i] * im[i] + np.float64(out_re[i])
        x_im = a_re[i] * im[i] + a_im[i] * re[i] + np.float64(out_im[i])
        re[i], im[i] = x_re, x_im
        passes = x_re > 0 or not is_rectified
        out_re[i] = np.float32(x_re) if passes else np.float32(0)
        out_im[i] = np.float32(x_im) if passes else np.float32(0)


@njit(cache=True, nogil=True, error_model="numpy")
def run_frames(
    frames: NDArray[np.float32],
    table: NDArray[np.int64],
    weights: NDArray[np.float32],
    vectors: NDArray[np.float32],
    poles: NDArray[np.float64],
    fan_out: NDArray[np.int32],
    state: NDArray[np.float64],
    scratch: NDArray[np.float32],
    index: NDArray[np.int32],
    operations: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """Run every frame through the stack; `out` gets what the last layer gives.

    frames : (frames, inputs) float32
    table : (operations, WORDS) int64, in the order in which a frame passes them; it begins in row
        0 of the scratch array and ends there
    weights, vectors : flat float32; matrices as `pack` has them; vectors padded to 16
    poles : flat float64, a of each diagonal state; fan_out : flat int32, see `add_product`
    state : flat float64, x of each diagonal state, updated
    scratch : (buffers, widest) float32, padded to 16; index : (widest,) int32; both overwritten
    operations : (layers,) int64, products of weights and inputs that were both not 0, added to
    out : (frames, outputs) float32, written
    """
    for t in range(frames.shape[0]):
        for i in range(frames.shape[1]):
            scratch[0, i] = frames[t, i]
        for number in range(table.shape[0]):
            row = table[number]
            code, count, at, second = row[CODE], row[COUNT], row[AT], row[SECOND]
            to, source = scratch[row[TO]], scratch[row[SOURCE]]
            if code == PRODUCT:
                operations[row[LAYER]] += add_product(
                    weights, at, count, row[COLUMN_COUNT], source, index, fan_out, second, to
                )
            elif code == SET:
                values = vectors[at : at + count]
                for i in range(count):
                    to[i] = values[i]
            elif code == SET_SCALED:
                values, factors = vectors[at : at + count], vectors[second : second + count]
                for i in range(count):
                    to[i] = values[i] + factors[i] * source[i]
            elif code == POLES:
                step_poles(poles, at, state, second, count, row[KIND] != 0, to)
            elif code == ACTIVATE:
                activate(row[KIND], to, count)
            elif code == GATE:
                for i in range(count):
                    to[i] *= sigmoid(source[i])
            elif code == ADD:
                for i in range(count):
                    to[i] += source[i]
            else:
                for i in range(count):
                    to[i] = source[i]
        for i in range(out.shape[1]):
            out[t, i] = scratch[0, i]
