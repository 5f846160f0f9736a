"""Many times in little memory, which would otherwise be what a look at memory finds growing."""

from __future__ import annotations

import numpy as np

STEP_NS = 100_000
BINS = 100_000


class Times:
    """Counts of times (ns) in steps of 0.1 ms up to 10 s, where the last step has all beyond."""

    def __init__(self) -> None:
        self._counts = np.ones(BINS, np.int64)  # ones: every page is touched before it matters
        self.count = 0

    def add(self, time_ns: int) -> None:
        """Count one."""
        self._counts[min(max(0, time_ns) // STEP_NS, BINS - 1)] += 1
        self.count += 1

    def percentile(self, share: float) -> float:
        """The time (ms) that `share` per cent of them do not exceed, to 0.1 ms."""
        upto = np.cumsum(self._counts - 1)
        step = int(np.searchsorted(upto, share / 100 * self.count))
        return (step + 1) * STEP_NS / 1e6
