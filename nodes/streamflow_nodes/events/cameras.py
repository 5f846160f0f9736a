"""Event cameras on USB: opening one, what it delivers, and what is wrong when it does not.

A `Camera` is opened, read until it is unplugged, and closed; it may be opened again. `Inivation`
speaks to iniVation cameras through dv-processing, `Prophesee` to EVK3 HD and EVK4 through
neuromorphic-drivers. The node `event_camera` knows nothing but the interface.
"""

from __future__ import annotations

import datetime
import importlib
import sys
import time
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError

from ..kernels import evt

EventWords = NDArray[np.int64]
Region = tuple[int, int, int, int]  # x, y of the upper left corner, width, height (pixels)

UDEV = (
    "https://docs.inivation.com shows iniVation's udev rule; "
    "neuromorphic-drivers-install-udev-rules installs Prophesee's"
)
USB_BUS = Path("/dev/bus/usb")
LIMITER_PERIOD = 200  # us: the longest period of Prophesee's event-rate controller
POLL = 0.0005  # s between looks at a driver that cannot wait
WAIT = 0.005  # s that a driver which can wait does so at a time
# dv-processing's calls for what is not asked for; a model has those of what it delivers
SWITCHES = (
    "setFramesRunning", "setImuRunningAccelerometer", "setImuRunningGyroscope",
    "setImuRunningTemperature",
)  # fmt: skip


class Unplugged(Exception):
    """The camera no longer delivers; the message is the driver's."""


@dataclass(frozen=True)
class Found:
    """A camera that could be opened."""

    driver: str
    model: str
    serial: str
    descriptor: Any = None
    problem: str | None = None
    """Why the driver could not look further into it, such as missing permission."""

    def __str__(self) -> str:
        return f"{self.model} {self.serial or 'without a serial number'}"


@dataclass(frozen=True)
class Wanted:
    """What the settings ask of a camera."""

    biases: dict[str, int] = field(default_factory=dict)
    region: Region | None = None
    rate_limit: int | None = None
    """Events per second above which the camera drops events itself."""
    interval: float = 0.001
    """Seconds of data that a driver should hand over at once, where it asks."""


@dataclass
class Read:
    """What one read brought."""

    words: EventWords
    """(2 n,) int64, fresh: events with the camera's times."""
    reached: int | None = None
    """The camera's time (us) up to which everything was delivered, where the driver knows it."""
    faults: dict[str, int] = field(default_factory=dict)
    """What the driver says was lost or wrong, by the node's names of faults."""


class Camera(Protocol):
    """One camera behind its driver."""

    faults: ClassVar[tuple[str, ...]]
    """The names that `Read.faults` may have."""

    @classmethod
    def find(cls) -> list[Found]:
        """The cameras of this driver on the bus. DeviceError when its library is missing."""

    def open(self, found: Found, wanted: Wanted) -> tuple[int, int]:
        """Start the camera; width and height (pixels).

        DeviceError when it cannot do what is wanted, Unplugged when it cannot be opened now.
        """

    def read(self, seconds: float) -> Read:
        """What has come, after at most about `seconds`; Unplugged when the camera is gone."""

    def close(self) -> None:
        """Let the camera go; nothing when it is not open."""


def library(module: str, serves: str) -> Any:
    """A driver's module; DeviceError with the extra to install when it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DeviceError(
            f"{serves} need {module.replace('_', '-')}: pip install 'streamflow-neuro[events]'"
        ) from error


def choose(found: list[Found], device: str, serial: str | None) -> Found:
    """The one camera that the settings mean; DeviceError when that is none or several."""
    fitting = [camera for camera in found if serial in (None, camera.serial)]
    what = {"auto": "iniVation or Prophesee camera", "inivation": "iniVation camera"}.get(
        device, "Prophesee EVK3 HD or EVK4"
    ) + (f" with the serial number {serial}" if serial else "")
    there = ", ".join(map(str, found)) or "none"
    if not found and sys.platform == "linux" and not USB_BUS.exists():
        there = f"none, and no USB bus: {USB_BUS} is missing, as in a container without devices"
    if not fitting:
        raise DeviceError(
            f"event camera: no {what} on the USB bus (found: {there}); expected one: check cable "
            f"and power, and that your user may open USB devices ({UDEV}; plug it in again after)"
        )
    if len(fitting) > 1:
        raise DeviceError(
            f"event camera: several cameras fit ({', '.join(map(str, fitting))}); expected one: "
            "name it by the setting 'serial'"
        )
    if fitting[0].problem:
        raise DeviceError(
            f"event camera: {fitting[0]} is there and cannot be opened ({fitting[0].problem}); "
            f"expected permission to use it: {UDEV}; plug it in again after"
        )
    return fitting[0]


def _first_words(error: Exception) -> str:
    """What a driver's error says, without the stack trace that dv-processing appends."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line.partition("RuntimeError: ")[2] for line in lines if "RuntimeError: " in line]
    return (told or lines or [type(error).__name__])[0]


def _no_bus(driver: str, error: Exception, other: str) -> DeviceError:
    return DeviceError(
        f"event camera: {driver} cannot look at the USB bus ({_first_words(error)}); expected "
        f"permission to: {UDEV}; or set 'device' to {other!r}"
    )


def _refused(found: Found, setting: str, which: str) -> DeviceError:
    return DeviceError(
        f"event camera: {found} has no '{setting}' that its driver can set; {which}: leave it out"
    )


def _check_region(found: Found, region: Region, width: int, height: int) -> None:
    x, y, across, down = region
    if min(x, y) < 0 or min(across, down) < 1 or x + across > width or y + down > height:
        raise DeviceError(
            f"event camera: region {list(region)} does not lie on the {width}x{height} pixels of "
            f"{found}; expected [x, y, width, height] within them"
        )


class Inivation:
    """An iniVation camera through dv-processing 2: DAVIS, DVXplorer, DVXplorer M, DVS128.

    dv-processing gives times in microseconds since 1970, and no word of what the camera or USB
    dropped. Only events are asked for: frames and inertial samples are switched off.
    """

    faults: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._camera: Any = None

    @classmethod
    def find(cls) -> list[Found]:
        camera = library("dv_processing", "iniVation cameras").io.camera
        try:
            listed = camera.discover()
        except RuntimeError as error:
            raise _no_bus("dv-processing", error, "prophesee") from error
        return [
            Found("inivation", each.cameraModel.name, each.serialNumber, each) for each in listed
        ]

    def open(self, found: Found, wanted: Wanted) -> tuple[int, int]:
        camera = library("dv_processing", "iniVation cameras").io.camera
        if wanted.rate_limit is not None:
            raise _refused(found, "rate_limit", "Prophesee EVK3 HD and EVK4 have it")
        try:
            opened = camera.open(found.descriptor)
            self.take(opened)
            width, height = opened.getEventResolution()
            _set_dv_biases(opened, found, wanted.biases)
            if wanted.region is not None:
                _check_region(found, wanted.region, width, height)
                opened.setCropArea(wanted.region)
            opened.setTimeInterval(datetime.timedelta(seconds=wanted.interval))
            for switch in SWITCHES:
                if hasattr(opened, switch):
                    getattr(opened, switch)(False)
        except (RuntimeError, IndexError) as error:
            raise Unplugged(_first_words(error)) from error
        return int(width), int(height)

    def take(self, camera: Any) -> None:
        """Read from `camera`, an open dv-processing input of events."""
        self._camera = camera

    def read(self, seconds: float) -> Read:
        end = time.monotonic() + seconds
        while (batch := self._next()) is None:
            if time.monotonic() >= end:
                return Read(np.empty(0, np.int64))
            time.sleep(POLL)  # the driver has no call that waits
        return Read(batch.numpy().view(np.int64))

    def _next(self) -> Any:
        try:
            batch = self._camera.getNextEventBatch()
        except RuntimeError as error:
            raise Unplugged(_first_words(error)) from error
        if batch is None and not self._camera.isRunning():
            raise Unplugged("it delivers nothing any more")
        return batch

    def close(self) -> None:
        self._camera = None  # the driver closes a camera that nobody refers to


def _set_dv_biases(camera: Any, found: Found, biases: dict[str, int]) -> None:
    """Set each bias by the name that the model has for it; DeviceError for a name it lacks."""
    known = dv_biases(camera)
    if unknown := [name for name in biases if name not in known]:
        raise _unknown_biases(found, unknown, list(known))
    for name, value in biases.items():
        try:
            known[name](value)
        except (RuntimeError, ValueError, TypeError) as error:
            raise DeviceError(
                f"event camera: {found} refuses {value} for the bias {name!r} "
                f"({_first_words(error)}); expected a value in its range"
            ) from error


def dv_biases(camera: Any) -> dict[str, Any]:
    """The biases that a dv-processing camera has, each with the call that sets it.

    DVXplorer: `contrast_threshold_on` and `..._off`. DVS128: its own names in lower case. DAVIS346
    has a coarse (0 to 7) and a fine value (0 to 255) each: `on` is 256 coarse + fine.
    """
    if hasattr(camera, "setContrastThresholdOn"):
        return {
            "contrast_threshold_on": camera.setContrastThresholdOn,
            "contrast_threshold_off": camera.setContrastThresholdOff,
        }
    if hasattr(camera, "setBias"):
        return {
            name.lower(): lambda value, bias=bias: camera.setBias(bias, value)
            for name, bias in type(camera).Bias.__members__.items()
        }
    if getattr(camera, "getSensorModel", lambda: None)() == _davis346(camera):
        return {
            name.lower(): lambda value, bias=bias: camera.setDavis346BiasCoarseFine(
                bias, value // 256, value % 256
            )
            for name, bias in type(camera).Davis346BiasCF.__members__.items()
        }
    return {}


def _davis346(camera: Any) -> Any:
    return getattr(getattr(type(camera), "SensorModel", None), "DAVIS346", "no such model")


def _unknown_biases(found: Found, unknown: list[str], known: list[str]) -> DeviceError:
    return DeviceError(
        f"event camera: {found} has no bias {', '.join(map(repr, unknown))}; expected one of: "
        f"{', '.join(known) or 'none that its driver can set'}"
    )


class Prophesee:
    """A Prophesee EVK3 HD or EVK4 through neuromorphic-drivers, read as raw EVT3.

    The driver hands over USB packets; this package's own decoder makes events of them. Times begin
    near 0 when the camera is opened. The driver counts USB packets that it had to drop because
    they were not fetched in time (`usb_dropped`); from there to the next words that say time and
    row, events have none (`untimed`).
    """

    faults: ClassVar[tuple[str, ...]] = ("usb_dropped", "untimed", "unknown_word")

    def __init__(self) -> None:
        self._device: Any = None
        self._registers = evt.new_registers()
        self._dropped = 0
        self._odd, self._lost = b"", False  # half a word; whether time and row are unknown
        words = np.frombuffer(b"", "<u2")
        evt.count_evt3(words)
        evt.decode_evt3(words, evt.new_registers(), np.empty(0, np.int64))

    @classmethod
    def find(cls) -> list[Found]:
        drivers = library("neuromorphic_drivers", "Prophesee cameras")
        models = (drivers.Name.PROPHESEE_EVK3_HD, drivers.Name.PROPHESEE_EVK4)
        try:
            listed = drivers.list_devices()
        except RuntimeError as error:
            if "Other error" in str(error):  # what libusb says where there is no USB bus at all
                return []
            raise _no_bus("neuromorphic-drivers", error, "inivation") from error
        return [
            Found("prophesee", each.name.value, each.serial or "", each.name, each.error)
            for each in listed
            if each.name in models
        ]

    def open(self, found: Found, wanted: Wanted) -> tuple[int, int]:
        drivers = library("neuromorphic_drivers", "Prophesee cameras")
        family = (
            drivers.prophesee_evk4
            if found.descriptor == drivers.Name.PROPHESEE_EVK4
            else drivers.prophesee_evk3_hd
        )
        configuration = prophesee_configuration(family, found, wanted)
        try:
            device = drivers.open(
                # the biases' bounds are known only of an open camera
                configuration=replace(configuration, biases=family.Biases()),
                iterator_timeout=WAIT,
                raw=True,
                serial=found.serial or None,
            )
            self.take(device)
            if wanted.biases:
                _check_bounds(found, wanted.biases, device.biases_bounds())
                device.update_configuration(configuration)
            properties = device.properties()
        except RuntimeError as error:
            raise Unplugged(_first_words(error)) from error
        return int(properties.width), int(properties.height)

    def take(self, device: Any) -> None:
        """Read from `device`, opened in raw mode and with a time limit of its own."""
        self._device, self._dropped, self._odd, self._lost = device, 0, b"", False
        self._registers = evt.new_registers()

    def read(self, seconds: float) -> Read:
        end = time.monotonic() + seconds
        while True:
            try:
                status, data = next(self._device)
            except (RuntimeError, StopIteration) as error:
                raise Unplugged(_first_words(error)) from error
            if status.ring is not None and data:
                return self._decoded(status.ring, data)
            if time.monotonic() >= end:
                return Read(np.empty(0, np.int64))

    def _decoded(self, ring: Any, data: bytes) -> Read:
        """The events of USB packets joined to `data`, cut where the driver dropped some."""
        registers = self._registers
        before = {name: int(registers[at]) for name, at in _COUNTED.items()}
        cuts = [0, *sorted(ring.overflow_indices or []), len(data)]
        pieces, lost = [], 0
        for number, (start, stop) in enumerate(pairwise(cuts)):
            self._odd = b"" if number else self._odd
            piece = self._odd + data[start:stop]
            whole = len(piece) & ~1
            self._odd = piece[whole:]
            words = np.frombuffer(piece[:whole], "<u2")
            self._lost |= number > 0
            if self._lost:
                words, left_out, known = _after_gap(words)
                self._lost, lost = not known, lost + left_out
            words.flags.writeable = False
            events = np.empty(2 * evt.count_evt3(words), np.int64)
            pieces.append(events[: 2 * evt.decode_evt3(words, registers, events)])
        faults = {name: int(registers[at]) - before[name] for name, at in _COUNTED.items()}
        faults["untimed"] += lost
        faults["usb_dropped"] = int(ring.dropped_packets) - self._dropped
        self._dropped = int(ring.dropped_packets)
        reached = int(registers[evt.TIME])
        events = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return Read(events, reached if reached >= 0 else None, faults)

    def close(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.close()


_COUNTED = {"untimed": evt.UNTIMED, "unknown_word": evt.UNKNOWN}
ADDRESS_Y, TIME_LOW, TIME_HIGH = 0, 6, 8  # types of EVT3 words that later events rely on


def _after_gap(words: NDArray[Any]) -> tuple[NDArray[Any], int, bool]:
    """What can be decoded of words after a gap, the events left out, and whether anything can be.

    Time and row are those before the gap until both halves of a time, and then a row, have come.
    """
    kinds, at = words >> 12, 0
    for kind in (TIME_HIGH, TIME_LOW, ADDRESS_Y):
        found = np.flatnonzero(kinds[at:] == kind)
        if not len(found):
            return words[:0], int(evt.count_evt3(words)), False
        at += int(found[0])
    head = words[:at][np.isin(kinds[:at], (TIME_HIGH, TIME_LOW))]
    first = int(np.flatnonzero(head >> 12 == TIME_HIGH)[0])
    return np.concatenate([head[first:], words[at:]]), int(evt.count_evt3(words[:at])), True


def prophesee_configuration(family: Any, found: Found, wanted: Wanted) -> Any:
    """The driver's configuration for what is wanted; `family` is the driver's module of the model.

    DeviceError for a bias the model lacks or a region outside its sensor.
    """
    names = [each.name for each in fields(family.Biases)]
    if unknown := [name for name in wanted.biases if name not in names]:
        raise _unknown_biases(found, unknown, names)
    configuration = family.Configuration(biases=family.Biases(**wanted.biases))
    if wanted.region is not None:
        _check_region(found, wanted.region, family.Properties.width, family.Properties.height)
        x, y, width, height = wanted.region
        mask = library("neuromorphic_drivers", "Prophesee cameras").RowColumnMask(
            width=family.Properties.width, height=family.Properties.height, set=True
        )
        mask.clear_rectangle(x=x, y=y, width=width, height=height)
        # a pixel is off when its column or its row is masked
        configuration.x_mask, configuration.y_mask = mask.x_mask(), mask.y_mask()
        configuration.mask_intersection_only = False
    if wanted.rate_limit is not None:
        configuration.rate_limiter = family.RateLimiter(
            reference_period_us=LIMITER_PERIOD,
            maximum_events_per_period=max(1, wanted.rate_limit * LIMITER_PERIOD // 1_000_000),
        )
    return configuration


def _check_bounds(found: Found, biases: dict[str, int], bounds: Any) -> None:
    for name, value in biases.items():
        bound = getattr(bounds, name)
        if not bound.minimum <= value <= bound.maximum:
            raise DeviceError(
                f"event camera: the bias {name!r} of {found} cannot be {value}; expected "
                f"{bound.minimum} to {bound.maximum}"
            )
