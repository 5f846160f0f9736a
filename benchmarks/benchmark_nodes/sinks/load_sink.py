"""Notes what arrives of a `load_source`."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from streamflow import In, Node, Packet, Settings, Tensor
from streamflow.node import Emissions

from .._load import Record, touch


class LoadSink(Node[Settings]):
    """Touches every page of every packet and notes when it had done so. Results: by size."""

    data = In(Tensor)

    def open(self) -> None:
        self._records: dict[int, Record] = defaultdict(Record)

    def on_data(self, packet: Packet[Tensor]) -> Emissions:
        array = packet.data.array
        touch(array)
        now = time.monotonic_ns()
        self._records[array.size].note(packet.stop - packet.start - 1, packet.captured, now)
        return None

    def results(self) -> dict[str, Any]:
        return {str(size): record.summary() for size, record in self._records.items()}
