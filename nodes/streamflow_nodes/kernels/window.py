"""Where a window of events ends."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def find_stop(events: NDArray[np.int64], first: int, start: int, stop: int) -> tuple[int, int]:
    """The index of the first event that is not before `stop`, and how many were before `start`.

    events : (2 n,) int64, events as words (`events.packets`)
    first : int, index of the event to begin with
    start, stop : int, us
    """
    number = events.size // 2
    late = 0
    for index in range(first, number):
        time = events[2 * index]
        if time >= stop:
            return index, late
        late += time < start
    return number, late
