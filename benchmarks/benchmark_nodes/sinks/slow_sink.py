"""A consumer that takes its time, and notes how old its packets have become."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec

from streamflow import In, Node, Packet, Settings, Tensor

from .._times import Times


class SlowSinkSettings(Settings, frozen=True, kw_only=True):
    """Each packet takes `seconds`."""

    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.01


class SlowSink(Node[SlowSinkSettings]):
    """Results: packets, how long one took (mean, ms), and their age since capture when they were
    done with: median and 90th percentile (ms).
    """  # fmt: skip

    data = In(Tensor)

    def open(self) -> None:
        self._ages = Times()
        self._took = 0

    def on_data(self, packet: Packet[Tensor]) -> None:
        began = time.monotonic_ns()
        if self.settings.seconds:
            time.sleep(self.settings.seconds)
        now = time.monotonic_ns()
        self._took += now - began
        self._ages.add(now - packet.captured)

    def results(self) -> dict[str, Any]:
        if not (count := self._ages.count):
            return {"count": 0}
        return {
            "count": count, "took": self._took / count / 1e6,
            "p50": self._ages.percentile(50), "p90": self._ages.percentile(90),
        }  # fmt: skip
