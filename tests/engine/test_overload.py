"""Consumers that are ten times too slow, for some seconds: exact counts, flat memory.

`benchmarks/overload.py` does the same for as many minutes as wanted, and with ages in milliseconds.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from runs import Run

PACKETS = 1800
LOSSY = f"""
nodes:
  numbers: {{kind: number_source, settings: {{count: {PACKETS}, delay: 0.002, filler: 4000}}}}
  oldest:
    kind: row_total
    inputs: {{rows: {{from: numbers.rows, when_full: drop_oldest}}}}
    settings: {{delay: 0.02}}
  newest:
    kind: row_total
    inputs: {{rows: {{from: numbers.rows, when_full: drop_newest}}}}
    settings: {{delay: 0.02}}
  view:
    kind: row_total
    inputs: {{rows: {{from: numbers.rows, when_full: latest}}}}
    settings: {{delay: 0.02}}
  recorder: {{kind: row_total, inputs: {{rows: numbers.rows}}}}
"""
BLOCKED = """
nodes:
  numbers: {kind: number_source, settings: {count: 200, delay: 0.001, filler: 4000}}
  slow: {kind: row_total, inputs: {rows: numbers.rows}, settings: {delay: 0.015}}
"""
MIB = 1 << 20


def run(folder: Path, text: str) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """The report, and the resident memory (bytes) of each worker every 0.2 s."""
    it = Run(folder, text)
    memory: dict[str, list[int]] = defaultdict(list)
    it.wait_for(lambda: it.last_look().get("nodes", {}).get("numbers", {}).get("packets_out"))
    while it.process.poll() is None:
        for name, pid in it.pids().items():
            try:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:  # it has just ended
                continue
            memory[name].append(pages * 4096)
        time.sleep(0.2)
    assert it.end() == 0, it.err
    return it.report, memory


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, list[int]]]:
    return run(tmp_path_factory.mktemp("lossy"), LOSSY)


def assert_flat(memory: dict[str, list[int]], names: set[str]) -> None:
    """No process grows by more than some packets of 64 KB, of which thousands go by."""
    assert names <= set(memory)
    for name in names:
        # every page of an edge is touched once before; an ending process has given up its own
        settled = memory[name][len(memory[name]) // 3 : -2]
        assert len(settled) >= 3, (name, memory[name])
        assert max(settled) - settled[0] < 4 * MIB, (name, memory[name])


def test_every_dropped_packet_is_counted_on_both_sides(
    lossy: tuple[dict[str, Any], dict[str, list[int]]],
) -> None:
    report, _ = lossy

    assert report["unbalanced"] == {}
    for name in ("oldest", "newest", "view"):
        edge = report["edges"][f"numbers.rows -> {name}.rows"]
        assert edge["produced"] == PACKETS == edge["acknowledged"] + edge["dropped"]
        assert edge["handled"] == edge["acknowledged"] == report["results"][name]["packets"]
        assert edge["items"] == edge["items_dropped"] + edge["items_handled"]
        assert edge["dropped"] > edge["handled"] > 0
        assert edge["lost"] == edge["in_flight"] == 0


def test_lossy_consumers_leave_the_source_and_a_recorder_alone(
    lossy: tuple[dict[str, Any], dict[str, list[int]]],
) -> None:
    report, _ = lossy

    assert report["results"]["recorder"]["packets"] == PACKETS
    assert report["results"]["recorder"]["gaps"] == 0
    for name in ("oldest", "newest", "view"):
        assert report["edges"][f"numbers.rows -> {name}.rows"]["blocked_s"] == 0


def test_packets_are_as_old_as_the_policy_lets_them_wait(
    lossy: tuple[dict[str, Any], dict[str, list[int]]],
) -> None:
    """64 packets queue before a sink that takes 20 ms, or the newest 64 wait 2 ms each, or one."""
    ages = {name: lossy[0]["latency_us"][name]["p50"] for name in ("oldest", "newest", "view")}

    assert 3 * ages["view"] < ages["oldest"]
    assert 3 * ages["oldest"] < ages["newest"]


def test_memory_stays_flat_while_packets_are_dropped(
    lossy: tuple[dict[str, Any], dict[str, list[int]]],
) -> None:
    assert_flat(lossy[1], {"numbers", "oldest", "newest", "view", "recorder"})


def test_memory_stays_flat_while_the_source_is_held_back(tmp_path: Path) -> None:
    report, memory = run(tmp_path, BLOCKED)

    edge = report["edges"]["numbers.rows -> slow.rows"]
    assert edge["produced"] == edge["acknowledged"] == 200
    assert edge["dropped"] == 0
    assert edge["waiting_max"] <= 64
    assert edge["blocked_s"] > 0
    assert_flat(memory, {"numbers", "slow"})
