"""Decisions about particles against what the particles were: reading truth, matching, intervals."""

from __future__ import annotations

import csv
import math
import os
import stat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError

TRUTH_COLUMNS = ("time_us", "class", "kind", "overlaps")
TRUTH_LIMIT = 1 << 26  # bytes: some two million particles
KINDS = ("bead", "doublet", "debris")


class Particle(NamedTuple):
    """One true particle: centre of its passage (us), class, kind, whether another one overlaps."""

    time: float
    name: str
    kind: str
    overlaps: bool


def read_truth(path: str, node: str) -> list[Particle]:
    """The particles in a CSV file with the columns time_us, class, kind and overlaps (0 or 1).

    DeviceError says in which line something is wrong, and what.
    """
    expected = f"expected a CSV file with the columns {', '.join(TRUTH_COLUMNS)}"
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > TRUTH_LIMIT:
            raise DeviceError(
                f"{node}: truth {path} is no file, or has more than {TRUTH_LIMIT} bytes; {expected}"
            )
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in TRUTH_COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DeviceError(f"{node}: truth {path} lacks the columns {missing}; {expected}")
            return [_particle(row, f"{node}: truth {path}:{reader.line_num}") for row in reader]
    except OSError as error:
        raise DeviceError(
            f"{node}: cannot read truth {path}: {error.strerror}; {expected}, or leave the "
            "setting 'truth' out to count decisions only"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DeviceError(f"{node}: truth {path} is not text: {error}; {expected}") from error


def _particle(row: dict[str, Any], where: str) -> Particle:
    try:
        time = float(row["time_us"])
    except (TypeError, ValueError):
        time = math.nan
    if not math.isfinite(time):
        raise DeviceError(f"{where}: time_us is {row['time_us']!r}; expected a number of us")
    if row["kind"] not in KINDS:
        raise DeviceError(f"{where}: kind is {row['kind']!r}; expected {', '.join(KINDS)}")
    if row["overlaps"] not in ("0", "1"):
        raise DeviceError(f"{where}: overlaps is {row['overlaps']!r}; expected 0 or 1")
    if not row["class"]:
        raise DeviceError(f"{where}: class is empty; expected the particle's class")
    return Particle(time, row["class"], row["kind"], row["overlaps"] == "1")


def match(
    truth: NDArray[np.float64], decisions: NDArray[np.float64], tolerance: float
) -> NDArray[np.int64]:
    """For each true time the index of its decision, or -1: one to one, nearest in time first.

    truth : (n,) float64, us, any order
    decisions : (m,) float64, us, ascending
    tolerance : largest distance in time of a pair, us

    Of pairs equally far apart, the one with the earlier truth (by index), then decision, goes.
    """
    low = np.searchsorted(decisions, truth - tolerance, "left")
    count = np.maximum(np.searchsorted(decisions, truth + tolerance, "right") - low, 0)
    of_truth = np.repeat(np.arange(len(truth)), count)
    within = np.arange(len(of_truth)) - np.repeat(np.cumsum(count) - count, count)
    of_decision = np.repeat(low, count) + within
    gap = np.abs(decisions[of_decision] - truth[of_truth])
    order = np.lexsort((of_decision, of_truth, gap))

    matched = np.full(len(truth), -1, np.int64)
    is_taken = [False] * len(decisions)
    for i, j in zip(of_truth[order].tolist(), of_decision[order].tolist(), strict=True):
        if matched[i] < 0 and not is_taken[j]:
            matched[i] = j
            is_taken[j] = True
    return matched


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a proportion; (0, 1) when nothing was tried.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    if not trials:
        return 0.0, 1.0
    z = 1.959963984540054  # two-sided 95 % of the normal distribution
    share, square = successes / trials, z * z
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = (
        z
        * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
        / (1 + square / trials)
    )
    return max(0.0, centre - half), min(1.0, centre + half)
