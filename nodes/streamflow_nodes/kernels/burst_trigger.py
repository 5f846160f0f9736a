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
def busy_spans(
    words: NDArray[np.int64],
    step: int,
    half: int,
    threshold: int,
    spans: NDArray[np.int64],
) -> int:
    """The number of spans of steps near which enough events lie, and those spans.

    A contrast of `threshold` needs that many events within 2 `half` steps, so nothing need be
    looked at elsewhere: an event is busy when the event `threshold` - 1 before it is that near, and
    every centre whose window can hold it belongs to its span.

    words : (2 n,) int64, events in time order; not changed
    step : int, us; half : int, steps; threshold : int, events, at least 1
    spans : (n // threshold + 2, 2) int64, first and last centre (in steps) of each, written
    """
    count = 0
    back = 2 * (threshold - 1)
    reach = 2 * half * step
    known = words[0] - 1 if words.shape[0] else 0  # where the step of the last busy event ends, us
    for at in range(back, words.shape[0], 2):
        if words[at] - words[at - back] < reach:
            if words[at] < known:  # its span is there already, without a division
                continue
            here = words[at] // step
            known = (here + 1) * step
            if count and here - half < spans[count - 1, 1] + 2:
                spans[count - 1, 1] = here + half
            else:
                spans[count, 0] = here - half + 1
                spans[count, 1] = here + half
                count += 1
    return count


@njit(cache=True, nogil=True)
def contrasts(
    words: NDArray[np.int64],
    step: int,
    half: int,
    first: int,
    contrast: NDArray[np.int64],
) -> None:
    """The polarity contrast about each centre from step `first` on, in `contrast`.

    contrast(c) = (ON - OFF) in [(c - half) step, c step) - (ON - OFF) in [c step, (c + half) step)

    words : (2 n,) int64, events in time order; not changed
    contrast : (centres,) int64, events, written
    """
    n = words.shape[0] >> 1
    low = first_at_or_after(words, (first - half) * step, 0)
    middle, high = low, low
    before, after = 0, 0  # ON - OFF of events [low, middle) and [middle, high)
    for k in range(contrast.shape[0]):
        centre = (first + k) * step
        while high < n and words[2 * high] < centre + half * step:
            on = (words[2 * high + 1] >> POLARITY_SHIFT) & POLARITY_MASK
            after += 1 if on else -1
            high += 1
        while middle < high and words[2 * middle] < centre:
            on = (words[2 * middle + 1] >> POLARITY_SHIFT) & POLARITY_MASK
            sign = 1 if on else -1
            after -= sign
            before += sign
            middle += 1
        while low < middle and words[2 * low] < centre - half * step:
            on = (words[2 * low + 1] >> POLARITY_SHIFT) & POLARITY_MASK
            before -= 1 if on else -1
            low += 1
        contrast[k] = before - after


@njit(cache=True, nogil=True)
def peaks(
    contrast: NDArray[np.int64],
    first: int,
    guard: int,
    threshold: int,
    after: int,
    until: int,
    centres: NDArray[np.int64],
    found: int,
) -> int:
    """`found` plus the number of peaks of `contrast` among centres in (after, until].

    A peak reaches `threshold`, is above every centre up to `guard` steps before it and not below
    any up to `guard` steps after it. Centres outside the array count as below the threshold.

    contrast : (n,) int64, of centres first, first + 1, ... (steps); not changed
    centres : int64, step of each peak, written from index `found`
    """
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
def burst_centres(
    words: NDArray[np.int64],
    step: int,
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

    words : (2 n,) int64, every event from (after + 1 - guard - half) step to before
        (until + guard + half) step, in time order; more is allowed; not changed
    step : int, us, resolution of the centre
    half : int, steps that are compared on each side of the centre
    guard : int, steps within which there is one peak
    threshold : int, events, smallest contrast of a passage
    after, until : int, steps
    centres : (2 half (n // threshold + 2),) int64, steps, written
    """
    n = words.shape[0] >> 1
    spans = np.empty((n // threshold + 2, 2), np.int64)
    found = 0
    for index in range(busy_spans(words, step, half, threshold, spans)):
        first = max(spans[index, 0], after + 1 - guard)
        last = min(spans[index, 1], until + guard)
        if last < first:
            continue
        contrast = np.empty(last - first + 1, np.int64)
        contrasts(words, step, half, first, contrast)
        found = peaks(contrast, first, guard, threshold, after, until, centres, found)
    return found
