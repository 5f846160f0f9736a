"""Scattered light against closed forms, and the kernel that adds it up against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

miepython = pytest.importorskip("miepython", reason="needs the extra cytometry")

from streamflow_nodes.kernels.particle_light import expose  # noqa: E402  # after the skip
from streamflow_nodes.particles.optics import (  # noqa: E402  # after the skip
    Optics,
    Scattering,
    beam_field,
    scattering_amplitude,
    size_parameter,
    speckle,
)

AIR = Optics(medium=1.0, wavelength=2 * np.pi)  # lengths in wavelengths / 2 pi: k = 1
OPAQUE = 1.331 * (1 - 0.2j)  # as bright as water at its surface, black inside
ZERO = np.zeros(1)


def extinction(x, m):
    """Q_ext of a sphere by the optical theorem, 4 / x^2 Re S(0)."""
    return 4 / x**2 * scattering_amplitude(2 * x, m, ZERO, AIR)[0].real


@pytest.mark.parametrize(("d", "n"), [(16e-6, 1.489), (20e-6, 1.489), (6.5e-6, 1.587)])
def test_amplitude_is_that_of_the_library_in_the_other_sign_convention(d, n):
    optics, angles = Optics(), np.linspace(0, 0.12, 50)

    amplitude = scattering_amplitude(d, n, angles, optics)

    s1, s2 = miepython.S1_S2(
        n / optics.medium, size_parameter(d, optics), np.cos(angles), norm="wiscombe"
    )
    assert np.allclose(amplitude, np.conj(s1 + s2) / 2, rtol=1e-9)


@pytest.mark.parametrize(
    ("x", "m"), [(0.5, 1.33), (10, 1.5), (105, 1.489 / 1.331), (30, 1.2 - 0.1j)]
)
def test_extinction_obeys_the_optical_theorem(x, m):
    assert extinction(x, m) == pytest.approx(miepython.efficiencies_mx(m, x)[0], rel=1e-9)


@pytest.mark.parametrize("x", [25, 50, 100, 200, 400])
def test_extinction_of_a_sphere_like_its_surroundings_is_van_de_hulsts(x):
    m = 1.01
    shift = 2 * x * (m - 1)  # of the phase on the way through the middle

    # van de Hulst 1957, section 11.22; its error is of the order m - 1
    expected = 2 - 4 / shift * math.sin(shift) + 4 / shift**2 * (1 - math.cos(shift))
    assert extinction(x, m) == pytest.approx(expected, rel=0.03)


def test_light_through_a_sphere_denser_than_its_surroundings_is_delayed():
    # in the convention exp(-i w t), S(0) = x^2 (shift / 3i + ...) for a small shift
    x, m = 20.0, 1.002
    shift = 2 * x * (m - 1)

    amplitude = scattering_amplitude(2 * x, m, ZERO, AIR)[0]

    assert amplitude.imag == pytest.approx(-(x**2) * shift / 3, rel=0.02)


def test_extinction_of_a_large_black_sphere_is_twice_its_shadow():
    # 2 + 1.99 x^(-2/3): Nussenzveig and Wiscombe 1980
    assert extinction(2000.0, 1.5 - 1.0j) == pytest.approx(2 + 1.992 * 2000 ** (-2 / 3), rel=0.002)


def test_first_dark_ring_of_a_black_sphere_is_airys():
    optics = Optics()
    for d in (16e-6, 20e-6, 30e-6):
        angles = np.linspace(0.5, 1.8, 2000) * optics.wavelength / (d * optics.medium)

        dark = angles[np.abs(scattering_amplitude(d, OPAQUE, angles, optics)).argmin()]

        radius = dark * optics.medium * optics.distance
        # the edge of a sphere is softer than a disc's: within a few percent
        assert radius == pytest.approx(1.22 * optics.wavelength * optics.distance / d, rel=0.04)


def test_field_of_a_large_black_sphere_is_that_of_an_opaque_disc():
    optics = Optics(width=3, height=3, pitch=1e-6)
    d = 50e-6

    middle = abs(Scattering(optics).field(d, OPAQUE)[1, 1])

    disc = optics.wave_number * (d / 2) ** 2 / (2 * optics.distance)
    assert middle == pytest.approx(disc, rel=0.03)


def test_the_beam_keeps_its_power_on_the_way_to_the_sensor():
    optics = Optics(width=200, height=200, pitch=20e-6)
    s = Scattering(optics)

    light = np.abs(beam_field(*np.meshgrid(s.x, s.y), optics)) ** 2

    assert light.sum() * optics.pitch**2 == pytest.approx(np.pi * optics.waist**2 / 2, rel=1e-6)


def test_a_particle_takes_its_extinction_cross_section_out_of_the_beam():
    # the beam's interference with what the particle scatters, over all of the sensor: right only
    # when the signs of S, of the Gouy phase and of the field's factor i agree
    optics = Optics(width=300, height=300, pitch=10e-6)
    s = Scattering(optics)
    d, n = 4e-6, 1.489

    beam = beam_field(*np.meshgrid(s.x, s.y), optics)
    loss = -2 * (beam.conj() * s.field(d, n)).real.sum() * optics.pitch**2

    x = size_parameter(d, optics)
    cross_section = miepython.efficiencies_mx(n / optics.medium, x)[0] * np.pi * (d / 2) ** 2
    # of the waist, z / z_R = 16: the Gouy phase is 6 % of a radian away from its end
    assert loss == pytest.approx(cross_section, rel=0.1)


def converged_light(fields, courses, scattering, stray):
    """exp(level) after the pixels have looked at resting particles for a long time."""
    o = scattering.optics
    n = o.width * o.height
    beam = beam_field(*np.meshgrid(scattering.x, scattering.y), o).ravel()
    state = np.zeros((4, n), np.float32)
    state[1], state[2], state[3] = np.inf, -np.inf, np.inf  # thresholds out of reach
    expose(
        0, 60, 8.0, fields, courses,
        np.array([o.wave_number / o.distance * 1e-12, o.waist * 1e6, 55.0, scattering.x[0] * 1e6,
                  o.pitch * 1e6, o.width]),
        np.stack([beam.real, beam.imag]).astype(np.float32), np.full(n, stray, np.float32),
        np.zeros((2, n), np.float32), np.array([1e-12, 0.1, 2.0, 60.0]), np.ones(n, np.float32),
        np.ones(n, np.float32), state, 0, np.empty(8, np.float32), np.empty(8, np.int32),
    )  # fmt: skip
    return np.exp(state[0].astype(np.float64)).reshape(o.height, o.width), beam


def planes(field):
    field = field.ravel()
    return np.stack([field.real, field.imag]).astype(np.float32)


def test_the_kernel_adds_fields_as_numpy_does():
    s = Scattering(Optics(), (0.2e-3, -0.1e-3))
    places = [(12.0, 5e-6), (-7.0, -9e-6)]  # x in um, y in m
    fields = [
        s.field(d, 1.489) * s.across(y) for d, (_, y) in zip((16e-6, 20e-6), places, strict=True)
    ]
    courses = np.array([(0.0, 0.0, x) for x, _ in places])

    light, beam = converged_light(np.stack([planes(f) for f in fields]), courses, s, 3e-6)

    total = beam.reshape(light.shape).copy()
    for field, (x, _) in zip(fields, places, strict=True):
        x *= 1e-6
        phase = s.optics.wave_number / s.optics.distance * (x * x / 2 - s.x * x)
        total += field * np.exp(-((x / s.optics.waist) ** 2)) * np.exp(1j * phase)
    assert np.allclose(light, np.abs(total) ** 2 + 3e-6, rtol=2e-3, atol=2e-9)


def test_two_particles_at_once_show_young_fringes_and_one_does_not():
    s = Scattering(Optics())
    apart = 20e-6
    one = s.field(16e-6, 1.489)
    two = one * s.across(apart / 2) + one * s.across(-apart / 2)

    # along Y, through the middle of the pattern; the period is wavelength z / apart
    ratio = (np.abs(two) ** 2 / np.abs(one * s.across(apart / 2)) ** 2)[:, 32]

    expected = 4 * np.cos(np.pi * apart * s.y / (s.optics.wavelength * s.optics.distance)) ** 2
    assert np.allclose(ratio, expected, atol=1e-6)
    assert ratio.max() > 3.9
    assert ratio.min() < 0.2


def test_speckle_has_mean_one_and_is_nowhere_dark_but_where_it_is_full():
    light = speckle(np.random.default_rng(0), Optics(width=200, height=200, contrast=0.8))

    assert light.mean() == pytest.approx(1)
    assert light.std() == pytest.approx(0.8, rel=0.05)
    assert 0.2 <= light.min() < 0.25


def test_fields_take_bounded_memory_and_come_out_the_same(monkeypatch):
    optics = Optics(width=8, height=6)
    free, bounded = Scattering(optics), Scattering(optics)
    diameters = [10e-6, 30e-6, 12e-6, 10e-6, 14e-6, 12e-6, 10e-6]
    expected = [free.field(diameter, 1.489) for diameter in diameters]

    monkeypatch.setattr("streamflow_nodes.particles.optics.FIELDS", 3 * expected[0].nbytes)
    found = [bounded.field(diameter, 1.489) for diameter in diameters]

    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    assert len(bounded._fields) == bounded.room == 3
