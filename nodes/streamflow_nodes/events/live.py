"""Live events in packets of stream time: what sources share whose data comes when it comes.

Stream time is the sender's time as long as it is sound. It never goes back: a camera that is
plugged in again, or a sender that began anew, goes on where stream time stands, moved by what this
machine's clock says has passed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.node import Node
from streamflow.packet import EVENT

from ..kernels import live_order as order
from ..kernels.event_order import slice_starts

EventWords = NDArray[np.int64]
Slice = tuple[int, int, NDArray[Any]]  # start, stop (us), (n,) of EVENT

LATE = 100_000  # us: an event further behind is not late, its time has another origin
SILENCE = 100_000  # us of silence after which stream time is told more coarsely,
COARSE = 10_000  # us: a hundred times a second
LIMIT = 1 << 20  # events (16 MiB) held for a slice; a time that stands still must not fill memory

# how keep_live counts, by the names that nodes give it
FAULTS = {
    "outside_sensor": order.OUTSIDE,
    "time_backward": order.BACKWARD,
    "time_jump": order.JUMPED,
    "time_restart": order.ADOPTED,
}


@dataclass(frozen=True)
class LiveLimits:
    """How live events are cut and judged; all times in microseconds."""

    duration: int
    """What a packet covers: [k duration, (k + 1) duration)."""
    longest: int
    """An event further ahead does not fit."""
    silence: int | None
    """After how much silence stream time goes on by this machine's clock; None: never."""
    drop_backward: bool = False
    wrap: int = 0
    """Bits of the sender's times; 0 where they do not wrap."""


class LiveStream:
    """Events as they arrive, given out in slices of stream time."""

    def __init__(self, node: Node[Any], limits: LiveLimits) -> None:
        self._node, self._limits = node, limits
        self._registers = order.new_registers()
        self._held: list[EventWords] = []  # in order, none before what was let pass
        self._passed: int | None = None  # stream time given out so far
        self._known, self._heard = 0, 0  # the sender's newest word: stream time, monotonic ns
        self._last = 0  # stream time of the newest event
        none, one = np.empty(0, np.int64), np.zeros(4, np.int64)
        order.keep_live(
            none, none, 1, 1, False, 1, 1, 0, order.new_registers(), np.zeros(4, np.int64)
        )
        slice_starts(none, 1, one)

    @property
    def begun(self) -> bool:
        """Whether there has been an event or a time."""
        return bool(self._registers[order.BEGUN])

    def now(self, now_ns: int) -> int:
        """The stream time (us) that this machine's clock makes it, from the newest time known."""
        return self._known + max(0, now_ns - self._heard) // 1000

    def renew(self, now_ns: int) -> None:
        """What comes next is of another origin of time, and begins at `now(now_ns)`."""
        registers = self._registers
        if self.begun:
            registers[order.BASE], registers[order.RENEW] = self.now(now_ns), 1
            registers[order.DOUBT] = 0

    def add(self, words: EventWords, groups: NDArray[np.int64], now_ns: int, size: Any) -> int:
        """Take events with the sender's times, in groups as they arrived; how many were kept.

        words : (2 n,) int64, fresh, changed
        groups : (m,) int64, each group's events, together n
        size : (width, height) of the sensor, pixels
        """
        registers, faults = self._registers, np.zeros(4, np.int64)
        if self.begun and not registers[order.RENEW]:
            follows = self._limits.silence is not None
            registers[order.BASE] = self.now(now_ns) if follows else registers[order.NEWEST]
        before = int(registers[order.NEWEST])
        kept = order.keep_live(
            words, groups, size[0], size[1], self._limits.drop_backward, LATE,
            self._limits.longest, self._limits.wrap, registers, faults,
        )  # fmt: skip
        for name, index in FAULTS.items():
            self._node.count_fault(name, int(faults[index]))
        if kept:
            # a copy where most was dropped: few events must not hold the memory of many
            whole = words[: 2 * kept]
            self._held.append(whole.copy() if 4 * kept < len(words) // 2 else whole)
            self._last = int(registers[order.NEWEST])
            if self._last > before:
                self._known, self._heard = self._last, now_ns
        return kept

    def reach(self, reached: int, now_ns: int) -> None:
        """The sender's clock stands at `reached` (us): nothing before it will come."""
        registers = self._registers
        if not self.begun or registers[order.RENEW]:
            return
        ahead = reached + int(registers[order.OFFSET]) - int(registers[order.NEWEST])
        if 0 < ahead <= self._limits.longest:
            registers[order.NEWEST] += ahead
            self._known, self._heard = int(registers[order.NEWEST]), now_ns

    def slices(self, now_ns: int) -> Iterator[Slice]:
        """What is complete: every slice that no event can still fall into; silence as one slice."""
        if not self.begun:
            return
        duration, newest = self._limits.duration, int(self._registers[order.NEWEST])
        limit = newest // duration * duration
        silence = self._limits.silence
        if silence is not None and now_ns - self._heard > 1000 * silence:
            limit = max(limit, (self.now(now_ns) - silence) // duration * duration)
        if sum(map(len, self._held)) > 2 * LIMIT:
            limit = (newest // duration + 1) * duration  # what still comes there is late
        if limit > (self._passed if self._passed is not None else limit - 1):
            yield from self._until(limit)

    def rest(self) -> Iterator[Slice]:
        """What is still held, at the end."""
        if self._held:
            duration = self._limits.duration
            last = int(self._held[-1][-2])
            yield from self._until((last // duration + 1) * duration)

    def _until(self, limit: int) -> Iterator[Slice]:
        """All slices up to stream time `limit` (us), a multiple of the duration."""
        duration = self._limits.duration
        words = self._take(limit)
        starts = np.empty(len(words) // 2, np.int64)
        count = slice_starts(words, duration, starts)
        for index in range(count):
            first = 2 * int(starts[index])
            stop_at = 2 * int(starts[index + 1]) if index + 1 < count else len(words)
            start = int(words[first]) // duration * duration
            yield from self._silence(start, 1)
            self._passed = start + duration
            yield start, start + duration, words[first:stop_at].view(EVENT)
        coarse = not count and limit - self._last > SILENCE
        yield from self._silence(limit, COARSE if coarse else 1)
        registers = self._registers
        if self._passed is not None:
            registers[order.NEWEST] = max(registers[order.NEWEST], self._passed)

    def _silence(self, until: int, least: int) -> Iterator[Slice]:
        """An empty slice up to `until` (us), unless it were shorter than `least`."""
        passed = self._passed
        if passed is None:
            self._passed = until
        elif until - passed >= least:
            self._passed = until
            yield passed, until, np.empty(0, EVENT)

    def _take(self, limit: int) -> EventWords:
        """The held events before `limit`, in one array; the others stay held."""
        held = self._held[0] if len(self._held) == 1 else np.concatenate(self._held or [_NONE])
        cut = 2 * int(np.searchsorted(held[::2], limit))
        self._held = [held[cut:]] if cut < len(held) else []
        return held[:cut]

    def snapshot(self) -> dict[str, Any]:
        """Where stream time stands; what is held is lost with the process."""
        passed = self._passed
        return {"registers": self._registers.copy(), "passed": -1 if passed is None else passed}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after what the predecessor gave out."""
        self._registers[:] = state["registers"]
        if self.begun:
            self._passed = self._known = self._last = int(state["passed"])
            self._registers[order.NEWEST] = self._passed
            self._heard = time.monotonic_ns()


_NONE = np.empty(0, np.int64)
