#!/usr/bin/env python3
"""Measures denoisers on fixed mixes of a split, as the nodes run them.

    python examples/denoise/evaluate.py --data DIR --split val graphs/denoise/*.safetensors

For each model file: the SI-SNR gained over 60 mixes of 5 s (SNR uniform in -5..20 dB, seed 99; see
mixing.py), by input SNR, on 24 mixes at 20 dB (seed 100), and what the network computes for each
frame. `--dnsmos` adds DNSMOS P.835 (extra `scores`), `--precision` runs the network in fixed point.
Figures to choose by come from val; test is there to be looked at once.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from mixing import Mix, Wave, fixed_mixes
from streamflow_nodes.audio.denoising import Denoiser, front_end_of
from streamflow_nodes.audio.scores import Dnsmos, si_snr
from streamflow_nodes.linear_rnn.engines import Precision, open_engine
from streamflow_nodes.linear_rnn.model_file import Model, read_model
from streamflow_nodes.linear_rnn.operations import neurons, weights

Cleaner = Callable[[Wave], Wave]
EDGES_DB = (-5, 0, 5, 10, 15, 20)
LOUD_DB, LOUD_SEED, LOUD_COUNT = 20.0, 100, 24


def cleaner(model: Model, precision: Precision = "f32") -> Cleaner:
    """Returns what cleans a whole wave as the node denoise does, block by block."""
    front_end = front_end_of(model)

    def clean(wave: Wave) -> Wave:
        denoiser = Denoiser(front_end, open_engine(model, precision))
        denoiser.warm_up()
        column = np.ascontiguousarray(wave[:, None], np.float32)
        return np.concatenate([denoiser.feed(column), denoiser.finish()])[:, 0]

    return clean


def row_of(mix: Mix, wave: Wave) -> dict[str, Any]:
    """Name and SNR of a mix, the SI-SNR before and after it was cleaned, and the gain, in dB."""
    if wave.shape != mix.clean.shape:
        raise SystemExit(f"{mix.name}: {wave.shape} samples left of {mix.clean.shape}")
    before, after = si_snr(mix.noisy, mix.clean), si_snr(wave, mix.clean)
    if before is None or after is None:
        raise SystemExit(f"{mix.name}: its speech is silent")
    row = {"name": mix.name, "snr_db": mix.snr_db}
    return row | {"before": before, "after": after, "gain": after - before}


def gains(
    mixes: Iterable[Mix], clean: Cleaner, dnsmos: Dnsmos | None = None
) -> list[dict[str, Any]]:
    """One row a mix, with DNSMOS if asked for."""
    rows = []
    for mix in mixes:
        wave = clean(mix.noisy)
        rows.append(row_of(mix, wave) | ((dnsmos(wave) or {}) if dnsmos else {}))
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over rows: SI-SNR in and gained with its standard error, by input SNR, and DNSMOS."""
    gain = np.array([row["gain"] for row in rows])
    snr = np.array([row["snr_db"] for row in rows])
    told: dict[str, Any] = {
        "mixes": len(rows),
        "si_snr_before": float(np.mean([row["before"] for row in rows])),
        "gain": float(gain.mean()),
        "standard_error": float(gain.std(ddof=1) / np.sqrt(len(rows))) if len(rows) > 1 else 0.0,
    }
    for low, high in itertools.pairwise(EDGES_DB):
        inside = gain[(snr >= low) & (snr < high)]
        told[f"{low}..{high}"] = float(inside.mean()) if len(inside) else None
    for name in ("ovrl", "sig", "bak"):
        if name in rows[0]:
            told[name] = float(np.mean([row[name] for row in rows]))
    return told


def parameters(model: Model) -> int:
    """Numbers that the file stores of the network in floating point."""
    return sum(
        int(tensor.size)
        for name, tensor in model.tensors.items()
        if not name.startswith("fixed_point.")
    )


def size(model: Model) -> dict[str, int]:
    """Stored numbers, products of a frame (weights that are not 0), and neuron operations."""
    used = sum(weights(layer)[1] for layer in model.layers)
    return {
        "parameters": parameters(model),
        "products": used,
        "neurons": sum(neurons(layer) for layer in model.layers),
    }


def shown(name: str, told: dict[str, Any]) -> str:
    cells = [f"{key} {value:+.2f}" if isinstance(value, float) else f"{key} {value}"
             for key, value in told.items()]  # fmt: skip
    return f"{name}: " + ", ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    parser.add_argument("--mixes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=99, help="of the mixes")
    parser.add_argument("--precision", default="f32", choices=("f32", "w8a16", "w8a8"))
    parser.add_argument("--dnsmos", action="store_true")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    options = parser.parse_args()
    dnsmos = Dnsmos() if options.dnsmos else None
    results = {}
    for path in options.models:
        model = read_model(path)
        clean = cleaner(model, options.precision)
        told = summary(
            gains(
                fixed_mixes(options.data, options.split, options.mixes, options.seed), clean, dnsmos
            )
        )
        loud = fixed_mixes(options.data, options.split, LOUD_COUNT, LOUD_SEED, snrs_db=(LOUD_DB,))
        told["at_20_dB"] = summary(gains(loud, clean))["gain"]
        results[str(path)] = told | size(model)
        print(shown(str(path), results[str(path)]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
