"""What follows when a handler raises, in real runs."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import TESTKINDS, Run, run

from streamflow import dead_letters
from streamflow.errors import PacketError


def graph(on_error: str, *, what: str = "handler", more: str = "", count: int = 10) -> str:
    return f"""
nodes:
  numbers: {{kind: number_source, settings: {{count: {count}, rows: 1}}}}
  trouble:
    kind: trouble
    inputs: {{rows: numbers.rows}}
    settings: {{what: {what}, marker: once}}
    on_error: {on_error}
  rows: {{kind: csv_file, inputs: {{rows: trouble.same}}, settings: {{path: rows.csv}}}}
{more}
"""


def numbers(folder: Path) -> list[int]:
    with (folder / "rows.csv").open() as file:
        return [int(row["n"]) for row in csv.DictReader(file)]


def test_stop_ends_the_run_and_names_the_node(tmp_path: Path) -> None:
    it = run(tmp_path, graph("stop"))
    assert it.code == 1
    assert "node 'trouble' (trouble): ValueError: trouble in handler" in it.err


@pytest.mark.parametrize("together", [False, True], ids=["processes", "one process"])
def test_skip_and_count_leaves_one_packet_out_and_says_so(tmp_path: Path, together: bool) -> None:
    more = "processes:\n  all: {nodes: [numbers, trouble, rows]}\n" if together else ""
    it = run(tmp_path, graph("skip_and_count", more=more))
    assert it.code == 0, it.err
    assert numbers(tmp_path) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert it.report["nodes"]["trouble"]["faults"] == {"errors": 1}
    assert it.report["unbalanced"] == {}
    assert "trouble in handler; the packet is left out and counted" in it.err
    assert not (tmp_path / "dead_letters").exists()


def test_a_dead_letter_holds_packet_and_traceback_and_can_be_tried_again(tmp_path: Path) -> None:
    it = run(tmp_path, graph("dead_letter"))
    assert it.code == 0, it.err
    (path,) = (tmp_path / "dead_letters").rglob("*.*")
    letter = dead_letters.read(path)
    assert (letter.node, letter.input, letter.start) == ("trouble", "rows", 5000)
    assert "raise ValueError" in letter.traceback
    assert str(path.relative_to(tmp_path)) in it.err
    again = retry(tmp_path, path)
    assert again.returncode == 1
    assert "failed again" in again.stdout
    assert "ValueError: trouble in handler" in again.stdout
    mended = retry(tmp_path, path, "--set", "trouble.what=none")
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.endswith("handled\n")


def retry(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamflow.cli", "retry", "graph.yaml", *map(str, words)],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(TESTKINDS)},
    )  # fmt: skip


def test_errors_are_counted_once_however_often_the_process_dies(tmp_path: Path) -> None:
    more = "processes:\n  hot: {nodes: [trouble], restart: {when: on_failure, backoff: 0.01}}\n"
    it = Run(tmp_path, graph("dead_letter", more=more, count=400))
    it.wait_for(lambda: list((tmp_path / "dead_letters").rglob("*.letter")))
    it.kill("hot")
    assert it.end() == 0, it.err
    assert numbers(tmp_path) == [n for n in range(400) if n != 5]
    assert it.report["nodes"]["trouble"]["faults"] == {"errors": 1}
    assert len(list((tmp_path / "dead_letters").rglob("*"))) == 2  # the folder and the letter


def test_a_node_that_goes_on_does_not_swallow_the_errors_of_those_behind_it(tmp_path: Path) -> None:
    text = """
nodes:
  numbers: {kind: number_source, settings: {count: 10, rows: 1}}
  first: {kind: trouble, inputs: {rows: numbers.rows}, on_error: skip_and_count}
  second: {kind: trouble, inputs: {rows: first.same}, settings: {what: handler}}
processes:
  all: {nodes: [numbers, first, second]}
"""
    it = run(tmp_path, text)
    assert it.code == 1
    assert "node 'second' (trouble): ValueError: trouble in handler" in it.err


def test_too_many_dead_letters_fail_the_node(tmp_path: Path) -> None:
    text = graph("dead_letter", more="limits: {dead_letters: 1}", count=20)
    text = text.replace("rows: 1}", "rows: 1, step: 500}")  # two packets a millisecond: both fail
    it = run(tmp_path, text)
    assert it.code == 1
    assert "2 dead letters (limits: dead_letters)" in it.err


@pytest.mark.parametrize("data", [b"", b"junk", b"\x80", b"\x81\xa4node\x01"])
def test_what_is_no_letter_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.letter"
    path.write_bytes(data)
    with pytest.raises(PacketError, match="no dead letter"):
        dead_letters.read(path)
