"""Look for what would keep graphs from running on this machine."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import click

from ..errors import TransportError
from ..kinds import scan
from ..text import size
from ._options import emit_json

DISTRIBUTION = "streamflow-neuro"
NEWBORN = 10  # seconds in which a run that is starting has made its lock
SCARCE = 256 << 20  # bytes of memory below which a graph's packets may not fit


class Finding(NamedTuple):
    """One thing looked at. `remedy` says what to do where it is not in order."""

    state: Literal["ok", "note", "fault"]
    subject: str
    what: str
    remedy: str = ""


@click.command()
@click.option("--clean", is_flag=True, help="Remove what runs that died have left behind.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(clean: bool, as_json: bool) -> int:
    """Look for what would keep graphs from running on this machine.

    Exit code 1 when something is not in order.
    """
    findings = [finding for look in LOOKS for finding in look()]
    findings += leftovers(clean)
    if as_json:
        emit_json([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{finding.state:5}  {finding.subject}: {finding.what}")
            if finding.remedy:
                click.echo(f"       {finding.remedy}")
    return int(any(finding.state == "fault" for finding in findings))


def _python() -> Iterator[Finding]:
    what = f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})"
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        yield Finding("ok", "Python", what)
    else:
        yield Finding("note", "Python", what, "streamflow is made for Python 3.10 to 3.13")
    kernel = f"{platform.system()} {platform.release()}"
    if platform.system() == "Linux":
        yield Finding("ok", "kernel", kernel)
    else:
        yield Finding("fault", "kernel", kernel, "graphs run on Linux only")


def _dependencies() -> Iterator[Finding]:
    try:
        requires = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        what, remedy = "is not installed", f"install it: pip install {DISTRIBUTION}"
        yield Finding("fault", DISTRIBUTION, what, remedy)
        return
    extras: dict[str, list[str]] = {}
    for requirement in requires:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([\w.-]+)", requirement)
        if name:
            extras.setdefault(extra[1] if extra else "", []).append(name[0])
    for group, names in extras.items():
        have = {name: _version(name) for name in names}
        missing = [name for name, version in have.items() if version is None]
        there = ", ".join(f"{name} {version}" for name, version in have.items() if version)
        subject = f"extra [{group}]" if group else "dependencies"
        if not missing:
            yield Finding("ok", subject, there)
            continue
        what = f"missing {', '.join(missing)}" + (f"; there are {there}" if there else "")
        package = f"{DISTRIBUTION}[{group}]" if group else DISTRIBUTION
        remedy = f"if you need it: pip install '{package}'"
        yield Finding("note" if group else "fault", subject, what, remedy)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _name_clash() -> Iterator[Finding]:
    """An unrelated distribution is called `streamflow`, and both install a package of that name."""
    version = _version("streamflow")
    if version is not None and _version(DISTRIBUTION) is not None:
        remedy = (
            "each overwrites files of the other: pip uninstall streamflow, then "
            f"pip install --force-reinstall {DISTRIBUTION}"
        )
        what = f"{version} is installed beside {DISTRIBUTION}, and is not related to it"
        yield Finding("fault", "distribution streamflow", what, remedy)


def _node_packages() -> Iterator[Finding]:
    packages = scan()
    counts: dict[str, int] = {}
    for kind, file in packages.kinds.items():
        counts[file.package] = counts.get(file.package, 0) + 1
        if file.also:
            what = f"is in {file.file} and in {file.also}"
            yield Finding("fault", f"kind {kind}", what, "rename one of them, or uninstall one")
    what = ", ".join(f"{package} ({count} kinds)" for package, count in counts.items())
    yield Finding("ok" if counts else "fault", "node packages", what or "none")
    for reason in packages.broken:
        remedy = "install or uninstall the package that declares it"
        yield Finding("fault", "node packages", reason, remedy)


def _kernel_features() -> Iterator[Finding]:
    tries: list[tuple[str, Callable[[], None], str]] = [
        ("memory files (memfd)", _try_memfd, "packets cannot be shared: Linux 3.17 or newer"),
        ("passing descriptors (SCM_RIGHTS)", _try_passing, "is a sandbox in the way?"),
        ("watching processes (pidfd)", _try_pidfd, "Linux 5.3 or newer is needed"),
    ]
    for subject, attempt, remedy in tries:
        try:
            attempt()
        except (OSError, AttributeError) as error:
            yield Finding("fault", subject, f"does not work: {error}", remedy)
        else:
            yield Finding("ok", subject, "works")


def _try_memfd() -> None:
    descriptor = os.memfd_create("streamflow-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, 4096)
        seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    finally:
        os.close(descriptor)


def _try_passing() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [0])
        _, received, _, _ = socket.recv_fds(theirs, 1, 1)
        for descriptor in received:
            os.close(descriptor)
    if len(received) != 1:
        raise OSError("the descriptor did not arrive")


def _try_pidfd() -> None:
    descriptor = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(descriptor, 0)
    finally:
        os.close(descriptor)


def _memory() -> Iterator[Finding]:
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE))
    free = int(fields.get("MemAvailable", 0)) << 10
    what = f"{size(free)} free of {size(int(fields.get('MemTotal', 0)) << 10)}"
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit():
        what += f"; this control group may use {size(int(limit))}"
        free = min(free, int(limit))
    remedy = "" if free >= SCARCE else "lower `capacity` and `max_packet` of the graph's inputs"
    yield Finding("note" if remedy else "ok", "memory", what, remedy)
    try:
        room = shutil.disk_usage("/dev/shm")
    except OSError:
        yield Finding("note", "/dev/shm", "is not there", "streamflow itself does not use it")
    else:
        what = f"{size(room.free)} free of {size(room.total)} (not used by streamflow itself)"
        yield Finding("ok", "/dev/shm", what)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _numba_cache() -> Iterator[Finding]:
    """Compiled kernels are kept beside the code, or in the user's cache directory."""
    folders = [Path(file.file).parent for file in scan().kinds.values()][:1]
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    places = [Path(chosen)] if chosen else [*folders, Path(home)]
    for place in places:
        if _writable(place):
            yield Finding("ok", "kernel cache", f"{place} can be written")
            return
    what = f"none of {', '.join(map(str, places))} can be written"
    remedy = "kernels are compiled anew at every start; set NUMBA_CACHE_DIR to a folder of yours"
    yield Finding("note", "kernel cache", what, remedy)


def _writable(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


LOOKS = (
    _python, _dependencies, _name_clash, _node_packages, _kernel_features, _memory, _numba_cache,
)  # fmt: skip


def leftovers(clean: bool) -> Iterator[Finding]:
    """What dead runs have left in the runtime directory; a run that lives holds its lock."""
    from ..run_directory import runtime_directory

    try:
        base = runtime_directory()
    except (TransportError, OSError) as error:
        yield Finding("fault", "runtime directory", str(error))
        return
    living = 0
    findings = []
    for run in sorted(path for path in base.iterdir() if path.is_dir()):
        lock = _lock_of_dead(run)
        if lock is None:
            living += 1
        elif clean:
            shutil.rmtree(run)
            findings.append(Finding("ok", "leftover", f"{run} removed"))
        else:
            what, remedy = f"{run} is of a run that died", "remove it: streamflow doctor --clean"
            findings.append(Finding("note", "leftover", what, remedy))
        if lock is not None and lock >= 0:
            os.close(lock)
    what = f"{base}, {living} running" if living else f"{base}, nothing running"
    yield Finding("ok", "runtime directory", what)
    yield from findings


def _lock_of_dead(run: Path) -> int | None:
    """The lock of a run that died, now held by us (-1: it has none); None while the run lives."""
    try:
        is_new = time.time() - run.stat().st_mtime <= NEWBORN
    except FileNotFoundError:  # it ended just then
        return None
    if run.name.startswith(".") and is_new:
        return None  # it is about to take its lock
    try:
        lock = os.open(run / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # being started just now, or killed just then
        return None if is_new else -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
