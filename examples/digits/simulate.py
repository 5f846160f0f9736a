"""SIMULATED event recordings of handwritten digits, as an event camera would see them move.

    python examples/digits/simulate.py sample.npz

The digits are scikit-learn's (8 x 8 pixels; Alpaydin and Kaynak, 1998, "Optical recognition of
handwritten digits", CC BY 4.0), enlarged to 20 x 20 in the middle of 34 x 34. As for N-MNIST
(Orchard, Jayawant, Cohen and Thakor, 2015), the sensor makes three saccades of 100 ms. A pixel
gives an event when the logarithm of its light has changed by `THRESHOLD` since its last one;
thresholds differ by 10 % between pixels, and noise comes at random. Nothing else of a camera is
modelled. `THRESHOLD` makes about as many events a recording as N-MNIST has, some 4,000; nothing
else was fitted. What comes out is what `labelled_recordings` plays.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

SIZE, DIGIT = 34, 20  # pixels
THRESHOLD, MISMATCH = 0.2, 0.1  # in natural logarithms of light; relative
DARK = 0.15  # light where there is no ink, beside 1 where there is
NOISE = 0.5  # events per pixel and second
SACCADE_MS = 100
CORNERS = np.array([(0.0, 0.0), (2.0, 4.0), (4.0, 0.0), (0.0, 0.0)])  # of the gaze (x, y), pixels


def enlarged(digit: Any) -> Any:
    """The digit (8, 8) of 0 to 16 as light (SIZE, SIZE), between DARK and 1."""
    at = np.linspace(0, 7, DIGIT)
    low = np.minimum(at.astype(int), 6)
    part = at - low
    rows = digit[low] * (1 - part)[:, None] + digit[low + 1] * part[:, None]
    whole = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    light = np.full((SIZE, SIZE), DARK)
    first = (SIZE - DIGIT) // 2
    light[first : first + DIGIT, first : first + DIGIT] += (1 - DARK) * whole / 16
    return light


def shifted(light: Any, dx: float, dy: float) -> Any:
    """The light (n, n) moved by fractions of a pixel, towards larger x and y."""
    ix, iy = int(np.floor(dx)), int(np.floor(dy))
    fx, fy = dx - ix, dy - iy
    moved = np.roll(light, (iy, ix), (0, 1))
    moved = (1 - fx) * moved + fx * np.roll(moved, 1, 1)
    return (1 - fy) * moved + fy * np.roll(moved, 1, 0)


def recording(digit: Any, rng: np.random.Generator) -> tuple[Any, Any, Any, Any]:
    """Times (us), x, y and polarities (0 OFF, 1 ON) of the events that the digit causes."""
    light = enlarged(digit)
    threshold = THRESHOLD * (1 + MISMATCH * rng.standard_normal((SIZE, SIZE)))
    level = np.log(light)
    columns: list[Any] = []
    steps = 3 * SACCADE_MS
    for step in range(1, steps + 1):
        leg, part = divmod(step / SACCADE_MS, 1)
        leg = min(int(leg), 2)
        part = step / SACCADE_MS - leg
        eased = (1 - np.cos(np.pi * part)) / 2  # eyes and motors start and stop gently
        dx, dy = CORNERS[leg] + eased * (CORNERS[leg + 1] - CORNERS[leg])
        change = np.log(shifted(light, -dx, -dy)) - level
        is_noise = rng.random((SIZE, SIZE)) < NOISE / 1000
        polarity = np.where(is_noise, rng.random((SIZE, SIZE)) < 0.5, change > 0)
        is_real = np.abs(change) > threshold
        level = np.where(is_real, level + np.sign(change) * threshold, level)
        y, x = np.nonzero(is_real | is_noise)
        times = np.sort(rng.integers(0, 1000, len(y))) + 1000 * (step - 1)
        order = rng.permutation(len(y))
        columns.append((times, x[order], y[order], polarity[y, x][order]))
    t, x, y, p = (np.concatenate(column) for column in zip(*columns, strict=True))
    return t, x, y, p


def write_dataset(path: Path, recordings: Iterable[tuple[Any, ...]], labels: Any, ids: Any) -> None:
    """An .npz for `labelled_recordings`: of each recording times, x, y and polarities."""
    every = list(recordings)
    t, x, y, p = (np.concatenate(column) for column in zip(*every, strict=True))
    offsets = np.cumsum([0, *(len(one[0]) for one in every)])
    np.savez_compressed(
        path, t=t.astype(np.int32), x=x.astype(np.uint8), y=y.astype(np.uint8),
        p=p.astype(np.uint8), offsets=offsets.astype(np.int64), labels=np.asarray(labels, np.int64),
        ids=np.asarray(ids, np.int64),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=10, help="recordings, the digits in turn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(options.seed)
    # the first of each digit, then the second of each: nothing is chosen by how well it works
    order = np.argsort(digits.target, kind="stable")
    first = np.searchsorted(digits.target[order], np.arange(10))
    ids = [int(order[first[n % 10] + n // 10]) for n in range(options.count)]
    made = [recording(digits.images[n], rng) for n in ids]
    write_dataset(options.output, made, digits.target[ids], ids)
    events = sum(len(one[0]) for one in made)
    print(f"{options.output}: {len(ids)} SIMULATED recordings, {events:,} events")


if __name__ == "__main__":
    main()
