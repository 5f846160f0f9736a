"""Two streams of events as one."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def in_order(events: NDArray[np.int64], newest: int, times: NDArray[np.int64]) -> tuple[int, int]:
    """The newest time so far, and how many events were older than one before them.

    events : (2 n,) int64, events as words (`events.packets`)
    newest : int, us, the newest time before these events
    times : (n,) int64, us, written: each event's time, or the newest before it where that is later
    """
    late = 0
    for index in range(times.size):
        time = events[2 * index]
        late += time < newest
        newest = max(newest, time)
        times[index] = newest
    return newest, late


@njit(cache=True, nogil=True)
def merge_sorted(
    first: NDArray[np.int64],
    first_times: NDArray[np.int64],
    second: NDArray[np.int64],
    second_times: NDArray[np.int64],
    merged: NDArray[np.int64],
) -> None:
    """Write the events of both to `merged` by time; at equal times those of `first` go first.

    first, second : (2 n,) and (2 m,) int64, events as words (`events.packets`)
    first_times, second_times : (n,) and (m,) int64, not decreasing, us
    merged : (2 (n + m),) int64, written
    """
    a = b = 0
    for index in range(first_times.size + second_times.size):
        takes_first = b == second_times.size or (
            a < first_times.size and first_times[a] <= second_times[b]
        )
        if takes_first:
            merged[2 * index], merged[2 * index + 1] = first[2 * a], first[2 * a + 1]
            a += 1
        else:
            merged[2 * index], merged[2 * index + 1] = second[2 * b], second[2 * b + 1]
            b += 1
