import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.audio.scores import Dnsmos, delay, pesq, si_snr, stoi
from streamflow_nodes.sinks.audio_scorer import AudioScorer

from streamflow.errors import NodeError
from streamflow.testing import drive

sys.path.insert(0, str(Path(__file__).parent))
from audio_packets import cut, noise, packet, recording


def scores(setting=None, **inputs):
    return drive(AudioScorer(setting or {}), **inputs).results


def buzz(seconds):
    """A voice of sorts (simulated): a buzz that comes and goes, in a little noise."""
    time = np.arange(round(seconds * 16000)) / 16000
    hiss = 0.02 * np.random.default_rng(5).standard_normal(len(time))
    return (0.3 * np.sin(300 * np.pi * time) * (np.sin(6 * np.pi * time) > 0) + hiss).astype("f4")


@given(snr=st.floats(-30, 60), scale=st.floats(0.1, 10), offset=st.floats(-0.1, 0.1))
@settings(max_examples=20)
def test_si_snr_is_the_ratio_that_was_mixed_whatever_scale_and_offset(snr, scale, offset):
    truth, other = noise(4000, seed=1)[:, 0].astype("f8"), noise(4000, seed=2)[:, 0].astype("f8")
    truth -= truth.mean()
    other -= other.mean()
    other -= (other @ truth) / (truth @ truth) * truth  # nothing of the truth is in it
    other *= np.sqrt((truth @ truth) / (other @ other)) * 10 ** (-snr / 20)

    assert si_snr(scale * (truth + other) + offset, truth) == pytest.approx(snr, abs=1e-6)


def test_scores_at_their_ends():
    voice = buzz(2)

    assert si_snr(voice, voice) == 150
    assert si_snr(0 * voice, voice) == -150
    assert si_snr(voice, 0 * voice) is None
    assert pesq(0 * voice, 0 * voice) is None
    assert pesq(voice[:1000], voice[:1000]) is None
    assert stoi(voice[:1000], voice[:1000], 16000) is None
    assert delay(0 * voice, voice, 16000, 0.5) is None


@pytest.mark.parametrize("shift", [0, 37, -700])
def test_a_delay_is_found_to_the_sample(shift):
    truth = noise(20_000)[:, 0]

    assert delay(-0.3 * np.roll(truth, shift), truth, 16000, 0.5) == shift


def test_dnsmos_is_what_its_authors_code_says():
    judge = Dnsmos()

    told = [judge(buzz(seconds)) for seconds in (12, 2.5)]

    # speechmos 0.0.1.1: dnsmos.run(buzz(12), 16000), and of buzz(2.5), which is repeated
    assert told[0] == pytest.approx({"ovrl": 1.76927, "sig": 2.52102, "bak": 2.68692}, abs=1e-3)
    assert told[1] == pytest.approx({"ovrl": 2.13624, "sig": 2.84333, "bak": 2.84433}, abs=1e-3)


def test_speech_in_noise_is_scored_as_the_peers_do_however_it_was_cut():
    from pesq import pesq as peer_pesq
    from pystoi import stoi as peer_stoi

    clean, rate = recording()
    clean = clean[: 3 * rate]
    hiss = noise(len(clean), level=0.02)
    noisy, enhanced = clean + hiss, clean + hiss / 4

    out = scores(
        {"measures": ["pesq", "stoi"]},
        clean=cut(clean, [1000]), enhanced=cut(enhanced, [128, 7]), noisy=cut(noisy, [4096]),
    )  # fmt: skip

    assert out["left_out"] == {"enhanced": 0, "clean": 0, "noisy": 0}
    assert out["samples"] == len(clean)
    assert out["enhanced"]["delay_samples"] == out["noisy"]["delay_samples"] == 0
    assert out["noisy"]["pesq"] == peer_pesq(rate, clean[:, 0], noisy[:, 0], "wb")
    for name, signal in (("enhanced", enhanced), ("noisy", noisy)):
        assert out[name]["stoi"] == pytest.approx(peer_stoi(clean[:, 0], signal[:, 0], rate))
    # the noise is 12 dB lower
    assert out["improvement"]["si_snr_db"] == pytest.approx(12.04, abs=0.05)
    assert out["improvement"]["pesq"] > 0.3


def test_inputs_are_compared_by_index_and_a_late_one_is_told_by_how_much():
    truth = noise(8000, 2)
    late = np.concatenate([np.zeros((25, 2), "f4"), truth[:-25]])

    aligned = scores(clean=cut(truth, [999]), enhanced=cut(truth[100:7000], [128], first=100))
    shifted = scores(clean=cut(truth, [999]), enhanced=cut(late, [128]))

    assert aligned["enhanced"] == {"si_snr_db": 150, "delay_samples": 0}
    assert aligned["samples"] == 6900
    assert aligned["left_out"] == {"enhanced": 0, "clean": 1100}
    assert shifted["enhanced"]["delay_samples"] == 25
    assert shifted["enhanced"]["si_snr_db"] < -10


def test_a_restarted_scorer_goes_on_as_if_nothing_had_happened():
    truth, other = noise(4000, seed=1), noise(4000, seed=2)
    inputs = {"clean": cut(truth, [500]), "enhanced": cut(truth + other, [400])}
    before, after = AudioScorer(), AudioScorer()

    drive(before, end=False, **{port: packets[:4] for port, packets in inputs.items()})
    after.open()
    after.restore(before.snapshot())
    out = drive(after, opened=True, **{port: packets[4:] for port, packets in inputs.items()})

    assert out.results == scores(**inputs)


def test_silence_and_nothing_at_all_have_no_scores():
    nothing = {"si_snr_db": None, "delay_samples": None, "stoi": None}
    setting = {"measures": ["stoi"]}

    assert scores(setting, clean=[packet(0 * noise(99))], enhanced=[packet(0 * noise(99))])[
        "enhanced"
    ] == nothing  # fmt: skip
    apart = scores(setting, clean=[packet(noise(99))], enhanced=[packet(noise(9), first=99)])
    assert apart["enhanced"] == nothing
    assert apart["left_out"] == {"enhanced": 9, "clean": 99}
    assert scores() == {}


@pytest.mark.parametrize(
    ("setting", "inputs", "message"),
    [
        ({}, {"clean": [packet(noise(9))], "enhanced": [packet(noise(9), 8000)]}, "put `resample`"),
        ({"measures": ["pesq"]}, {"enhanced": [packet(noise(9), 8000)]}, "defined for 16000 Hz"),
        ({}, {"enhanced": [packet(noise(9))]}, "nothing came on 'clean'"),
        ({"longest": 1}, {"enhanced": [packet(noise(16001))]}, "the setting 'longest'"),
    ],
)
def test_what_cannot_be_scored_is_refused(setting, inputs, message):
    with pytest.raises(NodeError, match=message):
        scores(setting, **inputs)


def test_a_package_that_is_missing_is_named_before_data_flows(monkeypatch):
    monkeypatch.setitem(sys.modules, "pystoi", None)  # as Python marks what cannot be imported

    with pytest.raises(NodeError, match=r"needs pystoi: pip install 'streamflow-neuro\[scores\]'"):
        AudioScorer({"measures": ["stoi"]}).open()
