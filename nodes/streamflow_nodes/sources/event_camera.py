"""`event_camera`: events of a camera on USB, as they happen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from streamflow import DeviceError, Events, Node, Out, Settings
from streamflow.node import Emission, Positive, Seconds

from ..events.cameras import (
    Camera,
    Found,
    Inivation,
    Prophesee,
    Read,
    Region,
    Unplugged,
    Wanted,
    choose,
)
from ..events.live import FAULTS, LiveLimits, LiveStream
from ..spans import microseconds

LONGEST = 60_000_000  # us: a camera's time that leaps further is a fault of the camera's
PATIENCE = 0.01  # s that one read may wait: the run's end must be heard
FIRST_TRY, LAST_TRY = 0.1, 2.0  # s between attempts to open a camera again, doubled each time
TICK = 0.01  # s between looks at the clock meanwhile

Pixel = Annotated[int, msgspec.Meta(ge=0, le=32767)]


class EventCameraSettings(Settings, frozen=True, kw_only=True):
    """Which camera, how it is set, how its events are cut, and how long it may be unplugged."""

    device: Literal["auto", "inivation", "prophesee"] = "auto"
    """Whose camera; `auto` takes the only one there is."""
    serial: str | None = None
    """Its serial number, where there are several."""
    packet_duration: Seconds = 0.0005
    """Stream time a packet covers (s), in whole microseconds."""
    biases: dict[str, int] = {}
    """Biases by the names and in the units that the driver has for the model."""
    region: Annotated[tuple[Pixel, ...], msgspec.Meta(min_length=4, max_length=4)] | None = None
    """Rectangle of pixels that the camera reads out: [x, y, width, height]."""
    rate_limit: Positive | None = None
    """Events per second above which the camera itself drops events (Prophesee's event-rate control,
    in steps of 5000)."""
    silence: Seconds = 0.02
    """After how much silence stream time goes on by this machine's clock (s): longer than events
    may be under way."""
    reconnect: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """How long an unplugged camera is waited for (s) before the run fails."""
    backward_time: Literal["clamp", "drop"] = "clamp"
    """An event older than stream time: raised to it, or left out."""


class EventCamera(Node[EventCameraSettings]):
    """Events of an iniVation or Prophesee camera, in packets that each cover `[k d, (k + 1) d)`.

    iniVation cameras are read by dv-processing, Prophesee EVK3 HD and EVK4 by neuromorphic-drivers
    (the extra `events`). `y` grows downwards. Stream time is the camera's: since 1970 with
    dv-processing, since it was opened with Prophesee. In silence empty packets let stream time
    pass.

    A camera that is unplugged is opened again when it is back (the same one: its serial number is
    kept), after 0.1 s, then twice as long each time, up to 2 s, for at most `reconnect`. Meanwhile
    stream time goes on by this machine's clock, and the camera's new times are moved so that its
    first event falls on it: stream time never goes back, and a gap is as long as it was.

    Faults: `disconnected` (times it was unplugged; the results say for how long), `usb_dropped`
    (USB packets that neuromorphic-drivers dropped because they were not fetched in time;
    dv-processing does not tell), `outside_sensor` (dropped), `outside_region` (given out: the
    camera did not obey), `time_backward` (raised, or dropped), `time_jump` (more than 0.1 s back or
    60 s ahead: dropped), `time_restart` (such a time went on and was taken over), `untimed` and
    `unknown_word` (EVT3).

    State: stream time. A restarted node goes on from there; what the camera delivered meanwhile is
    lost.

        camera: {kind: event_camera, settings: {device: prophesee, packet_duration: 0.0005}}
    """

    events = Out(Events)
    faults = (*FAULTS, "disconnected", "outside_region", *Prophesee.faults)

    drivers: ClassVar[dict[str, type[Camera]]] = {
        "inivation": Inivation,
        "prophesee": Prophesee,
    }

    def open(self) -> None:
        s = self.settings
        duration = microseconds(self, "packet_duration", s.packet_duration)
        silence = microseconds(self, "silence", s.silence)
        self._stream = LiveStream(
            self,
            LiveLimits(
                duration=duration,
                longest=LONGEST,
                silence=silence,
                drop_backward=s.backward_time == "drop",
            ),
        )
        self._region: Region | None = None
        if s.region is not None:
            x, y, width, height = s.region
            self._region = (x, y, width, height)
        # what the driver still gathers is not silence
        interval = max(1000, min(duration, silence // 2)) / 1_000_000
        self._wanted = Wanted(s.biases, self._region, s.rate_limit, interval)
        self._using = threading.Lock()  # the driver, between produce's thread and close
        self._closed = False
        self._packets = self._events = 0
        self._unplugged_s = 0.0
        self._found = choose(self._look(), s.device, s.serial)
        self._camera = self.drivers[self._found.driver]()
        try:
            self._size = self._camera.open(self._found, self._wanted)
        except Unplugged as error:
            raise DeviceError(
                f"event camera: {self._found} is there and cannot be opened ({error}); expected "
                "that no other program uses it and that your user may: see docs/devices.md"
            ) from error
        self.log.info("%s: %d x %d pixels", self._found, *self._size)

    def _look(self) -> list[Found]:
        device = self.settings.device
        chosen = self.drivers if device == "auto" else {device: self.drivers[device]}
        return [found for driver in chosen.values() for found in driver.find()]

    def produce(self) -> Iterator[Emission]:
        while not self.clock.stopped:
            try:
                with self._using:
                    if self._closed:
                        return
                    read = self._camera.read(PATIENCE)
            except Unplugged as error:
                yield from self._reconnect(error)
                continue
            now = time.monotonic_ns()
            self._take(read, now)
            yield from self._ready(now)
        for start, stop, array in self._stream.rest():
            yield self._emission(start, stop, array, time.monotonic_ns())

    def _take(self, read: Read, now: int) -> None:
        for fault, times in read.faults.items():
            self.count_fault(fault, times)
        if self._region is not None:
            self._check_region(read, *self._region)
        if len(read.words):
            group = np.array([len(read.words) // 2], np.int64)
            self._stream.add(read.words, group, now, self._size)
        if read.reached is not None:
            self._stream.reach(read.reached, now)

    def _check_region(self, read: Read, x: int, y: int, width: int, height: int) -> None:
        places = read.words[1::2]
        columns, rows = places & 0xFFFF, places >> 16 & 0xFFFF
        inside = (columns >= x) & (columns < x + width) & (rows >= y) & (rows < y + height)
        self.count_fault("outside_region", int(len(inside) - np.count_nonzero(inside)))

    def _ready(self, now: int) -> Iterator[Emission]:
        for start, stop, array in self._stream.slices(now):
            yield self._emission(start, stop, array, now)

    def _emission(self, start: int, stop: int, array: Any, now: int) -> Emission:
        self._packets += 1
        self._events += len(array)
        return self.events(Events(array, *self._size), start, stop, now)

    def _reconnect(self, reason: Unplugged) -> Iterator[Emission]:
        """Empty packets until the camera is open again; DeviceError when it does not come back."""
        self.count_fault("disconnected")
        self.log.warning("%s was unplugged (%s): waiting for it", self._found, reason)
        gone, pause, last = time.monotonic(), FIRST_TRY, str(reason)
        with self._using:
            self._camera.close()
        while not self.clock.stopped:
            again = time.monotonic() + pause
            while (now := time.monotonic()) < again and not self.clock.stopped:
                if now - gone > self.settings.reconnect:
                    raise DeviceError(
                        f"event camera: {self._found} was unplugged and did not come back within "
                        f"{self.settings.reconnect:g} s ({last}); expected it on the USB bus: "
                        "check cable and power, or raise 'reconnect'"
                    )
                yield from self._ready(time.monotonic_ns())
                time.sleep(TICK)
            try:
                self._open_again()
            except (Unplugged, DeviceError) as error:
                last, pause = str(error), min(2 * pause, LAST_TRY)
                continue
            self._stream.renew(time.monotonic_ns())
            self._unplugged_s += time.monotonic() - gone
            self.log.warning("%s is back after %.1f s", self._found, time.monotonic() - gone)
            return

    def _open_again(self) -> None:
        with self._using:
            if self._closed:
                return
            found = choose(self.drivers[self._found.driver].find(), self._found.driver,
                           self._found.serial)  # fmt: skip
            try:
                size = self._camera.open(found, self._wanted)
                if size != self._size:
                    raise DeviceError(
                        f"event camera: {found} came back with {size[0]}x{size[1]} pixels, not "
                        f"{self._size[0]}x{self._size[1]}; expected the same camera: start the "
                        "run again"
                    )
            except BaseException:
                self._camera.close()  # the next attempt must not find it in use
                raise

    def close(self) -> None:
        if hasattr(self, "_camera"):
            self._closed = True  # first: else produce may take the lock again and again
            with self._using:  # a read lasts milliseconds
                self._camera.close()

    def snapshot(self) -> dict[str, Any]:
        return {
            **self._stream.snapshot(),
            "packets": self._packets,
            "events": self._events,
            "unplugged": self._unplugged_s,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._packets, self._events = int(state["packets"]), int(state["events"])
        self._unplugged_s = float(state["unplugged"])
        self._stream.restore(state)
        self._stream.renew(time.monotonic_ns())

    def results(self) -> dict[str, Any]:
        """Camera, sensor, what was yielded, and how long the camera was unplugged (s)."""
        return {
            "driver": self._found.driver,
            "model": self._found.model,
            "serial": self._found.serial,
            "width": self._size[0],
            "height": self._size[1],
            "events": self._events,
            "packets": self._packets,
            "disconnected_s": round(self._unplugged_s, 3),
        }
