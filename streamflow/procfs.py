"""What the kernel says of processes: who is there, whose child it is, and what it holds."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple


class Holding(NamedTuple):
    """Memory (MiB), open descriptors, threads.

    Memory is what is resident and belongs to no file, and all the shared memory that is mapped,
    touched or not: an edge's memory has its size from the start, but its pages are met one by one,
    which looks like growth and is none. For the same reason pages of files, code above all, are
    left out; the kernel can drop those.
    """

    memory_mib: float
    fds: int
    threads: int


def holding(pid: int) -> Holding | None:
    """What a process holds now; None when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fds = len(os.listdir(f"/proc/{pid}/fd"))
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return None
    said = dict(line.split(":", 1) for line in lines)
    if "RssAnon" not in said:  # it is dead, and nobody has waited for it yet
        return None
    shared = sum(_size(line) for line in maps if line.split()[1].endswith("s"))
    anonymous = int(said["RssAnon"].split()[0]) << 10
    return Holding((anonymous + shared) / 2**20, fds, int(said["Threads"]))


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


def _size(mapping: str) -> int:
    """Bytes of a line of /proc/PID/maps."""
    start, _, stop = mapping.split(maxsplit=1)[0].partition("-")
    return int(stop, 16) - int(start, 16)


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
