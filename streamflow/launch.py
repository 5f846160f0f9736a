"""Starts the programs of a run: the fork server, and workers of other interpreters."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .control import Control
from .errors import TransportError

THREADS = dict.fromkeys(
    ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)


class ForkServer:
    """The fork server as its owner sees it. It loads in the background once it is made."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.environment = {**os.environ, **THREADS, "NUMBA_CACHE_DIR": str(cache_directory())}
        self.process = subprocess.Popen(
            [
                *program(sys.executable, "streamflow.forkserver"),
                str(theirs.fileno()),
                str(os.getpid()),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=self.environment,
            start_new_session=True,  # a terminal's Ctrl-C is for the supervisor alone
        )
        theirs.close()
        self.control = Control(ours)
        self.began = time.monotonic()

    def stop(self) -> None:
        """End it; it kills whatever it has forked."""
        self.control.send("end")
        self.control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def program(python: str, module: str) -> list[str]:
    """The command that runs a module of ours as `-m` does, but imports nothing from where one is.

    Recordings and graphs lie in the working directory, and a `numpy.py` among them is not to run.
    """
    return [
        python, "-c",
        "import sys; sys.path[:] = [place for place in sys.path if place]; import runpy; "
        f"runpy.run_module('{module}', run_name='__main__', alter_sys=True)",
    ]  # fmt: skip


def cache_directory() -> Path:
    """A folder where compiled kernels can be kept; tested, so that no worker compiles in vain."""
    candidates = [os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")]
    home = Path.home() if "HOME" in os.environ else None
    paths = [Path(candidates[0])] if candidates[0] else []
    if candidates[1]:
        paths.append(Path(candidates[1], "streamflow", "numba"))
    elif home is not None:
        paths.append(home / ".cache" / "streamflow" / "numba")
    paths.append(Path(tempfile.gettempdir(), f"streamflow-{os.getuid()}-numba"))
    for path in paths:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError:
            continue
        status = path.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise TransportError(
                f"{path} is for compiled kernels, which are executed; it belongs to user "
                f"{status.st_uid} with mode {status.st_mode & 0o777:o}, and must be yours and "
                "nobody else's to write: chmod go-w it, or set NUMBA_CACHE_DIR to another folder"
            )
        return path
    raise TransportError(f"no folder for compiled kernels can be written: tried {paths}")
