"""`audio_file_writer`: samples as a WAV or FLAC file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamflow.errors import NodeError
from streamflow.node import In, Node, OutputPath
from streamflow.packet import Packet, Samples

from ..audio.formats import DATA_AT, Encoding, FlacBuilder, encode, sound_library, wav_head
from ..audio.samples import Frames, refused
from ..audio.streams import FAULTS, SampleStream
from ..files.output import FullDiskSettings, OutputFile
from ..files.records import AssembledFile, RecordFile

SUFFIXES = {".wav": "wav", ".wave": "wav", ".flac": "flac"}
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
    more than an hour of missing samples.

    Emits nothing. Keeps the length of the file and the index of the next sample. How the stream
    was cut into packets changes no byte.

        keep: {kind: audio_file_writer, inputs: {samples: clean.samples}, settings: {path: a.wav}}
    """

    samples = In(Samples)
    faults = (*FAULTS, "clipped", "not_written")

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
        self._samples = SampleStream(self)

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
                journal, draft, self._samples.rate, self._samples.channels, settings.encoding
            ),
            reserve=settings.reserve,
            draft_may_wait=settings.when_disk_full != "fail",
        )

    def on_samples(self, packet: Packet[Samples]) -> None:
        for frames in self._samples.take(packet):
            if not self._file.length:
                self._check_room(packet)
            self._write(frames)

    @property
    def _frames(self) -> int:
        """Frames that came, missing ones included."""
        return self._samples.next - self._samples.first

    def _check_room(self, packet: Packet[Samples]) -> None:
        rate, channels = self._samples.rate, self._samples.channels
        most = (FLAC_CHANNELS, FLAC_RATE) if self._is_flac else (WAV_CHANNELS, 1 << 26)
        if channels > most[0] or rate > most[1]:
            raise refused(
                self,
                packet,
                f"{channels} channels at {rate} Hz; the format has room for {most[0]} channels at "
                f"{most[1]} Hz: write fewer to a file",
            )

    def _write(self, frames: Frames) -> None:
        if self._file.is_stopped:
            self.count_fault("not_written", len(frames))
            return
        data, clipped = encode(frames, self.settings.encoding)
        if not self._file.append(lambda: data if self._file.length else self._head(0) + data):
            self.count_fault("not_written", len(frames))
            return
        self.count_fault("clipped", clipped)
        self._records.overwrite(0, self._head(self._records.length - DATA_AT))

    def _head(self, size: int) -> bytes:
        return wav_head(self._samples.rate, self._samples.channels, self.settings.encoding, size)

    def finish(self) -> None:
        if not self._samples.has_begun or (self._is_flac and not self._frames):
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
            **self._samples.snapshot(),
            **{f"fault_{fault}": times for fault, times in self.fault_counts.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._samples.restore(state)
        self.fault_counts = {fault: int(state[f"fault_{fault}"]) for fault in self.faults}
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
            "rate": self._samples.rate,
            "channels": self._samples.channels,
            "first": self._samples.first,
            "frames": self._frames - self.fault_counts["not_written"],
            "bytes": file.path.stat().st_size if is_built else self._file.length,
            **self._file.results(),
        }
