"""Whole runs: ends, failures, signals, layouts, policies."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from runs import Run, descendants, gone, run

CHAIN = """
nodes:
  numbers: {{kind: number_source, settings: {{count: {count}}}}}
  middle: {{kind: trouble, inputs: {{rows: numbers.rows}}, settings: {{what: {what}, at: 5}}}}
  total: {{kind: row_total, inputs: {{rows: middle.same}}}}
{more}
"""


def chain(what: str = "none", count: int = 200, more: str = "") -> str:
    return CHAIN.format(what=what, count=count, more=more)


def test_a_graph_runs_to_its_end_and_every_ledger_closes(tmp_path: Path) -> None:
    it = run(tmp_path, chain())

    report = it.report
    assert it.code == 0, it.err
    assert report["outcome"] == "completed"
    assert report["results"]["total"] == {
        "sum": sum(range(600)), "count": 600, "packets": 200, "gaps": 0, "kept": [],
    }  # fmt: skip
    assert report["unbalanced"] == {}
    assert report["nodes"]["middle"]["packets_in"] == 200
    assert report["latency_us"]["total"]["count"] == 200
    assert 0 < report["latency_us"]["total"]["p50"] <= report["latency_us"]["total"]["max"]
    assert list((it.runtime / "streamflow").iterdir()) == []


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("open", "open"),
        ("handler", "on_rows, packet [5000, 6000) us"),
        ("finish", "finish"),
        ("close", "close"),
    ],
)
def test_a_node_that_raises_stops_the_graph_and_is_named(
    tmp_path: Path, what: str, where: str
) -> None:
    it = run(tmp_path, chain(what))

    assert it.code == 1
    assert it.report["outcome"] == "failed"
    assert it.report["error"] == (
        f"node 'middle' (trouble): ValueError: trouble in {what} [{where}]"
    )
    assert "trouble.py" in it.err  # the traceback leads to the line


def test_a_node_that_hangs_is_noticed_and_named(tmp_path: Path) -> None:
    it = run(tmp_path, chain("hang", more="limits: {handler_seconds: 1}"))

    assert it.code == 1
    assert "node 'middle' (on_rows) has not returned for" in it.report["error"]
    assert "handler_seconds" in it.report["error"]


def test_a_node_that_hangs_in_open_is_noticed_and_named(tmp_path: Path) -> None:
    it = run(tmp_path, chain("hang_open", more="limits: {start_seconds: 2}"))

    assert it.code == 1
    assert "not ready after 2 s: middle (in node 'middle'" in it.report["error"]


def test_a_packet_out_of_order_is_refused_with_advice(tmp_path: Path) -> None:
    it = run(tmp_path, chain("out_of_order"))

    assert it.code == 1
    assert "emitted a packet on 'same' that starts at 0, before stream time" in it.report["error"]
    assert "holds_from" in it.report["error"]


def test_a_packet_larger_than_the_edge_says_which_setting_to_change(tmp_path: Path) -> None:
    it = run(tmp_path, chain("huge"))

    assert it.code == 1
    assert "set max_packet (bytes) on the edge" in it.report["error"]


def test_a_handler_may_give_far_more_packets_than_its_edge_takes(tmp_path: Path) -> None:
    it = run(tmp_path, chain("many", count=10))

    assert it.code == 0, it.err
    assert it.report["results"]["total"]["packets"] == 1010
    assert it.report["unbalanced"] == {}


def test_a_wrong_graph_is_refused_before_anything_starts(tmp_path: Path) -> None:
    it = Run(tmp_path, "nodes:\n  a: {kind: number_sorce}\n")

    assert it.end() == 2
    assert "graph.yaml:2: node 'a'" in it.err
    assert "did you mean 'number_source'" in it.err


# --- signals -------------------------------------------------------------------------------------

ENDLESS = """
nodes:
  numbers: {kind: number_source, settings: {count: 100000000, delay: 0.001}}
  total: {kind: row_total, inputs: {rows: numbers.rows}}
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_drains_the_graph(tmp_path: Path, number: int, code: int) -> None:
    it = Run(tmp_path, ENDLESS)
    it.wait_for(lambda: it.last_look().get("nodes", {}).get("total", {}).get("packets_in"))

    it.process.send_signal(number)

    assert it.end() == code, it.err
    report = it.report
    assert report["outcome"] == "interrupted"
    (edge,) = report["edges"].values()
    assert edge["produced"] == edge["handled"] == report["results"]["total"]["packets"] > 0
    assert edge["in_flight"] == 0


def test_duration_drains_and_completes(tmp_path: Path) -> None:
    it = Run(tmp_path, ENDLESS, "--duration", "0.5")

    assert it.end() == 0, it.err
    assert it.report["outcome"] == "completed"
    assert it.report["unbalanced"] == {}


def test_a_drain_that_takes_too_long_is_cut_and_says_what_was_in_flight(tmp_path: Path) -> None:
    text = """
limits: {drain_seconds: 0.5}
nodes:
  numbers: {kind: number_source, settings: {count: 100000000}}
  total: {kind: row_total, inputs: {rows: numbers.rows}, settings: {delay: 0.2}}
"""
    it = Run(tmp_path, text)
    it.wait_for(lambda: it.last_look().get("nodes", {}).get("total", {}).get("packets_in"))
    everyone = descendants(it.process.pid)

    it.process.terminate()

    assert it.end() == 1
    assert "not drained after 0.5 s" in it.report["error"]
    (edge,) = it.report["edges"].values()
    assert edge["in_flight"] > 0
    assert gone(everyone) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_at_once(tmp_path: Path, number: int, code: int) -> None:
    text = ENDLESS.replace("rows: numbers.rows}}", "rows: numbers.rows}, settings: {delay: 1}}")
    it = Run(tmp_path, text)
    it.wait_for(lambda: it.last_look().get("nodes", {}).get("numbers", {}).get("packets_out"))

    it.process.send_signal(number)
    it.wait_for(lambda: it.last_look().get("outcome") == "interrupted")
    it.process.send_signal(number)

    assert it.end() == code
    assert "second signal" in it.report["error"]
    assert {process["pid"] for process in it.report["processes"].values()} == {0}


# --- order, layouts, policies --------------------------------------------------------------------

DIAMOND = """
nodes:
  numbers: {{kind: number_source, settings: {{count: 3000, rows: 1}}}}
  seldom: {{kind: one_in, inputs: {{rows: numbers.rows}}, settings: {{k: 1000}}}}
  all: {{kind: doubler, inputs: {{rows: numbers.rows}}, settings: {{factor: 1}}}}
  both: {{kind: zipper, inputs: {{first: seldom.some, second: all.doubled}}}}
  rows: {{kind: csv_file, inputs: {{rows: both.both}}, settings: {{path: rows.csv}}}}
{more}
"""
LAYOUTS = {
    "a process each": "",
    "one process": "processes: {all: {nodes: [numbers, seldom, all, both, rows]}}",
    "two processes": "processes: {one: {nodes: [numbers, seldom]}, two: {nodes: [all, both]}}",
    "small windows": "",
}


def items(path: Path) -> list[tuple[str, str]]:
    with path.open() as file:
        return [(row["n"], row["t"]) for row in csv.DictReader(file)]


def test_the_items_do_not_depend_on_the_layout_and_the_rare_branch_blocks_nothing(
    tmp_path: Path,
) -> None:
    digests = {}
    for name, more in LAYOUTS.items():
        text = DIAMOND.format(more=more)
        if name == "small windows":
            text = text.replace(
                "rows: numbers.rows", "rows: {from: numbers.rows, window: 2, capacity: 2}"
            )
        it = run(tmp_path / name.replace(" ", "_"), text)
        assert it.code == 0, it.err
        assert it.report["unbalanced"] == {}
        rows = items(it.folder / "rows.csv")
        assert len(rows) == 3003
        digests[name] = hashlib.sha256(repr(rows).encode()).hexdigest()

    assert len(set(digests.values())) == 1, digests
    first = [n for n, which in rows if which == "0"]
    assert first == ["0", "1000", "2000"]
    assert rows[:2] == [("0", "0"), ("0", "1")]  # port order decides at the same stream time


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "latest"])
def test_a_slow_view_loses_counted_packets_while_the_recorder_gets_everything(
    tmp_path: Path, policy: str
) -> None:
    text = f"""
nodes:
  numbers: {{kind: number_source, settings: {{count: 2000, delay: 0.0002}}}}
  view:
    kind: row_total
    inputs: {{rows: {{from: numbers.rows, when_full: {policy}}}}}
    settings: {{delay: 0.01}}
  recorder: {{kind: row_total, inputs: {{rows: numbers.rows}}}}
"""
    it = run(tmp_path, text)

    assert it.code == 0, it.err
    report = it.report
    assert report["unbalanced"] == {}
    view = report["edges"]["numbers.rows -> view.rows"]
    assert view["dropped"] > 0
    assert view["produced"] == 2000 == view["dropped"] + view["handled"]
    assert view["items"] == view["items_dropped"] + view["items_handled"]
    assert view["handled"] == report["results"]["view"]["packets"]
    assert report["results"]["recorder"] == {
        "sum": sum(range(6000)), "count": 6000, "packets": 2000, "gaps": 0, "kept": [],
    }  # fmt: skip


@pytest.mark.parametrize("keep", [3, 50])
def test_views_that_a_node_keeps_stay_what_they_were_and_stall_nothing(
    tmp_path: Path, keep: int
) -> None:
    text = f"""
nodes:
  numbers: {{kind: number_source, settings: {{count: 300, filler: 2000}}}}
  total: {{kind: row_total, inputs: {{rows: numbers.rows}}, settings: {{keep: {keep}}}}}
"""
    it = run(tmp_path, text)

    assert it.code == 0, it.err
    total = it.report["results"]["total"]
    assert total["packets"] == 300
    assert total["kept"] == [3 * n for n in range(300 - keep, 300)]
    assert it.report["unbalanced"] == {}


def test_a_slow_consumer_blocks_the_source_and_the_wait_is_reported(tmp_path: Path) -> None:
    text = """
nodes:
  numbers: {kind: number_source, settings: {count: 300}}
  total: {kind: row_total, inputs: {rows: numbers.rows}, settings: {delay: 0.003}}
"""
    it = run(tmp_path, text)

    assert it.code == 0, it.err
    (edge,) = it.report["edges"].values()
    assert edge["dropped"] == 0
    assert edge["waiting_max"] == 64
    assert edge["blocked_s"] > 0.1


# --- other interpreters, other hosts of trouble ---------------------------------------------------


@pytest.fixture(scope="module")
def second_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter of its own that finds this one's packages."""
    folder = tmp_path_factory.mktemp("second")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*/site-packages"))
    here = sysconfig.get_paths()["purelib"]
    lines = [here, *(p for p in sys.path if p.endswith(("/nodes",)))]
    lines += [line for pth in Path(here).glob("*.pth") for line in pth.read_text().splitlines()
              if line.startswith("/")]  # fmt: skip
    (site / "first.pth").write_text("\n".join(lines) + "\n")
    return str(python)


def test_a_process_may_run_another_python(tmp_path: Path, second_python: str) -> None:
    more = f"processes: {{other: {{nodes: [middle], python: {second_python}}}}}"
    it = run(tmp_path, chain(more=more))

    assert it.code == 0, it.err
    assert it.report["results"]["total"]["count"] == 600
    assert it.report["unbalanced"] == {}


def test_another_python_is_restarted_like_any_process(tmp_path: Path, second_python: str) -> None:
    text = f"""
nodes:
  numbers: {{kind: number_source, settings: {{count: 1500, delay: 0.001}}}}
  middle: {{kind: running_sum, inputs: {{rows: numbers.rows}}}}
  total: {{kind: row_total, inputs: {{rows: middle.summed}}}}
processes:
  middle: {{nodes: [middle], python: {second_python}, restart: on_failure}}
"""
    it = Run(tmp_path, text)
    it.wait_for(lambda: it.last_look().get("nodes", {}).get("total", {}).get("packets_in"))

    it.kill("middle")

    assert it.end() == 0, it.err
    assert it.report["processes"]["middle"]["restarts"] == 1
    assert it.report["results"]["total"]["gaps"] == 0
    assert it.report["results"]["total"]["count"] == 4500
    assert it.report["unbalanced"] == {}


def test_another_streamflow_version_is_refused_with_both_versions(
    tmp_path: Path, second_python: str
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    site = Path(second_python).parents[1]
    (old / "sitecustomize.py").write_text("import streamflow\nstreamflow.__version__ = '0.0.1'\n")
    assert site.is_dir()
    wrapper = tmp_path / "python_old"
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH={old}:$PYTHONPATH exec {second_python} "$@"\n')
    wrapper.chmod(0o755)
    more = f"processes: {{other: {{nodes: [middle], python: {wrapper}}}}}"

    it = run(tmp_path, chain(more=more))

    assert it.code == 1
    assert "process 'other' runs streamflow 0.0.1" in it.report["error"]
    assert "install the same version" in it.report["error"]


def test_two_runs_at_once_do_not_meet(tmp_path: Path) -> None:
    first, second = Run(tmp_path / "a", chain()), Run(tmp_path / "b", chain())

    assert (first.end(), second.end()) == (0, 0)
    for it in (first, second):
        assert it.report["results"]["total"]["count"] == 600


def test_a_runtime_directory_that_others_can_read_is_refused(tmp_path: Path) -> None:
    it = Run(tmp_path / "x", "nodes: {numbers: {kind: number_source}}\n")
    it.end()
    folder = it.runtime / "streamflow"
    os.chmod(folder, 0o755)

    again = Run(tmp_path / "x", "nodes: {numbers: {kind: number_source}}\n")

    assert again.end() == 1
    assert "must be a folder of yours with mode 700" in again.report["error"]


def test_json_lines_are_reports_and_the_last_one_is_final(tmp_path: Path) -> None:
    it = run(tmp_path, chain())

    last: dict[str, Any] = it.last_look()
    assert last == it.report
