"""What a pulse goes out by: a serial port, a GPIO line, a ZeroMQ socket, or nothing.

An actuator is opened switched off, and is switched off again when it is closed. Its methods raise
DeviceError and nothing else.
"""

from __future__ import annotations

import errno
from typing import Annotated, Any, Literal, Protocol

import msgspec

from streamflow.errors import DeviceError, TransportError
from streamflow.node import Positive, Settings
from streamflow.sockets import MessageSocket

WRITE_SECONDS = 0.1  # how long a serial port may take a pulse's bytes before it counts as broken


class SerialPort(Settings, frozen=True, kw_only=True):
    """A serial port that is told by bytes, or by one of its two lines."""

    port: str  # a device such as /dev/ttyUSB0, or a URL of pyserial such as socket://host:port
    baud: Positive = 115200
    signal: Literal["bytes", "dtr", "rts"] = "bytes"
    on: Annotated[str, msgspec.Meta(min_length=1)] = (
        "1"  # what is written to switch on; each character is one byte (U+0000 to U+00FF)
    )
    off: str = "0"  # and to switch off; empty where the device ends the pulse by itself


class GpioLine(Settings, frozen=True, kw_only=True):
    """One line of a GPIO chip."""

    chip: str = "/dev/gpiochip0"
    line: int | str  # its offset, or its name
    active_low: bool = False


class PulseSocket(Settings, frozen=True, kw_only=True):
    """A ZeroMQ socket that sends one JSON message for on and one for off."""

    address: str  # such as tcp://127.0.0.1:5600 or ipc:///run/sorter
    pattern: Literal["pub", "push"] = "pub"
    bind: bool = True  # others connect to us; false: we connect to them


class Actuator(Protocol):
    """Something that is on or off."""

    def switch(self, is_on: bool, facts: dict[str, Any]) -> None:
        """Switch on or off; `facts` is what a receiver of messages is told about the pulse."""

    def close(self) -> None:
        """Switch off and release the device. Safe to call twice."""


class DryRun:
    """Nothing is driven."""

    def switch(self, is_on: bool, facts: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class SerialActuator:
    """A serial port, opened for this node alone."""

    def __init__(self, settings: SerialPort, node: str) -> None:
        try:
            import termios

            import serial
        except ImportError as error:
            raise DeviceError(
                f"{node}: a serial port needs pyserial: pip install 'streamflow-neuro[devices]'"
            ) from error
        self._node, self._settings = node, settings
        self._bytes = {True: self._encoded("on"), False: self._encoded("off")}
        # pyserial lets the system's own errors and those of numbers that do not fit pass
        self._errors = (OSError, ValueError, OverflowError, serial.SerialException, termios.error)
        self._port: Any = None
        try:
            self._port = serial.serial_for_url(
                settings.port, settings.baud, do_not_open=True, write_timeout=WRITE_SECONDS
            )
            if settings.signal != "bytes":  # before it opens: some drivers raise both lines then
                self._port.dtr = self._port.rts = False
            if settings.port.startswith("/"):
                self._port.exclusive = True
            self._port.open()
            self._write(False)
        except self._errors as error:
            if self._port is not None:
                self._port.close()
            raise self._broken("cannot open", error) from error

    def switch(self, is_on: bool, facts: dict[str, Any]) -> None:
        try:
            self._write(is_on)
        except self._errors as error:
            raise self._broken("cannot write to", error) from error

    def close(self) -> None:
        if self._port.is_open:
            try:
                self._write(False)
            except self._errors as error:
                raise self._broken("cannot switch off at", error) from error
            finally:
                self._port.close()

    def _write(self, is_on: bool) -> None:
        match self._settings.signal:
            case "dtr":
                self._port.dtr = is_on
            case "rts":
                self._port.rts = is_on
            case _ if self._bytes[is_on]:
                self._port.write(self._bytes[is_on])

    def _encoded(self, name: str) -> bytes:
        text: str = getattr(self._settings, name)
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError as error:
            raise DeviceError(
                f"{self._node}: settings: serial.{name} {text!r}; expected characters from U+0000 "
                'to U+00FF, each one byte: write others as their bytes, such as "\\xc3\\xa4"'
            ) from error

    def _broken(self, verb: str, error: Exception) -> DeviceError:
        return DeviceError(
            f"{self._node}: {verb} serial port {self._settings.port}: {error}; expected a port "
            "that is plugged in, that you may write to and no other program holds"
        )


class GpioActuator:
    """A GPIO line, requested as an output that is inactive."""

    def __init__(self, settings: GpioLine, node: str) -> None:
        try:
            import gpiod
            from gpiod.line import Direction, Value
        except ImportError as error:
            raise DeviceError(
                f"{node}: a GPIO line needs gpiod: pip install 'streamflow-neuro[devices]'"
            ) from error
        self._node, self._settings = node, settings
        self._values = {True: Value.ACTIVE, False: Value.INACTIVE}
        self._request: Any = None
        as_output = gpiod.LineSettings(
            direction=Direction.OUTPUT,
            active_low=settings.active_low,
            output_value=Value.INACTIVE,
        )
        try:
            self._request = gpiod.request_lines(
                settings.chip, consumer=f"streamflow {node}", config={settings.line: as_output}
            )
        except (OSError, ValueError) as error:
            raise self._broken("cannot use", error) from error

    def switch(self, is_on: bool, facts: dict[str, Any]) -> None:
        try:
            self._request.set_value(self._settings.line, self._values[is_on])
        except (OSError, ValueError) as error:
            raise self._broken("cannot set", error) from error

    def close(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            try:
                request.set_value(self._settings.line, self._values[False])
            except (OSError, ValueError) as error:
                raise self._broken("cannot switch off", error) from error
            finally:
                request.release()

    def _broken(self, verb: str, error: Exception) -> DeviceError:
        busy = isinstance(error, OSError) and error.errno == errno.EBUSY
        found = "another program holds it" if busy else str(error)
        return DeviceError(
            f"{self._node}: {verb} line {self._settings.line!r} of {self._settings.chip}: {found}; "
            "expected a free line of a GPIO chip that you may write to (see gpioinfo)"
        )


class MessageActuator:
    """Messages to other programs: `{"pulse": "on", ...}` and `{"pulse": "off", ...}`."""

    def __init__(self, settings: PulseSocket, node: str) -> None:
        self._node, self._settings = node, settings
        self._is_on: dict[str, Any] | None = None
        try:
            self._socket = MessageSocket(settings.pattern, settings.address, bind=settings.bind)
        except TransportError as error:
            raise DeviceError(f"{node}: {error}") from error

    def switch(self, is_on: bool, facts: dict[str, Any]) -> None:
        message = msgspec.json.encode({"pulse": "on" if is_on else "off", **facts})
        if not self._socket.send(message):
            raise DeviceError(
                f"{self._node}: no program takes messages at {self._settings.address}; expected "
                "one that pulls there: start it before the graph"
            )
        self._is_on = facts if is_on else None

    def close(self) -> None:
        facts, self._is_on = self._is_on, None
        try:
            if facts is not None:
                self.switch(False, facts)
        finally:
            self._socket.close()
