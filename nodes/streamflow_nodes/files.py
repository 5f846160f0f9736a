"""Result files that stay readable: whatever a crash or a full disk cuts off, whole records remain.

`RecordFile` is for files that grow while a graph runs. A sink appends whole records, puts
`length` into its snapshot and gives it back in `restore`: the file is cut to that length and what
was written after the snapshot, which will be sent again, is neither repeated nor lost.
`replace_file` is for files written in one go.

A file of an earlier run is left alone until this run has something to write, because a restarted
process opens its file before it is told (by `restore`) how much of it is its own.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path

from streamflow.errors import DeviceError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class RecordFile:
    """A file that only ever holds whole records.

    `length` is what this run has written (bytes). Opening creates missing parent folders and locks
    the file against a second writer; DeviceError says what to do when that is not possible.
    """

    def __init__(self, path: str | Path, node: str) -> None:
        self.path, self.node, self.length = Path(path), node, 0
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
            self._write(record, self.length)
        except OSError as error:
            self._cut()
            raise self._cannot("write", error) from error
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
        if self.is_regular:
            os.ftruncate(self._descriptor, self.length)

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
        what = f"{self.node}: cannot {verb} {self.path}: {os.strerror(error.errno or 0)}"
        if error.errno in _FULL:
            return DeviceError(
                f"{what}; the file keeps its {self.length} bytes of whole records; free space "
                "(or raise the quota or file-size limit), or give a path on another disk"
            )
        return DeviceError(f"{what}; give a path to a file that may be created and written here")


def replace_file(path: str | Path, content: bytes, node: str) -> None:
    """The file at `path` holds `content`: a reader sees the old file or the new one, never half."""
    target = Path(path)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
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
        raise DeviceError(
            f"{node}: cannot write {target}: {os.strerror(error.errno or 0)}; free space, or give "
            "a path to a file that may be created and written here"
        ) from error


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
