"""Where particles cross the beam: the moments at which a stream of events turns from ON to OFF.

Events come as 64-bit words, two for each event: its time, then x | y << 16 | polarity << 32.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

POLARITY_SHIFT = 32
POLARITY_MASK = 0xFF


@njit(cache=True, nogil=True)
def first_at_or_after(words: NDArray[np.int64], time: int, low: int) -> int:
    """The index of the first event from `low` on that is not before `time` (us).

    words : (2 n,) int64, events in time order; not changed
    """
    high = words.shape[0] >> 1
    while low < high:
        middle = (low + high) >> 1
        if words[2 * middle] < time:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def backward_times(words: NDArray[np.int64], newest: int) -> int:
    """The number of events older than an event (or `newest`, us) before them.

    words : (2 n,) int64; not changed
    """
    count = 0
    for index in range(words.shape[0] >> 1):
        time = words[2 * index]
        if time < newest:
            count += 1
        else:
            newest = time
    return count


@njit(cache=True, nogil=True)
def is_quiet(
    held: NDArray[np.int64], words: NDArray[np.int64], newest: int, reach: int, threshold: int
) -> bool:
    """Whether `words` go on from `newest` (us) in order and no burst can be in them.

    No `threshold` successive events of `held` and then `words` lie within `reach` us, but for those
    that lie in `held` alone.

    held, words : (2 n,) int64, events, `held` in time order; not changed
    threshold : int, events, at least 1
    """
    back = 2 * (threshold - 1)
    for at in range(0, min(back, words.shape[0]), 2):  # their company is in `held`
        time = words[at]
        if time < newest:
            return False
        newest = time
        earlier = held.shape[0] + at - back
        if earlier >= 0 and time - held[earlier] < reach:
            return False
    for at in range(back, words.shape[0], 2):
        time = words[at]
        if time < newest or time - words[at - back] < reach:
            return False
        newest = time
    return True


@njit(cache=True, nogil=True)
def add_signs(
    words: NDArray[np.int64],
    newest: int,
    step: int,
    base: int,
    room: int,
    signs: NDArray[np.int64],
) -> int:
    """Add events to the ON less OFF events of each step; the index of the first one not added.

    That is the first event that is older than an event (or `newest`, us) before it, or for which
    there is no room; the number of events where there is none. Events before `base` are left out.

    words : (2 n,) int64; not changed
    step : int, us; base : int, the step that signs[0] counts
    room : int, how many of `signs` can be added to
    signs : (>= room,) int64, events, updated
    """
    one, two = np.uint64(1), np.uint64(2)
    at, total = -1, 0  # the step of the event before and its sum, which stays in a register
    until = newest  # us, where that step ends
    n: int = words.shape[0] >> 1
    for index in range(np.uint64(n)):
        time = words[two * index]
        if time < newest:
            n = int(np.int64(index))
            break
        if time >= until:
            if at >= 0:
                signs[at] += total
            total = 0
            at = time // step - base
            if at >= room:
                return int(np.int64(index))
            until = (base + at + 1) * step
        newest = time
        total += 1 if (words[two * index + one] >> POLARITY_SHIFT) & POLARITY_MASK else -1
    if at >= 0:
        signs[at] += total
    return n


@njit(cache=True, nogil=True)
def contrasts(
    signs: NDArray[np.int64],
    half: int,
    first: int,
    contrast: NDArray[np.int64],
) -> int:
    """The polarity contrast about each centre from step `first` on, in `contrast`; the highest.

    contrast(c) = sum of signs[c - half : c] - sum of signs[c : c + half]

    signs : (steps,) int64, ON less OFF events of each step; not changed
    half, first : int, steps, first >= half
    contrast : (centres,) int64, first + centres + half <= steps, events, written
    """
    # three running sums a centre, and vector instructions, for which no index may wrap round
    reach, count = np.uint64(half), np.uint64(contrast.shape[0])
    near = signs[first - half :]
    sums = np.empty(contrast.shape[0] + 2 * half, np.int64)  # of near[:k]
    total = 0
    for k in range(np.uint64(sums.shape[0])):
        sums[k] = total
        total += near[k]
    highest = 0
    for k in range(count):
        value = 2 * sums[k + reach] - sums[k] - sums[k + reach + reach]
        contrast[k] = value
        highest = max(highest, value)
    return highest


@njit(cache=True, nogil=True)
def peaks(
    contrast: NDArray[np.int64],
    first: int,
    guard: int,
    threshold: int,
    after: int,
    until: int,
    centres: NDArray[np.int64],
) -> int:
    """The number of peaks of `contrast` among centres in (after, until].

    A peak reaches `threshold`, is above every centre up to `guard` steps before it and not below
    any up to `guard` steps after it. Centres outside the array count as below the threshold.

    contrast : (n,) int64, of centres first, first + 1, ... (steps); not changed
    centres : int64, step of each peak, written
    """
    found = 0
    n = contrast.shape[0]
    for k in range(max(0, after + 1 - first), min(n, until + 1 - first)):
        value = contrast[k]
        if value < threshold:
            continue
        is_peak = True
        for other in range(max(0, k - guard), min(n, k + guard + 1)):
            if contrast[other] > value or (other < k and contrast[other] == value):
                is_peak = False
                break
        if is_peak:
            centres[found] = first + k
            found += 1
    return found


@njit(cache=True, nogil=True)
def passage_centres(
    signs: NDArray[np.int64],
    base: int,
    room: int,
    half: int,
    guard: int,
    threshold: int,
    after: int,
    until: int,
    centres: NDArray[np.int64],
) -> int:
    """The number of passages with a centre in (after, until], and their centres.

    A particle brightens the pixels on its way in and darkens them on its way out: the centre of its
    passage is where ON events turn into OFF events, a peak of the polarity contrast. Two particles
    whose passages overlap give two peaks.

    signs : (room + 2 half + 1,) int64, ON less OFF events of step base, base + 1, ...; zeros from
        `room` on; all events before step until + guard + half are in it; not changed
    base : int, step, at most after + 1 - guard - half
    half : int, steps that are compared on each side of the centre
    guard : int, steps within which there is one peak
    threshold : int, events, smallest contrast of a passage, at least 1
    after, until : int, steps
    centres : (>= room + half,) int64, steps, written
    """
    first = after + 1 - guard
    last = min(until + guard, base + room + half)  # no later one has an event in reach
    if last < first:
        return 0
    contrast = np.empty(last - first + 1, np.int64)
    if contrasts(signs, half, first - base, contrast) < threshold:
        return 0
    found: int = peaks(contrast, first, guard, threshold, after, until, centres)
    return found
