"""Runs any spiking network, from a NIR file, in the stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import (
    Emission,
    FilePath,
    In,
    Microseconds,
    Node,
    Out,
    Positive,
    Seconds,
    Settings,
)
from streamflow.packet import SPIKE, Events, Packet, Spikes, Tensor

from ..events.packets import words_of
from ..networks.backend import BackendName
from ..networks.nir_file import NetworkError
from ..networks.rules import Integrator, RecurrentStart, Reset, Rules
from ..networks.stepping import make_steppers, offsets_of
from ..networks.wiring import read_network
from ..spans import microseconds, span_of

_Int = NDArray[np.int64]
_NEVER = -(1 << 62)
AT_ONCE = 4096  # steps handed to the engine in one call: bounds what a long silence holds in memory


class SpikingNetworkSettings(Settings, frozen=True, kw_only=True):
    """Which network, the rules that its file does not say, and what goes in and out."""

    model: FilePath
    """A NIR file (.nir)."""
    dt: Seconds | None = None
    """Time step of the network, in the unit of its time constants (s); needed where it has any."""
    step: Seconds | None = None
    """Stream time of one step, whole microseconds; null: as `dt`."""
    integrator: Integrator = "euler"
    """euler: g = dt / tau. exact: g = 1 - exp(-dt / tau)."""
    reset: Reset = "value"
    """After a spike the membrane goes to v_reset (value), or down by the threshold (subtract)."""
    recurrent_delay: Positive = 1
    """Steps that an edge that closes a cycle takes."""
    synaptic_delay: Literal[0, 1] = 0
    """Steps before each connection: 0 as NIR says, 1 as Lava."""
    recurrent_start: RecurrentStart = "bias"
    """What recurrent connections give in the first step: their bias (snnTorch) or nothing (Norse).
    """  # fmt: skip
    backend: BackendName = "numba"
    """What runs it: our engine (numba), norse, or loihi2 (fixed point)."""
    tap: tuple[str, ...] = ()
    """Layers to give out, by their NIR names; none: the network's output."""
    give: tuple[Literal["spikes", "membrane", "rates"], ...] = ("spikes",)
    """Which outputs are made."""
    window: Microseconds = 10000
    """Stream time of one row of rates (us), a multiple of the step."""
    counting: Literal["count", "binary"] = "count"
    """What several events of one pixel and polarity in a step are: their number, or 1."""
    instances: Positive = 1
    """Networks side by side, each with a state of its own: along x for events, else by unit."""
    rest_after: Seconds | None = None
    """Silence after which the network is put to rest (s), whole steps; null: never."""


class SpikingNetwork(Node[SpikingNetworkSettings]):
    """What a spiking network makes of events, spikes or numbers, one time step after another.

    One of the inputs is connected: `events` (by polarity, y, x: the network's input is (2, height,
    width) or (1, height, width) of the sensor, which is not scaled: put a downsample node before
    it), `units` (spikes, of as many units as the network has inputs) or `values` (tensors of its
    input's shape; with the axis 'time' first one row for each step, else one step each). Events and
    units are gathered into steps [k step, (k + 1) step) of stream time; a step is run when stream
    time passes its end, also when nothing came. Every row of `values` is a step.

    Out go `spikes` of the tapped layers (timestamp: where the step begins; units are numbered
    through the taps in their order, and through the instances), `membrane` (time, unit): the
    potentials of tapped neurons after each step, and `rates` (time, unit): spikes per second in
    each `window`. Layers that give numbers rather than spikes are in membrane, and in rates as
    their sum per second; in `spikes` one appears when it is not 0. No packet where nothing spikes.

    A network that was trained on recordings begins each of them at rest. In a stream what one left
    in the membranes would drive the next, for ever in neurons that do not leak (IF). With
    `rest_after`, when no input has come for so long, all states go back to what they were before
    the first step. Silence is counted in steps of stream time; all `instances` share it; of
    `values`, a row of zeros is silence.

    The equations are in `networks/rules.py`; the rules stand in the results. The result does not
    depend on how the input was cut into packets. State: the network's, the open step, the open
    window, when the last input came. Events and units outside are left out and counted as
    `outside`; what is older than the open step counts in it, and as `late`.

        digits: {kind: spiking_network, inputs: {events: camera.events},
                 settings: {model: digits.nir, step: 0.001}}
    """

    events = In(Events, optional=True)
    units = In(Spikes, optional=True)
    values = In(Tensor, optional=True)
    spikes = Out(Spikes)
    membrane = Out(Tensor)
    rates = Out(Tensor)
    faults = ("outside", "late")

    def open(self) -> None:
        s = self.settings
        try:
            self._wiring = read_network(s.model)
            self._shape = self._wiring.only_input().output_shape
            self._inputs = self._wiring.only_input().size
            tap = s.tap or (self._output(),)
            rules = Rules(
                s.dt, s.integrator, s.reset, s.recurrent_delay, s.synaptic_delay, s.recurrent_start
            )
            self._check_tap(tap)
            self._steppers = make_steppers(s.backend, self._wiring, rules, tap, s.instances)
        except NetworkError as error:
            text = str(error)
            raise NodeError(self.name, text if s.model in text else f"{s.model}: {text}") from error
        units = self._wiring.units
        self._offsets = offsets_of(self._wiring, tap)
        self._width = sum(units[name].size for name in tap)
        self._step = self._whole("step", s.step if s.step is not None else s.dt)
        if "rates" in s.give and s.window % self._step:
            raise NodeError(
                self.name, f"settings: window {s.window} us is not a multiple of {self._step} us"
            )
        self._silence = self._silent_steps()
        if self._silence is not None:
            self._resting = [stepper.snapshot() for stepper in self._steppers]
        self._last = _NEVER  # step of the last input
        self._port: str | None = None
        self._start: int | None = None  # of the open step, us
        self._reached = 0  # where the data end so far
        self._cells: list[_Int] = []  # of the open step, instance * inputs + place
        self._window: int | None = None
        self._sums = np.zeros(s.instances * self._width)

    def _output(self) -> str:
        output = self._wiring.only_output().name
        return self._wiring.layer_before(output) or output

    def _check_tap(self, tap: tuple[str, ...]) -> None:
        known = [name for name, unit in self._wiring.units.items() if unit.kind != "Input"]
        for name in tap:
            if name not in known or tap.count(name) > 1:
                why = "is not a layer" if name not in known else "is there twice"
                raise NetworkError(f"tap {name!r} {why}; layers are: {', '.join(known)}")

    def _whole(self, what: str, seconds: float | None) -> int:
        if seconds is None:
            raise NodeError(
                self.name, "settings: step is missing; give the stream time of one step (s)"
            )
        step = microseconds(self, what, seconds)
        if abs(step - seconds * 1e6) > 1e-6 * step:
            raise NodeError(
                self.name,
                f"settings: {what} is {seconds} s, not a whole number of microseconds; give step",
            )
        return step

    def _silent_steps(self) -> int | None:
        """Steps of silence after which the network is put to rest."""
        seconds = self.settings.rest_after
        if seconds is None:
            return None
        steps, rest = divmod(self._whole("rest_after", seconds), self._step)
        if rest or not steps:
            raise NodeError(
                self.name,
                f"settings: rest_after {seconds} s is not a multiple of the step of {self._step} "
                "us",
            )
        return steps

    # --- what comes in

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        self._only("events")
        height, width = self._sensor(packet)
        words = words_of(self, packet)
        times, places = words[0::2], words[1::2]
        x, y = (places & 0xFFFF).astype(np.int16).astype(np.int64), (places >> 16) & 0xFFFF
        polarity = (places >> 32) & 0xFF
        inside = (x >= 0) & (x < width * self.settings.instances) & (y < height) & (polarity < 2)
        instance = x // width
        if self._inputs == height * width:
            polarity = np.zeros_like(polarity)
        cells = instance * self._inputs + (polarity * height + y) * width + x % width
        return self._gather(packet, times, cells, inside)

    def _sensor(self, packet: Packet[Events]) -> tuple[int, int]:
        """Height and width of the part of the sensor that one instance sees."""
        width, height = packet.data.width, packet.data.height
        count = self.settings.instances
        area = height * (width // count)
        planes = self._shape[0] if len(self._shape) == 3 else self._inputs // area
        shape = (planes, height, width // count)
        fits = shape == self._shape or (len(self._shape) < 3 and planes * area == self._inputs)
        if width % count or planes not in (1, 2) or not fits:
            raise NodeError(
                self.name,
                f"a sensor of {width}x{height} pixels and an input of {self._shape} (for "
                f"{count} instances); expected (2 or 1, height, width): put a downsample or crop "
                "node before this one",
                span=span_of(packet),
            )
        return height, width // count

    def on_units(self, packet: Packet[Spikes]) -> Iterator[Emission]:
        self._only("units")
        expected = self._inputs * self.settings.instances
        array = packet.data.array
        if packet.data.units != expected or array.dtype != SPIKE:
            raise NodeError(
                self.name,
                f"spikes of {packet.data.units} units; expected {expected}: {self._inputs} inputs "
                f"for each of {self.settings.instances} instances",
                span=span_of(packet),
            )
        cells = array["unit"]
        return self._gather(packet, array["timestamp"], cells, (cells >= 0) & (cells < expected))

    def _gather(
        self, packet: Packet[Any], times: _Int, cells: _Int, inside: NDArray[np.bool_]
    ) -> Iterator[Emission]:
        if not inside.all():
            self.count_fault("outside", int(len(inside) - inside.sum()))
            times, cells = times[inside], cells[inside]
        if self._start is None:
            self._begin(packet.start)
        assert self._start is not None  # begun
        step = self._step
        numbers = np.maximum(times // step, self._start // step)
        numbers = np.maximum.accumulate(numbers)
        if late := int((times // step < numbers).sum()):
            self.count_fault("late", late)
        self._reached = max(self._reached, packet.stop)
        first = self._start // step
        if not len(numbers) or numbers[-1] == first:
            self._cells.append(cells)
            return
        waiting = int(np.searchsorted(numbers, first, side="right"))
        self._cells.append(cells[:waiting])
        held = np.concatenate(self._cells)
        last = int(numbers[-1])
        open_from = int(np.searchsorted(numbers, last, side="left"))
        closed = np.concatenate([held, cells[waiting:open_from]])
        steps = np.concatenate([np.full(len(held), first), numbers[waiting:open_from]])
        self._cells = [cells[open_from:]]
        yield from self._run(first, last, steps, closed)

    def _begin(self, time: int) -> None:
        self._start = self.holds_from = time // self._step * self._step
        self._reached = max(self._reached, self._start)
        self._window = self._start // self.settings.window * self.settings.window
        if "rates" in self.settings.give:
            self.holds_from = self._window

    def on_values(self, packet: Packet[Tensor]) -> Iterator[Emission]:
        self._only("values")
        tensor, size = packet.data, self._inputs * self.settings.instances
        array = tensor.array
        rows = array if tensor.axes[:1] == ("time",) else array[None]
        if rows.size != len(rows) * size or array.dtype.kind not in "biuf":
            raise NodeError(
                self.name,
                f"values of shape {array.shape} ({array.dtype}), axes {tensor.axes}; expected "
                f"{self._shape} for each step" + (", and instance" if size != self._inputs else ""),
                span=span_of(packet),
            )
        flat = np.ascontiguousarray(rows, np.float32).reshape(len(rows), size)
        if not np.isfinite(flat).all():
            raise NodeError(self.name, "values that are not finite", span=span_of(packet))
        number = packet.start // self._step
        if self._start is None:
            self._begin(packet.start)
        steps, cells = np.nonzero(flat)
        yield from self._run(number, number + len(flat), number + steps, cells, flat[steps, cells])

    def _only(self, port: str) -> None:
        if self._port not in (None, port):
            raise NodeError(
                self.name, f"{self._port} and {port} are both connected; connect one of the inputs"
            )
        self._port = port

    def advance(self, time: int) -> Iterator[Emission]:
        if self._start is None or self._port == "values":
            return
        last = time // self._step
        if last > (first := self._start // self._step):
            cells = np.concatenate([np.empty(0, np.int64), *self._cells])
            self._cells = []
            yield from self._run(first, last, np.full(len(cells), first), cells)

    def finish(self) -> Iterator[Emission]:
        if self._start is not None:
            if self._port != "values":
                yield from self.advance(-(-self._reached // self._step) * self._step)
            if self._window is not None and "rates" in self.settings.give and (
                self._start > self._window
            ):  # fmt: skip
                yield self._rates_of(self._window)

    # --- the steps

    def _run(
        self, first: int, last: int, steps: _Int, cells: _Int, values: Any = None
    ) -> Iterator[Emission]:
        """Steps [first, last), with the rests between them.

        `steps`, `cells` and `values` are what comes in, in step order.
        """
        if self._silence is None:
            yield from self._stretch(first, last, steps, cells, values)
            return
        due = self._last + self._silence + 1
        if last - first <= self._silence and (
            not first <= due < last or (len(steps) and int(steps[0]) < due)
        ):  # too short for another rest than the one that is due, which does not come
            if len(steps):
                self._last = int(steps[-1])
            yield from self._stretch(first, last, steps, cells, values)
            return
        before = np.unique(np.append(steps, self._last))
        after = np.append(before[1:], last + self._silence)
        # silent for so long: at rest from the step that follows
        rests = before[after - before > self._silence] + self._silence + 1
        for until in [*rests[(rests > first) & (rests < last)].tolist(), last]:
            if first in rests:
                for stepper, state in zip(self._steppers, self._resting, strict=True):
                    stepper.restore(state)
            a, b = np.searchsorted(steps, (first, until))
            given = None if values is None else values[a:b]
            yield from self._stretch(first, until, steps[a:b], cells[a:b], given)
            first = until
        self._last = int(before[-1])

    def _stretch(
        self, first: int, last: int, steps: _Int, cells: _Int, values: Any
    ) -> Iterator[Emission]:
        """Steps [first, last), without a rest after the first."""
        most = 1 if "membrane" in self.settings.give else AT_ONCE
        rows: list[Any] = []
        begun = first
        while first < last:
            until = min(last, first + AT_ONCE)
            if "rates" in self.settings.give and self._window is not None:
                until = min(until, (self._window + self.settings.window) // self._step)
            till = min(until, first + most)
            a, b = np.searchsorted(steps, (first, till))
            given = None if values is None else values[a:b]
            found, potentials = self._parts(first, till, steps[a:b], cells[a:b], given)
            if potentials is not None:
                rows.append(potentials)
            if len(found):
                start, stop = first * self._step, till * self._step
                yield self.spikes(Spikes(found, self._sums.size), start, stop)
            first = till
            self._start = first * self._step
            self.holds_from = begun * self._step if rows else self._start
            if rows and (len(rows) >= AT_ONCE or first == last):
                table = np.stack(rows).astype(np.float32)
                rows = []
                yield self.membrane(
                    Tensor(table, ("time", "unit"), self._step),
                    begun * self._step, self._start,
                )  # fmt: skip
                begun = first
            if self._window is not None and "rates" in self.settings.give:
                while self._start >= self._window + self.settings.window:
                    yield self._rates_of(self._window)
                    self._window += self.settings.window
                self.holds_from = min(self._window, self.holds_from or self._window)
        if not rows:
            self.holds_from = self._start
            if "rates" in self.settings.give:
                self.holds_from = self._window

    def _parts(
        self, first: int, last: int, steps: _Int, cells: _Int, values: Any
    ) -> tuple[Any, Any]:
        """The spikes of steps [first, last) and the potentials after them, of all instances."""
        s = self.settings
        instance = cells // self._inputs if s.instances > 1 else None
        times, units, amounts, potentials = [], [], [], []
        for number, stepper in enumerate(self._steppers):
            if instance is None:
                at, places, given = steps, cells, values
            else:
                own = instance == number
                at, places = steps[own], cells[own] - number * self._inputs
                given = None if values is None else values[own]
            if s.counting == "binary" and given is None and len(places):
                both = np.unique((at - first) * self._inputs + places)
                at, places = both // self._inputs + first, both % self._inputs
            ends = np.searchsorted(at, np.arange(first + 1, last + 1)).astype(np.int64)
            places = np.ascontiguousarray(places, np.int64)
            for when, where, amount in stepper.run(places, ends, given):
                if len(when):
                    times.append((when + first) * self._step)
                    units.append(where + number * self._width)
                    amounts.append(amount)
            if "membrane" in s.give:
                potentials.append(stepper.membranes())
        found = np.empty(0, SPIKE)
        if not times:
            return found, np.concatenate(potentials) if potentials else None
        time, unit = np.concatenate(times), np.concatenate(units)
        if "rates" in s.give:
            np.add.at(self._sums, unit, np.concatenate(amounts))
        if "spikes" in s.give:
            order = np.lexsort((unit, time))
            found = np.empty(len(order), SPIKE)
            found["timestamp"], found["unit"] = time[order], unit[order]
        return found, np.concatenate(potentials) if potentials else None

    def _rates_of(self, start: int) -> Emission:
        window = self.settings.window
        table = (self._sums / (window * 1e-6)).astype(np.float32)[None]
        self._sums[:] = 0
        return self.rates(Tensor(table, ("time", "unit"), window), start, start + window)

    # --- state

    def snapshot(self) -> dict[str, Any]:
        if self._start is None:
            return {}
        state: dict[str, Any] = {
            "port": self._port or "",
            "start": self._start,
            "reached": self._reached,
            "window": self._window,
            "sums": self._sums.copy(),
            "last": self._last,
            "cells": np.concatenate([np.empty(0, np.int64), *self._cells]),
        }
        for number, stepper in enumerate(self._steppers):
            state |= {f"{number}.{name}": value for name, value in stepper.snapshot().items()}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self._port = state["port"] or None
        self._start, self._reached = state["start"], state["reached"]
        self._window, self._cells = state["window"], [state["cells"]]
        self._sums[:] = state["sums"]
        self._last = state["last"]
        for number, stepper in enumerate(self._steppers):
            head = f"{number}."
            stepper.restore(
                {name[len(head) :]: value for name, value in state.items() if name.startswith(head)}
            )
        self.holds_from = self._window if "rates" in self.settings.give else self._start

    def close(self) -> None:
        for stepper in getattr(self, "_steppers", []):
            stepper.close()

    def results(self) -> dict[str, Any]:
        return {
            "model": self.settings.model,
            "step_us": self._step,
            "first_unit_of_layer": self._offsets,
            "units": self._sums.size,
            "repairs": list(self._wiring.repairs),
            **self._steppers[0].results(),
        }
