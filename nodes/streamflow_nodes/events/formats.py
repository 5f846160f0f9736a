"""Event recordings as bytes: what each file format that is written looks like, record by record.

A format is a head, which may depend on the first event, and events as whole records, so that a file
can grow while a graph runs and is readable up to its last record. Formats that must be closed to be
readable (HDF5, Parquet) are written as AEDAT4 and built from that (`events.builders`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.packet import EVENT

from ..kernels import event_records as records
from ..kernels import evt

EventWords = NDArray[np.int64]
Registers = NDArray[np.int64]
Size = tuple[int, int] | None  # pixels; None where no packet ever came
Head = Callable[[Size, int | None, Registers], bytes]
Encode = Callable[[EventWords, int, Registers], bytes]

DAYS = 1 << 40  # us (12.7 days)
HOURS = 1 << 33  # us (2.4 hours)


@dataclass(frozen=True)
class EventFormat:
    """A file format for events, and the limits of what it can say."""

    name: str
    suffixes: tuple[str, ...]
    """Ends of file names that mean this format, lower case."""
    largest: int
    """Pixels that a sensor may have each way."""
    longest: int | None
    """Silence (us) that the format can bridge with a reasonable number of bytes; None: any."""
    first: int
    """The first time (us) that a file counts from, if it cannot say another; -1: any."""
    registers: tuple[int, ...]
    """The encoder's state at the start of a file."""
    head: Head
    """(sensor, first event's time or None, registers) -> what the file begins with."""
    encode: Encode
    """(events as (2 n,) int64 in order, rows of the sensor, registers) -> their records."""


# --- EVT2, EVT3: registers are what the header's t0 says (us), then the kernel's ------------------


def _evt_head(version: int, wrap: int, plain: int) -> Head:
    def head(size: Size, first: int | None, registers: Registers) -> bytes:
        lines = [f"% evt {version}.0"]
        if size is not None:
            width, height = size
            lines.append(f"% format EVT{version};height={height};width={width}")
            lines.append(f"% geometry {width}x{height}")
        if first is not None and first >= plain:
            registers[0] = first // wrap * wrap
            lines.append(f"% t0 {int(registers[0])}")
        return "".join(f"{line}\n" for line in [*lines, "% end"]).encode()

    return head


def _encode_evt2(events: EventWords, height: int, registers: Registers) -> bytes:
    offset, state = int(registers[0]), registers[1:]
    words = np.empty(evt.encoded_evt2(events, offset, state), np.uint32)
    count = evt.encode_evt2(events, offset, state, words)
    return words[:count].astype("<u4", copy=False).tobytes()


def _encode_evt3(events: EventWords, height: int, registers: Registers) -> bytes:
    offset, state = int(registers[0]), registers[1:]
    words = np.empty(evt.encoded_evt3(events, offset, state), np.uint16)
    count = evt.encode_evt3(events, offset, state, words)
    return words[:count].astype("<u2", copy=False).tobytes()


# --- Event Stream, CSV ----------------------------------------------------------------------------


def _es_head(size: Size, first: int | None, registers: Registers) -> bytes:
    if size is None:
        return b""  # the format has no way to say that the sensor is unknown
    return b"Event Stream\x02\x00\x00\x01" + struct.pack("<HH", *size)


def _encode_es(events: EventWords, height: int, registers: Registers) -> bytes:
    data = np.empty(records.encoded_es(events, registers), np.uint8)
    return data[: records.encode_es(events, height, registers, data)].tobytes()


def _csv_head(size: Size, first: int | None, registers: Registers) -> bytes:
    return b"t,x,y,p\n"


def _encode_csv(events: EventWords, height: int, registers: Registers) -> bytes:
    data = np.empty(records.CSV_LINE * (len(events) // 2), np.uint8)
    return data[: records.encode_csv(events, data)].tobytes()


# --- AEDAT4 ---------------------------------------------------------------------------------------

# Format: iniVation, "AEDAT 4.0", and the flatbuffers schemas of dv-processing (IOHeader, Event).
# Packets are not compressed, so one is a fixed frame around events that have our very layout; and
# there is no table of packets at the end, which the format allows and a growing file cannot have.
VERSION = b"#!AER-DAT4.0\r\n"
INFO = """<dv version="2.0">
    <node name="outInfo" path="/outInfo/">
        <node name="0" path="/outInfo/0/">
            <attr key="compression" type="string">NONE</attr>
            <attr key="originalModuleName" type="string">streamflow</attr>
            <attr key="originalOutputName" type="string">events</attr>
            <attr key="typeDescription" type="string">Array of events (polarity ON/OFF).</attr>
            <attr key="typeIdentifier" type="string">EVTS</attr>
            <node name="info" path="/outInfo/0/info/">
                <attr key="sizeX" type="int">{width}</attr>
                <attr key="sizeY" type="int">{height}</attr>
                <attr key="source" type="string">streamflow</attr>
            </node>
        </node>
    </node>
</dv>
"""
# A flatbuffer behind its length: root offset, identifier, vtable (its own length, the table's, and
# where each field lies in it: 0 is the default), padding, then the table.
HEADER_FRAME = struct.Struct("<II4sHHHHH2xiII")
PACKET_FRAME = struct.Struct("<iIII4sHHH2xiII")
EVENTS_AT = PACKET_FRAME.size  # bytes into a packet, whose first 8 are the stream and its length
PACKET_LIMIT = 1 << 26  # events in a packet, for lengths well within 32 bits


def _aedat4_head(size: Size, first: int | None, registers: Registers) -> bytes:
    if size is None:
        return b""  # readers refuse a recording without a sensor
    info = INFO.format(width=size[0], height=size[1]).encode()
    room = len(info) + 4 - len(info) % 4  # ends in a zero and on a multiple of 4
    length = HEADER_FRAME.size - 4 + room
    # the fields are compression (default NONE), position of the table (default: none) and info
    frame = HEADER_FRAME.pack(length, 20, b"IOHE", 10, 8, 0, 0, 4, 12, 4, len(info))
    return VERSION + frame + info.ljust(room, b"\0")


def _encode_aedat4(events: EventWords, height: int, registers: Registers) -> bytes:
    pieces = []
    for at in range(0, len(events), 2 * PACKET_LIMIT):
        piece = events[at : at + 2 * PACKET_LIMIT].copy()
        # polarity is a truth value and the bytes behind it are padding
        piece[1::2] = (piece[1::2] & 0xFFFFFFFF) | ((piece[1::2] & 0xFF00000000 != 0) << 32)
        data = piece.astype("<i8", copy=False).tobytes()
        size = EVENTS_AT - 8 + len(data)
        frame = (0, size, size - 4, 16, b"EVTS", 6, 8, 4, 8, 4, len(piece) // 2)
        pieces += [PACKET_FRAME.pack(*frame), data]
    return b"".join(pieces)


class Aedat4Records:
    """The events of a file that this module wrote as AEDAT4, packet by packet."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  # `close` closes it
        head = self._file.read(len(VERSION) + 4)
        info = self._file.read(int.from_bytes(head[len(VERSION) :], "little"))
        sides = [re.search(rb'"size%s" type="int">(\d+)<' % side, info) for side in (b"X", b"Y")]
        self.size: Size = None
        if sides[0] and sides[1]:
            self.size = int(sides[0][1]), int(sides[1][1])
        self.position = self._file.tell()

    def read(self) -> NDArray[Any]:
        """The events (n,) of the packet at `position`, which moves behind it."""
        frame = self._file.read(EVENTS_AT)
        (size,) = struct.unpack_from("<I", frame, 4)
        data = self._file.read(size - (EVENTS_AT - 8))
        self.position += len(frame) + len(data)
        return np.frombuffer(data, EVENT)

    def close(self) -> None:
        self._file.close()


# --- all of them ----------------------------------------------------------------------------------

LARGEST = 32767  # pixels: what a coordinate of an event can say
AEDAT4 = EventFormat("aedat4", (".aedat4",), LARGEST, None, -1, (), _aedat4_head, _encode_aedat4)
# EVT has 11 bits for a coordinate and spells silence out in words. Times up to `plain` (71 minutes,
# 4.8 hours) are written as they are; beyond, too many words would lead up to them.
FORMATS = {
    form.name: form
    for form in (
        EventFormat(
            "evt3", (".raw",), 2048, DAYS, -1, (0, *evt.NOTHING_WRITTEN),
            _evt_head(3, 1 << 24, 1 << 32), _encode_evt3,
        ),
        EventFormat(
            "evt2", (), 2048, DAYS << 8, -1, (0, evt.NOTHING_WRITTEN[0]),
            _evt_head(2, 1 << 34, 1 << 34), _encode_evt2,
        ),
        AEDAT4,
        EventFormat("es", (".es",), LARGEST, HOURS, 0, (0,), _es_head, _encode_es),
        EventFormat("csv", (".csv", ".txt"), LARGEST, None, -1, (), _csv_head, _encode_csv),
    )
}  # fmt: skip
