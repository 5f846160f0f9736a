"""Events in UDP datagrams: the bytes that other tools send, to events and back.

Events are (2 n,) int64, two words each: time (us), then `x | y << 16 | polarity << 32`, which is
the memory of n structured events of 16 bytes. All formats are little-endian.

| format | bytes | an event |
|---|---|---|
| T64 | 13 | time 64 bits, x 16, y 16, polarity 8 (faery: `t64_x16_y16_on8`) |
| T32 | 8 | time 32 bits, x 16, then polarity 1 and y 15 from the low bit up (`t32_x16_y15_on1`) |
| SPIF | 4 | bit 31 is 1 (no time), x 15 bits, polarity 1, y 15 (SpiNNaker peripheral interface) |
| SPIF_T32 | 8 | bit 31 is 0, x, polarity, y as in SPIF, then time 32 bits (AEStream) |

Sources: faery 0.7, `udp_encoder.py`; SpiNNakerManchester/spif, `spiffer/README.md`; AEStream,
`dvs_to_udp.cpp`.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
EventWords = NDArray[np.int64]

T64, T32, SPIF, SPIF_T32 = 0, 1, 2, 3
SIZES = (13, 8, 4, 8)  # bytes an event
Format = Literal["t64_x16_y16_on8", "t32_x16_y15_on1", "spif", "spif_t32"]
LAYOUTS = {"t64_x16_y16_on8": T64, "t32_x16_y15_on1": T32, "spif": SPIF, "spif_t32": SPIF_T32}


@njit(cache=True, nogil=True)
def _number(data: Bytes, at: int, size: int) -> Any:
    """The little-endian number of `size` bytes at `at`; 8 bytes give a signed one."""
    value = np.int64(0)
    for byte in range(size):
        value |= np.int64(data[at + byte]) << (8 * byte)
    return value


@njit(cache=True, nogil=True)
def decode_datagrams(
    data: Bytes,
    lengths: NDArray[np.int64],
    arrivals: NDArray[np.int64],
    layout: int,
    size: int,
    groups: NDArray[np.int64],
    events: EventWords,
) -> int:
    """The number of events in datagrams that lie one behind the other.

    data : (n,) uint8, not changed
    lengths : (m,) int64, bytes of each datagram, together at most n
    arrivals : (m,) int64, us: the time of the events of a SPIF datagram
    layout, size : T64, T32, SPIF or SPIF_T32, and its bytes an event
    groups : (m,) int64, written: the events of each datagram; -1 for one that is not of this
        layout (another length, or SPIF's bit 31 says otherwise), which is left out as a whole
    events : (>= 2 n / size,) int64, written; coordinates are not checked
    """
    count, start = 0, 0
    for datagram in range(lengths.shape[0]):
        length = lengths[datagram]
        begun = count
        groups[datagram] = -1 if length % size else length // size
        for event in range(groups[datagram]):
            at = start + event * size
            if layout == 0:
                time = _number(data, at, 8)
                address = _number(data, at + 8, 4) | (np.int64(data[at + 12] != 0) << 32)
            elif layout == 1:
                time = _number(data, at, 4)
                row = _number(data, at + 6, 2)
                address = _number(data, at + 4, 2) | (row >> 1 << 16) | ((row & 1) << 32)
            else:
                word = _number(data, at, 4)
                if word >> 31 != (1 if layout == 2 else 0):
                    count, groups[datagram] = begun, -1
                    break
                time = arrivals[datagram] if layout == 2 else _number(data, at + 4, 4)
                address = (
                    ((word >> 16) & 0x7FFF) | ((word & 0x7FFF) << 16) | (((word >> 15) & 1) << 32)
                )
            events[2 * count], events[2 * count + 1] = time, address
            count += 1
        start += length
    return count


@njit(cache=True, nogil=True)
def encode_events(events: EventWords, layout: int, size: int, data: Bytes) -> int:
    """The number of events written to `data`; those with a negative time or place are left out.

    events : (2 n,) int64, not changed; times beyond 32 bits keep their low 32 in T32 and SPIF_T32
    layout, size : T64, T32, SPIF or SPIF_T32, and its bytes an event
    data : (>= n size,) uint8, written
    """
    count = 0
    for index in range(events.shape[0] // 2):
        time, address = events[2 * index], events[2 * index + 1]
        x, y, polarity = address & 0xFFFF, (address >> 16) & 0xFFFF, (address >> 32) & 1
        if time < 0 or x > 0x7FFF or y > 0x7FFF:
            continue
        at = count * size
        if layout == 0:
            first, rest, head = time, x | (y << 16) | (polarity << 32), 8
        elif layout == 1:
            first, rest, head = time, x | (((y << 1) | polarity) << 16), 4
        else:
            first, rest, head = (x << 16) | (polarity << 15) | y, time, 4
            if layout == 2:
                first |= np.int64(1) << 31
        for byte in range(head):
            data[at + byte] = (first >> (8 * byte)) & 0xFF
        for byte in range(size - head):
            data[at + head + byte] = (rest >> (8 * byte)) & 0xFF
        count += 1
    return count
