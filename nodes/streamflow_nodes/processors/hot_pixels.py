"""Finds pixels that fire by themselves, and removes their events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np

from streamflow.errors import NodeError
from streamflow.node import Emission, In, Node, Out, Seconds, Settings
from streamflow.packet import Events, Packet

from ..events.packets import OneSensor, Sensor, Words, no_words, pick, words_for
from ..kernels.hot_pixels import HOT, keep_cool
from ..kernels.pixel_times import quiet_pixels
from ..spans import microseconds

Hertz = Annotated[float, msgspec.Meta(gt=0)]


class HotPixelsSettings(Settings, frozen=True, kw_only=True):
    """How often a pixel may fire alone, and how long that is remembered."""

    rate: Hertz = 20.0  # events alone a second, above which a pixel is hot
    memory: Seconds = 2.0  # time constant of that rate
    window: Seconds = 0.002  # what lasts this long is one signal: see HotPixels


class HotPixels(Node[HotPixelsSettings]):
    """The events of all pixels but those that keep firing while their neighbours are silent.

    An event is *alone* when none of the eight neighbours fired since `window` before the same
    pixel's previous event. A pixel is hot once its events alone, averaged over the last `memory`
    seconds with exponential decay and counted at most once in `window`, exceed `rate` a second,
    and until they are below half of it. So a pixel is only judged in the quiet: light makes
    neighbours fire too, and however often a pixel fires in a signal, it is not alone. `window`
    should be as long as a signal lasts, so that what one passing particle does counts once.
    A pixel that is hot is no company, so that of two side by side the second is found after the
    first; a clump of three at 500 Hz each hides itself at the default rate and is found at 10.

    Learning is causal: the first rate * memory events alone (40 by default) pass. A hot pixel in a
    scene that never rests is not found; nor is it noticed there, among as many other events.
    Flicker of exactly one pixel cannot be told from a hot pixel and is removed.

    Nothing is emitted for a packet of which nothing is kept. State: for each pixel its last time,
    its decaying count and when that changed. Events outside the sensor are dropped and counted as
    `outside_sensor`. `results()`: the pixels that are hot at the end and the events removed.

        cool: {kind: hot_pixels, inputs: {events: camera.events}, settings: {rate: 20}}
    """

    events = In(Events)
    kept = Out(Events)
    faults = ("outside_sensor",)

    def open(self) -> None:
        setting = self.settings
        self._window = microseconds(self, "window", setting.window)
        self._memory = float(microseconds(self, "memory", setting.memory))
        self._limit = setting.rate * setting.memory
        if self._limit < 2:
            raise NodeError(
                self.name,
                f"settings: rate {setting.rate} /s over memory {setting.memory} s is "
                f"{self._limit} events: one chance event makes a pixel hot; expected at least 2",
            )
        self._sensor = OneSensor(self, self._begin)
        self._removed = 0
        self._begin((1, 1))
        self._keep(no_words(), (1, 1), words_for(0))

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        sensor = self._sensor.check(packet)
        return pick(self, self.kept, packet, sensor, self._keep, sensor)

    def hot(self) -> list[tuple[int, int]]:
        """The (x, y) of every pixel that is hot now, row by row."""
        if self._sensor.size is None:
            return []
        width, height = self._sensor.size
        rows, columns = np.nonzero(self._last.reshape(height + 2, width + 2) == HOT)
        return [(int(x) - 1, int(y) - 1) for y, x in zip(rows, columns, strict=True)]

    def results(self) -> dict[str, Any]:
        return {"hot_pixels": [list(pixel) for pixel in self.hot()], "removed": self._removed}

    def snapshot(self) -> dict[str, Any]:
        if self._sensor.size is None:
            return {}
        return {
            **self._sensor.snapshot(),
            "removed": self._removed,
            "last": self._last,
            "own": self._own,
            "scored": self._scored,
            "score": self._score,
        }

    def restore(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self._sensor.restore(state)
        self._removed = state["removed"]
        self._last, self._own = state["last"], state["own"]
        self._scored, self._score = state["scored"], state["score"]

    def _begin(self, sensor: Sensor) -> None:
        self._last = quiet_pixels(*sensor)
        self._own = np.zeros(self._last.size, np.int64)
        self._scored = np.zeros(self._last.size, np.int64)
        self._score = np.zeros(self._last.size, np.float64)

    def _keep(self, words: Words, sensor: Sensor, kept: Words) -> tuple[int, int]:
        count, outside = keep_cool(
            words, *sensor, self._window, self._memory, self._limit,
            self._last, self._own, self._scored, self._score, kept,
        )  # fmt: skip
        self._removed += words.size // 2 - count - outside
        return count, outside
