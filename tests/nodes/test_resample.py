import sys
from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.processors.resample import Resample

from streamflow.testing import drive

sys.path.insert(0, str(Path(__file__).parent))
from audio_packets import cut, noise, packet, recording, seen

sizes = st.lists(st.integers(0, 700), min_size=1, max_size=4).filter(any)


@given(rates=st.sampled_from([(44100, 16000), (16000, 48000), (8000, 11025)]), sizes=sizes)
@settings(max_examples=15)
def test_the_streamed_signal_is_the_whole_one_bit_for_bit(rates, sizes):
    old, new = rates
    array = noise(3000, 2)

    out = drive(Resample({"rate": new}), samples=cut(array, sizes, old))

    assert np.array_equal(out.items("resampled"), soxr.resample(array, old, new))
    assert len(out.items("resampled")) == round(3000 * new / old)
    indices = [0, *np.cumsum([len(p.data) for p in out["resampled"]]).tolist()]
    assert [p.data.first for p in out["resampled"]] == indices[:-1]
    assert {p.data.rate for p in out["resampled"]} == {new}


@pytest.mark.parametrize("first", [1, 441, 1000])
def test_a_stream_that_begins_later_keeps_its_place_in_time(first):
    """A tone says where each sample lies: its phase is that of the index."""
    index = np.arange(first, first + 20_000)
    tone = np.sin(2 * np.pi * 1000 * index / 44100).astype(np.float32)[:, None]

    out = drive(Resample({"rate": 16000}), samples=cut(tone, [4410], 44100, first))

    begin = out["resampled"][0].data.first
    assert begin == -(-first * 160 // 441)
    there = np.arange(begin, begin + len(out.items("resampled")))
    expected = np.sin(2 * np.pi * 1000 * there / 16000)
    # without the ends, where the tone begins and stops at once
    np.testing.assert_allclose(out.items("resampled")[200:-200, 0], expected[200:-200], atol=1e-4)


def test_a_recording_comes_back_from_another_rate_in_its_place_and_length():
    array, rate = recording()

    up = drive(Resample({"rate": 44100}), samples=cut(array, [1024], rate))
    back = drive(Resample({"rate": rate}), samples=up["resampled"])

    there = back.items("resampled")
    assert len(there) == len(array)
    # soxr's high quality keeps what lies below 0.91 of half the rate: 7.3 kHz
    error, signal = (np.abs(np.fft.rfft(x[:, 0])) ** 2 for x in (there - array, array))
    below = round(7000 * len(array) / rate)
    assert error[:below].sum() < 1e-6 * signal[:below].sum()


def test_the_delay_that_is_told_is_the_longest_that_a_sample_waited():
    node, worst, left = Resample({"rate": 16000}), 0.0, 0
    node.open()

    for piece in cut(noise(30_000), [480], 48000):
        left += sum(len(e.packet.data) for e in node.on_samples(piece))
        worst = max(worst, (piece.data.first + 480) / 3 - left)
    list(node.finish())

    assert node.results()["delay_samples"] == np.ceil(worst)
    assert 0.002 < node.results()["delay_s"] < 0.05


def test_a_rate_that_is_right_already_is_left_alone():
    array = noise(1000, 2)

    out = drive(Resample({"rate": 16000}), samples=cut(array, [33, 0], first=7))

    assert seen(out, "resampled") == seen(
        drive(Resample({"rate": 16000}), samples=[packet(array, first=7)]), "resampled"
    )
    assert np.array_equal(out.items("resampled"), array)
    assert out.results == {"delay_samples": 0, "delay_s": 0.0}
