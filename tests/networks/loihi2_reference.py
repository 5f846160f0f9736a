"""Loihi's integer rules, slowly: Python integers, one synapse after the other.

Written from `docs/fixed-point.md`, not from the kernel: no tables, no rings, no lazy neurons.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np


def to_zero(value, keep):
    """value * keep / 4096, rounded toward zero."""
    size = abs(value) * keep // 4096
    return size if value >= 0 else -size


def int32(value):
    """Wrapped into 32 bits with a sign."""
    return (value + 2**31) % 2**32 - 2**31


def shifted(value, exponent):
    """Left, or right toward minus infinity."""
    value = int32(value)
    return int32(value * 2**exponent) if exponent >= 0 else value // 2**-exponent


def effective(weight, bits, mode):
    """One weight as it acts."""
    cut = 2 ** (8 - bits + (mode == "mixed"))
    if mode == "inhibitory":
        return -effective(-weight, bits, "excitatory")
    low = -256 if mode == "mixed" else 0
    return min(max(weight, low), 255) // cut * cut


def sign_mode(weights):
    """What is taken where nothing is said."""
    if all(w >= 0 for w in weights):
        return "excitatory"
    return "inhibitory" if all(w <= 0 for w in weights) else "mixed"


def synapses(network, connection):
    """(source index, target index, weight, delay) of every synapse, in NIR's order."""
    shape = network.shape_of(connection.source)
    mode = connection.sign_mode or sign_mode([int(w) for w in connection.weights.reshape(-1)])

    def weight(at):
        return effective(int(connection.weights[at]), connection.weight_bits, mode)

    ways = [(i, i) for i in range(int(np.prod(shape)))]
    for (high, wide), (down, right), (top, left) in connection.pools:
        channels, rows, columns = shape
        out = ((rows + 2 * top - high) // down + 1, (columns + 2 * left - wide) // right + 1)
        into = defaultdict(list)
        for c, y, x, i, j in itertools.product(
            range(channels), range(out[0]), range(out[1]), range(high), range(wide)
        ):
            row, column = y * down + i - top, x * right + j - left
            if 0 <= row < rows and 0 <= column < columns:
                into[(c * rows + row) * columns + column].append((c * out[0] + y) * out[1] + x)
        ways = [(source, target) for source, middle in ways for target in into[middle]]
        shape = (channels, *out)
    behind = defaultdict(list)
    for source, target in ways:
        behind[target].append(source)
    if connection.kind == "dense":
        for o, i in itertools.product(*map(range, connection.weights.shape)):
            late = 0 if connection.delays is None else int(connection.delays[o, i])
            for source in behind[i]:
                yield source, o, weight((o, i)), late
    elif connection.kind == "direct":
        for i in range(int(np.prod(shape))):
            for source in behind[i]:
                yield source, i, weight((i if connection.weights.size > 1 else 0,)), 0
    else:
        _, rows, columns = shape
        outputs, per_group, high, wide = connection.weights.shape
        target = network.population(connection.target).shape
        together = outputs // connection.groups
        for o, y, x, c, i, j in itertools.product(
            *map(range, target), range(per_group), range(high), range(wide)
        ):
            row = y * connection.stride[0] + i * connection.dilation[0] - connection.padding[0]
            column = x * connection.stride[1] + j * connection.dilation[1] - connection.padding[1]
            if 0 <= row < rows and 0 <= column < columns:
                channel = o // together * per_group + c
                for source in behind[(channel * rows + row) * columns + column]:
                    yield source, (o * target[1] + y) * target[2] + x, weight((o, c, i, j)), 0


class Reference:
    """A network stepped by the written rules."""

    def __init__(self, network):
        self.network, self.now = network, 0
        self.u = {p.name: [0] * p.size for p in network.populations}
        self.v = {p.name: [0] * p.size for p in network.populations}
        self.rest = {p.name: [0] * p.size for p in network.populations}
        self.sent = {p.name: [0] * p.size for p in network.populations}
        self.arrives = defaultdict(int)  # (step, population, neuron) -> shifted sums
        order = [p.name for p in network.populations]
        self.out = defaultdict(list)
        for connection in network.connections:
            later = network.synaptic_delay if connection.kind != "direct" else 0
            if connection.source in order:
                recurrent = order.index(connection.source) >= order.index(connection.target)
                later = max(later, int(recurrent))
            self.out[connection.source].append(
                (connection, later + connection.delay, list(synapses(network, connection)))
            )

    def deliver(self, source, messages):
        """Sums over the sources of one step, shifted, to when they arrive."""
        for connection, later, all_synapses in self.out[source]:
            sums = defaultdict(int)
            for i, o, weight, delay in all_synapses:
                sums[delay, o] += weight * messages[i]
            for (delay, o), total in sums.items():
                when = (self.now + later + delay, connection.target, o)
                arrived = self.arrives[when] + shifted(total, connection.weight_exp)
                self.arrives[when] = int32(arrived)

    def step(self, frame):
        """One step with what each input gives."""
        self.deliver("input", [int(x) for x in frame])
        for p in self.network.populations:
            for n in range(p.size):
                drive = self.arrives.pop((self.now, p.name, n), 0)
                self.sent[p.name][n] = getattr(self, p.kind)(p, n, drive)
            self.deliver(p.name, self.sent[p.name])
        self.now += 1

    def lif(self, p, n, drive):
        of = {
            what: int(np.broadcast_to(getattr(p, what), p.size)[n])
            for what in ("du", "dv", "bias_mant", "bias_exp", "vth", "refractory")
        }
        u = int32(to_zero(self.u[p.name][n], 4096 - (of["du"] + 1)) + int32(drive * 64))
        if u > 2**23:
            u -= 2**24
        elif u <= -(2**23):
            u += 2**24
        self.u[p.name][n] = u
        if self.rest[p.name][n]:
            self.rest[p.name][n] -= 1
            return 0
        v = to_zero(self.v[p.name][n], 4096 - of["dv"]) + u + of["bias_mant"] * 2 ** of["bias_exp"]
        v = int32(v)
        v = min(max(v, -(2**23) + 1), 2**23 - 1)
        is_spike = p.spikes and v > of["vth"] * 64
        self.v[p.name][n] = 0 if is_spike else v
        self.rest[p.name][n] = of["refractory"] if is_spike else 0
        return int(is_spike)

    def sigma_delta(self, p, n, drive, encodes=False):
        shift = p.spike_exp + p.state_exp
        if encodes:
            act = int32(drive * 2**shift)
        else:
            self.u[p.name][n] = int32(self.u[p.name][n] + drive)
            act = self.u[p.name][n] + int(np.broadcast_to(p.bias_mant, p.size)[n]) * 2**shift
            act = max(int32(act), 0) if p.relu else int32(act)
        delta = int32(act - self.v[p.name][n])
        threshold = int(np.broadcast_to(p.vth, p.size)[n]) * 2**shift
        message = delta // 2**p.state_exp if abs(delta) >= threshold else 0
        self.v[p.name][n] = int32(self.v[p.name][n] + message * 2**p.state_exp)
        return message

    def delta(self, p, n, drive):
        return self.sigma_delta(p, n, drive, encodes=True)

    def readout(self, p, n, drive):
        mantissa, exponent = (int(np.broadcast_to(b, p.size)[n]) for b in (p.bias_mant, p.bias_exp))
        self.v[p.name][n] = int32(drive + mantissa * 2**exponent)
        return 0
