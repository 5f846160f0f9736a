#!/usr/bin/env python3
"""The protocol of the event-camera cytometry papers, on recordings as they published them.

    python examples/flow_cytometry/papers_protocol.py --data DIR

DIR holds A1.raw ... A4.raw and B1.raw ... B4.raw of Zenodo 10.5281/zenodo.7804830 (640x480, 9.7
GB); any two or more classes and recordings named so will do. In turn

1. every recording runs through the streamflow graph flow_cytometry_papers/bins.yaml: pixels coarser
   by 20, the leaky filter, bins of 1 ms, those kept that have 1,000 filtered events;
2. leave one recording out: the classifiers are trained on all recordings but those of one number
   and tested on these: logistic regression of standardised counts, an MLP, the spiking network;
3. the accuracies are printed beside the published ones.

The papers: Gouda, Abreu, Lugnan and Bienstman (NICE 2023) and Abreu, Gouda, Lugnan and Bienstman
(CVPR workshops 2023). Their program is what the default `--filter program` follows; `paper` is the
filter that they describe (see the node leaky_filter for the difference).

Memory holds the kept bins only: counts (1,536 x uint16 a bin) and the spiking network's inputs lie
in files (`--work`) that are mapped, and the linear models take 6 kB a bin and copy.
Needs the extra `train` (scikit-learn), and `norse` (torch) unless `--models linear,mlp`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from streamflow_nodes.sources.event_file import EventFile

from streamflow.graph import shipped
from streamflow.packet import Events, Packet

Array = np.ndarray[Any, Any]
ROWS, COLUMNS = 24, 32
CELLS = 2 * ROWS * COLUMNS
BIN = 1000  # us
FILTERS = {
    "program": {"threshold": 3, "leak": 0.0, "refractory": "null"},
    "paper": {"threshold": 3, "leak": 0.9, "refractory": 2},
    # A cell of the simulated files has 4 pixels and not 400, so a hundredth of the events.
    "scaled": {"threshold": 3, "leak": 0.9**0.01, "refractory": 2},
    "none": {"threshold": 1, "leak": 0.0, "refractory": "null"},
}
PUBLISHED = {  # test accuracies, %: folds where they are known, mean and sd over the four
    "linear": "94.78 96.11 96.98 96.33  96.05 +- 0.80",
    "mlp": "96.97 97.70 97.44 97.92  97.51 +- 0.35",
    "spiking": "98.09 (10 us steps, no delays); 98.45 +- 0.34 (1 us, delays)",
}


@dataclass
class Recording:
    """The kept bins of one recording; arrays are mapped files."""

    label: str
    number: int
    counts: Array  # (bins, CELLS) uint16, events by cell; OFF first
    codes: Array  # uint32, step * CELLS + cell of the inputs of each step, bin after bin
    ends: Array  # (bins,) int64, where in `codes` each bin ends

    def inputs(self) -> list[Array]:
        """The codes of each bin."""
        return np.split(self.codes, self.ends[:-1]) if len(self.ends) else []


# --- 1. the running graph ---------------------------------------------------------------------


def find(folder: Path) -> list[tuple[str, int, Path]]:
    """The recordings: class, number and file; all classes must have the same numbers."""
    paths = [path for path in sorted(folder.glob("*.raw")) if re.fullmatch(r"[A-Z]\d+", path.stem)]
    found = [(path.stem[0], int(path.stem[1:]), path) for path in paths]
    labels, numbers = {label for label, _, _ in found}, {number for _, number, _ in found}
    if len(labels) < 2 or len(numbers) < 2 or len(found) != len(labels) * len(numbers):
        names = " ".join(path.name for path in paths) or "none"
        raise SystemExit(
            f"{folder}: recordings {names}; expected two or more classes with two or more "
            "recordings each, of the same numbers: A1.raw B1.raw A2.raw B2.raw ..."
        )
    return found


def run_graph(path: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Run a recording through bins.yaml; the run report."""
    graph, report = shipped()["flow_cytometry_papers"].with_name("bins.yaml"), out / "report.json"
    given = settings | {"camera.path": path.resolve(), "file.path": out / "bins.raw"}
    command = [sys.executable, "-m", "streamflow.cli", "run", graph, "--quiet", "--report", report]
    for key, value in given.items():
        command += ["--set", f"{key}={value}"]
    done = subprocess.run(list(map(str, command)), check=False)
    if done.returncode:
        raise SystemExit(f"{path}: streamflow run ended with exit code {done.returncode}")
    return dict(json.loads(report.read_text()))


def kept_bins(path: Path) -> Iterator[Packet[Events]]:
    """The bins in a file that bins.yaml wrote."""
    file = EventFile({"path": str(path), "packet_duration": BIN * 1e-6})
    file.open()
    try:
        for emission in file.produce():
            if len(emission.packet.data):
                yield emission.packet
    finally:
        file.close()


def encode(folder: Path, step: int) -> tuple[Array, Array, Array]:
    """Counts, codes and their ends (see `Recording`) of the bins in a folder, as mapped files."""
    ends = []
    with (folder / "counts").open("wb") as counts, (folder / "codes").open("wb") as codes:
        total = 0
        for packet in kept_bins(folder / "bins.raw"):
            a, size = packet.data.array, (packet.data.width, packet.data.height)
            if size != (COLUMNS, ROWS):
                raise SystemExit(
                    f"{folder.name}.raw: cells of {size[0]}x{size[1]}; expected "
                    f"{COLUMNS}x{ROWS}: choose --factor so that the sensor has as many"
                )
            cell = (a["polarity"].astype(np.int64) * ROWS + a["y"]) * COLUMNS + a["x"]
            np.bincount(cell, minlength=CELLS).astype(np.uint16).tofile(counts)
            # several events of a cell in a step are one input
            code = np.unique((a["timestamp"] - packet.start) // step * CELLS + cell)
            code.astype(np.uint32).tofile(codes)
            total += len(code)
            ends.append(total)
    if not ends:
        raise SystemExit(f"{folder.name}.raw: no bin has enough events: lower --minimum-events")
    return (
        np.memmap(folder / "counts", np.uint16, "r").reshape(-1, CELLS),
        np.memmap(folder / "codes", np.uint32, "r"),
        np.array(ends),
    )


def prepare(arguments: argparse.Namespace, work: Path) -> list[Recording]:
    """All recordings through the graph, with what it cost."""
    settings = {f"filtered.{key}": value for key, value in FILTERS[arguments.filter].items()}
    settings["kept.events"] = arguments.minimum_events
    settings["coarse.factor"] = arguments.factor
    for side in ("width", "height"):
        settings[f"camera.{side}"] = getattr(arguments, side) or "null"
    begun, seconds, recordings = time.monotonic(), 0.0, []
    print(f"filter {arguments.filter}: {FILTERS[arguments.filter]}")
    print("recording    events  filtered  bins  kept        s   Mev/s  peak MiB", flush=True)
    for label, number, path in find(arguments.data):
        folder = work / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        report = run_graph(path, folder, settings)
        nodes = report["nodes"]
        events = nodes["camera"]["items_out"]
        peak = max(each["rss_peak_mib"] for each in report["processes"].values())
        recordings.append(Recording(label, number, *encode(folder, arguments.step)))
        (folder / "bins.raw").unlink()
        camera = report["results"]["camera"]
        seconds += (camera["last_us"] - camera["first_us"]) * 1e-6
        print(
            f"{path.stem:9} {events:9,} {nodes['filtered']['items_out']:9,} "
            f"{nodes['bins']['packets_out']:5,} {len(recordings[-1].ends):5,} "
            f"{report['wall_s']:8.1f} {events / report['wall_s'] / 1e6:7.2f} {peak:9.0f}",
            flush=True,
        )
    print(
        f"pre-processing: {time.monotonic() - begun:.0f} s for {seconds:.0f} s of recordings "
        "(published program: 1 h 40 min, three processes, for 480 s)\n"
    )
    return recordings


# --- 2. the folds -----------------------------------------------------------------------------

Model = Callable[[list[Recording]], Array]  # decides about the bins of recordings


def labels_of(recordings: list[Recording], classes: list[str]) -> Array:
    return np.repeat(
        [classes.index(r.label) for r in recordings], [len(r.ends) for r in recordings]
    )


def counts_of(recordings: list[Recording]) -> Array:
    return np.concatenate([r.counts for r in recordings]).astype(np.float32)


def train_linear(train: list[Recording], classes: list[str]) -> Pipeline:
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return pipeline.fit(counts_of(train), labels_of(train, classes))


def fit_linear(train: list[Recording], classes: list[str], _: argparse.Namespace) -> Model:
    pipeline = train_linear(train, classes)
    return lambda test: np.asarray(pipeline.predict(counts_of(test)))


def fit_mlp(train: list[Recording], classes: list[str], arguments: argparse.Namespace) -> Model:
    """512 ReLU neurons, Adam, batches of 64, 10 epochs."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    network = MLPClassifier(
        (512,), alpha=0.0, batch_size=64, max_iter=10, random_state=arguments.seed
    )
    pipeline = make_pipeline(StandardScaler(), network)
    with warnings.catch_warnings():  # ten epochs are what was published, converged or not
        warnings.simplefilter("ignore", ConvergenceWarning)
        pipeline.fit(counts_of(train), labels_of(train, classes))
    return lambda test: np.asarray(pipeline.predict(counts_of(test)))


def fit_spiking(train: list[Recording], classes: list[str], arguments: argparse.Namespace) -> Model:
    network = train_spiking(train, classes, arguments)
    import cuba

    return lambda test: np.asarray(cuba.decide(network, [c for r in test for c in r.inputs()]))


def train_spiking(train: list[Recording], classes: list[str], arguments: argparse.Namespace) -> Any:
    import cuba

    return cuba.train(
        [code for recording in train for code in recording.inputs()],
        labels_of(train, classes), len(classes), hidden=arguments.hidden,
        epochs=arguments.epochs, steps=BIN // arguments.step, seed=arguments.seed,
        device=arguments.device,
    )  # fmt: skip


FITS = {"linear": fit_linear, "mlp": fit_mlp, "spiking": fit_spiking}


def leave_one_out(recordings: list[Recording], arguments: argparse.Namespace) -> None:
    """Print the accuracy of every model on every recording that it was not trained on."""
    classes = sorted({r.label for r in recordings})
    numbers = sorted({r.number for r in recordings})[: arguments.folds]
    for number in numbers:
        tested = labels_of([r for r in recordings if r.number == number], classes)
        shares = " ".join(f"{c} {np.mean(tested == i):.0%}" for i, c in enumerate(classes))
        print(f"fold {number}: {len(tested):,} test bins, {shares}")
    print(
        "\nmodel    "
        + " ".join(f"{n:>6}" for n in numbers)
        + "    mean +- sd   train    s  published"
    )
    for name in arguments.models.split(","):
        begun, tests, trains = time.monotonic(), [], []
        for number in numbers:
            train = [r for r in recordings if r.number != number]
            test = [r for r in recordings if r.number == number]
            model = FITS[name](train, classes, arguments)
            tests.append(100 * np.mean(model(test) == labels_of(test, classes)))
            trains.append(100 * np.mean(model(train) == labels_of(train, classes)))
        print(
            f"{name:8} " + " ".join(f"{score:6.2f}" for score in tests)
            + f"   {np.mean(tests):5.2f} +- {np.std(tests):.2f}  {np.mean(trains):6.2f} "
            f"{time.monotonic() - begun:4.0f}  {PUBLISHED[name]}", flush=True,
        )  # fmt: skip


# --- models for the graph ---------------------------------------------------------------------


def write_models(recordings: list[Recording], arguments: argparse.Namespace) -> None:
    """linear.npz and model.nir, trained on all recordings, for the graph flow_cytometry_papers."""
    classes = sorted({r.label for r in recordings})
    arguments.output.mkdir(parents=True, exist_ok=True)
    truth = labels_of(recordings, classes)
    pipeline = train_linear(recordings, classes)
    scaler, model = pipeline[0], pipeline[1]
    weights, bias = model.coef_, model.intercept_
    if len(classes) == 2:  # scikit-learn gives the one difference that matters
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    np.savez(
        arguments.output / "linear.npz", weights=weights, bias=bias, mean=scaler.mean_,
        scale=scaler.scale_, grid=np.array([ROWS, COLUMNS]), window_us=np.int64(BIN),
        classes=np.array(classes), power=np.float64(1),
    )  # fmt: skip
    print(f"wrote {arguments.output / 'linear.npz'}, right about its own bins: "
          f"{100 * pipeline.score(counts_of(recordings), truth):.2f} %")  # fmt: skip
    if "spiking" in arguments.models:
        import cuba

        network = train_spiking(recordings, classes, arguments)
        cuba.write(network, classes, arguments.step, BIN, arguments.output / "model.nir")
        found = cuba.decide(network, [code for r in recordings for code in r.inputs()])
        print(f"wrote {arguments.output / 'model.nir'}, right about its own bins: "
              f"{100 * np.mean(found == truth):.2f} %", flush=True)  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with A1.raw, B1.raw, ...")
    parser.add_argument("--filter", choices=FILTERS, default="program")
    parser.add_argument("--minimum-events", type=int, default=1000, help="filtered, of a kept bin")
    parser.add_argument("--factor", type=int, default=20, help="pixels a cell each way")
    parser.add_argument("--width", type=int, default=None, help="for files that do not say it")
    parser.add_argument("--height", type=int, default=None)
    parser.add_argument("--models", default="linear,mlp,spiking")
    parser.add_argument("--step", type=int, default=10, help="of the spiking network, us")
    parser.add_argument("--hidden", type=int, default=512, help="spiking neurons")
    parser.add_argument("--epochs", type=int, default=50, help="of the spiking network")
    parser.add_argument("--device", default="cpu", help="torch's, such as cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", type=int, default=None, help="at most so many")
    parser.add_argument("--work", type=Path, default=None, help="for the bins; default: temporary")
    parser.add_argument("--output", type=Path, default=None, help="write models for the graph")
    arguments = parser.parse_args()
    if unknown := set(arguments.models.split(",")) - set(FITS):
        raise SystemExit(f"--models: {sorted(unknown)}; expected some of {','.join(FITS)}")
    if BIN % arguments.step:
        raise SystemExit(f"--step {arguments.step} us does not divide {BIN} us")
    return arguments


def main() -> None:
    arguments, begun = parse(), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        recordings = prepare(arguments, arguments.work or Path(temporary))
        leave_one_out(recordings, arguments)
        if arguments.output:
            write_models(recordings, arguments)
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
