"""What is sent over an edge to measure it, and what its receiver notes.

Every path is given the same: a few messages to warm up, then paced ones (their latency counts:
nothing waits), then as many as the path takes (their rate counts), then one that says it is over.
Latency runs from the moment the sender has the data to the moment the receiver has read a byte of
every page, so memory that is only mapped late is paid for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

WARM, PACED, FAST, OVER = range(4)
PACE = {64: 0.001, 4096: 0.001, 65536: 0.001, 1 << 20: 0.004, 8 << 20: 0.02}  # s, as for the peers
SIZES = tuple(PACE)
PAGE = 4096
# an edge's memory at default geometry: after that many packets every slot has been touched once
SLOTS = 64 + 8 + 1


def messages(size: int, seconds: float) -> Iterator[int]:
    """The phases of one measurement, each when it is to be sent.

    `seconds` is how long the paced and the fast part take, each.
    """
    pace = PACE[size]
    for _ in range(10):
        yield WARM
        time.sleep(pace)
    for _ in range(max(20, int(seconds / pace))):
        yield PACED
        time.sleep(pace)
    end = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < end or sent < 2 * SLOTS:
        yield FAST
        sent += 1
    yield OVER


def payload(size: int) -> NDArray[np.uint8]:
    """The bytes that are sent, again and again: nobody changes them."""
    array = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    array.flags.writeable = False
    return array


def touch(array: NDArray[np.uint8]) -> int:
    """Read one byte of every page."""
    return int(array[::PAGE].sum()) if array.size > PAGE else 0


@dataclass
class Record:
    """What one receiver saw of one measurement."""

    latencies: list[int] = field(default_factory=list)  # ns
    fast: int = 0
    began: int = 0
    ended: int = 0

    def note(self, phase: int, sent: int, now: int) -> None:
        """A message of a phase that left at `sent` was read at `now` (monotonic ns)."""
        if phase == PACED:
            self.latencies.append(now - sent)
        elif phase == FAST:
            self.fast += 1
            if self.fast == SLOTS:
                self.began = now
            self.ended = now

    def summary(self) -> dict[str, Any]:
        """p50 and p99 in us, messages per second."""
        p50, p99 = np.percentile(self.latencies, [50, 99]) / 1e3
        rate = (self.fast - SLOTS) / (self.ended - self.began) * 1e9
        return {"p50": float(p50), "p99": float(p99), "rate": rate, "paced": len(self.latencies)}
