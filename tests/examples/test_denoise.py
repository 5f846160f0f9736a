"""The denoiser's example: its mixes, its training step, its model file, and the shipped models."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "denoise"
DATA = ROOT.parent / "shared" / "data" / "audio"
SHIPPED = ROOT / "graphs" / "denoise"
RATE = 16_000

soundfile = pytest.importorskip("soundfile", reason="needs the extra audio")
if importlib.util.find_spec("torch") is None:
    pytest.skip("needs the extra train (torch)", allow_module_level=True)


@pytest.fixture(autouse=True)
def example(monkeypatch):
    """The example's modules can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(EXAMPLE)
    names = [path.stem for path in EXAMPLE.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in names:
        sys.modules.pop(name, None)


def voice(random, seconds):
    """SIMULATED speech: harmonics of a wandering pitch, in syllables."""
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = 120 * (1 + random.random()) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    tones = sum(np.sin(k * phase) / k for k in range(1, 12))
    return 0.1 * tones * (np.sin(2 * np.pi * 3 * time + 6 * random.random()) > 0)


@pytest.fixture
def data(tmp_path):
    """SIMULATED speech and noise in the folders that the example reads."""
    random = np.random.default_rng(1)
    for split in ("train", "val", "test"):
        for part in ("speech", "noise"):
            (tmp_path / part / split).mkdir(parents=True)
        for number in range(4):
            speech, noise = voice(random, 4), 0.1 * random.standard_normal(4 * RATE)
            soundfile.write(tmp_path / "speech" / split / f"{number}-1-1.flac", speech, RATE)
            soundfile.write(tmp_path / "noise" / split / f"hiss_{number}.flac", noise, RATE)
    return tmp_path


def energy_ratio_db(clean, noise):
    return 10 * np.log10((clean @ clean) / (noise @ noise))


def test_fixed_mixes_have_the_snr_they_say_and_are_the_same_every_time(data):
    import mixing

    mixes = list(mixing.fixed_mixes(data, "val", 6, seed=3, seconds=2.0))
    again = list(mixing.fixed_mixes(data, "val", 6, seed=3, seconds=2.0))

    for mix, other in zip(mixes, again, strict=True):
        # float32 waves: the noise is recovered by a subtraction
        measured = energy_ratio_db(mix.clean, mix.noisy - mix.clean)
        assert measured == pytest.approx(mix.snr_db, abs=0.01)
        assert np.array_equal(mix.noisy, other.noisy)
    assert len({mix.snr_db for mix in mixes}) == 6


def test_training_mixes_never_clip_or_repeat_and_hold_the_speech_they_promise(data):
    import mixing

    mixes = mixing.TrainingMixes(mixing.load(data, "train"), 1.0, seed=5)
    noisy, clean = (
        np.concatenate(parts) for parts in zip(*(mixes.batch(60) for _ in range(4)), strict=True)
    )

    assert noisy.dtype == clean.dtype == np.float32
    assert np.isfinite(noisy).all()
    assert np.abs(noisy).max() <= 1
    assert len(np.unique(noisy[:, 5000])) == len(noisy)
    audible = (clean**2).sum(1) > 1e-4
    ratios = [
        energy_ratio_db(c, n - c) for n, c in zip(noisy[audible], clean[audible], strict=True)
    ]
    assert -8.1 < min(ratios) < 0
    assert 20 < max(ratios) < 40.1


def is_piece(wave, recordings):
    """Whether the wave is a piece of one of the recordings, but for its level."""
    for recording in recordings:
        recording = recording.astype(np.float64)
        size = len(wave) + len(recording)
        spectrum = np.fft.rfft(recording, size) * np.fft.rfft(wave, size).conj()
        alike = np.fft.irfft(spectrum, size)[: len(recording) - len(wave) + 1]
        energy = np.concatenate([[0], np.cumsum(recording**2)])
        norms = np.sqrt((energy[len(wave) :] - energy[: -len(wave)]) * (wave @ wave))
        if (alike > 0.999 * norms).any():
            return True
    return False


@pytest.mark.parametrize("varied", [0.0, 1.0])
def test_plain_mixes_hold_recordings_as_they_are_unless_varied(data, varied):
    import mixing

    corpus = mixing.load(data, "train")
    mixes = mixing.TrainingMixes(corpus, 0.5, seed=6, plain=1.0, varied=varied)
    noisy, clean = mixes.batch(12)

    ratios = [energy_ratio_db(c, n - c) for n, c in zip(noisy, clean, strict=True) if c.any()]
    assert -5.1 < min(ratios) < max(ratios) < 20.1
    noises = [wave for kind in corpus.noise.values() for wave in kind]
    pieces = [is_piece(wave, noises) for wave in (noisy - clean).astype(np.float64)]
    assert sum(pieces) == (0 if varied else len(pieces))


def test_simulated_voices_and_noises_take_their_share_and_repeat_with_the_seed(data):
    import mixing

    corpus = mixing.load(data, "train")
    plain = {"plain": 1.0, "varied": 1.0}
    made = {
        share: mixing.TrainingMixes(corpus, 0.5, 7, simulated=share, spliced=share, **plain)
        for share in (0.0, 1.0)
    }
    again = mixing.TrainingMixes(corpus, 0.5, 7, simulated=1.0, spliced=1.0, **plain)

    batches = {share: mixes.batch(40) for share, mixes in made.items()}
    assert len(made[0.0].made) + len(made[0.0].simulated) == 0
    assert len(made[1.0].made) + len(made[1.0].simulated) == 40
    assert np.array_equal(batches[1.0][0], again.batch(40)[0])
    for noisy, clean in batches.values():
        assert np.isfinite(noisy).all()
        assert len({wave.tobytes() for wave in noisy}) == 40
        assert noisy.shape == clean.shape == (40, 8000)


@pytest.mark.parametrize("kind", ["noise", "tones", "strokes", "beeps"])
def test_simulated_noises_are_audible_and_no_two_are_alike(kind):
    from simulated import SimulatedNoises

    noises = SimulatedNoises(8000, np.random.default_rng(3))
    waves = np.stack([getattr(noises, kind)() for _ in range(50)])

    assert waves.dtype == np.float32
    assert np.isfinite(waves).all()
    assert ((waves**2).mean(1) > 1e-9).all()
    spectra = np.abs(np.fft.rfft(waves / np.linalg.norm(waves, axis=1, keepdims=True)))
    alike = spectra @ spectra.T / np.outer(*2 * [np.linalg.norm(spectra, axis=1)])
    assert np.median(alike[np.triu_indices(50, 1)]) < 0.9


def test_bands_are_steep():
    from simulated import SimulatedNoises

    noises = SimulatedNoises(16_000, np.random.default_rng(4))
    click = np.zeros(16_000, np.float32)
    click[0] = 1
    steps = [np.abs(np.diff(np.log10(np.abs(np.fft.rfft(noises.bands(click)))))) for _ in range(9)]

    assert all(len(np.flatnonzero(step > 1e-3)) <= 8 for step in steps), "flat between edges"
    assert max(step.max() for step in steps) > 1  # 20 dB from one hertz to the next


def test_unheard_noises_are_measured_for_each_kind(data):
    command = [sys.executable, EXAMPLE / "unheard.py", "--data", data, "--mixes", "1"]
    done = subprocess.run(
        [*command, SHIPPED / "sparse.safetensors"],
        check=True, timeout=100, capture_output=True, text=True,
    )  # fmt: skip

    lines = done.stdout.splitlines()
    assert len(lines) == 2 + 9
    assert all(np.isfinite(float(line.split("|")[2])) for line in lines[2:])


def test_spectra_give_the_wave_back_at_both_ends_too():
    import torch
    from network import spectra, waves_of

    wave = torch.randn(2, 1000, generator=torch.manual_seed(0))

    torch.testing.assert_close(waves_of(spectra(wave), 1000), wave, atol=1e-5, rtol=0)


def small_network(**more):
    """Batch statistics, a mean and a deviation that an exporter could forget."""
    import torch
    from network import Network, Shape

    torch.manual_seed(2)
    network = Network(Shape(width=12, states=6, layers=2, **more))
    with torch.no_grad():
        network.mean.uniform_(-3, 0)
        network.scale.uniform_(0.5, 2)
        network.decoder.weight.mul_(10)
        for layer in network.layers:
            layer.norm.running_mean.uniform_(-1, 1)
            layer.norm.running_var.uniform_(0.5, 2)
            layer.norm.weight.uniform_(0.5, 2)
            layer.norm.bias.uniform_(-1, 1)
    return network


def test_fused_gradients_are_those_of_autograd(monkeypatch):
    import fused
    import torch
    from torch.nn import functional

    monkeypatch.setattr(fused, "HALF", torch.float32)
    layer = small_network().layers[0]
    values = torch.randn(2, 7, 12, generator=torch.manual_seed(3))
    towards = torch.randn(2, 7, 12, generator=torch.manual_seed(4))

    def plain(u):
        v = functional.batch_norm(
            u.flatten(0, 1), None, None, layer.norm.weight, layer.norm.bias, training=True
        ).view_as(u)
        a, b = layer.discrete()
        inputs, a = torch.complex(*functional.linear(v, b).chunk(2, -1)), torch.complex(*a.chunk(2))
        x, states = torch.zeros_like(inputs[:, 0]), []
        for t in range(inputs.shape[1]):
            x = a * x + inputs[:, t]
            states.append(torch.where(x.real > 0, x, 0))
        z = torch.stack(states, 1)
        y = functional.linear(torch.cat([z.real, z.imag], -1), layer.c) + layer.d * v
        y = torch.relu(y)
        return torch.relu(u + y * torch.sigmoid(layer.gate(y)))

    gradients = []
    for compute in (layer, plain):
        u = values.clone().requires_grad_()
        layer.zero_grad()
        (compute(u) * towards).sum().backward()
        gradients.append([u.grad] + [value.grad.clone() for value in layer.parameters()])

    for one, other in zip(*gradients, strict=True):
        # float32 sums of some hundred products
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("low", "taps"), [(0, 0), (5, 2)])
def test_mask_and_its_error_have_the_gradient_of_autograd(low, taps):
    import network
    import torch
    from fused import Masked

    torch.manual_seed(5)
    shape = network.Shape(low=low, taps=taps)
    r = torch.randn(2, 4, shape.outputs, requires_grad=True)
    x = torch.randn(2, 4, network.BINS, dtype=torch.complex64)
    goal = torch.rand(2, 4, network.BINS)
    towards = torch.randn(2, 4, network.BINS)
    fast, error = Masked.apply(r, x, goal, low, taps)
    (3000 * error + (fast.real * towards).sum() - 2 * fast.imag.sum()).backward()
    gradient = r.grad.clone()
    r.grad = None
    y = network.apply(r, x, shape)
    error = (((y.real**2 + y.imag**2 + 1e-7) ** 0.125 - goal) ** 2).mean()

    (3000 * error + (y.real * towards).sum() - 2 * y.imag.sum()).backward()

    torch.testing.assert_close(fast, y)
    torch.testing.assert_close(gradient, r.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("low", [0, 6])
def test_exported_file_computes_what_the_network_and_the_shipped_node_compute(tmp_path, low):
    import torch
    from evaluate import cleaner
    from export import export
    from network import apply, features_of, spectra, waves_of
    from reference import enhance

    network = small_network(low=low).eval()
    noisy = torch.from_numpy(0.1 * np.random.default_rng(6).standard_normal(3000)).float()

    model = export(network, tmp_path / "model.safetensors", {})

    spectrum = spectra(noisy[None])
    with torch.no_grad():
        outputs = network(network.normalised(features_of(spectrum, low)))
    trained = waves_of(apply(outputs, spectrum, network.shape), 3000)[0].numpy()
    plain = enhance(model, noisy.numpy())
    assert np.abs(plain - noisy.numpy()).max() > 0.01  # it does something
    # float32 against float64; no state of these comes near to where the complex ReLU jumps
    assert np.abs(trained - plain).max() < 1e-4
    assert np.abs(cleaner(model)(noisy.numpy()) - plain).max() < 1e-4


def test_averaged_checkpoints_lie_between_and_can_be_loaded(tmp_path):
    import torch
    from average import average
    from export import load_network
    from network import Network, Shape

    paths = [tmp_path / f"{name}.pt" for name in ("first", "second", "between")]
    shape = {"width": 12, "states": 6, "layers": 2, "low": 0, "taps": 2}
    for path in paths[:2]:
        torch.save({"shape": shape, "network": Network(Shape(**shape)).state_dict()}, path)
    script = [sys.executable, EXAMPLE / "average.py", *paths, "--share", "0.25"]
    subprocess.run(script, check=True, timeout=100)

    first, second, between = (torch.load(path, weights_only=True) for path in paths)
    for name, value in between["network"].items():
        expected = 0.75 * first["network"][name] + 0.25 * second["network"][name]
        torch.testing.assert_close(value, expected, check_dtype=False)
    assert load_network(paths[2]).shape.width == 12
    with pytest.raises(SystemExit, match="one shape"):
        average(first, second | {"shape": shape | {"layers": 3}}, 0.5)

    subprocess.run([*script, "--sparsity", "0.6"], check=True, timeout=100)
    left = torch.load(paths[2], weights_only=True)["network"]
    matrices = [name for name, value in between["network"].items() if value.ndim == 2]
    kept = sum(int((left[name] != 0).sum()) for name in matrices)
    assert kept / sum(left[name].numel() for name in matrices) == pytest.approx(0.4, abs=0.02)
    for name, value in left.items():
        assert torch.equal(value[value != 0], between["network"][name][value != 0])


def test_pruning_leaves_the_share_asked_for_and_takes_complex_pairs_together():
    import torch
    from pruning import Pruning

    network = small_network()
    pruning = Pruning(network, 0.8)
    before = {name: value.clone() for name, value in network.named_parameters()}

    pruning.update(1.0)

    with pruning.applied():
        kept = [int(torch.count_nonzero(value)) for value in pruning.weights.values()]
        pairs = network.layers[0].b.detach() != 0
    total = sum(value.numel() for value in pruning.weights.values())
    assert sum(kept) / total == pytest.approx(0.2, abs=0.01)
    assert torch.equal(pairs[:6], pairs[6:])
    for name, value in network.named_parameters():
        assert torch.equal(value, before[name])  # a weight may come back


def test_rounded_weights_are_whole_steps_of_a_power_of_two_and_nearest():
    import torch
    from pruning import rounded

    weight = torch.randn(5, 40, generator=torch.manual_seed(7)) * torch.logspace(-3, 3, 5)[:, None]
    weight[2] = 0

    near = rounded(weight, 8)

    assert not near[2].any()
    for row, other in zip(weight[[0, 1, 3, 4]], near[[0, 1, 3, 4]], strict=True):
        step = 2.0 ** np.ceil(np.log2(float(row.abs().max()) / 127))
        assert torch.equal(other / step, torch.round(other / step))
        assert float((other / step).abs().max()) <= 127
        assert float((row - other).abs().max()) <= step / 2


@pytest.mark.parametrize("sparsity", [None, 0.5])
def test_training_goes_on_from_its_state_as_if_it_had_not_stopped(sparsity):
    import torch
    from train import Training, batch_of

    torch.manual_seed(8)
    clean = torch.randn(2, 4000)
    batch = batch_of(clean + 0.3 * torch.randn(2, 4000), clean, small_network())
    one = Training(small_network(), 1e-3, sparsity)
    for step in range(3):
        one.learn(batch, step / 6)
    other = Training(small_network(), 1e-3, sparsity)
    other.load_state_dict(copy.deepcopy(one.state_dict()))

    for training in (one, other):
        for step in range(3, 6):
            training.learn(batch, step / 6)

    pairs = zip(one.shipped().parameters(), other.shipped().parameters(), strict=True)
    assert all(torch.equal(value, again) for value, again in pairs)


def test_short_training_removes_noise_and_a_sparse_network_goes_on_from_it(data, tmp_path):
    def run(name, steps, *more):
        command = [sys.executable, str(EXAMPLE / "train.py"), "--data", str(data)]
        command += ["--checkpoint", str(tmp_path / name), "--width", "24", "--states", "12"]
        command += ["--batch", "4", "--seconds", "1", "--every", "100", "--rate", "6e-3"]
        command += ["--steps", str(steps), *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        last = done.stdout.strip().splitlines()[-1]
        assert f"step {steps}:" in last
        return float(last.split("val ")[1].split()[0])

    dense = run("dense.pt", 100)
    start = ("--start", str(tmp_path / "dense.pt"))
    sparse = run("sparse.pt", 40, *start, "--sparsity", "0.5", "--bits", "8")

    assert dense > 0.5  # dB; doing nothing gains 0
    assert sparse > 0.5


@pytest.mark.parametrize("name", ["model", "sparse"])
def test_shipped_model_cleans_real_speech_and_leaves_good_speech_alone(name):
    from evaluate import cleaner, gains, parameters, summary
    from mixing import fixed_mixes
    from streamflow_nodes.linear_rnn.model_file import read_model

    if not DATA.exists():
        pytest.skip("speech and noise are not in ../shared/data/audio")
    model = read_model(SHIPPED / f"{name}.safetensors")
    clean = cleaner(model)

    gained = summary(gains(fixed_mixes(DATA, "val", 8, snrs_db=(0.0, 10.0)), clean))["gain"]
    loud = summary(gains(fixed_mixes(DATA, "val", 24, 100, snrs_db=(20.0,)), clean))["gain"]

    assert gained > 3.5
    assert loud > -0.5
    assert parameters(model) <= 300_000
