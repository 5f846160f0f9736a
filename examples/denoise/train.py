#!/usr/bin/env python3
r"""Trains the denoiser on the train split; the model file is written by export.py.

    python examples/denoise/train.py --data DIR --checkpoint dense.pt --minutes 90
    python examples/denoise/train.py --data DIR --checkpoint sparse.pt --minutes 25 \
        --start dense.pt --sparsity 0.8 --bits 8 --rate 1e-3

DIR holds speech/ and noise/ (see mixing.py). The loss is the negative SI-SNR of the wave, levelled
off at 30 dB, plus the error of compressed magnitudes. The learning rate falls to nothing at the end
of the time given; run again with the same arguments, it goes on where it was stopped. With
`--sparsity`, weights go by magnitude meanwhile, with `--bits` they are rounded (pruning.py). One
thread learns, another process mixes. Needs the extra `train` (torch) and torch >= 2.9 (for Muon).
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fused import HALF, Masked
from mixing import TrainingMixes, fixed_mixes, load
from network import Network, Shape, apply, features_of, spectra, waves_of
from pruning import Pruning
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

LEVELLED = 1e-3  # error over speech energy under which SI-SNR counts no more: 30 dB
# dB of SI-SNR that one unit of the spectral error stands for: with 25 its gradient was larger than
# that of SI-SNR, and at a right angle to it
SPECTRAL = 4.0
AVERAGE = 0.999  # of the weights, per step
WARM_UP = 50  # steps
MASKED_EVERY = 20  # steps
LARGEST_GRADIENT = 5.0  # norm


class Batch(NamedTuple):
    """What one step learns from; speech has an RMS of 1 in all but the features."""

    features: Tensor  # (clips, frames, inputs) HALF, normalised, of the noisy waves
    spectrum: Tensor  # (clips, frames, BINS) complex, likewise
    goal: Tensor  # (clips, frames, BINS) magnitudes of the speech to the power of 1/4
    clean: Tensor  # (clips, samples)
    before: Tensor  # (clips,) SI-SNR of the noisy waves, dB


class Mixes(IterableDataset[Batch]):
    """Batches of training mixes, made by another process while the network learns."""

    def __init__(self, mixes: TrainingMixes, batch: int, network: Network) -> None:
        self.mixes, self.batch = mixes, batch
        self.network = network  # for its normalisation only

    def __iter__(self) -> Iterator[Batch]:
        while True:
            noisy, clean = map(torch.from_numpy, self.mixes.batch(self.batch))
            yield batch_of(noisy, clean, self.network)


@torch.no_grad()
def batch_of(noisy: Tensor, clean: Tensor, network: Network) -> Batch:
    """What a step needs of waves, (clips, samples) both."""
    spectrum = spectra(noisy)
    features = network.normalised(features_of(spectrum, network.shape.low)).to(HALF)
    level = torch.sqrt((clean * clean).mean(-1, keepdim=True)) + 1e-4
    goal = spectra(clean / level)
    goal = (goal.real**2 + goal.imag**2 + 1e-7).sqrt_().sqrt_().sqrt_()
    before = si_snr(noisy, clean, LEVELLED)
    return Batch(features, spectrum / level[..., None], goal, clean / level, before)


def si_snr(estimate: Tensor, clean: Tensor, levelled: float = 0.0) -> Tensor:
    """SI-SNR of each row, dB (J. Le Roux and others, 2019); `levelled` bounds it."""
    estimate = estimate - estimate.mean(-1, keepdim=True)
    clean = clean - clean.mean(-1, keepdim=True)
    energy = (clean * clean).sum(-1, keepdim=True) + 1e-8
    target = (estimate * clean).sum(-1, keepdim=True) / energy * clean
    error = ((estimate - target) ** 2).sum(-1)
    power = (target**2).sum(-1)
    return 10 * torch.log10((power + 1e-8) / (error + levelled * power + 1e-8))


def loss_of(network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
    """Returns the loss and the mean SI-SNR gained, both in dB."""
    low, taps = network.shape.low, network.shape.taps
    outputs = network(batch.features)
    cleaned, spectral = Masked.apply(outputs, batch.spectrum, batch.goal, low, taps)
    wave = waves_of(cleaned, batch.clean.shape[-1])
    reached = si_snr(wave, batch.clean, LEVELLED)
    return SPECTRAL * spectral - reached.mean(), (reached - batch.before).detach().mean()


def normalise(network: Network, mixes: TrainingMixes, clips: int = 96) -> None:
    """Sets what the features' mean and deviation are over some mixes."""
    noisy = torch.from_numpy(mixes.batch(clips)[0])
    features = features_of(spectra(noisy), network.shape.low).flatten(0, 1)
    network.mean.copy_(features.mean(0))
    network.scale.copy_(1 / (features.std(0) + 1e-3))


def val_mixes(folder: Path) -> list[tuple[Tensor, Tensor]]:
    """The mixes of the val split to choose by, (1, samples) noisy and clean."""
    return [
        (torch.from_numpy(mix.noisy)[None], torch.from_numpy(mix.clean)[None])
        for mix in fixed_mixes(folder, "val")
    ]


@torch.no_grad()
def validate(network: Network, mixes: list[tuple[Tensor, Tensor]]) -> float:
    """Returns the mean SI-SNR gained over the mixes, dB."""
    network.eval()
    gains = []
    for noisy, clean in mixes:
        spectrum = spectra(noisy)
        outputs = network(network.normalised(features_of(spectrum, network.shape.low)))
        wave = waves_of(apply(outputs, spectrum, network.shape), noisy.shape[-1])
        gains.append((si_snr(wave, clean) - si_snr(noisy, clean)).mean())
    network.train()
    return float(torch.stack(gains).mean())


class Training:
    """A network that learns batch by batch, its running average, and its pruned weights.

    Matrices are moved by Muon (K. Jordan and others, 2024) unless they are pruned, the rest by
    AdamW; what makes the state's eigenvalues moves at a quarter of the rate, as S5 does.
    """

    def __init__(
        self, network: Network, rate: float, sparsity: float | None = None, bits: int = 0
    ) -> None:
        self.network, self.averaged = network, copy.deepcopy(network)
        self.pruning = Pruning(network, sparsity or 0.0, bits)
        self.step = 0
        matrices = [value for value in network.parameters() if value.ndim == 2]
        others = {name: value for name, value in network.named_parameters() if value.ndim < 2}
        slow = [name for name in others if name.endswith(("log_decay", "frequency", "log_step"))]
        groups = [
            {"params": [others.pop(name) for name in slow], "lr": rate / 4},
            {"params": list(others.values()), "lr": rate},
        ]
        self.optimisers = []
        if sparsity is not None:
            # Muon moves all numbers of a matrix about as far, and so stirs what is to be pruned
            groups.append({"params": matrices, "lr": rate})
        else:
            self.optimisers.append(torch.optim.Muon(
                matrices, lr=2 * rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            ))  # fmt: skip
        self.optimisers.insert(0, torch.optim.AdamW(groups, weight_decay=0.0))
        self.rates = [[group["lr"] for group in one.param_groups] for one in self.optimisers]

    def learn(self, batch: Batch, progress: float) -> float:
        """Makes one step, `progress` (0 to 1) of the way; returns the mean dB gained before it."""
        factor = 0.5 * (1 + math.cos(math.pi * progress)) * min(1.0, (self.step + 1) / WARM_UP)
        for one, rates in zip(self.optimisers, self.rates, strict=True):
            for group, rate in zip(one.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        if self.step % MASKED_EVERY == 0:
            self.pruning.update(progress)
        with self.pruning.applied():
            loss, gained = loss_of(self.network, batch)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        for one in self.optimisers:
            one.step()
            one.zero_grad()
        self.pruning.apply_to(self.network)
        self.step += 1
        self._average(min(AVERAGE, self.step / (self.step + 10)))
        return float(gained)

    @torch.no_grad()
    def _average(self, keep: float) -> None:
        """Of weights and of batch statistics."""
        pairs = zip(
            self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True
        )
        for mean, value in pairs:
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)

    def shipped(self) -> Network:
        """The averaged network, its pruned weights zero."""
        network = copy.deepcopy(self.averaged)
        self.pruning.apply_to(network)
        return network

    def state_dict(self) -> dict[str, Any]:
        """Everything; `network` and `shape` are what export.py reads."""
        return {
            "shape": asdict(self.network.shape),
            "network": self.shipped().state_dict(),
            "averaged": self.averaged.state_dict(),
            "raw": self.network.state_dict(),
            "masks": self.pruning.state_dict(),
            "optimisers": [one.state_dict() for one in self.optimisers],
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.network.load_state_dict(state["raw"])
        self.averaged.load_state_dict(state["averaged"])
        self.pruning.load_state_dict(state["masks"])
        for one, saved in zip(self.optimisers, state["optimisers"], strict=True):
            one.load_state_dict(saved)
        self.step = state["step"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a checkpoint to take the weights of")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--steps", type=float, default=math.inf, help="instead of minutes")
    parser.add_argument("--sparsity", type=float, help="share of weights to make zero")
    parser.add_argument("--bits", type=int, default=0, help="to round weights to (0: not)")
    parser.add_argument("--plain", type=float, default=0, help="share of mixes left unchanged")
    parser.add_argument("--varied", type=float, default=0, help="share of those changed after all")
    parser.add_argument("--simulated", type=float, default=0, help="share of noises, of those")
    parser.add_argument("--spliced", type=float, default=0, help="share of voices, of those")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--states", type=int, default=64, help="complex ones, of each layer")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--low", type=int, default=0, help="bins with phases and a deep filter")
    parser.add_argument("--taps", type=int, default=2, help="of the deep filter")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3, help="of a clip")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=2, help="minutes between checkpoints")
    options = parser.parse_args()
    if math.isinf(options.minutes) and math.isinf(options.steps):
        parser.error("say how long: --minutes or --steps")
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    shape = Shape(options.width, options.states, options.layers, options.low, options.taps)
    network = Network(shape)
    mixes = TrainingMixes(
        load(options.data, "train"), options.seconds, options.seed, options.plain,
        options.varied, options.simulated, options.spliced,
    )  # fmt: skip
    val = val_mixes(options.data)
    elapsed = 0.0
    if options.start:
        network.load_state_dict(torch.load(options.start, weights_only=True)["network"])
    else:
        normalise(network, mixes)
    training = Training(network, options.rate, options.sparsity, options.bits)
    if options.checkpoint.exists():
        state = torch.load(options.checkpoint, weights_only=True)
        training.load_state_dict(state)
        elapsed = state["elapsed"]
        mixes.begin([options.seed, training.step])
    dataset = Mixes(mixes, options.batch, network)
    batches = iter(DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=16))
    started, shown, gain = time.monotonic() - elapsed, elapsed, 0.0
    progress = 0.0
    while progress < 1:
        elapsed = time.monotonic() - started
        progress = min(1.0, max(elapsed / 60 / options.minutes, training.step / options.steps))
        if elapsed - shown > options.every * 60 or progress == 1:
            shown = elapsed
            print(
                f"{elapsed / 60:.1f} min, step {training.step}: training {gain:+.2f} dB, "
                f"val {validate(training.shipped(), val):+.2f} dB",
                flush=True,
            )
            partial = options.checkpoint.with_suffix(".partial")
            torch.save(training.state_dict() | {"elapsed": elapsed}, partial)
            partial.replace(options.checkpoint)
        gain += 0.01 * (training.learn(next(batches), progress) - gain)


if __name__ == "__main__":
    main()
