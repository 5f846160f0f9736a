"""The denoiser written down plainly, slow and in double precision: what others are compared with.

    model = read_model("graphs/denoise/model.safetensors")
    clean = enhance(model, wave)

numpy only; the same equations as network.py, from the file that the nodes run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from streamflow_nodes.linear_rnn.model_file import Dense, Layer, Model, Recurrent

Real = NDArray[np.float64]


def enhance(model: Model, wave: NDArray[Any]) -> Real:
    """Returns the speech in `wave`, (samples,) at the model's rate: as long, not delayed."""
    front_end = model.front_end
    window, hop = front_end["window"], front_end["hop"]
    weights = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window))
    count = -(-len(wave) // hop) + window // hop - 1
    padded = np.zeros((count - 1) * hop + window)
    padded[window - hop : window - hop + len(wave)] = wave
    frames = np.stack([padded[t * hop : t * hop + window] for t in range(count)])
    spectrum = np.fft.rfft(frames * weights)
    cleaned = masked(run(model, features(spectrum, front_end)), spectrum, front_end)
    total = np.zeros_like(padded)
    for t, frame in enumerate(np.fft.irfft(cleaned, window) * weights):
        total[t * hop : t * hop + window] += frame
    total /= window / hop / 2  # what the squared windows add up to
    return total[window - hop : window - hop + len(wave)]


def features(spectrum: NDArray[np.complex128], front_end: dict[str, Any]) -> Real:
    """(frames, inputs): log powers, then cosines and sines of how phases went on."""
    parts = [np.log10(np.abs(spectrum) ** 2 + front_end["floor"])]
    if low := front_end["low"]:
        product = spectrum[:, :low] * np.conj(_delayed(spectrum, front_end, 1))
        product = product / np.sqrt(np.abs(product) ** 2 + front_end["near_zero"])
        parts += [product.real, product.imag]
    return np.concatenate(parts, 1)


def masked(
    outputs: Real, spectrum: NDArray[np.complex128], front_end: dict[str, Any]
) -> NDArray[np.complex128]:
    """The speech's spectrum: gains, and in the low bins a filter over frames."""
    bins, low = spectrum.shape[1], front_end["low"]
    gain = 1 + outputs[:, :bins]
    if front_end["least_gain"] is not None:
        gain = np.maximum(gain, front_end["least_gain"])
    cleaned = gain * spectrum
    if low:
        rest = outputs[:, bins:].reshape(len(outputs), -1, low)
        cleaned[:, :low] += 1j * rest[:, 0] * spectrum[:, :low]
        for tap in range(front_end["taps"]):
            weights = rest[:, 1 + 2 * tap] + 1j * rest[:, 2 + 2 * tap]
            cleaned[:, :low] += weights * _delayed(spectrum, front_end, tap + 1)
    return cleaned


def _delayed(
    spectrum: NDArray[np.complex128], front_end: dict[str, Any], frames: int
) -> NDArray[np.complex128]:
    """The low bins some frames ago, turned on by what their centre frequencies gain till now."""
    low = front_end["low"]
    turn = np.exp(2j * np.pi * np.arange(low) * front_end["hop"] * frames / front_end["window"])
    before = np.zeros((frames, low), complex)
    return np.concatenate([before, spectrum[: max(0, len(spectrum) - frames), :low]]) * turn


def run(model: Model, inputs: Real) -> Real:
    """The network's outputs, (frames, outputs), from a state of zeros."""
    for layer in model.layers:
        inputs = _run(layer, inputs)
    return inputs


def _run(layer: Layer, u: Real) -> Real:
    if isinstance(layer, Dense):
        return _activated(layer.activation, u @ layer.weight.T + layer.bias)
    return _recurrent(layer, u)


def _recurrent(layer: Recurrent, u: Real) -> Real:
    x = np.zeros(layer.states, complex)
    states = np.empty((len(u), layer.states), complex)
    for t, added in enumerate(u @ layer.b.T + layer.input_bias):
        x = layer.a * x + added
        states[t] = np.where(x.real > 0, x, 0)
    z = np.maximum((states @ layer.c.T).real + layer.d * u + layer.output_bias, 0)
    assert layer.gate_weight is not None
    z = z / (1 + np.exp(-(z @ layer.gate_weight.T + layer.gate_bias)))
    return np.maximum(u + z, 0)


def _activated(name: str, values: Real) -> Real:
    return np.maximum(values, 0) if name == "relu" else values
