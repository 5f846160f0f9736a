"""What audio nodes share: stream time of samples, and what is checked where samples come in.

Sample `i` of a stream begins at `sample_time(i, rate)`: the integer microsecond at or before
`i / rate`. A packet of samples `[first, first + n)` covers `[sample_time(first), sample_time(first
+ n))`, so packets follow each other without a gap at any rate, and the index, not the time, says
which sample it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import Node, kind_of
from streamflow.packet import Packet, Samples

Frames = NDArray[np.float32]  # (frames, channels), full scale is -1 to 1

FULL_SCALE = {"int16": 1 << 15, "int24": 1 << 23}


def sample_time(index: int, rate: int) -> int:
    """The stream time (us) at which sample `index` begins, at `rate` Hz."""
    return index * 1_000_000 // rate


def require_samples(node: Node[Any], packet: Packet[Samples]) -> Frames:
    """The packet's samples (frames, channels); NodeError where they are not audio."""
    array, rate = packet.data.array, packet.data.rate
    if array.dtype != np.float32 or array.ndim != 2 or not array.shape[1] or rate < 1:
        raise refused(
            node,
            packet,
            f"an array {array.shape} of {array.dtype} at {rate} Hz; expected float32 (frames, "
            "channels) at 1 Hz or more: correct the node before",
        )
    return array


class Format:
    """The rate (Hz) and the channels of a stream: what the first packet has, and all others must.

    `rate` is 0 before the first packet.
    """

    def __init__(self) -> None:
        self.rate = self.channels = 0

    def check(self, node: Node[Any], packet: Packet[Samples], remedy: str) -> None:
        """NodeError, which ends with `remedy`, where the packet's rate or channels are others."""
        rate, channels = packet.data.rate, packet.data.array.shape[1]
        if not self.rate:
            self.rate, self.channels = rate, channels
        elif (rate, channels) != (self.rate, self.channels):
            raise refused(
                node,
                packet,
                f"{channels} channels at {rate} Hz after {self.channels} at {self.rate} Hz; "
                f"expected no change: {remedy}",
            )


def refused(node: Node[Any], packet: Packet[Samples], what: str) -> NodeError:
    """The error of a packet that `node` cannot take."""
    return NodeError(
        node.name,
        f"got {what}",
        kind=kind_of(type(node)),
        span=f"{packet.start}..{packet.stop} us",
    )


def finite(frames: Frames) -> tuple[Frames, int]:
    """The samples with 0 for those that are not finite, and how many those were.

    `frames` itself where all are.
    """
    is_finite = np.isfinite(frames)
    if is_finite.all():
        return frames, 0
    return np.where(is_finite, frames, np.float32(0)), int(is_finite.size - is_finite.sum())


def to_integers(frames: Frames, encoding: str) -> tuple[NDArray[np.int32], int]:
    """Samples as integers, (frames, channels) int32, and how many were beyond full scale.

    Rounds `x * 2^15` (`int16`) or `x * 2^23` (`int24`) to the nearest, ties to even, and limits it
    to what the integers hold. It is the inverse of how integers are read, `i / 2^15`, so these
    come back bit for bit. 1.0 itself becomes the largest integer and does not count.
    """
    scale = FULL_SCALE[encoding]
    scaled = np.rint(frames.astype(np.float64) * scale)
    clipped = int(np.count_nonzero(np.abs(scaled) > scale))
    return np.clip(scaled, -scale, scale - 1).astype(np.int32), clipped
