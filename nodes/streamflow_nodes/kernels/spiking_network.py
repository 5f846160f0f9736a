"""Steps any network of spiking units: an interpreter of tables, so that nothing compiles per file.

`networks/compiler.py` makes the tables and says what is in them; the equations of a step are in
`networks/rules.py`. The network is a row of *points*, in evaluation order. A point sums up its
input in an accumulator, and gives out a list of (index, value): which of its places are not 0. Into
a point lead *connections*, each of which reads the list of one point, of this step or an earlier
one. What is not in a list costs nothing.

All of it is compiled without Numba's reference counts (`_nrt=False`): nothing here makes an array
that must be freed, and counting took half of a step of a small network, in the call (some 70 ns for
each array handed over) and for each slice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array
from numpy.typing import NDArray

# kinds of points
INPUT, SUM, INTEGRATOR, IF, LI, LIF, CUBA_LI, CUBA_LIF, THRESHOLD, DELAY = range(10)

# kinds of connections
DIRECT, ROWS, CONVOLUTION = range(3)

# columns of the table of points
(
    KIND, SIZE, ACCUMULATOR, BIAS, COEFFICIENTS, POTENTIAL, CURRENT, LIST, VALUES, SLOTS, COUNTS,
    FIRST, LAST, BLOCK, TOUCHED, WORDS, IS_WHOLE, IS_RECORDED, TOTALS, ORDER, SPIKES, RING,
    POINT_WIDTH,
) = range(23)  # fmt: skip

# columns of the table of connections
(
    TYPE, SOURCE, STEPS_AGO, MAP, SCALE, WEIGHTS, INPUTS, OUTPUTS, ROW_TAPS, COLUMN_TAPS, CHANNELS,
    PER_GROUP, CONNECTION_WIDTH,
) = range(13)  # fmt: skip

# the plan's head
POINTS, POINTS_AT, CONNECTIONS_AT, SCRATCH_AT, SCRATCH_VALUES_AT, IS_SUBTRACT, ROOM, HEAD = range(8)

STEP = 0  # in marks: how many steps were made

# the arrays of an instance, two places for each in `arrays`: its address, and its length
PLAN, WEIGHED, COUNTED, STATE, MARKS, RECORDS, ARRAYS = range(7)

# then what a call tells: a tuple takes Python longer to take in than an int
DONE, WRITTEN, OUTSIDE, ARRAYS_WIDTH = range(2 * ARRAYS, 2 * ARRAYS + 4)

ONE_STEP = -1  # to begin at, where there are no ends

_COMPILED: Any = {"cache": True, "nogil": True, "_nrt": False}

CHANNEL_SHIFT, ROW_SHIFT = 40, 20  # of a place in a convolution's input: channel, row, column
PLACE_MASK = (1 << 20) - 1


def _lowest_bit_of(typing_context: Any, word: Any) -> Any:
    """How many zeros are below the lowest one of a uint64, which is not 0."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], cgutils.true_bit)

    return types.int64(types.uint64), code


_lowest_bit: Any = intrinsic(_lowest_bit_of)


def _array_of(typing_context: Any, address: Any, length: Any, dtype: Any) -> Any:
    """The (length,) numbers of a type that begin at an address: as `carray`, which needs NRT."""
    array_type = types.Array(dtype.dtype, 1, "C")

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(array_type)(context, builder)  # type: ignore[no-untyped-call]  # numba has no types
        place, count, _ = arguments
        size = context.get_abi_sizeof(context.get_data_type(dtype.dtype))
        size = context.get_constant(types.intp, size)
        populate_array(  # type: ignore[no-untyped-call]  # numba has no types
            array, data=builder.inttoptr(place, array.data.type), shape=[count], strides=[size],
            itemsize=size, meminfo=None,
        )  # fmt: skip
        return array._getvalue()

    return array_type(types.int64, types.int64, dtype), code


_array: Any = intrinsic(_array_of)


@njit(**_COMPILED)
def _mark(marks: NDArray[np.int64], first: int, words: int, bit: int) -> None:
    """Set a bit of a set, and the bit of its word in the words that follow the set."""
    word = bit >> 6
    marks[first + word] |= np.int64(1) << (bit & 63)
    marks[first + words + (word >> 6)] |= np.int64(1) << (word & 63)


@njit(**_COMPILED)
def _add_rows(
    rows: NDArray[np.int64], weights: NDArray[np.float32], first: int, total: NDArray[Any]
) -> None:
    """Add rows of weights to `total`, eight at a time: rows are what takes the time.

    rows : (n,) int64, which; weights : float32, row after row from `first` on
    total : (outputs,), added to
    """
    outputs = np.uint64(total.shape[0])  # unsigned: indices that may wrap round forbid vectors
    base = np.uint64(first)
    found = rows.shape[0]
    at = 0
    while at + 8 <= found:
        ra = base + np.uint64(rows[at]) * outputs
        rb = base + np.uint64(rows[at + 1]) * outputs
        rc = base + np.uint64(rows[at + 2]) * outputs
        rd = base + np.uint64(rows[at + 3]) * outputs
        re = base + np.uint64(rows[at + 4]) * outputs
        rf = base + np.uint64(rows[at + 5]) * outputs
        rg = base + np.uint64(rows[at + 6]) * outputs
        rh = base + np.uint64(rows[at + 7]) * outputs
        for unit in range(outputs):
            one = (total.dtype.type(weights[ra + unit]) + weights[rb + unit]) + (
                total.dtype.type(weights[rc + unit]) + weights[rd + unit]
            )
            two = (total.dtype.type(weights[re + unit]) + weights[rf + unit]) + (
                total.dtype.type(weights[rg + unit]) + weights[rh + unit]
            )
            total[unit] += one + two
        at += 8
    if at + 4 <= found:
        ra = base + np.uint64(rows[at]) * outputs
        rb = base + np.uint64(rows[at + 1]) * outputs
        rc = base + np.uint64(rows[at + 2]) * outputs
        rd = base + np.uint64(rows[at + 3]) * outputs
        for unit in range(outputs):
            total[unit] = (
                total[unit] + (total.dtype.type(weights[ra + unit]) + weights[rb + unit])
            ) + (total.dtype.type(weights[rc + unit]) + weights[rd + unit])
        at += 4
    if at + 2 <= found:
        ra = base + np.uint64(rows[at]) * outputs
        rb = base + np.uint64(rows[at + 1]) * outputs
        for unit in range(outputs):
            total[unit] += total.dtype.type(weights[ra + unit]) + weights[rb + unit]
        at += 2
    if at < found:
        ra = base + np.uint64(rows[at]) * outputs
        for unit in range(outputs):
            total[unit] += weights[ra + unit]


@njit(**_COMPILED)
def _add_weighted_rows(
    rows: NDArray[np.int64],
    values: NDArray[Any],
    weights: NDArray[np.float32],
    first: int,
    total: NDArray[Any],
) -> None:
    """As `_add_rows`, each row times its value."""
    outputs = np.uint64(total.shape[0])
    base = np.uint64(first)
    found = rows.shape[0]
    at = 0
    while at + 8 <= found:
        ra = base + np.uint64(rows[at]) * outputs
        rb = base + np.uint64(rows[at + 1]) * outputs
        rc = base + np.uint64(rows[at + 2]) * outputs
        rd = base + np.uint64(rows[at + 3]) * outputs
        re = base + np.uint64(rows[at + 4]) * outputs
        rf = base + np.uint64(rows[at + 5]) * outputs
        rg = base + np.uint64(rows[at + 6]) * outputs
        rh = base + np.uint64(rows[at + 7]) * outputs
        na, nb, nc, nd = values[at], values[at + 1], values[at + 2], values[at + 3]
        ne, nf, ng, nh = values[at + 4], values[at + 5], values[at + 6], values[at + 7]
        for unit in range(outputs):
            one = (na * weights[ra + unit] + nb * weights[rb + unit]) + (
                nc * weights[rc + unit] + nd * weights[rd + unit]
            )
            two = (ne * weights[re + unit] + nf * weights[rf + unit]) + (
                ng * weights[rg + unit] + nh * weights[rh + unit]
            )
            total[unit] += one + two
        at += 8
    while at < found:
        ra = base + np.uint64(rows[at]) * outputs
        na = values[at]
        for unit in range(outputs):
            total[unit] += na * weights[ra + unit]
        at += 1


@njit(**_COMPILED)
def _take_input(
    cells: NDArray[np.int64],
    values: NDArray[Any],
    has_values: bool,
    point: NDArray[np.int64],
    state: NDArray[Any],
    marks: NDArray[np.int64],
    place: int,
    value_place: int,
    scratch: int,
) -> tuple[int, int, int]:
    """The list of the input: how many entries, whether others than 1 are among them, and how many
    cells were not among the inputs (and are left out).

    A cell that is there several times gives the sum of its values, at its place in ascending order:
    whatever the order of the cells was, what follows is the same.
    """  # fmt: skip
    size = point[SIZE]
    count, outside, graded = 0, 0, 0
    given_cells = np.uint64(cells.shape[0])
    is_ascending = True
    for index in range(np.uint64(1), given_cells):
        is_ascending &= cells[index - np.uint64(1)] < cells[index]
    if given_cells == 0:
        return 0, 0, 0
    if is_ascending and cells[0] >= 0 and cells[given_cells - np.uint64(1)] < size:
        listed = np.uint64(place)
        if not has_values:
            for index in range(given_cells):
                marks[listed + index] = cells[index]
            return cells.shape[0], 0, 0
        for index in range(given_cells):
            if values[index] == 0:
                continue
            graded |= values[index] != 1
            state[value_place + count] = values[index]
            marks[place + count] = cells[index]
            count += 1
        return count, graded, 0
    # unsigned: a negative cell is a large one, and indices need not be looked at for wrapping round
    inputs, total, touched = (
        np.uint64(size),
        np.uint64(point[ACCUMULATOR]),
        np.uint64(point[TOUCHED]),
    )
    words = np.uint64(point[WORDS])
    if not has_values and state.itemsize == 8:
        # Counts times float32 weights add up to the same in any order unless weights differ in size
        # by more than some 2^20: no need to sort.
        listed, given, kept = np.uint64(place), np.uint64(value_place), np.uint64(scratch)
        found = np.uint64(0)
        for index in range(np.uint64(cells.shape[0])):
            cell = np.uint64(cells[index])
            if cell >= inputs:
                outside += 1
                continue
            times = state[total + cell]
            state[total + cell] = times + 1
            marks[kept + found] = np.int64(cell)  # overwritten by the next if it was there already
            found += np.uint64(times == 0)
        for index in range(found):
            cell = np.uint64(marks[kept + index])
            marks[listed + index] = np.int64(cell)
            times = state[total + cell]
            state[total + cell] = 0
            state[given + index] = times
            graded |= times != 1
        return int(np.int64(found)), graded, outside
    is_large = words > np.uint64(64)  # else all words are looked at
    for index in range(cells.shape[0]):
        cell = np.uint64(cells[index])
        if cell >= inputs:
            outside += 1
            continue
        word = cell >> np.uint64(6)
        marks[touched + word] |= np.int64(1) << np.int64(cell & np.uint64(63))
        if is_large:
            above = touched + words + (word >> np.uint64(6))
            marks[above] |= np.int64(1) << np.int64(word & np.uint64(63))
        if has_values:
            state[total + cell] += values[index]
        else:
            state[total + cell] += 1
    for upper in range((words + np.uint64(63)) >> np.uint64(6)):
        if is_large:
            summary = np.uint64(marks[touched + words + upper])
            marks[touched + words + upper] = 0
        else:
            summary = np.uint64(~np.uint64(0) >> (np.uint64(64) - words))
        while summary != 0:
            word = np.uint64(_lowest_bit(summary)) + (upper << np.uint64(6))
            summary &= summary - np.uint64(1)
            bits = np.uint64(marks[touched + word])
            marks[touched + word] = 0
            while bits != 0:
                cell = np.uint64(_lowest_bit(bits)) + (word << np.uint64(6))
                bits &= bits - np.uint64(1)
                value = state[total + cell]
                state[total + cell] = 0
                graded |= value != 1
                marks[place + count] = np.int64(cell)  # overwritten by the next if it adds up to 0
                state[value_place + count] = value
                count += value != 0
    return count, graded, outside


@njit(**_COMPILED)
def _convolve(
    places: NDArray[np.int64],
    values: NDArray[Any],
    is_graded: bool,
    row: NDArray[np.int64],
    plan: NDArray[np.int64],
    weights: NDArray[np.float32],
    total: NDArray[Any],
    marks: NDArray[np.int64],
    touched: int,
    words: int,
    block: int,
) -> None:
    """Add to every output that a place reaches its weight, times its value: (y, x, channel) last.

    places : (n,) int64, channel, row and column packed; `row` : the connection
    The taps of a row (column) y are at plan[taps + 2 y] (first, last), triples of: offset in the
    weights, offset in the outputs, and output row (column) number, in pixels.
    """
    group_inputs, per_group = row[CHANNELS], np.uint64(row[PER_GROUP])
    rows_at, columns_at, first = row[ROW_TAPS], row[COLUMN_TAPS], row[WEIGHTS]
    per_channel = row[INPUTS]
    for index in range(places.shape[0]):
        place = places[index]
        channel = place >> CHANNEL_SHIFT
        y = (place >> ROW_SHIFT) & PLACE_MASK
        x = place & PLACE_MASK
        base = first + channel * per_channel
        group = (channel // group_inputs) * row[PER_GROUP] if group_inputs else 0
        x_first, x_last = plan[columns_at + 2 * x], plan[columns_at + 2 * x + 1]
        for ty in range(plan[rows_at + 2 * y], plan[rows_at + 2 * y + 1], 3):
            for tx in range(x_first, x_last, 3):
                w = np.uint64(base + plan[ty] + plan[tx])
                out = np.uint64(group + plan[ty + 1] + plan[tx + 1])
                if is_graded:
                    value = values[index]
                    for unit in range(per_group):
                        total[out + unit] += value * weights[w + unit]
                else:
                    for unit in range(per_group):
                        total[out + unit] += weights[w + unit]
                if block:
                    _mark(marks, touched, words, plan[ty + 2] + plan[tx + 2])


@njit(**_COMPILED)
def _step_if(
    first: int,
    last: int,
    total: NDArray[Any],
    coefficients: NDArray[Any],
    v: NDArray[Any],
    subtract: bool,
    found: NDArray[np.int64],
    count: int,
) -> tuple[int, bool]:
    """Integrate and fire neurons [first, last): spikes so far, and whether one is still above."""
    size = np.uint64(total.shape[0])
    is_above = False
    for unit in range(np.uint64(first), np.uint64(last)):
        potential = v[unit] + coefficients[unit] * total[unit]
        total[unit] = 0
        v[unit] = potential
        is_above |= potential > coefficients[size + unit]
    if not is_above:
        return count, False
    is_hot = False
    for unit in range(np.uint64(first), np.uint64(last)):
        threshold = coefficients[size + unit]
        if v[unit] > threshold:
            v[unit] = v[unit] - threshold if subtract else coefficients[2 * size + unit]
            is_hot |= v[unit] > threshold
            found[count] = np.int64(unit)
            count += 1
    return count, is_hot


@njit(**_COMPILED)
def _step_leaky(
    is_cuba: bool,
    subtract: bool,
    total: NDArray[Any],
    bias: NDArray[Any],
    coefficients: NDArray[Any],
    v: NDArray[Any],
    current: NDArray[Any],
    found: NDArray[np.int64],
) -> int:
    """LI, LIF, CubaLI and CubaLIF: how many are above their threshold, which are written to
    `found` and reset.

    coefficients : rows of g of the membrane, v_leak, r, v_threshold, v_reset, and for CubaLI and
    CubaLIF g of the synapse, w_in, each as long as `total`
    """  # fmt: skip
    size = np.uint64(total.shape[0])
    is_above = False
    if is_cuba:
        for unit in range(size):
            drive = current[unit] + coefficients[5 * size + unit] * (
                coefficients[6 * size + unit] * total[unit] - current[unit]
            )
            current[unit] = drive
            total[unit] = drive
    for unit in range(size):
        potential = v[unit] + coefficients[unit] * (
            (coefficients[size + unit] - v[unit]) + coefficients[2 * size + unit] * total[unit]
        )
        v[unit] = potential
        total[unit] = bias[unit]
        is_above |= potential > coefficients[3 * size + unit]
    if not is_above:
        return 0
    count = 0
    for first in range(np.uint64(0), size, np.uint64(32)):
        bits = np.uint32(0)
        for lane in range(np.uint64(min(np.uint64(32), size - first))):
            unit = first + lane
            is_spike = v[unit] > coefficients[3 * size + unit]
            bits = np.uint32(bits | np.uint32(np.uint32(is_spike) << np.uint32(lane)))
        while bits != 0:
            spiking = first + np.uint64(_lowest_bit(np.uint64(bits)))
            bits = np.uint32(bits & np.uint32(bits - np.uint32(1)))
            v[spiking] = (
                v[spiking] - coefficients[3 * size + spiking]
                if subtract
                else coefficients[4 * size + spiking]
            )
            found[count] = np.int64(spiking)
            count += 1
    return count


@njit(**_COMPILED)
def _not_zero(given: NDArray[Any], found: NDArray[np.int64], values: NDArray[Any]) -> int:
    """Write which of `given` are not 0, and their values; how many."""
    count = 0
    for unit in range(given.shape[0]):
        if given[unit] != 0:
            found[count] = unit
            values[count] = given[unit]
            count += 1
    return count


@njit(**_COMPILED)
def _step_touched(
    kind: int,
    is_whole: bool,
    subtract: bool,
    block: int,
    touched: int,
    words: int,
    total: NDArray[Any],
    coefficients: NDArray[Any],
    v: NDArray[Any],
    marks: NDArray[np.int64],
    found: NDArray[np.int64],
    values: NDArray[Any],
) -> int:
    """IF neurons and sums: how many entries; only the blocks that are marked (or all) are looked
    at. The accumulator is left at 0.

    A neuron that is still above its threshold after its reset marks its block for the next step.
    """  # fmt: skip
    count = 0
    for upper in range((words + 63) >> 6):
        summary = np.uint64(marks[touched + words + upper])
        marks[touched + words + upper] = 0
        word = upper << 6
        while summary != 0 or is_whole:
            if is_whole:
                bits = np.uint64(1)
                for index in range(touched, touched + words + ((words + 63) >> 6)):
                    marks[index] = 0
            else:
                word = _lowest_bit(summary) + (upper << 6)
                summary &= summary - np.uint64(1)
                bits = np.uint64(marks[touched + word])
                marks[touched + word] = 0
            while bits != 0:
                number = _lowest_bit(bits) + (word << 6)
                bits &= bits - np.uint64(1)
                first, last = number * block, (number + 1) * block
                if is_whole:
                    first, last = 0, total.shape[0]
                if kind == IF:
                    count, is_hot = _step_if(
                        first, last, total, coefficients, v, subtract, found, count
                    )
                    if is_hot:
                        for hot in range(first // block, last // block):
                            _mark(marks, touched, words, hot)
                else:
                    for unit in range(first, last):
                        if total[unit] != 0:
                            found[count] = unit
                            values[count] = total[unit]
                            total[unit] = 0
                            count += 1
            if is_whole:
                return count
    return count


@njit(**_COMPILED)
def _step_delay(
    now: int,
    delays: NDArray[np.int64],
    total: NDArray[Any],
    ring: NDArray[Any],
    given: NDArray[Any],
) -> None:
    """What each place took so many steps ago, to `given`; `delays` : ring length, then each's."""
    length, size = delays[0], total.shape[0]
    now = now % length
    for unit in range(size):
        ring[now * size + unit] = total[unit]
        given[unit] = ring[(now - delays[1 + unit] + length) % length * size + unit]


@njit(**_COMPILED)
def _is_contiguous(array: NDArray[Any]) -> bool:
    """Whether it is what its type says, in a call that does not look at types."""
    return array.shape[0] < 2 or array.strides[0] == array.itemsize


@njit(**_COMPILED)
def run_steps(
    address: int,
    cells: NDArray[np.int64],
    values: NDArray[Any],
    ends: NDArray[np.int64],
    begin: int,
) -> int:
    """Steps [begin, ...) of the network: how many records were written; or -1, where there is more
    to tell: not all steps are done, or cells were not among the inputs (they are left out).

    That is told in the instance's `arrays`: DONE, of `ends`; WRITTEN; OUTSIDE, how many cells. DONE
    is -1 where an array is not what is said here, which is not looked at before.

    It stops before a step whose records might not fit: empty the records, and call again with the
    number of steps done as `begin`. With ONE_STEP as `begin` it makes one step of all `cells`, and
    does not look at `ends`.

    address : of (ARRAYS_WIDTH,) int64, the address and length of each array of the instance (a call
        costs by the argument), and what is told; updated
    cells : (n,) int64, inputs that are not 0, step after step, in any order
    values : (n,) as the state, what they give; or (0,), where each counts 1
    ends : (steps,) int64, where in `cells` each step ends

    PLAN : int64, tables; WEIGHED : float32, weights; not changed
    COUNTED : as `values`, coefficients; not changed
    STATE : as `values`, accumulators, potentials and values; updated
    MARKS : int64, lists, counts and sets; updated
    RECORDS : (rows, 4) float64, for each entry of the recorded points: step since the network was
        at rest, number of the point, place (in NIR's order), value; written
    """  # fmt: skip
    arrays = _array(address, ARRAYS_WIDTH, np.int64)
    plan = _array(arrays[2 * PLAN], arrays[2 * PLAN + 1], np.int64)
    weights = _array(arrays[2 * WEIGHED], arrays[2 * WEIGHED + 1], np.float32)
    coefficients = _array(arrays[2 * COUNTED], arrays[2 * COUNTED + 1], values.dtype)
    state = _array(arrays[2 * STATE], arrays[2 * STATE + 1], values.dtype)
    marks = _array(arrays[2 * MARKS], arrays[2 * MARKS + 1], np.int64)
    records = _array(arrays[2 * RECORDS], arrays[2 * RECORDS + 1], np.float64)
    points, at_points, at_connections = plan[POINTS], plan[POINTS_AT], plan[CONNECTIONS_AT]
    scratch, scratch_values = plan[SCRATCH_AT], plan[SCRATCH_VALUES_AT]
    room = plan[ROOM]  # records that a step may need
    has_values = values.shape[0] > 0
    subtract = plan[IS_SUBTRACT] != 0
    is_one = begin == ONE_STEP
    done, steps = (0, 1) if is_one else (begin, ends.shape[0])
    written, outside = 0, 0
    arrays[DONE] = -1
    if (
        done < 0
        or not (_is_contiguous(cells) and _is_contiguous(values) and _is_contiguous(ends))
        or (has_values and values.shape[0] < cells.shape[0])
    ):
        return -1
    while done < steps and 4 * (written + room) <= records.shape[0]:
        now = marks[STEP]
        for number in range(points):
            at = at_points + number * POINT_WIDTH
            point = plan[at : at + POINT_WIDTH]
            size, slots = point[SIZE], point[SLOTS]
            slot = now % slots if slots > 1 else 0
            place, value_place = point[LIST] + slot * size, point[VALUES] + slot * size
            if point[KIND] == INPUT:
                first = ends[done - 1] if done else 0
                last = cells.shape[0] if is_one else ends[done]
                if not 0 <= first <= last <= cells.shape[0]:
                    return -1
                count, graded, strange = _take_input(
                    cells[first:last], values[first:last] if has_values else values,
                    has_values, point, state, marks, place, value_place, scratch,
                )  # fmt: skip
                outside += strange
            else:
                total = state[point[ACCUMULATOR] : point[ACCUMULATOR] + size]
                is_whole = point[IS_WHOLE] != 0
                for link in range(point[FIRST], point[LAST]):
                    row_at = at_connections + link * CONNECTION_WIDTH
                    row = plan[row_at : row_at + CONNECTION_WIDTH]
                    source_at = at_points + row[SOURCE] * POINT_WIDTH
                    source = plan[source_at : source_at + POINT_WIDTH]
                    source_slot = 0
                    if source[SLOTS] > 1:
                        if row[STEPS_AGO] > now:
                            continue
                        source_slot = (now - row[STEPS_AGO]) % source[SLOTS]
                    entries = marks[source[COUNTS] + 2 * source_slot]
                    if entries == 0:
                        continue
                    is_graded = marks[source[COUNTS] + 2 * source_slot + 1] != 0
                    list_at = source[LIST] + source_slot * source[SIZE]
                    values_at = source[VALUES] + source_slot * source[SIZE]
                    if row[MAP] >= 0:
                        kept = 0
                        for index in range(entries):
                            entry = marks[list_at + index]
                            mapped = plan[row[MAP] + entry]
                            if mapped < 0:
                                continue
                            marks[scratch + kept] = mapped
                            if row[SCALE] >= 0:
                                scale = coefficients[row[SCALE] + entry]
                                if is_graded:
                                    scale *= state[values_at + index]
                                state[scratch_values + kept] = scale
                            elif is_graded:
                                state[scratch_values + kept] = state[values_at + index]
                            kept += 1
                        entries, list_at, values_at = kept, scratch, scratch_values
                        is_graded = is_graded or row[SCALE] >= 0
                    chosen = marks[list_at : list_at + entries]
                    given = state[values_at : values_at + entries]
                    if row[TYPE] == CONVOLUTION:
                        _convolve(
                            chosen, given, is_graded, row, plan, weights, total, marks,
                            point[TOUCHED], point[WORDS], point[BLOCK],
                        )  # fmt: skip
                    elif row[TYPE] == ROWS:
                        is_whole = True
                        if row[OUTPUTS] < size:  # a matrix for each group of inputs
                            for index in range(entries):
                                start = chosen[index] // row[INPUTS] * row[OUTPUTS]
                                base = row[WEIGHTS] + chosen[index] * row[OUTPUTS]
                                for unit in range(row[OUTPUTS]):
                                    weight = total.dtype.type(weights[base + unit])
                                    if is_graded:
                                        weight *= given[index]
                                    total[start + unit] += weight
                        elif is_graded:
                            _add_weighted_rows(chosen, given, weights, row[WEIGHTS], total)
                        else:
                            _add_rows(chosen, weights, row[WEIGHTS], total)
                    else:
                        for index in range(entries):
                            unit = chosen[index]
                            if is_graded:
                                total[unit] += given[index]
                            else:
                                total[unit] += 1
                            if point[BLOCK]:
                                _mark(marks, point[TOUCHED], point[WORDS], unit // point[BLOCK])
                kind, c = point[KIND], point[COEFFICIENTS]
                found = marks[place : place + size]
                listed = state[value_place : value_place + size]
                v = state[point[POTENTIAL] : point[POTENTIAL] + size]
                bias = coefficients[point[BIAS] : point[BIAS] + size]
                graded = 1
                if kind in (IF, SUM):
                    count = _step_touched(
                        kind, is_whole, subtract, point[BLOCK], point[TOUCHED], point[WORDS],
                        total, coefficients[c : c + 3 * size], v, marks, found, listed,
                    )  # fmt: skip
                    graded = 1 if kind == SUM else 0
                    if point[IS_WHOLE]:
                        for unit in range(size):
                            total[unit] = bias[unit]
                elif LI <= kind <= CUBA_LIF:
                    current = state[point[CURRENT] : point[CURRENT] + size]
                    count = _step_leaky(
                        kind in (CUBA_LI, CUBA_LIF), subtract, total, bias,
                        coefficients[c : c + 7 * size], v, current, found,
                    )  # fmt: skip
                    if kind in (LI, CUBA_LI):
                        count = _not_zero(v, found, listed)
                    else:
                        graded = 0
                else:
                    if kind == INTEGRATOR:
                        for unit in range(size):
                            v[unit] += coefficients[c + unit] * total[unit]
                        count = _not_zero(v, found, listed)
                    elif kind == DELAY:
                        ring, length = point[RING], plan[point[RING]]
                        _step_delay(
                            now, plan[ring : ring + 1 + size], total,
                            state[point[POTENTIAL] : point[POTENTIAL] + length * size], total,
                        )  # fmt: skip
                        count = _not_zero(total, found, listed)
                    else:
                        graded = 0
                        count = 0
                        for unit in range(size):
                            if total[unit] > coefficients[c + unit]:
                                found[count] = unit
                                count += 1
                    for unit in range(size):
                        total[unit] = bias[unit]
            marks[point[COUNTS] + 2 * slot] = count
            marks[point[COUNTS] + 2 * slot + 1] = graded
            marks[point[SPIKES]] += count
            if point[TOTALS] >= 0:
                for index in range(count):
                    unit = point[TOTALS] + marks[place + index]
                    if graded:
                        state[unit] += state[value_place + index]
                    else:
                        state[unit] += 1
            if point[IS_RECORDED]:
                for index in range(count):
                    unit = marks[place + index]
                    records[4 * written] = now
                    records[4 * written + 1] = number
                    records[4 * written + 2] = (
                        plan[point[ORDER] + unit] if point[ORDER] >= 0 else unit
                    )
                    records[4 * written + 3] = state[value_place + index] if graded else 1
                    written += 1
        marks[STEP] = now + 1
        done += 1
    arrays[DONE], arrays[WRITTEN], arrays[OUTSIDE] = done, written, outside
    return written if done == steps and outside == 0 else -1
