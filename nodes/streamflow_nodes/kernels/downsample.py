"""Events of a coarser sensor."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def shrink(
    events: NDArray[np.int64],
    sensor: tuple[int, int],
    factor: int,
    kept: NDArray[np.int64],
) -> tuple[int, int]:
    """The number of events kept, and of events outside the sensor (which are dropped).

    Every event inside the sensor is kept, at (x // factor, y // factor).

    events : (2 n,) int64, events as words (`events.packets`)
    sensor : (width, height), pixels
    factor : int, 1..32767
    kept : (2 n,) int64, the kept events as words, written at the front
    """
    one, two, half, word = np.uint64(1), np.uint64(2), np.uint64(16), np.uint64(32)
    low, above = np.uint64(0xFFFF), np.uint64(0xFFFFFFFF00000000)
    columns, rows = np.uint64(sensor[0]), np.uint64(sensor[1])
    # x // factor as x * ceil(2^32 / factor) >> 32: exact, because the excess x * e / 2^32 with
    # e < factor stays below 1 / factor as long as x * factor < 2^32
    inverse = np.uint64((2**32 + factor - 1) // factor)
    count = np.uint64(0)
    for index in range(events.size // 2):
        at = two * np.uint64(index)
        place = np.uint64(events[at + one])
        x = place & low
        y = (place >> half) & low
        column, row = (x * inverse) >> word, (y * inverse) >> word
        kept[two * count] = events[at]
        kept[two * count + one] = np.int64((place & above) | (row << half) | column)
        count += np.uint64((x < columns) & (y < rows))
    return int(count), events.size // 2 - int(count)
