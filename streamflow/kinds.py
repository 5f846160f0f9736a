"""Which node kinds there are, without importing them.

A kind is a file: `lif_layer.py` with the class `LifLayer` is `kind: lif_layer`. One entry point per
package (group `streamflow.nodes`, value the package's name) makes a package's kinds known; they lie
in its folders `sources`, `processors`, `classifiers` and `sinks`, or directly in it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from pathlib import Path
from typing import Any, NamedTuple

from .errors import GraphError
from .node import Node
from .yaml_file import WholeFault

GROUP = "streamflow.nodes"
FOLDERS = ("sources", "processors", "classifiers", "sinks")

# modules whose distribution is called otherwise
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml", "cv2": "opencv-python"}


class KindFile(NamedTuple):
    """Where a kind lives. `also` is a second file of the same name: using the kind is a fault."""

    module: str
    file: str
    folder: str
    package: str
    also: str = ""


class Packages(NamedTuple):
    """What the installed node packages hold.

    `nearly` are files where a kind would be but for a missing class, by name; `broken` are entry
    points that lead nowhere, as sentences.
    """

    kinds: dict[str, KindFile]
    nearly: dict[str, str]
    broken: list[str]


def kinds() -> dict[str, KindFile]:
    """Every kind that a graph may name, with its file; no node is imported."""
    return scan().kinds


def scan() -> Packages:
    """What the installed node packages hold; no node is imported."""
    found = Packages({}, {}, [])
    for point in sorted(set(importlib.metadata.entry_points(group=GROUP))):
        try:
            spec = importlib.util.find_spec(point.value)
        except (ImportError, ValueError) as error:
            found.broken.append(f"entry point {point.name!r}: package {point.value!r}: {error}")
            continue
        if spec is None or spec.submodule_search_locations is None:
            what = "is not installed" if spec is None else "is a module, not a package"
            found.broken.append(f"entry point {point.name!r}: package {point.value!r} {what}")
            continue
        for folder in spec.submodule_search_locations:
            _scan_package(found, point.value, Path(folder))
    return found


def _scan_package(found: Packages, package: str, root: Path) -> None:
    for folder in ("", *FOLDERS):
        for file in sorted((root / folder).glob("[!_]*.py")):
            kind, module = file.stem, ".".join(filter(None, (package, folder, file.stem)))
            declared = re.compile(rf"^class {class_name(kind)}\b", re.MULTILINE)
            if not declared.search(file.read_text("utf-8", "replace")):
                if folder:
                    found.nearly.setdefault(kind, str(file))
            elif (first := found.kinds.get(kind)) is None:
                found.kinds[kind] = KindFile(module, str(file), folder, package)
            elif first.file != str(file):
                found.kinds[kind] = first._replace(also=str(file))


def class_name(kind: str) -> str:
    """The class that the file of `kind` holds: `lif_layer` -> `LifLayer`."""
    return "".join(part[:1].upper() + part[1:] for part in kind.split("_"))


def node_class(kind: str, known: dict[str, KindFile] | None = None) -> type[Node[Any]]:
    """The class behind a kind; imports only its module. GraphError says why when it cannot.

    `known` is what `kinds()` gave, for many at once: it reads every kind's file.
    """
    file = (kinds() if known is None else known).get(kind)
    if file is None:
        raise GraphError([WholeFault(kind, 0, "unknown node kind")])
    return load_class(kind, file)


def load_class(kind: str, file: KindFile) -> type[Node[Any]]:
    """The class in a kind's file; GraphError with the reason when there is none to be had."""
    name = class_name(kind)
    try:
        module = importlib.import_module(file.module)
    except ImportError as error:
        why = f"cannot be imported: {error}; {missing(error, file.package)}"
        raise GraphError([WholeFault(file.file, 0, why)]) from error
    except Exception as error:  # whatever a third party's module does when it is imported
        why = f"cannot be imported: {type(error).__name__}: {error}"
        raise GraphError([WholeFault(file.file, 0, why)]) from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Node)):
        why = f"{name} is no Node; expected `class {name}(Node[{name}Settings])`"
        raise GraphError([WholeFault(file.file, 0, why)])
    return found


def missing(error: ImportError, package: str) -> str:
    """How to get the module that an import missed: by the extra that names it, where one does."""
    module = (error.name or "").partition(".")[0]
    wanted = _normal(_DISTRIBUTIONS.get(module, module))
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.value != package or point.dist is None:
            continue
        for requirement in point.dist.requires or ():
            match = re.match(r"([\w.-]+).*extra\s*==\s*['\"]([\w.-]+)['\"]", requirement)
            if match and _normal(match[1]) == wanted and match[2] != "dev":
                return f"install it with: pip install '{point.dist.name}[{match[2]}]'"
    return f"is {module!r} installed for this Python?" if module else "is everything installed?"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
