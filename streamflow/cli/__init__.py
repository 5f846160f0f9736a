"""The command line. A command is a module of this package holding `command`; nothing else lists it.

Installed packages add commands by entry points of the group `streamflow.commands`: the name of the
command, and a module that holds `command`. Modules are imported only when their command runs:
`streamflow --help` loads neither numba nor zmq.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import GraphError, StreamflowError

GROUP = "streamflow.commands"
FAILED, WRONG, INTERRUPTED = 1, 2, 130


class _Commands(click.Group):
    """Finds commands as files, and what they are for in the first line of each file."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_modules())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _modules().get(cmd_name)
        if module is None:
            return None
        found = importlib.import_module(module).command
        return found if isinstance(found, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from ..faults import like

        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            hint = like(args[0], known)
            ctx.fail(f"no command {args[0]!r}; expected one of: {', '.join(known)}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, _purpose(module)) for name, module in sorted(_modules().items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _modules() -> dict[str, str]:
    """The module of each command by its name; ours come first where a package has the same name."""
    points = importlib.metadata.entry_points(group=GROUP)
    own = (path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    return {point.name: point.value for point in sorted(set(points))} | {
        name: f"{__name__}.{name}" for name in own
    }


def _purpose(module: str) -> str:
    """The first line of a command's module, without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        return f"(its module {module} is not installed)"
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamflow-neuro", prog_name="streamflow")
def program() -> None:
    """Live graphs of event cameras, spiking networks and neuromorphic sinks.

    GRAPH is a graph file, a folder with a graph.yaml, or the name of a shipped graph.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit code: 0 done, 1 failed, 2 wrong graph or use, 130 stopped."""
    try:
        result: Any = program.main(
            None if arguments is None else list(arguments),
            prog_name="streamflow",
            standalone_mode=False,
        )
    except GraphError as error:
        click.echo(str(error), err=True)
        return WRONG
    except StreamflowError as error:
        click.echo(f"streamflow: {error}", err=True)
        return FAILED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return result if isinstance(result, int) else 0
