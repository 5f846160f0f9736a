"""The rules of docs/fixed-point.md, "Linear RNNs", in plain Python integers: slow and obvious."""

from __future__ import annotations

import math


def shift(value, by):
    """value / 2^by to the nearest, halves up."""
    return value << -by if by <= 0 else (value + (1 << (by - 1))) >> by


def product_shift(value, by, rounding):
    if rounding == "nearest":
        return (value + (1 << (by - 1))) >> by
    if rounding == "floor":
        return value >> by
    return -((-value) >> by) if value < 0 else value >> by


def clip(value, low, high):
    return max(low, min(high, value))


def signed(bits):
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def after(activation, bits):
    """Range of an activation's output."""
    if activation == "none":
        return signed(bits)
    return 0, (1 << bits) - 1 if bits <= 8 else signed(bits)[1]


TABLE = [min(32767, round(32768 / (1 + math.exp(-k / 16)))) for k in range(-128, 130)]


def sigmoid(t):
    """At exponent 12 in, clipped to +-8; at exponent 15 out."""
    place = clip(t, -(8 << 12), 8 << 12) + (8 << 12)
    knot, rest = place >> 8, place & 255
    return TABLE[knot] + (((TABLE[knot + 1] - TABLE[knot]) * rest + 128) >> 8)


def sums(matrix, u):
    rows = zip(matrix.weights.tolist(), matrix.bias.tolist(), strict=True)
    out = [bias + sum(w * x for w, x in zip(row, u, strict=True)) for row, bias in rows]
    assert all(abs(value) < 1 << 31 for value in out)
    return out


def run(fixed, frames):
    """Outputs (a float for each) of all frames, and the integers of the states after the last."""
    bits = fixed.record.bits
    state = {
        id(f): [[0, 0] for _ in range(f.layer.states)] for f in fixed.layers if hasattr(f, "poles")
    }
    low, high = signed(bits.activations)
    if fixed.record.input_is_unsigned and bits.activations <= 8:
        low, high = 0, (1 << bits.activations) - 1
    outputs = []
    for frame in frames.tolist():
        e = fixed.record.input
        u = [clip(round(value * 2.0**e), low, high) for value in frame]  # to the nearest even
        for f in fixed.layers:
            is_last = f is fixed.layers[-1]
            if hasattr(f, "poles"):
                u = recurrent(f, u, e, bits, state[id(f)])
                e = f.exponents.output
                scales = [e] * len(u)
            else:
                u, scales = dense(f, u, e, bits, is_last)
                e = f.exponents.output
        outputs.append([value * 2.0**-scale for value, scale in zip(u, scales, strict=True)])
    return outputs, [state[id(f)] for f in fixed.layers if hasattr(f, "poles")]


def dense(f, u, e, bits, is_last):
    exponents = [e + row for row in f.weight.exponents.tolist()]
    y = sums(f.weight, u)
    kind, out = f.layer.activation, f.exponents.output
    if kind == "sigmoid":
        y = [
            sigmoid(clip(shift(v, x - 12), -(1 << 40), 1 << 40))
            for v, x in zip(y, exponents, strict=True)
        ]
        exponents = [15] * len(y)
    elif is_last and kind == "relu":
        y = [max(v, 0) for v in y]
    if is_last:
        return y, exponents
    return [
        clip(shift(v, x - out), *after(kind, bits.activations))
        for v, x in zip(y, exponents, strict=True)
    ], None


def recurrent(f, u, e, bits, states):
    at, layer = f.exponents, f.layer
    n = len(states)
    drive = [
        clip(shift(v, row + e - at.state), *signed(bits.state))
        for v, row in zip(sums(f.b, u), f.b.exponents.tolist(), strict=True)
    ]
    h_re, h_im = [], []
    for i, x in enumerate(states):
        a_re, a_im = f.poles[:, i].tolist()
        products = [a_re * x[0], a_im * x[1], a_re * x[1], a_im * x[0]]
        p = [product_shift(v, bits.poles - 1, bits.rounding) for v in products]
        x[0] = clip(p[0] - p[1] + drive[i], *signed(bits.state))
        x[1] = clip(p[2] + p[3] + drive[n + i], *signed(bits.state))
        passes = x[0] > 0 or layer.state_activation == "none"
        for part, out in ((x[0], h_re), (x[1], h_im)):
            out.append(clip(shift(part * passes, at.state - at.hidden), *signed(bits.activations)))
    z = []
    c = zip(sums(f.c, h_re + h_im), f.c.exponents.tolist(), strict=True)
    for i, (v, row) in enumerate(c):
        through = clip(shift(v, row + at.hidden - at.inner), -(1 << 31), (1 << 31) - 1)
        past = shift(int(f.d[i]) * u[i], int(f.d_exponents[i]) + e - at.inner)
        z.append(clip(through + past, *after(layer.activation, bits.activations)))
    inner = at.inner
    if f.gate is not None:
        g = zip(sums(f.gate, z), f.gate.exponents.tolist(), strict=True)
        gate = [sigmoid(clip(shift(v, row + at.inner - 12), -(1 << 40), 1 << 40)) for v, row in g]
        z = [v * share for v, share in zip(z, gate, strict=True)]
        inner += 15
    y = [shift(v, inner - at.output) for v in z]
    if layer.skip:
        y = [v + shift(past, e - at.output) for v, past in zip(y, u, strict=True)]
    return [clip(v, *after(layer.final_activation, bits.activations)) for v in y]
