"""Which events have company: a neighbouring pixel that fired shortly before."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def keep_supported(
    events: NDArray[np.int64],
    width: int,
    height: int,
    window: int,
    last: NDArray[np.int64],
    kept: NDArray[np.int64],
) -> tuple[int, int]:
    """The number of events kept, and of events outside the sensor (which are dropped).

    Kept is an event at time t when any of its eight neighbours fired after t - window.

    events : (2 n,) int64, events as words (`events.packets`)
    width, height : int, pixels
    window : int, us
    last : ((height + 2) * (width + 2),) int64, `quiet_pixels`, us, updated
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
        x = np.uint64(place) & low  # a negative coordinate is a large one here
        y = (np.uint64(place) >> half) & low
        if x >= columns or y >= rows:
            outside += 1
            continue
        pixel = (y + one) * stride + x + one
        # one maximum instead of eight tests: which neighbour answers is a coin toss to the branch
        # predictor, and the tests cost up to half the speed on noise
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
        last[pixel] = time
        kept[two * count] = time  # written even if dropped: the next one overwrites it
        kept[two * count + one] = place
        count += np.uint64(newest > time - window)
    return int(count), outside


@njit(cache=True, nogil=True)
def keep_supported_by(
    events: NDArray[np.int64],
    width: int,
    height: int,
    window: int,
    neighbours: int,
    last: NDArray[np.int64],
    kept: NDArray[np.int64],
) -> tuple[int, int]:
    """As `keep_supported`, but at least `neighbours` (int) of the eight must have fired."""
    one, two, half = np.uint64(1), np.uint64(2), np.uint64(16)
    low = np.uint64(0xFFFF)
    columns, rows, stride = np.uint64(width), np.uint64(height), np.uint64(width + 2)
    enough = np.uint64(neighbours)
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
        since = time - window
        supporters = (
            np.uint64(last[pixel - one] > since)
            + np.uint64(last[pixel + one] > since)
            + np.uint64(last[pixel - stride] > since)
            + np.uint64(last[pixel + stride] > since)
            + np.uint64(last[pixel - stride - one] > since)
            + np.uint64(last[pixel - stride + one] > since)
            + np.uint64(last[pixel + stride - one] > since)
            + np.uint64(last[pixel + stride + one] > since)
        )
        last[pixel] = time
        kept[two * count] = time
        kept[two * count + one] = place
        count += np.uint64(supporters >= enough)
    return int(count), outside
