"""Notices processes that hang or were stopped, and graphs that block themselves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from .memory import Board
from .plan import Plan
from .supervised import Failed, Process

STALL_S = 5.0  # every source blocked and nothing moves for this long: a deadlock
FROZEN_S = 3.0  # a worker's loop turns 5 times a second at least
STOPPED_S = 0.75  # the kernel says that a worker is stopped, at each look for this long
LOOK_S = 0.25  # between looks; what lasts is counted in them


class Watchdog:
    """Watches the processes of a run. Whoever hangs is killed; what cannot go on is Failed."""

    def __init__(
        self,
        plan: Plan,
        processes: Collection[Process],
        edges: Callable[[], dict[str, dict[str, Any]]],
    ) -> None:
        """`edges` gives the ledger of every edge."""
        self._plan, self._limits = plan, plan.graph.limits
        self._processes, self._edges = processes, edges
        self._moved = (0, 0.0)

    def start(self, now: float) -> None:
        """The sources begin."""
        self._moved = (0, now)

    def check_start(self, now: float, *, all_started: bool) -> None:
        """Those that are not ready in time: the run fails, or successors are killed."""
        limit = self._limits.start_seconds
        late = [p for p in self._processes if p.phase == "starting" and now - p.began > limit]
        if late and not all_started:
            busy = [f"{p.name} (in {b[0]})" if (b := p.busy()) else p.name for p in late]
            raise Failed(f"not ready after {limit:g} s: {', '.join(busy)} (limits: start_seconds)")
        for process in late:
            busy_in = process.busy()
            what = busy_in[0] if busy_in else f"the successor of process {process.name!r}"
            process.kill(f"{what} has not returned for {limit:g} s (limits: start_seconds)")

    def look(self) -> None:
        """Notice hanging nodes and processes, and what the processes use."""
        for process in self._processes:
            if process.pid and process.phase not in ("closed", "dead", "waiting"):
                _sample(process)
            if process.pid and process.stopped >= STOPPED_S:
                process.stopped = 0.0
                process.kill(
                    f"process {process.name!r} ({', '.join(process.spec.nodes)}) was stopped "
                    "(SIGSTOP), and nobody let it go on",
                )
            elif process.pid and process.phase in ("running", "finished"):
                busy = process.busy()
                limit = self._limits.handler_seconds
                if busy and busy[1] > limit:
                    process.kill(
                        f"{busy[0]} has not returned for {busy[1]:.1f} s (limits: handler_seconds)"
                    )
                elif _is_frozen(process):
                    nodes = ", ".join(process.spec.nodes)
                    process.kill(
                        f"process {process.name!r} ({nodes}) has not moved for {FROZEN_S:g} s, "
                        "though none of its nodes is busy: held by a debugger, or the machine is "
                        "out of memory or far too busy",
                    )

    def check_stall(self, now: float) -> None:
        """Every source blocked, nobody working, nothing moving: say which edges, and the way out.

        While a source waits for its device there is no deadlock: what it says may free the others.
        """
        boards = [process.board for process in self._processes]
        waits = [board.now(Board.WAITING) for board in boards]
        counts = self._edges()
        total = sum(edge["handled"] + edge["produced"] for edge in counts.values())
        still = (
            all(process.phase in ("running", "finished") for process in self._processes)
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
        for process in self._processes:
            wait = process.board.now(Board.WAITING)
            names = process.layout.fillable
            if 0 < wait <= len(names):
                full.append(names[wait - 1])
        lines = []
        for edge in self._plan.edges:
            count = counts[edge.spec.name]
            if edge.spec.name in full:
                waiting = max(count["waiting"], count["in_flight"])
                lines.append(f"{edge.spec.name} is full ({waiting} packets)")
        for node in self._plan.graph.nodes.values():
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


def _is_frozen(process: Process) -> bool:
    """Whether its loop has not turned for too long. Counted in looks, not by the clock: were
    this process stopped and continued, everyone else's heartbeat would look old.
    """  # fmt: skip
    heartbeat = process.board.now(Board.HEARTBEAT)
    if heartbeat != process.heartbeat or process.board.now(Board.SINCE):
        process.heartbeat, process.still = heartbeat, 0.0
    else:
        process.still += LOOK_S
    return process.still >= FROZEN_S


def _sample(process: Process) -> None:
    if process.remote is not None:
        return  # its host says what it uses
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        process.stopped = process.stopped + LOOK_S if fields[0] == "T" else 0.0
        ticks = os.sysconf("SC_CLK_TCK")
        process.cpu_s = process.cpu_before + (int(fields[11]) + int(fields[12])) / ticks
        rss = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        process.rss_peak_mib = max(process.rss_peak_mib, rss)
