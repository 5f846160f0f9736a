"""`streamflow model quantise FILE.nir`: a network in Loihi's integers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from .calibration import Samples, budget, calibrate, loss, read_samples
from .nir_file import NetworkError
from .quantise import KEY, Quantised, quantise, to_arrays
from .rules import Rules
from .wiring import Wiring, read_network


@click.command("quantise")
@click.argument("file", metavar="FILE.nir")
@click.option("--bits", type=click.IntRange(1, 8), default=8, show_default=True, help="Of weights.")
@click.option(
    "--calibrate", "data", metavar="DATA", default=None,
    help="Inputs (.npy, or .npz with x and perhaps labels and ends) that currents are given room "
    "for, and that what is lost is measured on.",
)  # fmt: skip
@click.option("--output", metavar="PREFIX", required=True, help="Writes PREFIX.nir, PREFIX.npz.")
@click.option("--dt", type=float, default=None, help="Time step of the network (s).")
@click.option("--integrator", type=click.Choice(["euler", "exact"]), default="euler")
@click.option("--synaptic-delay", type=int, default=0, help="Steps; 1 is Lava's.")
@click.option("--sweep", is_flag=True, help="Also measure 8 down to 2 bits (needs --calibrate).")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def quantise_command(
    file: str, bits: int, data: str | None, output: str, dt: float | None, integrator: str,
    synaptic_delay: int, sweep: bool, as_json: bool,
) -> None:  # fmt: skip
    """Turn FILE.nir into a network of Loihi 2's integers.

    PREFIX.npz holds the integers, exponents and scale factors as named arrays; PREFIX.nir is the
    same network for any reader of NIR, with the integers' values as its parameters, and the
    integers themselves as metadata, which `run --backend loihi2` and the node loihi2 use. What
    Loihi 2 cannot represent is refused, with the layer and the value.
    """
    try:
        wiring = read_network(file)
        rules = Rules(dt=_dt(wiring, dt), integrator=integrator, synaptic_delay=synaptic_delay)  # type: ignore[arg-type]  # click gives one of the two
        samples = read_samples(data, wiring) if data else None
        if sweep and samples is None:
            raise NetworkError("--sweep measures on data: give it with --calibrate")
        quantised = _quantised(wiring, rules, samples, bits)
        report = report_of(quantised, wiring, samples)
        if sweep and samples is not None:
            report["sweep"] = {
                n: loss(_quantised(wiring, rules, samples, n), wiring, samples)
                for n in range(8, 1, -1)
            }
        write(quantised, wiring, output)
    except NetworkError as error:
        raise click.ClickException(str(error)) from error
    report["files"] = [f"{output}.nir", f"{output}.npz"]
    click.echo(json.dumps(report, indent=1) if as_json else as_text(report))


def _dt(wiring: Wiring, dt: float | None) -> float | None:
    """As asked for, or what the file's metadata say (dt in s, dt_us)."""
    if dt is None and "dt" in wiring.metadata:
        return float(wiring.metadata["dt"])
    if dt is None and "dt_us" in wiring.metadata:
        return float(wiring.metadata["dt_us"]) * 1e-6
    return dt


def _quantised(wiring: Wiring, rules: Rules, samples: Samples | None, bits: int) -> Quantised:
    if samples is None:
        return quantise(wiring, rules, bits=bits)
    return calibrate(wiring, rules, samples, bits=bits)


def report_of(quantised: Quantised, wiring: Wiring, samples: Samples | None) -> dict[str, Any]:
    """What was made, what it loses, and what it takes of a chip, as plain values."""
    out: dict[str, Any] = {
        "bits": quantised.bits,
        "rules": quantised.rules.as_dict(),
        "calibrated": samples is not None,
        "layers": {
            layer.name: {
                "weight_snr_db": None if layer.weight_snr_db == np.inf else layer.weight_snr_db,
                "weight_exp": layer.weight_exp,
                "unit": layer.unit,
                "vth": layer.vth,
            }
            for layer in quantised.layers
        },
        "budget": budget(quantised, samples),
    }
    if samples is not None:
        out["loss"] = loss(quantised, wiring, samples)
    return out


def write(quantised: Quantised, wiring: Wiring, prefix: str) -> None:
    """PREFIX.npz and PREFIX.nir; NetworkError where they cannot be written."""
    import nir

    arrays = to_arrays(quantised)
    graph = dequantised(quantised, wiring).to_nir()
    graph.metadata = {
        **{key: value for key, value in wiring.metadata.items() if not key.startswith(KEY)},
        **arrays,
    }
    try:
        Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(f"{prefix}.npz", **arrays)  # type: ignore[arg-type]  # named arrays
        nir.write(f"{prefix}.nir", graph)
    except OSError as error:
        raise NetworkError(f"{prefix}: cannot be written ({error})") from error


def dequantised(quantised: Quantised, wiring: Wiring) -> Wiring:
    """The float network with the weights that the integers stand for; the rest as it was."""
    from dataclasses import replace

    units = dict(wiring.units)
    for name, weights in quantised.floats.items():
        unit = units[name]
        given = np.asarray(unit.parameters["weight"])
        units[name] = replace(
            unit,
            parameters={
                **unit.parameters, "weight": weights.reshape(given.shape).astype(given.dtype),
            },
        )  # fmt: skip
    return replace(wiring, units=units)


def as_text(report: dict[str, Any]) -> str:
    """The report as lines to read."""
    lines = [
        f"{report['bits']} bits, {'calibrated' if report['calibrated'] else 'by the weights alone'}"
    ]
    lost = report.get("loss", {})
    for name, layer in report["layers"].items():
        taken = report["budget"]["layers"][name]
        words = [
            f"  {name}: weight SNR {layer['weight_snr_db']} dB, exponent {layer['weight_exp']}",
            f"threshold {layer['vth']}" if layer["vth"] else "read out",
            f"{taken['neurons']} neurons, {taken['synapses']} synapses, {taken['bytes']} bytes",
        ]
        if name in lost.get("layers", {}):
            words.append(f"cosine to float {lost['layers'][name]['cosine']}")
        lines.append(", ".join(words))
    for bits, one in {report["bits"]: lost, **report.get("sweep", {})}.items():
        if one:
            lines.append(f"  {bits} bits: {_loss_text(one)}")
    taken = report["budget"]
    most = "synaptic_operations_per_step_at_most" in taken
    rate = taken.get("synaptic_operations_per_step_at_most") or taken.get(
        "synaptic_operations_per_step"
    )
    lines.append(
        f"estimate: {taken['cores']} cores, {taken['bytes']} bytes, {'at most ' if most else ''}"
        f"{rate} synaptic operations a step"
    )
    lines.append("wrote " + ", ".join(report["files"]))
    return "\n".join(lines)


def _loss_text(one: dict[str, Any]) -> str:
    words = f"{100 * one['decided_alike']:.1f} % of {one['samples']} samples decided as in float"
    if "accuracy" in one:
        words += f", accuracy {100 * one['accuracy']:.1f} % ({100 * one['accuracy_float']:.1f} %)"
    return words


commands = {"quantise": quantise_command}
