"""Lets pass the packets that hold enough events."""

from __future__ import annotations

from collections.abc import Iterator

from streamflow.node import Emission, In, Node, Out, Positive, Settings
from streamflow.packet import Events, Packet


class MinimumEventsSettings(Settings, frozen=True, kw_only=True):
    """How many events are enough."""

    events: Positive


class MinimumEvents(Node[MinimumEventsSettings], stateless=True):
    """Packets with at least `events` events, as they come; the others are left out.

    Put it behind `window`: what a packet is must not depend on how a recording was read. Selecting
    windows by their number of events is how Abreu, Gouda, Lugnan and Bienstman (2023), "Flow
    cytometry with event-based vision and spiking neuromorphic hardware", tell particles from none
    (1,000 events in 1 ms). How many packets came and went is in the run report. State: none.

        kept: {kind: minimum_events, inputs: {windows: bins.windows}, settings: {events: 1000}}
    """

    windows = In(Events)
    kept = Out(Events)

    def on_windows(self, packet: Packet[Events]) -> Iterator[Emission]:
        if len(packet.data) >= self.settings.events:
            yield self.kept(packet.data, packet.start, packet.stop)
