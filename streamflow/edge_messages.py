"""What the two ends of an edge tell each other, beside packets: greetings, credits, stream time."""

from __future__ import annotations

import struct

import msgspec

from .errors import PacketError
from .packet import CREDIT, END, ENDED, HELLO, PREFIX, TICK, TICKED

TIME = struct.Struct("<qQQ")
"""Of a tick or the end of the stream: watermark, last sequence number, packets dropped."""
MARK = {kind: PREFIX + bytes([kind]) for kind in (TICK, END, HELLO, CREDIT, TICKED, ENDED)}
"""What a message of each kind begins with."""


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """What a consumer says first: where it stands."""

    version: int
    window: int
    received_through: int
    handled_through: int
    handled: int
    handled_items: int
    held: tuple[int, ...]
    ended: bool
    heeds_time: bool = True  # False: nothing here waits for mere ticks of stream time


def read_hello(frame: bytes) -> Hello:
    """What a consumer says of itself; PacketError where the bytes are not a greeting."""
    try:
        return msgspec.msgpack.decode(frame[4:], type=Hello)
    except msgspec.DecodeError as error:
        raise PacketError(f"unreadable greeting: {error}") from error


def read_credits(frame: bytes) -> tuple[int, ...]:
    """The sequence numbers of a credit message."""
    if (len(frame) - 4) % 8:
        raise PacketError(f"a credit message of {len(frame)} bytes")
    return struct.unpack_from(f"<{(len(frame) - 4) // 8}Q", frame, 4)


def read_watermark(frame: bytes) -> int:
    """The stream time of a tick or of the end of the stream."""
    if len(frame) != 4 + TIME.size:
        raise PacketError(f"a watermark message of {len(frame)} bytes")
    time: int = TIME.unpack_from(frame, 4)[0]
    return time
