"""How many events each pixel had."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def count_events(
    events: NDArray[np.int64],
    first: int,
    start: int,
    stop: int,
    most: int,
    least: int | None,
    frame: NDArray[Any],
    touched: NDArray[np.uint8],
) -> tuple[int, int, int, int]:
    """The index of the first event that is not before `stop`, and how many were outside, late, and
    more than a pixel can count.

    Every event from `first` up to there and inside the sensor is counted, those before `start` too.

    events : (2 n,) int64, events as words (`events.packets`)
    first : int, index of the event to begin with
    start, stop : int, us; the frame covers [start, stop)
    most : int, what a pixel counts up to
    least : None to count events, or int, down to which a pixel counts ON less OFF events
    frame : (height, width) or (2, height, width) by polarity, whole numbers, C order, updated
    touched : (height,) or (2 * height,) uint8, 1 written for each row that an event was counted in
    """
    one, two, half, word = np.uint64(1), np.uint64(2), np.uint64(16), np.uint64(32)
    low, byte, above, eight = np.uint64(0xFFFF), np.uint64(0xFF), np.uint64(256), np.uint64(8)
    rows, columns = np.uint64(frame.shape[-2]), np.uint64(frame.shape[-1])
    lines = frame.reshape((touched.size, frame.shape[-1]))
    number, period = events.size // 2, np.uint64(stop - start)
    outside = late = beyond = 0
    for index in range(first, number):
        at = two * np.uint64(index)
        time, place = events[at], np.uint64(events[at + one])
        x = place & low  # a negative coordinate is a large one here
        row = (place >> half) & low
        is_outside = np.int64((columns - one - x) | (rows - one - row)) < 0
        if np.uint64(time - start) >= period:  # one branch for what is rare
            if time >= stop:
                return index, outside, late, beyond
            late += not is_outside
        if is_outside:
            outside += 1
            continue
        if frame.ndim == 3:  # known to the compiler: one plane does not pay for two
            # 1 for ON, 0 for all else; a comparison becomes a branch here, and polarity is a coin
            # toss to the branch predictor
            is_on = (above - (((place >> word) & byte) ^ one)) >> eight
            row += is_on * rows
        touched[row] = 1
        # branches that are never taken are cheaper than a number that is added each time
        if least is None:  # known to the compiler, too
            before = lines[row, x]
            if before == most:
                beyond += 1
            else:
                lines[row, x] = before + 1
        else:
            is_on = (above - (((place >> word) & byte) ^ one)) >> eight
            after = np.int64(lines[row, x]) + np.int64(is_on << one) - 1
            if after > most or after < least:
                beyond += 1
            else:
                lines[row, x] = after
    return number, outside, late, beyond


@njit(cache=True, nogil=True)
def clear_rows(frame: NDArray[Any], touched: NDArray[np.uint8]) -> None:
    """Zero the rows that were touched.

    frame : (height, width) or (2, height, width), C order, updated
    touched : (height,) or (2 * height,) uint8, 1 where a row was written to; zero afterwards
    """
    lines = frame.reshape((touched.size, frame.shape[-1]))
    for row in range(touched.size):
        if touched[row]:
            lines[row] = 0
            touched[row] = 0
