"""A source that has nothing to say."""

from __future__ import annotations

import time

from streamflow import Node, Out, Settings, Tensor
from streamflow.node import Emissions, Seconds


class SilentSourceSettings(Settings, frozen=True, kw_only=True):
    """How long it is silent."""

    seconds: Seconds


class SilentSource(Node[SilentSourceSettings]):
    """Emits nothing for `seconds`, then ends. Keeps no state."""

    data = Out(Tensor)

    def produce(self) -> Emissions:
        end = time.monotonic() + self.settings.seconds
        while time.monotonic() < end and not self.clock.stopped:
            time.sleep(min(0.5, self.settings.seconds))
        yield from ()
