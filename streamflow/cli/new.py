"""Begin a node or a graph: files that work as they are, to change from there."""

from __future__ import annotations

import keyword
from pathlib import Path

import click

from ..faults import like
from ..graph_file import NAME
from ..kinds import class_name, kinds
from ._templates import GRAPH, GRAPH_README, NODES, TESTS, sample_csv

FOLDERS = {"source": "sources", "processor": "processors", "sink": "sinks"}


@click.group()
def command() -> None:
    """Begin a node or a graph: files that work as they are, to change from there."""


@command.command()
@click.argument("name")
@click.option("--role", type=click.Choice(list(FOLDERS)), default="processor", show_default=True)
def node(name: str, role: str) -> int:
    """Write NAME.py, a node of kind NAME, and test_NAME.py, which passes, into this folder."""
    _check_name(name)
    known = kinds()
    if name in known:
        raise click.UsageError(f"kind {name!r} exists already: {known[name].file}; choose another")
    words = {"kind": name, "node": class_name(name)}
    _write(Path(f"{name}.py"), NODES[role].format(**words))
    _write(Path(f"test_{name}.py"), TESTS[role].format(**words))
    click.echo(
        f"{name}.py is the node, test_{name}.py its test: python -m pytest test_{name}.py\n"
        "\n"
        "To use it in graphs, put it into a package that has the entry point\n"
        "\n"
        '    [project.entry-points."streamflow.nodes"]\n'
        '    yours = "your_package"\n'
        "\n"
        f"as your_package/{name}.py; in a checkout of streamflow, into\n"
        f"nodes/streamflow_nodes/{FOLDERS[role]}/, with the test in tests/nodes/. Nothing else\n"
        f"has to be edited: a graph then says `kind: {name}`."
    )
    return 0


@command.command()
@click.argument("name")
def graph(name: str) -> int:
    """Write a folder NAME: graph.yaml, which runs, a small recording for it, and a README."""
    _check_name(name)
    folder = Path(name)
    if folder.exists():
        raise click.UsageError(f"{folder} exists already; choose another name, or remove it")
    folder.mkdir()
    _write(folder / "graph.yaml", GRAPH.format(name=name))
    _write(folder / "README.md", GRAPH_README.format(name=name))
    _write(folder / "sample.csv", sample_csv())
    click.echo(f"streamflow check {name}\nstreamflow run {name}")
    return 0


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        plain = "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_")
        what = "expected small letters, digits and '_', beginning with a letter"
        raise click.UsageError(f"name {name!r}: {what}{like(name, [plain])}")


def _write(path: Path, text: str) -> None:
    """A new file; what is there already is never overwritten."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise click.UsageError(f"{path} exists already; choose another name") from error
    except OSError as error:
        raise click.UsageError(f"{path} cannot be written: {error.strerror}") from error
