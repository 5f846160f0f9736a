#!/usr/bin/env python3
"""Runs recordings through the flow cytometry graph and tells what was decided rightly.

    python examples/flow_cytometry/evaluate.py session10_rate200_seed0.raw ...
    python examples/flow_cytometry/evaluate.py --rates 25,50,100,200,500,1000,2000 --plot rates.png

Each recording needs its truth beside it (NAME.truth.csv). With `--rates`, SIMULATED recordings are
made: `--particles` at each rate, in `--sessions` sessions that train.py does not use. Every one is
replayed by `streamflow run` with the graph's own trigger and models, as separate processes; both
classifiers' decisions are compared with the truth: the share of all true beads and doublets that
were given the right class within 5 ms of stream time after their centre, by rate, by the time to
the nearest other particle, and by kind, with 95 % Wilson intervals; and what flags and diameters
are worth. Needs the extras `events` and `cytometry`.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from simulate import write_recording
from streamflow_nodes.particles.rows import FLAGS
from streamflow_nodes.particles.scoring import match, wilson

GRAPH = Path(__file__).resolve().parents[2] / "graphs" / "flow_cytometry"
CLASSIFIERS = ("spiking", "linear")
GAPS = (0.0, 0.1, 0.2, 0.3, 0.6, 1.0, np.inf)  # ms
TOLERANCE, DEADLINE = 600, 5000  # us
BESIDE = 500  # us from a particle's centre to one in the same window of 1 ms
SWALLOWED = 250  # us from a decision to a missed particle that it may hold
FIRST_SESSION = 60_000
DRIFT = 0.4
BLUE, RED = "#2b6cb0", "#c05621"


@dataclass
class Outcome:
    """What became of one true particle."""

    kind: str
    gap: float  # ms to the nearest other particle
    is_found: bool
    is_right: bool


class Row(NamedTuple):
    """A decision: its flags, and what is true of the particle that it matches."""

    flags: int
    truths: dict[str, bool]  # by flag, where the truth can tell
    is_right: bool


@dataclass
class Tally:
    """Everything that is known of one classifier's decisions about some recordings."""

    outcomes: list[Outcome] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    diameters: list[tuple[float, float]] = field(default_factory=list)  # estimate, truth (um)
    decisions: int = 0
    false: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        self.outcomes += other.outcomes
        self.rows += other.rows
        self.diameters += other.diameters
        self.decisions += other.decisions
        self.false += other.false
        return self


# --- running ------------------------------------------------------------------------------------


def graph_of(folder: Path, recording: Path) -> Path:
    """The shipped graph on a recording, with nothing but the decisions of both classifiers."""
    graph = yaml.safe_load((GRAPH / "graph.yaml").read_text())
    nodes = {name: graph["nodes"][name] for name in ("camera", "bursts", *CLASSIFIERS)}
    for node in nodes.values():
        for setting in ("path", "model"):
            if setting in node["settings"]:
                node["settings"][setting] = str(GRAPH / node["settings"][setting])
    nodes["camera"]["settings"]["path"] = str(recording.resolve())
    for name in CLASSIFIERS:
        nodes[f"decisions_{name}"] = {
            "kind": "csv_file",
            "inputs": {"rows": f"{name}.particles"},
            "settings": {"path": str(folder / f"{name}.csv")},
        }
    processes = {"hot": {"nodes": ["bursts", *CLASSIFIERS]},
                 "files": {"nodes": [f"decisions_{name}" for name in CLASSIFIERS]}}  # fmt: skip
    path = folder / "graph.yaml"
    path.write_text(yaml.safe_dump({"name": "evaluate", "nodes": nodes, "processes": processes}))
    return path


def evaluate(recording: Path) -> dict[str, Tally]:
    """Both classifiers' decisions about a recording, compared with its truth."""
    with open(recording.with_suffix(".truth.csv"), newline="") as file:
        truth = list(csv.DictReader(file))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "streamflow.cli", "run", str(graph_of(folder, recording))]
        done = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{recording}: {done.stderr}")
        out = {}
        for classifier in CLASSIFIERS:
            with open(folder / f"{classifier}.csv", newline="") as file:
                out[classifier] = compare(truth, list(csv.DictReader(file)))
    return out


def compare(truth: list[dict[str, str]], rows: list[dict[str, str]]) -> Tally:
    """Decisions against the truth, matched one to one, nearest in time first."""
    rows = sorted(rows, key=lambda row: (float(row["time_us"]), row["class"]))
    times = np.array([float(row["time_us"]) for row in truth])
    decided = np.array([float(row["time_us"]) for row in rows])
    gaps = nearest_other(times)
    matched = match(times, decided, TOLERANCE)
    is_real = np.array([row["kind"] != "debris" for row in truth], bool)
    missed = times[is_real & (matched < 0)]
    tally = Tally(decisions=len(rows), false=len(rows) - int((matched >= 0).sum()))
    for index, (particle, at) in enumerate(zip(truth, matched.tolist(), strict=True)):
        row = rows[at] if at >= 0 else None
        in_time = row is not None and float(row["decided_us"]) <= times[index] + DEADLINE
        is_right = in_time and row is not None and row["class"] == particle["class"]
        if is_real[index]:
            tally.outcomes.append(Outcome(particle["kind"], gaps[index], row is not None, is_right))
        if row is None:
            continue
        truths = {
            "overlap": bool(gaps[index] * 1000 < BESIDE),
            "doublet": particle["kind"] == "doublet",
            "debris": particle["kind"] == "debris",
            "merged": bool((np.abs(missed - decided[at]) <= SWALLOWED).any()),
            "late": not in_time,
        }
        tally.rows.append(Row(int(row["flags"]), truths, is_right or not is_real[index]))
        if particle["kind"] == "bead":
            estimate = float(row["diameter_um"])
            tally.diameters.append((estimate, float(particle["diameter_um"])))
    return tally


def nearest_other(times: np.ndarray) -> np.ndarray:
    """(n,) float64, ms from each of the sorted times to the nearest other one."""
    steps = np.concatenate([[np.inf], np.diff(times), [np.inf]]) / 1000
    return np.asarray(np.minimum(steps[:-1], steps[1:]))


# --- telling ------------------------------------------------------------------------------------


def share(outcomes: Iterable[Outcome]) -> str:
    """Right of all, with the interval, as cells of a table."""
    chosen = list(outcomes)
    if not chosen:
        return "0 | | |"
    right, found = sum(o.is_right for o in chosen), sum(o.is_found for o in chosen)
    low, high = wilson(right, len(chosen))
    return (
        f"{len(chosen)} | {found / len(chosen):.3f} | {right / len(chosen):.3f} | "
        f"{low:.3f}-{high:.3f} |"
    )


COLUMNS, RULE = "particles | found | right | interval |", "|---|---|---|---|---|---|"


def tell_groups(tallies: dict[str, Tally]) -> None:
    """Tables by gap and by kind."""
    parts: list[tuple[str, Callable[[Outcome], bool]]] = [("all", lambda o: True)]
    for low, high in itertools.pairwise(GAPS):
        name = f"{low:g}-{high:g} ms" if np.isfinite(high) else f"over {low:g} ms"
        parts.append((name, lambda o, low=low, high=high: low <= o.gap < high))
    parts += [(kind, lambda o, kind=kind: o.kind == kind) for kind in ("bead", "doublet")]
    print(f"\n| nearest other, or kind | model | {COLUMNS}\n{RULE}")
    for name, is_in in parts:
        for classifier, tally in tallies.items():
            print(f"| {name} | {classifier} | {share(o for o in tally.outcomes if is_in(o))}")


def tell_flags(tallies: dict[str, Tally]) -> None:
    """What flags and diameters are worth."""
    print("\n| flag | model | rows flagged | precision | recall |\n|---|---|---|---|---|")
    for flag in ("overlap", "doublet", "debris", "merged", "late"):
        for classifier, tally in tallies.items():
            flagged = [row for row in tally.rows if row.flags & FLAGS[flag]]
            true = [row for row in tally.rows if row.truths[flag]]
            both = sum(row.truths[flag] for row in flagged)
            precision = f"{both / len(flagged):.2f}" if flagged else "-"
            recall = f"{both / len(true):.2f} of {len(true)}" if true else "- of 0"
            print(f"| {flag} | {classifier} | {len(flagged)} | {precision} | {recall} |")
    for classifier, tally in tallies.items():
        aborted = [row for row in tally.rows if row.flags & FLAGS["aborted"]]
        wrong = sum(not row.is_right for row in aborted)
        kept = [row for row in tally.rows if not row.flags & FLAGS["aborted"]]
        left = sum(not row.is_right for row in kept)
        print(f"\n{classifier}: {len(aborted)} rows aborted, {wrong} of them wrong")
        print(f"of the {len(kept)} others {left} wrong")
        pairs = np.array(tally.diameters)
        if len(pairs) and np.isfinite(pairs).all():
            error = pairs[:, 0] - pairs[:, 1]
            median = np.median(np.abs(error))
            print(
                f"diameters of beads: mean error {error.mean():+.2f} um, standard deviation "
                f"{error.std():.2f} um, median size {median:.2f} um"
            )


def tell_rates(by_rate: dict[str, dict[str, Tally]]) -> None:
    """The table by rate (or recording)."""
    print(f"\n| recording | model | {COLUMNS} false |\n{RULE}---|")
    for name, tallies in by_rate.items():
        for classifier, tally in tallies.items():
            false = tally.false / max(1, tally.decisions)
            print(f"| {name} | {classifier} | {share(tally.outcomes)} {false:.3f} |")


def draw(by_rate: dict[str, dict[str, Tally]], path: Path) -> None:
    """Share of right decisions against the rate, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), dpi=110, layout="constrained")
    rates = [float(name) for name in by_rate]
    for classifier, colour in zip(CLASSIFIERS, (BLUE, RED), strict=True):
        counts = [(sum(o.is_right for o in t[classifier].outcomes), len(t[classifier].outcomes))
                  for t in by_rate.values()]  # fmt: skip
        shares = np.array([right / n for right, n in counts])
        bounds = np.array([wilson(right, n) for right, n in counts])
        axes.errorbar(rates, shares, np.abs(bounds.T - shares), color=colour, marker="o",
                      markersize=4, capsize=2, label=classifier)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("particles per second")
    axes.set_ylabel("right class in time / all particles")
    axes.set_title("SIMULATED sessions that were not trained on", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)


def simulated(rate: float, session: int, particles: int, folder: Path) -> Path:
    """A simulated recording of about so many particles."""
    path = folder / f"session{session}_rate{rate:g}"
    settings = {"rate": rate, "duration": particles / rate, "session": session, "seed": 7,
                "drift": DRIFT}  # fmt: skip
    write_recording(settings, path)
    return path.with_name(path.name + ".raw")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recordings", type=Path, nargs="*", help="with NAME.truth.csv beside each")
    parser.add_argument("--rates", type=lambda s: [float(n) for n in s.split(",")], default=[])
    parser.add_argument("--sessions", type=int, default=2, help="simulated at each rate")
    parser.add_argument("--particles", type=int, default=420, help="at each rate")
    parser.add_argument("--plot", type=Path, help="PNG of right decisions against the rate")
    arguments = parser.parse_args()
    by_rate: dict[str, dict[str, Tally]] = {}
    every: dict[str, Tally] = {name: Tally() for name in CLASSIFIERS}

    def count(name: str, tallies: dict[str, Tally]) -> None:
        for classifier, tally in tallies.items():
            by_rate.setdefault(name, {c: Tally() for c in CLASSIFIERS})[classifier] += tally
            every[classifier] += tally

    for path in arguments.recordings:
        count(path.stem, evaluate(path))
    with tempfile.TemporaryDirectory() as folder:
        for index, rate in enumerate(arguments.rates):
            for number in range(arguments.sessions):
                session = FIRST_SESSION + index * arguments.sessions + number
                few = -(-arguments.particles // arguments.sessions)
                path = simulated(rate, session, few, Path(folder))
                count(f"{rate:g}", evaluate(path))
                path.unlink()
    if not by_rate:
        parser.error("name recordings, or --rates to simulate some")
    tell_rates(by_rate)
    tell_groups(every)
    tell_flags(every)
    if arguments.plot:
        draw({f"{rate:g}": by_rate[f"{rate:g}"] for rate in arguments.rates}, arguments.plot)


if __name__ == "__main__":
    main()
