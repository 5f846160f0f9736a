"""Weights that go by magnitude while a network is trained, until the share asked for is zero.

The share follows `final * (1 - (1 - progress)^3)` (M. Zhu and S. Gupta, 2017); layers keep shares
of their weights by the rule of Erdos, Renyi and kernels (U. Evci and others, 2020): in proportion
to (rows + columns) / (rows * columns). A weight that went stays zero. The two parts of an
input weight of a complex state go together: discretisation mixes them.

Where bits are given, what the forward pass sees is rounded to them as well, one power of two for
each row, gradients straight through (Y. Bengio and others, 2013): so that a network is used to it
before it is put into fixed point. The file's integers are made of folded weights: not these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from network import Network
from torch import Tensor

FROZEN_FROM = 0.4  # of the training: from there on the same weights stay zero


class Pruning:
    """The masks of a network's matrices; all of them are kept at first."""

    def __init__(self, network: Network, final: float, bits: int = 0) -> None:
        self.final, self.bits = final, bits
        self.weights = {
            name: value for name, value in network.named_parameters() if value.ndim == 2
        }
        self.masks = {name: torch.ones_like(value) for name, value in self.weights.items()}

    def update(self, progress: float) -> None:
        """Chooses the weights that are zero from here on; `progress` of the training, 0 to 1."""
        if not self.final:
            return
        share = self.final * (1 - (1 - min(1.0, progress / FROZEN_FROM)) ** 3)
        densities = self._densities(1 - share)
        for name, weight in self.weights.items():
            self.masks[name] = _largest(weight.detach(), densities[name], name.endswith(".b"))

    def _densities(self, density: float) -> dict[str, float]:
        """What each matrix keeps, none more than all, so that together they keep `density`."""
        sizes = {name: weight.numel() for name, weight in self.weights.items()}
        sums = {name: sum(weight.shape) for name, weight in self.weights.items()}
        dense: set[str] = set()
        while True:
            rest = [name for name in sizes if name not in dense]
            left = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
            scale = left / max(1, sum(sums[name] for name in rest))
            full = {name for name in rest if scale * sums[name] > sizes[name]}
            if not full:
                return {name: 1.0 if name in dense else scale * sums[name] / sizes[name]
                        for name in sizes}  # fmt: skip
            dense |= full

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the weights are masked and rounded; after it they are what they were."""
        kept = {name: weight.data for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            weight.data = weight.data * self.masks[name]
            if self.bits:
                weight.data = rounded(weight.data, self.bits)
        try:
            yield
        finally:
            for name, weight in self.weights.items():
                weight.data = kept[name]

    @torch.no_grad()
    def apply_to(self, network: Network) -> None:
        """Makes the pruned weights of a network of the same shape zero."""
        for name, value in network.named_parameters():
            if name in self.masks:
                value.mul_(self.masks[name])

    def state_dict(self) -> dict[str, Tensor]:
        return {name: mask.bool() for name, mask in self.masks.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.masks = {name: mask.float() for name, mask in state.items()}


def rounded(weight: Tensor, bits: int) -> Tensor:
    """The nearest multiples of a power of two for each row that `bits` with a sign can say."""
    largest = weight.abs().amax(1, keepdim=True)
    step = torch.exp2(torch.ceil(torch.log2(largest / (2 ** (bits - 1) - 1))))
    return torch.where(largest > 0, torch.round(weight / step) * step, weight)


def _largest(weight: Tensor, density: float, complex_pairs: bool) -> Tensor:
    size = weight.abs()
    if complex_pairs:
        re, im = size.chunk(2)
        size = torch.hypot(re, im).repeat(2, 1)
    dropped = round((1 - density) * size.numel())
    if not dropped:
        return torch.ones_like(weight)
    return (size > size.flatten().kthvalue(dropped).values).to(weight.dtype)
