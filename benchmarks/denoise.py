"""The shipped denoiser in a running graph: CPU time for a second of sound, and late frames.

    python benchmarks/denoise.py [--minutes 10] [--awake]

The graph `denoise` (file to file, with its picture) runs twice over the shipped noisy clip, again
and again for so many minutes. Once as fast as it can: its real-time factor is the CPU time of its
processes, start and drawing included, for each second of sound. Once paced, in packets of one hop
(8 ms), as a microphone would give them: how long each frame took in the node, by the wall clock, so
that whatever else the machine does is in it. What that is, a plain loop beside it says: one process
with no graph that does about as much work every 8 ms. Where the machine is a guest of another, its
processors now and then stand still, for both; most of all after they were idle. With `--awake` a
loop on each of them, which yields to everything (SCHED_IDLE), keeps them from being idle.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from _runs import run_graph
from _table import print_machine, print_table, verdict

SHIPPED = Path(__file__).resolve().parents[1] / "graphs" / "denoise"
HOP = 128
RTF_PROMISE = 0.03
FRAME_PROMISE_MS = 4.0


def measure(clock: str, block: int, noisy: Path, folder: Path) -> dict[str, Any]:
    """The report of one run of the shipped graph over a file."""
    graph: dict[str, Any] = yaml.safe_load((SHIPPED / "graph.yaml").read_text())
    nodes = graph["nodes"]
    nodes["input"]["settings"] = {"path": str(noisy), "block_size": block}
    nodes["denoise"]["settings"]["model"] = str(SHIPPED / "model.safetensors")
    nodes["output"]["settings"]["path"] = str(folder / "clean.wav")
    nodes["picture"]["settings"]["path"] = str(folder / "picture.png")
    seconds = soundfile.info(noisy).duration
    report: dict[str, Any] = run_graph(graph | {"clock": clock}, timeout=seconds + 600)
    return report


def plain_loop(results: Connection) -> None:
    """Work every hop, until told to stop; send how long each work took, ms."""
    weights = np.ones((256, 1024), np.float32)
    row, took = np.ones(1024, np.float32), []
    due = time.perf_counter()
    results.send(None)
    while not results.poll():
        due += HOP / 16_000
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        for _ in range(4):
            weights @ row
        took.append(1e3 * (time.perf_counter() - began))
    results.send(took)


def spin(cpu: int) -> None:
    """Keep a processor from being idle, whenever nothing else wants it."""
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while True:
        pass


@contextmanager
def awake(wanted: bool) -> Iterator[None]:
    """No processor is idle meanwhile, where that is wanted."""
    context = multiprocessing.get_context("spawn")
    cpus = sorted(os.sched_getaffinity(0)) if wanted else []
    spinning = [context.Process(target=spin, args=(cpu,), daemon=True) for cpu in cpus]
    for one in spinning:
        one.start()
    try:
        yield
    finally:
        for one in spinning:
            one.terminate()
            one.join()


@contextmanager
def beside(found: list[float]) -> Iterator[None]:
    """A plain loop runs meanwhile; `found` holds its times afterwards."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=plain_loop, args=(its,), daemon=True)
    process.start()
    ours.recv()
    try:
        yield
        ours.send(None)
        found.extend(ours.recv())
    finally:
        process.terminate()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--awake", action="store_true", help="let no processor be idle")
    options = parser.parse_args()
    print_machine()
    clip, rate = soundfile.read(SHIPPED / "noisy.flac", dtype="int16")
    seconds = 60 * options.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noisy = folder / "noisy.flac"
        soundfile.write(noisy, np.resize(clip, round(seconds * rate)), rate)
        fast = measure("fast", 1024, noisy, folder)
        plain: list[float] = []
        with awake(options.awake), beside(plain):
            paced = measure("paced", HOP, noisy, folder)
    rows = []
    for title, report in (("fast, blocks of 1,024", fast), (f"paced, blocks of {HOP}", paced)):
        cpu = {name: one["cpu_s"] / seconds for name, one in report["processes"].items()}
        total = sum(cpu.values())
        said = verdict(total, RTF_PROMISE) if report is fast else ""
        rows.append(
            [title, *(f"{cpu[one]:.4f}" for one in ("sound", "page")), f"{total:.4f}", said]
        )
    print_table(
        f"CPU time for each second of sound, {options.minutes:g} minutes",
        ["", "input, denoise, output", "picture", "together", f"at most {RTF_PROMISE}"], rows,
    )  # fmt: skip
    times = []
    for title, report in (("as fast as it can", fast), ("live", paced)):
        found = report["results"]["denoise"]
        took = {name: value / 1e3 for name, value in found["frame_us"].items()}
        times.append(
            [f"a frame in the graph, {title}", f"{found['frames']:,}",
             *(f"{ms:.3f}" for ms in took.values()), str(found["late_frames"]),
             verdict(took["p999"], FRAME_PROMISE_MS)]
        )  # fmt: skip
    loop = [*np.quantile(plain, (0.5, 0.99, 0.999)), max(plain)]
    late = str(sum(ms > 1e3 * HOP / rate for ms in plain))
    times.append(
        ["a plain loop beside it, live", f"{len(plain):,}", *(f"{ms:.3f}" for ms in loop), late, ""]
    )
    print_table(
        f"Work by the wall clock, ms; live, the next is due after {HOP / rate * 1e3:g}"
        + (", no processor idle" if options.awake else ""),
        ["", "times", "p50", "p99", "p99.9", "longest", "late", f"p99.9 < {FRAME_PROMISE_MS:g}"],
        times,
    )


if __name__ == "__main__":
    main()
