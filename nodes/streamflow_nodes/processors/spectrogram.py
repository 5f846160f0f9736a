"""`spectrogram`: how loud each frequency is, as time goes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import starmap
from typing import Annotated, Any

import msgspec

from streamflow.node import Emission, In, Node, Out, Positive
from streamflow.packet import Packet, Samples, Tensor

from ..audio.spectra import (
    AXES,
    Frames,
    FrameSettings,
    Spectra,
    SpectrumStream,
    WindowName,
    decibels,
    full_scale,
)
from ..audio.streams import FAULTS


class SpectrogramSettings(FrameSettings, frozen=True, kw_only=True):
    """How the signal is cut into frames, and how far down the picture goes."""

    hop: Positive = 256
    window: WindowName = "hann"
    floor: Annotated[float, msgspec.Meta(le=0)] = -120.0
    """dB below full scale that is the least that is told."""


class Spectrogram(Node[SpectrogramSettings]):
    """The level of every frequency in each frame, in dB below full scale.

    `levels` has the axes (time, channel, frequency), float32: 20 log10(2 |X| / sum of the window),
    not below `floor`, so that a sine of full scale on a bin is at 0 dB. Frames are those of `stft`,
    and so are their times and what is kept and counted. `spectrogram_plot` makes pictures.

        levels: {kind: spectrogram, inputs: {samples: microphone.samples}, settings: {hop: 160}}
    """

    samples = In(Samples)
    levels = Out(Tensor)
    faults = FAULTS

    def open(self) -> None:
        self._frames = Frames.of(self.settings)
        self._stream = SpectrumStream(self, self._frames)

    def on_samples(self, packet: Packet[Samples]) -> Iterator[Emission]:
        yield from starmap(self._leave, self._stream.take(packet))
        self.holds_from = self._stream.held_from

    def finish(self) -> Iterator[Emission]:
        yield from starmap(self._leave, self._stream.finish())

    def snapshot(self) -> dict[str, Any]:
        return self._stream.snapshot()

    def restore(self, state: dict[str, Any]) -> None:
        self._stream.restore(state)
        self.holds_from = self._stream.held_from

    def _leave(self, spectra: Spectra, start: int, stop: int) -> Emission:
        levels = decibels(full_scale(spectra, self._frames.window), self.settings.floor)
        return self.levels(Tensor(levels, AXES, self._stream.step), start, stop)
