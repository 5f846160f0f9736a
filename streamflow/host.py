"""A machine that waits for its part of a graph: runs processes for a supervisor elsewhere.

The host forks them, keeps their shared memory, passes on what they and the supervisor say to each
other, and reports their counters. It decides nothing. When the supervisor is not heard, it kills
them at once, so that no old instance goes on beside its successor; their memory it keeps for a
while, so that nothing is lost when the supervisor comes back.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import platform
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Collection
from typing import Any

from . import __version__
from .control import PROTOCOL, Control, Message, peer_is_me
from .errors import TransportError
from .launch import ForkServer
from .memory import create, read_only
from .network import HostServer, Keys
from .remote import AWAY_S
from .run_directory import RunDirectory, endpoint_path

log = logging.getLogger("streamflow")

SILENCE_S = 1.5  # a supervisor that is not heard for so long is gone
KEPT_S = AWAY_S  # how long memory is kept for a supervisor that may come back
REPORT_S = 0.2  # between reports of counters
POLL_MS = 50
MAXIMUM_MEMORY = 1 << 36  # bytes of one reserved memory: sparse, but not without bound
LATEST = 4096  # memories of one run


class _Process:
    """A worker on this host."""

    def __init__(self, name: str, incarnation: int) -> None:
        self.name, self.incarnation = name, incarnation
        self.pid = 0
        self.control: Control | None = None
        self.child: subprocess.Popen[bytes] | None = None


class _Run:
    """What this host holds for one run."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.directory = RunDirectory(f"{identity}-host")
        self.memory: dict[str, tuple[int, int]] = {}  # descriptors: to write, and only to read
        self.boards: dict[str, mmap.mmap] = {}
        self.processes: dict[str, _Process] = {}
        self.connections: dict[int, tuple[Control, _Process | None]] = {}
        self.fork_server: ForkServer | None = None
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(str(endpoint_path(self.directory.path, "control")))
        self.server.listen(64)

    def remember(self, name: str, size: int) -> tuple[int, int]:
        """The memory of that name, made when it is not there."""
        if name not in self.memory:
            if not 0 < size <= MAXIMUM_MEMORY or len(self.memory) >= LATEST:
                raise TransportError(f"memory {name!r} of {size} bytes")
            fd = create(name, size)
            self.memory[name] = fd, read_only(fd)
            if name.startswith("board:"):
                self.boards[name.removeprefix("board:")] = mmap.mmap(
                    fd, size, mmap.MAP_SHARED, mmap.PROT_READ
                )
        return self.memory[name]

    def kill(self) -> None:
        """End every process; memory stays."""
        for process in self.processes.values():
            if process.child is not None:
                process.child.kill()
                process.child.wait()
        if self.fork_server is not None:
            self.fork_server.stop()
            self.fork_server = None
        for control, _process in self.connections.values():
            control.close()
        self.connections.clear()
        self.processes.clear()

    def end(self) -> None:
        """Leave nothing."""
        self.kill()
        self.server.close()
        for board in self.boards.values():
            board.close()
        for fds in self.memory.values():
            for fd in fds:
                os.close(fd)
        self.directory.remove()


class Host:
    """Serves one supervisor at a time until it is told to stop."""

    def __init__(self, where: str, keys: Keys | None, allowed: Collection[bytes]) -> None:
        self.server = HostServer(where, keys, allowed)
        self.address = self.server.address
        self._caller = b""
        self._run: _Run | None = None
        self._heard = self._next_report = 0.0
        self._received = 0
        self._here = False  # the supervisor of the run is heard
        self._stop = False

    def serve(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        wakeup, wake = socket.socketpair()
        wake.setblocking(False)
        wakeup.setblocking(False)
        old_fd = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        old = {
            number: signal.signal(number, self._stopping)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            while not self._stop:
                self._once(wakeup.fileno())
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(old_fd)
            wakeup.close()
            wake.close()
            self._end_run()
            self.server.close()

    def _stopping(self, _number: int, _frame: Any) -> None:
        self._stop = True

    def _once(self, wakeup: int) -> None:
        poll = select.poll()
        poll.register(self.server.fileno(), select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        run = self._run
        if run is not None:
            poll.register(run.server.fileno(), select.POLLIN)
            for fd in run.connections:
                poll.register(fd, select.POLLIN)
        ready = {fd for fd, _events in poll.poll(POLL_MS)}
        for caller, message in self.server.receive():
            self._hear(caller, message)
        if self._run is not None and self._run is run:
            self._hear_run(run, ready)
        now = time.monotonic()
        if self._run is not None:
            self._watch(self._run, now)

    # --- the supervisor -----------------------------------------------------------------------

    def _hear(self, caller: bytes, message: Message) -> None:
        if message["op"] == "join":
            self._join(caller, message)
            return
        if caller != self._caller or not self._here:
            return  # not of this conversation: it will have to join
        if message["n"] != self._received + 1:
            self._cut("a message of the supervisor's was lost on the way")
            self.server.send(caller, "gap")
            return
        self._received, self._heard = message["n"], time.monotonic()
        try:
            self._obey(message)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.server.refused += 1
            log.warning("a message %r that makes no sense: %s", message["op"], error)
        except TransportError as error:
            self._cut(str(error))
            self.server.send(caller, "refused", why=str(error))

    def _join(self, caller: bytes, message: Message) -> None:
        why = self._reason_against(message)
        if why:
            log.warning("refused a run: %s", why)
            self.server.send(caller, "refused", why=why)
            return
        run = self._run
        fresh = run is None or run.identity != message["run"]
        try:
            if fresh:
                self._end_run()
                self._run = run = _Run(message["run"])
                log.info("run %s begins", message["run"])
            assert run is not None
            run.kill()
            run.fork_server = ForkServer()
        except (OSError, TransportError) as error:
            log.error("run %s cannot begin: %s", message["run"], error)
            self.server.send(caller, "refused", why=str(error))
            return
        run.fork_server.control.send("serve", directory=str(run.directory.path))
        run.connections[run.fork_server.control.fileno()] = (run.fork_server.control, None)
        self._caller, self._here = caller, True
        self._received, self._heard = message["n"], time.monotonic()
        self.server.restart(caller)
        self.server.send(
            caller, "joined", fresh=fresh, python=platform.python_version(), cores=os.cpu_count()
        )

    def _reason_against(self, message: Message) -> str:
        run, version = message.get("run"), message.get("version")
        if not (isinstance(run, str) and run.isalnum() and len(run) <= 32):
            return f"{run!r} is no run"
        if message.get("protocol") != PROTOCOL or version != __version__:
            return (
                f"this host runs streamflow {__version__} (protocol {PROTOCOL}) and the supervisor "
                f"{version}: install the same version on both"
            )
        if self._run is not None and self._run.identity != run and self._here:
            return f"it is busy with run {self._run.identity}"
        return ""

    def _obey(self, message: Message) -> None:
        run, operation = self._run, message["op"]
        assert run is not None
        if operation == "ping":
            self.server.send(
                self._caller, "pong", at=message["at"], now=time.monotonic_ns(),
                refused=self.server.refused,
            )  # fmt: skip
        elif operation == "fork":
            self._fork(run, message)
        elif operation == "to":
            self._pass_on(run, message)
        elif operation == "kill":
            process = run.processes.get(message["process"])
            if process is not None and process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        elif operation == "end":
            log.info("run %s is over", run.identity)
            self._end_run()
        else:
            raise ValueError("unknown")

    def _fork(self, run: _Run, message: Message) -> None:
        name, incarnation, python = message["process"], message["incarnation"], message["python"]
        process = run.processes[name] = _Process(name, incarnation)
        path = str(run.directory.path / "control")
        assert run.fork_server is not None
        if python is None:
            run.fork_server.control.send("fork", process=name, incarnation=incarnation, path=path)
            return
        command = [python, "-m", "streamflow.worker_main", path, name, str(incarnation)]
        try:
            process.child = subprocess.Popen(
                [*command, str(os.getpid())], stdin=subprocess.DEVNULL,
                env=run.fork_server.environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise TransportError(f"process {name!r}: cannot run {python}: {error}") from error
        process.pid = process.child.pid

    def _pass_on(self, run: _Run, message: Message) -> None:
        process = run.processes.get(message["process"])
        if process is None or process.control is None:
            return  # it died, which the supervisor will hear
        words = dict(message["message"])
        fds = []
        for name, size, writable in message["memory"]:
            to_write, to_read = run.remember(name, size)
            fds.append(to_write if writable else to_read)
        if "directory" in words:
            words["directory"] = str(run.directory.path)
        if isinstance(path := words.get("path"), str):
            # the supervisor says the socket's name; the folder is ours
            words["path"] = str(endpoint_path(run.directory.path, os.path.basename(path)))
        operation = words.pop("op")
        process.control.send(operation, fds, **words)

    # --- the processes ------------------------------------------------------------------------

    def _hear_run(self, run: _Run, ready: set[int]) -> None:
        if run.server.fileno() in ready:
            connection, _address = run.server.accept()
            if peer_is_me(connection):
                run.connections[connection.fileno()] = (Control(connection), None)
            else:
                connection.close()
        for fd in ready & set(run.connections):
            if fd in run.connections:  # what another said may have ended this one
                self._hear_connection(run, fd)
        for process in list(run.processes.values()):
            if process.child is not None and (code := process.child.poll()) is not None:
                process.child = None
                self._exited(run, process, code)

    def _hear_connection(self, run: _Run, fd: int) -> None:
        control, process = run.connections[fd]
        try:
            messages = control.receive()
        except TransportError as error:
            log.warning("a connection of run %s was refused: %s", run.identity, error)
            messages = []
        is_fork_server = run.fork_server is not None and control is run.fork_server.control
        for message in messages:
            if is_fork_server:
                self._hear_fork_server(run, message)
                continue
            if process is None:
                process = run.processes.get(str(message.get("process")))
                if process is None or message.get("incarnation") != process.incarnation:
                    control.close()  # an old instance that comes late
                    break
                process.control = control
                run.connections[fd] = (control, process)
            del message["fds"]
            if message["op"] != "log":
                self._report(run)  # what it says may rest on its counters
            self.server.send(
                self._caller, "from", process=process.name, incarnation=process.incarnation,
                message=message,
            )  # fmt: skip
        if not control.open:
            del run.connections[fd]
            control.close()
            if is_fork_server:
                self._cut("the fork server of this host died")

    def _hear_fork_server(self, run: _Run, message: Message) -> None:
        if message["op"] == "forked":
            process = run.processes.get(message["process"])
            if process is not None and process.incarnation == message["incarnation"]:
                process.pid = message["pid"]
        elif message["op"] == "exited":
            for process in list(run.processes.values()):
                if process.pid == message["pid"]:
                    self._exited(run, process, message["code"])

    def _exited(self, run: _Run, process: _Process, code: int) -> None:
        for fd, (_control, owner) in list(run.connections.items()):
            if owner is process and fd in run.connections:
                self._hear_connection(run, fd)  # its last words
        for fd, (control, owner) in list(run.connections.items()):
            if owner is process:
                del run.connections[fd]
                control.close()
        self._report(run)
        del run.processes[process.name]
        self.server.send(
            self._caller, "exited", process=process.name, incarnation=process.incarnation, code=code
        )

    # --- watching -----------------------------------------------------------------------------

    def _watch(self, run: _Run, now: float) -> None:
        if self._here:
            if now - self._heard > SILENCE_S:
                self._cut(f"the supervisor has not been heard for {SILENCE_S:g} s")
            elif now >= self._next_report:
                self._next_report = now + REPORT_S
                self._report(run)
        elif now - self._heard > KEPT_S:
            log.warning("run %s: its supervisor did not come back", run.identity)
            self._end_run()

    def _report(self, run: _Run) -> None:
        """Send every process's counters, and what it uses."""
        boards = {
            name: (_whole(board), *_usage(process.pid))
            for name, board in run.boards.items()
            if (process := run.processes.get(name)) is not None
        }
        if boards:
            self.server.send(self._caller, "boards", boards=boards)

    def _cut(self, why: str) -> None:
        """The supervisor is gone: no process goes on without it. Memory stays for its return."""
        run = self._run
        self._here = False
        if run is not None:
            log.warning("run %s: %s; its processes here are killed", run.identity, why)
            run.kill()

    def _end_run(self) -> None:
        self._here = False
        if self._run is not None:
            self._run.end()
            self._run = None


def _whole(board: mmap.mmap) -> bytes:
    """A copy of a board that its process did not commit to meanwhile."""
    while True:
        data = board[:]
        if data[:8] == board[:8]:
            return data


def _usage(pid: int) -> tuple[float, float]:
    """CPU seconds and resident MiB of a process; zeros when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds, int(fields[21]) * resource.getpagesize() / 2**20
