from __future__ import annotations

import importlib
import textwrap
from pathlib import Path

import pytest

from streamflow.errors import GraphError
from streamflow.graph import load
from streamflow.plan import Plan, make_plan
from streamflow.text import columns, many, size

THIRDPARTY = Path(__file__).parent / "thirdparty"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test package is installed; graph files are written to a folder of their own."""
    monkeypatch.syspath_prepend(THIRDPARTY)
    importlib.invalidate_caches()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(text: str) -> Plan:
    Path("g.yaml").write_text(textwrap.dedent(text))
    return make_plan(load("g.yaml"))


FAN_OUT = """\
    nodes:
      a: {kind: ramp}
      b: {kind: relay, inputs: {values: {from: a.values, max_packet: 8192}}}
      c: {kind: relay, inputs: {values: {from: a.values, when_full: latest, max_packet: 4096}}}
      d: {kind: relay, inputs: {values: {from: b.passed, capacity: 2, window: 3}}}
    processes:
      hot: {nodes: [b, d], restart: on_failure}
    """


def test_edges_within_a_process_pass_by_reference_and_others_share_memory() -> None:
    assert [(edge.spec.name, edge.transport) for edge in plan(FAN_OUT).edges] == [
        ("a.values -> b.values", "shared"),
        ("a.values -> c.values", "shared"),
        ("b.passed -> d.values", "reference"),
    ]


def test_an_edge_holds_at_most_what_waits_and_what_flies() -> None:
    edges = plan(FAN_OUT).edges

    assert [edge.memory for edge in edges] == [(64 + 8) * 8192, (1 + 1) * 4096, 5 * (16 << 20)]
    assert plan(FAN_OUT).memory == sum(edge.memory for edge in edges)


def test_edges_are_numbered_as_in_the_graph() -> None:
    p = plan(FAN_OUT)

    assert [edge.index for edge in p.edges] == [0, 1, 2]
    assert tuple(edge.spec for edge in p.edges) == p.graph.edges


def test_one_segment_serves_all_edges_of_an_output_and_one_packet_more() -> None:
    (segment,) = plan(FAN_OUT).segments

    assert (segment.node, segment.output, segment.edges) == ("a", "values", (0, 1))
    assert segment.slots == (64 + 8) + (2 * 1 + 1) + 1  # a lossy edge's waiting room counts twice
    assert segment.slot_bytes == 8192


def test_an_output_whose_edges_stay_in_the_process_needs_no_segment() -> None:
    p = plan(
        """
        nodes:
          a: {kind: ramp}
          b: {kind: relay, inputs: {values: a.values}}
        processes: {all: {nodes: [a, b]}}
        """
    )

    assert p.segments == ()


def test_slots_cover_edges_that_stay_in_the_process_too() -> None:
    p = plan(
        """
        nodes:
          a: {kind: ramp}
          b: {kind: relay, inputs: {values: {from: a.values, capacity: 10, window: 5}}}
          c: {kind: relay, inputs: {values: {from: a.values, capacity: 3, window: 2}}}
        processes: {all: {nodes: [a, b]}}
        """
    )

    assert p.segments[0].slots == 15 + 5 + 1


def test_processes_start_producers_first() -> None:
    assert [process.name for process in plan(FAN_OUT).processes] == ["a", "hot", "c"]


def test_outputs_that_nothing_reads_are_named() -> None:
    assert plan(FAN_OUT).unused == ("c.passed", "d.passed")


def test_a_plan_prints_as_a_person_reads_it() -> None:
    assert str(plan(FAN_OUT)).splitlines() == [
        "g: 4 nodes, 3 processes, 3 edges, clock fast",
        "",
        "process  nodes                 restart",
        "a        a (ramp)              never",
        "hot      b (relay), d (relay)  on_failure",
        "c        c (relay)             never",
        "",
        "edge                  transport  when full  waiting + window  memory at most",
        "a.values -> b.values  shared     block      64 + 8            576 KiB",
        "a.values -> c.values  shared     latest     1 + 1             8.0 KiB",
        "b.passed -> d.values  reference  block      2 + 3             80 MiB",
        "",
        "memory at most 81 MiB in packets",
        "note: output c.passed goes nowhere",
        "note: output d.passed goes nowhere",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (16 << 20, "16 MiB"), (3 << 29, "1.5 GiB"),
     (1 << 50, "1024 TiB")],
)  # fmt: skip
def test_sizes_are_written_for_people(count: int, text: str) -> None:
    assert size(count) == text


def test_counts_agree_with_their_nouns() -> None:
    assert [many(1, "node"), many(0, "node"), many(2, "process")] == [
        "1 node",
        "0 nodes",
        "2 processes",
    ]


def test_columns_are_aligned_and_lines_have_no_blanks_at_their_ends() -> None:
    assert columns([("a", "b"), ("long", "")]) == ["a     b", "long"]


RETURNS = """\
    nodes:
      a: {kind: ramp}
      b: {kind: relay, inputs: {values: a.values}}
      c: {kind: relay, inputs: {values: {from: b.passed%s}}}
      d: {kind: relay, inputs: {values: c.passed}}
    processes:
      hot: {nodes: [b, d]%s}
    """


def test_a_process_that_restarts_and_could_wait_for_itself_is_refused() -> None:
    with pytest.raises(GraphError) as caught:
        plan(RETURNS % ("", ", restart: on_failure"))

    (fault,) = caught.value.faults
    assert fault.line == 5
    assert "'b' leads to its node 'd' by way of 'c' in process 'c'" in fault.message
    assert "put 'c' into process 'hot'" in fault.message


@pytest.mark.parametrize(
    ("edge", "process"), [("", ""), (", when_full: latest", ", restart: on_failure")]
)
def test_a_process_that_cannot_wait_for_itself_may_be_left_and_entered_again(
    edge: str, process: str
) -> None:
    assert len(plan(RETURNS % (edge, process)).processes) == 3
