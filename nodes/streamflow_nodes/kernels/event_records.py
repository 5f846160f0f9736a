"""Event files made of records: DAT, ES, AEDAT 2.0, N-MNIST and CSV to events; events to ES and CSV.

Events are (2 n,) int64, two words each: time (us), then `x | y << 16 | polarity << 32`, which is
the memory of n structured events of 16 bytes; loops over words run faster than over records.
Decoders give what the records say: coordinates and the order of times are not checked here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
EventWords = NDArray[np.int64]
Registers = NDArray[np.int64]


@njit(cache=True, nogil=True)
def _unwrapped(time: Any, registers: Registers) -> Any:
    """A 32-bit `time` (us) past its wraps. registers : [last 32-bit time or -1, wraps], updated.

    A step back by more than half the range is a wrap, a smaller one is time going back; a step
    forward by more than half the range is time going back across the wrap.
    """
    last = registers[0]
    if last >= 0 and last - time > 1 << 31:
        registers[1] += 1 << 32
    elif last >= 0 and time - last > 1 << 31 and registers[1] > 0:
        registers[1] -= 1 << 32
    registers[0] = time
    return time + registers[1]


@njit(cache=True, nogil=True)
def decode_dat(
    words: NDArray[np.uint32], version: int, registers: Registers, events: EventWords
) -> int:
    """The number of events in `words`, written to the front of `events`.

    words : (2 n,) uint32: time (us), then the address, of each event
    version : 1 (x 9 bits, y 8 bits) or 2 (14 bits each); 4 bits of polarity follow, 0 is OFF
    registers : (2,) int64, updated: last 32-bit time or -1, and what its wraps add
    events : (>= 2 n,) int64, written
    """
    x_bits, y_bits = (9, 8) if version == 1 else (14, 14)
    count: int = words.shape[0] // 2
    for index in range(words.shape[0] // 2):
        address = np.int64(words[2 * index + 1])
        x = address & ((1 << x_bits) - 1)
        y = (address >> x_bits) & ((1 << y_bits) - 1)
        polarity = 1 if (address >> (x_bits + y_bits)) & 15 else 0
        events[2 * index] = _unwrapped(np.int64(words[2 * index]), registers)
        events[2 * index + 1] = x | (y << 16) | (polarity << 32)
    return count


@njit(cache=True, nogil=True)
def decode_dvs128(data: Bytes, registers: Registers, events: EventWords) -> int:
    """The number of events in AEDAT 2.0 records of a DVS128, written to the front of `events`.

    data : (8 n,) uint8: big-endian 32-bit address, then time (us), of each event
    registers : (3,) int64, updated: last 32-bit time or -1, what its wraps add; a count of
        addresses above 15 bits (synchronisation and special events), which are left out
    events : (>= 2 n,) int64, written

    Address: bit 0 polarity (0 is ON), bits 1-7 x, bits 8-14 y (Lichtsteiner et al., 2008; jAER).
    """
    count = 0
    for at in range(0, data.shape[0] - 7, 8):
        address, time = np.int64(0), np.int64(0)
        for byte in range(4):
            address = (address << 8) | data[at + byte]
            time = (time << 8) | data[at + 4 + byte]
        if address > 0x7FFF:
            registers[2] += 1
            continue
        x, y = (address >> 1) & 127, (address >> 8) & 127
        events[2 * count] = _unwrapped(time, registers)
        events[2 * count + 1] = x | (y << 16) | ((1 - (address & 1)) << 32)
        count += 1
    return count


@njit(cache=True, nogil=True)
def decode_faery(data: Bytes, events: EventWords) -> int:
    """The number of faery's packed events in `data`, written to `events`.

    data : (13 n,) uint8, little-endian: time (us) 64 bits, x 16, y 16, polarity 8; not changed
    events : (>= 2 n,) int64, written
    """
    count: int = data.shape[0] // 13
    for index in range(count):
        at = 13 * index
        time, address = np.int64(0), np.int64(0)
        for byte in range(8):
            time |= np.int64(data[at + byte]) << (8 * byte)
        for byte in range(5):
            address |= np.int64(data[at + 8 + byte]) << (8 * byte)
        events[2 * index] = time
        events[2 * index + 1] = address
    return count


@njit(cache=True, nogil=True)
def decode_nmnist(data: Bytes, registers: Registers, events: EventWords) -> int:
    """The number of events in N-MNIST records, written to the front of `events`.

    data : (5 n,) uint8, big-endian: x 8 bits, y 8 bits, polarity 1 bit, time (us) 23 bits
    registers : (1,) int64, us that overflow records have added, updated
    events : (>= 2 n,) int64, written

    A record with y = 240 is no event: it adds 2^13 us to every later time (Orchard et al., 2015).
    """
    count = 0
    for at in range(0, data.shape[0] - 4, 5):
        if data[at + 1] == 240:
            registers[0] += 1 << 13
            continue
        time = (np.int64(data[at + 2] & 127) << 16) | (np.int64(data[at + 3]) << 8) | data[at + 4]
        x, y, polarity = np.int64(data[at]), np.int64(data[at + 1]), np.int64(data[at + 2] >> 7)
        events[2 * count] = registers[0] + time
        events[2 * count + 1] = x | (y << 16) | (polarity << 32)
        count += 1
    return count


@njit(cache=True, nogil=True)
def decode_es(data: Bytes, height: int, registers: Registers, events: EventWords) -> int:
    """The number of DVS events in Event Stream bytes, written to the front of `events`.

    data : (n,) uint8, cut anywhere
    height : int, rows of the sensor; the format's y grows upwards, an event's downwards
    registers : (5,) int64, updated: time (us), bytes of the current event already seen, its
        polarity, x and y so far
    events : (>= 2 (n // 5 + 1),) int64, written

    Byte 0xFF adds 127 us, 0xFE is padding, any other starts an event: time since the last one
    (7 bits), polarity (1 bit), then x and y in 16 bits each, little-endian (Event Stream 2.0.0).
    """
    count = 0
    time, seen, polarity, x, y = registers
    for byte in data:
        value = np.int64(byte)
        if seen == 0:
            if value == 0xFF:
                time += 127
            elif value != 0xFE:
                time += value >> 1
                polarity = value & 1
                seen = 1
            continue
        if seen == 1:
            x = value
        elif seen == 2:
            x |= value << 8
        elif seen == 3:
            y = value
        else:
            y |= value << 8
            events[2 * count] = time
            events[2 * count + 1] = x | (((height - 1 - y) & 0xFFFF) << 16) | (polarity << 32)
            count += 1
        seen = (seen + 1) % 5
    registers[0], registers[1], registers[2], registers[3], registers[4] = (
        time,
        seen,
        polarity,
        x,
        y,
    )
    return count


OUTSIDE = 32767  # pixels: no sensor is as large

# What `decode_csv` may find wrong with a line
GOOD, NOT_A_NUMBER, MISSING_COLUMN, TOO_LARGE, HAS_DECIMALS = range(5)


@njit(cache=True, nogil=True)
def _after_blanks(data: Bytes, at: Any) -> Any:
    """The index of the first byte from `at` on that is no blank, tab or carriage return."""
    while at < data.shape[0] and (data[at] == 32 or data[at] == 9 or data[at] == 13):
        at += 1
    return at


@njit(cache=True, nogil=True)
def _number(data: Bytes, start: int, stop: int, scale: int, fields: Registers, which: int) -> int:
    """GOOD or what is wrong with the number in `data[start:stop]`; `fields[which]` is set."""
    while stop > start and (data[stop - 1] == 32 or data[stop - 1] == 9 or data[stop - 1] == 13):
        stop -= 1
    negative = start < stop and data[start] == 45
    if start < stop and (data[start] == 45 or data[start] == 43):
        start += 1
    value, digits, unit = np.int64(0), 0, np.int64(0)
    for at in range(start, stop):
        byte = np.int64(data[at])
        if byte == 46 and unit == 0:
            unit = np.int64(scale)
            value *= scale
            continue
        if byte < 48 or byte > 57:
            return NOT_A_NUMBER
        digits += 1
        if unit == 0:
            if value > (1 << 62) // 10 // scale:
                return TOO_LARGE
            value = value * 10 + (byte - 48)
        elif unit >= 10:
            unit //= 10
            value += (byte - 48) * unit
        elif unit == 1:  # the first digit below a microsecond rounds
            if scale == 1 and byte != 48:
                return HAS_DECIMALS
            value += 1 if scale > 1 and byte >= 53 else 0
            unit = np.int64(-1)
        elif scale == 1 and byte != 48:
            return HAS_DECIMALS
    if digits == 0:
        return NOT_A_NUMBER
    if unit == 0:
        value *= scale
    fields[which] = -value if negative else value
    return GOOD


@njit(cache=True, nogil=True)
def decode_csv(
    data: Bytes,
    columns: NDArray[np.int64],
    delimiter: int,
    scale: int,
    result: Registers,
    events: EventWords,
) -> int:
    """The number of events in whole lines of text, written to the front of `events`.

    data : (n,) uint8, lines that end in a newline; empty lines and lines from '#' on are left out
    columns : (4,) int64, which column (from 0) holds time, x, y and polarity
    delimiter : int, a byte; runs of a blank or a tab count as one
    scale : int, us per unit of time: 1, or 1_000_000 for seconds, which may have decimals
    result : (3,) int64, written: GOOD or what is wrong, line (from 0) and column (from 0) of it
    events : (>= 2 lines,) int64, written

    Polarity above 0 is ON. A coordinate beyond int16 becomes 32767, outside any sensor.
    """
    count, line, at, end = 0, 0, 0, data.shape[0]
    fields = np.zeros(4, np.int64)
    blank = delimiter == 32 or delimiter == 9
    while at < end:
        at = _after_blanks(data, at)
        if at < end and (data[at] == 10 or data[at] == 35):
            while at < end and data[at] != 10:
                at += 1
            at += 1
            line += 1
            continue
        column, found = 0, 0
        while True:
            at = _after_blanks(data, at)
            start = at
            while at < end and data[at] != 10 and data[at] != delimiter:
                if blank and (data[at] == 32 or data[at] == 9):
                    break
                at += 1
            for which in range(4):
                if columns[which] == column:
                    wrong = _number(data, start, at, scale if which == 0 else 1, fields, which)
                    if wrong != GOOD:
                        result[0], result[1], result[2] = wrong, line, column
                        return count
                    found += 1
            if blank:
                at = _after_blanks(data, at)
            if at >= end or data[at] == 10:
                at += 1
                break
            at += 0 if blank else 1
            column += 1
        if found < 4:
            result[0], result[1], result[2] = MISSING_COLUMN, line, column
            return count
        x = fields[1] if 0 <= fields[1] < OUTSIDE else OUTSIDE
        y = fields[2] if 0 <= fields[2] < OUTSIDE else OUTSIDE
        events[2 * count] = fields[0]
        events[2 * count + 1] = x | (y << 16) | ((1 if fields[3] > 0 else 0) << 32)
        count += 1
        line += 1
    result[0], result[1], result[2] = GOOD, line, 0
    return count


@njit(cache=True, nogil=True)
def encoded_es(events: EventWords, registers: Registers) -> int:
    """The bytes that `encode_es`, whose arguments these are, writes; none is changed."""
    count = 0
    last = registers[0]
    for index in range(events.shape[0] // 2):
        count += 5 + (events[2 * index] - last) // 127
        last = events[2 * index]
    return count


@njit(cache=True, nogil=True)
def encode_es(events: EventWords, height: int, registers: Registers, data: Bytes) -> int:
    """The number of Event Stream bytes that say DVS `events`, written to the front of `data`.

    events : (2 n,) int64, in time order from `registers[0]` on; not changed
    height : int, rows of the sensor; the format's y grows upwards, an event's downwards
    registers : (1,) int64, the last time (us), 0 at the start of a file; updated
    data : (>= encoded_es(...),) uint8, written

    The record of `decode_es`; silence is a byte 0xFF for each 127 us.
    """
    at = 0
    last = registers[0]
    for index in range(events.shape[0] // 2):
        time, address = events[2 * index], events[2 * index + 1]
        for _ in range((time - last) // 127):
            data[at] = 0xFF
            at += 1
        x, y = address & 0xFFFF, height - 1 - ((address >> 16) & 0xFFFF)
        data[at] = ((time - last) % 127) << 1 | (1 if (address >> 32) & 0xFF else 0)
        data[at + 1], data[at + 2] = x & 0xFF, x >> 8
        data[at + 3], data[at + 4] = y & 0xFF, y >> 8
        at += 5
        last = time
    registers[0] = last
    return at


CSV_LINE = 35  # bytes at most: 19 digits of time, 5 of x and y each, polarity, commas, newline


@njit(cache=True, nogil=True)
def _write_number(value: Any, data: Bytes, at: Any) -> Any:
    """Where the decimal digits of `value` >= 0 end that are written to `data` from `at` on."""
    end = at + 1
    rest = value // 10
    while rest > 0:
        rest //= 10
        end += 1
    for place in range(end - 1, at - 1, -1):
        data[place] = 48 + value % 10
        value //= 10
    return end


@njit(cache=True, nogil=True)
def encode_csv(events: EventWords, data: Bytes) -> int:
    """The number of bytes of lines `t,x,y,p` that say `events`, written to the front of `data`.

    events : (2 n,) int64, times from 0 on; not changed
    data : (>= CSV_LINE n,) uint8, written
    """
    at = 0
    for index in range(events.shape[0] // 2):
        address = events[2 * index + 1]
        at = _write_number(events[2 * index], data, at)
        data[at] = 44
        at = _write_number(address & 0xFFFF, data, at + 1)
        data[at] = 44
        at = _write_number((address >> 16) & 0xFFFF, data, at + 1)
        data[at] = 44
        data[at + 1] = 49 if (address >> 32) & 0xFF else 48
        data[at + 2] = 10
        at += 3
    return at
