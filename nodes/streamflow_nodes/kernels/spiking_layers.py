"""A feed-forward network of leaky integrate-and-fire neurons, run over one window of events."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

LINEAR, LIF, CUBA_LIF = 0, 1, 2

# Rows of the coefficients: what one time step multiplies, fixed by dt and the integrator.
DECAY, GAIN, RESISTANCE, LEAK, THRESHOLD, RESET, SYNAPSE_DECAY, SYNAPSE_GAIN = range(8)


@njit(cache=True, nogil=True)
def add_rows(
    cells: NDArray[np.int64],
    first: int,
    last: int,
    weights: NDArray[np.float32],
    current: NDArray[np.float64],
) -> None:
    """Add the rows of `weights` of cells [first, last), one after the other.

    Four rows are added at a time, in their order: a fifth of the time, and bit for bit the same as
    one by one. Slices keep indices from wrapping round, which would forbid vector instructions.

    cells : (n,) int64, row of each event; not changed
    weights : (rows * outputs,) float32, row after row; not changed
    current : (outputs,) float64, added to
    """
    outputs = current.shape[0]
    at = first
    while at + 4 <= last:
        one = weights[cells[at] * outputs :][:outputs]
        two = weights[cells[at + 1] * outputs :][:outputs]
        three = weights[cells[at + 2] * outputs :][:outputs]
        four = weights[cells[at + 3] * outputs :][:outputs]
        for unit in range(outputs):
            current[unit] = (((current[unit] + one[unit]) + two[unit]) + three[unit]) + four[unit]
        at += 4
    while at < last:
        row = weights[cells[at] * outputs :][:outputs]
        for unit in range(outputs):
            current[unit] += row[unit]
        at += 1


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

    A LINEAR layer hands I on. An input costs one row of weights for each of its events; a neuron
    that did not spike costs the next layer nothing.

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
    for unit in range(neurons):
        v[unit] = coefficients[LEAK, unit]
    total[:] = 0.0
    first = 0
    for step in range(ends.shape[0]):
        row_base, unit_base = 0, 0
        for layer in range(layers):
            inputs, outputs = sizes[layer], sizes[layer + 1]
            for unit in range(unit_base, unit_base + outputs):
                current[unit] = bias[unit]
            if layer == 0:
                add_rows(cells, first, ends[step], weights, current[:outputs])
            else:
                for source in range(inputs):
                    value = given[unit_base - inputs + source]
                    if value != 0.0:
                        row = row_base + source * outputs
                        for unit in range(outputs):
                            current[unit_base + unit] += value * weights[row + unit]
            for unit in range(unit_base, unit_base + outputs):
                drive = current[unit]
                if kinds[layer] == LINEAR:
                    given[unit] = drive
                    continue
                if kinds[layer] == CUBA_LIF:
                    synapse[unit] = (
                        coefficients[SYNAPSE_DECAY, unit] * synapse[unit]
                        + coefficients[SYNAPSE_GAIN, unit] * drive
                    )
                    drive = synapse[unit]
                potential = coefficients[DECAY, unit] * v[unit] + coefficients[GAIN, unit] * (
                    coefficients[LEAK, unit] + coefficients[RESISTANCE, unit] * drive
                )
                given[unit] = 0.0
                if potential > coefficients[THRESHOLD, unit]:
                    given[unit] = 1.0
                    spikes[layer] += 1
                    if subtract:
                        potential -= coefficients[THRESHOLD, unit]
                    else:
                        potential = coefficients[RESET, unit]
                v[unit] = potential
            row_base += inputs * outputs
            unit_base += outputs
        first = ends[step]
        for unit in range(total.shape[0]):
            total[unit] += given[neurons - total.shape[0] + unit]
