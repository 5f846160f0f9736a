"""Events of a live sender in order, inside the sensor, and on one stream time that never goes back.

Events are (2 n,) int64, two words each: time (us), then `x | y << 16 | polarity << 32`, which is
the memory of n structured events of 16 bytes.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

EventWords = NDArray[np.int64]
Registers = NDArray[np.int64]

EVENT_BITS = (1 << 40) - 1  # x, y, polarity; the three bytes above are padding
FURTHEST = 1 << 61  # us; a sender's time beyond it is garbage, and sums with it could wrap

# Registers, (8,) int64; `new_registers` gives those of a stream that has not begun.
NEWEST = 0  # stream time (us) before which nothing may come any more
OFFSET = 1  # us that turn the sender's time into stream time
BEGUN = 2  # 0 before the first event
RENEW = 3  # 1: the next event's sender is another (a camera plugged in again): it begins at BASE
BASE = 4  # stream time (us) at which such a sender, or one whose time has jumped, goes on
CANDIDATE = 5  # the sender's newest time (us) that did not fit,
DOUBT = 6  # and whether there is one
SEEN = 7  # the newest of the sender's own times (us) that was taken

# Faults, (4,) int64, added to.
OUTSIDE = 0  # events outside the sensor
BACKWARD = 1  # events a little back in time
JUMPED = 2  # events whose time did not fit at all, left out
ADOPTED = 3  # times that a sender's new time was taken over


def new_registers() -> Registers:
    """The registers of a stream that has not begun."""
    registers = np.zeros(8, np.int64)
    registers[NEWEST] = -(1 << 62)
    return registers


@njit(cache=True, nogil=True)
def keep_live(
    events: EventWords,
    groups: NDArray[np.int64],
    width: int,
    height: int,
    drop_backward: bool,
    late: int,
    longest: int,
    wrap: int,
    registers: Registers,
    faults: NDArray[np.int64],
) -> int:
    """The number of events kept, moved to the front, their times in stream time and in order.

    events : (2 n,) int64, with the sender's times; changed in place
    groups : (m,) int64, events in each datagram or read, together n
    width, height : int, pixels; an event outside is left out
    drop_backward : bool, an event up to `late` us behind is left out; else it is raised to NEWEST
    late, longest : int, us; an event further behind, or further ahead, does not fit
    wrap : int, bits of the sender's times, whose wraps are undone; 0 for times that do not wrap
    registers : (8,) int64, updated
    faults : (4,) int64, added to

    One wrong time must neither end the stream nor move it, and a sender that began again must be
    heard: an event that does not fit is left out, and only when a later group goes on where it
    stood is the new time taken over, beginning at BASE. A group that fits clears the doubt.
    """
    kept, index = 0, 0
    for group in range(groups.shape[0]):
        doubt, candidate = registers[DOUBT], registers[CANDIDATE]  # of earlier groups
        fitted, doubted = False, False
        for _ in range(groups[group]):
            raw, address = events[2 * index], events[2 * index + 1] & EVENT_BITS
            index += 1
            # a negative coordinate is above any width when read as unsigned
            if address & 0xFFFF >= width or (address >> 16) & 0xFFFF >= height:
                faults[OUTSIDE] += 1
                continue
            if wrap > 0 and registers[BEGUN]:
                period = np.int64(1) << wrap
                step = (raw - registers[SEEN]) & (period - 1)
                if step >= period >> 1:
                    step -= period
                raw = registers[SEEN] + step
            if raw < -FURTHEST or raw > FURTHEST:
                faults[JUMPED] += 1
                continue
            if registers[RENEW] or not registers[BEGUN]:
                registers[OFFSET] = registers[BASE] - raw if registers[RENEW] else 0
                registers[NEWEST] = max(registers[NEWEST], raw + registers[OFFSET])
                registers[BEGUN], registers[RENEW] = 1, 0
            time = raw + registers[OFFSET]
            ahead = time - registers[NEWEST]
            if ahead > longest or -ahead > late:
                gap = raw - candidate
                if not (doubt and -late <= gap <= longest):
                    faults[JUMPED] += 1
                    registers[CANDIDATE], registers[DOUBT] = raw, 1
                    doubted = True
                    continue
                faults[ADOPTED] += 1
                time = max(registers[BASE], registers[NEWEST])
                registers[OFFSET] = time - raw
                ahead, doubt = 0, 0
            elif ahead < 0:
                faults[BACKWARD] += 1
                fitted = True
                if drop_backward:
                    continue
                time = registers[NEWEST]
            fitted = True
            registers[NEWEST] = time
            if ahead >= 0:
                registers[SEEN] = raw
            events[2 * kept], events[2 * kept + 1] = time, address
            kept += 1
        if fitted and not doubted:
            registers[DOUBT] = 0
    return kept
