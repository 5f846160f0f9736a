"""Datasets of labelled event recordings: what is in one, and reading it a recording at a time.

Two kinds of dataset are known:

- one `.npz` of whole numbers: `t` (n,) us, `x`, `y` (n,) pixels, `p` (n,) 0 OFF or 1 ON, `labels`
  (k,), `offsets` (k + 1,) where each recording begins and ends in the others, and `ids` (k,), which
  names the recordings and may be missing;
- a folder, one inside it for each label, of `.bin` or `.bs2` files: N-MNIST as it is published
  (Orchard, Jayawant, Cohen and Thakor, 2015, "Converting static image datasets to spiking
  neuromorphic datasets using saccades"). An event is 40 bits, most significant first: 8 of x, 8 of
  y, 1 of polarity, 23 of the time in us. An event in row 240 is no event: 2^13 us more have passed
  for all that follow. A single such file is a dataset of one recording without a label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError
from streamflow.packet import EVENT

from ..files.bounded import NPZ_FAULTS, read_npz

EXPECTED = (
    "an .npz with t, x, y, p, labels and offsets, or N-MNIST's .bin files in a folder for each "
    "label"
)
FILE_LIMIT = 1 << 28  # bytes of one recording
_WIDTH = 5  # bytes of an event
_OVERFLOW_ROW, _OVERFLOW_US = 240, 1 << 13


@dataclass(frozen=True)
class LabelledRecording:
    """One recording: its label, its name, and `read()`, which gives (n,) of `EVENT`."""

    label: str
    name: str
    read: Callable[[], NDArray[Any]]


def open_dataset(path: str) -> list[LabelledRecording]:
    """The recordings of the dataset at `path`, in its order (of folders: by label and name).

    Raises DeviceError for what is none, or is damaged.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(f for f in place.glob("*/*") if f.suffix in (".bin", ".bs2"))
        if not files:
            raise DeviceError(f"{path}: no .bin file in a folder of it; expected {EXPECTED}")
        return [_of_file(file, file.parent.name) for file in files]
    if not place.is_file():
        raise DeviceError(f"{path}: no such file or folder; expected {EXPECTED}")
    if place.suffix in (".bin", ".bs2"):
        return [_of_file(place, "")]
    if place.suffix != ".npz":
        raise DeviceError(f"{path}: a {place.suffix or 'nameless'} file; expected {EXPECTED}")
    return _of_archive(path)


def _of_file(file: Path, label: str) -> LabelledRecording:
    return LabelledRecording(label, file.name, lambda: read_40_bit(str(file)))


def read_40_bit(path: str) -> NDArray[Any]:
    """The events of one file of N-MNIST, (n,) of `EVENT`; DeviceError when it is damaged."""
    try:
        size = Path(path).stat().st_size
        if size > FILE_LIMIT or size % _WIDTH:
            raise DeviceError(
                f"{path}: {size} bytes; expected a multiple of {_WIDTH}, at most {FILE_LIMIT}: the "
                "file is damaged or in another format"
            )
        raw = np.fromfile(path, np.uint8).reshape(-1, _WIDTH).astype(np.int64)
    except OSError as error:
        raise DeviceError(
            f"{path}: cannot be read ({error.strerror}); expected {EXPECTED}"
        ) from error
    is_overflow = raw[:, 1] == _OVERFLOW_ROW
    time = (raw[:, 2] & 0x7F) << 16 | raw[:, 3] << 8 | raw[:, 4]
    time += np.cumsum(is_overflow) * _OVERFLOW_US
    return rows_of(_events(time, raw[:, 0], raw[:, 1], raw[:, 2] >> 7), ~is_overflow)


def _of_archive(path: str) -> list[LabelledRecording]:
    try:
        arrays = read_npz(path)
    except NPZ_FAULTS as error:
        raise DeviceError(
            f"{path}: not a readable archive ({error}); expected {EXPECTED}"
        ) from error
    if missing := sorted({"t", "x", "y", "p", "labels", "offsets"} - set(arrays)):
        raise DeviceError(f"{path}: no {', '.join(missing)}; it has {sorted(arrays)}; "
                          f"expected {EXPECTED}")  # fmt: skip
    columns = [arrays[name] for name in "txyp"]
    labels, offsets = arrays["labels"], arrays["offsets"]
    names = arrays.get("ids", np.arange(len(labels)))
    is_right = (
        all(c.dtype.kind in "iub" and c.shape == columns[0].shape for c in columns)
        and columns[0].ndim == labels.ndim == names.ndim == offsets.ndim == 1
        and offsets.dtype.kind in "iu" and len(offsets) == len(labels) + 1 == len(names) + 1
        and len(labels) > 0 and (np.diff(offsets.astype(np.int64)) >= 0).all()
        and int(offsets[0]) >= 0 and int(offsets[-1]) <= len(columns[0])
    )  # fmt: skip
    if not is_right:
        shapes = {name: f"{array.dtype}{array.shape}" for name, array in arrays.items()}
        raise DeviceError(
            f"{path}: its arrays do not fit together: {shapes}; expected t, x, y, p (events,) of "
            "whole numbers, labels and ids (recordings,), and offsets (recordings + 1,) into the "
            "events, in order"
        )

    def of(number: int) -> LabelledRecording:
        part = slice(int(offsets[number]), int(offsets[number + 1]))
        return LabelledRecording(
            _word(labels[number]),
            _word(names[number]),
            lambda: _events(*(c[part] for c in columns)),
        )

    return [of(number) for number in range(len(labels))]


def rows_of(events: NDArray[Any], which: Any) -> NDArray[Any]:
    """A fresh copy of the events that `which` (a mask or a slice) names, with zeros between fields.

    Kernels read whole words; numpy leaves what lies between the fields of records as it comes.
    """
    words: NDArray[Any] = events.view(np.int64).reshape(-1, 2)[which].copy()
    return words.reshape(-1).view(EVENT)


def _word(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _events(t: Any, x: Any, y: Any, p: Any) -> NDArray[Any]:
    # as wide as what was read, so that a coordinate outside any sensor does not wrap into one
    out = np.zeros(len(t), EVENT)
    out["timestamp"] = t
    out["x"] = np.clip(x, -1, 32767)
    out["y"] = np.clip(y, -1, 32767)
    out["polarity"] = np.asarray(p) != 0
    return out
