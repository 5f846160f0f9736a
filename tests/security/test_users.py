"""What another user of the machine can do to a run: nothing. As root, with a real second user."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runs import Run

from streamflow.errors import TransportError
from streamflow.launch import cache_directory
from streamflow.run_directory import runtime_directory

NOBODY = 65534
GRAPH = """
nodes:
  numbers: {kind: number_source, settings: {count: 100000, rows: 3, filler: 5000, delay: 0.05}}
  middle: {kind: doubler, inputs: {rows: numbers.rows}}
  rows: {kind: csv_file, inputs: {rows: middle.doubled}, settings: {path: rows.csv}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A graph that runs, as root."""
    if os.getuid() != 0:
        pytest.skip("only root can become a second user")
    run = Run(tmp_path_factory.mktemp("users"), GRAPH)
    run.wait_for(lambda: run.last_look().get("nodes", {}).get("rows", {}).get("packets_in"))
    yield run
    assert run.process.poll() is None, run.err  # whatever strangers tried
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0, run.err


def as_nobody(what: Callable[[], object]) -> str:
    """What becomes of `what()` in a child that is another user: the error's name, or its value."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            said = f"{what()}"
        except BaseException as error:
            said = type(error).__name__
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with open(read) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


def place(run: Run) -> Path:
    """The run's folder of sockets."""
    (folder,) = (path for path in (run.runtime / "streamflow").iterdir() if path.is_dir())
    return folder


def connected(path: Path) -> str:
    """'closed' when the other end closes the connection, as it does for strangers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        return "closed" if connection.recv(1) == b"" else "served"


def test_a_run_s_folder_and_sockets_are_for_its_user_alone(run: Run) -> None:
    folder = place(run)

    for path in (folder.parent, folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    sockets = [path for path in folder.iterdir() if stat.S_ISSOCK(path.stat().st_mode)]
    assert len(sockets) >= 3  # control, and one for each edge
    edges = [path for path in sockets if path.name != "control"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in edges} == {0o700}


def test_another_user_cannot_reach_the_sockets(run: Run) -> None:
    for path in place(run).iterdir():
        assert as_nobody(lambda: connected(path)) == "PermissionError"  # noqa: B023  # called at once
    assert as_nobody(lambda: os.listdir(place(run))) == "PermissionError"


def test_another_user_who_reaches_the_control_socket_is_sent_away(run: Run) -> None:
    # as if someone had opened every folder and the socket to all
    opened = [place(run) / "control", place(run), run.runtime / "streamflow", run.runtime]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in opened]
    for path in opened:
        path.chmod(0o777)
    try:
        said = as_nobody(lambda: connected(opened[0]))
        edges = [path for path in place(run).iterdir() if path.name[0] == "e"]
        edge = as_nobody(lambda: connected(next(p for p in edges if p.suffix != ".lock")))
    finally:
        for path, mode in zip(opened, modes, strict=True):
            path.chmod(mode)

    assert said == "closed"
    assert edge == "PermissionError"
    assert run.process.poll() is None


def test_another_user_cannot_read_shared_memory(run: Run) -> None:
    pid = run.pids()["numbers"]
    memory = [fd for fd in Path(f"/proc/{pid}/fd").iterdir() if "memfd" in os.readlink(fd)]

    assert memory
    assert as_nobody(lambda: os.listdir(f"/proc/{pid}/fd")) == "PermissionError"
    for fd in memory:
        with fd.open("rb") as file:
            assert file.read(1)  # the user whose run it is can
        assert as_nobody(lambda: os.read(os.open(fd, os.O_RDONLY), 1)) == "PermissionError"  # noqa: B023  # called at once
    assert as_nobody(lambda: os.open(f"/proc/{pid}/mem", os.O_RDONLY)) == "PermissionError"
    assert as_nobody(lambda: Path(f"/proc/{pid}/environ").read_bytes()) == "PermissionError"


def test_another_user_cannot_signal_any_process_of_a_run(run: Run) -> None:
    for pid in [run.process.pid, run.fork_server(), *run.pids().values()]:
        assert as_nobody(lambda: os.kill(pid, signal.SIGTERM)) == "PermissionError"  # noqa: B023  # called at once


def test_a_runtime_folder_that_is_a_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # its target may be mine and private: what looks like a dead run there would be deleted
    (tmp_path / "precious" / "thing").mkdir(parents=True, mode=0o700)
    (tmp_path / "precious").chmod(0o700)
    (tmp_path / "precious" / "thing" / "lock").touch()
    (tmp_path / "streamflow").symlink_to(tmp_path / "precious")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    with pytest.raises(TransportError, match="it must be a folder of yours with mode 700"):
        runtime_directory()


@pytest.mark.parametrize("mode", [0o777, 0o722, 0o770])
def test_compiled_kernels_are_not_taken_from_where_others_can_write(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(mode)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))

    with pytest.raises(TransportError, match=f"with mode {mode:o}.*chmod go-w it"):
        cache_directory()


def test_compiled_kernels_are_not_taken_from_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(tmp_path, NOBODY, NOBODY)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))

    with pytest.raises(TransportError, match="it belongs to user 65534"):
        cache_directory()
