"""Reads NIR files from anyone: bounded, with what can only be meant in one way repaired."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# here and not where they are used: a restarted process finds what its kinds import loaded
import h5py
import nir
import numpy as np

from ..files.bounded import check_model


class NetworkError(ValueError):
    """A network that cannot be read or run as it is: where, what, what was expected."""


@dataclass(frozen=True)
class NirFile:
    """A NIR graph as nested in its file, and what was repaired in it, one sentence each."""

    path: str
    graph: Any  # nir.NIRGraph
    version: str = ""
    repairs: tuple[str, ...] = field(default=())


# what the constructors of nir raise on parameters that do not fit
_NIR_FAULTS = (
    AssertionError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError,
    NotImplementedError,
)  # fmt: skip


def read_nir(path: str | Path) -> NirFile:
    """The graph in a NIR file, read from the HDF5 itself: `nir.read` refuses more than it has to.

    Repaired is what has exactly one sensible reading: edges of a graph that name one node which
    is not there, while one node that is there has no edge. Shapes are looked at by `wiring.wire`.
    NetworkError for everything else that is not a NIR graph, or that is larger than any model.
    """
    path = str(path)
    if not Path(path).is_file():
        raise NetworkError(f"{path}: no such file; expected a network in NIR format (.nir)")
    repairs: list[str] = []
    try:
        check_model(path)
        with h5py.File(path, "r", locking=False) as file:
            if "node" not in file:
                raise NetworkError("there is no group 'node': not a NIR file")
            version = _text(file["version"][()]) if "version" in file else ""
            raw = _tree(file["node"])
        graph = _graph(raw, "", repairs)
    except NetworkError as error:
        raise NetworkError(f"{path}: {error}") from error
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError and more
        raise NetworkError(f"{path}: not a readable NIR network ({error})") from error
    return NirFile(path, graph, version, tuple(repairs))


def _text(value: Any) -> Any:
    return value.decode("utf8", "replace") if isinstance(value, bytes) else value


def _tree(group: Any) -> dict[str, Any]:
    """A group of HDF5 as nested dicts of numpy values and text."""
    return {
        name: _tree(thing) if isinstance(thing, h5py.Group) else _text(thing[()])
        for name, thing in group.items()
    }


def _graph(raw: dict[str, Any], where: str, repairs: list[str]) -> Any:
    """The nir.NIRGraph of `raw`; `where` is its name with dots, empty for the outermost."""
    here = f"graph {where!r}" if where else "the graph"
    if not isinstance(raw.get("nodes"), dict) or "edges" not in raw:
        if where or "type" not in raw or raw["type"] == "NIRGraph":
            raise NetworkError(f"{here} has no nodes or no edges; expected both")
        raise NetworkError(f"the file holds one {raw['type']}; expected a NIRGraph around it")
    nodes = {}
    for name, node in raw["nodes"].items():
        full = f"{where}.{name}" if where else name
        nodes[name] = _node(full, node, repairs)
    edges = [(str(_text(a)), str(_text(b))) for a, b in raw["edges"]]
    edges = _repaired(edges, nodes, here, repairs)
    metadata = raw.get("metadata")
    graph = nir.NIRGraph(
        nodes, edges, metadata if isinstance(metadata, dict) else {}, type_check=False
    )
    return graph


def _node(name: str, raw: Any, repairs: list[str]) -> Any:
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        raise NetworkError(f"node {name!r} has no type; expected a NIR node")
    kind = raw["type"]
    if kind == "NIRGraph":
        return _graph(raw, name, repairs)
    if kind not in KINDS or not hasattr(nir, kind):
        raise NetworkError(f"node {name!r} is a {kind!r}; expected one of {', '.join(KINDS)}")
    _check_numbers(name, raw)
    try:
        return nir.dict2NIRNode(dict(raw))
    except _NIR_FAULTS as error:
        raise NetworkError(
            f"node {name!r} ({kind}) does not hold together: {type(error).__name__}: {error}"
        ) from error


KINDS = (
    "Input", "Output", "NIRGraph", "Affine", "Linear", "Scale", "Conv1d", "Conv2d", "SumPool2d",
    "AvgPool2d", "Flatten", "Delay", "Threshold", "I", "IF", "LI", "LIF", "CubaLI", "CubaLIF",
)  # fmt: skip


def _check_numbers(name: str, raw: dict[str, Any]) -> None:
    for what, value in raw.items():
        if what == "metadata" or isinstance(value, str):
            continue
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise NetworkError(f"node {name!r}: {what} holds {array.dtype}; expected numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise NetworkError(f"node {name!r}: {what} holds numbers that are not finite")


def _repaired(
    edges: list[tuple[str, str]], nodes: dict[str, Any], here: str, repairs: list[str]
) -> list[tuple[str, str]]:
    """The edges between nodes that are there; NetworkError where that is open to doubt."""
    named = {name for edge in edges for name in edge}
    missing = sorted(named - set(nodes))
    idle = sorted(set(nodes) - named)
    if missing:
        if len(missing) > 1 or len(idle) != 1:
            raise NetworkError(
                f"in {here}, edges name {', '.join(map(repr, missing))}, which is not among its "
                f"nodes {sorted(nodes)}, and {len(idle)} nodes have no edge: which is meant is "
                "open. Export the network again"
            )
        repairs.append(
            f"In {here}, edges name {missing[0]!r}, which is not there: read as {idle[0]!r}, the "
            "only node without an edge."
        )
        there = {missing[0]: idle[0]}
        edges = [(there.get(a, a), there.get(b, b)) for a, b in edges]
    if doubled := sorted({edge for edge in edges if edges.count(edge) > 1}):
        raise NetworkError(
            f"in {here}, the edge {doubled[0][0]!r} to {doubled[0][1]!r} is there more than once; "
            "whether it counts once or twice NIR does not say: remove it, or double the weights"
        )
    return edges
