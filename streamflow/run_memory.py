"""Owns the shared memory of a run: boards, vaults, and the segments that packets lie in."""

from __future__ import annotations

import os

from .memory import Board, create, read_only, segment_bytes
from .metrics import Layout
from .plan import Plan
from .worker_plan import WorkerPlan, port_of

VAULT_BYTES = 1 << 30  # sparse: two snapshots of at most 512 MiB a process


class RunMemory:
    """The descriptors of all memory of a run that is on this host."""

    def __init__(self) -> None:
        self._boards: dict[str, int] = {}
        self._vaults: dict[str, int] = {}
        self._segments: dict[str, tuple[int, int]] = {}  # to write, and only to read

    def create_board(self, process: str, layout: Layout, *, near: bool) -> Board:
        """Make a process's board, and where it is `near` (on this host) its vault."""
        words, histograms = layout.words, len(layout.histograms)
        board = self._boards[process] = create(f"board:{process}", Board.size(words, histograms))
        if near:
            self._vaults[process] = create(f"vault:{process}", VAULT_BYTES)
        return Board(board, words, histograms=histograms, writable=True)

    def create_segments(self, plan: Plan) -> None:
        """Make the memory of every output on this host: it is where its producer is."""
        graph = plan.graph
        for segment in plan.segments:
            if graph.processes[graph.nodes[segment.node].process].host is None:
                name = port_of(segment)
                fd = create(name, segment_bytes(segment.slots, segment.slot_bytes))
                self._segments[name] = (fd, read_only(fd))

    def descriptors(self, process: str, plan: WorkerPlan) -> list[int]:
        """A worker's memory, in the order in which it takes it."""
        fds = [self._boards[process], self._vaults[process]]
        fds += [self._segments[port_of(output)][0] for output in plan.outputs]
        return fds + [self._segments[name][1] for name in plan.near]

    def close(self) -> None:
        """Let go of everything: what no process maps is gone."""
        readers_too = [fd for pair in self._segments.values() for fd in pair]
        for fd in [*self._boards.values(), *self._vaults.values(), *readers_too]:
            os.close(fd)
        for descriptors in (self._boards, self._vaults, self._segments):
            descriptors.clear()


def far_memory(
    process: str, layout: Layout, plan: WorkerPlan, whole: Plan
) -> list[tuple[str, int, bool]]:
    """As `descriptors`, on another host: names, bytes, and whether the worker writes to it."""
    board = Board.size(layout.words, len(layout.histograms))
    found = [(f"board:{process}", board, True), (f"vault:{process}", VAULT_BYTES, True)]
    sizes = {port_of(s): segment_bytes(s.slots, s.slot_bytes) for s in whole.segments}
    found += [(port_of(output), sizes[port_of(output)], True) for output in plan.outputs]
    return found + [(name, sizes[name], False) for name in plan.near]
