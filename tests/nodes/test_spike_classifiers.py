"""Read-outs of spikes: the live one, and the one that scores trials."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamflow_nodes.classifiers.spike_rate_classifier import SpikeRateClassifier
from streamflow_nodes.classifiers.trial_classifier import TrialClassifier
from streamflow_nodes.sources.labelled_recordings import TRIAL

from streamflow.errors import NodeError
from streamflow.packet import SPIKE, Packet, Spikes
from streamflow.testing import drive, table

CLASSES = ["a", "b", "c"]


def spikes(rows: list[tuple[int, int]], start: int, stop: int, units: int = 3) -> Packet[Spikes]:
    return Packet(start, stop, Spikes(np.array(rows, SPIKE), units))


def packets(rows: list[tuple[int, int]], cuts: list[int], end: int) -> list[Packet[Spikes]]:
    """The spikes in packets that are cut at the times `cuts`."""
    edges = [0, *sorted(set(cuts)), end]
    return [
        spikes([row for row in rows if a <= row[0] < b], a, b) for a, b in pairwise(edges) if b > a
    ]


def expected_rates(rows: list[tuple[int, int]], end: int, window: int, period: int) -> list[Any]:
    """The slow obvious way: at every period, look at the spikes of the window."""
    out = []
    last = max((t for t, _ in rows), default=-1)
    for at in range(period, max(end, last + period) + period, period):
        units = [unit for t, unit in rows if at - window <= t < at]
        if units and at <= max(end // period, last // period + 1) * period:
            best = max(range(3), key=lambda unit: (units.count(unit), -unit))
            share = units.count(best) / len(units)
            out.append((at, CLASSES[best].encode(), len(units), share))
    return out


times = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 2)), max_size=25).map(sorted)


@given(times, st.lists(st.integers(1, 999), max_size=6))
def test_live_decisions_are_those_of_a_sliding_window_however_packets_are_cut(
    rows: list[tuple[int, int]], cuts: list[int]
) -> None:
    node = SpikeRateClassifier({"classes": CLASSES, "window": 150e-6, "period": 50e-6})

    out = drive(node, spikes=packets(rows, cuts, 1000))

    assert out.items("decisions").tolist() == expected_rates(rows, 1000, 150, 50)


@given(times, st.lists(st.integers(1, 999), max_size=6), st.integers(0, 8))
def test_trials_are_decided_by_their_own_spikes_and_after_a_restart_too(
    rows: list[tuple[int, int]], cuts: list[int], restart: int
) -> None:
    trials = np.array([(0, 300, b"a", b"1"), (400, 650, b"c", b"2"), (650, 900, b"a", b"3")], TRIAL)
    told = [table(trials[n : n + 1], int(row["start_us"]), int(row["stop_us"]))
            for n, row in enumerate(trials)]  # fmt: skip
    pieces = packets(rows, cuts, 1000)

    out = drive(TrialClassifier({"classes": CLASSES}), trials=told, spikes=pieces)
    again = restarted([*told, *pieces], restart)

    assert again == [str(row) for row in out.items("decisions").tolist()]
    for row, trial in zip(out.items("decisions"), trials, strict=True):
        counts = [
            sum(trial["start_us"] <= t < trial["stop_us"] and u == unit for t, u in rows)
            for unit in range(3)
        ]
        assert row["counts"].tolist() == counts
        assert row["class"] == (CLASSES[int(np.argmax(counts))].encode() if any(counts) else b"")
        assert row["truth"] == trial["class"]


def restarted(given: list[Packet[Any]], restart: int) -> list[Any]:
    """What is decided when the node is replaced by a restored one before packet `restart`."""
    node = TrialClassifier({"classes": CLASSES})
    node.open()
    decided = []
    for number, packet in enumerate(sorted(given, key=lambda p: (p.start, type(p.data) is Spikes))):
        decided += node.advance(packet.start)
        if number == restart:
            before, node = node, TrialClassifier({"classes": CLASSES})
            node.open()
            node.restore(before.snapshot())
        (node.on_spikes if type(packet.data) is Spikes else node.on_trials)(packet)
    return [str(emission.packet.data.array[0].item()) for emission in [*decided, *node.finish()]]


def test_the_report_has_the_confusion_and_the_undecided() -> None:
    trials = np.array([(0, 10, b"a", b""), (10, 20, b"b", b""), (20, 30, b"b", b"")], TRIAL)
    given = [(1, 0), (2, 0), (3, 1), (12, 2)]

    out = drive(
        TrialClassifier({"classes": CLASSES}),
        trials=[table(trials, 0, 30)], spikes=[spikes(given, 0, 30)],
    )  # fmt: skip

    assert out.results["trials"] == 3
    assert out.results["correct"] == pytest.approx(1 / 3)
    assert out.results["confusion"] == {"a": {"a": 1}, "b": {"(no spikes)": 1, "c": 1}}
    assert out.results["undecided"] == 1
    assert out.items("decisions")["share"].tolist() == [pytest.approx(2 / 3), 1, 0]


@pytest.mark.parametrize("kind", [SpikeRateClassifier, TrialClassifier])
def test_spikes_that_do_not_fit_the_classes_are_one_error(kind: Any) -> None:
    for wrong in (spikes([(1, 3)], 0, 5), spikes([(1, 0)], 0, 5, units=4),
                  spikes([(3, 0), (2, 0)], 0, 5)):  # fmt: skip
        with pytest.raises(NodeError, match="spikes of"):
            drive(kind({"classes": CLASSES}), spikes=[wrong])
    for classes in (["a"], ["a", "a"], ["a", ""], ["a", "x" * 65]):
        with pytest.raises(NodeError, match="different names"):
            kind({"classes": classes}).open()
