"""What every node that makes images of events shares: when a frame ends, and its memory."""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.node import Emission, Node
from streamflow.packet import Events, Packet

from ..kernels.pixel_times import NEVER
from ..spans import microseconds
from .packets import OneSensor, Sensor, Words, words_of

Begin = Callable[[Sensor], None]
Fill = Callable[[Words, int, int, int], int]
Leave = Callable[[int, int], Emission]
_Memory = tuple[mmap.mmap, NDArray[np.uint8]]


class Periods:
    """Cuts the events of a node into frames that cover [k period, (k + 1) period) of stream time.

    The first frame is the one that the first packet starts in, the last the one that the stream
    ends in. Frames leave as stream time passes their end, whether or not events come; before the
    first packet there are none, because the sensor's size is not known.

    The node gives three functions and hands on its packets, `advance`, `finish`, `snapshot` and
    `restore`; its `holds_from` is kept here.

    begin(sensor) : allocate for a sensor of (width, height) pixels
    fill(words, first, start, stop) : take the events from index `first` on into the frame
        [start, stop) us; gives the index of the first event that is not before `stop`
    leave(start, stop) : the frame as it is emitted; the next one begins
    """

    def __init__(
        self, node: Node[Any], period: float, begin: Begin, fill: Fill, leave: Leave
    ) -> None:
        self._node, self._fill, self._leave = node, fill, leave
        self._period = microseconds(node, "period", period)
        self._sensor = OneSensor(node, begin)
        self._start = 0  # of the frame being filled, us
        self._reached = NEVER  # where the data end so far, us

    def take(self, packet: Packet[Events]) -> Iterator[Emission]:
        """The frames that end inside the packet; what comes after them is in the open frame."""
        words = words_of(self._node, packet)
        if self._sensor.size is None:
            self._start = packet.start // self._period * self._period
        self._sensor.check(packet)
        self._node.holds_from = self._start
        first, number = 0, words.size // 2
        while first < number:
            first = self._fill(words, first, self._start, self._start + self._period)
            if first < number:
                yield self._end()
        self._reached = max(self._reached, packet.stop)

    def advance(self, time: int) -> Iterator[Emission]:
        """The frames that end at `time` (us) or before."""
        if self._sensor.size is None:
            self._node.holds_from = time // self._period * self._period
            return
        while time >= self._start + self._period:
            yield self._end()

    def finish(self) -> Iterator[Emission]:
        """The frames up to the end of the data."""
        while self._sensor.size is not None and self._start < self._reached:
            yield self._end()

    def snapshot(self) -> dict[str, Any]:
        """Where the frames are; empty before the first packet."""
        state = self._sensor.snapshot()
        return state and {**state, "start": self._start, "reached": self._reached}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `snapshot` gave; calls `begin` unless that was nothing."""
        if state:
            self._sensor.restore(state)
            self._start, self._reached = state["start"], state["reached"]
            self._node.holds_from = self._start

    def _end(self) -> Emission:
        start, stop = self._start, self._start + self._period
        emission = self._leave(start, stop)
        self._start = self._node.holds_from = stop
        return emission


class FrameMemory:
    """Memory for frames of one size, used again once nobody holds a view of it.

    A frame of a megabyte that is allocated anew costs more in page faults than the events in it.
    `take` gives a frame that is zero when it is new and as it was left when it is not, and with it
    marks for the node's own use, so that a node that wrote little can also clear little.
    """

    _SPARE = 4  # more are given back: a consumer that once held many must not cost for ever

    def __init__(self, *shape: int, dtype: Any, marks: int = 0) -> None:
        """Frames of `shape` and `dtype`, each with (`marks`,) uint8 beside it."""
        self._shape, self._dtype, self._marks = shape, np.dtype(dtype), marks
        self._bytes = math.prod(shape) * self._dtype.itemsize
        self._spare: list[_Memory] = []
        self._held: dict[int, tuple[weakref.ref[Any], _Memory]] = {}

    def take(self) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """A frame and its marks: both zero, or as they were left by whoever had them before."""
        if self._spare:
            memory = self._spare.pop()
        else:
            memory = mmap.mmap(-1, self._bytes), np.zeros(self._marks, np.uint8)
        # every view of it holds this very array: numpy looks for the owner of the memory no further
        # than to the first array whose own base is none
        frame = np.ndarray(self._shape, self._dtype, memory[0])
        watch = weakref.ref(frame, self._take_back)
        self._held[id(watch)] = watch, memory
        return frame, memory[1]

    def _take_back(self, watch: weakref.ref[Any]) -> None:
        _, memory = self._held.pop(id(watch))
        if len(self._spare) < self._SPARE:
            self._spare.append(memory)
