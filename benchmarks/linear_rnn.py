"""A frame of a linear RNN next to torch and onnxruntime, in one process, on one core, taking turns.

    python benchmarks/linear_rnn.py [--model FILE.safetensors] [--frames FRAMES.npy] [--rounds N]

Prints Markdown. A time is thread CPU time of one frame, called one frame at a time as a live graph
does, with the state kept by the caller where the peer has none; the lower fifth of the rounds. A
ratio is the median of the ratios of rounds that followed one another. Peers compute the same
network in float32 and are compared with ours first; the program ends where they differ by more than
1e-4. Without FRAMES.npy the inputs are random numbers: times depend on them, since inputs of 0 cost
less here. Needs torch, onnx and onnxruntime (benchmarks/requirements.txt); one that is not there is
left out by name.

    python benchmarks/linear_rnn.py --sparse

measures instead from which sparsity on skipping zero weights would pay.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _table import print_machine, print_table, ratio, verdict
from streamflow_nodes.linear_rnn.command import with_integers
from streamflow_nodes.linear_rnn.engine import FloatEngine
from streamflow_nodes.linear_rnn.fixed_engine import FixedEngine
from streamflow_nodes.linear_rnn.fixed_point import BITS
from streamflow_nodes.linear_rnn.model_file import Dense, Model, Recurrent, read_model

MODEL = Path(__file__).resolve().parents[1] / "graphs" / "denoise" / "model.safetensors"
BLOCK_S = 0.004  # CPU time of one turn

Step = Callable[[Any], Any]


def halves(layer: Recurrent) -> tuple[Any, ...]:
    """A layer's parameters in real float32 numbers, real parts first."""
    return tuple(
        np.ascontiguousarray(each, np.float32)
        for each in (
            layer.a.real, layer.a.imag, np.concatenate([layer.b.real, layer.b.imag]),
            np.concatenate([layer.input_bias.real, layer.input_bias.imag]),
            np.concatenate([layer.c.real, -layer.c.imag], axis=1), layer.d, layer.output_bias,
            layer.gate_weight, layer.gate_bias,
        )
    )  # fmt: skip


def check_shape(model: Model) -> None:
    """SystemExit for networks that the peers below are not written for."""
    for layer in model.layers:
        if isinstance(layer, Dense):
            fits = layer.activation in ("none", "relu")
        else:
            fits = (
                layer.activation == layer.final_activation == "relu" and layer.skip
                and layer.gate_weight is not None and layer.state_activation == "relu_re"
            )  # fmt: skip
        if not fits:
            raise SystemExit(f"layer {layer.name}: the peers here are S5 layers of the paper only")


def torch_steps(model: Model) -> dict[str, Step]:
    """Eager torch, real-stacked: the fewest operations that we found."""
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    layers: list[Any] = []
    for layer in model.layers:
        if isinstance(layer, Dense):
            weight, bias = (
                torch.tensor(a, dtype=torch.float32) for a in (layer.weight, layer.bias)
            )
            layers.append((weight, bias, layer.activation == "relu"))
        else:
            layers.append([*map(torch.tensor, halves(layer)), torch.zeros(2 * layer.states)])

    def step(frame: Any) -> Any:
        with torch.inference_mode():
            u = torch.from_numpy(frame)
            for each in layers:
                if len(each) == 3:
                    u = torch.addmv(each[1], each[0], u)
                    u = torch.relu(u) if each[2] else u
                    continue
                a_re, a_im, b, b_bias, c, d, c_bias, gate, gate_bias, x = each
                re, im = x.chunk(2)
                drive = torch.addmv(b_bias, b, u)
                x = torch.cat([a_re * re - a_im * im, a_re * im + a_im * re]) + drive
                each[-1] = x
                passes = (x[: len(a_re)] > 0).repeat(2)
                z = torch.relu(torch.addmv(c_bias + d * u, c, x * passes))
                u = torch.relu(u + z * torch.sigmoid(torch.addmv(gate_bias, gate, z)))
            return u.numpy()

    return {"torch eager": step}


def onnx_steps(model: Model) -> dict[str, Step]:
    """The same as an ONNX graph, called with arrays, and with bound buffers."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, states = [], [], []

    def constant(name: str, array: Any) -> str:
        whole = np.ascontiguousarray(array, np.float32)
        constants.append(numpy_helper.from_array(whole, name))
        return name

    def add(op: str, inputs: list[str], out: str, **how: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [out], **how))
        return out

    zero = constant("zero", np.zeros(1))
    u = "frame"
    for n, layer in enumerate(model.layers):
        if isinstance(layer, Dense):
            w, bias = constant(f"w{n}", layer.weight.T), constant(f"b{n}", layer.bias)
            u = add("Gemm", [u, w, bias], f"y{n}")
            u = add("Relu", [u], f"r{n}") if layer.activation == "relu" else u
            continue
        names = ("ar", "ai", "b", "bb", "c", "d", "cb", "g", "gb")
        values = halves(layer)
        ar, ai, b, bb, c, d, cb, g, gb = (
            constant(f"{name}{n}", value.T if value.ndim == 2 else value)
            for name, value in zip(names, values, strict=True)
        )
        states.append((f"x{n}", 2 * layer.states))
        nodes.append(
            helper.make_node("Split", [f"x{n}"], [f"re{n}", f"im{n}"], axis=1, num_outputs=2)
        )
        drive = add("Gemm", [u, b, bb], f"drive{n}")
        nodes.append(
            helper.make_node("Split", [drive], [f"dr{n}", f"di{n}"], axis=1, num_outputs=2)
        )
        p = [
            add("Mul", pair, f"p{k}{n}")
            for k, pair in enumerate(
                ([ar, f"re{n}"], [ai, f"im{n}"], [ar, f"im{n}"], [ai, f"re{n}"])
            )
        ]
        re = add("Add", [add("Sub", p[:2], f"s{n}"), f"dr{n}"], f"nre{n}")
        im = add("Add", [add("Add", p[2:], f"t{n}"), f"di{n}"], f"nim{n}")
        add("Concat", [re, im], f"nx{n}", axis=1)
        passes = add("Cast", [add("Greater", [re, zero], f"m{n}")], f"f{n}", to=TensorProto.FLOAT)
        h = add(
            "Concat",
            [add("Mul", [re, passes], f"hr{n}"), add("Mul", [im, passes], f"hi{n}")],
            f"h{n}",
            axis=1,
        )
        z = add("Add", [add("Gemm", [h, c, cb], f"cz{n}"), add("Mul", [u, d], f"du{n}")], f"zz{n}")
        z = add("Relu", [z], f"z{n}")
        gate = add("Sigmoid", [add("Gemm", [z, g, gb], f"gz{n}")], f"ga{n}")
        u = add("Relu", [add("Add", [u, add("Mul", [z, gate], f"zg{n}")], f"uz{n}")], f"u{n}")

    def info(name: str, size: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])

    graph = helper.make_graph(
        nodes, "s5", [info("frame", model.inputs), *(info(*s) for s in states)],
        [info(u, model.outputs), *(info(f"n{name}", size) for name, size in states)], constants,
    )  # fmt: skip
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def session() -> Any:
        return onnxruntime.InferenceSession(
            data.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    first = session()
    kept = {name: np.zeros((1, size), np.float32) for name, size in states}

    def step(frame: Any) -> Any:
        out = first.run(None, {"frame": frame[None], **kept})
        for (name, _), value in zip(states, out[1:], strict=True):
            kept[name] = value
        return out[0][0]

    second, frame_in = session(), np.zeros((1, model.inputs), np.float32)
    result = np.zeros((1, model.outputs), np.float32)
    buffers = [{name: np.zeros((1, size), np.float32) for name, size in states} for _ in "ab"]
    bound = []
    for old, new in (buffers, buffers[::-1]):
        io = second.io_binding()
        io.bind_input("frame", "cpu", 0, np.float32, frame_in.shape, frame_in.ctypes.data)
        io.bind_output(u, "cpu", 0, np.float32, result.shape, result.ctypes.data)
        for name, size in states:
            io.bind_input(name, "cpu", 0, np.float32, (1, size), old[name].ctypes.data)
            io.bind_output(f"n{name}", "cpu", 0, np.float32, (1, size), new[name].ctypes.data)
        bound.append(io)
    turn = [0]

    def bound_step(frame: Any) -> Any:
        frame_in[0] = frame
        second.run_with_iobinding(bound[turn[0]])
        turn[0] ^= 1
        return result[0]

    bound_step.buffers = buffers  # type: ignore[attr-defined]  # bound memory must stay

    return {"onnxruntime run()": step, "onnxruntime, bound buffers": bound_step}


def own_steps(model: Model) -> dict[str, Step]:
    """The three precisions, called with one frame."""

    def stepper(engine: Any) -> Step:
        engine.warm_up()
        out = np.empty((1, model.outputs), np.float32)

        def step(frame: Any) -> Any:
            engine.run_into(frame[None], out)
            return out[0]

        return step

    return {
        "streamflow f32": stepper(FloatEngine(model)),
        "streamflow w8a16": stepper(FixedEngine(model, "w8a16")),
        "streamflow w8a8": stepper(FixedEngine(model, "w8a8")),
    }


def take_turns(steps: dict[str, Step], frames: Any, rounds: int) -> dict[str, list[float]]:
    """Thread CPU time of a frame (us), for each round of each step."""
    rows = [frames[i] for i in range(len(frames))]
    at = 0

    def some(step: Step, count: int) -> float:
        nonlocal at
        began = time.thread_time()
        for _ in range(count):
            at = (at + 1) % len(rows)
            step(rows[at])
        return (time.thread_time() - began) / count

    count = {}
    for name, step in steps.items():
        some(step, 30)
        count[name] = max(2, int(BLOCK_S / max(min(some(step, 5) for _ in range(3)), 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    gc.disable()
    for _ in range(rounds):
        for name, step in steps.items():
            step(rows[at])
            times[name].append(some(step, count[name]) * 1e6)
    gc.enable()
    return times


def check_peers(steps: dict[str, Step], frames: Any) -> None:
    """SystemExit where a float peer says something else."""
    found = {
        name: np.array([np.array(step(frame)) for frame in frames[:50]])
        for name, step in steps.items()
    }
    ours = found["streamflow f32"]
    for name, theirs in found.items():
        error = float(np.abs(theirs - ours).max())
        if "w8" in name:
            db = 10 * np.log10((ours**2).sum() / ((theirs - ours) ** 2).sum())
            print(f"- {name}: {db:.1f} dB to f32 on these frames")
            continue
        print(f"- {name}: within {error:.1e} of ours")
        if error > 1e-4 * max(1.0, float(np.abs(ours).max())):
            raise SystemExit(f"{name} computes something else")


def compare(model: Model, frames: Any, rounds: int) -> None:
    steps = own_steps(model)
    for name, make in (("torch", torch_steps), ("onnxruntime", onnx_steps)):
        try:
            steps |= make(model)
        except ImportError as error:
            print(f"- {name} is left out: {error}")
    check_peers(steps, frames)
    times = take_turns(steps, frames, rounds)
    ours = times["streamflow f32"]
    print_table(
        "A frame, thread CPU time",
        ("what", "us (lower fifth)", "least", "over torch eager", "over onnxruntime", "over f32"),
        [
            (
                name, f"{np.percentile(t, 20):.1f}", f"{min(t):.1f}",
                *(f"{ratio(t, times[peer]):.3f}" if peer in times else "-"
                  for peer in ("torch eager", "onnxruntime, bound buffers")),
                f"{ratio(t, ours):.2f}",
            )
            for name, t in times.items()
        ],
    )  # fmt: skip
    promises = [
        ("f32 over torch eager", "streamflow f32", "torch eager", 0.2),
        ("f32 over onnxruntime (bound)", "streamflow f32", "onnxruntime, bound buffers", 0.5),
        ("w8a8 over f32", "streamflow w8a8", "streamflow f32", 1.0),
    ]
    print_table(
        "Promises", ("ratio of times", "measured", "at most", ""),
        [
            (what, f"{(value := ratio(times[a], times[b])):.3f}", str(bound), verdict(value, bound))
            for what, a, b, bound in promises if b in times
        ],
    )  # fmt: skip


def sparse(model: Model, frames: Any, rounds: int) -> None:
    """Dense columns with zeros in them, against rows of nonzero weights only (scipy's CSR)."""
    from numba import njit
    from scipy.sparse import csr_matrix
    from streamflow_nodes.kernels import linear_rnn as kernel

    @njit(nogil=True, error_model="numpy")
    def by_rows(ends: Any, columns: Any, values: Any, x: Any, out: Any) -> None:
        for i in range(out.size):
            total = np.float32(0)
            for k in range(ends[i], ends[i + 1]):
                total += values[k] * x[columns[k]]
            out[i] += total

    rng, rows = np.random.default_rng(0), []
    for size, wide in ((128, 128), (128, 257), (257, 128)):
        for zeros in (0.8, 0.9, 0.95, 0.98, 0.99):
            matrix = rng.normal(0, 1, (size, wide)).astype(np.float32)
            matrix[rng.random(matrix.shape) < zeros] = 0
            rows_of, packed = csr_matrix(matrix), kernel.pack(matrix)
            x = np.maximum(rng.normal(0, 1, wide), 0).astype(np.float32)
            padded = -(-size // 16) * 16
            out, index = np.zeros(padded, np.float32), np.zeros(wide + 16, np.int32)
            fan, part = np.zeros(wide + 16, np.int32), out[:size]
            times = take_turns(
                {
                    "dense": lambda _, p=packed, x=x, n=padded, w=wide, o=out, i=index, f=fan: (
                        kernel.add_product(p, 0, n, w, x, i, f, 0, o)
                    ),
                    "rows": lambda _, r=rows_of, x=x, o=part: by_rows(
                        r.indptr, r.indices, r.data, x, o
                    ),
                },
                frames, rounds,
            )  # fmt: skip
            rows.append((
                f"{size} x {wide}", f"{zeros:.0%}",
                *(f"{np.percentile(times[name], 20):.2f}" for name in ("dense", "rows")),
                f"{ratio(times['rows'], times['dense']):.2f}",
            ))  # fmt: skip
    print_table(
        "W x with half of x 0, us with the call (about 1 us of each)",
        ("size", "zeros", "dense columns", "rows of nonzeros", "rows over dense"), rows,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--frames", help="(frames, inputs) in a .npy file")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--sparse", action="store_true")
    chosen = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print_machine()
    model = read_model(chosen.model)
    if chosen.frames:
        frames = np.load(chosen.frames)[:2000].astype(np.float32)
    else:
        frames = np.random.default_rng(0).normal(0, 1, (400, model.inputs)).astype(np.float32)
    frames.flags.writeable = False
    if chosen.sparse:
        sparse(model, frames, chosen.rounds)
        return
    check_shape(model)
    with tempfile.TemporaryDirectory() as folder:
        model = with_integers(model, frames, dict(BITS), f"{folder}/m.safetensors")
        compare(model, frames, chosen.rounds)


if __name__ == "__main__":
    main()
