"""JSON Schema of graph files, for editors: the shape, and for each kind its settings and inputs.

The checks of `graph.py` stay the judge: a schema cannot say what joins two nodes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .describe import describe_fields, first_sentence
from .graph_file import GraphFile
from .kinds import KindFile, load_class
from .node import Node

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def graph_schema(kinds: dict[str, KindFile]) -> dict[str, Any]:
    """The schema of graph files that use these kinds; imports all of them."""
    nodes = {kind: load_class(kind, file) for kind, file in sorted(kinds.items())}
    types = [GraphFile, *(node.settings_type for node in nodes.values())]
    refs, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    for (_, node), ref in zip(nodes.items(), refs[1:], strict=True):
        properties = definitions[ref["$ref"].rpartition("/")[2]]["properties"]
        for field in describe_fields(node.settings_type):
            text = f"{field.text} ({field.unit})" if field.unit else field.text
            if text.strip():
                properties[field.name].setdefault("description", text.strip())
    shape = definitions["NodeFile"]
    shape["properties"]["kind"]["enum"] = list(nodes)
    shape["allOf"] = [
        _rule(kind, node, ref) for (kind, node), ref in zip(nodes.items(), refs[1:], strict=True)
    ]
    return {"$schema": DIALECT, "title": "streamflow graph", **refs[0], "$defs": definitions}


def _rule(kind: str, node: type[Node[Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """If a node is of this kind, then these are its settings and inputs."""
    inputs = {
        "propertyNames": {"enum": list(node.inputs)} if node.inputs else False,
        "required": [name for name, port in node.inputs.items() if not port.optional],
    }
    fields = msgspec.structs.fields(node.settings_type)
    required = ["inputs"] if inputs["required"] else []
    required += ["settings"] if any(field.required for field in fields) else []
    return {
        "if": {"properties": {"kind": {"const": kind}}},
        "then": {
            "description": first_sentence(node.__doc__ or ""),
            "properties": {"settings": settings, "inputs": inputs},
            "required": required,
        },
    }
