"""Pixels that fire again and again while everything around them is silent."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .pixel_times import NEVER

HOT = NEVER - 1  # in `last`: the pixel is hot, and silent as far as its neighbours can tell


@njit(cache=True, nogil=True)
def keep_cool(
    events: NDArray[np.int64],
    width: int,
    height: int,
    window: int,
    memory: float,
    limit: float,
    last: NDArray[np.int64],
    own: NDArray[np.int64],
    scored: NDArray[np.int64],
    score: NDArray[np.float64],
    kept: NDArray[np.int64],
) -> tuple[int, int]:
    """The number of events kept, and of events outside the sensor; the rest came from hot pixels.

    An event at t is *alone* when no neighbour fired since before the pixel's previous event at s:
    max(neighbours' last times) < s - window. Then, but at most once in `window`,

        score <- score exp(-(t - scored) / memory) + 1,  scored <- t

    and the pixel is hot from score >= limit until score < limit / 2.

    events : (2 n,) int64, events as words (`events.packets`)
    width, height : int, pixels
    window : int, us
    memory : float, us
    limit : float, events
    last : ((height + 2) * (width + 2),) int64, as `quiet_pixels`, or HOT; us, updated
    own : as last, the last time of a hot pixel, us, updated
    scored : as last, when the pixel's score last grew, us, updated
    score : as last but float64, decaying number of events alone, updated
    kept : (2 n,) int64, the kept events as words, written at the front
    """
    one, two, half = np.uint64(1), np.uint64(2), np.uint64(16)
    low = np.uint64(0xFFFF)
    columns, rows, stride = np.uint64(width), np.uint64(height), np.uint64(width + 2)
    count = np.uint64(0)
    outside = 0
    for index in range(events.size // 2):
        at = two * np.uint64(index)
        time, place = events[at], events[at + one]
        x = np.uint64(place) & low
        y = (np.uint64(place) >> half) & low
        if x >= columns or y >= rows:
            outside += 1
            continue
        pixel = (y + one) * stride + x + one
        newest = max(
            max(
                max(last[pixel - one], last[pixel + one]),
                max(last[pixel - stride], last[pixel + stride]),
            ),
            max(
                max(last[pixel - stride - one], last[pixel - stride + one]),
                max(last[pixel + stride - one], last[pixel + stride + one]),
            ),
        )
        previous = last[pixel]
        is_hot = previous == HOT
        if is_hot:
            previous = own[pixel]
        last[pixel] = time
        is_alone = newest < previous - window
        if is_hot or is_alone:
            elapsed = max(time - scored[pixel], 0)  # time that steps back must not let a score grow
            value = score[pixel] * math.exp(-elapsed / memory)
            if is_alone and elapsed >= window:
                value += 1.0
                score[pixel], scored[pixel] = value, time
            if value >= (0.5 * limit if is_hot else limit):
                last[pixel], own[pixel] = HOT, time
                continue
        kept[two * count] = time
        kept[two * count + one] = place
        count += one
    return int(count), outside
