"""Runs a graph again and again, hurts its processes at random, and adds up what came of it.

`soak()` is what `streamflow soak` does, for scripts. The graph runs in this process as it does
under `streamflow run`; a thread beside it picks the faults and looks at the counters that every
process keeps in shared memory, so what is measured is what an outside observer sees.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from .errors import StreamflowError
from .graph import Graph
from .metrics import balance
from .procfs import Holding, holding, identity, is_alive, send_signal
from .report import versions
from .supervised import Process
from .supervisor import Supervisor

Kind = Literal["kill", "kill_two", "stop", "kill_in_start", "kill_in_drain"]
KINDS: tuple[Kind, ...] = ("kill", "kill_two", "stop", "kill_in_start", "kill_in_drain")

FINE_S, COARSE_S = 0.005, 0.02  # between looks while a process is away, and otherwise
SAMPLE_S = 1.0
DRAIN_KILLS = 2  # in one drain: a drain has a deadline, and killing for ever would pass it
GONE_S = 1.0  # what a run leaves must be gone after this long
LEAST_S = 30.0  # shorter lives say nothing of a slope
FAILURES = 3  # runs in a row that fail before the soak gives up


class Tolerance(NamedTuple):
    """How far what a survivor holds may rise: `floor`, or `per_minute` times the minutes if more.

    The line is fitted by least squares to all but the first third of the samples, in which memory
    is touched for the first time.
    """

    floor: float
    per_minute: float


TOLERANCES = {
    "memory_mib": Tolerance(4.0, 0.25),
    "fds": Tolerance(2.0, 0.0),
    "threads": Tolerance(1.0, 0.0),
}


class Wound:
    """One process that was hurt, and how long (s) until that was noticed, it was back, data flowed.

    Noticed: the supervisor knows that it is dead. Back: a successor is open and connected. Flowing:
    the successor has committed a packet that its predecessor had not.
    """

    def __init__(self, process: Process, kind: Kind, now: float) -> None:
        self.process, self.kind, self.at = process, kind, now
        self.incarnation = process.incarnation
        self.noticed_s = self.ready_s = self.flowing_s = -1.0
        self.moved = 0  # when it was dead: packets that it and its predecessors had moved

    def look(self, now: float) -> bool:
        """Look once more; whether there is nothing left to wait for."""
        process, since = self.process, now - self.at
        if self.noticed_s < 0:
            if process.pid and process.incarnation == self.incarnation:
                return False
            self.noticed_s, self.moved = since, moved(process)
        if process.incarnation == self.incarnation:
            return process.phase == "closed"  # it had done everything when it was hurt
        if self.ready_s < 0 and process.phase in ("running", "finished", "closed"):
            self.ready_s = since
        if moved(process) > self.moved:
            self.flowing_s = since
        return self.ready_s >= 0 and (
            self.flowing_s >= 0 or process.phase in ("finished", "closed")
        )


def moved(process: Process) -> int:
    """Packets that the nodes of a process have handled and made, as of its last commit."""
    words = process.board.read()
    counts = [process.layout.read(words, "node", name) for name in process.spec.nodes]
    return sum(count["packets_in"] + count["packets_out"] for count in counts)


class Saboteur(threading.Thread):
    """Hurts the processes of one run at random, and keeps a record of what it did and saw."""

    def __init__(
        self,
        supervisor: Supervisor,
        victims: list[Process],
        *,
        every: float,
        kinds: tuple[Kind, ...],
        rng: random.Random,
    ) -> None:
        super().__init__(name="saboteur", daemon=True)
        self.supervisor, self.victims, self.rng = supervisor, victims, rng
        self.every, self.kinds = every, kinds
        self.wounds: list[Wound] = []
        self.samples: dict[tuple[str, int], list[tuple[float, Holding]]] = defaultdict(list)
        self.seen: set[tuple[int, int]] = set()
        self.most = 1 << 62  # faults that are left to do
        self._open: list[Wound] = []
        self._over = threading.Event()
        self._strike_at = self._start_at = self._drain_at = self._sample_at = 0.0
        self._drains = 0

    def stop(self) -> None:
        """Leave the run alone, for good."""
        self._over.set()
        if self.is_alive():
            self.join()

    @property
    def fork_server(self) -> int:
        """The pid of the run's fork server; 0 when there is none yet."""
        server = self.supervisor._fork_server
        return server.process.pid if server is not None else 0

    def run(self) -> None:
        """Look, hurt, and look again until told to stop."""
        while not self._over.wait(FINE_S if self._open else COARSE_S):
            if all(hasattr(p, "board") for p in self.supervisor.processes.values()):
                now = time.monotonic()
                self._open = [wound for wound in self._open if not wound.look(now)]
                if self.most > 0:
                    self._strike(now)
                elif self.supervisor.started_at and not self._open:
                    self.supervisor.duration = 0.0  # all is done: let it drain
                self._look_at_survivors(now)

    # --- faults -------------------------------------------------------------------------------

    def _strike(self, now: float) -> None:
        if not self.supervisor.started_at:
            self._strike_in_start(now)
        elif self._draining(now):
            self._strike_in_drain(now)
        else:
            if not self._strike_at:
                self._strike_at = now + self._pause()
            if now >= self._strike_at and (kind := self._pick()) is not None:
                self._strike_at = now + self._pause()
                self._hurt(kind, now)

    def _pause(self) -> float:
        return self.every * self.rng.uniform(0.5, 1.5)

    def _pick(self) -> Kind | None:
        weights = {"kill": 0.7, "kill_two": 0.15, "stop": 0.15}
        kinds = [kind for kind in weights if kind in self.kinds]
        if not kinds:
            return None
        chosen = self.rng.choices(kinds, [weights[kind] for kind in kinds])[0]
        return next(kind for kind in KINDS if kind == chosen)

    def _strike_in_start(self, now: float) -> None:
        """One kill between the first fork and the last open node, sooner or later."""
        if "kill_in_start" not in self.kinds or not any(p.pid for p in self.victims):
            return
        if not self._start_at:
            self._start_at = now + self.rng.uniform(0.0, 0.2)
        elif self._start_at <= now < float("inf") and self._hurt("kill_in_start", now):
            self._start_at = float("inf")

    def _strike_in_drain(self, now: float) -> None:
        if "kill_in_drain" not in self.kinds or self._drains >= DRAIN_KILLS:
            return
        if not self._drain_at:
            self._drain_at = now + self.rng.uniform(0.0, 0.1)
        if now >= self._drain_at and self._hurt("kill_in_drain", now):
            self._drains += 1
            self._drain_at = now + self.rng.uniform(0.0, 0.3)

    def _draining(self, now: float) -> bool:
        """Whether the stream is over and the edges only empty."""
        run = self.supervisor
        if run.duration is not None and now >= run.started_at + run.duration:
            return True
        sources = (name for name, node in run.graph.nodes.items() if not node.inputs)
        return all(self._has_finished(name) for name in sources)

    def _has_finished(self, node: str) -> bool:
        name = next(n for n, spec in self.supervisor.graph.processes.items() if node in spec.nodes)
        process = self.supervisor.processes[name]
        return bool(process.layout.read(process.board.read(), "node", node)["finished"])

    def _hurt(self, kind: Kind, now: float) -> bool:
        """Hurt one process, or two; whether there was one to hurt."""
        there = [process for process in self.victims if process.pid]
        if kind == "stop":
            there = [process for process in there if process.phase == "running"]
        count = min(2 if kind == "kill_two" else 1, self.most)
        if len(there) < count or not count:
            return False
        done = False
        for process in self.rng.sample(there, count):
            wound = Wound(process, kind, now)
            number = signal.SIGSTOP if kind == "stop" else signal.SIGKILL
            if send_signal(process.pid, number, (self.fork_server, os.getpid())):
                self._open = [old for old in self._open if old.process is not process]
                self._open.append(wound)
                self.wounds.append(wound)
                self.most -= 1
                done = True
        return done

    # --- survivors ----------------------------------------------------------------------------

    def _look_at_survivors(self, now: float) -> None:
        """Note who is there, and, while nobody is away, what everyone holds."""
        if now < self._sample_at:
            return
        self._sample_at = now + SAMPLE_S
        everyone = {name: p.pid for name, p in self.supervisor.processes.items() if p.pid}
        everyone["fork server"] = self.fork_server
        self.seen |= {found for pid in everyone.values() if (found := identity(pid)) is not None}
        steady = self.supervisor.started_at and not self._open
        if steady and all(p.phase == "running" for p in self.supervisor.processes.values()):
            for name, pid in {**everyone, "supervisor": os.getpid()}.items():
                if (held := holding(pid)) is not None:
                    self.samples[name, pid].append((now, held))


# --- one run after another ------------------------------------------------------------------------


class Options(NamedTuple):
    """How long (s) altogether and each run at most, s between faults, and which; `faults` at most.

    `seed` decides which process is hurt when, as far as a scheduler lets it.
    """

    seconds: float
    run_seconds: float
    every: float = 2.0
    seed: int = 0
    kinds: tuple[Kind, ...] = KINDS
    faults: int = 1 << 62
    spare: bool = True  # one victim in every other run, to see what a long life does to it


def prepare(graph: Graph, *, restart: bool) -> tuple[Graph, list[str]]:
    """The graph as it is soaked, and the names of the processes that may be hurt.

    A process may be hurt if it has `restart: on_failure`; `restart` gives that to all of them. Its
    `maximum` and `window` are lifted: they end a run that has too many deaths, as they should.
    Processes on other hosts are left alone.
    Raises StreamflowError when there is nobody to hurt.
    """
    victims = [
        name
        for name, spec in graph.processes.items()
        if (restart or spec.restart.when != "never") and spec.host is None
    ]
    if not victims:
        raise StreamflowError(
            f"no process of graph {graph.name!r} has `restart: on_failure`, so the first kill "
            "would end the run; expected at least one: add it under `processes`, or soak it with "
            "--restart, which gives it to all of them"
        )
    processes = {
        name: msgspec.structs.replace(
            spec,
            restart=msgspec.structs.replace(
                spec.restart, when="on_failure", maximum=1 << 20, window=1e-3
            ),
        )
        if name in victims
        else spec
        for name, spec in graph.processes.items()
    }
    return msgspec.structs.replace(graph, processes=processes), victims


def soak(
    graph: Graph,
    victims: list[str],
    options: Options,
    told: Callable[[dict[str, Any]], None] = lambda run: None,
) -> dict[str, Any]:
    """Soak a graph that `prepare` gave; the report. `told` is given what is said of each run.

    Only from a main thread: signals end the run under way, and the soak with it.
    """
    books = _Books(graph, options)
    versions()  # what the end of a first run loads for good is not to look like a rise
    slopes([(float(at), Holding(0.0, 0, 0)) for at in range(int(2 * LEAST_S))])
    began = time.monotonic()
    rng = random.Random(options.seed)
    while not books.over and (left := options.seconds - (time.monotonic() - began)) > 0:
        spared = rng.choice(victims) if options.spare and len(books.runs) % 2 else ""
        hurt = [name for name in victims if name != spared] or victims
        told(books.add(_run(graph, hurt, min(left, options.run_seconds), options, books, rng)))
    books.seconds = time.monotonic() - began
    return books.report(victims)


class _Seen(NamedTuple):
    """One run and what was seen of it."""

    report: dict[str, Any]
    saboteur: Saboteur
    left: list[str]


def _run(
    graph: Graph,
    victims: list[str],
    seconds: float,
    options: Options,
    books: _Books,
    rng: random.Random,
) -> _Seen:
    supervisor = Supervisor(graph, duration=seconds)
    saboteur = Saboteur(
        supervisor,
        [supervisor.processes[name] for name in victims],
        every=options.every,
        kinds=options.kinds,
        rng=rng,
    )
    saboteur.most = options.faults - books.hurt
    descriptors, mapped = _descriptors(), _mapped()
    saboteur.start()
    try:
        report = supervisor.run()
    finally:
        saboteur.stop()
    folder = getattr(supervisor, "directory", None)
    saboteur.supervisor = None  # type: ignore[assignment]  # its memory must be free by now
    for wound in saboteur.wounds:
        wound.process = _Closed(wound.process.name)  # type: ignore[assignment]  # holds less
    saboteur.victims = []
    del supervisor
    gc.collect()
    left = list(_left(saboteur.seen, folder))
    if (more := _descriptors() - descriptors) > 0:
        left.append(f"{more} open descriptors")
    if (more := _mapped() - mapped) > 0:
        left.append(f"{more} mapped memory files")
    return _Seen(report, saboteur, left)


class _Closed(NamedTuple):
    """What is kept of a process whose run is over."""

    name: str


def _left(seen: set[tuple[int, int]], folder: Path | None) -> Iterator[str]:
    """What is still there of a run that is over."""
    end = time.monotonic() + GONE_S
    while any(is_alive(process) for process in seen) and time.monotonic() < end:
        time.sleep(0.01)
    for process in seen:
        if is_alive(process):
            yield f"process {process[0]}"
    if folder is not None and folder.exists():
        yield f"folder {folder}"


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _mapped() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:")


class _Books:
    """What all runs together come to."""

    def __init__(self, graph: Graph, options: Options) -> None:
        self.graph, self.options = graph, options
        self.runs: list[dict[str, Any]] = []
        self.over = False
        self.interrupted = False
        self.hurt = 0
        self.seconds = 0.0
        self._why: list[str] = []
        self._faults: Counter[str] = Counter()
        self._times: dict[str, list[float]] = defaultdict(list)
        self._edges: dict[str, Counter[str]] = defaultdict(Counter)
        self._processes: dict[str, Counter[str]] = defaultdict(Counter)
        self._state_lost: Counter[str] = Counter()
        self._slopes: dict[str, dict[str, Any]] = {}
        self._own: list[tuple[float, Holding]] = []

    def add(self, seen: _Seen) -> dict[str, Any]:
        """Enter one run; what is said of it."""
        report, wounds = seen.report, seen.saboteur.wounds
        self.hurt += len(wounds)
        self._enter_wounds(wounds)
        self._enter_processes(report, wounds)
        wrong = self._enter_edges(report) + [f"left behind: {what}" for what in seen.left]
        wrong += self._too_many_deaths(report, wounds)
        if report["outcome"] == "failed":
            wrong.append(str(report["error"]))
        self._enter_survivors(seen.saboteur.samples)
        back = sorted(w.flowing_s for w in wounds if w.flowing_s >= 0 and w.kind != "stop")
        run = {
            "outcome": report["outcome"],
            "error": report["error"],
            "wall_s": report["wall_s"],
            "ready_s": report["ready_s"],
            "faults": dict(Counter(wound.kind for wound in wounds)),
            "restarts": sum(p["restarts"] for p in report["processes"].values()),
            "packets": sum(edge["handled"] for edge in report["edges"].values()),
            "flowing_s": _summary(back),
            "wrong": wrong,
        }
        self.runs.append(run)
        self._why += [f"run {len(self.runs)}: {what}" for what in wrong]
        self.interrupted = report["outcome"] == "interrupted"
        last = [one["outcome"] for one in self.runs[-FAILURES:]]
        self.over = (
            self.interrupted or last == ["failed"] * FAILURES or self.hurt >= self.options.faults
        )
        return run

    def _enter_wounds(self, wounds: list[Wound]) -> None:
        for wound in wounds:
            self._faults[wound.kind] += 1
            name = "stopped" if wound.kind == "stop" else "killed"
            self._processes[wound.process.name][name] += 1
            for what in ("noticed", "ready", "flowing"):
                took = getattr(wound, f"{what}_s")
                if took >= 0:
                    self._times[f"{name}_{what}"].append(took)

    def _enter_processes(self, report: dict[str, Any], wounds: list[Wound]) -> None:
        for name, process in report["processes"].items():
            self._processes[name]["restarts"] += process["restarts"]
            moved = [0, *(w.moved for w in wounds if w.process.name == name and w.noticed_s >= 0)]
            self._processes[name]["died_with_data"] += sum(
                later > earlier for earlier, later in pairwise(moved)
            )
        for name, node in report["nodes"].items():
            self._state_lost[name] += node["state_lost"]

    def _enter_edges(self, report: dict[str, Any]) -> list[str]:
        """Add up the ledgers; what of this run's is unexplained."""
        wrong = []
        completed = report["outcome"] == "completed"
        for name, edge in report["edges"].items():
            found = unexplained(edge) if completed else {}
            counts = {key: edge[key] for key in LEDGER}
            self._edges[name].update({**counts, **found})
            wrong += [f"{name}: {count} {what}" for what, count in found.items() if count]
            wrong += [f"{name}: {what}" for what in balance(edge)] if completed else []
        if completed:
            wrong += nodes_that_differ(report, self.graph)
        return wrong

    def _too_many_deaths(self, report: dict[str, Any], wounds: list[Wound]) -> list[str]:
        """Deaths that nobody here is guilty of: a bug of a node or of the engine."""
        hurt = Counter(wound.process.name for wound in wounds)
        return [
            f"process {name!r} was restarted {process['restarts']} times and hurt {hurt[name]} "
            f"times: {'; '.join(report['notes'][:3])}"
            for name, process in report["processes"].items()
            if process["restarts"] > hurt[name]
        ]

    def _enter_survivors(self, samples: dict[tuple[str, int], list[tuple[float, Holding]]]) -> None:
        for (name, _pid), line in samples.items():
            if name == "supervisor":
                self._own += line
                if len(self._own) > 4000:
                    self._own = self._own[::2]
            else:
                self._judge(name, line)

    def _judge(self, name: str, line: list[tuple[float, Holding]]) -> None:
        """Keep the life of this process that rose most, of those that are long enough."""
        found = slopes(line)
        old = self._slopes.get(name)
        if found is not None and (old is None or _worse(found, old)):
            self._slopes[name] = found

    def report(self, victims: list[str]) -> dict[str, Any]:
        """Everything, as JSON."""
        self._judge("supervisor", self._own)
        why = list(self._why)
        for name, found in self._slopes.items():
            why += [f"{name}: {what}" for what in found["rising"]]
        if not self.hurt:
            why.append("nothing was hurt: soak it for longer, or hurt it more often (--every)")
        verdict = "failed" if why else "interrupted" if self.interrupted else "passed"
        return {
            "schema": 1,
            "graph": self.graph.name,
            "graph_digest": self.graph.digest,
            "verdict": verdict,
            "why": why,
            "seconds": round(self.seconds, 1),
            "options": self.options._asdict() | {"kinds": list(self.options.kinds)},
            "victims": victims,
            "faults": {kind: self._faults[kind] for kind in KINDS},
            "runs": self.runs,
            "edges": {name: dict(counts) for name, counts in self._edges.items()},
            "processes": {
                name: {
                    key: counts[key] for key in ("killed", "stopped", "restarts", "died_with_data")
                }
                for name, counts in self._processes.items()
            },
            "state_lost": dict(self._state_lost),
            "times_s": {
                name: [round(took, 3) for took in times] for name, times in self._times.items()
            },
            "recovery_s": {name: _summary(sorted(times)) for name, times in self._times.items()},
            "survivors": self._slopes,
            "tolerances": {name: bound._asdict() for name, bound in TOLERANCES.items()},
        }


LEDGER = (
    "produced", "acknowledged", "in_flight", "dropped", "lost", "received", "handled", "duplicates",
    "held", "items", "items_handled",
)  # fmt: skip


def unexplained(edge: dict[str, Any]) -> dict[str, int]:
    """What of a completed run's edge nobody can account for, at its producer and its consumer.

    Once everything is done nothing is on its way, and nothing is held; what a producer's death left
    `lost` breaks the crash promise too.
    """
    explained = edge["acknowledged"] + edge["dropped"]
    taken = edge["handled"] + edge["duplicates"]
    return {
        "unexplained_at_producer": abs(edge["produced"] - explained),
        "unexplained_at_consumer": abs(edge["received"] - taken)
        + abs(edge["acknowledged"] - edge["handled"]),
    }


def nodes_that_differ(report: dict[str, Any], graph: Graph) -> list[str]:
    """Nodes whose own count of packets and items is not that of their edges."""
    wrong = []
    for name, node in graph.nodes.items():
        edges = [report["edges"][edge.name] for edge in node.inputs]
        counts = report["nodes"][name]
        for own, theirs in (("packets_in", "handled"), ("items_in", "items_handled")):
            if counts[own] != (there := sum(edge[theirs] for edge in edges)):
                wrong.append(f"node {name!r}: {own} {counts[own]}, its edges say {there}")
    for output in {(edge.source, edge.output) for edge in graph.edges}:
        made = {
            report["edges"][edge.name]["produced"]
            for edge in graph.edges
            if (edge.source, edge.output) == output
        }
        if len(made) > 1:
            wrong.append(f"{'.'.join(output)}: its edges were given {sorted(made)} packets")
    return wrong


def slopes(line: list[tuple[float, Holding]]) -> dict[str, Any] | None:
    """How what one process holds rose over its life; None when that was too short to say."""
    line = line[len(line) // 3 :]
    if len(line) < 3 or line[-1][0] - line[0][0] < LEAST_S:
        return None
    at = np.array([when for when, _held in line])
    minutes, centred = float(at[-1] - at[0]) / 60, at - at.mean()
    found: dict[str, Any] = {"minutes": round(minutes, 2), "samples": len(line)}
    rising = []
    for name, bound in TOLERANCES.items():
        values = np.array([getattr(held, name) for _when, held in line], np.float64)
        # not np.polyfit: what LAPACK takes for itself would be a rise of the supervisor's
        slope = 60 * float(centred @ (values - values.mean()) / (centred @ centred))
        found[name] = {"last": round(float(values[-1]), 1), "per_minute": round(slope, 4)}
        if slope * minutes > (most := max(bound.floor, bound.per_minute * minutes)):
            rising.append(
                f"{name} rose by {slope * minutes:.1f} in {minutes:.1f} min; at most {most:.1f}"
            )
    return found | {"rising": rising}


def _worse(one: dict[str, Any], other: dict[str, Any]) -> bool:
    keys = [
        len(found["rising"]) * 1e9 + found["memory_mib"]["per_minute"] for found in (one, other)
    ]
    return bool(keys[0] > keys[1])


def _summary(times: list[float]) -> dict[str, float]:
    """Of sorted seconds: how many, the median, the 99th percentile and the longest."""
    if not times:
        return {"count": 0}
    p50, p99 = np.quantile(times, (0.5, 0.99)).tolist()
    return {
        "count": len(times), "p50": round(p50, 3), "p99": round(p99, 3), "max": round(times[-1], 3),
    }  # fmt: skip
