"""How many events each pixel had."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

MOST = np.int16(32767)  # events of one pixel in one frame


@njit(cache=True, nogil=True)
def count_events(
    events: NDArray[np.int64],
    first: int,
    start: int,
    stop: int,
    width: int,
    height: int,
    frame: NDArray[np.int16],
) -> tuple[int, int, int, int]:
    """The index of the first event that is not before `stop`, and how many were outside, late, and
    more than a pixel can count.

    Every event from `first` up to there and inside the sensor is counted, those before `start` too.

    events : (2 n,) int64, events as words (`event_packets`)
    first : int, index of the event to begin with
    start, stop : int, us; the frame covers [start, stop)
    width, height : int, pixels
    frame : (2 * height * width,) int16, events by (polarity, y, x), at most MOST, updated
    """
    one, two, half, word = np.uint64(1), np.uint64(2), np.uint64(16), np.uint64(32)
    low, byte = np.uint64(0xFFFF), np.uint64(0xFF)
    columns, rows = np.uint64(width), np.uint64(height)
    plane = columns * rows
    number = events.size // 2
    outside = late = beyond = 0
    for index in range(first, number):
        at = two * np.uint64(index)
        time = events[at]
        if time >= stop:
            return index, outside, late, beyond
        place = np.uint64(events[at + one])
        x = place & low
        y = (place >> half) & low
        if x >= columns or y >= rows:
            outside += 1
            continue
        late += time < start
        is_on = np.uint64(((place >> word) & byte) == one)
        pixel = is_on * plane + y * columns + x
        before = frame[pixel]
        is_full = before == MOST
        frame[pixel] = before + (not is_full)
        beyond += is_full
    return number, outside, late, beyond
