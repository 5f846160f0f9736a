"""Draw a graph as SVG, Mermaid or text."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import DeviceError
from ..graph import load
from ..plan import make_plan
from ._options import graph, overrides


@click.command()
@graph
@overrides
@click.option("--format", "form", type=click.Choice(["svg", "mermaid", "terminal"]))
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write it there.")
def command(graph: str, overrides: tuple[str, ...], form: str | None, output: Path | None) -> int:
    """Draw GRAPH. Without --format: as SVG to a file ending in .svg, otherwise as text."""
    from .. import drawing

    if form is None:
        form = "svg" if output is not None and output.suffix == ".svg" else "terminal"
    draw = {"svg": drawing.svg, "mermaid": drawing.mermaid, "terminal": drawing.terminal}[form]
    picture = draw(make_plan(load(graph, overrides)))
    if output is None:
        click.echo(picture, nl=False)
        return 0
    try:
        output.write_text(picture, "utf-8")
    except OSError as error:
        raise DeviceError(f"{output} cannot be written: {error.strerror}") from error
    return 0
