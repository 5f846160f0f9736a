"""`level`: how loud a signal is, and whether it clips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamflow.node import Emission, In, Node, Out, Seconds, Settings
from streamflow.packet import Packet, Samples, Table

from ..audio.spectra import decibels
from ..audio.streams import FAULTS, SampleStream, no_samples
from ..kernels.level import measure

LEVEL = np.dtype(
    [
        ("time_us", "<i8"),
        ("channel", "<i8"),
        ("peak_dbfs", "<f8"),
        ("rms_dbfs", "<f8"),
        ("clipped", "<i8"),
    ]
)
"""The level of one channel in one period, which begins at `time_us`."""

SILENCE = -150.0
"""dBFS that stand for silence: below the noise of 24 bits."""


class LevelSettings(Settings, frozen=True, kw_only=True):
    """How often the level is told, and what counts as clipped."""

    period: Seconds = 0.1
    """Rounded to whole samples."""
    clip: Annotated[float, msgspec.Meta(gt=0)] = 0.9999
    """Magnitude from which a sample counts as clipped. The largest 16-bit number is 0.99997."""


class Level(Node[LevelSettings]):
    """Peak, RMS and clipped samples of every channel in each `period`: one row a channel.

    0 dBFS is full scale, 1.0: for the peak as for the RMS, so a sine of full scale has an RMS of
    -3.01 dBFS. Silence is -150. A row leaves when its period is full; the last period may be
    shorter. `results()` has the same of the whole stream.

    State: the sums of the period being filled, and of the whole stream. Missing samples become
    silence and are counted, as are repeated ones and NaN (`SampleStream`).

        loudness: {kind: level, inputs: {samples: microphone.samples}, settings: {period: 0.05}}
    """

    samples = In(Samples)
    levels = Out(Table)
    faults = FAULTS

    def open(self) -> None:
        self._stream = SampleStream(self)
        self._period, self._whole = _Sums(0), _Sums(0)
        self._period.add(no_samples(0), self.settings.clip)

    def on_samples(self, packet: Packet[Samples]) -> Iterator[Emission]:
        for array in self._stream.take(packet):
            if not len(self._whole.peak):
                self._period, self._whole = (_Sums(self._stream.channels) for _ in range(2))
            end = self._stream.next - len(array)
            while len(array):
                room = self._size - self._period.count
                part, array = array[:room], array[room:]
                self._period.add(part, self.settings.clip)
                end += len(part)
                if self._period.count == self._size:
                    yield self._leave(end)
        self._hold()

    def finish(self) -> Iterator[Emission]:
        if self._period.count:
            yield self._leave(self._stream.next)

    def results(self) -> dict[str, Any]:
        whole = self._whole
        return {
            "samples": whole.count,
            "peak_dbfs": whole.peaks.tolist(),
            "rms_dbfs": whole.rms.tolist(),
            "clipped": whole.clipped.tolist(),
        }

    def snapshot(self) -> dict[str, Any]:
        return {
            **self._stream.snapshot(),
            **self._period.snapshot("period"),
            **self._whole.snapshot("whole"),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._stream.restore(state)
        self._period.restore("period", state)
        self._whole.restore("whole", state)
        self._hold()

    @property
    def _size(self) -> int:
        """Samples in a period."""
        return max(1, round(self.settings.period * self._stream.rate))

    def _leave(self, end: int) -> Emission:
        """The row of the period whose last sample is the one before `end`."""
        stream, period = self._stream, self._period
        start = stream.time(end - period.count)
        rows = np.empty(stream.channels, LEVEL)
        rows["time_us"], rows["channel"] = start, np.arange(stream.channels)
        rows["peak_dbfs"], rows["rms_dbfs"] = period.peaks, period.rms
        rows["clipped"] = period.clipped
        self._whole.join(period)
        self._period = _Sums(stream.channels)
        return self.levels(Table(rows), start, stream.time(end))

    def _hold(self) -> None:
        if self._stream.has_begun:
            self.holds_from = self._stream.time(self._stream.next - self._period.count)


class _Sums:
    """What is known of some samples: each channel's peak, sum of squares, and clipped samples."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.peak, self.energy = np.zeros(channels), np.zeros(channels)
        self.clipped = np.zeros(channels, np.int64)

    def add(self, samples: NDArray[np.float32], clip: float) -> None:
        measure(samples, clip, self.peak, self.energy, self.clipped)
        self.count += len(samples)

    def join(self, other: _Sums) -> None:
        self.count += other.count
        self.peak = np.maximum(self.peak, other.peak)
        self.energy = self.energy + other.energy
        self.clipped = self.clipped + other.clipped

    @property
    def peaks(self) -> NDArray[np.float32]:
        """In dBFS."""
        return decibels(self.peak**2, SILENCE)

    @property
    def rms(self) -> NDArray[np.float32]:
        """In dBFS."""
        return decibels(self.energy / max(1, self.count), SILENCE)

    def snapshot(self, name: str) -> dict[str, Any]:
        return {
            f"{name}_count": self.count,
            f"{name}_peak": self.peak.copy(),
            f"{name}_energy": self.energy.copy(),
            f"{name}_clipped": self.clipped.copy(),
        }

    def restore(self, name: str, state: dict[str, Any]) -> None:
        for key in vars(self):
            setattr(self, key, state[f"{name}_{key}"])
