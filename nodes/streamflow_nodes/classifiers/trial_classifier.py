"""`trial_classifier`: what a network says of each trial, and how often that is right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import Emission, In, Node, Out, Settings
from streamflow.packet import SPIKE, Packet, Spikes, Table

from ..networks.spike_counts import check_units, output_classes
from ..particles.scoring import wilson
from ..spans import span_of

NOTHING = "(no spikes)"
_OPEN = np.dtype([("start", "<i8"), ("stop", "<i8"), ("class", "S64"), ("recording", "S64")])


class TrialClassifierSettings(Settings, frozen=True, kw_only=True):
    """What the outputs stand for."""

    classes: list[str]
    """The class of each unit, in their order."""


class TrialClassifier(Node[TrialClassifierSettings]):
    """The class whose unit spiked most in each trial, with the truth beside it and in the report.

    A trial is a row with `start_us` and `stop_us`; its `class`, where there is one, is the truth,
    and `recording` its name. Spikes with start <= timestamp < stop count. When the trial is over,
    one row: `start_us, stop_us, recording, truth, class, spikes, share, counts` (of each unit). Of
    units that spiked equally often the first wins; without spikes `class` is empty.

    Results: `trials` with a truth, `correct` (share) with its 95 % Wilson interval, `undecided`
    (trials without spikes), `confusion` from true to decided class.

    Trials may overlap. State: the trials that are not over, the spikes that may be in one, and the
    confusion so far.

        score:
          kind: trial_classifier
          inputs: {trials: digits.trials, spikes: network.spikes}
          settings: {classes: ["0", "1"]}
    """

    trials = In(Table)
    spikes = In(Spikes)
    decisions = Out(Table)

    def open(self) -> None:
        self._names = output_classes(self, self.settings.classes)
        units = len(self._names)
        self._open = np.empty(0, _OPEN)
        self._recent = np.empty(0, SPIKE)  # of trials that are not over, or not known yet
        self._confusion: Counter[tuple[str, str]] = Counter()
        self._row = np.dtype(
            [("start_us", "<i8"), ("stop_us", "<i8"), ("recording", "S64"), ("truth", "S64"),
             ("class", "S64"), ("spikes", "<i8"), ("share", "<f8"), ("counts", "<i4", (units,))]
        )  # fmt: skip

    def on_trials(self, packet: Packet[Table]) -> None:
        rows = packet.data.array
        names = rows.dtype.names or ()
        if missing := [name for name in ("start_us", "stop_us") if name not in names]:
            raise NodeError(
                self.name,
                f"trials without {missing}; they have {list(names)}; connect a table that says "
                "where each trial starts and stops, such as labelled_recordings.trials",
                kind="trial_classifier",
            )
        new = np.zeros(len(rows), _OPEN)
        new["start"], new["stop"] = rows["start_us"], rows["stop_us"]
        for name in ("class", "recording"):
            if name in names:
                new[name] = rows[name]
        if (new["start"] < packet.start).any() or (new["stop"] <= new["start"]).any():
            raise NodeError(
                self.name,
                f"trials of {new['start'].tolist()} to {new['stop'].tolist()} us in a packet that "
                "starts later, or that stop before they start; expected each to be told when it "
                "starts",
                span=span_of(packet),
            )
        self._open = np.concatenate([self._open, new])

    def on_spikes(self, packet: Packet[Spikes]) -> None:
        check_units(self, packet, len(self._names))
        self._recent = np.concatenate([self._recent, packet.data.array])

    def advance(self, time: int) -> Iterator[Emission]:
        is_over = self._open["stop"] <= time
        if is_over.any():
            yield from self._decide(is_over)
        needed = int(self._open["start"].min(initial=time))
        first = int(np.searchsorted(self._recent["timestamp"], needed))
        self._recent = self._recent[first:]

    def finish(self) -> Iterator[Emission]:
        yield from self._decide(np.ones(len(self._open), bool))

    def _decide(self, is_over: NDArray[np.bool_]) -> Iterator[Emission]:
        over, self._open = self._open[is_over], self._open[~is_over]
        for at in np.argsort(over["stop"], kind="stable").tolist():
            start, stop = int(over["start"][at]), int(over["stop"][at])
            first, last = np.searchsorted(self._recent["timestamp"], [start, stop]).tolist()
            counts = np.bincount(self._recent["unit"][first:last], minlength=len(self._names))
            total, best = int(counts.sum()), int(counts.argmax())
            rows = np.zeros(1, self._row)
            rows["start_us"], rows["stop_us"] = start, stop
            rows["recording"], rows["truth"] = over["recording"][at], over["class"][at]
            rows["spikes"], rows["counts"] = total, counts
            if total:
                rows["class"], rows["share"] = self._names[best], counts[best] / total
            if truth := bytes(over["class"][at]).decode(errors="replace"):
                self._confusion[truth, self._names[best].decode() if total else NOTHING] += 1
            yield self.decisions(Table(rows), stop, stop)

    def snapshot(self) -> dict[str, Any]:
        seen = [[truth, said, n] for (truth, said), n in self._confusion.items()]
        return {"open": self._open, "recent": self._recent, "confusion": json.dumps(seen)}

    def restore(self, state: dict[str, Any]) -> None:
        self._open, self._recent = state["open"], state["recent"]
        self._confusion = Counter({(t, s): n for t, s, n in json.loads(state["confusion"])})

    def results(self) -> dict[str, Any]:
        trials = sum(self._confusion.values())
        right = sum(n for (truth, said), n in self._confusion.items() if truth == said)
        confusion: dict[str, dict[str, int]] = {}
        for (truth, said), count in sorted(self._confusion.items()):
            confusion.setdefault(truth, {})[said] = count
        return {
            "trials": trials,
            "correct": right / max(1, trials),
            "correct_interval": list(wilson(right, trials)),
            "undecided": sum(n for (_, said), n in self._confusion.items() if said == NOTHING),
            "confusion": confusion,
        }
