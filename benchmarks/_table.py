"""What every benchmark prints: the machine, the versions, and a table of medians."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from streamflow.report import versions


def print_machine() -> None:
    """Say what the figures were measured on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    load = os.getloadavg()[0]
    cpu = f"{len(os.sched_getaffinity(0))} x {names[0] if names else platform.machine()}"
    print(f"machine: {cpu}, Linux {platform.release()}, load {load:.1f} at the start")
    print("versions:", ", ".join(f"{name} {version}" for name, version in versions().items()))


def print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table that is also readable as it is."""
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(f"\n{title}\n\n" + "\n".join(lines), flush=True)


def median(values: Iterable[float]) -> float:
    """The median."""
    return float(np.median(list(values)))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of runs that followed one another."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def size_name(size: int) -> str:
    """64 B, 4 KiB, 8 MiB."""
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size // factor} {unit}"
    return f"{size} B"


def verdict(value: float, bound: float, *, at_least: bool = False) -> str:
    """Whether a promise is kept."""
    return "kept" if (value >= bound if at_least else value <= bound) else "MISSED"
