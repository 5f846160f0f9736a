"""`streamflow model show` and `quantise` for linear recurrent networks."""

from __future__ import annotations

import json
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError
from streamflow.text import columns

from .engine import FloatEngine
from .fixed_engine import FixedEngine
from .fixed_point import BITS, MODES, Bits, fixed_model, quantised
from .model_file import Dense, Model, read_model, write_model
from .operations import matrices, neurons, weights, window_seconds

FRAMES_LIMIT = 1 << 30  # bytes of calibration frames
SWEEP: dict[str, tuple[int, ...]] = {
    "poles": (16, 12, 10, 8, 7, 6, 5, 4),
    "weights": (8, 7, 6, 5, 4, 3),
    "activations": (16, 12, 10, 8, 7, 6, 5, 4),
    "state": (31, 24, 20, 16, 12, 8),
}

_file = click.argument("file", metavar="FILE.safetensors")
_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")


class _Failure(click.ClickException):
    """A network, or frames, that cannot be used."""

    def show(self, file: Any = None) -> None:
        click.echo(f"streamflow: {self.message}", err=True, file=file)


def _read(file: str) -> Model:
    try:
        return read_model(file)
    except DeviceError as error:
        raise _Failure(str(error)) from error


def _frames(path: str, model: Model) -> NDArray[np.float32]:
    """Frames of a .npy file, (frames, inputs), not read before their size is known."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        raise _Failure(f"{path}: cannot be read as an array ({error}); write numpy.save") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise _Failure(f"{path}: expected one array of real numbers, written by numpy.save")
    if array.ndim != 2 or array.shape[1] != model.inputs or len(array) < 2:
        raise _Failure(
            f"{path} has shape {array.shape}; expected (frames, {model.inputs}), 2 frames or more"
        )
    if array.size * 4 > FRAMES_LIMIT:
        raise _Failure(f"{path}: {array.size} numbers; expected at most {FRAMES_LIMIT // 4}")
    frames = np.array(array, np.float32, order="C")
    if not np.isfinite(frames).all():
        raise _Failure(f"{path}: numbers that are not finite")
    frames.flags.writeable = False
    return frames


# --- show -----------------------------------------------------------------------------------------


@click.command("show")
@_file
@_json
def show(file: str, as_json: bool) -> None:
    """Say what is in FILE: layers, sizes, operations for each frame, precisions."""
    facts = describe(_read(file))
    click.echo(json.dumps(facts, indent=1) if as_json else _as_text(facts))


def describe(model: Model) -> dict[str, Any]:
    """What `show` says, as plain values."""
    layers = []
    for layer in model.layers:
        total, used = weights(layer)
        facts: dict[str, Any] = {
            "name": layer.name, "type": "dense" if isinstance(layer, Dense) else layer.type,
            "inputs": layer.inputs, "outputs": layer.outputs, "weights": total,
            "weights_not_zero": used, "neuron_operations": neurons(layer),
            "density": {
                name: round(float(np.count_nonzero(matrix)) / matrix.size, 4)
                for name, matrix in matrices(layer).items()
            },
        }  # fmt: skip
        if not isinstance(layer, Dense):
            memory = 1 / (1 - np.abs(layer.a))
            facts |= {
                "states": layer.states, "largest_pole": round(float(np.abs(layer.a).max()), 7),
                "memory_frames": [round(float(v), 1) for v in np.percentile(memory, (0, 50, 100))],
            }  # fmt: skip
        layers.append(facts)
    hop, rate = model.front_end.get("hop"), model.front_end.get("rate")
    parameters = sum(
        array.size for name, array in model.tensors.items() if not name.startswith("fixed_point.")
    )
    facts = {
        "file": model.path, "inputs": model.inputs, "outputs": model.outputs,
        "parameters": int(parameters),
        "weights": sum(layer["weights"] for layer in layers),
        "weights_not_zero": sum(layer["weights_not_zero"] for layer in layers),
        "neuron_operations": sum(layer["neuron_operations"] for layer in layers),
        "layers": layers,
        "precisions": ["f32", *(mode for mode in MODES if mode in model.header.fixed_point)],
        "front_end": model.front_end, "about": model.header.about,
    }  # fmt: skip
    if isinstance(hop, int | float) and isinstance(rate, int | float) and hop > 0:
        a_second = rate / hop
        most = facts["weights_not_zero"] + 10 * facts["neuron_operations"]
        facts["frames_a_second"] = a_second
        power = most * a_second / 1e6
        facts["power_proxy_mops_at_most"] = round(power, 3)
        if latency := window_seconds(model):
            facts["pdp_proxy_mop_at_most"] = round(power * latency, 3)
    return facts


def _as_text(facts: dict[str, Any]) -> str:
    rows = [["layer", "type", "in", "out", "states", "weights", "not 0", "largest |A|"]]
    for layer in facts["layers"]:
        rows.append([
            layer["name"], layer["type"], str(layer["inputs"]), str(layer["outputs"]),
            str(layer.get("states", "")), f"{layer['weights']:,}",
            f"{layer['weights_not_zero'] / layer['weights']:.1%}",
            str(layer.get("largest_pole", "")),
        ])  # fmt: skip
    lines = [
        f"{facts['file']}: {facts['parameters']:,} parameters; precisions: "
        + ", ".join(facts["precisions"]),
        "", *columns(rows), "",
        f"a frame: at most {facts['weights_not_zero']:,} synaptic operations (fewer where inputs "
        f"are 0), {facts['neuron_operations']:,} neuron operations",
    ]  # fmt: skip
    if "frames_a_second" in facts:
        lines.append(
            f"at {facts['frames_a_second']:g} frames a second: power proxy (N-DNS) at most "
            f"{facts['power_proxy_mops_at_most']:g} M-ops/s"
            + (f", PDP {pdp:g} M-ops" if (pdp := facts.get("pdp_proxy_mop_at_most")) else "")
        )
    lines += [f"{name}: {text}" for name, text in facts["about"].items()]
    return "\n".join(lines)


# --- quantise -------------------------------------------------------------------------------------


@click.command("quantise")
@_file
@click.option(
    "--calibrate", "data", metavar="FRAMES.npy", required=True,
    help="(frames, inputs), as the network gets them: they give activations and states their "
    "range, and what is lost is measured on them. Training data, never test data.",
)  # fmt: skip
@click.option("--output", metavar="FILE.safetensors", default=None, help="Default: FILE itself.")
@click.option("--state-bits", type=click.IntRange(8, 31), default=24, show_default=True)
@click.option(
    "--rounding", type=click.Choice(["nearest", "zero", "floor"]), default="nearest",
    show_default=True, help="Of the products of the recurrence.",
)  # fmt: skip
@click.option("--sweep", is_flag=True, help="Also measure each component in fewer bits, alone.")
@_json
def quantise_command(
    file: str, data: str, output: str | None, state_bits: int, rounding: Any, sweep: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Add integers to FILE, so that it also runs with precision w8a16 and w8a8.

    The float weights stay: one file holds all three. What is lost is told as the signal-to-noise
    ratio of the integers' outputs to the floats', in dB.
    """
    model = _read(file)
    frames = _frames(data, model)
    chosen = {
        mode: Bits(
            weights=bits.weights, poles=bits.poles, activations=bits.activations,
            state=state_bits, rounding=rounding,
        )
        for mode, bits in BITS.items()
    }  # fmt: skip
    try:
        made = with_integers(model, frames, chosen, output or file)
        floats = FloatEngine(made).run(frames)
        report: dict[str, Any] = {
            "file": made.path,
            "frames": len(frames),
            "snr_db": {mode: snr(FixedEngine(made, mode).run(frames), floats) for mode in MODES},
        }
        if sweep:
            report["sweep"] = bits_sweep(model, frames, floats)
    except DeviceError as error:
        raise _Failure(str(error)) from error
    click.echo(json.dumps(report, indent=1) if as_json else _report(report))


def with_integers(
    model: Model, frames: NDArray[np.float32], bits: dict[Any, Bits], path: str
) -> Model:
    """Write the model with its integers to `path`; what was written."""
    metadata, integers = quantised(model, frames, bits)
    kept = {k: v for k, v in model.tensors.items() if not k.startswith("fixed_point.")}
    return write_model(
        path, model.header.layers, {**kept, **integers}, front_end=model.front_end,
        about=model.header.about, fixed_point=metadata,
    )  # fmt: skip


def snr(found: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """Signal-to-noise ratio of `found`, dB, at most 200."""
    signal = float((exact.astype(np.float64) ** 2).sum())
    noise = float(((found.astype(np.float64) - exact) ** 2).sum())
    return round(10 * float(np.log10(max(signal, 1e-30) / max(noise, signal * 1e-20, 1e-30))), 2)


def bits_sweep(
    model: Model, frames: NDArray[np.float32], floats: NDArray[np.float32]
) -> dict[str, dict[str, float | str]]:
    """SNR (dB) with one component in fewer bits and the others wide (Abreu et al. 2024, Q-S5).

    A component that cannot be so narrow says why: eigenvalues that would reach 1.
    """
    out: dict[str, dict[str, float | str]] = {}
    wide = {"weights": 8, "poles": 16, "activations": 16, "state": 31}
    for component, widths in SWEEP.items():
        out[component] = {}
        for width in widths:
            bits = Bits(**{**wide, component: width})  # type: ignore[arg-type]  # all are numbers
            try:
                metadata, integers = quantised(model, frames, {"w8a16": bits})
            except DeviceError:
                out[component][str(width)] = "refused: |A| >= 1"
                continue
            tensors = {**model.tensors, **integers}
            made = Model(model.path, model.layers, _with(model, metadata), tensors)
            out[component][str(width)] = snr(FixedEngine(made, "w8a16").run(frames), floats)
    return out


def _with(model: Model, metadata: dict[str, Any]) -> Any:
    import msgspec

    return msgspec.structs.replace(model.header, fixed_point=metadata)


def _report(report: dict[str, Any]) -> str:
    lines = [f"{report['file']}: integers for {', '.join(report['snr_db'])} from "
             f"{report['frames']} frames"]  # fmt: skip
    lines += [f"  {mode}: {value:.1f} dB to f32" for mode, value in report["snr_db"].items()]
    for component, widths in report.get("sweep", {}).items():
        cells = [f"{bits}: {value}" for bits, value in widths.items()]
        lines.append(f"  {component} alone, bits: dB    " + "   ".join(cells))
    return "\n".join(lines)


@click.command("check")
@_file
def check(file: str) -> None:
    """Say whether FILE can be used, and in which precisions."""
    model = _read(file)
    try:
        for mode in model.header.fixed_point:
            fixed_model(model, mode)
    except DeviceError as error:
        raise _Failure(str(error)) from error
    held = ", ".join(["f32", *model.header.fixed_point])
    click.echo(f"{file}: {len(model.layers)} layers, as they should be; precisions: {held}")


commands: dict[str, click.Command] = {"show": show, "check": check, "quantise": quantise_command}
