#!/usr/bin/env python3
"""Averages the weights of two checkpoints of one training line, to export or to train on from.

    python examples/denoise/average.py first.pt second.pt average.pt --share 0.7

Where the second was trained on from the first, a point between them is often better on new data
than both (M. Wortsman and others, 2022, "Robust fine-tuning of zero-shot models"). Choose the share
on the val split. Two that were pruned have not the same weights left: `--sparsity` prunes the point
between them, by magnitude, as training does.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from network import Network, Shape
from pruning import Pruning


def average(first: dict[str, Any], second: dict[str, Any], share: float) -> dict[str, Any]:
    """A checkpoint whose numbers are `1 - share` of the first's and `share` of the second's.

    Raises:
        SystemExit: the networks have not the same shape.
    """
    if first["shape"] != second["shape"]:
        raise SystemExit(f"{first['shape']} and {second['shape']}: expected networks of one shape")
    network = {
        name: torch.lerp(value, second["network"][name], share)
        if value.is_floating_point()
        else value
        for name, value in first["network"].items()
    }
    return {"shape": first["shape"], "network": network}


def pruned(checkpoint: dict[str, Any], sparsity: float) -> dict[str, Any]:
    """The checkpoint with so large a share of its weights zero: the smallest ones."""
    network = Network(Shape(**checkpoint["shape"]))
    network.load_state_dict(checkpoint["network"])
    pruning = Pruning(network, sparsity)
    pruning.update(1.0)
    pruning.apply_to(network)
    return {"shape": checkpoint["shape"], "network": network.state_dict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the second")
    parser.add_argument("--sparsity", type=float, default=0.0, help="share of weights left zero")
    options = parser.parse_args()
    first, second = (
        torch.load(path, weights_only=True) for path in (options.first, options.second)
    )
    torch.save(pruned(average(first, second, options.share), options.sparsity), options.output)


if __name__ == "__main__":
    main()
