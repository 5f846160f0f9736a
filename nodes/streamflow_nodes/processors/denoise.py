"""`denoise`: speech without the noise around it, live."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError, NodeError
from streamflow.node import Emission, FilePath, Fraction, In, Node, Out, Settings
from streamflow.packet import Packet, Samples, Text

from ..audio.denoising import Denoiser, FrontEnd, front_end_of
from ..audio.streams import FAULTS, FloatSamples, SampleStream, sample_at
from ..linear_rnn.engines import Precision, open_engine
from ..linear_rnn.model_file import read_model

FADE_S = 0.01
"""How long bypass takes to come or go: shorter clicks."""
WORDS = {"bypass": 0.0, "denoise": 1.0}
BINS_PER_OCTAVE = 8


class DenoiseSettings(Settings, frozen=True, kw_only=True):
    """The network, and how much of what it takes away is taken away."""

    model: FilePath
    """A denoiser (.safetensors), as `examples/denoise/train.py` writes it."""
    precision: Precision = "f32"
    """`f32`, or the fixed point of `docs/fixed-point.md`: `w8a16`, `w8a8`."""
    wet: Fraction = 1.0
    """1 gives the cleaned sound, 0 the sound as it came, both at the same time as each other."""
    attenuation_limit: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """dB: no more than this is taken away of anything. null has no limit."""
    bypass: bool = False
    """Begin with the sound as it came, delayed as if it were cleaned."""
    controlled: bool = False
    """Whether `control` is connected. Samples then wait until it is known what control said of
    their time."""


class Denoise(Node[DenoiseSettings]):
    """Speech with less noise: any rate in, the same rate, length and sample indices out.

    Frames of the model's window and hop (32 and 8 ms for the shipped one) pass through a linear
    recurrent network that says what of each frequency is speech (A. Pierro, S. Abreu and others,
    2025, "Accelerating linear recurrent neural networks for the edge with unstructured sparsity").
    Each channel is cleaned on its own. Sound at another rate than the model's is converted there
    and back by soxr (extra `audio`), and loses what the model's rate cannot hold.

    What leaves is aligned with what came, sample for sample, and the same bits however it was cut;
    it leaves later: `results()` says by how much (`delay_samples`: one window, and what the
    converters hold), how long a frame took, and how many took longer than until the next one is
    due. `control` takes Text, `bypass` or `denoise`, from the packet's start on; the change takes
    10 ms, so that it does not click.

    Missing samples become silence and are counted, as are repeated ones and NaN (`SampleStream`).
    State: frames, network, held samples. soxr gives no state: after a restart at another rate than
    the model's, the samples that the converters held pass as they came (`passed_uncleaned`).

        clean: {kind: denoise, inputs: {samples: input.samples}, settings: {model: m.safetensors}}
    """

    samples = In(Samples)
    control = In(Text, optional=True)
    denoised = Out(Samples)
    faults = (*FAULTS, "passed_uncleaned", "late_frame")

    def open(self) -> None:
        settings = self.settings
        try:
            self._model = read_model(settings.model)
            self._front_end = front_end_of(self._model)
            self._denoiser().warm_up()
        except DeviceError as error:
            raise NodeError(self.name, str(error)) from error
        try:
            import soxr
        except ImportError:
            soxr = None
        self._soxr = soxr
        limit = settings.attenuation_limit
        self._most = settings.wet * (1 if limit is None else 1 - 10 ** (-limit / 20))
        self._stream = SampleStream(self)
        self._chain: _Chain | None = None
        self._waiting: deque[FloatSamples] = deque()  # until it is known what control said
        self._fed = 0  # samples that went into the chain
        self._dry: deque[FloatSamples] = deque()  # what went in and has not left
        self._given = 0
        self._unclean = 0  # samples that leave as they came: a restart lost what was made of them
        self._switches: deque[tuple[int, float]] = deque()  # (sample, 0 or 1)
        first = 0.0 if settings.bypass else 1.0
        self._fade = (-(1 << 60), first, first)  # begins at a sample, from, to
        self._times = _Times()

    def on_samples(self, packet: Packet[Samples]) -> Iterator[Emission]:
        for array in self._stream.take(packet):
            if self._chain is None:
                self._fed = self._given = self._stream.first
                self._chain = self._begin(self._stream.first)
            if self.settings.controlled:
                self._waiting.append(array)
            else:
                yield from self._pass(array)
        self._hold()

    def on_control(self, packet: Packet[Text]) -> None:
        if not self.settings.controlled:
            raise NodeError(self.name, "control is connected; expected settings: controlled: true")
        word = str(packet.data).strip()
        if word not in WORDS:
            raise NodeError(self.name, f"control said {word!r}; expected {' or '.join(WORDS)}")
        self._switches.append((packet.start, WORDS[word]))

    def advance(self, time: int) -> Iterator[Emission]:
        if self._waiting:
            yield from self._release(self._index_before(time))
            self._hold()

    def finish(self) -> Iterator[Emission]:
        if self._chain is not None:
            yield from self._release(self._stream.next)
            yield from self._leave(self._chain.finish(self._stream.next))
        elif self._stream.has_begun:  # without a sample: an empty file in is an empty file out
            stream = self._stream
            nothing = Samples(np.zeros((0, stream.channels), np.float32), stream.rate, stream.first)
            yield self.denoised(nothing, stream.start, stream.start)

    def results(self) -> dict[str, Any]:
        front_end, rate = self._front_end, self._stream.rate or self._front_end.rate
        held = self._chain.delay if self._chain else 0.0
        delay = math.ceil((front_end.window / front_end.rate + held) * rate)
        return {
            "precision": self.settings.precision,
            "delay_samples": delay,
            "delay_ms": round(1e3 * delay / rate, 3),
            **(self._chain.counts() if self._chain else {"frames": 0}),
            **self._times.summary(1e6 * front_end.hop / front_end.rate),
        }

    def snapshot(self) -> dict[str, Any]:
        if self._chain is None:
            return {}
        state: dict[str, Any] = {
            **self._stream.snapshot(), **self._chain.snapshot(),
            "dry": _joined(self._dry, self._stream.channels),
            "waiting": _joined(self._waiting, self._stream.channels),
            "fed": self._fed, "given": self._given, "unclean": self._unclean,
            "fade": np.array(self._fade),
            "switches": np.array(self._switches, np.float64).reshape(-1, 2),
        }  # fmt: skip
        return state

    def restore(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self._stream.restore(state)
        self._fed, self._given = int(state["fed"]), int(state["given"])
        self._unclean = int(state["unclean"])
        self._dry.extend(_pieces(state["dry"]))
        self._waiting.extend(_pieces(state["waiting"]))
        begin, old, new = state["fade"].tolist()
        self._fade = (int(begin), old, new)
        self._switches.extend((int(when), to) for when, to in state["switches"].tolist())
        self._chain = self._begin(self._fed)
        if self._chain.is_resampled:
            self._unclean = self._fed - self._given
            self.count_fault("passed_uncleaned", self._unclean)
        else:
            self._chain.restore(state)
        self._hold()

    def _denoiser(self) -> Denoiser:
        return Denoiser(self._front_end, open_engine(self._model, self.settings.precision))

    def _begin(self, first: int) -> _Chain:
        """What cleans a stream whose next sample is the one with the index `first`."""
        stream = self._stream
        if stream.rate != self._front_end.rate and self._soxr is None:
            raise NodeError(
                self.name,
                f"sound at {stream.rate} Hz and a model for {self._front_end.rate} Hz: converting "
                "needs soxr: pip install 'streamflow-neuro[audio]'",
            )
        denoisers = [self._denoiser() for _ in range(stream.channels)]
        return _Chain(denoisers, self._front_end, stream.rate, first, self._soxr)

    def _release(self, end: int) -> Iterator[Emission]:
        """Clean the samples that wait and have an index below `end`."""
        while self._waiting and self._fed < end:
            array = self._waiting.popleft()
            if len(array) > end - self._fed:
                self._waiting.appendleft(array[end - self._fed :])
                array = array[: end - self._fed]
            yield from self._pass(array)

    def _pass(self, array: FloatSamples) -> Iterator[Emission]:
        chain = self._chain
        assert chain is not None  # set with the first samples
        self._dry.append(array)
        self._fed += len(array)
        before, began = chain.frames, time.perf_counter_ns()
        wet = chain.feed(array)
        frames = chain.frames - before
        if frames:
            budget = 1e9 * self._front_end.hop / self._front_end.rate
            late = self._times.add(time.perf_counter_ns() - began, frames, budget)
            self.count_fault("late_frame", late)
        yield from self._leave(wet)

    def _leave(self, wet: FloatSamples) -> Iterator[Emission]:
        """What is complete, mixed with what came at the same time."""
        unclean = self._unclean
        if not len(wet) + unclean:
            return
        first, self._unclean = self._given, 0
        self._given += len(wet) + unclean
        dry = self._take_dry(len(wet) + unclean)
        out = dry.copy()
        out[unclean:] += self._mix(first + unclean, len(wet)) * (wet - dry[unclean:])
        stream = self._stream
        yield self.denoised(
            Samples(out, stream.rate, first), stream.time(first), stream.time(self._given)
        )

    def _take_dry(self, count: int) -> FloatSamples:
        taken: list[FloatSamples] = []
        while count:
            array = self._dry.popleft()
            if len(array) > count:
                self._dry.appendleft(array[count:])
                array = array[:count]
            taken.append(array)
            count -= len(array)
        return np.concatenate(taken)

    def _mix(self, first: int, count: int) -> NDArray[np.float32] | np.float32:
        """How much of each sample is the cleaned one, (count, 1), or one number for all."""
        length = max(1, round(FADE_S * self._stream.rate))
        begin, old, new = self._fade
        if not self._switches and first - begin + 1 >= length:
            return np.float32(old + (new - old)) * np.float32(self._most)
        out = np.empty(count, np.float32)
        at = 0
        while at < count:
            end = count
            if self._switches:
                switch = self._index_before(self._switches[0][0])
                if switch <= first + at:
                    to = self._switches.popleft()[1]
                    self._fade = (first + at, float(self._faded(first + at, length)), to)
                    continue
                end = min(count, switch - first)
            out[at:end] = self._faded(np.arange(first + at, first + end), length)
            at = end
        return (out * np.float32(self._most))[:, None]

    def _faded(self, index: Any, length: int) -> Any:
        begin, old, new = self._fade
        return old + (new - old) * np.clip((index - begin + 1) / length, 0.0, 1.0)

    def _index_before(self, time: int) -> int:
        """The first sample that does not begin before `time` (us)."""
        stream = self._stream
        index = stream.first + sample_at(time - stream.start, stream.rate)
        while stream.time(index) < time:
            index += 1
        while stream.time(index - 1) >= time:
            index -= 1
        return index

    def _hold(self) -> None:
        if self._stream.has_begun:
            self.holds_from = self._stream.time(self._given)


class _Chain:
    """Rate conversion there, one denoiser a channel, and rate conversion back.

    Samples are numbered from the stream's begin; conversion begins at the last sample before
    `first` that lies at the same time in both rates, with silence up to it.
    """

    def __init__(
        self, denoisers: list[Denoiser], front_end: FrontEnd, rate: int, first: int, soxr: Any
    ) -> None:
        self._denoisers, self._front_end = denoisers, front_end
        self.is_resampled = rate != front_end.rate
        self.delay = 0.0  # seconds that the converters held back at most
        self._origin, self._early, self._count = first, 0, 0
        if self.is_resampled:
            channels, low = len(denoisers), front_end.rate
            self._down = soxr.ResampleStream(rate, low, channels, dtype="float32")
            self._up = soxr.ResampleStream(low, rate, channels, dtype="float32")
            self._early = first % (rate // math.gcd(rate, low))
            self._origin = first - self._early
            self._rate = rate
            self._drop = self._early
            if self._early:
                self._given(self._convert(np.zeros((self._early, channels), np.float32)))

    @property
    def frames(self) -> int:
        """Frames cleaned so far, of one channel."""
        return self._denoisers[0].frames

    def counts(self) -> dict[str, Any]:
        """Frames and operations, of one channel."""
        denoiser, front_end = self._denoisers[0], self._front_end
        return denoiser.engine.counts(front_end.rate / front_end.hop)

    def feed(self, samples: FloatSamples) -> FloatSamples:
        """(n, channels) that came to (m, channels) that are complete."""
        return self._given(self._convert(samples))

    def finish(self, end: int) -> FloatSamples:
        """The rest, up to the sample with the index `end`."""
        if not self.is_resampled:
            return self._each(None)
        nothing = np.zeros((0, len(self._denoisers)), np.float32)
        low = self._each(self._down.resample_chunk(nothing, last=True))
        low = np.concatenate([low, self._each(None)])
        before = self._count
        rest = self._given(self._up.resample_chunk(low, last=True))
        wanted = end - self._origin - self._early - before
        # rounding there and back may give one sample more or less than came
        return np.pad(rest, ((0, max(0, wanted - len(rest))), (0, 0)))[:wanted]

    def snapshot(self) -> dict[str, Any]:
        """The denoisers' states; nothing where converters hold a state that cannot be had."""
        if self.is_resampled:
            return {}
        return {
            f"channel{number}_{key}": value
            for number, denoiser in enumerate(self._denoisers)
            for key, value in denoiser.snapshot().items()
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        for number, denoiser in enumerate(self._denoisers):
            mark = f"channel{number}_"
            own = {key[len(mark) :]: state[key] for key in state if key.startswith(mark)}
            denoiser.restore(own)

    def _convert(self, samples: FloatSamples) -> FloatSamples:
        if not self.is_resampled:
            return self._each(samples)
        clean = self._each(self._down.resample_chunk(samples))
        # a chunk of no samples would be taken for the end
        out: FloatSamples = self._up.resample_chunk(clean) if len(clean) else clean
        held = self._down.delay() / self._front_end.rate + self._up.delay() / self._rate
        self.delay = max(self.delay, held)
        return out

    def _each(self, samples: FloatSamples | None) -> FloatSamples:
        """Every channel cleaned; the rest of every channel for None."""
        if samples is None:
            return np.concatenate([one.finish() for one in self._denoisers], axis=1)
        columns = [
            one.feed(np.ascontiguousarray(samples[:, number : number + 1]))
            for number, one in enumerate(self._denoisers)
        ]
        return np.concatenate(columns, axis=1)

    def _given(self, out: FloatSamples) -> FloatSamples:
        """`out` without what belongs to the silence before the first sample."""
        if self.is_resampled and self._drop:
            dropped = min(self._drop, len(out))
            self._drop -= dropped
            out = out[dropped:]
        self._count += len(out)
        return out


class _Times:
    """How long frames took, in bins of an eighth of an octave."""

    def __init__(self) -> None:
        self._bins = np.zeros(40 * BINS_PER_OCTAVE, np.int64)
        self._most = 0.0
        self._frames = self._late = 0

    def add(self, ns: int, frames: int, budget: float) -> int:
        """So many frames took `ns` together; how many of them took more than `budget` (ns)."""
        each = max(1.0, ns / frames)
        self._bins[min(int(BINS_PER_OCTAVE * math.log2(each)), len(self._bins) - 1)] += frames
        self._most, self._frames = max(self._most, each), self._frames + frames
        late = frames if each > budget else 0
        self._late += late
        return late

    def summary(self, hop_us: float) -> dict[str, Any]:
        """Quantiles in us, the upper ends of their bins."""
        total = np.cumsum(self._bins)

        def quantile(q: float) -> float:
            at = int(np.searchsorted(total, q * self._frames))
            return round(min(2 ** ((at + 1) / BINS_PER_OCTAVE), self._most) / 1e3, 1)

        took = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
        return {
            "late_frames": self._late,
            "hop_us": hop_us,
            "frame_us": {name: quantile(q) if self._frames else 0.0 for name, q in took.items()},
        }


def _joined(arrays: deque[FloatSamples], channels: int) -> FloatSamples:
    return np.concatenate([*arrays, np.zeros((0, channels), np.float32)])


def _pieces(array: FloatSamples) -> list[FloatSamples]:
    return [array] if len(array) else []
