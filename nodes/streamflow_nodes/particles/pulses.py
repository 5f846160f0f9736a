"""Makes pulses when they are due: a thread that waits on the machine's monotonic clock.

The thread sleeps until `spin` before the next moment that matters, then looks at the clock until it
has come. Each moment is reckoned anew from the plan, so nothing adds up. Right before a pulse is
made the clock is read once more: if the deadline has passed there is no pulse, however long the
process was stopped, and however late the thread woke. Between that look and the device lie a few
instructions that no program can guard; a pulse whose write came back after its deadline is
reported as such.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from streamflow.errors import DeviceError

from .actuators import Actuator
from .sorting import LATE, MERGED, PULSED, Candidate, Sorter

NO_ACTUATOR = "actuator"
_SET_TIMER_SLACK = 29  # PR_SET_TIMERSLACK, of the calling thread; 50 us unless set
_FAIL_SECONDS = 2.0  # how long the thread may take to end


class Done(NamedTuple):
    """What became of a row. Times in ns of the clock that the pulses go by; 0 where there is none.

    `action` is `PULSED`, `MERGED` or why there was no pulse.
    """

    number: int
    time_us: float
    name: str
    action: str
    start: int = 0
    deadline: int = 0
    fired: int = 0
    """The last look at the clock before the pulse; never after `deadline`."""
    written: int = 0
    """When the device had taken it."""


class PulseThread:
    """Decides on a sorter's candidates when they are ready, and drives the actuator.

    Whoever touches `sorter` or `done` holds `condition`, and notifies it after adding a candidate.
    `done` is for the owner to empty. `error` is set once the actuator has failed for good; without
    `retry` that is at its first failure.
    """

    def __init__(
        self,
        sorter: Sorter,
        actuator: Callable[[], Actuator],
        *,
        spin: int,
        retry: float | None,
    ) -> None:
        self.sorter, self.condition = sorter, threading.Condition()
        self.done: list[Done] = []
        self.offs: list[int] = []  # how late (ns) each pulse ended, for the owner to empty
        self.pulses = self.reopened = 0
        self.error: Exception | None = None
        self._open, self._spin, self._retry = actuator, spin, retry
        self._actuator: Actuator | None = actuator()
        self._retry_at = 0.0
        self._on: dict[str, Any] | None = None  # what was said of the pulse that is on
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="pulses", daemon=True)

    def start(self) -> None:
        """Begin. The thread has the priority of the one that calls."""
        self._thread.start()

    def wait_until_idle(self) -> None:
        """Return when nothing is planned and the actuator is off, or has failed for good."""
        with self.condition:
            while self.error is None and (self.sorter.head is not None or self._on is not None):
                self.condition.wait()

    def close(self) -> None:
        """End the thread and switch off; DeviceError when the actuator does not let itself."""
        with self.condition:
            self._is_over = True
            self.condition.notify_all()
        if self._thread.ident is not None:
            self._thread.join(_FAIL_SECONDS)
        actuator, self._actuator = self._actuator, None
        if actuator is not None:
            actuator.close()

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        ctypes.CDLL(None).prctl(_SET_TIMER_SLACK, 1)
        with self.condition:
            try:
                while not self._is_over:
                    self._step()
            except Exception as error:  # the owner raises it; without it, it would wait for ever
                self.error = error
                self.condition.notify_all()

    def _step(self) -> None:
        """Wait for the next moment that matters, or do what it asks for."""
        self._heal()
        moment, patience = self._next(), self._patience()
        if moment is None:
            self.condition.wait(patience)
            return
        left = moment - time.monotonic_ns()
        if left > self._spin:
            seconds = (left - self._spin) / 1e9
            self.condition.wait(seconds if patience is None else min(seconds, patience))
            return
        while time.monotonic_ns() < moment:
            pass
        self._act()
        self.condition.notify_all()

    def _next(self) -> int | None:
        """When a pulse is to end or a candidate is ready, whichever is first."""
        head, off = self.sorter.head, self.sorter.on_until if self._on is not None else None
        if head is None or off is None:
            return off if head is None else head.ready
        return min(head.ready, off)

    def _act(self) -> None:
        head, now = self.sorter.head, time.monotonic_ns()
        off = self.sorter.on_until
        is_due = self._on is not None and off is not None and off <= now
        # a candidate that is ready by then goes on with the pulse
        if is_due and off is not None and (head is None or head.ready > off):
            self._end_pulse(off)
            return
        if head is not None and head.ready <= now:
            self._decide(self.sorter.pop(), now)

    def _decide(self, candidate: Candidate, now: int) -> None:
        action = self.sorter.judge(candidate, now)
        deadline = candidate.start + self.sorter.rules.tolerance
        fired = written = 0
        if action == MERGED and self._on is None:
            action = PULSED  # the actuator, or the process before this one, failed amid that pulse
        if action in (PULSED, MERGED):
            facts = {
                "row": candidate.number, "class": candidate.name, "time_us": candidate.time_us,
                "due_ns": candidate.start, "deadline_ns": deadline,
            }  # fmt: skip
            action, fired, written = self._fire(action, candidate, deadline, facts)
        self.done.append(
            Done(
                candidate.number, candidate.time_us, candidate.name, action, candidate.start,
                deadline, fired, written,
            )
        )  # fmt: skip

    def _fire(
        self, action: str, candidate: Candidate, deadline: int, facts: dict[str, Any]
    ) -> tuple[str, int, int]:
        """Make the pulse, or let one that is on go on: what was done, when, and when it was over.

        It is made only if the clock says, as the last thing before, that its deadline is not over.
        """
        if self._actuator is None:
            return NO_ACTUATOR, 0, 0
        fired = time.monotonic_ns()
        if fired > deadline:
            return LATE, 0, 0
        if action == PULSED:
            try:
                self._actuator.switch(True, facts)
            except DeviceError as error:
                self._fail(error)
                return NO_ACTUATOR, 0, 0
            self.pulses += 1
            self._on = facts
        written = time.monotonic_ns()
        self.sorter.fire(candidate)
        return action, fired, written

    def _end_pulse(self, off: int) -> None:
        facts, self._on = self._on, None
        if self._actuator is not None and facts is not None:
            try:
                self._actuator.switch(False, facts)
            except DeviceError as error:
                self._fail(error)
        now = time.monotonic_ns()
        self.sorter.end(now)
        self.offs.append(now - off)

    def _fail(self, error: DeviceError) -> None:
        """The actuator is gone: for good, or until it can be opened again."""
        broken, self._actuator, self._on = self._actuator, None, None
        if broken is not None:
            with contextlib.suppress(DeviceError):  # it has just said what is wrong
                broken.close()
        if self._retry is None:
            self.error = error
        else:
            self._retry_at = time.monotonic() + self._retry

    def _patience(self) -> float | None:
        """Seconds until the actuator is to be opened again; None where it is not."""
        if self._actuator is not None or self._retry is None:
            return None
        return max(0.0, self._retry_at - time.monotonic())

    def _heal(self) -> None:
        """Open the actuator again, if it is time to try."""
        if self._retry is None or self._patience() != 0:
            return
        opened: Actuator | None = None
        self.condition.release()  # opening may take seconds, and rows come meanwhile
        try:
            with contextlib.suppress(DeviceError):  # not yet: rows are aborted and counted
                opened = self._open()
        finally:
            self.condition.acquire()
        self._retry_at = time.monotonic() + self._retry
        if opened is not None and self._is_over:  # nobody else knows of it
            opened.close()
        elif opened is not None:
            self._actuator = opened
            self.reopened += 1
