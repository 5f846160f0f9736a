"""Cutting a signal into windowed, overlapping frames, and adding frames up again."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def cut_frames(
    samples: NDArray[np.float32],
    window: NDArray[np.float32],
    hop: int,
    frames: NDArray[np.float32],
) -> None:
    """Write `frames[k, c, n] = window[n] * samples[k * hop + n, c]`.

    samples : (at least (frames - 1) hop + size, channels); window : (size,); frames : (frames,
    channels, size), overwritten.
    """
    count, channels, size = frames.shape
    for k in range(count):
        first = k * hop
        for c in range(channels):
            for n in range(size):
                frames[k, c, n] = window[n] * samples[first + n, c]


@njit(cache=True, nogil=True)
def add_frames(
    frames: NDArray[np.float32],
    window: NDArray[np.float32],
    hop: int,
    held: NDArray[np.float32],
    samples: NDArray[np.float32],
) -> None:
    """Add windowed frames to what is held, and let go of the samples that are complete.

    For each frame, in order: `held += window * frame`, the first `hop` of `held` go to `samples`,
    and the rest moves up by `hop`, with zeros behind. Sums are made in the order of frames, so that
    they do not depend on how many come at once.

    frames : (frames, channels, size); window : (size,), by which each is multiplied; held :
    (channels, size), updated; samples : (frames hop, channels), overwritten.
    """
    count, channels, size = frames.shape
    for k in range(count):
        for c in range(channels):
            for n in range(size):
                held[c, n] += window[n] * frames[k, c, n]
            for n in range(hop):
                samples[k * hop + n, c] = held[c, n]
            for n in range(size - hop):
                held[c, n] = held[c, n + hop]
            for n in range(size - hop, size):
                held[c, n] = 0.0
