"""What the types of settings say: in words, and about values of theirs (which are paths, text)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from .graph_file import NAME, ORIGIN
from .yaml_file import Mapping, Scalar, Sequence, Tree

_PLAIN = {
    inspect.BoolType: "true or false",
    inspect.NoneType: "null",
    inspect.BytesType: "base64 text",
    inspect.DateTimeType: "date and time",
    inspect.DateType: "date",
    inspect.AnyType: "anything",
}

_PATTERNS = {f"^{NAME.pattern}$": "name", f"^{ORIGIN.pattern}$": "node.output"}


def words(info: inspect.Type) -> str:
    """A type as a person says it: `number > 0`, `list of whole number >= 1`, `one of: a, b`."""
    if isinstance(info, inspect.Metadata):
        return "path" if (info.extra or {}).get("path") else words(info.type)
    if isinstance(info, (inspect.IntType, inspect.FloatType)):
        noun = "whole number" if isinstance(info, inspect.IntType) else "number"
        signs = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="), ("multiple_of", "times"))
        bounds = [
            f"{s} {_number(getattr(info, n))}" for n, s in signs if getattr(info, n) is not None
        ]
        return f"{noun} {' and '.join(bounds)}".strip()
    if isinstance(info, inspect.StrType):
        return _PATTERNS.get(info.pattern, f"text like {info.pattern}") if info.pattern else "text"
    if isinstance(info, inspect.LiteralType):
        return f"one of: {', '.join(map(str, info.values))}"
    if isinstance(info, inspect.EnumType):
        return f"one of: {', '.join(str(member.value) for member in info.cls)}"
    if isinstance(info, inspect.UnionType):
        return " or ".join(words(part) for part in info.types)
    if isinstance(info, inspect.TupleType):
        return f"list of {', '.join(words(part) for part in info.item_types)}"
    if isinstance(info, inspect.DictType):
        return f"mapping of {words(info.key_type)} to {words(info.value_type)}"
    if isinstance(info, inspect.StructType):
        return f"mapping with {', '.join(field.encode_name for field in info.fields)}"
    item = getattr(info, "item_type", None)
    if item is not None:
        return f"list of {words(item)}"
    return next((text for kind, text in _PLAIN.items() if isinstance(info, kind)), "value")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:g}"


def choices(info: inspect.Type) -> list[str]:
    """The names that a value may be one of; empty when the type is not of that sort."""
    if isinstance(info, inspect.LiteralType):
        return [str(value) for value in info.values]
    if isinstance(info, inspect.EnumType):
        return [str(member.value) for member in info.cls]
    if isinstance(info, inspect.Metadata):
        return choices(info.type)
    if isinstance(info, inspect.UnionType):
        return [name for part in info.types for name in choices(part)]
    return []


def is_text(info: inspect.Type) -> bool:
    """Whether values are text and nothing else, but for null."""
    if isinstance(info, inspect.Metadata):
        return is_text(info.type)
    if isinstance(info, inspect.UnionType):
        parts = [part for part in info.types if not isinstance(part, inspect.NoneType)]
        return all(is_text(part) for part in parts)
    if isinstance(info, inspect.LiteralType):
        return all(isinstance(value, str) for value in info.values)
    return isinstance(info, inspect.StrType)


def allows_null(info: inspect.Type) -> bool:
    """Whether null is a value of the type."""
    if isinstance(info, inspect.Metadata):
        return allows_null(info.type)
    if isinstance(info, inspect.UnionType):
        return any(allows_null(part) for part in info.types)
    return isinstance(info, (inspect.NoneType, inspect.AnyType))


def as_text(tree: Tree, info: inspect.Type) -> Tree:
    """The tree with plain scalars kept as they were typed wherever the type wants text: `010`."""
    if isinstance(tree, Scalar):
        if not is_text(info) or not tree.plain or (tree.value is None and allows_null(info)):
            return tree
        return Scalar(tree.text, tree.text, False, tree.line)
    while isinstance(info, inspect.Metadata):
        info = info.type
    if isinstance(info, inspect.UnionType):
        fitting = (inspect.DictType,) if isinstance(tree, Mapping) else _LISTS
        info = next((part for part in info.types if isinstance(part, fitting)), info)
    if isinstance(tree, Sequence) and isinstance(info, inspect.TupleType):
        types = info.item_types
        items = [as_text(item, types[i]) if i < len(types) else item
                 for i, item in enumerate(tree.items)]  # fmt: skip
        return Sequence(items, tree.line)
    if isinstance(tree, Sequence) and isinstance(info, _LISTS):
        return Sequence([as_text(item, info.item_type) for item in tree.items], tree.line)  # type: ignore[union-attr]  # a TupleType went above
    if isinstance(tree, Mapping) and isinstance(info, inspect.DictType):
        entries = {key: as_text(value, info.value_type) for key, value in tree.entries.items()}
        return Mapping(entries, tree.lines, tree.line)
    return tree


_LISTS = (
    inspect.ListType, inspect.VarTupleType, inspect.TupleType, inspect.SetType,
    inspect.FrozenSetType,
)  # fmt: skip


def map_paths(value: Any, info: inspect.Type, change: Callable[[str, str], str]) -> Any:
    """A plain `value` of the type, with `change(path, "input" or "output")` for every path."""
    if isinstance(info, inspect.Metadata):
        if (role := (info.extra or {}).get("path")) and isinstance(value, str):
            return change(value, role)
        return map_paths(value, info.type, change)
    if isinstance(info, inspect.UnionType):
        for part in info.types:
            if (new := map_paths(value, part, change)) != value:
                return new
        return value
    if isinstance(value, dict):
        if isinstance(info, inspect.DictType):
            return {key: map_paths(item, info.value_type, change) for key, item in value.items()}
        if isinstance(info, inspect.StructType):
            types = {field.encode_name: field.type for field in info.fields}
            return {key: map_paths(item, types[key], change) if key in types else item
                    for key, item in value.items()}  # fmt: skip
        return value
    if isinstance(value, (list, tuple)) and isinstance(info, inspect.TupleType):
        pairs = zip(value, info.item_types, strict=True)
        return [map_paths(item, type_, change) for item, type_ in pairs]
    if isinstance(value, (list, tuple)) and isinstance(info, _LISTS):
        return [map_paths(item, info.item_type, change) for item in value]  # type: ignore[union-attr]  # a TupleType went above
    return value


def absolute(value: Any, info: inspect.Type, folder: Path) -> Any:
    """A plain `value` of the type with its paths made absolute.

    What is read lies relative to `folder`; what is written goes to the working directory.
    """

    def change(path: str, role: str) -> str:
        return str((Path.cwd() if role == "output" else folder) / Path(path).expanduser())

    return map_paths(value, info, change)


@cache
def fields_of(struct: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """The fields of a struct, by the name they have in YAML."""
    return {field.encode_name: field for field in msgspec.structs.fields(struct)}


@cache
def types_of(struct: type[msgspec.Struct]) -> dict[str, inspect.Type]:
    """The type of each field of a struct, by the name it has in YAML."""
    return {name: inspect.type_info(field.type) for name, field in fields_of(struct).items()}
