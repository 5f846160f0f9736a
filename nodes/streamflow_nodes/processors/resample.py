"""`resample`: the same sound at another rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from streamflow.errors import NodeError
from streamflow.node import Emission, In, Node, Out, Positive, Settings
from streamflow.packet import Packet, Samples

from ..audio.samples import sample_time
from ..audio.streams import FAULTS, FloatSamples, SampleStream, no_samples


class ResampleSettings(Settings, frozen=True, kw_only=True):
    """The rate to come to, and what that may cost."""

    rate: Positive
    """Hz of what leaves."""
    quality: Literal["QQ", "LQ", "MQ", "HQ", "VHQ"] = "HQ"
    """As in soxr: quick (cubic interpolation), low, medium, high (20 bit), very high (28 bit).
    Better ones come later."""


class Resample(Node[ResampleSettings]):
    """The samples at `rate`, by one stateful soxr stream from the first sample to the last.

    What leaves is what soxr gives for the whole signal at once, bit for bit, however it was cut:
    the sample m of it lies at the same time as the sample m in / out of the input, nothing clicks
    between packets, and n samples become round(n out / in). Samples leave later than they came, as
    soxr computes in blocks: `results()` has the largest number that was held back (`delay_samples`
    of the new rate, `delay_s`). Samples that have the rate already pass as they are.

    No snapshots: soxr's filters do not give their state, so a restart is counted in the report
    (`state_lost`), and the signal begins anew with the first sample after it. Missing samples
    become silence and are counted, as are repeated ones and NaN (`SampleStream`). Needs the extra
    `audio`.

        narrow: {kind: resample, inputs: {samples: microphone.samples}, settings: {rate: 16000}}
    """

    samples = In(Samples)
    resampled = Out(Samples)
    faults = FAULTS

    def open(self) -> None:
        try:
            import soxr
        except ImportError as error:
            raise NodeError(
                self.name, "needs soxr: pip install 'streamflow-neuro[audio]'"
            ) from error
        self._soxr = soxr
        self._stream = SampleStream(self)
        self._filter: Any = None  # stays None where the rate is right already
        self._has_begun = False
        self._next = 0  # index of the next sample to leave
        self._drop = 0  # samples that lie before the stream's first and only align the two rates
        self._delay = 0.0

    def on_samples(self, packet: Packet[Samples]) -> Iterator[Emission]:
        for array in self._stream.take(packet):
            yield from self._leave(self._convert(array))
        if self._stream.has_begun:
            self.holds_from = self._time(self._next)

    def finish(self) -> Iterator[Emission]:
        if self._filter is not None:
            rest = self._filter.resample_chunk(no_samples(self._stream.channels).copy(), last=True)
            yield from self._leave(rest)

    def results(self) -> dict[str, Any]:
        delay = math.ceil(self._delay)
        return {"delay_samples": delay, "delay_s": delay / self.settings.rate}

    def _convert(self, array: FloatSamples) -> FloatSamples:
        if not self._has_begun:
            self._begin(array.shape[1])
        if self._filter is None:
            return array.copy()
        converted: FloatSamples = self._filter.resample_chunk(array)
        self._delay = max(self._delay, self._filter.delay())
        return converted

    def _begin(self, channels: int) -> None:
        """A filter that stands where the input's index does: both rates' samples meet only at
        every `period`-th of the input, so it is given silence from the last such sample on.
        """  # fmt: skip
        old, new, first = self._stream.rate, self.settings.rate, self._stream.first
        self._has_begun = True
        self._next = -(-first * new // old)  # the first that does not lie before the input's
        if old == new:
            return
        self._filter = self._soxr.ResampleStream(
            old, new, channels, dtype="float32", quality=self.settings.quality
        )
        period = old // math.gcd(old, new)
        ahead = first % period
        self._drop = self._next - (first - ahead) * new // old
        if ahead:
            early = self._filter.resample_chunk(np.zeros((ahead, channels), np.float32))
            self._drop -= len(early)

    def _leave(self, array: FloatSamples) -> Iterator[Emission]:
        dropped = min(self._drop, len(array))
        self._drop -= dropped
        array = array[dropped:]
        if not len(array):
            return
        first, self._next = self._next, self._next + len(array)
        rate = self.settings.rate
        yield self.resampled(Samples(array, rate, first), self._time(first), self._time(self._next))

    def _time(self, index: int) -> int:
        """Stream time (us) of a sample that leaves."""
        stream, rate = self._stream, self.settings.rate
        offset = stream.start - sample_time(stream.first, stream.rate)  # of the sample 0
        return max(stream.start, offset + sample_time(index, rate))
