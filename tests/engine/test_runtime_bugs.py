"""Ways in which a running graph once went wrong, each with the test that showed it."""

from __future__ import annotations

import csv
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from runs import TESTKINDS, Run, run
from test_crash import assert_closed, kill_now_and_then

from streamflow.control import Control
from streamflow.edge import ENDED, InputOrder
from streamflow.errors import TransportError

RESTART = "restart: {when: on_failure, maximum: 1000, backoff: 0.01}"


def rows(folder: Path) -> list[tuple[int, int]]:
    with (folder / "rows.csv").open() as file:
        return [(int(row["n"]), int(row["t"])) for row in csv.DictReader(file)]


def flows(it: Run, node: str) -> None:
    """Wait until `node` has been given packets."""
    it.wait_for(lambda: it.last_look().get("nodes", {}).get(node, {}).get("packets_in"))


CHAIN = """
limits: {{handler_seconds: {limit}, start_seconds: 5}}
nodes:
  numbers: {{kind: number_source, settings: {{count: {count}, delay: 0.001}}}}
  middle: {{kind: trouble, inputs: {{rows: numbers.rows}}, settings: {{what: {what}, marker: once}}}}
  total: {{kind: row_total, inputs: {{rows: middle.same}}}}
processes:
  {processes}
"""  # noqa: E501  # a node a line


def chain(what: str, count: int = 300, limit: float = 30, processes: str = "{}") -> str:
    text = CHAIN.format(what=what, count=count, limit=limit, processes=processes)
    return text.replace("processes:\n  {}\n", "")


# --- what is sent before it is safe must come out the same again ----------------------------------


def test_what_time_completes_is_neither_lost_nor_repeated_by_a_crash(tmp_path: Path) -> None:
    count = 800
    text = f"""
nodes:
  numbers:
    kind: number_source
    settings: {{count: {count}, rows: 1, step: 2000, length: 100, delay: 0.001}}
  bell: {{kind: bell, inputs: {{rows: numbers.rows}}, settings: {{ballast: 3000000}}}}
  rows: {{kind: csv_file, inputs: {{rows: bell.rung}}, settings: {{path: rows.csv}}}}
processes:
  bell: {{nodes: [bell], {RESTART}}}
"""
    it = Run(tmp_path, text)

    kill_now_and_then(it, ["bell"], 6, seed=3)

    assert it.end() == 0, it.err
    assert it.report["processes"]["bell"]["restarts"] >= 3
    assert [n for n, _ in rows(tmp_path)] == list(range(count))


def test_a_live_source_beside_a_snapshot_loses_nothing_that_it_makes_after_a_crash(
    tmp_path: Path,
) -> None:
    text = f"""
nodes:
  live: {{kind: live_source, settings: {{count: 5000}}}}
  sum: {{kind: running_sum, inputs: {{rows: live.rows}}, settings: {{ballast: 1000000}}}}
  total: {{kind: row_total, inputs: {{rows: sum.summed}}}}
  rows: {{kind: csv_file, inputs: {{rows: live.rows}}, settings: {{path: rows.csv}}}}
processes:
  both: {{nodes: [live, sum], {RESTART}}}
"""
    it = Run(tmp_path, text)
    flows(it, "total")

    for _ in range(2):
        old = it.kill("both")
        it.wait_for(lambda old=old: it.pids().get("both", old) != old)
        since = it.last_look()["nodes"]["total"]["packets_in"]
        it.wait_for(lambda: it.last_look()["nodes"]["total"]["packets_in"] > since + 20)  # noqa: B023  # called at once

    assert it.end() == 0, it.err
    made = defaultdict(list)
    for n, pid in rows(tmp_path):
        made[pid].append(n)
    assert len(made) == 3
    for numbers in made.values():
        assert numbers == list(range(len(numbers)))  # none before the first, none in between


def test_a_packet_that_waits_inside_a_restarting_process_holds_no_credit_back(
    tmp_path: Path,
) -> None:
    text = f"""
nodes:
  coarse: {{kind: number_source, settings: {{count: 20, rows: 1, step: 100000}}}}
  fine: {{kind: number_source, settings: {{count: 2000, rows: 1}}}}
  same: {{kind: doubler, inputs: {{rows: coarse.rows}}, settings: {{factor: 1}}}}
  both: {{kind: zipper, inputs: {{first: same.doubled, second: fine.rows}}}}
  rows: {{kind: csv_file, inputs: {{rows: both.both}}, settings: {{path: rows.csv}}}}
processes:
  joined: {{nodes: [same, both], {RESTART}}}
"""
    it = run(tmp_path, text)

    assert it.end() == 0, it.report["error"]
    assert_closed(it.report)
    found = rows(tmp_path)
    assert [n for n, which in found if which == 0] == list(range(20))
    assert [n for n, which in found if which == 1] == list(range(2000))


def test_a_packet_that_waits_inside_a_killed_process_is_there_in_its_successor(
    tmp_path: Path,
) -> None:
    text = f"""
nodes:
  coarse: {{kind: number_source, settings: {{count: 20, rows: 1, step: 100000, filler: 1100}}}}
  fine: {{kind: number_source, settings: {{count: 2000, rows: 1, delay: 0.0005}}}}
  same: {{kind: running_sum, inputs: {{rows: coarse.rows}}}}
  both: {{kind: zipper, inputs: {{first: same.summed, second: fine.rows}}}}
  rows: {{kind: csv_file, inputs: {{rows: both.both}}, settings: {{path: rows.csv}}}}
processes:
  joined: {{nodes: [same, both], {RESTART}}}
"""
    it = Run(tmp_path, text)

    kill_now_and_then(it, ["joined"], 4, seed=2)

    assert it.end() == 0, it.report["error"]
    assert_closed(it.report)
    found = [(n, which) for n, which in rows(tmp_path) if n >= 0]
    assert [n for n, which in found if which == 0] == list(range(20))
    assert [n for n, which in found if which == 1] == list(range(2000))


def test_packets_that_wait_inside_a_process_are_bounded_by_the_edges_capacity(
    tmp_path: Path,
) -> None:
    text = """
nodes:
  fast: {kind: number_source, settings: {count: 4000, rows: 1}}
  slow: {kind: number_source, settings: {count: 8, rows: 1, step: 500000, delay: 0.1}}
  same: {kind: doubler, inputs: {rows: fast.rows}}
  both: {kind: zipper, inputs: {first: {from: same.doubled, capacity: 32}, second: slow.rows}}
  total: {kind: row_total, inputs: {rows: both.both}}
processes:
  joined: {nodes: [same, both]}
"""
    it = run(tmp_path, text)

    assert it.end() == 0, it.err
    edge = it.report["edges"]["same.doubled -> both.first"]
    assert edge["handled"] == 4000
    assert 0 < edge["waiting_max"] <= 32 + 8  # capacity + window, as between processes


def test_a_dead_view_does_not_stop_a_source_that_was_restarted_too(tmp_path: Path) -> None:
    text = f"""
nodes:
  numbers: {{kind: number_source, settings: {{count: 100000000, delay: 0.001}}}}
  view: {{kind: row_total, inputs: {{rows: {{from: numbers.rows, when_full: latest}}}}}}
processes:
  numbers: {{nodes: [numbers], {RESTART}}}
  view: {{nodes: [view], restart: {{when: on_failure, backoff: 25}}}}
"""
    it = Run(tmp_path, text)
    flows(it, "view")

    def made() -> int:
        return int(it.last_look()["nodes"]["numbers"]["packets_out"])

    it.kill("view")
    before = made()
    it.wait_for(lambda: made() > before + 20)
    first = it.kill("numbers")
    it.wait_for(lambda: it.pids().get("numbers", first) != first)
    then = made()
    until = time.monotonic() + 10  # the view stays away for 20 s at least
    while made() < then + 200:
        assert time.monotonic() < until, "the source stands still"
        time.sleep(0.05)

    assert "view" not in it.pids()
    it.process.send_signal(signal.SIGINT)
    it.process.send_signal(signal.SIGTERM)
    it.end()


# --- sources that begin again ---------------------------------------------------------------------


def test_a_restarted_device_whose_clock_begins_again_is_counted_not_a_crash_loop(
    tmp_path: Path,
) -> None:
    text = """
nodes:
  live: {kind: live_source, settings: {count: 400, delay: 0.003, begins_again: true}}
  total: {kind: row_total, inputs: {rows: live.rows}}
processes:
  live: {nodes: [live], restart: {when: on_failure, maximum: 3, backoff: 0.01}}
"""
    it = Run(tmp_path, text)
    it.wait_for(lambda: it.last_look().get("nodes", {}).get("live", {}).get("packets_out", 0) > 30)

    it.kill("live")

    assert it.end() == 0, it.report["error"]
    report = it.report
    assert report["processes"]["live"]["restarts"] == 1
    late = report["nodes"]["live"]["faults"]["time_backward"]
    assert late >= 30  # as many as it had made when it was looked at, less the last one
    (edge,) = report["edges"].values()
    assert edge["handled"] == edge["produced"] == report["nodes"]["live"]["packets_out"]
    assert "began again" in it.err


# --- what hangs or stands still -------------------------------------------------------------------


@pytest.mark.parametrize("restart", ["never", RESTART], ids=["never", "on_failure"])
def test_a_stopped_process_is_noticed_named_and_replaced(tmp_path: Path, restart: str) -> None:
    policy = "" if restart == "never" else f", {restart}"
    it = Run(tmp_path, chain("none", 3000, processes=f"middle: {{nodes: [middle]{policy}}}"))
    flows(it, "total")

    os.kill(it.pids()["middle"], signal.SIGSTOP)

    said = "process 'middle' (middle) was stopped (SIGSTOP)"
    if restart == "never":
        assert it.end() == 1
        assert said in it.report["error"]
    else:
        assert it.end() == 0, it.report["error"]
        assert said in it.report["notes"][0]
        assert it.report["results"]["total"]["gaps"] == 0
        assert_closed(it.report)


def test_a_process_stopped_inside_a_handler_is_replaced_long_before_the_handlers_limit(
    tmp_path: Path,
) -> None:
    # it hangs so that the stop is sure to hit a handler; its limit is 30 s
    it = Run(tmp_path, chain("hang"))
    # packet 5 hangs, so the source is far ahead
    it.wait_for(
        lambda: it.last_look().get("nodes", {}).get("numbers", {}).get("packets_out", 0) > 20
    )

    os.kill(it.pids()["middle"], signal.SIGSTOP)
    stopped = time.monotonic()

    assert it.end() == 1
    assert time.monotonic() - stopped < 20
    assert "was stopped (SIGSTOP)" in it.report["error"]


def test_a_process_stopped_while_it_opens_is_replaced(tmp_path: Path) -> None:
    it = Run(tmp_path, chain("hang_open"))

    pid = it.wait_for(lambda: it.pids().get("middle"))
    os.kill(pid, signal.SIGSTOP)

    assert it.end() == 1
    assert "process 'middle' (middle) was stopped (SIGSTOP)" in it.report["error"]


def test_a_process_that_is_stopped_only_for_a_moment_goes_on(tmp_path: Path) -> None:
    it = Run(tmp_path, chain("none", 1500, processes=f"middle: {{nodes: [middle], {RESTART}}}"))
    flows(it, "total")

    pid = it.pids()["middle"]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.3)  # what is tested: longer than a look (0.25 s), shorter than 0.75 s of them
    os.kill(pid, signal.SIGCONT)

    assert it.end() == 0, it.report["error"]
    assert it.report["processes"]["middle"]["restarts"] == 0


def test_a_slow_handler_is_not_taken_for_a_frozen_process(tmp_path: Path) -> None:
    text = chain("slow_after_yield", 30, processes="one: {nodes: [middle, total]}")
    it = run(tmp_path, text)

    assert it.end() == 0, it.report["error"]
    assert it.report["results"]["total"]["count"] == 90


def test_a_handler_that_hangs_after_its_packet_went_to_a_neighbour_inside_is_named(
    tmp_path: Path,
) -> None:
    text = chain("hang_after_yield", limit=1, processes="one: {nodes: [middle, total]}")
    it = run(tmp_path, text)

    assert it.end() == 1
    assert "node 'middle' (on_rows) has not returned for" in it.report["error"]


def test_a_successor_that_hangs_in_open_is_noticed_and_named(tmp_path: Path) -> None:
    restart = "restart: {when: on_failure, maximum: 1, backoff: 0.01}"
    text = chain("hang_in_second_open", processes=f"middle: {{nodes: [middle], {restart}}}")
    it = Run(tmp_path, text.replace("start_seconds: 5", "start_seconds: 3"))

    assert it.end() == 1
    assert "node 'middle' (open) has not returned" in it.report["error"]
    assert "start_seconds" in it.report["error"]


def test_a_snapshot_that_hangs_is_noticed_and_named(tmp_path: Path) -> None:
    text = awkward("slow_snapshot").replace("nodes:", "limits: {handler_seconds: 1}\nnodes:", 1)
    it = run(tmp_path, text.replace(RESTART, "restart: {when: on_failure, maximum: 1}"))

    assert it.end() == 1
    assert "node 'sink' (snapshot) has not returned for" in it.report["error"]


DIAMOND = """
nodes:
  numbers: {{kind: number_source, settings: {{count: 100000}}}}
  hoard: {{kind: hoard, inputs: {{rows: numbers.rows}}, settings: {{size: 500}}}}
  direct: {{kind: doubler, inputs: {{rows: numbers.rows}}}}
  both: {{kind: zipper, inputs: {{first: hoard.hoarded, second: direct.doubled}}}}
  total: {{kind: row_total, inputs: {{rows: both.both}}}}
{more}
"""


@pytest.mark.parametrize(
    "more",
    [
        "",
        f"processes: {{numbers: {{nodes: [numbers], {RESTART}}}, "
        f"direct: {{nodes: [direct], {RESTART}}}}}",
        "processes: {one: {nodes: [numbers, hoard, direct, both]}}",
    ],
    ids=["a process each", "restarting", "one process"],
)
def test_a_graph_that_cannot_go_on_is_stopped_and_the_way_out_is_said(
    tmp_path: Path, more: str
) -> None:
    # the branch by way of `hoard` keeps 500 packets of stream time back; the other can only hold
    # some 200, so `numbers` is never asked for the packet that `hoard` waits for
    it = run(tmp_path, DIAMOND.format(more=more))

    assert it.end() == 1
    error = it.report["error"]
    assert error.startswith("deadlock: every source is blocked")
    assert "direct.doubled -> both.second" in error
    assert "node 'both' waits for 'first' (hoard.hoarded)" in error
    assert "capacity" in error


def test_packets_may_leave_a_process_and_come_back_to_it(tmp_path: Path) -> None:
    text = """
nodes:
  numbers: {kind: number_source, settings: {count: 20}}
  many: {kind: trouble, inputs: {rows: numbers.rows}, settings: {what: many}}
  there: {kind: doubler, inputs: {rows: {from: many.same, capacity: 2, window: 2}}}
  back: {kind: doubler, inputs: {rows: {from: there.doubled, capacity: 2, window: 2}}}
  total: {kind: row_total, inputs: {rows: back.doubled}}
processes:
  here: {nodes: [many, back]}
"""
    it = Run(tmp_path, text)  # one packet gives 1000, and 8 find room on the way

    assert it.end() == 0, it.err
    assert it.report["results"]["total"]["packets"] == 1020
    assert it.report["unbalanced"] == {}


def test_a_device_that_says_nothing_is_no_deadlock(tmp_path: Path) -> None:
    text = """
nodes:
  fast: {kind: number_source, settings: {count: 10000}}
  silent: {kind: number_source, settings: {count: 10, silent_after: 5}}
  both: {kind: zipper, inputs: {first: fast.rows, second: silent.rows}}
  total: {kind: row_total, inputs: {rows: both.both}}
"""
    it = Run(tmp_path, text, "--duration", "8")

    assert it.end() == 0, it.report["error"]
    assert it.report["unbalanced"] == {}


# --- the ends of a run ----------------------------------------------------------------------------


def awkward(what: str) -> str:
    return f"""
nodes:
  numbers: {{kind: number_source, settings: {{count: 100}}}}
  sink: {{kind: awkward, inputs: {{rows: numbers.rows}}, settings: {{what: {what}, marker: once}}}}
processes:
  sink: {{nodes: [sink], {RESTART}}}
"""


def test_a_node_that_fails_while_a_signal_drains_the_graph_fails_the_run(tmp_path: Path) -> None:
    it = Run(tmp_path, chain("finish", 100_000_000))
    flows(it, "total")

    it.process.terminate()

    assert it.end() == 1
    assert it.report["outcome"] == "failed"
    assert "trouble in finish" in it.report["error"]


def test_a_sink_killed_while_it_closes_is_replaced_and_its_results_are_there(
    tmp_path: Path,
) -> None:
    it = run(tmp_path, awkward("close"))

    assert it.end() == 0, it.report["error"]
    assert it.report["processes"]["sink"]["restarts"] == 1
    assert it.report["results"]["sink"] == {"packets": 100}
    assert_closed(it.report)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("results", "node 'sink' (awkward): TypeError: Encoding objects of type numpy.int64"),
        ("snapshot", "node 'sink' (awkward): OSError: the disk is full [snapshot]"),
        ("state", "node 'sink' (awkward): TypeError: object cannot be part of a snapshot"),
    ],
)
def test_results_and_snapshots_that_cannot_be_kept_name_their_node(
    tmp_path: Path, what: str, said: str
) -> None:
    text = awkward(what).replace(RESTART, "restart: {when: on_failure, maximum: 1, backoff: 0.01}")
    it = run(tmp_path, text)

    assert it.end() == 1
    assert said in it.report["error"]


def test_a_node_that_never_ran_has_lost_no_state(tmp_path: Path) -> None:
    text = f"""
nodes:
  numbers: {{kind: number_source, settings: {{count: 50}}}}
  middle: {{kind: forgetful_sum, inputs: {{rows: numbers.rows}}}}
  hoard: {{kind: hoard, inputs: {{rows: middle.counted}}}}
  total: {{kind: row_total, inputs: {{rows: hoard.hoarded}}}}
processes:
  middle: {{nodes: [middle], {RESTART}}}
"""
    it = Run(tmp_path, text)

    it.kill("middle")  # as soon as it is there, which is before it is told what to do

    assert it.end() == 0, it.err
    assert it.report["processes"]["middle"]["restarts"] == 1
    assert it.report["nodes"]["middle"]["state_lost"] == 0


# --- time -----------------------------------------------------------------------------------------


def test_latency_counts_the_time_a_packet_waits_in_its_source(tmp_path: Path) -> None:
    text = """
nodes:
  numbers: {kind: number_source, settings: {count: 25}}
  total:
    kind: row_total
    inputs: {rows: {from: numbers.rows, capacity: 1, window: 1}}
    settings: {delay: 0.1}
"""
    it = run(tmp_path, text)

    # 0.1 s each for what goes before it: one at the sink, one on the edge, four in the source
    assert it.report["latency_us"]["total"]["max"] >= 590_000


def test_data_that_nobody_captured_has_no_latency(tmp_path: Path) -> None:
    text = """
nodes:
  numbers: {kind: number_source, settings: {count: 0}}
  last: {kind: last_word, inputs: {rows: numbers.rows}}
  total: {kind: row_total, inputs: {rows: last.word}}
"""
    it = run(tmp_path, text)

    assert it.report["results"]["total"]["packets"] == 1
    assert it.report["latency_us"]["total"]["count"] == 0


def test_a_node_without_connected_inputs_has_seen_the_end() -> None:
    order = InputOrder(0)

    assert order.time == ENDED
    assert order.ended


# --- the supervisor -------------------------------------------------------------------------------


def test_a_run_survives_garbage_at_its_control_socket(tmp_path: Path) -> None:
    it = Run(tmp_path, chain("none", 1500))
    flows(it, "total")
    (folder,) = (it.runtime / "streamflow").iterdir()
    garbage = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x01\x00\x00\x00\x00\x00\x00\x00\xc1",  # no msgpack
        b"\x01\x00\x00\x00\x00\x00\x00\x00\x01",  # msgpack, and no message
        b"\x01\x00\x00\x00\x00\x00\x00\x00\x80",  # an empty one
        b"\x06\x00\x00\x00\x00\x00\x00\x00\x81\xa2op\xa1x",  # one of nobody's
        b"\x0a\x00\x00\x00\x09\x00\x00\x00\x81\xa2op\xa5hello",  # descriptors that never came
        b"\x0a\x00\x00\x00\x00\x00\x00\x00\x81\xa2op\xa5hello",  # a greeting without words
    ]
    for sent in garbage:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(folder / "control"))
            client.sendall(sent)
            client.settimeout(20)
            assert client.recv(1) == b""  # refused

    assert it.end() == 0, it.report["error"]
    assert it.report["results"]["total"]["count"] == 4500


MANY_RUNS = """
import sys
from streamflow.run_directory import RunDirectory
for number in range(400):
    directory = RunDirectory(f"{sys.argv[1]}{number}")
    assert (directory.path / "lock").exists(), "another run swept it away"
    directory.remove()
"""


def test_runs_that_begin_at_once_do_not_sweep_each_other_away(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}

    runs = [
        subprocess.Popen([sys.executable, "-c", MANY_RUNS, name], env=environment)
        for name in "abcd"
    ]

    assert [it.wait(60) for it in runs] == [0, 0, 0, 0]
    assert list((tmp_path / "streamflow").iterdir()) == []


def test_a_run_works_where_many_descriptors_are_open(tmp_path: Path) -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1400:
        pytest.skip(f"this machine allows {hard} descriptors")
    graph = tmp_path / "graph.yaml"
    graph.write_text("nodes: {numbers: {kind: number_source, settings: {count: 3}}}\n")
    program = tmp_path / "many.py"
    program.write_text(
        "import os, resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (1400, {hard}))\n"
        "held = [os.open('/dev/null', os.O_RDONLY) for _ in range(1100)]\n"
        "from streamflow.graph import load\n"
        "from streamflow.supervisor import run\n"
        "report = run(load(sys.argv[1]))\n"
        "assert report['outcome'] == 'completed', report['error']\n"
        "assert report['nodes']['numbers']['packets_out'] == 3\n"
    )
    here = Run(tmp_path / "none", "nodes: {}\n")
    here.end()
    it = os.spawnve(
        os.P_WAIT, sys.executable, [sys.executable, str(program), str(graph)],
        {**os.environ, "PYTHONPATH": str(TESTKINDS), "XDG_RUNTIME_DIR": str(here.runtime)},
    )  # fmt: skip

    assert it == 0


def test_restarts_leave_no_descriptors_and_no_files_behind(tmp_path: Path) -> None:
    it = Run(
        tmp_path, chain("none", 100_000_000, processes=f"middle: {{nodes: [middle], {RESTART}}}")
    )
    flows(it, "total")

    def inventory() -> dict[str, Any]:
        (folder,) = (it.runtime / "streamflow").iterdir()
        pids = {"supervisor": it.process.pid, "fork server": it.fork_server(), **it.pids()}
        counts = {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pids.items()}
        return {"files": len(list(folder.iterdir())), **counts}

    def restart() -> None:
        old = it.kill("middle")
        it.wait_for(lambda: it.pids().get("middle", old) != old)
        since = it.last_look()["nodes"]["total"]["packets_in"]
        it.wait_for(lambda: it.last_look()["nodes"]["total"]["packets_in"] > since + 100)

    restart()
    before = inventory()
    for _ in range(3):
        restart()

    assert inventory() == before
    it.process.terminate()
    assert it.end() == 0, it.err


# --- control messages -----------------------------------------------------------------------------


def test_threads_may_send_at_once() -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = Control(ours), Control(theirs)
    threads = [
        threading.Thread(
            target=lambda n=n: [sender.send("log", n=n, text=str(n) * 300_000) for _ in range(20)]
        )
        for n in range(4)
    ]

    for thread in threads:
        thread.start()
    found: list[dict[str, Any]] = []
    until = time.monotonic() + 30
    while len(found) < 80 and time.monotonic() < until:
        found += receiver.receive()
    for thread in threads:
        thread.join()

    assert len(found) == 80
    assert all(message["text"] == str(message["n"]) * 300_000 for message in found)
    sender.close()
    receiver.close()


@pytest.mark.parametrize("body", [b"\xc1", b"\x01", b"\x80", b"\x81\xa2op\x01"])
def test_bytes_that_are_no_message_close_the_connection_and_say_so(body: bytes) -> None:
    ours, theirs = socket.socketpair()
    control = Control(ours)
    theirs.sendall(len(body).to_bytes(4, "little") + bytes(4) + body)

    with pytest.raises(TransportError, match="not one of ours"):
        control.receive()

    assert not control.open
    control.close()
    theirs.close()


def test_a_message_that_the_other_end_would_refuse_is_not_sent() -> None:
    ours, theirs = socket.socketpair()
    control = Control(ours)

    with pytest.raises(TransportError, match="16 MiB"):
        control.send("closed", results="x" * (17 << 20))

    control.close()
    theirs.close()
