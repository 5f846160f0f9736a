"""Makes workers by forking: a worker is ready in milliseconds and shares most of its memory.

The fork server is a small process without threads and without ZeroMQ. It loads what every worker
needs and compiles one dummy kernel, so that the compiler is warm in every child. It also stands
guard: when the supervisor dies, it kills the workers and removes the run's folder.

Once the run has started, it loads what the successors of restartable processes will need, piece by
piece while it has nothing else to do: the modules of their kinds, and their kernels out of Numba's
cache. Only of packages whose `__init__` says `FORK_SAFE = True`: importing any of their modules
starts no thread, because a fork with threads may copy a lock that nobody will ever release.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .compilation import kernels_loaded, load_compiled
from .control import Control
from .kinds import kinds, load_class
from .worker_main import main as worker_main

PRELOAD = ("numpy", "numba", "zmq", "msgspec", "logging")


def preload() -> None:
    """Import the heavy modules and compile a kernel that nobody calls."""
    for module in PRELOAD:
        __import__(module)
    import numba

    numba.njit(_dummy)(1.0)
    gc.collect()
    gc.freeze()  # what is here now is shared by all children: do not touch it


def _dummy(x):  # type: ignore[no-untyped-def]  # Numba finds the types
    return x + 1.0


def load_for_successors(wanted: Sequence[str]) -> Iterator[None]:
    """Load what nodes of these kinds need before they open; each step is short.

    RuntimeError when a module started a thread: what else it would load is better not loaded.
    """
    known = kinds()
    for kind in wanted:
        file = known[kind]
        if getattr(importlib.import_module(file.package), "FORK_SAFE", False):
            load_class(kind, file)
            if len(os.listdir("/proc/self/task")) > 1:
                raise RuntimeError(
                    f"importing {file.module} starts a thread, though package {file.package} "
                    "says FORK_SAFE = True; expected imports without threads: start it in open()"
                )
            yield
    for kernel in list(kernels_loaded()):
        yield from load_compiled(kernel)
    gc.collect()
    gc.freeze()


class ForkServer:
    """Forks on demand, reports deaths, and kills everyone when the supervisor is gone."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.directory: Path | None = None
        self.children: set[int] = set()
        self._loading: Iterator[None] | None = None
        self._dismissed = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        """Serve until the supervisor closes the connection."""
        signal.set_wakeup_fd(self._wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()  # not select(): it takes no descriptor above 1023
        for fd in (self.control.fileno(), self._wake_read):
            poll.register(fd, select.POLLIN)
        self.control.send("preloaded", pid=os.getpid())
        while self.control.open:
            # the milliseconds only bound how long a lost SIGCHLD could go unnoticed
            poll.poll(5000 if self._loading is None else 0)
            self._drain_wake()
            self._reap()
            for message in self.control.receive():
                if message["op"] == "serve":
                    self.directory = Path(message["directory"])
                elif message["op"] == "fork":
                    self._fork(message["process"], message["incarnation"], message["path"])
                elif message["op"] == "load":
                    self._loading = load_for_successors(message["kinds"])
                elif message["op"] == "end":
                    self._dismissed = True
            self._load_more()
        self._kill_everyone()
        if not self._dismissed and self.directory is not None:
            # it was killed and left its folder; it may still be our parent: a dying process closes
            # its files first
            shutil.rmtree(self.directory, ignore_errors=True)

    def _load_more(self) -> None:
        if self._loading is None:
            return
        try:
            next(self._loading)
        except StopIteration:
            self._loading = None
            self.control.send("loaded", why="")
        except Exception as error:  # whatever a module does when it is imported: only slower then
            self._loading = None
            self.control.send("loaded", why=f"{type(error).__name__}: {error}")

    def _fork(self, process: str, incarnation: int, path: str) -> None:
        me = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self.control.socket.close()
                os.close(self._wake_read)
                os.close(self._wake_write)
                code = worker_main(path, process, incarnation, me)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        self.children.add(pid)
        self.control.send("forked", process=process, incarnation=incarnation, pid=pid)

    def _drain_wake(self) -> None:
        try:
            while os.read(self._wake_read, 512):
                pass
        except BlockingIOError:
            pass

    def _reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self.children.discard(pid)
            self.control.send("exited", pid=pid, code=os.waitstatus_to_exitcode(status))

    def _kill_everyone(self) -> None:
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        for pid in list(self.children):
            os.waitpid(pid, 0)


def main(fd: int, supervisor: int) -> None:
    """Run the fork server on the connection `fd`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if os.getppid() != supervisor:
        sys.exit(1)
    control = Control(socket.socket(fileno=fd))
    preload()
    ForkServer(control).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
