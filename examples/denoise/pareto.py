#!/usr/bin/env python3
"""Trains networks of several widths and sparsities alike, and plots quality against operations.

    python examples/denoise/pareto.py --data DIR --output pareto.json --plot pareto.png

Every point gets the same batches and as many steps: one dense network of each width for the first
part, and from it, in the second part, one for each sparsity (0: dense, trained on just the same).
The budget is short on purpose, the same for all, and far from where training ends; it compares
networks with each other, not with the shipped one. SI-SNR is that gained on val. Run again, it goes
on where it was stopped. Needs the extras `train` (torch) and `cytometry` (matplotlib).
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from mixing import TrainingMixes, load
from network import Network, Shape
from torch.utils.data import DataLoader
from train import Mixes, Training, normalise, val_mixes, validate

WIDTHS = (48, 80, 128)  # half as many complex states each
SPARSITIES = (0.0, 0.5, 0.8, 0.9)
EVERY = 40  # steps between checkpoints
Points = dict[tuple[int, float], Training]


def products(network: Network) -> int:
    """Weights of the matrices that are not zero: products a frame."""
    return sum(int(torch.count_nonzero(value)) for value in network.parameters() if value.ndim == 2)


def trained(options: argparse.Namespace) -> Points:
    """All points, trained."""
    torch.manual_seed(0)
    mixes = TrainingMixes(load(options.data, "train"), options.seconds, 0)
    first = Network(Shape(WIDTHS[0], WIDTHS[0] // 2))
    normalise(first, mixes)
    points: Points = {}
    for width in WIDTHS:
        network = Network(Shape(width, width // 2))
        network.mean.copy_(first.mean)
        network.scale.copy_(first.scale)
        points[width, 0.0] = Training(network, options.rate)
    total = options.dense + options.more
    checkpoint = options.output.with_suffix(".pt")
    begun = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        begun = state["step"]
        if begun >= options.dense:
            points = parted(points, options.rate)
        for training, saved in zip(points.values(), state["points"], strict=True):
            training.load_state_dict(saved)
    mixes.random = np.random.default_rng(begun)
    loader = DataLoader(Mixes(mixes, options.batch, first), None, num_workers=1, prefetch_factor=8)
    for step, batch in zip(range(begun, total), loader, strict=False):
        if step == options.dense:
            points = parted(points, options.rate)
        if step % EVERY == 0:
            state = {"step": step, "points": [one.state_dict() for one in points.values()]}
            torch.save(state, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").replace(checkpoint)
        if step < options.dense:
            progress = step / options.dense / 2  # the rate falls by half in the first part
        else:
            progress = (step - options.dense) / options.more
        for training in points.values():
            training.learn(batch, progress)
    return points


def parted(points: Points, rate: float) -> Points:
    """From the dense network of each width, one for each sparsity, all moved by AdamW."""
    return {
        (width, sparsity): Training(copy.deepcopy(training.averaged), rate / 2, sparsity)
        for (width, _), training in points.items()
        for sparsity in SPARSITIES
    }


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """SI-SNR gained against products a second, one line for each width."""
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for width in WIDTHS:
        line = sorted(
            (row for row in results if row["width"] == width), key=lambda r: r["products"]
        )
        x = [row["products"] * 125 / 1e6 for row in line]
        y = [row["gain"] for row in line]
        axes.plot(x, y, "o-", label=f"{width} wide")
        for row, *at in zip(line, x, y, strict=True):
            share = f"{row['sparsity']:.0%}"
            axes.annotate(share, at, (4, -10), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("million products a second (weights that are not zero x 125)")
    axes.set_ylabel("SI-SNR gained on val / dB")
    axes.set_title(
        "Short, equal training of every point; shares: weights that are zero", fontsize=9
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--output", type=Path, required=True, help="figures; a checkpoint beside it"
    )
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--dense", type=int, default=1000, help="steps of the first part")
    parser.add_argument("--more", type=int, default=500, help="steps of the second part")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rate", type=float, default=3e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.output.exists():
        val = val_mixes(options.data)
        results = []
        for (width, sparsity), training in trained(options).items():
            network = training.shipped()
            row = {"width": width, "sparsity": sparsity, "products": products(network)}
            results.append(row | {"gain": validate(network, val)})
            print(results[-1], flush=True)
        options.output.write_text(json.dumps(results, indent=1))
    if options.plot:
        plot(json.loads(options.output.read_text()), options.plot)


if __name__ == "__main__":
    main()
