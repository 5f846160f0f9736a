#!/usr/bin/env python3
"""Trains the denoiser on the train split, for the minutes given.

    python examples/denoise/train.py --data DIR --minutes 60 --checkpoint dense.pt

DIR holds speech/ and noise/ (see mixing.py). Loss: the negative SI-SNR of the wave, levelled off
at 30 dB, plus the error of compressed magnitudes. The learning rate falls to nothing at the end of
the minutes; run again with the same arguments, it goes on where it was stopped. Needs the extra
`train` (torch).
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fused import HALF, Masked
from mixing import TrainingMixes, fixed_mixes, load
from network import Network, Shape, apply, features_of, spectra, waves_of
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

LEVELLED = 1e-3  # error over speech energy under which SI-SNR counts no more: 30 dB
SPECTRAL = 25.0  # dB of SI-SNR that one unit of the spectral error stands for
AVERAGE = 0.999  # of the weights, per step


class Mixes(IterableDataset["Batch"]):
    """Batches of training mixes, made by another process while the network learns."""

    def __init__(self, mixes: TrainingMixes, batch: int, network: Network) -> None:
        self.mixes, self.batch = mixes, batch
        self.network = network  # for its normalisation only

    def __iter__(self) -> Any:
        while True:
            noisy, clean = map(torch.from_numpy, self.mixes.batch(self.batch))
            yield batch_of(noisy, clean, self.network)


class Batch(NamedTuple):
    """What one step learns from; speech has an RMS of 1 in all but the features."""

    features: Tensor  # (clips, frames, inputs) HALF, normalised, of the noisy waves
    spectrum: Tensor  # (clips, frames, BINS) complex, likewise
    goal: Tensor  # (clips, frames, BINS) magnitudes of the speech to the power of 1/4
    clean: Tensor  # (clips, samples)
    before: Tensor  # (clips,) SI-SNR of the noisy waves, dB


@torch.no_grad()
def batch_of(noisy: Tensor, clean: Tensor, network: Network) -> Batch:
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
    cleaned, spectral = Masked.apply(network(batch.features), batch.spectrum, batch.goal)
    wave = waves_of(cleaned, batch.clean.shape[-1])
    reached = si_snr(wave, batch.clean, LEVELLED)
    return SPECTRAL * spectral - reached.mean(), (reached - batch.before).detach().mean()


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


def optimisers_of(network: Network, rate: float, name: str) -> list[torch.optim.Optimizer]:
    slow, matrices, others = [], [], []
    for key, value in network.named_parameters():
        if any(part in key for part in ("log_decay", "frequency", "log_step")):
            slow.append(value)
        elif value.ndim == 2:
            matrices.append(value)
        else:
            others.append(value)
    groups = [
        {"params": slow, "lr": rate / 4, "weight_decay": 0.0},
        {"params": others, "lr": rate, "weight_decay": 0.0},
    ]
    if name == "adamw":
        groups.append({"params": matrices, "lr": rate, "weight_decay": 0.01})
        return [torch.optim.AdamW(groups)]
    muon = torch.optim.Muon(
        matrices, lr=2 * rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    return [torch.optim.AdamW(groups), muon]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a checkpoint to take the weights of")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--states", type=int, default=64)
    parser.add_argument("--low", type=int, default=0)
    parser.add_argument("--taps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--optimiser", default="adamw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=2, help="minutes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    shape = Shape(options.width, options.states, low=options.low, taps=options.taps)
    network = Network(shape)
    val = [
        (torch.from_numpy(mix.noisy)[None], torch.from_numpy(mix.clean)[None])
        for mix in fixed_mixes(options.data, "val")
    ]
    if options.start:
        network.load_state_dict(torch.load(options.start, weights_only=True)["network"])
    mixes = TrainingMixes(load(options.data, "train"), options.seconds, options.seed)
    state = torch.load(options.checkpoint, weights_only=True) if options.checkpoint.exists() else {}
    if state:
        network.load_state_dict(state["raw"])
    elif not options.start:
        noisy = torch.from_numpy(mixes.batch(96)[0])
        features = features_of(spectra(noisy), shape.low).flatten(0, 1)
        network.mean.copy_(features.mean(0))
        network.scale.copy_(1 / (features.std(0) + 1e-3))
    mixes.random = np.random.default_rng([options.seed, state.get("step", 0)])
    dataset = Mixes(mixes, options.batch, network)
    batches = iter(DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=16))
    optimisers = optimisers_of(network, options.rate, options.optimiser)
    rates = [[group["lr"] for group in one.param_groups] for one in optimisers]
    averaged = copy.deepcopy(network)
    elapsed, step = 0.0, 0
    if state:
        averaged.load_state_dict(state["network"])
        for one, saved in zip(optimisers, state["optimisers"], strict=True):
            one.load_state_dict(saved)
        elapsed, step = state["elapsed"], state["step"]
    started, shown, waited = time.monotonic() - elapsed, elapsed, 0.0
    gain, total = 0.0, options.minutes * 60
    while elapsed < total:
        factor = min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * elapsed / total))
        for one, base in zip(optimisers, rates, strict=True):
            for group, rate in zip(one.param_groups, base, strict=True):
                group["lr"] = rate * factor
        wait = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - wait
        loss, gained = loss_of(network, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        for one in optimisers:
            one.step()
            one.zero_grad()
        step += 1
        average(averaged, network, min(AVERAGE, step / (step + 10)))
        gain += 0.01 * (float(gained) - gain)
        elapsed = time.monotonic() - started
        if elapsed - shown > options.every * 60 or elapsed >= total:
            shown = elapsed
            print(
                f"{elapsed / 60:6.1f} min  step {step}  train {gain / (1 - 0.99**step):+.2f} dB  "
                f"val {validate(averaged, val):+.2f} dB  waited {waited / elapsed:.0%}  "
                f"loss {float(loss.detach()):.2f}",
                flush=True,
            )
            save(
                options.checkpoint,
                {
                    "network": averaged.state_dict(),
                    "raw": network.state_dict(),
                    "optimisers": [one.state_dict() for one in optimisers],
                    "elapsed": elapsed,
                    "step": step,
                    "shape": asdict(shape),
                },
            )


@torch.no_grad()
def average(averaged: Network, network: Network, keep: float) -> None:
    """Moves what is averaged (weights and batch statistics) towards the network's, in place."""
    for mean, value in zip(
        averaged.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - keep)


def save(path: Path, state: dict[str, Any]) -> None:
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


if __name__ == "__main__":
    main()
