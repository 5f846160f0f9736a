"""When decisions arrive, and how old what they rest on is."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from streamflow import In, Node, Packet, Settings, Table
from streamflow.node import Emissions


class DecisionLogSettings(Settings, frozen=True, kw_only=True):
    """A decision counts as missed when it comes more than `deadline_us` after its data."""

    deadline_us: float = 4000.0


class DecisionLog(Node[DecisionLogSettings]):
    """Notes each decision's latency: from when the newest data it needed was captured (a paced
    source: released) until it is here. Results: percentiles (us), how many were late, and when
    the first one came (monotonic ns).
    """

    rows = In(Table)

    def open(self) -> None:
        self._latencies: list[int] = []
        self._first = 0

    def on_rows(self, packet: Packet[Table]) -> Emissions:
        now = time.monotonic_ns()
        self._first = self._first or now
        self._latencies.append(now - packet.captured)
        return None

    def results(self) -> dict[str, Any]:
        if not self._latencies:
            return {"count": 0}
        us = np.array(self._latencies) / 1e3
        p50, p99, p999 = np.percentile(us, [50, 99, 99.9]).tolist()
        missed = int((us > self.settings.deadline_us).sum())
        return {
            "count": len(us), "p50": p50, "p99": p99, "p999": p999, "max": float(us.max()),
            "missed": missed, "first_ns": self._first,
        }  # fmt: skip
