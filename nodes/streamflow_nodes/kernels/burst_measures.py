"""What one burst of events looks like: counts, rate, duration, position; and its count image.

Events come as 64-bit words, two for each event: its time, then x | y << 16 | polarity << 32.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .burst_trigger import first_at_or_after

PEAK_US = 100  # the time over which the highest rate is taken: a tenth of a passage
SHIFT = 32  # coordinates have 16 bits, so a product with 2^32 / factor, rounded up, divides exactly
SEARCHES, BLOCK = 24, 16  # what was fastest for particles of some 3,000 events
NOWHERE = -1  # the cell of an event outside the sensor


@njit(cache=True, nogil=True)
def fullest(words: NDArray[np.int64]) -> int:
    """The most events within `PEAK_US`.

    An event can make the fullest stretch so far fuller by itself alone, so it is compared with the
    one that many events before it; `BLOCK` at once, as few do, from what some searches find.

    words : (2 n,) int64, events in time order; not changed
    """
    two, block = np.uint64(2), np.uint64(BLOCK)
    n = words.shape[0] >> 1
    most = 0
    for last in range(0, n, n // SEARCHES + 1):
        most = max(most, last + 1 - first_at_or_after(words, words[2 * last] - PEAK_US + 1, 0))
    back = np.uint64(most)
    end = np.uint64(n)
    at = back
    while at + block <= end:
        fuller = 0
        for index in range(at, at + block):
            time = words[two * index]
            fuller += 1 if time - words[two * (index - back)] < PEAK_US else 0
        if fuller:
            for index in range(at, at + block):
                back += np.uint64(words[two * index] - words[two * (index - back)] < PEAK_US)
        at += block
    for index in range(at, end):
        back += np.uint64(words[two * index] - words[two * (index - back)] < PEAK_US)
    return int(np.int64(back))


@njit(cache=True, nogil=True)
def measure_burst(words: NDArray[np.int64], outer: float, measures: NDArray[np.float64]) -> None:
    """Six measures of a burst of at least one event, in `measures`.

    words : (2 n,) int64, events in time order, n >= 1; not changed
    outer : float, pixels: an event farther than this from the mean position is an outer event
    measures : (6,) float64, written: outer events; highest rate over `PEAK_US` (events per second);
        time from the event at 10 % to that at 90 % of the events (us); ON events / events; mean x
        and mean y (pixels)
    """
    # three loops: two of them become vector instructions, for which no index may wrap round
    one, two = np.uint64(1), np.uint64(2)
    n = words.shape[0] >> 1
    on, sum_x, sum_y = 0, 0, 0
    for index in range(np.uint64(n)):
        word = words[two * index + one]
        sum_x += word & 0xFFFF
        sum_y += (word >> 16) & 0xFFFF
        on += 1 if (word >> 32) & 0xFF else 0
    most = fullest(words)
    mean_x, mean_y = sum_x / n, sum_y / n
    far = 0
    for index in range(np.uint64(n)):
        word = words[two * index + one]
        dx = np.int32(word & 0xFFFF) - mean_x
        dy = np.int32((word >> 16) & 0xFFFF) - mean_y
        far += 1 if dx * dx + dy * dy > outer * outer else 0
    measures[0] = far
    measures[1] = most * 1e6 / PEAK_US
    measures[2] = words[2 * ((9 * n) // 10)] - words[2 * (n // 10)]
    measures[3] = on / n
    measures[4] = mean_x
    measures[5] = mean_y


@njit(cache=True, nogil=True)
def count_image(
    words: NDArray[np.int64],
    start: int,
    stop: int,
    factor: int,
    image: NDArray[np.float64],
) -> int:
    """The events in [start, stop) of each polarity and cell, in `image`; how many fell outside it.

    words : (2 n,) int64, events; not changed
    start, stop : int, us
    factor : int, pixels on each side of a cell
    image : (2, rows, columns) float64, events; OFF first; written
    """
    image[:] = 0.0
    outside = 0
    inverse = ((1 << SHIFT) + factor - 1) // factor  # a division for each event took half the time
    for index in range(words.shape[0] >> 1):
        if start <= words[2 * index] < stop:
            word = words[2 * index + 1]
            on = 1 if (word >> 32) & 0xFF else 0
            row = (((word >> 16) & 0xFFFF) * inverse) >> SHIFT
            column = ((word & 0xFFFF) * inverse) >> SHIFT
            if row < image.shape[1] and column < image.shape[2]:
                image[on, row, column] += 1.0
            else:
                outside += 1
    return outside


@njit(cache=True, nogil=True)
def cells_and_steps(
    words: NDArray[np.int64],
    start: int,
    step: int,
    steps: int,
    factor: int,
    rows: int,
    columns: int,
    cells: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> int:
    """Which input each event excites, and where each step's events end; how many fell outside.

    words : (2 n,) int64, events in time order; not changed
    start : int, us, beginning of the first step; step : int, us; steps : int
    factor : int, pixels on each side of a cell
    rows, columns : int, cells
    cells : (>= n,) int64, (polarity rows + row) columns + column, written; OFF is polarity 0
    ends : (steps,) int64, number of cells up to the end of each step, written
    """
    one, two = np.uint64(1), np.uint64(2)
    inverse = ((1 << SHIFT) + factor - 1) // factor
    first = first_at_or_after(words, start, 0)
    last = first
    for at in range(steps):  # searched for: most events then go by without a look at their time
        last = first_at_or_after(words, start + (at + 1) * step, last)
        ends[at] = last - first
    outside = 0
    for index in range(np.uint64(last - first)):
        word = words[two * (np.uint64(first) + index) + one]
        on = 1 if (word >> 32) & 0xFF else 0
        row = (((word >> 16) & 0xFFFF) * inverse) >> SHIFT
        column = ((word & 0xFFFF) * inverse) >> SHIFT
        is_outside = (row >= rows) | (column >= columns)
        outside += 1 if is_outside else 0
        cells[index] = NOWHERE if is_outside else (on * rows + row) * columns + column
    if outside:
        drop_nowhere(cells, ends)
    return outside


@njit(cache=True, nogil=True)
def drop_nowhere(cells: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
    """Take the events of no cell out of `cells` and `ends` (`cells_and_steps`)."""
    count, index = 0, 0
    for at in range(ends.shape[0]):
        while index < ends[at]:
            cells[count] = cells[index]
            count += 1 if cells[index] != NOWHERE else 0
            index += 1
        ends[at] = count
