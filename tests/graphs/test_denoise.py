"""The shipped denoiser as a user runs it: by name, on files of any kind, in processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from streamflow_nodes.audio.scores import si_snr

from streamflow.graph import shipped

FOLDER = shipped()["denoise"].parent


def run(folder: Path, *options: str, graph: str = "denoise") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamflow.cli", "run", graph, "--quiet", *options]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )


def test_a_file_comes_out_cleaner_as_long_and_aligned(tmp_path: Path) -> None:
    noisy, rate = soundfile.read(FOLDER / "noisy.flac", dtype="float32", always_2d=True)
    truth, _ = soundfile.read(FOLDER / "truth.flac", dtype="float32", always_2d=True)

    outcome = run(tmp_path, "--set", f"input.path={FOLDER / 'noisy.flac'}",
                  "--set", "output.path=mine.wav")  # fmt: skip

    assert outcome.returncode == 0, outcome.stderr
    clean, clean_rate = soundfile.read(tmp_path / "mine.wav", dtype="float32", always_2d=True)
    assert (clean.shape, clean_rate) == (noisy.shape, rate)
    before, after = (si_snr(wave[:, 0], truth[:, 0]) for wave in (noisy, clean))
    # a shift of one sample alone would cost more than 10
    assert after > before + 5
    assert (tmp_path / "before_and_after.png").read_bytes().startswith(b"\x89PNG")


def test_stereo_at_44_kHz_comes_out_as_it_went_in(tmp_path: Path) -> None:
    truth, rate = soundfile.read(FOLDER / "truth.flac", dtype="float32")
    noisy, _ = soundfile.read(FOLDER / "noisy.flac", dtype="float32")
    both = soxr.resample(np.stack([noisy, truth], axis=1), rate, 44_100)[:100_001]
    soundfile.write(tmp_path / "stereo.wav", both, 44_100, subtype="FLOAT")

    outcomes = [
        run(tmp_path, "--set", "input.path=stereo.wav", "--set", f"input.block_size={size}",
            "--set", f"output.path={size}.wav")
        for size in (333, 4096)
    ]  # fmt: skip

    assert [outcome.returncode for outcome in outcomes] == [0, 0], outcomes
    one, other = (soundfile.read(tmp_path / f"{size}.wav") for size in (333, 4096))
    assert one[1] == 44_100
    assert one[0].shape == both.shape
    assert np.array_equal(one[0], other[0]), "the size of blocks changes no sample"
    reference = both[:, 1]
    assert si_snr(one[0][:, 0], reference) > si_snr(both[:, 0], reference) + 5


def test_a_file_without_samples_comes_out_as_one(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "empty.wav", np.empty((0, 2), np.float32), 22_050)

    outcome = run(tmp_path, "--set", "input.path=empty.wav", "--set", "output.path=out.wav")

    assert outcome.returncode == 0, outcome.stderr
    told = soundfile.info(tmp_path / "out.wav")
    assert (told.frames, told.samplerate, told.channels) == (0, 22_050, 2)


def test_the_live_graph_is_sound_and_says_what_is_missing_without_a_microphone(
    tmp_path: Path,
) -> None:
    live = FOLDER / "live.yaml"
    checked = subprocess.run(
        [sys.executable, "-m", "streamflow.cli", "check", str(live)],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr

    outcome = run(tmp_path, "--set", "microphone.device=no such device", graph=str(live))

    assert outcome.returncode == 1
    assert "PortAudio" in outcome.stderr or "no such device" in outcome.stderr


@pytest.mark.parametrize("precision", ["w8a16", "w8a8"])
def test_fixed_point_hardly_changes_what_is_heard(tmp_path: Path, precision: str) -> None:
    truth, _ = soundfile.read(FOLDER / "truth.flac", dtype="float32")
    noisy, _ = soundfile.read(FOLDER / "noisy.flac", dtype="float32")

    outcome = run(tmp_path, "--set", f"denoise.precision={precision}", graph="denoise_loihi")

    assert outcome.returncode == 0, outcome.stderr
    clean, _ = soundfile.read(tmp_path / "clean.wav", dtype="float32")
    assert si_snr(clean, truth) > si_snr(noisy, truth) + (5 if precision == "w8a16" else 3)
