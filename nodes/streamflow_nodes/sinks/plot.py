"""`plot`: one page of panels that shows what a run gave."""

from __future__ import annotations

import json
from collections import Counter, deque
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import FilePath, In, Microseconds, Node, OutputPath, Positive
from streamflow.packet import Events, Packet, Table

from ..files.output import FullDiskSettings, put_file
from ..particles.figure import Page, Picture, Score, draw
from ..particles.rows import PARTICLE, require_particles
from .particle_scorer import ParticleScorer

LARGEST_SIDE = 160
"""Cells along the longer side of a picture; larger sensors are summed over squares of pixels."""
LAG_US = 50_000
"""How long before its row's packet (stream time) a particle's window may begin to be pictured."""
PICTURED_CLASSES = 8


class PlotSettings(FullDiskSettings, frozen=True, kw_only=True):
    """Where to draw, what to say, how much to keep, and what to do when the disk is full."""

    path: OutputPath
    title: str = "Particles"
    note: str = ""
    """A remark that must not be missed, such as 'simulated data'."""
    truth: FilePath | None = None
    """Truth as for `particle_scorer`: adds the panel 'Confusion'."""
    tolerance_us: Microseconds = 600
    deadline_us: Microseconds = 5000
    points: Positive = 20_000
    """Particles kept for drawing. When there are more, every second, then every fourth, ... stays.
    Counts, pictures and the confusion are of all."""
    dpi: Positive = 130


class Seen(NamedTuple):
    """A packet's events that may still belong to a particle."""

    times: NDArray[np.int64]
    """(n,) us, n > 0"""
    cells: NDArray[np.int32]
    """(n,) index into a picture"""
    stop: int
    """Where the packet stops, us: it holds every event up to there."""


class Plot(Node[PlotSettings]):
    """A PNG with the panels scatter, rate, delay, certainty, pictures and confusion.

    `rows` are particles. With `bursts` (the events that were classified, or the whole stream), the
    events within a particle's `[start_us, stop_us)` are summed to a picture of its class; an event
    that two bursts share counts once for each particle. With
    `truth`, decisions are matched with the true particles as `particle_scorer` does. The page
    is drawn at the end of the stream; an existing file is replaced in one step.

    Emits nothing. Keeps at most `points` rows, a picture per class (the first 8), and the events
    of the last 50 ms of stream time; what was not kept is said on the page and in the results.
    Rows without a finite time, decisions too old to be matched and particles that could not be
    pictured are counted, and so is a page for which the disk has no room (`not_written`).

        page: {kind: plot, inputs: {rows: classify.particles, bursts: bursts.bursts},
               settings: {path: run.png, note: simulated data}}
    """

    rows = In(Table)
    bursts = In(Events, optional=True)
    faults = ("not_finite", "out_of_order", "not_pictured", "not_written")

    def open(self) -> None:
        try:
            import matplotlib.figure  # noqa: F401  # heavy: loaded before any data flows
        except ImportError as error:
            raise NodeError(
                self.name, "needs matplotlib: pip install 'streamflow-neuro[cytometry]'"
            ) from error
        self._scorer = ParticleScorer(
            {
                "truth": self.settings.truth,
                "tolerance_us": self.settings.tolerance_us,
                "deadline_us": self.settings.deadline_us,
            },
            name=self.name,
        )
        self._scorer.open()
        self._kept = np.empty(self.settings.points, PARTICLE)
        self._count = 0
        self._stride = 1
        self._total = 0
        self._counts: Counter[str] = Counter()
        self._seen: deque[Seen] = deque()
        self._sensor = (0, 0)
        self._waiting = np.empty(0, PARTICLE)
        self._sums: dict[str, NDArray[np.int64]] = {}
        self._pictured: Counter[str] = Counter()
        self._drawn = self.settings.path

    def on_rows(self, packet: Packet[Table]) -> None:
        rows = packet.data.array
        try:
            require_particles(rows.dtype)
        except ValueError as error:
            raise NodeError(self.name, str(error), kind="plot") from error
        self._scorer.on_rows(packet)
        self.fault_counts["out_of_order"] = self._scorer.fault_counts["out_of_order"]
        for name, count in zip(*np.unique(rows["class"], return_counts=True), strict=True):
            self._counts[_text(name)] += int(count)
        self.count_fault("not_finite", int((~np.isfinite(rows["time_us"])).sum()))
        self._keep(rows)
        is_early = rows["start_us"] < packet.start - LAG_US
        if self._sensor != (0, 0):
            self.count_fault("not_pictured", int(is_early.sum()))
        self._waiting = np.concatenate([self._waiting, rows[~is_early]])

    def on_bursts(self, packet: Packet[Events]) -> None:
        events, sensor = packet.data.array, (packet.data.width, packet.data.height)
        if self._sensor not in ((0, 0), sensor):
            raise NodeError(
                self.name,
                f"events of a sensor of {sensor[0]}x{sensor[1]} pixels after "
                f"{self._sensor[0]}x{self._sensor[1]}; one page shows one sensor",
                kind="plot",
            )
        self._sensor = sensor
        if len(events):
            side, columns = self._pixels, self._shape[1]
            rows = events["polarity"].astype(np.int32) * self._shape[0] + events["y"] // side
            cells = (rows * columns + events["x"] // side).astype(np.int32)
            self._seen.append(Seen(events["timestamp"].copy(), cells, packet.stop))

    def advance(self, time: int) -> None:
        is_whole = self._waiting["stop_us"] <= time
        if is_whole.any():
            self._picture(self._waiting[is_whole])
            self._waiting = self._waiting[~is_whole]
        oldest = min(time - LAG_US, int(self._waiting["start_us"].min(initial=time)))
        while self._seen and self._seen[0].times[-1] < oldest:
            self._seen.popleft()

    def finish(self) -> None:
        self._picture(self._waiting)
        self._waiting = self._waiting[:0]
        self._scorer.finish()
        settings, score = self.settings, None
        if settings.truth is not None:
            results = self._scorer.results()
            interval = results["correct_interval"]
            score = Score(results["confusion"], results["correct"], (interval[0], interval[1]))
        page = Page(
            self._kept[: self._count], self._stride, self._total, dict(self._counts),
            {
                name: Picture(total.reshape(2, *self._shape), self._pictured[name], self._pixels)
                for name, total in self._sums.items()
            },
            score, settings.title, settings.note, settings.deadline_us,
        )  # fmt: skip
        place = put_file(settings.path, settings, draw(page, settings.dpi), self.name)
        self.fault_counts["not_written"] = int(place is None)
        self._drawn = settings.path if place is None else str(place)

    def snapshot(self) -> dict[str, Any]:
        state = {f"scorer.{key}": value for key, value in self._scorer.snapshot().items()}
        seen = list(self._seen)
        return state | {
            "kept": self._kept[: self._count].copy(),
            "stride": self._stride,
            "total": self._total,
            "counts": json.dumps(self._counts),
            "times": np.concatenate([each.times for each in seen] or [np.empty(0, np.int64)]),
            "cells": np.concatenate([each.cells for each in seen] or [np.empty(0, np.int32)]),
            "ends": np.cumsum([len(each.times) for each in seen], dtype=np.int64),
            "stops": np.array([each.stop for each in seen], np.int64),
            "width": self._sensor[0],
            "height": self._sensor[1],
            "waiting": self._waiting.copy(),
            "names": json.dumps(list(self._sums)),
            "sums": np.array(list(self._sums.values()), np.int64),
            "pictured": json.dumps(self._pictured),
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._scorer.restore(
            {key[7:]: value for key, value in state.items() if key.startswith("scorer.")}
        )
        self._count, self._stride = len(state["kept"]), int(state["stride"])
        self._kept[: self._count] = state["kept"]
        self._total, self._counts = int(state["total"]), Counter(json.loads(state["counts"]))
        ends = state["ends"][:-1]
        self._seen = deque(
            Seen(times, cells, stop)
            for times, cells, stop in zip(
                np.split(state["times"], ends) if len(state["times"]) else [],
                np.split(state["cells"], ends) if len(state["times"]) else [],
                state["stops"].tolist(),
                strict=True,
            )
        )
        self._sensor = (int(state["width"]), int(state["height"]))
        self._waiting = state["waiting"]
        self._sums = dict(zip(json.loads(state["names"]), state["sums"], strict=True))
        self._pictured = Counter(json.loads(state["pictured"]))
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}

    def results(self) -> dict[str, Any]:
        return {
            "path": self._drawn,
            "particles": self._total,
            "one_in": self._stride,
            "pictured": dict(sorted(self._pictured.items())),
        }

    @property
    def _pixels(self) -> int:
        """Sensor pixels along each side of a picture's cell."""
        return -(-max(self._sensor) // LARGEST_SIDE)

    @property
    def _shape(self) -> tuple[int, int]:
        """Rows and columns of a picture."""
        return -(-self._sensor[1] // self._pixels), -(-self._sensor[0] // self._pixels)

    def _keep(self, rows: NDArray[Any]) -> None:
        """Keep the rows whose number in the stream the stride divides; double it when too many."""
        numbers = np.arange(self._total, self._total + len(rows))
        rows = rows[numbers % self._stride == 0]
        self._total += len(numbers)
        if self._count + len(rows) > len(self._kept):
            rows = np.concatenate([self._kept[: self._count], rows])
            while len(rows) > len(self._kept):
                rows = rows[::2]
                self._stride *= 2
            self._count = 0
        self._kept[self._count : self._count + len(rows)] = rows
        self._count += len(rows)

    def _picture(self, rows: NDArray[Any]) -> None:
        """Add the events within each row's window to the picture of its class."""
        if self._sensor == (0, 0):
            return
        size = 2 * self._shape[0] * self._shape[1]
        for row in rows:
            name, total = _text(row["class"]), np.zeros(size, np.int64)
            start, stop = int(row["start_us"]), int(row["stop_us"])
            for seen in self._seen:
                if seen.times[-1] >= start and seen.times[0] < stop:
                    first, last = np.searchsorted(seen.times, (start, stop))
                    total += np.bincount(seen.cells[first:last], minlength=size)
                    # Bursts of particles that overlap share events: the next adds only later ones.
                    start = max(start, seen.stop)
            if not total.any() or (name not in self._sums and len(self._sums) >= PICTURED_CLASSES):
                self.count_fault("not_pictured")
                continue
            self._sums[name] = self._sums.get(name, 0) + total
            self._pictured[name] += 1


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
