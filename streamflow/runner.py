"""What a worker's loop knows of the nodes of its process: their edges, their sources' threads."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from .consumer_end import InLink
from .edge import NEVER, InputOrder
from .graph_file import OnError
from .node import Emission, Node
from .packet import Packet, Payload
from .producer_end import OutLink, Output

AHEAD = 16  # packets a source's thread may be ahead of the edges
AGAIN = 4  # left of them when a thread that was too far ahead goes on: switching threads costs more


class Local:
    """An edge inside the process. At most `capacity` packets wait for the target's other inputs."""

    def __init__(self, name: str, route: Route, target: Runner, port: int, capacity: int) -> None:
        self.name, self.route, self.target, self.port = name, route, target, port
        self.capacity = capacity
        self.produced = self.produced_items = self.handled = self.handled_items = 0
        self.bytes = self.waiting_max = 0
        self.watermark, self.ended = NEVER, False
        self.latency: Callable[[int], None]  # counts one (ns)

    @property
    def waiting(self) -> int:
        """Packets that the target has not been given yet."""
        return self.produced - self.handled

    def room(self) -> bool:
        """Whether one more may wait."""
        return self.waiting < self.capacity


class Route:
    """What leaves a node by one port: edges to other processes, and edges inside this one."""

    def __init__(self, runner: Runner, port: str, payload: type[Payload]) -> None:
        self.runner, self.port, self.payload = runner, port, payload
        self.name = f"{runner.node.name}.{port}"
        self.output: Output | None = None
        self.links: list[OutLink] = []
        self.locals: list[Local] = []
        self.watermark = NEVER
        self.dirty = False  # among those with something to send
        self.late = False  # among those whose stream time has advanced, without a packet


class Feed:
    """Where packets of another process come in: the edge's end, and the node it leads to."""

    def __init__(self, name: str, link: InLink, runner: Runner, port: int) -> None:
        self.name, self.link, self.runner, self.port = name, link, runner, port
        self.latency: Callable[[int], None]  # counts one (ns)


class Runner:
    """A node and what the loop knows of it. `index` is its place in the process."""

    def __init__(
        self, index: int, node: Node[Any], kind: str, ports: list[str], on_error: OnError
    ) -> None:
        self.on_error = on_error
        self.index, self.node, self.kind, self.ports = index, node, kind, ports
        self.order = InputOrder(len(ports))
        self.alone = len(ports) == 1  # nothing to wait for: packets go as they come
        self.handlers: list[Callable[[Packet[Any]], Iterable[Emission] | None]] = [
            getattr(node, f"on_{port}") for port in ports
        ]
        self.routes: dict[str, Route] = {}
        self.ways: list[Route] = []  # the same, as a list
        self.reach: list[Output | Local] = []  # what handling a packet here may fill
        self.below: set[int] = set()  # runners of this process that it leads to without leaving it
        self.time = NEVER
        self.advances = type(node).advance is not Node.advance
        # whether a successor makes the same packets again; not where one that feeds it does not
        self.repeats = type(node).stateless or type(node).is_snapshotting()
        self.finished = False
        self.packets_in = self.packets_out = self.items_in = self.items_out = self.state_lost = 0
        self.source: Source | None = None


Made = tuple[Emission | None, dict[str, Any] | None, BaseException | None]
"""What a source's thread made: a packet and the state after it; no packet ends the stream."""


class Source:
    """Runs `produce()` in a thread of its own, so that a blocking device never stops the loop."""

    def __init__(self, runner: Runner, snapshots: bool) -> None:
        self.runner = runner
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.ready: deque[Made] = deque()
        self.state: dict[str, Any] | None = None  # after the last packet taken
        self.over = False
        self._full = False  # the thread waits, or is about to, until there is room
        self._room = threading.Event()
        self._snapshots = snapshots
        self._stop = False
        self._deciding = threading.Lock()  # whether a packet comes before the end
        self._thread = threading.Thread(target=self._run, name=runner.node.name, daemon=True)

    def start(self) -> None:
        """Let the source begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the stream: what the thread has made goes out, what it is waiting for does not."""
        with self._deciding:
            self._stop = True
            self.ready.append((None, None, None))
        self.runner.node.clock.stop()
        self._room.set()
        os.eventfd_write(self.wake, 1)

    @property
    def silent(self) -> bool:
        """Whether the loop can only wait for the device."""
        return not self.ready and not self.over

    def take(self) -> tuple[Emission | None, BaseException | None]:
        """The next packet; None for the end of the stream, with what it ended by."""
        emission, state, error = self.ready.popleft()
        if emission is None:
            self.over = True
        else:
            if state is not None:
                self.state = state
            if self._full and len(self.ready) <= AGAIN:
                self._full = False
                self._room.set()
        return emission, error

    def _run(self) -> None:
        node, ready = self.runner.node, self.ready
        try:
            for emission in node.produce():
                packet = emission.packet
                if not packet.captured:
                    packet = Packet(packet.start, packet.stop, packet.data, time.monotonic_ns())
                    emission = Emission(emission.port, packet)
                state = node.snapshot() if self._snapshots else None
                if len(ready) >= AHEAD:
                    self._wait_for_room()
                with self._deciding:
                    if self._stop:
                        return
                    ready.append((emission, state, None))
                if len(ready) == 1:  # else the loop knows that there is something, or takes it now
                    os.eventfd_write(self.wake, 1)
        except BaseException as error:
            ready.append((None, None, error))
        else:
            ready.append((None, None, None))
        os.eventfd_write(self.wake, 1)

    def _wait_for_room(self) -> None:
        self._room.clear()
        self._full = True
        # asked again: what was taken before `_full` was set has told nobody
        if len(self.ready) >= AHEAD and not self._stop:
            self._room.wait()
        self._full = False
