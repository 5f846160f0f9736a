"""A voice out of noise, frame by frame: front end, linear recurrent network, mask, and back.

The `front_end` of a model's file says what the network sees and what its outputs do:

    {"rate": 16000, "window": 512, "hop": 128, "window_function": "sqrt_hann",
     "features": "log_power", "floor": 1e-6, "low": 0, "near_zero": 1e-12,
     "mask": "gain", "taps": 0, "least_gain": 0.0}

`features`: `log10(|X|^2 + floor)` of every bin, then the cosine and sine of the phase that each of
the `low` lowest bins gained since the frame before, on top of its centre frequency's
(`kernels/speech_mask.py` has the equations). `mask`: `1 + output` multiplies every bin, held to
`least_gain` at least; in the low bins further outputs are a complex filter over this frame and the
`taps` before it. An extra key is refused: nothing about a model is guessed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError

from ..kernels import speech_mask as kernel
from ..linear_rnn.engines import Engine
from ..linear_rnn.model_file import Model
from .spectra import Analysis, Frames, Synthesis
from .streams import FloatSamples

At_least_0 = Annotated[float, msgspec.Meta(ge=0)]


class FrontEnd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes the network's input and what its output means; the module's text says how."""

    rate: Annotated[int, msgspec.Meta(ge=1_000, le=1_000_000)]
    window: Annotated[int, msgspec.Meta(ge=2, le=1 << 16)]
    hop: Annotated[int, msgspec.Meta(ge=1)]
    window_function: Literal["sqrt_hann", "hann", "boxcar"] = "sqrt_hann"
    features: Literal["log_power"] = "log_power"
    floor: Annotated[float, msgspec.Meta(gt=0)]
    low: Annotated[int, msgspec.Meta(ge=0)] = 0
    near_zero: Annotated[float, msgspec.Meta(gt=0)] = 1e-12
    mask: Literal["gain"] = "gain"
    taps: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    least_gain: At_least_0 | None = None

    @property
    def bins(self) -> int:
        """Frequencies of a frame."""
        return self.window // 2 + 1

    @property
    def inputs(self) -> int:
        """Numbers that the network sees of a frame."""
        return self.bins + 2 * self.low

    @property
    def outputs(self) -> int:
        """Numbers that the network has to give for a frame."""
        return self.bins + self.low * (1 + 2 * self.taps)


def front_end_of(model: Model) -> FrontEnd:
    """What a denoiser's file says of its front end; DeviceError where it is not one."""
    try:
        front_end = msgspec.convert(model.header.front_end, FrontEnd)
    except msgspec.ValidationError as error:
        raise DeviceError(
            f"{model.path}: front_end: {error}; expected the front end of a denoiser, as "
            "examples/denoise/train.py writes it"
        ) from error
    if front_end.hop > front_end.window // 2 or front_end.low > front_end.bins:
        raise DeviceError(
            f"{model.path}: front_end: hop {front_end.hop}, window {front_end.window}, low "
            f"{front_end.low}; expected hop <= window / 2 and low <= {front_end.bins}"
        )
    if (model.inputs, model.outputs) != (front_end.inputs, front_end.outputs):
        raise DeviceError(
            f"{model.path}: the network has {model.inputs} inputs and {model.outputs} outputs; its "
            f"front end needs {front_end.inputs} and {front_end.outputs}"
        )
    return front_end


class Denoiser:
    """One channel of speech at the model's rate, cleaned as it comes.

    The same bits however the samples were cut. What leaves is aligned with what came: the sample m
    that leaves belongs to the sample m that came, up to `window - 1` samples after it did. State:
    the samples that frames still need, the network's, and the low bins of the last frames.
    """

    def __init__(self, front_end: FrontEnd, engine: Engine) -> None:
        self.front_end, self.engine = front_end, engine
        frames = Frames(front_end.window, front_end.hop, front_end.window_function)
        self._analysis, self._synthesis = Analysis(frames), Synthesis(frames)
        low = front_end.low
        turn = np.exp(2j * np.pi * np.arange(low) * front_end.hop / front_end.window)
        self._turn = turn.astype(np.complex64)
        self._before = np.zeros((max(front_end.taps, 1), low), np.complex64)
        least = front_end.least_gain
        self._least = np.float32(-np.inf if least is None else least)
        self._given = 0

    @property
    def frames(self) -> int:
        """Frames cleaned so far."""
        return self._synthesis.count

    def warm_up(self) -> None:
        """Compile, before any data flows."""
        self._analysis.warm_up()
        self._synthesis.warm_up()
        self.engine.warm_up()
        self._mask(np.zeros((0, self.front_end.bins), np.complex64))

    def feed(self, samples: FloatSamples) -> FloatSamples:
        """The samples (m, 1) that are complete with these (n, 1)."""
        out = self._synthesis.feed(self._clean(self._analysis.feed(samples)))
        self._given += len(out)
        return out

    def finish(self) -> FloatSamples:
        """What is still held, (m, 1): as many samples have left then as came."""
        came = self._analysis.samples
        rest = self._synthesis.feed(self._clean(self._analysis.finish()))
        out = np.concatenate([rest, self._synthesis.finish()])[: came - self._given]
        self._given += len(out)
        return out

    def snapshot(self) -> dict[str, Any]:
        """The state as flat numbers and arrays."""
        engine = {f"engine_{key}": value for key, value in self.engine.snapshot().items()}
        return {
            **engine,
            "analysis": self._analysis.held.copy(), "samples": self._analysis.samples,
            "synthesis": self._synthesis.held.copy(), "frames": self._synthesis.count,
            "before": self._before.copy(), "given": self._given,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        engine = {k[len("engine_") :]: v for k, v in state.items() if k.startswith("engine_")}
        self.engine.restore(engine)
        self._analysis.held, self._analysis.samples = state["analysis"], int(state["samples"])
        self._synthesis.held, self._synthesis.count = state["synthesis"], int(state["frames"])
        self._before[:] = state["before"]
        self._given = int(state["given"])

    def _clean(self, spectra: NDArray[np.complex64]) -> NDArray[np.complex64]:
        if not len(spectra):
            return spectra
        return self._mask(np.ascontiguousarray(spectra[:, 0]))[:, None]

    def _mask(self, spectrum: NDArray[np.complex64]) -> NDArray[np.complex64]:
        front_end = self.front_end
        features = np.empty((len(spectrum), front_end.inputs), np.float32)
        kernel.features(
            spectrum, self._before, self._turn, np.float32(front_end.floor),
            np.float32(front_end.near_zero), features,
        )  # fmt: skip
        features.flags.writeable = False
        outputs = self.engine.run(features)
        out = np.empty_like(spectrum)
        kernel.clean(outputs, spectrum, self._before, self._turn, front_end.taps, self._least, out)
        kernel.remember(spectrum, self._before)
        return out
