"""Which events come from a pixel that has rested."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def keep_rested(
    events: NDArray[np.int64],
    width: int,
    height: int,
    period: int,
    last: NDArray[np.int64],
    kept: NDArray[np.int64],
) -> tuple[int, int]:
    """The number of events kept, and of events outside the sensor (which are dropped).

    Kept is an event at time t whose pixel's last *kept* event lies at t - period or before.

    events : (2 n,) int64, events as words (`events.packets`)
    width, height : int, pixels
    period : int, us
    last : (height * width,) int64, time of each pixel's last kept event, us, updated
    kept : (2 n,) int64, the kept events as words, written at the front
    """
    one, two, half = np.uint64(1), np.uint64(2), np.uint64(16)
    low = np.uint64(0xFFFF)
    columns, rows = np.uint64(width), np.uint64(height)
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
        pixel = y * columns + x
        before = last[pixel]
        is_rested = before <= time - period
        last[pixel] = time if is_rested else before
        kept[two * count] = time
        kept[two * count + one] = place
        count += np.uint64(is_rested)
    return int(count), outside
