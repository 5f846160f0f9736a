"""Plain text for people: columns, sizes, counts."""

from __future__ import annotations

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines with their cells aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def many(count: int, noun: str) -> str:
    """`1 node`, `3 nodes`, `2 processes`."""
    return f"{count} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


def size(count: int) -> str:
    """`count` bytes for people: `1.1 GiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def cause(error: BaseException) -> str:
    """An exception in a line: `ValueError: what it says`."""
    return f"{type(error).__name__}: {error}"
