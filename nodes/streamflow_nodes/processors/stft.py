"""`stft`: the short-time spectra of a signal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streamflow.node import Emission, In, Node, Out
from streamflow.packet import Packet, Samples, Tensor

from ..audio import sample_time
from ..sample_stream import FAULTS, SampleStream
from ..spectra import AXES, Analysis, Frames, FrameSettings, Spectra


class StftSettings(FrameSettings, frozen=True, kw_only=True):
    """How the signal is cut into frames."""


class Stft(Node[StftSettings]):
    """The complex spectrum of every frame of `size` samples, one every `hop` samples.

    Frame k ends with the sample (k + 1) hop - 1 of the stream and has `size // 2 + 1` frequencies,
    scaled as numpy's rfft does (equation: `spectra`); `istft` brings the samples back. What leaves
    has the axes (time, channel, frequency), complex64. A packet covers the `hop` samples that are
    new in each of its frames: frames behind the end of the stream bring none, so that the last
    packet's stop says where the samples ended.

    Frames leave as soon as they are complete; nothing leaves for a packet that completes none, or
    is empty. State: the samples of the frame being filled. Missing samples become silence and are
    counted, as are repeated ones and NaN (`SampleStream`).

        spectra:
          kind: stft
          inputs: {samples: microphone.samples}
          settings: {size: 512, hop: 128}
    """

    samples = In(Samples)
    spectra = Out(Tensor)
    faults = FAULTS

    def open(self) -> None:
        self._frames = Frames.of(self.settings)
        self._stream = SampleStream(self)
        self._analysis = Analysis(self._frames)
        self._analysis.warm_up()
        self._count = 0  # frames that have left

    def on_samples(self, packet: Packet[Samples]) -> Iterator[Emission]:
        for array in self._stream.take(packet):
            if self._analysis.channels != self._stream.channels:
                self._analysis = Analysis(self._frames, self._stream.channels)
            yield from self._leave(self._analysis.feed(array))
        if self._stream.has_begun:
            self._hold()

    def finish(self) -> Iterator[Emission]:
        if self._stream.has_begun:
            yield from self._leave(self._analysis.finish())

    def results(self) -> dict[str, Any]:
        return {"frames": self._count}

    def snapshot(self) -> dict[str, Any]:
        return {
            **self._stream.snapshot(),
            "held": self._analysis.held.copy(),
            "samples": self._analysis.samples,
            "count": self._count,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._stream.restore(state)
        self._analysis = Analysis(self._frames, state["held"].shape[1])
        self._analysis.held, self._analysis.samples = state["held"], int(state["samples"])
        self._count = int(state["count"])
        if self._stream.has_begun:
            self._hold()

    def _leave(self, spectra: Spectra) -> Iterator[Emission]:
        if not len(spectra):
            return
        hop, stream = self._frames.hop, self._stream
        start, self._count = self._count, self._count + len(spectra)
        stop = min(self._count * hop, self._analysis.samples)
        step = sample_time(hop, stream.rate)
        yield self.spectra(
            Tensor(spectra, AXES, step),
            stream.time(stream.first + min(start * hop, stop)),
            stream.time(stream.first + stop),
        )

    def _hold(self) -> None:
        self.holds_from = self._stream.time(self._stream.first + self._count * self._frames.hop)
