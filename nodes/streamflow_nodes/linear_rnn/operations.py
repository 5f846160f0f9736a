"""How much a network computes: weights, states, and operations for each frame.

A synaptic operation is a product of a weight and an input that are both not 0; a neuron operation
is one number of a layer that is updated: each output, each real part and each imaginary part of a
state, each gate. The power proxy and its product with latency are those of the Intel N-DNS
challenge (Timcheck et al. 2023, "The Intel neuromorphic DNS challenge"): synaptic + 10 neuron
operations each second, in millions, and that times the latency, here the front end's window where
the model says one. They count work; they are not watts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .model_file import Dense, Layer, Model


def matrices(layer: Layer) -> dict[str, NDArray[Any]]:
    """The matrices of a layer, by name, as they are multiplied with: complex ones as they are."""
    if isinstance(layer, Dense):
        return {"weight": layer.weight}
    out: dict[str, NDArray[Any]] = {"B": layer.b, "C": layer.c}
    if layer.gate_weight is not None:
        out["gate.weight"] = layer.gate_weight
    return out


def weights(layer: Layer) -> tuple[int, int]:
    """Real numbers of a layer's matrices, and those of them that are not 0."""
    total = used = 0
    for matrix in matrices(layer).values():
        parts = (matrix.real, matrix.imag) if np.iscomplexobj(matrix) else (matrix,)
        total += sum(part.size for part in parts)
        used += sum(int(np.count_nonzero(part)) for part in parts)
    return total, used


def neurons(layer: Layer) -> int:
    """Neuron operations of a frame in a layer."""
    if isinstance(layer, Dense):
        return layer.outputs
    return 2 * layer.states + layer.outputs * (2 if layer.gate_weight is not None else 1)


def counts(
    model: Model, operations: NDArray[np.int64], frames: int, frames_a_second: float | None
) -> dict[str, Any]:
    """What the run report says: `operations` is the number of synaptic ones for each layer."""
    total, used = (sum(each) for each in zip(*map(weights, model.layers), strict=True))
    synaptic = float(operations.sum()) / frames if frames else 0.0
    neuron = sum(map(neurons, model.layers))
    out: dict[str, Any] = {
        "frames": frames,
        "weights": total,
        "weights_not_zero": used,
        "synaptic_operations": round(synaptic, 1),
        "synaptic_operations_most": used,
        "neuron_operations": neuron,
    }
    if frames_a_second:
        power = (synaptic + 10 * neuron) * frames_a_second / 1e6
        out["power_proxy_mops"] = round(power, 4)
        if latency := window_seconds(model):
            out["pdp_proxy_mop"] = round(power * latency, 4)
    return out


def window_seconds(model: Model) -> float | None:
    """How long the front end's window is, which is the latency that it adds (s); None: not told."""
    window, rate = model.front_end.get("window"), model.front_end.get("rate")
    if isinstance(window, int | float) and isinstance(rate, int | float) and rate > 0:
        return window / rate
    return None
