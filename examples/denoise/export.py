#!/usr/bin/env python3
"""Writes a trained checkpoint as a model file that the nodes run without torch.

    python examples/denoise/export.py dense.pt graphs/denoise/model.safetensors --calibrate DIR

The features' mean and deviation are folded into the encoder; batch norms are stored as they are and
folded, exactly, when the file is read (`streamflow_nodes.linear_rnn.model_file`). With
`--calibrate` (the folder of train.py) the file also holds the network in fixed point, w8a16 and
w8a8, its activations given the range that they have in 24 mixes of the train split.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mixing import fixed_mixes
from network import FLOOR, HOP, NEAR_ZERO, WINDOW, Network, Shape, features_of, spectra
from numpy.typing import NDArray
from streamflow_nodes.linear_rnn.fixed_point import quantised
from streamflow_nodes.linear_rnn.model_file import Model, write_model

CALIBRATION_MIXES, CALIBRATION_SEED = 24, 7
ABOUT = {
    "what": "speech out of noise, 16 kHz, one channel",
    "trained_on": "LibriSpeech train-clean-100 (201 readers, 42.5 min; V. Panayotov and others, "
    "CC BY 4.0), ESC-10 (K. J. Piczak), Blanket and Speech Commands noises (29.4 min, CC0 and "
    "CC BY), simulated babble, rooms and noise",
    "made_by": "examples/denoise/train.py",
    "licence": "as the package",
}


def front_end(shape: Shape) -> dict[str, Any]:
    """What makes the network's input and what its output means (network.py has the equations)."""
    return {
        "rate": 16_000, "window": WINDOW, "hop": HOP, "window_function": "sqrt_hann",
        "features": "log_power", "floor": FLOOR, "low": shape.low, "near_zero": NEAR_ZERO,
        "mask": "gain", "taps": shape.taps if shape.low else 0, "least_gain": None,
    }  # fmt: skip


def load_network(path: Path) -> Network:
    """The network of a checkpoint of train.py, ready to compute."""
    state = torch.load(path, weights_only=True)
    network = Network(Shape(**state["shape"]))
    network.load_state_dict(state["network"])
    return network.eval()


@torch.no_grad()
def tensors_of(network: Network) -> dict[str, NDArray[np.float32]]:
    """The network's numbers by the names of the model file."""
    encoder = network.encoder.weight.double() * network.scale
    bias = network.encoder.bias.double() - encoder @ network.mean.double()
    tensors = {"encoder.weight": encoder, "encoder.bias": bias}
    for number, layer in enumerate(network.layers):
        states, norm = len(layer.log_step), layer.norm
        c = layer.c.double() / 2  # the file's C is of one of each conjugate pair
        tensors |= {
            f"s5.{number}.{name}": value
            for name, value in {
                "lambda_re": -layer.log_decay.double().exp(),
                "lambda_im": layer.frequency,
                "dt": layer.log_step.double().exp(),
                "B_re": layer.b[:states],
                "B_im": layer.b[states:],
                "C_re": c[:, :states],
                "C_im": -c[:, states:],
                "D": layer.d,
                "gate.weight": layer.gate.weight,
                "gate.bias": layer.gate.bias,
                "norm.weight": norm.weight,
                "norm.bias": norm.bias,
                "norm.mean": norm.running_mean,
                "norm.variance": norm.running_var,
            }.items()
        }
    tensors |= {"decoder.weight": network.decoder.weight, "decoder.bias": network.decoder.bias}
    return {name: value.numpy().astype(np.float32) for name, value in tensors.items()}


def calibration(network: Network, data: Path) -> NDArray[np.float32]:
    """Features of noisy speech at the levels and SNRs that mixes have, (frames, inputs)."""
    mixes = fixed_mixes(data, "train", CALIBRATION_MIXES, CALIBRATION_SEED, seconds=3.0)
    waves = torch.stack([torch.from_numpy(mix.noisy) for mix in mixes])
    return features_of(spectra(waves), network.shape.low).flatten(0, 1).numpy()


def export(network: Network, path: Path, about: dict[str, str], data: Path | None = None) -> Model:
    """Writes the model file, in fixed point too where there is `data`; returns what it holds."""
    recurrent = [
        {"type": "s5", "name": f"s5.{number}", "norm": "batch", "norm_epsilon": layer.norm.eps}
        for number, layer in enumerate(network.layers)
    ]
    layers = [
        {"type": "dense", "name": "encoder", "activation": "relu"},
        *recurrent,
        {"type": "dense", "name": "decoder", "activation": "none"},
    ]
    tensors, end, text = tensors_of(network), front_end(network.shape), ABOUT | about
    model = write_model(path, layers, tensors, front_end=end, about=text)
    if data is None:
        return model
    fixed_point, integers = quantised(model, calibration(network, data))
    return write_model(
        path, layers, tensors | integers, front_end=end, about=text, fixed_point=fixed_point
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--about", default="", help="a remark to store, such as what was measured")
    parser.add_argument("--calibrate", type=Path, metavar="DIR", help="add fixed point")
    options = parser.parse_args()
    about = {"remark": options.about} if options.about else {}
    model = export(load_network(options.checkpoint), options.model, about, options.calibrate)
    print(f"{options.model}: {model.inputs} -> {model.outputs}, {options.model.stat().st_size} B")


if __name__ == "__main__":
    main()
