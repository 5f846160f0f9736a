"""Makes and breaks the connections of a process's edges, as the supervisor says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .control import Control, Message
from .network import Gate, Joiner, Keys, Listener, Security
from .runner import Feed
from .sockets import Channel, Context, Poll
from .wiring import Wiring


class Connections:
    """A process's ends of the connections of its edges."""

    def __init__(
        self,
        control: Control,
        poll: Poll,
        wiring: Wiring,
        *,
        arrived: Callable[[Feed], None],
        last_arrived: Callable[[Feed], None],
        closed: Callable[[], None],
    ) -> None:
        """`arrived` is called when an edge brings something, `last_arrived` before its connection
        is closed (what had arrived is ours already), and `closed` after that.
        """  # fmt: skip
        self._control, self._poll, self._context = control, poll, Context()
        self._in_links, self._out_links = wiring.in_links, wiring.out_links
        self._feeds = wiring.feeds
        self._arrived, self._last_arrived, self._closed = arrived, last_arrived, closed
        self._heard: set[str] = set()
        self._generation: dict[str, int] = {}  # of each edge's connection
        self._gate: Gate | None = None

    def link(self, message: Message) -> None:
        """Make this end of an edge's connection."""
        edge = message["edge"]
        self._generation[edge] = message["generation"]
        if edge in self._out_links:
            channel = self._listen(message)
            self._out_links[edge][0].attach(channel)
            self._poll.add(channel, (self._heard_from, edge))
        else:
            channel = self._join(message)
            self._in_links[edge].attach(channel)
            self._poll.add(channel, (self._arrived, self._feeds[edge]))

    def _listen(self, message: Message) -> Channel:
        if "path" in message:
            channel = self._context.channel()
            channel.bind(Path(message["path"]))
            return channel
        security, domain = _security(message), f"{message['edge']} {message['generation']}"
        if security.mine is not None:
            if self._gate is None:
                self._gate = Gate(self._context.raw)
            self._gate.allow(domain, [security.peer])
        listener = Listener(
            self._context.raw, message["where"], message["maximum"], security, domain
        )
        self._control.send(
            "listening", edge=message["edge"], generation=message["generation"],
            address=listener.address,
        )  # fmt: skip
        return listener

    def _join(self, message: Message) -> Channel:
        if "path" in message:
            channel = self._context.channel()
            channel.connect(Path(message["path"]))
            return channel
        self._in_links[message["edge"]].ahead = message["ahead"]
        joiner = Joiner(
            self._context.raw, message["address"], message["maximum"], _security(message)
        )
        self._poll.add(joiner.monitor, (self._say_lost, message["edge"]))
        return joiner

    def _heard_from(self, edge: str) -> None:
        """The consumer of an edge says something: credits, or that it is there."""
        link, output = self._out_links[edge]
        link.receive(output)
        if link.sender.connected and edge not in self._heard:
            self._heard.add(edge)
            self._control.send("linked", edge=edge, generation=self._generation[edge])

    def _say_lost(self, edge: str) -> None:
        channel = self._in_links[edge].channel
        if isinstance(channel, Joiner) and channel.is_lost():
            self.say_broken(edge)

    def say_broken(self, edge: str) -> None:
        """The connection of an edge is not what it was: the supervisor makes a new one."""
        self._control.send("broken", edge=edge, generation=self._generation[edge])
        self.unlink(edge)

    def unlink(self, edge: str) -> None:
        """Close this end of an edge's connection, if there is one."""
        self._heard.discard(edge)
        link = self._out_links[edge][0] if edge in self._out_links else self._in_links[edge]
        if link.channel is not None:
            if edge in self._in_links and not isinstance(link.channel, Joiner):
                self._last_arrived(self._feeds[edge])
            self._poll.remove(link.channel)
            if isinstance(link.channel, Joiner):
                self._poll.remove(link.channel.monitor)
            self._say_refused(edge)
        link.detach()
        self._closed()

    def say_refused(self) -> None:
        """Say how many messages of strangers the edges to other hosts were sent."""
        for edge in self._out_links:
            self._say_refused(edge)

    def _say_refused(self, edge: str) -> None:
        if edge in self._out_links:
            channel = self._out_links[edge][0].channel
            if isinstance(channel, Listener) and channel.refused:
                self._control.send("refused", edge=edge, count=channel.refused)
                channel.refused = 0


def _security(message: Message) -> Security:
    """What a link message says of how its two ends know each other."""
    mine = message["keys"]
    return Security(message["token"], Keys(*mine) if mine else None, message["peer"])
