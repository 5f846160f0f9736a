"""`particle_scorer`: how many particles were decided rightly, and in time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import FilePath, In, Microseconds, Node, Settings
from streamflow.packet import Packet, Table

from ..particles.scoring import KINDS, Particle, match, read_truth, wilson

LATE, MISSED, NOTHING, DEBRIS = "(late)", "(missed)", "(nothing)", "(debris)"

PENDING = np.dtype([("time", "<f8"), ("class", "S64"), ("decided", "<f8")])
"""A decision that is not settled yet: centre of the passage (us), class, when decided (us)."""

Outcome = tuple[str, bool, str, str]
"""Kind ('' for no particle), whether it overlaps, true class, what was decided."""


class ParticleScorerSettings(Settings, frozen=True, kw_only=True):
    """The truth, and what counts as a right decision."""

    truth: FilePath | None = None
    """CSV file with time_us, class, kind (bead, doublet, debris) and overlaps (0, 1); without it,
    decisions are counted only."""
    tolerance_us: Microseconds = 600
    """Largest distance between a particle and the decision about it."""
    deadline_us: Microseconds = 5000
    """A decision made later than the particle's true centre plus this is late, thus not right."""
    reorder_us: Microseconds = 1_000_000
    """How far back in time a decision may lie behind the newest one and still be matched."""


class ParticleScorer(Node[ParticleScorerSettings]):
    """The share of true particles that were given the right class in time, in the run report.

    Rows need `time_us` (centre of the passage) and `class`; `decided_us` says when the decision was
    made (without it: at `time_us`). Decisions and particles are matched one to one, nearest in time
    first, within `tolerance_us`. Beads and doublets count; a decision that matches only
    debris is neither right nor wrong.

    Results: `particles`; `decisions`; `detected` (matched / particles); `correct` (right class in
    time / particles: misses and coincidences count against it); `correct_isolated` (the same over
    the `isolated` beads that overlap nothing); `accuracy_matched` (right / matched); `late`;
    `false` (decisions that match nothing / decisions); 95 % Wilson intervals; `confusion`, from
    true class to decided class, late or missed; `kinds`, the same shares per kind and for overlaps.

    Emits nothing. Keeps the decisions of the last `reorder_us` and counts of the older
    ones: what is settled never changes. A decision older than that, or without a time, counts as
    one that matches nothing, and as a fault.

        score: {kind: particle_scorer, inputs: {rows: classify.particles}, settings: {truth: t.csv}}
    """

    rows = In(Table)
    faults = ("time_not_finite", "out_of_order")

    def open(self) -> None:
        path = self.settings.truth
        particles = read_truth(path, self.name) if path else []
        # In the order of time for settling; the position in the file breaks ties of matching.
        self._order = sorted(range(len(particles)), key=lambda i: particles[i].time)
        self._particles = particles
        self._times = np.array([particles[i].time for i in self._order])
        self._settled = 0
        self._pending = np.empty(0, PENDING)
        self._settle_at = 1024
        self._newest = -np.inf
        self._outcomes: Counter[Outcome] = Counter()
        self._decisions = 0
        self._classes: Counter[str] = Counter()

    def on_rows(self, packet: Packet[Table]) -> None:
        rows = self._decisions_of(packet.data.array)
        self._decisions += len(rows)
        for name, count in zip(*np.unique(rows["class"], return_counts=True), strict=True):
            self._classes[_text(name)] += int(count)
        if self.settings.truth is None or not len(rows):
            return
        is_finite = np.isfinite(rows["time"])
        self.count_fault("time_not_finite", int((~is_finite).sum()))
        self._unmatched(rows[~is_finite])
        rows = rows[is_finite]
        newest = np.maximum.accumulate(np.append(self._newest, rows["time"]))
        is_old = rows["time"] < newest[:-1] - self.settings.reorder_us
        self.count_fault("out_of_order", int(is_old.sum()))
        self._unmatched(rows[is_old])
        self._newest = float(newest[-1])
        self._pending = np.concatenate([self._pending, rows[~is_old]])
        if len(self._pending) >= self._settle_at:
            self._settle(self._newest - self.settings.reorder_us)
            self._settle_at = max(1024, 2 * len(self._pending))

    def finish(self) -> None:
        self._settle(np.inf)

    def snapshot(self) -> dict[str, Any]:
        return {
            "settled": self._settled,
            "pending": self._pending.copy(),
            "settle_at": self._settle_at,
            "newest": self._newest,
            "outcomes": json.dumps([[*outcome, n] for outcome, n in self._outcomes.items()]),
            "decisions": self._decisions,
            "classes": json.dumps(self._classes),
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._settled, self._pending = int(state["settled"]), state["pending"]
        self._settle_at, self._newest = int(state["settle_at"]), float(state["newest"])
        self._outcomes = Counter(
            {(kind, bool(over), true, said): n
             for kind, over, true, said, n in json.loads(state["outcomes"])}
        )  # fmt: skip
        self._decisions = int(state["decisions"])
        self._classes = Counter(json.loads(state["classes"]))
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}

    def results(self) -> dict[str, Any]:
        if self.settings.truth is None:
            return {
                "truth": "no truth",
                "decisions": self._decisions,
                "classes": dict(sorted(self._classes.items())),
            }
        real = self._select(lambda kind, _: kind in ("bead", "doublet"))
        alone = self._select(lambda kind, overlaps: kind == "bead" and not overlaps)
        every, isolated = _tally(real), _tally(alone)
        false = sum(n for (kind, *_), n in self._outcomes.items() if not kind)
        return {
            "truth": self.settings.truth,
            "tolerance_us": self.settings.tolerance_us,
            "deadline_us": self.settings.deadline_us,
            "particles": every["particles"],
            "decisions": self._decisions,
            "detected": every["matched"] / max(1, every["particles"]),
            "correct": every["right"] / max(1, every["particles"]),
            "correct_interval": list(wilson(every["right"], every["particles"])),
            "correct_isolated": isolated["right"] / max(1, isolated["particles"]),
            "correct_isolated_interval": list(wilson(isolated["right"], isolated["particles"])),
            "isolated": isolated["particles"],
            "accuracy_matched": every["right"] / max(1, every["matched"]),
            "late": every["late"] / max(1, every["particles"]),
            "false": false / max(1, self._decisions),
            "confusion": self._confusion(),
            "kinds": self._kinds(),
        }

    def _decisions_of(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The columns that matter, as `PENDING`."""
        names = rows.dtype.names or ()
        if missing := [name for name in ("time_us", "class") if name not in names]:
            raise NodeError(
                self.name,
                f"rows without {missing}; they have {list(names)}; connect a table of decisions",
                kind="particle_scorer",
            )
        out = np.empty(len(rows), PENDING)
        out["time"] = rows["time_us"]
        out["decided"] = rows["decided_us" if "decided_us" in names else "time_us"]
        label = rows["class"]
        if label.dtype.kind == "U":
            label = np.array([name.encode() for name in label.tolist()], "S")
        if label.dtype.kind == "S" and label.dtype.itemsize > PENDING["class"].itemsize:
            raise NodeError(
                self.name,
                f"class names of up to {label.dtype.itemsize} bytes; at most "
                f"{PENDING['class'].itemsize} can be told apart: use shorter names",
                kind="particle_scorer",
            )
        out["class"] = label
        return out

    def _settle(self, time: float) -> None:
        """Match everything that no decision at `time` or later can change any more."""
        settings = self.settings
        later = self._times[self._settled :]
        # A gap in time that no pair can span separates what is settled from what is open. One us
        # more than the tolerance keeps clear of rounding.
        known = np.concatenate([later, self._pending["time"]])
        known = np.sort(np.append(known[known < time], time))
        gaps = np.flatnonzero(np.diff(known) > settings.tolerance_us + 1)
        if not len(gaps):
            return
        cut = known[gaps[-1]]
        end = self._settled + int(np.searchsorted(later, cut, "right"))
        is_settled = self._pending["time"] <= cut
        self._match(sorted(self._order[self._settled : end]), self._pending[is_settled])
        self._settled, self._pending = end, self._pending[~is_settled]

    def _match(self, truth: list[int], decisions: NDArray[Any]) -> None:
        """Settle these particles (indices, ascending) and decisions with each other."""
        order = np.lexsort((decisions["decided"], decisions["class"], decisions["time"]))
        decisions = decisions[order]
        times = np.array([self._particles[i].time for i in truth])
        matched = match(times, decisions["time"], self.settings.tolerance_us)
        for i, j in zip(truth, matched.tolist(), strict=True):
            particle = self._particles[i]
            said = self._said(particle, decisions, j)
            self._outcomes[particle.kind, particle.overlaps, particle.name, said] += 1
        is_unmatched = np.ones(len(decisions), bool)
        is_unmatched[matched[matched >= 0]] = False
        self._unmatched(decisions[is_unmatched])

    def _said(self, particle: Particle, decisions: NDArray[Any], at: int) -> str:
        if at < 0:
            return MISSED
        if decisions["decided"][at] > particle.time + self.settings.deadline_us:
            return LATE
        return _text(decisions["class"][at])

    def _unmatched(self, decisions: NDArray[Any]) -> None:
        for name in decisions["class"].tolist():
            self._outcomes["", False, NOTHING, _text(name)] += 1

    def _select(self, wanted: Callable[[str, bool], bool]) -> dict[Outcome, int]:
        return {out: n for out, n in self._outcomes.items() if out[0] and wanted(out[0], out[1])}

    def _confusion(self) -> dict[str, dict[str, int]]:
        """Counts from true class to what was decided; debris and 'nothing' have their own rows."""
        out: dict[str, dict[str, int]] = {}
        for (kind, _, true, said), count in sorted(self._outcomes.items()):
            row = out.setdefault(DEBRIS if kind == "debris" else true, {})
            row[said] = row.get(said, 0) + count
        return out

    def _kinds(self) -> dict[str, dict[str, Any]]:
        """The shares per kind of particle, and of beads and doublets that overlap another one."""
        groups = {
            name: {out: n for out, n in self._outcomes.items() if out[0] == name} for name in KINDS
        }
        groups["overlapping"] = self._select(lambda kind, over: kind != "debris" and over)
        out: dict[str, dict[str, Any]] = {}
        for name, group in groups.items():
            tally = _tally(group)
            shares: dict[str, Any] = {
                "particles": tally["particles"],
                "detected": tally["matched"] / max(1, tally["particles"]),
            }
            if name != "debris":  # it has no class that could be right
                shares["correct"] = tally["right"] / max(1, tally["particles"])
                shares["correct_interval"] = list(wilson(tally["right"], tally["particles"]))
            out[name] = shares
        return out


def _tally(outcomes: dict[Outcome, int]) -> dict[str, int]:
    """How many particles there were, and how many were matched, right and late."""
    return {
        "particles": sum(outcomes.values()),
        "matched": sum(n for (*_, said), n in outcomes.items() if said != MISSED),
        "right": sum(n for (_, _, true, said), n in outcomes.items() if said == true),
        "late": sum(n for (*_, said), n in outcomes.items() if said == LATE),
    }


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
