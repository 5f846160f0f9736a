"""`microphone`: sound of an input device, as it happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np

from streamflow import DeviceError, Node, Out, Samples, Settings
from streamflow.node import Emission, Positive, Seconds

from ..audio.devices import (
    FIRST_TRY,
    LAST_TRY,
    STALL,
    InputRing,
    Stream,
    choose_device,
    look_again,
    portaudio,
)
from ..audio.samples import finite, sample_time

PATIENCE = 0.01  # s that one look may wait: the run's end must be heard
TICK = 0.05  # s between empty packets while there is no device
FULL_SCALE = 32767 / 32768  # what 16-bit converters give at most
MUTED = 1  # s of zeros, which no open microphone gives


class MicrophoneSettings(Settings, frozen=True, kw_only=True):
    """Which device, how it is read, and how long it may be unplugged."""

    device: str | int | None = None
    """Its number or a part of its name, as the error lists them; by default the system's."""
    rate: Positive | None = None
    """Frames per second (Hz); by default the device's own rate."""
    channels: Annotated[int, msgspec.Meta(ge=1, le=128)] = 1
    block_size: Annotated[int, msgspec.Meta(ge=16, le=1 << 16)] = 256
    """Frames in a packet."""
    latency: Seconds | None = None
    """What PortAudio is asked for between device and callback (s); by default the lowest that it
    recommends. More helps against `overflow_late`."""
    queue: Seconds = 0.5
    """How much may wait while the graph is busy (s); what comes then is lost, and counted."""
    reconnect: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """How long a device that is gone is waited for (s) before the run fails."""


class Microphone(Node[MicrophoneSettings]):
    """Sound of an input device by PortAudio, in packets of `block_size` frames.

    Needs the extra `audio` and the library PortAudio (`apt install libportaudio2`). Index 0 and
    stream time 0 are the first frame; both follow the device's clock. What was lost is left out and
    the index counts it, so that all that comes later keeps its place.

    A device is taken to be gone when it has not called for half a second. It is opened again when
    it is back, after 0.1 s, then twice as long each time, up to 2 s, for at most `reconnect`.
    Meanwhile empty packets let stream time pass by this machine's clock, and the index goes on
    there. PortAudio finds new devices only where no other stream is open in the process: give each
    device's node a process of its own, as it has by default.

    Faults: `overflow_late` (times that samples were lost because the callback came too late: this
    machine or process was busy; raise `latency`), `overflow_device` (times that the device or its
    driver lost samples though callbacks came in time), `lost` (frames, an estimate by the device's
    clock), `queue_full` (frames that the graph was too slow for), `clipped` (samples at full
    scale), `not_finite` (samples that are not numbers, given out as 0), `silent` (times that there
    was nothing but zeros for a second: is it muted?), `disconnected`.

    State: the index. A restarted node goes on there, later by the time it was gone.

        mic: {kind: microphone, settings: {device: USB, rate: 16000, block_size: 128}}
    """

    samples = Out(Samples)
    faults = (
        "overflow_late", "overflow_device", "lost", "queue_full", "clipped", "not_finite", "silent",
        "disconnected",
    )  # fmt: skip

    def open(self) -> None:
        s = self.settings
        self._sound = portaudio(self.name)
        self._using, self._closed = threading.Lock(), False  # between produce's thread and close
        self._stream: Stream | None = None
        self._ring: InputRing | None = None
        number = choose_device(self._sound, self.name, s.device, "input")
        self._rate = s.rate or round(self._sound.query_devices(number)["default_samplerate"])
        self._ring = InputRing(self._rate, s.channels, s.block_size, s.queue)
        self._stream = self._started(number)
        self._device = self._stream.name
        self._latency = self._stream.latency
        self._next = 0  # index of the frame after those given out
        self._packets = self._frames = self._zeros = 0
        self._gone_s = 0.0
        self._begun: tuple[int, int] | None = None  # of a predecessor: index, monotonic ns
        self.log.info("%s: %d channels at %d Hz", self._device, s.channels, self._rate)

    def _started(self, number: int) -> Stream:
        assert self._ring is not None
        latency = self.settings.latency or "low"
        return Stream(self._sound, self.name, "input", number, self._ring, latency)

    def produce(self) -> Iterator[Emission]:
        ring = self._ring
        assert ring is not None
        while not self.clock.stopped:
            with self._using:
                if self._closed:
                    return
                ring.wait(PATIENCE)
            while not self.clock.stopped and (block := ring.take()) is not None:
                yield self._emission(*block)
            self._count()
            is_running = self._stream is not None and self._stream.is_running
            if not is_running or ring.silent_for() > STALL:
                yield from self._reconnect(ring)

    def _emission(self, first: int, frames: Any, captured: int) -> Emission:
        frames, wrong = finite(frames)
        self.count_fault("not_finite", wrong)
        self.count_fault("clipped", int(np.count_nonzero(np.abs(frames) >= FULL_SCALE)))
        before = self._zeros
        self._zeros = 0 if frames.any() else before + len(frames)
        if before < MUTED * self._rate <= self._zeros:
            self.count_fault("silent")
            self.log.warning("%s gives nothing but zeros: is it muted?", self._device)
        self._packets += 1
        self._frames += len(frames)
        return self._packet(first, frames, captured)

    def _packet(self, first: int, frames: Any, captured: int) -> Emission:
        self._count()
        self._next = first + len(frames)
        start, stop = sample_time(first, self._rate), sample_time(self._next, self._rate)
        return self.samples(Samples(frames, self._rate, first), start, stop, captured)

    def _count(self) -> None:
        ring = self._ring
        if ring is not None:
            counts = {"overflow_late": ring.late, "overflow_device": ring.device,
                      "lost": ring.lost, "queue_full": ring.dropped}  # fmt: skip
            self.fault_counts.update(counts)

    def _reconnect(self, ring: InputRing) -> Iterator[Emission]:
        """Empty packets until the device is open again; DeviceError when it does not come back."""
        self.count_fault("disconnected")
        self.log.warning("%s does not answer: waiting for it", self._device)
        gone, pause = time.monotonic(), FIRST_TRY
        self._drop_stream()
        while (block := ring.take()) is not None:
            yield self._emission(*block)
        stood = self._next
        while not self.clock.stopped:
            again = time.monotonic() + pause
            while time.monotonic() < again and not self.clock.stopped:
                time.sleep(TICK)
                index = stood + int((time.monotonic() - gone) * self._rate)
                nothing = np.empty((0, self.settings.channels), np.float32)
                yield self._packet(max(index, self._next), nothing, time.monotonic_ns())
            ring.index = self._next
            try:
                with self._using:
                    if self._closed:
                        return
                    self._open_again()
            except DeviceError as error:
                if time.monotonic() - gone > self.settings.reconnect:
                    raise DeviceError(
                        f"{self.name}: {self._device!r} was gone and did not come back within "
                        f"{self.settings.reconnect:g} s ({error}); check cable and power, or raise "
                        "'reconnect'"
                    ) from error
                pause = min(2 * pause, LAST_TRY)
                continue
            self._gone_s += time.monotonic() - gone
            self.log.warning("%s is back after %.1f s", self._device, time.monotonic() - gone)
            return

    def _open_again(self) -> None:
        look_again(self._sound)
        wanted = self.settings.device
        number = choose_device(
            self._sound, self.name, self._device if isinstance(wanted, int) else wanted, "input"
        )
        self._stream = self._started(number)

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        self._closed = True  # first: else produce may take the lock again and again
        if hasattr(self, "_using"):
            with self._using:  # for at most the time that a block is waited for
                self._drop_stream()
                if self._ring is not None:
                    self._ring.close()
                    self._ring = None

    def snapshot(self) -> dict[str, Any]:
        return {
            "next": self._next,
            "at": time.monotonic_ns(),
            "packets": self._packets,
            "frames": self._frames,
            "gone": self._gone_s,
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        ring = self._ring
        assert ring is not None
        self._packets, self._frames = int(state["packets"]), int(state["frames"])
        self._gone_s = float(state["gone"])
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}
        away = max(0, time.monotonic_ns() - int(state["at"]))
        self._next = int(state["next"]) + away * self._rate // 1_000_000_000
        with self._using:  # the stream runs already: begin again with the index that it has now
            self._drop_stream()
            ring.close()
            s = self.settings
            self._ring = ring = InputRing(self._rate, s.channels, s.block_size, s.queue)
            ring.index = self._next
            ring.late = int(state["overflow_late"])
            ring.device = int(state["overflow_device"])
            ring.lost, ring.dropped = int(state["lost"]), int(state["queue_full"])
            number = choose_device(self._sound, self.name, s.device, "input")
            self._stream = self._started(number)

    def results(self) -> dict[str, Any]:
        """Device, rate (Hz), channels, what was given out, PortAudio's latency from the device to
        the callback (ms, as it says), and how long the device was gone (s).
        """  # fmt: skip
        self._count()
        return {
            "device": self._device,
            "rate": self._rate,
            "channels": self.settings.channels,
            "frames": self._frames,
            "packets": self._packets,
            "latency_ms": round(1000 * self._latency, 3),
            "disconnected_s": round(self._gone_s, 3),
        }
