"""The events inside a rectangle."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def keep_inside(
    events: NDArray[np.int64],
    sensor: tuple[int, int],
    corner: tuple[int, int],
    size: tuple[int, int],
    kept: NDArray[np.int64],
) -> tuple[int, int]:
    """The number of events kept, and of events outside the sensor (which are dropped).

    Kept is an event inside the rectangle; its coordinates then count from the rectangle's corner.

    events : (2 n,) int64, events as words (`events.packets`)
    sensor : (width, height), pixels
    corner : (x, y) of the rectangle's first column and row; the rectangle lies inside the sensor
    size : (width, height) of the rectangle, pixels
    kept : (2 n,) int64, the kept events as words, written at the front
    """
    one, two, half = np.uint64(1), np.uint64(2), np.uint64(16)
    low = np.uint64(0xFFFF)
    columns, rows = np.uint64(sensor[0]), np.uint64(sensor[1])
    left, top = np.uint64(corner[0]), np.uint64(corner[1])
    width, height = np.uint64(size[0]), np.uint64(size[1])
    shift = (top << half) | left  # of a kept event both differences are at least 0: no borrow
    count = np.uint64(0)
    outside = np.uint64(0)
    for index in range(events.size // 2):
        at = two * np.uint64(index)
        place = np.uint64(events[at + one])
        x = place & low
        y = (place >> half) & low
        outside += np.uint64((x >= columns) | (y >= rows))
        kept[two * count] = events[at]  # written even if dropped: the next one overwrites it
        kept[two * count + one] = np.int64(place - shift)
        count += np.uint64((x - left < width) & (y - top < height))  # left of it is a large number
    return int(count), int(outside)
