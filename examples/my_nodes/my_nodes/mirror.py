"""`mirror`: events as a mirror shows them."""

from collections.abc import Iterator
from typing import Literal

from streamflow import Events, In, Node, Out, Packet, Settings
from streamflow.node import Emission


class MirrorSettings(Settings, frozen=True, kw_only=True):
    """`axis` is the coordinate that is turned round: `x` swaps left and right."""

    axis: Literal["x", "y"] = "x"


class Mirror(Node[MirrorSettings], stateless=True):
    """Every event at its mirror image; nothing for a packet without events. Keeps no state."""

    events = In(Events)
    mirrored = Out(Events)

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        data, axis = packet.data, self.settings.axis
        if len(data):
            array = data.array.copy()  # what comes in is read-only
            array[axis] = (data.width if axis == "x" else data.height) - 1 - array[axis]
            yield self.mirrored(Events(array, data.width, data.height), packet.start, packet.stop)
