"""How long ago each pixel fired."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def note_times(
    events: NDArray[np.int64],
    first: int,
    stop: int,
    width: int,
    height: int,
    polarities: int,
    last: NDArray[np.int64],
) -> tuple[int, int]:
    """The index of the first event that is not before `stop`, and how many were outside.

    events : (2 n,) int64, events as words (`event_packets`)
    first : int, index of the event to begin with
    stop : int, us
    width, height : int, pixels
    polarities : int, 2 for a surface of each polarity, 1 for one of both together
    last : (polarities * height * width,) int64, each pixel's latest time, us, updated
    """
    one, two, half, word = np.uint64(1), np.uint64(2), np.uint64(16), np.uint64(32)
    low, byte = np.uint64(0xFFFF), np.uint64(0xFF)
    columns, rows = np.uint64(width), np.uint64(height)
    split = np.uint64(rows * columns) if polarities == 2 else np.uint64(0)
    number = events.size // 2
    outside = 0
    for index in range(first, number):
        at = two * np.uint64(index)
        time = events[at]
        if time >= stop:
            return index, outside
        place = np.uint64(events[at + one])
        x = place & low
        y = (place >> half) & low
        if x >= columns or y >= rows:
            outside += 1
            continue
        is_on = np.uint64(((place >> word) & byte) == one)
        pixel = is_on * split + y * columns + x
        last[pixel] = max(last[pixel], time)
    return number, outside


@njit(cache=True, nogil=True)
def exponents(last: NDArray[np.int64], time: int, tau: float, surface: NDArray[np.float32]) -> None:
    """Write (last - time) / tau to `surface`, or -inf where exp() of it is no normal float32.

    last : (n,) int64, us
    time, tau : us
    surface : (n,) float32, written
    """
    rate = 1.0 / tau
    for pixel in range(last.size):
        value = np.float32((last[pixel] - time) * rate)
        surface[pixel] = value if value > np.float32(-87.0) else np.float32(-np.inf)
