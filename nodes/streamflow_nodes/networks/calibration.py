"""What quantising costs, measured on data: currents, similarity, accuracy, operations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backend import make_backend
from .loihi2_backend import whole_numbers
from .loihi2_network import INPUT, Loihi2Emulator, Loihi2Error
from .quantise import Quantised, quantise
from .rules import Rules
from .wiring import Wiring

AMPLE = 512.0  # thresholds that a current may reach while the largest is looked for

# What Intel has published of the chip ("Taking neuromorphic computing to the next level with
# Loihi 2", technology brief, 2021).
CORE_NEURONS, CORE_BYTES, CHIP_CORES = 8192, 192 * 1024, 128
# u and v of 24 bits, decays of 12, bias of 13 + 3, threshold of 17, refractory steps of 6
NEURON_BYTES = math.ceil((24 + 24 + 12 + 12 + 16 + 17 + 6) / 8)


@dataclass(frozen=True)
class Samples:
    """Inputs to measure on: frames of each sample, (steps, inputs) int32, and their labels."""

    frames: tuple[NDArray[np.int32], ...]
    labels: NDArray[np.int64] | None = None


def read_samples(path: str, wiring: Wiring) -> Samples:
    """Samples from a file: .npy, (steps, input shape...) or (samples, steps, input shape...), or
    .npz with that as `x`, and `labels` (samples,) where there are any; or, of samples that differ
    in length, `x` (all steps, input shape...) with `ends` (samples,), where each one ends.

    Loihi2Error for a file that is not that. Nothing in it is executed.
    """  # fmt: skip
    if not Path(path).is_file():
        raise Loihi2Error(f"{path}: no such file; expected .npy or .npz with inputs")
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if hasattr(loaded, "files") else {"x": loaded}
        x = arrays["x"]
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise Loihi2Error(f"{path}: not inputs in .npy or .npz with `x` ({error})") from error
    shape = wiring.only_input().output_shape
    if x.shape[-len(shape) :] != shape or x.ndim - len(shape) not in (1, 2):
        raise Loihi2Error(
            f"{path}: inputs of shape {x.shape}; expected (steps, {_text(shape)}) or "
            f"(samples, steps, {_text(shape)})"
        )
    if "ends" in arrays:
        whole = np.split(x, np.asarray(arrays["ends"], np.int64)[:-1])
    else:
        whole = list(x) if x.ndim - len(shape) == 2 else [x]
    labels = np.asarray(arrays["labels"], np.int64) if "labels" in arrays else None
    if labels is not None and labels.shape != (len(whole),):
        raise Loihi2Error(f"{path}: labels {labels.shape} for {len(whole)} samples")
    return Samples(tuple(_frames(sample) for sample in whole), labels)


def _frames(sample: NDArray[Any]) -> NDArray[np.int32]:
    return whole_numbers(sample).reshape(len(sample), -1)


def _text(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def calibrate(wiring: Wiring, rules: Rules, samples: Samples, *, bits: int = 8) -> Quantised:
    """The network in integers whose currents have the room that these samples need, and no more.

    The largest current of each population is looked for under the integer rules themselves, in a
    network whose thresholds are small beside where a current wraps.
    """
    ample = AMPLE
    drives = _drives(quantise(wiring, rules, bits=bits, drives=_everywhere(wiring, ample)), samples)
    while max(drives.values(), default=0.0) > ample / 2 and ample < 1e5:
        # a current that comes near to where it wraps may have wrapped
        ample *= 16
        rough = quantise(wiring, rules, bits=bits, drives=_everywhere(wiring, ample))
        drives = _drives(rough, samples)
    return quantise(wiring, rules, bits=bits, drives=drives)


def _everywhere(wiring: Wiring, drive: float) -> dict[str, float]:
    return dict.fromkeys(wiring.units, drive)


def _drives(rough: Quantised, samples: Samples) -> dict[str, float]:
    """The largest current of each population on the samples, in thresholds."""
    largest = {
        population.name: np.zeros(population.size)
        for population in rough.network.populations
        if population.kind == "lif" and population.spikes
    }
    emulator = Loihi2Emulator(rough.network)
    for frames in samples.frames:
        emulator.reset()
        for frame in frames:
            emulator.step(frame)
            for name, most in largest.items():
                np.maximum(most, np.abs(emulator.state(name, "u")), out=most)
    return {
        name: float(np.max(most / (64.0 * np.maximum(rough.network.population(name).vth, 1))))
        for name, most in largest.items()
    }


def loss(quantised: Quantised, wiring: Wiring, samples: Samples) -> dict[str, Any]:
    """What the integers lose against the float network, on the samples, as plain values.

    Per spiking layer: the cosine between the counts of spikes (of each sample and neuron) and how
    many spikes there are; of the output, accuracy where there are labels (largest sum over the
    steps of a sample) and how many samples are decided alike.
    """
    reference = make_backend("numba")
    reference.load(wiring, quantised.rules)
    rest = reference.snapshot()
    emulator = Loihi2Emulator(quantised.network)
    layers = [n for n in wiring.spiking if n in quantised.scales]
    (output, source), *_ = quantised.outputs.items()
    counts: dict[str, list[Any]] = {name: [] for name in layers}
    ours, theirs = [], []
    for frames in samples.frames:
        reference.restore(rest)
        emulator.reset()
        one = {name: np.zeros((2, wiring.units[name].size)) for name in layers}
        sums = np.zeros((2, wiring.units[output].size))
        for frame in frames:
            given = reference.step(frame)
            emulator.step(frame)
            for name, count in one.items():
                count[0] += given[name].reshape(-1)
                count[1] += emulator.messages(name)
            sums[0] += given[output].reshape(-1)
            sums[1] += answer(quantised, emulator, source)
        for name, count in one.items():
            counts[name].append(count)
        theirs.append(int(sums[0].argmax()))
        ours.append(int(sums[1].argmax()))
    out: dict[str, Any] = {
        "samples": len(samples.frames),
        "layers": {name: _similarity(np.array(each)) for name, each in counts.items()},
        "decided_alike": float(np.mean(np.array(ours) == np.array(theirs))),
    }
    if samples.labels is not None:
        out["accuracy_float"] = float(np.mean(theirs == samples.labels))
        out["accuracy"] = float(np.mean(ours == samples.labels))
    return out


def answer(quantised: Quantised, emulator: Loihi2Emulator, source: str) -> NDArray[np.float64]:
    """What a population gives in this step, in the float network's terms: spikes, or values."""
    population = quantised.network.population(source)
    if population.kind == "lif" and population.spikes:
        return emulator.messages(source).astype(np.float64)
    value = emulator.state(source, "v")
    return np.asarray(quantised.rests[source] + quantised.scales[source] * value)


def _similarity(counts: NDArray[np.float64]) -> dict[str, Any]:
    a, b = counts[:, 0].reshape(-1), counts[:, 1].reshape(-1)
    size = float(np.sqrt((a @ a) * (b @ b)))
    return {
        "cosine": round(float(a @ b) / size, 5) if size else float((a == b).all()),
        "spikes_float": int(a.sum()),
        "spikes": int(b.sum()),
    }


def budget(quantised: Quantised, samples: Samples | None = None) -> dict[str, Any]:
    """What the network takes of a chip, as an ESTIMATE: no compiler of the vendor has seen it.

    Memory counts each stored weight once in `bits` bits (a convolution's kernel once), an index
    for each synapse that is not part of a dense row, and a neuron's state and parameters. Cores are
    what the larger of neurons and memory needs, layer by layer. Synaptic operations are the
    weights that messages act on: with samples, of those that were sent; without, if every unit sent
    in every step.
    """
    emulator = Loihi2Emulator(quantised.network)
    synapses, cores, memory = emulator.synapses(), 0, 0
    layers = {}
    for population in quantised.network.populations:
        into = [c for c in quantised.network.connections if c.target == population.name]
        weights = sum(np.asarray(c.weights).size for c in into)
        bits = sum(np.asarray(c.weights).size * quantised.bits for c in into)
        bits += sum(
            math.ceil(math.log2(max(population.size, 2))) * np.asarray(c.weights).size
            for c in into
            if c.kind != "dense"
        )
        taken = math.ceil(bits / 8) + population.size * NEURON_BYTES
        need = max(math.ceil(population.size / CORE_NEURONS), math.ceil(taken / CORE_BYTES))
        layers[population.name] = {
            "neurons": population.size,
            "synapses": synapses[population.name],
            "weights": int(weights),
            "bytes": int(taken),
            "cores": need,
        }
        cores, memory = cores + need, memory + taken
    out: dict[str, Any] = {
        "estimate": True,
        "layers": layers,
        "bytes": int(memory),
        "cores": cores,
        "chips": math.ceil(cores / CHIP_CORES),
    }
    fan = emulator.fan_out()
    if samples is None:
        per_step = float(sum(each.sum() for each in fan.values()))
        out["synaptic_operations_per_step_at_most"] = per_step
    else:
        per_step = _operations(quantised, emulator, fan, samples)
        out["synaptic_operations_per_step"] = round(per_step, 1)
    if quantised.rules.dt:
        out["synaptic_operations_per_second"] = round(per_step / quantised.rules.dt)
    return out


def _operations(
    quantised: Quantised, emulator: Loihi2Emulator, fan: dict[str, NDArray[np.int64]],
    samples: Samples,
) -> float:  # fmt: skip
    """The mean of the synaptic operations of a step."""
    total, steps = 0, 0
    places = {p.name: emulator.places(p.name) for p in quantised.network.populations}
    for frames in samples.frames:
        emulator.reset()
        for frame in frames:
            emulator.step(frame)
            total += int(fan[INPUT][frame != 0].sum())
            for name, place in places.items():
                total += int(fan[name][place[emulator.messages(name) != 0]].sum())
        steps += len(frames)
    return total / max(steps, 1)
