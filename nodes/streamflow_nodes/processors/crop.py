"""Keeps a rectangle of the sensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from streamflow.errors import NodeError
from streamflow.node import Emission, In, Node, Out, Positive, Settings
from streamflow.packet import Events, Packet

from ..events.packets import Sensor, no_words, pick, words_for
from ..kernels.crop import keep_inside
from ..spans import span_of

Pixel = Annotated[int, msgspec.Meta(ge=0, le=32766)]


class CropSettings(Settings, frozen=True, kw_only=True):
    """The rectangle that is kept: columns [x, x + width), rows [y, y + height), in pixels."""

    x: Pixel = 0
    y: Pixel = 0
    width: Positive
    height: Positive


class Crop(Node[CropSettings], stateless=True):
    """The events inside a rectangle, which becomes the sensor: (x, y) of the corner is now (0, 0).

    Nothing is emitted for a packet without an event in the rectangle. No state. A rectangle that
    reaches over the sensor's edge is an error. Events outside the sensor are dropped and counted as
    `outside_sensor`.

        ring:
          kind: crop
          inputs: {events: camera.events}
          settings: {x: 8, y: 4, width: 48, height: 40}
    """

    events = In(Events)
    kept = Out(Events)
    faults = ("outside_sensor",)

    def open(self) -> None:
        setting = self.settings
        self._corner, self._size = (setting.x, setting.y), (setting.width, setting.height)
        keep_inside(no_words(), self._size, self._corner, self._size, words_for(0))

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        sensor = (packet.data.width, packet.data.height)
        self._check(sensor, packet)
        rule = (sensor, self._corner, self._size)
        return pick(self, self.kept, packet, self._size, keep_inside, *rule)

    def _check(self, sensor: Sensor, packet: Packet[Events]) -> None:
        (x, y), (width, height) = self._corner, self._size
        if x + width > sensor[0] or y + height > sensor[1]:
            raise NodeError(
                self.name,
                f"the rectangle x {x}..{x + width - 1}, y {y}..{y + height - 1} does not fit the "
                f"sensor of {sensor[0]}x{sensor[1]} pixels: change x, y, width or height",
                span=span_of(packet),
            )
