"""Between a frame's spectrum and the network that says what of it is speech: features and mask.

Shapes: T frames, K bins, L low bins (L <= K). Spectra are complex64, features and outputs of the
network float32. Bin k of a transform of `size` samples turns by exp(2 pi i k hop / size) from one
frame to the next when it holds a steady tone at its centre: `turn`, (L,) complex64.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def features(
    spectrum: NDArray[np.complex64],
    before: NDArray[np.complex64],
    turn: NDArray[np.complex64],
    floor: np.float32,
    near_zero: np.float32,
    out: NDArray[np.float32],
) -> None:
    """The network's input for each frame.

        out[t, k] = log10(|X[t, k]|^2 + floor)                                      k < K
        p = X[t, k] conj(turn[k] X[t - 1, k]),  q = p / sqrt(|p|^2 + near_zero)     k < L
        out[t, K + k] = Re q,  out[t, K + L + k] = Im q

    spectrum : (T, K) complex64; before : (taps, L) complex64, the low bins of the frames before
    these, newest first (not changed); out : (T, K + 2 L) float32
    """
    frames, bins = spectrum.shape
    low = turn.shape[0]
    for t in range(frames):
        for k in range(bins):
            x = spectrum[t, k]
            out[t, k] = math.log10(x.real * x.real + x.imag * x.imag + floor)
        for k in range(low):
            x = spectrum[t, k]
            last = turn[k] * (spectrum[t - 1, k] if t else before[0, k])
            re = x.real * last.real + x.imag * last.imag
            im = x.imag * last.real - x.real * last.imag
            size = np.float32(math.sqrt(re * re + im * im + near_zero))
            out[t, bins + k] = re / size
            out[t, bins + low + k] = im / size


@njit(cache=True, nogil=True)
def clean(
    outputs: NDArray[np.float32],
    spectrum: NDArray[np.complex64],
    before: NDArray[np.complex64],
    turn: NDArray[np.complex64],
    taps: int,
    least: np.float32,
    out: NDArray[np.complex64],
) -> None:
    """The spectrum of the speech, from the network's outputs.

        Y[t, k] = max(1 + o[t, k], least) X[t, k]                                   k < K
        Y[t, k] += i o[t, K + k] X[t, k]                                            k < L
                 + sum over n = 1 .. taps of
                   (o[t, K + (2 n - 1) L + k] + i o[t, K + 2 n L + k]) turn[k]^n X[t - n, k]

    that is a gain for every bin and, in the low ones, a complex filter over this frame and those
    before it (W. Mack and E. A. P. Habets, 2020, "Deep filtering").

    outputs : (T, K + L (1 + 2 taps)) float32, (T, K) where L is 0; spectrum : (T, K) complex64;
    before : (max(taps, 1), L) complex64, as in `features`; least : float32; out : (T, K) complex64
    """
    frames, bins = spectrum.shape
    low = turn.shape[0]
    for t in range(frames):
        for k in range(bins):
            gain = np.float32(1) + outputs[t, k]
            out[t, k] = spectrum[t, k] * (gain if gain > least else least)
        for k in range(low):
            x = spectrum[t, k]
            across = outputs[t, bins + k]
            re, im = -x.imag * across, x.real * across
            turned = np.complex64(1)
            for n in range(1, taps + 1):
                turned = np.complex64(turned * turn[k])
                past = spectrum[t - n, k] if t >= n else before[n - t - 1, k]
                past = np.complex64(past * turned)
                a = outputs[t, bins + (2 * n - 1) * low + k]
                b = outputs[t, bins + 2 * n * low + k]
                re += a * past.real - b * past.imag
                im += a * past.imag + b * past.real
            out[t, k] += np.complex64(complex(re, im))


@njit(cache=True, nogil=True)
def remember(spectrum: NDArray[np.complex64], before: NDArray[np.complex64]) -> None:
    """Keep the low bins of the newest frames for the next call, newest first; in place.

    spectrum : (T, K) complex64; before : (N, L) complex64
    """
    frames = spectrum.shape[0]
    kept, low = before.shape
    for n in range(kept - 1, -1, -1):
        for k in range(low):
            if n < frames:
                before[n, k] = spectrum[frames - 1 - n, k]
            else:
                before[n, k] = before[n - frames, k]
