"""Sound files that grow: the bytes of a WAV file, and a FLAC file that is built from one."""

from __future__ import annotations

import os
import struct
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError

from ..files.records import DraftFile, library
from .samples import Frames, to_integers

Encoding = Literal["int16", "int24", "float32"]

BYTES = {"int16": 2, "int24": 3, "float32": 4}
PCM, FLOAT = 1, 3  # wFormatTag
DATA_AT = 94
"""Bytes before the samples of a WAV file that `wav_head` begins."""
LARGEST_RIFF = (1 << 32) - 2  # bytes; beyond, the sizes are in the chunk ds64
STEP = 1 << 16  # frames that go into a FLAC file at a time


def sound_library(path: str) -> Any:
    """soundfile, which the file `path` needs; DeviceError where it or libsndfile is missing."""
    try:
        return library("soundfile", path, "audio")
    except OSError as error:  # on machines that its wheels are not made for
        raise DeviceError(
            f"{path}: this file needs libsndfile ({error}): apt install libsndfile1"
        ) from error


def wav_head(rate: int, channels: int, encoding: Encoding, data: int) -> bytes:
    """The first `DATA_AT` bytes of a WAV file with `data` bytes of samples.

    RIFF up to 4 GiB, RF64 beyond: EBU Tech 3306 (2009), whose chunk ds64 takes the place of a JUNK
    chunk of the same size. An odd number of bytes is followed by a zero, which is not counted.
    """
    size = BYTES[encoding]
    riff = DATA_AT - 8 + data + data % 2
    is_large = riff > LARGEST_RIFF
    sizes = struct.pack("<QQQI", riff, data, data // (size * channels), 0)
    tag = FLOAT if encoding == "float32" else PCM
    layout = struct.pack(
        "<HHIIHHH", tag, channels, rate, rate * size * channels, size * channels, 8 * size, 0
    )
    full = 0xFFFFFFFF
    return b"".join(
        [
            struct.pack("<4sI4s", b"RF64" if is_large else b"RIFF", min(riff, full), b"WAVE"),
            struct.pack("<4sI", b"ds64" if is_large else b"JUNK", len(sizes)),
            sizes if is_large else bytes(len(sizes)),
            struct.pack("<4sI", b"fmt ", len(layout)) + layout,
            struct.pack("<4sI", b"fact", 4),
            struct.pack("<I", min(data // (size * channels), full)),
            struct.pack("<4sI", b"data", full if is_large else data),
        ]
    )


def encode(frames: Frames, encoding: Encoding) -> tuple[bytes, int]:
    """Samples as a WAV file holds them, and how many were beyond full scale and are limited."""
    if encoding == "float32":
        return frames.astype("<f4").tobytes(), 0
    integers, clipped = to_integers(frames, encoding)
    if encoding == "int16":
        return integers.astype("<i2").tobytes(), clipped
    low = np.ascontiguousarray(integers.astype("<i4")).view(np.uint8).reshape(*integers.shape, 4)
    return low[..., :3].tobytes(), clipped


class FlacBuilder:
    """A `files.Builder` that makes a FLAC file of a WAV file of integers, its journal."""

    def __init__(
        self, journal: str, draft: str, rate: int, channels: int, encoding: Encoding
    ) -> None:
        sound = sound_library(draft)
        self._encoding, self._channels = encoding, channels
        self._frame = BYTES[encoding] * channels
        self._journal = os.open(journal, os.O_RDONLY | os.O_CLOEXEC)
        self._draft = DraftFile(draft)
        self._file = sound.SoundFile(
            self._draft, "w", rate, channels, f"PCM_{8 * BYTES[encoding]}", format="FLAC"
        )
        self.position = DATA_AT

    def move(self) -> None:
        data = os.pread(self._journal, STEP * self._frame, self.position)
        data = data[: len(data) // self._frame * self._frame]
        self._file.write(self._integers(data))
        self._draft.check()
        self.position += len(data)

    def _integers(self, data: bytes) -> NDArray[Any]:
        """The samples in `data` in the integers that soundfile takes: their upper bits count."""
        if self._encoding == "int16":
            return np.frombuffer(data, "<i2").reshape(-1, self._channels)
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4").reshape(-1, self._channels)

    def complete(self) -> None:
        self._file.close()
        self._draft.finish()
        self._draft.close()

    def close(self) -> None:
        self._file.close()
        self._draft.close()
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1
