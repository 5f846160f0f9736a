"""Deaths just where one thing is safe and the next is not: what comes out is what it always is."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest
from runs import Run, alive, descendants, gone, run
from test_hosts import Waiting, wait_for
from test_on_error import retry

from streamflow import dead_letters

BOUNDARIES = [  # of `fatal_sum`
    "nothing written", "snapshot written", "counters in, not yet current", "committed",
    "not yet published", "published", "credits not yet returned", "credits returned",
    "item begun", "item done",
]  # fmt: skip
COUNT = 400
RESTART = "{when: on_failure, maximum: 1000, backoff: 0.01}"


def graph(kind: str) -> str:
    return f"""
nodes:
  numbers: {{kind: number_source, settings: {{count: {COUNT}, delay: 0.001}}}}
  middle: {{kind: {kind}, inputs: {{rows: numbers.rows}}}}
  rows: {{kind: csv_file, inputs: {{rows: middle.summed}}, settings: {{path: rows.csv}}}}
processes:
  middle: {{nodes: [middle], restart: {{when: on_failure, maximum: 100, backoff: 0.01}}}}
"""


def test_the_file_is_the_same_to_the_byte_with_a_death_at_every_boundary_of_a_commit(
    tmp_path: Path,
) -> None:
    whole = run(tmp_path / "whole", graph("running_sum"))
    assert whole.code == 0
    expected = hashlib.sha256((tmp_path / "whole" / "rows.csv").read_bytes()).hexdigest()
    half = len(BOUNDARIES) // 2  # in two runs: each death doubles the back-off
    for name, spared in (("first half", BOUNDARIES[half:]), ("second half", BOUNDARIES[:half])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "deaths").write_text("".join(f"{place}\n" for place in spared))
        hurt = run(folder, graph("fatal_sum"))

        assert hurt.code == 0, hurt.err
        assert sorted((folder / "deaths").read_text().splitlines()) == sorted(BOUNDARIES)
        assert hurt.report["processes"]["middle"]["restarts"] == half
        assert hurt.report["unbalanced"] == {}
        assert hashlib.sha256((folder / "rows.csv").read_bytes()).hexdigest() == expected


@pytest.mark.parametrize("victim", ["supervisor", "fork server"])
def test_with_hosts_letters_and_snapshots_nothing_is_left_and_what_is_on_disk_is_whole(
    tmp_path: Path, victim: str
) -> None:
    waiting = Waiting(tmp_path / "there", None, "--listen", "127.0.0.1:*", "--insecure")
    text = f"""
name: fragile
insecure: true
hosts: {{there: {{address: "{waiting.address}"}}}}
nodes:
  numbers: {{kind: number_source, settings: {{count: 1000000, rows: 1, delay: 0.001}}}}
  trouble:
    kind: trouble
    inputs: {{rows: numbers.rows}}
    settings: {{what: handler, marker: once}}
    on_error: dead_letter
  total: {{kind: running_sum, inputs: {{rows: trouble.same}}}}
  rows: {{kind: csv_file, inputs: {{rows: total.summed}}, settings: {{path: rows.csv}}}}
processes:
  trouble: {{nodes: [trouble], restart: {RESTART}}}
  total: {{nodes: [total], host: there, restart: {RESTART}}}
  rows: {{nodes: [rows], restart: {RESTART}}}
"""
    it = Run(tmp_path / "run", text)
    letters = tmp_path / "run" / "dead_letters"
    it.wait_for(lambda: it.last_look().get("nodes", {}).get("rows", {}).get("packets_in", 0) > 20)
    it.wait_for(lambda: list(letters.rglob("*.letter")))
    here = descendants(it.process.pid)
    there = descendants(waiting.process.pid)
    assert (len(here), len(there)) == (4, 2)  # fork server and workers

    os.kill(it.fork_server() if victim == "fork server" else it.process.pid, signal.SIGKILL)

    if victim == "supervisor":
        it.process.wait()
    else:
        assert it.end() == 1
        assert "fork server" in it.report["error"]
    assert gone(here) == []
    wait_for(lambda: not any(alive(pid) for pid in there[1:]))  # 1.5 s after the last word
    wait_for(lambda: not any((it.runtime / "streamflow").iterdir()))
    (path,) = letters.rglob("*.*")
    assert (dead_letters.read(path).node, dead_letters.read(path).start) == ("trouble", 5000)
    assert retry(tmp_path / "run", path, "--set", "trouble.what=none").returncode == 0
    rows = (tmp_path / "run" / "rows.csv").read_text()
    assert rows.endswith("\n")
    numbers = [int(line.split(",")[0]) for line in rows.splitlines()[1:]]
    assert numbers == [n for n in range(len(numbers) + 1) if n != 5]

    if victim == "supervisor":  # the host was told nothing, and serves the next run
        again = run(tmp_path / "again", text.replace("count: 1000000", "count: 30"))
        assert again.code == 0, again.err
    waiting.stop()


def test_a_host_whose_fork_server_dies_makes_another_and_nothing_is_lost(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path / "there", None, "--listen", "127.0.0.1:*", "--insecure")
    it = Run(
        tmp_path / "run",
        f"""
insecure: true
hosts: {{there: {{address: "{waiting.address}"}}}}
nodes:
  numbers: {{kind: number_source, settings: {{count: 400, rows: 1, delay: 0.005}}}}
  total: {{kind: running_sum, inputs: {{rows: numbers.rows}}}}
  rows: {{kind: csv_file, inputs: {{rows: total.summed}}, settings: {{path: rows.csv}}}}
processes:
  total: {{nodes: [total], host: there, restart: {RESTART}}}
""",
    )
    it.wait_for(lambda: it.last_look().get("nodes", {}).get("rows", {}).get("packets_in", 0) > 20)
    server, _total = descendants(waiting.process.pid)

    os.kill(server, signal.SIGKILL)

    assert it.end() == 0, it.err
    waiting.stop()
    assert it.report["processes"]["total"]["restarts"] >= 1
    lines = (tmp_path / "run" / "rows.csv").read_text().splitlines()[1:]
    sums = [n * (n + 1) // 2 for n in range(400)]
    assert [tuple(map(int, line.split(",")[:2])) for line in lines] == list(enumerate(sums))
