"""What a sink does when its disk is full: fail, stop writing, or go on in another folder.

`FullDiskSettings` are the settings that every sink with a file has; `OutputFile` and `put_file` do
what they say, on top of `files`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from streamflow.errors import DeviceError
from streamflow.node import OutputPath, Settings

from .records import AssembledFile, RecordFile, is_full, replace_file

BLOCK = 1 << 20  # bytes copied at a time

F = TypeVar("F", bound=RecordFile | AssembledFile)


class FullDiskSettings(Settings, frozen=True, kw_only=True):
    """What to do when the disk is full, or a quota or a limit on the size of files is reached."""

    when_disk_full: Literal["fail", "stop_writing", "rotate"] = "fail"
    """`fail`: the run ends, by an error. `stop_writing`: the file stays as it is, the run goes on,
    and what is not written is counted (`not_written`). `rotate`: go on in a file of the same name
    in the next folder of `spare`; when all are full, fail."""
    spare: list[OutputPath] = []
    """Folders on other disks, for `rotate`."""
    reserve: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Bytes of the disk to leave free: with less, it counts as full."""

    def __post_init__(self) -> None:
        if (self.when_disk_full == "rotate") != bool(self.spare):
            raise ValueError(
                f"when_disk_full is {self.when_disk_full!r} with {len(self.spare)} folders in "
                "'spare'; expected 'rotate' with folders to go on in, or neither"
            )


class OutputFile(Generic[F]):
    """The file of a sink, or its files where it went on in another folder.

    `opened` makes a file at a path. With `carries`, what was written is copied when the file goes
    on in another folder, so that it remains one; else each file is one of its own, which needs a
    head again. `open` raises DeviceError where a spare folder cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        settings: FullDiskSettings,
        node: str,
        opened: Callable[[Path], F],
        *,
        carries: bool = False,
    ) -> None:
        self._settings, self._node, self._opened, self._carries = settings, node, opened, carries
        self._paths = [Path(path), *(Path(folder, Path(path).name) for folder in settings.spare)]
        self._check_spare()
        self._part = 0
        self._left: list[tuple[str, int]] = []  # files whose disk was full, and their bytes
        self.is_stopped = False
        self.file = opened(self._paths[0])

    def _check_spare(self) -> None:
        places = [path.parent.resolve() for path in self._paths]
        if len(set(places)) != len(places):
            raise DeviceError(
                f"{self._node}: the setting 'spare' names a folder twice, or that of "
                f"{self._paths[0]}: {', '.join(map(str, places))}; give each disk once"
            )
        for folder in self._settings.spare:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DeviceError(
                    f"{self._node}: cannot use the spare folder {folder}: {error.strerror}; give "
                    "one that may be written"
                ) from error

    @property
    def length(self) -> int:
        """Bytes in the present file: 0 where it still needs its head."""
        return self.file.length

    @property
    def path(self) -> Path:
        """The present file."""
        return self.file.path

    def append(self, record: Callable[[], bytes]) -> bool:
        """Add one record, whole; False where the disk was full and writing has stopped.

        `record` is called again for each file that the record is tried in.
        """
        while not self.is_stopped:
            try:
                self.file.append(record())
                return True
            except DeviceError as error:
                self.full(error)
        return False

    def full(self, error: DeviceError) -> None:
        """Do what the settings say about this error: stop, go on elsewhere, or raise it."""
        policy = self._settings.when_disk_full
        if policy == "fail" or not is_full(error):
            raise error
        if policy == "stop_writing":
            self.is_stopped = True
            self._say(f"{error}. Nothing more is written; what comes is counted")
        else:
            self._go_on(error)

    def _go_on(self, error: DeviceError) -> None:
        """Open the file in the next spare folder that has room for it."""
        left = self.file
        while True:
            following = self._next(error)
            try:
                if self._carries:
                    _copy(left, following)
                break
            except DeviceError as reason:
                following.close()
                following.path.unlink(missing_ok=True)
                if not is_full(reason):
                    raise
        self._left.append((str(_records(left)), left.length))
        self.file = following
        left.close()
        self._say(f"{error}. Going on in {following.path}")

    def _next(self, error: DeviceError) -> F:
        while self._part + 1 < len(self._paths):
            self._part += 1
            try:
                return self._opened(self._paths[self._part])
            except DeviceError as reason:
                if not is_full(reason):
                    raise
        raise DeviceError(f"{error}. No folder in 'spare' has room either") from error.__cause__

    def complete(self) -> None:
        """Put a file that is assembled in its place, or in the next spare folder with room."""
        file, path = self.file, None
        while isinstance(file, AssembledFile) and not file.is_complete:
            try:
                file.complete(path)
            except DeviceError as error:
                policy = self._settings.when_disk_full
                is_last = policy == "rotate" and self._part + 1 == len(self._paths)
                if policy == "fail" or is_last or not is_full(error):
                    raise
                self._say(str(error))
                if policy == "stop_writing":
                    return
                self._part += 1
                path = self._paths[self._part]

    def close(self) -> None:
        """Release the file. Safe to call twice."""
        self.file.close()

    def snapshot(self) -> dict[str, Any]:
        """What `restore` needs: keys `length`, `is_complete`, `is_stopped`, `part`, `left`."""
        return {
            "length": self.file.length,
            "is_complete": isinstance(self.file, AssembledFile) and self.file.is_complete,
            "is_stopped": self.is_stopped,
            "part": self._part,
            "left": json.dumps(self._left),
        }

    def restore(self, state: dict[str, Any], head: bytes = b"") -> None:
        """Go on where a snapshot says, as `RecordFile.restore` does with its `head`.

        A file that a dead process began in a later folder is left as it is: the results name the
        files of a run.
        """
        self.is_stopped = bool(state["is_stopped"])
        self._left = [(path, int(length)) for path, length in json.loads(state["left"])]
        if int(state["part"]) != self._part:
            self.file.close()
            self._part = int(state["part"])
            self.file = self._opened(self._paths[self._part])
        if isinstance(self.file, AssembledFile):
            self.file.restore(int(state["length"]), bool(state["is_complete"]))
        else:
            self.file.restore(int(state["length"]), head)

    @property
    def left(self) -> list[Path]:
        """The files whose disks were full."""
        return [Path(path) for path, _ in self._left]

    def results(self) -> dict[str, Any]:
        """For the run report: what a full disk has changed; nothing where none was met."""
        at = _records(self.file)
        out: dict[str, Any] = {"stopped_writing": True} if self.is_stopped else {}
        if at != self._paths[0]:
            size = at.stat().st_size if at == self.path else self.length
            files = [*((path, length) for path, length in self._left if length), (str(at), size)]
            out["files"] = [{"path": path, "bytes": length} for path, length in files]
        return out

    def _say(self, what: str) -> None:
        logging.getLogger(f"streamflow.node.{self._node}").warning("%s", what)


def _records(file: RecordFile | AssembledFile) -> Path:
    """Where a file's records are: one that could not be completed has them in its journal."""
    if isinstance(file, AssembledFile) and not file.is_complete:
        return file.journal.path
    return file.path


def _copy(source: RecordFile | AssembledFile, target: RecordFile | AssembledFile) -> None:
    left = source.length
    with source.path.open("rb") as file:
        while left and (block := file.read(min(left, BLOCK))):
            target.append(block)
            left -= len(block)


def put_file(
    path: str | Path, settings: FullDiskSettings, content: bytes, node: str
) -> Path | None:
    """Write a file in one go, as `files.replace_file` does; where it is, or None if nowhere."""
    policy = settings.when_disk_full
    places = [Path(path), *(Path(folder, Path(path).name) for folder in settings.spare)]
    for place in places:
        try:
            replace_file(place, content, node, reserve=settings.reserve)
            return place
        except DeviceError as error:
            is_last = policy == "rotate" and place == places[-1]
            if policy == "fail" or is_last or not is_full(error):
                raise
            logging.getLogger(f"streamflow.node.{node}").warning("%s", error)
    return None
