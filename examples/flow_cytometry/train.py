#!/usr/bin/env python3
"""Trains the classifiers of the flow cytometry graph, and tests them on sessions they never saw.

    python examples/flow_cytometry/train.py --recordings DIR [--output graphs/flow_cytometry]

DIR holds one recording for each class and session: A1.raw, B1.raw, A2.raw, ... (one capital letter,
then the session's number), any format that the event_file node reads. That is how the recordings of
Abreu, Gouda, Lugnan and Bienstman (Zenodo 10.5281/zenodo.7804830; 640x480) are named, and the
simulated ones; other files in DIR are left alone. Bursts are cut by the graph's own burst_trigger,
and tested by the graph's own classifiers. A burst is labelled with its recording's class, as in the
papers: truth files, where there are any (A1.truth.csv), are used to score, never to train.

Writes linear.npz (count_classifier) and model.nir (spiking_classifier), trained on every session;
then prints the table of models trained on all sessions but the one they are tested on. Needs the
extras `norse` (torch) and `train` (scikit-learn).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from streamflow_nodes.classifiers.count_classifier import CountClassifier
from streamflow_nodes.classifiers.spiking_classifier import SpikingClassifier
from streamflow_nodes.processors.burst_trigger import BurstTrigger
from streamflow_nodes.sources.event_file import EventFile

from streamflow.packet import EVENT, Events, Packet
from streamflow.testing import cut, drive

ROWS, COLUMNS = 24, 32  # cells: 64x48 by 2, 640x480 by 20 as in the papers
CELLS = 2 * ROWS * COLUMNS
WINDOW, DT = 600, 50  # us given to the classifiers, us per step of the network
PUBLISHED_WINDOW = 1000  # us, of the papers; for comparison
DECAY = 0.7  # of the membrane in one step: tau = DT / (1 - DECAY)
TOLERANCE = 600.0  # us between a decision and the particle it is about
Bursts = list[Packet[Events]]


@dataclass
class Recording:
    """One class in one session: its bursts, and the truth where it is known."""

    path: Path
    label: str
    session: int
    bursts: Bursts
    truth: list[tuple[float, str]] | None  # centre (us) and class of each bead and doublet
    debris: list[float]


@dataclass(frozen=True)
class Plan:
    """How much is trained."""

    hidden: int = 64
    epochs: int = 15
    superposed: int = 2  # copies of each burst with a neighbour's events added
    batch: int = 128
    rate: float = 2e-3


# --- bursts -----------------------------------------------------------------------------------


def find(folder: Path) -> dict[tuple[int, str], Path]:
    """The recordings by (session, class)."""
    found = {}
    for path in sorted(folder.iterdir()):
        if (match := re.fullmatch(r"([A-Z])(\d+)", path.stem)) and path.suffix == ".raw":
            found[int(match[2]), match[1]] = path
    sessions = {session for session, _ in found}
    labels = {label for _, label in found}
    if missing := sorted(f"{c}{s}.raw" for s in sessions for c in labels if (s, c) not in found):
        raise SystemExit(f"{folder}: sessions must have every class; missing {missing}")
    if len(sessions) < 2 or len(labels) < 2:
        raise SystemExit(
            f"{folder}: found classes {sorted(labels)} in sessions {sorted(sessions)}; expected "
            "two or more of each, named A1.raw, B1.raw, A2.raw, B2.raw, ..."
        )
    return found


def packets(path: Path, width: int | None, height: int | None) -> Iterator[Packet[Events]]:
    """The recording as the graph's camera emits it."""
    camera = EventFile({"path": str(path), "width": width, "height": height})
    camera.open()
    try:
        for emission in camera.produce():
            yield emission.packet
    finally:
        camera.close()


def cut_bursts(stream: Iterator[Packet[Events]], trigger: dict[str, Any]) -> Bursts:
    """What the graph's burst_trigger makes of a stream, a thousand packets at a time."""
    node = BurstTrigger(trigger)
    node.open()
    bursts: Bursts = []
    while part := list(itertools.islice(stream, 1000)):
        bursts += drive(node, events=part, opened=True, end=False)["bursts"]
    bursts += drive(node, opened=True)["bursts"]
    return bursts


def read_truth(path: Path) -> tuple[list[tuple[float, str]] | None, list[float]]:
    """Beads and doublets (centre, class) and debris (centre); None where there is no truth."""
    file = path.with_suffix(".truth.csv")
    if not file.exists():
        return None, []
    with open(file, newline="") as text:
        rows = list(csv.DictReader(text))
    particles = [(float(r["time_us"]), r["class"]) for r in rows if r["kind"] != "debris"]
    return particles, [float(r["time_us"]) for r in rows if r["kind"] == "debris"]


def load(arguments: argparse.Namespace, trigger: dict[str, Any]) -> list[Recording]:
    """Every recording's bursts, at most `--bursts` of each for training."""
    recordings = []
    for (session, label), path in sorted(find(arguments.recordings).items()):
        bursts = cut_bursts(packets(path, arguments.width, arguments.height), trigger)
        truth, debris = read_truth(path)
        recordings.append(Recording(path, label, session, bursts, truth, debris))
        print(f"{path.name}: {len(bursts)} bursts", flush=True)
    return recordings


def sparse(burst: Packet[Events]) -> tuple[np.ndarray, np.ndarray]:
    """The burst's events as times from the centre (us) and cells."""
    array = burst.data.array
    factor = burst.data.width // COLUMNS
    if factor * COLUMNS != burst.data.width or factor * ROWS != burst.data.height:
        raise SystemExit(
            f"a sensor of {burst.data.width}x{burst.data.height} does not divide into "
            f"{COLUMNS}x{ROWS} cells: crop the recordings to a multiple of it"
        )
    times = array["timestamp"] - (burst.start + burst.stop) // 2
    row, column = array["y"] // factor, array["x"] // factor
    return times, (array["polarity"].astype(np.int64) * ROWS + row) * COLUMNS + column


def examples(
    recordings: list[Recording], copies: int, most: int, seed: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Bursts as (times, cells), with superposed copies of each, and the index of each class.

    A superposed burst also has the events of another burst of its session, of any class, as if that
    particle had passed 0.16 to 1 ms earlier or later; its label stays.
    """
    random = np.random.default_rng(seed)
    labels = sorted({r.label for r in recordings})
    bursts, classes = [], []
    for session in sorted({r.session for r in recordings}):
        own, own_classes = [], []
        for recording in (r for r in recordings if r.session == session):
            chosen = random.permutation(len(recording.bursts))[:most]
            own += [sparse(recording.bursts[i]) for i in chosen]
            own_classes += [labels.index(recording.label)] * len(chosen)
        for index in [*range(len(own))] * copies:
            other = own[random.integers(len(own))]
            offset = random.choice([-1, 1]) * random.integers(160, 1000)
            times = np.concatenate([own[index][0], other[0] + offset])
            bursts.append((times, np.concatenate([own[index][1], other[1]])))
            classes.append(own_classes[index])
        bursts += own
        classes += own_classes
    return bursts, np.array(classes)


def counts(bursts: list[tuple[np.ndarray, np.ndarray]], window: int, step: int) -> torch.Tensor:
    """Events by burst, time step and cell: (bursts, steps, cells) uint8, 255 at most."""
    steps = window // step
    out = torch.zeros(len(bursts), steps * CELLS, dtype=torch.uint8)
    for index, (times, cells) in enumerate(bursts):
        at = (times + window // 2) // step
        inside = (at >= 0) & (at < steps)
        histogram = np.bincount(at[inside] * CELLS + cells[inside], minlength=steps * CELLS)
        out[index] = torch.from_numpy(np.minimum(histogram, 255).astype(np.uint8))
    return out.view(len(bursts), steps, CELLS)


# --- the linear model -------------------------------------------------------------------------


def train_linear(
    bursts: list[tuple[np.ndarray, np.ndarray]], classes: np.ndarray, labels: list[str],
    window: int, path: Path,
) -> None:  # fmt: skip
    """Standardised square roots of counts, then logistic regression; written to `path`."""
    features = counts(bursts, window, window)[:, 0].numpy().astype(np.float64) ** 0.5
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=0.003, max_iter=500).fit(scaler.transform(features), classes)
    weights, bias = model.coef_, model.intercept_
    if len(labels) == 2:  # scikit-learn gives the one difference that matters
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    np.savez(
        path, weights=weights, bias=bias, mean=scaler.mean_, scale=scaler.scale_,
        grid=np.array([ROWS, COLUMNS]), window_us=np.int64(window), classes=np.array(labels),
    )  # fmt: skip


# --- the spiking model ------------------------------------------------------------------------


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
    """Inputs -> LIF neurons -> a score for each class, summed over the steps.

    v = DECAY v + W x + b; spike where v > 1, then v = 0. Inputs are divided by their spread over
    the training set, which is folded into the weights when the network is written.
    """

    def __init__(self, spread: torch.Tensor, hidden: int, classes: int) -> None:
        super().__init__()
        self.scale = 1 / spread
        self.weight = torch.nn.Parameter(torch.randn(CELLS, hidden) / CELLS**0.5)
        self.bias = torch.nn.Parameter(torch.zeros(hidden))
        self.readout = torch.nn.Parameter(torch.randn(hidden, classes) / hidden**0.5)

    def forward(self, events: torch.Tensor) -> torch.Tensor:
        current = (events * self.scale) @ self.weight + self.bias
        v = torch.zeros_like(current[:, 0])
        spikes = torch.zeros_like(v)
        for step in range(current.shape[1]):
            v = DECAY * v + current[:, step]
            fired = Spike.apply(v - 1)
            v = v * (1 - fired)
            spikes = spikes + fired
        return spikes @ self.readout


def augment(events: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """The burst on a sensor moved by up to one cell, with up to 30 % of the counts lost."""
    down, right = (int(n) for n in torch.randint(-1, 2, (2,), generator=random))
    image = events.view(len(events), -1, 2, ROWS, COLUMNS)
    moved = torch.roll(image, (down, right), (3, 4)).reshape(events.shape)
    kept = 1 - 0.3 * torch.rand(len(events), 1, 1, generator=random)
    return moved * (torch.rand(events.shape, generator=random) < kept)


def train_spiking(
    bursts: list[tuple[np.ndarray, np.ndarray]], classes: np.ndarray, labels: list[str],
    plan: Plan, seed: int, path: Path,
) -> None:  # fmt: skip
    """Surrogate-gradient training (back-propagation through time); written to `path` as NIR."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    events, targets = counts(bursts, WINDOW, DT), torch.from_numpy(classes)
    # events arrive about as Poisson counts do: their spread is the root of their mean
    spread = torch.stack([part.float().mean((0, 1)) for part in events.split(512)]).mean(0) ** 0.5
    network = SpikingNetwork(spread + 0.02, plan.hidden, len(labels))
    batches = -(-len(events) // plan.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.rate, total_steps=plan.epochs * batches, pct_start=0.2
    )
    for _ in range(plan.epochs):
        for chosen in torch.randperm(len(events), generator=random).split(plan.batch):
            scores = network(augment(events[chosen].float(), random))
            loss = torch.nn.functional.cross_entropy(scores, targets[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    write_network(network, labels, path)


def write_network(network: SpikingNetwork, labels: list[str], path: Path) -> None:
    """The network in NIR: tau v' = -v + I steps as v = DECAY v + (1 - DECAY) I by Euler's rule."""
    hidden, outputs = network.readout.shape
    gain = 1 - DECAY
    weight = (network.scale[:, None] * network.weight / gain).detach().numpy()
    shape = np.array([2, ROWS, COLUMNS])
    each = np.ones(hidden)
    graph = nir.NIRGraph(
        nodes={
            "events": nir.Input(shape),
            "cells": nir.Flatten(shape, 0, -1),
            "weights": nir.Affine(weight.T, (network.bias / gain).detach().numpy()),
            "neurons": nir.LIF(DT * 1e-6 / gain * each, each, 0 * each, each, 0 * each),
            "readout": nir.Linear(network.readout.T.detach().numpy()),
            "scores": nir.Output(np.array([outputs])),
        },
        edges=[("events", "cells"), ("cells", "weights"), ("weights", "neurons"),
               ("neurons", "readout"), ("readout", "scores")],
        metadata={"classes": ",".join(labels), "dt_us": DT, "window_us": WINDOW,
                  "integrator": "euler", "reset": "value"},
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


@dataclass
class Score:
    """Right decisions, decisions that could be right, and particles (or bursts, without truth)."""

    right: int = 0
    decided: int = 0
    particles: int = 0

    def __iadd__(self, other: Score) -> Score:
        self.right += other.right
        self.decided += other.decided
        self.particles += other.particles
        return self


def score(
    classifier: CountClassifier | SpikingClassifier, bursts: Bursts, label: str,
    truth: list[tuple[float, str]] | None, debris: list[float],
) -> Score:  # fmt: skip
    """How a node decides about `bursts`; without truth, each is a particle of class `label`."""
    rows = drive(classifier, bursts=bursts).items("particles")
    names = [name.decode() for name in rows["class"]] if len(rows) else []
    if truth is None:
        return Score(sum(name == label for name in names), len(names), len(names))
    times = [time for time, _ in truth] + debris
    matched = match(times, [float(time) for time in rows["time_us"]])
    decided = [(i, j) for i, j in matched.items() if i < len(truth)]
    right = sum(names[j] == truth[i][1] for i, j in decided)
    return Score(right, len(decided), len(truth))


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a fraction (Wilson 1927)."""
    z, p = 1.96, right / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * (p * (1 - p) / of + z * z / (4 * of * of)) ** 0.5
    return middle - half, middle + half


def together(recordings: list[Recording], trigger: dict[str, Any]) -> Recording:
    """The recordings of one session played at once: twice the particles, of both classes."""
    size = recordings[0].bursts[0].data
    parts = [packets(r.path, size.width, size.height) for r in recordings]
    arrays = [packet.data.array for part in parts for packet in part]
    array = np.concatenate(arrays).astype(EVENT)
    array = array[np.argsort(array["timestamp"], kind="stable")]
    whole = Packet(int(array["timestamp"][0]), int(array["timestamp"][-1]) + 1,
                   Events(array, size.width, size.height))  # fmt: skip
    bursts = cut_bursts(iter(cut(whole, 4096)), trigger)
    truth = sorted(particle for r in recordings for particle in r.truth or [])
    debris = [time for r in recordings for time in r.debris]
    return Recording(Path("both"), "", recordings[0].session, bursts, truth, debris)


def leave_one_out(
    recordings: list[Recording], plan: Plan, seeds: list[int], most: int, trigger: dict[str, Any],
    sessions: list[int],
) -> None:  # fmt: skip
    """Print the table of models tested on sessions that they were not trained on."""
    labels = sorted({r.label for r in recordings})
    totals: dict[str, Score] = {}
    folds: dict[str, list[float]] = {}
    for seed, held in itertools.product(seeds, sessions):
        tested = [r for r in recordings if r.session == held]
        others = [r for r in recordings if r.session != held]
        plain = examples(others, 0, most, seed)
        mixed = examples(others, plan.superposed, most, seed)
        sets = {"": tested}
        if all(r.truth is not None for r in tested):
            sets[", both at once"] = [together(tested, trigger)]
        with tempfile.TemporaryDirectory() as folder:
            names = ("published.npz", "linear.npz", "superposed.npz", "spiking.nir")
            published, linear, superposed, spiking = (Path(folder) / name for name in names)
            train_linear(*plain, labels, PUBLISHED_WINDOW, published)
            train_linear(*plain, labels, WINDOW, linear)
            train_linear(*mixed, labels, WINDOW, superposed)
            train_spiking(*mixed, labels, plan, seed, spiking)
            nodes = {
                f"linear, {PUBLISHED_WINDOW} us": CountClassifier({"model": str(published)}),
                f"linear, {WINDOW} us": CountClassifier({"model": str(linear)}),
                f"linear+, {WINDOW} us": CountClassifier({"model": str(superposed)}),
                f"spiking, {WINDOW} us": SpikingClassifier(
                    {"model": str(spiking), "classes": labels, "window": WINDOW, "dt": DT}
                ),
            }
            for (name, node), (kind, tests) in itertools.product(nodes.items(), sets.items()):
                fold = Score()
                for r in tests:
                    fold += score(node, r.bursts, r.label, r.truth, r.debris)
                totals.setdefault(name + kind, Score()).__iadd__(fold)
                folds.setdefault(name + kind, []).append(fold.right / max(1, fold.decided))
                print(f"seed {seed} session {held} {name}{kind}: {fold}", flush=True)
    known = all(r.truth is not None for r in recordings)
    print(f"\nleave one session out, seeds {seeds}, minimum burst {trigger_events(trigger)} events")
    print("denominator: " + ("every true bead and doublet" if known else "every burst"))
    print("linear+ is trained with superposed bursts too, as the spiking network is")
    print("model                                 right/decided  95 % interval  sd  right/all  n")
    for name, total in sorted(totals.items()):
        right, decided, n = (
            round(count / len(seeds)) for count in (total.right, total.decided, total.particles)
        )
        low, high = wilson(right, decided)
        spread = float(np.std(folds[name], ddof=1)) if len(folds[name]) > 1 else 0.0
        print(
            f"{name:37} {right / decided:.4f}         {low:.4f}-{high:.4f}  {spread:.4f}  "
            f"{right / n:.4f}     {n}"
        )


def trigger_events(trigger: dict[str, Any]) -> int:
    """The smallest burst that is classified, events."""
    return BurstTrigger(trigger).settings.minimum_events


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recordings", type=Path, required=True, help="folder with A1.raw, ...")
    parser.add_argument("--output", type=Path, default=None, help="where the models are written")
    parser.add_argument("--width", type=int, default=None, help="for files that do not say it")
    parser.add_argument("--height", type=int, default=None)
    parser.add_argument("--contrast", type=int, default=300, help="of the trigger, events")
    parser.add_argument("--minimum-events", type=int, default=200, help="of a burst")
    parser.add_argument("--bursts", type=int, default=2000, help="at most, per recording")
    parser.add_argument("--seeds", type=lambda s: [int(n) for n in s.split(",")], default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="a small network, two epochs, one fold"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plan = Plan(hidden=16, epochs=2, superposed=1) if arguments.quick else Plan()
    trigger = {"contrast": arguments.contrast, "minimum_events": arguments.minimum_events}
    begun = time.monotonic()

    recordings = load(arguments, trigger)
    sessions = sorted({r.session for r in recordings})
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        labels = sorted({r.label for r in recordings})
        seed = arguments.seeds[0]
        plain = examples(recordings, 0, arguments.bursts, seed)
        train_linear(*plain, labels, WINDOW, arguments.output / "linear.npz")
        mixed = examples(recordings, plan.superposed, arguments.bursts, seed)
        train_spiking(*mixed, labels, plan, seed, arguments.output / "model.nir")
        print(
            f"wrote {arguments.output / 'linear.npz'} and {arguments.output / 'model.nir'}",
            flush=True,
        )
    tested = sessions[:1] if arguments.quick else sessions
    leave_one_out(recordings, plan, arguments.seeds, arguments.bursts, trigger, tested)
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
