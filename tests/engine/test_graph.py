# ruff: noqa: E501  (messages are compared whole)
from __future__ import annotations

import importlib
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamflow.errors import GraphError
from streamflow.graph import Graph, kinds, load, node_class, shipped
from streamflow.node import kind_of
from streamflow.plan import make_plan

THIRDPARTY = Path(__file__).parent / "thirdparty"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def thirdparty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test package is installed: on the path, with its metadata beside it."""
    monkeypatch.syspath_prepend(THIRDPARTY)
    importlib.invalidate_caches()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where graph files are written; also the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def graph(text: str, *overrides: str, clock: str | None = None) -> Graph:
    Path("g.yaml").write_text(textwrap.dedent(text))
    return load("g.yaml", overrides, clock)


def faults(text: str, *overrides: str, clock: str | None = None) -> list[str]:
    with pytest.raises(GraphError) as caught:
        graph(text, *overrides, clock=clock)
    return str(caught.value).splitlines()


CHAIN = """\
nodes:
  a: {kind: ramp, settings: {count: 3}}
  b: {kind: relay, inputs: {values: a.values}}
  c: {kind: relay, inputs: {values: b.passed}}
"""


# --- what a right graph becomes -------------------------------------------------------------------


def test_unlisted_nodes_have_a_process_each(folder: Path) -> None:
    g = graph(CHAIN + "processes:\n  hot: {nodes: [c, b]}\n")

    assert {name: process.nodes for name, process in g.processes.items()} == {
        "a": ("a",),
        "hot": ("b", "c"),
    }
    assert [node.process for node in g.nodes.values()] == ["a", "hot", "hot"]


def test_nodes_and_processes_come_producers_first_whatever_the_order_in_the_file(
    folder: Path,
) -> None:
    g = graph(
        """
        nodes:
          c: {kind: relay, inputs: {values: b.passed}}
          b: {kind: relay, inputs: {values: a.values}}
          a: {kind: ramp}
        """
    )

    assert list(g.nodes) == ["a", "b", "c"]
    assert list(g.processes) == ["a", "b", "c"]
    assert [edge.name for edge in g.edges] == ["a.values -> b.values", "b.passed -> c.values"]


def test_settings_are_complete_and_plain(folder: Path) -> None:
    g = graph(CHAIN)

    assert g.nodes["a"].settings == {"count": 3, "step": 0.001, "path": None, "label": "x"}


def test_inputs_come_in_the_order_of_the_class_and_not_of_the_file(folder: Path) -> None:
    g = graph(
        """
        nodes:
          a: {kind: ramp}
          j: {kind: joiner, inputs: {third: a.values, second: a.values, first: a.values}}
        """
    )

    assert [edge.input for edge in g.nodes["j"].inputs] == ["first", "second", "third"]
    assert g.nodes["j"].outputs == ("joined", "rejected")


def test_an_optional_input_may_be_left_out(folder: Path) -> None:
    g = graph(
        "nodes: {a: {kind: ramp}, j: {kind: joiner, inputs: {first: a.values, second: a.values}}}"
    )

    assert [edge.input for edge in g.nodes["j"].inputs] == ["first", "second"]


@pytest.mark.parametrize(
    ("written", "capacity", "window"),
    [
        ("when_full: block", 64, 8),
        ("when_full: drop_oldest", 64, 1),
        ("when_full: drop_newest", 64, 1),
        ("when_full: latest", 1, 1),
        ("capacity: 5, window: 3", 5, 3),
        ("when_full: drop_oldest, window: 4", 64, 4),
    ],
)
def test_an_edge_holds_as_much_as_its_policy_says(
    folder: Path, written: str, capacity: int, window: int
) -> None:
    g = graph(
        f"nodes: {{a: {{kind: ramp}}, b: {{kind: relay, inputs: {{values: {{from: a.values, {written}}}}}}}}}"
    )

    assert (g.edges[0].capacity, g.edges[0].window) == (capacity, window)
    assert g.edges[0].max_packet == 16 << 20


def test_an_edge_knows_its_line(folder: Path) -> None:
    assert [edge.line for edge in graph(CHAIN).edges] == [3, 4]


def test_paths_in_the_file_are_relative_to_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "g.yaml").write_text(
        "nodes: {p: {kind: picky, settings: {files: [x.raw, /abs/y.raw], gain: {value: 1, table: t.csv}, weights: {w: w.npz}}}}"
    )

    values = load("deep/g.yaml").nodes["p"].settings

    assert values["files"] == [str(folder / "deep" / "x.raw"), "/abs/y.raw"]
    assert values["gain"] == {"value": 1.0, "table": str(folder / "deep" / "t.csv")}
    assert values["weights"] == {"w": str(folder / "deep" / "w.npz")}


def test_paths_in_overrides_are_relative_to_where_one_stands(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "g.yaml").write_text(CHAIN)

    g = load("deep/g.yaml", ["a.path=x.raw"])

    assert g.nodes["a"].settings["path"] == str(folder / "x.raw")


def test_a_path_may_begin_at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")

    assert graph(CHAIN, "a.path=~/x.raw").nodes["a"].settings["path"] == "/home/someone/x.raw"


@pytest.mark.parametrize(
    ("override", "setting", "expected"),
    [
        ("a.label=010", "label", "010"),
        ("a.label=no", "label", "no"),
        ("a.label=1e3", "label", "1e3"),
        ("a.label=[x", "label", "[x"),
        ("a.label=k: v", "label", "k: v"),
        ("a.label=", "label", ""),
        ("a.label='quoted'", "label", "quoted"),
        ("a.label=a=b", "label", "a=b"),
        ("a.count=010", "count", 10),
        ("a.step=1e-3", "step", 0.001),
        ("a.path=null", "path", None),
    ],
)
def test_an_override_is_yaml_but_text_stays_text(
    folder: Path, override: str, setting: str, expected: object
) -> None:
    found = graph(CHAIN, override).nodes["a"].settings[setting]

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("override", "setting", "expected"),
    [
        ("p.names=[010, no]", "names", ["010", "no"]),
        ("p.by_name={x: 010}", "by_name", {"x": 10}),
        ("p.pair=[010, 010]", "pair", [10, "010"]),
        ("p.note=null", "note", None),
        ("p.note=010", "note", "010"),
        ("p.limit=null", "limit", None),
        ("p.mode=slow", "mode", "slow"),
    ],
)
def test_text_inside_lists_stays_text_too(
    folder: Path, override: str, setting: str, expected: object
) -> None:
    text = "nodes: {p: {kind: picky, settings: {files: [], limit: 1}}}"
    extra = ["p.limit=1"] if setting == "mode" else []

    found = graph(text, override, *extra).nodes["p"].settings[setting]

    assert (list(found) if isinstance(found, tuple) else found) == expected


def test_the_last_of_two_overrides_holds(folder: Path) -> None:
    assert graph(CHAIN, "a.count=4", "a.count=5").nodes["a"].settings["count"] == 5


def test_an_override_takes_the_place_of_a_wrong_setting(folder: Path) -> None:
    g = graph("nodes: {a: {kind: ramp, settings: {count: -1}}}", "a.count=5")

    assert g.nodes["a"].settings["count"] == 5


def test_the_clock_can_be_replaced(folder: Path) -> None:
    assert graph(CHAIN + "clock: paced\nspeed: 2\n").clock == "paced"
    assert graph(CHAIN + "clock: paced\n", clock="fast").clock == "fast"


def test_limits_and_restart_are_read(folder: Path) -> None:
    g = graph(
        CHAIN
        + "limits: {drain_seconds: 3}\n"
        + "processes:\n  x: {nodes: [a], restart: on_failure}\n"
        + "  y: {nodes: [b], restart: {when: on_failure, maximum: 2, window: 9, backoff: 0.5}}\n"
    )

    assert g.limits.drain_seconds == 3
    assert g.limits.handler_seconds == 30
    assert g.processes["x"].restart.when == "on_failure"
    assert g.processes["x"].restart.maximum == 5
    assert g.processes["y"].restart.backoff == 0.5
    assert g.processes["c"].restart.when == "never"


def test_another_interpreter_is_given_by_path_or_by_name(folder: Path) -> None:
    (folder / "venv").symlink_to(sys.executable)

    g = graph(
        CHAIN + "processes:\n  x: {nodes: [a], python: ./venv}\n  y: {nodes: [b], python: sh}\n"
    )

    assert g.processes["x"].python == str(folder / "venv")  # the link itself: it is the environment
    assert os.path.isabs(g.processes["y"].python or "")
    assert g.processes["c"].python is None


def test_processes_may_form_a_loop_where_nodes_do_not(folder: Path) -> None:
    g = graph(CHAIN + "processes:\n  x: {nodes: [a, c]}\n")

    assert list(g.processes) == ["x", "b"]


def test_the_name_is_that_of_the_file_or_of_the_folder(folder: Path) -> None:
    (folder / "demo").mkdir()
    (folder / "demo" / "graph.yaml").write_text(CHAIN)

    assert graph(CHAIN).name == "g"
    assert load("demo").name == "demo"
    assert load("demo/graph.yaml").name == "demo"
    assert graph("name: other\n" + CHAIN).name == "other"


# --- the digest -----------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_content_and_not_of_the_text(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "g.yaml").write_text(
        "# the same graph\nname: g\nnodes:\n"
        "  c:\n    inputs: {values: {from: b.passed, when_full: block}}\n    kind: relay\n"
        "  a: {settings: {label: x, count: 3}, kind: ramp}\n"
        "  b: {kind: relay, inputs: {values: a.values}}\n"
    )

    assert load("other/g.yaml").digest == graph(CHAIN).digest
    assert len(graph(CHAIN).digest) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("count: 3", "count: 4"),
        lambda text: text + "clock: paced\n",
        lambda text: text + "limits: {drain_seconds: 1}\n",
        lambda text: text + "processes: {x: {nodes: [a, b]}}\n",
        lambda text: text.replace("values: b.passed", "values: {from: b.passed, capacity: 3}"),
        lambda text: text.replace("count: 3", "count: 3, path: x.raw"),
    ],
)
def test_the_digest_changes_with_what_the_graph_says(folder: Path, change: Any) -> None:
    assert graph(change(CHAIN)).digest != graph(CHAIN).digest


def test_the_digest_covers_overrides(folder: Path) -> None:
    assert graph(CHAIN, "a.count=4").digest == graph(CHAIN.replace("3", "4")).digest


def test_the_digest_is_the_same_wherever_the_graph_lies(folder: Path) -> None:
    text = CHAIN.replace("count: 3", "count: 3, path: x.raw")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "g.yaml").write_text(text)

    assert load("elsewhere/g.yaml").digest == graph(text).digest


# --- one test per message -------------------------------------------------------------------------

A = "nodes:\n  a: {kind: ramp}\n"

MESSAGES = {
    "not a mapping": ("- 1\n", "g.yaml:1: the file holds [1]; expected a mapping with 'nodes'"),
    "no nodes": ("name: x\n", "g.yaml:1: 'nodes' is missing"),
    "empty graph": ("name: x\nnodes: {}\n", "g.yaml:2: the graph has no nodes; expected at least one under 'nodes'"),
    "null nodes": ("nodes:\n", "g.yaml:1: the graph has no nodes; expected at least one under 'nodes'"),
    "nodes is a list": ("nodes: [a]\n", "g.yaml:1: 'nodes' is ['a']; expected a mapping"),
    "unknown key": (A + "procesess: {}\n", "g.yaml:3: unknown key 'procesess'; expected: nodes, name, processes, hosts, insecure, clock, speed, limits; did you mean 'processes'?"),
    "unknown error policy": ("nodes:\n  a: {kind: ramp, on_error: skip}\n", "g.yaml:2: node 'a': 'on_error' is 'skip'; expected one of: dead_letter, skip_and_count, stop"),
    "graph name": ("name: Flow cytometry\n" + A, "g.yaml:1: 'name' is 'Flow cytometry'; expected name or null"),
    "clock": (A + "clock: fats\n", "g.yaml:3: 'clock' is 'fats'; expected one of: fast, paced, realtime; did you mean 'fast'?"),
    "speed": (A + "speed: 0\n", "g.yaml:3: 'speed' is 0; expected number > 0 and <= 1000000"),
    "unknown limit": (A + "limits: {drain_second: 3}\n", "g.yaml:3: limits: unknown key 'drain_second'; expected: inline_bytes, handler_seconds, drain_seconds, dead_letters, start_seconds; did you mean 'drain_seconds'?"),
    "limit": (A + "limits: {drain_seconds: -3}\n", "g.yaml:3: limits: 'drain_seconds' is -3; expected number > 0 and <= 1000000000"),
    "node name": ("nodes:\n  Camera: {kind: ramp}\n", "g.yaml:2: node name 'Camera': expected small letters, digits and '_', beginning with a letter"),
    "numeric node name": ("nodes:\n  1: {kind: ramp}\n", "g.yaml:2: node name 1: expected small letters, digits and '_', beginning with a letter"),
    "node is text": ("nodes:\n  a: ramp\n", "g.yaml:2: node 'a' is 'ramp'; expected a mapping with 'kind'"),
    "no kind": ("nodes:\n  a: {}\n", "g.yaml:2: node 'a': 'kind' is missing"),
    "kind is a number": ("nodes:\n  a: {kind: 3}\n", "g.yaml:2: node 'a': 'kind' is 3; expected text; quote it if it is text: \"3\""),
    "unknown node key": ("nodes:\n  a: {kind: ramp, setings: {}}\n", "g.yaml:2: node 'a': unknown key 'setings'; expected: kind, inputs, settings, on_error; did you mean 'settings'?"),
    "unknown kind": ("nodes:\n  a: {kind: rmap}\n", "g.yaml:2: node 'a': unknown kind 'rmap'; did you mean 'ramp'?"),
    "kind unlike any": ("nodes:\n  a: {kind: zzzzzz}\n", "g.yaml:2: node 'a': unknown kind 'zzzzzz'; `streamflow nodes` lists them"),
    "settings is a list": ("nodes:\n  a: {kind: ramp, settings: [1]}\n", "g.yaml:2: node 'a': 'settings' is [1]; expected a mapping"),
    "unknown setting": ("nodes:\n  a:\n    kind: ramp\n    settings:\n      cuont: 3\n", "g.yaml:5: node 'a': ramp has no setting 'cuont'; it has: count, step, path, label; did you mean 'count'?"),
    "setting out of range": ("nodes:\n  a:\n    kind: ramp\n    settings:\n      count: 0\n", "g.yaml:5: node 'a': setting 'count' is 0; expected whole number > 0"),
    "setting of a wrong type": ("nodes:\n  a: {kind: ramp, settings: {count: many}}\n", "g.yaml:2: node 'a': setting 'count' is 'many'; expected whole number > 0"),
    "float for int": ("nodes:\n  a: {kind: ramp, settings: {count: 1.5}}\n", "g.yaml:2: node 'a': setting 'count' is 1.5; expected whole number > 0"),
    "number for text": ("nodes:\n  a: {kind: ramp, settings: {label: 010}}\n", "g.yaml:2: node 'a': setting 'label' is 10; expected text; quote it if it is text: \"010\""),
    "empty path": ("nodes:\n  a: {kind: ramp, settings: {path: ''}}\n", "g.yaml:2: node 'a': setting 'path' is ''; expected `str` of length >= 1"),
    "choice": ("nodes:\n  p: {kind: picky, settings: {files: [], mode: fsat}}\n", "g.yaml:2: node 'p': setting 'mode' is 'fsat'; expected one of: fast, slow; did you mean 'fast'?"),
    "missing setting": ("nodes:\n  p: {kind: picky}\n", "g.yaml:2: node 'p': setting 'files' is missing; expected list of path"),
    "setting inside a list": ("nodes:\n  p:\n    kind: picky\n    settings:\n      files:\n        - a\n        - 3\n", "g.yaml:7: node 'p': setting 'files[1]' is 3; expected `str`, got `int`; quote it if it is text: \"3\""),
    "setting inside a mapping": ("nodes:\n  p:\n    kind: picky\n    settings:\n      files: []\n      gain:\n        value: x\n", "g.yaml:7: node 'p': setting 'gain.value' is 'x'; expected `float`, got `str`"),
    "settings that disagree": ("nodes:\n  p: {kind: picky, settings: {files: [], mode: slow}}\n", "g.yaml:2: node 'p': settings: mode slow needs a limit"),
    "unknown input": (A + "  b: {kind: relay, inputs: {values: a.values, vlaues: a.values}}\n", "g.yaml:3: node 'b': relay has no input 'vlaues'; it has: values; did you mean 'values'?"),
    "input of a source": ("nodes:\n  a: {kind: ramp, inputs: {x: b.y}}\n  b: {kind: ramp}\n", "g.yaml:2: node 'a': ramp has no input 'x'; it has: none, it is a source"),
    "input not connected": (A + "  b: {kind: relay}\n", "g.yaml:3: node 'b': input 'values' is not connected; expected `inputs: {values: node.output}`; Tensor: a.values"),
    "unknown producer": (A + "  b: {kind: relay, inputs: {values: aa.values}}\n", "g.yaml:3: node 'b': input 'values': the graph has no node 'aa'; did you mean 'a'?"),
    "unknown output": (A + "  b: {kind: relay, inputs: {values: a.vales}}\n", "g.yaml:3: node 'b': input 'values': node 'a' (ramp) has no output 'vales'; it has: values; did you mean 'values'?"),
    "output of a sink": ("nodes:\n  t: {kind: text_sink, inputs: {lines: p.lines}}\n  p: {kind: picky, settings: {files: []}}\n  b: {kind: relay, inputs: {values: t.x}}\n", "g.yaml:4: node 'b': input 'values': node 't' (text_sink) has no output 'x'; it has: none, it is a sink"),
    "payloads differ": (A + "  t: {kind: text_sink, inputs: {lines: a.values}}\n  p: {kind: picky, settings: {files: []}}\n", "g.yaml:3: node 't': input 'lines': takes Text, but a.values carries Tensor; Text: p.lines"),
    "no output named": (A + "  b: {kind: relay, inputs: {values: a}}\n", "g.yaml:3: node 'b': input 'values': 'a'; expected node.output; did you mean a.values?"),
    "input is a number": (A + "  b: {kind: relay, inputs: {values: 3}}\n", "g.yaml:3: node 'b': input 'values': 3; expected node.output"),
    "two producers": (A + "  b: {kind: relay, inputs: {values: [a.values, a.values]}}\n", "g.yaml:3: node 'b': input 'values': 'from' is a list, but an input has one producer; join the streams in a node"),
    "two producers under from": (A + "  b: {kind: relay, inputs: {values: {from: [a.values]}}}\n", "g.yaml:3: node 'b': input 'values': 'from' is a list, but an input has one producer; join the streams in a node"),
    "no from": (A + "  b: {kind: relay, inputs: {values: {capacity: 3}}}\n", "g.yaml:3: node 'b': input 'values': 'from' is missing"),
    "policy": (A + "  b: {kind: relay, inputs: {values: {from: a.values, when_full: drop}}}\n", "g.yaml:3: node 'b': input 'values': 'when_full' is 'drop'; expected one of: block, drop_newest, drop_oldest, latest"),
    "capacity": (A + "  b: {kind: relay, inputs: {values: {from: a.values, capacity: 0}}}\n", "g.yaml:3: node 'b': input 'values': 'capacity' is 0; expected whole number >= 1 and <= 1048576 or null"),
    "max_packet": (A + "  b: {kind: relay, inputs: {values: {from: a.values, max_packet: 16 MiB}}}\n", "g.yaml:3: node 'b': input 'values': 'max_packet' is '16 MiB'; expected whole number >= 4096 and <= 17179869184"),
    "latest with capacity": (A + "  b: {kind: relay, inputs: {values: {from: a.values, when_full: latest, capacity: 4}}}\n", "g.yaml:3: node 'b': input 'values': 'capacity' is 4; 'latest' always has 1: leave it out"),
    "edge key": (A + "  b: {kind: relay, inputs: {values: {from: a.values, whenfull: block}}}\n", "g.yaml:3: node 'b': input 'values': unknown key 'whenfull'; expected: from, when_full, capacity, window, max_packet, compress; did you mean 'when_full'?"),
    "loop": ("nodes:\n  a: {kind: relay, inputs: {values: c.passed}}\n  b: {kind: relay, inputs: {values: a.passed}}\n  c: {kind: relay, inputs: {values: b.passed}}\n", "g.yaml:2: node 'a': a -> b -> c -> a is a loop; a graph has none: cut one edge"),
    "loop of one": ("nodes:\n  a: {kind: relay, inputs: {values: a.passed}}\n", "g.yaml:2: node 'a': a -> a is a loop; a graph has none: cut one edge"),
    "process name": (A + "processes:\n  Hot: {nodes: [a]}\n", "g.yaml:4: process name 'Hot': expected small letters, digits and '_', beginning with a letter"),
    "process is a list": (A + "processes:\n  hot: [a]\n", "g.yaml:4: process 'hot' is ['a']; expected a mapping with 'nodes'"),
    "process without nodes": (A + "processes:\n  hot: {}\n", "g.yaml:4: process 'hot': 'nodes' is missing"),
    "process with no nodes": (A + "processes:\n  hot: {nodes: []}\n", "g.yaml:4: process 'hot': 'nodes' is []; expected `array` of length >= 1"),
    "process with an unknown node": (A + "processes:\n  hot:\n    nodes:\n      - a\n      - aa\n", "g.yaml:7: process 'hot': the graph has no node 'aa'; did you mean 'a'?"),
    "node in two processes": (A + "processes:\n  hot: {nodes: [a]}\n  cold: {nodes: [a]}\n", "g.yaml:5: process 'cold': node 'a' is in process 'hot' too; a node has one process"),
    "node twice in a process": (A + "processes:\n  hot: {nodes: [a, a]}\n", "g.yaml:4: process 'hot': node 'a' is twice here; a node has one process"),
    "process named like a node": (A + "  b: {kind: ramp}\nprocesses:\n  a: {nodes: [b]}\n", "g.yaml:5: process 'a' has the name of a node that it does not hold; rename it"),
    "reserved on a process": (A + "processes:\n  hot: {nodes: [a], affinity: pi}\n", "g.yaml:4: process 'hot': 'affinity' is reserved for later work and does nothing yet; remove it"),
    "restart": (A + "processes:\n  hot: {nodes: [a], restart: always}\n", "g.yaml:4: process 'hot': 'restart' is 'always'; expected one of: never, on_failure or mapping with when, maximum, window, backoff"),
    "restart without when": (A + "processes:\n  hot: {nodes: [a], restart: {maximum: 3}}\n", "g.yaml:4: process 'hot': restart: 'when' is missing; expected never or on_failure"),
    "restart key": (A + "processes:\n  hot: {nodes: [a], restart: {when: never, maximun: 3}}\n", "g.yaml:4: process 'hot': restart: unknown key 'maximun'; expected: when, maximum, window, backoff; did you mean 'maximum'?"),
    "python": (A + "processes:\n  hot: {nodes: [a], python: ./nowhere/python}\n", "g.yaml:4: process 'hot': python: './nowhere/python' is no program here; expected a Python interpreter's path"),
    "python by name": (A + "processes:\n  hot: {nodes: [a], python: pyhton9}\n", "g.yaml:4: process 'hot': python: 'pyhton9' is no program here; expected a Python interpreter's path"),
}  # fmt: skip


@pytest.mark.parametrize("reserved", ["affinity", "priority", "memory_limit"])
def test_reserved_keys_are_refused(folder: Path, reserved: str) -> None:
    told = faults(A + f"processes:\n  hot: {{nodes: [a], {reserved}: 1}}\n")

    assert told == [
        f"g.yaml:4: process 'hot': '{reserved}' is reserved for later work and does nothing yet; remove it"
    ]


@pytest.mark.parametrize(("text", "message"), MESSAGES.values(), ids=list(MESSAGES))
def test_each_fault_is_told_and_nothing_else(folder: Path, text: str, message: str) -> None:
    assert faults(text) == [message]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a.count", "--set a.count: expected node.setting=value"),
        ("count=3", "--set count=3: expected node.setting=value"),
        ("=", "--set =: expected node.setting=value"),
        ("b.count=3", "--set b.count=3: the graph has no node 'b'; it has: a"),
        ("a.cuont=3", "--set a.cuont=3: node 'a': ramp has no setting 'cuont'; it has: count, step, path, label; did you mean 'count'?"),
        ("a.count=0", "--set a.count=0: node 'a': setting 'count' is 0; expected whole number > 0"),
        ("a.count=x y", "--set a.count=x y: node 'a': setting 'count' is 'x y'; expected whole number > 0"),
        ("a.count=!x 3", "--set a.count=!x 3: the value is tag '!x': tags are refused; write a plain value"),
    ],
)  # fmt: skip
def test_each_fault_of_an_override_names_it(folder: Path, override: str, message: str) -> None:
    assert faults(A, override) == [message]


def test_settings_that_disagree_because_of_an_override_name_it(folder: Path) -> None:
    told = faults("nodes:\n  p: {kind: picky, settings: {files: []}}\n", "p.mode=slow")

    assert told == [
        "g.yaml:2: node 'p': settings: mode slow needs a limit (with --set p.mode=slow)"
    ]


def test_an_unknown_clock_is_told(folder: Path) -> None:
    assert faults(A, clock="slow") == [
        "--clock: 'slow' is no pace; expected one of: realtime, paced, fast"
    ]


def test_every_fault_of_a_node_s_settings_is_told_at_once(folder: Path) -> None:
    told = faults(
        """
        nodes:
          a:
            kind: ramp
            settings:
              count: 0
              step: -1
              lable: x
        """
    )

    assert [line.split(":")[1] for line in told] == ["6", "7", "8"]


def test_faults_come_in_the_order_of_the_file_and_overrides_last(folder: Path) -> None:
    told = faults(
        """
        nodes:
          a: {kind: rmap}
          b: {kind: relay, inputs: {values: x.values}}
        clock: never
        """,
        "b.x=1",
    )

    assert [line.split(" ")[0] for line in told] == ["g.yaml:3:", "g.yaml:4:", "g.yaml:5:", "--set"]


def test_a_node_of_unknown_kind_brings_no_further_faults_about_its_ports(folder: Path) -> None:
    told = faults(
        "nodes:\n  a: {kind: rmap, settings: {x: 1}}\n  b: {kind: relay, inputs: {values: a.values}}\n"
    )

    assert told == ["g.yaml:2: node 'a': unknown kind 'rmap'; did you mean 'ramp'?"]


def test_a_very_wrong_graph_is_told_in_a_bounded_number_of_lines(folder: Path) -> None:
    nodes = "".join(f"  n{i}: {{kind: relay, inputs: {{values: x{i}.y}}}}\n" for i in range(2000))

    told = faults("nodes:\n" + nodes)

    assert len(told) == 101
    assert told[-1] == "g.yaml: and 1900 more faults"


def test_a_graph_longer_than_the_stack_is_deep_is_checked(folder: Path) -> None:
    nodes = "".join(
        f"  n{i}: {{kind: relay, inputs: {{values: n{i - 1}.passed}}}}\n" for i in range(1, 1500)
    )

    g = graph(
        "nodes:\n" + nodes + "  n0: {kind: relay, inputs: {values: a.values}}\n  a: {kind: ramp}\n"
    )

    assert next(iter(g.nodes)) == "a"
    assert len(g.edges) == 1500


# --- which graph ----------------------------------------------------------------------------------


def test_a_graph_that_is_not_there_is_told_with_those_that_are(folder: Path) -> None:
    with pytest.raises(GraphError) as caught:
        load("nosuch")

    names = ", ".join(shipped()) or "none"
    assert str(caught.value).startswith(
        f"nosuch: no such graph; expected a file, or a shipped graph ({names})"
    )


def test_a_folder_without_a_graph_file_is_no_graph(folder: Path) -> None:
    (folder / "empty").mkdir()

    with pytest.raises(GraphError, match="no such graph"):
        load("empty")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "graphs").glob("*/graph.yaml")), ids=lambda p: p.parent.name
)
def test_every_shipped_graph_is_found_by_its_name(path: Path) -> None:
    assert load(path.parent.name).path == str(path)


# --- kinds ----------------------------------------------------------------------------------------


def test_kinds_of_a_third_party_are_found_by_its_entry_point() -> None:
    found = kinds()

    assert found["ramp"].module == "thirdparty_nodes.ramp"
    assert found["ramp"].package == "thirdparty_nodes"
    assert (found["relay"].folder, found["text_sink"].folder) == ("processors", "sinks")


def test_what_is_no_kind_is_not_listed() -> None:
    assert not {"tables", "misnamed", "_private", "maths", "__init__"} & set(kinds())


def test_listing_kinds_imports_none_of_them() -> None:
    for name in [name for name in sys.modules if name.startswith("thirdparty_nodes.")]:
        del sys.modules[name]

    kinds()

    assert not [name for name in sys.modules if name.startswith("thirdparty_nodes.")]


def test_loading_a_graph_imports_only_its_kinds(folder: Path) -> None:
    for name in [name for name in sys.modules if name.startswith("thirdparty_nodes.")]:
        del sys.modules[name]

    graph(A)

    loaded = {name for name in sys.modules if name.startswith("thirdparty_nodes.")}
    assert loaded == {"thirdparty_nodes.ramp"}


def test_the_class_of_a_kind_is_named_after_its_file() -> None:
    assert node_class("text_sink").__name__ == "TextSink"


def test_every_shipped_kind_has_a_class_that_is_called_like_its_file() -> None:
    shipped_kinds = [kind for kind, file in kinds().items() if file.package == "streamflow_nodes"]
    assert shipped_kinds

    assert [kind_of(node_class(kind)) for kind in shipped_kinds] == shipped_kinds


def test_no_kind_name_is_used_twice() -> None:
    assert {kind: file.also for kind, file in kinds().items() if file.also} == {}


def test_an_import_that_fails_names_the_extra_to_install(folder: Path) -> None:
    (told,) = faults("nodes:\n  a: {kind: needs_extra}\n")

    assert told.startswith("g.yaml:2: node 'a': kind 'needs_extra': ")
    assert told.endswith(
        "needs_extra.py: cannot be imported: No module named 'exotic_camera_sdk'; "
        "install it with: pip install 'thirdparty-nodes[exotic]'"
    )


def test_a_kind_whose_module_fails_is_told_with_the_reason(folder: Path) -> None:
    (told,) = faults("nodes:\n  a: {kind: broken}\n")

    assert told.endswith(
        "broken.py: cannot be imported: TypeError: Broken: input 'lines' needs a method "
        "on_lines(self, packet)"
    )


def test_a_class_that_is_no_node_is_told(folder: Path) -> None:
    (told,) = faults("nodes:\n  a: {kind: not_a_node}\n")

    assert told.endswith(
        "not_a_node.py: NotANode is no Node; expected `class NotANode(Node[NotANodeSettings])`"
    )


def test_a_file_without_the_class_of_its_name_is_told(folder: Path) -> None:
    (told,) = faults("nodes:\n  a: {kind: misnamed}\n")

    assert told == (
        "g.yaml:2: node 'a': unknown kind 'misnamed': its file "
        f"{THIRDPARTY / 'thirdparty_nodes' / 'sinks' / 'misnamed.py'} has no class Misnamed; "
        "expected `class Misnamed(Node[MisnamedSettings])`"
    )


def _install(folder: Path, name: str, package: str, module: str = "") -> None:
    """A distribution with an entry point for node kinds, and maybe one kind."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[streamflow.nodes]\n{name} = {package}\n")
    if module:
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
        (folder / package / f"{module}.py").write_text("class Ramp:\n    pass\n")


def test_a_kind_in_two_packages_is_told_where_it_is_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(folder / "site", "zweite", "zweite_nodes", "ramp")
    monkeypatch.syspath_prepend(folder / "site")

    (told,) = faults("nodes:\n  a: {kind: ramp}\n")

    first = THIRDPARTY / "thirdparty_nodes" / "ramp.py"
    second = folder / "site" / "zweite_nodes" / "ramp.py"
    assert told == (
        f"g.yaml:2: node 'a': kind 'ramp' is ambiguous: {first} and {second}; rename one of them"
    )


def test_an_entry_point_that_leads_nowhere_is_told_with_an_unknown_kind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(folder / "site", "gone", "gone_nodes")
    monkeypatch.syspath_prepend(folder / "site")

    (told,) = faults("nodes:\n  a: {kind: zzzzzz}\n")

    assert told.endswith("(entry point 'gone': package 'gone_nodes' is not installed)")


# --- hostile --------------------------------------------------------------------------------------

words = st.sampled_from(
    ["nodes", "kind", "inputs", "settings", "processes", "restart", "limits", "from", "ramp",
     "relay", "joiner", "picky", "a", "b", "a.values", "b.passed", "values", "first", "count",
     "when_full", "latest", "capacity", "hot", "python", "files", "mode", "clock", "name"]
)  # fmt: skip
data = st.recursive(
    words | st.none() | st.booleans() | st.integers(-5, 5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=15,
)


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return "null" if value is None else str(value).lower()


@given(
    st.fixed_dictionaries(
        {"nodes": st.dictionaries(words, st.fixed_dictionaries({"kind": words}, optional={"inputs": data, "settings": data}), max_size=4) | data},
        optional={"processes": data, "limits": data, "clock": data, "name": data, "speed": data},
    ),
    st.lists(st.tuples(words, words, data), max_size=2),
)  # fmt: skip
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_mapping_is_either_a_graph_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: Any, sets: list[tuple[str, str, Any]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(_yaml(content))
    overrides = [f"{node}.{setting}={_yaml(value)}" for node, setting, value in sets]

    try:
        found = load(path, overrides)
        told = [found.digest]
    except GraphError as error:
        told = [str(fault) for fault in error.faults]

    assert all(told)


# --- other hosts ----------------------------------------------------------------------------------

HOSTS = """\
hosts:
  there: {address: "%s"%s}
processes:
  hot: {nodes: [b], host: %s}
"""


def test_a_process_can_be_on_another_host(folder: Path) -> None:
    g = graph(CHAIN + HOSTS % ("10.0.0.2:7600", ", key: there.key", "there"))
    assert g.processes["hot"].host == "there"
    assert g.hosts["there"].key == str(folder / "there.key")
    assert "hot" in str(make_plan(g))
    assert [edge.transport for edge in make_plan(g).edges] == ["tcp", "tcp"]


@pytest.mark.parametrize("more", ["insecure: true\n", ""])
def test_only_a_loopback_address_or_an_insecure_graph_does_without_keys(
    folder: Path, more: str
) -> None:
    assert graph(CHAIN + HOSTS % ("127.0.0.1:7600", "", "there")).hosts["there"].key is None
    if more:
        assert graph(more + CHAIN + HOSTS % ("10.0.0.2:7600", "", "there")).insecure
    else:
        assert faults(CHAIN + HOSTS % ("10.0.0.2:7600", "", "there")) == [
            "g.yaml:6: host 'there': 10.0.0.2:7600 is not this machine and has no 'key'; expected "
            "the file with its public key (streamflow keys new), or `insecure: true`"
        ]


def test_a_host_that_the_graph_does_not_name_is_told(folder: Path) -> None:
    assert faults(CHAIN + HOSTS % ("127.0.0.1:7600", "", "ther")) == [
        "g.yaml:8: process 'hot': the graph has no host 'ther'; it has: there; did you mean 'there'?"
    ]


def test_an_address_has_a_port(folder: Path) -> None:
    (told,) = faults(CHAIN + HOSTS % ("10.0.0.2", ", key: k", "there"))
    assert told.startswith("g.yaml:6: host 'there': 'address' is ")


def test_another_python_on_another_host_is_an_absolute_path_there(folder: Path) -> None:
    text = CHAIN + HOSTS % ("127.0.0.1:7600", "", "there")
    assert (
        graph(text.replace("host: there", "host: there, python: /no/such")).processes["hot"].python
        == "/no/such"
    )
    (told,) = faults(text.replace("host: there", "host: there, python: python3.10"))
    assert "expected an absolute path there" in told
