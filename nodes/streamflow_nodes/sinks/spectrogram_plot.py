"""`spectrogram_plot`: a picture of a sound's spectrum over time, or of two to compare."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import In, Node, OutputPath, Positive, Seconds
from streamflow.packet import Packet, Samples

from ..audio.spectra import Frames, Spectra, SpectrumStream, WindowName, decibels, full_scale
from ..audio.streams import FAULTS
from ..files.output import FullDiskSettings, put_file
from ..particles.figure import STYLE


class SpectrogramPlotSettings(FullDiskSettings, frozen=True, kw_only=True):
    """Where to draw, how the signal is cut into frames, and how much the picture shows."""

    path: OutputPath
    title: str = ""
    names: tuple[str, str] = ("before", "after")
    """What stands above the two spectrograms; one alone has none."""
    size: Positive = 512
    """Samples in a frame."""
    hop: Positive = 128
    window: WindowName = "hann"
    range: Positive = 80
    """dB from the loudest down to the darkest colour."""
    columns: Positive = 2000
    """Moments across the picture, at most. When there are more, two and two become their mean."""
    refresh: Seconds | None = None
    """Draw whenever so much stream time has passed, not only at the end."""
    dpi: Positive = 110


class SpectrogramPlot(Node[SpectrogramPlotSettings]):
    """A PNG with the spectrogram of `samples`, and below it that of `compared` on the same scale.

    Time goes to the right, frequency upwards, and the colour is the level in dB below full scale as
    `spectrogram` has it, the mean of all channels' power. It is drawn at the end of the stream, and
    meanwhile every `refresh`; an existing file is replaced in one step. Emits nothing. State: the
    picture, at most `columns` wide. Missing samples become silence and are counted, as are repeated
    ones and NaN (`SampleStream`); a picture for which the disk has no room is `not_written`. Needs
    matplotlib, which the extra `cytometry` brings.

        picture:
          kind: spectrogram_plot
          inputs: {samples: noisy.samples, compared: denoise.samples}
          settings: {path: before_and_after.png}
    """

    samples = In(Samples)
    compared = In(Samples, optional=True)
    faults = (*FAULTS, "not_written")

    def open(self) -> None:
        try:
            # a page that nobody sees: loading matplotlib and its fonts takes longer than drawing
            _draw([_Panel(np.zeros((1, 1), np.float32), 0, 1, 1)], ("",), "", 1, 10)
        except ImportError as error:
            raise NodeError(
                self.name, "needs matplotlib: pip install 'streamflow-neuro[cytometry]'"
            ) from error
        setting = self.settings
        try:
            self._frames = Frames(setting.size, setting.hop, setting.window)
        except ValueError as error:
            raise NodeError(self.name, f"settings: {error}") from error
        self._pictures = {port: _Picture(self, self._frames, port) for port in type(self).inputs}
        self._due: int | None = None
        self._drawn = setting.path

    def on_samples(self, packet: Packet[Samples]) -> None:
        self._take("samples", packet)

    def on_compared(self, packet: Packet[Samples]) -> None:
        self._take("compared", packet)

    def finish(self) -> None:
        for picture in self._pictures.values():
            picture.finish()
        self._draw()

    def results(self) -> dict[str, Any]:
        return {"path": self._drawn}

    def snapshot(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for picture in self._pictures.values():
            state.update(picture.snapshot())
        return state

    def restore(self, state: dict[str, Any]) -> None:
        for picture in self._pictures.values():
            picture.restore(state)

    def _take(self, port: str, packet: Packet[Samples]) -> None:
        self._pictures[port].take(packet)
        if self.settings.refresh is None:
            return
        period = round(self.settings.refresh * 1e6)
        if self._due is not None and packet.stop >= self._due:
            self._draw()
        if self._due is None or packet.stop >= self._due:
            self._due = packet.stop + period

    def _draw(self) -> None:
        panels = [picture.panel() for picture in self._pictures.values() if picture.frames]
        if not panels:
            return
        names = self.settings.names if len(panels) == 2 else ("",)
        page = _draw(panels, names, self.settings.title, self.settings.range, self.settings.dpi)
        place = put_file(self.settings.path, self.settings, page, self.name)
        self.fault_counts["not_written"] = int(place is None)
        self._drawn = self.settings.path if place is None else str(place)


class _Panel(NamedTuple):
    """One spectrogram: levels (columns, frequencies) in dB, seconds and Hz that it covers."""

    levels: NDArray[np.float32]
    start: float
    stop: float
    highest: float


class _Picture:
    """The spectrogram of one input, in at most `columns` columns of equally many frames."""

    def __init__(self, node: SpectrogramPlot, frames: Frames, port: str) -> None:
        self._port, self._frames = port, frames
        self._stream = SpectrumStream(node, frames, port)
        self._columns = node.settings.columns
        self._sums = np.zeros((self._columns, frames.bins))
        self._stride = 1

    @property
    def frames(self) -> int:
        """How many frames there are."""
        return self._stream.count

    def take(self, packet: Packet[Samples]) -> None:
        for spectra, _, _ in self._stream.take(packet):
            self._add(spectra)

    def finish(self) -> None:
        for spectra, _, _ in self._stream.finish():
            self._add(spectra)

    def panel(self) -> _Panel:
        count = -(-self.frames // self._stride)
        frames = np.full(count, self._stride)
        frames[-1] = self.frames - (count - 1) * self._stride
        samples = self._stream.samples
        # a frame is centred half a frame before its end
        start = samples.start / 1e6 - (self._frames.size / 2 - self._frames.hop) / samples.rate
        seconds = self.frames * self._frames.hop / samples.rate
        levels = decibels(self._sums[:count] / frames[:, None], -150.0)
        return _Panel(levels, start, start + seconds, samples.rate / 2)

    def snapshot(self) -> dict[str, Any]:
        sums = self._sums[: -(-self.frames // self._stride)].copy()
        words = {f"{self._port}_sums": sums, f"{self._port}_stride": self._stride}
        return {**self._stream.snapshot(), **words}

    def restore(self, state: dict[str, Any]) -> None:
        self._stream.restore(state)
        self._stride, sums = int(state[f"{self._port}_stride"]), state[f"{self._port}_sums"]
        self._sums[: len(sums)] = sums

    def _add(self, spectra: Spectra) -> None:
        power = full_scale(spectra, self._frames.window)
        rows = power[:, 0] if power.shape[1] == 1 else power.mean(axis=1, dtype=np.float64)
        number = self._stream.count - len(rows)
        while len(rows):
            while number >= self._columns * self._stride:
                self._merge()
            column = number // self._stride
            now = rows[: (column + 1) * self._stride - number]
            # one row after the other: the same bits however the frames came
            total = np.concatenate([self._sums[column : column + 1], now])
            self._sums[column] = np.add.reduce(total, axis=0)
            number, rows = number + len(now), rows[len(now) :]

    def _merge(self) -> None:
        """Two columns become one: the picture has room for twice as many frames."""
        even = self._sums[: self._columns - self._columns % 2]
        merged = even.reshape(-1, 2, self._frames.bins).sum(axis=1)
        rest = self._sums[len(even) :].copy()
        self._sums[:] = 0
        self._sums[: len(merged)] = merged
        self._sums[len(merged) : len(merged) + len(rest)] = rest
        self._stride *= 2


def _draw(panels: list[_Panel], names: tuple[str, ...], title: str, span: int, dpi: int) -> bytes:
    """The page as a PNG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    loudest = max(float(panel.levels.max()) for panel in panels)
    with matplotlib.rc_context(STYLE):
        height = 0.9 + 2.5 * len(panels)  # inches; a layout engine would draw everything twice
        figure = Figure(figsize=(9, height))
        figure.subplots_adjust(0.07, 0.5 / height, 1.02, 1 - 0.5 / height, hspace=0.2)
        FigureCanvasAgg(figure)
        figure.suptitle(title)
        axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
        for axis, panel, name in zip(axes, panels, names, strict=True):
            picture = axis.imshow(
                panel.levels.T, origin="lower", aspect="auto", cmap="magma",
                vmin=loudest - span, vmax=loudest, interpolation="nearest",
                extent=(panel.start, panel.stop, 0, panel.highest / 1000),
            )  # fmt: skip
            axis.set_title(name)
            axis.set_ylabel("frequency (kHz)")
        axes[-1].set_xlabel("stream time (s)")
        figure.colorbar(picture, ax=list(axes), pad=0.02, label="level (dB of full scale)")
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()
