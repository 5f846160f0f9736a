"""Reads parts of a graph file and gathers what is wrong with them, to tell it all at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from . import settings, yaml_file
from .errors import Fault, GraphError
from .graph_file import RESERVED
from .yaml_file import Scalar, Tree, WholeFault, short

BAD: Any = object()
"""Stands for a value that a fault was told about."""


class Faults:
    """The faults of one file, called `name`, and of the overrides that go with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[Fault] = []
        self._suggestions = 20  # comparing names costs time, and a file may be all misspelt

    def tell(self, line: int, message: str, override: str = "") -> None:
        """A fault of an override, if there is one, else of the file's line."""
        if override:
            self.found.append(WholeFault(f"--set {override}", 0, message))
        else:
            self.found.append(Fault(self.name, line, message))

    def raise_found(self) -> None:
        """GraphError in file order, when anything is wrong."""
        if not self.found:
            return
        faults = sorted(self.found, key=lambda fault: (isinstance(fault, WholeFault), fault.line))
        if (more := len(faults) - yaml_file.MAXIMUM_FAULTS) > 0:
            last = WholeFault(self.name, 0, f"and {more} more faults")
            faults[yaml_file.MAXIMUM_FAULTS :] = [last]
        raise GraphError(faults)

    def like(self, name: object, known: Iterable[str]) -> str:
        """`; did you mean 'x'?` when something of the sort is known."""
        if self._suggestions == 0 or len(str(name)) > 64:
            return ""
        self._suggestions -= 1
        return like(str(name), known)

    def mapping(self, tree: yaml_file.Mapping, key: str, what: str) -> yaml_file.Mapping | None:
        """The mapping under `key`, if it is there; a fault when it is something else."""
        part = tree.entries.get(key)
        if part is None or isinstance(part, yaml_file.Mapping):
            return part
        if isinstance(part, Scalar) and part.value is None:  # `inputs:` with nothing behind it
            return yaml_file.Mapping({}, {}, part.line)
        self.tell(part.line, f"{what} is {short(yaml_file.plain(part))}; expected a mapping")
        return None

    def fields(
        self,
        tree: yaml_file.Mapping,
        shape: type[msgspec.Struct],
        where: str,
        apart: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The valid fields of `tree`, by attribute name, but those the caller checks `apart`."""
        fields = settings.fields_of(shape)
        for key in tree.entries:
            if key not in fields:
                self._unknown(tree.lines[key], where, key, fields)
        values = {}
        for key, field in fields.items():
            if key not in tree.entries:
                if field.required:
                    self.tell(tree.line, f"{where}{key!r} is missing")
            elif key not in apart:
                given = tree.entries[key]
                value = self.convert(given, field.type, f"{where}{key!r}", given.line)
                if value is not BAD:
                    values[field.name] = value
        return values

    def _unknown(self, line: int, where: str, key: object, known: Iterable[str]) -> None:
        if key in RESERVED:
            what = f"{key!r} is reserved for later work and does nothing yet; remove it"
        else:
            names = ", ".join(known)
            what = f"unknown key {short(key)}; expected: {names}{self.like(key, known)}"
        self.tell(line, f"{where}{what}")

    def convert(self, tree: Tree, wanted: Any, what: str, line: int, override: str = "") -> Any:
        """`tree` as the type `wanted`, or `BAD` and a fault at the very value that is wrong."""
        try:
            return msgspec.convert(yaml_file.plain(tree), wanted)
        except (msgspec.ValidationError, ValueError, OverflowError) as error:
            why, _, at = str(error).partition(" - at `$")
            at = at.rstrip("`")
            culprit, line = _walk(tree, at, line)
            expected = _expected(why, "" if at else _words(wanted, why))
            what = f"{what[:-1]}{at}'" if at else what  # 'sizes' -> 'sizes[1]'
            message = f"{what} is {short(yaml_file.plain(culprit))}; {expected}"
            if isinstance(culprit, Scalar):
                if why.startswith("Invalid enum value"):
                    names = settings.choices(msgspec.inspect.type_info(wanted))
                    message += self.like(culprit.text, names)
                elif "Expected `str" in why and not isinstance(culprit.value, str | None):
                    message += f'; quote it if it is text: "{culprit.text}"'
            self.tell(line, message, override)
            return BAD


def like(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when one of the first 500 names is close to `name`."""
    close = difflib.get_close_matches(name, list(known)[:500], 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _walk(tree: Tree, at: str, line: int) -> tuple[Tree, int]:
    """The value at a path such as `[0].name` in `tree`, and its line; as far as there is one."""
    for index, key in re.findall(r"\[(\d+)\]|\.(\w+)", at):
        if index and isinstance(tree, yaml_file.Sequence):
            tree = tree.items[int(index)]
        elif key and isinstance(tree, yaml_file.Mapping) and key in tree.entries:
            tree = tree.entries[key]
        else:
            break
        line = tree.line
    return tree, line


def _words(wanted: Any, why: str) -> str:
    """The wanted type in words, where they say as much as msgspec's reason does."""
    if "length" in why or not why.startswith(("Expected", "Invalid enum value")):
        return ""
    return settings.words(msgspec.inspect.type_info(wanted))


def _expected(why: str, words: str) -> str:
    return f"expected {words}" if words else why[:1].lower() + why[1:]
