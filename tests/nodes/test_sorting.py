"""The sorting rules decide as a slow reference does; the clock errs to the late side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from streamflow_nodes.particles.sorting import (
    COINCIDENCE,
    DEAD_TIME,
    LATE,
    MERGED,
    OVERLAP,
    PULSED,
    Mode,
    Rules,
    Sorter,
    StreamClock,
    travel_time,
)


class Seen(NamedTuple):
    """A particle: when it became known, when it arrives, whether it is to be sorted."""

    known: int
    arrival: int
    is_wanted: bool


def decide(particles: Iterable[Seen], rules: Rules) -> dict[int, str]:
    """What the sorter makes of particles in the order in which they become known."""
    sorter, out = Sorter(rules), {}

    def run(until: float) -> None:
        while (head := sorter.head) is not None and head.ready < until:
            sorter.pop()
            out[head.number] = sorter.judge(head, head.ready)
            if out[head.number] in (PULSED, MERGED):
                sorter.fire(head)

    for number, seen in enumerate(particles):
        run(seen.known)
        sorter.see(seen.arrival, seen.known, is_wanted=seen.is_wanted)
        if seen.is_wanted:
            sorter.add(number, seen.arrival, seen.known, 0.0, "")
    run(float("inf"))
    return out


def reference(particles: list[Seen], rules: Rules) -> dict[int, str]:
    """The rules as they are written in the docs, one after the other, over all pairs."""
    starts = [p.arrival - rules.width // 2 for p in particles]
    ready = [max(p.known, start) for p, start in zip(particles, starts, strict=True)]
    wanted = [i for i, p in enumerate(particles) if p.is_wanted]
    out: dict[int, str] = {}
    ends: list[int] = []
    for i in sorted(wanted, key=lambda i: (ready[i], starts[i], i)):
        start, now = starts[i], ready[i]
        taken = [
            p
            for j, p in enumerate(particles)
            if j != i
            and p.known <= now
            and start - rules.guard <= p.arrival <= start + rules.width + rules.guard
        ]
        if now > start + rules.tolerance:
            out[i] = LATE
        elif (rules.mode == "purity" and any(not p.is_wanted for p in taken)) or (
            rules.mode == "single" and taken
        ):
            out[i] = COINCIDENCE
        elif any(now <= end for end in ends):
            out[i] = MERGED if rules.merges and rules.mode != "single" else OVERLAP
        elif any(now < end + rules.dead_time for end in ends):
            out[i] = DEAD_TIME
        else:
            out[i] = PULSED
        if out[i] in (PULSED, MERGED):
            ends.append(start + rules.width)
    return out


particles_strategy = st.lists(
    st.builds(
        lambda late, arrival, wanted: (late, arrival, wanted),
        st.integers(-60, 20), st.integers(0, 200), st.booleans(),
    ),
    max_size=25,
)  # fmt: skip
rules_strategy = st.builds(
    Rules,
    st.sampled_from(["purity", "yield", "single"]), st.integers(1, 30), st.integers(0, 15),
    st.integers(0, 40), st.integers(0, 15), st.booleans(),
)  # fmt: skip


@given(drawn=particles_strategy, rules=rules_strategy)
@example(drawn=[(-9, 50, True), (-9, 50, True)], rules=Rules("single", 4))
@example(drawn=[(-9, 50, True), (0, 50, False)], rules=Rules("purity", 4, tolerance=3))
def test_every_decision_is_that_of_the_slow_reference(
    drawn: list[tuple[int, int, bool]], rules: Rules
) -> None:
    particles, newest = [], -1000
    for late, arrival, is_wanted in drawn:
        newest = max(newest, arrival + late)  # no row is handed over before the one before it
        particles.append(Seen(newest, arrival, is_wanted))

    assert decide(particles, rules) == reference(particles, rules)


@given(drawn=particles_strategy, rules=rules_strategy, at=st.integers(0, 25))
def test_a_restored_sorter_goes_on_as_the_first_would(
    drawn: list[tuple[int, int, bool]], rules: Rules, at: int
) -> None:
    first = Sorter(rules)
    for number, (late, arrival, is_wanted) in enumerate(drawn):
        first.see(arrival, -1000, is_wanted=is_wanted)
        if is_wanted:
            first.add(number, arrival, arrival + late, 0.0, "A")
        if number == at and first.head is not None:
            first.fire(first.pop())
    second = Sorter(rules)

    second.restore(first.snapshot())

    while (head := first.head) is not None:
        assert second.pop() == first.pop()
        assert second.judge(head, head.ready) == first.judge(head, head.ready)
    assert second.head is None
    assert second.on_until == first.on_until


def arriving(*arrivals: tuple[int, bool]) -> list[Seen]:
    """Particles known long before they arrive."""
    return [Seen(-1000, arrival, is_wanted) for arrival, is_wanted in arrivals]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        # a target beside a stranger; two targets; one alone
        ("yield", [PULSED, PULSED, MERGED, PULSED]),
        ("purity", [COINCIDENCE, PULSED, MERGED, PULSED]),
        ("single", [COINCIDENCE, COINCIDENCE, COINCIDENCE, PULSED]),
    ],
)
def test_the_modes_differ_in_whose_neighbours_they_bear(mode: Mode, expected: list[str]) -> None:
    particles = arriving((100, True), (104, False), (200, True), (204, True), (300, True))

    out = decide(particles, Rules(mode, 10))

    assert [out[i] for i in (0, 2, 3, 4)] == expected


def test_a_single_pulse_is_not_prolonged_for_a_second_particle() -> None:
    # 8 apart: neither is within 5 of the other, but their pulses overlap
    out = decide(arriving((100, True), (108, True)), Rules("single", 10))

    assert out == {0: PULSED, 1: OVERLAP}


def test_a_stranger_that_becomes_known_too_late_spoils_nothing() -> None:
    particles = [Seen(0, 100, True), Seen(96, 103, False)]  # the pulse begins at 95

    assert decide(particles, Rules("purity", 10)) == {0: PULSED}


def test_a_pulse_within_the_dead_time_is_not_made_and_one_after_it_is() -> None:
    out = decide(arriving((100, True), (113, True), (125, True)), Rules("yield", 10, dead_time=10))

    assert out == {0: PULSED, 1: DEAD_TIME, 2: PULSED}


def test_arrivals_that_matter_no_more_are_forgotten() -> None:
    sorter = Sorter(Rules("purity", 10, guard=5, tolerance=5))

    for now in range(0, 10_000, 10):
        sorter.see(now + 100, now, is_wanted=False)

    _, everyone, unwanted, *_ = sorter.snapshot()
    assert len(everyone) == len(unwanted) == 12


@given(
    delays=st.lists(st.integers(0, 5_000_000), min_size=1, max_size=50),
    speed=st.sampled_from([1.0, 0.5, 2.0]),
)
def test_the_clock_is_right_but_for_the_shortest_delay(delays: list[int], speed: float) -> None:
    clock, origin = StreamClock(speed), 10**15
    captured, real = 0, []
    for number, delay in enumerate(delays):
        sent = origin + round(number * 1_000_000 / speed)
        captured = max(captured, sent + delay)  # packets do not overtake each other
        clock.see(1000 * number, captured)
        real.append(captured - sent)

    error = clock.at(7_000_000) - (origin + round(7e9 / speed))

    # the shortest delay, and what the clocks may have drifted since
    assert min(real) <= error <= min(real) + StreamClock.DRIFT * len(delays) * 7_000_000


@pytest.mark.parametrize("skew", [100e-6, -100e-6])
def test_the_clock_follows_one_that_drifts(skew: float) -> None:
    clock = StreamClock()
    for number in range(10_000):  # 100 s; every tenth packet comes at once, the others late
        delay = 0 if number % 10 == 0 else 300_000
        clock.see(10_000 * number, round(10_000_000 * number * (1 + skew)) + delay)

    error = clock.at(99_990_000) - round(99_990_000_000 * (1 + skew))

    assert 0 <= error < 50_000
    assert clock.drift == pytest.approx(1e11 * skew, rel=0.01)


def test_a_source_that_falls_behind_does_not_move_the_clock() -> None:
    clock = StreamClock()
    for number in range(10_000):  # from the fifth second on all packets come 0.1 s late
        clock.see(1000 * number, 1_000_000 * number + 100_000_000 * (number >= 5000))

    assert 0 <= clock.at(0) <= 5_000_000_000 * StreamClock.DRIFT + 200_000


def test_a_restored_clock_goes_on_as_the_first_would() -> None:
    first, second = StreamClock(), StreamClock()
    for number in range(100):
        first.see(1000 * number, 1_000_000 * number + 7919 * number % 5000)

    second.restore(first.snapshot())
    for clock in (first, second):
        clock.see(100_000, 100_004_000)

    assert first.at(123.0) == second.at(123.0)
    assert first.snapshot() == second.snapshot()


@pytest.mark.parametrize("velocity", [0.0, -1.0, float("nan"), float("inf"), 1e-320])
def test_a_particle_without_a_speed_never_arrives(velocity: float) -> None:
    assert travel_time(0.001, velocity) is None


def test_distance_and_velocity_give_the_time() -> None:
    assert travel_time(0.002, 0.1) == pytest.approx(0.02)
