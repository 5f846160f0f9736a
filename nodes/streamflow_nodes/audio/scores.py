"""Scores of speech: SI-SNR, PESQ, STOI, DNSMOS, and delay by correlation. Arrays in, numbers out.

Signals are (n,) of full scale 1. What a score is not defined for (silence, too little speech) is
None.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError

Signal = NDArray[np.floating[Any]]

HIGHEST_SNR = 150.0
"""dB: what float32 samples can tell; an estimate that is the truth is given this."""
WIDEBAND = 16_000
"""Hz: the rate that wideband PESQ and DNSMOS are defined for."""
PESQ_PIECE = 30
"""Seconds that are given to PESQ at once: it is meant for such, and its code has fixed tables."""
DNSMOS_WINDOW = 9.01
"""Seconds that DNSMOS judges at once, every second."""
DELAY_PIECE = 60
"""Seconds from the beginning that a delay is looked for in."""

# From raw outputs to opinions, highest power first: DNS Challenge, dnsmos_local.py (Microsoft, MIT)
DNSMOS_CURVES = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}


def si_snr(estimate: Signal, truth: Signal) -> float | None:
    """Scale-invariant signal-to-noise ratio in dB, within -150 to 150; None where the truth is
    silent.

    10 log10(|p|^2 / |e - p|^2) with p = (e . s / s . s) s, and e, s without their means
    (J. Le Roux et al., 2019, equation 5; without means as in the N-DNS challenge).
    """  # fmt: skip
    e = np.asarray(estimate, np.float64) - np.mean(estimate, dtype=np.float64)
    s = np.asarray(truth, np.float64) - np.mean(truth, dtype=np.float64)
    energy = float(s @ s)
    if not energy:
        return None
    projection = (float(e @ s) / energy) * s
    rest = e - projection
    signal, noise = float(projection @ projection), float(rest @ rest)
    least = 10 ** (-HIGHEST_SNR / 10)
    ratio = max(signal, least * noise) / max(noise, least * signal) if signal or noise else least
    return float(10 * np.log10(ratio))


def delay(signal: Signal, truth: Signal, rate: int, longest: float) -> int | None:
    """By how many samples `signal` comes after `truth`: where their correlation is largest.

    At most `longest` seconds to either side, by the first minute; None where one is silent.
    """
    count = min(len(truth), DELAY_PIECE * rate)
    a, b = (np.asarray(x[:count], np.float64) for x in (signal, truth))
    if not (a.any() and b.any()):
        return None
    reach = min(round(longest * rate), count - 1)
    length = 1 << (count + reach - 1).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(a, length) * np.conj(np.fft.rfft(b, length)), length)
    lags = np.arange(-reach, reach + 1)
    return int(lags[np.argmax(np.abs(correlation[lags]))])


def pesq(estimate: Signal, truth: Signal) -> float | None:
    """Wideband PESQ at 16 kHz (ITU-T P.862.2, 1.04 to 4.64), the mean of pieces of at most 30 s;
    None where there is no speech to compare.
    """  # fmt: skip
    from pesq import BufferTooShortError, NoUtterancesError
    from pesq import pesq as score

    pieces = max(1, -(-len(truth) // (PESQ_PIECE * WIDEBAND)))
    scores = []
    for e, s in zip(np.array_split(estimate, pieces), np.array_split(truth, pieces), strict=True):
        if not s.any():
            continue  # it would divide by 0 where both are silent
        try:
            scores.append(float(score(WIDEBAND, s, e, "wb")))
        except (NoUtterancesError, BufferTooShortError):
            continue  # silence, or less than a quarter of a second
    return float(np.mean(scores)) if scores else None


def stoi(estimate: Signal, truth: Signal, rate: int) -> float | None:
    """Short-time objective intelligibility, to 1 (C. H. Taal et al., 2011); None where there is too
    little speech (384 ms without its silences).
    """  # fmt: skip
    from pystoi import stoi as score

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # it warns, and says 1e-5
        try:
            return float(score(truth, estimate, rate))
        except (RuntimeWarning, ValueError):
            return None


class Dnsmos:
    """Microsoft's DNSMOS P.835 (C. K. A. Reddy et al., 2022): opinions, 1 to 5, without the truth.

    The network is the one that the package `speechmos` brings. It runs by onnxruntime on one
    thread; importing `speechmos.dnsmos` would need librosa, for a score that is not used here.
    """

    def __init__(self) -> None:
        """Raises ImportError where speechmos or onnxruntime is missing."""
        runtime = importlib.import_module("onnxruntime")
        found = importlib.util.find_spec("speechmos")
        if found is None or not found.submodule_search_locations:
            raise ImportError("No module named 'speechmos'", name="speechmos")
        folder = Path(found.submodule_search_locations[0])
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = runtime.InferenceSession(
            str(folder / "dnsmos_models" / "sig_bak_ovr.onnx"),
            options,
            providers=["CPUExecutionProvider"],
        )

    def __call__(self, signal: Signal) -> dict[str, float] | None:
        """`ovrl`, `sig` and `bak` of 16 kHz samples: the means of windows of 9.01 s, one a second.

        What is shorter is repeated, and what lies beyond full scale limited to it. None without
        samples.
        """
        if not len(signal):
            return None
        size = int(DNSMOS_WINDOW * WIDEBAND)
        whole = np.clip(np.asarray(signal, np.float32), -1, 1)
        while len(whole) < size:
            whole = np.concatenate([whole, whole])
        windows = int(len(whole) // WIDEBAND - DNSMOS_WINDOW) + 1
        raw = [
            self._session.run(None, {"input_1": window[None, :]})[0][0]
            for at in range(windows)
            if len(window := whole[at * WIDEBAND : int((at + DNSMOS_WINDOW) * WIDEBAND)]) >= size
        ]
        told = zip(("sig", "bak", "ovrl"), np.array(raw, np.float64).T, strict=True)
        opinions = {name: float(np.polyval(DNSMOS_CURVES[name], x).mean()) for name, x in told}
        return {name: opinions[name] for name in ("ovrl", "sig", "bak")}


def require(modules: list[str], node: str) -> None:
    """NodeError where one of the modules that scores need cannot be imported."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise NodeError(
                node, f"needs {module}: pip install 'streamflow-neuro[scores]'"
            ) from error
