"""Drives every sink with a file while its disk fails (EIO): the C library's writes, or `fsync`s.

    LD_PRELOAD=shim.so python failing_disk.py OUT

`test_broken_disks.py` builds the shim, starts this and looks at what each sink said and left in
OUT. The shim fails writes of files whose path holds BROKEN_FILE from byte BROKEN_FROM on.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import full_disk
import numpy as np
from full_disk import SINKS, feed, sink

from streamflow.dead_letters import keep
from streamflow.errors import DeviceError
from streamflow.packet import Packet, Samples

RATE = 8000
SOUND = 40_000  # samples, whose value tells their number

RECORDS = 20_000  # bytes: in the middle of what each sink would write
FROM = {"sort_trigger": 2000, "plot": 2000, "spectrogram_plot": 2000}
DRAFTS = ("parquet_file", "hdf5", "events_parquet", "flac")


def sound() -> list[tuple[str, Packet[Any]]]:
    """Sound in packets of 500 samples."""
    values = (np.arange(SOUND, dtype=np.float32) % 30_000 / 32768)[:, None]
    values = np.asarray(values * np.where(np.arange(SOUND) % 2, 1, -1)[:, None], np.float32)
    return [
        ("samples", Packet(at * 125, (at + 500) * 125, Samples(values[at : at + 500], RATE, at)))
        for at in range(0, SOUND, 500)
    ]


def made(name: str, folder: Path) -> tuple[Any, list[tuple[str, Packet[Any]]]]:
    """The sink, not yet open, and what it is given."""
    policy = {"when_disk_full": "stop_writing"}
    if name in ("wav", "flac"):
        from streamflow_nodes.sinks.audio_file_writer import AudioFileWriter

        return AudioFileWriter({"path": str(folder / f"a.{name}"), **policy}, name="keep"), sound()
    if name == "spectrogram_plot":
        from streamflow_nodes.sinks.spectrogram_plot import SpectrogramPlot

        settings = {"path": str(folder / "a.png"), **policy}
        return SpectrogramPlot(settings, name="keep"), sound()
    _, settings, file, _ = SINKS[name]
    at = "log" if name == "sort_trigger" else "path"
    own = {at: str(folder / file), **settings, **policy}
    return sink(name, own), full_disk.packets(name)


def fed(node: Any, given: list[tuple[str, Packet[Any]]]) -> dict[str, Any]:
    """As `full_disk.feed`; closing a file on such a disk is an error, too."""
    try:
        told = feed(node, given)
    except DeviceError as reason:
        told = {"error": str(reason), "results": node.results(), "faults": dict(node.fault_counts)}
    return told


def case(out: Path, name: str, what: str) -> dict[str, Any]:
    """One sink on a disk that fails; what it said, and the files that it left."""
    folder = out / f"{name}-{what}" / "disk"
    folder.mkdir(parents=True)
    start = 2000 if what == "draft" else FROM.get(name, RECORDS)
    os.environ["BROKEN_FROM"] = str(0 if what == "sync" else start)
    os.environ["BROKEN_FILE"] = ".draft" if what == "draft" else str(folder)
    if what in ("sync", "cut"):
        os.environ[f"BROKEN_{what.upper()}"] = "1"
    try:
        told = fed(*made(name, folder))
    finally:
        for variable in ("BROKEN_FROM", "BROKEN_FILE", "BROKEN_SYNC", "BROKEN_CUT"):
            os.environ.pop(variable, None)
    return {**told, "left": sorted(os.listdir(folder))}


def letter(out: Path) -> dict[str, Any]:
    """A dead letter that cannot be written, beside one that was."""
    os.chdir(out)
    words = ("graph", "node", "kind", "rows")
    _, packet = full_disk.packets("csv_file")[0]
    kept = keep(*words, 1, packet, "error", "traceback")
    os.environ |= {"BROKEN_FILE": "node.rows.2", "BROKEN_FROM": "500"}
    try:
        keep(*words, 2, packet, "error", "traceback")
    except OSError as error:
        return {"error": str(error), "left": sorted(os.listdir(kept.parent))}
    finally:
        del os.environ["BROKEN_FILE"]
    return {"error": None}


def main() -> None:
    out = Path(sys.argv[1])
    told = {}
    for name in (*SINKS, "wav", "flac", "spectrogram_plot"):
        for what in ("write", "sync", *(["draft"] if name in DRAFTS else [])):
            told[f"{name} {what}"] = case(out, name, what)
    told["evt3 cut"] = case(out, "evt3", "cut")
    told["letter"] = letter(out)
    (out / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
