"""`particle_simulator`: an event camera at a flow cytometer, simulated, with the truth."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from streamflow.errors import NodeError
from streamflow.node import Emission, Fraction, Node, Out, Positive, Seconds, Settings
from streamflow.packet import EVENT, Events, Table

from ..particles.optics import Optics, require_miepython
from ..particles.simulation import CLASSES, Camera, Sample, Simulation
from ..spans import microseconds

Number = Annotated[int, msgspec.Meta(ge=0)]
PerSecond = Annotated[float, msgspec.Meta(ge=0, le=100_000)]
Pitch = Annotated[float, msgspec.Meta(ge=1e-6, le=0.01)]
Light = Annotated[float, msgspec.Meta(ge=1e-12, le=1)]
Speed = Annotated[float, msgspec.Meta(ge=0.001, le=20)]
Share = Annotated[float, msgspec.Meta(ge=0)]
Step = Annotated[int, msgspec.Meta(ge=1, le=20)]

LARGEST = 2048  # pixels each way, as EVT3


class ParticleSimulatorSettings(Settings, frozen=True, kw_only=True):
    """Which particles, which day, which camera, for how long."""

    rate: PerSecond = 100.0
    """Particles per second, independent of each other (Poisson); 0 for none."""
    duration: Seconds | None = None
    """Stream time until the end (s); without it, the stream has none."""
    seed: Number = 0
    """Which particles come, and the camera's noise: the same seed gives the same bits."""
    session: Number = 0
    """Which day: alignment, thresholds, light, speed, speckle, hot pixels."""
    drift: Annotated[float, msgspec.Meta(ge=0, le=3)] = 0.4
    """How much sessions differ; 0 for not at all but for their speckle and pixels."""
    classes: Literal["16/20", "12/16/20", "15.2/18.6", "PMMA/PS"] = "16/20"
    """Spheres by diameter (um): A, B (and C) of PMMA; or of 16 um, of two materials."""
    mix: list[Share] | None = None
    """Shares of the classes, in their order; equal ones without it."""
    doublets: Fraction = 0.03
    """Share of particles that are two spheres stuck together."""
    debris: Fraction = 0.05
    """Share of particles that are something smaller; their class is that of their sample."""
    width: Positive = 64
    height: Positive = 48
    pitch: Pitch = 150e-6
    """Sensor: pixels, and metres from one to the next."""
    stray: Light = 2e-6
    """Mean stray light in units of the light in the beam's middle: less contrast with more."""
    speed: Speed = 0.12
    """Of the flow in the middle of the channel (m/s)."""
    step: Step = 8
    """Stream time for which light is calculated at once (us); 16 takes half the time of 8."""
    packet_duration: Seconds = 0.001
    """Stream time a packet covers (s), in whole microseconds."""


class ParticleSimulator(Node[ParticleSimulatorSettings]):
    """Events of SIMULATED particles that cross a laser beam before an event camera, and the truth.

    Lorenz-Mie scattering of spheres in a focused HeNe beam, a bare sensor in the far field,
    interference of all particles present, static speckle (`particles.optics`); pixels that follow
    the logarithm of light through a low pass, with thresholds, mismatch, refractory time,
    background activity, leak, hot pixels and jitter (`kernels.dvs_pixel`); duct flow, doublets,
    debris, and sessions that differ (`particles.simulation`). The defaults imitate recordings
    reduced to 64x48 pixels, as in Gouda, Abreu, Lugnan and Bienstman (NICE 2023). Not modelled:
    read-out delay and saturation, bubbles and slow drift inside a session, depth in the beam, the
    beam's curvature across a particle, light scattered twice. It has been compared with other
    simulated recordings, not with real ones.

    `events` has packets of `packet_duration`, empty ones too; times start at 0. `truth` has one row
    for each particle, in the packet in which its passage is centred: `id, time_us, class, kind,
    diameter_um, refractive_index, y_um, z_um, velocity_m_s, start_us, stop_us, overlaps`; a
    `csv_file` of it is what `particle_scorer` reads. Only whole passages are simulated.

    The graph's clock sets the pace: as fast as possible, or with `paced` or `realtime` as a camera
    would. Every particle is calculated exactly, at any rate. Needs the extra `cytometry`.

    State: the pixels, the random numbers and the particles under way; a restarted node goes on with
    exactly the next packet.

        camera: {kind: particle_simulator, settings: {rate: 200, duration: 10, session: 5}}
    """

    events = Out(Events)
    truth = Out(Table)

    def open(self) -> None:
        s = self.settings
        require_miepython(self.name)
        self._duration = microseconds(self, "packet_duration", s.packet_duration)
        self._end = math.inf if s.duration is None else microseconds(self, "duration", s.duration)
        self._check()
        self._simulation = Simulation(
            Sample(rate=s.rate, classes=CLASSES[s.classes], mix=tuple(s.mix or ()),
                   doublets=s.doublets, debris=s.debris, speed=s.speed),
            seed=s.seed, session=s.session, drift=s.drift, end=self._end,
            optics=Optics(width=s.width, height=s.height, pitch=s.pitch, stray=s.stray),
            camera=Camera(step=s.step),
        )  # fmt: skip
        self._simulation.warm_up()
        self._resume = self._simulation.snapshot()  # before the block that holds `_stop`
        self._pending = np.empty(0, EVENT)
        self._stop = 0
        self._events = self._particles = self._overlapping = 0
        self._origin: tuple[int, int] | None = None

    def _check(self) -> None:
        s = self.settings
        classes = CLASSES[s.classes]
        if s.mix is not None and (len(s.mix) != len(classes) or not 0 < sum(s.mix) < math.inf):
            names = ", ".join(sphere.name for sphere in classes)
            raise self._refused(
                f"mix is {s.mix}; classes {s.classes!r} need {len(classes)} shares ({names}), "
                "not all 0, such as [1, 1]: correct it or leave it out"
            )
        if s.doublets + s.debris > 1:
            raise self._refused(
                f"doublets {s.doublets} and debris {s.debris} are more than all particles; "
                "expected a sum of at most 1: lower one"
            )
        if max(s.width, s.height) > LARGEST:
            raise self._refused(
                f"a sensor of {s.width}x{s.height} pixels; expected at most {LARGEST} each way"
            )

    def _refused(self, what: str) -> NodeError:
        return NodeError(self.name, f"settings: {what}", kind="particle_simulator")

    def produce(self) -> Iterator[Emission]:
        s = self.settings
        while self._stop < self._end:
            start = self._stop
            stop = int(min(start + self._duration, self._end))
            array, resume = self._make(start, stop)
            if not self._wait_until(stop):
                return
            rows = self._simulation.truth(stop)
            if len(rows):
                self._particles += len(rows)
                self._overlapping += int(rows["overlaps"].sum())
                yield self.truth(Table(rows), start, stop)
            self._stop, self._resume = stop, resume
            self._events += len(array)
            self.progress = None if self._end == math.inf else stop / self._end
            yield self.events(Events(array, s.width, s.height), start, stop)

    def _make(self, start: int, stop: int) -> tuple[Any, dict[str, Any]]:
        """The events of `[start, stop)` us, and the state from which those after it follow."""
        simulation, resume = self._simulation, self._resume
        pieces = [self._pending]
        while simulation.time < stop:
            resume = simulation.snapshot()
            pieces.append(simulation.next_block())
        words = np.concatenate([piece.view(np.int64) for piece in pieces])  # fields would be packed
        times = words[::2]
        first, last = np.searchsorted(times, [start, stop]).tolist()
        self._pending = words[2 * last :].view(EVENT)
        return words[2 * first : 2 * last].copy().view(EVENT), resume

    def _wait_until(self, stop: int) -> bool:
        """Wait as the graph's clock says; for `realtime` as a camera would make one wait."""
        clock = self.clock
        if clock.pace != "realtime":
            return clock.wait_until(stop)
        now = time.monotonic_ns()
        self._origin = self._origin or (stop, now)
        due = self._origin[1] + (stop - self._origin[0]) * 1000
        while (left := due - time.monotonic_ns()) > 0 and not clock.stopped:
            time.sleep(min(left / 1e9, 0.01))  # short, to notice the end of the run
        return not clock.stopped

    def snapshot(self) -> dict[str, Any]:
        return {
            **self._resume,
            "stop": self._stop,
            "told": self._simulation.particles.told,
            "counts": np.array([self._events, self._particles, self._overlapping]),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._simulation.restore(state)
        self._simulation.particles.told = int(state["told"])
        self._resume = self._simulation.snapshot()
        self._pending = np.empty(0, EVENT)
        self._stop = int(state["stop"])
        self._events, self._particles, self._overlapping = state["counts"].tolist()

    def results(self) -> dict[str, Any]:
        """That it is simulated; particles, how many overlap, events, stream time (us)."""
        return {
            "simulated": True,
            "particles": self._particles,
            "overlapping": self._overlapping,
            "events": self._events,
            "stop_us": self._stop,
        }
