"""YAML text -> plain values that know their lines, within bounds, for text nobody vouches for.

The parser gives events; this module composes them itself, because that is where YAML goes wrong:
aliases and merge keys that grow without end, nesting that overflows the stack, keys given twice,
tags that run code, and the scalars of YAML 1.1 (`no` is false, `010` is 8, `12:30:45` is 45045).
Here scalars follow the YAML 1.2 core schema; the rest is refused with a line number.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import yaml

from .errors import Fault, GraphError

MAXIMUM_BYTES = 1 << 20
MAXIMUM_NODES = 20_000  # scalars, lists and mappings, each alias counted with all it stands for
MAXIMUM_DEPTH = 40
MAXIMUM_ALIASES = 64
MAXIMUM_FAULTS = 100  # a hostile file must not make a report longer than itself

# libyaml is some 50 times faster; PyYAML without it gives the same events
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class WholeFault(Fault):
    """A fault of something that has no lines: a missing file, a `--set` on the command line."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


class Scalar(msgspec.Struct, frozen=True):
    """One value: as a Python `value`, as its `text`, and whether it was `plain` (not quoted)."""

    value: Any
    text: str
    plain: bool
    line: int


class Sequence(msgspec.Struct, frozen=True):
    """A list."""

    items: list[Tree]
    line: int


class Mapping(msgspec.Struct, frozen=True):
    """A mapping; `lines` says where each key stands."""

    entries: dict[str | int, Tree]
    lines: dict[str | int, int]
    line: int


Tree = Scalar | Sequence | Mapping


def plain(tree: Tree) -> Any:
    """The tree as dicts, lists and scalars."""
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.entries.items()}
    if isinstance(tree, Sequence):
        return [plain(item) for item in tree.items]
    return tree.value


def short(value: Any, limit: int = 60) -> str:
    """`value` as a message shows it: on one line, and cut when it is long."""
    if isinstance(value, (dict, list)) and len(value) > limit:
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = repr(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def read(path: Path, name: str) -> Tree:
    """The YAML file at `path`; GraphError (calling it `name`) when it is unfit."""
    try:
        with path.open("rb") as file:
            data = file.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise GraphError([WholeFault(name, 0, f"cannot be read: {error.strerror}")]) from error
    return parse(data, name)


def parse(data: bytes | str, name: str) -> Tree:
    """The single YAML document in `data`; GraphError with every fault found when it is unfit."""
    if len(data) > MAXIMUM_BYTES:
        limit = f"a graph file has at most {MAXIMUM_BYTES >> 20} MiB"
        raise GraphError([WholeFault(name, 0, f"too large; {limit}: is this a graph file?")])
    if isinstance(data, bytes):
        data = _decode(data, name)
    composer = _Composer(name)
    try:
        tree = composer.document(data)
    except yaml.YAMLError as error:
        composer.faults.append(_syntax_fault(error, data, name))
        tree = None
    except UnicodeEncodeError:  # lone surrogates, which only a str can hold
        composer.fault(1, "text with characters that UTF-8 cannot hold")
    except _Stop:
        pass
    if composer.faults:
        raise GraphError(composer.faults)
    return tree  # type: ignore[return-value]  # None only together with a fault


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        what = f"not UTF-8 text (byte 0x{data[error.start]:02x}); save the graph file as UTF-8"
        raise GraphError([Fault(name, line, what)]) from error


def _syntax_fault(error: yaml.YAMLError, text: str, name: str) -> Fault:
    """What the parser says, with the line it says it of."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text[: error.position].count("\n") + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        what = f"character U+{code:04X} is not allowed in YAML"
        return Fault(name, line, f"{what}; is this a graph file?")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or error)
    context, begun = getattr(error, "context", None), getattr(error, "context_mark", None)
    if context:
        problem += f", {context}"
        if begun is not None and mark is not None and begun.line != mark.line:
            problem += f" begun in line {begun.line + 1}"
    return Fault(name, mark.line + 1 if mark else 1, f"not YAML: {problem}")


class _Stop(Exception):
    """A bound was crossed: nothing more is read."""


class _Composer:
    """Events -> one tree, with faults gathered on the way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.faults: list[Fault] = []
        self._anchors: dict[str, tuple[Tree, int]] = {}
        self._nodes = self._aliases = 0

    def fault(self, line: int, message: str) -> None:
        self.faults.append(Fault(self.name, line, message))
        if len(self.faults) >= MAXIMUM_FAULTS:
            raise _Stop

    def stop(self, line: int, message: str) -> None:
        self.fault(line, message)
        raise _Stop

    def document(self, text: str) -> Tree | None:
        loader = _Loader(text)
        try:
            loader.get_event()  # the stream's start
            if loader.check_event(yaml.StreamEndEvent):
                self.stop(1, "the file is empty; expected a mapping with 'nodes'")
            loader.get_event()
            tree = self._tree(loader, 0)
            loader.get_event()
            if not loader.check_event(yaml.StreamEndEvent):
                line = loader.peek_event().start_mark.line + 1
                self.stop(line, "a second document; a file holds one graph: remove the '---'")
            return tree
        finally:
            loader.dispose()

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > MAXIMUM_NODES:
            self.stop(line, f"more than {MAXIMUM_NODES} values: this is not a graph file")

    def _tree(self, loader: Any, depth: int) -> Tree:
        event = loader.get_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, line)
        before = self._nodes
        self._count(1, line)
        if event.tag is not None:
            self.fault(line, f"tag {short(event.tag)}: tags are refused; write a plain value")
        if depth >= MAXIMUM_DEPTH:
            self.stop(line, f"nested more than {MAXIMUM_DEPTH} deep")
        tree: Tree
        if isinstance(event, yaml.ScalarEvent):
            tree = self._scalar(event, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not loader.check_event(yaml.SequenceEndEvent):
                items.append(self._tree(loader, depth + 1))
            loader.get_event()
            tree = Sequence(items, line)
        else:
            tree = self._mapping(loader, depth, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = (tree, self._nodes - before)
        return tree

    def _alias(self, event: Any, line: int) -> Tree:
        self._aliases += 1
        if self._aliases > MAXIMUM_ALIASES:
            self.stop(line, f"more than {MAXIMUM_ALIASES} aliases")
        if event.anchor not in self._anchors:
            self.stop(
                line, f"alias *{event.anchor} stands for nothing; write &{event.anchor} first"
            )
        tree, size = self._anchors[event.anchor]
        self._count(size, line)
        return tree

    def _mapping(self, loader: Any, depth: int, line: int) -> Mapping:
        mapping = Mapping({}, {}, line)
        while not loader.check_event(yaml.MappingEndEvent):
            key = self._tree(loader, depth + 1)
            value = self._tree(loader, depth + 1)
            if not isinstance(key, Scalar) or type(key.value) not in (str, int):
                what = short(key.text) if isinstance(key, Scalar) else "a list or mapping"
                self.fault(key.line, f"{what} is a key; expected a name (quote it if it is one)")
            elif key.plain and key.value == "<<":
                self.fault(key.line, "merge keys ('<<') are refused; write the keys out")
            elif key.value in mapping.entries:
                first = mapping.lines[key.value]
                self.fault(
                    key.line, f"key {short(key.value)} is given twice, first in line {first}"
                )
            else:
                mapping.entries[key.value] = value
                mapping.lines[key.value] = key.line
        loader.get_event()
        return mapping

    def _scalar(self, event: Any, line: int) -> Scalar:
        text, is_plain = event.value, bool(event.implicit[0])
        try:
            return Scalar(resolve(text) if is_plain else text, text, is_plain, line)
        except ValueError as error:
            self.fault(line, str(error))
            return Scalar(text, text, is_plain, line)


def resolve(text: str) -> Any:
    """What an unquoted scalar means in YAML 1.2's core schema; ValueError if it does not fit."""
    first = text[:1]
    if _NULL.fullmatch(text):
        return None
    if first in "tTfF" and _BOOL.fullmatch(text):
        return text[0] in "tT"
    if first not in "-+.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ValueError(f"number {short(text)} is too large; quote it if it is text")
        return value
    if special := _SPECIAL.fullmatch(text):
        return float(f"{special[1] or ''}inf" if special[2] else "nan")
    return text


def _integer(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    digits = text[2:] if base != 10 else text
    value = int(digits, base) if len(digits) <= 64 else 1 << 64
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"number {short(text)} does not fit 64 bits; quote it if it is text")
    return value
