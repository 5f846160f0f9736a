"""The denoiser as it is trained: S5 layers between a spectrum and what multiplies it.

Front end: frames of 512 samples every 128 at 16 kHz, square root of a periodic Hann window before
and after, so that overlapping frames add up to the signal. Features of a frame: `log10(|X|^2 +
FLOOR)` of its 257 bins and, for the lowest `low` bins, the cosine and sine of the phase that the
bin gained on its centre frequency since the frame before. Output: a real gain `1 + r` for each bin
and, in the lowest bins, complex weights of this frame and the `taps` frames before it (a deep
filter: W. Mack and E. A. P. Habets, 2020), each turned back by its centre frequency.

Layers (A. Pierro, S. Abreu and others, 2025, after S5: J. T. H. Smith and others, 2023):

    v = batch_norm(u)
    x_t = exp(Lambda * dt) * x_(t-1) + B v_t        complex, diagonal, zero-order hold
    z = x where Re(x) > 0, else 0
    y = relu(Re(C z) + D * v)
    u' = relu(u + y * sigmoid(G y + g))

with `B = (exp(Lambda * dt) - 1) / Lambda * B~`, dense real encoder (ReLU) and decoder around them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from fused import HalfLinear, Stage, states_of
from torch import Tensor, nn
from torch.nn import functional

WINDOW, HOP = 512, 128
BINS = WINDOW // 2 + 1
FLOOR = 1e-6  # added to the power of a bin, of samples with full scale 1
ADVANCE = (1, 1j, -1, -1j)  # what one hop turns a bin's centre frequency by: j ** bin
MOMENTUM = 0.02  # of the batch statistics that take the batch's place after training
NEAR_ZERO = 1e-12  # power under which a bin has no phase


@dataclass(frozen=True)
class Shape:
    """The sizes of a network."""

    width: int = 128  # H
    states: int = 64  # P: complex pairs, so twice as many real states
    layers: int = 3
    low: int = 0  # bins with phase features and a deep filter
    taps: int = 2  # frames before this one in the deep filter

    @property
    def inputs(self) -> int:
        return BINS + 2 * self.low

    @property
    def outputs(self) -> int:
        return BINS + self.low * (1 + 2 * self.taps)


class Layer(nn.Module):
    """One S5 layer with the gate, `(rows, frames, H)` in and out."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.log_decay = nn.Parameter(torch.full((states,), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(states).float())
        steps = torch.rand(states) * (math.log(0.1) - math.log(0.001)) + math.log(0.001)
        self.log_step = nn.Parameter(steps)
        self.b = nn.Parameter(torch.randn(2 * states, width) / math.sqrt(2 * width))
        self.c = nn.Parameter(torch.randn(width, 2 * states) / math.sqrt(states))
        self.d = nn.Parameter(torch.randn(width))
        self.gate = nn.Linear(width, width)

    def discrete(self) -> tuple[Tensor, Tensor]:
        """Returns exp(Lambda dt), (2 P,), and B, (2 P, H), both real parts first."""
        rate = torch.complex(-self.log_decay.exp(), self.frequency)
        a = torch.exp(rate * self.log_step.exp())
        states = len(a)
        b = torch.complex(self.b[:states], self.b[states:]) * ((a - 1) / rate)[:, None]
        return torch.cat([a.real, a.imag]), torch.cat([b.real, b.imag])

    def forward(self, u: Tensor) -> Tensor:
        a, b = self.discrete()
        norm = self.norm
        if not self.training:
            v = (u - norm.running_mean) * torch.rsqrt(norm.running_var + norm.eps)
            x = states_of(functional.linear(v * norm.weight + norm.bias, b), a)
            y = functional.linear(x, self.c) + self.d * (v * norm.weight + norm.bias)
            y = torch.relu(y)
            return torch.relu(u + y * torch.sigmoid(self.gate(y)))
        y, mean, variance = Stage.apply(
            u, norm.weight, norm.bias, a, b, self.c, self.d, self.gate.weight, self.gate.bias,
            norm.eps,
        )  # fmt: skip
        with torch.no_grad():
            norm.running_mean.lerp_(mean, MOMENTUM)
            norm.running_var.lerp_(variance, MOMENTUM)
        return y


class Network(nn.Module):
    """Features to outputs, `(rows, frames, Shape.inputs)` to `(rows, frames, Shape.outputs)`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape.inputs))
        self.register_buffer("scale", torch.ones(shape.inputs))
        self.encoder = nn.Linear(shape.inputs, shape.width)
        self.layers = nn.ModuleList(Layer(shape.width, shape.states) for _ in range(shape.layers))
        self.decoder = nn.Linear(shape.width, shape.outputs)
        nn.init.normal_(self.decoder.weight, std=0.02)
        nn.init.zeros_(self.decoder.bias)

    def normalised(self, features: Tensor) -> Tensor:
        return (features - self.mean) * self.scale

    def forward(self, normalised: Tensor) -> Tensor:
        """Takes features of mean 0 and deviation 1 over the training mixes."""
        linear = HalfLinear.apply if self.training else functional.linear
        u = torch.relu(linear(normalised, self.encoder.weight, self.encoder.bias))
        for layer in self.layers:
            u = layer(u)
        return linear(u, self.decoder.weight, self.decoder.bias)


_HANN = torch.sqrt(torch.hann_window(WINDOW, periodic=True))
# sqrt-Hann twice at a quarter of the window adds up to 2
_SUM = WINDOW / HOP / 2


def spectra(waves: Tensor) -> Tensor:
    """Returns `(rows, frames, BINS)` complex64 of `(rows, samples)`.

    Frame t ends with sample 128 (t + 1): what was before the first sample is silence.
    """
    frames = -(-waves.shape[-1] // HOP) + WINDOW // HOP - 1
    padded = functional.pad(waves, (WINDOW - HOP, frames * HOP - waves.shape[-1]))
    return torch.fft.rfft(padded.unfold(-1, WINDOW, HOP)[:, :frames] * _HANN)


def waves_of(spectrum: Tensor, samples: int) -> Tensor:
    """Returns `(rows, samples)` of what `spectra` gave: exactly, where nothing was changed."""
    frames = torch.fft.irfft(spectrum, WINDOW) * (_HANN / _SUM)
    rows, count, _ = frames.shape
    quarters = frames.view(rows, count, WINDOW // HOP, HOP)
    total = functional.pad(quarters[:, :, 0], (0, 0, 0, 3))
    for part in range(1, WINDOW // HOP):
        total = total + functional.pad(quarters[:, :, part], (0, 0, part, 3 - part))
    return total.reshape(rows, -1)[:, WINDOW - HOP :][:, :samples]


def turned(spectrum: Tensor, low: int, taps: int) -> list[Tensor]:
    """The lowest bins of the `taps` frames before each, turned to where they would be now."""
    advance = torch.tensor(ADVANCE).repeat(-(-low // 4))[:low]
    before, turn = spectrum[..., :low], torch.ones(low, dtype=torch.complex64)
    delayed = []
    for _ in range(taps):
        before = functional.pad(before, (0, 0, 1, 0))[:, :-1]
        turn = turn * advance
        delayed.append(before * turn)
    return delayed


def features_of(spectrum: Tensor, low: int) -> Tensor:
    """Returns `(rows, frames, BINS + 2 low)` float32."""
    parts = [torch.log10(spectrum.real**2 + spectrum.imag**2 + FLOOR)]
    if low:
        product = spectrum[..., :low] * turned(spectrum, low, 1)[0].conj()
        product = product / torch.sqrt(product.real**2 + product.imag**2 + NEAR_ZERO)
        parts += [product.real, product.imag]
    return torch.cat(parts, -1)


def apply(outputs: Tensor, spectrum: Tensor, shape: Shape) -> Tensor:
    """Returns the spectrum of the speech: `1 + r` times this frame, and the deep filter."""
    whole = spectrum * (1 + outputs[..., :BINS])
    if not shape.low:
        return whole
    low = shape.low
    weights = outputs[..., BINS:].unflatten(-1, (1 + 2 * shape.taps, low))
    added = 1j * spectrum[..., :low] * weights[..., 0, :]
    for number, before in enumerate(turned(spectrum, low, shape.taps)):
        pair = weights[..., 1 + 2 * number, :], weights[..., 2 + 2 * number, :]
        added = added + before * torch.complex(*pair)
    return whole + functional.pad(added, (0, BINS - low))
