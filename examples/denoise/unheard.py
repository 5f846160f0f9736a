#!/usr/bin/env python3
"""Measures denoisers on SIMULATED steady noises, of which no recording of the corpus is one.

    python examples/denoise/unheard.py --data DIR graphs/denoise/*.safetensors [--peers]

Voices of a split, SNR of -3, 2, 7, 12 dB in turn, level -25 dBFS, seed 100. Prints the mean SI-SNR
gained (dB) for each noise. With `--peers` also what peers.py compares with, where it is installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from evaluate import Cleaner, cleaner, row_of
from mixing import RATE, Mix, Wave, load, mix
from scipy.fft import irfft, rfft, rfftfreq
from streamflow_nodes.linear_rnn.model_file import read_model

SAMPLES = 5 * RATE
SNRS_DB = (-3, 2, 7, 12)
HUM_HZ, HARMONICS = 50, 12
SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "white": np.ones_like,
    "pink": lambda hertz: 1 / np.sqrt(np.maximum(hertz, 20)),
    "brown": lambda hertz: 1 / np.maximum(hertz, 20),
    "rumble, below 100 Hz": lambda hertz: hertz < 100,
    "band, 0.7 to 1.5 kHz": lambda hertz: (hertz > 700) & (hertz < 1500),
    "hiss, above 3 kHz": lambda hertz: hertz > 3000,
}


def noises(random: np.random.Generator) -> Iterator[tuple[str, Wave]]:
    """Each noise by its name."""
    hertz, time = rfftfreq(SAMPLES, 1 / RATE), np.arange(SAMPLES) / RATE
    for name, shape in SHAPES.items():
        spectrum = rfft(random.standard_normal(SAMPLES)) * shape(hertz)
        yield name, np.asarray(irfft(spectrum, SAMPLES), np.float32)
    gusts = 10 ** (random.uniform(-20, 0, 25) / 20)
    spectrum = rfft(random.standard_normal(SAMPLES)) / np.maximum(hertz, 30) ** 1.2
    wind = irfft(spectrum, SAMPLES) * np.interp(np.linspace(0, 24, SAMPLES), np.arange(25), gusts)
    yield "wind", np.asarray(wind, np.float32)
    hum = sum(
        10 ** (-k / 6) * np.sin(2 * np.pi * HUM_HZ * k * time + random.uniform(0, 6))
        for k in range(1, HARMONICS)
    )
    yield "hum, 50 Hz", np.asarray(hum, np.float32)
    yield "one tone", np.sin(2 * np.pi * random.uniform(300, 3000) * time).astype(np.float32)


def mixes(folder: Path, split: str, count: int) -> Iterator[tuple[str, Mix]]:
    """Each noise with each of `count` voices."""
    voices = load(folder, split).speech
    names = sorted(voices)
    for number in range(count):
        random = np.random.default_rng(100 + number)
        speaker = names[random.integers(len(names))]
        speech = np.resize(voices[speaker][0], SAMPLES).astype(np.float32) / 32768
        snr_db = SNRS_DB[number % len(SNRS_DB)]
        for name, noise in noises(random):
            noisy, clean = mix(speech - speech.mean(), noise - noise.mean(), snr_db, -25.0)
            yield name, Mix(noisy, clean, snr_db, f"{speaker}+{name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val", choices=("train", "val"))
    parser.add_argument("--mixes", type=int, default=16, help="of each noise")
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    cleaners: dict[str, Cleaner] = {path.stem: cleaner(read_model(path)) for path in options.models}
    if options.peers:
        from peers import PEERS, aligned

        for peer, make in PEERS.items():
            try:
                cleaners[peer] = make()
            except (ImportError, OSError) as error:
                print(f"{peer}: left out: {error}")
    gained: dict[str, dict[str, list[float]]] = {}
    for name, one in mixes(options.data, options.split, options.mixes):
        for who, clean in cleaners.items():
            wave = clean(one.noisy)
            if options.peers and who in PEERS:
                wave = aligned(wave, one.clean)[0]
            gained.setdefault(name, {}).setdefault(who, []).append(row_of(one, wave)["gain"])
    print("| noise |" + "".join(f" {who} |" for who in cleaners))
    print("|---|" + "---|" * len(cleaners))
    for name, columns in gained.items():
        print(f"| {name} |" + "".join(f" {np.mean(column):.1f} |" for column in columns.values()))


if __name__ == "__main__":
    main()
