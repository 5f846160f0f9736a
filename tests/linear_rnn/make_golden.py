"""Makes the recorded network and outputs in tests/data/linear_rnn: python make_golden.py"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import integer_reference
from linear_rnn_reference import stack
from streamflow_nodes.linear_rnn.fixed_point import fixed_model, quantised
from streamflow_nodes.linear_rnn.model_file import read_model, write_model

DATA = Path(__file__).resolve().parents[1] / "data" / "linear_rnn"

if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    layers, tensors = stack(77, inputs=19, width=33, states=18, outputs=21, count=2)
    path = DATA / "golden.safetensors"
    frames = np.random.default_rng(77).normal(0, 1, (64, 19)).astype(np.float32)
    metadata, integers = quantised(write_model(path, layers, tensors), frames)
    about = {"origin": "random numbers, made by tests/linear_rnn/make_golden.py"}
    write_model(path, layers, {**tensors, **integers}, fixed_point=metadata, about=about)
    out = {"frames": frames}
    for mode in ("w8a16", "w8a8"):
        outputs, states = integer_reference.run(fixed_model(read_model(path), mode), frames)
        out[mode] = np.array(outputs).astype(np.float32)
        kept = np.zeros((len(states), 2, 32), np.int32)  # 18 states, padded to 32
        for at, state in enumerate(states):
            kept[at, :, :18] = np.array(state).T
        out[f"{mode}_state"] = kept.ravel()
    np.savez_compressed(DATA / "golden.npz", **out)
