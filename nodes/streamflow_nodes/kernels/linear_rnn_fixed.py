"""A stack of dense and diagonal complex layers in integers, in one compiled call for all frames.

The rules are in docs/fixed-point.md, "Linear RNNs". As in `linear_rnn`, the network is a table of
operations and flat arrays. A matrix is stored for dot products of groups of inputs, 4 of 8 bits or
2 of 16 bits, which is what one 32-bit lane of the CPU's dot-product instructions (AVX-512 VNNI:
vpdpbusd, vpdpwssd) takes: (groups, rows of the block, inputs of the group), in blocks of 128, 64,
32 and 16 rows. A CPU without them runs the plain loop; both give the same integers, since sums that
could overflow 32 bits are refused before.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]  # llvmlite has no types
import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

LANES = 16

# What an operation does, with `to` and `source` the rows of the scratch array that it works on;
# s(v, n) is v / 2^n, to the nearest, halves up (n below 0: v 2^-n), and every result is clipped to
# [LOW, HIGH]:
DOT = 0  # to = biases[second:] + W source, W at weights[at:]; not clipped
SHIFT = 1  # to = s(to, shifts[second:])
POLES = 2  # one step of the diagonal state, see `step_poles`
ADD_SCALED = 3  # to = to + s(scales[at:] source, shifts[second:])
SIGMOID = 4  # to = the table's sigmoid of to; not clipped
TIMES = 5  # to = to source; not clipped
MIX = 6  # to = s(to, second) (+ s(source, at) where kind is 1)
MOVE = 7  # to = source

# columns of the table of operations
CODE, TO, SOURCE, COUNT, KIND, AT, SECOND, COLUMN_COUNT, LAYER = range(9)
LOW, HIGH, BITS, ROUNDING, OFFSET, FAN_OUT = range(9, 15)
WORDS = 15

NEAREST, ZERO, FLOOR = 0, 1, 2  # rounding of the state's products

SIGMOID_IN = 12  # exponent of the table's input, clipped to -8..8
SIGMOID_OUT = 15  # exponent of its output
KNOTS = 16  # of each unit


def host_has_vnni() -> bool:
    """Whether numba compiles for a CPU with AVX-512 VNNI."""
    config: Any = numba.config
    chosen = config.CPU_FEATURES
    if chosen is not None:
        return "+avx512vnni" in chosen.split(",")
    if config.CPU_NAME is not None:
        return False  # compiled for another CPU: only what all have
    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("avx512vnni") and features.get("avx512bw"))


HAS_VNNI = host_has_vnni()

_llvm: Any = cgutils  # it has no types
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_V = ir.VectorType(_I32, LANES)


def _groups(vectors: int, instruction: str) -> Any:
    """out[:16 vectors] += W x over `count` groups of inputs; addresses."""

    @intrinsic
    def add(context: Any, weights: Any, count: Any, x: Any, out: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
            if not HAS_VNNI:
                return context.get_dummy_value()  # never called: see `product`
            w, number, values, sums = args
            dot = _llvm.get_or_insert_function(
                b.module, ir.FunctionType(_V, [_V, _V, _V]), f"llvm.x86.avx512.{instruction}.512"
            )

            def vector(base: Any, at: int) -> Any:
                return b.inttoptr(b.add(base, ir.Constant(_I64, 4 * LANES * at)), _V.as_pointer())

            kept = [b.load(vector(sums, at), align=4) for at in range(vectors)]
            cells = [_llvm.alloca_once_value(b, value) for value in kept]
            with _llvm.for_range(b, number) as loop:
                from_x = b.add(values, b.mul(loop.index, ir.Constant(_I64, 4)))
                group = b.load(b.inttoptr(from_x, _I32.as_pointer()))
                many = b.insert_element(ir.Constant(_V, None), group, ir.Constant(_I32, 0))
                many = b.shuffle_vector(many, many, ir.Constant(_V, [0] * LANES))
                place = b.add(w, b.mul(loop.index, ir.Constant(_I64, 4 * LANES * vectors)))
                for at, cell in enumerate(cells):
                    weight = b.load(vector(place, at), align=4)
                    b.store(b.call(dot, [b.load(cell), many, weight]), cell)
            for at, cell in enumerate(cells):
                b.store(b.load(cell), vector(sums, at), align=4)
            return context.get_dummy_value()

        return types.none(types.uintp, types.intp, types.uintp, types.uintp), generate

    return add


_bytes1, _bytes2, _bytes4, _bytes8 = (_groups(n, "vpdpbusd") for n in (1, 2, 4, 8))
_words1, _words2, _words4, _words8 = (_groups(n, "vpdpwssd") for n in (1, 2, 4, 8))


@njit(cache=True, nogil=True, error_model="numpy")
def product(
    is_vector: bool,
    weights: NDArray[np.int8],
    wide_weights: NDArray[np.int16],
    at: int,
    rows: int,
    columns: int,
    offset: int,
    x: NDArray[np.int32],
    packed: NDArray[np.uint8],
    wide_packed: NDArray[np.int16],
    out: NDArray[np.int32],
) -> None:
    """Add W x to out, exactly.

    is_vector : whether the CPU's dot products are used; they must be there
    weights, wide_weights : the same memory as bytes and as words
    at : byte of `weights` where W (rows, columns) begins; rows a multiple of 16
    offset : 0 or 128, added to each x, for inputs of 8 bits (the sums were made less by as much
        times the weights); -1 for inputs of 16 bits
    x : (columns or more,) int32, in the range of its bits
    packed, wide_packed : (2 columns or more,) bytes, the same memory, overwritten
    out : (rows or more,) int32, updated
    """
    is_wide = offset < 0
    size = 2 if is_wide else 4
    groups = (columns + size - 1) // size
    # what fills the last group meets weights of 0
    if is_wide:
        for j in range(columns):
            wide_packed[j] = np.int16(x[j])
        wide_packed[columns] = 0
    else:
        for j in range(columns):
            packed[j] = np.uint8(x[j] + np.int32(offset))
        for j in range(columns, groups * size):
            packed[j] = 0
    sums, values, left, first = out.ctypes.data, packed.ctypes.data, rows // LANES, 0
    while left > 0:  # as `pack` does
        vectors = 8 if left >= 8 else 4 if left >= 4 else 2 if left >= 2 else 1
        lanes = vectors * LANES
        if is_vector:
            w, s = weights.ctypes.data + at, sums + 4 * first
            if is_wide:
                if vectors == 8:
                    _words8(w, groups, values, s)
                elif vectors == 4:
                    _words4(w, groups, values, s)
                elif vectors == 2:
                    _words2(w, groups, values, s)
                else:
                    _words1(w, groups, values, s)
            elif vectors == 8:
                _bytes8(w, groups, values, s)
            elif vectors == 4:
                _bytes4(w, groups, values, s)
            elif vectors == 2:
                _bytes2(w, groups, values, s)
            else:
                _bytes1(w, groups, values, s)
        elif is_wide:
            for g in range(groups):
                one, two = np.int32(wide_packed[2 * g]), np.int32(wide_packed[2 * g + 1])
                for r in range(lanes):
                    k = at // 2 + (g * lanes + r) * 2
                    out[first + r] += wide_weights[k] * one + wide_weights[k + 1] * two
        else:
            for g in range(groups):
                for r in range(lanes):
                    k, total = at + (g * lanes + r) * 4, np.int32(0)
                    for i in range(4):
                        total += np.int32(weights[k + i]) * np.int32(packed[4 * g + i])
                    out[first + r] += total
        at += groups * lanes * 4
        first += lanes
        left -= vectors


def pack(matrix: NDArray[np.int8], *, is_wide: bool) -> NDArray[np.int8]:
    """A (rows, columns) int8 matrix as `product` takes it, as bytes; rows padded to 16."""
    size, dtype = (2, np.int16) if is_wide else (4, np.int8)
    rows, columns = matrix.shape
    left, groups = -(-rows // LANES), -(-columns // size)
    padded = np.zeros((left * LANES, groups * size), dtype)
    padded[:rows, :columns] = matrix
    parts, at = [], 0
    while left:
        vectors = next(n for n in (8, 4, 2, 1) if n <= left)
        block = padded[at : at + vectors * LANES].reshape(vectors * LANES, groups, size)
        parts.append(block.transpose(1, 0, 2).ravel())
        at += vectors * LANES
        left -= vectors
    return np.concatenate(parts).view(np.int8)


@njit(cache=True, nogil=True, error_model="numpy")
def shifted(value: Any, by: Any) -> Any:
    """Value / 2^by to the nearest, halves up; by below 0: value 2^-by. All int64."""
    right, left = max(by, 0), max(-by, 0)
    half = (np.int64(1) << right) >> 1
    return ((np.int64(value) << left) + half) >> right


@njit(cache=True, nogil=True, error_model="numpy")
def rounded(value: Any, by: int, rounding: int) -> Any:
    """Value / 2^by, by above 0, to the nearest (halves up), toward zero or down."""
    if rounding == NEAREST:
        return (value + (np.int64(1) << (by - 1))) >> by
    if rounding == ZERO:
        return (value + ((value >> 63) & ((np.int64(1) << by) - 1))) >> by
    return value >> by


@njit(cache=True, nogil=True, error_model="numpy")
def step_poles(
    poles: NDArray[np.int32],
    state: NDArray[np.int32],
    states: int,
    pole_shift: int,
    rounding: int,
    bits: int,
    is_rectified: bool,
    hidden_shift: int,
    low: int,
    high: int,
    drive: NDArray[np.int32],
) -> None:
    """One step of x = a x + drive in integers; drive becomes the state that goes on.

    Each of the four products is shifted by `pole_shift` (rounded as `rounding` says) before the
    sum; the sum is clipped to `bits` bits.

    poles, state : (2 states,) int32, real parts, then imaginary ones; state updated
    drive : (2 states or more,) int32, likewise, at the state's exponent; overwritten by the state
        (0 where `is_rectified` and the real part is not above 0), shifted to the nearest by
        `hidden_shift` and clipped to [low, high]
    """
    top = (np.int64(1) << (bits - 1)) - 1
    all_re, all_im = state[:states], state[states:]
    pole_re, pole_im, out_re, out_im = (
        poles[:states],
        poles[states:],
        drive[:states],
        drive[states:],
    )
    for i in range(states):
        a_re, a_im = np.int64(pole_re[i]), np.int64(pole_im[i])
        re, im = np.int64(all_re[i]), np.int64(all_im[i])
        x_re = rounded(a_re * re, pole_shift, rounding) - rounded(a_im * im, pole_shift, rounding)
        x_im = rounded(a_re * im, pole_shift, rounding) + rounded(a_im * re, pole_shift, rounding)
        x_re = min(max(x_re + np.int64(out_re[i]), -top - 1), top)
        x_im = min(max(x_im + np.int64(out_im[i]), -top - 1), top)
        all_re[i], all_im[i] = np.int32(x_re), np.int32(x_im)
        passes = np.int64(1) if x_re > 0 or not is_rectified else np.int64(0)
        h_re = shifted(x_re * passes, hidden_shift)
        h_im = shifted(x_im * passes, hidden_shift)
        out_re[i] = np.int32(min(max(h_re, low), high))
        out_im[i] = np.int32(min(max(h_im, low), high))


@njit(cache=True, nogil=True, error_model="numpy")
def take_frame(
    frame: NDArray[np.float32], scale: np.float32, low: int, high: int, out: NDArray[np.int32]
) -> int:
    """The number of values beyond the range; out = frame scale to the nearest even, clipped."""
    clipped = np.int64(0)
    least, most = np.float32(low), np.float32(high)
    for i in range(frame.size):
        value = frame[i] * scale
        clipped += np.int64(value < least - np.float32(0.5) or value > most + np.float32(0.5))
        value = min(max(value, least), most)
        # adding and taking away 1.5 2^23 leaves a float32 below 2^22 at its nearest even integer
        out[i] = np.int32((value + np.float32(12582912.0)) - np.float32(12582912.0))
    return int(clipped)


@njit(cache=True, nogil=True, error_model="numpy")
def run_frames(
    is_vector: bool,
    frames: NDArray[np.float32],
    scale: float,
    low: int,
    high: int,
    table: NDArray[np.int64],
    weights: NDArray[np.int8],
    wide_weights: NDArray[np.int16],
    biases: NDArray[np.int32],
    shifts: NDArray[np.int32],
    scales: NDArray[np.int32],
    poles: NDArray[np.int32],
    sigmoid: NDArray[np.int32],
    fan_out: NDArray[np.int32],
    out_scales: NDArray[np.float32],
    state: NDArray[np.int32],
    scratch: NDArray[np.int32],
    packed: NDArray[np.uint8],
    wide_packed: NDArray[np.int16],
    operations: NDArray[np.int64],
    out: NDArray[np.float32],
) -> int:
    """The number of frames with a value beyond the range of the input; every frame is run.

    frames : (frames, inputs) float32; scale, low, high : 2^exponent and range of the input
    table : (operations, WORDS) int64; a frame begins in row 0 of the scratch array and ends there
    weights .. fan_out : flat, the constants that the operations point into; padded to 16
    out_scales : (outputs or more,) float32, 2^-exponent of each output
    state : flat int32, updated; scratch, packed, wide_packed : overwritten
    operations : (layers,) int64, products of weights and inputs that were both not 0, added to
    out : (frames, outputs) float32, written
    """
    clipped_frames = 0
    for t in range(frames.shape[0]):
        beyond = take_frame(frames[t], np.float32(scale), low, high, scratch[0])
        clipped_frames += 1 if beyond else 0
        for number in range(table.shape[0]):
            row = table[number]
            code, count, at, second = row[CODE], row[COUNT], row[AT], row[SECOND]
            least, most = row[LOW], row[HIGH]
            to, source = scratch[row[TO]], scratch[row[SOURCE]]
            if code == DOT:
                columns, fan = row[COLUMN_COUNT], row[FAN_OUT]
                used, fans = np.int64(0), fan_out[fan : fan + columns]
                for j in range(columns):
                    used += np.int64(fans[j]) if source[j] != np.int32(0) else 0
                operations[row[LAYER]] += used
                bias = biases[second : second + count]
                for i in range(count):
                    to[i] = bias[i]
                product(
                    is_vector, weights, wide_weights, at, count, columns, row[OFFSET], source,
                    packed, wide_packed, to,
                )  # fmt: skip
            elif code == SHIFT:
                by = shifts[second : second + count]
                for i in range(count):
                    moved = shifted(np.int64(to[i]), np.int64(by[i]))
                    to[i] = np.int32(min(max(moved, least), most))
            elif code == POLES:
                here = state[second : second + 2 * count]
                step_poles(
                    poles[at : at + 2 * count], here, count, row[COLUMN_COUNT], row[ROUNDING],
                    row[BITS], row[KIND] != 0, row[OFFSET], least, most, to,
                )  # fmt: skip
            elif code == ADD_SCALED:
                by, scale_of = shifts[second : second + count], scales[at : at + count]
                for i in range(count):
                    scaled = np.int64(scale_of[i]) * np.int64(source[i])
                    total = np.int64(to[i]) + shifted(scaled, np.int64(by[i]))
                    to[i] = np.int32(min(max(total, least), most))
            elif code == SIGMOID:
                for i in range(count):
                    place = np.int64(to[i]) + (8 << SIGMOID_IN)
                    knot, rest = place >> 8, place & 255
                    y = np.int64(sigmoid[knot])
                    y += ((np.int64(sigmoid[knot + 1]) - y) * rest + 128) >> 8
                    to[i] = np.int32(y)
            elif code == TIMES:
                for i in range(count):
                    to[i] = np.int32(to[i] * source[i])
            elif code == MIX:
                use = np.int64(row[KIND])
                for i in range(count):
                    total = shifted(np.int64(to[i]), second) + use * shifted(
                        np.int64(source[i]), at
                    )
                    to[i] = np.int32(min(max(total, least), most))
            else:
                for i in range(count):
                    to[i] = source[i]
        for i in range(out.shape[1]):
            out[t, i] = np.float32(scratch[0, i]) * out_scales[i]
    return int(clipped_frames)
