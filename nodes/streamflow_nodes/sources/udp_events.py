"""`udp_events`: events that another program sends in UDP datagrams."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from streamflow import Events, Node, Out, Settings
from streamflow.node import Emission, Positive, Seconds

from ..events.live import FAULTS, LiveLimits, LiveStream
from ..kernels import udp_events as datagrams
from ..kernels.udp_events import LAYOUTS, Format
from ..spans import microseconds
from ..udp_sockets import dropped, listening

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Pixels = Annotated[int, msgspec.Meta(gt=0, le=32767)]

LARGEST = 1 << 16  # bytes: no datagram is larger
BLOCK = 1 << 20  # bytes taken from the socket before they are decoded
MOST = 1024  # datagrams taken before they are decoded: at this machine's slowest, milliseconds
PATIENCE = 10  # ms to wait for a datagram: the run's end must be heard


class UdpEventsSettings(Settings, frozen=True, kw_only=True):
    """Where to listen, what comes there, and how it is cut into packets."""

    port: Port
    """0 takes a free one, which is logged and in the results."""
    host: str = "127.0.0.1"
    """The address to listen at; `0.0.0.0` hears every network, with nothing but `sender` to say
    who may send."""
    sender: str | None = None
    """The only address whose datagrams are taken."""
    format: Format = "t64_x16_y16_on8"
    """What a datagram holds; see above."""
    width: Pixels
    height: Pixels
    """Sensor size (pixels); the datagrams do not say it."""
    packet_duration: Seconds = 0.001
    """Stream time a packet covers (s), in whole microseconds."""
    silence: Seconds = 0.1
    """With `clock: realtime`: after how much silence (s) stream time goes on by this machine's
    clock."""
    longest_gap: Seconds = 60.0
    """A time further ahead than this (s) is not believed before a second datagram confirms it."""
    end_after: Seconds | None = None
    """End the stream after so much silence (s) once something has come; else it ends with the
    run."""
    backward_time: Literal["clamp", "drop"] = "clamp"
    """An event up to 0.1 s older than the newest before it: raised to that time, or left out."""
    receive_buffer: Positive = 4_194_304
    """Bytes that the kernel is asked to keep while this node is busy; it may allow fewer."""


class UdpEvents(Node[UdpEventsSettings]):
    """Events from UDP datagrams, in packets that each cover `[k d, (k + 1) d)` of stream time.

    Formats, all little-endian, events one behind the other and nothing else:

    - `t64_x16_y16_on8` (13 bytes an event) and `t32_x16_y15_on1` (8), as faery sends them;
    - `spif` (4 bytes, no time) and `spif_t32` (8), as the SpiNNaker peripheral interface and
      AEStream have them.

    Stream time is the sender's, past the wrap of 32-bit times; in `spif` it is when a datagram
    arrived, from 0 at the start. UDP neither keeps order nor tells of loss, and none of these
    formats numbers its datagrams: what a network lost cannot be seen. What this machine dropped
    because the node was too slow can, and is counted. Datagrams are taken as they come and not
    sorted: an event behind the newest is raised to its time, or left out.

    With `clock: realtime`, for senders that send what they see, stream time goes on by this
    machine's clock in silence. Otherwise only the sender moves it, at any speed, and the last slice
    waits for the next datagram.

    Faults: `kernel_dropped` (datagrams), `malformed` (datagrams of another length than whole events
    have, or with SPIF's time bit the other way round; left out as a whole), `foreign` (datagrams
    not from `sender`), `outside_sensor` (events, dropped), `time_backward` (events, raised or
    dropped), `time_jump` (events more than 0.1 s back or `longest_gap` ahead, dropped),
    `time_restart` (a later datagram went on there: a sender began anew, and goes on where stream
    time stands).

    State: stream time. Memory is bounded whatever comes: the kernel's buffer, one block, and at
    most 2^20 events of a slice, after which later events of the slice are raised to its end.

        camera:
          kind: udp_events
          settings: {port: 3333, format: t64_x16_y16_on8, width: 640, height: 480}
    """

    events = Out(Events)
    faults = (*FAULTS, "kernel_dropped", "malformed", "foreign")

    def open(self) -> None:
        s = self.settings
        self._layout = LAYOUTS[s.format]
        self._timed = self._layout != datagrams.SPIF
        follows = self.clock.pace == "realtime" or not self._timed
        wraps = self._layout in (datagrams.T32, datagrams.SPIF_T32)
        silence = microseconds(self, "silence", s.silence)
        self._end_ns: int | None = None
        if s.end_after is not None:
            self._end_ns = 1000 * microseconds(self, "end_after", s.end_after)
        self._stream = LiveStream(
            self,
            LiveLimits(
                duration=microseconds(self, "packet_duration", s.packet_duration),
                longest=microseconds(self, "longest_gap", s.longest_gap),
                silence=silence if follows else None,
                drop_backward=s.backward_time == "drop",
                wrap=32 if wraps else 0,
            ),
        )
        self._block = bytearray(BLOCK + LARGEST)
        self._view = memoryview(self._block)
        self._data = np.frombuffer(self._block, np.uint8)
        self._data.flags.writeable = False
        self._datagrams = self._packets = self._events = self._dropped = 0
        self._begun_ns = time.monotonic_ns()
        self._using, self._closed = threading.Lock(), False  # between produce's thread and close
        self._decode(0, [], 0)  # compiles
        self._listen(self.settings.port)

    def _listen(self, port: int) -> None:
        s = self.settings
        self._socket = listening(s.host, port, s.receive_buffer)
        self._port = int(self._socket.getsockname()[1])
        # the kernel doubles what it is asked for, for its own accounting
        self._buffer = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        self.log.info("listening for UDP at %s:%d", s.host, self._port)
        if self._buffer < s.receive_buffer:
            self.log.warning(
                "the kernel keeps %d bytes, not %d; for more: sysctl net.core.rmem_max=%d",
                self._buffer, s.receive_buffer, s.receive_buffer,
            )  # fmt: skip

    def produce(self) -> Iterator[Emission]:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        heard: int | None = None
        while not self.clock.stopped:
            with self._using:
                if self._closed:
                    return
                ready = poll.poll(PATIENCE)
                now = time.monotonic_ns()
                self._count_drops()
                if ready and self._receive():
                    heard = now
            if heard is not None and self._end_ns is not None and now - heard > self._end_ns:
                break
            if not self._timed:
                self._stream.reach((now - self._begun_ns) // 1000, now)
            for start, stop, array in self._stream.slices(now):
                yield self._emission(start, stop, array, now)
        for start, stop, array in self._stream.rest():
            yield self._emission(start, stop, array, time.monotonic_ns())

    def _emission(self, start: int, stop: int, array: Any, now: int) -> Emission:
        self._packets += 1
        self._events += len(array)
        events = Events(array, self.settings.width, self.settings.height)
        return self.events(events, start, stop, now)

    def _receive(self) -> int:
        """Take what is waiting in the socket, at most a block of it, and decode it; how many
        datagrams that were.
        """  # fmt: skip
        lengths: list[int] = []
        used, foreign, only = 0, 0, self.settings.sender
        try:
            while used <= BLOCK and len(lengths) < MOST:
                length, address = self._socket.recvfrom_into(self._view[used:])
                if only is not None and address[0] != only:
                    foreign += 1
                    if foreign == MOST:  # a flood of them must not keep the node
                        break
                    continue
                lengths.append(length)
                used += length
        except BlockingIOError:
            pass
        self.count_fault("foreign", foreign)
        self._datagrams += len(lengths)
        self._decode(used, lengths, time.monotonic_ns())
        return len(lengths)

    def _decode(self, used: int, lengths: list[int], now: int) -> None:
        size = datagrams.SIZES[self._layout]
        arrivals = np.full(len(lengths), (now - self._begun_ns) // 1000, np.int64)
        groups = np.empty(len(lengths), np.int64)
        words = np.empty(2 * (used // size), np.int64)
        count = datagrams.decode_datagrams(
            self._data[:used], np.array(lengths, np.int64), arrivals, self._layout, size,
            groups, words,
        )  # fmt: skip
        whole = groups >= 0
        self.count_fault("malformed", int(len(groups) - np.count_nonzero(whole)))
        if count:
            size_of_sensor = (self.settings.width, self.settings.height)
            self._stream.add(words[: 2 * count], groups[whole], now, size_of_sensor)

    def _count_drops(self) -> None:
        total = dropped(self._socket)
        self.count_fault("kernel_dropped", (total - self._dropped) & 0xFFFFFFFF)
        self._dropped = total

    def close(self) -> None:
        if hasattr(self, "_socket"):
            self._closed = True  # first: else produce may take the lock again and again
            with self._using:  # for at most the time that a datagram is waited for
                self._socket.close()

    def snapshot(self) -> dict[str, Any]:
        return {
            **self._stream.snapshot(),
            "port": self._port,
            "begun": self._begun_ns,
            "datagrams": self._datagrams,
            "packets": self._packets,
            "events": self._events,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._begun_ns = int(state["begun"])
        self._datagrams = int(state["datagrams"])
        self._packets, self._events = int(state["packets"]), int(state["events"])
        self._stream.restore(state)
        if int(state["port"]) != self._port:  # a free one was taken, and its senders know that one
            self._socket.close()
            self._listen(int(state["port"]))

    def results(self) -> dict[str, Any]:
        """Where it listened, what came and what was yielded, and the kernel's buffer (bytes)."""
        return {
            "host": self.settings.host,
            "port": self._port,
            "format": self.settings.format,
            "datagrams": self._datagrams,
            "events": self._events,
            "packets": self._packets,
            "receive_buffer": self._buffer,
        }
