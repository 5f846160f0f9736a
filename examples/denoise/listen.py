#!/usr/bin/env python3
"""Writes a few noisy clips and what the denoiser makes of them, with whose recordings they are.

    python examples/denoise/listen.py --data DIR --output docs/results/denoise

The clips are the first of a seed in which the kinds of noise differ (val split, SNR 0, 5 and 10 dB,
4 s), as 16 bit FLAC: N_noisy.flac, N_cleaned.flac. DIR/manifest.csv says origin, licence and author
of every recording; README.md in the folder repeats that for those that were used.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import soundfile
from evaluate import cleaner, row_of
from mixing import RATE, Mix, fixed_mixes
from streamflow_nodes.linear_rnn.model_file import read_model

MODEL = Path(__file__).resolve().parents[2] / "graphs" / "denoise" / "model.safetensors"
SNRS_DB, SECONDS, SEED = (0.0, 5.0, 10.0), 4.0, 21
HEADER = """# Clips before and after

Written by `examples/denoise/listen.py`: speech of the val split (readers that the network was not
trained on) with recorded noise, and what `graphs/denoise/model.safetensors` makes of it. Speech and
noise were cut to 4 s, scaled and mixed; the cleaned clips are the denoiser's output.

| clip | input SNR / dB | SI-SNR gained / dB | speech | noise |
|---|---|---|---|---|
"""


def chosen(data: Path) -> list[Mix]:
    """The first mix of each SNR whose kind of noise no clip before it has."""
    clips: list[Mix] = []
    kinds: set[str] = set()
    for mix in fixed_mixes(data, "val", 60, SEED, SECONDS, SNRS_DB):
        kind = mix.name.split("+")[1].split("_")[0]
        if len(clips) < len(SNRS_DB) and mix.snr_db == SNRS_DB[len(clips)] and kind not in kinds:
            clips.append(mix)
            kinds.add(kind)
    return clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=MODEL)
    options = parser.parse_args()
    clean = cleaner(read_model(options.model))
    with open(options.data / "manifest.csv", newline="") as file:
        sources = {Path(row["file"]).stem: row for row in csv.DictReader(file)}
    options.output.mkdir(parents=True, exist_ok=True)
    text = HEADER
    for number, mix in enumerate(chosen(options.data), 1):
        wave = clean(mix.noisy)
        for name, samples in (("noisy", mix.noisy), ("cleaned", wave)):
            path = options.output / f"{number}_{name}.flac"
            soundfile.write(path, np.clip(samples, -1, 1), RATE, subtype="PCM_16")
        told = [f"{sources[name]['author']}, {sources[name]['licence']} ({name})"
                for name in mix.name.split("+")]  # fmt: skip
        gain = row_of(mix, wave)["gain"]
        text += f"| {number} | {mix.snr_db:.0f} | {gain:+.1f} | {' | '.join(told)} |\n"
    (options.output / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
