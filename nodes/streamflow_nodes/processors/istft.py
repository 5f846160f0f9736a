"""`istft`: the signal of short-time spectra."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import Emission, In, Node, Out, Positive
from streamflow.packet import Packet, Samples, Tensor

from ..audio.samples import sample_time
from ..audio.spectra import AXES, Frames, FrameSettings, Spectra, Synthesis
from ..audio.streams import FloatSamples, sample_at
from ..spans import span_of

LONGEST_GAP = 3600
"""Seconds of missing frames that are taken as silence."""


class IstftSettings(FrameSettings, frozen=True, kw_only=True):
    """What `stft` was set to, and the rate of what it was given."""

    rate: Positive
    """Hz"""


class Istft(Node[IstftSettings]):
    """The signal whose spectra `stft` gave: sample for sample where they were not changed.

    Spectra are (time, channel, frequency), complex64, with `stft`'s own `size`, `hop` and `window`;
    what lies between may change them, and keeps the packets' start and stop. The signal is that of
    overlapping frames, each windowed again (equation: `spectra`), and ends where the last packet
    stops. It leaves `size - hop` samples behind the frames; the first sample's index is its stream
    time counted in samples.

    Missing frames (an edge that may drop some) are taken as silence and counted as
    `missing_frame`; frames that were there before are left out and counted as `repeated_frame`; a
    frame with a value that is not finite is silence and counted as `not_finite`. State: the overlap
    of the last frames.

        cleaned:
          kind: istft
          inputs: {spectra: masked.spectra}
          settings: {size: 512, hop: 128, rate: 16000}
    """

    spectra = In(Tensor)
    samples = Out(Samples)
    faults = ("missing_frame", "repeated_frame", "not_finite")

    def open(self) -> None:
        self._frames = Frames.of(self.settings)
        try:
            self._synthesis = Synthesis(self._frames)
        except ValueError as error:
            raise NodeError(self.name, f"settings: {error}") from error
        self._synthesis.warm_up()
        self._start: int | None = None  # stream time of the first frame, us
        self._end = 0  # how many samples the frames so far are of
        self._left = 0  # how many have left

    def on_spectra(self, packet: Packet[Tensor]) -> Iterator[Emission]:
        spectra = self._check(packet)
        if self._start is None:
            self._start = packet.start
            self._synthesis = Synthesis(self._frames, spectra.shape[1])
        yield from self._bridge(packet, self._due(packet))
        spectra = spectra[max(0, -self._due(packet)) :]
        self._end = max(self._end, self._sample(packet.stop))
        yield from self._feed(self._finite(spectra))

    def finish(self) -> Iterator[Emission]:
        if self._start is not None:
            yield from self._leave(self._synthesis.finish())

    def snapshot(self) -> dict[str, Any]:
        if self._start is None:
            return {}
        return {
            "start": self._start, "end": self._end, "left": self._left,
            "held": self._synthesis.held.copy(), "count": self._synthesis.count,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        if state:
            self._start = int(state["start"])
            self._end, self._left = int(state["end"]), int(state["left"])
            self._synthesis = Synthesis(self._frames, len(state["held"]))
            self._synthesis.held, self._synthesis.count = state["held"], int(state["count"])
            self._hold()

    def _check(self, packet: Packet[Tensor]) -> Spectra:
        data, frames = packet.data, self._frames
        array, step = data.array, sample_time(frames.hop, self.settings.rate)
        channels = self._synthesis.channels if self._start is not None else None
        is_right = (
            array.dtype == np.complex64 and array.ndim == 3 and data.axes == AXES
            and array.shape[2] == frames.bins and array.shape[1] in (channels or array.shape[1],)
            and array.shape[1] > 0 and data.step == step
        )  # fmt: skip
        if not is_right:
            raise NodeError(
                self.name,
                f"got {array.dtype} of shape {array.shape} with the axes {data.axes} every "
                f"{data.step} us; expected complex64 of shape (n, {channels or 'channels'}, "
                f"{frames.bins}) with the axes {AXES} every {step} us: set size, hop and rate as "
                "`stft` has them",
                span=span_of(packet),
            )
        return array

    def _sample(self, time: int) -> int:
        """The sample, counted from the stream's first, that begins at `time` (us)."""
        return sample_at(time - (self._start or 0), self.settings.rate)

    def _due(self, packet: Packet[Tensor]) -> int:
        """How many frames are missing before the packet; below 0, how many were there already."""
        sample, hop = self._sample(packet.start), self._frames.hop
        if sample >= self._end and sample < self._synthesis.count * hop:
            return 0  # frames behind the end of the samples, where packets bring no time
        return (sample + hop // 2) // hop - self._synthesis.count

    def _bridge(self, packet: Packet[Tensor], missing: int) -> Iterator[Emission]:
        """Silence for frames that are missing; counts them, and those that were there already."""
        if missing < 0:
            self.count_fault("repeated_frame", min(-missing, len(packet.data.array)))
        if missing <= 0:
            return
        seconds = missing * self._frames.hop // self.settings.rate
        if seconds > LONGEST_GAP:
            raise NodeError(
                self.name,
                f"{missing} frames ({seconds} s) are missing; expected gaps of at most "
                f"{LONGEST_GAP} s: give every stream a node of its own",
                span=span_of(packet),
            )
        self.count_fault("missing_frame", missing)
        shape = (self._synthesis.channels, self._frames.bins)
        for at in range(0, missing, 100):
            silence = np.zeros((min(100, missing - at), *shape), np.complex64)
            self._end = max(self._end, (self._synthesis.count + len(silence)) * self._frames.hop)
            yield from self._feed(silence)

    def _finite(self, spectra: Spectra) -> Spectra:
        is_finite: NDArray[np.bool_] = np.asarray(np.isfinite(spectra).all(axis=(1, 2)))
        if is_finite.all():
            return spectra
        self.count_fault("not_finite", int((~is_finite).sum()))
        return np.where(is_finite[:, None, None], spectra, np.complex64(0))

    def _feed(self, spectra: Spectra) -> Iterator[Emission]:
        yield from self._leave(self._synthesis.feed(spectra))
        self._hold()

    def _leave(self, samples: FloatSamples) -> Iterator[Emission]:
        samples = samples[: self._end - self._left]
        if not len(samples):
            return
        left, self._left = self._left, self._left + len(samples)
        first = sample_at(self._start or 0, self.settings.rate) + left
        block = Samples(samples, self.settings.rate, first)
        yield self.samples(block, self._time(left), self._time(self._left))

    def _time(self, sample: int) -> int:
        """Stream time (us) of a sample counted from the stream's first."""
        start, rate = self._start or 0, self.settings.rate
        first = sample_at(start, rate)
        return start + sample_time(first + sample, rate) - sample_time(first, rate)

    def _hold(self) -> None:
        self.holds_from = self._time(self._left)
