"""Events per CPU-second through filter, trigger and classifier in one process, nothing lost.

    python benchmarks/hot_path.py [--quick] [--recordings FOLDER]

The recordings A1, B1, ... B4 (SIMULATED flow cytometry, 64 x 48 pixels) are played one after the
other, again and again, as fast as possible, in packets of 4,096 events. `hot` is the process with
`background_activity`, `burst_trigger` and `spiking_classifier`; the decisions go to a sink in
another one. CPU time is that of the whole process, engine included, as the run report has it, less
that of a short run (start, and what is compiled and loaded). Rounds take turns; medians.

- memory: the recordings were decoded before; a process of its own hands the events over.
- file: `event_file` decodes one long EVT3 file in a process of its own, whose CPU is given too.
- file, one process: `event_file` is in the hot process as well.
- background: simulated background activity and no particle, as between particles.

The second table has the nodes by themselves, driven one after the other over the same packets: what
is left to the engine is the difference, but for caches that the nodes take from each other.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from _cytometry import RECORDINGS, hot_nodes, recordings
from _runs import run_graph
from _table import median, print_machine, print_table, verdict
from benchmark_nodes.sources.looped_recordings import LoopedRecordings
from streamflow_nodes.classifiers.spiking_classifier import SpikingClassifier
from streamflow_nodes.processors.background_activity import BackgroundActivity
from streamflow_nodes.processors.burst_trigger import BurstTrigger
from streamflow_nodes.sources.event_file import EventFile

from streamflow.node import Emission
from streamflow.packet import Packet

PACKET = 4096  # events
PROMISE = 40.0  # million events per CPU-second of the hot process
WIDTH, HEIGHT = 64, 48


def graph(camera: dict[str, Any], *, together: bool = False) -> dict[str, Any]:
    """A camera before the hot process, and a sink behind it."""
    hot = hot_nodes()
    return {
        "name": "hot_path",
        "clock": "fast",
        "nodes": {
            "camera": camera,
            **hot,
            "decisions": {"kind": "decision_log", "inputs": {"rows": "spiking.particles"}},
        },
        "processes": {"hot": {"nodes": [*(["camera"] if together else []), *hot]}},
    }


def from_memory(paths: list[str], loops: int) -> dict[str, Any]:
    """A camera whose events were decoded before."""
    settings = {"paths": paths, "loops": loops, "events": PACKET, "width": WIDTH, "height": HEIGHT}
    return {"kind": "looped_recordings", "settings": settings}


def from_file(path: str, duration: float) -> dict[str, Any]:
    """A camera that decodes a file."""
    settings = {"path": path, "packet_duration": duration, "width": WIDTH, "height": HEIGHT}
    return {"kind": "event_file", "settings": settings}


def write_long(paths: list[str], loops: int, target: Path) -> tuple[int, float]:
    """The recordings, `loops` times, as one EVT3 file; its events and its seconds."""
    report = run_graph(
        {
            "name": "write",
            "nodes": {
                "camera": from_memory(paths, loops),
                "file": {
                    "kind": "event_file_writer",
                    "inputs": {"events": "camera.events"},
                    "settings": {"path": str(target)},
                },
            },
        }
    )
    return report["nodes"]["camera"]["items_out"], report["nodes"]["file"]["stream_time"] / 1e6


Handler = Callable[[Packet[Any]], Iterable[Emission] | None]


def alone(paths: list[str]) -> list[list[str]]:
    """Each node by itself, in CPU time of this process: rows of the second table."""
    hot = {name: node["settings"] for name, node in hot_nodes().items()}
    file = EventFile({"path": paths[0], "packet_duration": 0.01, "width": WIDTH, "height": HEIGHT})
    file.open()
    list(file.produce())  # compiles
    file.open()
    began = time.process_time()
    events = sum(len(emission.packet.data) for emission in file.produce())
    rows = [["event_file (EVT3)", f"{events / (time.process_time() - began) / 1e6:.1f}", "", ""]]
    camera = LoopedRecordings({"paths": paths, "events": PACKET, "width": WIDTH, "height": HEIGHT})
    camera.open()
    packets = [emission.packet for emission in camera.produce()]
    events, count = sum(len(packet.data) for packet in packets), len(packets)
    quiet, bursts = BackgroundActivity(hot["quiet"]), BurstTrigger(hot["bursts"])
    spiking = SpikingClassifier(hot["spiking"])
    for name, node, handler in (
        ("background_activity", quiet, quiet.on_events),
        ("burst_trigger", bursts, bursts.on_events),
        ("spiking_classifier", spiking, spiking.on_bursts),
    ):
        node.open()
        made, used = driven(handler, packets)
        rows.append(
            [
                name,
                f"{events / used / 1e6:.1f}",
                f"{1e6 * used / count:.0f}",
                f"{1e6 * used / len(packets):.0f} ({len(packets):,})",
            ]
        )
        packets = made
    return rows


def driven(handler: Handler, packets: list[Packet[Any]]) -> tuple[list[Packet[Any]], float]:
    """What a node makes of the packets, and the CPU seconds it takes."""
    for packet in packets:
        packet.data.array.setflags(write=False)
    began = time.process_time()
    made = [emission.packet for packet in packets for emission in handler(packet) or ()]
    return made, time.process_time() - began


class Cost:
    """CPU time and events of the runs of one variant, the short ones taken off the long ones."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {}
        self.decisions = self.events = 0
        self.per_packet = 0.0

    def note(self, short: dict[str, Any], long: dict[str, Any]) -> None:
        def events(report: dict[str, Any]) -> int:
            return int(report["nodes"]["quiet"]["items_in"])

        more = events(long) - events(short)
        self.events = events(long)
        self.per_packet = self.events / long["nodes"]["quiet"]["packets_in"]
        self.decisions = long["nodes"]["decisions"]["items_in"]
        for process in ("hot", "camera"):
            if process not in long["processes"]:
                continue
            used = long["processes"][process]["cpu_s"] - short["processes"][process]["cpu_s"]
            self.rates.setdefault(process, []).append(more / used / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 short round, for a first look")
    parser.add_argument("--recordings", type=Path, default=RECORDINGS, metavar="FOLDER")
    parser.add_argument("--only", choices=("memory", "file"))
    options = parser.parse_args()
    paths = recordings(options.recordings)
    rounds, loops, file_loops = (1, 3, 1) if options.quick else (5, 7, 3)
    print_machine()
    costs: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as folder:
        long_file, short_file = Path(folder, "long.raw"), Path(folder, "short.raw")
        variants: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        if options.only != "file":
            variants["memory"] = (
                graph(from_memory(paths[:1], 1)),
                graph(from_memory(paths, loops)),
            )
            variants["background"] = (graph(from_memory([], 1)), graph(from_memory([], 2 * loops)))
        if options.only != "memory":
            write_long(paths[:1], 1, short_file)
            events, seconds = write_long(paths, file_loops, long_file)
            duration = round(PACKET * seconds / events, 6)
            for name, together in (("file", False), ("file, one process", True)):
                variants[name] = (
                    graph(from_file(str(short_file), duration), together=together),
                    graph(from_file(str(long_file), duration), together=together),
                )
        for _ in range(rounds):
            for name, (short, long) in variants.items():
                costs.setdefault(name, Cost()).note(run_graph(short), run_graph(long))
    rows = []
    for name, cost in costs.items():
        hot = median(cost.rates["hot"])
        camera = cost.rates.get("camera")
        rows.append(
            [
                name,
                f"{cost.events / 1e6:.1f}",
                f"{cost.per_packet:,.0f}",
                f"{cost.decisions:,}",
                f"{hot:.1f}",
                f"{median(camera):.1f}" if camera else "in hot",
                f">= {PROMISE:g} {verdict(hot, PROMISE, at_least=True)}"
                if name in ("memory", "background")
                else "",
            ]
        )
    head = ["events come from", "million", "a packet", "decisions", "hot: M/CPU-s",
            "camera: M/CPU-s", "hot, promised"]  # fmt: skip
    print_table(f"The hot path ({rounds} rounds; nothing was lost)", head, rows)
    head = [
        "node by itself",
        "million events/CPU-s",
        "us a packet of 4,096",
        "us a packet of its own",
    ]
    print_table("The nodes by themselves (one run)", head, alone(paths))


if __name__ == "__main__":
    main()
