"""A sink that makes trouble where nothing should go wrong."""

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from streamflow import In, Node, Packet, Settings, Table

from .trouble import die_once


class AwkwardSettings(Settings, frozen=True, kw_only=True):
    """What goes wrong, and the file that says that it has happened once."""

    what: Literal["results", "snapshot", "state", "slow_snapshot", "close"] = "results"
    marker: str = ""


class Awkward(Node[AwkwardSettings]):
    """Counts packets."""

    rows = In(Table)

    def open(self) -> None:
        self.packets = 0

    def on_rows(self, packet: Packet[Table]) -> None:
        self.packets += 1

    def results(self) -> dict[str, Any]:
        packets: Any = np.int64(self.packets)
        return {"packets": packets if self.settings.what == "results" else self.packets}

    def close(self) -> None:
        if self.settings.what == "close":
            die_once(Path(self.settings.marker))

    def snapshot(self) -> dict[str, Any]:
        if self.settings.what == "snapshot":
            raise OSError("the disk is full")
        if self.settings.what == "slow_snapshot":
            time.sleep(3600)
        return {"packets": self.packets if self.settings.what != "state" else object()}

    def restore(self, state: dict[str, Any]) -> None:
        self.packets = state["packets"]
