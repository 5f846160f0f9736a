"""Peak, energy and clipping of samples."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def measure(
    samples: NDArray[np.float32],
    clip: float,
    peak: NDArray[np.float64],
    energy: NDArray[np.float64],
    clipped: NDArray[np.int64],
) -> None:
    """Update each channel's largest magnitude, sum of squares, and count of |sample| >= `clip`.

    samples : (frames, channels), full scale 1; peak, energy, clipped : (channels,), updated. Sums
    are made sample by sample, so that they do not depend on how many come at once.
    """
    frames, channels = samples.shape
    for n in range(frames):
        for c in range(channels):
            value = np.float64(samples[n, c])
            magnitude = abs(value)
            energy[c] += value * value
            if magnitude > peak[c]:
                peak[c] = magnitude
            if magnitude >= clip:
                clipped[c] += 1
