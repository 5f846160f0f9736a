"""`audio_file_writer`: samples as a WAV or FLAC file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from streamflow.errors import NodeError
from streamflow.node import In, Node, OutputPath
from streamflow.packet import Packet, Samples

from ..audio import Format, Frames, finite, refused, require_samples
from ..audio_formats import DATA_AT, Encoding, FlacBuilder, encode, sound_library, wav_head
from ..files import AssembledFile, RecordFile
from ..output_files import FullDiskSettings, OutputFile

SUFFIXES = {".wav": "wav", ".wave": "wav", ".flac": "flac"}
LONGEST_GAP = 600  # s of samples that never came for which silence is written
FLAC_CHANNELS, FLAC_RATE = 8, 655_350  # the most that the format has room for
WAV_CHANNELS = 1 << 10  # its own limit is 65535; a frame must fit its 16-bit size


class AudioFileWriterSettings(FullDiskSettings, frozen=True, kw_only=True):
    """Where to write, in which format, and what to do when the disk is full."""

    path: OutputPath
    """Its end says the format: `.wav` or `.flac`."""
    encoding: Encoding = "int16"
    """How a sample is written. `float32` (WAV only) keeps every bit of it."""


class AudioFileWriter(Node[AudioFileWriterSettings]):
    """A sound file of all samples that come: WAV, RF64 where it grows beyond 4 GiB, or FLAC.

    The file's first sample is the first one that comes, and each other stands where its index says:
    samples that never came are written as silence, those that came before are left out. What was
    integer (`int16`, `int24`) becomes the same integer again, bit for bit; anything else is
    rounded to the nearest and not dithered.

    The file of an earlier run is replaced. A WAV file can be played up to the last packet at any
    moment, also after a crash or on a full disk; a restart repeats and loses no sample. FLAC can
    only be read once it is closed, so until the run has ended the samples are in
    `<path>.part.wav`, a WAV file; the FLAC file is there whole or not at all. FLAC needs the extra
    `audio`. With `rotate` each file is whole. If no packet comes, nothing says the rate, and the
    WAV file has no bytes. A FLAC file without samples is not there at all (libsndfile has none).

    Faults: `missing_sample` (frames that never came, written as silence), `repeated_sample` (frames
    that came before, left out), `clipped` (samples beyond full scale, limited; not in `float32`),
    `not_finite` (samples that are not numbers, written as 0), `not_written` (frames).

    Refused: a rate or number of channels that changes, more than 8 channels or 655 350 Hz in FLAC,
    more than ten minutes of missing samples.

    Emits nothing. Keeps the length of the file and the index of the next sample. How the stream
    was cut into packets changes no byte.

        keep: {kind: audio_file_writer, inputs: {samples: clean.samples}, settings: {path: a.wav}}
    """

    samples = In(Samples)
    faults = ("missing_sample", "repeated_sample", "clipped", "not_finite", "not_written")

    def open(self) -> None:
        settings = self.settings
        kind = SUFFIXES.get(Path(settings.path).suffix.lower())
        if kind is None or (kind == "flac" and settings.encoding == "float32"):
            raise NodeError(
                self.name,
                f"settings: cannot write {settings.path} with {settings.encoding}; expected a name "
                "that ends in .wav, or in .flac with the encoding int16 or int24",
                kind="audio_file_writer",
            )
        self._is_flac = kind == "flac"
        self._file: OutputFile[RecordFile] | OutputFile[AssembledFile]
        if self._is_flac:
            sound_library(settings.path)
            self._file = OutputFile(settings.path, settings, self.name, self._assembled)
        else:
            self._file = OutputFile(
                settings.path, settings, self.name,
                lambda path: RecordFile(path, self.name, reserve=settings.reserve),
            )  # fmt: skip
        if not self._records.is_regular:
            raise NodeError(
                self.name,
                f"{settings.path} is a device or a pipe; a WAV file says at its start how long it "
                "is: give the path of an ordinary file",
                kind="audio_file_writer",
            )
        self._format = Format()
        self._first = self._next = -1  # index of the first frame, and of the one after the last

    @property
    def _records(self) -> RecordFile:
        file = self._file.file
        return file.journal if isinstance(file, AssembledFile) else file

    def _assembled(self, path: Path) -> AssembledFile:
        settings = self.settings
        return AssembledFile(
            path,
            self.name,
            ".wav",
            lambda journal, draft: FlacBuilder(
                journal, draft, self._format.rate, self._format.channels, settings.encoding
            ),
            reserve=settings.reserve,
            draft_may_wait=settings.when_disk_full != "fail",
        )

    def on_samples(self, packet: Packet[Samples]) -> None:
        frames = require_samples(self, packet)
        self._format.check(self, packet, "resample or mix before, or write a file for each")
        if self._next < 0:
            self._check_room(packet)
            self._first = self._next = packet.data.first
        for piece in self._pieces(packet, frames):
            self._write(piece)

    def _check_room(self, packet: Packet[Samples]) -> None:
        rate, channels = self._format.rate, self._format.channels
        most = (FLAC_CHANNELS, FLAC_RATE) if self._is_flac else (WAV_CHANNELS, 1 << 26)
        if channels > most[0] or rate > most[1]:
            raise refused(
                self,
                packet,
                f"{channels} channels at {rate} Hz; the format has room for {most[0]} channels at "
                f"{most[1]} Hz: write fewer to a file",
            )

    def _pieces(self, packet: Packet[Samples], frames: Frames) -> Iterator[Frames]:
        """What is to be written for a packet, silence in place of what is missing before it."""
        gap = packet.data.first - self._next
        if gap > LONGEST_GAP * self._format.rate:
            raise refused(
                self,
                packet,
                f"sample {packet.data.first} after sample {self._next - 1}; expected at most "
                f"{LONGEST_GAP} s without samples: correct the node before, or write a file for "
                "each part",
            )
        if gap > 0:
            self.count_fault("missing_sample", gap)
            while gap > 0:
                length = min(gap, self._format.rate)
                yield np.zeros((length, self._format.channels), np.float32)
                gap -= length
        elif gap < 0:
            self.count_fault("repeated_sample", min(-gap, len(frames)))
            frames = frames[-gap:]
        yield frames

    def _write(self, frames: Frames) -> None:
        self._next += len(frames)
        if self._file.is_stopped:
            self.count_fault("not_written", len(frames))
            return
        frames, wrong = finite(frames)
        data, clipped = encode(frames, self.settings.encoding)
        if not self._file.append(lambda: data if self._file.length else self._head(0) + data):
            self.count_fault("not_written", len(frames))
            return
        self.count_fault("not_finite", wrong)
        self.count_fault("clipped", clipped)
        self._records.overwrite(0, self._head(self._records.length - DATA_AT))

    def _head(self, size: int) -> bytes:
        return wav_head(self._format.rate, self._format.channels, self.settings.encoding, size)

    def finish(self) -> None:
        if self._next < 0 or (self._is_flac and self._next == self._first):
            self.log.warning("%s: no samples came, so it is not written", self.settings.path)
            self._records.restore(0)  # drops a head without samples, and what an earlier run left
            if self._is_flac:
                Path(self.settings.path).unlink(missing_ok=True)
            return
        if not self._file.length and not self._file.append(lambda: self._head(0)):
            return
        if self._is_flac:
            self._file.complete()
        elif (self._file.length - DATA_AT) % 2:
            self._file.append(lambda: b"\0")  # RIFF: chunks have an even number of bytes

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def snapshot(self) -> dict[str, Any]:
        return {
            **self._file.snapshot(),
            "rate": self._format.rate,
            "channels": self._format.channels,
            "first": self._first,
            "next": self._next,
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._format.rate, self._format.channels = int(state["rate"]), int(state["channels"])
        self._first, self._next = int(state["first"]), int(state["next"])
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}
        length = int(state["length"])
        head = self._head(length - DATA_AT) if length else b""
        self._file.restore(state, b"" if self._is_flac else head)
        if self._is_flac and not state["is_complete"]:
            self._records.overwrite(0, head)

    def results(self) -> dict[str, Any]:
        """Path, rate (Hz), channels, index of the first frame, frames, bytes of the file."""
        file = self._file.file
        is_built = isinstance(file, AssembledFile) and file.is_complete
        return {
            "path": self.settings.path,
            "rate": self._format.rate,
            "channels": self._format.channels,
            "first": max(0, self._first),
            "frames": self._next - self._first - self.fault_counts["not_written"],
            "bytes": file.path.stat().st_size if is_built else self._file.length,
            **self._file.results(),
        }
