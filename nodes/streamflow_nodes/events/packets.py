"""What every node that takes events does with a packet before its kernel sees it.

Kernels read events as 64-bit words: two words for each 16-byte event, the time and then
`x | y << 16 | polarity << 32`. Copying an event is then two moves, and one Numba type fits every
packet; as records the same loops ran at about 60 % of the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import Emission, Node, Out
from streamflow.packet import EVENT, Events, Packet

from ..spans import span_of

_WORD = np.dtype(np.int64)

Words = NDArray[np.int64]
Sensor = tuple[int, int]


def words_of(node: Node[Any], packet: Packet[Events]) -> Words:
    """The packet's events as (2 n,) int64 words, contiguous and read-only; a view where it can be.

    Raises NodeError when the array is not (n,) of `EVENT`.
    """
    array = packet.data.array
    if array.dtype != EVENT or array.ndim != 1:
        raise NodeError(
            node.name,
            f"got events as {array.dtype} of shape {array.shape}; expected (n,) of "
            "streamflow.packet.EVENT (16 bytes each): convert them where they are made",
            span=span_of(packet),
        )
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    # np.ndarray(shape, type, buffer) is the view that costs half of what array.view() costs
    words: Words = np.ndarray(2 * array.shape[0], _WORD, array)
    flags = words.flags
    if not flags.aligned:  # another Numba type: bytes that lie at an odd address of a message
        words = words.copy()
        flags = words.flags
    if flags.writeable:
        words.flags.writeable = False
    return words


def words_for(count: int) -> Words:
    """Fresh, uninitialised words that hold `count` events."""
    return np.empty(2 * count, _WORD)


def events_of(words: Words, count: int, sensor: Sensor) -> Events:
    """The first `count` events of fresh words as a payload.

    Copied when most of the memory would be held for nothing: a few kept events must not pin the
    memory of the many that were dropped.
    """
    if 4 * count < words.size:
        words = words[: 2 * count].copy()
    return Events(np.ndarray(count, EVENT, words), *sensor)


def no_words() -> Words:
    """No events, typed as packets arrive (read-only): what a kernel is warmed up with."""
    words = words_for(0)
    words.flags.writeable = False
    return words


def check_sensor(node: Node[Any], known: Sensor | None, packet: Packet[Events]) -> Sensor:
    """The packet's sensor (width, height); NodeError when it is not the `known` one."""
    sensor = (packet.data.width, packet.data.height)
    if known is not None and sensor != known:
        raise NodeError(
            node.name,
            f"the sensor was {known[0]}x{known[1]} and is now {sensor[0]}x{sensor[1]}: a stream "
            "has one sensor size; give every camera a node of its own",
            span=span_of(packet),
        )
    return sensor


class OneSensor:
    """The sensor of a stream: its `size` is None until the first packet, and then stays."""

    def __init__(self, node: Node[Any], begin: Callable[[Sensor], None]) -> None:
        """`begin(sensor)` allocates the state of a sensor's pixels."""
        self._node, self._begin = node, begin
        self.size: Sensor | None = None

    def check(self, packet: Packet[Events]) -> Sensor:
        """The packet's sensor (width, height); NodeError when it is not the one so far."""
        sensor = check_sensor(self._node, self.size, packet)
        if self.size is None:
            self._begin(sensor)
            self.size = sensor
        return sensor

    def snapshot(self) -> dict[str, Any]:
        """The size, empty before the first packet."""
        return {} if self.size is None else {"width": self.size[0], "height": self.size[1]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `snapshot` gave; calls `begin` unless that was nothing."""
        if state:
            self.size = (state["width"], state["height"])
            self._begin(self.size)


def pick(
    node: Node[Any],
    port: Out[Events],
    packet: Packet[Events],
    sensor: Sensor,
    kernel: Callable[..., tuple[int, int]],
    *arguments: Any,
) -> Iterator[Emission]:
    """Emit what `kernel(words, *arguments, kept)` writes to the front of the words `kept`.

    The kernel gives the number of events kept, which leave by `port` as events of `sensor` (nothing
    leaves where there are none), and of events outside the sensor, counted as `outside_sensor`.
    """
    words = words_of(node, packet)
    kept = words_for(words.size // 2)
    count, outside = kernel(words, *arguments, kept)
    if outside:
        node.count_fault("outside_sensor", outside)
    if count:
        yield port(events_of(kept, count, sensor), packet.start, packet.stop)
