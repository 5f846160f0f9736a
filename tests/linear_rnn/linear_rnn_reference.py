"""The obvious computation of a layer stack in complex128, and stacks of random numbers for it."""

from __future__ import annotations

import numpy as np


def activate(kind, z):
    return {
        "none": lambda: z,
        "relu": lambda: np.maximum(z, 0.0),
        "sigmoid": lambda: 1.0 / (1.0 + np.exp(-z)),
        "tanh": lambda: np.tanh(z),
        "gelu_tanh": lambda: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    }[kind]()


def s5_layer(record, t, frames):
    """One layer on (frames, width), straight from the equations of `model_file`, norm unfolded."""
    if record["type"] == "lru":
        a = np.exp(-np.exp(t["nu_log"]) + 1j * np.exp(t["theta_log"]))
        b = np.exp(t["gamma_log"])[:, None] * (t["B_re"] + 1j * t["B_im"])
        double = 1.0
    else:
        rate = t["lambda_re"] + 1j * t["lambda_im"]
        a = np.exp(rate * t["dt"])
        b = ((a - 1) / rate)[:, None] * (t["B_re"] + 1j * t["B_im"])
        double = 2.0
    c = t["C_re"] + 1j * t["C_im"]
    v = frames
    if record.get("norm") == "batch":
        scaled = (v - t["norm.mean"]) / np.sqrt(t["norm.variance"] + record["norm_epsilon"])
        v = scaled * t["norm.weight"] + t["norm.bias"]
    drive = v @ b.T + t.get("input_bias_re", 0.0) + 1j * t.get("input_bias_im", 0.0)
    states = np.empty_like(drive)
    x = np.zeros(len(a), complex)
    for at, each in enumerate(drive):
        x = a * x + each
        states[at] = x
    h = np.where(states.real > 0, states, 0) if record["state_activation"] == "relu_re" else states
    z = double * (h @ c.T).real + t["D"] * v + t.get("output_bias", 0.0)
    z = activate(record["activation"], z)
    if record["gate"] == "half1":
        z = z * activate("sigmoid", z @ t["gate.weight"].T + t["gate.bias"])
    return activate(record["final_activation"], frames + z if record["skip"] else z)


def run(layers, tensors, frames):
    """The whole stack on (frames, inputs) in double precision."""
    values = np.asarray(frames, np.float64)
    for record in layers:
        prefix = record["name"] + "."
        t = {
            name.removeprefix(prefix): array.astype(np.float64)
            for name, array in tensors.items()
            if name.startswith(prefix)
        }
        if record["type"] == "dense":
            values = activate(record["activation"], values @ t["weight"].T + t["bias"])
        else:
            values = s5_layer(record, t, values)
    return values


def dense(rng, name, inputs, outputs, activation):
    record = {"type": "dense", "name": name, "activation": activation}
    return record, {
        f"{name}.weight": rng.normal(0, 1 / np.sqrt(inputs), (outputs, inputs)),
        f"{name}.bias": rng.normal(0, 0.1, outputs),
    }


def recurrent(rng, name, width, states, kind="s5", **changes):
    record = {
        "type": kind, "name": name, "norm": "batch", "norm_epsilon": 1e-5,
        "state_activation": "relu_re", "activation": "relu", "gate": "half1", "skip": True,
        "final_activation": "relu", **changes,
    }  # fmt: skip
    t = {
        "B_re": rng.normal(0, 1 / np.sqrt(2 * width), (states, width)),
        "B_im": rng.normal(0, 1 / np.sqrt(2 * width), (states, width)),
        "C_re": rng.normal(0, 1 / np.sqrt(2 * states), (width, states)),
        "C_im": rng.normal(0, 1 / np.sqrt(2 * states), (width, states)),
        "D": rng.normal(0, 0.5, width),
    }
    if kind == "s5":
        t["lambda_re"] = -rng.uniform(0.1, 1.0, states)
        t["lambda_im"] = rng.uniform(0, np.pi, states) * np.arange(states) / 8
        t["dt"] = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), states))
    else:
        t["nu_log"] = rng.uniform(-7, -1, states)
        t["theta_log"] = rng.uniform(-4, 1, states)
        t["gamma_log"] = 0.5 * np.log1p(-np.exp(-2 * np.exp(t["nu_log"])))
    if record["norm"] == "batch":
        t |= {
            "norm.weight": rng.uniform(0.5, 1.5, width), "norm.bias": rng.normal(0, 0.2, width),
            "norm.mean": rng.normal(0, 0.5, width), "norm.variance": rng.uniform(0.2, 2.0, width),
        }  # fmt: skip
    else:
        t |= {
            "input_bias_re": rng.normal(0, 0.01, states),
            "input_bias_im": rng.normal(0, 0.01, states),
            "output_bias": rng.normal(0, 0.1, width),
        }
    if record["gate"] == "half1":
        t["gate.weight"] = rng.normal(0, 1 / np.sqrt(width), (width, width))
        t["gate.bias"] = rng.normal(0, 0.1, width)
    return record, {f"{name}.{key}": array for key, array in t.items()}


def stack(seed=0, *, inputs=9, width=12, states=7, outputs=5, count=2, decoder="none", **changes):
    """A random network as `write_model` takes it: layers, float32 tensors."""
    rng = np.random.default_rng(seed)
    parts = [dense(rng, "encoder", inputs, width, "relu")]
    parts += [recurrent(rng, f"s5.{n}", width, states, **changes) for n in range(count)]
    parts += [dense(rng, "decoder", width, outputs, decoder)]
    tensors = {name: a.astype(np.float32) for _, part in parts for name, a in part.items()}
    return [record for record, _ in parts], tensors
