"""Packets that a node could not handle, kept on disk with what went wrong.

A letter is one msgpack file: which node, which input, the error with its traceback, and the packet
as it would travel. `streamflow retry` hands it to the node again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from .errors import PacketError
from .packet import Packet, encode

FOLDER = "dead_letters"
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
    with draft.open("wb") as file:
        file.write(msgspec.msgpack.encode(letter))
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    return path


def read(path: Path) -> Letter:
    """The letter in a file; PacketError when it is none."""
    try:
        if path.stat().st_size > MAXIMUM_LETTER:
            raise PacketError(f"{path} has more than {MAXIMUM_LETTER >> 20} MiB: not a letter")
        return msgspec.msgpack.decode(path.read_bytes(), type=Letter)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PacketError(f"{path} is no dead letter: {error}") from error
