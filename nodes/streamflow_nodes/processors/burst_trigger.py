"""Cuts a stream of events into bursts: one window for each particle that crosses the beam."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow.errors import NodeError
from streamflow.node import Emission, In, Node, Out, Positive, Seconds, Settings
from streamflow.packet import EVENT, Events, Packet

from ..events.packets import Sensor, Words, check_sensor, no_words, words_of
from ..kernels.burst_trigger import (
    add_signs,
    backward_times,
    first_at_or_after,
    is_quiet,
    passage_centres,
)
from ..spans import microseconds

NEVER = -(1 << 62)
FEW = 1024  # words of events that are not worth tidying away
ROOM = 2048  # steps that are counted before the oldest ones are dropped
ENDED = 1 << 61  # us: later than any stream time, and far from where sums would wrap


class BurstTriggerSettings(Settings, frozen=True, kw_only=True):
    """The window that is cut out, and what makes a burst."""

    window: Seconds = 0.001
    """Length of a burst's window (s); the passage's centre lies in its middle."""
    rise: Seconds = 0.0003
    """How long before and after the centre ON and OFF events are weighed against each other (s)."""
    separation: Seconds = 0.00016
    """Two particles are told apart when their centres are farther apart than this (s)."""
    step: Seconds = 0.00001
    """Resolution of the centre (s)."""
    contrast: Positive = 300
    """Smallest polarity contrast of a passage (events)."""
    minimum_events: Positive = 200
    """A window with fewer events is not a burst."""


class BurstTrigger(Node[BurstTriggerSettings]):
    """One packet for each particle: the events of a window about the centre of its passage.

    A particle that moves into the beam brightens its pattern on the sensor (ON events) and darkens
    it on its way out (OFF events). With d(a, b) the ON less the OFF events in [a, b), the contrast

        m(c) = d(c - rise, c) - d(c, c + rise),   c = step, 2 step, 3 step, ...

    peaks at the passage's centre. Every c with m(c) >= `contrast` that is above all m up to
    `separation` before it, and not below any up to `separation` after it, gives one burst:
    the events in [c - window / 2, c + window / 2), which are that packet's start and stop.
    Particles whose passages overlap give one burst each, and their windows overlap: an event may be
    in two. The packet's stop is when the window closed: stream time, not the machine's.

    Windowing about a triggered burst follows Abreu, Gouda, Lugnan and Bienstman (2023), "Flow
    cytometry with event-based vision and spiking neuromorphic hardware" (1 ms windows); the trigger
    is a matched filter for the ON-OFF course of a passage and is our own.

    Nothing is emitted for a window of fewer than `minimum_events`; such windows are counted in the
    results as `too_few_events`. State: the newest events, of at most window / 2 + rise + separation
    before the oldest centre that is still open, and the centres whose windows are not over.
    Events that go back in time are dropped and counted as `time_backward`.

        bursts: {kind: burst_trigger, inputs: {events: quiet.kept}, settings: {contrast: 300}}
    """

    events = In(Events)
    bursts = Out(Events)
    faults = ("time_backward",)

    def open(self) -> None:
        s = self.settings
        self._step = microseconds(self, "step", s.step)
        self._half = microseconds(self, "rise", s.rise) // self._step
        self._guard = microseconds(self, "separation", s.separation) // self._step
        self._reach = microseconds(self, "window", s.window) // 2
        if self._half < 1:
            raise NodeError(self.name, f"settings: rise {s.rise} s is shorter than a step {s.step}")
        if (self._half + self._guard) * self._step > self._reach:
            raise NodeError(
                self.name,
                f"settings: rise {s.rise} + separation {s.separation} s exceed half the window "
                f"({s.window / 2} s), so a burst would be over before it is known: lengthen the "
                "window, or shorten one of them",
            )
        self._sensor: Sensor | None = None
        self._nothing = self._held = no_words()
        self._newest = NEVER  # us, the newest event
        self._decided = NEVER  # steps: up to here every centre is known
        self._open: list[int] = []  # us, centres whose windows are not over
        self._emitted = self._too_few = 0
        beyond = 2 * (self._half + self._guard)  # what a centre needs of the steps about it
        self._room = ROOM + 2 * beyond
        self._signs = np.zeros(self._room + beyond + 1, np.int64)  # of each step, ON less OFF
        self._base: int | None = None  # step of the first of them; None: to be counted again
        self._found = np.empty(self._room + beyond, np.int64)
        add_signs(self._held, 0, 1, 0, 1, self._signs)
        backward_times(self._held, 0)
        first_at_or_after(self._held, 0, 0)
        is_quiet(self._held, self._held, 0, 1, 1)
        passage_centres(self._signs, 0, 1, 1, 1, 1, 1, 1, self._found)

    def on_events(self, packet: Packet[Events]) -> Iterator[Emission]:
        words = words_of(self, packet)
        self._sensor = check_sensor(self, self._sensor, packet)
        if not words.size:
            return
        if self._is_quiet(words):
            self._pass_over(words)
            return
        words = self._count(words)
        if words.size:
            self._newest = int(words[-2])
            yield from self._bursts(self._newest, words)

    def advance(self, time: int) -> Iterator[Emission]:
        if self._newest != NEVER:
            yield from self._bursts(min(time, ENDED), self._nothing)

    def finish(self) -> Iterator[Emission]:
        if self._newest != NEVER:
            yield from self._bursts(ENDED, self._nothing)

    def _begin(self, time: int) -> None:
        """No centre is before the first event of all, at `time` (us)."""
        self._decided = time // self._step - self._half - self._guard - 1

    def _count(self, words: Words) -> Words:
        """Add the events to the steps' signs: those of them that are in order, which count."""
        if self._newest == NEVER:
            self._begin(int(words[0]))
        if self._base is None:
            self._recount()
        added = self._add(words, self._newest)
        if 2 * added == words.size:
            return words
        newest = int(words[2 * added - 2]) if added else self._newest
        late = words[2 * added :]
        self.count_fault("time_backward", backward_times(late, newest))
        late = _in_order(late, newest)
        self._add(late, newest)
        return _fixed(np.concatenate([words[: 2 * added], late]))

    def _recount(self) -> None:
        """Count the signs of the steps from what is held."""
        self._base = self._first_step()
        self._signs[:] = 0
        back = first_at_or_after(self._held, self._base * self._step, 0)
        self._add(self._held[2 * back :], NEVER)

    def _add(self, words: Words, newest: int) -> int:
        """How many events were added to the steps' signs: all, or those before one out of order."""
        added = 0
        while True:
            assert self._base is not None  # recounted before
            rest = words[2 * added :]
            added += add_signs(rest, newest, self._step, self._base, self._room, self._signs)
            if 2 * added == words.size:
                return added
            newest = int(words[2 * added - 2]) if added else newest
            time = int(words[2 * added])
            if time < newest:
                return added
            self._decide(time)  # there was no room: forget the steps that no centre needs
            self._move()

    def _first_step(self) -> int:
        """The first step that an undecided centre needs."""
        return self._decided + 1 - self._guard - self._half

    def _move(self) -> None:
        assert self._base is not None  # there are steps
        signs, first = self._signs, self._first_step()
        left = max(0, self._room - (first - self._base))
        signs[:left] = signs[self._room - left : self._room].copy()
        signs[left : self._room] = 0
        self._base = first

    def _is_quiet(self, words: Words) -> bool:
        """Whether neither what is held nor `words`, which go on from it, can hold a centre."""
        reach, least = 2 * self._half * self._step, self.settings.contrast
        if self._open:
            return False
        if self._held.size >= 2 * least and not is_quiet(
            self._nothing, self._held, NEVER, reach, least
        ):
            return False
        return bool(is_quiet(self._held, words, self._newest, reach, least))

    def _pass_over(self, words: Words) -> None:
        """Take in events that hold no centre: the fast way through the silence between particles.

        The same as appending them and looking for centres in vain.
        """
        if self._newest == NEVER:
            self._begin(int(words[0]))
        self._newest = int(words[-2])
        self._decided = max(self._decided, self._newest // self._step - self._half - self._guard)
        self._base = None
        self._forget(words)

    def _bursts(self, until: int, words: Words) -> Iterator[Emission]:
        """Bursts whose windows are over when every event before `until` (us) is held or `words`."""
        self._decide(until)
        over = 0
        while over < len(self._open) and self._open[over] + self._reach <= until:
            over += 1
        for centre in self._open[:over]:
            yield from self._burst(words, centre - self._reach, centre + self._reach)
        del self._open[:over]
        self._forget(words)

    def _decide(self, until: int) -> None:
        """Find the centres that are known when every event before `until` (us) was added."""
        newly = until // self._step - self._half - self._guard
        if newly <= self._decided:
            return
        if self._base is None and self._held.size >= 2 * self.settings.contrast:
            self._recount()
        if self._base is not None:  # else too few events are held for a passage
            found = passage_centres(
                self._signs, self._base, self._room, self._half, self._guard,
                self.settings.contrast, self._decided, newly, self._found,
            )  # fmt: skip
            self._open += [int(centre) * self._step for centre in self._found[:found]]
        self._decided = newly

    def _burst(self, words: Words, start: int, stop: int) -> Iterator[Emission]:
        parts = [part for part in (_cut(self._held, start, stop), _cut(words, start, stop))
                 if part.size]  # fmt: skip
        if sum(part.size for part in parts) < 2 * self.settings.minimum_events:
            self._too_few += 1
            return
        assert self._sensor is not None  # there are events, so a packet has said it
        self._emitted += 1
        cut = np.concatenate(parts)
        yield self.bursts(Events(cut.view(EVENT), *self._sensor), start, stop)

    def _forget(self, words: Words) -> None:
        """Hold the events, `words` too, that a later burst can have, and say how far back one can
        start.
        """
        earliest = self._open[0] if self._open else self._decided * self._step
        self.holds_from = earliest - self._reach
        if not words.size and self._held.size < FEW:
            return
        keep = first_at_or_after(self._held, self.holds_from, 0)
        if words.size:
            fresh = first_at_or_after(words, self.holds_from, 0)
            self._held = _fixed(np.concatenate([self._held[2 * keep :], words[2 * fresh :]]))
        elif 4 * keep >= self._held.size:
            self._held = _fixed(self._held[2 * keep :].copy())

    def snapshot(self) -> dict[str, Any]:
        width, height = self._sensor or (0, 0)
        return {
            "width": width,
            "height": height,
            "held": self._held,
            "newest": self._newest,
            "decided": self._decided,
            "open": np.array(self._open, np.int64),
            "emitted": self._emitted,
            "too_few": self._too_few,
            "time_backward": self.fault_counts["time_backward"],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._sensor = (state["width"], state["height"]) if state["width"] else None
        self._held = _fixed(np.array(state["held"], np.int64))
        self._newest, self._decided = state["newest"], state["decided"]
        self._open = [int(centre) for centre in state["open"]]
        self._emitted, self._too_few = state["emitted"], state["too_few"]
        self.fault_counts["time_backward"] = state["time_backward"]
        self._base = None
        if self._newest != NEVER:
            self._forget(self._nothing)

    def results(self) -> dict[str, Any]:
        return {"bursts": self._emitted, "too_few_events": self._too_few}


def _cut(words: Words, start: int, stop: int) -> Words:
    """The events in [start, stop) us, a view."""
    if not words.size or words[-2] < start:
        return words[:0]
    first = first_at_or_after(words, start, 0)
    return words[2 * first : 2 * first_at_or_after(words, stop, first)]


def _in_order(words: Words, newest: int) -> Words:
    """The events that are not older than `newest` (us) or an event before them."""
    times = words[::2]
    kept = times >= np.maximum.accumulate(np.maximum(times, newest))
    return _fixed(words.reshape(-1, 2)[kept].reshape(-1))


def _fixed(words: Words) -> Words:
    """The words, read-only, as the kernels know them."""
    words.flags.writeable = False
    return words
