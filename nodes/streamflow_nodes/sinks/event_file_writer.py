"""`event_file_writer`: a recording of events that other tools read."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import In, Node, OutputPath, Settings
from streamflow.packet import EVENT, Events, Packet

from ..files import RecordFile
from ..kernels.evt import NOTHING_WRITTEN, encode_evt3, encoded_evt3

LARGEST = 2048  # pixels each way: EVT3 has 11 bits for a coordinate
LONGEST = 1 << 40  # us (12.7 days) of silence; EVT3 spells silence out in words
# Up to here (71 minutes) times are written as they are; beyond, too many words would lead up to it.
PLAIN = 1 << 32
WRAP = 1 << 24


class EventFileWriterSettings(Settings, frozen=True, kw_only=True):
    """Where to write, and in which format."""

    path: OutputPath
    format: Literal["evt3"] = "evt3"


class EventFileWriter(Node[EventFileWriterSettings]):
    """A Prophesee EVT 3.0 file (`.raw`) of all events, readable by `event_file` and other tools.

    Reading it gives the same events at the same times, in the same order, past the format's wrap at
    2^24 us too. The header says the sensor's size. Times that begin above 2^32 us (such as those of
    AEDAT4, which count from 1970) are written from the header's `t0` on, which `event_file` and
    faery add again and other tools may not. Empty packets leave no trace: silence before the first
    and after the last event is not in the file.

    The file of an earlier run is replaced. Every packet's events are in the file when the packet
    has been handled; after a crash none is repeated or lost, and on a full disk whole packets
    remain. Refused: events outside the sensor, a sensor above 2048 pixels or one that changes,
    times below 0 or out of order, and a silence of more than twelve days.

    Emits nothing. Keeps the length of the file and the encoder's last time and row. How the stream
    was cut into packets may change the bytes (a vector word never spans two packets), not the
    events. Format: Prophesee, "EVT 3.0 format", Metavision SDK documentation, 2020-2024.

        keep: {kind: event_file_writer, inputs: {events: quiet.events}, settings: {path: a.raw}}
    """

    events = In(Events)

    def open(self) -> None:
        self._file = RecordFile(self.settings.path, self.name)
        self._size: tuple[int, int] | None = None
        self._offset: int | None = None
        self._registers = np.array(NOTHING_WRITTEN, np.int64)
        self._written = self._packets = 0
        none = np.empty(0, EVENT)
        none.flags.writeable = False  # as they arrive: a writable array is another Numba type
        encoded_evt3(none.view(np.int64), 0, 1, 1, self._registers)
        encode_evt3(none.view(np.int64), 0, self._registers, np.empty(0, np.uint16))

    def on_events(self, packet: Packet[Events]) -> None:
        data = packet.data
        record = b"" if self._size else self._header(packet)
        if len(data):
            record += self._encoded(packet)
        if record:
            self._file.append(record)
        # only now: if the disk was full, none of the packet counts as written
        self._size = (data.width, data.height)
        self._written += len(data)
        self._packets += 1

    def _header(self, packet: Packet[Events]) -> bytes:
        width, height = packet.data.width, packet.data.height
        if max(width, height) > LARGEST:
            raise self._refused(
                packet, f"a sensor of {width}x{height} pixels; EVT3 has room for {LARGEST} each way"
            )
        lines = ("% evt 3.0", f"% format EVT3;height={height};width={width}",
                 f"% geometry {width}x{height}")  # fmt: skip
        return "".join(f"{line}\n" for line in lines).encode()

    def _encoded(self, packet: Packet[Events]) -> bytes:
        """The packet's events as words, after the end of the header where they are the first."""
        events = self._words_of(packet)
        head = b""
        if self._offset is None:
            first = int(events[0])
            self._offset = 0 if first < PLAIN else first // WRAP * WRAP
            head = (f"% t0 {self._offset}\n" if self._offset else "").encode() + b"% end\n"
        width, height = packet.data.width, packet.data.height
        room = encoded_evt3(events, self._offset, width, height, self._registers)
        self._check(packet, events, room)
        words = np.empty(room, np.uint16)
        count = encode_evt3(events, self._offset, self._registers, words)
        return head + words[:count].astype("<u2", copy=False).tobytes()

    def _words_of(self, packet: Packet[Events]) -> NDArray[np.int64]:
        """The packet's events as (2 n,) int64, read-only: time, then the other fields' bytes."""
        array = packet.data.array
        if array.dtype != EVENT or array.ndim != 1:
            raise self._refused(packet, f"an array of {array.dtype}; expected events (n,) of EVENT")
        if self._size is not None and self._size != (packet.data.width, packet.data.height):
            raise self._refused(
                packet,
                f"a sensor of {packet.data.width}x{packet.data.height} pixels after one of "
                f"{self._size[0]}x{self._size[1]}; a file holds one sensor: write a file for each",
            )
        words: NDArray[np.int64] = np.ascontiguousarray(array).view(np.int64)
        if not words.flags.aligned:
            words = words.copy()
        words.flags.writeable = False
        return words

    def _check(self, packet: Packet[Events], events: NDArray[np.int64], room: int) -> None:
        """NodeError when an event cannot be written, or only after a silence that is too long."""
        if room < 0:
            time, x, y, _ = packet.data.array[-1 - room].tolist()
            raise self._refused(
                packet,
                f"event {-1 - room} at {time} us, x {x}, y {y}, which is outside the sensor of "
                f"{packet.data.width}x{packet.data.height} pixels, before time 0 or older than the "
                "event before it; an EVT3 file holds events in order: correct the node before",
            )
        before = max(int(self._registers[1]), 0) + (self._offset or 0)
        if int(events[-2]) - before > LONGEST:
            raise self._refused(
                packet,
                f"events up to {int(events[-2])} us after {before} us; EVT3 spells out silence, "
                "at most twelve days of it: a time is wrong, or start another file",
            )

    def _refused(self, packet: Packet[Events], what: str) -> NodeError:
        return NodeError(
            self.name,
            f"got {what}",
            kind="event_file_writer",
            span=f"{packet.start}..{packet.stop} us",
        )

    def finish(self) -> None:
        if self._offset is None:
            # without an event the header is still open, or not there at all
            self._file.append(b"% end\n" if self._size else b"% evt 3.0\n% end\n")

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def snapshot(self) -> dict[str, Any]:
        return {
            "length": self._file.length,
            "events": self._written,
            "packets": self._packets,
            "width": self._size[0] if self._size else 0,
            "height": self._size[1] if self._size else 0,
            "offset": -1 if self._offset is None else self._offset,
            "registers": self._registers.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._file.restore(int(state["length"]))
        self._written, self._packets = int(state["events"]), int(state["packets"])
        width, height, offset = int(state["width"]), int(state["height"]), int(state["offset"])
        self._size = (width, height) if width else None
        self._offset = offset if offset >= 0 else None
        self._registers[:] = state["registers"]

    def results(self) -> dict[str, Any]:
        """Path, and the events, packets and bytes written."""
        return {
            "path": self.settings.path,
            "events": self._written,
            "packets": self._packets,
            "bytes": self._file.length,
        }
