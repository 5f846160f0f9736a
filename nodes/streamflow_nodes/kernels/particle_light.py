"""Light that particles scatter onto a sensor while they cross a beam, and the events it makes.

Fields are planes of float32, real and imaginary parts apart, so that loops over pixels compile to
vector instructions. `particles.optics` has the physics and the equations.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .dvs_pixel import gains, logarithms, step_pixels

Plane = NDArray[np.float32]  # (rows * columns,)

CENTRE, VELOCITY, OFFSET = 0, 1, 2  # columns of `courses`


@njit(cache=True, nogil=True)
def expose(
    first: int,
    steps: int,
    dt: float,
    fields: NDArray[np.float32],
    courses: NDArray[np.float64],
    optics: NDArray[np.float64],
    beam: NDArray[np.float32],
    stray: Plane,
    still: NDArray[np.float32],
    pixel: NDArray[np.float64],
    on: Plane,
    off: Plane,
    state: NDArray[np.float32],
    count: int,
    times: NDArray[np.float32],
    places: NDArray[np.int32],
) -> int:
    """The number of events after steps `first` to `steps` of a block; -1 when they do not fit.

    In each step the light is I = |E|^2 + stray with, at the step's middle t,

        E(X, Y) = beam(X, Y) + sum_p field_p(X, Y) exp(-x^2 / w^2) exp(i k (x^2 / 2 - X x) / z)
        x = velocity_p (t - centre_p) + offset_p,   where |x| < reach; else p is not in the beam

    first, steps : int, of the block; times count from the start of the block's step 0
    dt : float, us
    fields : (p, 2, rows * columns) float32, real and imaginary part of each sphere's field
    courses : (p, 3) float64, centre of the passage (us), velocity (um/us), offset (um)
    optics : (6,) float64: k / z (1/um^2), waist w (um), reach (um), X of column 0 (um), pitch (um),
        columns
    beam : (2, rows * columns) float32, real and imaginary part of the beam's own field
    stray : (rows * columns,) float32, light that does not interfere
    still : (2, rows * columns) float32, target and gain (`dvs_pixel`) with no particle present
    pixel : (4,) float64: light of full bandwidth, slowest share of it, 2 pi f dt, refractory (us)
    on, off : (rows * columns,) float32, thresholds
    state : (4, rows * columns) float32, level, upper, lower, release (`dvs_pixel`), updated
    count, times, places : as in `step_pixels`
    """
    n = stray.size
    real, imaginary = np.empty(n, np.float32), np.empty(n, np.float32)
    target, gain = np.empty(n, np.float32), np.empty(n, np.float32)
    level, upper, lower, release = state[0], state[1], state[2], state[3]
    wave, waist, reach = optics[0], optics[1], optics[2]
    columns = int(optics[5])
    turn_real, turn_imaginary = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for step in range(first, steps):
        time = (step + 0.5) * dt
        present = 0
        for p in range(courses.shape[0]):
            x = courses[p, VELOCITY] * (time - courses[p, CENTRE]) + courses[p, OFFSET]
            if abs(x) >= reach:
                continue
            if present == 0:
                real[:] = beam[0]
                imaginary[:] = beam[1]
            present += 1
            _turns(wave, x, waist, optics[3], optics[4], turn_real, turn_imaginary)
            _add(fields[p, 0], fields[p, 1], turn_real, turn_imaginary, real, imaginary)
        if present:
            for i in range(n):
                real[i] = real[i] * real[i] + imaginary[i] * imaginary[i] + stray[i]
            logarithms(real, target)
            gains(real, pixel[0], pixel[1], pixel[2], gain)
        else:
            target[:], gain[:] = still[0], still[1]
        count = step_pixels(
            target, gain, step * dt, dt, pixel[3], on, off, level, upper, lower, release,
            count, times, places,
        )  # fmt: skip
        if count < 0:
            return -1
    return count


@njit(cache=True, nogil=True)
def _turns(
    wave: float, x: float, waist: float, left: float, pitch: float, real: Plane, imaginary: Plane
) -> None:
    """exp(-x^2 / w^2) exp(i wave (x^2 / 2 - X x)) for each column's X, written."""
    size = math.exp(-x * x / (waist * waist))
    angle = wave * (0.5 * x * x - left * x)
    a, b = size * math.cos(angle), size * math.sin(angle)
    c, s = math.cos(wave * pitch * x), -math.sin(wave * pitch * x)
    for column in range(real.size):
        real[column], imaginary[column] = a, b
        a, b = a * c - b * s, a * s + b * c


@njit(cache=True, nogil=True)
def _add(
    field_real: Plane, field_imaginary: Plane, turn_real: Plane, turn_imaginary: Plane,
    real: Plane, imaginary: Plane,
) -> None:  # fmt: skip
    """Real + i imaginary += field turn, the turn of each column, updated."""
    columns = turn_real.size
    for row in range(real.size // columns):
        first, last = row * columns, (row + 1) * columns
        a, b = field_real[first:last], field_imaginary[first:last]
        sum_real, sum_imaginary = real[first:last], imaginary[first:last]
        for i in range(columns):
            sum_real[i] += a[i] * turn_real[i] - b[i] * turn_imaginary[i]
        for i in range(columns):
            sum_imaginary[i] += a[i] * turn_imaginary[i] + b[i] * turn_real[i]
