"""How fast the Loihi 2 emulator steps beside the float engine, and what its integers lose.

    python benchmarks/loihi2.py [--digits FOLDER] [--cytometry FOLDER]

The two engines are called one step at a time, in turn, with the same inputs: the ratio is what
counts. `--digits` is a folder with `cnn_sinabs.nir` and `nmnist100/nmnist_test100.npz`: then also
how many of its recordings the network in integers reads. `--cytometry` is a folder with recordings
`A1.raw`, `A1.truth.csv`: then also what the shipped classifier decides in integers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import nir
import numpy as np
from streamflow_nodes.networks.calibration import Samples, answer, calibrate
from streamflow_nodes.networks.compiler import compile_network
from streamflow_nodes.networks.engine import State, warm_up
from streamflow_nodes.networks.loihi2_network import Loihi2Emulator
from streamflow_nodes.networks.quantise import Quantised, quantise
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.wiring import read_network, wire

from streamflow.testing import drive

ROUNDS = 15
MODEL = Path(__file__).resolve().parents[1] / "graphs" / "flow_cytometry" / "model.nir"


def mlp() -> Any:
    """1024-256-10 with leaky neurons, as in the peers' benchmarks."""
    rng = np.random.default_rng(0)
    nodes: dict[str, Any] = {"in": nir.Input(np.array([1024]))}
    for at, (inputs, outputs) in enumerate([(1024, 256), (256, 10)]):
        one = np.ones(outputs)
        weights = rng.normal(0.02, 1.9 / inputs**0.5, (outputs, inputs)).astype(np.float32)
        nodes[f"w{at}"] = nir.Affine(weights, 0 * one)
        nodes[f"n{at}"] = nir.LIF(0.01 * one, 10 * one, 0 * one, one, 0 * one)
    nodes["out"] = nir.Output(np.array([10]))
    return wire(nir.NIRGraph(nodes, list(itertools.pairwise(nodes))))


def ratio(wiring: Any, rules: Rules, frames: np.ndarray) -> dict[str, float]:
    """Median time of a step in each engine (us), and of their ratio over the rounds."""
    emulator = Loihi2Emulator(quantise(wiring, rules).network)
    state = State(compile_network(wiring, rules))
    cells = [np.flatnonzero(frame) for frame in frames]
    values = [f[c].astype(np.float32) for f, c in zip(frames, cells, strict=True)]
    ends = [np.array([len(c)]) for c in cells]
    units = [c.astype(np.int32) for c in cells]
    given = [f[c].astype(np.int32) for f, c in zip(frames, cells, strict=True)]

    def floats() -> None:
        for c, e, v in zip(cells, ends, values, strict=True):
            state.run(c, e, v)

    def integers() -> None:
        for u, v in zip(units, given, strict=True):
            emulator.step_messages(u, v)

    taken = []
    for _ in range(ROUNDS):
        row = []
        for run in (floats, integers):  # CPU time: what others do on the machine counts less
            begin = time.process_time()
            run()
            row.append((time.process_time() - begin) / len(frames) * 1e6)
        taken.append(row)
    table = np.array(taken)
    return {
        "float_us": round(float(table[:, 0].min()), 2),
        "loihi2_us": round(float(table[:, 1].min()), 2),
        "ratio_of_least": round(float(table[:, 1].min() / table[:, 0].min()), 3),
        "ratio_median": round(float(np.median(table[:, 1] / table[:, 0])), 3),
    }


def recordings(folder: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """N-MNIST as frames of 1 ms."""
    events = np.load(folder / "nmnist100" / "nmnist_test100.npz")
    samples = []
    for first, last in itertools.pairwise(events["offsets"]):
        t, x, y, p = (events[what][first:last].astype(np.int64) for what in "txyp")
        step = (t - t[0]) // 1000
        whole = step < step.max()
        frame = np.zeros((step.max(), 2, 34, 34), np.int32)
        np.add.at(frame, (step[whole], p[whole], y[whole], x[whole]), 1)
        samples.append(frame.reshape(len(frame), -1))
    return samples, events["labels"]


def digits(folder: Path, samples: list[np.ndarray], labels: np.ndarray) -> dict[int, int]:
    """How many of the recordings are read, by the bits of the weights; by the weights alone."""
    wiring, right = read_network(folder / "cnn_sinabs.nir"), {}
    for bits in (8, 6, 5, 4, 3, 2):
        emulator = Loihi2Emulator(quantise(wiring, Rules(), bits=bits).network)
        right[bits] = 0
        for sample, label in zip(samples, labels, strict=True):
            emulator.reset()
            counts = np.zeros(10, np.int64)
            for frame in sample:
                emulator.step(frame)
                if emulator.sent("12"):
                    counts += emulator.messages("12")
            right[bits] += int(counts.argmax() == label)
    return right


class _Integers:
    """The classifier's network in integers: a `BurstNetwork`, in the place of its float one."""

    def __init__(self, quantised: Quantised) -> None:
        self.quantised = quantised
        self.emulator = Loihi2Emulator(quantised.network)
        self.source = next(iter(quantised.outputs.values()))
        self.inputs = int(np.prod(quantised.network.input_shape))
        self.outputs = quantised.network.population(self.source).size
        self.seen: list[np.ndarray] = []

    def run(self, cells: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, int]:
        self.emulator.reset()
        total, first, frames = np.zeros(self.outputs), 0, []
        for end in ends:
            frames.append(np.bincount(cells[first:end], minlength=self.inputs).astype(np.int32))
            first = end
            self.emulator.step(frames[-1])
            total += answer(self.quantised, self.emulator, self.source)
        self.seen.append(np.array(frames))
        return total, 0


def correct(bursts: list[Any], truth: Path, network: _Integers | None = None) -> float:
    """Share of the true particles that the shipped classifier decides rightly, in `network`."""
    from streamflow_nodes.classifiers.spiking_classifier import SpikingClassifier
    from streamflow_nodes.sinks.particle_scorer import ParticleScorer

    node = SpikingClassifier({"model": str(MODEL), "classes": ["A", "B"]})
    node.open()
    node.network = network or node.network
    rows = drive(node, opened=True, bursts=bursts)["particles"]
    return float(drive(ParticleScorer({"truth": str(truth)}), rows=rows).results["correct"])


def cytometry(folder: Path) -> dict[str, Any]:
    """Shares of true particles that the shipped classifier decides rightly, in float and integers.

    Currents are given room by the bursts of A1; the others are only measured.
    """
    from streamflow_nodes.processors.burst_trigger import BurstTrigger
    from streamflow_nodes.sources.event_file import EventFile

    wiring, rules = read_network(str(MODEL)), Rules(dt=50e-6)
    calibrated, out = None, {}
    for name in ("A1", "B1", "A3", "B3"):
        camera = EventFile(
            {"path": str(folder / f"{name}.raw"), "width": 64, "height": 48,
             "packet_duration": 0.001}
        )  # fmt: skip
        trigger = BurstTrigger({"window": 0.001, "contrast": 250, "minimum_events": 200})
        bursts = drive(trigger, events=drive(camera)["events"])["bursts"]
        truth, integers = folder / f"{name}.truth.csv", _Integers(quantise(wiring, rules))
        alone = correct(bursts, truth, integers)
        calibrated = calibrated or calibrate(wiring, rules, Samples(tuple(integers.seen)))
        out[name] = {
            "float": round(correct(bursts, truth), 4),
            "8 bits, by the weights alone": round(alone, 4),
            "8 bits, calibrated on A1": round(correct(bursts, truth, _Integers(calibrated)), 4),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--digits", type=Path)
    parser.add_argument("--cytometry", type=Path)
    asked = parser.parse_args()
    warm_up()
    rng = np.random.default_rng(1)
    inputs = (rng.random((400, 1024)) < 0.1).astype(np.int32)
    out: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.0f}",
        "MLP 1024-256-10, 10 %": ratio(mlp(), Rules(dt=1e-3), inputs),
    }
    print(json.dumps(out), file=sys.stderr)
    if asked.digits:
        samples, labels = recordings(asked.digits)
        wiring = read_network(asked.digits / "cnn_sinabs.nir")
        out["N-MNIST SCNN"] = ratio(wiring, Rules(), samples[0])
        print(json.dumps(out), file=sys.stderr)
        out["digits read, by bits"] = digits(asked.digits, samples, labels)
    if asked.cytometry:
        out["cytometry, correct"] = cytometry(asked.cytometry)
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
