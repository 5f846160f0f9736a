"""The sample that `graphs/denoise` ships: a sentence near a helicopter, and the sentence alone.

    python examples/denoise/make_sample.py DATA graphs/denoise

DATA holds the recordings `SPEECH` and `NOISE` of the validation split, which no model was trained
on. Writes `noisy.flac` and `truth.flac`: 16 kHz, mono, 16 bit, the same sample at the same index.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile

SPEECH = "speech/val/1116-132847-0000.flac"  # LibriSpeech (CC BY 4.0), reader Megan Stemm-Wade
NOISE = "noise/val/helicopter_esc10-4-125929-A.flac"  # ESC-10 (CC0 1.0), alienistcog
SECONDS = 5.0  # from the beginning of both
SNR = 3.0  # dB, of the whole clip
LEVEL = -26.0  # dBFS, RMS of the noisy clip: that of a voice near a microphone


def make(data: Path, out: Path) -> None:
    """Write both files to the folder `out`."""
    speech, rate = soundfile.read(data / SPEECH, dtype="float64")
    noise, noise_rate = soundfile.read(data / NOISE, dtype="float64")
    if rate != noise_rate:
        raise SystemExit(f"{SPEECH} has {rate} Hz and {NOISE} {noise_rate}; expected one rate")
    frames = round(SECONDS * rate)
    truth, noise = speech[:frames], noise[:frames]
    noise = noise * np.sqrt(np.mean(truth**2) / np.mean(noise**2)) * 10 ** (-SNR / 20)
    scale = 10 ** (LEVEL / 20) / np.sqrt(np.mean((truth + noise) ** 2))
    for name, wave in (("noisy", truth + noise), ("truth", truth)):
        # np.rint and not libsndfile's own scaling: 16-bit numbers i stand for i / 2^15
        numbers = np.clip(np.rint(scale * wave * 2**15), -(2**15), 2**15 - 1)
        soundfile.write(out / f"{name}.flac", numbers.astype(np.int16), rate)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with speech/val and noise/val")
    parser.add_argument("out", type=Path, help="folder to write noisy.flac and truth.flac to")
    arguments = parser.parse_args()
    make(arguments.data, arguments.out)
