"""A node that fails on demand."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from streamflow import In, Node, Out, Packet, Settings, Table
from streamflow.node import Emission


class TroubleSettings(Settings, frozen=True, kw_only=True):
    """What goes wrong, and at which packet."""

    what: Literal[
        "none", "open", "handler", "finish", "close", "hang", "hang_open", "die", "out_of_order",
        "huge", "many", "die_once", "hang_in_second_open", "hang_after_yield", "slow_after_yield",
    ] = "none"  # fmt: skip
    at: int = 5
    marker: str = ""  # a file that says that it has happened once


def die_once(marker: Path) -> None:
    """Kill this process, unless that was done before."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Trouble(Node[TroubleSettings], stateless=True):
    """Passes packets on, until."""

    rows = In(Table)
    same = Out(Table)

    def open(self) -> None:
        self._fail("open")
        if self.settings.what == "hang_open":
            time.sleep(3600)
        if self.settings.what == "hang_in_second_open" and Path(self.settings.marker).exists():
            time.sleep(3600)

    def on_rows(self, packet: Packet[Table]) -> Iterator[Emission]:
        what = self.settings.what
        if packet.start // 1000 == self.settings.at:
            self._fail("handler")
            if what == "hang":
                time.sleep(3600)
            if what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if what in ("die_once", "hang_in_second_open"):
                die_once(Path(self.settings.marker))
            if what == "out_of_order":
                yield self.same(packet.data, packet.start - 5000, packet.stop)
            if what == "huge":
                rows = packet.data.array.repeat(1 << 20)
                yield self.same(Table(rows), packet.start, packet.stop)
            if what == "many":
                for _ in range(1000):
                    yield self.same(packet.data, packet.start, packet.stop)
        yield self.same(packet.data, packet.start, packet.stop)
        if packet.start // 1000 == self.settings.at:
            if what == "hang_after_yield":
                time.sleep(3600)
            if what == "slow_after_yield":
                time.sleep(5)

    def finish(self) -> None:
        self._fail("finish")

    def close(self) -> None:
        self._fail("close")

    def _fail(self, where: str) -> None:
        if self.settings.what == where:
            raise ValueError(f"trouble in {where}")
