"""Prophesee EVT 2.0 and EVT 3.0: raw words to events, and events to words.

Formats: Prophesee, "EVT 2.0 format" and "EVT 3.0 format", Metavision SDK documentation, 2020-2024.
Events are (2 n,) int64, two words each: time (us), then `x | y << 16 | polarity << 32`, which is
the memory of n structured events of 16 bytes; loops over words run faster than over records.
Decoders give what the words say: coordinates and the order of times are not checked here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Words = NDArray[Any]
EventWords = NDArray[np.int64]
Registers = NDArray[np.int64]

# A decoder's registers, (9,) int64; `new_registers` gives those of the start of a file.
TIME = 0  # us; -1 until the first TIME_HIGH word: nothing before it has a time
HIGH = 1  # the last TIME_HIGH word's value
LOOPS = 2  # us added by wraps of TIME_HIGH
X = 3  # EVT 3.0: where the next vector starts
Y = 4
POLARITY = 5
TRIGGERS = 6  # words counted: external triggers,
UNKNOWN = 7  # types the format does not define,
UNTIMED = 8  # and events before the first TIME_HIGH, which are left out


def new_registers() -> Registers:
    """The registers of a decoder that has read nothing."""
    registers = np.zeros(9, np.int64)
    registers[TIME] = -1
    return registers


@njit(cache=True, nogil=True)
def decode_evt2(words: Words, registers: Registers, events: EventWords) -> int:
    """The number of events in `words`, written to the front of `events`.

    words : (n,) uint32, as in the file
    registers : (9,) int64, decoder state, updated
    events : (>= 2 n,) int64, written

    A TIME_HIGH lower by more than half its range (2^27 x 64 us) is a wrap; a smaller step back is
    time going back and is passed on as it is.
    """
    count = 0
    for index in range(words.shape[0]):
        word = np.int64(words[index])
        kind = word >> 28
        if kind <= 1:
            if registers[TIME] < 0:
                registers[UNTIMED] += 1
                continue
            events[2 * count] = registers[TIME] + ((word >> 22) & 63)
            events[2 * count + 1] = ((word >> 11) & 2047) | ((word & 2047) << 16) | (kind << 32)
            count += 1
        elif kind == 8:
            high = word & 0xFFFFFFF
            if registers[TIME] >= 0 and registers[HIGH] - high > 1 << 27:
                registers[LOOPS] += 1 << 34
            registers[HIGH] = high
            registers[TIME] = registers[LOOPS] + (high << 6)
        elif kind == 10:
            registers[TRIGGERS] += 1
        elif kind < 14:  # 14 OTHERS and 15 CONTINUED carry no events and are part of the format
            registers[UNKNOWN] += 1
    return count


@njit(cache=True, nogil=True)
def count_evt3(words: Words) -> int:
    """The most events that `words`, (n,) uint16, can hold: what `decode_evt3` needs room for."""
    count = 0
    for index in range(words.shape[0]):
        kind = words[index] >> 12
        if kind == 2:
            count += 1
        elif kind == 4 or kind == 5:
            bits = words[index] & (0xFFF if kind == 4 else 0xFF)
            while bits:
                bits &= bits - 1
                count += 1
    return count


@njit(cache=True, nogil=True)
def decode_evt3(words: Words, registers: Registers, events: EventWords) -> int:
    """The number of events in `words`, written to the front of `events`.

    words : (n,) uint16, as in the file
    registers : (9,) int64, decoder state, updated
    events : (>= 2 count_evt3(words),) int64, written

    A TIME_HIGH that differs from the last one clears TIME_LOW; one lower by more than half its
    range (2^11 x 4096 us) is a wrap, so times go on past 2^24 us. A smaller step back is time going
    back and is passed on as it is.
    """
    count = 0
    time = registers[TIME]
    x, y, polarity = registers[X], registers[Y], registers[POLARITY]
    for index in range(words.shape[0]):
        word = np.int64(words[index])
        kind = word >> 12
        if kind == 0:
            y = word & 2047
        elif kind == 2:
            x = word & 2047
            polarity = (word >> 11) & 1
            if time < 0:
                registers[UNTIMED] += 1
                continue
            events[2 * count] = time
            events[2 * count + 1] = x | (y << 16) | (polarity << 32)
            count += 1
        elif kind == 3:
            x = word & 2047
            polarity = (word >> 11) & 1
        elif kind == 4 or kind == 5:
            length = 12 if kind == 4 else 8
            for bit in range(length):
                if not (word >> bit) & 1:
                    continue
                if time < 0:
                    registers[UNTIMED] += 1
                    continue
                events[2 * count] = time
                events[2 * count + 1] = (x + bit) | (y << 16) | (polarity << 32)
                count += 1
            # endless vectors in a broken file must not carry x past int16 and back into the sensor
            x = min(x + length, 32000)
        elif kind == 6:
            if time >= 0:
                time = registers[LOOPS] + (registers[HIGH] << 12) + (word & 4095)
        elif kind == 8:
            high = word & 4095
            if time < 0 or high != registers[HIGH]:
                if time >= 0 and registers[HIGH] - high > 1 << 11:
                    registers[LOOPS] += 1 << 24
                registers[HIGH] = high
                time = registers[LOOPS] + (high << 12)
        elif kind == 10:
            registers[TRIGGERS] += 1
        elif kind != 7 and kind < 14:  # 7 and 15 CONTINUED, 14 OTHERS: part of the format
            registers[UNKNOWN] += 1
    registers[TIME] = time
    registers[X], registers[Y], registers[POLARITY] = x, y, polarity
    return count


# The EVT 3.0 encoder's registers, (3,) int64: TIME_HIGH with its wraps, the last time (us), the
# row; -1 is none yet. The EVT 2.0 encoder has the first of them only.
NOTHING_WRITTEN = (-1, -1, -1)


@njit(cache=True, nogil=True)
def encoded_evt3(events: EventWords, offset: int, registers: Registers) -> int:
    """The most words that `encode_evt3`, whose arguments these are, writes; none is changed."""
    count = 0
    high = max(registers[0], 0)
    for index in range(events.shape[0] // 2):
        target = (events[2 * index] - offset) >> 12
        # TIME_HIGH steps by at most 1024 and stops twice at each of its wraps
        count += 4 + (target - high) // 256
        if target > high:
            count += 3
            high = target
    return count


@njit(cache=True, nogil=True)
def _next_high(high: Any, target: Any, top: int) -> Any:
    """The next TIME_HIGH to write on the way from `high` to `target`; `top` is a word's largest.

    At most a quarter of its range further, and never over a wrap without a stop on either side:
    decoders differ in how large a step back they take for a wrap.
    """
    wrap = (high | top) if (high & top) != top else high + 1
    return min(target, min(high + (top + 1) // 4, wrap))


@njit(cache=True, nogil=True)
def encode_evt3(events: EventWords, offset: int, registers: Registers, words: Words) -> int:
    """The number of EVT 3.0 words that say `events`, written to the front of `words`.

    events : (2 n,) int64, in time order from `offset` on, x and y below 2048; not changed
    offset : int, us taken from every time (what the header's t0 says)
    registers : (3,) int64, encoder state, updated; starts as NOTHING_WRITTEN
    words : (>= encoded_evt3(...),) uint16, written

    Three or more events of one time, row and polarity at rising x within 12 pixels become a
    vector. A silence is written as TIME_HIGH words.
    """
    count, index, end = 0, 0, events.shape[0] // 2
    high, time, row = registers[0], registers[1], registers[2]
    while index < end:
        if events[2 * index] - offset != time:
            time = events[2 * index] - offset
            target = time >> 12
            if high < 0:
                high = 0
                words[count] = 0x8000
                count += 1
            while high < target:
                high = _next_high(high, target, 4095)
                words[count] = 0x8000 | (high & 4095)
                count += 1
            words[count] = 0x6000 | (time & 4095)
            count += 1
        address = events[2 * index + 1]
        x = address & 0xFFFF
        if (address >> 16) & 0xFFFF != row:
            row = (address >> 16) & 0xFFFF
            words[count] = row
            count += 1
        bits, length, previous = 1, 1, x
        while index + length < end and events[2 * (index + length)] - offset == time:
            other = events[2 * (index + length) + 1]
            # the same row and polarity, and to the right within the vector
            if ((other ^ address) >> 16) & 0xFFFFFF or not previous < other & 0xFFFF < x + 12:
                break
            previous = other & 0xFFFF
            bits |= 1 << (previous - x)
            length += 1
        on = 0x800 if (address >> 32) & 0xFF else 0
        if length < 3:
            length = 1
            words[count] = 0x2000 | on | x
            count += 1
        else:
            words[count] = 0x3000 | on | x
            words[count + 1] = 0x4000 | bits
            count += 2
        index += length
    registers[0], registers[1], registers[2] = high, time, row
    return count


@njit(cache=True, nogil=True)
def encoded_evt2(events: EventWords, offset: int, registers: Registers) -> int:
    """The most words that `encode_evt2`, whose arguments these are, writes; none is changed."""
    count: int = events.shape[0] // 2
    high = registers[0]
    for index in range(events.shape[0] // 2):
        target = (events[2 * index] - offset) >> 6
        if target > high:
            # TIME_HIGH steps by at most 2^26 and stops twice at each of its wraps
            count += 4 + (0 if high < 0 else (target - high) >> 24)
            high = target
    return count


@njit(cache=True, nogil=True)
def encode_evt2(events: EventWords, offset: int, registers: Registers, words: Words) -> int:
    """The number of EVT 2.0 words that say `events`, written to the front of `words`.

    events : (2 n,) int64, in time order from `offset` on, x and y below 2048; not changed
    offset : int, us taken from every time (what the header's t0 says)
    registers : (1,) int64, TIME_HIGH with its wraps or -1, updated
    words : (>= encoded_evt2(...),) uint32, written

    A silence is written as TIME_HIGH words.
    """
    count = 0
    high = registers[0]
    for index in range(events.shape[0] // 2):
        time, address = events[2 * index] - offset, events[2 * index + 1]
        target = time >> 6
        if high < 0:  # the first time may be any: nothing says yet that it wrapped
            high = target
            words[count] = 0x80000000 | (high & 0xFFFFFFF)
            count += 1
        while high < target:
            high = _next_high(high, target, 0xFFFFFFF)
            words[count] = 0x80000000 | (high & 0xFFFFFFF)
            count += 1
        on = 1 << 28 if (address >> 32) & 0xFF else 0
        x, y = address & 0xFFFF, (address >> 16) & 0xFFFF
        words[count] = on | ((time & 63) << 22) | (x << 11) | y
        count += 1
    registers[0] = high
    return count
