"""Particles in a flow channel in front of an event camera: simulated events, and the truth.

A `Simulation` makes the stream block by block (`BLOCK` steps of light each). Every block is
calculated exactly, whatever number of particles is in the beam; times without particles, in which
no pixel is about to send an event, cost next to nothing. What is calculated depends on the
parameters, the session and the seed alone, never on how the stream is cut or how fast it is read.

The *session* decides what an operator would find on a day: where the beam meets the sensor,
speckle, hot pixels, thresholds, light, flow, depth. The *seed* decides which particles come.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamflow.packet import EVENT

from ..kernels.dvs_pixel import gains, is_quiet, logarithms, rest
from ..kernels.particle_light import expose
from ..kernels.refractory import keep_rested
from .optics import Optics, Scattering, beam_field, speckle

TRUTH = np.dtype(
    [
        ("id", "<i8"),
        ("time_us", "<f8"),  # centre of the passage, stream time
        ("class", "S16"),
        ("kind", "S8"),  # bead, doublet, debris
        ("diameter_um", "<f8"),  # of a doublet: of its first sphere
        ("refractive_index", "<f8"),
        ("y_um", "<f8"),  # across the beam
        ("z_um", "<f8"),  # along the beam
        ("velocity_m_s", "<f8"),
        ("start_us", "<i8"),  # the passage: within REACH waists of the beam's axis
        ("stop_us", "<i8"),
        ("overlaps", "u1"),  # 1 when another particle is in the beam during the passage
    ]
)
"""A particle, as it was. Doublets and debris have the class of the sample they came with."""

REACH = 2.2  # waists; the field of a particle is 0.8 % there
BLOCK = 250  # steps of light in a block: 2 ms by default
SLOWEST = 0.5  # where pulsation is cut off, of the speed
JITTER_LIMIT = 2  # us; jitter beyond it is cut off
SLACK = 2 * JITTER_LIMIT + 1  # us by which jitter and rounding can shorten the time between events

Truth = NDArray[Any]  # (n,) of TRUTH
EventArray = NDArray[Any]  # (n,) of EVENT


@dataclass(frozen=True)
class Sphere:
    """A class of particles: its name, mean diameter (m) and refractive index."""

    name: str
    diameter: float
    index: float


PMMA, POLYSTYRENE = 1.489, 1.587  # refractive indices at 633 nm
CLASSES = {
    "16/20": (Sphere("A", 16e-6, PMMA), Sphere("B", 20e-6, PMMA)),
    "12/16/20": (Sphere("A", 12e-6, PMMA), Sphere("B", 16e-6, PMMA), Sphere("C", 20e-6, PMMA)),
    "15.2/18.6": (Sphere("A", 15.2e-6, PMMA), Sphere("B", 18.6e-6, PMMA)),
    "PMMA/PS": (Sphere("PMMA", 16e-6, PMMA), Sphere("PS", 16e-6, POLYSTYRENE)),
}
"""Sizes of Gouda et al. 2023, Moustakas et al. 2025, Lugnan et al. 2020; two materials."""


@dataclass(frozen=True)
class Sample:
    """What flows through the channel, and how fast."""

    rate: float = 100.0  # particles per second, independent of each other
    classes: tuple[Sphere, ...] = CLASSES["16/20"]
    mix: tuple[float, ...] = ()  # shares of the classes; () for equal ones
    spread: float = 0.05  # standard deviation of a class's diameters / its mean
    doublets: float = 0.03  # share of particles that are two spheres stuck together
    debris: float = 0.05  # share of particles that are something else
    debris_diameter: float = 10e-6  # m, median of a log-normal distribution,
    debris_spread: float = 0.22  # its standard deviation in ln
    debris_smallest: float = 6.5e-6  # m
    speed: float = 0.12  # m/s, on the axis of the channel
    pulsation: float = 0.03  # standard deviation of the speed from particle to particle / speed
    stream: float = 24e-6  # m, radius of the stream of particles
    wall: float = 31e-6  # m, radius at which the parabolic flow is at rest


@dataclass(frozen=True)
class Camera:
    """Pixels. Thresholds in ln of light, times in s, rates in 1/s and pixel."""

    threshold_on: float = 0.25
    threshold_off: float = 0.36
    mismatch: float = 0.03  # standard deviation of thresholds from pixel to pixel
    bandwidth: float = 15e3  # Hz, of a bright pixel
    full_light: float = 3.75  # light of the full bandwidth / mean stray light
    slowest: float = 0.2  # share of the bandwidth that darkness leaves
    refractory: float = 60e-6
    background: float = 1.0  # shot-like noise, ON and OFF alike
    leak: float = 0.1  # ON
    hot_share: float = 0.0002  # of pixels, that send `hot_rate` events all the time
    hot_rate: float = 500.0
    jitter: float = 1e-6  # standard deviation of times
    step: int = 8  # us of stream time for which light is calculated at once


class Drift(NamedTuple):
    """How sessions differ: standard deviations at drift 1."""

    offset: float = 0.3e-3  # m, of the beam on the sensor
    thresholds: float = 0.06
    amplitude: float = 0.04
    speed: float = 0.08
    stray: float = 0.15
    depth: float = 10e-6  # m, of the stream along the beam


DRIFT = Drift()


class Session:
    """One day's set-up: `Drift` times `drift`, and this session's speckle, mismatch and hot pixels.

    stray : (n,) float64, light; beam : (n,) complex128; on, off : (n,) float32, thresholds;
    hot : (m,) int64, pixels.
    """

    def __init__(
        self, number: int, drift: float, optics: Optics, sample: Sample, camera: Camera
    ) -> None:
        random = np.random.default_rng([0x5E55, number])
        offset_x, offset_y, on, off, amplitude, speed, stray, depth = (
            drift * random.normal(size=8)
        ).tolist()
        centre = (DRIFT.offset * offset_x, DRIFT.offset * offset_y)
        self.scattering = Scattering(optics, centre)
        x, y = np.meshgrid(self.scattering.x, self.scattering.y)
        self.amplitude = _factor(DRIFT.amplitude * amplitude)
        self.beam = (self.amplitude * beam_field(x, y, optics)).ravel()
        self.speed = sample.speed * _factor(DRIFT.speed * speed)
        self.depth = DRIFT.depth * depth
        light = optics.stray * _factor(DRIFT.stray * stray)
        self.stray = (light * speckle(random, optics)).ravel()
        n = len(self.stray)
        self.on = _thresholds(random, n, camera.threshold_on, DRIFT.thresholds * on, camera)
        self.off = _thresholds(random, n, camera.threshold_off, DRIFT.thresholds * off, camera)
        self.hot = np.flatnonzero(random.random(n) < camera.hot_share)


def _factor(change: float) -> float:
    """1 + change, kept positive for drifts beyond reason."""
    return max(0.1, 1 + change)


def _thresholds(
    random: np.random.Generator, n: int, mean: float, change: float, camera: Camera
) -> NDArray[np.float32]:
    spread = random.normal(mean * _factor(change), camera.mismatch, n)
    return np.maximum(spread, 0.2 * mean).astype(np.float32)  # a pixel below would never be silent


# --- particles --------------------------------------------------------------------------------

PASSAGE = np.dtype(
    [("truth", TRUTH), ("second_um", "<f8"), ("dx_um", "<f8"), ("dy_um", "<f8")],
)
"""A particle with what the truth does not say: a doublet's second sphere (0: none) and where it is
from the first (dx along the flow, dy across); the two lie symmetrically to the passage's centre."""


class Particles:
    """Who crosses the beam when, in the order of the passages' centres. Ends at `end` (us)."""

    def __init__(
        self, sample: Sample, session: Session, optics: Optics, seed: tuple[int, int], end: float
    ) -> None:
        self.sample, self.session, self.end = sample, session, end
        self.reach_um = REACH * optics.waist * 1e6
        self._random = np.random.default_rng([0xBEAD, *seed])
        shares = np.array(sample.mix or [1.0] * len(sample.classes))
        self._bounds = np.cumsum(shares / shares.sum())
        slowest = session.speed * (1 - (sample.stream / sample.wall) ** 2) * SLOWEST
        self.longest = 2 * (self.reach_um + 2) / slowest  # us; no passage is longer
        self._time = 0.0
        self._count = 0
        self.planned = np.empty(0, PASSAGE)
        self.told = 0  # particles whose truth was told

    def plan(self, time: int) -> None:
        """Know every particle, and its overlaps, whose passage starts before `time` (us)."""
        rows: list[Any] = []
        horizon = time + 2 * self.longest
        while self.sample.rate and self._time <= min(horizon, self.end):
            self._time += self._random.exponential(1e6 / self.sample.rate)
            row = self._next(self._time)
            if row is not None:
                rows.append(row)
        if rows:
            self.planned = np.concatenate([self.planned, np.array(rows, PASSAGE)])
            self._mark_overlaps(len(rows))

    def truth(self, time: int) -> Truth:
        """Particles not told yet whose centre is before `time` (us); call `plan` before."""
        truth = self.planned["truth"]
        is_due = (truth["id"] >= self.told) & (truth["time_us"] < time)
        due = truth[is_due]
        if len(due):
            self.told = int(due["id"][-1]) + 1
        out = np.empty(len(due), TRUTH)
        out[:] = due
        return out

    def forget(self, time: int) -> None:
        """Drop particles that cannot matter to anything from `time` (us) on."""
        truth = self.planned["truth"]
        is_over = (truth["stop_us"] + self.longest < time) & (truth["id"] < self.told)
        if is_over.any():
            self.planned = self.planned[~is_over]

    def _next(self, centre: float) -> tuple[Any, ...] | None:
        """The particle centred there; None when its passage is not whole within the stream."""
        random, sample = self._random, self.sample
        which, kind_of = random.random(2)
        sphere = sample.classes[int(np.searchsorted(self._bounds, which, "right"))]
        radius, angle = sample.stream * math.sqrt(random.random()), 2 * math.pi * random.random()
        y, z = radius * math.sin(angle), radius * math.cos(angle)
        pulse, first, second, dust = random.normal(size=4).tolist()
        turn, tilt = 2 * math.pi * random.random(), random.uniform(-1, 1)
        flow = self.session.speed * (1 - (radius / sample.wall) ** 2)
        velocity = flow * max(SLOWEST, 1 + sample.pulsation * pulse)
        diameter, other, kind = sphere.diameter * (1 + sample.spread * first), 0.0, b"bead"
        if kind_of < sample.debris:
            kind = b"debris"
            diameter = sample.debris_diameter * math.exp(sample.debris_spread * dust)
            diameter = max(diameter, sample.debris_smallest)
        elif kind_of < sample.debris + sample.doublets:
            kind = b"doublet"
            other = _diameter(sphere.diameter * (1 + sample.spread * second))
        diameter = _diameter(diameter)
        apart, flat = (diameter + other) / 2, math.sqrt(1 - tilt * tilt)
        half = self.reach_um / velocity
        start, stop = math.floor(centre - half), math.ceil(centre + half)
        if start < 0 or stop > self.end:
            return None
        truth = (
            self._count, round(centre, 1), sphere.name.encode(), kind, round(diameter, 2),
            sphere.index, round(y * 1e6, 2), round((z + self.session.depth) * 1e6, 2),
            round(velocity, 4), start, stop, 0,
        )  # fmt: skip
        self._count += 1
        return truth, other, apart * flat * math.cos(turn), apart * flat * math.sin(turn)

    def _mark_overlaps(self, new: int) -> None:
        """Note which of the planned particles meet one of the `new` last."""
        truth = self.planned["truth"]
        start, stop = truth["start_us"], truth["stop_us"]
        added = slice(len(self.planned) - new, None)
        meets = (start[:, None] < stop[None, added]) & (start[None, added] < stop[:, None])
        meets[added] &= ~np.eye(meets.shape[1], dtype=bool)
        truth["overlaps"] |= meets.any(1)
        truth["overlaps"][added] |= meets.any(0)

    def snapshot(self) -> dict[str, Any]:
        return {
            "particles_random": json.dumps(self._random.bit_generator.state),
            "particles_time": self._time,
            "particles_count": self._count,
            "particles_told": self.told,
            "particles_planned": np.frombuffer(self.planned.tobytes(), np.uint8),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._random.bit_generator.state = json.loads(state["particles_random"])
        self._time = float(state["particles_time"])
        self._count, self.told = int(state["particles_count"]), int(state["particles_told"])
        self.planned = np.frombuffer(state["particles_planned"].tobytes(), PASSAGE).copy()


def _diameter(metres: float) -> float:
    """In um, within what scattering is calculated for."""
    return min(max(metres * 1e6, 0.5), 60.0)


# --- the stream ---------------------------------------------------------------------------------


@dataclass
class Lit:
    """The spheres of one particle: fields (m, 2, n) float32; centre us, velocity, offsets um."""

    fields: NDArray[np.float32]
    courses: NDArray[np.float64]
    begin: float  # us, when the first sphere comes within reach
    end: float


class Simulation:
    """Events of a camera, `next_block` by `next_block`; each block's truth with `truth`."""

    def __init__(
        self,
        sample: Sample | None = None,
        *,
        seed: int = 0,
        session: int = 0,
        drift: float = 0.4,
        optics: Optics | None = None,
        camera: Camera | None = None,
        end: float = math.inf,
    ) -> None:
        """`end` is where the stream ends (us): no passage reaches beyond it."""
        self.sample, self.optics = sample or Sample(), optics or Optics()
        self.camera = camera or Camera()
        self.session = Session(session, drift, self.optics, self.sample, self.camera)
        self.particles = Particles(self.sample, self.session, self.optics, (seed, session), end)
        self._random = np.random.default_rng([0xD05E, seed, session])
        self.block = BLOCK * self.camera.step  # us
        self.time = 0  # us, start of the next block
        self._lit: dict[int, Lit] = {}
        self._prepare()

    def _prepare(self) -> None:
        """Constants of the kernels, and the state at rest."""
        o, c, s = self.optics, self.camera, self.session
        n = len(s.stray)
        self._beam = np.stack([s.beam.real, s.beam.imag]).astype(np.float32)
        self._stray = s.stray.astype(np.float32)
        dark = (self._beam[0] ** 2 + self._beam[1] ** 2 + self._stray).astype(np.float32)
        most = 2 * math.pi * c.bandwidth * c.step * 1e-6
        self._pixel = np.array([c.full_light * o.stray, c.slowest, most, c.refractory * 1e6])
        self._still = np.empty((2, n), np.float32)
        logarithms(dark, self._still[0])
        gains(dark, self._pixel[0], c.slowest, most, self._still[1])
        wave = o.wave_number / o.distance * 1e-12
        left, pitch = s.scattering.x[0] * 1e6, o.pitch * 1e6
        self._optics = np.array([wave, o.waist * 1e6, REACH * o.waist * 1e6, left, pitch, o.width])
        self._state = np.empty((4, n), np.float32)
        self._state[0] = self._still[0]
        self._state[1] = self._still[0] + s.on
        self._state[2] = self._still[0] - s.off
        self._state[3] = np.inf
        self._idle = 0  # steps since the state was last calculated
        self._last = np.full(n, -(1 << 62), np.int64)
        most_events = n * (int(self.block / max(c.refractory * 1e6, c.step)) + 2)
        self._times = np.empty(most_events, np.float32)
        self._places = np.empty(most_events, np.int32)

    def warm_up(self) -> None:
        """Compile, and calculate the fields of the sizes that will be common."""
        nothing = np.empty((0, 2, self._state.shape[1]), np.float32)
        expose(0, 0, 1.0, nothing, np.empty((0, 3)), self._optics, self._beam, self._stray,
               self._still, self._pixel, self.session.on, self.session.off, self._state, 0,
               self._times, self._places)  # fmt: skip
        rest(self._still[0], self._still[1], 0, self._state[0])
        is_quiet(self._still[0], self._state[1], self._state[2], self._state[3])
        words = np.empty(0, np.int64)
        keep_rested(words, 1, 1, 1, self._last, words)
        spread, room = 3 * self.sample.spread, self.session.scattering.room
        for sphere in self.sample.classes:
            low, high = sphere.diameter * (1 - spread), sphere.diameter * (1 + spread)
            sizes = np.arange(high, max(low, 0.5e-6), -0.1e-6).tolist()
            for diameter in sizes[: room // len(self.sample.classes)]:
                self.session.scattering.field(diameter, sphere.index)

    def next_block(self) -> EventArray:
        """Events of `[time, time + block)` us in the order of time; `time` moves on."""
        begin, end = self.time, self.time + self.block
        self.particles.plan(end)
        lit = self._light(begin, end)
        count = self._expose(lit, begin)
        events = self._collect(count, begin, end)
        self.time = end
        return events

    def truth(self, time: int) -> Truth:
        """Particles whose passage is centred before `time` (us) and that were not told before."""
        self.particles.plan(time)
        out = self.particles.truth(time)
        self.particles.forget(min(time, self.time))
        return out

    def _light(self, begin: int, end: int) -> list[Lit]:
        """The particles in the beam between `begin` and `end` (us)."""
        truth = self.particles.planned["truth"]
        slack = 60.0 / truth["velocity_m_s"]  # a doublet's second sphere may come that much earlier
        is_near = (truth["start_us"] - slack < end) & (truth["stop_us"] + slack > begin)
        for passage in self.particles.planned[is_near]:
            key = int(passage["truth"]["id"])
            if key not in self._lit:
                self._lit[key] = self._spheres(passage)
        present = [lit for lit in self._lit.values() if lit.begin < end and lit.end > begin]
        self._lit = {key: lit for key, lit in self._lit.items() if lit.end > begin}
        return present

    def _spheres(self, passage: Any) -> Lit:
        truth, optics = passage["truth"], self._optics
        spheres = [(truth["diameter_um"], -0.5 if passage["second_um"] else 0.0)]
        if passage["second_um"]:
            spheres.append((passage["second_um"], 0.5))
        planes, courses = [], []
        scattering = self.session.scattering
        for diameter, side in spheres:
            field = scattering.field(diameter * 1e-6, float(truth["refractive_index"]))
            y = (truth["y_um"] + side * passage["dy_um"]) * 1e-6
            field = (self.session.amplitude * field * scattering.across(y)).ravel()
            planes.append(np.stack([field.real, field.imag]).astype(np.float32))
            courses.append((truth["time_us"], truth["velocity_m_s"], side * passage["dx_um"]))
        course = np.array(courses, np.float64)
        half = (optics[2] + np.abs(course[:, 2]).max()) / course[0, 1]
        return Lit(np.stack(planes), course, course[0, 0] - half, course[0, 0] + half)

    def _expose(self, lit: list[Lit], begin: int) -> int:
        """Move the pixels through the block; the number of events in the buffers."""
        s, dt = self.session, float(self.camera.step)
        level, upper, lower, release = self._state
        first = 0
        if is_quiet(self._still[0], upper, lower, release):
            first = BLOCK
            if lit:
                first = max(0, int((min(one.begin for one in lit) - begin) / dt) - 1)
            self._idle += first
        if first >= BLOCK:
            return 0
        rest(self._still[0], self._still[1], self._idle, level)
        self._idle = 0
        fields, courses = np.empty((0, 2, len(level)), np.float32), np.empty((0, 3))
        if lit:
            fields = np.concatenate([one.fields for one in lit])
            courses = np.concatenate([one.courses for one in lit])
            courses[:, 0] -= begin
        count = int(
            expose(first, BLOCK, dt, fields, courses, self._optics, self._beam, self._stray,
                   self._still, self._pixel, s.on, s.off, self._state, 0, self._times,
                   self._places)
        )  # fmt: skip
        if count < 0:
            raise AssertionError("more events than the refractory time allows")
        release -= np.float32(self.block)
        return count

    def _collect(self, count: int, begin: int, end: int) -> EventArray:
        """The block's events with noise and jitter, in the order of time."""
        times, places = self._noise()
        times = np.concatenate([self._times[:count], times])
        places = np.concatenate([self._places[:count], places]).astype(np.int64)
        jitter = self._random.normal(0, self.camera.jitter * 1e6, len(times))
        jitter = np.clip(jitter, -JITTER_LIMIT, JITTER_LIMIT)
        stamps = np.clip(begin + np.rint(times + jitter).astype(np.int64), begin, end - 1)
        order = np.argsort(stamps, kind="stable")
        width, height = self.optics.width, self.optics.height
        pixels = places[order] >> 1
        words = np.empty((len(order), 2), np.int64)
        words[:, 0] = stamps[order]
        words[:, 1] = pixels % width | pixels // width << 16 | (places[order] & 1) << 32
        period = max(0, int(self.camera.refractory * 1e6) - SLACK)
        flat, kept = words.ravel(), np.empty(words.size, np.int64)
        n, _ = keep_rested(flat, width, height, period, self._last, kept)
        return np.ndarray(n, EVENT, kept[: 2 * n].copy())

    def _noise(self) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Times in the block (us) and places of events that no light made."""
        random, c = self._random, self.camera
        n, hot, seconds = len(self._last), self.session.hot, self.block * 1e-6
        shots, leaks, hots = random.poisson(
            [c.background * n * seconds, c.leak * n * seconds, c.hot_rate * len(hot) * seconds]
        ).tolist()
        places = [2 * random.integers(n, size=shots) + random.integers(2, size=shots),
                  2 * random.integers(n, size=leaks) + 1]  # fmt: skip
        if hots:
            places.append(2 * random.choice(hot, hots) + random.integers(2, size=hots))
        times = random.uniform(0, self.block, shots + leaks + hots)
        return times.astype(np.float32), np.concatenate(places).astype(np.int32)

    def snapshot(self) -> dict[str, Any]:
        """The state before the next block."""
        return {
            "time": self.time,
            "idle": self._idle,
            "pixels": self._state.copy(),
            "last": self._last.copy(),
            "random": json.dumps(self._random.bit_generator.state),
            **self.particles.snapshot(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.time, self._idle = int(state["time"]), int(state["idle"])
        self._state[:] = state["pixels"]
        self._last[:] = state["last"]
        self._random.bit_generator.state = json.loads(state["random"])
        self.particles.restore(state)
        self._lit = {}


def simulate(
    sample: Sample | None = None, *, seconds: float, seed: int = 0, session: int = 0,
    drift: float = 0.4, optics: Optics | None = None, camera: Camera | None = None,
) -> tuple[EventArray, Truth]:  # fmt: skip
    """The events and the truth of `seconds` of a session; the same as the node's, in one go."""
    end = round(seconds * 1e6)
    simulation = Simulation(
        sample, seed=seed, session=session, drift=drift, optics=optics, camera=camera, end=end
    )
    blocks = [simulation.next_block() for _ in range(-(-end // simulation.block))]
    events = np.frombuffer(b"".join(block.tobytes() for block in blocks), EVENT)
    return events[: np.searchsorted(events["timestamp"], end)], simulation.truth(end)
