"""What the pixels of a DVS (event camera) make of changing light.

Each pixel follows the logarithm of its light through a low pass whose bandwidth falls with the
light, and sends an event when that has risen or fallen by a threshold since its last event.

    target = ln I
    speed  = min(1, max(I / I_full, slowest))     bandwidth as a share of the full one
    level <- level + (1 - exp(-2 pi f speed dt)) (target - level)
    ON  event when level >= memory + threshold_on,   OFF when level <= memory - threshold_off

The time of an event is interpolated linearly inside the step. For `refractory` microseconds after
it the pixel is held in reset: its memory follows `level`, and is set when the reset is released.

Sources: Lichtsteiner, Posch, Delbruck, "A 128x128 120 dB 15 us latency asynchronous temporal
contrast vision sensor", IEEE JSSC 2008, section II (pixel, thresholds, refractory period); Hu, Liu,
Delbruck, "v2e: from video frames to realistic DVS events", CVPRW 2021, section 3 (bandwidth
proportional to light, to which `slowest` adds a floor). Deviation: the low pass is solved exactly
within a step, not by Euler's rule.

State of n pixels, all (n,) float32 and contiguous:

    level    low-passed ln I
    upper    level at which the next ON event comes; +inf while in reset
    lower    level at which the next OFF event comes; -inf while in reset
    release  when the reset ends, us from the start of the block; +inf outside of resets

Loops over pixels are written so that they compile to vector instructions: plain float32 arithmetic
without branches. Events, which are rare (one in a hundred pixels and steps), take the slow way.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Pixels = NDArray[np.float32]  # (n,)

LN2 = np.float32(0.6931471805599453)
SQRT_HALF_BITS = np.int32(0x3F3504F3)  # the bits of sqrt(0.5) as a float32
MANTISSA = np.int32(0x007FFFFF)
GROUP = 8  # pixels that are looked at together for events: the bytes of one word


@njit(cache=True, nogil=True)
def logarithms(values: Pixels, logs: Pixels) -> None:
    """Natural logarithms of normal positive numbers, to 2e-7 of max(1, |log|).

    values : (n,) float32, > 1e-37, light
    logs : (n,) float32, written

    ln v = e ln 2 + ln(1 + f) with 1 + f between sqrt(1/2) and sqrt(2); the polynomial is that of
    `logf` in the Cephes library (Moshier 1992).
    """
    bits = values.view(np.int32)
    scaled = np.empty(values.size, np.int32)
    # Numba adds int32 in 64 bits, which would halve the width of the loop
    for i in range(values.size):
        shifted = np.int32(bits[i] - SQRT_HALF_BITS)
        scaled[i] = np.int32(np.int32(shifted & MANTISSA) + SQRT_HALF_BITS)
        logs[i] = np.float32(np.int32(shifted >> np.int32(23)))
    mantissa = scaled.view(np.float32)
    for i in range(values.size):
        f = mantissa[i] - np.float32(1.0)
        z = f * f
        p = np.float32(7.0376836292e-2)
        p = p * f + np.float32(-1.1514610310e-1)
        p = p * f + np.float32(1.1676998740e-1)
        p = p * f + np.float32(-1.2420140846e-1)
        p = p * f + np.float32(1.4249322787e-1)
        p = p * f + np.float32(-1.6668057665e-1)
        p = p * f + np.float32(2.0000714765e-1)
        p = p * f + np.float32(-2.4999993993e-1)
        p = p * f + np.float32(3.3333331174e-1)
        logs[i] = logs[i] * LN2 + (f + (f * z * p - np.float32(0.5) * z))


@njit(cache=True, nogil=True)
def gains(light: Pixels, full: float, slowest: float, most: float, gain: Pixels) -> None:
    """How much of the way to its target each level goes in one step: 1 - exp(-most speed).

    light : (n,) float32
    full : float, light from which on the bandwidth is the full one
    slowest : float, share of the bandwidth that darkness leaves
    most : float, 2 pi f dt, at most 2
    gain : (n,) float32, written; to 3e-6
    """
    share, least = np.float32(1.0 / full), np.float32(slowest)
    scale = np.float32(most / 4)
    one = np.float32(1.0)
    for i in range(light.size):
        # exp(-x) = exp(-x / 4)^4, by its series for x / 4 <= 0.5
        x = min(one, max(light[i] * share, least)) * scale
        y = x * (one - x * (np.float32(1 / 2) - x * (np.float32(1 / 6) - x * (np.float32(1 / 24)
            - x * (np.float32(1 / 120) - x * np.float32(1 / 720))))))  # fmt: skip
        half = y * (np.float32(2.0) - y)
        gain[i] = half * (np.float32(2.0) - half)


@njit(cache=True, nogil=True)
def step_pixels(
    target: Pixels,
    gain: Pixels,
    begin: float,
    dt: float,
    refractory: float,
    on: Pixels,
    off: Pixels,
    level: Pixels,
    upper: Pixels,
    lower: Pixels,
    release: Pixels,
    count: int,
    times: NDArray[np.float32],
    places: NDArray[np.int32],
) -> int:
    """The number of events in the buffers after one step; -1 when they do not fit.

    target, gain : (n,) float32, ln of the light in this step, and `gains` of it
    begin, dt : float, the step is [begin, begin + dt) us from the start of the block
    refractory : float, us, may be 0
    on, off : (n,) float32, thresholds, > 0
    level, upper, lower, release : (n,) float32, state, updated
    count : int, events in the buffers before
    times, places : (capacity,), us from the start of the block, and 2 pixel + polarity, written;
        in the order of pixels within a step
    """
    n = level.size
    before = np.empty(n, np.float32)
    for i in range(n):
        before[i] = level[i]
    for i in range(n):
        level[i] = before[i] + gain[i] * (target[i] - before[i])
    flags = np.zeros(-(-n // GROUP) * GROUP, np.uint8)
    _flag(level, upper, lower, release, begin + dt, flags)
    groups = flags.view(np.uint64)
    for group in range(groups.size):
        if groups[group]:
            for pixel in range(group * GROUP, group * GROUP + GROUP):
                if flags[pixel]:
                    count = _fire(
                        pixel, before[pixel], begin, dt, refractory, on, off, level, upper, lower,
                        release, count, times, places,
                    )  # fmt: skip
                    if count < 0:
                        return -1
    return count


@njit(cache=True, nogil=True)
def _flag(
    level: Pixels, upper: Pixels, lower: Pixels, release: Pixels, end: float,
    flags: NDArray[np.uint8],
) -> None:  # fmt: skip
    """1 for every pixel in which something happens before `end` (us), written."""
    limit = np.float32(end)
    for i in range(level.size):
        is_up, is_down = level[i] >= upper[i], level[i] <= lower[i]
        flags[i] = np.uint8(is_up | is_down | (release[i] < limit))


@njit(cache=True, nogil=True)
def _fire(
    pixel: int, was: float, begin: float, dt: float, refractory: float,
    on: Pixels, off: Pixels, level: Pixels, upper: Pixels, lower: Pixels, release: Pixels,
    count: int, times: NDArray[np.float32], places: NDArray[np.int32],
) -> int:  # fmt: skip
    """`step_pixels` for one pixel in which something happens; `was` is its level before."""
    now = float(level[pixel])
    was = float(was)
    slope = (now - was) / dt
    end = begin + dt
    if release[pixel] < end:
        memory = was + slope * max(release[pixel] - begin, 0.0)
        upper[pixel], lower[pixel] = memory + on[pixel], memory - off[pixel]
        release[pixel] = np.inf
    while True:
        if now >= upper[pixel]:
            crossed, polarity = float(upper[pixel]), 1
        elif now <= lower[pixel]:
            crossed, polarity = float(lower[pixel]), 0
        else:
            return count
        if count >= times.size:
            return -1
        time = begin + min(max((crossed - was) / slope, 0.0), dt)
        times[count] = time
        places[count] = 2 * pixel + polarity
        count += 1
        if time + refractory >= end and refractory > 0:
            upper[pixel], lower[pixel] = np.inf, -np.inf
            release[pixel] = time + refractory
            return count
        memory = crossed + slope * refractory
        upper[pixel], lower[pixel] = memory + on[pixel], memory - off[pixel]


@njit(cache=True, nogil=True)
def rest(target: Pixels, gain: Pixels, steps: int, level: Pixels) -> None:
    """`steps` steps at once in which the light stays and no pixel sends an event.

    target, gain : (n,) float32, as in `step_pixels`
    level : (n,) float32, updated
    """
    for i in range(level.size):
        left = (1.0 - float(gain[i])) ** steps
        level[i] = target[i] + left * (level[i] - target[i])


@njit(cache=True, nogil=True)
def is_quiet(target: Pixels, upper: Pixels, lower: Pixels, release: Pixels) -> bool:
    """Whether no pixel will ever send an event while the light stays as it is.

    `level` moves towards `target` without overshoot, so it is enough that no pixel is in reset and
    that every target lies between its pixel's thresholds. Arrays as in `step_pixels`; not changed.
    """
    for i in range(target.size):
        if release[i] < np.inf or target[i] >= upper[i] or target[i] <= lower[i]:
            return False
    return True
