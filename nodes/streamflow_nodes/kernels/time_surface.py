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
    newest: int,
    last: NDArray[np.int64],
) -> tuple[int, int, int]:
    """The index of the first event that is not before `stop`, how many were outside, and the newest
    of all times in `last`.

    events : (2 n,) int64, events as words (`events.packets`)
    first : int, index of the event to begin with
    stop : int, us
    newest : int, us, no less than any time in `last`
    last : (height, width), or (2, height, width) by polarity, int64, C order, each pixel's latest
        time, us, updated
    """
    one, two, half, word = np.uint64(1), np.uint64(2), np.uint64(16), np.uint64(32)
    low, byte, above, eight = np.uint64(0xFFFF), np.uint64(0xFF), np.uint64(256), np.uint64(8)
    rows, columns = np.uint64(last.shape[-2]), np.uint64(last.shape[-1])
    lines = last.reshape((last.size // last.shape[-1], last.shape[-1]))
    number = events.size // 2
    outside = 0
    for index in range(first, number):
        at = two * np.uint64(index)
        time, place = events[at], np.uint64(events[at + one])
        if time >= stop:
            return index, outside, newest
        x = place & low  # a negative coordinate is a large one here
        row = (place >> half) & low
        if np.int64((columns - one - x) | (rows - one - row)) < 0:
            outside += 1
            continue
        if last.ndim == 3:  # known to the compiler: one surface does not pay for two
            # 1 for ON, 0 for all else; a comparison becomes a branch here, and polarity is a coin
            # toss to the branch predictor
            is_on = (above - (((place >> word) & byte) ^ one)) >> eight
            row += is_on * rows
        if time >= newest:  # as good as always: then what the pixel holds need not be read
            newest = time
            lines[row, x] = time
        else:
            lines[row, x] = max(lines[row, x], time)
    return number, outside, newest


@njit(cache=True, nogil=True)
def exponents(last: NDArray[np.int64], time: int, tau: float, surface: NDArray[np.float32]) -> None:
    """Write (last - time) / tau to `surface`, or -inf where exp() of it is no normal float32.

    last : (height, width) or (2, height, width) int64, C order, us
    time, tau : us
    surface : float32 of the same shape, C order, written
    """
    rate = 1.0 / tau
    times, values = last.reshape(last.size), surface.reshape(surface.size)
    for pixel in range(times.size):
        value = np.float32((times[pixel] - time) * rate)
        values[pixel] = value if value > np.float32(-87.0) else np.float32(-np.inf)
