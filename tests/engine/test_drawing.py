from __future__ import annotations

import importlib
import textwrap
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamflow.drawing import mermaid, svg, terminal
from streamflow.graph import load
from streamflow.layout import Item, Shape, arrange, heights
from streamflow.plan import Plan, make_plan

THIRDPARTY = Path(__file__).parent / "thirdparty"
SVG = "{http://www.w3.org/2000/svg}"


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


CHAIN = """\
    nodes:
      a: {kind: ramp}
      b: {kind: relay, inputs: {values: a.values}}
    """

BUSY = """\
    nodes:
      a: {kind: ramp}
      b: {kind: relay, inputs: {values: a.values}}
      c: {kind: relay, inputs: {values: b.passed}}
      j: {kind: joiner, inputs: {first: c.passed, second: a.values, third: {from: b.passed, when_full: latest}}}
      k: {kind: joiner, inputs: {first: j.joined, second: j.rejected}}
    processes:
      hot: {nodes: [b, c]}
    """  # noqa: E501  # a whole drawing


# --- layout ---------------------------------------------------------------------------------------


@st.composite
def acyclic(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, str]]]:
    names = [f"n{i}" for i in range(draw(st.integers(1, 9)))]
    pairs = list(combinations(names, 2))
    edges = draw(st.lists(st.sampled_from(pairs), max_size=14)) if pairs else []
    return names, edges


@given(acyclic())
@settings(deadline=None)
def test_every_node_has_one_place_and_every_edge_leads_to_the_right(
    graph: tuple[list[str], list[tuple[str, str]]],
) -> None:
    names, edges = graph

    layout = arrange(names, edges)

    place = {item: index for index, layer in enumerate(layout.layers) for item in layer}
    assert sorted(item.name for item in place if item.name) == sorted(names)
    assert sum(map(len, layout.layers)) == len(place)
    for (source, sink), path in zip(edges, layout.paths, strict=True):
        assert (path[0], path[-1]) == (Item(source), Item(sink))
        assert all(place[b] == place[a] + 1 for a, b in pairwise(path))


@given(acyclic(), st.integers(1, 5))
@settings(deadline=None)
def test_items_of_a_layer_keep_their_order_and_do_not_overlap(
    graph: tuple[list[str], list[tuple[str, str]]], height: int
) -> None:
    layout = arrange(*graph)
    ends = dict.fromkeys(range(len(layout.paths)), 0.0)
    shapes = {item: Shape(float(height), ends, ends) for layer in layout.layers for item in layer}

    tops = heights(layout, shapes, gap=2)

    assert min(tops.values()) == 0
    for layer in layout.layers:
        for above, below in pairwise(layer):
            assert tops[below] - tops[above] >= height + 2 - 1e-6


def test_a_source_stands_just_before_its_first_consumer() -> None:
    layout = arrange(["a", "late", "b", "c"], [("a", "b"), ("b", "c"), ("late", "c")])

    assert [{item.name for item in layer} for layer in layout.layers] == [
        {"a"},
        {"late", "b"},
        {"c"},
    ]


def test_crossings_that_can_be_avoided_are() -> None:
    layout = arrange(["a", "b", "c", "d"], [("a", "d"), ("b", "c")])

    left = [item.name for item in layout.layers[0]]
    right = [item.name for item in layout.layers[1]]
    assert [("d", "c")["ab".index(name)] for name in left] == right


def test_a_chain_is_a_level_line() -> None:
    layout = arrange(["a", "b", "c"], [("a", "b"), ("b", "c")])
    shapes = {
        Item("a"): Shape(3, {0: 1}, {}),
        Item("b"): Shape(5, {1: 4}, {0: 2}),
        Item("c"): Shape(3, {}, {1: 1}),
    }

    tops = heights(layout, shapes, gap=1)

    assert tops[Item("a")] + 1 == pytest.approx(tops[Item("b")] + 2, abs=1e-3)
    assert tops[Item("b")] + 4 == pytest.approx(tops[Item("c")] + 1, abs=1e-3)


# --- SVG ------------------------------------------------------------------------------------------


def test_the_svg_is_xml_that_names_every_node_kind_and_port() -> None:
    root = ElementTree.fromstring(svg(plan(BUSY)))

    texts = {element.text for element in root.iter(f"{SVG}text")}
    assert {"a", "b", "c", "j", "k", "ramp", "joiner", "relay · hot"} <= texts
    assert {"values", "passed", "first", "second", "third", "joined", "rejected"} <= texts


def test_every_edge_is_drawn_with_what_is_special_about_it() -> None:
    root = ElementTree.fromstring(svg(plan(BUSY)))

    drawn = {
        (path.findtext(f"{SVG}title") or "").split(":")[0]: path.get("class")
        for path in root.iter(f"{SVG}path")
    }
    assert drawn == {
        "a.values -> b.values": "edge",
        "b.passed -> c.values": "edge reference",
        "c.passed -> j.first": "edge",
        "a.values -> j.second": "edge",
        "b.passed -> j.third": "edge lossy",
        "j.joined -> k.first": "edge",
        "j.rejected -> k.second": "edge",
    }


def test_no_two_boxes_of_the_svg_overlap_and_all_are_inside() -> None:
    root = ElementTree.fromstring(svg(plan(BUSY)))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    boxes = [
        tuple(float(rect.get(name, 0)) for name in ("x", "y", "width", "height"))
        for group in root.iter(f"{SVG}g")
        for rect in group.iter(f"{SVG}rect")
    ]

    assert len(boxes) == 5
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
    for (x, y, w, h), (x2, y2, w2, h2) in combinations(boxes, 2):
        assert x + w < x2 or x2 + w2 < x or y + h < y2 or y2 + h2 < y


# --- Mermaid --------------------------------------------------------------------------------------


def test_mermaid_groups_processes_and_tells_edges_apart() -> None:
    assert mermaid(plan(BUSY)).splitlines() == [
        "flowchart LR",
        '  n_a["a<br/><small>ramp</small>"]',
        '  subgraph p_hot["process hot"]',
        '    n_b["b<br/><small>relay</small>"]',
        '    n_c["c<br/><small>relay</small>"]',
        "  end",
        '  n_j["j<br/><small>joiner</small>"]',
        '  n_k["k<br/><small>joiner</small>"]',
        '  n_a -->|"values"| n_b',
        '  n_b ==>|"passed to values"| n_c',
        '  n_c -->|"passed to first"| n_j',
        '  n_a -->|"values to second"| n_j',
        '  n_b -.->|"passed to third, latest"| n_j',
        '  n_j -->|"joined to first"| n_k',
        '  n_j -->|"rejected to second"| n_k',
    ]


# --- terminal -------------------------------------------------------------------------------------


def test_a_chain_is_drawn_as_boxes_and_an_arrow() -> None:
    assert terminal(plan(CHAIN)) == textwrap.dedent(
        """\
        ┌──────────┐     ┌────────────────┐
        │ a        │     │ b              │
        │ ramp     │     │ relay          │
        │   values ├────▶┤ values  passed │
        └──────────┘     └────────────────┘
        """
    )


STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
OPEN = {
    "─": ("left", "right"), "│": ("up", "down"), "┌": ("down", "right"), "┐": ("down", "left"),
    "└": ("up", "right"), "┘": ("up", "left"), "├": ("up", "down", "right"),
    "┤": ("up", "down", "left"), "┬": ("left", "right", "down"), "┴": ("left", "right", "up"),
    "┼": ("up", "down", "left", "right"), "▶": ("left", "right"),
}  # fmt: skip
OPPOSITE = {"up": "down", "down": "up", "left": "right", "right": "left"}


def test_no_line_of_a_terminal_drawing_ends_in_nothing() -> None:
    lines = terminal(plan(BUSY)).splitlines()

    for row, line in enumerate(lines):
        for column, letter in enumerate(line):
            for way in OPEN.get(letter, ()):
                down, right = STEPS[way]
                other = lines[row + down][column + right]
                assert OPPOSITE[way] in OPEN.get(other, ()), (row, column, letter, way)


def test_every_connected_input_of_a_terminal_drawing_has_an_arrow() -> None:
    picture = terminal(plan(BUSY))

    assert picture.count("▶") == 7
    assert "▶┤ third" in picture
    assert "in hot" in picture
