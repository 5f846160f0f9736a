"""Stream time passes as fast as it is told to, and never keeps a run from ending."""

from __future__ import annotations

import threading
import time

import pytest

from streamflow.clock import Clock, Pace

LIMIT_S = 30  # only reached when a thread hangs
FAR = 10**12  # us: eleven days


@pytest.mark.parametrize("pace", ["fast", "realtime"])
def test_only_a_paced_clock_waits(pace: Pace) -> None:
    clock = Clock(pace)

    assert clock.wait_until(0)
    assert clock.wait_until(FAR)


@pytest.mark.parametrize("speed", [0.5, 1.0, 10.0])
def test_a_paced_clock_is_never_early(speed: float) -> None:
    clock = Clock("paced", speed)
    begin = time.monotonic_ns()
    assert clock.wait_until(1_000_000)  # the first wait says where stream time begins

    for ahead in (5_000, 12_000, 20_000):
        assert clock.wait_until(1_000_000 + ahead)
        assert time.monotonic_ns() - begin >= ahead * 1000 / speed


def test_stream_time_that_is_past_is_not_waited_for() -> None:
    clock = Clock("paced")
    clock.wait_until(FAR)

    assert clock.wait_until(FAR)
    assert clock.wait_until(0)


def test_someone_who_is_late_is_not_delayed_further() -> None:
    clock = Clock("paced")
    clock.wait_until(0)
    origin = clock._origin
    assert origin is not None
    while time.monotonic_ns() < origin[1] + 5_000_000:  # busy, as a slow consumer would be
        pass

    clock.wait_until(2_000)
    clock.wait_until(8_000)

    assert clock._origin == origin  # so what comes next is due when it was due before
    assert time.monotonic_ns() - origin[1] >= 8_000_000


@pytest.mark.parametrize("waiters", [1, 3])
def test_stopping_wakes_everyone_who_waits(waiters: int) -> None:
    clock, answers, waiting = Clock("paced"), [], threading.Semaphore(0)
    clock.wait_until(0)

    def wait() -> None:
        waiting.release()
        answers.append(clock.wait_until(FAR))

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(waiters)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=LIMIT_S)
    assert not clock.stopped
    clock.stop()
    for thread in threads:
        thread.join(LIMIT_S)

    assert answers == [False] * waiters
    assert clock.stopped


@pytest.mark.parametrize("pace", ["fast", "realtime", "paced"])
def test_a_stopped_clock_says_so_at_once(pace: Pace) -> None:
    clock = Clock(pace)
    clock.stop()

    assert not clock.wait_until(0)
    assert not clock.wait_until(FAR)


def test_a_live_sources_time_begins_at_zero_and_follows_the_machine() -> None:
    clock = Clock("realtime")
    assert clock.now() == 0
    before = time.monotonic_ns()
    first = clock.now()

    while time.monotonic_ns() - before < 3_000_000:
        pass
    second = clock.now()

    assert second - first >= 2_999  # us, rounded down twice
    assert second <= (time.monotonic_ns() - before) // 1000 + first + 1
