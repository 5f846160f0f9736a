"""Test a node by calling it: `drive(node, events=[packets])`. Public, for third parties too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .compilation import no_compilation
from .edge import ENDED, NEVER, InputOrder
from .errors import NodeError
from .node import Emission, Node, check_emission
from .packet import EVENT, Events, Packet, Table


class Driven:
    """What a driven node emitted: packets by port (`out["events"]`), faults, results."""

    def __init__(self, node: Node[Any]) -> None:
        self.packets: dict[str, list[Packet[Any]]] = {port: [] for port in type(node).outputs}
        self.faults = node.fault_counts
        self.results: dict[str, Any] = {}

    def __getitem__(self, port: str) -> list[Packet[Any]]:
        return self.packets[port]

    def items(self, port: str) -> Any:
        """All items of `port` in one array."""
        arrays = [packet.data.array for packet in self.packets[port]]
        if not arrays:
            return np.empty(0)
        if arrays[0].dtype.names is None:
            return np.concatenate(arrays)
        # joined as bytes: numpy would pack the fields, and EVENT would be another dtype
        joined = b"".join(array.tobytes() for array in arrays)
        return np.frombuffer(joined, arrays[0].dtype)


def drive(
    node: Node[Any],
    *,
    limit: int | None = None,
    opened: bool = False,
    end: bool = True,
    **inputs: Iterable[Packet[Any]],
) -> Driven:
    """Run a node without a graph: open, every packet in (stream time, port order), finish, close.

    Inputs are given by port name. `limit` stops a source after that many packets. `opened=True`
    skips `open` (the caller did it), `end=False` skips `finish` and `close`: together they allow to
    feed a node in parts. As in a running graph, input arrays are read-only, compilation after
    `open` is an error, emitted packets must be in stream-time order, and an emitted array must not
    change afterwards; a breach raises NodeError.
    """
    check = _Contract(node)
    unknown = set(inputs) - set(type(node).inputs)
    if unknown:
        raise ValueError(f"{node.name} has no input {sorted(unknown)}: {list(type(node).inputs)}")
    if not opened:
        node.open()
    try:
        with no_compilation():
            if type(node).is_source():
                for number, emission in enumerate(node.produce(), 1):
                    check.source_emitted(emission)
                    if number == limit:
                        break
            else:
                _feed(node, check, inputs)
            if end:
                check.emitted(node.finish(), None)
                check.out.results = node.results()
    finally:
        if end:
            node.close()
    check.unchanged()
    return check.out


def _feed(node: Node[Any], check: _Contract, inputs: dict[str, Iterable[Packet[Any]]]) -> None:
    ports, last_stop = list(type(node).inputs), NEVER
    order = InputOrder(len(ports))
    for index, port in enumerate(ports):
        stop = NEVER
        for packet in inputs.get(port, ()):
            if packet.start < stop:
                raise ValueError(
                    f"input {port!r}: a packet starts at {packet.start}, before {stop}"
                )
            stop = packet.start
            order.push(index, packet.start, packet)
        order.end(index)
    while (item := order.pop()) is not None:
        port, packet = ports[item[0]], item[1]
        packet.data.array.flags.writeable = False
        check.emitted(getattr(node, f"on_{port}")(packet), packet)
        last_stop = max(last_stop, packet.stop)
        check.time = last_stop if order.time == ENDED else order.time
        check.emitted(node.advance(check.time), packet)
        check.moved()


class _Contract:
    """Checks what a node emits against what a running graph relies on."""

    def __init__(self, node: Node[Any]) -> None:
        self.node, self.out = node, Driven(node)
        self.time = NEVER
        self._watermarks = dict.fromkeys(type(node).outputs, NEVER)
        self._yielded: list[tuple[str, Any, Any]] = []

    def emitted(self, emissions: Iterable[Emission] | None, cause: Packet[Any] | None) -> None:
        for emission in emissions or ():
            self._check(emission)

    def source_emitted(self, emission: Emission) -> None:
        self._check(emission)
        self._watermarks[emission.port] = emission.packet.stop

    def moved(self) -> None:
        """Stream time advanced: later packets must not start before what the node still holds."""
        held = self.node.holds_from
        mark = self.time if held is None else min(held, self.time)
        for port in self._watermarks:
            self._watermarks[port] = max(self._watermarks[port], mark)

    def _check(self, emission: Emission) -> None:
        packet = emission.packet
        check_emission(self.node, emission, self._watermarks.get(emission.port, NEVER))
        self._watermarks[emission.port] = packet.start
        array = packet.data.array
        # as bytes: a copy of structured rows does not copy the padding between their fields
        self._yielded.append((emission.port, array, array.tobytes()))
        array.flags.writeable = False
        self.out.packets[emission.port].append(packet)

    def unchanged(self) -> None:
        for port, array, before in self._yielded:
            if array.tobytes() != before:
                raise NodeError(
                    self.node.name,
                    f"an array yielded on {port!r} changed afterwards: yield a copy, or a loan",
                )


def events(
    rows: Iterable[tuple[int, int, int, int]] | np.ndarray[Any, Any],
    *,
    width: int = 640,
    height: int = 480,
    start: int | None = None,
    stop: int | None = None,
) -> Packet[Events]:
    """A packet of events from (timestamp, x, y, polarity) rows or an `EVENT` array."""
    array = rows if isinstance(rows, np.ndarray) else np.array(list(rows), EVENT)
    first = int(array["timestamp"][0]) if len(array) else 0
    last = int(array["timestamp"][-1]) + 1 if len(array) else first
    return Packet(
        first if start is None else start,
        last if stop is None else stop,
        Events(array, width, height),
    )


def cut(packet: Packet[Events], size: int) -> list[Packet[Events]]:
    """The same events in packets of at most `size` events: for chunk-invariance tests."""
    array, out = packet.data.array, []
    for at in range(0, len(array), size):
        piece = array[at : at + size]
        last = at + size >= len(array)
        start = packet.start if at == 0 else int(piece["timestamp"][0])
        stop = packet.stop if last else int(array["timestamp"][at + size])
        out.append(Packet(start, stop, Events(piece, packet.data.width, packet.data.height)))
    return out


def table(rows: np.ndarray[Any, Any], start: int, stop: int) -> Packet[Table]:
    """A packet of structured rows."""
    return Packet(start, stop, Table(rows))


__all__ = ["Driven", "cut", "drive", "events", "table"]  # fmt: skip
