"""Moves packets between processes. The only module that imports zmq.

One edge between two processes of a host is one ZeroMQ ipc connection (DEALER to DEALER) for headers
and credits, and the producer's shared-memory segment for payloads. A connection belongs to one pair
of process incarnations: when either end dies, its successor gets a new endpoint, so nothing stale
can arrive. What ZeroMQ's own queues would hold is bounded by credits, never by high-water marks.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
import stat
import struct
import time
from collections import deque
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import zmq
from zmq.backend import zmq_poll

from .edge import NEVER, Policy, Receiver, Sender, Slots
from .errors import PacketError, TransportError
from .memory import Segment, SlotHead
from .packet import (
    CREDIT,
    DATA,
    END,
    ENDED,
    HEADER,
    HELLO,
    PREFIX,
    TICK,
    TICKED,
    WIRE_VERSION,
    Array,
    Header,
    Packet,
    Payload,
    data_frame,
    describe,
    is_plain,
    kind_of,
    packet_of,
    payload_bytes,
    read_header,
)
from .packing import Codec, Compression, codec, unpack

SELDOM_S = 0.1  # how often a consumer that does not heed it is told of mere stream time
MAXIMUM_FRAME = 8 << 20  # bytes; larger frames close the connection (a hostile or broken peer)
_READABLE = int(zmq.POLLIN)  # plain: with enumerations each use takes a microsecond
_NOBLOCK, _RCVMORE = int(zmq.NOBLOCK), int(zmq.RCVMORE)
_IPC_PATH = 107  # bytes of a Unix socket's path, less the final zero

_TICK = struct.Struct("<qQQ")
_MARK = {kind: PREFIX + bytes([kind]) for kind in (TICK, END, HELLO, CREDIT, TICKED, ENDED)}
_CREDITS = _MARK[CREDIT]
_PACKET = PREFIX + bytes([DATA])


# --- the runtime directory ----------------------------------------------------------------------


def runtime_directory() -> Path:
    """Where runs keep their sockets: private to the user, made if it is not there."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base, "streamflow") if base else Path(f"/tmp/streamflow-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()  # a link in /tmp could be anyone's, to a folder of mine that is swept
    if not stat.S_ISDIR(status.st_mode) or (status.st_uid, status.st_mode & 0o077) != (
        os.getuid(), 0,
    ):  # fmt: skip
        raise TransportError(
            f"{path} belongs to user {status.st_uid} with mode {status.st_mode & 0o777:o}; "
            "it must be a folder of yours with mode 700: remove it, or set XDG_RUNTIME_DIR"
        )
    return path


class RunDirectory:
    """The folder of one run, with its lock held while the run lives."""

    def __init__(self, identity: str) -> None:
        self.path = runtime_directory() / identity
        endpoint_path(self.path, "e99999.999999")  # fail now, with a clear message
        for leftover in leftovers():
            shutil.rmtree(leftover, ignore_errors=True)  # what a power cut or the like left
        # under a name that nobody sweeps until the lock is held
        unfinished = self.path.with_name(f".{identity}")
        unfinished.mkdir(mode=0o700)
        self._lock = os.open(unfinished / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unfinished.rename(self.path)

    def remove(self) -> None:
        """Delete the folder and everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def leftovers() -> list[Path]:
    """Folders of runs that died without cleaning up (their lock is free)."""
    found = []
    for path in sorted(runtime_directory().iterdir()):
        if path.name.startswith("."):
            continue  # being made this moment
        try:
            lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # being removed this moment
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.append(path)
        except OSError:
            pass  # its supervisor lives
        finally:
            os.close(lock)
    return found


def endpoint_path(directory: Path, name: str) -> Path:
    """A socket's path, checked against the kernel's limit."""
    path = directory / name
    if len(os.fsencode(path)) > _IPC_PATH:
        raise TransportError(
            f"{path} has {len(os.fsencode(path))} bytes; a Unix socket's path has at most "
            f"{_IPC_PATH}: set XDG_RUNTIME_DIR to a shorter path"
        )
    return path


# --- channels -----------------------------------------------------------------------------------


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


# --- the producer's end -------------------------------------------------------------------------


class Entry(msgspec.Struct, gc=False):
    """A published packet: where it lies, and the message that announces it."""

    slot: int
    frame: bytes
    items: int
    watermark: int


class OutLink:
    """One edge at its producer: a `Sender` and the connection it speaks through."""

    def __init__(
        self, policy: Policy, capacity: int, window: int, far: Compression | None = None
    ) -> None:
        self.bit = 0  # in the slots' holder masks; the output says
        self.far = far is not None  # the consumer is on another host: payloads go along
        self.codec = codec(far) if far is not None and far != "none" else None
        self.sender = Sender(policy, capacity, window)
        self.channel: Channel | None = None
        self.ending = self.ended = self.end_sent = False
        self.recovering = False
        self.bytes = 0
        self.sent_bytes = self.sent_plain = 0  # to another host; packets that were not packed
        self.watermark = self._ticked = NEVER
        self._tick_out = False
        self._heeds_time, self._tick_due = True, 0.0
        self.tells_later = False  # a tick waits for its turn

    def attach(self, channel: Channel) -> None:
        """A new connection was made; the consumer will say HELLO."""
        self.channel = channel
        self._tick_out = self.end_sent = self.ended = False
        self._ticked = NEVER

    def detach(self) -> Channel | None:
        """The consumer is gone: close the connection, keep what it had not acknowledged."""
        channel, self.channel = self.channel, None
        self.sender.disconnect()
        if channel is not None:
            channel.close()
        return channel

    def pump(self, output: Output) -> None:
        """Send what may be sent: packets, then the watermark, then the end of the stream."""
        sender, channel = self.sender, self.channel
        if channel is None or not sender.connected:
            return
        while (sequence := sender.take()) is not None:
            if not self.transmit(output, output.entries[sequence]):
                return
        if sender.waiting or sender.again:
            return
        if self.ending:
            if not self.end_sent:
                body = _TICK.pack(self.watermark, output.sequence, sender.dropped)
                self.end_sent = channel.send(_MARK[END] + body)
            return
        self.tells_later = False
        if self.watermark > self._ticked and not self._tick_out:
            if not self._heeds_time:
                now = time.monotonic()
                if now < self._tick_due:
                    self.tells_later = True
                    return
                self._tick_due = now + SELDOM_S
            self._tick_out = channel.send(_MARK[TICK] + _TICK.pack(self.watermark, 0, 0))
            self._ticked = self.watermark

    def transmit(self, output: Output, entry: Entry) -> bool:
        """Send a packet that was taken; False when the consumer is gone."""
        channel = self.channel
        frame = output.whole(entry, self.codec) if self.far else entry.frame
        if channel is None or not channel.send(frame):
            self.sender.disconnect()  # the supervisor will tell of the death behind it
            return False
        if self.far:
            self.sent_bytes += len(frame)
            self.sent_plain += self.codec is not None and is_plain(frame)
        mark = entry.watermark
        if mark > self._ticked:
            self._ticked = mark  # the packet carried it
        return True

    def receive(self, output: Output) -> None:
        """Take in credits and greetings, then send what they allow."""
        channel = self.channel
        frame = channel.receive() if channel is not None else None
        while channel is not None and frame is not None:
            kind = CREDIT if frame[:4] == _CREDITS else kind_of(frame)
            if kind == CREDIT:
                output.release(self, self.sender.acknowledge(_sequences(frame)))
            elif kind == TICKED:
                self._tick_out = False
            elif kind == ENDED:
                self.ended = True
            elif kind == HELLO:
                self._greeted(output, _hello(frame))
            else:
                raise PacketError(f"message kind {kind} at a producer")
            frame = channel.receive() if channel.more else None
        self.pump(output)

    def _greeted(self, output: Output, hello: Hello) -> None:
        done = self.sender.connect(
            hello.window, hello.received_through, hello.handled_through, hello.held
        )
        output.release(self, done)
        if self.recovering:
            self.sender.reconcile(hello.handled, hello.handled_items, hello.held)
            self.recovering = False
        self.ended = self.end_sent = hello.ended
        self._heeds_time, self._tick_due = hello.heeds_time, 0.0

    @property
    def closed(self) -> bool:
        """Everything was acknowledged, the end of the stream too."""
        return self.ended and self.sender.settled


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """What a consumer says first: where it stands."""

    version: int
    window: int
    received_through: int
    handled_through: int
    handled: int
    handled_items: int
    held: tuple[int, ...]
    ended: bool
    heeds_time: bool = True  # False: nothing here waits for mere ticks of stream time


def _hello(frame: bytes) -> Hello:
    try:
        return msgspec.msgpack.decode(frame[4:], type=Hello)
    except msgspec.DecodeError as error:
        raise PacketError(f"unreadable greeting: {error}") from error


def _sequences(frame: bytes) -> tuple[int, ...]:
    """The sequence numbers of a credit message."""
    if (len(frame) - 4) % 8:
        raise PacketError(f"a credit message of {len(frame)} bytes")
    return struct.unpack_from(f"<{(len(frame) - 4) // 8}Q", frame, 4)


def _watermark(frame: bytes) -> int:
    """The stream time of a tick or of the end of the stream."""
    if len(frame) != 4 + _TICK.size:
        raise PacketError(f"a watermark message of {len(frame)} bytes")
    time: int = _TICK.unpack_from(frame, 4)[0]
    return time


Staged = tuple[int, int, int, int, int, int, int, bytes, bytes]
"""Slot, sequence, start, stop, captured, items, nbytes, meta, and the payload if it is small."""


class Output:
    """One output port with its edges to other processes, and the memory behind them."""

    def __init__(
        self,
        segment: Segment,
        links: list[OutLink],
        inline_bytes: int,
        *,
        recoverable: bool = True,
    ) -> None:
        """With `recoverable` a successor finds in the memory what was not acknowledged; in a
        process that is never restarted nobody would look, and small packets leave it untouched.
        """  # fmt: skip
        self.segment, self.links, self.inline_bytes = segment, links, inline_bytes
        self.recoverable = recoverable
        self.slots = Slots(segment.slots)
        self.entries: dict[int, Entry] = {}
        self.sequence = self.items = 0
        self._staged: list[Staged] = []
        self._prepared: list[int] = []
        self._loan = -1
        self._everyone = (1 << len(links)) - 1
        self._published = 0
        for bit, link in enumerate(links):
            link.bit = bit

    def recover(self, sequence: int, items: int, dropped: list[tuple[int, int]]) -> None:
        """Take over from a dead predecessor whose last commit had made `sequence` packets.

        `dropped` has (packets, items) per edge. What the predecessor had published stays published:
        a packet that a handler makes once more is known by its number and not sent again.
        """
        self.sequence, self.items = sequence, items
        self._published, published_items = max(self.segment.published, (sequence, items))
        unacknowledged: list[list[tuple[int, int]]] = [[] for _ in self.links]
        for slot in range(self.segment.slots):
            head, meta = self.segment.read_head(slot)
            if head.holders == 0:
                continue
            if head.sequence > self._published:
                self.segment.set_holders(slot, 0)  # written, never seen by anyone
                continue
            self.slots.hold(slot, head.holders)
            frame = self._frame(slot, head, meta)
            self.entries[head.sequence] = Entry(slot, frame, head.items, head.watermark)
            for link in self.links:
                if head.holders >> link.bit & 1:
                    unacknowledged[link.bit].append((head.sequence, head.items))
        for link in self.links:
            sender = link.sender
            sender.produced, sender.produced_items = self._published, published_items
            sender.dropped, sender.dropped_items = dropped[link.bit]
            sender.recover(unacknowledged[link.bit])
            link.recovering = True

    def _frame(self, slot: int, head: SlotHead, meta: bytes) -> bytes:
        """The message that announces what a slot holds."""
        inline = head.nbytes <= self.inline_bytes
        header = Header(
            head.sequence, head.start, head.stop, head.captured, head.watermark, head.items,
            head.nbytes, -1 if inline else slot, head.meta,
        )  # fmt: skip
        payload = self.segment.payload(slot, head.nbytes).tobytes() if inline else b""
        return data_frame(header, meta, payload)

    @property
    def staged(self) -> bool:
        """Whether there is a packet that was not published yet."""
        return bool(self._staged)

    def whole(self, entry: Entry, codec: Codec | None) -> bytes:
        """A packet's message with its payload in it, for a consumer that cannot see our memory."""
        header = read_header(entry.frame)
        body = HEADER.size + header.meta
        if header.slot < 0:
            raw = entry.frame[body:]
        else:
            raw = self.segment.payload(header.slot, header.nbytes).tobytes()
        if codec is not None:
            packed = codec.pack(raw)
            if packed is not None and len(packed) < len(raw):
                header = msgspec.structs.replace(header, slot=codec.slot)
                return data_frame(header, entry.frame[HEADER.size : body], packed)
        if header.slot < 0:
            return entry.frame
        header = msgspec.structs.replace(header, slot=-1)
        return data_frame(header, entry.frame[HEADER.size : body], raw)

    def room(self) -> bool:
        """Whether a packet may be staged: each lossless edge has room, and a slot is free."""
        staged = len(self._staged)
        for link in self.links:
            if not link.sender.room(staged):
                return False
        return self._loan >= 0 or self.slots.free > 0

    def loan(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array in the next packet's slot; plain memory where that has no room for it."""
        if math.prod(shape) * np.dtype(dtype).itemsize > self.segment.slot_size:
            return np.empty(shape, dtype)  # `stage` says what is wrong with it
        if self._loan < 0:
            if not self.slots.free:  # the handler has just filled the last; `stage` waits for one
                return np.empty(shape, dtype)
            self._loan = self.slots.acquire(self._everyone)
        return self.segment.loan(self._loan, shape, dtype)

    def stage(self, packet: Packet[Any]) -> None:
        """Write a packet's payload to shared memory. `prepare` and `publish` make it visible."""
        data = packet.data
        items = len(data)
        self.sequence += 1
        self.items += items
        if self.sequence <= self._published:
            return  # made again after a crash: it is on its way already
        nbytes, meta = data.array.nbytes, describe(data)
        if nbytes > self.segment.slot_size:
            raise TransportError(
                f"a packet of {nbytes} bytes; the edge takes {self.segment.slot_size}: "
                "set max_packet (bytes) on the edge, or send smaller packets"
            )
        slot, self._loan = self._loan, -1
        lent = slot >= 0
        if not lent:
            slot = self.slots.acquire(self._everyone)
        inline = b""
        if nbytes <= self.inline_bytes:
            inline = data.array.tobytes()  # plain bytes: a third of what numpy takes for so little
            if self.recoverable:
                self.segment.write(slot, inline)
        else:
            raw = payload_bytes(data)
            if not lent or raw.__array_interface__["data"][0] != self.segment.address(slot):
                self.segment.payload(slot, nbytes)[:] = raw  # no loan, or not what came back
        self._staged.append(
            (slot, self.sequence, packet.start, packet.stop, packet.captured, items, nbytes, meta,
             inline)
        )  # fmt: skip

    def prepare(self, watermark: int) -> None:
        """Describe what was staged, so that a successor finds it; the last one carries the mark."""
        for index in range(len(self._prepared), len(self._staged)):
            last = index == len(self._staged) - 1
            entry, sequence = self._described(self._staged[index], watermark if last else NEVER)
            self.entries[sequence] = entry
            self._prepared.append(sequence)

    def _described(self, staged: Staged, watermark: int) -> tuple[Entry, int]:
        """The entry of a packet that was staged, with its sequence number."""
        slot, sequence, start, stop, captured, items, nbytes, meta, payload = staged
        mark = watermark if watermark > start else start
        inline = nbytes <= self.inline_bytes  # then the payload goes along
        # spelt out rather than through Header: this is the hot path
        frame = HEADER.pack(
            b"SF", WIRE_VERSION, DATA, sequence, start, stop, captured, mark, items, nbytes,
            -1 if inline else slot, len(meta),
        )  # fmt: skip
        if self.recoverable:
            head = SlotHead(
                self._everyone, sequence, start, stop, captured, start, items, nbytes, len(meta)
            )
            self.segment.write_head(slot, head, mark, meta)
        return Entry(slot, frame + meta + payload, items, mark), sequence

    def publish(self) -> None:
        """Hand what was prepared to the edges."""
        if not self._prepared:
            return
        self._published = self._prepared[-1]
        if self.recoverable:
            self.segment.publish(self._published, self.items)
        for sequence in self._prepared:
            self._offer(sequence, self.entries[sequence])
        self._prepared.clear()
        self._staged.clear()

    def send(self, watermark: int) -> None:
        """`prepare` and `publish` in one, where nothing is committed between them."""
        if len(self._staged) != 1 or self._prepared:
            self.prepare(watermark)
            self.publish()
            return
        entry, sequence = self._described(self._staged.pop(), watermark)
        self.entries[sequence] = entry
        self._published = sequence
        if self.recoverable:
            self.segment.publish(sequence, self.items)
        self._offer(sequence, entry)

    def _offer(self, sequence: int, entry: Entry) -> None:
        """Hand one packet to every edge; where it can leave at once, it does."""
        for link in self.links:
            link.bytes += len(entry.frame)
            if entry.watermark > link.watermark:
                link.watermark = entry.watermark
            if link.channel is not None and link.sender.pass_on(sequence, entry.items):
                link.transmit(self, entry)
                continue
            dropped = link.sender.offer(sequence, entry.items)
            if dropped:
                self.release(link, dropped)
            link.pump(self)

    def release(self, link: OutLink, sequences: Collection[int]) -> None:
        """An edge is done with these packets; free the slots that nobody holds any more."""
        for sequence in sequences:
            slot = self.entries[sequence].slot
            left = self.slots.release(slot, link.bit)
            if self.recoverable:
                self.segment.set_holders(slot, left)
            if not left:
                del self.entries[sequence]

    def tick(self, watermark: int) -> bool:
        """Stream time has advanced, packets or not; whether an edge is told of it later."""
        later = False
        for link in self.links:
            if watermark > link.watermark or link.tells_later:
                link.watermark = max(watermark, link.watermark)
                link.pump(self)
                later |= link.tells_later
        return later

    def end(self) -> None:
        """The stream has ended."""
        for link in self.links:
            link.ending = True
            link.pump(self)

    @property
    def closed(self) -> bool:
        """Every edge has acknowledged everything."""
        return all(link.closed for link in self.links)


# --- the consumer's end -------------------------------------------------------------------------


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A message that has arrived and not been handed to the node yet."""

    header: Header
    frame: bytes


class Gap(Exception):
    """A packet is missing: the connection must be made again, and what is missing sent again."""


class InLink:
    """One edge at its consumer: a `Receiver`, its connection, and the producer's memory."""

    def __init__(
        self,
        payload: type[Payload],
        window: int,
        segment: Segment | None,
        *,
        heeds_time: bool = True,
        lossless: bool = True,
    ) -> None:
        """`segment` is the producer's memory, None when the producer is on another host.

        `heeds_time` is whether the consumer does something when stream time has advanced without
        a packet; others are told now and then.
        """
        self.payload, self.window, self.segment = payload, window, segment
        self.heeds_time = heeds_time
        self.lossless, self._first = lossless, True
        self.ahead = 0  # ns that our clock is ahead of the producer's
        self.receiver = Receiver()
        self.channel: Channel | None = None
        self._released: deque[int] = deque()  # filled by finalisers, which may run anywhere
        self._viewed: set[int] = set()  # handed out as views that are still looked at
        self._uncommitted: list[int] = []
        self._committed: set[int] = set()  # done with, but for a view that is still looked at
        self._credits: list[int] = []
        self._batch = max(1, window // 2)  # a message each; the other half keeps the producer busy
        self.bytes = 0

    def attach(self, channel: Channel) -> None:
        """A new connection was made: say where this end stands."""
        self.channel, self._first = channel, True
        receiver = self.receiver
        self._collect()
        self._credits.clear()  # the greeting says it all
        hello = Hello(
            version=WIRE_VERSION,
            window=self.window,
            received_through=receiver.received_through,
            handled_through=receiver.handled_through,
            handled=receiver.handled,
            handled_items=receiver.handled_items,
            held=tuple(receiver.held_views()),
            ended=receiver.ended,
            heeds_time=self.heeds_time,
        )
        channel.send(_MARK[HELLO] + msgspec.msgpack.encode(hello))

    def detach(self) -> Channel | None:
        """The producer is gone; its memory stays."""
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()
        return channel

    def receive(self) -> Iterator[Arrival | int]:
        """What has arrived: packets, and watermarks as plain numbers. Sets `receiver.ended`."""
        channel = self.channel
        receiver = self.receiver
        frame = channel.receive() if channel is not None else None
        while channel is not None and frame is not None:
            kind = DATA if frame[:4] == _PACKET else kind_of(frame)
            if kind == DATA:
                header = read_header(frame)
                if self.segment is None:
                    if self._is_gap(header.sequence):
                        raise Gap
                    if header.captured and self.ahead:
                        header = msgspec.structs.replace(
                            header, captured=header.captured + self.ahead
                        )
                if receiver.accept(header.sequence):
                    yield Arrival(header, frame)
                elif header.sequence not in receiver.unfinished:
                    self._credits.append(header.sequence)
            elif kind == TICK:
                channel.send(_MARK[TICKED])
                yield _watermark(frame)
            elif kind == END:
                receiver.ended = True
                channel.send(_MARK[ENDED])
                yield _watermark(frame)
            else:
                raise PacketError(f"message kind {kind} at a consumer")
            if self.channel is not channel:
                return  # the producer's death was told while the packet was handled
            frame = channel.receive() if channel.more else None

    def _is_gap(self, sequence: int) -> bool:
        """Whether something is missing before this packet: a connection that broke unseen.

        What comes first over a connection is what the greeting asked for.
        """
        first, self._first = self._first, False
        return self.lossless and not first and sequence > self.receiver.received_through + 1

    def packet(self, arrival: Arrival) -> Packet[Any]:
        """The packet to hand to the node: a view of shared memory.

        A copy where too many views are still held (past half the window), so that a node that keeps
        what it was given cannot stall itself.
        """
        header = arrival.header
        if header.slot == -1:
            return packet_of(header, arrival.frame, self.payload)
        if header.slot < -1:
            data = arrival.frame[HEADER.size + header.meta :]
            raw = unpack(header.slot, data, header.nbytes)
            return packet_of(header, arrival.frame, self.payload, raw)
        if self.segment is None:
            raise PacketError(f"a payload in slot {header.slot} of a memory that is not here")
        self._collect()
        copy = len(self._viewed) >= self.window // 2
        if copy:
            raw = self.segment.payload(header.slot, header.nbytes).copy()
            raw.flags.writeable = False
        else:
            self._viewed.add(header.sequence)
            released = partial(self._released.append, header.sequence)
            raw = self.segment.view(header.slot, header.nbytes, released)
        return packet_of(header, arrival.frame, self.payload, raw)

    def handled(self, arrival: Arrival) -> None:
        """The node has handled the packet."""
        self.receiver.handle(arrival.header.sequence, arrival.header.items)
        self._uncommitted.append(arrival.header.sequence)

    @property
    def uncommitted(self) -> int:
        """Packets handled since the last commit: no credit has gone back for them."""
        return len(self._uncommitted)

    @property
    def owes(self) -> bool:
        """Whether there are credits that were not sent."""
        return bool(self._credits)

    @property
    def may_owe(self) -> bool:
        """Whether the producer has all credits but those of which `owes` tells."""
        return not (self._viewed or self._uncommitted or self.receiver.ended)

    def commit(self) -> None:
        """What was handled is safe: credits may go back."""
        for sequence in self._uncommitted:
            if sequence in self._viewed:
                self._committed.add(sequence)
            else:
                self._finish(sequence)
        self._uncommitted.clear()

    def _collect(self) -> None:
        while self._released:
            sequence = self._released.popleft()
            self._viewed.discard(sequence)
            if sequence in self._committed:
                self._committed.discard(sequence)
                self._finish(sequence)

    def _finish(self, sequence: int) -> None:
        self.receiver.finish(sequence)
        self._credits.append(sequence)

    def credit(self, *, all_of_them: bool) -> None:
        """Send the credits that are due: a batch, or all before the process goes to sleep."""
        if self._released:
            self._collect()
        if self._committed and self.receiver.ended and not self.receiver.held:
            # the stream has ended: no slot is used again, so views that are kept hold nothing up
            for sequence in sorted(self._committed):
                self._finish(sequence)
            self._committed.clear()
        credits = self._credits
        if credits and (all_of_them or len(credits) >= self._batch) and self.channel is not None:
            self.channel.send(_MARK[CREDIT] + struct.pack(f"<{len(credits)}Q", *credits))
            credits.clear()
