"""What a node kind takes, gives and can be told, in words: for `streamflow nodes` and the docs."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from . import settings
from .graph_file import RESERVED, GraphFile, InputFile, Limits, NodeFile, ProcessFile, RestartSpec
from .kinds import KindFile, class_name, load_class
from .node import Node
from .yaml_file import MAXIMUM_DEPTH, MAXIMUM_NODES

UNITS = {"Seconds": "s", "Microseconds": "us"}


class SettingText(msgspec.Struct, frozen=True):
    """One setting. `default` is as YAML would have it; None where one must be given."""

    name: str
    type: str
    unit: str
    default: str | None
    text: str


class PortText(msgspec.Struct, frozen=True):
    """One port and the payload it carries."""

    name: str
    payload: str
    optional: bool = False


class KindText(msgspec.Struct, frozen=True):
    """All there is to know about a kind."""

    kind: str
    folder: str
    package: str
    file: str
    text: str
    inputs: list[PortText]
    outputs: list[PortText]
    settings: list[SettingText]
    faults: list[str]
    restart: str


def describe(kind: str, file: KindFile) -> KindText:
    """The kind in words; imports it."""
    node = load_class(kind, file)
    return KindText(
        kind=kind,
        folder=file.folder,
        package=file.package,
        file=file.file,
        text=inspect.getdoc(node) or "",
        inputs=[PortText(p.name, p.payload.__name__, p.optional) for p in node.inputs.values()],
        outputs=[PortText(p.name, p.payload.__name__) for p in node.outputs.values()],
        settings=describe_fields(node.settings_type),
        faults=list(node.faults),
        restart=_restart(node),
    )


def _restart(node: type[Node[Any]]) -> str:
    if node.stateless:
        return "keeps no state: a restart loses nothing"
    if node.is_snapshotting():
        return "keeps its state through a restart"
    return "loses its state when it is restarted"


def summary(file: KindFile, kind: str) -> str:
    """The first sentence about a kind, without importing it."""
    tree = ast.parse(Path(file.file).read_text("utf-8"))
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef) and statement.name == class_name(kind):
            return first_sentence(ast.get_docstring(statement) or "")
    return ""


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    head, stop, _ = paragraph.partition(". ")
    return head + stop.strip()


def describe_fields(struct: type[msgspec.Struct]) -> list[SettingText]:
    """The fields of a struct, with what its source says of them."""
    said = {}
    for owner in reversed(struct.__mro__):
        if owner is not msgspec.Struct and issubclass(owner, msgspec.Struct):
            said.update(dict(_said(owner)))
    types = settings.types_of(struct)
    return [
        SettingText(
            name=name,
            type=settings.words(types[name]),
            unit=_unit(said.get(field.name, ("", ""))[0]),
            default=_default(field),
            text=_described(field.type) or said.get(field.name, ("", ""))[1],
        )
        for name, field in settings.fields_of(struct).items()
    ]


def _said(struct: type) -> Iterator[tuple[str, tuple[str, str]]]:
    """Each field's annotation and description: the string under it, or the comment behind it."""
    try:
        source = textwrap.dedent(inspect.getsource(struct))
    except (OSError, TypeError):  # typed in at a prompt: there is no source
        return
    body = ast.parse(source).body[0]
    if not isinstance(body, ast.ClassDef):
        return
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for statement, following in zip(body.body, [*body.body[1:], None], strict=True):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        text = comments.get(statement.end_lineno or 0, "")
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = " ".join(str(following.value.value).split())
        yield statement.target.id, (ast.unparse(statement.annotation), text)


def _unit(annotation: str) -> str:
    return next((unit for name, unit in UNITS.items() if name in annotation), "")


def _described(annotation: Any) -> str:
    """The description that a field's own annotation carries."""
    for meta in getattr(annotation, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.description:
            return meta.description
    return ""


def _default(field: msgspec.structs.FieldInfo) -> str | None:
    if field.required:
        return None
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, msgspec.Struct):
        return ""
    return msgspec.json.encode(value).decode() if not isinstance(value, str) else value or "''"


# --- the YAML reference ---------------------------------------------------------------------------

_INTRODUCTION = """\
# The graph file

Generated by `streamflow nodes --markdown` from what the checks read; do not edit.

A graph is one YAML file. `streamflow check FILE` tells everything that is wrong with it, with line
numbers, without starting anything. Edges are written once, at the consumer, under `inputs`.

Scalars are those of YAML 1.2: `no`, `on` and `12:30:45` are text, `010` is ten, `1e3` is a number;
quote what is text and looks like a number. Refused: a key given twice, merge keys (`<<`), tags, a
second document, more than {nodes} values, nesting deeper than {depth}. Aliases are allowed.

Files to read are relative to the graph file, or, in `--set node.setting=value`, to where you stand.
Files to write always go to where you stand. In `--set`,
`value` is YAML too, and is taken as it stands where the setting is text.

Reserved for later work, and refused: {reserved}.
"""

_SHAPES: list[tuple[str, type[msgspec.Struct]]] = [
    ("The file", GraphFile),
    ("`nodes.<name>`", NodeFile),
    ("`nodes.<name>.inputs.<input>`", InputFile),
    ("`processes.<name>`", ProcessFile),
    ("`processes.<name>.restart`", RestartSpec),
    ("`limits`", Limits),
]


def reference(kinds: dict[str, KindFile]) -> str:
    """The YAML reference in Markdown: the graph file, and these kinds."""
    reserved = ", ".join(f"`{name}`" for name in RESERVED)
    parts = [
        _INTRODUCTION.format(nodes=MAXIMUM_NODES, depth=MAXIMUM_DEPTH, reserved=reserved),
    ]
    for title, shape in _SHAPES:
        parts.append(f"## {title}\n\n{inspect.getdoc(shape)}\n\n{_table(describe_fields(shape))}")
    folders: dict[str, list[KindText]] = {}
    for kind, file in kinds.items():
        folders.setdefault(file.folder or file.package, []).append(describe(kind, file))
    for folder, texts in folders.items():
        parts.append(f"# {folder.capitalize()}\n")
        parts += [_kind_markdown(text) for text in texts]
    return "\n".join(parts)


def _kind_markdown(text: KindText) -> str:
    ports = [
        f"- {way} `{port.name}`: {port.payload}{' (optional)' if port.optional else ''}"
        for way, group in (("input", text.inputs), ("output", text.outputs))
        for port in group
    ]
    lines = [f"## `{text.kind}`", "", text.text, "", *ports, f"- {text.restart}"]
    if text.faults:
        lines.append(f"- counted faults: {', '.join(f'`{name}`' for name in text.faults)}")
    table = ["", _table(text.settings)] if text.settings else [""]
    return "\n".join([*lines, *table])


def _table(fields: list[SettingText]) -> str:
    rows = ["| setting | value | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        default = "**required**" if field.default is None else f"`{field.default}`"
        kind = f"{field.type} ({field.unit})" if field.unit else field.type
        cells = (f"`{field.name}`", kind, default if default != "``" else "", field.text)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"
