"""Short-time Fourier analysis and synthesis of a stream: any hop inside blocks of any size.

For window w of `size` samples and `hop` between frames, frame k of a signal x that begins at sample
0 is, with zeros before the signal and behind it,

    X[k, f] = sum over n of w[n] x[(k + 1) hop - size + n] exp(-2 pi i f n / size),  f = 0..size/2

so frame k is complete with sample (k + 1) hop - 1, and the newest `hop` samples are the ones that
it brings. Synthesis adds frames that are windowed again and divided by what the windows add up to
(D. W. Griffin and J. S. Lim, 1984, equation 6):

    x[m] = sum over k of v[n] irfft(X[k])[n] / sum over k of w[n] v[n],
    n = m - (k + 1) hop + size

with v = w. Where spectra are not changed that is the signal again, at its ends too. A sample leaves
`size - 1` samples after it came at the latest, and `size - hop` at the earliest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamflow.node import Node, Positive, Settings
from streamflow.packet import Packet, Samples

from ..kernels.overlap import add_frames, cut_frames
from .samples import sample_time
from .streams import FloatSamples, SampleStream

Spectra = NDArray[np.complex64]
"""(frames, channels, size // 2 + 1) complex64, as numpy's rfft scales them."""

AXES = ("time", "channel", "frequency")

WindowName = Literal["sqrt_hann", "hann", "boxcar"]


class FrameSettings(Settings, frozen=True, kw_only=True):
    """How a signal is cut into frames."""

    size: Positive = 512
    """Samples in a frame, which is also the length of the Fourier transform."""
    hop: Positive = 128
    """Samples from one frame to the next: at most `size`."""
    window: WindowName = "sqrt_hann"
    """`sqrt_hann` (the square root of a periodic Hann window), `hann`, or `boxcar` (none)."""

    def __post_init__(self) -> None:
        if self.hop > self.size:
            raise ValueError(
                f"hop is {self.hop} and size {self.size}: samples between frames would be lost; "
                "expected a hop of at most the size"
            )


class Frames:
    """Window and hop of `FrameSettings`, as analysis and synthesis need them."""

    def __init__(self, size: int = 512, hop: int = 128, window: WindowName = "sqrt_hann") -> None:
        """Raises ValueError for a hop longer than the window."""
        if not 0 < hop <= size:
            raise ValueError(f"hop is {hop} and size {size}; expected 1 to size")
        self.size, self.hop, self.bins = size, hop, size // 2 + 1
        self.window = _window(window, size)
        self.window.flags.writeable = False

    @classmethod
    def of(cls, settings: FrameSettings) -> Frames:
        """The frames that a node's settings ask for."""
        return cls(settings.size, settings.hop, settings.window)

    @property
    def delay(self) -> int:
        """Samples that must follow a sample, at most, before analysis and synthesis give it."""
        return self.size - 1

    def count(self, samples: int) -> int:
        """How many frames so long a signal has, with those behind its end that reach into it."""
        return (samples - 1 + self.size - self.hop) // self.hop + 1 if samples else 0

    def synthesis_window(self) -> FloatSamples:
        """The window over what windows add up to, (size,); ValueError where they leave gaps."""
        product = self.window.astype(np.float64) ** 2
        padded = np.zeros(-(-self.size // self.hop) * self.hop)
        padded[: self.size] = product
        total = padded.reshape(-1, self.hop).sum(axis=0)
        if total.min() < 1e-3 * total.max():
            raise ValueError(
                f"a window of {self.size} samples every {self.hop} lets samples vanish, so nothing "
                "can bring them back; expected a hop of at most half the size, or window: boxcar"
            )
        divisor = total[np.arange(self.size) % self.hop]
        whole: FloatSamples = (self.window / divisor).astype(np.float32)
        whole.flags.writeable = False
        return whole


class Analysis:
    """A signal's spectra as it comes. The same bits however the signal was cut."""

    def __init__(self, frames: Frames, channels: int = 1) -> None:
        self.frames, self.channels = frames, channels
        self.samples = 0
        """How many samples have come."""
        self.held = np.zeros((frames.size - frames.hop, channels), np.float32)
        """(size - hop + those of the next frame, channels): what the next frames need."""

    def feed(self, samples: FloatSamples) -> Spectra:
        """The spectra of the frames that these samples, (n, channels), complete."""
        self.samples += len(samples)
        return self._cut(samples)

    def finish(self) -> Spectra:
        """The spectra of the frames behind the end that still reach into the signal."""
        missing = self.frames.count(self.samples) * self.frames.hop - self.samples
        return self._cut(np.zeros((missing, self.channels), np.float32))

    def warm_up(self) -> None:
        """Compile for any number of channels, before any data flows."""
        frames = np.empty((0, self.channels, self.frames.size), np.float32)
        cut_frames(_read_only(self.held), self.frames.window, self.frames.hop, frames)

    def _cut(self, samples: FloatSamples) -> Spectra:
        whole = _read_only(np.concatenate([self.held, samples]))
        size, hop = self.frames.size, self.frames.hop
        count = (len(whole) - (size - hop)) // hop
        windowed = np.empty((count, self.channels, size), np.float32)
        if count:
            cut_frames(whole, self.frames.window, hop, windowed)
        self.held = whole[count * hop :].copy()
        spectra: Spectra = np.fft.rfft(windowed).astype(np.complex64, copy=False)
        return spectra


class Synthesis:
    """The signal of spectra as they come. The same bits however many come at once."""

    def __init__(self, frames: Frames, channels: int = 1) -> None:
        """Raises ValueError where the windows leave gaps, so that there is no way back."""
        self.frames, self.channels = frames, channels
        self.window = frames.synthesis_window()
        self.count = 0
        """How many frames have come."""
        self.held = np.zeros((channels, frames.size), np.float32)

    @property
    def samples(self) -> int:
        """How many samples have left."""
        return max(0, self.count * self.frames.hop + self.frames.hop - self.frames.size)

    def feed(self, spectra: Spectra) -> FloatSamples:
        """The samples, (n, channels), that are complete with these frames.

        They follow those that left before; with the tail of `Analysis.finish` some are behind the
        signal's end.
        """
        before = self.samples
        frames = np.fft.irfft(spectra, self.frames.size).astype(np.float32, copy=False)
        out = np.empty((len(spectra) * self.frames.hop, self.channels), np.float32)
        if len(spectra):
            add_frames(_read_only(frames), self.window, self.frames.hop, self.held, out)
        self.count += len(spectra)
        # samples before the signal began are complete first, and are no samples
        return out[len(out) - (self.samples - before) :]

    def finish(self) -> FloatSamples:
        """What is held: (size - hop, channels), the samples that more frames could still change."""
        rest = self.held[:, : self.frames.size - self.frames.hop].T
        early = self.samples - (self.count * self.frames.hop + self.frames.hop - self.frames.size)
        return np.ascontiguousarray(rest[early:])

    def warm_up(self) -> None:
        """Compile for any number of channels, before any data flows."""
        frames = _read_only(np.empty((0, self.channels, self.frames.size), np.float32))
        out = np.empty((0, self.channels), np.float32)
        add_frames(frames, self.window, self.frames.hop, self.held, out)


class SpectrumStream:
    """The spectra of one input of a node, with where they lie in stream time.

    The node declares `audio.streams.FAULTS`. `held_from` is for its `holds_from`: where the next
    spectra will start (us), None before the first packet.
    """

    def __init__(self, node: Node[Any], frames: Frames, port: str = "samples") -> None:
        self._port, self._frames = port, frames
        self.samples = SampleStream(node, port)
        self.count = 0
        """How many spectra were given."""
        self._analysis = Analysis(frames)
        self._analysis.warm_up()

    def take(self, packet: Packet[Samples]) -> Iterator[tuple[Spectra, int, int]]:
        """What a packet completes: spectra, and start and stop (us) of the samples new in them."""
        for array in self.samples.take(packet):
            if self._analysis.channels != self.samples.channels:
                self._analysis = Analysis(self._frames, self.samples.channels)
            yield from self._given(self._analysis.feed(array))

    def finish(self) -> Iterator[tuple[Spectra, int, int]]:
        """The spectra behind the end, whose stop is where the samples ended."""
        if self.samples.has_begun:
            yield from self._given(self._analysis.finish())

    @property
    def step(self) -> int:
        """Stream time from one frame to the next (us)."""
        return sample_time(self._frames.hop, self.samples.rate)

    @property
    def held_from(self) -> int | None:
        samples, hop = self.samples, self._frames.hop
        return samples.time(samples.first + self.count * hop) if samples.has_begun else None

    def snapshot(self) -> dict[str, Any]:
        """The state, with the port's name before every key."""
        return {
            **self.samples.snapshot(),
            f"{self._port}_held": self._analysis.held.copy(),
            f"{self._port}_count": self.count,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `snapshot` gave, from among the node's own state."""
        self.samples.restore(state)
        held = state[f"{self._port}_held"]
        self._analysis = Analysis(self._frames, held.shape[1])
        self._analysis.held = held
        self._analysis.samples = self.samples.next - self.samples.first
        self.count = int(state[f"{self._port}_count"])

    def _given(self, spectra: Spectra) -> Iterator[tuple[Spectra, int, int]]:
        if len(spectra):
            hop, first = self._frames.hop, self.samples.first
            start, self.count = self.count * hop, self.count + len(spectra)
            end = min(self.count * hop, self._analysis.samples)
            yield spectra, self.samples.time(first + start), self.samples.time(first + end)


def decibels(power: NDArray[Any], floor: float = -120.0) -> NDArray[np.float32]:
    """Power in dB, not below `floor`; float32."""
    least = 10.0 ** (floor / 10)
    level: NDArray[np.float32] = (10 * np.log10(np.maximum(power, least))).astype(np.float32)
    return level


def full_scale(spectra: Spectra, window: FloatSamples) -> NDArray[np.float32]:
    """Power of each bin, 1 where a sine of full scale lies on it: |2 X / sum of the window|^2."""
    scale = 2 / float(window.sum(dtype=np.float64))
    power: NDArray[np.float32] = (spectra.real * scale) ** 2 + (spectra.imag * scale) ** 2
    return power.astype(np.float32, copy=False)


def _window(name: WindowName, size: int) -> FloatSamples:
    if name == "boxcar":
        return np.ones(size, np.float32)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)  # periodic: hops add up to 1
    return (hann if name == "hann" else np.sqrt(hann)).astype(np.float32)


def _read_only(array: NDArray[np.float32]) -> NDArray[np.float32]:
    array = array[:]
    array.flags.writeable = False
    return array
