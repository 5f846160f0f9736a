"""UDP sockets of nodes: opened with one clear error, and what was lost by them counted."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any

from streamflow.errors import DeviceError
from streamflow.node import Node

SO_MEMINFO, MEMINFO = 55, struct.Struct("9I")  # linux/sock_diag.h: the last of nine is the drops

PASSING = {errno.ENOBUFS, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}
"""Errors that a network may give for a while, and a datagram is lost by."""


def listening(host: str, port: int, buffer: int) -> socket.socket:
    """A socket that takes datagrams and does not block; the kernel is asked for `buffer` bytes."""
    found, address = _socket(host, port, "listen")
    found.setblocking(False)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    try:
        found.bind(address)
    except OSError as error:
        found.close()
        raise DeviceError(
            f"{host}:{port}: cannot listen ({error.strerror}); expected an address of this machine "
            "and a free port: choose another 'port', or 0 for any"
        ) from error
    return found


def connected(host: str, port: int) -> socket.socket:
    """A socket to send from; connected, so that the kernel says when nobody listens."""
    found, address = _socket(host, port, "send")
    try:
        found.connect(address)
    except OSError as error:
        found.close()
        raise DeviceError(
            f"{host}:{port}: cannot send there ({error.strerror}); expected the address of a "
            "machine that this one can reach: check 'host'"
        ) from error
    return found


def sent(node: Node[Any], found: socket.socket, datagram: bytes | memoryview) -> bool:
    """Whether the datagram left this machine; what is lost is a fault of the node.

    `refused` is counted for each time that the receiver's machine said of an earlier datagram that
    nobody listens, `unsent` where the network takes none for a while. The node's settings name
    `host`, `port` and `datagram_bytes`. Raises DeviceError for what does not pass.
    """
    while True:
        try:
            found.send(datagram)
            return True
        except ConnectionRefusedError:
            node.count_fault("refused")  # it tells of an earlier one; this has not been sent
        except OSError as error:
            if error.errno not in PASSING:
                raise DeviceError(
                    f"{node.settings.host}:{node.settings.port}: cannot send ({error.strerror}); "
                    f"expected a network that takes {len(datagram)} bytes at once: lower "
                    "'datagram_bytes', or check 'host'"
                ) from error
            node.count_fault("unsent")
            return False


def _socket(host: str, port: int, purpose: str) -> tuple[socket.socket, Any]:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    except (OSError, UnicodeError) as error:  # the latter for what is no host's name at all
        raise DeviceError(
            f"{host}:{port}: cannot {purpose} ({getattr(error, 'strerror', None) or error}); "
            "expected a machine's name or address: check 'host'"
        ) from error
    return socket.socket(family, kind), address


def dropped(found: socket.socket) -> int:
    """Datagrams that the kernel dropped so far, modulo 2^32, because the buffer was full."""
    told = found.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size)
    return int(MEMINFO.unpack(told)[8])
