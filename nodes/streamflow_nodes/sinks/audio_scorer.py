"""`audio_scorer`: how good enhanced speech is."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from streamflow.errors import NodeError
from streamflow.node import In, Node, Positive, Seconds, Settings
from streamflow.packet import Packet, Samples

from ..audio.scores import WIDEBAND, Dnsmos, delay, pesq, require, si_snr, stoi
from ..audio.streams import FAULTS, FloatSamples, KeptSamples
from ..spans import span_of

Measure = Literal["pesq", "stoi", "dnsmos"]
NEEDED = {"pesq": ["pesq"], "stoi": ["pystoi"], "dnsmos": ["onnxruntime", "speechmos"]}


class AudioScorerSettings(Settings, frozen=True, kw_only=True):
    """What is measured besides SI-SNR and delay, and how much is kept for it."""

    measures: list[Measure] = []
    """`pesq` (wideband, 16 kHz), `stoi`, `dnsmos` (16 kHz; needs no truth): extra `scores`."""
    longest_delay: Seconds = 0.5
    """How far to look for a delay, to either side."""
    longest: Positive = 600
    """Seconds of each input that are kept at most."""


class AudioScorer(Node[AudioScorerSettings]):
    """Scores of `enhanced` speech against the `clean` truth, and how much better it is than
    `noisy`.

    Inputs are compared sample by sample of the same index, over the samples that all have; what
    only some have is told (`left_out`). Nothing is shifted: an output that is late scores badly,
    and `delay_samples` says by how many samples it is (where its correlation with the truth is
    largest). All inputs have one rate and the same channels; the scores of channels are averaged.

    Results, for `enhanced` and `noisy`: `si_snr_db` (scale-invariant, without means; limited to 150
    dB), `delay_samples`, and by `measures` `pesq` (P.862.2), `stoi`, `dnsmos_ovrl`, `dnsmos_sig`
    and `dnsmos_bak` (P.835); in `improvement` the difference of the two. A score that is not
    defined, as for silence, is null. Without `clean` only `dnsmos` can be told.

    Emits nothing. State: all samples, of at most `longest` seconds; longer streams are refused.
    Missing samples become silence and are counted, as are repeated ones and NaN (`SampleStream`).

        scores:
          kind: audio_scorer
          inputs: {enhanced: denoise.samples, clean: mix.truth, noisy: mix.mixed}
          settings: {measures: [pesq, stoi, dnsmos]}
    """  # fmt: skip

    enhanced = In(Samples)
    clean = In(Samples, optional=True)
    noisy = In(Samples, optional=True)
    faults = FAULTS

    def open(self) -> None:
        measures = self.settings.measures
        require([module for name in measures for module in NEEDED[name]], self.name)
        self._dnsmos = Dnsmos() if "dnsmos" in measures else None
        self._kept = {port: KeptSamples(self, port) for port in type(self).inputs}
        self._results: dict[str, Any] = {}

    def on_enhanced(self, packet: Packet[Samples]) -> None:
        self._take("enhanced", packet)

    def on_clean(self, packet: Packet[Samples]) -> None:
        self._take("clean", packet)

    def on_noisy(self, packet: Packet[Samples]) -> None:
        self._take("noisy", packet)

    def finish(self) -> None:
        kept = {port: kept for port, kept in self._kept.items() if kept.stream.has_begun}
        if "enhanced" not in kept:
            return
        self._results = self._scores(kept)

    def results(self) -> dict[str, Any]:
        return self._results

    def snapshot(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for kept in self._kept.values():
            state.update(kept.snapshot())
        return state

    def restore(self, state: dict[str, Any]) -> None:
        for kept in self._kept.values():
            kept.restore(state)

    def _take(self, port: str, packet: Packet[Samples]) -> None:
        kept = self._kept[port]
        for array in kept.stream.take(packet):
            kept.add(array)
            self._check(port, packet)

    def _check(self, port: str, packet: Packet[Samples]) -> None:
        stream, kept = self._kept[port].stream, self._kept[port]
        for name, other in self._kept.items():
            rate, channels = other.stream.rate, other.stream.channels
            if rate and (rate, channels) != (stream.rate, stream.channels):
                raise NodeError(
                    self.name,
                    f"{port!r} has {stream.channels} channels at {stream.rate} Hz, {name!r} "
                    f"{channels} at {rate} Hz; expected the same: put `resample` before one",
                    span=span_of(packet),
                )
        wideband = [name for name in self.settings.measures if name != "stoi"]
        if wideband and stream.rate != WIDEBAND:
            raise NodeError(
                self.name,
                f"{port!r} has {stream.rate} Hz; {' and '.join(wideband)} are defined for "
                f"{WIDEBAND} Hz: put `resample` before each input",
                span=span_of(packet),
            )
        if kept.count > self.settings.longest * stream.rate:
            raise NodeError(
                self.name,
                f"{port!r} has more than {self.settings.longest} s (the setting 'longest'), all of "
                "which are kept: raise it, or score a part",
                span=span_of(packet),
            )

    def _scores(self, kept: dict[str, KeptSamples]) -> dict[str, Any]:
        if "clean" not in kept and set(self.settings.measures) != {"dnsmos"}:
            raise NodeError(
                self.name,
                "nothing came on 'clean', which all but dnsmos need; connect it, or set measures: "
                "[dnsmos]",
            )
        first = max(each.first for each in kept.values())
        end = max(first, min(each.stream.next for each in kept.values()))
        signals = {port: each.get(first, end) for port, each in kept.items()}
        truth, rate = signals.pop("clean", None), kept["enhanced"].stream.rate
        results: dict[str, Any] = {
            "rate": rate,
            "samples": end - first,
            "left_out": {port: each.count - (end - first) for port, each in kept.items()},
        }
        for port, signal in signals.items():
            channels = [
                self._score(signal[:, c], None if truth is None else truth[:, c], rate)
                for c in range(signal.shape[1])
            ]
            results[port] = {name: _mean([each[name] for each in channels]) for name in channels[0]}
        if "noisy" in signals:
            results["improvement"] = {
                name: _difference(value, results["noisy"][name])
                for name, value in results["enhanced"].items()
                if name != "delay_samples"
            }
        return results

    def _score(self, signal: FloatSamples, truth: FloatSamples | None, rate: int) -> dict[str, Any]:
        """The scores of one channel, (n,)."""
        measures, scores = self.settings.measures, {}
        signal = np.ascontiguousarray(signal)
        if truth is not None:
            truth = np.ascontiguousarray(truth)
            is_empty = not len(truth)
            scores["si_snr_db"] = None if is_empty else si_snr(signal, truth)
            lag = None if is_empty else delay(signal, truth, rate, self.settings.longest_delay)
            scores["delay_samples"] = lag
            if "pesq" in measures:
                scores["pesq"] = None if is_empty else pesq(signal, truth)
            if "stoi" in measures:
                scores["stoi"] = None if is_empty else stoi(signal, truth, rate)
        if self._dnsmos is not None:
            opinions = self._dnsmos(signal) or dict.fromkeys(("ovrl", "sig", "bak"))
            scores.update({f"dnsmos_{name}": value for name, value in opinions.items()})
        return scores


def _mean(values: list[float | None]) -> float | None:
    """The mean over channels; None where one has none."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return known[0] if len(known) == 1 else float(np.mean(known))


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
