"""Make the keys that hosts know each other by."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def command() -> None:
    """Keys for edges to other hosts (CURVE: Curve25519, as in ZeroMQ)."""


@command.command()
@click.argument("name", default="me")
@click.option("--directory", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="Where to write them (by default ~/.config/streamflow/keys).")  # fmt: skip
def new(name: str, directory: Path | None) -> int:
    """Write NAME.key, to be given to the others, and NAME.key_secret, to be kept."""
    from ..network import write_keys
    from ..supervisor import DEFAULT_KEY

    public, secret = write_keys(directory or DEFAULT_KEY.parent, name)
    click.echo(f"{public}\n{secret}")
    return 0
