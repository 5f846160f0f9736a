"""Packets in blocks, with the accounting in and out by turns."""

from __future__ import annotations

import time
from typing import Any

from streamflow import Node, Out, Settings, Tensor
from streamflow.node import Emissions, Positive

from .._accounting import Accounting
from .._load import payload

MARK = 2  # a block is led by a packet of that span (us); the others span 1


class AccountedSourceSettings(Settings, frozen=True, kw_only=True):
    """`pairs` of blocks, with and without accounting, of `packets` of `size` bytes each."""

    pairs: Positive
    packets: Positive
    size: Positive
    commits: bool = False


class AccountedSource(Node[AccountedSourceSettings]):
    """Each pair has a block with and one without, in turn first. Results: CPU us for each packet.

    A block begins when everything before it was acknowledged, so no ledger sees half a packet.
    """

    data = Out(Tensor)

    def open(self) -> None:
        self._used: dict[bool, list[float]] = {True: [], False: []}

    def produce(self) -> Emissions:
        s = self.settings
        accounting = Accounting(commits=s.commits)
        array = payload(s.size)
        start = 0
        for pair in range(s.pairs):
            for on in (True, False) if pair % 2 == 0 else (False, True):
                accounting.count(on)
                yield self.data(Tensor(array[:16], ("byte",)), start, start + MARK)
                start += MARK
                self._wait(accounting)
                began = time.process_time_ns()
                for _ in range(s.packets):
                    yield self.data(Tensor(array, ("byte",)), start, start + 1)
                    start += 1
                self._wait(accounting)
                self._used[on].append((time.process_time_ns() - began) / s.packets / 1e3)
        accounting.count(True)

    def _wait(self, accounting: Accounting) -> None:
        time.sleep(0.005)  # what was yielded is not on the edge yet
        while not accounting.idle and not self.clock.stopped:
            time.sleep(0.002)
        time.sleep(0.005)

    def results(self) -> dict[str, Any]:
        return {"with": self._used[True], "without": self._used[False]}
