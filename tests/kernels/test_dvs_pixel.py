"""Pixels of an event camera against slow, obvious versions of themselves and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.kernels import dvs_pixel as kernels

DT, CAPACITY = 8.0, 4096


def full(value, n):
    return np.full(n, value, np.float32)


class Pixels:
    """n pixels, at rest in light whose logarithm is 0."""

    def __init__(self, n, on=0.25, off=0.3, refractory=60.0):
        self.on, self.off, self.refractory = full(on, n), full(off, n), refractory
        self.level = full(0, n)
        self.upper, self.lower = self.on.copy(), -self.off
        self.release = full(np.inf, n)
        self.begin, self.count = 0.0, 0
        self.times, self.places = np.empty(CAPACITY, np.float32), np.empty(CAPACITY, np.int32)

    def step(self, target, gain=1.0, kernel=kernels.step_pixels):
        n = self.level.size
        count = kernel(
            np.broadcast_to(np.float32(target), n).copy(), full(gain, n), self.begin, DT,
            self.refractory, self.on, self.off, self.level, self.upper, self.lower, self.release,
            self.count, self.times, self.places,
        )  # fmt: skip
        self.begin += DT
        if count >= 0:
            self.count = count
        return count

    @property
    def events(self):
        """(time us, pixel, polarity), as they were found."""
        return [
            (float(t), int(place) >> 1, int(place) & 1)
            for t, place in zip(self.times[: self.count], self.places[: self.count], strict=True)
        ]


def slow_pixel(targets, gain, on, off, refractory):
    """One pixel, event by event, in double precision."""
    level, memory, released, events = 0.0, 0.0, -math.inf, []
    resting = False
    for step, target in enumerate(targets):
        begin, was = step * DT, level
        level = was + gain * (target - was)

        def at(time, begin=begin, was=was, now=level):
            return was + (now - was) * (time - begin) / DT

        while True:
            if resting:
                if released >= begin + DT:
                    break
                memory, resting = at(released), False
            if level >= memory + on:
                crossed, polarity = memory + on, 1
            elif level <= memory - off:
                crossed, polarity = memory - off, 0
            else:
                break
            time = begin + (crossed - was) / (level - was) * DT
            events.append((time, polarity))
            released, resting = time + refractory, True
    return events


def test_logarithms_are_those_of_numpy():
    values = np.exp(np.random.default_rng(0).uniform(-80, 80, 4099)).astype(np.float32)
    logs = np.empty_like(values)

    kernels.logarithms(values, logs)

    exact = np.log(values.astype(np.float64))
    # two roundings of float32 at the size of the result
    assert np.abs(logs - exact).max() <= 2e-7 * np.abs(exact).max()
    assert np.abs((logs - exact) / np.maximum(1, np.abs(exact))).max() < 2e-7


def test_gains_are_those_of_a_first_order_low_pass_with_a_floor():
    light = np.linspace(1e-9, 3, 1001, dtype=np.float32)
    gain = np.empty_like(light)

    for most in (0.01, 0.75, 2.0):
        kernels.gains(light, 2.0, 0.1, most, gain)

        exact = 1 - np.exp(-most * np.clip(light / 2, 0.1, 1).astype(np.float64))
        assert np.abs(gain - exact).max() < 3e-6


@pytest.mark.parametrize(
    ("change", "polarity", "expected"),
    [(1.1, 1, 4), (0.24, 1, 0), (-1.1, 0, 3), (-0.31, 0, 1), (2.6, 1, 10)],
)
def test_a_step_of_light_gives_as_many_events_as_thresholds_fit_in(change, polarity, expected):
    pixels = Pixels(1, refractory=0.0)

    pixels.step(change)
    pixels.step(change)

    threshold = 0.25 if polarity else 0.3
    assert expected == math.floor(abs(change) / threshold)
    times = [(k + 1) * threshold / abs(change) * DT for k in range(expected)]
    assert [p for _, _, p in pixels.events] == [polarity] * expected
    assert [t for t, _, _ in pixels.events] == pytest.approx(times, abs=1e-4)


def test_pixels_are_those_of_the_slow_version():
    n, steps = 70, 200  # not a whole number of groups
    random = np.random.default_rng(3)
    targets = np.cumsum(random.normal(0, 0.25, (steps, n)), 0).astype(np.float32)
    for gain, refractory in ((1.0, 20.0), (0.3, 60.0), (0.6, 3.0)):
        pixels = Pixels(n, refractory=refractory)
        for target in targets:
            pixels.step(target, gain)

        for pixel in range(n):
            found = [(t, p) for t, at, p in pixels.events if at == pixel]
            slow = slow_pixel(
                targets[:, pixel], np.float32(gain), 0.25, np.float32(0.3), refractory
            )
            assert [p for _, p in found] == [p for _, p in slow]
            assert np.allclose([t for t, _ in found], [t for t, _ in slow], atol=0.02)


@settings(deadline=None)
@given(
    targets=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=60),
    gain=st.floats(0.01, 1),
    refractory=st.sampled_from([1.0, 8.0, 60.0, 100.0]),
)
def test_no_pixel_sends_two_events_within_its_refractory_time(targets, gain, refractory):
    pixels = Pixels(1, refractory=refractory)

    for target in targets:
        pixels.step(target, gain)

    times = np.array([t for t, _, _ in pixels.events])
    # float32 at 1000 us: half a unit in the last place on both sides
    assert (np.diff(times) >= refractory - 1e-3).all()


def test_light_changes_during_the_refractory_time_are_followed_not_sent():
    pixels = Pixels(1, refractory=60.0)

    for _ in range(30):
        pixels.step(5.0)

    assert len(pixels.events) == 1
    assert pixels.upper[0] == pytest.approx(5.25)


def test_rest_is_what_many_steps_without_events_do():
    random = np.random.default_rng(1)
    target, gain = random.normal(0, 0.1, 40), random.uniform(0.001, 0.9, 40)
    target, gain = target.astype(np.float32), gain.astype(np.float32)
    pixels, level = Pixels(40), full(0.05, 40)
    pixels.level[:] = 0.05

    for _ in range(50):
        kernels.step_pixels(
            target, gain, 0.0, DT, 60.0, pixels.on, pixels.off, pixels.level, pixels.upper,
            pixels.lower, pixels.release, 0, pixels.times, pixels.places,
        )  # fmt: skip
    kernels.rest(target, gain, 50, level)

    assert np.abs(level - pixels.level).max() < 1e-5


def test_pixels_are_quiet_only_when_no_event_will_ever_come():
    pixels = Pixels(9)

    def quiet(target):
        return kernels.is_quiet(full(target, 9), pixels.upper, pixels.lower, pixels.release)

    assert quiet(0.2)
    assert not quiet(0.26)
    assert not quiet(-0.31)
    pixels.release[4] = 12.0
    assert not quiet(0.0)


def test_events_that_do_not_fit_are_told():
    pixels = Pixels(3, refractory=0.0)
    pixels.times, pixels.places = np.empty(5, np.float32), np.empty(5, np.int32)

    assert pixels.step(0.6) == -1


def test_compiled_pixels_do_what_the_python_does():
    random = np.random.default_rng(5)
    compiled, plain = Pixels(20), Pixels(20)

    for target in random.normal(0, 1, (20, 20)).astype(np.float32):
        compiled.step(target, 0.5)
        plain.step(target, 0.5, kernels.step_pixels.py_func)

    assert compiled.count > 20
    assert compiled.events == plain.events
