"""Joins the rows of two tables that belong to the same moment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import Emission, In, Node, Out, Seconds, Settings
from streamflow.packet import Packet, Table

from ..spans import microseconds, span_of

Rows = NDArray[Any]
Times = NDArray[np.int64]


class JoinSettings(Settings, frozen=True, kw_only=True):
    """Which columns hold the time (us), how far apart a pair may be, what becomes of the rest."""

    left_time: str = "time_us"
    right_time: str = "time_us"
    tolerance: Seconds = 0.001
    unmatched: Literal["drop", "keep"] = "drop"  # left rows without a partner


class Join(Node[JoinSettings]):
    """Each left row with the right row nearest in time, at most `tolerance` away.

    Times are stream time in microseconds, whole or rounded to whole ones. Of two right rows equally
    near the earlier one is taken, of several at one time the first to come; a right row may serve
    several left rows. The columns of `joined` are `left_<column>` and `right_<column>`; with
    `unmatched: keep` also `matched` (bool), and a left row without partner has NaN, zero or empty
    text in the right columns.

    A left row leaves once stream time has passed it by more than `tolerance` on both inputs, in the
    order in which left rows came. With `keep`, left rows wait until the first right packet has told
    its columns; if none ever comes they leave at the end without right columns. Left rows without a
    partner are counted in `results()`.

    State: the left rows that wait and the right rows they may still need. A row whose time lies
    before its packet's start is counted as `late`: a right one is left out, a left one has no
    partner. So is one whose time is no number.

        pairs:
          kind: join
          inputs: {left: linear.particles, right: spiking.particles}
          settings: {tolerance: 0.0006}
    """

    left = In(Table)
    right = In(Table)
    joined = Out(Table)
    faults = ("late",)

    def open(self) -> None:
        self._tolerance = microseconds(self, "tolerance", self.settings.tolerance)
        self._left: _Waiting | None = None
        self._right: _Waiting | None = None
        self._alone: NDArray[np.bool_] = np.empty(0, np.bool_)  # left rows that came too late
        self._started = -(1 << 62)  # where the last packet started, us
        self._joined = self._unmatched = 0

    def on_left(self, packet: Packet[Table]) -> None:
        rows, times, late = self._read("left", packet, self.settings.left_time)
        self._left = _added(self, "left", self._left, rows, np.maximum(times, packet.start), packet)
        self._alone = np.concatenate([self._alone, late])
        self._hold()

    def on_right(self, packet: Packet[Table]) -> None:
        rows, times, late = self._read("right", packet, self.settings.right_time)
        right = _added(self, "right", self._right, rows[~late], times[~late], packet)
        order = np.argsort(right.times, kind="stable")
        self._right = _Waiting(right.rows[order], right.times[order])

    def advance(self, time: int) -> Iterator[Emission]:
        yield from self._leave(time - self._tolerance)
        if self._right is not None:
            # the earliest left row to come is at `time`, the earliest that waits may be older
            oldest = min([time, *(() if self._left is None else self._left.times.tolist())])
            first = np.searchsorted(self._right.times, oldest - self._tolerance)
            self._right = _Waiting(self._right.rows[first:], self._right.times[first:])

    def finish(self) -> Iterator[Emission]:
        yield from self._leave(None)

    def results(self) -> dict[str, Any]:
        return {"joined": self._joined, "unmatched": self._unmatched}

    def snapshot(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "started": self._started, "joined": self._joined, "unmatched": self._unmatched,
            "alone": self._alone,
        }  # fmt: skip
        for side, waiting in (("left", self._left), ("right", self._right)):
            if waiting is not None:
                state[f"{side}_rows"], state[f"{side}_times"] = waiting.rows, waiting.times
        return state

    def restore(self, state: dict[str, Any]) -> None:
        self._started, self._alone = state["started"], state["alone"]
        self._joined, self._unmatched = state["joined"], state["unmatched"]
        if "left_rows" in state:
            self._left = _Waiting(state["left_rows"], state["left_times"])
        if "right_rows" in state:
            self._right = _Waiting(state["right_rows"], state["right_times"])
        self._hold()

    def _read(
        self, side: str, packet: Packet[Table], column: str
    ) -> tuple[Rows, Times, NDArray[np.bool_]]:
        """The packet's rows, their times, and which of them are late."""
        rows = packet.data.array
        names = rows.dtype.names or ()
        if column not in names or rows.dtype[column].kind not in "iuf":
            raise NodeError(
                self.name,
                f"{side} rows have no column {column!r} of numbers; they have "
                f"{', '.join(names) or 'none'}: set {side}_time to the one that holds the time",
                span=span_of(packet),
            )
        exact = rows[column]
        known = np.isfinite(exact)
        times = np.rint(np.where(known, exact, packet.start - 1)).astype(np.int64)
        late = times < packet.start
        if late.any():
            self.count_fault("late", int(late.sum()))
        return rows, times, late

    def _leave(self, before: int | None) -> Iterator[Emission]:
        """The left rows before `before` (us; None: all), each with its partner."""
        left, right, keeps = self._left, self._right, self.settings.unmatched == "keep"
        if left is None or (keeps and right is None and before is not None):
            return
        ready = np.ones(left.times.size, np.bool_) if before is None else left.times < before
        count = ready.size if ready.all() else int(np.argmin(ready))  # up to the first that waits
        if not count:
            return
        partner = _nearest(left.times[:count], right, self._tolerance)
        partner[self._alone[:count]] = -1
        chosen = np.arange(count) if keeps else np.flatnonzero(partner >= 0)
        rows = _pairs(left.rows[chosen], right, partner[chosen], keeps)
        times = left.times[:count]
        self._left = _Waiting(left.rows[count:], left.times[count:])
        self._alone = self._alone[count:]
        self._joined += int((partner >= 0).sum())
        self._unmatched += int((partner < 0).sum())
        start = max(self._started, int(times.min()))
        self._hold()
        if rows.size:
            self._started = start
            yield self.joined(Table(rows), start, max(start, int(times.max())) + 1)

    def _hold(self) -> None:
        waits = self._left is not None and self._left.times.size > 0
        self.holds_from = int(self._left.times.min()) if self._left is not None and waits else None


class _Waiting:
    """Rows of one input that are still needed, and their times (us)."""

    def __init__(self, rows: Rows, times: Times) -> None:
        self.rows, self.times = rows, times


def _added(
    node: Join, side: str, waiting: _Waiting | None, rows: Rows, times: Times, packet: Packet[Table]
) -> _Waiting:
    """What waits with a packet's rows behind; NodeError when their columns are others."""
    if waiting is None:
        return _Waiting(rows.copy(), times)
    if waiting.rows.dtype != rows.dtype:
        raise NodeError(
            node.name,
            f"{side} rows had the columns {waiting.rows.dtype} and now have {rows.dtype}: a stream "
            "keeps its columns",
            span=span_of(packet),
        )
    whole = np.empty(waiting.rows.size + rows.size, rows.dtype)  # np.concatenate would repack it
    whole[: waiting.rows.size], whole[waiting.rows.size :] = waiting.rows, rows
    return _Waiting(whole, np.concatenate([waiting.times, times]))


def _nearest(times: Times, right: _Waiting | None, tolerance: int) -> NDArray[np.int64]:
    """For each time the index of the nearest right row within `tolerance` (us), or -1."""
    if right is None or right.times.size == 0:
        return np.full(times.size, -1, np.int64)
    after = np.searchsorted(right.times, times, side="left")
    # the first of those at the same time as the last one before
    before = np.searchsorted(right.times, right.times[np.maximum(after - 1, 0)], side="left")
    after_time = right.times[np.minimum(after, right.times.size - 1)]
    after_gap = np.where(after < right.times.size, after_time - times, tolerance + 1)
    before_gap = np.where(after > 0, times - right.times[before], tolerance + 1)
    nearest = np.where(before_gap <= after_gap, before, after)
    gap = np.minimum(before_gap, after_gap)
    return np.where(gap <= tolerance, nearest, -1).astype(np.int64)


def _pairs(left: Rows, right: _Waiting | None, partner: NDArray[np.int64], keeps: bool) -> Rows:
    """The joined rows: left columns, right columns, and with `keeps` whether there is a partner."""
    columns = [(f"left_{name}", left.dtype[name]) for name in left.dtype.names or ()]
    if right is not None:
        columns += [
            (f"right_{name}", right.rows.dtype[name]) for name in right.rows.dtype.names or ()
        ]
    rows = np.zeros(left.size, [*columns, ("matched", "?")] if keeps else columns)
    for name in left.dtype.names or ():
        rows[f"left_{name}"] = left[name]
    has = partner >= 0
    if right is not None:
        for name in right.rows.dtype.names or ():
            column = rows[f"right_{name}"]
            column[has] = right.rows[name][partner[has]]
            if column.dtype.kind in "fc":
                column[~has] = np.nan
    if keeps:
        rows["matched"] = has
    return rows
