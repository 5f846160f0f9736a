"""Notes how fast the blocks of an `accounted_source` arrive."""

from __future__ import annotations

import time
from typing import Any

from streamflow import In, Node, Packet, Settings, Tensor
from streamflow.node import Emissions

from .._accounting import Accounting
from .._load import SLOTS, touch
from ..sources.accounted_source import MARK


class AccountedSinkSettings(Settings, frozen=True, kw_only=True):
    """As the source's."""

    packets: int
    commits: bool = False


class AccountedSink(Node[AccountedSinkSettings]):
    """Touches every page. Results: packets a second and CPU us for each packet, of every block.

    The first packets of a block, as many as fill the edge, do not count.
    """

    data = In(Tensor)

    def open(self) -> None:
        self._accounting = Accounting(commits=self.settings.commits)
        self._rates: dict[bool, list[float]] = {True: [], False: []}
        self._used: dict[bool, list[float]] = {True: [], False: []}
        self._block = self._in_block = 0
        self._began = self._cpu = 0
        self._on = True

    def on_data(self, packet: Packet[Tensor]) -> Emissions:
        if packet.stop - packet.start == MARK:
            # blocks come as with, without, without, with, ...
            self._on = self._block % 4 in (0, 3)
            self._block += 1
            self._in_block = 0
            self._accounting.count(self._on)
            return None
        touch(packet.data.array)
        self._in_block += 1
        if self._in_block == SLOTS:
            self._began, self._cpu = time.monotonic_ns(), time.process_time_ns()
        elif self._in_block == self.settings.packets:
            count = self.settings.packets - SLOTS
            self._rates[self._on].append(count / (time.monotonic_ns() - self._began) * 1e9)
            self._used[self._on].append((time.process_time_ns() - self._cpu) / count / 1e3)
        return None

    def finish(self) -> Emissions:
        self._accounting.count(True)
        return None

    def results(self) -> dict[str, Any]:
        return {
            "rate_with": self._rates[True], "rate_without": self._rates[False],
            "with": self._used[True], "without": self._used[False],
        }  # fmt: skip
