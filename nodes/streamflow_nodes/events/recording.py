"""What every reader of recordings gives: a `Recording`, whose events come in chunks."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError

from ..kernels import evt

EventWords = NDArray[np.int64]

BLOCK = 1 << 18  # bytes read at a time: events enough to amortise a call, few enough for a cache
SKIPPED = ("untimed", "unknown_word", "truncated", "lost_message")
TIME_NAMES = ("t", "ts", "time", "timestamp", "timestamps", "t_us", "time_us")
COLUMN_NAMES = {
    **dict.fromkeys(TIME_NAMES, "t"),
    "x": "x",
    "y": "y",
    **dict.fromkeys(("p", "on", "pol", "polarity", "polarities"), "p"),
}


@dataclass
class Recording:
    """A file that holds events: its format, its sensor where it says so, and its events."""

    path: str
    format: str
    width: int | None
    height: int | None
    chunks: Callable[[], Iterator[EventWords]]
    """Arrays (2 n,) int64, each fresh and writable, in file order: the memory of n EVENT."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("triggers", *SKIPPED), 0))
    """What was read so far and is no event."""
    read: float | None = None
    """How much of the file was read, from 0 to 1; None for formats where a library reads it."""


@dataclass(frozen=True)
class Layout:
    """What the settings say about a file that does not say it.

    Text: column order, delimiter and us per unit of time. HDF5: the group or dataset with the
    events. ROS bags: the topic. All: the sensor's size (pixels).
    """

    columns: str = ""
    delimiter: str = ","
    scale: int = 1
    dataset: str = ""
    topic: str = ""
    width: int | None = None
    height: int | None = None


def opened(path: str) -> BinaryIO:
    """The file, open for reading; DeviceError when it is no regular file or cannot be opened."""
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise DeviceError(f"{path}: is {what}; expected a recording of events: give a file")
        return open(path, "rb")  # the caller closes it
    except FileNotFoundError as error:
        raise DeviceError(
            f"{path}: there is no such file; expected a recording of events: check the setting "
            f"'path' (looked in {Path(path).absolute().parent})"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DeviceError(
            f"{path}: cannot be read ({reason}); expected a recording of events: check the "
            "setting 'path' and the file's permissions"
        ) from error


def fill_column(events: NDArray[Any], name: str, column: NDArray[Any]) -> None:
    """Set the column `name` of `events`; coordinates beyond int16 stay outside any sensor."""
    if name == "t":
        if column.dtype.kind == "u" and int(column.max()) >= 1 << 62:
            raise ValueError("t has times beyond 2^62 us")
        events["timestamp"] = column
    elif name == "p":
        events["polarity"] = column > 0
    else:
        events[name] = np.clip(column.astype(np.int64), -1, 32767)


def evt3_events(
    words: NDArray[np.uint16], registers: NDArray[np.int64], counts: dict[str, int]
) -> EventWords:
    """The events in EVT 3.0 `words`, which go on where `registers` are; `counts` is brought up."""
    events = np.empty(2 * evt.count_evt3(words), np.int64)
    count = evt.decode_evt3(words, registers, events)
    count_skipped(registers, counts)
    return events[: 2 * count]


def count_skipped(registers: NDArray[np.int64], counts: dict[str, int]) -> None:
    """Bring `counts` up to what an EVT decoder left out so far."""
    counts["triggers"] = int(registers[evt.TRIGGERS])
    counts["unknown_word"] = int(registers[evt.UNKNOWN])
    counts["untimed"] = int(registers[evt.UNTIMED])
