"""Which particles may be sorted, and when: rules and clocks, without threads, devices or files.

Times here are integer nanoseconds of one clock: the machine's, or stream time in a dry run. A
particle arrives at the sorting point at its *arrival*; the pulse that would sort it is on in
`[arrival - width / 2, arrival + width / 2)`.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from typing import Any, Literal, NamedTuple

Mode = Literal["purity", "yield", "single"]

PULSED, MERGED = "pulsed", "merged_pulse"
LATE, COINCIDENCE, OVERLAP, DEAD_TIME = "late", "coincidence", "overlap", "dead_time"


class Rules(NamedTuple):
    """What a pulse may do to the particles around it, and what the actuator can do. Times in ns."""

    mode: Mode
    """`yield` ignores neighbours. `purity` refuses a pulse when a particle that is not to be sorted
    arrives within it; `single` when any other particle does."""
    width: int
    """How long a pulse is on."""
    guard: int = 0
    """How far on both sides of the pulse neighbours count, too."""
    dead_time: int = 0
    """How long after a pulse the actuator cannot begin another one."""
    tolerance: int = 0
    """How long after its planned start a pulse may still begin."""
    merges: bool = True
    """Whether a pulse that begins while another is on prolongs it; otherwise it is refused. In mode
    `single` it is always refused."""


class Candidate(NamedTuple):
    """A particle to be sorted. Ordered by when it is decided on."""

    ready: int
    """When it is decided on: at its planned start, or when it became known if that was later."""
    start: int
    number: int
    """The particle's row, counted from 0: no two candidates have the same."""
    arrival: int
    time_us: float
    name: str


class Sorter:
    """Decides on candidates one after the other, each with all that is known when it is ready."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._pending: list[Candidate] = []
        self._everyone: list[int] = []  # arrivals in order: of all particles,
        self._unwanted: list[int] = []  # and of those that are not to be sorted
        self.on_until: int | None = None
        """When the last pulse is to end; None before the first."""
        self._off_at = 0  # when it did

    def see(self, arrival: int, now: int, *, is_wanted: bool) -> None:
        """Take note of a particle: others may be too near to it."""
        self._forget(now)
        insort(self._everyone, arrival)
        if not is_wanted:
            insort(self._unwanted, arrival)

    def add(self, number: int, arrival: int, now: int, time_us: float, name: str) -> Candidate:
        """Have a particle that was seen sorted."""
        start = arrival - self.rules.width // 2
        candidate = Candidate(max(start, now), start, number, arrival, time_us, name)
        heapq.heappush(self._pending, candidate)
        return candidate

    @property
    def head(self) -> Candidate | None:
        """The candidate to decide on next."""
        return self._pending[0] if self._pending else None

    def pop(self) -> Candidate:
        """Take the candidate to decide on next. IndexError when there is none."""
        return heapq.heappop(self._pending)

    def remove_before(self, time: int) -> list[Candidate]:
        """Take out the candidates that were planned to start before `time`."""
        passed = [candidate for candidate in self._pending if candidate.start < time]
        self._pending = [candidate for candidate in self._pending if candidate.start >= time]
        heapq.heapify(self._pending)
        return sorted(passed)

    def judge(self, candidate: Candidate, now: int) -> str:
        """`PULSED`, `MERGED` (a pulse that is on goes on for it), or why there is none.

        Decides nothing for others; `fire` says that the pulse was made. `now` never decreases, here
        and in `see`.
        """
        rules, start = self.rules, candidate.start
        if now > start + rules.tolerance:
            return LATE
        self._forget(now)
        first, last = start - rules.guard, start + rules.width + rules.guard
        if rules.mode == "purity" and _count(self._unwanted, first, last):
            return COINCIDENCE
        if rules.mode == "single" and _count(self._everyone, first, last) > 1:
            return COINCIDENCE
        if self.on_until is None:
            return PULSED
        if candidate.ready <= self.on_until:  # then it is on still, however late it is now
            return MERGED if rules.merges and rules.mode != "single" else OVERLAP
        return DEAD_TIME if now < self._off_at + rules.dead_time else PULSED

    def fire(self, candidate: Candidate) -> None:
        """The pulse for `candidate` was made, or the one that is on goes on for it."""
        stop = candidate.start + self.rules.width
        self.on_until = stop if self.on_until is None else max(self.on_until, stop)
        self._off_at = self.on_until

    def end(self, now: int) -> None:
        """The pulse ended at `now`, which may be later than planned: the dead time begins."""
        self._off_at = max(self._off_at, now)

    def snapshot(self) -> list[Any]:
        """The whole state, as plain values."""
        pending = [list(candidate) for candidate in self._pending]
        return [pending, list(self._everyone), list(self._unwanted), self.on_until, self._off_at]

    def restore(self, state: list[Any]) -> None:
        """Take back what `snapshot` gave."""
        pending, self._everyone, self._unwanted, self.on_until, self._off_at = state
        self._pending = [Candidate(*fields) for fields in pending]

    def _forget(self, now: int) -> None:
        """Drop the arrivals that only a candidate which is late by now could be too near to."""
        time = now - self.rules.tolerance - self.rules.guard
        for arrivals in (self._everyone, self._unwanted):
            del arrivals[: bisect_left(arrivals, time)]


def _count(arrivals: list[int], first: int, last: int) -> int:
    """How many lie in [first, last]."""
    return bisect_right(arrivals, last) - bisect_left(arrivals, first)


class StreamClock:
    """Stream time as the machine's monotonic clock shows it, from packets of a source.

    A packet that ends at stream time s and was captured at c says that the machine's clock was at
    most c at s: the way to us only ever adds. So the offset between the clocks is the least of what
    the packets say, but for how far the clocks can have drifted apart since:

        offset = min(c - s / speed, offset + `DRIFT` * (c - c of the packet before))
        monotonic(t) = t / speed + offset

    The idea of the least delay is that of Moon, Skelly and Towsley (1999), "Estimation and removal
    of clock skew from network delay measurements". The bound on drift keeps a source that falls
    behind for a while, so that all its packets are late, from moving the clock with it. What
    remains is the shortest delay of the source, which the drop delay is calibrated with.
    """

    DRIFT = 200e-6
    """Twice what two crystal oscillators usually differ by."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self.seen = 0
        self._first = self._offset = self._captured = 0

    def see(self, stream_us: int, captured: int) -> None:
        """Learn from a packet that ends at `stream_us` and was captured at `captured` (ns)."""
        said = captured - self._scaled(stream_us)
        if self.seen:
            allowed = self._offset + math.ceil(self.DRIFT * max(0, captured - self._captured))
            self._offset = min(said, allowed)
        else:
            self._first = self._offset = said
        self._captured = captured
        self.seen += 1

    def at(self, stream_us: float) -> int:
        """When the machine's clock shows (ns) what is `stream_us` for the sensor."""
        return self._offset + self._scaled(stream_us)

    @property
    def drift(self) -> int:
        """How far (ns) the machine's clock has gained on the sensor's since the first packet."""
        return self._offset - self._first

    def snapshot(self) -> list[int]:
        """The whole state."""
        return [self.seen, self._first, self._offset, self._captured]

    def restore(self, state: list[int]) -> None:
        """Take back what `snapshot` gave."""
        self.seen, self._first, self._offset, self._captured = state

    def _scaled(self, stream_us: float) -> int:
        return round(stream_us * 1000 / self.speed)


def travel_time(distance: float, velocity: float) -> float | None:
    """Seconds that a particle takes over `distance` (m) at `velocity` (m/s); None if it never
    arrives.
    """
    if not math.isfinite(velocity) or velocity <= 0:
        return None
    seconds = distance / velocity
    return seconds if math.isfinite(seconds) else None
