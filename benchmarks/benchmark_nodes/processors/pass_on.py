"""Hands packets on."""

from __future__ import annotations

import time

from streamflow import In, Node, Out, Packet, Settings, Tensor
from streamflow.node import Emissions


class PassOnSettings(Settings, frozen=True, kw_only=True):
    """With `stamp` a packet counts as captured here, so that latency is measured from here on."""

    stamp: bool = False


class PassOn(Node[PassOnSettings], stateless=True):
    """What came in goes out, the same array. Keeps no state."""

    data = In(Tensor)
    same = Out(Tensor)

    def on_data(self, packet: Packet[Tensor]) -> Emissions:
        captured = time.monotonic_ns() if self.settings.stamp else packet.captured
        yield self.same(packet.data, packet.start, packet.stop, captured)
