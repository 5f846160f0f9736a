"""Runs a live source in a thread of its own, as a run does, and waits for what it gives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

LIMIT = 20.0  # s that anything which must come may take
Rows = list[tuple[int, int, int, int]]  # time (us), x, y, polarity


class Live:
    """An open source whose packets are taken as they come."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.packets: list[Any] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for emission in self.node.produce():
                self.packets.append(emission.packet)
        except BaseException as error:
            self.error = error

    def wait(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not what():
            assert self.error is None, self.error
            assert time.monotonic() < end, "it never came"
            time.sleep(0.001)

    def join(self) -> None:
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        self.node.clock.stop()
        self.join()
        self.node.close()
        assert self.error is None, self.error

    @property
    def rows(self) -> Rows:
        packets = list(self.packets)
        return [tuple(row) for packet in packets for row in packet.data.array.tolist()]

    @property
    def faults(self) -> dict[str, int]:
        """Those that were counted."""
        return {name: times for name, times in self.node.fault_counts.items() if times}

    def check_time(self) -> None:
        """Packets follow each other and hold their own events, in order."""
        assert all(a.stop <= b.start for a, b in pairwise(self.packets))
        for packet in self.packets:
            times = packet.data.array["timestamp"]
            assert np.all((times >= packet.start) & (times < packet.stop))
            assert np.all(times[1:] >= times[:-1])
