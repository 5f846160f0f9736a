"""`sort_trigger`: a decision becomes a pulse before its deadline, or a counted abort."""

from __future__ import annotations

import csv
import io
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Annotated, Any, Literal

import msgspec

from streamflow.errors import NodeError
from streamflow.memory import Histogram
from streamflow.node import Fraction, In, Node, OutputPath, Positive, Seconds
from streamflow.packet import Events, Packet, Table

from ..files.output import FullDiskSettings, OutputFile
from ..files.records import RecordFile
from ..particles.actuators import (
    Actuator,
    DryRun,
    GpioActuator,
    GpioLine,
    MessageActuator,
    PulseSocket,
    SerialActuator,
    SerialPort,
)
from ..particles.pulses import Done, PulseThread
from ..particles.rows import FLAGS
from ..particles.sorting import MERGED, PULSED, Mode, Rules, Sorter, StreamClock, travel_time

NOT_TARGET, IMPROBABLE, FLAGGED = "not_target", "improbable", "flagged"
NO_TIME, NO_VELOCITY, TOO_SLOW = "no_time", "no_velocity", "too_slow"
NO_CLOCK, RESTARTED = "no_clock", "restarted"

FORBIDDEN: dict[Mode, list[str]] = {
    "yield": ["merged", "aborted"],
    "purity": ["merged", "aborted", "overlap"],
    "single": ["merged", "aborted", "overlap", "doublet"],
}
NO_COUNTS = bytes(8 * Histogram.BUCKETS)
FAR = 1e15  # us: 31 years, beyond any sensor's time and near where nanoseconds fill 64 bits
LONGEST = 1e6  # s: no duration is longer, so that nanoseconds fit 64 bits at any speed
SWITCH_SECONDS = 0.00001  # how long a thread that computes may keep the one that fires waiting
DURATIONS = ("delay", "longest_delay", "width", "tolerance", "guard", "dead_time", "reopen")
LOG = ("row", "time_us", "class", "action", "due_ns", "deadline_ns", "fired_ns", "written_ns")

Metres = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Flag = Literal["overlap", "doublet", "debris", "merged", "late", "aborted"]


class SortTriggerSettings(FullDiskSettings, frozen=True, kw_only=True):
    """What is sorted, when, and what the pulse goes out by. Durations are of stream time."""

    classes: Annotated[list[str], msgspec.Meta(min_length=1)]
    """The classes that are to be sorted."""
    probability: Fraction = 0.0
    """A decision less probable than this is not acted on."""
    delay: Seconds | None = None
    """Drop delay (s): from the centre of the passage to the arrival at the sorting point."""
    distance: Metres | None = None
    """Instead of `delay`: metres to the sorting point, for rows that say their velocity."""
    velocity: str = "velocity_m_s"
    """The column that says the velocity (m/s), where `distance` is given."""
    longest_delay: Seconds = 5.0
    """A particle that takes longer, or arrives later than this after its row, is not waited for."""
    width: Seconds = 0.001
    """How long the pulse is on; the particle arrives in its middle."""
    tolerance: Seconds = 0.0005
    """How long after its planned start a pulse may still begin. Later is an abort."""
    mode: Mode = "purity"
    """`purity`: no pulse that would take a particle that is not to be sorted; `yield` (also called
    enrich): every target; `single`: no pulse that would take any second particle."""
    guard: NotNegative = 0.0
    """How far (s) on both sides of a pulse other particles count as taken, too."""
    dead_time: NotNegative = 0.0
    """How long (s) after a pulse the actuator cannot begin another one."""
    overlap: Literal["merge", "abort"] = "merge"
    """A pulse that begins while another is on prolongs it, or is not made (always so in `single`).
    """
    forbid: list[Flag] | None = None
    """Flags that forbid sorting; null: `merged`, `aborted`, in purity also `overlap`, in single
    also `overlap` and `doublet`."""
    serial: SerialPort | None = None
    """A serial port; at most one of `serial`, `gpio` and `zmq`. With none of them nothing is driven
    and pulses are only counted."""
    gpio: GpioLine | None = None
    """A line of a GPIO chip."""
    zmq: PulseSocket | None = None
    """A socket that sends a JSON message for on and one for off."""
    reopen: Seconds | None = None
    """After a failure of the device, try to open it again every so often, and abort rows meanwhile;
    null: the run ends with an error."""
    timing: Literal["machine", "stream"] = "machine"
    """`machine`: pulses by this machine's clock, for live and paced graphs. `stream`: a dry run in
    stream time, the same for every run, for recordings as fast as they can be read."""
    settle: Positive = 8
    """Packets of `events` after which stream time is known well enough to pulse."""
    spin: Annotated[float, msgspec.Meta(ge=0, le=0.01)] = 0.0002
    """How long (s, of the machine) before a pulse the thread looks at the clock without a pause,
    and takes no rows."""
    priority: Annotated[int, msgspec.Meta(ge=0, le=99)] = 0
    """Real-time priority (SCHED_FIFO) of the node's process; 0: none. Needs CAP_SYS_NICE."""
    log: OutputPath | None = None
    """A CSV file with a line for each row: what was done, and when. With `stop_writing` a full disk
    does not end the sorting."""


class SortTrigger(Node[SortTriggerSettings]):
    """One pulse for each particle of the wanted classes, in time, or a counted reason why not.

    A particle whose passage was centred at t arrives at the sorting point at t + `delay`, and its
    pulse is on from `width` / 2 before that to `width` / 2 after. It begins within `tolerance` of
    its planned start or not at all: the clock is read right before the device is driven, so there
    is no late pulse after a pause either. Every row ends in exactly one of `pulsed`, `not_target`
    and the reasons under `aborted`: `improbable`, `flagged`, `late`, `coincidence` (purity, single:
    the pulse would take another particle), `overlap`, `dead_time`, `no_velocity`, `too_slow`,
    `no_time`, `no_clock` (the stream has just begun), `actuator` (it is broken), and `restarted`
    (its time passed while the process was dead or began; it may have been pulsed before). What is
    judged is what is known when the pulse begins.

    `events` are the source's packets, connected straight to it: they alone say when stream time
    passes. Rows need `time_us` and `class`; `probability`, `flags` and the velocity are used where
    they are asked for, `decided_us` in timing `stream`. Give the node a process of its own.

    Results: `rows`, `pulsed`, `pulses` (fewer where pulses were merged), `not_target`, `aborted`,
    `classes`, what was driven, `lateness_us` (begin of pulses after their planned start) and
    `off_lateness_us`. Emits nothing. Keeps the particles that have not arrived and counts; after a
    crash no particle is pulsed twice (docs/sorting.md).

        sort:
          kind: sort_trigger
          inputs: {events: camera.events, rows: classify.particles}
          settings: {classes: [A], delay: 0.01, serial: {port: /dev/ttyUSB0}}
    """

    events = In(Events)
    rows = In(Table)
    faults = ("written_late", "time_unusable", "not_written")

    # --- opening ----------------------------------------------------------------------------------

    def open(self) -> None:
        self._check()
        s = self.settings
        self._is_live = s.timing == "machine"
        self._speed = self.clock.speed if self._is_live else 1.0
        self._sorter = Sorter(
            Rules(
                s.mode, self._ns(s.width), self._ns(s.guard), self._ns(s.dead_time),
                self._ns(s.tolerance), s.overlap == "merge",
            )
        )  # fmt: skip
        flags = FORBIDDEN[s.mode] if s.forbid is None else s.forbid
        self._forbidden = sum(FLAGS[flag] for flag in set(flags))
        self._clock = StreamClock(self._speed)
        self._known = -(1 << 62)  # timing `stream`: when the newest row was decided, ns
        self._number = 0
        self._actions: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._lateness, self._off_lateness = _histogram(NO_COUNTS), _histogram(NO_COUNTS)
        self._pulses_before = 0  # of the processes before this one
        self._done: list[Done] = []
        self._log = self._opened_log(s.log) if s.log is not None else None
        self._thread: PulseThread | None = None
        self._lock: AbstractContextManager[Any] = nullcontext()  # the thread's, where there is one
        if self._is_live:
            self._start_thread()

    def _check(self) -> None:
        s = self.settings
        if (s.delay is None) == (s.distance is None):
            raise NodeError(self.name, "settings: give one of 'delay' (s) and 'distance' (m)")
        for name in DURATIONS:
            seconds = getattr(s, name)
            if seconds is not None and not seconds < LONGEST:
                raise NodeError(
                    self.name,
                    f"settings: {name} is {seconds} s; expected less than {LONGEST:g} s",
                )
        devices = [name for name in ("serial", "gpio", "zmq") if getattr(s, name) is not None]
        if len(devices) > 1:
            raise NodeError(self.name, f"settings: {devices} are given; at most one can be driven")
        if s.timing == "stream" and devices:
            raise NodeError(
                self.name,
                f"settings: timing 'stream' drives nothing, and {devices[0]!r} is given: leave it "
                "out, or set timing to 'machine' and run with --clock paced or realtime",
            )
        if s.timing == "machine" and self.clock.pace == "fast":
            raise NodeError(
                self.name,
                "the graph's clock is 'fast', so stream time says nothing about when a particle "
                "arrives: run with --clock paced (a recording) or realtime (a device), or set "
                "timing to 'stream' for a dry run",
            )

    def _start_thread(self) -> None:
        s = self.settings
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
        if s.priority:
            self._take_priority()
        # kept before it starts: from now on `close` releases the device
        self._thread = PulseThread(
            self._sorter, self._opener(), spin=round(s.spin * 1e9), retry=s.reopen
        )
        self._lock = self._thread.condition
        self._thread.start()
        self._birth = time.monotonic_ns()

    def _take_priority(self) -> None:
        """Let this process go before others: all of it, because its threads wait for each other."""
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(self.settings.priority))
        except PermissionError as error:
            raise NodeError(
                self.name,
                f"settings: priority {self.settings.priority} is not permitted; expected "
                "CAP_SYS_NICE or an rtprio limit (ulimit -r): grant one, or set priority to 0",
            ) from error
        self._scheduled = before

    def _opener(self) -> Callable[[], Actuator]:
        s = self.settings
        if s.serial is not None:
            return partial(SerialActuator, s.serial, self.name)
        if s.gpio is not None:
            return partial(GpioActuator, s.gpio, self.name)
        if s.zmq is not None:
            return partial(MessageActuator, s.zmq, self.name)
        return DryRun

    # --- data -------------------------------------------------------------------------------------

    def on_events(self, packet: Packet[Events]) -> None:
        if packet.captured:
            self._clock.see(packet.stop, packet.captured)

    def on_rows(self, packet: Packet[Table]) -> None:
        rows = packet.data.array
        self._check_columns(rows.dtype.names or ())
        for row in rows:
            self._take(row, packet.stop)
        self._settle()

    def advance(self, time: int) -> None:
        self._settle()

    def finish(self) -> None:
        if self._thread is not None:
            self._thread.wait_until_idle()
        self._run_stream(None)
        self._settle()
        if self._log is not None:
            self._log.file.begin()

    def close(self) -> None:
        thread = getattr(self, "_thread", None)
        try:
            if thread is not None:
                thread.close()
        finally:
            if getattr(self, "_scheduled", None) is not None:
                os.sched_setscheduler(0, *self._scheduled)
            if getattr(self, "_log", None) is not None:
                self._log.close()  # type: ignore[union-attr]  # the line above has asked

    def _check_columns(self, names: Sequence[str]) -> None:
        s = self.settings
        wanted = ["time_us", "class"]
        wanted += ["probability"] if s.probability > 0 else []
        wanted += [s.velocity] if s.distance is not None else []
        if missing := [name for name in wanted if name not in names]:
            raise NodeError(
                self.name,
                f"rows without {missing}; they have {list(names)}; connect a table of decisions "
                "about particles, or change the setting that asks for the column",
                kind="sort_trigger",
            )

    def _take(self, row: Any, stop: int) -> None:
        """One row: planned, or done with."""
        number, self._number = self._number, self._number + 1
        time_us, name = float(row["time_us"]), _text(row["class"])
        self._seen[name] += 1
        unfit = self._unfit(row, name)
        arrival = self._arrival(row, time_us)
        if self._thread is None:
            decided = int(row["decided_us"]) if "decided_us" in row.dtype.names else stop
            self._known = max(self._known, 1000 * decided)
            self._run_stream(self._known)
            self._plan(number, time_us, name, unfit, arrival, self._known)
            return
        with self._thread.condition:
            self._plan(number, time_us, name, unfit, arrival, time.monotonic_ns())
            self._thread.condition.notify_all()

    def _plan(
        self, number: int, time_us: float, name: str, unfit: str, arrival: int | str, now: int
    ) -> None:
        if isinstance(arrival, int) and arrival > now + self._ns(self.settings.longest_delay):
            arrival = TOO_SLOW
        if isinstance(arrival, int):
            self._sorter.see(arrival, now, is_wanted=not unfit)
            start = arrival - self._sorter.rules.width // 2
            if not unfit and self._thread is not None and start < self._birth:
                unfit = RESTARTED
            if not unfit:
                self._sorter.add(number, arrival, now, time_us, name)
                return
        reason = unfit or str(arrival)
        self._done.append(Done(number, time_us, name, reason))

    def _unfit(self, row: Any, name: str) -> str:
        """Why the row's particle is not to be sorted, wherever it is; empty if it is."""
        s, names = self.settings, row.dtype.names
        if name not in s.classes:
            return NOT_TARGET
        if s.probability > 0 and not row["probability"] >= s.probability:
            return IMPROBABLE
        if "flags" in names and int(row["flags"]) & self._forbidden:
            return FLAGGED
        return ""

    def _arrival(self, row: Any, time_us: float) -> int | str:
        """When the particle arrives at the sorting point (ns), or why nobody knows."""
        s = self.settings
        if not abs(time_us) < FAR:  # nor if it is not a number
            self.count_fault("time_unusable")
            return NO_TIME
        if s.distance is not None:
            delay = travel_time(s.distance, float(row[s.velocity]))
            if delay is None:
                return NO_VELOCITY
        else:
            delay = s.delay or 0.0
        if delay > s.longest_delay:
            return TOO_SLOW
        if not self._is_live:
            return round(1000 * time_us) + self._ns(delay)
        if self._clock.seen < s.settle:
            return NO_CLOCK
        return self._clock.at(time_us) + self._ns(delay)

    def _run_stream(self, until: int | None) -> None:
        """Timing `stream`: decide on what is ready before `until` (ns), or on everything."""
        sorter = self._sorter
        while (
            self._thread is None
            and (head := sorter.head) is not None
            and (until is None or head.ready < until)
        ):
            sorter.pop()
            action = sorter.judge(head, head.ready)
            is_made = action in (PULSED, MERGED)
            if is_made:
                sorter.fire(head)
            fired = head.ready if is_made else 0
            deadline = head.start + sorter.rules.tolerance
            self._done.append(
                Done(
                    head.number, head.time_us, head.name, action, head.start, deadline, fired, fired
                )
            )

    def _ns(self, seconds: float) -> int:
        return round(seconds * 1e9 / self._speed)

    # --- accounting -------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Count and write down what was done; DeviceError when the actuator has failed."""
        with self._lock:
            made = self._made()
        self._account(*made)
        if self._thread is not None and self._thread.error is not None:
            raise self._thread.error

    def _made(self) -> tuple[list[Done], list[int]]:
        """What is done since the last call, and how late pulses ended. Holds the lock."""
        done, self._done = self._done, []
        if self._thread is None:
            return done, []
        fired, self._thread.done = self._thread.done, []
        offs, self._thread.offs = self._thread.offs, []
        return done + fired, offs

    def _account(self, done: list[Done], offs: list[int]) -> None:
        """Count and write down. Without the lock: a slow disk must not keep a pulse waiting."""
        lateness, off_lateness = Histogram(self._lateness), Histogram(self._off_lateness)
        for late in offs:
            off_lateness.add(late)
        for row in done:
            self._actions[row.action] += 1
            if row.action == PULSED:
                lateness.add(row.fired - row.start)
                self.count_fault("written_late", row.written > row.deadline)
        if self._log is not None and done:
            log = self._log
            if not log.append(lambda: self._lines(log, done)):
                self.count_fault("not_written", len(done))

    def _opened_log(self, path: str) -> OutputFile[RecordFile]:
        s = self.settings
        return OutputFile(
            path, s, self.name, lambda at: RecordFile(at, self.name, reserve=s.reserve)
        )

    def _lines(self, log: OutputFile[RecordFile], done: list[Done]) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not log.length:
            writer.writerow(LOG)
        for row in done:
            writer.writerow([*row[:4], *(time or "" for time in row[4:])])
        return text.getvalue().encode()

    def snapshot(self) -> dict[str, Any]:
        with self._lock:  # what is done, what is planned: no pulse may fall between the two
            made, sorter, pulses = self._made(), self._sorter.snapshot(), self._pulses()
        self._account(*made)
        plain = {
            "sorter": sorter,
            "clock": self._clock.snapshot(),
            "actions": self._actions,
            "seen": self._seen,
        }
        return {
            "plain": msgspec.msgpack.encode(plain),
            "known": self._known,
            "number": self._number,
            "pulses": pulses,
            "lateness": self._lateness.tobytes(),
            "off_lateness": self._off_lateness.tobytes(),
            **(self._log.snapshot() if self._log is not None else {}),
            **self.fault_counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        plain = msgspec.msgpack.decode(state["plain"])
        self._clock.restore(plain["clock"])
        self._actions, self._seen = Counter(plain["actions"]), Counter(plain["seen"])
        self._known, self._number = int(state["known"]), int(state["number"])
        self._pulses_before = int(state["pulses"])
        self._lateness = _histogram(state["lateness"])
        self._off_lateness = _histogram(state["off_lateness"])
        self.fault_counts = {fault: int(state[fault]) for fault in self.faults}
        if self._log is not None:
            self._log.restore(state)
        with self._lock:
            self._sorter.restore(plain["sorter"])
            if self._thread is not None:
                for it in self._sorter.remove_before(self._birth):
                    self._done.append(Done(it.number, it.time_us, it.name, RESTARTED))
                self._thread.condition.notify_all()

    def results(self) -> dict[str, Any]:
        s = self.settings
        actions = dict(self._actions)
        merged, pulsed = actions.pop(MERGED, 0), actions.pop(PULSED, 0)
        results: dict[str, Any] = {
            "actuator": self._driven(),
            "timing": s.timing,
            "mode": s.mode,
            "rows": self._number,
            "pulsed": pulsed + merged,
            "pulses": self._pulses() if self._thread is not None else pulsed,
            "not_target": actions.pop(NOT_TARGET, 0),
            "aborted": dict(sorted(actions.items())),
            "classes": dict(sorted(self._seen.items())),
            "lateness_us": Histogram(self._lateness).summary(),
        }
        if self._thread is not None:
            results["off_lateness_us"] = Histogram(self._off_lateness).summary()
            results["clock_packets"] = self._clock.seen
            results["clock_drift_us"] = self._clock.drift / 1000
            results["reopened"] = self._thread.reopened
        return results | (self._log.results() if self._log is not None else {})

    def _pulses(self) -> int:
        made = self._thread.pulses if self._thread is not None else 0
        return self._pulses_before + made

    def _driven(self) -> str:
        s = self.settings
        if s.serial is not None:
            return f"serial {s.serial.port}"
        if s.gpio is not None:
            return f"gpio {s.gpio.chip} line {s.gpio.line}"
        if s.zmq is not None:
            return f"zmq {s.zmq.pattern} {s.zmq.address}"
        return "none: a dry run, nothing was driven"


def _histogram(counts: bytes) -> memoryview:
    """The memory of a `Histogram` that goes on from these counts."""
    return memoryview(bytearray(counts)).cast("q")


def _text(name: Any) -> str:
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)
