"""Event filters and frames next to those of four peers, in one process, runs taking turns.

    python benchmarks/filters.py [--recording FILE.raw] [--events N] [--runs N]

Prints Markdown. Speeds are medians in million events per CPU-second (process time; no second
thread where that can be chosen), ratios the medians of the ratios of runs that followed one
another: above 1, ours is faster.

`node` is what a graph pays: the handler with everything it allocates and yields; `kernel` is the
compiled loop alone, into one buffer. dv-processing is given event stores that were built before,
the other peers whole arrays. Where a peer's rule is ours, results are compared first, and the
program ends where they differ. Peers: benchmarks/requirements.txt; one that is not installed is
left out by name.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import dv_processing as dv
import faery
import numpy as np
from _event_peers import PeerJob, peer_jobs
from _table import median, print_machine, print_table, ratio
from streamflow_nodes.kernels.background_activity import keep_supported
from streamflow_nodes.kernels.count_frame import clear_rows, count_events
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
CROP = {"x": 80, "y": 60, "width": 480, "height": 360}
FOREVER = 1 << 61
ENDLESS = {"period": 1e6}  # no frame ends by itself
PEERS = ("dv-processing", "faery", "tonic", "evlib")
AS_DV = {"polarity": "merged", "dtype": "uint8"}  # the frame that dv makes

Words = list[Any]
Run = Callable[[], Any]


def tiled(path: Path, number: int) -> Any:
    """The recording again and again, each copy after the last one: (number,) of EVENT."""
    raw = faery.events_stream_from_file(path).to_array()
    once = np.zeros(len(raw), EVENT)
    for name, theirs in zip(EVENT.names or (), ("t", "x", "y", "on"), strict=True):
        once[name] = raw[theirs]
    once["timestamp"] += 1_000_000 - once["timestamp"][0]  # dv takes what never fired as fired at 0
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
            total += int(node._leave(0, 1).packet.data.array.flat[0])  # type: ignore[attr-defined]  # only frames have it
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

    def surface(*planes: int) -> Run:
        def run() -> None:
            last, newest = np.full((*planes, HEIGHT, WIDTH), NEVER, np.int64), NEVER
            for w in words:
                newest = note_times(w, 0, FOREVER, newest, last)[2]

        return run

    def count(*planes: int, dtype: str) -> Run:
        def run() -> None:
            frame = np.zeros((*planes, HEIGHT, WIDTH), dtype)
            touched, most = np.zeros(frame.size // WIDTH, np.uint8), int(np.iinfo(dtype).max)
            for w in words:
                count_events(w, 0, 0, FOREVER, most, None, frame, touched)
                clear_rows(frame, touched)

        return run

    return {
        "background_activity": background,
        "refractory": rested,
        "hot_pixels": cool,
        "crop": lambda: sum(keep_inside(w, sensor, (80, 60), (480, 360), kept)[0] for w in words),
        "downsample": lambda: sum(shrink(w, sensor, 10, kept)[0] for w in words),
        "time_surface, one, no frame": surface(),
        "time_surface, no frame": surface(2),
        "count_frame, one plane of bytes": count(dtype="uint8"),
        "count_frame, two planes of int16": count(2, dtype="int16"),
    }


def node_runs(data: list[Packet[Events]]) -> dict[str, Run]:
    """Each node's handler over all packets."""
    return {
        "background_activity": node_run(BackgroundActivity({"window": WINDOW_US * 1e-6}), data),
        "refractory": node_run(Refractory(), data),
        "hot_pixels": node_run(HotPixels(), data),
        "crop": node_run(Crop(CROP), data),
        "downsample": node_run(Downsample({"factor": 10}), data),
        "time_surface, one, no frame": node_run(
            TimeSurface(ENDLESS | {"per_polarity": False}), data
        ),
        "time_surface, no frame": node_run(TimeSurface(ENDLESS), data),
        "time_surface, 10 ms": node_run(TimeSurface(), data),
        "count_frame, one plane of bytes": frame_run(CountFrame(ENDLESS | AS_DV), data),
        "count_frame, two planes of int16": frame_run(CountFrame(ENDLESS), data),
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

    def inside() -> None:
        region = dv.EventRegionFilter((80, 60, 480, 360))
        for store in data:
            region.accept(store)
            region.generateEvents()

    return {
        "background_activity": background,
        "crop": inside,
        "downsample": lambda: [dv.scale(store, 10.0, 10.0) for store in data],
        "time_surface, one, no frame": surface,
        "time_surface, no frame": surface,
        "count_frame, one plane of bytes": count,
        "count_frame, two planes of int16": count,
    }


def emitted(node: Node[Any], data: list[Packet[Events]]) -> list[Any]:
    """The arrays of all packets that the node emits."""
    node.open()
    out = [e.packet.data.array.copy() for packet in data for e in node.on_events(packet)]  # type: ignore[attr-defined]  # every node here has this input
    return out + [e.packet.data.array.copy() for e in node.finish() or ()]


def check_dv(data: list[Packet[Events]], stores: list[Any]) -> None:
    """SystemExit where a result is not that of dv."""
    window = datetime.timedelta(microseconds=WINDOW_US)
    noise = dv.noise.BackgroundActivityNoiseFilter((WIDTH, HEIGHT), window)
    region = dv.EventRegionFilter((80, 60, 480, 360))
    moved = np.array((0, 80, 60, 0), EVENT)

    def through(dv_filter: Any) -> Any:
        kept = []
        for store in stores:
            dv_filter.accept(store)
            kept.append(dv_filter.generateEvents().numpy())
        return np.concatenate(kept).astype(EVENT)

    inside = through(region)
    inside["x"] -= moved["x"]
    inside["y"] -= moved["y"]
    coarse = np.concatenate([dv.scale(store, 10.0, 10.0).numpy() for store in stores])
    pairs: dict[str, tuple[Node[Any], Any]] = {
        "background activity": (
            BackgroundActivity({"window": WINDOW_US * 1e-6}), through(noise)
        ),
        "crop": (Crop(CROP), inside),
        "downsample": (Downsample({"factor": 10}), coarse.astype(EVENT)),
    }  # fmt: skip
    for name, (node, theirs) in pairs.items():
        ours = np.concatenate(emitted(node, data))
        if len(ours) != len(theirs) or not (ours == theirs).all():
            raise SystemExit(f"{name}: {len(ours)} events, dv has {len(theirs)}, or others")
        print(f"- {name}: the same {len(ours):,} events as dv-processing")


def check_dv_frames(packet: Packet[Events], store: Any) -> None:
    """SystemExit where a count frame or the latest times are not those of dv."""
    words, sensor = packet.data.array.view(np.int64), (WIDTH, HEIGHT)
    accumulator, surface = dv.EdgeMapAccumulator(sensor, 1.0 / 255), dv.TimeSurface(HEIGHT, WIDTH)
    accumulator.accept(store)
    surface.accept(store)
    (frame,) = emitted(CountFrame({"period": 1e6} | AS_DV), [packet])
    if not np.array_equal(frame, accumulator.generateFrame().image):
        raise SystemExit("count frame: not what dv counts")
    last = np.zeros((HEIGHT, WIDTH), np.int64)
    note_times(words, 0, FOREVER, 0, last)
    theirs = [surface.at(y, x) for y in range(HEIGHT) for x in range(WIDTH)]
    if not np.array_equal(last.reshape(-1), theirs):
        raise SystemExit("time surface: not the times that dv has")
    print("- the first packet's count frame and latest times: those of dv-processing")


def measure(
    jobs: dict[tuple[str, str], tuple[Run, int]], runs: int
) -> dict[tuple[str, str], list[float]]:
    """Million events per CPU-second of each job, run by run: all jobs once, then all again."""
    seen: dict[tuple[str, str], list[float]] = {job: [] for job in jobs}
    for number in range(runs + 1):
        for job, (run, events) in jobs.items():
            begin = time.process_time()
            run()
            if number:  # the first round compiles and touches memory
                seen[job].append(events / (time.process_time() - begin) / 1e6)
    return seen


def beside_dv(array: Any, runs: int) -> None:
    """Print every node beside its kernel and dv, for small and large packets."""
    for size in (4096, 65536):
        data, theirs = packets(array, size), stores(array, size)
        print(f"\n## Packets of {size} events\n")
        check_dv(data, theirs)
        check_dv_frames(data[0], theirs[0])
        words = [packet.data.array.view(np.int64) for packet in data]
        jobs: dict[tuple[str, str], tuple[Run, int]] = {}
        columns = {"node": node_runs(data), "dv": dv_runs(theirs)}
        columns["kernel"] = kernel_runs(words, size)
        for job in columns["node"]:  # what is compared runs one after the other
            jobs |= {(w, job): (c[job], len(array)) for w, c in columns.items() if job in c}
        speed = measure(jobs, runs)
        rows = []
        for job in columns["node"]:
            cells = [f"{median(speed[w, job]):.0f}" if (w, job) in speed else ""
                     for w in ("node", "kernel", "dv")]  # fmt: skip
            beside = ("dv", job) in speed
            quotient = ratio(speed["node", job], speed["dv", job]) if beside else 0.0
            rows.append([job, *cells, f"{quotient:.2f}" if beside else "",
                         "slower" if 0 < quotient < 1 else ""])  # fmt: skip
        head = ["million events per CPU-second", "node", "kernel", "dv", "node / dv", ""]
        print_table(f"Median of {runs} runs", head, rows)


def beside_others(array: Any, runs: int) -> None:
    """Print the nodes beside the peers that take whole arrays."""
    others, missing = peer_jobs(array, (WIDTH, HEIGHT))
    print("\n## tonic, evlib and faery")
    for name in missing:
        print(f"\n{name} is not installed: left out")
    nodes = {"background_activity": BackgroundActivity, "refractory": Refractory,
             "hot_pixels": HotPixels, "crop": lambda: Crop(CROP),
             "count_frame, 1 ms": CountFrame, "time_surface, 10 ms": TimeSurface}  # fmt: skip
    jobs: dict[tuple[str, str], tuple[Run, int]] = {}
    for other in others:
        data, key = packets(array[: other.events], 65536), f"{other.job}|{other.peer}"
        check_peer(other, nodes[other.job](), data)
        node = nodes[other.job]()
        jobs |= {("node", key): (node_run(node, data), other.events)}
        jobs |= {("peer", key): (other.run, other.events)}
    speed = measure(jobs, runs)
    rows = []
    for other in others:
        key = f"{other.job}|{other.peer}"
        ours, theirs = speed["node", key], speed["peer", key]
        rows.append([other.job, other.peer, f"{other.events:,}", f"{median(ours):.3g}",
                     f"{median(theirs):.3g}", f"{ratio(ours, theirs):.3g}",
                     other.rule or "the same result"])  # fmt: skip
    head = [
        "million events per CPU-second",
        "peer",
        "events",
        "node",
        "peer",
        "node / peer",
        "rule",
    ]
    print_table(f"Median of {runs} runs, packets of 65536 events", head, rows)


def check_peer(other: PeerJob, node: Node[Any], data: list[Packet[Events]]) -> None:
    """SystemExit where a peer whose rule is ours has another result."""
    if other.check is not None:
        ours: Any = emitted(node, data)
        if ours[0].dtype == EVENT:
            ours = np.concatenate(ours)
        if not other.check(ours, other.run()):
            raise SystemExit(f"{other.job}: not what {other.peer} gives")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recording", type=Path, default=RECORDING)
    parser.add_argument("--events", type=int, default=6_000_000)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    if not options.recording.exists():
        raise SystemExit(f"{options.recording}: no such recording; give an EVT2 file of 640x480")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # those of the peers
    array = tiled(options.recording, options.events)
    print_machine()
    names = {d.name: d.version for d in metadata.distributions() if d.name in PEERS}
    print("peers:", ", ".join(f"{name} {version}" for name, version in sorted(names.items())))
    print(f"{options.recording.name}, repeated to {len(array):,} events")
    beside_dv(array, options.runs)
    beside_others(array, options.runs)


if __name__ == "__main__":
    main()
