"""One time step of a network under Loihi's integer rules: `docs/fixed-point.md` has each of them.

Everything is int32 and event-driven. A message (a spike, or a graded value) adds its runs of
weights to the accumulators of its targets; integers commute, so the order of messages changes
nothing. Populations are updated in their order; what a message may do in the same step and what
waits for a later one, the connection says.

A run is a piece of one source's weights that lies together in its target: a whole row of a dense
layer, the channels of one pixel of a convolution (the state is channel-last). Pooling, padding and
stride are in the table of runs, so they cost nothing in a step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Int32 = np.int32
_COMPILED: Any = {"cache": True, "nogil": True, "_nrt": False}  # as in `spiking_network`

LIF, SIGMA_DELTA, DELTA, READOUT = 0, 1, 2, 3

# Columns of `populations`: int64, one row each, in the order in which they are updated.
KIND = 0
FIRST = 1  # its first neuron in the flat arrays of neurons
SIZE = 2
LAZY = 3  # 1: only neurons that a message reached are visited (see `_integrate`)
IN_FIRST, IN_LAST = 4, 5  # rows of `connections` that end here
OUT_FIRST, OUT_LAST = 6, 7  # entries of `outgoing` that start here
RELU = 8  # SIGMA_DELTA: 1 cuts the activation off below 0
STATE_EXP = 9  # SIGMA_DELTA, DELTA: bits of the state below a message's unit
SPIKE_EXP = 10  # DELTA: the shift of what comes in
POPULATION_COLUMNS = 11

# Columns of `connections`: int64.
TARGET = 0  # row of `populations`
ROW = 1  # entry of `run_ends` that belongs to its source's unit 0
LATER = 2  # steps that every message waits: 0 arrives in its own step
EXPONENT = 3  # the sum of a step is shifted left by it, or right where it is negative
SUMS = 4  # first entry of its accumulators in `sums`
DEPTH = 5  # steps that its accumulators hold, a ring
DELAYED = 6  # 1: each weight has a delay of its own
WHOLE = 7  # 1: each unit has one run, over its whole target
CONNECTION_COLUMNS = 8

# Columns of `runs`: int32.
RUN_TARGET, RUN_WEIGHT, RUN_LENGTH = 0, 1, 2

LIMIT = 1 << 23  # 24-bit state with a sign
ALIGN = 6  # thresholds and synaptic sums meet the state 6 bits up


@njit(**_COMPILED)
def _decay(state: Int32, keep: Int32) -> Int32:
    """The state times keep / 4096, rounded toward zero, in 32 bits.

    High and low 12 bits apart: no product leaves 32 bits, so the loop over neurons is vectorised.
    """
    size = np.int32(-state if state < 0 else state)
    high = np.int32(np.int32(size >> 12) * keep)
    low = np.int32(np.int32(np.int32(size & 4095) * keep) >> 12)
    kept = np.int32(high + low)
    return np.int32(-kept if state < 0 else kept)


@njit(**_COMPILED)
def _wrap(u: Int32) -> Int32:
    """`u` brought back once into 24 bits, as Loihi's current does."""
    once = np.int32(u - 2 * LIMIT) if u > LIMIT else np.int32(u)
    return np.int32(u + 2 * LIMIT) if once <= -LIMIT else once


@njit(**_COMPILED)
def _saturate(v: Int32) -> Int32:
    """`v` held within 24 bits, as Loihi's membrane is."""
    low, high = np.int32(1 - LIMIT), np.int32(LIMIT - 1)
    return low if v < low else (high if v > high else np.int32(v))


@njit(**_COMPILED)
def _shift(total: Int32, exponent: int) -> Int32:
    """Left by the exponent, or right (toward minus infinity) where it is negative, in 32 bits."""
    return np.int32(total << exponent) if exponent > 0 else np.int32(total >> -exponent)


@njit(**_COMPILED)
def _add_rows(
    units: NDArray[np.int32],
    eights: int,
    row: int,
    run_ends: NDArray[np.int32],
    runs: NDArray[np.int32],
    weights: NDArray[np.int16],
    total: NDArray[np.int32],
) -> None:
    """Add the rows of 8 `eights` units that each send 1, to `total` (size,) int32.

    Eight weights add up within 16 bits, which is half the width of a sum.
    """
    for at in range(0, 8 * eights, 8):
        wa = np.uint64(runs[run_ends[row + units[at]], RUN_WEIGHT])
        wb = np.uint64(runs[run_ends[row + units[at + 1]], RUN_WEIGHT])
        wc = np.uint64(runs[run_ends[row + units[at + 2]], RUN_WEIGHT])
        wd = np.uint64(runs[run_ends[row + units[at + 3]], RUN_WEIGHT])
        we = np.uint64(runs[run_ends[row + units[at + 4]], RUN_WEIGHT])
        wf = np.uint64(runs[run_ends[row + units[at + 5]], RUN_WEIGHT])
        wg = np.uint64(runs[run_ends[row + units[at + 6]], RUN_WEIGHT])
        wh = np.uint64(runs[run_ends[row + units[at + 7]], RUN_WEIGHT])
        for unit in range(np.uint64(total.shape[0])):
            one = np.int16(weights[wa + unit] + weights[wb + unit])
            two = np.int16(weights[wc + unit] + weights[wd + unit])
            three = np.int16(weights[we + unit] + weights[wf + unit])
            four = np.int16(weights[wg + unit] + weights[wh + unit])
            eight = np.int16(np.int16(one + two) + np.int16(three + four))
            total[unit] = np.int32(total[unit] + np.int32(eight))


@njit(**_COMPILED)
def deliver(
    units: NDArray[np.int32],
    values: NDArray[np.int32],
    count: int,
    connection: NDArray[np.int64],
    lazy: bool,
    size: int,
    run_ends: NDArray[np.int32],
    runs: NDArray[np.int32],
    weights: NDArray[np.int16],
    delays: NDArray[np.uint8],
    step: int,
    sums: NDArray[np.int32],
    scratch: NDArray[np.int32],
    reached: NDArray[np.uint8],
    touched: NDArray[np.int32],
    found: int,
) -> int:
    """Add the weights of `count` messages to the accumulators of one connection.

    units, values : (>= count,) int32, the source's units and what each sends; not changed
    connection : its row of `connections`; lazy, size : of its target
    delays : uint8, one for each weight where the connection has them
    sums : int32, the accumulators of all connections, added to
    scratch : (>= depth * size,) int32, zeros before and after
    reached : (size,) uint8, 1 where a run that is in `touched` starts; updated for lazy targets
    touched : (>= 2 * size + 2,) int32, start and length of each run reached, written from `found`
    Returns how many runs of `touched` there are then.
    """
    base, depth = connection[SUMS], connection[DEPTH]
    slot = base + (step + connection[LATER]) % depth * size
    if connection[DELAYED]:
        exponent, first = connection[EXPONENT], step + connection[LATER]
        for message in range(count):
            row = connection[ROW] + units[message]
            for run in range(run_ends[row], run_ends[row + 1]):
                target, weight = runs[run, RUN_TARGET], runs[run, RUN_WEIGHT]
                for at in range(runs[run, RUN_LENGTH]):
                    scratch[delays[weight + at] * size + target + at] += np.int32(
                        weights[weight + at] * values[message]
                    )
        for delay in range(depth - connection[LATER]):
            slot = base + (first + delay) % depth * size
            for unit in range(size):  # shifted for each step of sending: the shift may round
                sums[slot + unit] += _shift(scratch[delay * size + unit], exponent)
                scratch[delay * size + unit] = 0
        return found
    done = 0
    if connection[WHOLE] and count >= 8:
        are_spikes = True
        for message in range(count):
            are_spikes &= values[message] == 1
        if are_spikes:
            done = count & ~7
            _add_rows(
                units, count >> 3, connection[ROW], run_ends, runs, weights,
                sums[slot : slot + size],
            )  # fmt: skip
            if lazy and reached[0] == 0:
                reached[0] = 1
                touched[2 * found], touched[2 * found + 1] = 0, size
                found += 1
    for message in range(done, count):
        row, value = np.uint64(connection[ROW] + units[message]), values[message]
        for run in range(np.uint64(run_ends[row]), np.uint64(run_ends[row + np.uint64(1)])):
            target, length = runs[run, RUN_TARGET], runs[run, RUN_LENGTH]
            into, of = np.uint64(slot + target), np.uint64(runs[run, RUN_WEIGHT])
            if value == 1:
                for at in range(np.uint64(length)):
                    sums[into + at] = np.int32(sums[into + at] + np.int32(weights[of + at]))
            else:
                for at in range(np.uint64(length)):
                    sums[into + at] = np.int32(
                        sums[into + at] + np.int32(np.int32(weights[of + at]) * value)
                    )
            if lazy and reached[np.uint64(target)] == 0:
                reached[np.uint64(target)] = 1
                place = np.uint64(2 * found)
                touched[place] = target
                touched[place + np.uint64(1)] = length
                found += 1
    return found


@njit(**_COMPILED)
def _integrate(
    touched: NDArray[np.int32],
    found: int,
    before: NDArray[np.int32],
    past: int,
    exponent: int,
    sums: NDArray[np.int32],
    vth: NDArray[np.int32],
    reached: NDArray[np.uint8],
    u: NDArray[np.int32],
    v: NDArray[np.int32],
    units: NDArray[np.int32],
) -> int:
    """Integrate-and-fire neurons that messages reached; the others would not change.

    That is so where u has no memory (du 4095), v no leak (dv 0), and there is no bias and no
    refractory time: what is at rest below its threshold stays so.

    touched, before : start and length of the runs reached in this step and in the last one
    sums : (n,) int32, set to zero again; reached : (n,) uint8, set to zero again
    u, v : (n,) int32, updated; units : (>= n + 1,) int32, who spikes, written
    Returns how many spike.
    """
    for run in range(past):
        start = np.uint64(before[2 * run])
        for at in range(np.uint64(before[2 * run + 1])):
            u[start + at] = 0
    spikes = np.uint64(0)
    for run in range(found):
        start = np.uint64(touched[2 * run])
        reached[start] = 0
        for at in range(np.uint64(touched[2 * run + 1])):
            unit = start + at
            drive = _wrap(np.int32(_shift(sums[unit], exponent) << ALIGN))
            sums[unit] = 0
            if drive != 0:  # runs may overlap: the first of them has taken what there was
                u[unit] = drive
                potential = _saturate(np.int32(v[unit] + drive))
                is_spike = potential > vth[unit]
                units[spikes] = np.int32(unit)
                spikes += np.uint64(is_spike)
                v[unit] = 0 if is_spike else potential
    return int(np.int64(spikes))


@njit(**_COMPILED)
def update_lif(
    drive: NDArray[np.int32],
    keep_u: NDArray[np.int32],
    keep_v: NDArray[np.int32],
    bias: NDArray[np.int32],
    vth: NDArray[np.int32],
    refractory: NDArray[np.int32],
    u: NDArray[np.int32],
    v: NDArray[np.int32],
    rest: NDArray[np.int32],
    units: NDArray[np.int32],
) -> int:
    """Current-based leaky integrate-and-fire neurons, one step.

        u = wrap(decay(u, keep_u) + (drive << 6))        decay: x keep / 4096 toward zero
        v = saturate(decay(v, keep_v) + u + bias)        not in the `refractory` steps after a spike
        spike where v > vth (strictly); then v = 0

    drive : (n,) int32, the shifted synaptic sums
    keep_u, keep_v : (n,) int32, 4096 - (du + 1) and 4096 - dv
    bias, vth : (n,) int32, in the state's unit (mantissa and exponent applied, vth << 6)
    refractory : (n,) int32, steps
    u, v, rest : (n,) int32, current, membrane and refractory steps left, updated
    units : (>= n + 1,) int32, who spikes, written
    Returns how many spike. Davies et al. 2018; Lava's `PyLifModelBitAcc`.
    """
    size = np.uint64(u.shape[0])
    for unit in range(size):
        current = _wrap(np.int32(_decay(u[unit], keep_u[unit]) + np.int32(drive[unit] << ALIGN)))
        u[unit] = current
        potential = _saturate(
            np.int32(np.int32(_decay(v[unit], keep_v[unit]) + current) + bias[unit])
        )
        resting = rest[unit]
        v[unit] = v[unit] if resting > 0 else potential
        rest[unit] = np.int32(resting - 1) if resting > 0 else np.int32(0)
    spikes = np.uint64(0)
    for unit in range(size):
        is_spike = v[unit] > vth[unit]
        units[spikes] = np.int32(unit)  # written even where there is none: the next overwrites it
        spikes += np.uint64(is_spike)
        v[unit] = 0 if is_spike else v[unit]
        rest[unit] = refractory[unit] if is_spike else rest[unit]
    return int(np.int64(spikes))


@njit(**_COMPILED)
def update_sigma_delta(
    drive: NDArray[np.int32],
    bias: NDArray[np.int32],
    vth: NDArray[np.int32],
    relu: bool,
    state_exp: int,
    sigma: NDArray[np.int32],
    sent: NDArray[np.int32],
    units: NDArray[np.int32],
    values: NDArray[np.int32],
) -> int:
    """Sigma-delta neurons, one step: they sum changes, and send changes of their activation.

        sigma = sigma + drive;  act = relu(sigma + bias), or sigma + bias
        delta = act - sent;     s = delta >> state_exp where |delta| >= vth, else 0
        sent = sent + (s << state_exp)

    The last line is the corrected rule of Lava's later `PySigmaDeltaModelFixedCorrected`: the bits
    that the shift drops stay owed. (Lava 0.10 counts them as sent; both agree for state_exp 0.)

    drive : (n,) int32, in units of the state; sigma, sent : (n,) int32, updated
    units, values : (>= n + 1,) int32, who sends, and what (a graded message), written
    Returns how many send.
    """
    messages = 0
    for unit in range(sigma.shape[0]):
        total = np.int32(sigma[unit] + drive[unit])
        sigma[unit] = total
        act = np.int32(total + bias[unit])
        if relu and act < 0:
            act = np.int32(0)
        delta = np.int32(act - sent[unit])
        value = np.int32(delta >> state_exp) if abs(np.int64(delta)) >= vth[unit] else np.int32(0)
        sent[unit] = np.int32(sent[unit] + np.int32(value << state_exp))
        units[messages], values[messages] = unit, value
        messages += 1 if value != 0 else 0
    return messages


# The first entries of `plan`: how many there are of what follows one another in it.
PLAN_POPULATIONS, PLAN_CONNECTIONS, PLAN_INCOMING, PLAN_OUTGOING = 0, 1, 2, 3
PLAN_RUN_ENDS, PLAN_RUNS, PLAN_NEURONS, PLAN_SUMS, PLAN_SCRATCH = 4, 5, 6, 7, 8
PLAN_HEAD = 9


@njit(**_COMPILED)
def step_packed(
    inputs: NDArray[np.int32],
    given: NDArray[np.int32],
    count: int,
    step: int,
    plan: NDArray[np.int64],
    tables: NDArray[np.int32],
    weights: NDArray[np.int16],
    delays: NDArray[np.uint8],
    state: NDArray[np.int32],
    marks: NDArray[np.int64],
    reached: NDArray[np.uint8],
    units: NDArray[np.int32],
    values: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> None:
    """`step_network` with its arrays one after another in a few: a call costs by the array.

    plan : int64, its head as named above, then populations, connections, incoming, outgoing
    tables : int32, run_ends, runs and neurons; not changed
    state : int32, states, touched, sums and scratch; marks : int64, found; both updated
    """
    many, links = plan[PLAN_POPULATIONS], plan[PLAN_CONNECTIONS]
    first = PLAN_HEAD + many * POPULATION_COLUMNS
    populations = plan[PLAN_HEAD:first].reshape((many, POPULATION_COLUMNS))
    then = first + links * CONNECTION_COLUMNS
    connections = plan[first:then].reshape((links, CONNECTION_COLUMNS))
    last = then + plan[PLAN_INCOMING]
    incoming, outgoing = plan[then:last], plan[last : last + plan[PLAN_OUTGOING]]
    ends, neurons = plan[PLAN_RUN_ENDS], plan[PLAN_NEURONS]
    there = ends + 3 * plan[PLAN_RUNS]
    runs = tables[ends:there].reshape((plan[PLAN_RUNS], 3))
    about = tables[there : there + 5 * neurons].reshape((5, neurons))
    wide = 2 * (neurons + many)
    touched = state[3 * neurons : 3 * neurons + 2 * wide].reshape((2, wide))
    start = 3 * neurons + 2 * wide
    sums = state[start : start + plan[PLAN_SUMS]]
    start += plan[PLAN_SUMS]
    step_network(
        inputs, given, count, step, populations, connections, incoming, outgoing,
        tables[:ends], runs, weights, delays, about, state[: 3 * neurons].reshape((3, neurons)),
        sums, state[start : start + plan[PLAN_SCRATCH]], reached, touched,
        marks.reshape((2, many)), units, values, counts,
    )  # fmt: skip


@njit(**_COMPILED)
def step_network(
    inputs: NDArray[np.int32],
    given: NDArray[np.int32],
    count: int,
    step: int,
    populations: NDArray[np.int64],
    connections: NDArray[np.int64],
    incoming: NDArray[np.int64],
    outgoing: NDArray[np.int64],
    run_ends: NDArray[np.int32],
    runs: NDArray[np.int32],
    weights: NDArray[np.int16],
    delays: NDArray[np.uint8],
    neurons: NDArray[np.int32],
    states: NDArray[np.int32],
    sums: NDArray[np.int32],
    scratch: NDArray[np.int32],
    reached: NDArray[np.uint8],
    touched: NDArray[np.int32],
    found: NDArray[np.int64],
    units: NDArray[np.int32],
    values: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> None:
    """One step of all populations; who sends what is in `units`, `values` and `counts`.

    inputs, given : (>= count,) int32, the inputs that carry a message, and its value (not 0)
    step : the step's number, from 0, which is where the rings of accumulators are
    populations, connections, runs : as the columns named above
    incoming : int64, connections from the input; outgoing : int64, of each population in turn
    run_ends : int32, where each unit's runs end, from the end of the unit before it
    weights : int16, effective weights, -256..255; delays : uint8, steps
    neurons : (5, n) int32: keep_u, keep_v, bias, vth, refractory; not changed
    states : (3, n) int32: u, v, rest (sigma-delta: sigma, sent; delta: -, sent), updated
    sums, scratch, reached : see `deliver`
    touched : (2, 2 n + 2 populations) int32; found : (2, populations) int64: this step and the last
    units, values : (n + populations,) int32, each population's from its FIRST + its row, written
    counts : (populations,) int64, how many messages each sends, written
    """
    now, last = step % 2, (step + 1) % 2
    for population in range(populations.shape[0]):
        found[now, population] = 0
    for at in range(incoming.shape[0]):
        connection = connections[incoming[at]]
        target = connection[TARGET]
        first, size = populations[target, FIRST], populations[target, SIZE]
        found[now, target] = deliver(
            inputs, given, count, connection, populations[target, LAZY] == 1, size, run_ends, runs,
            weights, delays, step, sums, scratch, reached[first : first + size],
            touched[now, 2 * (first + target) :], found[now, target],
        )  # fmt: skip
    for population in range(populations.shape[0]):
        about = populations[population]
        first, size = about[FIRST], about[SIZE]
        stop = first + size
        sender = units[first + population : stop + population + 1]
        message = values[first + population : stop + population + 1]
        u, v = states[0, first:stop], states[1, first:stop]
        if about[LAZY]:
            one = connections[about[IN_FIRST]]
            sent = _integrate(
                touched[now, 2 * (first + population) :], found[now, population],
                touched[last, 2 * (first + population) :], found[last, population],
                one[EXPONENT], sums[one[SUMS] : one[SUMS] + size], neurons[3, first:stop],
                reached[first:stop], u, v, sender,
            )  # fmt: skip
        else:
            drive = scratch[:size]
            for at in range(about[IN_FIRST], about[IN_LAST]):
                connection = connections[at]
                slot = connection[SUMS] + step % connection[DEPTH] * size
                exponent = 0 if connection[DELAYED] else connection[EXPONENT]
                for unit in range(size):
                    drive[unit] += _shift(sums[slot + unit], exponent)
                    sums[slot + unit] = 0
            if about[KIND] == LIF:
                sent = update_lif(
                    drive, neurons[0, first:stop], neurons[1, first:stop], neurons[2, first:stop],
                    neurons[3, first:stop], neurons[4, first:stop], u, v, states[2, first:stop],
                    sender,
                )  # fmt: skip
            elif about[KIND] == SIGMA_DELTA:
                sent = update_sigma_delta(
                    drive, neurons[2, first:stop], neurons[3, first:stop], about[RELU] == 1,
                    about[STATE_EXP], u, v, sender, message,
                )  # fmt: skip
            elif about[KIND] == DELTA:
                # what comes in is the activation itself, not a change: nothing is summed
                shift = about[STATE_EXP] + about[SPIKE_EXP]
                for unit in range(size):
                    drive[unit] = np.int32(drive[unit] << shift)
                u[:] = 0
                sent = update_sigma_delta(
                    drive, neurons[2, first:stop], neurons[3, first:stop], False,
                    about[STATE_EXP], u, v, sender, message,
                )  # fmt: skip
            else:  # READOUT: the sums themselves, for the host
                sent = 0
                for unit in range(size):
                    v[unit] = np.int32(drive[unit] + neurons[2, first + unit])
            drive[:] = 0
        if about[KIND] == LIF:
            message[:sent] = 1
        counts[population] = sent
        for at in range(about[OUT_FIRST], about[OUT_LAST]):
            connection = connections[outgoing[at]]
            target = connection[TARGET]
            low, length = populations[target, FIRST], populations[target, SIZE]
            found[now, target] = deliver(
                sender, message, sent, connection, populations[target, LAZY] == 1, length,
                run_ends, runs, weights, delays, step, sums, scratch, reached[low : low + length],
                touched[now, 2 * (low + target) :], found[now, target],
            )  # fmt: skip


@njit(**_COMPILED)
def messages_of(
    frame: NDArray[np.int32], units: NDArray[np.int32], values: NDArray[np.int32]
) -> int:
    """The inputs of a frame that are not zero, by index, and their values; how many they are.

    frame : (n,) int32; units, values : (>= n + 1,) int32, written
    """
    count = np.uint64(0)
    for unit in range(np.uint64(frame.shape[0])):
        value = frame[unit]
        units[count], values[count] = np.int32(unit), value
        count += np.uint64(value != 0)
    return int(np.int64(count))
