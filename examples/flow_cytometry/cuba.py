"""The papers' spiking network, trained in torch: dense CUBA neurons by SLAYER's rules.

After train_slayer.py and bcnetwork.py of Abreu, Gouda, Lugnan and Bienstman (2023) and the CUBA
neuron, spike function and rate loss of lava-dl (Intel, BSD-3). For each layer, with W of unit-norm
rows times a gain (weight norm), in every time step

    i = (1 - current_decay) i + W x;   v = (1 - voltage_decay) v + i
    spike where v >= threshold, then v = 0

and backwards ds/dv = scale / (2 tau) exp(-|v - threshold| / tau) with SLAYER's tau = 100 tau_grad
threshold and scale = scale_grad / 10, the filters' adjoints, and nothing through the reset.

It differs from theirs: decays are not trained, weights and states are floats and not fixed-point,
there are no axonal delays (compare with their nets without), and layers follow each other in the
same time step, not one later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch

CURRENT_DECAY, VOLTAGE_DECAY, THRESHOLD = 0.25, 0.03, 1.25
TAU, SCALE = 100 * 0.03 * THRESHOLD, 3 / 10
TRUE_RATE, FALSE_RATE = 0.2, 0.03  # spikes a step that the right and the wrong neuron should have
ROWS, COLUMNS = 24, 32
CELLS = 2 * ROWS * COLUMNS


class Cuba(torch.autograd.Function):
    """Currents in, (steps, batch, neurons), to spikes of the same shape."""

    @staticmethod
    def forward(context: Any, given: torch.Tensor) -> torch.Tensor:
        voltages = torch.empty_like(given)
        current, after = torch.zeros_like(given[0]), torch.zeros_like(given[0])
        for arriving, v in zip(given, voltages, strict=True):
            current = torch.add(arriving, current, alpha=1 - CURRENT_DECAY)
            torch.add(current, after, alpha=1 - VOLTAGE_DECAY, out=v)
            after = v * (v < THRESHOLD)
        context.save_for_backward(voltages)
        return (voltages >= THRESHOLD).to(given.dtype)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        (voltages,) = context.saved_tensors
        out = (voltages - THRESHOLD).abs_().mul_(-1 / TAU).exp_()
        out.mul_(SCALE / 2 / TAU).mul_(gradient)
        for decay in (VOLTAGE_DECAY, CURRENT_DECAY):
            for step in range(len(out) - 2, -1, -1):
                out[step].add_(out[step + 1], alpha=1 - decay)
        return out


class Dense(torch.nn.Module):
    """Weights (inputs, outputs), each output's of norm `gain`, as torch's Linear starts with."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        start = (2 * torch.rand(inputs, outputs) - 1) / inputs**0.5
        self.direction = torch.nn.Parameter(start)
        self.gain = torch.nn.Parameter(start.norm(dim=0))

    def weight(self) -> torch.Tensor:
        return self.direction * (self.gain / self.direction.norm(dim=0))


class Network(torch.nn.Module):
    """1,536 inputs -> hidden CUBA neurons -> a CUBA neuron for each class; spikes are counted."""

    def __init__(self, hidden: int, classes: int, steps: int) -> None:
        super().__init__()
        self.hidden, self.readout, self.steps = Dense(CELLS, hidden), Dense(hidden, classes), steps

    def forward(self, codes: list[np.ndarray[Any, Any]]) -> torch.Tensor:
        """Spikes a step of each class, (batch, classes).

        `codes` of each bin: (n,) step * CELLS + cell of its inputs, rising, none twice.
        """
        weight, batch = self.hidden.weight(), len(codes)
        every = torch.from_numpy(np.concatenate(codes).astype(np.int64)).to(weight.device)
        of_bin = torch.repeat_interleave(
            torch.arange(batch, device=weight.device),
            torch.tensor([len(each) for each in codes], device=weight.device),
        )
        bags = every // CELLS + of_bin * self.steps
        offsets = torch.searchsorted(bags, torch.arange(batch * self.steps, device=weight.device))
        sums = torch.nn.functional.embedding_bag(every % CELLS, weight, offsets, mode="sum")
        currents = sums.view(batch, self.steps, -1).transpose(0, 1)
        return Cuba.apply(Cuba.apply(currents) @ self.readout.weight()).mean(0)


def train(
    codes: list[np.ndarray[Any, Any]], targets: np.ndarray[Any, Any], classes: int, *,
    hidden: int, epochs: int, steps: int, seed: int, device: str,
) -> Network:  # fmt: skip
    """Adam at 1e-3, batches of 64, summed squares of the rates' errors."""
    torch.manual_seed(seed)
    network = Network(hidden, classes, steps).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    aims = torch.full((len(targets), classes), FALSE_RATE)
    aims[torch.arange(len(targets)), torch.from_numpy(targets)] = TRUE_RATE
    aims = aims.to(device)
    for _ in range(epochs):
        for chosen in torch.randperm(len(targets)).split(64):
            rates = network([codes[int(i)] for i in chosen])
            loss = ((rates - aims[chosen.to(device)]) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


@torch.no_grad()
def decide(network: Network, codes: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The class with most spikes of each bin, the first where they are equal: (bins,) int64."""
    parts = [network(codes[at : at + 256]).argmax(1) for at in range(0, len(codes), 256)]
    return torch.cat(parts).cpu().numpy()


@torch.no_grad()
def write(network: Network, labels: list[str], step: int, window: int, path: Path) -> None:
    """The network in NIR, for `spiking_classifier` with Euler's rule and steps of `step` us."""
    dt, weight = step * 1e-6, network.hidden.weight().cpu().numpy()
    readout = network.readout.weight().cpu().numpy()

    def neurons(count: int) -> nir.CubaLIF:
        one = np.ones(count)
        return nir.CubaLIF(
            tau_syn=dt / CURRENT_DECAY * one, tau_mem=dt / VOLTAGE_DECAY * one,
            r=one / VOLTAGE_DECAY, v_leak=0 * one, v_reset=0 * one,
            v_threshold=THRESHOLD * one, w_in=one / CURRENT_DECAY,
        )  # fmt: skip

    shape = np.array([2, ROWS, COLUMNS])
    graph = nir.NIRGraph(
        nodes={
            "events": nir.Input(shape),
            "cells": nir.Flatten(shape, 0, -1),
            "weights": nir.Linear(weight.T),
            "hidden": neurons(weight.shape[1]),
            "readout": nir.Linear(readout.T),
            "classes": neurons(readout.shape[1]),
            "scores": nir.Output(np.array([readout.shape[1]])),
        },
        edges=[("events", "cells"), ("cells", "weights"), ("weights", "hidden"),
               ("hidden", "readout"), ("readout", "classes"), ("classes", "scores")],
        metadata={"classes": ",".join(labels), "dt_us": step, "window_us": window,
                  "integrator": "euler", "reset": "value"},
    )  # fmt: skip
    nir.write(path, graph)
