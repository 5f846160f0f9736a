"""Networks to try engines with: small, random, and exact in float32 for a few steps.

Weights, biases and parameters are eighths, and the ratio of time step to time constant is 1/2 or
1/4, so that sums do not depend on their order and no result on rounding: engines in float32 and
float64 must give the same bits. `exact` decays are no such numbers; see the tests that use them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import nir
import numpy as np
from hypothesis import strategies as st

DT = 0.25  # s; a power of two, so that dt / tau is exact
STEPS = 6  # each costs two bits of float32's 24


def eighths(rng: np.random.Generator, *shape: int, low: int = -8, high: int = 8) -> Any:
    return (rng.integers(low, high + 1, shape) / 8).astype(np.float32)


def choice(rng: np.random.Generator, values: list[float], shape: tuple[int, ...]) -> Any:
    return rng.choice(values, shape).astype(np.float32)


def neurons(kind: str, rng: np.random.Generator, shape: tuple[int, ...], *, plain: bool) -> Any:
    """Neurons of a kind; `plain` ones have what every framework can say (r 1, reset to 0)."""
    tau = [0.5, 1.0]
    p: dict[str, Any] = {
        "r": np.ones(shape, np.float32) if plain else choice(rng, [0.5, 1, 2], shape)
    }
    if kind in ("IF", "LIF", "CubaLIF"):
        p["v_threshold"] = eighths(rng, *shape, low=2, high=8) + np.float32(1 / 16)
        p["v_reset"] = (
            np.zeros(shape, np.float32) if plain else eighths(rng, *shape, low=-2, high=1)
        )
    if kind in ("LI", "LIF"):
        p["tau"] = choice(rng, tau, shape)
    if kind in ("CubaLI", "CubaLIF"):
        p["tau_mem"] = p["tau_syn"] = choice(rng, tau[:1], shape)  # one bit a step for each
        p["w_in"] = choice(rng, [0.5, 1.0, 2.0], shape)
    if kind not in ("I", "IF"):
        is_zero = plain and kind == "CubaLIF"
        p["v_leak"] = (
            np.zeros(shape, np.float32) if is_zero else eighths(rng, *shape, low=-2, high=2)
        )
    return getattr(nir, kind)(**p)


def affine(rng: np.random.Generator, taken: int, given: int, *, bias: bool = True) -> Any:
    weight = eighths(rng, given, taken)
    return nir.Affine(weight, eighths(rng, given, low=-1, high=2)) if bias else nir.Linear(weight)


def single(kind: str, rng: np.random.Generator) -> tuple[Any, tuple[int, ...]]:
    """One node of a kind that is no neuron, with odd shapes, and the shape of its input."""
    if kind in ("Affine", "Linear"):
        return affine(rng, 5, 4, bias=kind == "Affine"), (5,)
    if kind == "Conv1d":
        groups = int(rng.choice([1, 2]))
        weight = eighths(rng, 4, 2 // groups, 3)
        stride = int(rng.choice([1, 2]))
        padding = "same" if stride == 1 and rng.random() < 0.3 else int(rng.integers(0, 3))
        bias = eighths(rng, 4)
        return nir.Conv1d(9, weight, stride, padding, int(rng.choice([1, 2])), groups, bias), (2, 9)
    if kind == "Conv2d":
        groups = int(rng.choice([1, 2]))
        kernel = tuple(int(n) for n in rng.choice([1, 2, 3], 2))
        stride = tuple(int(n) for n in rng.choice([1, 2, 3], 2))
        dilation = tuple(int(n) for n in rng.choice([1, 2], 2))
        padding: Any = tuple(int(n) for n in rng.integers(0, 3, 2))
        if rng.random() < 0.3:
            padding, stride = "same", (1, 1)
        weight = eighths(rng, 4, 2 // groups, *kernel)
        conv = nir.Conv2d((7, 6), weight, stride, padding, dilation, groups, eighths(rng, 4))
        return conv, (2, 7, 6)
    if kind in ("SumPool2d", "AvgPool2d"):
        kernel = rng.choice([1, 2, 4], 2)  # powers of two, for exact averages
        padding = np.minimum(rng.integers(0, 2, 2), kernel // 2)
        return getattr(nir, kind)(kernel, rng.choice([1, 2, 3], 2), padding), (3, 7, 6)
    if kind == "Flatten":
        return nir.Flatten({"input": np.array([2, 3, 4])}, 0, int(rng.choice([1, 2, -1]))), (
            2,
            3,
            4,
        )
    if kind == "Scale":
        return nir.Scale(eighths(rng, 2, 3)), (2, 3)
    if kind == "Threshold":
        return nir.Threshold(eighths(rng, 2, 3) + np.float32(1 / 16)), (2, 3)
    assert kind == "Delay"
    return nir.Delay(DT * rng.integers(0, 4, (2, 3))), (2, 3)


NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")
SPIKING = ("IF", "LIF", "CubaLIF")  # what others follow: weighted sums of potentials cost bits
OTHERS = (
    "Affine", "Linear", "Conv1d", "Conv2d", "SumPool2d", "AvgPool2d", "Flatten", "Scale",
    "Threshold", "Delay",
)  # fmt: skip


def chain(shape: tuple[int, ...], *nodes: Any) -> nir.NIRGraph:
    """The nodes one after another. Their shapes are not checked by NIR, which takes kernels for
    square and groups for one."""  # fmt: skip
    names = ["input", *(f"n{number}" for number in range(len(nodes))), "output"]
    every = [nir.Input(np.array(shape)), *nodes, nir.Output(None)]
    edges = list(pairwise(names))
    return nir.NIRGraph(dict(zip(names, every, strict=True)), edges, type_check=False)


@st.composite
def generators(draw: Any) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def spiking_kind(rng: np.random.Generator, kinds: list[str]) -> str:
    return str(rng.choice([kind for kind in kinds if kind in SPIKING]))


def recurrent(rng: np.random.Generator, kinds: list[str], *, plain: bool, nested: bool) -> Any:
    """Input 4 -> Affine -> neurons 5 (<-> Affine) -> Affine -> neurons 3, the cycle in a graph of
    its own where `nested`."""  # fmt: skip
    cell = neurons(spiking_kind(rng, kinds), rng, (5,), plain=plain)
    back = affine(rng, 5, 5)
    last = neurons(str(rng.choice(kinds)), rng, (3,), plain=plain)
    nodes = {
        "input": nir.Input(np.array([4])), "fc1": affine(rng, 4, 5), "fc2": affine(rng, 5, 3),
        "lif2": last, "output": nir.Output(np.array([3])),
    }  # fmt: skip
    edges = [("input", "fc1"), ("fc2", "lif2"), ("lif2", "output")]
    if not nested:
        nodes |= {"lif1.lif": cell, "lif1.w_rec": back}
        edges += [("fc1", "lif1.lif"), ("lif1.lif", "lif1.w_rec"), ("lif1.w_rec", "lif1.lif"),
                  ("lif1.lif", "fc2")]  # fmt: skip
    else:
        five = np.array([5])
        inner = {"input": nir.Input(five), "lif": cell, "w_rec": back, "output": nir.Output(five)}
        nodes["lif1"] = nir.NIRGraph(
            inner, [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
            type_check=False,
        )  # fmt: skip
        edges += [("fc1", "lif1"), ("lif1", "fc2")]
    return nir.NIRGraph(nodes, edges, type_check=False)


def convolutional(rng: np.random.Generator, kinds: list[str], *, plain: bool) -> Any:
    """Conv2d, neurons, pooling, Conv2d, neurons, Flatten, Linear, neurons: (2, 8, 6) to (3,)."""
    first = nir.Conv2d(
        (8, 6), eighths(rng, 4, 2, 3, 3), 1, (1, 1), 1, 1, eighths(rng, 4, low=0, high=1)
    )
    second = nir.Conv2d(
        (4, 3), eighths(rng, 2, 4, 3, 3), (2, 1), (1, 1), 1, 1, np.zeros(2, np.float32)
    )
    two = np.array([2, 2])
    return chain(
        (2, 8, 6), first, neurons(spiking_kind(rng, kinds), rng, (4, 8, 6), plain=plain),
        nir.SumPool2d(two, two, np.array([0, 0])), second,
        neurons(spiking_kind(rng, kinds), rng, (2, 2, 3), plain=plain),
        nir.Flatten({"input": np.array([2, 2, 3])}, 0, -1), affine(rng, 12, 3, bias=False),
        neurons(str(rng.choice(kinds)), rng, (3,), plain=plain),
    )  # fmt: skip


def skipping(rng: np.random.Generator, kinds: list[str], *, plain: bool) -> Any:
    """Two ways from the input that are summed before the last neurons, one twice as long."""
    nodes = {
        "input": nir.Input(np.array([4])), "a": affine(rng, 4, 6),
        "b": neurons(spiking_kind(rng, kinds), rng, (6,), plain=plain), "c": affine(rng, 6, 3),
        "d": affine(rng, 4, 3, bias=False),
        "e": neurons(str(rng.choice(kinds)), rng, (3,), plain=plain),
        "output": nir.Output(np.array([3])),
    }  # fmt: skip
    edges = [("input", "a"), ("a", "b"), ("b", "c"), ("input", "d"), ("c", "e"), ("d", "e"),
             ("e", "output")]  # fmt: skip
    return nir.NIRGraph(nodes, edges)


def whole(rng: np.random.Generator, kinds: list[str], *, plain: bool) -> Any:
    """One of the networks above."""
    form = rng.integers(4)
    if form < 2:
        return recurrent(rng, kinds, plain=plain, nested=bool(form))
    return (convolutional if form == 2 else skipping)(rng, kinds, plain=plain)


def frames(rng: np.random.Generator, graph: Any, *, graded: bool = False) -> Any:
    """(STEPS, input shape...) float32: spikes, some counted twice, or eighths where `graded`."""
    (node,) = graph.inputs.values()
    shape = (STEPS, *(int(n) for n in node.input_type["input"]))
    if graded:
        return eighths(rng, *shape) * (rng.random(shape) < 0.6)
    return rng.choice([0, 1, 2], shape, p=[0.6, 0.35, 0.05]).astype(np.float32)
