#!/usr/bin/env python3
"""Trains the classifiers of the flow cytometry graph on simulated sessions, and tests them.

    python examples/flow_cytometry/train.py --output graphs/flow_cytometry

simulates sessions (`streamflow_nodes.particles.simulation`: every one with its own alignment,
thresholds, light, speed and speckle; 100, 250 and 600 particles per second of both classes), cuts
them with the graph's own burst_trigger, writes linear.npz (count_classifier) and model.nir
(spiking_classifier), and prints how they do on sessions that they were not trained on. Overlapping
passages are in the training set as they come, interference included.

    --recordings DIR    more to learn from: A1.raw, B1.raw, A2.raw, ... (one capital letter, the
                        class, then the session's number), as the recordings of Abreu, Gouda, Lugnan
                        and Bienstman (Zenodo 10.5281/zenodo.7804830) are named, with A1.truth.csv
                        if there is truth. Without truth a model cannot learn which bursts hold two
                        particles, or none: it then has one output for each class, a burst is
                        labelled with its recording's class as in the papers, and nothing is
                        simulated (train on DIR alone).

What a burst is labelled with: the particles whose centres lie nearest to it, at most two. Needs the
extras `norse` (torch) and `cytometry` (miepython).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from streamflow_nodes.classifiers.count_classifier import CountClassifier
from streamflow_nodes.classifiers.spiking_classifier import SpikingClassifier
from streamflow_nodes.particles.simulation import Sample, simulate
from streamflow_nodes.processors.burst_trigger import BurstTrigger
from streamflow_nodes.sources.event_file import EventFile

from streamflow.node import Node
from streamflow.packet import Events, Packet
from streamflow.testing import cut, drive

ROWS, COLUMNS = 24, 32  # cells: 64x48 by 2, 640x480 by 20 as in the papers
CELLS = 2 * ROWS * COLUMNS
WINDOW, DT = 600, 50  # us given to the classifiers, us per step of the network
SLICES = 2  # of the window, counted apart for the linear model
CLASSES = ("A", "B")
PAIRS = tuple(f"{one}+{other}" for one, other in itertools.product(CLASSES, repeat=2))
GROUPS = ("nothing", *CLASSES, "debris", *PAIRS)
MEASURES = ("overlap", "doublet", "offset_us", "second_offset_us", "diameter_um",
            "second_diameter_um")  # fmt: skip
OUTPUTS = (*GROUPS, *MEASURES)
CENTRE, SPREAD = np.array([0, 0, 0, 0, 17, 17]), np.array([1, 1, 100, 100, 3, 3])
"""Measures are learned as (value - CENTRE) / SPREAD."""
REACH = 250  # us between a burst's centre and a particle that it may stand for
LAG = 40  # us from a particle's centre to the burst's: pixels follow the light with a delay
FIRST_SESSION, FIRST_TEST_SESSION = 1000, 50_000
TRAINED = ((100, 250), (250, 400), (600, 500))  # particles per second, and how many of them
TESTED = ((50, 150), (150, 250), (500, 300))
DRIFTS = (0.4, 0.6, 1.0)
TOLERANCE = 600.0  # us between a decision and the particle it is about
Bursts = list[Packet[Events]]


@dataclass
class Recording:
    """The bursts of one recording and what each holds: (bursts,) group, (bursts, 6) measures."""

    name: str
    session: int
    bursts: Bursts
    groups: np.ndarray
    measures: np.ndarray
    truth: list[tuple[float, str]]  # centre (us) and class of each bead and doublet
    debris: list[float]


# --- bursts -----------------------------------------------------------------------------------


def cut_bursts(stream: Iterator[Packet[Events]], trigger: dict[str, Any]) -> Bursts:
    """What the graph's burst_trigger makes of a stream, a thousand packets at a time."""
    node = BurstTrigger(trigger)
    node.open()
    bursts: Bursts = []
    while part := list(itertools.islice(stream, 1000)):
        bursts += drive(node, events=part, opened=True, end=False)["bursts"]
    bursts += drive(node, opened=True)["bursts"]
    return bursts


def simulated(
    session: int, rate: float, particles: int, drift: float, trigger: dict[str, Any]
) -> Recording:
    """A simulated session of both classes; the same for the same arguments."""
    array, truth = simulate(
        Sample(rate=rate), seconds=particles / rate, seed=1, session=session, drift=drift
    )
    packet = Packet(0, int(array["timestamp"][-1]) + 1, Events(array, 64, 48))
    bursts = cut_bursts(iter(cut(packet, 8192)), trigger)
    rows = [
        {name: row[name].decode() if truth[name].dtype.kind == "S" else row[name]
         for name in truth.dtype.names}
        for row in truth
    ]  # fmt: skip
    return labelled(f"{rate:g}/s", session, bursts, rows)


def recorded(path: Path, session: int, label: str, trigger: dict[str, Any], size: Any) -> Recording:
    """A recording; without a file of truth each burst is a particle of class `label`."""
    camera = EventFile({"path": str(path), "width": size[0], "height": size[1]})
    camera.open()
    try:
        bursts = cut_bursts((emission.packet for emission in camera.produce()), trigger)
    finally:
        camera.close()
    file = path.with_suffix(".truth.csv")
    if not file.exists():
        groups = np.full(len(bursts), GROUPS.index(label))
        return Recording(path.name, session, bursts, groups, np.full((len(bursts), 6), np.nan),
                         [((b.start + b.stop) / 2, label) for b in bursts], [])  # fmt: skip
    with open(file, newline="") as text:
        return labelled(path.name, session, bursts, list(csv.DictReader(text)))


def labelled(name: str, session: int, bursts: Bursts, truth: list[dict[str, Any]]) -> Recording:
    """Bursts, with what each of them holds by the truth."""
    centres = np.array([(b.start + b.stop) / 2 for b in bursts])
    times = np.array([float(row["time_us"]) for row in truth])
    groups = np.zeros(len(bursts), np.int64)
    measures = np.full((len(bursts), 6), np.nan)
    for index, held in enumerate(_held_by(centres, times)):
        near = np.abs(times - centres[index]) < (bursts[index].stop - bursts[index].start) / 2
        measures[index, 0] = near.sum() > max(1, near[held].sum()) or len(held) > 1
        real = [i for i in held if truth[i]["kind"] != "debris"]
        real = sorted(sorted(real, key=lambda i: abs(times[i] - centres[index]))[:2])
        if not held:
            continue
        first, last = (real[0], real[-1]) if real else (held[0], held[0])
        group = "+".join(str(truth[i]["class"]) for i in real) or "debris"
        groups[index] = GROUPS.index(group)
        measures[index, 1:] = (
            truth[first]["kind"] == "doublet", times[first] - centres[index],
            times[last] - centres[index], float(truth[first]["diameter_um"]),
            float(truth[last]["diameter_um"]),
        )  # fmt: skip
    particles = [(float(r["time_us"]), str(r["class"])) for r in truth if r["kind"] != "debris"]
    debris = [float(r["time_us"]) for r in truth if r["kind"] == "debris"]
    return Recording(name, session, bursts, groups, measures, particles, debris)


def _held_by(centres: np.ndarray, times: np.ndarray) -> list[list[int]]:
    """For each burst the particles that it stands for, in the order of time.

    A particle belongs to the nearest burst. Where that has several, those farther away move on to a
    burst beside it that has none.
    """
    held: list[list[int]] = [[] for _ in centres]
    if not len(centres):
        return held
    away = np.abs(centres[:, None] - LAG - times[None, :])
    for particle, burst in enumerate(away.argmin(0)):
        if away[burst, particle] <= REACH:
            held[burst].append(particle)
    for burst, own in enumerate(held):
        for particle in sorted(own, key=lambda i: -away[burst, i])[: len(own) - 1]:
            beside = [
                b
                for b in (burst - 1, burst + 1)
                if 0 <= b < len(held) and not held[b] and away[b, particle] <= REACH
            ]
            if beside:
                own.remove(particle)
                held[min(beside, key=lambda b: away[b, particle])].append(particle)
    return held


def counts(recordings: list[Recording], window: int, step: int) -> torch.Tensor:
    """Events by burst, time step and cell: (bursts, steps, cells) uint8, 255 at most."""
    bursts = [burst for recording in recordings for burst in recording.bursts]
    steps = window // step
    out = torch.zeros(len(bursts), steps * CELLS, dtype=torch.uint8)
    for index, burst in enumerate(bursts):
        array, factor = burst.data.array, burst.data.width // COLUMNS
        if factor * COLUMNS != burst.data.width or factor * ROWS != burst.data.height:
            raise SystemExit(
                f"a sensor of {burst.data.width}x{burst.data.height} does not divide into "
                f"{COLUMNS}x{ROWS} cells: crop the recordings to a multiple of it"
            )
        at = (array["timestamp"] - ((burst.start + burst.stop) // 2 - window // 2)) // step
        array, at = (each[(at >= 0) & (at < steps)] for each in (array, at))
        row, column = array["y"] // factor, array["x"] // factor
        cell = (array["polarity"].astype(np.int64) * ROWS + row) * COLUMNS + column
        histogram = np.bincount(at * CELLS + cell, minlength=steps * CELLS)
        out[index] = torch.from_numpy(np.minimum(histogram, 255).astype(np.uint8))
    return out.view(len(bursts), steps, CELLS)


# --- models -----------------------------------------------------------------------------------


class Spike(torch.autograd.Function):
    """1 above the threshold; its gradient is that of a fast sigmoid (Zenke and Ganguli 2018)."""

    @staticmethod
    def forward(context: Any, above: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(above)
        return (above > 0).to(above.dtype)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        (above,) = context.saved_tensors
        return gradient / (1 + 5 * above.abs()) ** 2


class SpikingNetwork(torch.nn.Module):
    """Inputs -> LIF neurons -> outputs, summed over the steps.

    v = decay v + W x + b; spike where v > 1, then v = 0. Each neuron learns its decay. Inputs are
    divided by their spread over the training set, which is folded into the weights when the network
    is written.
    """

    def __init__(self, spread: torch.Tensor, hidden: int, outputs: int) -> None:
        super().__init__()
        self.scale = 1 / spread
        self.weight = torch.nn.Parameter(torch.randn(CELLS, hidden) / CELLS**0.5)
        self.bias = torch.nn.Parameter(torch.zeros(hidden))
        self.decay = torch.nn.Parameter(torch.logit(torch.linspace(0.3, 0.9, hidden)))
        self.readout = torch.nn.Parameter(0.3 * torch.randn(hidden, outputs) / hidden**0.5)
        self.offset = torch.nn.Parameter(torch.zeros(outputs))

    def forward(self, events: torch.Tensor) -> torch.Tensor:
        current = (events * self.scale) @ self.weight + self.bias
        decay = torch.sigmoid(self.decay)
        v = torch.zeros_like(current[:, 0])
        spikes = torch.zeros_like(v)
        for step in range(current.shape[1]):
            v = decay * v + current[:, step]
            fired = Spike.apply(v - 1)
            v = v * (1 - fired)
            spikes = spikes + fired
        return spikes @ self.readout + self.offset


class LinearModel(torch.nn.Module):
    """Standardised square roots of counts -> outputs."""

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor, outputs: int) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale
        self.weight = torch.nn.Parameter(torch.zeros(outputs, len(mean)))
        self.bias = torch.nn.Parameter(torch.zeros(outputs))

    def forward(self, events: torch.Tensor) -> torch.Tensor:
        features = (events.flatten(1).sqrt() - self.mean) / self.scale
        return features @ self.weight.T + self.bias


def loss_of(
    scores: torch.Tensor, groups: torch.Tensor, measures: torch.Tensor, outputs: tuple[str, ...]
) -> torch.Tensor:
    """Cross-entropy of what the burst holds, and of what is known about its measures."""
    known_groups = len([name for name in outputs if name not in MEASURES])
    loss = torch.nn.functional.cross_entropy(scores[:, :known_groups], groups, label_smoothing=0.02)
    for index in range(len(outputs) - known_groups):
        score, value = scores[:, known_groups + index], measures[:, index]
        is_known = torch.isfinite(value)
        if is_known.any():
            score, value = score[is_known], value[is_known]
            if index < 2:
                loss = loss + 0.2 * torch.nn.functional.binary_cross_entropy_with_logits(
                    score, value
                )
            else:
                loss = loss + 0.15 * torch.nn.functional.smooth_l1_loss(score, value)
    return loss


def augment(events: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """The bursts on a sensor moved by up to one cell, and brighter or darker."""
    image = events.view(len(events), -1, 2, ROWS, COLUMNS)
    down, right = (int(n) for n in torch.randint(-1, 2, (2,), generator=random))
    events = torch.roll(image, (down, right), (3, 4)).reshape(events.shape)
    return events * (1 + 0.12 * torch.randn(len(events), 1, 1, generator=random)).clamp(0.6, 1.4)


@dataclass(frozen=True)
class Plan:
    """How much is trained, and at what rate."""

    sessions: int = 60
    hidden: int = 96
    epochs: int = 14
    batch: int = 128
    rate: float = 2e-3


def train(
    model: torch.nn.Module, events: torch.Tensor, recordings: list[Recording],
    outputs: tuple[str, ...], plan: Plan, seed: int, decay: float,
) -> None:  # fmt: skip
    """Adam with a one-cycle rate; back-propagation through time and surrogate gradients."""
    random = torch.Generator().manual_seed(seed)
    groups = torch.from_numpy(np.concatenate([r.groups for r in recordings]))
    values = (np.concatenate([r.measures for r in recordings]) - CENTRE) / SPREAD
    measures = torch.from_numpy(values.astype(np.float32))
    if outputs == CLASSES:
        groups = groups - GROUPS.index(CLASSES[0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.rate, total_steps=plan.epochs * -(-len(events) // plan.batch),
        pct_start=0.2,
    )  # fmt: skip
    for _ in range(plan.epochs):
        for chosen in torch.randperm(len(events), generator=random).split(plan.batch):
            scores = model(augment(events[chosen].float(), random))
            loss = loss_of(scores, groups[chosen], measures[chosen], outputs)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def in_units(
    outputs: tuple[str, ...], weight: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (outputs, n) and bias of outputs that give us and um instead of what was learned."""
    weight, bias = weight.astype(np.float64), bias.astype(np.float64)
    for index, name in enumerate(outputs):
        if name in MEASURES:
            spread, centre = SPREAD[MEASURES.index(name)], CENTRE[MEASURES.index(name)]
            weight[index], bias[index] = spread * weight[index], spread * bias[index] + centre
    return weight, bias


def train_linear(
    recordings: list[Recording], outputs: tuple[str, ...], plan: Plan, seed: int, path: Path
) -> None:
    """The model of count_classifier, written to `path`."""
    torch.manual_seed(seed)
    events = counts(recordings, WINDOW, WINDOW // SLICES)
    parts = [part.float().flatten(1).sqrt() for part in events.split(512)]
    mean = sum(part.sum(0) for part in parts) / len(events)
    square = sum((part**2).sum(0) for part in parts) / len(events)
    model = LinearModel(mean, (square - mean**2).clamp(min=0).sqrt() + 0.1, len(outputs))
    train(model, events, recordings, outputs, plan, seed, decay=1.0)
    weights, bias = in_units(outputs, model.weight.detach().numpy(), model.bias.detach().numpy())
    np.savez_compressed(
        path, weights=weights.astype(np.float32), bias=bias, mean=model.mean.numpy(),
        scale=model.scale.numpy(), grid=np.array([ROWS, COLUMNS]), window_us=np.int64(WINDOW),
        slices=np.int64(SLICES), classes=np.array(CLASSES), outputs=np.array(outputs),
    )  # fmt: skip


def train_spiking(
    recordings: list[Recording], outputs: tuple[str, ...], plan: Plan, seed: int, path: Path
) -> None:
    """The network of spiking_classifier, written to `path` as NIR."""
    torch.manual_seed(seed)
    events = counts(recordings, WINDOW, DT)
    # events arrive about as Poisson counts do: their spread is the root of their mean
    spread = torch.stack([part.float().mean((0, 1)) for part in events.split(512)]).mean(0) ** 0.5
    network = SpikingNetwork(spread + 0.02, plan.hidden, len(outputs))
    train(network, events, recordings, outputs, plan, seed, decay=1e-2)
    write_network(network, outputs, path)


def write_network(network: SpikingNetwork, outputs: tuple[str, ...], path: Path) -> None:
    """The network in NIR: tau v' = -v + I steps as v = decay v + (1 - decay) I by Euler's rule."""
    decay = torch.sigmoid(network.decay).detach().numpy().astype(np.float64)
    gain = 1 - decay
    weight = (network.scale[:, None] * network.weight).detach().numpy() / gain
    readout, offset = in_units(
        outputs, network.readout.T.detach().numpy(), network.offset.detach().numpy()
    )
    shape = np.array([2, ROWS, COLUMNS])
    each = np.ones(len(decay))
    graph = nir.NIRGraph(
        nodes={
            "events": nir.Input(shape),
            "cells": nir.Flatten(shape, 0, -1),
            "weights": nir.Affine(
                weight.T.astype(np.float32), network.bias.detach().numpy() / gain
            ),
            "neurons": nir.LIF(DT * 1e-6 / gain, each, 0 * each, each, 0 * each),
            # what is summed over the steps: the offset comes in as many parts
            "readout": nir.Affine(readout, offset / (WINDOW // DT)),
            "scores": nir.Output(np.array([len(outputs)])),
        },
        edges=[("events", "cells"), ("cells", "weights"), ("weights", "neurons"),
               ("neurons", "readout"), ("readout", "scores")],
        metadata={"classes": ",".join(CLASSES), "outputs": ",".join(outputs), "dt_us": DT,
                  "window_us": WINDOW, "integrator": "euler", "reset": "value"},
    )  # fmt: skip
    nir.write(path, graph)


# --- the test ---------------------------------------------------------------------------------


def match(truth: list[float], decisions: list[float]) -> dict[int, int]:
    """One to one, nearest in time first, within the tolerance: truth index to decision index."""
    pairs = sorted(
        (abs(t - d), i, j)
        for i, t in enumerate(truth)
        for j, d in enumerate(decisions)
        if abs(t - d) <= TOLERANCE
    )
    matched: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in pairs:
        if i not in matched and j not in taken:
            matched[i] = j
            taken.add(j)
    return matched


def score(classifier: Node[Any], recording: Recording) -> np.ndarray:
    """Particles, found, right, decisions and decisions that match nothing, by a node."""
    rows = drive(classifier, bursts=recording.bursts).items("particles")
    names = [name.decode() for name in rows["class"]] if len(rows) else []
    times = [time for time, _ in recording.truth] + recording.debris
    matched = match(times, [float(time) for time in rows["time_us"]] if len(rows) else [])
    found = [(i, j) for i, j in matched.items() if i < len(recording.truth)]
    right = sum(names[j] == recording.truth[i][1] for i, j in found)
    return np.array(
        [len(recording.truth), len(found), right, len(names), len(names) - len(matched)]
    )


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a fraction (Wilson 1927)."""
    z, p = 1.96, right / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * (p * (1 - p) / of + z * z / (4 * of * of)) ** 0.5
    return middle - half, middle + half


def report(models: dict[str, Node[Any]], tested: list[Recording]) -> None:
    """Print how the models do, by the recordings' names."""
    print("\nmodel     tested on  particles  found   right   95 % interval  false")
    for (name, model), kind in itertools.product(
        models.items(), sorted({r.name for r in tested}, key=lambda n: (len(n), n))
    ):
        totals = [score(model, r) for r in tested if r.name == kind]
        particles, found, right, decisions, false = sum(totals[1:], totals[0]).tolist()
        low, high = wilson(right, particles)
        print(
            f"{name:9} {kind:10} {particles:9}  {found / particles:.4f}  {right / particles:.4f}  "
            f"{low:.4f}-{high:.4f}  {false / max(1, decisions):.4f}"
        )


def find(folder: Path) -> dict[tuple[int, str], Path]:
    """The recordings by (session, class)."""
    found = {}
    for path in sorted(folder.iterdir()):
        if (match := re.fullmatch(r"([A-Z])(\d+)", path.stem)) and path.suffix == ".raw":
            found[int(match[2]), match[1]] = path
    sessions = {session for session, _ in found}
    if missing := sorted(f"{c}{s}.raw" for s in sessions for c in CLASSES if (s, c) not in found):
        raise SystemExit(f"{folder}: sessions must have every class; missing {missing}")
    if not sessions:
        raise SystemExit(f"{folder}: no recordings named A1.raw, B1.raw, A2.raw, B2.raw, ...")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="where the models are written")
    parser.add_argument("--recordings", type=Path, help="folder with A1.raw, B1.raw, ...")
    parser.add_argument("--width", type=int, default=None, help="for files that do not say it")
    parser.add_argument("--height", type=int, default=None)
    parser.add_argument("--contrast", type=int, default=250, help="of the trigger, events")
    parser.add_argument("--sessions", type=int, default=Plan.sessions, help="to simulate")
    parser.add_argument("--epochs", type=int, default=Plan.epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a small network, two short sessions")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plan = Plan(arguments.sessions, epochs=arguments.epochs)
    if arguments.quick:
        plan = Plan(sessions=3, hidden=16, epochs=8, batch=32)
    begun = time.monotonic()

    recordings, held_out = gather(arguments, plan)
    outputs = OUTPUTS
    if any(np.isnan(r.measures[:, 0]).all() for r in recordings):
        outputs = CLASSES
    arguments.output.mkdir(parents=True, exist_ok=True)
    linear, spiking = arguments.output / "linear.npz", arguments.output / "model.nir"
    print(f"{sum(len(r.bursts) for r in recordings)} bursts, "
          f"{time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
    train_linear(recordings, outputs, plan, arguments.seed, linear)
    train_spiking(recordings, outputs, plan, arguments.seed, spiking)
    print(f"wrote {linear} and {spiking}, {time.monotonic() - begun:.0f} s", flush=True)
    models: dict[str, Node[Any]] = {
        "linear": CountClassifier({"model": str(linear)}),
        "spiking": SpikingClassifier({"model": str(spiking), "classes": list(CLASSES)}),
    }
    report(models, held_out)
    print(f"{time.monotonic() - begun:.0f} s")


def gather(arguments: argparse.Namespace, plan: Plan) -> tuple[list[Recording], list[Recording]]:
    """What is trained on, and what is tested on."""
    trigger: dict[str, Any] = {"contrast": arguments.contrast}
    size = arguments.width, arguments.height
    recordings = []
    if arguments.recordings:
        for (session, label), path in sorted(find(arguments.recordings).items()):
            recordings.append(recorded(path, session, label, trigger, size))
        if any(np.isnan(r.measures[:, 0]).all() for r in recordings):
            last = max(r.session for r in recordings)
            print(f"no truth: bursts have their recording's class; tested on session {last}")
            return (
                [r for r in recordings if r.session != last],
                [r for r in recordings if r.session == last],
            )
    few = 0.12 if arguments.quick else 1.0
    for number in range(plan.sessions):
        rate, particles = TRAINED[number // len(DRIFTS) % len(TRAINED)]
        drift = DRIFTS[number % len(DRIFTS)]
        recordings.append(
            simulated(FIRST_SESSION + number, rate, int(few * particles), drift, trigger)
        )
    held_out = [
        simulated(FIRST_TEST_SESSION + number, rate, int(few * particles),
                  0.4 if number < 4 else 0.8, trigger)
        for number in range(1 if arguments.quick else 6)
        for rate, particles in TESTED
    ]  # fmt: skip
    return recordings, held_out


if __name__ == "__main__":
    main()
