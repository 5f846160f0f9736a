"""List the node kinds, or tell all about one."""

from __future__ import annotations

import json
import textwrap

import click

from ..describe import KindText, SettingText, describe, reference, summary
from ..faults import like
from ..kinds import KindFile, scan
from ..text import columns
from ._options import emit_json


@click.command()
@click.argument("kind", required=False)
@click.option("--json", "form", flag_value="json", help="As JSON.")
@click.option("--markdown", "form", flag_value="markdown", help="The YAML reference.")
@click.option("--schema", "form", flag_value="schema", help="The JSON Schema of graph files.")
@click.option("--package", "packages", multiple=True, help="Only the kinds of this package.")
def command(kind: str | None, form: str | None, packages: tuple[str, ...]) -> int:
    """List the node kinds, or tell all about one KIND: ports, settings, behaviour."""
    found = scan()
    kinds = {
        name: file for name, file in found.kinds.items() if not packages or file.package in packages
    }
    if unknown := set(packages) - {file.package for file in found.kinds.values()}:
        raise click.UsageError(f"no node package {', '.join(sorted(unknown))} is installed")
    if kind is not None:
        if kind not in kinds:
            raise click.UsageError(f"no node kind {kind!r}{like(kind, kinds)}")
        kinds = {kind: kinds[kind]}
    if form == "schema":
        from ..schema import graph_schema

        click.echo(json.dumps(graph_schema(kinds), indent=2))
    elif form == "markdown":
        click.echo(reference(kinds), nl=False)
    elif form == "json":
        emit_json([describe(name, file) for name, file in kinds.items()])
    elif kind is not None:
        click.echo(_page(describe(kind, kinds[kind])))
    else:
        click.echo("\n".join(_list(kinds)))
    for reason in found.broken:
        click.echo(f"warning: {reason}", err=True)
    return 0


def _list(kinds: dict[str, KindFile]) -> list[str]:
    lines: list[str] = []
    groups: dict[str, list[tuple[str, str]]] = {}
    for kind, file in kinds.items():
        own = "" if file.package == "streamflow_nodes" else f"{file.package} "
        groups.setdefault(own + file.folder, []).append((f"  {kind}", summary(file, kind)))
    width = max((len(row[0]) for rows in groups.values() for row in rows), default=0)
    for group, rows in groups.items():
        lines += [*([""] if lines else []), group.strip()]
        lines += columns([(kind.ljust(width), text) for kind, text in rows])
    return lines


def _page(text: KindText) -> str:
    lines = [f"{text.kind}  ({text.file})", "", text.text, ""]
    ports = [
        (f"  {way}", port.name, port.payload, "optional" if port.optional else "")
        for way, group in (("in", text.inputs), ("out", text.outputs))
        for port in group
    ]
    lines += ["Ports", *columns(ports), ""]
    if text.settings:
        lines += ["Settings"]
        for field in text.settings:
            lines += _setting(field)
        lines.append("")
    if text.faults:
        lines += [f"Counted faults: {', '.join(text.faults)}"]
    lines += [f"Restart: {text.restart}"]
    return "\n".join(lines)


def _setting(field: SettingText) -> list[str]:
    kind = f"{field.type}, {field.unit}" if field.unit else field.type
    default = "required" if field.default is None else f"default {field.default}"
    lines = [f"  {field.name}: {kind}; {default}"]
    return lines + textwrap.wrap(field.text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
