"""`loudspeaker`: sound for an output device, as it comes."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from streamflow import DeviceError, In, Node, Packet, Samples, Settings
from streamflow.node import Seconds

from ..audio.devices import (
    FIRST_TRY,
    LAST_TRY,
    STALL,
    OutputRing,
    Stream,
    choose_device,
    look_again,
    portaudio,
)
from ..audio.streams import FAULTS, SampleStream

PATIENCE = 0.05  # s between looks at whether the device still plays


class LoudspeakerSettings(Settings, frozen=True, kw_only=True):
    """Which device, how much it keeps in store, and how long it may be unplugged."""

    device: str | int | None = None
    """Its number or a part of its name, as the error lists them; by default the system's."""
    block_size: Annotated[int, msgspec.Meta(ge=16, le=1 << 16)] = 256
    """Frames that the device asks for at a time."""
    latency: Seconds | None = None
    """What PortAudio is asked for between callback and device (s); by default the lowest that it
    recommends. More helps against `underflow_late`."""
    buffer: Seconds = 0.1
    """How much waits before playing begins (s): how late samples may come without a pause."""
    longest: Seconds = 0.5
    """The most that waits (s)."""
    when_full: Literal["auto", "wait", "skip"] = "auto"
    """When `longest` waits: the graph waits, or the oldest is left out until `buffer` waits.
    `auto` skips with `clock: realtime`, where what comes cannot wait."""
    reconnect: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """How long a device that is gone is waited for (s) before the run fails."""


class Loudspeaker(Node[LoudspeakerSettings]):
    """Plays samples on an output device by PortAudio.

    Needs the extra `audio` and the library PortAudio (`apt install libportaudio2`). The device is
    opened with the rate and the channels of the first packet. Playing begins when `buffer` waits,
    and again whenever nothing was left. With `skip` the delay stays below `longest` whatever comes,
    also when the sender's clock runs faster than the device's; with `wait` files are played whole.
    At the end what waits is played.

    A device is taken to be gone when it has not called for half a second. What comes meanwhile is
    left out (`not_played`), and it is opened again as `microphone` says.

    Faults: `underflow_late` (times that the device ran dry because the callback came too late: this
    machine or process was busy; raise `latency`), `underflow_device` (times that it did though
    callbacks came in time), `starved` (frames of silence because nothing had come: raise
    `buffer`), `skipped` (frames left out, with `skip`), `not_played` (frames), `clipped` (samples
    beyond full scale, limited), `missing_sample` (frames that never came, played as silence),
    `repeated_sample` (frames that came before, left out), `not_finite` (samples that are not
    numbers, played as silence), `disconnected`.

    Emits nothing. Keeps the index of the next sample; what waits in a process that dies is not
    played.

        play: {kind: loudspeaker, inputs: {samples: clean.samples}, settings: {buffer: 0.06}}
    """

    samples = In(Samples)
    faults = (
        "underflow_late", "underflow_device", "starved", "skipped", "not_played", "clipped",
        *FAULTS, "disconnected",
    )  # fmt: skip

    def open(self) -> None:
        s = self.settings
        self._sound = portaudio(self.name)
        self._number = choose_device(self._sound, self.name, s.device, "output")
        self._device = str(self._sound.query_devices(self._number)["name"])
        self._samples = SampleStream(self)
        self._skips = s.when_full == "skip" or (
            s.when_full == "auto" and self.clock.pace == "realtime"
        )
        self._ring: OutputRing | None = None
        self._stream: Stream | None = None
        self._played = 0
        self._latency = self._gone_s = 0.0
        self._gone: float | None = None  # when the device was found to be gone
        self._retry, self._pause = 0.0, FIRST_TRY
        self._before = dict.fromkeys(self.faults, 0)  # counted by a predecessor

    def on_samples(self, packet: Packet[Samples]) -> None:
        for frames in self._samples.take(packet):
            if self._ring is None:
                s = self.settings
                self._ring = OutputRing(
                    self._samples.rate, self._samples.channels, s.block_size, s.buffer,
                    max(s.longest, s.buffer),
                )  # fmt: skip
                self._start()
            limited = np.clip(frames, -1, 1)
            self.count_fault("clipped", int(np.count_nonzero(limited != frames)))
            self._play(limited)
        self._count()

    def _start(self) -> None:
        assert self._ring is not None
        latency = self.settings.latency or "low"
        self._stream = Stream(self._sound, self.name, "output", self._number, self._ring, latency)
        self._device, self._latency = self._stream.name, self._stream.latency

    def _play(self, frames: Any) -> None:
        """Hand samples to the callback, waiting for room or skipping where there is none."""
        ring = self._ring
        assert ring is not None
        while len(frames):
            if not self._is_there():
                self.count_fault("not_played", len(frames))
                return
            count = ring.put(frames)
            self._played += count
            frames = frames[count:]
            if len(frames):
                if self._skips:
                    ring.skip()
                ring.wait(PATIENCE)

    def _is_there(self) -> bool:
        """Whether the device plays, after an attempt to open it again where it does not."""
        ring = self._ring
        assert ring is not None
        if self._gone is None:
            assert self._stream is not None
            if self._stream.is_running and ring.silent_for() < STALL:
                return True
            self.count_fault("disconnected")
            self.log.warning("%s does not answer: waiting for it", self._device)
            self._gone, self._retry, self._pause = time.monotonic(), 0.0, FIRST_TRY
            self._stream.close()
            ring.skip()
        return self._open_again()

    def _open_again(self) -> bool:
        assert self._gone is not None
        if time.monotonic() < self._retry:
            return False
        try:
            look_again(self._sound)
            wanted = self.settings.device
            self._number = choose_device(
                self._sound, self.name, self._device if isinstance(wanted, int) else wanted,
                "output",
            )  # fmt: skip
            self._start()
        except DeviceError as error:
            if time.monotonic() - self._gone > self.settings.reconnect:
                raise DeviceError(
                    f"{self.name}: {self._device!r} was gone and did not come back within "
                    f"{self.settings.reconnect:g} s ({error}); check cable and power, or raise "
                    "'reconnect'"
                ) from error
            self._retry = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LAST_TRY)
            return False
        self._gone_s += time.monotonic() - self._gone
        self.log.warning("%s is back", self._device)
        self._gone = None
        return True

    def _count(self) -> None:
        ring = self._ring
        if ring is not None:
            counts = {"underflow_late": ring.late, "underflow_device": ring.device,
                      "starved": ring.starved, "skipped": ring.skipped}  # fmt: skip
            for fault, times in counts.items():
                self.fault_counts[fault] = self._before[fault] + times

    def finish(self) -> None:
        ring = self._ring
        if ring is None:
            return
        ring.is_ending = True
        while ring.waiting and self._stream is not None and self._stream.is_running:
            if ring.silent_for() > STALL:
                self.count_fault("disconnected")
                break
            ring.wait(PATIENCE)
        else:
            if self._stream is not None:
                self._stream.drain()
        self.count_fault("not_played", ring.waiting)
        self._count()

    def close(self) -> None:
        if hasattr(self, "_ring"):
            if self._stream is not None:
                self._stream.close()
            if self._ring is not None:
                self._ring.close()
                self._ring = None

    def snapshot(self) -> dict[str, Any]:
        self._count()
        return {
            **self._samples.snapshot(),
            "played": self._played,
            "gone": self._gone_s,
            **{f"fault_{fault}": times for fault, times in self.fault_counts.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._samples.restore(state)
        self._played, self._gone_s = int(state["played"]), float(state["gone"])
        self.fault_counts = {fault: int(state[f"fault_{fault}"]) for fault in self.faults}
        self._before = dict(self.fault_counts)

    def results(self) -> dict[str, Any]:
        """Device, frames given to it, PortAudio's latency from the callback to the device (ms, as
        it says), and how long the device was gone (s).
        """  # fmt: skip
        return {
            "device": self._device,
            "rate": self._samples.rate,
            "channels": self._samples.channels,
            "frames": self._played,
            "latency_ms": round(1000 * self._latency, 3),
            "disconnected_s": round(self._gone_s, 3),
        }
