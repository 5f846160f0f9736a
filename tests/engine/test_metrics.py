"""Counters lie where both sides look for them, and ledgers that do not add up are named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamflow.metrics import (
    EDGE_KEYS,
    FAULTS,
    IN,
    LOCAL,
    NODE,
    OUT,
    OUTPUT,
    PROCESS,
    Layout,
    balance,
    reference_edge,
    shared_edge,
)

WIDTHS = {"node": NODE, "in": IN, "out": OUT, "local": LOCAL, "output": OUTPUT}
NAMES = st.lists(st.text(max_size=5), unique=True, max_size=5)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(nodes=NAMES, ins=NAMES, outs=NAMES, locals_=NAMES, outputs=NAMES)
def test_every_counter_has_a_word_of_its_own(
    nodes: list[str], ins: list[str], outs: list[str], locals_: list[str], outputs: list[str]
) -> None:
    layout = Layout(nodes, ins, outs, locals_, outputs)
    groups = dict(zip(WIDTHS, [nodes, ins, outs, locals_, outputs], strict=True))

    used = list(range(len(PROCESS)))
    for group, names in groups.items():
        for name in names:
            at = layout.offsets[group, name]
            width = len(WIDTHS[group]) + (FAULTS if group == "node" else 0)
            used += range(at, at + width)

    assert sorted(used) == list(range(layout.words))


def test_counters_are_read_back_by_name() -> None:
    layout = Layout(["a", "b"], ["x -> b.in"], ["b.out -> y"], ["a.out -> b.in"], ["b.out"])
    words = list(range(layout.words))

    for group, name in layout.offsets:
        fields = PROCESS if group == "process" else WIDTHS[group]
        at = layout.offsets[group, name]
        assert layout.read(words, group, name) == dict(
            zip(fields, range(at, at + len(fields)), strict=True)
        )


def test_faults_follow_their_nodes_counters() -> None:
    layout = Layout(["a", "b"], [], [], [], [])
    words = [0] * layout.words
    at = layout.offsets["node", "b"] + len(NODE)
    words[at : at + 2] = [7, 9]

    assert layout.read_faults(words, "b", ["late", "odd"]) == {"late": 7, "odd": 9}
    assert layout.read_faults(words, "a", ["late"]) == {"late": 0}
    assert layout.read_faults(words, "a", []) == {}


def test_every_edge_that_arrives_has_a_histogram_of_its_own() -> None:
    layout = Layout(["a"], ["one", "two"], ["out"], ["three"], [])

    assert layout.histograms == {"one": 0, "two": 1, "three": 2}


def out(**counts: int) -> dict[str, int]:
    return {**dict.fromkeys(OUT, 0), **counts}


def into(**counts: int) -> dict[str, int]:
    return {**dict.fromkeys(IN, 0), **counts}


def settled() -> dict[str, Any]:
    """An edge that has drained: 10 packets made, 1 dropped, 2 lost, 1 seen twice."""
    return shared_edge(
        out(
            produced=10, produced_items=100, acknowledged=7, acknowledged_items=70, dropped=1,
            dropped_items=10, lost=2, lost_items=20, blocked_ns=1_234_567_890,
        ),
        into(received=8, handled=7, duplicates=1, handled_items=70, bytes=999),
    )  # fmt: skip


def test_an_edge_between_processes_is_put_together_from_both_ends() -> None:
    edge = settled()

    assert set(EDGE_KEYS) <= set(edge)
    assert (edge["produced"], edge["dropped"], edge["lost"]) == (10, 1, 2)
    assert (edge["received"], edge["handled"], edge["duplicates"], edge["held"]) == (8, 7, 1, 0)
    assert (edge["items"], edge["items_handled"], edge["bytes"]) == (100, 70, 999)
    assert edge["blocked_s"] == 1.235
    assert balance(edge) == []


def test_an_edge_inside_a_process_has_the_same_keys() -> None:
    local = {**dict.fromkeys(LOCAL, 0), "produced": 5, "handled": 3, "produced_items": 50}

    edge = reference_edge(local)

    assert set(edge) == set(settled())
    assert (edge["in_flight"], edge["held"], edge["lost"]) == (2, 2, 0)
    assert balance(edge) == []


def test_packets_on_their_way_are_no_fault() -> None:
    edge = shared_edge(
        out(produced=10, acknowledged=4, in_flight=6, produced_items=10, acknowledged_items=4),
        into(received=7, handled=5, handled_items=5),
    )

    assert edge["held"] == 2
    assert balance(edge) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"produced": 11}, ["produced 11, explained 10"]),
        ({"lost": 1}, ["produced 10, explained 9"]),
        ({"dropped": 2}, ["produced 10, explained 11"]),
        ({"received": 9}, ["received 9, explained 8"]),
        ({"duplicates": 0}, ["received 8, explained 7"]),
        ({"handled": 6, "received": 7}, ["acknowledged 7, handled 6"]),
        ({"items_handled": 69}, ["70 items acknowledged, 69 handled"]),
    ],
)
def test_a_ledger_that_does_not_add_up_says_where(change: dict[str, int], what: list[str]) -> None:
    assert balance({**settled(), **change}) == what
