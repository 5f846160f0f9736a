"""What crosses hosts: ZeroMQ over tcp, with CURVE, tokens and heartbeats.

Two kinds of connection. `Listener` and `Joiner` are the two ends of one edge, made for one pair of
process incarnations and never used again: the listener takes messages from the peer that knows the
connection's token (and, with CURVE, holds the one key that is allowed), and counts everybody else.
`HostServer` and `HostClient` carry what a supervisor and a host say to each other.

A connection that breaks stays broken: ZeroMQ would connect again by itself and leave a gap behind.
Whoever notices says so, and the supervisor makes a new one, over which what is missing comes again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import parse_monitor_message

from .errors import TransportError
from .graph_file import is_loopback
from .sockets import Channel

__all__ = [
    "Gate", "HostClient", "HostServer", "Joiner", "Keys", "Listener", "Security",
    "address_towards", "is_loopback", "new_keys", "read_allowed", "read_public", "read_secret",
    "write_keys",
]  # fmt: skip

HEARTBEAT_MS = 200
TIMEOUT_MS = 700  # without a heartbeat for so long, a peer is gone: unplugged, frozen or dead
HANDSHAKE_MS = 2000  # a client that does not say who it is
TOKEN_BYTES = 16
MAXIMUM_MESSAGE = 32 << 20  # bytes, between a supervisor and a host
LATER = 128 << 10  # bytes that a data message may have beside its payload

_FAILURES = {
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "it does not allow our key",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "it does not speak the same way: only one of the two "
    "ends uses keys",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "the handshake failed: its key is not the one that "
    "the graph names, only one of the two ends uses keys, or it went away",
}


class Keys(NamedTuple):
    """A CURVE key pair, Z85 text as bytes. The secret is never printed."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"Keys(public={self.public!r}, secret=...)"


class Security(NamedTuple):
    """How one end of an edge proves itself. `mine` is None where nothing is encrypted."""

    token: bytes
    mine: Keys | None = None
    peer: bytes = b""  # the public key that the other end must have


def new_keys() -> Keys:
    """A fresh key pair."""
    return Keys(*zmq.curve_keypair())


def write_keys(directory: Path, name: str) -> tuple[Path, Path]:
    """A new key pair as `name.key` (public) and `name.key_secret` (mode 600), ZeroMQ certificates.

    TransportError when one of the files is there already: a key is never overwritten.
    """
    public, secret = directory / f"{name}.key", directory / f"{name}.key_secret"
    keys = new_keys()
    head = "metadata\ncurve\n"
    line = f'    public-key = "{keys.public.decode()}"\n'
    texts = {
        secret: (0o600, f'{head}{line}    secret-key = "{keys.secret.decode()}"\n'),
        public: (0o644, head + line),
    }
    for path in texts:
        if path.exists():
            raise TransportError(f"{path} is there already: remove it, or choose another name")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, (mode, text) in texts.items():
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
        with open(fd, "w") as file:
            file.write(text)
    return public, secret


def read_secret(path: Path) -> Keys:
    """The key pair in a secret file; TransportError unless only its owner, we, may read it."""
    text, status = _read(path)
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise TransportError(
            f"{path} belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):o}; a "
            "secret key must be yours with mode 600: chmod 600 it, and make a new key if others "
            "may have read it"
        )
    return Keys(_value(path, text, "public-key"), _value(path, text, "secret-key"))


def read_public(path: Path) -> bytes:
    """The public key in a file."""
    return _value(path, _read(path)[0], "public-key")


def read_allowed(paths: Collection[Path]) -> frozenset[bytes]:
    """The public keys in files, and in the `*.key` files of folders."""
    keys: set[bytes] = set()
    for path in paths:
        files = sorted(path.glob("*.key")) if path.is_dir() else [path]
        keys.update(read_public(file) for file in files)
    return frozenset(keys)


def _read(path: Path) -> tuple[str, os.stat_result]:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(4096), os.fstat(file.fileno())
    except FileNotFoundError as error:
        raise TransportError(
            f"{path}: no such key; `streamflow keys new NAME` makes one"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise TransportError(f"{path} cannot be read as a key: {error}") from error


def _value(path: Path, text: str, name: str) -> bytes:
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and key.strip() == name:
            value = value.strip().strip('"')
            if len(value) == 40:
                return value.encode()
    raise TransportError(f"{path} has no {name} of 40 characters: not a key file, or a damaged one")


def address_towards(address: str) -> str:
    """The address of this machine that `name:port` is reached from."""
    name, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _canonical, where = socket.getaddrinfo(
            name.strip("[]"), int(port), type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(where)  # of a datagram socket: nothing is sent
            return str(probe.getsockname()[0])
    except OSError as error:
        raise TransportError(f"{address} cannot be reached: {error}") from error


# --- edges --------------------------------------------------------------------------------------


class Gate:
    """Who may connect to the listeners of a process. Runs beside its loop once it is needed."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._authenticator = ThreadAuthenticator(context, log=_SILENT)
        self._authenticator.start()
        self._allowed: dict[str, frozenset[bytes]] = {}

    def allow(self, domain: str, keys: Collection[bytes]) -> None:
        """Let holders of these public keys, and nobody else, connect in `domain`."""
        self._allowed[domain] = frozenset(keys)
        self._authenticator.configure_curve_callback(domain, credentials_provider=self)

    def callback(self, domain: str, key: bytes) -> bool:
        """What the authenticator asks: whether a client with this key may connect."""
        return key in self._allowed.get(domain, ())

    def stop(self) -> None:
        """End the thread."""
        self._authenticator.stop()


_SILENT = logging.getLogger("streamflow.gate")
_SILENT.setLevel(logging.CRITICAL)  # who knocked in vain is counted, not told line by line
_SILENT.propagate = False


def _harden(socket: zmq.Socket[bytes], maximum: int) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, maximum)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, TIMEOUT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 1000)


def _serve_keys(socket: zmq.Socket[bytes], keys: Keys | None, domain: str) -> None:
    # any domain keeps clients of ancient protocols out, whose bytes would be taken for messages
    socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)


def _use_keys(socket: zmq.Socket[bytes], keys: Keys | None, server: bytes) -> None:
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)


def _bind(socket: zmq.Socket[bytes], where: str) -> str:
    """Listen at `host:port`; the address with the port that it has become."""
    socket.setsockopt(zmq.IPV6, where.startswith("["))
    try:
        socket.bind(f"tcp://{where}")
    except zmq.ZMQError as error:
        raise TransportError(f"cannot listen at {where}: {error}") from error
    endpoint = bytes(socket.getsockopt(zmq.LAST_ENDPOINT))
    return endpoint.rstrip(b"\0").decode().removeprefix("tcp://")


class Listener(Channel):
    """The producer's end of an edge to another host."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        where: str,
        maximum: int,
        security: Security,
        domain: str,
    ) -> None:
        socket = context.socket(zmq.ROUTER)
        super().__init__(socket)
        _harden(socket, maximum)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        _serve_keys(socket, security.mine, domain)
        self._peer = security.token
        self.refused = 0  # messages of strangers
        self.address = _bind(socket, f"{_bracketed(where)}:*")

    def send(self, frame: bytes) -> bool:
        """Hand a frame to ZeroMQ; False when the peer is not there."""
        try:
            self.socket.send(self._peer, zmq.NOBLOCK | zmq.SNDMORE)
            self.socket.send(frame, zmq.NOBLOCK, copy=len(frame) < 1 << 16)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True

    def receive(self) -> bytes | None:
        """The peer's next frame, or None. Messages of strangers are counted and thrown away."""
        socket = self.socket
        while True:
            try:
                sender = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return None
            frame = b""
            parts = 0
            while socket.getsockopt(zmq.RCVMORE):
                frame = socket.recv()
                parts += 1
            if parts == 1 and sender == self._peer:
                return frame
            self.refused += 1

    @property
    def more(self) -> bool:
        """Whether to ask again: a message in vain costs little next to a network."""
        return True


class Joiner(Channel):
    """The consumer's end of an edge to another host."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        maximum: int,
        security: Security,
    ) -> None:
        socket = context.socket(zmq.DEALER)
        super().__init__(socket)
        _harden(socket, maximum)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)  # a gap would go unseen
        socket.setsockopt(zmq.ROUTING_ID, security.token)
        _use_keys(socket, security.mine, security.peer)
        self.monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        socket.setsockopt(zmq.IPV6, address.startswith("["))
        socket.connect(f"tcp://{address}")

    def is_lost(self) -> bool:
        """Whether the connection has broken; asked when the monitor has something to say."""
        lost = False
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self.monitor.recv_multipart(zmq.NOBLOCK))
                lost |= event["event"] == zmq.EVENT_DISCONNECTED
        return lost

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        super().close()


def _bracketed(where: str) -> str:
    return f"[{where}]" if ":" in where else where


# --- supervisor and host ------------------------------------------------------------------------

Message = dict[str, Any]
_decode = msgspec.msgpack.Decoder(Message).decode


def _message(frame: bytes) -> Message:
    """The message in a frame; TransportError when it is none."""
    try:
        message = _decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TransportError(f"{frame[:16]!r} is no message between hosts: {error}") from error
    if not isinstance(message.get("op"), str) or not isinstance(message.get("n"), int):
        raise TransportError(f"{frame[:16]!r} is no message between hosts")
    return message


class HostServer:
    """Where a host waits for supervisors. Messages come with the caller they are from."""

    def __init__(self, where: str, keys: Keys | None, allowed: Collection[bytes]) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._gate: Gate | None = None
        if keys is not None:
            self._gate = Gate(self._context)
            self._gate.allow("host", allowed)
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        _harden(self.socket, MAXIMUM_MESSAGE)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        _serve_keys(self.socket, keys, "host")
        try:
            self.address = _bind(self.socket, where)
        except TransportError:
            self.close()
            raise
        self.refused = 0
        self._counts: dict[bytes, int] = {}

    def restart(self, caller: bytes) -> None:
        """Count messages to this caller from one again, and forget all others."""
        self._counts = {caller: 0}

    def fileno(self) -> int:
        """The descriptor to wait on; look for messages after every wait, whatever it says."""
        return int(self.socket.getsockopt(zmq.FD))

    def send(self, caller: bytes, operation: str, **words: Any) -> bool:
        """Send a message; False when the caller is not there."""
        count = self._counts[caller] = self._counts.get(caller, 0) + 1  # also of one that is lost
        body = msgspec.msgpack.encode({"op": operation, "n": count, **words})
        try:
            self.socket.send_multipart([caller, body], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True

    def receive(self) -> list[tuple[bytes, Message]]:
        """Every message that has arrived; what is no message is counted."""
        messages: list[tuple[bytes, Message]] = []
        while True:
            try:
                caller, *parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return messages
            try:
                if len(parts) != 1:
                    raise TransportError(f"{len(parts)} parts")
                messages.append((caller, _message(parts[0])))
            except TransportError:
                self.refused += 1

    def close(self) -> None:
        """Stop listening."""
        if self._gate is not None:
            self._gate.stop()
        self._context.destroy(linger=0)


class HostClient:
    """A supervisor's connection to one host. It connects again by itself; messages are counted, so
    that a gap is seen.
    """  # fmt: skip

    def __init__(self, address: str, keys: Keys | None, server: bytes, identity: bytes) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        _harden(self.socket, MAXIMUM_MESSAGE)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self.socket.setsockopt(zmq.ROUTING_ID, identity)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing waits for a host that is not there
        _use_keys(self.socket, keys, server)
        self._monitor = self.socket.get_monitor_socket(
            zmq.EVENT_CONNECT_RETRIED
            | zmq.EVENT_DISCONNECTED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        self._sent = 0
        self.trouble = "nobody listens there"
        self.socket.setsockopt(zmq.IPV6, 1)  # a name may stand for either kind of address
        self.socket.connect(f"tcp://{address}")

    def fileno(self) -> int:
        """The descriptor to wait on; look for messages after every wait, whatever it says."""
        return int(self.socket.getsockopt(zmq.FD))

    def restart(self) -> None:
        """Count messages from one again: what is sent next begins a new conversation."""
        self._sent = 0

    def send(self, operation: str, **words: Any) -> bool:
        """Send a message; False when the host is not there."""
        self._sent += 1
        body = msgspec.msgpack.encode({"op": operation, "n": self._sent, **words})
        try:
            self.socket.send(body, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> deque[Message]:
        """Every message that has arrived."""
        messages: deque[Message] = deque()
        with contextlib.suppress(zmq.Again):
            while True:
                messages.append(_message(self.socket.recv(zmq.NOBLOCK)))
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
                self.trouble = _FAILURES.get(int(event["event"]), self.trouble)
        return messages

    def close(self) -> None:
        """Hang up."""
        self.socket.disable_monitor()
        self._context.destroy(linger=100)
