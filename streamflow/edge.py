"""Edges as pure logic: no sockets, no processes, no clocks."""

from __future__ import annotations

from collections import deque
from typing import Any

ENDED = 1 << 62  # the watermark of an input that has ended: later than any stream time
NEVER = -(1 << 62)  # the watermark of an input that has said nothing yet


class InputOrder:
    """Hands a node's inputs over in (stream time, port order), whatever order they arrived in.

    A packet may go when no other port can still bring one that sorts before it, which the ports'
    watermarks tell: a watermark `w` promises that every later packet starts at or after `w`.
    """

    def __init__(self, ports: int) -> None:
        self._queues: list[deque[tuple[int, Any]]] = [deque() for _ in range(ports)]
        self._watermarks = [NEVER] * ports

    def push(self, port: int, start: int, item: Any) -> None:
        """A packet that starts at `start` has arrived on `port`."""
        self._queues[port].append((start, item))

    def advance(self, port: int, watermark: int) -> None:
        """Nothing that starts before `watermark` will arrive on `port` any more."""
        if watermark > self._watermarks[port]:
            self._watermarks[port] = watermark

    def end(self, port: int) -> None:
        """Nothing more will arrive on `port`."""
        self._watermarks[port] = ENDED

    def pop(self) -> tuple[int, Any] | None:
        """The next (port, item) in order, or None while it must still wait."""
        if len(self._queues) == 1:
            return (0, self._queues[0].popleft()[1]) if self._queues[0] else None
        best = -1
        for port, queue in enumerate(self._queues):
            if queue and (best < 0 or queue[0][0] < self._queues[best][0][0]):
                best = port
        if best < 0:
            return None
        start = self._queues[best][0][0]
        for port, queue in enumerate(self._queues):
            if port != best and not queue and (self._watermarks[port], port) < (start, best):
                return None
        return best, self._queues[best].popleft()[1]

    def waiting(self, port: int) -> int:
        """Packets of `port` that have arrived and not been handed over."""
        return len(self._queues[port])

    @property
    def time(self) -> int:
        """Stream time before which everything has been handed over."""
        return min(
            queue[0][0] if queue else watermark
            for queue, watermark in zip(self._queues, self._watermarks, strict=True)
        )

    @property
    def ended(self) -> bool:
        """Every port has ended and nothing waits."""
        return self.time == ENDED
