"""Spiking networks one step at a time beside Norse, snnTorch, Sinabs, PyTorch and numpy.

    NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/spiking_networks.py

Prints Markdown. All runners take turns in one process with one thread, `--rounds` times; each step
is a call of its own. Times are microseconds of CPU per step, the least of all turns; ratios are
medians of the ratios of turns that followed one another: above 1, ours is faster.

A step is what a live stream needs: the input of one millisecond in, the state moved on, spikes out.
PyTorch's peers are handed ready dense frames, numpy too; ours the indices that are not zero, as
events come. Making frames is not charged to them, nor batches of steps allowed, which would be
faster in them and late in a stream. Where a peer has our rules its spikes are compared first, and
the program ends where they differ. Peers: benchmarks/requirements.txt; one that is not installed is
left out by name.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import nir
import numpy as np
from _table import print_machine, print_table, ratio, verdict
from numba import njit
from streamflow_nodes.events.datasets import open_dataset
from streamflow_nodes.networks.compiler import compile_network
from streamflow_nodes.networks.engine import State, warm_up
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.wiring import read_network, wire

ROOT = Path(__file__).resolve().parents[1]
GRAPH = ROOT / "graphs" / "digits"
NMNIST = ROOT.parent / "shared" / "data" / "nir" / "nmnist100" / "nmnist_test100.npz"
PEERS = ("torch", "norse", "nirtorch", "snntorch", "sinabs", "nir")
INPUTS, HIDDEN, OUTPUTS, DECAY, THRESHOLD = 1024, 256, 10, np.float32(0.9), np.float32(1.0)
FRAMES = 256

Step = Callable[[int], float]  # step number to how many spikes came out
PROMISES = {
    ("mlp", "norse"): 45, ("mlp", "snntorch"): 55, ("mlp", "numpy"): 5, ("scnn", "norse"): 80,
}  # fmt: skip


# --- the perceptron: 1024-256-10 LIF --------------------------------------------------------------


def perceptron(density: float) -> tuple[Any, Any, Any]:
    """Frames (FRAMES, INPUTS) float32 of 0 and 1, and the weights of both layers (out, in)."""
    rng = np.random.default_rng(0)
    x = (rng.random((FRAMES, INPUTS)) < density).astype(np.float32)
    scale = 0.06 * min(1.0, (0.1 / density) ** 0.5)  # some tenths of the neurons fire
    w1 = rng.normal(0.0, scale, (HIDDEN, INPUTS)).astype(np.float32)
    w2 = rng.normal(0.02, 0.12, (OUTPUTS, HIDDEN)).astype(np.float32)
    return x, w1, w2


def perceptron_graph(w1: Any, w2: Any) -> nir.NIRGraph:
    """V = 0.9 v + W x: tau of ten steps, and r to match."""

    def lif(size: int) -> nir.LIF:
        full = {"tau": 0.01, "r": 10.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0}
        return nir.LIF(**{name: np.full(size, value, np.float32) for name, value in full.items()})

    return nir.NIRGraph.from_list(nir.Linear(w1), lif(HIDDEN), nir.Linear(w2), lif(OUTPUTS))


def ours(wiring: Any, rules: Rules, frames: Any) -> Step:
    """Our engine: one call for each step, on the places that are not zero."""
    (output,) = wiring.outputs
    state = State(compile_network(wiring, rules, watch=[wiring.layer_before(output)]))
    cells = [np.flatnonzero(frame) for frame in frames]
    is_binary = all((frame.max(initial=0) <= 1) for frame in frames)
    values = [
        None if is_binary else np.ascontiguousarray(f.reshape(-1)[c], np.float32)
        for f, c in zip(frames, cells, strict=True)
    ]
    run, count = state.step, len(cells)

    def step(number: int) -> float:
        at = number % count
        return len(run(cells[at], values[at])[0])

    return step


def numpy_perceptron(x: Any, w1: Any, w2: Any) -> Step:
    v1, v2 = np.zeros(HIDDEN, np.float32), np.zeros(OUTPUTS, np.float32)

    def step(number: int) -> float:
        nonlocal v1, v2
        v1 = DECAY * v1 + w1 @ x[number % FRAMES]
        z = v1 > THRESHOLD
        v1[z] = 0
        v2 = DECAY * v2 + w2 @ z.astype(np.float32)
        z = v2 > THRESHOLD
        v2[z] = 0
        return float(np.count_nonzero(z))

    return step


@njit
def _naive_events(
    cells: Any, w1: Any, v1: Any, fired: Any, w2: Any, v2: Any, decay: float, threshold: float
) -> int:
    """A row of weights for each event, written as anyone would."""
    for o in range(v1.shape[0]):
        v1[o] *= decay
    for i in cells:
        for o in range(v1.shape[0]):
            v1[o] += w1[i, o]
    count = 0
    for o in range(v1.shape[0]):
        if v1[o] > threshold:
            v1[o] = 0
            fired[count] = o
            count += 1
    for o in range(v2.shape[0]):
        v2[o] *= decay
    for at in range(count):
        for o in range(v2.shape[0]):
            v2[o] += w2[fired[at], o]
    given = 0
    for o in range(v2.shape[0]):
        if v2[o] > threshold:
            v2[o] = 0
            given += 1
    return given


def naive_perceptron(x: Any, w1: Any, w2: Any) -> Step:
    cells = [np.flatnonzero(frame) for frame in x]
    rows1, rows2 = np.ascontiguousarray(w1.T), np.ascontiguousarray(w2.T)
    v1, v2 = np.zeros(HIDDEN, np.float32), np.zeros(OUTPUTS, np.float32)
    fired = np.zeros(HIDDEN, np.int64)

    def step(number: int) -> float:
        at = cells[number % FRAMES]
        return float(_naive_events(at, rows1, v1, fired, rows2, v2, DECAY, THRESHOLD))

    return step


def linear(torch: Any, weight: Any) -> Any:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = torch.from_numpy(np.array(weight))
    return layer


def torch_perceptron(x: Any, w1: Any, w2: Any) -> Step:
    import torch

    frames = [torch.from_numpy(frame)[None] for frame in x]
    l1, l2, decay = linear(torch, w1), linear(torch, w2), float(DECAY)
    v1, v2 = torch.zeros(1, HIDDEN), torch.zeros(1, OUTPUTS)

    def step(number: int) -> float:
        nonlocal v1, v2
        v1 = decay * v1 + l1(frames[number % FRAMES])
        z = (v1 > 1.0).float()
        v1 = v1 * (1 - z)
        v2 = decay * v2 + l2(z)
        z = (v2 > 1.0).float()
        v2 = v2 * (1 - z)
        return float(z.sum())

    return step


def norse_perceptron(x: Any, w1: Any, w2: Any) -> Step:
    import norse.torch as norse
    import torch

    frames = [torch.from_numpy(frame)[None] for frame in x]
    cell = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(100.0))  # 0.1 of a step of 1 ms
    network = norse.SequentialState(
        linear(torch, w1 * 10), norse.LIFBoxCell(cell), linear(torch, w2 * 10),
        norse.LIFBoxCell(cell),
    )  # fmt: skip
    state = None

    def step(number: int) -> float:
        nonlocal state
        z, state = network(frames[number % FRAMES], state)
        return float(z.sum())

    return step


def snntorch_perceptron(x: Any, w1: Any, w2: Any) -> Step:
    import snntorch
    import torch

    frames = [torch.from_numpy(frame)[None] for frame in x]
    l1, l2 = linear(torch, w1), linear(torch, w2)
    rule = {"beta": float(DECAY), "reset_mechanism": "zero", "reset_delay": False}
    first, second = snntorch.Leaky(**rule), snntorch.Leaky(**rule)
    v1, v2 = torch.zeros(1, HIDDEN), torch.zeros(1, OUTPUTS)

    def step(number: int) -> float:
        nonlocal v1, v2
        z, v1 = first(l1(frames[number % FRAMES]), v1)
        z, v2 = second(l2(z), v2)
        return float(z.sum())

    return step


def sinabs_perceptron(x: Any, w1: Any, w2: Any) -> Step:
    import sinabs.layers
    import torch

    frames = [torch.from_numpy(frame)[None, None] for frame in x]
    tau = float(-1 / np.log(DECAY))

    def lif() -> Any:
        return sinabs.layers.LIF(tau_mem=tau, norm_input=False)

    network = torch.nn.Sequential(linear(torch, w1), lif(), linear(torch, w2), lif())
    return lambda number: float(network(frames[number % FRAMES]).sum())


# --- the paper's convolutional network ------------------------------------------------------------


def recording_frames(path: Path) -> Any:
    """The first recording of the dataset in frames of 1 ms, (steps, 2, 34, 34) float32."""
    events = open_dataset(str(path))[0].read()
    steps = (events["timestamp"] - events["timestamp"][0]) // 1000
    frames = np.zeros((int(steps[-1]), 2, 34, 34), np.float32)
    whole = steps < len(frames)
    at = (steps, events["polarity"], events["y"], events["x"])
    np.add.at(frames, tuple(a[whole] for a in at), 1)
    return frames


def norse_convolution(graph: Any, frames: Any) -> Step:
    import norse.torch as norse
    import torch

    tensors = [torch.from_numpy(frame) for frame in frames]
    network, state = norse.from_nir(graph, ignore_warnings=True), None

    def step(number: int) -> float:
        nonlocal state
        z, state = network(tensors[number % len(tensors)], state)
        return float(z.sum())

    return step


def sinabs_convolution(graph: Any, frames: Any) -> Step:
    import torch
    from sinabs.nir import from_nir

    tensors = [torch.from_numpy(frame)[None] for frame in frames]
    network = from_nir(graph, batch_size=1)

    def step(number: int) -> float:
        z = network(tensors[number % len(tensors)])
        return float((z[0] if isinstance(z, tuple) else z).sum())

    return step


def snntorch_convolution(graph: Any, frames: Any) -> Step:
    """Built by hand: snnTorch 1.0 does not import SumPool2d."""
    import snntorch
    import torch

    tensors = [torch.from_numpy(frame)[None] for frame in frames]
    layers: list[Any] = []
    for node in (graph.nodes[str(number)] for number in range(13)):
        if isinstance(node, nir.Conv2d):
            out, taken, *kernel = node.weight.shape
            conv = torch.nn.Conv2d(
                taken, out, tuple(kernel), tuple(node.stride), tuple(node.padding)
            )
            conv.weight.data, conv.bias.data = map(torch.from_numpy, (node.weight, node.bias))
            layers.append(conv)
        elif isinstance(node, nir.Affine):
            layer = torch.nn.Linear(*node.weight.shape[::-1])
            layer.weight.data, layer.bias.data = map(torch.from_numpy, (node.weight, node.bias))
            layers.append(layer)
        elif isinstance(node, nir.SumPool2d):
            layers.append(lambda h: torch.nn.functional.avg_pool2d(h, 2) * 4)
        elif isinstance(node, nir.Flatten):
            layers.append(lambda h: h.flatten(1))
        else:
            layers.append(snntorch.Leaky(beta=1.0, reset_mechanism="zero", reset_delay=False))
    membranes = {
        n: torch.zeros(1) for n, one in enumerate(layers) if isinstance(one, snntorch.Leaky)
    }

    def step(number: int) -> float:
        h = tensors[number % len(tensors)]
        for at, layer in enumerate(layers):
            if at in membranes:
                h, membranes[at] = layer(h, membranes[at])
            else:
                h = layer(h)
        return float(h.sum())

    return step


# --- turns ----------------------------------------------------------------------------------------


def timed(step: Step, first: int, count: int) -> float:
    """CPU time of this thread for each of `count` steps, us: what others run does not count."""
    begin = time.thread_time_ns()
    for at in range(first, first + count):
        step(at)
    return (time.thread_time_ns() - begin) / count / 1e3


def take_turns(runners: dict[str, Step], rounds: int, count: int) -> dict[str, list[float]]:
    """Times of each runner, turn by turn."""
    seen: dict[str, list[float]] = {name: [] for name in runners}
    for step in runners.values():
        timed(step, 0, 20)  # memory, caches, compilation
    for turn in range(rounds):
        for name, step in runners.items():
            seen[name].append(timed(step, turn * count, count))
    return seen


def available(makers: dict[str, Callable[[], Step]]) -> dict[str, Step]:
    """The runners whose library is here; the others are named."""
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except ImportError as error:
            print(f"{name} is not installed: left out ({error})")
    return found


def check_equal(runners: dict[str, Step], others: dict[str, str], count: int) -> None:
    """SystemExit where a runner that has our rules gives other spikes in the first steps."""
    totals = {name: [step(at) for at in range(count)] for name, step in runners.items()}
    for name, given in totals.items():
        if name in others:
            print(f"- {name}: {sum(given):.0f} spikes of the output; {others[name]}")
            continue
        differ = sum(a != b for a, b in zip(given, totals["streamflow"], strict=True))
        # sums in another order may round a neuron over its threshold, now and then
        if differ > count // 50:
            raise SystemExit(f"{name}: other spikes than ours in {differ} of {count} steps")
        print(f"- {name}: {sum(given):.0f} spikes of the output, {differ} of {count} steps differ")


def report(title: str, case: str, seen: dict[str, list[float]]) -> None:
    rows = []
    for name, times in seen.items():
        quotient = ratio(times, seen["streamflow"])
        bound = PROMISES.get((case, name))
        rows.append([
            name, f"{min(times):.1f}", f"{quotient:.1f}", "" if bound is None else f">= {bound}",
            "" if bound is None else verdict(quotient, bound, at_least=True),
        ])  # fmt: skip
    print_table(title, ["", "us per step", "theirs / ours", "promised", ""], rows)


def perceptrons(rounds: int) -> None:
    x, w1, w2 = perceptron(0.1)
    wiring = wire(perceptron_graph(w1, w2))
    runners = available({
        "streamflow": lambda: ours(wiring, Rules(dt=0.001), x),
        "numpy": lambda: numpy_perceptron(x, w1, w2),
        "torch": lambda: torch_perceptron(x, w1, w2),
        "norse": lambda: norse_perceptron(x, w1, w2),
        "snntorch": lambda: snntorch_perceptron(x, w1, w2),
        "sinabs": lambda: sinabs_perceptron(x, w1, w2),
    })  # fmt: skip
    print(f"\n## Perceptron {INPUTS}-{HIDDEN}-{OUTPUTS}, LIF, 10 % of the inputs in each step\n")
    check_equal(runners, {"sinabs": "it subtracts, and may fire twice in a step"}, FRAMES)
    report(f"{rounds} turns", "mlp", take_turns(runners, rounds, FRAMES))


def convolutions(rounds: int, dataset: Path) -> None:
    graph, frames = nir.read(GRAPH / "model.nir"), recording_frames(dataset)
    wiring = read_network(GRAPH / "model.nir")
    runners = available({
        "streamflow": lambda: ours(wiring, Rules(), frames),
        "norse": lambda: norse_convolution(graph, frames),
        "snntorch": lambda: snntorch_convolution(graph, frames),
        "sinabs": lambda: sinabs_convolution(graph, frames),
    })  # fmt: skip
    print(
        f"\n## The NIR paper's convolutional network on {dataset.name}: {len(frames)} steps, "
        f"{frames.sum() / len(frames):.1f} events a step\n"
    )
    check_equal(runners, {"sinabs": "it subtracts, and may fire twice in a step"}, len(frames))
    report(f"{rounds} turns", "scnn", take_turns(runners, rounds, len(frames)))


def densities(rounds: int) -> None:
    rows = []
    for density in (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 0.75, 1.0):
        x, w1, w2 = perceptron(density)
        runners = {
            "streamflow": ours(wire(perceptron_graph(w1, w2)), Rules(dt=0.001), x),
            "event": naive_perceptron(x, w1, w2), "dense": numpy_perceptron(x, w1, w2),
        }  # fmt: skip
        seen = take_turns(runners, rounds, FRAMES)
        best = [min(pair) for pair in zip(seen["event"], seen["dense"], strict=True)]
        quotient = ratio(seen["streamflow"], best)
        rows.append([f"{density:.1%}", *(f"{min(seen[name]):.1f}" for name in seen),
                     f"{quotient:.2f}", verdict(quotient, 1.1)])  # fmt: skip
    head = ["inputs in a step", "streamflow", "naive event kernel", "numpy (BLAS)",
            "ours / the better", "at most 1.1"]  # fmt: skip
    print(f"\n## Density, perceptron {INPUTS}-{HIDDEN}-{OUTPUTS}")
    print_table(f"us per step, {rounds} turns", head, rows)


# --- the node in a graph --------------------------------------------------------------------------


def whole_graph(dataset: Path) -> None:
    """`streamflow run digits` in processes: what a step costs where data come and go."""
    print(f"\n## The node in a running graph: `streamflow run digits` on {dataset.name}\n")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "streamflow.cli", "run", "digits", "--quiet", "--report",
                   "report.json", "--set", f"digits.path={dataset}"]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        told = json.loads(Path(folder, "report.json").read_text())
    network = told["nodes"]["network"]
    process = told["processes"][network["process"]]
    stop = told["results"]["digits"]["stop_us"]
    steps, score = stop / 1000, told["results"]["score"]
    rows = [
        ["stream time", f"{stop / 1e6:.1f} s, {steps:.0f} steps of 1 ms"],
        ["events", f"{told['nodes']['digits']['items_out']:,}"],
        ["wall time, processes started and ended", f"{told['wall_s']:.1f} s"],
        ["times real time", f"{stop / 1e6 / told['wall_s']:.1f}"],
        ["CPU of the network's process, per step", f"{process['cpu_s'] / steps * 1e6:.1f} us"],
        ["right", f"{score['correct']:.1%} of {score['trials']}"],
    ]
    print_table("As fast as it can (`clock: fast`)", ["", ""], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dataset", type=Path, help="N-MNIST; without it, a simulated sample")
    options = parser.parse_args()
    dataset = options.dataset or (NMNIST if NMNIST.exists() else GRAPH / "sample.npz")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # those of the peers
    print_machine()
    names = {d.name: d.version for d in metadata.distributions() if d.name in PEERS}
    print("peers:", ", ".join(f"{name} {version}" for name, version in sorted(names.items())))
    try:
        import torch
    except ImportError:
        print("torch is not installed: numpy only")
    else:
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
    warm_up()
    perceptrons(options.rounds)
    convolutions(options.rounds, dataset)
    densities(options.rounds)
    whole_graph(dataset)


if __name__ == "__main__":
    main()
