"""Starts, restarts and drains the processes of a run, and decides how it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import secrets
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from . import __version__
from .control import PROTOCOL, Control, Message, peer_is_me
from .errors import StreamflowError, TransportError
from .graph import Graph
from .launch import ForkServer, program
from .links import Links
from .metrics import balance
from .plan import make_plan
from .remote import HostLost, Remote, RemoteControl, connect_hosts
from .report import Counts, versions
from .run_directory import RunDirectory, endpoint_path
from .run_memory import RunMemory, far_memory
from .signals import Signals
from .supervised import Edge, Failed, Process
from .watchdog import LOOK_S, Watchdog
from .worker_plan import WorkerPlan

log = logging.getLogger("streamflow")

NOTES = 100  # restarts that the report describes; its counters know all of them
FORK_SERVER_S = 60.0
POLL_S = 0.1
NEAR_POLL_S = 0.02  # with other hosts, whose connections do not always wake the loop
HOST_S = 10.0  # a host that does not answer at the start
DEFAULT_KEY = Path.home() / ".config" / "streamflow" / "keys" / "me.key_secret"
MAXIMUM_BACKOFF_S = 30.0

Outcome = Literal["completed", "failed", "interrupted"]


class Cut(Failed):
    """The user's signal, or what it led to, ends the run before it was drained."""


class Supervisor:
    """One run of a graph. `run()` returns the report; `report()` may be called while it runs."""

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
        self._worker_plans = {
            spec.name: WorkerPlan(self.plan, spec) for spec in self.plan.processes
        }
        self.processes = {
            spec.name: Process(spec, self._worker_plans[spec.name].layout(), graph)
            for spec in self.plan.processes
        }
        home = {name: self.processes[spec.process] for name, spec in graph.nodes.items()}
        self.edges = {
            edge.spec.name: Edge(edge, home[edge.spec.source], home[edge.spec.node])
            for edge in self.plan.edges
            if edge.transport != "reference"
        }
        self.counts = Counts(self.plan, self.processes)
        self._watchdog = Watchdog(self.plan, self.processes.values(), self.counts.edges)
        self._memory = RunMemory()
        self._signals = Signals()
        self._links: Links
        self._key = key or DEFAULT_KEY
        self.remotes: dict[str, Remote] = {}
        self._connections: dict[int, tuple[Control, Process | None]] = {}
        self._fork_server = fork_server
        self._deadline: float | None = None
        self._draining = self._closing = False
        self._wall_s = 0.0

    # --- the run ------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Run the graph to its end, and say how it went. Never raises for what a graph can do."""
        self.began = time.monotonic()
        directory: RunDirectory | None = None
        with self._signals:
            try:
                directory = RunDirectory(self.identity)
                self.directory = directory.path
                self._links = Links(
                    self.edges.values(), self.directory, insecure=self.graph.insecure,
                    note=self._note,
                )  # fmt: skip
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
            if not self._closing:
                # whoever is restarted then has handled everything, and only closes again
                self._links.relink()
            self._advance(now)
            if now >= next_look:
                next_look = now + LOOK_S
                self._watchdog.look()
                if self.started_at and not self._closing:
                    self._watchdog.check_stall(now)
            if self._watch is not None and now >= next_watch:
                next_watch = now + self._every
                self._watch(self)

    def _wait(self, seconds: float) -> None:
        poll = select.poll()  # not select(): it takes no descriptor above 1023
        server, wakeup = self._server.fileno(), self._signals.fileno()
        for fd in (server, wakeup, *self._connections):
            poll.register(fd, select.POLLIN)
        for remote in self.remotes.values():
            poll.register(remote.client.fileno(), select.POLLIN)
        for fd, _events in poll.poll(1000 * seconds):
            if fd == server:
                self._accept()
            elif fd == wakeup:
                self._signals.clear()
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
                process.kill(f"process {process.name!r} sent {error}")
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
        plan = self._worker_plans[process.name]
        fds = self._memory.descriptors(process.name, plan)
        control.send("plan", fds, **plan.words(process.incarnation, self.directory))
        return process

    def _hear_process(self, process: Process, message: Message) -> None:
        operation = message["op"]
        if operation == "ready":
            process.phase, process.faults = "ready", message["faults"]
        elif operation == "linked":
            self._links.greet(message)
        elif operation == "finished":
            process.phase = "finished"
        elif operation == "unfinished":
            process.phase = "running"
        elif operation == "failed":
            process.failure = message
        elif operation == "listening":
            self._links.join_far(process, message)
        elif operation == "broken":
            self._links.broken(message)
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
        what = process.cause(code)
        trace = process.failure["traceback"] if process.failure else ""
        process.pid, process.phase, process.control = 0, "dead", None
        process.failure = None
        process.cpu_before = process.cpu_s
        self._links.unlink(process)
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
        command = [*program(process.spec.python, "streamflow.worker_main"), path, process.name]
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

    # --- from start to end --------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        """Start who may start; close when everyone has finished."""
        everyone = self.processes.values()
        self._watchdog.check_start(now, all_started=bool(self.started_at))
        if not self.started_at:
            if not all(process.phase == "ready" for process in everyone):
                return
            if not self._links.complete:
                return
            self.started_at, self.ready_s = now, now - self.began
            self._watchdog.start(now)
            self._prepare_successors()
        if self._closing:
            for process in everyone:
                if process.phase == "ready" and process.control is not None:
                    process.phase = "running"
                    process.control.send("close")
            return
        for process in everyone:
            if process.phase == "ready" and self._links.may_start(process):
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

    def _obey_signals(self, now: float) -> None:
        while self._signals.caught:
            number = self._signals.caught.pop(0)
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
            process.board = self._memory.create_board(
                process.name, process.layout, near=process.remote is None
            )
        self._memory.create_segments(self.plan)

    def _stop_everything(self) -> None:
        """Whatever happened, nothing of the run is left."""
        self._closing_down = True
        for process in self.processes.values():
            if hasattr(process, "board"):
                process.final = process.board.read()
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
        self._memory.close()

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
                    plan = self._worker_plans[process.name]
                    memory = far_memory(process.name, process.layout, plan, self.plan)
                    words = plan.words(process.incarnation, self.directory)
                    control.send("plan", memory=memory, **words)
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

    # --- what is told -------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """The run report; see docs/run-report.md."""
        counts = self.counts
        edges = counts.edges() if counts.made else {}
        unbalanced = (
            {name: wrong for name, ledger in edges.items() if (wrong := balance(ledger))}
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
            "nodes": counts.nodes() if counts.made else {},
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
            "latency_us": counts.latencies() if counts.made else {},
            "results": results,
            "notes": self.notes,
        }


def run(graph: Graph, **options: Any) -> dict[str, Any]:
    """Run a graph and return its report: what `streamflow run` does, for scripts."""
    return Supervisor(graph, **options).run()
