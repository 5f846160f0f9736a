"""Messages between the supervisor and its processes, over Unix sockets.

A message is a length and a msgpack map; descriptors travel beside it (SCM_RIGHTS). Every process of
a run holds one such connection, and its end is the sign that the supervisor is gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from .errors import TransportError

PROTOCOL = 1  # of these messages; an interpreter with another streamflow must speak the same
MAXIMUM_MESSAGE = 16 << 20
_FDS_AT_ONCE = 64  # the kernel takes 253
_LENGTH = struct.Struct("<II")  # bytes of the message, descriptors that belong to it

Message = dict[str, Any]
_decode = msgspec.msgpack.Decoder(Message).decode


class Control:
    """One end of a control connection. Reads never block; writes do, they are small."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self.socket = connection
        self.open = True
        self._buffer = bytearray()
        self._fds: deque[int] = deque()
        self._sending = threading.Lock()  # a source's thread may log while the loop sends

    @classmethod
    def connect(cls, path: str) -> Control:
        """Connect to the supervisor's socket."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(path)
        return cls(connection)

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self.socket.fileno()

    def send(self, operation: str, fds: Sequence[int] = (), **words: Any) -> bool:
        """Send one message; False when the other end is gone."""
        body = msgspec.msgpack.encode({"op": operation, **words})
        if len(body) > MAXIMUM_MESSAGE:
            raise TransportError(
                f"a control message {operation!r} of {len(body) >> 20} MiB; at most "
                f"{MAXIMUM_MESSAGE >> 20} MiB: results and settings are no place for data"
            )
        data = memoryview(_LENGTH.pack(len(body), len(fds)) + body)
        with self._sending:
            try:
                rest = list(fds)
                while rest:
                    sent = socket.send_fds(self.socket, [data[:1]], rest[:_FDS_AT_ONCE])
                    rest, data = rest[_FDS_AT_ONCE:], data[sent:]
                self.socket.sendall(data)
            except OSError:
                self.open = False
        return self.open

    def receive(self) -> list[Message]:
        """Every message that has arrived; a message's descriptors are under "fds".

        TransportError, and a closed connection, when what arrived is not a message.
        """
        while self.open:
            try:
                # not socket.recv_fds: it drops the flags it is given, and would block
                space = socket.CMSG_SPACE(4 * _FDS_AT_ONCE)
                data, extras, _flags, _address = self.socket.recvmsg(
                    1 << 16, space, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                break
            except OSError:
                self.open = False
                break
            for level, kind, words in extras:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._fds.extend(struct.unpack(f"{len(words) // 4}i", words))
            if not data:
                self.open = False
            self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            length, count = _LENGTH.unpack_from(self._buffer)
            if length > MAXIMUM_MESSAGE:
                self._refuse(f"{length} bytes")
            if len(self._buffer) < _LENGTH.size + length:
                break
            body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
            del self._buffer[: _LENGTH.size + length]
            try:
                message = _decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self._refuse(f"{body[:16]!r}: {error}")
            if not isinstance(message.get("op"), str) or count > len(self._fds):
                self._refuse(f"{body[:16]!r}, {count} descriptors")
            message["fds"] = [self._fds.popleft() for _ in range(count)]
            messages.append(message)
        return messages

    def _refuse(self, what: str) -> NoReturn:
        self.open = False
        raise TransportError(f"a control message of {what}: not one of ours")

    def close(self) -> None:
        """Close the connection, and descriptors that came with no message."""
        self.open = False
        while self._fds:
            os.close(self._fds.popleft())
        with contextlib.suppress(OSError):
            self.socket.close()


def peer_is_me(connection: socket.socket) -> bool:
    """Whether the process at the other end belongs to the same user."""
    _pid, uid, _gid = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    )
    return bool(uid == os.getuid())
