"""Count images of events at a constant rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.node import Emission, In, Node, Out, Seconds, Settings
from streamflow.packet import Events, Packet, Tensor

from ..event_packets import Sensor, check_sensor, microseconds, no_words, words_of
from ..kernels.count_frame import count_events
from ..kernels.pixel_times import NEVER


class CountFrameSettings(Settings, frozen=True, kw_only=True):
    """How long each frame lasts."""

    period: Seconds = 0.001  # rounded to whole microseconds


def _blank(sensor: Sensor) -> NDArray[np.int16]:
    return np.zeros(2 * sensor[0] * sensor[1], np.int16)


class CountFrame(Node[CountFrameSettings]):
    """How many events each pixel had in each `period`: one frame per period, empty ones included.

    A frame is int16 with axes (polarity, y, x), polarity 0 OFF and 1 ON, and covers
    [k period, (k + 1) period) of stream time. The first is the one that the first packet starts in,
    the last the one that the stream ends in. Frames leave as stream time passes their end, whether
    or not events come. A pixel counts up to 32,767 events of each polarity in a frame; more are
    counted as `saturated`. But for those, the frames' sum is the number of events on the sensor.

    Before the first packet nothing is emitted: the sensor's size is not known. State: the frame
    being counted. Events outside the sensor are dropped and counted as `outside_sensor`; an event
    that is older than its frame (time stepped back) counts in the frame being filled, and as
    `late`.

        frames:
          kind: count_frame
          inputs: {events: camera.events}
          settings: {period: 0.001}
    """

    events = In(Events)
    frames = Out(Tensor)
    faults = ("outside_sensor", "late", "saturated")

    def open(self) -> None:
        self._period = microseconds(self, "period", self.settings.period)
        self._sensor: Sensor | None = None
        self._start = 0  # of the frame being counted, us
        self._reached = NEVER  # where the data end so far, us
        self._frame = np.zeros(2, np.int16)
        count_events(no_words(), 0, 0, 1, 1, 1, self._frame)

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        words = words_of(self, packet)
        sensor = check_sensor(self, self._sensor, packet)
        if self._sensor is None:
            self._sensor = sensor
            self._start = packet.start // self._period * self._period
            self._frame = _blank(sensor)
        self.holds_from = self._start
        first, number = 0, words.size // 2
        while first < number:
            first, outside, late, beyond = count_events(
                words, first, self._start, self._start + self._period, *sensor, self._frame
            )
            if outside:
                self.count_fault("outside_sensor", outside)
            if late:
                self.count_fault("late", late)
            if beyond:
                self.count_fault("saturated", beyond)
            if first < number:
                yield self._leave(sensor)
        self._reached = max(self._reached, packet.stop)

    def advance(self, time: int) -> Iterator[Emission]:
        if self._sensor is None:
            self.holds_from = time // self._period * self._period
            return
        while time >= self._start + self._period:
            yield self._leave(self._sensor)

    def finish(self) -> Iterator[Emission]:
        while self._sensor is not None and self._start < self._reached:
            yield self._leave(self._sensor)

    def snapshot(self) -> dict[str, Any]:
        if self._sensor is None:
            return {}
        return {
            "width": self._sensor[0],
            "height": self._sensor[1],
            "start": self._start,
            "reached": self._reached,
            "frame": self._frame,
        }

    def restore(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self._sensor = (state["width"], state["height"])
        self._start, self._reached = state["start"], state["reached"]
        self._frame = state["frame"]
        self.holds_from = self._start

    def _leave(self, sensor: Sensor) -> Emission:
        """The frame being counted, as it leaves; the next one begins."""
        width, height = sensor
        start, frame = self._start, self._frame.reshape(2, height, width)
        self._start = self.holds_from = start + self._period
        self._frame = _blank(sensor)
        return self.frames(Tensor(frame, ("polarity", "y", "x")), start, self._start)
