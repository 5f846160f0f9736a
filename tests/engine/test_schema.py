from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from streamflow.describe import describe, describe_fields, first_sentence, reference, summary
from streamflow.kinds import KindFile, kinds
from streamflow.schema import graph_schema
from streamflow.yaml_file import parse, plain

ROOT = Path(__file__).resolve().parents[2]
THIRDPARTY = Path(__file__).parent / "thirdparty"
WORKING = ("ramp", "relay", "joiner", "text_sink", "picky")


def own() -> dict[str, KindFile]:
    return {kind: file for kind, file in kinds().items() if file.package == "streamflow_nodes"}


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> dict[str, KindFile]:
    """The kinds of the test package."""
    monkeypatch.syspath_prepend(THIRDPARTY)
    importlib.invalidate_caches()
    found = kinds()
    return {kind: found[kind] for kind in WORKING}


def test_the_committed_schema_is_the_generated_one() -> None:
    committed = json.loads((ROOT / "docs" / "graph.schema.json").read_text())

    assert committed == json.loads(json.dumps(graph_schema(own()))), "run `make docs`"


def test_the_committed_reference_is_the_generated_one() -> None:
    committed = (ROOT / "docs" / "yaml-reference.md").read_text()

    assert committed == reference(own()), "run `make docs`"


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(graph_schema(own()))


def test_every_shipped_graph_fits_the_schema() -> None:
    validator = jsonschema.Draft202012Validator(graph_schema(own()))

    for path in sorted((ROOT / "graphs").glob("*/graph.yaml")):
        validator.validate(plain(parse(path.read_bytes(), path.name)))


def test_every_example_in_a_docstring_of_a_kind_fits_the_schema() -> None:
    validator = jsonschema.Draft202012Validator(graph_schema(own()))
    examples = []
    for kind, file in own().items():
        for line in describe(kind, file).text.splitlines():
            if line.startswith("    ") and f"kind: {kind}" in line and line.rstrip().endswith("}"):
                examples.append(plain(parse(line, kind)))
    assert examples

    for example in examples:
        validator.validate({"nodes": example})


GOOD = {
    "name": "g",
    "nodes": {
        "a": {"kind": "ramp", "settings": {"count": 3}},
        "j": {
            "kind": "joiner",
            "inputs": {"first": "a.values", "second": {"from": "a.values", "when_full": "latest"}},
        },
        "p": {"kind": "picky", "settings": {"files": ["x"], "gain": {"value": 1.0}}},
    },
    "processes": {"hot": {"nodes": ["a", "j"], "restart": {"when": "on_failure", "maximum": 2}}},
    "clock": "paced",
}


def errors(graph: Any, foreign: dict[str, KindFile]) -> list[str]:
    validator = jsonschema.Draft202012Validator(graph_schema(foreign))
    return [error.json_path for error in validator.iter_errors(graph)]


def test_a_right_graph_fits(foreign: dict[str, KindFile]) -> None:
    assert errors(GOOD, foreign) == []


def changed(path: str, value: Any) -> Any:
    graph = json.loads(json.dumps(GOOD))
    *parents, last = path.split("/")
    part = graph
    for key in parents:
        part = part[key]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return graph


@pytest.mark.parametrize(
    ("path", "value", "at"),
    [
        ("nodez", {}, "$"),
        ("nodes", None, "$"),
        ("nodes", {}, "$.nodes"),
        ("nodes/A", {"kind": "ramp"}, "$.nodes"),
        ("nodes/a/kind", "rmap", "$.nodes.a.kind"),
        ("nodes/a/kind", None, "$.nodes.a"),
        ("nodes/a/settings/count", 0, "$.nodes.a.settings.count"),
        ("nodes/a/settings/cuont", 1, "$.nodes.a.settings"),
        ("nodes/a/inputs", {"x": "b.c"}, "$.nodes.a.inputs"),
        ("nodes/j/inputs", None, "$.nodes.j"),
        ("nodes/j/inputs/first", None, "$.nodes.j.inputs"),
        ("nodes/j/inputs/fourth", "a.values", "$.nodes.j.inputs"),
        ("nodes/j/inputs/first", ["a.values"], "$.nodes.j.inputs.first"),
        ("nodes/j/inputs/second/when_full", "drop", "$.nodes.j.inputs.second"),
        ("nodes/p/settings", None, "$.nodes.p"),
        ("nodes/p/settings/mode", "slowly", "$.nodes.p.settings.mode"),
        ("processes/hot/affinity", "pi", "$.processes.hot"),
        ("processes/hot/nodes", [], "$.processes.hot.nodes"),
        ("clock", "slow", "$.clock"),
    ],
)
def test_a_wrong_graph_is_marked_where_it_is_wrong(
    foreign: dict[str, KindFile], path: str, value: Any, at: str
) -> None:
    assert at in errors(changed(path, value), foreign)


def test_descriptions_in_the_source_reach_the_schema(foreign: dict[str, KindFile]) -> None:
    properties = graph_schema(foreign)["$defs"]["RampSettings"]["properties"]

    assert properties["count"]["description"] == "packets until the stream ends"
    assert properties["step"]["description"] == "Stream time of a packet. (s)"


def test_a_kind_is_described_with_its_ports_and_settings(foreign: dict[str, KindFile]) -> None:
    text = describe("ramp", foreign["ramp"])

    assert [(port.name, port.payload) for port in text.outputs] == [("values", "Tensor")]
    assert [(s.name, s.type, s.unit, s.default, s.text) for s in text.settings] == [
        ("count", "whole number > 0", "", "10", "packets until the stream ends"),
        ("step", "number > 0", "s", "0.001", "Stream time of a packet."),
        ("path", "path or null", "", "null", ""),
        ("label", "text", "", "x", ""),
    ]
    assert text.restart == "loses its state when it is restarted"


def test_settings_of_every_sort_have_a_type_in_words(foreign: dict[str, KindFile]) -> None:
    types = {s.name: s.type for s in describe("picky", foreign["picky"]).settings}

    assert types == {
        "files": "list of path",
        "share": "number >= 0 and <= 1",
        "mode": "one of: fast, slow",
        "limit": "whole number or null",
        "note": "text or null",
        "names": "list of text",
        "by_name": "mapping of text to whole number",
        "pair": "list of whole number, text",
        "gain": "mapping with value, table or null",
        "weights": "mapping of text to path",
    }


def test_required_settings_have_no_default(foreign: dict[str, KindFile]) -> None:
    defaults = {s.name: s.default for s in describe("picky", foreign["picky"]).settings}

    assert defaults["files"] is None
    assert defaults["share"] == "0.5"


def test_the_reference_tells_every_kind_and_its_settings(foreign: dict[str, KindFile]) -> None:
    text = reference(foreign)

    assert all(f"## `{kind}`" in text for kind in foreign)
    assert "| `step` | number > 0 (s) | `0.001` | Stream time of a packet. |" in text
    assert "| `files` | list of path | **required** |  |" in text
    assert "- input `third`: Tensor (optional)" in text


def test_a_kind_is_summed_up_without_importing_it(foreign: dict[str, KindFile]) -> None:
    assert summary(foreign["ramp"], "ramp") == "Numbers that rise by one."
    assert first_sentence("One\nline. And more.\n\nMore.") == "One line."


def test_every_shipped_kind_says_what_it_does() -> None:
    assert [kind for kind, file in own().items() if not describe(kind, file).text] == []


def test_fields_of_a_struct_typed_in_without_a_source_file_are_described() -> None:
    namespace: dict[str, Any] = {}
    exec("import msgspec\nclass Typed(msgspec.Struct):\n    x: int = 1\n", namespace)

    (field,) = describe_fields(namespace["Typed"])

    assert (field.name, field.type, field.default) == ("x", "whole number", "1")


def test_pyyaml_reads_the_good_graph_as_we_do() -> None:
    text = yaml.safe_dump(GOOD)

    assert plain(parse(text, "g.yaml")) == GOOD
