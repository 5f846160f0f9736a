"""Event filters and frames next to dv-processing, in one process, runs interleaved.

    python benchmarks/filters.py [--recording FILE.raw] [--events N] [--runs N]

Every row is the median of `--runs` runs, in million events per CPU-second (process time; nothing
here uses a second thread).
`node` is what a graph pays: the handler with everything it allocates and yields; `kernel` is the
compiled loop alone, writing into one buffer; `dv` is dv-processing on event stores built before.
All read the same events from memory. dv's surface has one plane (as `per_polarity: false`) and its
frame one plane of bytes, where ours has two of int16. Results are compared first: the events kept,
the first packet's frame and its surface.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dv_processing as dv
import faery
import numpy as np
from streamflow_nodes.kernels.background_activity import keep_supported
from streamflow_nodes.kernels.count_frame import count_events
from streamflow_nodes.kernels.crop import keep_inside
from streamflow_nodes.kernels.downsample import shrink
from streamflow_nodes.kernels.hot_pixels import keep_cool
from streamflow_nodes.kernels.pixel_times import NEVER, quiet_pixels
from streamflow_nodes.kernels.refractory import keep_rested
from streamflow_nodes.kernels.time_surface import note_times
from streamflow_nodes.processors.background_activity import BackgroundActivity
from streamflow_nodes.processors.count_frame import CountFrame
from streamflow_nodes.processors.crop import Crop
from streamflow_nodes.processors.downsample import Downsample
from streamflow_nodes.processors.hot_pixels import HotPixels
from streamflow_nodes.processors.refractory import Refractory
from streamflow_nodes.processors.time_surface import TimeSurface

from streamflow.node import Node
from streamflow.packet import EVENT, Events, Packet

RECORDING = (
    Path(__file__).resolve().parents[1].parent
    / "shared" / "data" / "events" / "gen3_640x480_evt2.raw"
)  # fmt: skip
WIDTH, HEIGHT = 640, 480
WINDOW_US = 2000
FOREVER = 1 << 61

Words = list[Any]
Run = Callable[[], Any]


def tiled(path: Path, number: int) -> Any:
    """The recording again and again, each copy after the last one: (number,) of EVENT."""
    raw = faery.events_stream_from_file(path).to_array()
    once = np.zeros(len(raw), EVENT)
    for name, theirs in zip(EVENT.names or (), ("t", "x", "y", "on"), strict=True):
        once[name] = raw[theirs]
    span = int(once["timestamp"][-1] - once["timestamp"][0]) + 1
    out = np.zeros(number, EVENT)
    for copy, at in enumerate(range(0, number, len(once))):
        part = once[: number - at]
        out[at : at + len(part)] = part
        out["timestamp"][at : at + len(part)] += copy * span
    return out


def stores(array: Any, size: int) -> list[Any]:
    """The same events as dv-processing holds them, `size` in each store."""
    out = []
    for at in range(0, len(array), size):
        store, piece = dv.EventStore(), array[at : at + size]
        columns = (piece[name].tolist() for name in ("timestamp", "x", "y", "polarity"))
        for stamp, x, y, polarity in zip(*columns, strict=True):
            store.push_back(stamp, x, y, bool(polarity))
        out.append(store)
    return out


def packets(array: Any, size: int) -> list[Packet[Events]]:
    """The events as a node gets them: read-only, `size` in each packet."""
    array.flags.writeable = False
    starts = [int(t) for t in array["timestamp"][::size]] + [int(array["timestamp"][-1]) + 1]
    return [
        Packet(starts[n], starts[n + 1], Events(array[n * size : (n + 1) * size], WIDTH, HEIGHT))
        for n in range(len(starts) - 1)
    ]


def node_run(node: Node[Any], data: list[Packet[Events]]) -> Run:
    """All packets through a fresh node's handler; gives the packets it yields."""
    handler = node.on_events  # type: ignore[attr-defined]  # every node here has this input

    def run() -> int:
        node.open()
        return sum(len(out.packet.data.array) for packet in data for out in handler(packet))

    return run


def frame_run(node: Node[Any], data: list[Packet[Events]]) -> Run:
    """As node_run, with a frame for each packet: what dv's accumulator is asked for, too."""
    handler = node.on_events  # type: ignore[attr-defined]  # as above

    def run() -> int:
        node.open()
        total = 0
        for packet in data:
            list(handler(packet))
            total += int(node._leave((WIDTH, HEIGHT)).packet.data.array[0, 0, 0])  # type: ignore[attr-defined]  # only frames have it
            node._start = 0  # type: ignore[attr-defined]  # as above
        return total

    return run


def kernel_runs(words: Words, size: int) -> dict[str, Run]:
    """Each kernel over all words, state allocated inside the run as a node does at its start."""
    kept, sensor = np.empty(2 * size, np.int64), (WIDTH, HEIGHT)

    def background() -> int:
        last = quiet_pixels(*sensor)
        return sum(keep_supported(w, *sensor, WINDOW_US, last, kept)[0] for w in words)

    def rested() -> int:
        last = np.full(WIDTH * HEIGHT, NEVER, np.int64)
        return sum(keep_rested(w, *sensor, 1000, last, kept)[0] for w in words)

    def cool() -> int:
        last = quiet_pixels(*sensor)
        own, scored, score = np.zeros_like(last), np.zeros_like(last), np.zeros(last.size)
        state = (last, own, scored, score)
        return sum(keep_cool(w, *sensor, WINDOW_US, 2e6, 40.0, *state, kept)[0] for w in words)

    def surface(polarities: int) -> Run:
        def run() -> None:
            last = np.full(polarities * WIDTH * HEIGHT, NEVER, np.int64)
            for w in words:
                note_times(w, 0, FOREVER, *sensor, polarities, last)

        return run

    def count() -> None:
        for w in words:
            count_events(w, 0, 0, FOREVER, *sensor, np.zeros(2 * WIDTH * HEIGHT, np.int16))

    return {
        "background_activity": background,
        "refractory": rested,
        "hot_pixels": cool,
        "crop": lambda: sum(keep_inside(w, sensor, (80, 60), (480, 360), kept)[0] for w in words),
        "downsample": lambda: sum(shrink(w, sensor, 10, kept)[0] for w in words),
        "time_surface, no frame": surface(1),
        "the same, per polarity": surface(2),
        "count_frame, one a packet": count,
    }


def node_runs(data: list[Packet[Events]]) -> dict[str, Run]:
    """Each node's handler over all packets."""
    crop = {"x": 80, "y": 60, "width": 480, "height": 360}
    together = {"period": 1e6, "per_polarity": False}
    return {
        "background_activity": node_run(BackgroundActivity({"window": WINDOW_US * 1e-6}), data),
        "refractory": node_run(Refractory(), data),
        "hot_pixels": node_run(HotPixels(), data),
        "crop": node_run(Crop(crop), data),
        "downsample": node_run(Downsample({"factor": 10}), data),
        "time_surface, no frame": node_run(TimeSurface(together), data),
        "the same, per polarity": node_run(TimeSurface({"period": 1e6}), data),
        "time_surface, 10 ms": node_run(TimeSurface(), data),
        "count_frame, one a packet": frame_run(CountFrame({"period": 1e6}), data),
        "count_frame, 1 ms": node_run(CountFrame(), data),
    }


def dv_runs(data: list[Any]) -> dict[str, Run]:
    """What dv-processing has of these jobs."""

    def background() -> int:
        window = datetime.timedelta(microseconds=WINDOW_US)
        noise_filter, kept = dv.noise.BackgroundActivityNoiseFilter((WIDTH, HEIGHT), window), 0
        for store in data:
            noise_filter.accept(store)
            kept += len(noise_filter.generateEvents())
        return kept

    def surface() -> None:
        time_surface = dv.TimeSurface(HEIGHT, WIDTH)
        for store in data:
            time_surface.accept(store)

    def count() -> None:
        accumulator = dv.EdgeMapAccumulator((WIDTH, HEIGHT), 1.0 / 255)
        for store in data:
            accumulator.accept(store)
            accumulator.generateFrame()

    return {
        "background_activity": background,
        "time_surface, no frame": surface,
        "count_frame, one a packet": count,
    }


def compare(data: list[Packet[Events]], theirs: list[Any]) -> int:
    """The number of events that our filter and dv's both keep; SystemExit where they differ."""
    window = datetime.timedelta(microseconds=WINDOW_US)
    noise_filter = dv.noise.BackgroundActivityNoiseFilter((WIDTH, HEIGHT), window)
    node, total = BackgroundActivity({"window": WINDOW_US * 1e-6}), 0
    node.open()
    for number, (packet, store) in enumerate(zip(data, theirs, strict=True)):
        noise_filter.accept(store)
        expected = noise_filter.generateEvents().numpy()
        out = [emission.packet.data.array for emission in node.on_events(packet)]
        found = out[0] if out else np.empty(0, EVENT)
        if len(found) != len(expected) or not (found == expected.astype(EVENT)).all():
            raise SystemExit(f"packet {number}: dv keeps {len(expected)}, we keep {len(found)}")
        total += len(found)
    return total


def compare_frames(packet: Packet[Events], store: Any) -> None:
    """SystemExit where a count frame or the latest times are not those of dv."""
    words, sensor = packet.data.array.view(np.int64), (WIDTH, HEIGHT)
    accumulator, surface = dv.EdgeMapAccumulator(sensor, 1.0 / 255), dv.TimeSurface(HEIGHT, WIDTH)
    accumulator.accept(store)
    surface.accept(store)
    frame = np.zeros(2 * WIDTH * HEIGHT, np.int16)
    count_events(words, 0, 0, FOREVER, *sensor, frame)
    both = frame.reshape(2, HEIGHT, WIDTH).sum(axis=0)
    if not np.array_equal(np.minimum(both, 255), accumulator.generateFrame().image):
        raise SystemExit("count frame: not what dv counts")
    last = np.zeros(WIDTH * HEIGHT, np.int64)
    note_times(words, 0, FOREVER, *sensor, 1, last)
    theirs = [surface.at(y, x) for y in range(HEIGHT) for x in range(WIDTH)]
    if not np.array_equal(last, theirs):
        raise SystemExit("time surface: not the times that dv has")


def measure(jobs: dict[tuple[str, str], Run], events: int, runs: int) -> dict[Any, float]:
    """Million events per CPU-second of each job: all jobs once, then all again, medians."""
    seen: dict[Any, list[float]] = {job: [] for job in jobs}
    for number in range(runs + 1):
        for job, run in jobs.items():
            begin = time.process_time()
            run()
            if number:  # the first round compiles and touches memory
                seen[job].append(events / (time.process_time() - begin) / 1e6)
    return {job: statistics.median(values) for job, values in seen.items()}


def machine() -> str:
    """The processor's name, how many there are and how busy they were."""
    names = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    name = names[0].split(":")[1].strip() if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recording", type=Path, default=RECORDING)
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    if not options.recording.exists():
        raise SystemExit(f"{options.recording}: no such recording; give an EVT2 file of 640x480")
    logging.disable(logging.WARNING)
    array = tiled(options.recording, options.events)
    versions = {n: importlib.metadata.version(n) for n in ("numba", "numpy", "dv-processing")}
    print(f"{machine()}\nPython {platform.python_version()}, {versions}")
    print(f"{options.recording.name} tiled to {len(array)} events; median of {options.runs} runs")
    for size in (4096, 65536):
        data, theirs = packets(array, size), stores(array, size)
        same = compare(data, theirs)
        compare_frames(data[0], theirs[0])
        words = [packet.data.array.view(np.int64) for packet in data]
        jobs = {("node", name): run for name, run in node_runs(data).items()}
        jobs |= {("kernel", name): run for name, run in kernel_runs(words, size).items()}
        jobs |= {("dv", name): run for name, run in dv_runs(theirs).items()}
        speed = measure(jobs, len(array), options.runs)
        print(f"\n{size} events a packet; background activity: the same {same} events as dv")
        print(f"{'million events per CPU-s':30} {'node':>7} {'kernel':>7} {'dv':>7} {'node/dv':>8}")
        for name in node_runs(data):
            node, kernel, peer = (speed.get((w, name)) for w in ("node", "kernel", "dv"))
            cells = ["-" if v is None else f"{v:.0f}" for v in (node, kernel, peer)]
            ratio = f"{node / peer:.2f}" if node and peer else "-"
            print(f"{name:28} {cells[0]:>7} {cells[1]:>7} {cells[2]:>7} {ratio:>8}")


if __name__ == "__main__":
    main()
