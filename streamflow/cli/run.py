"""Run a graph: live table, report, exit code."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._options import clock, graph, overrides

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..supervisor import Supervisor


@click.command()
@graph
@overrides
@clock
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="Drain and end after this long.")  # fmt: skip
@click.option("--report", type=click.Path(dir_okay=False), metavar="FILE.json",
              help="Write the run report.")  # fmt: skip
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.key_secret",
              help="Our secret key, for graphs with other hosts.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True,
              help="One JSON object a second; the last one is the report.")  # fmt: skip
def command(
    graph: str,
    overrides: tuple[str, ...],
    clock: str | None,
    duration: float | None,
    report: str | None,
    key: Path | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run GRAPH until its data ends.

    Exit code 0: done, or drained after SIGTERM. 1: a node or a process failed. 2: the graph is
    wrong. 130: interrupted. A first Ctrl-C drains, a second one stops at once.
    """
    from ..launch import ForkServer
    from ..report import write_report
    from ..supervisor import Supervisor

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("streamflow").setLevel(logging.ERROR if quiet else logging.INFO)
    fork_server = ForkServer()  # loads while the graph is read
    try:
        from ..graph import load

        checked = load(graph, overrides, clock)
        screen = _screen(quiet, as_json)
        supervisor = Supervisor(
            checked,
            duration=duration,
            watch=screen.show,
            every=screen.every,
            fork_server=fork_server,
            key=key,
        )
        with screen:
            result = supervisor.run()
    finally:
        fork_server.stop()
    if report is not None:
        write_report(result, report)
    screen.end(supervisor, result)
    return supervisor.exit_code


class _Silent:
    """Shows nothing while the graph runs."""

    every = 3600.0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, supervisor: Supervisor) -> None:
        """Show how the run is doing."""

    def end(self, supervisor: Supervisor, report: dict[str, Any]) -> None:
        """Show how the run went."""
        if report["error"]:
            if supervisor.trace:
                click.echo(supervisor.trace.rstrip(), err=True)
            click.echo(f"streamflow: {report['error']}", err=True)
        for edge, wrong in report["unbalanced"].items():
            click.echo(f"streamflow: ledger of {edge} does not close: {'; '.join(wrong)}", err=True)


class _Json(_Silent):
    """One JSON object a second, the report at the end."""

    every = 1.0

    def show(self, supervisor: Supervisor) -> None:
        click.echo(json.dumps(supervisor.report()))

    def end(self, supervisor: Supervisor, report: dict[str, Any]) -> None:
        super().end(supervisor, report)
        click.echo(json.dumps(report))


class _Lines(_Silent):
    """One line a second, a summary at the end."""

    every = 1.0

    def __init__(self) -> None:
        self._rates = _Rates()

    def show(self, supervisor: Supervisor) -> None:
        rates = self._rates.look(supervisor)
        dropped = sum(edge["dropped"] for edge in rates.edges.values())
        waiting = sum(edge["waiting"] for edge in rates.edges.values())
        parts = [f"{name} {_number(rates.node(name))}/s" for name in supervisor.graph.nodes]
        state = "running" if supervisor.started_at else "starting"
        click.echo(
            f"{rates.elapsed:6.1f} s  {state}  {'  '.join(parts)}  waiting {waiting}  "
            f"dropped {dropped}"
        )

    def end(self, supervisor: Supervisor, report: dict[str, Any]) -> None:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 110, highlight=False).print(summary(report))
        super().end(supervisor, report)


class _Live(_Lines):
    """A table that is redrawn twice a second."""

    every = 0.5

    def __init__(self) -> None:
        super().__init__()
        from rich.live import Live

        self._live = Live(transient=True, refresh_per_second=4)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, supervisor: Supervisor) -> None:
        self._live.update(live_table(supervisor, self._rates.look(supervisor)))


def _screen(quiet: bool, as_json: bool) -> _Silent:
    if quiet:
        return _Silent()
    if as_json:
        return _Json()
    return _Live() if sys.stdout.isatty() else _Lines()


class _Rates:
    """Items per second, from two looks at the counters."""

    def __init__(self) -> None:
        self._items: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        self._at = time.monotonic()
        self.elapsed = 0.0
        self.nodes: dict[str, dict[str, Any]] = {}
        self.edges: dict[str, dict[str, Any]] = {}

    def look(self, supervisor: Supervisor) -> _Rates:
        """Read the counters once more."""
        now = time.monotonic()
        self.nodes = supervisor.counts.nodes()
        self.edges = supervisor.counts.edges()
        self.elapsed = now - supervisor.began
        for name, counts in self.nodes.items():
            items = max(counts["items_in"], counts["items_out"])
            if now > self._at:
                self._rates[name] = (items - self._items.get(name, 0)) / (now - self._at)
            self._items[name] = items
        self._at = now
        return self

    def node(self, name: str) -> float:
        """Items per second through a node."""
        return self._rates.get(name, 0.0)


def live_table(supervisor: Supervisor, rates: _Rates) -> RenderableType:
    """Nodes, edges and processes as they are now."""
    from rich.console import Group
    from rich.table import Table

    nodes = Table(title=f"{supervisor.graph.name}  {rates.elapsed:.1f} s", title_justify="left",
                  box=None, header_style="bold")  # fmt: skip
    for title in ("node", "process", "items/s", "items", "packets", "stream time", "progress",
                  "CPU s", "MiB", "faults"):  # fmt: skip
        nodes.add_column(
            title, justify="left" if title in ("node", "process", "faults") else "right"
        )
    shown: set[str] = set()
    for name, counts in rates.nodes.items():
        process = supervisor.processes[counts["process"]]
        first = process.name not in shown
        shown.add(process.name)
        nodes.add_row(
            name, process.name, _number(rates.node(name)),
            _number(max(counts["items_in"], counts["items_out"])),
            _number(max(counts["packets_in"], counts["packets_out"])),
            _seconds(counts["stream_time"]), _share(counts["progress"]),
            f"{process.cpu_s:.1f}" if first else "", f"{process.rss_peak_mib:.0f}" if first else "",
            _faults(counts["faults"]),
        )  # fmt: skip
    edges = Table(box=None, header_style="bold")
    for title in ("edge", "transport", "when full", "waiting", "dropped", "blocked s", "p50 ms",
                  "p99 ms"):  # fmt: skip
        edges.add_column(
            title, justify="left" if title in ("edge", "transport", "when full") else "right"
        )
    for name, edge in rates.edges.items():
        latency = supervisor.counts.latency(name)
        edges.add_row(
            name, edge["transport"], edge["policy"], str(edge["waiting"]), _number(edge["dropped"]),
            f"{edge['blocked_s']:.1f}", f"{latency['p50'] / 1e3:.2f}",
            f"{latency['p99'] / 1e3:.2f}",
        )  # fmt: skip
    return Group(nodes, "", edges, *(f"[yellow]{note}[/]" for note in supervisor.notes[-3:]))


def summary(report: dict[str, Any]) -> RenderableType:
    """How a run went, on one screen."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    colour = {"completed": "green", "failed": "red"}.get(report["outcome"], "yellow")
    head = Text.assemble(
        (report["outcome"], f"bold {colour}"),
        f"  {report['graph']}  {report['wall_s']:.1f} s (ready after {report['ready_s']:.1f} s)",
    )
    table = Table(box=None, header_style="bold")
    for title in ("edge", "transport", "packets", "items", "dropped", "lost", "waited at most",
                  "blocked s"):  # fmt: skip
        table.add_column(title, justify="left" if title in ("edge", "transport") else "right")
    for name, edge in report["edges"].items():
        table.add_row(
            name, edge["transport"], _number(edge["produced"]), _number(edge["items"]),
            str(edge["dropped"]), str(edge["lost"]), str(edge["waiting_max"]),
            f"{edge['blocked_s']:.1f}",
        )  # fmt: skip
    lines: list[RenderableType] = [head, "", table]
    for sink, latency in report["latency_us"].items():
        if latency["count"]:
            lines.append(
                f"latency to {sink}: p50 {latency['p50'] / 1e3:.2f} ms, p99 "
                f"{latency['p99'] / 1e3:.2f} ms, p99.9 {latency['p999'] / 1e3:.2f} ms"
            )
    for name, node in report["nodes"].items():
        if _faults(node["faults"]):
            lines.append(f"faults of {name}: {_faults(node['faults'])}")
        if node["state_lost"]:
            lines.append(f"{name} lost its state {node['state_lost']} times")
    for name, words in report["results"].items():
        lines.append(f"{name}:")
        lines += [f"  {line}" for line in _result_lines(words)]
    return Group(*(Text(line) if isinstance(line, str) else line for line in lines))


def _result_lines(words: dict[str, Any]) -> list[str]:
    """A sink's results, a line for each thing that is not a plain value."""
    plain, nested = [], []
    for key, value in words.items():
        if isinstance(value, dict):
            inside = ", ".join(f"{k} {_value(v)}" for k, v in value.items())
            nested.append(f"{key}: {inside}")
        else:
            plain.append(f"{key} {_value(value)}")
    return ([", ".join(plain)] if plain else []) + nested


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    return str(value)


def _number(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 10 * size or value >= 1e6 == size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}"


def _seconds(microseconds: int) -> str:
    return "" if abs(microseconds) > 1 << 60 else f"{microseconds / 1e6:.3f} s"


def _share(thousandths: int) -> str:
    return "" if thousandths < 0 else f"{thousandths / 10:.0f} %"


def _faults(faults: dict[str, int]) -> str:
    return ", ".join(f"{name} {times}" for name, times in faults.items() if times)
