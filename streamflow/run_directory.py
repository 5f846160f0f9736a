"""The folder of a run: its sockets and its lock, and what dead runs left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from pathlib import Path

from .errors import TransportError

_IPC_PATH = 107  # bytes of a Unix socket's path, less the final zero


def runtime_directory() -> Path:
    """Where runs keep their sockets: private to the user, made if it is not there."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base, "streamflow") if base else Path(f"/tmp/streamflow-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()  # a link in /tmp could be anyone's, to a folder of mine that is swept
    if not stat.S_ISDIR(status.st_mode) or (status.st_uid, status.st_mode & 0o077) != (
        os.getuid(), 0,
    ):  # fmt: skip
        raise TransportError(
            f"{path} belongs to user {status.st_uid} with mode {status.st_mode & 0o777:o}; "
            "it must be a folder of yours with mode 700: remove it, or set XDG_RUNTIME_DIR"
        )
    return path


class RunDirectory:
    """The folder of one run, with its lock held while the run lives."""

    def __init__(self, identity: str) -> None:
        self.path = runtime_directory() / identity
        endpoint_path(self.path, "e99999.999999")  # fail now, with a clear message
        for leftover in leftovers():
            shutil.rmtree(leftover, ignore_errors=True)  # what a power cut or the like left
        # under a name that nobody sweeps until the lock is held
        unfinished = self.path.with_name(f".{identity}")
        unfinished.mkdir(mode=0o700)
        self._lock = os.open(unfinished / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unfinished.rename(self.path)

    def remove(self) -> None:
        """Delete the folder and everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def leftovers() -> list[Path]:
    """Folders of runs that died without cleaning up (their lock is free)."""
    found = []
    for path in sorted(runtime_directory().iterdir()):
        if path.name.startswith("."):
            continue  # being made this moment
        try:
            lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # being removed this moment
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.append(path)
        except OSError:
            pass  # its supervisor lives
        finally:
            os.close(lock)
    return found


def endpoint_path(directory: Path, name: str) -> Path:
    """A socket's path, checked against the kernel's limit."""
    path = directory / name
    if len(os.fsencode(path)) > _IPC_PATH:
        raise TransportError(
            f"{path} has {len(os.fsencode(path))} bytes; a Unix socket's path has at most "
            f"{_IPC_PATH}: set XDG_RUNTIME_DIR to a shorter path"
        )
    return path
