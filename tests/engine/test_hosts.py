"""Edges between hosts, each a network namespace of its own with real links between them."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import LIMIT, STARTED, TESTKINDS, Run, _die_with_the_tests

HERE, THERE = "10.77.0.1", "10.77.0.2"
PORT = 7600


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Network:
    """Two hosts, `here` and `there`, joined by a cable."""

    def __init__(self, name: str) -> None:
        self.here, self.there = f"{name}a", f"{name}b"
        self.name = name
        ip("netns", "add", self.here)
        ip("netns", "add", self.there)
        ip("link", "add", f"{name}0", "netns", self.here, "type", "veth", "peer", "name",
           f"{name}1", "netns", self.there)  # fmt: skip
        for space, end, address in ((self.here, 0, HERE), (self.there, 1, THERE)):
            ip("-n", space, "address", "add", f"{address}/24", "dev", f"{name}{end}")
            ip("-n", space, "link", "set", f"{name}{end}", "up")
            ip("-n", space, "link", "set", "lo", "up")

    def cut(self) -> None:
        """Pull the plug: packets vanish, nobody is told."""
        self._queue("tbf", "rate", "8bit", "burst", "16", "limit", "16")  # all are too large for it

    def shape(self, *netem: str) -> None:
        """Delay or lose some of what goes either way; the test is skipped where that cannot be."""
        try:
            self._queue("netem", *netem)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this kernel has no netem: {error.stderr.decode().strip()}")

    def throttle(self, rate: str) -> None:
        """Let so many bits a second through, and drop what comes faster than that for long."""
        self._queue("tbf", "rate", rate, "burst", "32kb", "limit", "48kb")

    def dropped(self) -> int:
        """How many packets the narrow link has dropped, both ways."""
        found = [
            subprocess.run(
                ["ip", "netns", "exec", space, "tc", "-s", "qdisc", "show"],
                check=True, capture_output=True, text=True, timeout=20,
            ).stdout
            for space in (self.here, self.there)
        ]  # fmt: skip
        return sum(int(text) for text in re.findall(r"dropped (\d+)", "".join(found)))

    def _queue(self, *discipline: str) -> None:
        for space, end in ((self.here, 0), (self.there, 1)):
            ip("netns", "exec", space, "tc", "qdisc", "replace", "dev", f"{self.name}{end}",
               "root", *discipline)  # fmt: skip

    def heal(self) -> None:
        """A cable again."""
        for space, end in ((self.here, 0), (self.there, 1)):
            ip("netns", "exec", space, "tc", "qdisc", "del", "dev", f"{self.name}{end}", "root")

    def remove(self) -> None:
        for space in (self.here, self.there):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, timeout=20)


@pytest.fixture
def network() -> Iterator[Network]:
    name = f"sf{os.getpid() % 10000}"
    try:
        found = Network(name)
    except (OSError, subprocess.CalledProcessError) as error:
        for space in (f"{name}a", f"{name}b"):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
        pytest.skip(f"no network namespaces here: {error}")
    yield found
    found.remove()


class Waiting:
    """`streamflow host` on the other host."""

    def __init__(self, folder: Path, network: Network | None, *options: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.runtime = Path(tempfile.mkdtemp(prefix="sf-host-"))  # short: sockets' paths must be
        inside = ["ip", "netns", "exec", network.there] if network is not None else []
        environment = {
            **os.environ, "PYTHONPATH": str(TESTKINDS), "XDG_RUNTIME_DIR": str(self.runtime),
        }  # fmt: skip
        with (folder / "host.txt").open("w") as out:
            self.process = subprocess.Popen(
                [*inside, sys.executable, "-m", "streamflow.cli", "host", *options],
                cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, preexec_fn=_die_with_the_tests,
            )  # fmt: skip
        STARTED.append(self.process)
        wait_for(lambda: "waiting at" in self.text or self.process.poll() is not None)

    @property
    def text(self) -> str:
        return (self.folder / "host.txt").read_text()

    @property
    def address(self) -> str:
        return self.text.split("waiting at ")[1].split()[0]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        assert not list((self.runtime / "streamflow").iterdir())
        shutil.rmtree(self.runtime)


def wait_for(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.01)
    raise AssertionError("it never came")


def keys(folder: Path) -> tuple[list[str], str, Path]:
    """The host's options, the graph's `key`, and the supervisor's secret."""
    from streamflow.network import write_keys

    host, host_secret = write_keys(folder, "there")
    mine, secret = write_keys(folder, "me")
    return ["--key", str(host_secret), "--allow", str(mine)], str(host), secret


def graph(address: str, key: str = "", *, count: int = 600, more: str = "") -> str:
    named = f", key: {key}" if key else ""
    return f"""
hosts:
  there: {{address: "{address}"{named}}}
nodes:
  numbers: {{kind: number_source, settings: {{count: {count}, rows: 3, filler: 1100, delay: 0.004}}}}
  middle: {{kind: doubler, inputs: {{rows: {{from: numbers.rows{more}}}}}}}
  rows: {{kind: csv_file, inputs: {{rows: middle.doubled}}, settings: {{path: rows.csv}}}}
processes:
  middle: {{nodes: [middle], host: there, restart: {{when: on_failure, maximum: 1000, backoff: 0.01}}}}
"""  # noqa: E501  # a node a line


def start(folder: Path, network: Network, text: str, *options: str) -> Run:
    return Run(folder, text, *options, inside=["ip", "netns", "exec", network.here])


def assert_exact(run: Run, count: int = 600) -> dict[str, Any]:
    assert run.end() == 0, run.err
    report = run.report
    assert report["unbalanced"] == {}
    for name, edge in report["edges"].items():
        assert edge["in_flight"] == edge["lost"] == edge["dropped"] == 0, name
        assert edge["produced"] == edge["acknowledged"] == edge["handled"], name
    with (run.folder / "rows.csv").open() as file:
        numbers = [int(row["n"]) for row in csv.DictReader(file)]
    assert [n for n in numbers if n >= 0] == [2 * n for n in range(3 * count)]
    return report


def test_a_process_on_another_host_gets_and_gives_everything(
    tmp_path: Path, network: Network
) -> None:
    options, key, secret = keys(tmp_path)
    waiting = Waiting(tmp_path / "there", network, "--listen", f"{THERE}:{PORT}", *options)
    run = start(tmp_path / "run", network, graph(f"{THERE}:{PORT}", key), "--key", str(secret))
    report = assert_exact(run)
    waiting.stop()
    assert {edge["transport"] for edge in report["edges"].values()} == {"tcp"}
    host = report["hosts"]["there"]
    assert abs(host["clock_ahead_us"]) <= host["clock_error_us"] + 1000  # one machine, one clock


def test_a_cable_that_is_pulled_and_put_back_loses_and_repeats_nothing(
    tmp_path: Path, network: Network
) -> None:
    options, key, secret = keys(tmp_path)
    waiting = Waiting(tmp_path / "there", network, "--listen", f"{THERE}:{PORT}", *options)
    run = start(tmp_path / "run", network, graph(f"{THERE}:{PORT}", key), "--key", str(secret))
    run.wait_for(lambda: run.last_look().get("nodes", {}).get("rows", {}).get("packets_in"))
    network.cut()
    cut = time.monotonic()
    run.wait_for(lambda: "has not been heard" in run.err)
    assert time.monotonic() - cut < 5  # noticed within 1 s; the rest is a busy machine
    wait_for(lambda: "the supervisor has not been heard" in waiting.text)
    network.heal()
    report = assert_exact(run)
    waiting.stop()
    assert report["hosts"]["there"]["losses"] >= 1
    assert report["processes"]["middle"]["restarts"] >= 1


def test_kill_9_on_another_host_loses_and_repeats_nothing(tmp_path: Path, network: Network) -> None:
    options, key, secret = keys(tmp_path)
    waiting = Waiting(tmp_path / "there", network, "--listen", f"{THERE}:{PORT}", *options)
    text = graph(f"{THERE}:{PORT}", key, count=1500)
    run = start(tmp_path / "run", network, text, "--key", str(secret))
    killed = 0
    run.wait_for(lambda: run.last_look().get("nodes", {}).get("rows", {}).get("packets_in"))
    for _ in range(3):
        pid = run.wait_for(lambda: workers(waiting.process.pid, "middle"))[0]
        os.kill(pid, signal.SIGKILL)
        killed += 1
        run.wait_for(lambda expected=killed: restarts(run) >= expected)
    report = assert_exact(run, 1500)
    waiting.stop()
    assert killed == 3 <= report["processes"]["middle"]["restarts"]  # more where hosts are slow


def test_a_narrow_link_that_drops_packets_only_takes_longer(
    tmp_path: Path, network: Network
) -> None:
    options, key, secret = keys(tmp_path)
    network.throttle("20mbit")
    waiting = Waiting(tmp_path / "there", network, "--listen", f"{THERE}:{PORT}", *options)
    text = graph(f"{THERE}:{PORT}", key, count=150)
    report = assert_exact(start(tmp_path / "run", network, text, "--key", str(secret)), 150)
    waiting.stop()
    assert report["outcome"] == "completed"
    assert network.dropped() > 0  # so tcp had to send again


def test_a_slow_lossy_link_only_takes_longer(tmp_path: Path, network: Network) -> None:
    options, key, secret = keys(tmp_path)
    network.shape("delay", "20ms", "loss", "2%")
    waiting = Waiting(tmp_path / "there", network, "--listen", f"{THERE}:{PORT}", *options)
    text = graph(f"{THERE}:{PORT}", key, count=100, more=", compress: lz4")
    report = assert_exact(start(tmp_path / "run", network, text, "--key", str(secret)), 100)
    waiting.stop()
    assert report["hosts"]["there"]["round_trip_us"] >= 40_000
    assert report["latency_us"]["rows"]["p50"] >= 35_000  # there and back, on one clock


def restarts(run: Run) -> int:
    return int(run.last_look()["processes"]["middle"]["restarts"])


def workers(root: int, name: str) -> list[int]:
    from runs import _comm, descendants

    return [pid for pid in descendants(root) if _comm(pid) == name]
