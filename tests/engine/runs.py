"""Runs graphs of the test kinds as a user does: through the command line, in processes."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTKINDS = Path(__file__).resolve().parents[1] / "testkinds"
LIMIT = 60.0  # generous: how long anything that must come may take
STARTED: list[subprocess.Popen[bytes]] = []  # by the test that runs; conftest.py ends what is left


class Run:
    """One `streamflow run`, and what it leaves."""

    def __init__(
        self,
        folder: Path,
        text: str,
        *options: str,
        env: dict[str, str] | None = None,
        inside: list[str] | None = None,
    ) -> None:
        """`inside` is a command that runs the rest of its line, in a network namespace say."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "graph.yaml").write_text(text)
        # short, because the sockets' paths must be; one for each folder, so that a rerun meets it
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        self.runtime = Path(tempfile.gettempdir(), f"sf-{name}")
        self.runtime.mkdir(mode=0o700, exist_ok=True)
        atexit.register(shutil.rmtree, self.runtime, ignore_errors=True)
        environment = {
            **os.environ, "PYTHONPATH": str(TESTKINDS), "XDG_RUNTIME_DIR": str(self.runtime),
            **(env or {}),
        }  # fmt: skip
        command = [*(inside or []), sys.executable, "-m", "streamflow.cli", "run", "graph.yaml"]
        command += ["--json"]
        command += ["--report", "report.json", *options]
        with (folder / "out.txt").open("w") as out, (folder / "err.txt").open("w") as err:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=out, stderr=err,
                stdin=subprocess.DEVNULL, preexec_fn=_die_with_the_tests,
            )  # fmt: skip
        STARTED.append(self.process)

    def end(self) -> int:
        """Wait for the end; the exit code."""
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running after {LIMIT} s: {self.err}") from None

    @property
    def report(self) -> dict[str, Any]:
        """The run report."""
        return json.loads((self.folder / "report.json").read_text())

    @property
    def err(self) -> str:
        """What was printed to stderr."""
        return (self.folder / "err.txt").read_text()

    def last_look(self) -> dict[str, Any]:
        """The newest line of `--json`: the report as it is while the graph runs."""
        whole = (self.folder / "out.txt").read_text().rpartition("\n")[0].splitlines()
        return json.loads(whole[-1]) if whole else {}

    def pids(self) -> dict[str, int]:
        """The worker processes alive now, by name."""
        found = {}
        for pid in descendants(self.process.pid):
            name = _comm(pid)
            if name not in ("python", "python3", "streamflow", ""):
                found[name] = pid
        return found

    def fork_server(self) -> int:
        """The fork server's pid."""
        for pid in descendants(self.process.pid):
            if (
                b"streamflow.forkserver" in _read(pid, "cmdline")
                and _parent(pid) == self.process.pid
            ):
                return pid
        raise AssertionError("no fork server")

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """Poll until `what()` is true; its value."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            if value := what():
                return value
            if self.process.poll() is not None:
                raise AssertionError(f"the run ended meanwhile: {self.err}")
            time.sleep(0.01)
        raise AssertionError("it never came")

    def kill(self, name: str) -> int:
        """Kill -9 the process `name` as soon as it is there; its pid."""
        pid = self.wait_for(lambda: self.pids().get(name))
        os.kill(pid, signal.SIGKILL)
        return int(pid)


def _die_with_the_tests() -> None:
    """A test run that is killed must not leave graphs running."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def run(folder: Path, text: str, *options: str) -> Run:
    """Run a graph to its end."""
    it = Run(folder, text, *options)
    it.code = it.end()  # type: ignore[attr-defined]  # for whoever has run it
    return it


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _comm(pid: int) -> str:
    return _read(pid, "comm").decode().strip()


def _parent(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields and fields[0] != b"Z" else -1


def descendants(root: int) -> list[int]:
    """Every living process below `root`."""
    parents = {int(p.name): _parent(int(p.name)) for p in Path("/proc").glob("[0-9]*")}
    found, edge = [], {root}
    while edge:
        edge = {pid for pid, parent in parents.items() if parent in edge}
        found += sorted(edge)
    return found


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    return _parent(pid) >= 0


def gone(pids: list[int], seconds: float = 1.0) -> list[int]:
    """The processes that are still there after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(alive(pid) for pid in pids):
        time.sleep(0.01)
    return [pid for pid in pids if alive(pid)]
