"""`denoise` against a slow reference: whole, cut, at any rate, controlled and restarted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from streamflow_nodes.linear_rnn.model_file import Model, write_model
from streamflow_nodes.processors.denoise import Denoise

from streamflow.errors import NodeError
from streamflow.packet import Packet, Samples, Text
from streamflow.testing import drive

WINDOW, HOP, LOW, TAPS, BINS = 64, 16, 9, 2, 33
RATE = 16_000
FRONT_END = {
    "rate": RATE, "window": WINDOW, "hop": HOP, "window_function": "sqrt_hann",
    "features": "log_power", "floor": 1e-6, "low": LOW, "near_zero": 1e-12,
    "mask": "gain", "taps": TAPS, "least_gain": None,
}  # fmt: skip
WIDTH, STATES = 12, 6


def write(path: Path, seed: int = 0, strength: float = 0.3, **front_end: Any) -> Model:
    """A small random denoiser; `strength` 0 gives one that changes nothing."""
    rng = np.random.default_rng(seed)
    inputs, outputs = BINS + 2 * LOW, BINS + LOW * (1 + 2 * TAPS)

    def normal(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    tensors = {
        "in.weight": normal(WIDTH, inputs, scale=0.05), "in.bias": normal(WIDTH, scale=0.1),
        "s.lambda_re": -rng.uniform(0.1, 2, STATES).astype(np.float32),
        "s.lambda_im": normal(STATES, scale=3), "s.dt": np.full(1, 0.1, np.float32),
        "s.B_re": normal(STATES, WIDTH), "s.B_im": normal(STATES, WIDTH),
        "s.C_re": normal(WIDTH, STATES), "s.C_im": normal(WIDTH, STATES),
        "s.D": normal(WIDTH), "s.gate.weight": normal(WIDTH, WIDTH), "s.gate.bias": normal(WIDTH),
        "out.weight": normal(outputs, WIDTH, scale=strength), "out.bias": np.zeros(outputs, "f4"),
    }  # fmt: skip
    layers = [
        {"type": "dense", "name": "in", "activation": "relu"},
        {"type": "s5", "name": "s"},
        {"type": "dense", "name": "out"},
    ]
    return write_model(path, layers, tensors, front_end={**FRONT_END, **front_end})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    write(path)
    return str(path)


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A denoiser that takes nothing away."""
    path = tmp_path_factory.mktemp("model") / "same.safetensors"
    write(path, strength=0.0)
    return str(path)


def noise(count: int, channels: int = 1, seed: int = 1) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((count, channels))).astype(np.float32)


def packets(
    wave: NDArray[np.float32], cuts: list[int], rate: int = RATE, first: int = 0
) -> list[Packet[Samples]]:
    ends = sorted({min(cut, len(wave)) for cut in cuts} | {len(wave)})
    out, at = [], 0
    for end in ends:
        start, stop = ((first + i) * 1_000_000 // rate for i in (at, end))
        out.append(Packet(start, stop, Samples(wave[at:end].copy(), rate, first + at)))
        at = end
    return out


def clean(sent: list[Packet[Samples]], **options: Any) -> tuple[NDArray[np.float32], Any]:
    driven = drive(Denoise(options), samples=sent)
    given = driven.packets["denoised"]
    at = sent[0].data.first
    for packet in given:
        assert packet.data.first == at
        at += len(packet.data.array)
    return np.concatenate([packet.data.array for packet in given]), driven.results


def reference(wave: NDArray[np.float32], model: str) -> NDArray[np.float64]:
    """One channel, by the equations, a number at a time, in double precision."""
    from streamflow_nodes.linear_rnn.model_file import read_model

    encoder, s5, decoder = read_model(model).layers
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW))
    count = -(-(len(wave) + WINDOW - HOP) // HOP)
    padded = np.zeros(count * HOP + 2 * WINDOW)
    padded[WINDOW - HOP : WINDOW - HOP + len(wave)] = wave
    out, weight = np.zeros_like(padded), np.zeros_like(padded)
    past = [np.zeros(LOW, complex) for _ in range(TAPS)]
    turn = np.exp(2j * np.pi * np.arange(LOW) * HOP / WINDOW)
    x = np.zeros(STATES, complex)
    for k in range(count):
        spectrum = np.fft.rfft(window * padded[k * HOP : k * HOP + WINDOW])
        product = spectrum[:LOW] * np.conj(turn * past[0])
        product /= np.sqrt(np.abs(product) ** 2 + 1e-12)
        power = np.log10(np.abs(spectrum) ** 2 + 1e-6)
        u = np.maximum(encoder.weight @ np.concatenate([power, product.real, product.imag])
                       + encoder.bias, 0)  # fmt: skip
        x = s5.a * x + s5.b @ u + s5.input_bias
        z = np.maximum((s5.c @ np.where(x.real > 0, x, 0)).real + s5.d * u + s5.output_bias, 0)
        z = z / (1 + np.exp(-(s5.gate_weight @ z + s5.gate_bias)))
        said = decoder.weight @ np.maximum(u + z, 0) + decoder.bias
        cleaned = spectrum * (1 + said[:BINS])
        cleaned[:LOW] += 1j * said[BINS : BINS + LOW] * spectrum[:LOW]
        for n in range(TAPS):
            pair = said[BINS + (2 * n + 1) * LOW :][: 2 * LOW]
            cleaned[:LOW] += (pair[:LOW] + 1j * pair[LOW:]) * turn ** (n + 1) * past[n]
        past = [spectrum[:LOW], *past[:-1]]
        out[k * HOP : k * HOP + WINDOW] += window * np.fft.irfft(cleaned)
        weight[k * HOP : k * HOP + WINDOW] += window**2
    whole = out / np.where(weight > 0, weight, 1)
    return whole[WINDOW - HOP :][: len(wave)]


def test_what_leaves_is_what_the_equations_give_for_the_whole_sound(model: str) -> None:
    wave = noise(3001)

    got, results = clean(packets(wave, [700, 701, 2000]), model=model)

    expected = reference(wave[:, 0], model)
    assert np.abs(expected - wave[:, 0]).max() > 0.1, "the network changes the sound"
    np.testing.assert_allclose(got[:, 0], expected, atol=2e-5)
    assert results["frames"] == -(-(3001 + WINDOW - HOP) // HOP)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 1200), max_size=9), st.sampled_from([0, 5, 12_345]))
def test_the_bits_are_the_same_however_the_sound_was_cut(
    model: str, cuts: list[int], first: int
) -> None:
    wave = noise(1200, 2)

    whole, _ = clean(packets(wave, [], first=first), model=model)
    cut, _ = clean(packets(wave, cuts, first=first), model=model)

    assert len(whole) == len(wave)
    assert np.array_equal(whole, cut)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("first", [0, 12_345])
def test_another_rate_comes_back_as_long_and_at_the_same_place(
    same: str, rate: int, first: int
) -> None:
    # a chirp below 3 kHz: every rate holds it, so nothing but the converters' ripple may change
    t = np.arange(rate + 1) / rate
    fade = np.minimum(1, np.minimum(t, t[-1] - t) / 0.1)
    wave = (0.5 * fade * np.sin(2 * np.pi * (200 * t + 1300 * t**2))).astype(np.float32)[:, None]

    got, _ = clean(packets(wave, [4000, 4001], rate, first), model=same)
    again, _ = clean(packets(wave, [], rate, first), model=same)

    assert got.shape == wave.shape
    assert np.array_equal(got, again)
    np.testing.assert_allclose(got, wave, atol=2e-3)


def test_a_network_that_takes_nothing_away_gives_every_sample_back(same: str) -> None:
    wave = noise(1003)

    got, _ = clean(packets(wave, [100]), model=same)

    np.testing.assert_allclose(got, wave, atol=1e-6)


def test_wet_and_attenuation_limit_keep_a_part_of_the_sound(model: str) -> None:
    wave = noise(1000)
    wet, _ = clean(packets(wave, []), model=model)

    dry, _ = clean(packets(wave, []), model=model, wet=0.0)
    half, _ = clean(packets(wave, []), model=model, wet=0.5)
    limited, _ = clean(packets(wave, []), model=model, attenuation_limit=20.0)

    assert np.array_equal(dry, wave)
    np.testing.assert_allclose(half, (wave + wet) / 2, atol=1e-6)
    np.testing.assert_allclose(limited, wet + 0.1 * (wave - wet), atol=1e-6)


@settings(max_examples=10)
@given(st.lists(st.integers(0, 4000), max_size=6))
def test_control_fades_to_the_delayed_sound_and_back_without_a_click(
    model: str, cuts: list[int]
) -> None:
    wave = noise(4000)
    wet, _ = clean(packets(wave, []), model=model)
    said = [(50_000, "bypass"), (150_000, "denoise")]
    control = [Packet(at, at + 1, Text.of(word)) for at, word in said]

    node = Denoise({"model": model, "controlled": True})
    driven = drive(node, samples=packets(wave, cuts), control=control)
    got = np.concatenate([packet.data.array for packet in driven.packets["denoised"]])

    mix = np.ones(4000)
    ramp = np.arange(1, 161) / 160
    mix[800:960], mix[960:2400], mix[2400:2560] = 1 - ramp, 0, ramp
    np.testing.assert_allclose(got[:, 0], wave[:, 0] + mix * (wet - wave)[:, 0], atol=1e-5)
    assert np.array_equal(got[960:2400], wave[960:2400])


@pytest.mark.parametrize(("rate", "exact"), [(16_000, True), (48_000, False)])
def test_a_restart_goes_on_where_the_snapshot_was_taken(
    model: str, same: str, rate: int, exact: bool
) -> None:
    model = model if exact else same
    wave = noise(30_000)
    sent = packets(wave, [10_000, 20_000], rate)
    whole, _ = clean(sent, model=model)

    node = Denoise({"model": model})
    first = drive(node, samples=sent[:1], end=False)
    state = node.snapshot()
    second = Denoise({"model": model})
    second.open()
    second.restore(state)
    rest = drive(second, samples=sent[1:], opened=True)

    given = [*first.packets["denoised"], *rest.packets["denoised"]]
    got = np.concatenate([packet.data.array for packet in given])
    assert got.shape == wave.shape
    if exact:
        assert np.array_equal(got, whole)
        return
    left = sum(len(packet.data.array) for packet in first.packets["denoised"])
    unclean = rest.faults["passed_uncleaned"]
    assert left + unclean == 10_000
    assert np.array_equal(got[left:10_000], wave[left:10_000])
    np.testing.assert_allclose(got[16_000:], whole[16_000:], atol=1e-3)


def test_the_stated_delay_is_the_one_a_listener_would_measure(same: str) -> None:
    """Blocks of one hop arrive and leave in real time; correlation finds how late they are."""
    wave = noise(6400)
    node = Denoise({"model": same})
    node.open()
    waiting, heard = np.zeros((0, 1), np.float32), []
    for block in packets(wave, list(range(HOP, 6400, HOP))):
        for emission in node.on_samples(block):
            waiting = np.concatenate([waiting, emission.packet.data.array])
        # a block is whole only when its last sample came, so it is heard from then on
        heard.append(waiting[:HOP] if len(waiting) >= HOP else np.zeros((HOP, 1), np.float32))
        waiting = waiting[len(heard[-1]) if len(waiting) >= HOP else 0 :]
    played = np.concatenate([np.zeros((HOP, 1)), *heard])[:6400, 0]

    found = int(np.argmax(np.correlate(played, wave[:, 0], "full"))) - (len(wave) - 1)

    assert found == node.results()["delay_samples"] == WINDOW


@pytest.mark.parametrize(
    ("front_end", "words"),
    [
        ({"low": 8}, ["51 inputs", "needs 49"]),
        ({"hop": 48}, ["hop 48"]),
        ({"features": "mel"}, ["front_end", "mel"]),
        ({"colour": 1}, ["front_end", "colour"]),
    ],
)
def test_a_front_end_that_does_not_fit_is_refused(
    tmp_path: Path, front_end: dict[str, Any], words: list[str]
) -> None:
    write(tmp_path / "m.safetensors", **front_end)

    with pytest.raises(NodeError) as caught:
        Denoise({"model": str(tmp_path / "m.safetensors")}).open()

    assert all(word in str(caught.value) for word in words)


def test_control_that_is_not_waited_for_or_not_understood_is_refused(model: str) -> None:
    sent = packets(noise(100), [])
    with pytest.raises(NodeError, match="controlled: true"):
        drive(Denoise({"model": model}), samples=sent, control=[Packet(0, 1, Text.of("bypass"))])
    with pytest.raises(NodeError, match="expected bypass or denoise"):
        drive(
            Denoise({"model": model, "controlled": True}),
            samples=sent, control=[Packet(0, 1, Text.of("off"))],
        )  # fmt: skip


def test_a_whole_number_of_frames_and_no_samples_at_all_are_fine(model: str) -> None:
    driven = drive(Denoise({"model": model}), samples=[])
    assert driven.packets["denoised"] == []

    got, _ = clean(packets(noise(1), []), model=model)
    assert got.shape == (1, 1)
