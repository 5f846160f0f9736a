"""Fills small disks under every sink, and under graphs whose sink is killed.

    unshare -m python full_disk.py OUT

The disks are tmpfs in a mount namespace of this process' own, so nobody else sees them. What each
run said, and copies of what it left, go to OUT. `test_full_disks.py` starts this and looks at it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from streamflow.errors import DeviceError
from streamflow.packet import EVENT, Packet
from streamflow.testing import cut, events, table

Sink = tuple[str, dict[str, Any], str, int]  # class, settings, file, KiB of the disk

SMALL, LARGE = 64, 8192  # KiB
POLICIES = ("fail", "stop_writing", "rotate")
RTDC = {
    "channel_width": 50, "flow_rate": 0.04, "pixel_size": 15, "width": 64, "height": 48,
    "flush": 0.1,
}  # fmt: skip
SORT = {"classes": ["A"], "delay": 0.01, "timing": "stream", "mode": "yield"}
EVENTS, PARTICLES = 30_000, 2000
SINKS: dict[str, Sink] = {
    "csv_file": ("CsvFile", {}, "a.csv", SMALL),
    "fcs_file": ("FcsFile", {}, "a.fcs", SMALL),
    "parquet_file": ("ParquetFile", {}, "a.parquet", SMALL),
    "rtdc_file": ("RtdcFile", RTDC, "a.rtdc", 256),
    "sort_trigger": ("SortTrigger", SORT, "a.log", 16),
    "plot": ("Plot", {"dpi": 40}, "a.png", 8),
    "evt3": ("EventFileWriter", {}, "a.raw", SMALL),
    "evt2": ("EventFileWriter", {"format": "evt2"}, "a.raw", SMALL),
    "es": ("EventFileWriter", {}, "a.es", SMALL),
    "events_csv": ("EventFileWriter", {}, "a.csv", SMALL),
    "aedat4": ("EventFileWriter", {}, "a.aedat4", SMALL),
    "hdf5": ("EventFileWriter", {}, "a.h5", SMALL),
    "events_parquet": ("EventFileWriter", {}, "a.parquet", SMALL),
}


def numbered_events(count: int) -> Any:
    """Events whose time tells their number: 1000 + 7 n us."""
    out, at = np.zeros(count, EVENT), np.arange(count)
    out["timestamp"], out["x"], out["y"] = 1000 + 7 * at, at % 640, at // 640 % 480
    out["polarity"] = at % 2
    return out


def numbered_particles(count: int) -> Any:
    """Particles whose time tells their number: 1000 n us."""
    from streamflow_nodes.particles.rows import PARTICLE

    rows = np.zeros(count, PARTICLE)
    rows["time_us"] = np.arange(count) * 1000
    rows["decided_us"] = np.arange(count) * 1000 + 100
    rows["class"] = np.where(np.arange(count) % 3, b"A", b"B")
    return rows


@contextmanager
def disk(folder: Path, kib: int) -> Iterator[Path]:
    """A disk of that size at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def sink(name: str, settings: dict[str, Any]) -> Any:
    """The node, not yet open."""
    from importlib import import_module

    kind = "event_file_writer" if SINKS[name][0] == "EventFileWriter" else name
    node = getattr(import_module(f"streamflow_nodes.sinks.{kind}"), SINKS[name][0])
    return node(settings, name="keep")


def packets(name: str) -> list[tuple[str, Packet[Any]]]:
    """What a sink is given: the port and the packet."""
    if SINKS[name][0] == "EventFileWriter":
        return [("events", each) for each in cut(events(numbered_events(EVENTS)), 250)]
    rows = numbered_particles(PARTICLES)
    return [
        ("rows", table(rows[at : at + 20].copy(), at * 1000, (at + 20) * 1000))
        for at in range(0, PARTICLES, 20)
    ]


def feed(node: Any, given: list[tuple[str, Packet[Any]]]) -> dict[str, Any]:
    """Drive a sink to the end or to its error, as a worker does."""
    error = None
    try:
        node.open()
        for port, packet in given:
            packet.data.array.flags.writeable = False
            getattr(node, f"on_{port}")(packet)
            node.advance(packet.stop)
        node.finish()
    except DeviceError as reason:
        error = str(reason)
    finally:
        results, faults = node.results(), dict(node.fault_counts)
        node.close()
    return {"error": error, "results": results, "faults": faults}


def case(out: Path, base: Path, name: str, policy: str, **changes: Any) -> dict[str, Any]:
    """One sink, on a disk that is too small for what it is given."""
    _, settings, file, kib = SINKS[name]
    sizes = changes.pop("kib", kib), changes.pop("spare_kib", LARGE)
    with disk(base / "disk", sizes[0]) as first, disk(base / "spare", sizes[1]) as second:
        at = "log" if name == "sort_trigger" else "path"
        own = {at: str(first / file), "when_disk_full": policy, **settings, **changes}
        if policy == "rotate":
            own["spare"] = [str(second)]
        told = feed(sink(name, own), changes.pop("given", None) or packets(name))
        status = os.statvfs(first)
        told["free"] = status.f_bavail * status.f_frsize
        told["left"] = {folder.name: sorted(os.listdir(folder)) for folder in (first, second)}
        for folder in (first, second):
            shutil.copytree(folder, out / folder.name)
    return told


def with_a_limit(out: Path, base: Path) -> dict[str, Any]:
    """The second way to have no room: a limit on the size of files (EFBIG), as a quota is."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        return case(out, base, "evt3", "stop_writing", kib=LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def while_the_draft_grows(out: Path, base: Path) -> dict[str, Any]:
    """The disk fills up while the HDF5 file is being built beside its journal."""
    from streamflow_nodes.sinks.event_file_writer import EventFileWriter

    recording = numbered_events(1_500_000)
    with disk(base / "disk", 22_000) as first:
        node = EventFileWriter({"path": str(first / "a.h5"), "when_disk_full": "stop_writing"})
        told = feed(node, [("events", each) for each in cut(events(recording), 100_000)])
        told["left"] = {"disk": sorted(os.listdir(first))}
        shutil.copytree(first, out / "disk")
    return told


def sizes(base: Path, name: str, policy: str, kibs: range) -> dict[str, Any]:
    """The same on disks of many sizes, so that each of HDF5's writes is one that fails."""
    _, settings, file, _ = SINKS[name]
    given, whole, errors = packets(name)[:30], 0, []
    for kib in kibs:
        with disk(base / "disk", kib) as first:
            own = {"path": str(first / file), "when_disk_full": policy, **settings}
            told = feed(sink(name, own), given)
            errors += [told["error"]] if told["error"] else []
            whole += (first / file).exists() and not list(first.glob("*.part*"))
    return {"runs": len(kibs), "whole": whole, "errors": errors}


def killed(out: Path, base: Path, policy: str) -> dict[str, Any]:
    """A graph whose sink is killed -9 again and again after its disk is full."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
    from runs import Run

    with disk(base / "disk", 16) as first, disk(base / "spare", LARGE) as second:
        spare = f", spare: [{second}]" if policy == "rotate" else ""
        run = Run(out / "run", f"""
nodes:
  numbers: {{kind: number_source, settings: {{count: 2400, rows: 3, delay: 0.001}}}}
  keep:
    kind: csv_file
    inputs: {{rows: numbers.rows}}
    settings: {{path: {first}/a.csv, when_disk_full: {policy}{spare}}}
processes:
  keep: {{nodes: [keep], restart: {{maximum: 100, when: on_failure, backoff: 0.01}}}}
""")  # fmt: skip

        def handled() -> int:
            return run.last_look().get("nodes", {}).get("keep", {}).get("packets_in", 0)

        run.wait_for(lambda: handled() > 500)  # by then the disk is full
        kills = 0
        while kills < 4 and run.process.poll() is None:
            time.sleep(0.15)
            if pid := run.pids().get("keep"):
                os.kill(pid, signal.SIGKILL)
                kills += 1
        code = run.end()
        report = run.report
        for folder in (first, second):
            shutil.copytree(folder, out / folder.name)
    return {
        "code": code, "error": report["error"], "unbalanced": report["unbalanced"],
        "restarts": report["processes"]["keep"]["restarts"],
        "results": report["results"]["keep"], "faults": report["nodes"]["keep"]["faults"],
    }  # fmt: skip


def jobs() -> dict[str, Callable[[Path, Path], dict[str, Any]]]:
    """Every run, by name."""

    def plain(name: str, policy: str, **changes: Any) -> Callable[[Path, Path], dict[str, Any]]:
        return lambda out, base: case(out, base, name, policy, **changes)

    return {
        **{f"{name} {policy}": plain(name, policy) for name in SINKS for policy in POLICIES},
        "spare full": plain("csv_file", "rotate", spare_kib=32),
        "reserve": plain("csv_file", "stop_writing", kib=256, reserve=180_000),
        "complete in spare": plain("hdf5", "rotate", kib=800),
        "complete nowhere": plain("hdf5", "stop_writing", kib=800),
        "complete fails": plain("hdf5", "fail", kib=800),
        "limit": with_a_limit,
        "draft": while_the_draft_grows,
        "hdf5 sizes": lambda _, base: sizes(base, "hdf5", "stop_writing", range(180, 1100, 40)),
        "rtdc sizes": lambda _, base: sizes(base, "rtdc_file", "stop_writing", range(80, 500, 28)),
        "rtdc failing sizes": lambda _, base: sizes(base, "rtdc_file", "fail", range(84, 500, 56)),
        "killed stop_writing": lambda out, base: killed(out, base, "stop_writing"),
        "killed rotate": lambda out, base: killed(out, base, "rotate"),
    }


def main() -> None:
    out, wanted = Path(sys.argv[1]), sys.argv[2:]
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    with tempfile.TemporaryDirectory() as base:
        told = {}
        for name, job in jobs().items():
            if not wanted or name in wanted:
                told[name] = job(out / name.replace(" ", "-"), Path(base))
                (out / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
