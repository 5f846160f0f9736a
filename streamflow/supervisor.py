"""Starts, watches, restarts and drains the processes of a run; owns its memory and its report."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import random
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from . import __version__
from .control import PROTOCOL, Control, Message, peer_is_me
from .errors import StreamflowError, TransportError
from .graph import Graph, ProcessSpec
from .memory import Board, create, read_only, segment_bytes
from .metrics import VERBS, Layout, balance, far_edge, reference_edge, shared_edge
from .network import LATER, Keys, Security, address_towards, is_loopback, new_keys
from .plan import EdgePlan, SegmentPlan, make_plan
from .remote import HostLost, Remote, RemoteControl, connect_hosts
from .transport import RunDirectory, endpoint_path

log = logging.getLogger("streamflow")

VAULT_BYTES = 1 << 30  # sparse: two snapshots of at most 512 MiB a process
STALL_S = 5.0  # every source blocked and nothing moves for this long: a deadlock
FROZEN_S = 3.0  # a worker's loop turns 5 times a second at least
STOPPED_S = 0.75  # the kernel says that a worker is stopped, at each look for this long
LOOK_S = 0.25
NOTES = 100  # restarts that the report describes; its counters know all of them
FORK_SERVER_S = 60.0
POLL_S = 0.1
NEAR_POLL_S = 0.02  # with other hosts, whose connections do not always wake the loop
HOST_S = 10.0  # a host that does not answer at the start
GREETING_S = 3.0  # an edge between hosts that has not been greeted is made again
DEFAULT_KEY = Path.home() / ".config" / "streamflow" / "keys" / "me.key_secret"
MAXIMUM_BACKOFF_S = 30.0
THREADS = dict.fromkeys(
    ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)

Outcome = Literal["completed", "failed", "interrupted"]
Phase = Literal["starting", "ready", "running", "finished", "closed", "waiting", "dead"]


class Failed(StreamflowError):
    """The run cannot go on; the text is what the user is told."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class Cut(Failed):
    """The user's signal, or what it led to, ends the run before it was drained."""


class Process:
    """What the supervisor knows of one process."""

    def __init__(self, spec: ProcessSpec, layout: Layout) -> None:
        self.spec, self.layout = spec, layout
        self.name = spec.name
        self.phase: Phase = "waiting"
        self.incarnation = 0
        self.pid = 0
        self.control: Control | RemoteControl | None = None
        self.remote: Remote | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self.board_fd = self.vault_fd = -1
        self.board: Board
        self.faults: dict[str, list[str]] = {}
        self.restarts = 0
        self.deaths: list[float] = []
        self.due = 0.0  # when it may be started (again)
        self.began = 0.0
        self.still = 0.0  # seconds for which its loop has not been seen to turn
        self.stopped = 0.0  # seconds for which it has been seen stopped (SIGSTOP)
        self.heartbeat = 0
        self.failure: Message | None = None
        self.cpu_s = self.rss_peak_mib = 0.0
        self.cpu_before = 0.0  # of earlier incarnations
        self.results: dict[str, Any] = {}


class Edge:
    """A shared edge and its present connection."""

    def __init__(self, plan: EdgePlan, producer: Process, consumer: Process) -> None:
        self.name, self.plan = plan.spec.name, plan
        self.producer, self.consumer = producer, consumer
        self.generation = 0
        self.linked = self.greeted = False
        self.linked_at = 0.0
        self.security: tuple[Security, Security] | None = None  # of the consumer's end


class ForkServer:
    """The fork server as its owner sees it. It loads in the background once it is made."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.environment = {**os.environ, **THREADS, "NUMBA_CACHE_DIR": str(cache_directory())}
        self.process = subprocess.Popen(
            [
                *_program(sys.executable, "streamflow.forkserver"),
                str(theirs.fileno()),
                str(os.getpid()),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=self.environment,
            start_new_session=True,  # a terminal's Ctrl-C is for the supervisor alone
        )
        theirs.close()
        self.control = Control(ours)
        self.began = time.monotonic()

    def stop(self) -> None:
        """End it; it kills whatever it has forked."""
        self.control.send("end")
        self.control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Supervisor:
    """One run of a graph. `run()` returns the report; `status()` may be read while it runs."""

    def __init__(
        self,
        graph: Graph,
        *,
        duration: float | None = None,
        watch: Callable[[Supervisor], None] | None = None,
        every: float = 0.5,
        fork_server: ForkServer | None = None,
        key: Path | None = None,
    ) -> None:
        """`key` is our secret key, for hosts that ask for one (by default `DEFAULT_KEY`)."""
        self.graph, self.plan = graph, make_plan(graph)
        self.duration, self._watch, self._every = duration, watch, every
        self.identity = f"{secrets.token_hex(4)}"
        self.outcome: Outcome = "completed"
        self.error: str | None = None
        self.trace = ""
        self.exit_code = 0
        self.began = 0.0
        self.started_at = 0.0
        self.ready_s = 0.0
        self.notes: list[str] = []
        self.processes = {
            spec.name: Process(spec, self._layout(spec)) for spec in self.plan.processes
        }
        home = {name: self.processes[spec.process] for name, spec in graph.nodes.items()}
        self.edges = {
            edge.spec.name: Edge(edge, home[edge.spec.source], home[edge.spec.node])
            for edge in self.plan.edges
            if edge.transport != "reference"
        }
        self._key = key or DEFAULT_KEY
        self.remotes: dict[str, Remote] = {}
        self._home = home
        self._segments: dict[str, tuple[SegmentPlan, int, int]] = {}
        self._connections: dict[int, tuple[Control, Process | None]] = {}
        self._fork_server = fork_server
        self._signals: list[int] = []
        self._deadline: float | None = None
        self._draining = self._closing = False
        self._moved = (0, 0.0)
        self._finals: dict[str, list[int]] = {}
        self._wall_s = 0.0

    # --- the run ------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Run the graph to its end, and say how it went. Never raises for what a graph can do."""
        self.began = time.monotonic()
        directory: RunDirectory | None = None
        with self._catching_signals():
            try:
                directory = RunDirectory(self.identity)
                self.directory = directory.path
                self._listen()
                self._start_fork_server()
                self._call_hosts()
                self._create_memory()
                self._serve()
            except Cut as cut:
                self.error = str(cut)
            except Failed as failure:
                self._failed(str(failure), failure.trace)
            except StreamflowError as error:
                self._failed(str(error))
            finally:
                self._wall_s = time.monotonic() - self.began
                self._stop_everything()
                if directory is not None:
                    directory.remove()
        return self.report()

    def _failed(self, message: str, trace: str = "") -> None:
        self.outcome, self.exit_code = "failed", 1
        self.error, self.trace = message, trace

    def _serve(self) -> None:
        next_look = next_watch = 0.0
        while any(process.phase != "closed" for process in self.processes.values()):
            self._wait(NEAR_POLL_S if self.remotes else POLL_S)
            now = time.monotonic()
            self._hear_hosts(now)
            self._obey_signals(now)
            self._start_due(now)
            self._relink()
            self._advance(now)
            if now >= next_look:
                next_look = now + LOOK_S
                self._look(now)
            if self._watch is not None and now >= next_watch:
                next_watch = now + self._every
                self._watch(self)

    def _wait(self, seconds: float) -> None:
        poll = select.poll()  # not select(): it takes no descriptor above 1023
        server, wakeup = self._server.fileno(), self._wakeup.fileno()
        for fd in (server, wakeup, *self._connections):
            poll.register(fd, select.POLLIN)
        for remote in self.remotes.values():
            poll.register(remote.client.fileno(), select.POLLIN)
        for fd, _events in poll.poll(1000 * seconds):
            if fd == server:
                self._accept()
            elif fd == wakeup:
                with contextlib.suppress(BlockingIOError):
                    self._wakeup.recv(512)
            elif fd in self._connections:
                self._hear(fd)
        for process in self.processes.values():  # children of ours: other interpreters
            if process.child is not None and (code := process.child.poll()) is not None:
                process.child = None
                self._exited(process, code)

    def _accept(self) -> None:
        connection, _address = self._server.accept()
        if not peer_is_me(connection):
            connection.close()
            return
        self._connections[connection.fileno()] = (Control(connection), None)

    def _hear(self, fd: int) -> None:
        control, process = self._connections[fd]
        control.open = True  # where sending failed, what it had said before is still to be read
        try:
            messages = control.receive()
        except TransportError as error:
            messages = []
            if process is None:
                log.warning("refused a connection to the run: %s", error)
            else:
                self._kill(process, f"process {process.name!r} sent {error}")
        for message in messages:
            if self._is_fork_server(control):
                self._hear_fork_server(message)
            elif process is None:
                process = self._greet(control, message)
                if process is None:
                    break
                self._connections[fd] = (control, process)
            else:
                self._hear_process(process, message)
        if not control.open:
            del self._connections[fd]
            control.close()
            if self._is_fork_server(control):
                raise Failed(
                    "the fork server died (killed?), and every process with it: the run is over; "
                    "run the graph again"
                )

    def _is_fork_server(self, control: Control) -> bool:
        return self._fork_server is not None and control is self._fork_server.control

    # --- processes ----------------------------------------------------------------------------

    def _greet_far(self, control: RemoteControl, message: Message) -> bool:
        """Whether a process on another host is the one that is expected."""
        process = self.processes[str(message["process"])]
        if process.phase != "starting":
            return False
        process.pid, process.control = message["pid"], control
        return True

    def _hear_fork_server(self, message: Message) -> None:
        if message["op"] == "preloaded":
            self._preloaded = True
        elif message["op"] == "forked":
            process = self.processes[message["process"]]
            if process.incarnation == message["incarnation"]:
                process.pid = message["pid"]
        elif message["op"] == "loaded" and message["why"]:
            log.warning("restarts will be slower: %s", message["why"])
        elif message["op"] == "exited":
            for process in self.processes.values():
                if process.pid == message["pid"]:
                    self._exited(process, message["code"])

    def _greet(self, control: Control, message: Message) -> Process | None:
        words = ("process", "pid", "incarnation", "protocol", "version", "python")
        if message["op"] != "hello" or not all(word in message for word in words):
            log.warning("refused a connection to the run: %r is no greeting", message["op"])
            control.close()
            return None
        process = self.processes.get(str(message["process"]))
        if process is None:
            control.close()
            return None
        if message["protocol"] != PROTOCOL or message["version"] != __version__:
            raise Failed(
                f"process {process.name!r} runs streamflow {message['version']} (protocol "
                f"{message['protocol']}) under Python {message['python']}; this is {__version__} "
                f"(protocol {PROTOCOL}): install the same version for {process.spec.python}"
            )
        if message["incarnation"] != process.incarnation or process.phase != "starting":
            control.close()  # an old instance that comes late
            return None
        process.pid, process.control = message["pid"], control
        plan, fds = self._worker_plan(process), self._memory(process)
        control.send("plan", fds, **plan)
        return process

    def _hear_process(self, process: Process, message: Message) -> None:
        operation = message["op"]
        if operation == "ready":
            process.phase, process.faults = "ready", message["faults"]
        elif operation == "linked":
            edge = self.edges[message["edge"]]
            # what its producer says of an earlier connection may come late
            edge.greeted = edge.linked and message["generation"] == edge.generation
        elif operation == "finished":
            process.phase = "finished"
        elif operation == "unfinished":
            process.phase = "running"
        elif operation == "failed":
            process.failure = message
        elif operation == "listening":
            self._join_far(process, message)
        elif operation == "broken":
            self._broken(message)
        elif operation == "refused":
            self._note(
                f"edge {message['edge']}: {message['count']} messages of strangers, or of an old "
                "instance, were refused"
            )
        elif operation == "closed":
            process.phase, process.results = "closed", message["results"]
            process.cpu_s = process.cpu_before + message["cpu_s"]
            process.rss_peak_mib = max(process.rss_peak_mib, message["rss_peak_mib"])
        elif operation == "log":
            logging.getLogger(message["logger"]).log(message["level"], "%s", message["text"])

    def _exited(self, process: Process, code: int) -> None:
        """A process has died, or ended as it was told to."""
        self._last_words(process)
        if process.phase == "closed" or self._closing_down:
            process.pid = 0
            return
        what = self._cause(process, code)
        trace = process.failure["traceback"] if process.failure else ""
        process.pid, process.phase, process.control = 0, "dead", None
        process.failure = None
        process.cpu_before = process.cpu_s
        for edge in self._edges_of(process):
            self._unlink(edge, process)
        now = time.monotonic()
        restart = process.spec.restart
        process.deaths = [at for at in process.deaths if now - at < restart.window] + [now]
        if restart.when == "never":
            raise Failed(what, trace)
        if len(process.deaths) > restart.maximum:
            raise Failed(
                f"{what}; it had been restarted {restart.maximum} times in {restart.window:g} s "
                f"(restart: maximum, window of process {process.name!r})",
                trace,
            )
        delay = min(MAXIMUM_BACKOFF_S, restart.backoff * 2 ** (len(process.deaths) - 1))
        process.due = now + delay * random.uniform(0.8, 1.2)
        process.phase = "waiting"
        process.restarts += 1
        note = f"{what}; restart {len(process.deaths)} in {delay:.2g} s"
        self._note(note)

    def _note(self, note: str) -> None:
        if len(self.notes) < NOTES:
            self.notes.append(note)
        log.warning("%s", note)

    def _last_words(self, process: Process) -> None:
        """Read what it sent before it died."""
        for fd, (control, owner) in list(self._connections.items()):
            if owner is process:
                control.open = True  # as in `_hear`
                with contextlib.suppress(TransportError):  # it was cut off in the middle
                    for message in control.receive():
                        self._hear_process(process, message)
                del self._connections[fd]
                control.close()

    def _cause(self, process: Process, code: int) -> str:
        if process.failure is not None:
            return str(process.failure["error"])
        nodes = ", ".join(process.spec.nodes)
        busy = self._busy(process)
        while_in = f" while in {busy[0]}" if busy else ""
        if code < 0:
            killer = signal.Signals(-code).name
            return f"process {process.name!r} ({nodes}) was killed by {killer}{while_in}"
        return f"process {process.name!r} ({nodes}) ended with code {code}{while_in}"

    def _start_due(self, now: float) -> None:
        if not self._preloaded:
            if now - self.began > FORK_SERVER_S:
                raise Failed(f"the fork server was not ready after {FORK_SERVER_S:g} s")
            return
        for process in self.processes.values():
            if process.remote is not None and process.remote.phase != "ready":
                continue
            if process.phase == "waiting" and now >= process.due:
                process.phase, process.began = "starting", now
                process.still = process.stopped = 0.0
                process.incarnation = process.restarts
                self._launch(process)

    def _prepare_successors(self) -> None:
        """Have the fork server load what a restart would wait for, now that nothing waits for it.

        Not where nobody is restarted, and not before: at the start, processes load side by side.
        """
        wanted = [
            self.graph.nodes[node].kind
            for process in self.processes.values()
            if process.spec.restart.when != "never"
            and process.remote is None
            and process.spec.python is None
            for node in process.spec.nodes
        ]
        if wanted and self._fork_server is not None:
            self._fork_server.control.send("load", kinds=list(dict.fromkeys(wanted)))

    def _fork_environment(self) -> dict[str, str]:
        return self._fork_server.environment if self._fork_server is not None else {}

    def _launch(self, process: Process) -> None:
        path = str(self.directory / "control")
        if process.remote is not None:
            process.remote.send(
                "fork", process=process.name, incarnation=process.incarnation,
                python=process.spec.python,
            )  # fmt: skip
            return
        if process.spec.python is None:
            assert self._fork_server is not None  # it said "preloaded"
            self._fork_server.control.send(
                "fork", process=process.name, incarnation=process.incarnation, path=path
            )
            return
        command = [*_program(process.spec.python, "streamflow.worker_main"), path, process.name]
        command += [str(process.incarnation), str(os.getpid())]
        try:
            process.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=self._fork_environment(),
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise Failed(
                f"process {process.name!r}: cannot run {process.spec.python}: {error}"
            ) from error
        process.pid = process.child.pid

    # --- edges --------------------------------------------------------------------------------

    def _edges_of(self, process: Process) -> list[Edge]:
        return [edge for edge in self.edges.values() if process in (edge.producer, edge.consumer)]

    def _unlink(self, edge: Edge, dead: Process) -> None:
        if edge.linked:
            other = edge.consumer if dead is edge.producer else edge.producer
            if other.control is not None:
                other.control.send("unlink", edge=edge.name)
        edge.linked = edge.greeted = False

    def _relink(self) -> None:
        """Connect every edge whose two ends are there and not connected."""
        if self._closing:
            return  # whoever is restarted now has handled everything, and only closes again
        ready = ("ready", "running", "finished")
        self._retry_far()
        for edge in self.edges.values():
            ends = (edge.producer, edge.consumer)
            if edge.linked or any(end.phase not in ready or end.control is None for end in ends):
                continue
            for old in self.directory.glob(f"e{edge.plan.index}.{edge.generation}*"):
                old.unlink(missing_ok=True)  # what a killed producer could not clean up
            edge.generation += 1
            edge.linked_at = time.monotonic()
            if edge.plan.transport == "tcp":
                self._link_far(edge)
                edge.linked = True
                continue
            path = endpoint_path(self.directory, f"e{edge.plan.index}.{edge.generation}")
            for end in ends:
                if end.control is not None:
                    end.control.send(
                        "link", edge=edge.name, path=str(path), generation=edge.generation
                    )
            edge.linked = True

    def _advance(self, now: float) -> None:
        """Start who may start; close when everyone has finished."""
        everyone = self.processes.values()
        self._check_start_deadline(now)
        if not self.started_at:
            if not all(process.phase == "ready" for process in everyone):
                return
            if not all(edge.greeted for edge in self.edges.values()):
                return
            self.started_at, self.ready_s = now, now - self.began
            self._moved = (0, now)
            self._prepare_successors()
        if self._closing:
            for process in everyone:
                if process.phase == "ready" and process.control is not None:
                    process.phase = "running"
                    process.control.send("close")
            return
        for process in everyone:
            mine = [
                edge for edge in self.edges.values() if process in (edge.producer, edge.consumer)
            ]
            if process.phase == "ready" and all(
                edge.greeted or self._gone(edge, process) for edge in mine
            ):
                process.phase = "running"
                assert process.control is not None
                process.control.send("start")
                if self._draining:
                    process.control.send("drain")
        if (
            self.duration is not None
            and not self._draining
            and now >= self.started_at + self.duration
        ):
            self._drain(now)
        if all(process.phase == "finished" for process in everyone):
            self._closing = True
            self._close_deadline = now + self.graph.limits.drain_seconds
            for process in everyone:
                if process.control is not None:
                    process.control.send("close")

    @staticmethod
    def _gone(edge: Edge, process: Process) -> bool:
        """Whether the other end of an edge is away: a source must not wait for a dead sink."""
        other = edge.consumer if process is edge.producer else edge.producer
        return other.phase in ("waiting", "starting", "dead")

    def _check_start_deadline(self, now: float) -> None:
        limit = self.graph.limits.start_seconds
        late = [
            p for p in self.processes.values() if p.phase == "starting" and now - p.began > limit
        ]
        if late and not self.started_at:
            busy = [f"{p.name} (in {b[0]})" if (b := self._busy(p)) else p.name for p in late]
            raise Failed(f"not ready after {limit:g} s: {', '.join(busy)} (limits: start_seconds)")
        for process in late:
            busy_in = self._busy(process)
            what = busy_in[0] if busy_in else f"the successor of process {process.name!r}"
            self._kill(process, f"{what} has not returned for {limit:g} s (limits: start_seconds)")

    # --- watching -----------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Notice hanging nodes, deadlocks, and what the processes use."""
        for process in self.processes.values():
            if process.pid and process.phase not in ("closed", "dead", "waiting"):
                self._sample(process)
            if process.pid and process.stopped >= STOPPED_S:
                process.stopped = 0.0
                self._kill(
                    process,
                    f"process {process.name!r} ({', '.join(process.spec.nodes)}) was stopped "
                    "(SIGSTOP), and nobody let it go on",
                )
            elif process.pid and process.phase in ("running", "finished"):
                busy = self._busy(process)
                limit = self.graph.limits.handler_seconds
                if busy and busy[1] > limit:
                    self._kill(
                        process,
                        f"{busy[0]} has not returned for {busy[1]:.1f} s (limits: handler_seconds)",
                    )
                elif self._is_frozen(process):
                    nodes = ", ".join(process.spec.nodes)
                    self._kill(
                        process,
                        f"process {process.name!r} ({nodes}) has not moved for {FROZEN_S:g} s, "
                        "though none of its nodes is busy: held by a debugger, or the machine is "
                        "out of memory or far too busy",
                    )
        if self.started_at and not self._closing:
            self._check_stall(now)

    def _is_frozen(self, process: Process) -> bool:
        """Whether its loop has not turned for too long. Counted in looks, not by the clock: were
        this process stopped and continued, everyone else's heartbeat would look old.
        """  # fmt: skip
        heartbeat = process.board.now(Board.HEARTBEAT)
        if heartbeat != process.heartbeat or process.board.now(Board.SINCE):
            process.heartbeat, process.still = heartbeat, 0.0
        else:
            process.still += LOOK_S
        return process.still >= FROZEN_S

    @staticmethod
    def _kill(process: Process, why: str) -> None:
        """End a process that cannot be worked with; its restart policy says what follows."""
        process.failure = {"error": why, "traceback": ""}
        if process.remote is not None:
            process.remote.send("kill", process=process.name)
        elif process.pid:
            with contextlib.suppress(ProcessLookupError):  # it died meanwhile
                os.kill(process.pid, signal.SIGKILL)

    def _busy(self, process: Process) -> tuple[str, float] | None:
        """What a process is in the middle of, and for how many seconds."""
        board = process.board
        since = board.now(Board.SINCE)
        if since == 0:
            return None
        index, port = board.now(Board.NODE) - 1, board.now(Board.PORT)
        if not 0 <= index < len(process.spec.nodes):
            return None
        name = process.spec.nodes[index]
        inputs = self.graph.nodes[name].inputs
        if not -len(VERBS) <= port < len(inputs):
            return None
        verb = f"on_{inputs[port].input}" if port >= 0 else VERBS[-1 - port]
        ahead = process.remote.ahead_ns if process.remote is not None else 0
        return f"node {name!r} ({verb})", (time.monotonic_ns() + ahead - since) / 1e9

    def _sample(self, process: Process) -> None:
        if process.remote is not None:
            return  # its host says what it uses
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            process.stopped = process.stopped + LOOK_S if fields[0] == "T" else 0.0
            ticks = os.sysconf("SC_CLK_TCK")
            process.cpu_s = process.cpu_before + (int(fields[11]) + int(fields[12])) / ticks
            rss = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
            process.rss_peak_mib = max(process.rss_peak_mib, rss)

    def _check_stall(self, now: float) -> None:
        """Every source blocked, nobody working, nothing moving: say which edges, and the way out.

        While a source waits for its device there is no deadlock: what it says may free the others.
        """
        boards = [process.board for process in self.processes.values()]
        waits = [board.now(Board.WAITING) for board in boards]
        counts = self.edge_report()
        total = sum(edge["handled"] + edge["produced"] for edge in counts.values())
        still = (
            all(process.phase in ("running", "finished") for process in self.processes.values())
            and not any(board.now(Board.SINCE) for board in boards)
            and any(wait > 0 for wait in waits)
            and not any(wait < 0 for wait in waits)
        )
        if total != self._moved[0] or not still:
            self._moved = (total, now)
        elif now - self._moved[1] > STALL_S:
            raise Failed(self._deadlock(counts))

    def _deadlock(self, counts: dict[str, dict[str, Any]]) -> str:
        full = []
        for process in self.processes.values():
            wait = process.board.now(Board.WAITING)
            names = process.layout.fillable
            if 0 < wait <= len(names):
                full.append(names[wait - 1])
        lines = []
        for edge in self.plan.edges:
            count = counts[edge.spec.name]
            if edge.spec.name in full:
                waiting = max(count["waiting"], count["in_flight"])
                lines.append(f"{edge.spec.name} is full ({waiting} packets)")
        for node in self.graph.nodes.values():
            empty = [edge for edge in node.inputs if counts[edge.name]["in_flight"] == 0]
            if len(node.inputs) > len(empty) > 0:
                inputs = ", ".join(
                    f"{edge.input!r} ({edge.source}.{edge.output})" for edge in empty
                )
                lines.append(f"node {node.name!r} waits for {inputs}")
        return (
            f"deadlock: every source is blocked and nothing has moved for {STALL_S:g} s: "
            f"{'; '.join(lines)}. One branch holds back more packets than the others can keep: "
            "give the full edges more capacity, or let that branch hold back less"
        )

    # --- signals ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _catching_signals(self) -> Any:
        """SIGINT and SIGTERM drain; a second one, or the deadline, stops at once."""
        self._wakeup, wake = socket.socketpair()
        self._wakeup.setblocking(False)
        wake.setblocking(False)
        old_fd = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        old = {
            number: signal.signal(number, lambda got, _frame: self._signals.append(got))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in old.items():
                signal.signal(number, handler)
            wake.close()
            self._wakeup.close()

    def _obey_signals(self, now: float) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if self.outcome == "interrupted":
                self.exit_code = self.exit_code or 128 + number  # what was under way is lost
                raise Cut("stopped at once by a second signal; see in_flight in the report")
            self.outcome = "interrupted"
            self.exit_code = 130 if number == signal.SIGINT else 0
            if not self.started_at:
                raise Cut("interrupted before the graph was ready")
            self._drain(now)
        if self._deadline is not None and now > self._deadline and not self._closing:
            self.exit_code = self.exit_code or 1
            kind = Cut if self.outcome == "interrupted" else Failed
            raise kind(
                f"not drained after {self.graph.limits.drain_seconds:g} s (limits: drain_seconds); "
                "see in_flight in the report"
            )
        if self._closing and now > self._close_deadline:
            slow = [p.name for p in self.processes.values() if p.phase != "closed"]
            raise Failed(
                f"not closed after {self.graph.limits.drain_seconds:g} s: {', '.join(slow)}"
            )

    def _drain(self, now: float) -> None:
        self._draining = True
        self._deadline = now + self.graph.limits.drain_seconds
        for process in self.processes.values():
            if process.control is not None and process.phase in ("running", "finished"):
                process.control.send("drain")

    # --- starting and stopping ----------------------------------------------------------------

    _preloaded = False
    _closing_down = False
    _close_deadline = 0.0

    def _listen(self) -> None:
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(endpoint_path(self.directory, "control")))
        self._server.listen(64)

    def _start_fork_server(self) -> None:
        if self._fork_server is None:
            self._fork_server = ForkServer()
        control = self._fork_server.control
        control.send("serve", directory=str(self.directory))
        self._connections[control.fileno()] = (control, None)

    def _create_memory(self) -> None:
        for process in self.processes.values():
            layout = process.layout
            size = Board.size(layout.words, len(layout.histograms))
            process.board_fd = create(f"board:{process.name}", size)
            if process.remote is None:
                process.vault_fd = create(f"vault:{process.name}", VAULT_BYTES)
            process.board = Board(
                process.board_fd, layout.words, histograms=len(layout.histograms), writable=True
            )
        for segment in self.plan.segments:
            if self._home[segment.node].remote is not None:
                continue  # the memory is where its producer is
            name = f"{segment.node}.{segment.output}"
            fd = create(name, segment_bytes(segment.slots, segment.slot_bytes))
            self._segments[name] = (segment, fd, read_only(fd))

    def _stop_everything(self) -> None:
        """Whatever happened, nothing of the run is left."""
        self._closing_down = True
        for process in self.processes.values():
            if hasattr(process, "board"):
                self._finals[process.name] = process.board.read()
        if self._fork_server is not None:
            self._fork_server.stop()
        for remote in self.remotes.values():
            remote.close()
        for process in self.processes.values():
            if process.child is not None:
                process.child.kill()
                process.child.wait()
            process.pid = 0  # whoever has this number later is not ours
        for control, _process in self._connections.values():
            control.close()
        if hasattr(self, "_server"):
            self._server.close()
        for process in self.processes.values():
            for fd in (process.board_fd, process.vault_fd):
                if fd >= 0:
                    os.close(fd)
        for _segment, fd, reader in self._segments.values():
            os.close(fd)
            os.close(reader)
        self._segments.clear()

    # --- what a worker is told ----------------------------------------------------------------

    def _mine(self, spec: ProcessSpec) -> tuple[list[EdgePlan], list[EdgePlan], list[EdgePlan]]:
        """A process's edges: coming in, going out, and staying inside."""
        nodes = set(spec.nodes)
        ins, outs, inside = [], [], []
        for edge in self.plan.edges:
            if edge.transport == "reference":
                if edge.spec.node in nodes:
                    inside.append(edge)
            elif edge.spec.node in nodes:
                ins.append(edge)
            elif edge.spec.source in nodes:
                outs.append(edge)
        return ins, outs, inside

    def _outputs(self, spec: ProcessSpec) -> list[SegmentPlan]:
        return [segment for segment in self.plan.segments if segment.node in spec.nodes]

    def _layout(self, spec: ProcessSpec) -> Layout:
        ins, _outs, inside = self._mine(spec)
        outputs = self._outputs(spec)
        by_index = {edge.index: edge for edge in self.plan.edges}
        outs = [
            by_index[index].spec.name
            for segment in outputs
            for index in segment.edges
            if by_index[index].transport != "reference"
        ]
        return Layout(
            list(spec.nodes), [e.spec.name for e in ins], outs, [e.spec.name for e in inside],
            [f"{segment.node}.{segment.output}" for segment in outputs],
        )  # fmt: skip

    def _memory(self, process: Process) -> list[int]:
        """The descriptors of a worker's memory, in the order in which it takes them."""
        ins, _outs, _inside = self._mine(process.spec)
        fds = [process.board_fd, process.vault_fd]
        fds += [self._segments[_port_of(s)][1] for s in self._outputs(process.spec)]
        near = [edge for edge in ins if edge.transport == "shared"]
        return fds + [self._segments[f"{e.spec.source}.{e.spec.output}"][2] for e in near]

    def _far_memory(self, process: Process) -> list[tuple[str, int, bool]]:
        """The same on another host: names, bytes, and whether the worker writes to it."""
        ins, _outs, _inside = self._mine(process.spec)
        layout = process.layout
        board = Board.size(layout.words, len(layout.histograms))
        found = [(f"board:{process.name}", board, True)]
        found.append((f"vault:{process.name}", VAULT_BYTES, True))
        sizes = {_port_of(s): segment_bytes(s.slots, s.slot_bytes) for s in self.plan.segments}
        found += [(_port_of(s), sizes[_port_of(s)], True) for s in self._outputs(process.spec)]
        near = [f"{e.spec.source}.{e.spec.output}" for e in ins if e.transport == "shared"]
        return found + [(name, sizes[name], False) for name in near]

    def _worker_plan(self, process: Process) -> Message:
        """Everything a worker needs but its memory."""
        graph, spec = self.graph, process.spec
        ins, _outs, inside = self._mine(spec)
        outputs = self._outputs(spec)
        by_index = {edge.index: edge for edge in self.plan.edges}
        return {
            "graph": graph.name,
            "process": spec.name,
            "directory": str(self.directory),
            "incarnation": process.incarnation,
            "restart": spec.restart.when,
            "clock": graph.clock,
            "speed": graph.speed,
            "limits": msgspec.to_builtins(graph.limits),
            "nodes": [
                {
                    "name": name,
                    "kind": graph.nodes[name].kind,
                    "settings": graph.nodes[name].settings,
                    "inputs": [edge.input for edge in graph.nodes[name].inputs],
                    "on_error": graph.nodes[name].on_error,
                }
                for name in spec.nodes
            ],
            "outputs": [
                {
                    "name": f"{segment.node}.{segment.output}",
                    "slots": segment.slots,
                    "slot_size": segment.slot_bytes,
                    "links": [
                        {
                            "edge": by_index[index].spec.name,
                            "policy": by_index[index].spec.when_full,
                            "capacity": by_index[index].spec.capacity,
                            "window": by_index[index].spec.window,
                            "far": by_index[index].spec.compress
                            if by_index[index].transport == "tcp"
                            else None,
                        }
                        for index in segment.edges
                        if by_index[index].transport != "reference"
                    ],
                }
                for segment in outputs
            ],
            "ins": [self._in_plan(edge) for edge in ins],
            "locals": [
                {
                    "edge": edge.spec.name,
                    "output": f"{edge.spec.source}.{edge.spec.output}",
                    "node": edge.spec.node,
                    "input": edge.spec.input,
                    "capacity": edge.spec.capacity + edge.spec.window,  # as between processes
                }
                for edge in inside
            ],
        }

    def _in_plan(self, edge: EdgePlan) -> Message:
        port = f"{edge.spec.source}.{edge.spec.output}"
        segment = next(s for s in self.plan.segments if _port_of(s) == port)
        return {
            "edge": edge.spec.name,
            "node": edge.spec.node,
            "port": edge.spec.input,
            "window": edge.spec.window,
            "slots": segment.slots,
            "slot_size": segment.slot_bytes,
            "far": edge.transport == "tcp",
            "lossless": edge.spec.when_full == "block",
        }

    # --- other hosts --------------------------------------------------------------------------

    def _call_hosts(self) -> None:
        self.remotes = connect_hosts(self.graph, self.identity, self._key)
        for process in self.processes.values():
            if process.spec.host is not None:
                process.remote = self.remotes[process.spec.host]

    def _hear_hosts(self, now: float) -> None:
        for remote in self.remotes.values():
            try:
                for message in remote.receive(now):
                    self._hear_host(remote, message)
                remote.keep_up(now)
            except HostLost as lost:
                self._lost(remote, str(lost))
            if not remote.joined_once and now - self.began > HOST_S:
                raise Failed(
                    f"host {remote.name!r} did not answer at {remote.spec.address} within "
                    f"{HOST_S:g} s: {remote.client.trouble}; expected `streamflow host` there"
                )

    def _hear_host(self, remote: Remote, message: Message) -> None:
        operation = message["op"]
        if operation == "boards":
            for name, (data, cpu_s, rss) in message["boards"].items():
                process = self.processes[name]
                process.board.load(data)
                if cpu_s:  # else it has gone already
                    process.cpu_s = process.cpu_before + cpu_s
                process.rss_peak_mib = max(process.rss_peak_mib, rss)
            return
        process = self.processes[message["process"]]
        if process.remote is not remote or message["incarnation"] != process.incarnation:
            return
        if operation == "from":
            if message["message"]["op"] == "hello":
                control = RemoteControl(remote, process.name)
                if self._greet_far(control, message["message"]):
                    plan = self._worker_plan(process)
                    control.send("plan", memory=self._far_memory(process), **plan)
            else:
                self._hear_process(process, message["message"])
        elif operation == "exited":
            self._exited(process, message["code"])

    def _lost(self, remote: Remote, why: str) -> None:
        """A host is gone, and every process on it; their memory waits there."""
        log.warning("%s", why)
        for process in self.processes.values():
            if process.remote is remote and process.phase not in ("closed", "waiting"):
                process.failure = {"error": f"{why} (process {process.name!r})", "traceback": ""}
                self._exited(process, -signal.SIGKILL)

    def _place(self, process: Process, towards: Process) -> str:
        """The address that the edges of a process listen at, as `towards` reaches it."""
        if process.remote is not None:
            return address_of(process.remote.spec.address)
        assert towards.remote is not None
        return address_towards(towards.remote.spec.address)

    def _link_far(self, edge: Edge) -> None:
        """Have the producer listen; when it says where, the consumer is told."""
        where = self._place(edge.producer, edge.consumer)
        token = b"e" + secrets.token_bytes(15)  # an identity must not begin with a zero
        ours: Keys | None = None
        theirs: Keys | None = None
        if not self.graph.insecure and not is_loopback(f"{where}:0"):
            ours, theirs = new_keys(), new_keys()  # for this connection alone
        listener = Security(token, ours, theirs.public if theirs else b"")
        edge.security = (listener, Security(token, theirs, ours.public if ours else b""))
        self._tell(edge, edge.producer, listener, where=where)

    def _tell(self, edge: Edge, end: Process, security: Security, **words: Any) -> None:
        if end.control is not None:
            end.control.send(
                "link", edge=edge.name, generation=edge.generation, token=security.token,
                keys=security.mine, peer=security.peer,
                maximum=edge.plan.spec.max_packet + LATER, **words,
            )  # fmt: skip

    def _join_far(self, producer: Process, message: Message) -> None:
        edge = self.edges[message["edge"]]
        if edge.producer is producer and edge.linked and message["generation"] == edge.generation:
            assert edge.security is not None
            self._tell(
                edge, edge.consumer, edge.security[1], address=message["address"],
                ahead=self._ahead(edge),
            )  # fmt: skip

    @staticmethod
    def _ahead(edge: Edge) -> int:
        """How far the consumer's clock is ahead of the producer's, ns."""
        consumer, producer = edge.consumer.remote, edge.producer.remote
        return (consumer.ahead_ns if consumer else 0) - (producer.ahead_ns if producer else 0)

    def _broken(self, message: Message) -> None:
        """The connection of an edge broke: both of its ends live, and get another."""
        edge = self.edges[message["edge"]]
        if edge.linked and message["generation"] == edge.generation:
            self._note(f"edge {edge.name}: its connection broke and is made again")
            if edge.producer.control is not None:
                edge.producer.control.send("unlink", edge=edge.name)
            edge.linked = edge.greeted = False

    def _retry_far(self) -> None:
        now = time.monotonic()
        for edge in self.edges.values():
            if edge.plan.transport != "tcp" or not edge.linked:
                continue
            if not edge.greeted and now - edge.linked_at > GREETING_S:
                for end in (edge.producer, edge.consumer):
                    if end.control is not None:
                        end.control.send("unlink", edge=edge.name)
                edge.linked = False

    # --- what is told -------------------------------------------------------------------------

    def _words(self, process: Process) -> list[int]:
        return self._finals.get(process.name) or process.board.read()

    def _edge_counts(self, name: str) -> dict[str, Any]:
        edge = self.edges[name]
        out = edge.producer.layout.read(self._words(edge.producer), "out", name)
        into = edge.consumer.layout.read(self._words(edge.consumer), "in", name)
        return (far_edge if edge.plan.transport == "tcp" else shared_edge)(out, into)

    def edge_report(self) -> dict[str, dict[str, Any]]:
        """Every edge's ledger, from both of its ends."""
        report = {}
        for edge in self.plan.edges:
            name, spec = edge.spec.name, edge.spec
            head: dict[str, Any] = {"transport": edge.transport, "policy": spec.when_full}
            if edge.transport != "reference":
                counts = self._edge_counts(name)
            else:
                process = self._home[spec.node]
                counts = reference_edge(process.layout.read(self._words(process), "local", name))
            report[name] = head | counts
        return report

    def node_report(self) -> dict[str, dict[str, Any]]:
        """What every node has handled and made."""
        report = {}
        for name, process in self._home.items():
            words = self._words(process)
            counts = process.layout.read(words, "node", name)
            faults = process.layout.read_faults(words, name, process.faults.get(name, []))
            report[name] = {
                "process": process.name,
                **{
                    key: counts[key]
                    for key in ("packets_in", "packets_out", "items_in", "items_out")
                },
                "restarts": process.restarts,
                "state_lost": counts["state_lost"],
                "stream_time": counts["time"],
                "progress": counts["progress"],
                "faults": faults,
            }
        return report

    def latency_report(self) -> dict[str, dict[str, float]]:
        """Capture to arrival at every node without outputs, in microseconds."""
        report = {}
        for name, spec in self.graph.nodes.items():
            if not spec.outputs and spec.inputs and hasattr(self._home[name], "board"):
                worst = [self.edge_latency(edge.name) for edge in spec.inputs]
                report[name] = max(worst, key=lambda summary: summary["p99"])
        return report

    def edge_latency(self, name: str) -> dict[str, float]:
        """Capture to arrival at the consumer of one edge, in microseconds."""
        for edge in self.plan.edges:
            if edge.spec.name == name:
                process = self._home[edge.spec.node]
                return process.board.histogram(process.layout.histograms[name]).summary()
        raise KeyError(name)

    def report(self) -> dict[str, Any]:
        """The run report; see docs/run-report.md."""
        made = all(hasattr(process, "board") for process in self.processes.values())
        edges = self.edge_report() if made else {}
        unbalanced = (
            {name: wrong for name, counts in edges.items() if (wrong := balance(counts))}
            if self.outcome == "completed"
            else {}
        )
        results = {k: v for process in self.processes.values() for k, v in process.results.items()}
        return {
            "schema": 1,
            "graph": self.graph.name,
            "outcome": self.outcome,
            "error": self.error,
            "wall_s": round(self._wall_s or time.monotonic() - self.began, 3),
            "ready_s": round(self.ready_s, 3),
            "versions": versions(),
            "graph_digest": self.graph.digest,
            "nodes": self.node_report() if made else {},
            "processes": {
                process.name: {
                    "pid": process.pid,
                    "cpu_s": round(process.cpu_s, 3),
                    "rss_peak_mib": round(process.rss_peak_mib, 1),
                    "restarts": process.restarts,
                    "phase": process.phase,
                }
                for process in self.processes.values()
            },
            "hosts": {name: remote.report() for name, remote in self.remotes.items()},
            "edges": edges,
            "unbalanced": unbalanced,
            "latency_us": self.latency_report() if made else {},
            "results": results,
            "notes": self.notes,
        }


def _port_of(segment: SegmentPlan) -> str:
    return f"{segment.node}.{segment.output}"


def address_of(address: str) -> str:
    """The numeric address of `name:port`."""
    name = address.rpartition(":")[0].strip("[]")
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise TransportError(f"host {name!r} has no address: {error}") from error


def _program(python: str, module: str) -> list[str]:
    """The command that runs a module of ours as `-m` does, but imports nothing from where one is.

    Recordings and graphs lie in the working directory, and a `numpy.py` among them is not to run.
    """
    return [
        python, "-c",
        "import sys; sys.path[:] = [place for place in sys.path if place]; import runpy; "
        f"runpy.run_module('{module}', run_name='__main__', alter_sys=True)",
    ]  # fmt: skip


def versions() -> dict[str, str]:
    """What ran: Python, streamflow, and the libraries that decide results."""
    found = {"python": platform.python_version(), "streamflow": __version__}
    for name in ("numpy", "numba", "pyzmq", "msgspec", "dv-processing", "faery", "nir"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def cache_directory() -> Path:
    """A folder where compiled kernels can be kept; tested, so that no worker compiles in vain."""
    candidates = [os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")]
    home = Path.home() if "HOME" in os.environ else None
    paths = [Path(candidates[0])] if candidates[0] else []
    if candidates[1]:
        paths.append(Path(candidates[1], "streamflow", "numba"))
    elif home is not None:
        paths.append(home / ".cache" / "streamflow" / "numba")
    paths.append(Path(tempfile.gettempdir(), f"streamflow-{os.getuid()}-numba"))
    for path in paths:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError:
            continue
        status = path.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise TransportError(
                f"{path} is for compiled kernels, which are executed; it belongs to user "
                f"{status.st_uid} with mode {status.st_mode & 0o777:o}, and must be yours and "
                "nobody else's to write: chmod go-w it, or set NUMBA_CACHE_DIR to another folder"
            )
        return path
    raise TransportError(f"no folder for compiled kernels can be written: tried {paths}")


def run(graph: Graph, **options: Any) -> dict[str, Any]:
    """Run a graph and return its report: what `streamflow run` does, for scripts."""
    return Supervisor(graph, **options).run()


def write_report(report: dict[str, Any], path: str | Path) -> None:
    """Write a run report as JSON."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(report, indent=1) + "\n")
