"""Runs a linear recurrent network (S5, LRU) on frames, one after the other, with its state kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from streamflow.errors import NodeError
from streamflow.node import Emission, FilePath, In, Node, Out, Settings
from streamflow.packet import Packet, Tensor

from ..linear_rnn.engines import Engine, open_engine
from ..linear_rnn.model_file import read_model

AXES = ("time", "feature")


class LinearRnnSettings(Settings, frozen=True, kw_only=True):
    """Which network, and in which numbers it is computed."""

    model: FilePath
    """A `.safetensors` file as `streamflow_nodes.linear_rnn.model_file` describes it."""
    precision: Literal["f32", "w8a16", "w8a8"] = "f32"
    """f32: floating point. w8a16, w8a8: fixed point with 8-bit weights and 16- or 8-bit
    activations, the same bits on every machine; the model must have been quantised before
    (`streamflow model quantise`)."""


class LinearRnn(Node[LinearRnnSettings]):
    """What a linear recurrent network gives for each frame, at the frame's time.

    Takes tensors (time, feature) of any real dtype with `step` us for each frame, and gives
    (time, feature) float32 of the same span; nothing for a packet without frames. The equations of
    the layers are in `streamflow_nodes.linear_rnn.model_file`, fixed point in
    docs/fixed-point.md. The result does not depend on how the frames are cut into packets.

    State: that of the recurrent layers, for the whole stream. Frames that miss a time (a gap) are
    not made up: the next frame follows the last one. A value that is not finite counts as 0, and
    its frame as `not_finite`; in fixed point, a frame of which a value is beyond the range of the
    input as `clipped`.

    Results: frames, weights and states, `synaptic_operations` (products of a weight and an input
    that were both not 0) and `neuron_operations` for each frame, the N-DNS power proxy (synaptic
    + 10 neuron operations each second, in millions, where the frames have a `step`), and how long
    frames took: `frame_us` (median, p99, p99.9, largest; wall clock, packets of several frames
    count with their mean) and `late_packets`, which took longer than the time that they
    cover.

        mask:
          kind: linear_rnn
          inputs: {frames: features.frames}
          settings: {model: model.safetensors}
    """

    frames = In(Tensor)
    values = Out(Tensor)
    faults = ("not_finite", "clipped")
    _engine: Engine

    def open(self) -> None:
        model = read_model(self.settings.model)
        self._engine = open_engine(model, self.settings.precision)
        self._engine.warm_up()
        self._durations = Durations()
        self._step = self._late = 0

    def on_frames(self, packet: Packet[Tensor]) -> Iterator[Emission]:
        began = time.perf_counter_ns()
        data, engine = packet.data, self._engine
        self._check(data)
        count = len(data.array)
        if not count:
            return
        frames = np.array(data.array, np.float32, order="C")
        finite = np.isfinite(frames)
        if not finite.all():
            self.count_fault("not_finite", int((~finite).any(axis=1).sum()))
            frames[~finite] = 0
        clipped = engine.clipped
        frames.flags.writeable = False
        out = np.empty((count, engine.model.outputs), np.float32)
        engine.run_into(frames, out)
        if engine.clipped > clipped:
            self.count_fault("clipped", engine.clipped - clipped)
        if not np.isfinite(out).all():
            raise NodeError(
                self.name,
                f"the network's output is not finite; inputs of up to {np.abs(frames).max():.3g} "
                "are too large for it: scale them as it was trained",
            )
        took = time.perf_counter_ns() - began
        self._durations.add(took / 1000 / count, count)
        self._step = data.step
        if data.step and took > 1000 * data.step * count:
            self._late += 1
        yield self.values(Tensor(out, AXES, data.step), packet.start, packet.stop)

    def _check(self, data: Tensor) -> None:
        wanted = self._engine.model.inputs
        if data.axes != AXES or data.array.shape[1:] != (wanted,) or data.array.dtype.kind not in (
            "f", "i", "u",
        ):  # fmt: skip
            raise NodeError(
                self.name,
                f"a tensor {data.axes} of {data.array.dtype} {data.array.shape}; "
                f"{self.settings.model} takes {AXES} of real numbers, {wanted} features",
            )

    def snapshot(self) -> dict[str, Any]:
        return self._engine.snapshot()

    def restore(self, state: dict[str, Any]) -> None:
        self._engine.restore(state)

    def results(self) -> dict[str, Any]:
        frames_a_second = 1e6 / self._step if self._step else None
        return {
            "model": self.settings.model,
            "precision": self.settings.precision,
            **self._engine.counts(frames_a_second),
            "frame_us": self._durations.figures(),
            "late_packets": self._late,
        }


class Durations:
    """How long frames took: a histogram of 128 bins for each power of ten, of fixed size."""

    BINS = 128
    DECADES = 8  # from 0.1 us on

    def __init__(self) -> None:
        self._counts = np.zeros(self.BINS * self.DECADES, np.int64)
        self._largest = 0.0

    def add(self, microseconds: float, count: int) -> None:
        """Note `count` frames that took so long each."""
        at = int(self.BINS * (np.log10(max(microseconds, 0.1)) + 1))
        self._counts[min(at, self._counts.size - 1)] += count
        self._largest = max(self._largest, microseconds)

    def figures(self) -> dict[str, float]:
        """Median, p99, p99.9 (upper ends of bins, 2 % wide) and largest, us."""
        total = int(self._counts.sum())
        if not total:
            return {}
        below = np.cumsum(self._counts)
        names = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
        ends = {
            name: 10 ** ((int(np.searchsorted(below, share * total)) + 1) / self.BINS - 1)
            for name, share in names.items()
        }
        return {
            **{name: round(min(end, self._largest), 2) for name, end in ends.items()},
            "max": round(self._largest, 2),
        }
