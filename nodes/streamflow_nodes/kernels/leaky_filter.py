"""Which events make a leaky integrate-and-fire neuron of their pixel and polarity spike."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def neuron_of(place: int, width: int, height: int) -> int:
    """(polarity height + y) width + x of an event's second word, OFF being 0; -1 off the sensor."""
    x, y = place & 0xFFFF, (place >> 16) & 0xFFFF
    if x >= width or y >= height:
        return -1
    is_on = 1 if (place >> 32) & 0xFF else 0
    return (is_on * height + y) * width + x


@njit(cache=True, nogil=True)
def leak_and_fire(
    events: NDArray[np.int64],
    width: int,
    height: int,
    threshold: float,
    leak: float,
    rest: int,
    v: NDArray[np.float64],
    last: NDArray[np.int64],
    fired: NDArray[np.int64],
    kept: NDArray[np.int64],
) -> tuple[int, int]:
    """The number of events kept, and of events outside the sensor (which are dropped).

    An event at time t, dt after the neuron's last one (0 where time steps back), is left out when
    t - fired <= rest; otherwise

        v = leak^dt v + 1;   where v >= threshold: v = 0, fired = t, and the event is kept

    events : (2 n,) int64, events as words (`events.packets`)
    width, height : int, pixels
    threshold : float, events
    leak : float, 0..1, what is left of v after 1 us; 0^0 = 1
    rest : int, us; below 0 for none
    v : (2 * height * width,) float64, events; OFF neurons first, updated
    last : same shape, int64, time up to which v has leaked, us, updated
    fired : same shape, int64, time of the neuron's last kept event, us, updated
    kept : (2 n,) int64, the kept events as words, written at the front
    """
    count, outside = 0, 0
    for index in range(events.size // 2):
        time, place = events[2 * index], events[2 * index + 1]
        neuron = neuron_of(place, width, height)
        if neuron < 0:
            outside += 1
            continue
        if rest >= 0 and time - fired[neuron] <= rest:
            continue
        dt = time - last[neuron]
        if dt > 0:
            v[neuron] *= leak ** float(dt)
            last[neuron] = time
        v[neuron] += 1.0
        if v[neuron] >= threshold:
            v[neuron] = 0.0
            fired[neuron] = time
            kept[2 * count] = time
            kept[2 * count + 1] = place
            count += 1
    return count, outside
