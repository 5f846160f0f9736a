"""Run a graph while its processes are killed at random; say what that cost."""

from __future__ import annotations

import json
import logging
import secrets
import sys
from pathlib import Path
from typing import Any

import click

from . import FAILED, INTERRUPTED
from ._options import clock, graph, overrides


@click.command()
@graph
@overrides
@clock
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=1.0,
              show_default=True, help="How long.")  # fmt: skip
@click.option("--every", type=click.FloatRange(min=0.05), default=2.0, show_default=True,
              metavar="SECONDS", help="Time between faults, on average.")  # fmt: skip
@click.option("--run", "run_seconds", type=click.FloatRange(min=1), metavar="SECONDS",
              help="Drain and start again after this long, or when the data ends (a quarter of the "
              "time; 5 s to 300 s).")  # fmt: skip
@click.option("--seed", type=int, help="For the same faults again, as far as that can be.")
@click.option("--restart", is_flag=True, help="Give every process `restart: on_failure`.")
@click.option("--report", type=click.Path(dir_okay=False), metavar="FILE.json",
              help="Write what was found.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead.")
def command(
    graph: str,
    overrides: tuple[str, ...],
    clock: str | None,
    minutes: float,
    every: float,
    run_seconds: float | None,
    seed: int | None,
    restart: bool,
    report: str | None,
    as_json: bool,
) -> int:
    """Run GRAPH for some time while its processes are killed at random.

    Kills one worker (kill -9) or two at once, freezes one (SIGSTOP), and kills while the graph
    starts and while it drains; only processes that have `restart: on_failure`, and none but its
    own. Exit code 0: every packet is accounted for at both ends of every edge, nothing is left
    behind, and what the survivors hold does not rise. 1: not so. 2: the graph is wrong. 130:
    interrupted. Sinks write their files as under `run`: soak a graph in a folder of its own.
    """
    from ..graph import load
    from ..soak import Options, prepare, soak

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("streamflow").setLevel(logging.ERROR)  # each restart would be a line
    seconds = 60 * minutes
    options = Options(
        seconds=seconds,
        run_seconds=run_seconds or min(300.0, max(5.0, seconds / 4)),
        every=every,
        seed=secrets.randbits(32) if seed is None else seed,
    )
    prepared, victims = prepare(load(graph, overrides, clock), restart=restart)
    if not as_json:
        click.echo(
            f"soaking {prepared.name} for {minutes:g} min, a fault every {every:g} s, "
            f"seed {options.seed}; victims: {', '.join(victims)}"
        )
    found = soak(prepared, victims, options, (lambda run: None) if as_json else _Progress().show)
    if report is not None:
        Path(report).parent.mkdir(parents=True, exist_ok=True)
        Path(report).write_text(json.dumps(found, indent=1) + "\n")
    click.echo(json.dumps(found) if as_json else "\n".join(["", *summary(found)]))
    return {"passed": 0, "interrupted": INTERRUPTED}.get(found["verdict"], FAILED)


class _Progress:
    """A line for every run."""

    def __init__(self) -> None:
        self._count = 0

    def show(self, run: dict[str, Any]) -> None:
        self._count += 1
        back = run["flowing_s"]
        flowing = f", data flows again after {back['p50']:.2f} s" if back["count"] else ""
        click.echo(
            f"run {self._count}: {run['outcome']} after {run['wall_s']:.1f} s, "
            f"{run['packets']} packets, {sum(run['faults'].values())} faults, "
            f"{run['restarts']} restarts{flowing}"
        )
        for what in run["wrong"]:
            click.echo(f"  WRONG: {what}")


def summary(found: dict[str, Any]) -> list[str]:
    """What a soak came to, as lines."""
    from ..text import columns

    faults = ", ".join(f"{kind} {count}" for kind, count in found["faults"].items())
    lines = [
        f"{found['verdict']}: {found['graph']}, {len(found['runs'])} runs in "
        f"{found['seconds']:.0f} s, seed {found['options']['seed']}",
        f"faults: {faults}",
        "",
    ]
    rows = [("edge", "produced", "handled", "dropped", "duplicates", "unexplained")]
    rows += [_edge_row(name, edge) for name, edge in found["edges"].items()]
    lines += [*columns(rows), ""]
    lives = [["process", "killed", "stopped", "restarts"]]
    lives += [
        [name, *(str(counts[what]) for what in lives[0][1:])]
        for name, counts in found["processes"].items()
    ]
    lines += columns(lives)
    lines += [f"{node} lost its state {n} times" for node, n in found["state_lost"].items() if n]
    lines.append("")
    for name, times in found["recovery_s"].items():
        lines.append(
            f"{name.replace('_', ', ')}: p50 {times['p50']:.2f} s, p99 {times['p99']:.2f} s, "
            f"longest {times['max']:.2f} s ({times['count']} times)"
        )
    lines += ["", *_survivor_lines(found)]
    return lines + [f"WRONG: {what}" for what in found["why"]]


def _edge_row(name: str, edge: dict[str, int]) -> tuple[str, str, str, str, str, str]:
    unexplained = (
        f"{edge.get('unexplained_at_producer', 0)} + {edge.get('unexplained_at_consumer', 0)}"
    )
    counts = (str(edge[key]) for key in ("produced", "handled", "dropped", "duplicates"))
    produced, handled, dropped, duplicates = counts
    return name, produced, handled, dropped, duplicates, unexplained


def _survivor_lines(found: dict[str, Any]) -> list[str]:
    from ..text import columns

    if not found["survivors"]:
        return ["survivors: no process lived long enough to say whether it grows"]
    rows = [
        [
            "survivor",
            "minutes",
            "MiB reserved",
            "MiB/min",
            "fds",
            "fds/min",
            "threads",
            "threads/min",
        ]
    ]
    for name, one in found["survivors"].items():
        cells = [f"{one['minutes']:.1f}"]
        for what in ("memory_mib", "fds", "threads"):
            cells += [f"{one[what]['last']:g}", f"{one[what]['per_minute']:+.2f}"]
        rows.append([name, *cells])
    return columns(rows)
