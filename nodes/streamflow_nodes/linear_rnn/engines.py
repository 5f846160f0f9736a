"""The engine of a precision: what runs a network, behind one interface."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .engine import FloatEngine
from .fixed_engine import FixedEngine
from .model_file import Model

Precision = Literal["f32", "w8a16", "w8a8"]


class Engine(Protocol):
    """Runs frames through a network, and keeps its state between them."""

    model: Model
    clipped: int
    """Frames of which a value was beyond the range of the input so far; 0 in floating point."""

    def warm_up(self) -> None:
        """Compile, or load from disk, without running a frame."""

    def run(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network gives for (frames, inputs) float32: (frames, outputs) float32."""

    def run_into(self, frames: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """As `run`, into an array; `frames` C-contiguous and read-only."""

    def reset(self) -> None:
        """Forget all frames; what was counted stays."""

    def snapshot(self) -> dict[str, Any]:
        """The state as it is after the last frame."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""

    def counts(self, frames_a_second: float | None = None) -> dict[str, Any]:
        """Frames, weights, states and operations for the run report."""


def open_engine(model: Model, precision: Precision) -> Engine:
    """The engine that computes `model` in that precision.

    DeviceError when the model was not quantised for it.
    """
    return FloatEngine(model) if precision == "f32" else FixedEngine(model, precision)
