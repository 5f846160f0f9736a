"""`mix`: speech with noise under it, at a set ratio."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np

from streamflow.errors import NodeError
from streamflow.node import Emission, In, Node, Out, Positive, Settings
from streamflow.packet import Packet, Samples

from ..audio.streams import FAULTS, KeptSamples
from ..spans import span_of

Decibels = Annotated[float, msgspec.Meta(ge=-200, le=200)]


class MixSettings(Settings, frozen=True, kw_only=True):
    """How loud the noise becomes: exactly one of the two is given."""

    snr: Decibels | None = None
    """dB by which the speech's power lies above the noise's, over the samples that both have."""
    gain: Decibels | None = None
    """dB by which the noise is raised."""
    longest: Positive = 600
    """Seconds that `snr` may have to keep."""


class Mix(Node[MixSettings]):
    """Speech + noise, sample by sample of the same index; as long as the speech.

    The speech passes as it is, and the noise is raised or lowered. `truth` is the speech again,
    packet for packet with `mixed`: to score against, where the source's own samples would have to
    wait for what is held back here. With `gain` samples leave as soon as both inputs have them.
    With `snr` the noise's gain is

        g = sqrt(sum speech^2 / sum noise^2) 10^(-snr / 20)

    over all samples that both inputs have, in all channels, so nothing leaves before the end, and
    both are kept until then (at most `longest` seconds). Nothing is limited: a sum may lie beyond
    full scale (`level` tells, and `results()` has the peak).

    Both have one rate; the noise has the speech's channels or one, which then goes to all. Where
    there is no noise, before it or behind it, speech passes alone and `noise_missing` counts its
    samples. State: the samples that wait. Missing samples of an input become silence and are
    counted, as are repeated ones and NaN (`SampleStream`).

        noisy:
          kind: mix
          inputs: {speech: speech.samples, noise: street.samples}
          settings: {snr: 5}
    """

    speech = In(Samples)
    noise = In(Samples)
    mixed = Out(Samples)
    truth = Out(Samples)
    faults = (*FAULTS, "noise_missing")

    def open(self) -> None:
        setting = self.settings
        if (setting.snr is None) == (setting.gain is None):
            raise NodeError(
                self.name,
                f"settings: snr is {setting.snr} and gain is {setting.gain}; expected exactly one "
                "of them",
            )
        self._speech, self._noise = KeptSamples(self, "speech"), KeptSamples(self, "noise")
        self._gain = None if setting.gain is None else 10 ** (setting.gain / 20)
        self._peak = 0.0

    def on_speech(self, packet: Packet[Samples]) -> Iterator[Emission]:
        return self._take(self._speech, packet)

    def on_noise(self, packet: Packet[Samples]) -> Iterator[Emission]:
        return self._take(self._noise, packet)

    def advance(self, time: int) -> Iterator[Emission]:
        if self._gain is None:
            return
        if self._speech.stream.has_begun:
            # noise for what lies before `time` is here, or will never be
            yield from self._leave(self._speech.before(time))
        elif self._noise.stream.has_begun:
            self._noise.drop(self._noise.before(time))

    def finish(self) -> Iterator[Emission]:
        if not self._speech.stream.has_begun:
            return
        if self._gain is None:
            self._gain = self._measured()
        rate, end = self._speech.stream.rate, self._speech.stream.next
        for at in range(self._speech.first, end, rate):  # a long speech in packets of a second
            yield from self._leave(min(at + rate, end))

    def results(self) -> dict[str, Any]:
        gain = self._gain
        return {
            "noise_gain_db": None if gain is None else 20 * math.log10(gain),
            "peak": self._peak,
        }

    def snapshot(self) -> dict[str, Any]:
        return {**self._speech.snapshot(), **self._noise.snapshot(), "peak": self._peak}

    def restore(self, state: dict[str, Any]) -> None:
        self._speech.restore(state)
        self._noise.restore(state)
        self._peak = float(state["peak"])
        self._hold()

    def _take(self, side: KeptSamples, packet: Packet[Samples]) -> Iterator[Emission]:
        for array in side.stream.take(packet):
            side.add(array)
            self._check(packet)
            if self._gain is not None and self._speech.stream.has_begun:
                self._noise.drop(self._speech.first)
                if self._noise.stream.has_begun:
                    yield from self._leave(min(self._speech.stream.next, self._noise.stream.next))
        self._hold()

    def _check(self, packet: Packet[Samples]) -> None:
        speech, noise = self._speech.stream, self._noise.stream
        if (speech.has_begun and noise.has_begun) and (
            speech.rate != noise.rate or noise.channels not in (1, speech.channels)
        ):
            raise NodeError(
                self.name,
                f"speech has {speech.channels} channels at {speech.rate} Hz, noise "
                f"{noise.channels} at {noise.rate} Hz; expected one rate, and noise with one "
                "channel or the speech's: put `resample` behind one of them",
                span=span_of(packet),
            )
        longest = self.settings.longest * max(speech.rate, noise.rate)
        kept = max(self._speech.count, self._noise.count)
        if self._gain is None and kept > longest:
            raise NodeError(
                self.name,
                f"{kept} samples are kept to measure the ratio; expected at most {longest} "
                "(the setting 'longest'): raise it, or set 'gain' instead of 'snr'",
                span=span_of(packet),
            )

    def _measured(self) -> float:
        """The noise's gain that makes the ratio `snr`; NodeError where one of them is silent."""
        first = max(self._speech.first, self._noise.first)
        last = min(self._speech.stream.next, self._noise.stream.next)
        if not self._noise.stream.has_begun:
            last = first
        powers = [
            float(np.mean(np.square(side.get(first, last), dtype=np.float64)))
            if last > first
            else 0
            for side in (self._speech, self._noise)
        ]
        if not all(powers):
            raise NodeError(
                self.name,
                f"the mean power of speech and noise over the {max(0, last - first)} samples that "
                f"both have is {powers[0]:g} and {powers[1]:g}; expected sound on both: check "
                "where they begin, or set 'gain' instead of 'snr'",
            )
        return math.sqrt(powers[0] / powers[1]) * 10 ** (-(self.settings.snr or 0.0) / 20)

    def _leave(self, end: int) -> Iterator[Emission]:
        """The samples before `end`, mixed."""
        first, stream, gain = self._speech.first, self._speech.stream, self._gain
        if end <= first or gain is None:
            return
        truth = self._speech.get(first, end).copy()
        mixed = truth.copy()
        low, high = max(first, self._noise.first), min(end, self._noise.stream.next)
        if low < high and self._noise.stream.has_begun:
            mixed[low - first : high - first] += np.float32(gain) * self._noise.get(low, high)
        else:
            low = high = first
        self.count_fault("noise_missing", end - first - (high - low))
        self._peak = max(self._peak, float(np.abs(mixed).max()))
        self._speech.drop(end)
        self._noise.drop(end)
        self._hold()
        start, stop = stream.time(first), stream.time(end)
        yield self.mixed(Samples(mixed, stream.rate, first), start, stop)
        yield self.truth(Samples(truth, stream.rate, first), start, stop)

    def _hold(self) -> None:
        if self._speech.stream.has_begun:
            self.holds_from = self._speech.stream.time(self._speech.first)
