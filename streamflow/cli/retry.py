"""Hand packets that a node could not handle to it again."""

from __future__ import annotations

import traceback
from pathlib import Path

import click

from ._options import graph, overrides


@click.command()
@graph
@click.argument("letters", nargs=-1, required=True, metavar="LETTER...",
                type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@overrides
def command(graph: str, letters: tuple[Path, ...], overrides: tuple[str, ...]) -> int:
    """Open the node of GRAPH that each LETTER was for, and have it handle the packet.

    Letters are files of `dead_letters/`, where nodes with `on_error: dead_letter` leave what
    they could not handle. Each is tried on a node of its own, and what comes out goes nowhere:
    this shows whether a correction works. Exit code 1 when one fails again.
    """
    from ..graph import load

    checked = load(graph, overrides)
    failed = 0
    for path in letters:
        problem = _retry(checked, path)
        click.echo(f"{path}: {problem or 'handled'}")
        failed += bool(problem)
    return 1 if failed else 0


def _retry(graph: object, path: Path) -> str:
    """What went wrong, with its traceback; empty when nothing did."""
    from ..dead_letters import read
    from ..graph import Graph
    from ..kinds import node_class
    from ..packet import decode

    assert isinstance(graph, Graph)
    letter = read(path)
    spec = graph.nodes.get(letter.node)
    if spec is None or spec.kind != letter.kind:
        return f"it was for node {letter.node!r} ({letter.kind}), which {graph.name} does not have"
    node = node_class(spec.kind)(spec.settings, name=spec.name)
    node.open()
    try:
        packet = decode(letter.frame, type(node).inputs[letter.input].payload)
        for _emission in getattr(node, f"on_{letter.input}")(packet) or ():
            pass
    except Exception:
        return f"failed again\n{traceback.format_exc().rstrip()}"
    finally:
        node.close()
    return ""
