"""Recordings of an event camera, decoded before the graph starts and played again and again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from streamflow_nodes.sources.event_file import EventFile

from streamflow import Events, Node, Out, Settings
from streamflow.node import Emission, Microseconds, Positive
from streamflow.packet import EVENT

Words = NDArray[np.int64]  # (2 n,): time (us) and address of n events


class LoopedRecordingsSettings(Settings, frozen=True, kw_only=True):
    """Which recordings, how often, and what a packet holds: `events`, or a `duration`.

    Without `paths`, `noise_s` seconds of simulated background activity: `noise_rate` events a
    second, each at any pixel and of any polarity.
    """

    paths: list[str] = []
    noise_s: float = 20.0
    noise_rate: float = 3e5
    together: bool = False  # played at once (their rates add up), not one after the other
    loops: Positive = 1
    events: int = 4096
    duration: Microseconds | None = None
    width: Positive = 64
    height: Positive = 48


class LoopedRecordings(Node[LoopedRecordingsSettings]):
    """Packets of `events` events each, as fast as they are taken; or of `duration` us each, when
    the clock says that they are over. Keeps no state.
    """

    events = Out(Events)

    def open(self) -> None:
        s = self.settings
        parts, end = [], 0
        for path in s.paths:
            file = EventFile({"path": path, "width": s.width, "height": s.height})
            file.open()
            pieces = [made.packet.data.array.view(np.int64) for made in file.produce()]
            file.close()
            words = np.concatenate(pieces)
            words[::2] += end - words[0]
            if not s.together:
                end = int(words[-2]) + 1
            parts.append(words)
        self._once: Words = np.concatenate(parts) if parts else self._noise()
        if s.together:
            order = np.argsort(self._once[::2], kind="stable")
            self._once = self._once.reshape(-1, 2)[order].reshape(-1)
        step = s.duration or 1
        self._period = (int(self._once[-2]) // step + 1) * step

    def _noise(self) -> Words:
        s, random = self.settings, np.random.default_rng(1)
        count = int(s.noise_s * s.noise_rate)
        events = np.zeros(count, EVENT)
        events["timestamp"] = np.sort(random.integers(0, int(1e6 * s.noise_s), count))
        events["x"] = random.integers(0, s.width, count)
        events["y"] = random.integers(0, s.height, count)
        events["polarity"] = random.integers(0, 2, count)
        return events.view(np.int64)

    def produce(self) -> Iterator[Emission]:
        s, once = self.settings, self._once
        for loop in range(s.loops):
            shift = loop * self._period
            bounds = self._bounds()
            for (first, last), (start, stop) in bounds:
                if not self.clock.wait_until(shift + stop):
                    return
                words = once[2 * first : 2 * last].copy()
                words[::2] += shift
                data = Events(words.view(EVENT), s.width, s.height)
                yield self.events(data, shift + start, shift + stop)

    def _bounds(self) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Of every packet of one round: its events (from, to), and the time it covers (us)."""
        s, times = self.settings, self._once[::2]
        if s.duration is not None:
            starts = np.arange(0, self._period, s.duration)
            places = [*np.searchsorted(times, starts).tolist(), times.size]
            for k, start in enumerate(starts.tolist()):
                yield (places[k], places[k + 1]), (start, start + s.duration)
            return
        for first in range(0, times.size, s.events):
            last = min(first + s.events, times.size)
            stop = self._period if last == times.size else int(times[last])
            yield (first, last), (int(times[first]) if first else 0, stop)
