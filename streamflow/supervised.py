"""What the supervisor knows of each process, and of each edge between two of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import Any, Literal

from .control import Control, Message
from .errors import StreamflowError
from .graph import Graph, ProcessSpec
from .memory import Board
from .metrics import VERBS, Layout
from .network import Security
from .plan import EdgePlan
from .remote import Remote, RemoteControl

Phase = Literal["starting", "ready", "running", "finished", "closed", "waiting", "dead"]


class Failed(StreamflowError):
    """The run cannot go on; the text is what the user is told."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class Process:
    """What the supervisor knows of one process."""

    def __init__(self, spec: ProcessSpec, layout: Layout, graph: Graph) -> None:
        self.spec, self.layout = spec, layout
        self.name = spec.name
        self.phase: Phase = "waiting"
        self.incarnation = 0
        self.pid = 0
        self.control: Control | RemoteControl | None = None
        self.remote: Remote | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self.board: Board
        self.final: list[int] | None = None  # the board's words when the run was over
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
        self._inputs = {
            name: [edge.input for edge in graph.nodes[name].inputs] for name in spec.nodes
        }

    def words(self) -> list[int]:
        """Its counters, laid out as `layout` says, as of its last commit."""
        return self.final or self.board.read()

    def busy(self) -> tuple[str, float] | None:
        """What it is in the middle of, and for how many seconds."""
        board = self.board
        since = board.now(Board.SINCE)
        if since == 0:
            return None
        index, port = board.now(Board.NODE) - 1, board.now(Board.PORT)
        if not 0 <= index < len(self.spec.nodes):
            return None
        name = self.spec.nodes[index]
        inputs = self._inputs[name]
        if not -len(VERBS) <= port < len(inputs):
            return None
        verb = f"on_{inputs[port]}" if port >= 0 else VERBS[-1 - port]
        ahead = self.remote.ahead_ns if self.remote is not None else 0
        return f"node {name!r} ({verb})", (time.monotonic_ns() + ahead - since) / 1e9

    def cause(self, code: int) -> str:
        """What it died of, ending with `code`."""
        if self.failure is not None:
            return str(self.failure["error"])
        nodes = ", ".join(self.spec.nodes)
        busy = self.busy()
        while_in = f" while in {busy[0]}" if busy else ""
        if code < 0:
            killer = signal.Signals(-code).name
            return f"process {self.name!r} ({nodes}) was killed by {killer}{while_in}"
        return f"process {self.name!r} ({nodes}) ended with code {code}{while_in}"

    def kill(self, why: str) -> None:
        """End it, as it cannot be worked with; its restart policy says what follows."""
        self.failure = {"error": why, "traceback": ""}
        if self.remote is not None:
            self.remote.send("kill", process=self.name)
        elif self.pid:
            with contextlib.suppress(ProcessLookupError):  # it died meanwhile
                os.kill(self.pid, signal.SIGKILL)


class Edge:
    """A shared edge and its present connection."""

    def __init__(self, plan: EdgePlan, producer: Process, consumer: Process) -> None:
        self.name, self.plan = plan.spec.name, plan
        self.producer, self.consumer = producer, consumer
        self.generation = 0
        self.linked = self.greeted = False
        self.linked_at = 0.0
        self.security: tuple[Security, Security] | None = None  # of the consumer's end
