"""Has the two ends of every edge between processes connect, and connect again."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from .control import Message
from .errors import TransportError
from .network import LATER, Keys, Security, address_towards, is_loopback, new_keys
from .run_directory import endpoint_path
from .supervised import Edge, Process

GREETING_S = 3.0  # an edge between hosts that has not been greeted is made again


class Links:
    """The connections of a run's edges, of which every pair of incarnations has its own.

    Sockets lie in `directory`; `insecure` edges to other hosts are not encrypted; `note` is told
    what the report should say.
    """

    def __init__(
        self,
        edges: Collection[Edge],
        directory: Path,
        *,
        insecure: bool,
        note: Callable[[str], None],
    ) -> None:
        self._edges, self._by_name = edges, {edge.name: edge for edge in edges}
        self._directory, self._insecure, self._note = directory, insecure, note

    @property
    def complete(self) -> bool:
        """Whether the two ends of every edge have greeted each other."""
        return all(edge.greeted for edge in self._edges)

    def may_start(self, process: Process) -> bool:
        """Whether a process is connected to all that are there: it must not wait for the dead."""
        return all(edge.greeted or _gone(edge, process) for edge in self._of(process))

    def _of(self, process: Process) -> list[Edge]:
        return [edge for edge in self._edges if process in (edge.producer, edge.consumer)]

    def greet(self, message: Message) -> None:
        """A producer says that its consumer is there."""
        edge = self._by_name[message["edge"]]
        # what its producer says of an earlier connection may come late
        edge.greeted = edge.linked and message["generation"] == edge.generation

    def unlink(self, dead: Process) -> None:
        """A process is dead: have those at the other ends of its edges hang up."""
        for edge in self._of(dead):
            if edge.linked:
                other = edge.consumer if dead is edge.producer else edge.producer
                if other.control is not None:
                    other.control.send("unlink", edge=edge.name)
            edge.linked = edge.greeted = False

    def relink(self) -> None:
        """Connect every edge whose two ends are there and not connected."""
        ready = ("ready", "running", "finished")
        self._retry_far()
        for edge in self._edges:
            ends = (edge.producer, edge.consumer)
            if edge.linked or any(end.phase not in ready or end.control is None for end in ends):
                continue
            for old in self._directory.glob(f"e{edge.plan.index}.{edge.generation}*"):
                old.unlink(missing_ok=True)  # what a killed producer could not clean up
            edge.generation += 1
            edge.linked_at = time.monotonic()
            if edge.plan.transport == "tcp":
                self._link_far(edge)
                edge.linked = True
                continue
            path = endpoint_path(self._directory, f"e{edge.plan.index}.{edge.generation}")
            for end in ends:
                if end.control is not None:
                    end.control.send(
                        "link", edge=edge.name, path=str(path), generation=edge.generation
                    )
            edge.linked = True

    # --- between hosts ------------------------------------------------------------------------

    def _link_far(self, edge: Edge) -> None:
        """Have the producer listen; when it says where, the consumer is told."""
        where = _place(edge.producer, edge.consumer)
        token = b"e" + secrets.token_bytes(15)  # an identity must not begin with a zero
        ours: Keys | None = None
        theirs: Keys | None = None
        if not self._insecure and not is_loopback(f"{where}:0"):
            ours, theirs = new_keys(), new_keys()  # for this connection alone
        listener = Security(token, ours, theirs.public if theirs else b"")
        edge.security = (listener, Security(token, theirs, ours.public if ours else b""))
        _tell(edge, edge.producer, listener, where=where)

    def join_far(self, producer: Process, message: Message) -> None:
        """A producer says where it listens: tell the consumer."""
        edge = self._by_name[message["edge"]]
        if edge.producer is producer and edge.linked and message["generation"] == edge.generation:
            assert edge.security is not None
            _tell(
                edge, edge.consumer, edge.security[1], address=message["address"],
                ahead=_ahead(edge),
            )  # fmt: skip

    def broken(self, message: Message) -> None:
        """The connection of an edge broke: both of its ends live, and get another."""
        edge = self._by_name[message["edge"]]
        if edge.linked and message["generation"] == edge.generation:
            self._note(f"edge {edge.name}: its connection broke and is made again")
            if edge.producer.control is not None:
                edge.producer.control.send("unlink", edge=edge.name)
            edge.linked = edge.greeted = False

    def _retry_far(self) -> None:
        now = time.monotonic()
        for edge in self._edges:
            if edge.plan.transport != "tcp" or not edge.linked:
                continue
            if not edge.greeted and now - edge.linked_at > GREETING_S:
                for end in (edge.producer, edge.consumer):
                    if end.control is not None:
                        end.control.send("unlink", edge=edge.name)
                edge.linked = False


def _gone(edge: Edge, process: Process) -> bool:
    """Whether the other end of an edge is away: a source must not wait for a dead sink."""
    other = edge.consumer if process is edge.producer else edge.producer
    return other.phase in ("waiting", "starting", "dead")


def _tell(edge: Edge, end: Process, security: Security, **words: Any) -> None:
    if end.control is not None:
        end.control.send(
            "link", edge=edge.name, generation=edge.generation, token=security.token,
            keys=security.mine, peer=security.peer,
            maximum=edge.plan.spec.max_packet + LATER, **words,
        )  # fmt: skip


def _ahead(edge: Edge) -> int:
    """How far the consumer's clock is ahead of the producer's, ns."""
    consumer, producer = edge.consumer.remote, edge.producer.remote
    return (consumer.ahead_ns if consumer else 0) - (producer.ahead_ns if producer else 0)


def _place(process: Process, towards: Process) -> str:
    """The address that the edges of a process listen at, as `towards` reaches it."""
    if process.remote is not None:
        return address_of(process.remote.spec.address)
    assert towards.remote is not None
    return address_towards(towards.remote.spec.address)


def address_of(address: str) -> str:
    """The numeric address of `name:port`."""
    name = address.rpartition(":")[0].strip("[]")
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise TransportError(f"host {name!r} has no address: {error}") from error
