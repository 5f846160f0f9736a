"""Norse's spikes: `norse_spikes.py MODEL.nir COUNTS.npy SPIKES.npy DT NODE`, run as a program.

Writes how many neurons of NODE fire in each step, (trials, steps) int64, for counts of events
(trials, steps, polarity, row, column). A program of its own because torch, once imported, stays.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np


def main(model: str, counts: str, spikes: str, dt: str, node: str) -> None:
    warnings.simplefilter("ignore")  # Norse calls what nirtorch deprecates
    import nir
    import norse.torch as norse
    import torch

    network = norse.from_nir(nir.read(model), dt=float(dt), ignore_warnings=True).double()
    fired = []
    with torch.no_grad():
        for trial in torch.from_numpy(np.load(counts)).double():
            state = None
            for step in trial:
                _, state = network(step, state)
                fired.append(int(state.cache[node].sum()))
    np.save(spikes, np.array(fired, np.int64).reshape(np.load(counts).shape[:2]))


if __name__ == "__main__":
    main(*sys.argv[1:])
