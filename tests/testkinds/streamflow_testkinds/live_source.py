"""A source that cannot go back."""

import os
import time
from collections.abc import Iterator

import numpy as np

from streamflow import Node, Out, Settings, Table
from streamflow.node import Emission

from .number_source import ROW


class LiveSourceSettings(Settings, frozen=True, kw_only=True):
    """How many packets, s between them, and whether the device's clock begins again with it."""

    count: int = 1000
    delay: float = 0.001
    begins_again: bool = False


class LiveSource(Node[LiveSourceSettings]):
    """One row a packet: `n` counts from 0 in every process, `t` is the process that made it."""

    rows = Out(Table)

    def produce(self) -> Iterator[Emission]:
        for n in range(self.settings.count):
            if self.clock._stopped.wait(self.settings.delay):
                return
            start = 1000 * n if self.settings.begins_again else time.monotonic_ns() // 1000
            yield self.rows(Table(np.array([(n, os.getpid())], ROW)), start, start)
