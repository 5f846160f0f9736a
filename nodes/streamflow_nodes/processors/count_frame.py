"""Count images of events at a constant rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import Emission, In, Node, Out, Seconds, Settings
from streamflow.packet import Events, Packet, Tensor

from ..events.frames import FrameMemory, Periods
from ..events.packets import Sensor, Words, no_words
from ..kernels.count_frame import clear_rows, count_events

_Frame = tuple[NDArray[Any], NDArray[np.uint8]]


class CountFrameSettings(Settings, frozen=True, kw_only=True):
    """How long each frame lasts, and what its numbers are."""

    period: Seconds = 0.001  # rounded to whole microseconds
    polarity: Literal["separate", "merged", "signed"] = "separate"  # see CountFrame
    dtype: Literal["int16", "uint16", "uint8"] = "int16"  # bytes make the fastest frames


class CountFrame(Node[CountFrameSettings]):
    """How many events each pixel had in each `period`: one frame per period, empty ones included.

    A frame covers [k period, (k + 1) period) of stream time and is, by `polarity`,

        separate    (polarity, y, x): events of each polarity, 0 OFF and 1 ON
        merged      (y, x): events of both
        signed      (y, x): ON events less OFF events, where `dtype` has a sign

    The first frame is the one that the first packet starts in, the last the one that the stream
    ends in. Frames leave as stream time passes their end, whether or not events come. A pixel
    counts as far as `dtype` goes (32,767, 65,535 or 255; signed to -32,767 as well); an event that
    would lead further is left out and counted as `saturated`. But for those, the sum of separate
    or merged frames is the number of events on the sensor.

    Before the first packet nothing is emitted: the sensor's size is not known. State: the frame
    being counted. Events outside the sensor are dropped and counted as `outside_sensor`; an event
    that is older than its frame (time stepped back) counts in the frame being filled, and as
    `late`.

        frames:
          kind: count_frame
          inputs: {events: camera.events}
          settings: {period: 0.001, polarity: merged, dtype: uint8}
    """

    events = In(Events)
    frames = Out(Tensor)
    faults = ("outside_sensor", "late", "saturated")

    def open(self) -> None:
        setting = self.settings
        if setting.polarity == "signed" and setting.dtype != "int16":
            raise NodeError(
                self.name,
                f"settings: polarity signed counts below zero, which dtype {setting.dtype} cannot; "
                "set dtype: int16, or polarity: merged",
            )
        self._most = int(np.iinfo(setting.dtype).max)
        self._least = -self._most if setting.polarity == "signed" else None
        self._planes = (2,) if setting.polarity == "separate" else ()
        self._axes = ("polarity", "y", "x") if self._planes else ("y", "x")
        self._periods = Periods(self, setting.period, self._begin, self._fill, self._leave)
        self._begin((1, 1))
        self._fill(no_words(), 0, 0, 1)

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        return self._periods.take(packet)

    def advance(self, time: int) -> Iterator[Emission]:
        return self._periods.advance(time)

    def finish(self) -> Iterator[Emission]:
        return self._periods.finish()

    def snapshot(self) -> dict[str, Any]:
        state = self._periods.snapshot()
        return state and {**state, "frame": self._counting()[0]}

    def restore(self, state: dict[str, Any]) -> None:
        self._periods.restore(state)
        if state:
            frame, touched = self._counting()
            frame[:] = state["frame"]
            touched[:] = 1

    def _begin(self, sensor: Sensor) -> None:
        width, height = sensor
        rows = (*self._planes, height)
        self._memory = FrameMemory(*rows, width, dtype=self.settings.dtype, marks=math.prod(rows))
        self._filling: _Frame | None = None

    def _counting(self) -> _Frame:
        """The frame being filled and its touched rows, without events at first.

        It begins as late as can be: the memory of the frame before is then free again, and warm.
        Of used memory, only what is not zero is written.
        """
        if self._filling is None:
            self._filling = self._memory.take()
            clear_rows(*self._filling)
        return self._filling

    def _fill(self, words: Words, first: int, start: int, stop: int) -> int:
        first, outside, late, beyond = count_events(
            words, first, start, stop, self._most, self._least, *self._counting()
        )
        if outside:
            self.count_fault("outside_sensor", outside)
        if late:
            self.count_fault("late", late)
        if beyond:
            self.count_fault("saturated", beyond)
        return first

    def _leave(self, start: int, stop: int) -> Emission:
        frame, _ = self._counting()
        self._filling = None
        return self.frames(Tensor(frame, self._axes), start, stop)
