"""What the kernel says of processes: who is there, whose child it is, and what it holds."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple


class Holding(NamedTuple):
    """Resident memory (MiB, pages shared with others in full), open descriptors, threads."""

    rss_mib: float
    fds: int
    threads: int


def holding(pid: int) -> Holding | None:
    """What a process holds now; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        fds = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return Holding(int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20, fds, int(fields[17]))


def identity(pid: int) -> tuple[int, int] | None:
    """The pid with the tick at which its process began: no later process has both."""
    fields = _stat(pid)
    return (pid, int(fields[19])) if fields else None


def is_alive(process: tuple[int, int]) -> bool:
    """Whether the process of this `identity` is there, and more than a zombie."""
    fields = _stat(process[0])
    return bool(fields) and int(fields[19]) == process[1] and fields[0] not in "ZX"


def send_signal(pid: int, number: int, parents: tuple[int, ...]) -> bool:
    """Send a signal to a child of one of `parents`, and to no one else; whether it was sent.

    A pid may have passed to another process by the time it is used, a pidfd cannot.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        fields = _stat(pid)
        if not fields or fields[0] in "ZX" or int(fields[1]) not in parents:
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
