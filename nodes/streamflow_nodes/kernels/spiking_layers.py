"""A feed-forward network of leaky integrate-and-fire neurons, run over one window of events."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

LINEAR, LIF, CUBA_LIF = 0, 1, 2

# Rows of the coefficients: what one time step multiplies, fixed by dt and the integrator.
DECAY, GAIN, RESISTANCE, LEAK, THRESHOLD, RESET, SYNAPSE_DECAY, SYNAPSE_GAIN = range(8)


@njit(cache=True, nogil=True)
def cells_of_step(
    cells: NDArray[np.int64],
    first: int,
    last: int,
    counts: NDArray[np.int64],
    distinct: NDArray[np.int64],
) -> int:
    """How many different cells are in [first, last) of `cells`, and how often each is.

    cells : (n,) int64; not changed
    counts : (inputs,) int64, zeros; written where a cell is
    distinct : (>= last - first,) int64, the cells in the order of their first event, written
    """
    found = np.uint64(0)
    for at in range(np.uint64(first), np.uint64(last)):
        cell = np.uint64(cells[at])
        before = counts[cell]
        counts[cell] = before + 1
        distinct[found] = np.int64(cell)  # written even if it is there: the next overwrites it
        found += np.uint64(before == 0)
    return int(np.int64(found))


@njit(cache=True, nogil=True)
def add_rows(
    distinct: NDArray[np.int64],
    found: int,
    counts: NDArray[np.int64],
    weights: NDArray[np.float32],
    current: NDArray[np.float64],
) -> None:
    """Add to `current` the rows of `weights` of the first `found` cells, as often as each counts.

    Rows are what takes the time: a cell's is added once, times its events (a third fewer rows for
    particles), and eight rows together. float64 holds products and sums of float32 weights exactly
    unless weights differ in size by more than some 2^20: the order of the events does not matter.

    distinct : (>= found,) int64, cells; not changed
    counts : (rows,) int64, events of each cell; set to zero again
    weights : (rows * outputs,) float32, row after row; not changed
    current : (outputs,) float64, added to
    """
    outputs = np.uint64(current.shape[0])  # unsigned: indices that may wrap round forbid vectors
    at = 0
    while at + 8 <= found:
        a, b, c, d = distinct[at], distinct[at + 1], distinct[at + 2], distinct[at + 3]
        e, f, g, h = distinct[at + 4], distinct[at + 5], distinct[at + 6], distinct[at + 7]
        na, nb = np.float64(counts[a]), np.float64(counts[b])
        nc, nd = np.float64(counts[c]), np.float64(counts[d])
        ne, nf = np.float64(counts[e]), np.float64(counts[f])
        ng, nh = np.float64(counts[g]), np.float64(counts[h])
        counts[a] = counts[b] = counts[c] = counts[d] = 0
        counts[e] = counts[f] = counts[g] = counts[h] = 0
        ra, rb, rc, rd = (
            np.uint64(a) * outputs, np.uint64(b) * outputs,
            np.uint64(c) * outputs, np.uint64(d) * outputs,
        )  # fmt: skip
        re, rf, rg, rh = (
            np.uint64(e) * outputs, np.uint64(f) * outputs,
            np.uint64(g) * outputs, np.uint64(h) * outputs,
        )  # fmt: skip
        for unit in range(outputs):
            one = (na * weights[ra + unit] + nb * weights[rb + unit]) + (
                nc * weights[rc + unit] + nd * weights[rd + unit]
            )
            two = (ne * weights[re + unit] + nf * weights[rf + unit]) + (
                ng * weights[rg + unit] + nh * weights[rh + unit]
            )
            current[unit] += one + two
        at += 8
    while at < found:
        cell = distinct[at]
        times = np.float64(counts[cell])
        counts[cell] = 0
        row = np.uint64(cell) * outputs
        for unit in range(outputs):
            current[unit] += times * weights[row + unit]
        at += 1


@njit(cache=True, nogil=True)
def add_values(
    given: NDArray[np.float64],
    weights: NDArray[np.float32],
    current: NDArray[np.float64],
) -> None:
    """Add the rows of `weights`, times what each input gives; those that give nothing cost nothing.

    given : (inputs,) float64; weights : (inputs * outputs,) float32; not changed
    current : (outputs,) float64, added to
    """
    outputs = np.uint64(current.shape[0])
    for source in range(given.shape[0]):
        value = given[source]
        if value != 0.0:
            row = np.uint64(source) * outputs
            for unit in range(outputs):
                current[unit] += value * weights[row + unit]


@njit(cache=True, nogil=True)
def step_neurons(
    current: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    is_cuba: bool,
    subtract: bool,
    v: NDArray[np.float64],
    synapse: NDArray[np.float64],
    given: NDArray[np.float64],
) -> int:
    """The number of neurons that spike in a time step: `run_window` has the equations.

    current : (n,) float64; coefficients : (8, n) float64; not changed
    v, synapse : (n,) float64, membrane and synapse, updated
    given : (n,) float64, 1 where a neuron spikes, else 0, written
    """
    spikes = 0
    for unit in range(np.uint64(current.shape[0])):
        drive = current[unit]
        if is_cuba:
            drive = (
                coefficients[SYNAPSE_DECAY, unit] * synapse[unit]
                + coefficients[SYNAPSE_GAIN, unit] * drive
            )
            synapse[unit] = drive
        potential = coefficients[DECAY, unit] * v[unit] + coefficients[GAIN, unit] * (
            coefficients[LEAK, unit] + coefficients[RESISTANCE, unit] * drive
        )
        threshold = coefficients[THRESHOLD, unit]
        is_spike = potential > threshold
        after = potential - threshold if subtract else coefficients[RESET, unit]
        given[unit] = 1.0 if is_spike else 0.0
        v[unit] = after if is_spike else potential
        spikes += 1 if is_spike else 0
    return spikes


@njit(cache=True, nogil=True)
def run_window(
    cells: NDArray[np.int64],
    ends: NDArray[np.int64],
    sizes: NDArray[np.int64],
    kinds: NDArray[np.int64],
    weights: NDArray[np.float32],
    bias: NDArray[np.float32],
    coefficients: NDArray[np.float64],
    subtract: bool,
    total: NDArray[np.float64],
    spikes: NDArray[np.int64],
) -> None:
    """The last layer's output summed over all steps, in `total`, from a network at rest.

    In each step, layer after layer without delay, with a = DECAY, b = GAIN, R = RESISTANCE:

        I = bias + W x                       x: events of the step per input, or spikes, or values
        LIF      v = a v + b (LEAK + R I)
        CUBA_LIF i = SYNAPSE_DECAY i + SYNAPSE_GAIN I;  v = a v + b (LEAK + R i)
        spike where v > THRESHOLD (strictly), then v = RESET, or v - THRESHOLD with `subtract`

    A LINEAR layer hands I on. An input costs one row of weights for each step with an event;
    a neuron that did not spike costs the next layer nothing.

    cells : (n,) int64, input of each event, in time order; not changed
    ends : (steps,) int64, index in `cells` where each step ends; not changed
    sizes : (layers + 1,) int64, inputs, then the outputs of each layer
    kinds : (layers,) int64, LINEAR, LIF or CUBA_LIF
    weights : float32, (inputs, outputs) of each layer, row after row, layer after layer
    bias : float32, (outputs,) of each layer
    coefficients : (8, outputs of all layers) float64, rows as named above
    total : (outputs of the last layer,) float64, written
    spikes : (layers,) int64, spikes of each layer, added to
    """
    layers = kinds.shape[0]
    neurons = bias.shape[0]
    v = np.zeros(neurons)
    synapse = np.zeros(neurons)
    current = np.empty(neurons)
    given = np.empty(neurons)
    v[:] = coefficients[LEAK]
    total[:] = 0.0
    counts = np.zeros(sizes[0], np.int64)
    distinct = np.empty(cells.shape[0] + 1, np.int64)
    first = 0
    for step in range(ends.shape[0]):
        found = cells_of_step(cells, first, ends[step], counts, distinct)
        first = ends[step]
        row_base, unit_base = 0, 0
        for layer in range(layers):
            inputs, outputs = sizes[layer], sizes[layer + 1]
            units = slice(unit_base, unit_base + outputs)
            current[units] = bias[units]
            layer_weights = weights[row_base : row_base + inputs * outputs]
            if layer == 0:
                add_rows(distinct, found, counts, layer_weights, current[units])
            else:
                add_values(given[unit_base - inputs : unit_base], layer_weights, current[units])
            if kinds[layer] == LINEAR:
                given[units] = current[units]
            else:
                spikes[layer] += step_neurons(
                    current[units], coefficients[:, units], kinds[layer] == CUBA_LIF, subtract,
                    v[units], synapse[units], given[units],
                )  # fmt: skip
            row_base += inputs * outputs
            unit_base += outputs
        for unit in range(total.shape[0]):
            total[unit] += given[neurons - total.shape[0] + unit]
