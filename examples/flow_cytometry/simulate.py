#!/usr/bin/env python3
"""Writes SIMULATED recordings of a flow cytometer with an event camera, and their truth.

    python examples/flow_cytometry/simulate.py --rate 200 --seconds 3 --session 10 --out recordings

makes recordings/session10_rate200_seed0.raw (EVT3) and .truth.csv, which `event_file` and
`particle_scorer` read. With `--each`, one recording for each class instead, named as `train.py`
expects: A10.raw, B10.raw, ... Needs the extra `cytometry`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from streamflow_nodes.particles.simulation import CLASSES
from streamflow_nodes.sinks.csv_file import CsvFile
from streamflow_nodes.sinks.event_file_writer import EventFileWriter
from streamflow_nodes.sources.particle_simulator import ParticleSimulator

from streamflow.errors import StreamflowError


def write_recording(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """Write what `particle_simulator` with `settings` makes to PATH.raw and PATH.truth.csv.

    What is in `settings` goes to the node; it must have a `duration`. Returns the node's results.
    """
    simulator = ParticleSimulator({"packet_duration": 0.1, **settings})
    raw, truth = (path.with_name(path.name + end) for end in (".raw", ".truth.csv"))
    events, rows = EventFileWriter({"path": str(raw)}), CsvFile({"path": str(truth)})
    nodes = (simulator, events, rows)
    try:
        for node in nodes:
            node.open()
        for emission in simulator.produce():
            if emission.port == "events":
                events.on_events(emission.packet)
            else:
                rows.on_rows(emission.packet)
        events.finish()
        rows.finish()
    finally:
        for node in nodes:
            node.close()
    return simulator.results()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=100.0, help="particles per second")
    parser.add_argument("--seconds", type=float, default=3.0, help="of stream time")
    parser.add_argument("--session", type=int, default=0, help="which day: set-up and camera")
    parser.add_argument("--seed", type=int, default=0, help="which particles, which noise")
    parser.add_argument("--drift", type=float, default=0.4, help="how much sessions differ")
    parser.add_argument("--classes", choices=list(CLASSES), default="16/20")
    parser.add_argument("--mix", help="shares of the classes, such as 1,0")
    parser.add_argument("--each", action="store_true", help="one recording for each class")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--name", help="of the files, without ending")
    arguments = parser.parse_args()
    settings: dict[str, Any] = {
        "rate": arguments.rate, "duration": arguments.seconds, "session": arguments.session,
        "seed": arguments.seed, "drift": arguments.drift, "classes": arguments.classes,
    }  # fmt: skip
    name = arguments.name or (
        f"session{arguments.session}_rate{arguments.rate:g}_seed{arguments.seed}"
    )
    recordings = [(name, settings)]
    if arguments.mix:
        settings["mix"] = [float(share) for share in arguments.mix.split(",")]
    if arguments.each:
        names = [sphere.name for sphere in CLASSES[arguments.classes]]
        # a seed of its own for each: the same particles in every class would be no sample
        recordings = [
            (
                f"{name}{arguments.session}",
                {**settings, "seed": len(names) * arguments.seed + at,
                 "mix": [float(name == other) for other in names]},
            )
            for at, name in enumerate(names)
        ]  # fmt: skip
    for name, settings in recordings:
        begun = time.monotonic()
        try:
            results = write_recording(settings, arguments.out / name)
        except StreamflowError as error:
            print(error, file=sys.stderr)
            return 1
        print(
            f"{arguments.out / name}.raw: {results['particles']} particles, "
            f"{results['overlapping']} of them overlap, {results['events']} events "
            f"(simulated, {time.monotonic() - begun:.1f} s)",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
