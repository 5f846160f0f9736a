"""`audio_file`: a sound file, replayed in blocks."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from streamflow import DeviceError, Node, Out, Samples, Settings
from streamflow.node import Emission, FilePath

from ..audio.formats import sound_library
from ..audio.samples import Frames, finite, sample_time

EXACT = {"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"}
"""Formats in which libsndfile jumps to any frame exactly; others are decoded up to it."""
# Frames read at a time, at least: soundfile seeks after each read, which FLAC pays for. What could
# be decoded of a read that meets damage is lost with it, so such a file is read in small pieces.
READ, READ_OF_DAMAGED = 16_384, 1024
PROMISE = re.compile(r"data : (\d+) \(should be (\d+)\)")  # libsndfile's log of a cut WAV file
UNKNOWN = 1 << 31  # bytes: what a program promises that writes a WAV file to a pipe


class AudioFileSettings(Settings, frozen=True, kw_only=True):
    """Which file, how it is cut into packets, which channels, and how often."""

    path: FilePath
    block_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 1024
    """Frames in a packet; the last one of a file may be shorter."""
    channels: Literal["all", "mono", "stereo"] = "all"
    """As in the file; their mean in one; or two, from two or one."""
    first: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Begin at this frame of the file. Frames keep the index that they have in the file."""
    loop: bool = False
    """Begin again at `first` whenever the file ends; index and time go on."""


class AudioFile(Node[AudioFileSettings]):
    """The samples of a sound file, in packets of `block_size` frames.

    Reads what libsndfile does, at any rate: WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF and others,
    recognised by content, in blocks. Integers `i` become `i / 2^(bits - 1)`: 16 and 24 bits are
    exact. The first sample has index 0 and stream time 0, the packets' times follow from the
    indices (`sample_time`). A file without samples gives one empty packet, which says its rate and
    channels. The graph's clock says how fast: `fast`, or `paced` as it was recorded. Needs the
    extra `audio`.

    Faults: `not_finite` (samples of floating-point files that are not numbers, given out as 0),
    `truncated` (frames that the file promises and does not hold, or that are damaged and cannot
    be decoded: the stream ends before them).

    State: how many frames were given. A restarted node goes on with exactly the next packet.

        speech: {kind: audio_file, settings: {path: noisy.flac, block_size: 512}}
    """

    samples = Out(Samples)
    faults = ("not_finite", "truncated")

    def open(self) -> None:
        s = self.settings
        self._library = sound_library(s.path)
        self._using, self._closed = threading.Lock(), False  # between produce's thread and close
        self._file: Any = self._opened()
        self._rate, self._in_file = int(self._file.samplerate), int(self._file.channels)
        self._format = f"{self._file.format} {self._file.subtype}"
        self._promised = int(self._file.frames)
        if s.channels == "stereo" and self._in_file > 2:
            raise DeviceError(
                f"{s.path}: has {self._in_file} channels; expected one or two for 'channels: "
                "stereo': give 'all' or 'mono'"
            )
        if s.first and s.first >= self._promised:
            raise DeviceError(
                f"{s.path}: has {self._promised} frames; expected more than the setting 'first' "
                f"({s.first}): lower it"
            )
        self._lap = s.first  # index of the first frame of this lap
        self._given = 0  # frames of it
        self._laps = self._blocks = 0
        self._at_once = READ

    def _opened(self) -> Any:
        """The file, open; DeviceError where it is none, or not sound."""
        path = self.settings.path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DeviceError(
                f"{path}: cannot be read ({reason}); expected a sound file: check the setting "
                f"'path' (looked in {os.path.dirname(os.path.abspath(path))})"
            ) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise DeviceError(
                f"{path}: is a folder, a pipe or a device; expected a sound file: give a file"
            )
        try:  # by descriptor: by name, soundfile would take `.raw` for a format
            return self._library.SoundFile(descriptor, closefd=True)
        except self._library.LibsndfileError as error:  # libsndfile has closed the descriptor
            raise DeviceError(
                f"{path}: is no sound that libsndfile can read ({error.error_string}); expected "
                "WAV, FLAC, OGG, MP3, AIFF or another of its formats: convert it"
            ) from error

    def produce(self) -> Iterator[Emission]:
        while True:
            for frames in self._frames():
                first = self._lap + self._given
                stop = sample_time(first + len(frames), self._rate)
                if not self.clock.wait_until(stop):
                    return
                frames, wrong = finite(frames)
                self.count_fault("not_finite", wrong)
                self._given += len(frames)
                self._blocks += 1
                if not self.settings.loop and self._promised > self.settings.first:
                    self.progress = min(1.0, (first + len(frames)) / self._promised)
                start = sample_time(first, self._rate)
                yield self.samples(Samples(frames, self._rate, first), start, stop)
            if not self.settings.loop or not self._given or self.clock.stopped:
                return
            self._lap, self._given = self._lap + self._given, 0
            self._laps += 1
            self._again()

    def _frames(self) -> Iterator[Frames]:
        """What is left of this lap, in blocks that begin at whole multiples of their size."""
        done = self._given
        if done + self.settings.first:
            self._skip(self.settings.first + done)
        size, is_empty = self.settings.block_size, not done
        while not self._closed:
            frames = self._next(size)
            if not len(frames) and not is_empty:
                break
            frames = self._mixed(frames)
            for at in range(0, max(1, len(frames)), size):
                yield frames[at : at + size]  # an empty file's first block is empty
            if not len(frames):
                break
            is_empty = False
        if not self._laps:
            self._count_truncated()

    def _next(self, size: int) -> Frames:
        """The next blocks of `size` frames, (n, channels); none at the end, or at damage."""
        try:
            return self._read(size * -(-self._at_once // size))
        except self._library.LibsndfileError as error:
            if self._at_once == READ:
                self._at_once = READ_OF_DAMAGED
                self._again()
                self._decode(self.settings.first + self._given)
                return self._next(size)
            self.log.warning(
                "%s: cannot be decoded after frame %d (%s): the stream ends there",
                self.settings.path, self.settings.first + self._given, error.error_string,
            )  # fmt: skip
            return np.empty((0, self._in_file), np.float32)

    def _read(self, size: int) -> Frames:
        """The next frames, (n, channels) float32, fresh; none at the end. Raises at damage."""
        with self._using:
            if self._closed:
                return np.empty((0, self._in_file), np.float32)
            return np.asarray(self._file.read(size, dtype="float32", always_2d=True))

    def _skip(self, frame: int) -> None:
        """Go to `frame` of the file."""
        if self._file.format in EXACT:
            with self._using:
                if not self._closed:
                    self._file.seek(frame)
        else:
            self._decode(frame)

    def _decode(self, frames: int) -> None:
        """Leave out so many frames."""
        while frames and len(block := self._read(min(frames, self._at_once))):
            frames -= len(block)

    def _mixed(self, frames: Frames) -> Frames:
        match self.settings.channels:
            case "mono" if self._in_file > 1:
                return np.asarray(np.mean(frames, axis=1, dtype=np.float32, keepdims=True))
            case "stereo" if self._in_file == 1:
                return np.repeat(frames, 2, 1)
            case _:
                return frames

    def _count_truncated(self) -> None:
        held = self.settings.first + self._given
        missing = max(0, self._promised - held)
        # a WAV file that is too short: libsndfile says so in its log only
        if cut := PROMISE.search(self._file.extra_info):
            promised, there = map(int, cut.groups())
            if there < promised < UNKNOWN and held:
                missing += (promised - there) * held // there
        if missing:
            self.fault_counts["truncated"] = missing
            self.log.warning("%s: %d frames are missing", self.settings.path, missing)

    def _again(self) -> None:
        """Open the file anew: also where jumping back is not exact."""
        with self._using:
            if self._closed:
                return
            self._file.close()
            self._file = self._opened()
            found = (int(self._file.samplerate), int(self._file.channels))
        if found != (self._rate, self._in_file):
            raise DeviceError(
                f"{self.settings.path}: has {found[1]} channels at {found[0]} Hz now, after "
                f"{self._in_file} at {self._rate} Hz; expected the same file in every round"
            )

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._closed = True  # first: else produce may take the lock again and again
            with self._using:
                self._file.close()

    def snapshot(self) -> dict[str, Any]:
        return {
            "lap": self._lap,
            "given": self._given,
            "laps": self._laps,
            "blocks": self._blocks,
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._lap, self._given = int(state["lap"]), int(state["given"])
        self._laps, self._blocks = int(state["laps"]), int(state["blocks"])
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}

    def results(self) -> dict[str, Any]:
        """Format, rate (Hz), channels in the file, what was given and in how many packets."""
        return {
            "format": self._format,
            "rate": self._rate,
            "channels": self._in_file,
            "frames": self._lap - self.settings.first + self._given,
            "packets": self._blocks,
            "laps": self._laps,
        }
