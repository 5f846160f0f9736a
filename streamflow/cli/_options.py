"""Options that several commands have."""

from __future__ import annotations

from typing import Any, get_args

import click

from ..clock import Pace

graph = click.argument("graph", metavar="GRAPH")

overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NODE.SETTING=VALUE",
    help="Replace a setting; VALUE is YAML. May be given several times.",
)

clock = click.option(
    "--clock", type=click.Choice(get_args(Pace)), help="Replace the graph's clock."
)


def emit_json(value: Any) -> None:
    """Print a value as indented JSON."""
    import json

    import msgspec

    click.echo(json.dumps(msgspec.to_builtins(value), indent=2))
