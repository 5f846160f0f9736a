"""Norse to NIR to a running graph: trains a small spiking network on handwritten digits.

    python examples/digits/train.py --output out

writes `out/model.nir`, `out/test.npz` (the test digits as events) and prints the command that runs
them as a stream; with `--run` it runs it. Needs the extras `norse` and `train`.

Data: scikit-learn's 1,797 digits of 8 x 8 pixels (UCI; Alpaydin and Kaynak, 1998, CC BY 4.0). Every
fifth digit is for testing and seen once, at the end; the rest is for training. The events are
SIMULATED: a pixel of value k out of 16 fires ON about k times in 20 ms, at even distances from a
random first time. Network: 128 inputs (OFF, ON), 100 LIF, 10 LIF, 1 ms steps, tau 10 ms; the class
is the output that spikes most. Training: surrogate gradients (Norse's "super": Zenke and Ganguli,
2018), Adam, cross entropy of the output's spike counts; seeds are an option.

Why the network is written with `nir` and not with Norse's own `to_nir`: in Norse 1.1 that
- gives tau as `dt / tau_mem_inv`, a thousandth of the time constant (1e-5 s for 10 ms);
- gives parameters of one number, which `nir.write` cannot store, and shapes of nothing;
- puts the batch axis into Input and Output.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import nir
import numpy as np
from simulate import write_dataset
from sklearn.datasets import load_digits

STEPS, STEP_US = 20, 1000
PIXELS, HIDDEN, CLASSES = 64, 100, 10
TAU, DT = 0.01, 0.001  # s


def encode(images: Any, rng: np.random.Generator) -> Any:
    """Spikes (digits, STEPS, PIXELS) bool: value k of 16 gives about k spikes, evenly spaced."""
    rate = images.reshape(-1, 1, PIXELS) / 16 * 0.8  # spikes per step
    phase = rng.random((len(images), 1, PIXELS))
    at = np.arange(STEPS + 1).reshape(1, -1, 1)
    return np.diff(np.floor(rate * at + phase), axis=1) > 0


def split(count: int | None) -> tuple[Any, ...]:
    """Images and labels for training, and for testing with their numbers in the dataset."""
    digits = load_digits()
    number = np.arange(len(digits.images))[:count]
    is_test = number % 5 == 4
    train, test = number[~is_test], number[is_test]
    return (
        digits.images[train],
        digits.target[train],
        digits.images[test],
        digits.target[test],
        test,
    )


def train(spikes: Any, labels: Any, *, epochs: int, seed: int) -> list[Any]:
    """The trained weights and biases of both layers, as numpy arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import norse.torch as norse
        import torch

    torch.manual_seed(seed)
    cell = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(1 / TAU), alpha=torch.tensor(10.0))
    layers = [torch.nn.Linear(2 * PIXELS, HIDDEN), torch.nn.Linear(HIDDEN, CLASSES)]
    for layer in layers:  # an input of one spike moves the membrane by dt / tau only
        torch.nn.init.normal_(layer.weight, 0.0, 8 / layer.in_features**0.5)
        torch.nn.init.zeros_(layer.bias)
    network = norse.SequentialState(
        layers[0], norse.LIFBoxCell(cell, dt=DT), layers[1], norse.LIFBoxCell(cell, dt=DT)
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    x = torch.zeros(len(spikes), STEPS, 2 * PIXELS)
    x[:, :, PIXELS:] = torch.from_numpy(spikes).float()  # all ON
    y = torch.from_numpy(labels).long()
    for epoch in range(epochs):
        order, right, loss_sum = torch.randperm(len(x)), 0, 0.0
        for batch in order.split(20):
            counts, state = torch.zeros(len(batch), CLASSES), None
            for step in range(STEPS):
                z, state = network(x[batch, step], state)
                counts = counts + z
            loss = torch.nn.functional.cross_entropy(counts, y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            right += int((counts.argmax(1) == y[batch]).sum())
            loss_sum += float(loss.detach()) * len(batch)
        print(f"epoch {epoch + 1}: loss {loss_sum / len(x):.3f}, right {right / len(x):.1%}")
    return [p.detach().numpy() for layer in layers for p in (layer.weight, layer.bias)]


def as_nir(parameters: list[Any]) -> nir.NIRGraph:
    """The network as NIR: Flatten, Affine, LIF, Affine, LIF, for events (polarity, y, x)."""

    def lif(size: int) -> nir.LIF:
        values = {"tau": TAU, "r": 1.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0}
        return nir.LIF(**{name: np.full(size, value, np.float32) for name, value in values.items()})

    w1, b1, w2, b2 = parameters
    shape = np.array([2, 8, 8])
    return nir.NIRGraph.from_list(
        nir.Input(shape), nir.Flatten({"input": shape}, 0, -1), nir.Affine(w1, b1), lif(HIDDEN),
        nir.Affine(w2, b2), lif(CLASSES),
    )  # fmt: skip


def as_events(spikes: Any) -> tuple[Any, Any, Any, Any]:
    """Times (us), x, y and polarities of one digit's spikes (STEPS, PIXELS)."""
    step, pixel = np.nonzero(spikes)
    return step * STEP_US, pixel % 8, pixel // 8, np.ones(len(step), np.uint8)


def command(folder: Path) -> list[str]:
    """`streamflow run digits` with this network and these recordings."""
    settings = {
        "digits.path": folder / "test.npz", "digits.width": 8, "digits.height": 8,
        "network.model": folder / "model.nir", "network.dt": DT, "network.step": DT,
    }  # fmt: skip
    words = [sys.executable, "-m", "streamflow.cli", "run", "digits", "--quiet"]
    for name, value in settings.items():
        words += ["--set", f"{name}={value}"]
    return [*words, "--report", str(folder / "report.json")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--digits", type=int, help="how many of the dataset; without it, all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", action="store_true", help="run the graph on the test digits")
    options = parser.parse_args()
    begin = time.monotonic()
    rng = np.random.default_rng(options.seed)
    images, labels, test_images, test_labels, numbers = split(options.digits)
    test_spikes = encode(test_images, rng)
    parameters = train(encode(images, rng), labels, epochs=options.epochs, seed=options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    nir.write(options.output / "model.nir", as_nir(parameters))
    recordings = [as_events(spikes) for spikes in test_spikes]
    write_dataset(options.output / "test.npz", recordings, test_labels, numbers)
    print(
        f"trained on {len(labels)} digits in {time.monotonic() - begin:.0f} s; {len(numbers)} kept"
    )
    if not options.run:
        print("now: streamflow", *command(options.output)[3:])
        return
    subprocess.run(command(options.output), check=True)
    score = json.loads((options.output / "report.json").read_text())["results"]["score"]
    print(f"in the running graph: {score['correct']:.1%} of {score['trials']} test digits right")


if __name__ == "__main__":
    main()
