"""Other hosts as a supervisor sees them: one connection each, and what is known of their clocks."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from . import __version__
from .control import PROTOCOL, Message
from .errors import TransportError
from .graph import Graph, HostSpec
from .network import HostClient, Keys, is_loopback, read_public, read_secret

SILENCE_S = 1.0  # a host that says nothing for so long is gone: unplugged, frozen or dead
PING_S = 0.2
AWAY_S = 120.0  # how long a lost host is waited for, and a run's memory kept there
JOIN_S = 0.5  # between attempts
PINGS = 32  # of the last so many, the one with the shortest way tells the clocks apart

Phase = Literal["joining", "ready", "lost"]


class HostLost(Exception):
    """The host is gone, or a message to or from it."""


class Remote:
    """One host of a run."""

    def __init__(self, spec: HostSpec, run: str, keys: Keys | None, server: bytes) -> None:
        self.spec, self.name, self._run = spec, spec.name, run
        self.client = HostClient(spec.address, keys, server, b"s" + secrets.token_bytes(15))
        self.phase: Phase = "joining"
        self.joined_once = False
        self.losses = 0
        self.refused = 0  # what the host did not take for a message
        self.ahead_ns = self.error_ns = self.round_trip_ns = 0
        self._pings: deque[tuple[int, int]] = deque(maxlen=PINGS)  # round trip, ahead
        self._heard = self._next_ping = self._next_join = 0.0
        self._received = 0

    def send(self, operation: str, **words: Any) -> bool:
        """Tell the host something; what it does not get, it will be found to lack."""
        return self.phase == "ready" and self.client.send(operation, **words)

    def keep_up(self, now: float) -> None:
        """Join or ping when it is time; HostLost when nothing has been heard for too long."""
        if self.phase == "ready":
            if now - self._heard > SILENCE_S:
                self._lose()
                raise HostLost(
                    f"host {self.name!r} ({self.spec.address}) has not been heard for "
                    f"{SILENCE_S:g} s: unplugged, frozen or dead"
                )
            if now >= self._next_ping:
                self._next_ping = now + PING_S
                self.client.send("ping", at=time.monotonic_ns())
        elif self.joined_once and now - self._heard > AWAY_S:
            raise TransportError(
                f"host {self.name!r} ({self.spec.address}) did not come back within {AWAY_S:g} s: "
                f"{self.client.trouble}"
            )
        elif now >= self._next_join:
            self._next_join = now + JOIN_S
            self.client.restart()
            self.client.send("join", run=self._run, protocol=PROTOCOL, version=__version__)

    def receive(self, now: float) -> list[Message]:
        """What the host has said, but for what only concerns the connection."""
        messages: list[Message] = []
        for message in self.client.receive():
            operation = message["op"]
            if operation == "joined" and self.phase != "ready":
                self._join(message)
            elif operation == "refused":
                raise TransportError(f"host {self.name!r} ({self.spec.address}): {message['why']}")
            elif self.phase != "ready":
                continue  # of an earlier connection
            elif message["n"] != self._received + 1 or operation == "gap":
                self._lose()
                raise HostLost(f"host {self.name!r}: a message was lost on the way")
            elif operation == "pong":
                self._pong(message)
            else:
                messages.append(message)
            self._received, self._heard = message["n"], now
        return messages

    def _join(self, message: Message) -> None:
        if self.joined_once and message["fresh"]:
            raise TransportError(
                f"host {self.name!r} ({self.spec.address}) began anew: what its processes kept in "
                "memory is gone, and with it what was on its way"
            )
        self.joined_once, self.phase = True, "ready"
        self._pings.clear()

    def _lose(self) -> None:
        self.phase, self._next_join = "lost", 0.0
        self.losses += 1

    def _pong(self, message: Message) -> None:
        now = time.monotonic_ns()
        round_trip = now - message["at"]
        self._pings.append((round_trip, message["now"] - (message["at"] + now) // 2))
        self.round_trip_ns, self.ahead_ns = min(self._pings)
        self.error_ns = self.round_trip_ns // 2
        self.refused = message["refused"]

    def report(self) -> dict[str, Any]:
        """What the run report says of the host."""
        return {
            "address": self.spec.address,
            "phase": self.phase,
            "losses": self.losses,
            "refused": self.refused,
            "clock_ahead_us": self.ahead_ns // 1000,
            "clock_error_us": -(-self.error_ns // 1000),
            "round_trip_us": self.round_trip_ns // 1000,
        }

    def close(self) -> None:
        """Tell the host that the run is over, and hang up."""
        if self.phase == "ready":
            self.client.send("end")
        self.client.close()


class RemoteControl:
    """The control connection of a process on another host: through that host."""

    def __init__(self, remote: Remote, process: str) -> None:
        self._remote, self._process = remote, process
        self.open = True

    def send(self, operation: str, fds: Sequence[int] = (), **words: Any) -> bool:
        """Send one message; `memory` names what goes along as descriptors."""
        assert not fds  # descriptors do not cross hosts
        memory = words.pop("memory", [])
        message = {"op": operation, **words}
        return self._remote.send("to", process=self._process, message=message, memory=memory)

    def receive(self) -> list[Message]:
        """Nothing: what it says comes over the host's connection."""
        return []

    def close(self) -> None:
        """Nothing to close."""
        self.open = False


def connect_hosts(graph: Graph, run: str, key: Path) -> dict[str, Remote]:
    """Connections to the hosts that the graph uses; `key` is our secret, read when one needs it.

    TransportError when a key is missing, unreadable, or readable by others.
    """
    used = {spec.host for spec in graph.processes.values() if spec.host is not None}
    remotes: dict[str, Remote] = {}
    for name in sorted(used):
        spec = graph.hosts[name]
        if spec.key is not None:
            remotes[name] = Remote(spec, run, read_secret(key), read_public(Path(spec.key)))
        elif graph.insecure or is_loopback(spec.address):
            remotes[name] = Remote(spec, run, None, b"")
        else:  # the graph's check has said so already
            raise TransportError(f"host {name!r}: no key for {spec.address}")
    return remotes
