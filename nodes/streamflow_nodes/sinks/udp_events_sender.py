"""`udp_events_sender`: events in UDP datagrams, for another program."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np

from streamflow import Events, In, Node, Packet, Settings

from ..events.packets import no_words, words_of
from ..kernels import udp_events as datagrams
from ..kernels.udp_events import LAYOUTS, Format
from ..udp_sockets import connected, sent

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class UdpEventsSenderSettings(Settings, frozen=True, kw_only=True):
    """Where to send, and in which format."""

    port: Port
    host: str = "127.0.0.1"
    format: Format = "t64_x16_y16_on8"
    datagram_bytes: Annotated[int, msgspec.Meta(ge=16, le=65507)] = 1472
    """The most a datagram holds: 1472 fills an Ethernet frame of 1500 bytes, AEStream reads 512."""


class UdpEventsSender(Node[UdpEventsSenderSettings]):
    """Sends the events of each packet in as few datagrams as they fit; nothing for an empty packet.

    The formats are those of `udp_events`. `spif` sends no times, and 32-bit formats the low 32 bits
    of stream time (71.6 minutes). UDP does not tell what arrives. What this machine can see is
    counted: `refused` (times the receiver's machine said that nobody listens: what was sent before
    is lost), `unsent` (datagrams that found no way out) and `unencodable` (events with a negative
    time or place; left out). Datagrams leave as fast as packets come: with `clock: fast` a
    recording overruns any receiver, with `clock: paced` it is sent as it happened.

    Emits nothing. Keeps its counts. After a crash, packets that were not acknowledged are sent
    again: a wire cannot be taken back.

        send: {kind: udp_events_sender, inputs: {events: camera.events}, settings: {port: 3333}}
    """

    events = In(Events)
    faults = ("refused", "unsent", "unencodable")

    def open(self) -> None:
        s = self.settings
        self._layout = LAYOUTS[s.format]
        self._size = datagrams.SIZES[self._layout]
        self._most = s.datagram_bytes // self._size * self._size
        self._sent = self._datagrams = 0
        datagrams.encode_events(no_words(), self._layout, self._size, np.empty(0, np.uint8))
        self._socket = connected(s.host, s.port)

    def on_events(self, packet: Packet[Events]) -> None:
        if not len(packet.data):
            return
        words = words_of(self, packet)
        data = np.empty(len(words) // 2 * self._size, np.uint8)
        count = datagrams.encode_events(words, self._layout, self._size, data)
        self.count_fault("unencodable", len(words) // 2 - count)
        content = memoryview(data.data)[: count * self._size]
        for at in range(0, len(content), self._most):
            datagram = content[at : at + self._most]
            if sent(self, self._socket, datagram):
                self._datagrams += 1
                self._sent += len(datagram) // self._size

    def close(self) -> None:
        if hasattr(self, "_socket"):
            self._socket.close()

    def snapshot(self) -> dict[str, Any]:
        return {"events": self._sent, "datagrams": self._datagrams}

    def restore(self, state: dict[str, Any]) -> None:
        self._sent, self._datagrams = int(state["events"]), int(state["datagrams"])

    def results(self) -> dict[str, Any]:
        """Where to, and the events and datagrams that left."""
        return {
            "host": self.settings.host,
            "port": self.settings.port,
            "events": self._sent,
            "datagrams": self._datagrams,
        }
