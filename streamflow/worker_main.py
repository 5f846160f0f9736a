"""The process around a worker: its name, signals, log and memory, and how it ends."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import signal
import sys
import traceback

from . import __version__
from .control import PROTOCOL, Control, Message
from .errors import NodeError, StreamflowError
from .sockets import Poll
from .text import cause
from .worker import Stopped, Worker


def main(path: str, process: str, incarnation: int, parent: int) -> int:
    """Run one process of a graph; returns its exit code."""
    die_with_parent(parent)
    _prctl(15, process.encode()[:15])  # PR_SET_NAME: what ps and top call it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the supervisor decides how the run ends
    _keep_memory()
    control = Control.connect(path)
    control.send(
        "hello", process=process, pid=os.getpid(), incarnation=incarnation, protocol=PROTOCOL,
        version=__version__, python=platform.python_version(),
    )  # fmt: skip
    handler = _Forward(control, process)
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(message)s", force=True)
    worker: Worker | None = None
    try:
        plan = _await_plan(control)
        worker = Worker(control, plan)
        worker.build()
        worker.open()
        worker.run()
    except Exception as error:
        _tell_failure(control, worker, error)
        if worker is not None:
            worker.abandon()
        return 1
    except Stopped:
        if worker is not None:
            worker.abandon()
        return 1
    return 0


def _await_plan(control: Control) -> Message:
    while control.open:
        control.socket.settimeout(None)
        poll = Poll()
        poll.add(control.fileno(), "control")
        poll.wait(None)
        for message in control.receive():
            if message["op"] == "plan":
                return message
    os._exit(1)


def _tell_failure(control: Control, worker: Worker | None, error: BaseException) -> None:
    node = error.node if isinstance(error, NodeError) else ""
    text = "".join(traceback.format_exception(error))
    if worker is not None:
        worker.show_last()
    what = str(error) if isinstance(error, StreamflowError) else cause(error)
    control.send("failed", node=node, error=what, traceback=text)


class _Forward(logging.Handler):
    """Log records go to the supervisor, which says them once, in one place."""

    def __init__(self, control: Control, process: str) -> None:
        super().__init__()
        self._control, self._process = control, process

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self._control.send(
            "log", level=record.levelno, logger=record.name, text=text, process=self._process
        )


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies. Only from a main thread."""
    _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)  # it died before the call


def _prctl(option: int, value: int | bytes) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value)


def _keep_memory() -> None:
    """Have the C library keep freed memory: a frame for each packet would else be mapped from the
    kernel, page by page, and given back every time. Other C libraries than glibc have no such call.
    """  # fmt: skip
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
