"""Look at a network's file, check, convert, compare, quantise or run it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import click

FORMATS: dict[str, tuple[str, ...]] = {
    ".nir": ("networks.command", "networks.quantise_command"),
    ".safetensors": ("linear_rnn.command",),
}
"""Which modules of this package hold the commands for a kind of file: `commands`, a dict of click
commands by name, each of which takes the file first. Modules are imported when they are needed."""


class _Model(click.Group):
    """Finds a subcommand by its name and the ending of the file that it is for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({name for suffix in FORMATS for name in _commands(suffix)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = [_commands(suffix).get(cmd_name) for suffix in FORMATS]
        return next((command for command in found if command is not None), None)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, *rest = args
        suffix = _suffix(rest)
        if suffix is None or name not in self.list_commands(ctx):
            return super().resolve_command(ctx, args)
        command = _commands(suffix).get(name)
        if command is None:
            ctx.fail(
                f"no {name!r} for {suffix} files; there is: {', '.join(sorted(_commands(suffix)))}"
            )
        return name, command, rest


def _suffix(arguments: Sequence[str]) -> str | None:
    """The known ending of the first argument that has one."""
    endings = (Path(argument).suffix.lower() for argument in arguments)
    return next((ending for ending in endings if ending in FORMATS), None)


def _commands(suffix: str) -> dict[str, click.Command]:
    """The commands for files with that ending, by name."""
    found: dict[str, click.Command] = {}
    for module in FORMATS[suffix]:
        name = f"{__package__}.{module}"
        if importlib.util.find_spec(name) is not None:
            found |= importlib.import_module(name).commands
    return found


@click.group(cls=_Model, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Look at FILE, check, convert, compare, quantise or run it.

    FILE is a spiking network (.nir) or a linear RNN (.safetensors); what a subcommand takes besides
    depends on that: `streamflow model run FILE --help`.
    """
