"""`stft`: the short-time spectra of a signal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import starmap
from typing import Any

from streamflow.node import Emission, In, Node, Out
from streamflow.packet import Packet, Samples, Tensor

from ..audio.spectra import AXES, Frames, FrameSettings, Spectra, SpectrumStream
from ..audio.streams import FAULTS


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
        self._stream = SpectrumStream(self, Frames.of(self.settings))

    def on_samples(self, packet: Packet[Samples]) -> Iterator[Emission]:
        yield from starmap(self._leave, self._stream.take(packet))
        self.holds_from = self._stream.held_from

    def finish(self) -> Iterator[Emission]:
        yield from starmap(self._leave, self._stream.finish())

    def results(self) -> dict[str, Any]:
        return {"frames": self._stream.count}

    def snapshot(self) -> dict[str, Any]:
        return self._stream.snapshot()

    def restore(self, state: dict[str, Any]) -> None:
        self._stream.restore(state)
        self.holds_from = self._stream.held_from

    def _leave(self, spectra: Spectra, start: int, stop: int) -> Emission:
        return self.spectra(Tensor(spectra, AXES, self._stream.step), start, stop)
