"""Graph files: what only looking at one can do, and what lies beside it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import Run

from streamflow.errors import GraphError
from streamflow.graph import load

COMMAND = [sys.executable, "-P", "-m", "streamflow.cli"]
GRAPH = """
nodes:
  numbers: {kind: number_source, settings: {count: 20, rows: 3}}
  rows: {kind: csv_file, inputs: {rows: numbers.rows}, settings: {path: rows.csv}}
"""


@pytest.mark.parametrize(
    "kind", ["evil", "evil:Evil", "os.system", "../evil", "/bin/sh", "streamflow_nodes", "''"]
)
def test_a_kind_is_a_name_and_nothing_else(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("open('sprung', 'w')\nclass Evil: pass\n")
    (tmp_path / "graph.yaml").write_text(f"nodes:\n  a: {{kind: {kind}}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # it could be imported

    with pytest.raises(GraphError, match="kind"):
        load("graph.yaml")

    assert not (tmp_path / "sprung").exists()
    assert "evil" not in sys.modules


def test_checking_a_graph_starts_no_program(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    program.chmod(0o755)
    (tmp_path / "graph.yaml").write_text(
        "nodes:\n  a: {kind: event_file, settings: {path: /dev/stdin}}\n"
        f"processes:\n  p: {{nodes: [a], python: {program}}}\n"
    )

    done = subprocess.run(
        [*COMMAND, "check", "graph.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sprung").exists()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="python -P is new in 3.11")
def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    from runs import TESTKINDS

    for name in ("msgspec", "numpy", "zmq", "select"):
        (tmp_path / f"{name}.py").write_text("open('sprung', 'w')\nraise SystemExit(3)\n")
    (tmp_path / "graph.yaml").write_text(GRAPH)
    environment = {**os.environ, "PYTHONPATH": str(TESTKINDS)}

    done = subprocess.run(
        [*COMMAND, "run", "graph.yaml", "--quiet"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sprung").exists()


def again(form: str) -> str:
    """Lines that each refer to the one before: nineteen lines, billions of values."""
    pairs = itertools.pairwise("abcdefghijklmnopqrst")
    return "".join(f"{name}: &{name} {form.format(before)}\n" for before, name in pairs)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 1]\n" + again("[*{0}, *{0}, *{0}]"),
        "a: &a {x: 1}\n" + again("{{<<: [*{0}, *{0}]}}"),
        "[" * 5000,
        "nodes: !!python/object/apply:os.mkdir [sprung]\n",
        "a: " + "9" * 5000 + "\n",
    ],
    ids=["aliases", "merge keys", "nesting", "tag", "digits"],
)  # fmt: skip
def test_a_graph_that_grows_is_refused_at_once(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graph.yaml").write_text(text)

    with pytest.raises(GraphError, match=r"graph\.yaml:\d+"):
        load("graph.yaml")

    assert not (tmp_path / "sprung").exists()


def test_what_is_in_the_environment_is_in_no_report_and_no_log(tmp_path: Path) -> None:
    secret = "correct-horse-battery-staple"

    run = Run(tmp_path / "run", GRAPH, env={"SOME_TOKEN": secret, "SOME_PASSWORD": secret})

    assert run.end() == 0, run.err
    assert run.report["outcome"] == "completed"
    for path in (tmp_path / "run").iterdir():
        assert secret not in path.read_text(errors="replace"), path
    assert "SOME_TOKEN" not in json.dumps(run.report)
