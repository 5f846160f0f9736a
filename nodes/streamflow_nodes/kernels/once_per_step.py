"""The first event of each pixel and polarity in every time step."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .leaky_filter import neuron_of


@njit(cache=True, nogil=True)
def keep_first(
    events: NDArray[np.int64],
    width: int,
    height: int,
    step: int,
    last: NDArray[np.int64],
    kept: NDArray[np.int64],
) -> tuple[int, int]:
    """The number of events kept, and of events outside the sensor (which are dropped).

    Kept is an event whose step, time // step, is later than that of the last kept one of its pixel
    and polarity.

    events : (2 n,) int64, events as words (`events.packets`)
    width, height : int, pixels
    step : int, us
    last : (2 * height * width,) int64, step of the last kept event, OFF first, updated
    kept : (2 n,) int64, the kept events as words, written at the front
    """
    count, outside = 0, 0
    for index in range(events.size // 2):
        time, place = events[2 * index], events[2 * index + 1]
        cell = neuron_of(place, width, height)
        if cell < 0:
            outside += 1
            continue
        if time // step > last[cell]:
            last[cell] = time // step
            kept[2 * count] = time
            kept[2 * count + 1] = place
            count += 1
    return count, outside
