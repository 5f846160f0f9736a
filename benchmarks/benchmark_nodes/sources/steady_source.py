"""A device that delivers at a steady rate, whatever becomes of what it delivers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow import Node, Out, Settings, Tensor
from streamflow.node import Emission, Positive, Seconds

from .._times import Times


class SteadySourceSettings(Settings, frozen=True, kw_only=True):
    """A packet of `size` bytes every `period`, for `seconds` of this machine's time."""

    period: Seconds = 0.001
    seconds: Seconds = 10.0
    size: Positive = 65536


class SteadySource(Node[SteadySourceSettings]):
    """One packet a period, by the machine's clock; what is not made a second after the end of its
    time is not made at all. Results: how many, and how far behind its own schedule the source was
    when it could yield them (ms): a source that is held up is late.
    """  # fmt: skip

    data = Out(Tensor)

    def open(self) -> None:
        self._late = Times()

    def produce(self) -> Iterator[Emission]:
        period = round(self.settings.period * 1e9)
        began = time.monotonic_ns()
        for number in range(round(self.settings.seconds / self.settings.period)):
            due = began + number * period
            if (early := due - time.monotonic_ns()) > 0:
                time.sleep(early / 1e9)
            now = time.monotonic_ns()
            if self.clock.stopped or now - began > (self.settings.seconds + 1) * 1e9:
                return
            self._late.add(now - due)
            array = np.full(self.settings.size, number % 256, np.uint8)
            start = number * period // 1000
            yield self.data(Tensor(array, ("byte",)), start, start + period // 1000, captured=now)

    def results(self) -> dict[str, Any]:
        return {"count": self._late.count, "late_p99_ms": self._late.percentile(99)}
