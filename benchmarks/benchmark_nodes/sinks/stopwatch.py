"""How fast packets arrive, and what they cost the process they arrive in."""

from __future__ import annotations

import time
from typing import Any

from streamflow import In, Node, Packet, Settings, Tensor
from streamflow.node import Emissions


class StopwatchSettings(Settings, frozen=True, kw_only=True):
    """The first `skip` packets do not count."""

    skip: int = 1000


class Stopwatch(Node[StopwatchSettings]):
    """Counts packets. Results: the rest of the packets per second, CPU time of the process for each
    of them, and their latency since capture: median and 99th percentile (us).
    """

    data = In(Tensor)

    def open(self) -> None:
        self._latencies: list[int] = []
        self._began = self._ended = self._cpu_began = self._cpu_ended = 0
        self._seen = 0

    def on_data(self, packet: Packet[Tensor]) -> Emissions:
        now = time.monotonic_ns()
        self._seen += 1
        if self._seen == self.settings.skip:
            self._began, self._cpu_began = now, time.process_time_ns()
        elif self._seen > self.settings.skip:
            self._latencies.append(now - packet.captured)
            self._ended = now
        return None

    def finish(self) -> Emissions:
        self._cpu_ended = time.process_time_ns()
        return None

    def results(self) -> dict[str, Any]:
        latencies = sorted(self._latencies)
        count = len(latencies)
        return {
            "rate": count / (self._ended - self._began) * 1e9,
            "cpu_us": (self._cpu_ended - self._cpu_began) / count / 1e3,
            "p50": latencies[count // 2] / 1e3,
            "p99": latencies[99 * count // 100] / 1e3,
        }
