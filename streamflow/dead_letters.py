"""Packets that a node could not handle: left out, counted, and kept on disk with what went wrong.

A letter is one msgpack file: which node, which input, the error with its traceback, and the packet
as it would travel. `streamflow retry` hands it to the node again.
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .errors import NodeError, PacketError
from .packet import Packet, encode
from .text import cause

if TYPE_CHECKING:
    from .runner import Runner

FOLDER = "dead_letters"
ERRORS = "errors"  # the fault of a node that goes on after its handler raised
MAXIMUM_LETTER = 1 << 30


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One packet (`frame`: see `packet.decode`), and why it could not be handled."""

    graph: str
    node: str
    kind: str
    input: str
    start: int
    stop: int
    error: str
    traceback: str
    frame: bytes


def keep(
    letter_of: str, node: str, kind: str, port: str, number: int, packet: Packet[Any],
    error: str, trace: str,
) -> Path:  # fmt: skip
    """Write a letter below the working directory; the same packet always has the same file.

    `letter_of` is the graph's name and `number` counts the packets of the node. The file is whole
    or absent, whenever the process dies.
    """
    letter = Letter(
        graph=letter_of, node=node, kind=kind, input=port, start=packet.start, stop=packet.stop,
        error=error, traceback=trace, frame=encode(packet),
    )  # fmt: skip
    folder = Path(FOLDER) / letter_of
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{node}.{port}.{number}.letter"
    draft = path.with_suffix(".draft")
    try:
        with draft.open("wb") as file:
            file.write(msgspec.msgpack.encode(letter))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return path


def leave_out(
    runner: Runner, port: int, packet: Packet[Any] | None, error: Exception, graph: str, most: int
) -> None:
    """Go on after a handler raised: count it, and keep the packet if that is asked for.

    What the handler had emitted before stays; what it had changed in the node, too. NodeError when
    there would be more than `most` letters, or one cannot be written.
    """
    node, input_ = runner.node, runner.ports[port]
    node.fault_counts[ERRORS] += 1
    times = node.fault_counts[ERRORS]
    where = "counted"
    if packet is not None:
        kind, span = runner.kind, f"on_{input_}"
        if times > most:
            what = f"{times} dead letters (limits: dead_letters)"
            raise NodeError(node.name, what, kind=kind, span=span) from error
        try:
            path = keep(
                graph, node.name, kind, input_, runner.packets_in, packet, cause(error),
                "".join(traceback.format_exception(error)),
            )  # fmt: skip
        except OSError as why:
            what = (
                f"cannot keep a dead letter: {why}; make room, use another disk, or skip_and_count"
            )
            raise NodeError(node.name, what, kind=kind, span=span) from why
        where = f"kept in {path}"
    if times in (1, 10, 100) or times % 1000 == 0:
        node.log.warning(
            "node %r (%s): on_%s: %s; the packet is left out and %s (error number %d)",
            node.name, runner.kind, input_, cause(error), where, times,
        )  # fmt: skip


def read(path: Path) -> Letter:
    """The letter in a file; PacketError when it is none."""
    try:
        if path.stat().st_size > MAXIMUM_LETTER:
            raise PacketError(f"{path} has more than {MAXIMUM_LETTER >> 20} MiB: not a letter")
        return msgspec.msgpack.decode(path.read_bytes(), type=Letter)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PacketError(f"{path} is no dead letter: {error}") from error
