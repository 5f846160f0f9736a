import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.processors.istft import Istft
from streamflow_nodes.processors.reblock import Reblock
from streamflow_nodes.processors.stft import Stft

from streamflow.errors import NodeError
from streamflow.packet import Packet, Tensor
from streamflow.testing import drive

sys.path.insert(0, str(Path(__file__).parent))
from audio_packets import cut, in_two_lives, noise, packet, recording, seen

frames = st.sampled_from(
    [{"size": 16, "hop": 4}, {"size": 15, "hop": 4}, {"size": 16, "hop": 16, "window": "boxcar"},
     {"size": 12, "hop": 5, "window": "hann"}, {"size": 16, "hop": 1}]
)  # fmt: skip
sizes = st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any)
lengths = st.integers(0, 120)


@settings(max_examples=25)
@given(
    setting=frames, sizes=sizes, length=lengths, first=st.integers(0, 9), offset=st.integers(0, 99)
)
def test_spectra_and_signal_do_not_depend_on_how_samples_are_cut(
    setting, sizes, length, first, offset
):
    array = noise(length, 2)
    inverse = {**setting, "rate": 16000}

    whole = drive(Stft(setting), samples=[packet(array, first=first, offset=offset)])
    pieces = drive(Stft(setting), samples=cut(array, sizes, first=first, offset=offset))

    assert seen(pieces, "spectra") == seen(whole, "spectra")
    one = drive(Istft(inverse), spectra=whole["spectra"])
    many = drive(Istft(inverse), spectra=pieces["spectra"])
    single = [  # packets of one frame each, with their spans
        Packet(p.start, p.stop, Tensor(p.data.array[k : k + 1], p.data.axes, p.data.step))
        for p in pieces["spectra"]
        for k in range(len(p.data.array))
    ]
    assert seen(many, "samples") == seen(one, "samples")
    if len(single) == len(pieces["spectra"]):
        assert seen(drive(Istft(inverse), spectra=single), "samples") == seen(one, "samples")


@settings(max_examples=25)
@given(
    setting=frames, sizes=sizes, length=lengths, first=st.integers(0, 9), offset=st.integers(0, 99)
)
def test_a_signal_comes_back_whole_with_its_ends_its_indices_and_its_times(
    setting, sizes, length, first, offset
):
    array = noise(length, 2)
    packets = cut(array, sizes, rate=44100, first=first, offset=offset)

    spectra = drive(Stft(setting), samples=packets)["spectra"]
    out = drive(Istft({**setting, "rate": 44100}), spectra=spectra)

    assert sum(len(p.data) for p in out["samples"]) == length
    assert out.faults == {"missing_frame": 0, "repeated_frame": 0, "not_finite": 0}
    if length:
        # float32: what is added up is up to a few times the signal's level
        np.testing.assert_allclose(out.items("samples"), array, atol=2e-6)
        assert out["samples"][0].start == packets[0].start
        if offset:  # times say no index then, and each node rounds to its own microseconds
            assert abs(out["samples"][-1].stop - packets[-1].stop) <= 1
        else:
            assert out["samples"][-1].stop == packets[-1].stop
            assert out["samples"][0].data.first == first


def test_samples_leave_up_to_the_last_packets_stop_where_no_frames_follow_it():
    array, setting = noise(64, 2), {"size": 16, "hop": 4}
    node = Stft(setting)
    spectra = drive(node, samples=[packet(array)], end=False)["spectra"]  # no frames behind the end

    out = drive(Istft({**setting, "rate": 16000}), spectra=spectra)

    got = out.items("samples")
    assert out["samples"][-1].stop == spectra[-1].stop
    # the last size - hop samples are those that more frames could still have changed
    np.testing.assert_allclose(got[:52], array[:52], atol=2e-6)
    assert (len(got), bool(got[52:].all())) == (64, True)


def test_spectra_are_those_of_scipy():
    from scipy.signal import ShortTimeFFT  # here: all that is loaded slows `drive` down

    array = noise(2000)

    out = drive(Stft({"size": 64, "hop": 24, "window": "hann"}), samples=[packet(array)])

    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    peer = ShortTimeFFT(window, 24, 16000, fft_mode="onesided", phase_shift=None)
    # scipy's slice p is centred on sample 24 p, ours ends with sample 24 k + 23
    padded = np.concatenate([np.zeros(64 - 24 - 32 + 24), array[:, 0]])
    expected = peer.stft(padded, p0=1, p1=80).T
    # of float32, against double precision
    np.testing.assert_allclose(out.items("spectra")[:79, 0], expected, atol=2e-5)


def test_a_real_recording_comes_back_through_512_by_128():
    array, rate = recording()
    setting = {"size": 512, "hop": 128}

    spectra = drive(Stft(setting), samples=cut(array, [160], rate))["spectra"]
    out = drive(Istft({**setting, "rate": rate}), spectra=spectra)

    assert np.abs(out.items("samples") - array).max() < 1e-6
    assert out["samples"][0].data.first == 0


@given(stop=st.integers(0, 9), sizes=sizes)
@settings(max_examples=8)
def test_restarted_nodes_go_on_as_if_nothing_had_happened(stop, sizes):
    array = noise(150, 2)
    packets = cut(array, sizes, first=3)

    setting = {"size": 16, "hop": 4}
    whole = drive(Stft(setting), samples=packets)
    spectra = in_two_lives(lambda: Stft(setting), packets, stop, "spectra")
    assert np.array_equal(spectra, whole.items("spectra"))

    inverse = {**setting, "rate": 16000}
    samples = in_two_lives(lambda: Istft(inverse), whole["spectra"], stop, "samples", "spectra")
    assert np.array_equal(samples, drive(Istft(inverse), spectra=whole["spectra"]).items("samples"))

    blocks = in_two_lives(lambda: Reblock({"block_size": 7}), packets, stop, "blocks")
    assert np.array_equal(blocks, array)


@given(size=st.integers(1, 50), sizes=sizes, length=lengths)
@settings(max_examples=15)
def test_blocks_have_one_size_and_hold_the_same_samples(size, sizes, length):
    array = noise(length, 2)

    out = drive(Reblock({"block_size": size}), samples=cut(array, sizes, first=5))

    lengths = [len(p.data) for p in out["blocks"]]
    assert all(n == size for n in lengths[:-1])
    assert sum(lengths) == length
    assert [p.data.first for p in out["blocks"]] == list(range(5, 5 + length, size))
    if length:
        assert np.array_equal(out.items("blocks"), array)


def test_missing_repeated_and_broken_samples_are_counted_and_time_stays_right():
    array = noise(100, 1)
    array[7] = np.nan
    packets = [packet(array[:20]), packet(array[30:40], first=30), packet(array[35:], first=35)]
    packets[2] = Packet(packets[1].start, packets[2].stop, packets[2].data)

    out = drive(Reblock({"block_size": 100}), samples=packets)

    expected = array.copy()
    expected[7], expected[20:30] = 0, 0
    assert np.array_equal(out.items("blocks"), expected)
    assert out.faults == {"missing_sample": 10, "repeated_sample": 5, "not_finite": 1}


def test_frames_that_an_edge_dropped_are_silence():
    array = noise(400)
    spectra = drive(Stft({"size": 16, "hop": 4}), samples=cut(array, [40]))["spectra"]

    out = drive(Istft({"size": 16, "hop": 4, "rate": 16000}), spectra=spectra[:3] + spectra[5:])

    back = out.items("samples")
    assert out.faults["missing_frame"] == 20
    assert len(back) == 400
    assert not back[120:184].any()
    np.testing.assert_allclose(back[200:], array[200:], atol=1e-6)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (packet(noise(9), 8000, 9), "1 channels at 8000 Hz after 1 at 16000 Hz"),
        (packet(noise(9, 2), 16000, 9), "2 channels at 16000 Hz after 1 at 16000 Hz"),
        (packet(noise(9).astype(np.float64), 16000, 9), r"float64 at 16000 Hz; expected float32"),
        (packet(noise(9), 16000, 1 << 40), "where 9 was due; expected gaps of at most 3600 s"),
    ],
)
def test_a_stream_that_becomes_another_one_is_refused(second, message):
    with pytest.raises(NodeError, match=message):
        drive(Stft(), samples=[packet(noise(9)), second])


def test_windows_that_lose_samples_and_wrong_spectra_are_refused():
    with pytest.raises(NodeError, match="expected a hop of at most half the size"):
        Istft({"size": 16, "hop": 16, "rate": 16000}).open()
    with pytest.raises(NodeError, match="expected a hop of at most the size"):
        Stft({"size": 16, "hop": 17})
    spectra = drive(Stft({"size": 16, "hop": 4}), samples=[packet(noise(99))])["spectra"]
    with pytest.raises(NodeError, match="set size, hop and rate as `stft` has them"):
        drive(Istft({"size": 16, "hop": 4, "rate": 8000}), spectra=spectra)
