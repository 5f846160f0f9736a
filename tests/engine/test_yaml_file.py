# ruff: noqa: E501  (messages are compared whole)
from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamflow.errors import GraphError
from streamflow.yaml_file import (
    MAXIMUM_ALIASES,
    MAXIMUM_BYTES,
    MAXIMUM_DEPTH,
    MAXIMUM_FAULTS,
    MAXIMUM_NODES,
    Mapping,
    Sequence,
    parse,
    plain,
    read,
    short,
)


def value(text: str | bytes) -> object:
    return plain(parse(text, "g.yaml"))


def fault(text: str | bytes) -> str:
    with pytest.raises(GraphError) as caught:
        parse(text, "g.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("+7", 7),
        ("-0", 0),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5E-3", -0.0015),
        ("12:30:45", "12:30:45"),
        ("2001-12-14", "2001-12-14"),
        ("~", None),
        ("null", None),
        ("Null", None),
        ("nULL", "nULL"),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("'010'", "010"),
        ('"true"', "true"),
        ("'~'", "~"),
        ("|\n  a\n  b\n", "a\nb\n"),
        ("=", "="),
        ("0b11", "0b11"),
        ("18446744073709551615", 18446744073709551615),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(text: str, expected: object) -> None:
    found = value(f"[{text}]" if "\n" not in text else f"- {text}")

    assert found == [expected]
    assert type(found[0]) is type(expected)  # type: ignore[index]  # a list


def test_dot_nan_is_not_a_number() -> None:
    assert math.isnan(value("[.nan]")[0])  # type: ignore[index]  # a list


def test_every_value_knows_its_line() -> None:
    tree = parse("a: 1\nb:\n  - x\n  - {c: y}\n", "g.yaml")

    assert isinstance(tree, Mapping)
    assert tree.lines == {"a": 1, "b": 2}
    items = tree.entries["b"]
    assert isinstance(items, Sequence)
    assert [item.line for item in items.items] == [3, 4]


def test_aliases_stand_for_what_they_name() -> None:
    assert value("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "g.yaml:1: the file is empty; expected a mapping with 'nodes'"),
        ("# nothing\n", "g.yaml:1: the file is empty; expected a mapping with 'nodes'"),
        ("a: 1\nb: 2\na: 3\n", "g.yaml:3: key 'a' is given twice, first in line 1"),
        ("a: {x: 1}\nb:\n  <<: {x: 1}\n", "g.yaml:3: merge keys ('<<') are refused; write the keys out"),
        ("a: 1\nb: !!python/object:os.system x\n", "g.yaml:2: tag 'tag:yaml.org,2002:python/object:os.system': tags are refused; write a plain value"),
        ("a: !!str 1\n", "g.yaml:1: tag 'tag:yaml.org,2002:str': tags are refused; write a plain value"),
        ("a: *x\n", "g.yaml:1: alias *x stands for nothing; write &x first"),
        ("a: &x\n  - *x\n", "g.yaml:2: alias *x stands for nothing; write &x first"),
        ("---\na: 1\n---\nb: 1\n", "g.yaml:3: a second document; a file holds one graph: remove the '---'"),
        ("a: 1\n? [x]\n: 2\n", "g.yaml:2: a list or mapping is a key; expected a name (quote it if it is one)"),
        ("true: 1\n", "g.yaml:1: 'true' is a key; expected a name (quote it if it is one)"),
        ("a: 1\nb: 99999999999999999999\n", "g.yaml:2: number '99999999999999999999' does not fit 64 bits; quote it if it is text"),
        ("a: -1e999\n", "g.yaml:1: number '-1e999' is too large; quote it if it is text"),
        ("a: 1\nb: \x00\n", "g.yaml:2: character U+0000 is not allowed in YAML; is this a graph file?"),
        (b"a: 1\nb: \xff\n", "g.yaml:2: not UTF-8 text (byte 0xff); save the graph file as UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00", "g.yaml:1: character U+007F is not allowed in YAML; is this a graph file?"),
        ("a: \ud800\n", "g.yaml:1: text with characters that UTF-8 cannot hold"),
    ],
)  # fmt: skip
def test_unfit_text_is_told_with_its_line(text: str | bytes, message: str) -> None:
    assert fault(text) == message


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        ("a: [1,\nb: 2\n", "g.yaml:3: not YAML: "),
        ("a: 'x\n", "g.yaml:2: not YAML: "),
        ("a:\n\t- x\n", "g.yaml:2: not YAML: "),
        ("a: 1\n b: 2\n", "g.yaml:2: not YAML: "),
        ("a: @x\n", "g.yaml:1: not YAML: "),
        ("%YAML 3.0\n---\na: 1\n", "g.yaml:1: not YAML: "),
    ],
)
def test_text_that_is_not_yaml_is_told_with_its_line(text: str, beginning: str) -> None:
    assert fault(text).startswith(beginning)


def test_several_faults_are_told_together() -> None:
    lines = fault("a: 1\na: 2\nb: !x 1\n<<: {}\n").splitlines()

    assert [line.split(": ")[0] for line in lines] == ["g.yaml:2", "g.yaml:3", "g.yaml:4"]


def test_the_number_of_faults_that_are_told_is_bounded() -> None:
    text = "\n".join(f"a: {i}" for i in range(5000))

    assert len(fault(text).splitlines()) == MAXIMUM_FAULTS


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_nesting_is_bounded_before_the_stack_overflows(opening: str) -> None:
    assert f"nested more than {MAXIMUM_DEPTH} deep" in fault(opening * 5000)


def test_nesting_up_to_the_bound_is_read() -> None:
    depth = MAXIMUM_DEPTH - 1

    found = value("[" * depth + "1" + "]" * depth)

    for _ in range(depth):
        (found,) = found  # type: ignore[misc]  # a list
    assert found == 1


def test_aliases_that_multiply_are_counted_with_all_they_stand_for() -> None:
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for old, new in zip("abcdef", "bcdefg", strict=True):
        text += f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"

    assert f"more than {MAXIMUM_NODES} values" in fault(text)


def test_the_number_of_aliases_is_bounded() -> None:
    text = f"a: &a x\nb: [{', '.join(['*a'] * (MAXIMUM_ALIASES + 1))}]\n"

    assert fault(text) == f"g.yaml:2: more than {MAXIMUM_ALIASES} aliases"


def test_merge_keys_that_multiply_are_refused_at_the_first() -> None:
    text = "a: &a {x: 1}\n"
    for old, new in zip("abcdef", "bcdefg", strict=True):
        text += f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}\n"

    assert "merge keys" in fault(text)


def test_the_number_of_values_is_bounded() -> None:
    text = "[" + "1," * MAXIMUM_NODES + "]"

    assert f"more than {MAXIMUM_NODES} values: this is not a graph file" in fault(text)


def test_the_size_of_the_text_is_bounded() -> None:
    assert fault("#" * (MAXIMUM_BYTES + 1)) == (
        "g.yaml: too large; a graph file has at most 1 MiB: is this a graph file?"
    )


def test_a_device_that_never_ends_is_read_up_to_the_bound() -> None:
    with pytest.raises(GraphError, match="too large"):
        read(Path("/dev/zero"), "/dev/zero")


def test_a_number_of_a_million_digits_is_refused() -> None:
    assert "does not fit 64 bits" in fault("9" * 1_000_000)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraphError) as caught:
        read(tmp_path, "folder.yaml")

    assert str(caught.value) == "folder.yaml: cannot be read: Is a directory"


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert value(b"\xef\xbb\xbfa: 1\n") == {"a": 1}


def test_long_values_are_cut_in_messages() -> None:
    assert short("x" * 500) == f"'{'x' * 59}..."
    assert short(list(range(500))) == "a list of 500"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff")),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text("abcxyz", min_size=1), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(json_values)
@settings(max_examples=200, deadline=None)
def test_json_reads_back_as_what_it_was(data: object) -> None:
    assert value(json.dumps(data, ensure_ascii=False)) == data


yaml_text = st.lists(
    st.sampled_from(
        ["a", ": ", ":", "- ", "\n", "  ", "[", "]", "{", "}", ",", "&x ", "*x", "!!str ", "'", '"',
         "|\n", ">\n", "<<", "? ", "#", "---\n", "...\n", "%YAML 1.2\n", "1", "0x", "\t", "\x00",
         "\u2028", "é", "nodes:\n", "kind"]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@given(yaml_text | st.text(max_size=200) | st.binary(max_size=200))
@settings(max_examples=600, deadline=None)
def test_any_text_is_either_read_or_refused(text: str | bytes) -> None:
    try:
        plain(parse(text, "g.yaml"))
        told = ["g.yaml: nothing"]
    except GraphError as error:
        told = str(error).splitlines()

    assert told
    assert all(line.startswith("g.yaml") for line in told)
