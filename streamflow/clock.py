"""When a source may let stream time pass.

`fast` never waits. `paced` replays a recording at the speed it was made (times `speed`). `realtime`
is for devices: their data comes when it comes, and stream time follows the machine's clock.
"""

from __future__ import annotations

import threading
import time
from typing import Literal

Pace = Literal["realtime", "paced", "fast"]


class Clock:
    """Stream time for one process. `wait_until(t)` returns when stream time `t` (us) has come."""

    def __init__(self, pace: Pace = "fast", speed: float = 1.0) -> None:
        self.pace, self.speed = pace, speed
        self._origin: tuple[int, int] | None = None  # (stream us, monotonic ns) of the first wait
        self._stopped = threading.Event()

    def wait_until(self, stream_us: int) -> bool:
        """Sleep until `stream_us` has come; False when the run was stopped meanwhile.

        The first call fixes the origin: its stream time is now. A caller that is late is not
        delayed further, so a paced replay keeps its average speed.
        """
        if self.pace != "paced":
            return not self._stopped.is_set()
        if self._origin is None:
            self._origin = (stream_us, time.monotonic_ns())
        stream0, wall0 = self._origin
        due = wall0 + int((stream_us - stream0) * 1000 / self.speed)
        while (left := due - time.monotonic_ns()) > 0:
            if self._stopped.wait(left / 1e9):
                return False
        return not self._stopped.is_set()

    def now(self) -> int:
        """Stream time of a live source: microseconds since its first call, by this machine."""
        now = time.monotonic_ns()
        if self._origin is None:
            self._origin = (0, now)
        return self._origin[0] + (now - self._origin[1]) // 1000

    def stop(self) -> None:
        """Wake every waiter: the run is over."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """True once the run was asked to end: a source should return."""
        return self._stopped.is_set()
