"""What a layer and the mask compute, forwards and backwards, in few passes over memory.

On a processor a training step is bound by the passes between matrix products; autograd makes many.
All arrays are float32; a row is one frame: (rows, width). Matrix products are torch's.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

COMPILE = numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"})


@COMPILE
def _moments(u, mean, variance):  # type: ignore[no-untyped-def]  # numba: no types
    """Mean and variance of each column of u (rows, width)."""
    rows, width = u.shape
    total, squares = np.zeros(width, np.float32), np.zeros(width, np.float32)
    for row in range(rows):
        for i in range(width):
            total[i] += u[row, i]
    for i in range(width):
        mean[i] = total[i] / np.float32(rows)
    for row in range(rows):
        for i in range(width):
            difference = u[row, i] - mean[i]
            squares[i] += difference * difference
    for i in range(width):
        variance[i] = squares[i] / np.float32(rows)


@COMPILE
def _affine(u, scale, shift, v):  # type: ignore[no-untyped-def]  # numba: no types
    for row in range(u.shape[0]):
        for i in range(u.shape[1]):
            v[row, i] = u[row, i] * scale[i] + shift[i]


@COMPILE
def _scan(u, a, x, z):  # type: ignore[no-untyped-def]  # numba: no types
    """x_t = a x_(t-1) + u_t, and z: x where its real part is above 0. (clips, frames, 2 P)."""
    clips, frames, states = u.shape[0], u.shape[1], a.shape[0] // 2
    for clip in range(clips):
        for t in range(frames):
            for i in range(states):
                re, im = u[clip, t, i], u[clip, t, states + i]
                if t:
                    before_re, before_im = x[clip, t - 1, i], x[clip, t - 1, states + i]
                    re += a[i] * before_re - a[states + i] * before_im
                    im += a[i] * before_im + a[states + i] * before_re
                x[clip, t, i], x[clip, t, states + i] = re, im
                kept = np.float32(1.0) if re > 0 else np.float32(0.0)
                z[clip, t, i], z[clip, t, states + i] = kept * re, kept * im


@COMPILE
def _scan_back(g, a, x, ga):  # type: ignore[no-untyped-def]  # numba: no types
    """g: the gradient of z on entry, of u on return; ga: of a."""
    clips, frames, states = g.shape[0], g.shape[1], a.shape[0] // 2
    for clip in range(clips):
        for t in range(frames - 1, -1, -1):
            for i in range(states):
                kept = np.float32(1.0) if x[clip, t, i] > 0 else np.float32(0.0)
                re, im = kept * g[clip, t, i], kept * g[clip, t, states + i]
                if t + 1 < frames:
                    after_re, after_im = g[clip, t + 1, i], g[clip, t + 1, states + i]
                    re += a[i] * after_re + a[states + i] * after_im
                    im += a[i] * after_im - a[states + i] * after_re
                g[clip, t, i], g[clip, t, states + i] = re, im
                if t:
                    before_re, before_im = x[clip, t - 1, i], x[clip, t - 1, states + i]
                    ga[i] += re * before_re + im * before_im
                    ga[states + i] += im * before_re - re * before_im


@COMPILE
def _through(y, v, d):  # type: ignore[no-untyped-def]  # numba: no types
    """Updates y to relu(y + d v)."""
    for row in range(y.shape[0]):
        for i in range(y.shape[1]):
            value = y[row, i] + d[i] * v[row, i]
            y[row, i] = value if value > 0 else np.float32(0.0)


@COMPILE
def _gated(u, y, s, out):  # type: ignore[no-untyped-def]  # numba: no types
    for row in range(y.shape[0]):
        for i in range(y.shape[1]):
            value = u[row, i] + y[row, i] * s[row, i]
            out[row, i] = value if value > 0 else np.float32(0.0)


@COMPILE
def _gated_back(g, out, y, s, gu, gs, gbias):  # type: ignore[no-untyped-def]  # numba: no types
    for row in range(y.shape[0]):
        for i in range(y.shape[1]):
            value = g[row, i] if out[row, i] > 0 else np.float32(0.0)
            gu[row, i] = value
            slope = s[row, i] * (np.float32(1.0) - s[row, i])
            slope *= value * y[row, i]
            gs[row, i] = slope
            gbias[i] += slope


@COMPILE
def _through_back(gy, gu, s, y, v, d, gv, gd):  # type: ignore[no-untyped-def]  # numba: no types
    """gy: through the gate on entry; complete, before the ReLU, on return."""
    for row in range(y.shape[0]):
        for i in range(y.shape[1]):
            value = gy[row, i] + gu[row, i] * s[row, i]
            value = value if y[row, i] > 0 else np.float32(0.0)
            gy[row, i] = value
            gd[i] += value * v[row, i]
            gv[row, i] = value * d[i]


@COMPILE
def _norm_sums(gv, u, mean, deviation, gweight, gbias):  # type: ignore[no-untyped-def]  # numba: no types
    for row in range(gv.shape[0]):
        for i in range(gv.shape[1]):
            gbias[i] += gv[row, i]
            gweight[i] += gv[row, i] * (u[row, i] - mean[i]) * deviation[i]


@COMPILE
def _norm_back(gv, u, mean, deviation, weight, gweight, gbias, gu):  # type: ignore[no-untyped-def]  # numba: no types
    rows = np.float32(gv.shape[0])
    for row in range(gv.shape[0]):
        for i in range(gv.shape[1]):
            hat = (u[row, i] - mean[i]) * deviation[i]
            rest = gv[row, i] - (gbias[i] + hat * gweight[i]) / rows
            gu[row, i] += weight[i] * deviation[i] * rest


@COMPILE
def _masked(r, x, goal, low, taps, y, slope):  # type: ignore[no-untyped-def]  # numba: no types
    """Gives y, the summed error of |y|^(1/4) against the goal, and its slope by the power of y.

    r: (clips, frames, bins + low (1 + 2 taps)); goal, slope: (clips, frames, bins); x, y: (clips,
    frames, 2 bins), real and imaginary parts in turn. What r does: see `network.apply`.
    """
    total = 0.0
    clips, frames, bins = goal.shape
    for clip in range(clips):
        for t in range(frames):
            for i in range(bins):
                gain = np.float32(1.0) + r[clip, t, i]
                y[clip, t, 2 * i] = gain * x[clip, t, 2 * i]
                y[clip, t, 2 * i + 1] = gain * x[clip, t, 2 * i + 1]
            for i in range(low):
                across = r[clip, t, bins + i]
                re, im = -across * x[clip, t, 2 * i + 1], across * x[clip, t, 2 * i]
                for n in range(1, min(taps, t) + 1):
                    past_re, past_im = _turned(
                        x[clip, t - n, 2 * i], x[clip, t - n, 2 * i + 1], i * n
                    )
                    one = r[clip, t, bins + (2 * n - 1) * low + i]
                    other = r[clip, t, bins + 2 * n * low + i]
                    re += one * past_re - other * past_im
                    im += one * past_im + other * past_re
                y[clip, t, 2 * i] += re
                y[clip, t, 2 * i + 1] += im
            part = np.float32(0.0)
            for i in range(bins):
                re, im = y[clip, t, 2 * i], y[clip, t, 2 * i + 1]
                power = re * re + im * im + np.float32(1e-7)
                compressed = np.sqrt(np.sqrt(np.sqrt(power)))
                error = compressed - goal[clip, t, i]
                part += error * error
                slope[clip, t, i] = np.float32(0.5) * error * compressed / power
            total += part
    return total


@COMPILE
def _turned(re, im, quarters):  # type: ignore[no-untyped-def]  # numba: no types
    """A number turned by as many quarters of a circle."""
    quarters %= 4
    if quarters == 0:
        return re, im
    if quarters == 1:
        return -im, re
    if quarters == 2:
        return -re, -im
    return im, -re


@COMPILE
def _masked_back(gy, x, y, slope, weight, low, taps, gr):  # type: ignore[no-untyped-def]  # numba: no types
    """gr: the gradient of r, of gy (by y) and of `weight` times the error; changes gy."""
    clips, frames, bins = slope.shape
    for clip in range(clips):
        for t in range(frames):
            for i in range(bins):
                of_power = weight * slope[clip, t, i]
                gy[clip, t, 2 * i] += of_power * y[clip, t, 2 * i]
                gy[clip, t, 2 * i + 1] += of_power * y[clip, t, 2 * i + 1]
                gr[clip, t, i] = (
                    gy[clip, t, 2 * i] * x[clip, t, 2 * i]
                    + gy[clip, t, 2 * i + 1] * x[clip, t, 2 * i + 1]
                )
            for i in range(low):
                re, im = gy[clip, t, 2 * i], gy[clip, t, 2 * i + 1]
                gr[clip, t, bins + i] = im * x[clip, t, 2 * i] - re * x[clip, t, 2 * i + 1]
                for n in range(1, taps + 1):
                    past_re, past_im = np.float32(0.0), np.float32(0.0)
                    if t >= n:
                        past_re, past_im = _turned(
                            x[clip, t - n, 2 * i], x[clip, t - n, 2 * i + 1], i * n
                        )
                    gr[clip, t, bins + (2 * n - 1) * low + i] = re * past_re + im * past_im
                    gr[clip, t, bins + 2 * n * low + i] = im * past_re - re * past_im


HALF = torch.bfloat16  # of matrix products: processors with AMX multiply it several times faster


class HalfLinear(torch.autograd.Function):
    """`x weight.T + bias` of HALF inputs (clips, frames, inputs), in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x16, weight16 = x.to(HALF), weight.to(HALF)
        ctx.save_for_backward(x16, weight16)
        ctx.half = x.dtype == HALF
        return (x16 @ weight16.t()).float() + bias

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x16, weight16 = ctx.saved_tensors
        g = grads[0].flatten(0, 1)
        g16 = g.to(HALF)
        gx = None if ctx.half else (g16 @ weight16).float().view(*x16.shape)
        return gx, (g16.t() @ x16.flatten(0, 1)).float(), g.sum(0)


def states_of(u: Tensor, a: Tensor) -> Tensor:
    """The states that pass, of inputs u (clips, frames, 2 P) and eigenvalues a (2 P,)."""
    x, z = torch.empty_like(u), torch.empty_like(u)
    _scan(u.contiguous().numpy(), a.numpy(), x.numpy(), z.numpy())
    return z


class Stage(torch.autograd.Function):
    """A whole S5 layer in training mode; see `network.Layer`."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, weight: Tensor, bias: Tensor, a: Tensor, b: Tensor, c: Tensor,
        d: Tensor, gate: Tensor, gate_bias: Tensor, epsilon: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """u: (clips, frames, H); returns the same, and the mean and variance of u."""
        clips, frames, width = u.shape
        u = u.contiguous().view(-1, width)
        mean, variance = torch.empty(width), torch.empty(width)
        _moments(u.numpy(), mean.numpy(), variance.numpy())
        deviation = torch.rsqrt(variance + epsilon)
        scale = deviation * weight
        v = torch.empty_like(u)
        _affine(u.numpy(), scale.numpy(), (bias - mean * scale).numpy(), v.numpy())
        v16, b16, c16, gate16 = v.to(HALF), b.to(HALF), c.to(HALF), gate.to(HALF)
        x = (v16 @ b16.t()).float().view(clips, frames, -1)
        z = torch.empty_like(x)
        _scan(x.numpy(), a.numpy(), x.numpy(), z.numpy())
        z16 = z.view(clips * frames, -1).to(HALF)
        y = (z16 @ c16.t()).float()
        _through(y.numpy(), v.numpy(), d.numpy())
        y16 = y.to(HALF)
        s = (y16 @ gate16.t()).float().add_(gate_bias).sigmoid_()
        out = torch.empty_like(u)
        _gated(u.numpy(), y.numpy(), s.numpy(), out.numpy())
        ctx.save_for_backward(
            u, mean, deviation, v16, x, z16, y16, v, y, s, out, weight, a, d, b16, c16, gate16
        )
        ctx.mark_non_differentiable(mean, variance)
        return out.view(clips, frames, width), mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, mean, deviation, v16, x, z16, y16, v, y, s, out, weight, a, d, b16, c16, gate16 = (
            ctx.saved_tensors
        )
        clips, frames, _ = x.shape
        g = grads[0].contiguous().view_as(u)
        gu, gs, gv = torch.empty_like(u), torch.empty_like(u), torch.empty_like(u)
        ggate_bias, gd = torch.zeros_like(d), torch.zeros_like(d)
        _gated_back(
            g.numpy(), out.numpy(), y.numpy(), s.numpy(), gu.numpy(), gs.numpy(),
            ggate_bias.numpy(),
        )  # fmt: skip
        gs16 = gs.to(HALF)
        gy = (gs16 @ gate16).float()
        _through_back(
            gy.numpy(), gu.numpy(), s.numpy(), y.numpy(), v.numpy(), d.numpy(), gv.numpy(),
            gd.numpy(),
        )  # fmt: skip
        gy16 = gy.to(HALF)
        gz = (gy16 @ c16).float().view(clips, frames, -1)
        ga = torch.zeros_like(a)
        _scan_back(gz.numpy(), a.numpy(), x.numpy(), ga.numpy())
        gx16 = gz.view(clips * frames, -1).to(HALF)
        gv += gx16 @ b16
        gweight, gbias = torch.zeros_like(weight), torch.zeros_like(weight)
        common = gv.numpy(), u.numpy(), mean.numpy(), deviation.numpy()
        _norm_sums(*common, gweight.numpy(), gbias.numpy())
        _norm_back(*common, weight.numpy(), gweight.numpy(), gbias.numpy(), gu.numpy())
        return (
            gu.view(clips, frames, -1), gweight, gbias, ga, (gx16.t() @ v16).float(),
            (gy16.t() @ z16).float(), gd, (gs16.t() @ y16).float(), ggate_bias, None,
        )  # fmt: skip


class Masked(torch.autograd.Function):
    """What `network.apply` gives, and the mean squared error of its compressed magnitudes."""

    @staticmethod
    def forward(
        ctx: Any, r: Tensor, x: Tensor, goal: Tensor, low: int, taps: int
    ) -> tuple[Tensor, Tensor]:
        """Gives y like x, and the error; r (clips, frames, outputs), goal (clips, frames, bins)."""
        clips, frames, bins = x.shape
        y, slope = torch.empty_like(x), torch.empty_like(goal)
        parts = torch.view_as_real(x).reshape(clips, frames, 2 * bins)
        wave = torch.view_as_real(y).view(clips, frames, 2 * bins)
        error = _masked(
            r.contiguous().numpy(), parts.numpy(), goal.numpy(), low, taps, wave.numpy(),
            slope.numpy(),
        )  # fmt: skip
        ctx.save_for_backward(parts, wave, slope)
        ctx.sizes = low, taps, r.shape
        return y, torch.tensor(error / goal.numel(), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        parts, wave, slope = ctx.saved_tensors
        low, taps, shape = ctx.sizes
        gr = torch.empty(shape)
        gy = torch.view_as_real(grads[0].resolve_conj()).reshape(parts.shape).clone()
        weight = np.float32(float(grads[1]) / slope.numel())
        _masked_back(
            gy.numpy(), parts.numpy(), wave.numpy(), slope.numpy(), weight, low, taps, gr.numpy()
        )
        return gr, None, None, None, None
