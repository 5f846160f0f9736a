"""Events of a coarser sensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from streamflow.node import Emission, In, Node, Out, Settings
from streamflow.packet import Events, Packet

from ..events.packets import no_words, pick, words_for
from ..kernels.downsample import shrink

Factor = Annotated[int, msgspec.Meta(ge=1, le=32767)]


class DownsampleSettings(Settings, frozen=True, kw_only=True):
    """How many pixels, each way, become one."""

    factor: Factor


class Downsample(Node[DownsampleSettings], stateless=True):
    """Every event, on a sensor coarser by `factor`: at (x // factor, y // factor).

    The new sensor has ceil(width / factor) x ceil(height / factor) pixels, so a last column or row
    may stand for fewer. Nothing is merged: a coarse pixel carries all events of its fine ones, each
    with its polarity; thin them with `refractory` where that is too much. Nothing is emitted for a
    packet without events. No state. Events outside the sensor are dropped and counted as
    `outside_sensor`.

        coarse: {kind: downsample, inputs: {events: camera.events}, settings: {factor: 10}}
    """

    events = In(Events)
    kept = Out(Events)
    faults = ("outside_sensor",)

    def open(self) -> None:
        shrink(no_words(), (1, 1), self.settings.factor, words_for(0))

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        factor, width, height = self.settings.factor, packet.data.width, packet.data.height
        coarse = (-(-width // factor), -(-height // factor))
        return pick(self, self.kept, packet, coarse, shrink, (width, height), factor)
