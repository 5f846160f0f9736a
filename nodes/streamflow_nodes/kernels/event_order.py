"""Events in order and inside the sensor, and where stream time cuts them.

Events are (2 n,) int64, two words each: time (us), then `x | y << 16 | polarity << 32`, which is
the memory of n structured events of 16 bytes.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

EventWords = NDArray[np.int64]

FURTHEST = 1 << 61  # us
EVENT_BITS = (1 << 40) - 1  # x, y, polarity; the three bytes above are padding


@njit(cache=True, nogil=True)
def join_jumps(events: EventWords, longest: int, registers: NDArray[np.int64]) -> int:
    """The number of jumps in time, each of which is taken out: time goes on where it stood.

    events : (2 n,) int64, times changed in place
    longest : int, us; an event further than that from the newest before it has jumped
    registers : (3,) int64, updated: us that are added to times, the newest time, and whether there
        has been one

    A single wrong time is two jumps: there and back.
    """
    jumps = 0
    shift, newest, begun = registers[0], registers[1], registers[2]
    for index in range(events.shape[0] // 2):
        raw = events[2 * index]
        if raw > FURTHEST or raw < -FURTHEST:
            continue  # garbage, with which sums could wrap; the caller refuses it
        time = raw + shift
        if begun != 0 and (time - newest > longest or newest - time > longest):
            shift = newest - raw
            time = newest
            jumps += 1
        newest = max(newest, time) if begun != 0 else time
        begun = 1
        events[2 * index] = time
    registers[0], registers[1], registers[2] = shift, newest, begun
    return jumps


@njit(cache=True, nogil=True)
def keep_ordered(
    events: EventWords,
    width: int,
    height: int,
    drop_backward: bool,
    newest: NDArray[np.int64],
    faults: NDArray[np.int64],
) -> int:
    """The number of events kept: inside the sensor and in time order, moved to the front.

    events : (2 n,) int64, changed in place; bytes that mean nothing are cleared
    width, height : int, pixels; an event outside is left out
    drop_backward : bool, an event older than the newest before it is left out; else its time is
        raised to that one's
    newest : (1,) int64, the newest time kept so far (us), updated
    faults : (4,) int64, added to: events outside and events back in time; then the index in
        `events` of the first of each, written where it is -1
    """
    kept = 0
    last = newest[0]
    for index in range(events.shape[0] // 2):
        time, address = events[2 * index], events[2 * index + 1] & EVENT_BITS
        # a negative coordinate is above any width when read as unsigned
        if address & 0xFFFF >= width or (address >> 16) & 0xFFFF >= height:
            if faults[2] < 0:
                faults[2] = index
            faults[0] += 1
            continue
        if time < last:
            if faults[3] < 0:
                faults[3] = index
            faults[1] += 1
            if drop_backward:
                continue
            time = last
        last = time
        events[2 * kept], events[2 * kept + 1] = time, address
        kept += 1
    newest[0] = last
    return kept


@njit(cache=True, nogil=True)
def slice_starts(events: EventWords, duration: int, starts: NDArray[np.int64]) -> int:
    """The number of slices [k duration, (k+1) duration) that hold events; where each one starts.

    events : (2 n,) int64, in time order; not changed
    duration : int, us
    starts : (>= n,) int64, index of each slice's first event, written
    """
    count, stop = 0, 0
    for index in range(events.shape[0] // 2):
        time = events[2 * index]
        if count == 0 or time >= stop:
            starts[count] = index
            count += 1
            stop = (time // duration + 1) * duration
    return count


@njit(cache=True, nogil=True)
def first_disordered(events: EventWords, last: int, width: int, height: int) -> int:
    """The index of the first event that is older than the one before it or outside the sensor; -1
    when there is none.

    events : (2 n,) int64; not changed
    last : int, us, the time before the first event's
    """  # fmt: skip
    for index in range(events.shape[0] // 2):
        time, address = events[2 * index], events[2 * index + 1]
        # a negative coordinate is above any width when read as unsigned
        if time < last or address & 0xFFFF >= width or (address >> 16) & 0xFFFF >= height:
            return index
        last = time
    return -1
