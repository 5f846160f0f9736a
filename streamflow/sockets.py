"""ZeroMQ sockets as the engine uses them: channels of edges, and what waits for them.

What ZeroMQ's own queues would hold is bounded by credits, never by high-water marks.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, Literal

import zmq
from zmq.backend import zmq_poll

from .errors import PacketError, TransportError

MAXIMUM_FRAME = 8 << 20  # bytes; larger frames close the connection (a hostile or broken peer)
_READABLE = int(zmq.POLLIN)  # plain: with enumerations each use takes a microsecond
_NOBLOCK, _RCVMORE = int(zmq.NOBLOCK), int(zmq.RCVMORE)


class Context:
    """The process's ZeroMQ context: made after the fork, closed without waiting."""

    def __init__(self) -> None:
        self._context = zmq.Context(io_threads=1)

    def channel(self) -> Channel:
        """A new channel."""
        return Channel(self._context.socket(zmq.DEALER))

    @property
    def raw(self) -> zmq.Context[zmq.Socket[bytes]]:
        """ZeroMQ's own context, for what crosses hosts."""
        return self._context

    def close(self) -> None:
        """Close everything at once."""
        self._context.destroy(linger=0)


class Channel:
    """One connection of an edge. Never blocks: bounded by credits, not by ZeroMQ."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAXIMUM_FRAME)
        socket.setsockopt(zmq.RECONNECT_IVL, 5)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        self.socket = socket
        self._send = super(zmq.Socket, socket).send  # what it overrides is for other socket types
        self._recv = socket.recv
        self._readable = [(socket, _READABLE)]
        self._lock = -1

    def bind(self, path: Path) -> None:
        """Listen at `path`. A second listener is refused (ZeroMQ alone would steal the path)."""
        self._lock = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TransportError(f"{path} is already listened to by another process") from error
        mask = os.umask(0o077)
        try:
            self.socket.bind(f"ipc://{path}")
        except zmq.ZMQError as error:
            raise TransportError(f"cannot listen at {path}: {error}") from error
        finally:
            os.umask(mask)

    def connect(self, path: Path) -> None:
        """Connect to the listener at `path`, as soon as it is there."""
        self.socket.connect(f"ipc://{path}")

    def send(self, frame: bytes) -> bool:
        """Hand a frame to ZeroMQ; False when there is no peer."""
        try:
            self._send(frame, _NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> bytes | None:
        """The next frame, or None."""
        try:
            return self._recv(_NOBLOCK)
        except zmq.Again:
            return None

    @property
    def more(self) -> bool:
        """Whether another frame has arrived: cheaper than a `receive` in vain, and so what ends
        with the last one is not held up by the question.
        """  # fmt: skip
        if not zmq_poll(self._readable, 0):
            return False
        socket = self.socket
        if socket.getsockopt(_RCVMORE):
            while socket.getsockopt(_RCVMORE):
                socket.recv()
            raise PacketError("a message of several frames; every message is one")
        return True

    def close(self) -> None:
        """Close at once; what was not sent is gone (the edge sends it again)."""
        self.socket.close(linger=0)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class Poll:
    """Waits for channels and descriptors."""

    def __init__(self) -> None:
        self._watched: list[tuple[Any, int]] = []
        self._keys: dict[Any, Any] = {}

    def add(self, what: Channel | zmq.Socket[bytes] | int, key: Any) -> None:
        """Watch a channel, a monitor or a descriptor; `key` comes back when it is readable."""
        where = what.socket if isinstance(what, Channel) else what
        self._watched.append((where, _READABLE))
        self._keys[where] = key

    def remove(self, what: Channel | zmq.Socket[bytes] | int) -> None:
        """Stop watching."""
        where = what.socket if isinstance(what, Channel) else what
        self._watched.remove((where, _READABLE))
        del self._keys[where]

    def wait(self, milliseconds: int | None) -> list[Any]:
        """The keys of what is readable, after at most `milliseconds` (None: for ever)."""
        keys = self._keys
        found = zmq_poll(self._watched, -1 if milliseconds is None else milliseconds)
        return [keys[where] for where, _events in found]


class MessageSocket:
    """A socket to programs that are no part of the graph: single messages out, never waiting.

    `pub` gives every message to those who listen at that moment; `push` gives each to one. A
    message is only ever queued for a peer that is there. What was sent is given 0.2 s to leave when
    the socket closes.
    """

    def __init__(self, pattern: Literal["pub", "push"], address: str, *, bind: bool) -> None:
        self._context = zmq.Context(io_threads=1)
        socket = self._context.socket(zmq.PUB if pattern == "pub" else zmq.PUSH)
        socket.setsockopt(zmq.LINGER, 200)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        try:
            if bind:
                socket.bind(address)
            else:
                socket.connect(address)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            verb = "listen at" if bind else "connect to"
            raise TransportError(
                f"cannot {verb} {address!r}: {error}; expected an address of ZeroMQ such as "
                "tcp://127.0.0.1:5600 that is free"
            ) from error
        self._socket = socket

    def send(self, message: bytes) -> bool:
        """Send a message; False when there is no peer to take it (`push` only)."""
        try:
            self._socket.send(message, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        self._socket.close()
        self._context.term()
