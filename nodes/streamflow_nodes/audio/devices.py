"""Sound devices by PortAudio: which there are, and the rings between their callbacks and a node.

PortAudio calls back from a thread of its own every few milliseconds. What it calls here takes no
lock, waits for nothing and allocates no samples: it copies to or from memory that was there before
the stream began, and writes one word to an event file descriptor. (Python itself makes small
objects, and its interpreter lock is waited for: that is what `late` counts.)
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from streamflow.errors import DeviceError

from .samples import Frames

STALL = 0.5  # s without a callback after which a device is taken to be gone
FIRST_TRY, LAST_TRY = 0.1, 2.0  # s between attempts to open a device again, doubled each time
CLOSING = 2.0  # s that stopping or closing a device may take
LONGEST_LOSS = 10  # s: a device that says it lost more has a clock that jumps

_streams = 0  # open in this process: PortAudio only looks for devices anew when there is none


def portaudio(node: str) -> Any:
    """The module sounddevice; DeviceError where it or PortAudio is missing."""
    try:
        import sounddevice
    except ImportError as error:
        raise DeviceError(
            f"{node}: sound devices need sounddevice: pip install 'streamflow-neuro[audio]'"
        ) from error
    except OSError as error:  # its wheels for Linux do not have the library
        raise DeviceError(
            f"{node}: sound devices need PortAudio ({error}): apt install libportaudio2, or your "
            "system's package of that name"
        ) from error
    return sounddevice


def choose_device(sound: Any, node: str, wanted: str | int | None, direction: str) -> int:
    """The number of the device that `wanted` names; DeviceError with a list of all else.

    direction : 'input' or 'output'
    wanted : a number, a part of one device's name, or None for the system's default
    """
    devices = list(sound.query_devices())
    usable = {
        number: device["name"]
        for number, device in enumerate(devices)
        if device[f"max_{direction}_channels"] > 0
    }
    if wanted is None:
        default = int(sound.default.device[direction])
        found = [default] if default in usable else []
    elif isinstance(wanted, int):
        found = [wanted] if wanted in usable else []
    else:
        found = [n for n, name in usable.items() if name == wanted]
        found = found or [n for n, name in usable.items() if wanted.lower() in name.lower()]
    if len(found) == 1:
        return found[0]
    listed = "; ".join(f"{number}: {name}" for number, name in usable.items()) or "none at all"
    what = "the system has no default" if wanted is None else f"{len(found)} match {wanted!r}"
    raise DeviceError(
        f"{node}: no one {direction} device: {what}; there are: {listed}. Expected one: give the "
        "setting 'device' its number or a part of its name, or plug it in"
    )


class Stream:
    """A PortAudio stream of one direction whose callback belongs to a ring."""

    def __init__(
        self, sound: Any, node: str, direction: str, device: int, ring: InputRing | OutputRing,
        latency: float | str,
    ) -> None:  # fmt: skip
        global _streams
        info = sound.query_devices(device)
        self.name = str(info["name"])
        self._sound, self._log = sound, logging.getLogger(f"streamflow.node.{node}")
        self._ring, self._is_open = ring, True
        kind = sound.InputStream if direction == "input" else sound.OutputStream
        try:
            self._stream = kind(
                device=device, samplerate=ring.rate, channels=ring.channels, dtype="float32",
                blocksize=ring.block, latency=latency, callback=self._call, clip_off=True,
                dither_off=True,
            )  # fmt: skip
        except sound.PortAudioError as error:
            most, own = info[f"max_{direction}_channels"], round(info["default_samplerate"])
            raise DeviceError(
                f"{node}: cannot open {self.name!r} with {ring.channels} channels at {ring.rate} "
                f"Hz ({error.args[0]}); it has up to {most} channels, and {own} Hz is its own "
                "rate: set these, put `resample` between, or close the program that uses it"
            ) from error
        _streams += 1
        try:
            ring.begin()
            self._stream.start()
        except sound.PortAudioError as error:
            self.close()
            raise DeviceError(
                f"{node}: cannot start {self.name!r} ({error.args[0]}); expected a device that is "
                "there and free: check that no other program uses it"
            ) from error
        self.latency = float(self._stream.latency)

    @property
    def is_running(self) -> bool:
        """Whether PortAudio takes the stream to be running."""
        return bool(self._stream.active)

    def _call(self, *arguments: Any) -> None:
        if self._is_open:  # else it was left to itself, and the ring is another stream's
            self._ring.callback(*arguments)

    def drain(self) -> None:
        """Play what the callback has given, and stop."""
        _done(self._stream.stop)

    def close(self) -> None:
        """Stop at once and release the device. Safe to call twice.

        A driver may hang in this for good, with a device that was taken away: then it is left to
        itself after two seconds, and PortAudio is not shut down in this process any more.
        """
        global _streams
        if not self._is_open:
            return
        self._is_open = False
        if _done(self._stream.close):
            _streams -= 1
        else:
            atexit.unregister(self._sound._exit_handler)  # it would wait for the same driver
            self._log.warning("%s does not let itself be closed: left open", self.name)


def _done(call: Callable[[], Any]) -> bool:
    """Whether `call` returned in time; a driver may hang in it."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(CLOSING)
    return not thread.is_alive()


def look_again(sound: Any) -> None:
    """Find devices that were plugged in since: PortAudio knows only those of its start.

    Not while another stream is open in this process: starting PortAudio anew would end it.
    """
    if not _streams:
        try:
            sound._terminate()
            sound._initialize()
        except sound.PortAudioError as error:
            raise DeviceError(f"PortAudio cannot look for devices: {error}") from error


class _Ring:
    """What both directions share: who was called when, and how the other side is woken."""

    def __init__(self, rate: int, channels: int, block: int) -> None:
        self.rate, self.channels, self.block = rate, channels, block
        self.late = self.device = 0  # xruns by their cause
        self._called = 0  # monotonic ns
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._event, select.POLLIN)

    def begin(self) -> None:
        """A stream is about to call back."""
        self._called = time.monotonic_ns()

    def _xrun(self, now: int) -> None:
        """Count an xrun: `late` where this callback came a block too late, else the device's."""
        if now - self._called > 2_000_000_000 * self.block // self.rate:
            self.late += 1
        else:
            self.device += 1

    def _wake(self) -> None:
        os.eventfd_write(self._event, 1)

    def wait(self, seconds: float) -> None:
        """Return when the callback has been called since, or after so long."""
        if self._poll.poll(1000 * seconds):
            os.eventfd_read(self._event)

    def silent_for(self) -> float:
        """Seconds since the last callback."""
        return (time.monotonic_ns() - self._called) / 1e9

    def close(self) -> None:
        """Release the event. No stream may call back any more."""
        os.close(self._event)


class InputRing(_Ring):
    """Blocks that a microphone's callback leaves and a node takes; when it is full, they are lost.

    Every block has the index of its first frame, which counts what was lost too: what did not fit
    (`dropped` frames), and what the device lost by its own clock (`lost` frames, an estimate).
    """

    def __init__(self, rate: int, channels: int, block: int, seconds: float) -> None:
        super().__init__(rate, channels, block)
        slots = max(2, -int(-seconds * rate // block))
        self._frames = np.zeros((slots, block, channels), np.float32)
        self._first = [0] * slots
        self._count = [0] * slots
        self._captured = [0] * slots
        self._written = self._taken = 0  # each is changed by one side only
        self.index = 0  # of the next frame
        self.dropped = self.lost = 0
        self._expected = 0.0  # s of the device's clock

    def begin(self) -> None:
        super().begin()
        self._expected = 0.0

    def callback(self, indata: Any, frames: int, time_info: Any, status: Any) -> None:
        """As PortAudio calls it: `indata` (frames, channels) float32."""
        now = time.monotonic_ns()
        begun = time_info.inputBufferAdcTime
        if status.input_overflow:
            self._xrun(now)
            lost = round((begun - self._expected) * self.rate) if self._expected > 0 else 0
            lost = lost if 0 < lost < LONGEST_LOSS * self.rate else 0
            self.lost += lost
            self.index += lost
        self._expected = begun + frames / self.rate if begun > 0 else 0.0
        self._called = now
        if self._written - self._taken == len(self._frames):
            self.dropped += frames
        else:
            slot = self._written % len(self._frames)
            self._frames[slot, :frames] = indata
            self._first[slot], self._count[slot] = self.index, frames
            age = max(0.0, time_info.currentTime - begun) if begun > 0 else 0.0
            self._captured[slot] = now - int(1e9 * min(age, 1.0))
            self._written += 1
        self.index += frames
        self._wake()

    def take(self) -> tuple[int, Frames, int] | None:
        """The oldest block: first index, samples (fresh), captured (ns); None if none waits."""
        if self._taken == self._written:
            return None
        slot = self._taken % len(self._frames)
        block = self._first[slot], self._frames[slot, : self._count[slot]].copy()
        captured = self._captured[slot]
        self._taken += 1
        return *block, captured


class OutputRing(_Ring):
    """Samples that a node leaves and a loudspeaker's callback plays.

    Playing begins when `target` seconds wait, so that later ones may be late by that much. When
    nothing is left silence is played (`starved` frames) until so much waits again.
    """

    def __init__(self, rate: int, channels: int, block: int, target: float, longest: float) -> None:
        super().__init__(rate, channels, block)
        self._frames = np.zeros((max(2 * block, int(longest * rate)), channels), np.float32)
        self._target = min(max(1, round(target * rate)), len(self._frames))
        self._written = self._played = 0  # frames; each is changed by one side only
        self._is_filling, self.is_ending = True, False
        self._skip_to = 0  # the callback leaves out what is before it
        self.starved = self.skipped = 0

    def begin(self) -> None:
        super().begin()
        self._is_filling = True

    @property
    def waiting(self) -> int:
        """Frames that are yet to be played."""
        return self._written - max(self._played, self._skip_to)

    def callback(self, outdata: Any, frames: int, time_info: Any, status: Any) -> None:
        """As PortAudio calls it: fills `outdata` (frames, channels) float32."""
        now = time.monotonic_ns()
        if status.output_underflow:
            self._xrun(now)
        self._called = now
        if self._skip_to > self._played:
            self.skipped += self._skip_to - self._played
            self._played = self._skip_to
        there = self._written - self._played
        if self._is_filling and (there >= self._target or (self.is_ending and there)):
            self._is_filling = False
        count = 0 if self._is_filling else min(frames, there)
        at = self._played % len(self._frames)
        head = min(count, len(self._frames) - at)
        outdata[:head] = self._frames[at : at + head]
        outdata[head:count] = self._frames[: count - head]
        outdata[count:] = 0
        self._played += count
        if count < frames:
            self._is_filling = True
            if self._played and not self.is_ending:
                self.starved += frames - count
        self._wake()

    def put(self, frames: Frames) -> int:
        """Leave what there is room for; how many frames that was."""
        room = len(self._frames) - (self._written - self._played)
        count = min(len(frames), room)
        at = self._written % len(self._frames)
        head = min(count, len(self._frames) - at)
        self._frames[at : at + head] = frames[:head]
        self._frames[: count - head] = frames[head:count]
        self._written += count
        return count

    def skip(self) -> None:
        """Leave out the oldest, so that no more than the target waits."""
        self._skip_to = max(self._skip_to, self._written - self._target)
