"""`level`, `mix`, `spectrogram` and the picture of it."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.processors.level import Level
from streamflow_nodes.processors.mix import Mix
from streamflow_nodes.processors.spectrogram import Spectrogram
from streamflow_nodes.processors.stft import Stft
from streamflow_nodes.sinks.spectrogram_plot import SpectrogramPlot

from streamflow.errors import NodeError
from streamflow.testing import drive

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from audio_packets import cut, in_two_lives, noise, packet, seen
from runs import Run

sizes = st.lists(st.integers(0, 60), min_size=1, max_size=4).filter(any)


def tone(frames, level=1.0, cycles=8, rate=16000):
    """A sine with `cycles` in 512 samples."""
    return (level * np.sin(2 * np.pi * cycles / 512 * np.arange(frames))[:, None]).astype("f4")


@given(sizes=sizes, length=st.integers(0, 200), stop=st.integers(0, 6))
@settings(max_examples=8)
def test_levels_do_not_depend_on_packets_or_restarts(sizes, length, stop):
    array = noise(length, 2, level=1.0)
    packets = cut(array, sizes, first=3)
    setting = {"period": 0.002}

    whole = drive(Level(setting), samples=[packet(array, first=3)])
    pieces = drive(Level(setting), samples=packets)

    assert seen(pieces, "levels") == seen(whole, "levels")
    assert pieces.results == whole.results
    if length:
        rows = in_two_lives(lambda: Level(setting), packets, stop, "levels")
        assert rows.tobytes() == whole.items("levels").tobytes()


def test_levels_are_those_of_the_samples():
    array = np.concatenate([tone(1600, 0.5), np.zeros((1600, 1), "f4"), tone(800, 1.0)])
    array[1700] = -1

    out = drive(Level(), samples=[packet(array)])

    rows = out.items("levels")
    assert rows["time_us"].tolist() == [0, 100_000, 200_000]
    assert rows["peak_dbfs"] == pytest.approx([-6.02, 0, 0], abs=0.01)
    expected = 10 * np.log10([0.5**2 / 2, 1 / 1600, 0.5])
    assert rows["rms_dbfs"] == pytest.approx(expected, abs=0.1)
    assert rows["clipped"][1] == 1
    assert out.results["samples"] == 4000
    assert out.results["clipped"] == [int((np.abs(array) >= 0.9999).sum())]
    assert out.results["rms_dbfs"] == pytest.approx(
        [10 * np.log10(np.mean(array.astype("f8") ** 2))], abs=1e-4
    )
    assert drive(Level(), samples=[packet(0 * array)]).results["rms_dbfs"] == [-150]


@given(sizes=sizes, other=sizes, snr=st.floats(-20, 40), channels=st.integers(1, 2))
@settings(max_examples=8)
def test_noise_lies_below_speech_by_the_ratio(sizes, other, snr, channels):
    speech, below = noise(300, 2, 1), noise(250, channels, 2, level=3.0)

    out = drive(Mix({"snr": snr}), speech=cut(speech, sizes), noise=cut(below, other, first=20))

    added = out.items("mixed").astype("f8") - speech
    assert not added[:20].any()
    assert not added[270:].any()
    power = np.mean(speech[20:270].astype("f8") ** 2) / np.mean(added[20:270] ** 2)
    # float32 sums of noise that may lie 40 dB below
    assert 10 * np.log10(power) == pytest.approx(snr, abs=0.01)
    assert out.faults["noise_missing"] == 50


@given(sizes=sizes, other=sizes, shift=st.integers(0, 40), stop=st.integers(0, 5))
@settings(max_examples=12)
def test_a_set_gain_adds_sample_to_sample_however_they_come(sizes, other, shift, stop):
    speech, below = noise(200, 1, 1), noise(150, 1, 2)

    out = drive(
        Mix({"gain": -6}), speech=cut(speech, sizes, first=10), noise=cut(below, other, first=shift)
    )

    expected = speech.copy()
    low, high = max(10, shift), min(210, shift + 150)
    expected[low - 10 : high - 10] += np.float32(10**-0.3) * below[low - shift : high - shift]
    assert np.array_equal(out.items("mixed"), expected)
    assert np.array_equal(out.items("truth"), speech)
    spans = [[(p.start, p.stop, p.data.first) for p in out[port]] for port in ("mixed", "truth")]
    assert spans[0] == spans[1]
    assert out["mixed"][0].data.first == 10
    assert out.faults["noise_missing"] == 200 - (high - low)


def test_a_set_gain_lets_samples_leave_as_they_come_and_survives_a_restart():
    speech, below = noise(200, 1, 1), noise(200, 1, 2)
    inputs = {"speech": cut(speech, [20]), "noise": cut(below, [40])}

    before, after = Mix({"gain": 0}), Mix({"gain": 0})
    early = drive(before, end=False, speech=inputs["speech"][:6], noise=inputs["noise"][:3])[
        "mixed"
    ]
    assert sum(len(p.data) for p in early) == 120
    after.open()
    after.restore(before.snapshot())
    late = drive(after, opened=True, speech=inputs["speech"][6:], noise=inputs["noise"][3:])
    mixed = np.concatenate([p.data.array for p in (*early, *late["mixed"])])

    assert np.array_equal(mixed, speech + below)


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(NodeError, match="expected exactly one of them"):
        Mix().open()
    with pytest.raises(NodeError, match="put `resample` behind one of them"):
        drive(Mix({"snr": 0}), speech=[packet(noise(9))], noise=[packet(noise(9), 8000)])
    with pytest.raises(NodeError, match="expected sound on both"):
        drive(Mix({"snr": 0}), speech=[packet(noise(9))], noise=[packet(0 * noise(9))])
    with pytest.raises(NodeError, match="raise it, or set 'gain' instead"):
        drive(Mix({"snr": 0, "longest": 1}), speech=[packet(noise(16001))])


def test_a_tone_of_full_scale_is_at_0_db_in_its_bin():
    out = drive(Spectrogram(), samples=cut(tone(5120), [333]))

    levels = out.items("levels")
    whole = levels[2:19, 0]  # the frames that lie in the tone as a whole
    assert whole.shape == (17, 257)
    assert np.abs(whole[:, 8]).max() < 0.01
    assert whole[:, 20:].max() < -100
    assert levels.min() >= -120.001
    assert [p.data.step for p in out["levels"]] == [16000] * len(out["levels"])
    same = drive(Stft({"hop": 256, "window": "hann"}), samples=cut(tone(5120), [333]))
    expected = 20 * np.log10(np.maximum(np.abs(same.items("spectra")) * 2 / 256, 1e-6))
    np.testing.assert_allclose(levels, expected, atol=0.1)


def test_a_picture_shows_two_sounds_and_is_the_same_after_a_restart(tmp_path):
    from matplotlib.image import imread

    def page(name, setting, parts):
        nodes = [SpectrogramPlot({"path": str(tmp_path / name), **setting}) for _ in parts]
        for number, (node, (samples, compared)) in enumerate(zip(nodes, parts, strict=True)):
            node.open()
            if number:
                node.restore(nodes[number - 1].snapshot())
            out = drive(
                node, opened=True, end=number == len(parts) - 1, samples=samples, compared=compared
            )
        assert out.results == {"path": str(tmp_path / name)}
        return imread(tmp_path / name)[:, :, :3]

    loud, quiet = cut(tone(16000), [800]), cut(tone(16000, 1e-3), [700])
    setting = {"columns": 50, "dpi": 40}

    whole = page("one.png", setting, [(loud, quiet)])
    parts = page("two.png", setting, [(loud[:7], quiet[:4]), (loud[7:], quiet[4:])])
    alone = page("three.png", {**setting, "refresh": 0.9}, [(loud, [])])

    assert np.array_equal(whole, parts)
    upper, lower = np.array_split(whole[:, : whole.shape[1] * 3 // 4], 2)
    # the tone at 250 Hz is a bright line only in the upper picture (magma: bright is yellow)
    is_bright = [
        (part[..., 1] > 0.6) & (part[..., 0] > part[..., 2] + 0.15) for part in (upper, lower)
    ]
    assert is_bright[0].sum() > 10 * is_bright[1].sum()
    assert alone.shape[0] < whole.shape[0]


@given(sizes=sizes, channels=st.integers(1, 2), columns=st.integers(3, 9))
@settings(max_examples=10, deadline=None)
def test_a_picture_is_the_same_bits_however_the_sound_was_cut(sizes, channels, columns):
    array = noise(400, channels)

    def sums(packets):
        node = SpectrogramPlot({"path": "a.png", "columns": columns, "size": 16, "hop": 8})
        node.open()
        drive(node, opened=True, end=False, samples=packets)
        return node.snapshot()["samples_sums"]

    whole, pieces = sums([packet(array)]), sums(cut(array, sizes))

    assert whole.any()
    assert pieces.tobytes() == whole.tobytes()


CHAIN = """
name: chain
nodes:
  speech: {kind: audio_file, settings: {path: speech.wav, block_size: 300}}
  noise: {kind: audio_file, settings: {path: noise.wav, block_size: 1000}}
  noisy: {kind: mix, inputs: {speech: speech.samples, noise: noise.samples}, settings: {snr: 5}}
  blocks: {kind: reblock, inputs: {samples: noisy.mixed}, settings: {block_size: 160}}
  spectra: {kind: stft, inputs: {samples: blocks.blocks}}
  back: {kind: istft, inputs: {spectra: spectra.spectra}, settings: {rate: 16000}}
  up: {kind: resample, inputs: {samples: back.samples}, settings: {rate: 44100}}
  down: {kind: resample, inputs: {samples: up.resampled}, settings: {rate: 16000}}
  loudness: {kind: level, inputs: {samples: down.resampled}}
  rows: {kind: csv_file, inputs: {rows: loudness.levels}, settings: {path: levels.csv}}
  whole:
    kind: audio_scorer
    inputs: {enhanced: back.samples, clean: noisy.mixed}
  score:
    kind: audio_scorer
    inputs: {enhanced: down.resampled, clean: noisy.truth, noisy: noisy.mixed}
processes:
  one: {nodes: [speech, noise, noisy]}
  two: {nodes: [blocks, spectra, back, up, down, loudness]}
  three: {nodes: [rows, whole, score]}
"""


def test_a_chain_in_processes_gives_every_sample_back_in_its_place(tmp_path):
    voice = tone(32_001, 0.3, cycles=9)
    soundfile.write(tmp_path / "speech.wav", voice, 16000, "FLOAT")
    soundfile.write(tmp_path / "noise.wav", noise(40_000), 16000, "FLOAT")

    run = Run(tmp_path, CHAIN)

    assert run.end() == 0, run.err
    results = run.report["results"]
    assert results["whole"]["samples"] == results["score"]["samples"] == 32_001
    assert results["whole"]["left_out"] == {"enhanced": 0, "clean": 0}
    assert results["whole"]["enhanced"]["si_snr_db"] > 120  # float32, there and back
    assert results["score"]["noisy"]["si_snr_db"] == pytest.approx(5, abs=0.3)
    assert results["score"]["enhanced"]["delay_samples"] == 0
    # what is lost to the two filters is noise above 7.3 kHz
    assert 0 < results["score"]["improvement"]["si_snr_db"] < 1
    assert results["loudness"]["samples"] == 32_001
    assert len((tmp_path / "levels.csv").read_text().splitlines()) == 1 + 21
    assert not any(sum(node["faults"].values()) for node in run.report["nodes"].values())
