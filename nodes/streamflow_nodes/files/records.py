"""Result files that stay readable: whatever a crash or a full disk cuts off, whole records remain.

`RecordFile` is for files that grow while a graph runs. A sink appends whole records, puts
`length` into its snapshot and gives it back in `restore`: the file is cut to that length and what
was written after the snapshot, which will be sent again, is neither repeated nor lost.
`AssembledFile` does the same for formats that can only be read once they are closed.
`replace_file` is for files written in one go. What a sink does when there is no space left is
chosen in its settings: `files.output`.

A file of an earlier run is left alone until this run has something to write, because a restarted
process opens its file before it is told (by `restore`) how much of it is its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib
import io
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from streamflow.errors import DeviceError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


_FAILS = "the disk, or the way to it, fails: see the kernel's log; give a path on another disk"


def disk_advice(error: OSError) -> str:
    """What to do about a file that could not be written."""
    return _FAILS if error.errno == errno.EIO else "free space, or give a path on another disk"


def is_full(error: BaseException) -> bool:
    """Whether what failed was for want of space: a full disk, a quota, a limit on the file."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL


class RecordFile:
    """A file that only ever holds whole records.

    `length` is what this run has written (bytes). Opening creates missing parent folders and locks
    the file against a second writer; DeviceError says what to do when that is not possible.
    `reserve` bytes of the disk are left free: with less it counts as full.
    """

    def __init__(self, path: str | Path, node: str, *, reserve: int = 0) -> None:
        self.path, self.node, self.length = Path(path), node, 0
        self._reserve = reserve
        self._is_begun = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._cannot("open", error) from error
        # A device or a pipe (/dev/stdout) takes records too, but cannot be cut back or locked.
        self.is_regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._lock()

    def append(self, record: bytes) -> None:
        """Add one record, or several: all of it is in the file afterwards, or nothing (raises)."""
        self.begin()
        try:
            check_reserve(self.path, self._reserve, len(record))
            self._write(record, self.length)
        except OSError as error:
            told = self._cannot("write", error)
            try:
                self._cut()
            except DeviceError:
                told = DeviceError(
                    f"{told}. It cannot be cut either: beyond byte {self.length} is no whole record"
                )
            raise told from error
        self.length += len(record)

    def overwrite(self, at: int, data: bytes) -> None:
        """Replace bytes that were appended before.

        Within one 4096-byte page of the file a killed process leaves the old or the new bytes,
        never a mixture: the kernel looks for fatal signals between pages only.
        """
        if at + len(data) > self.length:
            raise ValueError(f"bytes {at} to {at + len(data)} of a file of {self.length}")
        try:
            self._write(data, at)
        except OSError as error:
            raise self._cannot("write", error) from error

    def begin(self) -> None:
        """Make the file this run's: what an earlier run left in it is gone. Called by `append`."""
        if not self._is_begun:
            self._is_begun = True
            self._cut()

    def restore(self, length: int, head: bytes = b"") -> None:
        """Cut the file to the `length` that a snapshot gave.

        `head` replaces the file's first bytes before the cut: where they say how long the file is,
        they never promise more than there is.
        """
        found = os.fstat(self._descriptor).st_size
        if self.is_regular and found < length:
            raise DeviceError(
                f"{self.node}: {self.path} holds {found} bytes, but {length} were written before "
                "the restart: something else changed it; keep other programs from writing to it"
            )
        self.length, self._is_begun = length, True
        self.overwrite(0, head)
        self._cut()

    def close(self) -> None:
        """Bring the file to the disk and release it. Safe to call twice."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            if self.is_regular:
                os.fsync(descriptor)
        except OSError as error:
            raise self._cannot("write", error) from error
        finally:
            os.close(descriptor)

    def _write(self, data: bytes, at: int) -> None:
        """All of `data`; the kernel may take it in parts (it does so when the disk fills up)."""
        view = memoryview(data)
        while view:
            if self.is_regular:
                done = os.pwrite(self._descriptor, view, at)
            else:
                done = os.write(self._descriptor, view)
            view, at = view[done:], at + done

    def _cut(self) -> None:
        if not self.is_regular:
            return
        try:
            os.ftruncate(self._descriptor, self.length)
        except OSError as error:
            raise self._cannot("cut", error) from error

    def _lock(self) -> None:
        if not self.is_regular:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise DeviceError(
                f"{self.node}: {self.path} is being written by another node or another run; "
                "give each its own path, or stop the other run"
            ) from error
        except OSError:
            # Some network file systems have no locks: a missing guard is no reason not to write.
            pass

    def _cannot(self, verb: str, error: OSError) -> DeviceError:
        what = f"{self.node}: cannot {verb} {self.path}: {error.strerror}"
        if error.errno in _FULL:
            return DeviceError(
                f"{what}; the file keeps its {self.length} bytes of whole records; free space "
                "(or raise the quota or file-size limit), or give a path on another disk"
            )
        if error.errno == errno.EIO:
            return DeviceError(f"{what}; {_FAILS}")
        return DeviceError(f"{what}; give a path to a file that may be created and written here")


class Builder(Protocol):
    """Builds a file, the draft, from the records in another, the journal."""

    position: int
    """Bytes of the journal that are in the draft, or held for it."""

    def move(self) -> None:
        """Take the next record from the journal, which is known to hold it."""

    def complete(self) -> None:
        """Write what is held and close the draft, which is then whole."""

    def close(self) -> None:
        """Release both files, whatever state they are in. Safe to call twice."""


BEHIND = 1 << 24  # bytes that the journal may be ahead of the draft before some are moved,
STEP = 1 << 25  # and how many are then moved at the most: a fraction of a second of work


class AssembledFile:
    """A file of a format that must be closed to be readable: it is there whole, or not at all.

    Records go into a journal beside it at once, `<path>.part<suffix>`, in a format of its own that
    can be read up to its last whole record. The file is built from that, as a hidden draft, while
    the graph runs; `complete` renames it to `path`, and `close` then removes the journal. A run
    that is killed leaves the journal; one that is restarted goes on with it and builds the draft
    anew, in steps.

    `build` opens a Builder for a journal and a draft. With `draft_may_wait`, a disk that is full
    costs the draft first: the records go on into the journal, and the file is only built by
    `complete`.
    """

    def __init__(
        self,
        path: str | Path,
        node: str,
        suffix: str,
        build: Callable[[str, str], Builder],
        *,
        reserve: int = 0,
        draft_may_wait: bool = False,
    ) -> None:
        self.path, self.node = Path(path), node
        if self.path.is_dir():
            raise DeviceError(
                f"{node}: cannot open {path}: Is a directory; give a path to a file that may be "
                "created and written here"
            )
        self.journal = RecordFile(f"{path}{PART}{suffix}", node, reserve=reserve)
        self.is_complete = False
        self._build, self._reserve = build, reserve
        self._builder: Builder | None = None
        self._draft_may_wait, self._waits = draft_may_wait, False

    @property
    def length(self) -> int:
        """Bytes in the journal."""
        return self.journal.length

    def append(self, record: bytes) -> None:
        """Add one record: all of it is in the journal afterwards, or nothing (raises)."""
        try:
            self.journal.append(record)
        except DeviceError as error:
            if not self._gave_way(error):
                raise
            self.journal.append(record)
        if self._behind() > BEHIND and not self._waits:
            try:
                self._move(STEP)
            except DeviceError as error:
                if not self._gave_way(error):
                    raise

    def _gave_way(self, error: DeviceError) -> bool:
        """Whether the draft was dropped, for the sake of records, because the disk is full."""
        if not (self._draft_may_wait and self._builder is not None and is_full(error)):
            return False
        self._drop_draft()
        self._waits = True
        return True

    def restore(self, length: int, is_complete: bool) -> None:
        """Cut the journal to the `length` that a snapshot gave; `is_complete` as it was then."""
        self.is_complete = is_complete
        if not is_complete:
            self.journal.restore(length)

    def complete(self, path: Path | None = None) -> None:
        """Put the file in its place, or at another `path`; may be tried again when it failed."""
        if path is not None:
            self._drop_draft()
            self.path = path
        self.journal.begin()
        self._move(self.length + 1)
        try:
            check_reserve(self._draft, self._reserve)
            self._opened().complete()
            descriptor = os.open(self._draft, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(self._draft, self.path)
        except OSError as error:
            raise self._cannot(error) from error
        self.is_complete = True

    def close(self) -> None:
        """Release the files; the journal is removed where it is not needed. Safe to call twice."""
        if self.length and not self.is_complete:
            logging.getLogger(f"streamflow.node.{self.node}").warning(
                "node %r: %s was not completed; what was written is in %s",
                self.node, self.path, self.journal.path,
            )  # fmt: skip
        self._drop_draft()
        # an empty one may be that of an earlier run that this one never touched
        if self.is_complete or (
            self.journal.path.exists() and not os.stat(self.journal.path).st_size
        ):
            self.journal.path.unlink(missing_ok=True)
        self.journal.close()

    @property
    def _draft(self) -> Path:
        return self.path.with_name(f".{self.path.name}.draft")

    def _drop_draft(self) -> None:
        if self._builder is not None:
            # on a full disk closing fails too, of a file that nobody is going to read
            with contextlib.suppress(OSError):
                self._builder.close()
            self._builder = None
        self._draft.unlink(missing_ok=True)

    def _behind(self) -> int:
        return self.length - (self._builder.position if self._builder else 0)

    def _move(self, size: int) -> None:
        """Bring records into the draft until there are none left or `size` bytes were moved."""
        try:
            builder = self._opened()
            end = builder.position + size
            while builder.position < min(end, self.length):
                check_reserve(self._draft, self._reserve)
                builder.move()
        except OSError as error:
            raise self._cannot(error) from error

    def _opened(self) -> Builder:
        if self._builder is None:
            self._builder = self._build(str(self.journal.path), str(self._draft))
        return self._builder

    def _cannot(self, error: OSError) -> DeviceError:
        what = error.strerror or str(error)
        return DeviceError(
            f"{self.node}: cannot build {self.path}: {what}; all records are in "
            f"{self.journal.path}, which can be read: {disk_advice(error)}"
        )


class DraftFile(io.FileIO):
    """A draft for a library that must not meet a failed write: `finish` raises it instead.

    HDF5 crashes the process (segmentation fault, HDF5 2.0) when a write fails while it closes a
    file, and soundfile answers one with an AssertionError.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "w+")
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        """Take all of `data`; after an error, to nowhere."""
        view = memoryview(data)
        size = view.nbytes
        try:
            while view and self._error is None:
                view = view[super().write(view) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Give the file its size; after an error, do nothing."""
        try:
            if self._error is None:
                return super().truncate(size)
        except OSError as error:
            self._error = error
        return size or 0

    def finish(self) -> None:
        """Bring the file to the disk; OSError where anything could not be written."""
        self.check()
        os.fsync(self.fileno())

    def check(self) -> None:
        """OSError where anything could not be written."""
        if self._error is not None:
            raise self._error


PART = ".part"


def library(name: str, path: str | Path, extra: str) -> Any:
    """The module `name`, which the file `path` needs; DeviceError says which extra brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DeviceError(
            f"{path}: this file needs {name.split('.')[0]}: pip install 'streamflow-neuro[{extra}]'"
        ) from error


def check_reserve(path: Path, reserve: int, size: int = 0) -> None:
    """OSError (ENOSPC) where `size` more bytes beside `path` leave less than `reserve` free."""
    if reserve:
        disk = os.statvfs(path.parent)
        free = disk.f_bavail * disk.f_frsize
        if free < reserve + size:
            raise OSError(
                errno.ENOSPC,
                f"{free} bytes of the disk are free, of which 'reserve' keeps {reserve}",
            )


def replace_file(path: str | Path, content: bytes, node: str, *, reserve: int = 0) -> None:
    """The file at `path` holds `content`: a reader sees the old file or the new one, never half."""
    target = Path(path)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        check_reserve(draft, reserve, len(content))
        try:
            with open(draft, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, target)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        advice = (
            _FAILS if error.errno == errno.EIO
            else "free space, or give a path to a file that may be created and written here"
        )  # fmt: skip
        raise DeviceError(f"{node}: cannot write {target}: {error.strerror}; {advice}") from error


def file_digest(path: str | Path, node: str) -> str:
    """The sha256 of a file's bytes, as hexadecimal; DeviceError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DeviceError(
            f"{node}: cannot read {path}: {os.strerror(error.errno or 0)}; give the path of an "
            "existing file"
        ) from error
    return digest.hexdigest()
