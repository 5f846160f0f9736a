"""Light of a sphere in a focused beam, far behind it: Lorenz-Mie scattering on a bare sensor.

A weakly focused laser beam crosses a flow channel at its waist; a sensor without a lens looks into
the beam from the far field. With x, y across the beam at the channel, X, Y across the sensor and
k = 2 pi / wavelength in air, the light in units of that on the axis of the waist is

    I = |E_r + sum_p g_p A_p exp(i phi_p)|^2 + stray light
    E_r   = (w / W) exp(-(X^2 + Y^2) / W^2) exp(-i arctan(z / z_R)),  W = w sqrt(1 + (z / z_R)^2)
    A_p   = i S(theta) / (k n^2 z)
    theta = sqrt(X^2 + Y^2) / (n z), the angle in the medium of index n
    phi_p = k (-(X x_p + Y y_p) + (x_p^2 + y_p^2) / 2) / z
    g_p   = exp(-(x_p^2 + y_p^2) / w^2)

so rings stay where they are on the sensor and are switched on and off by a passing particle; two
particles interfere. S = (S1 + S2) / 2 is the scattering amplitude of Bohren and Huffman,
"Absorption and scattering of light by small particles", 1983, eq. 4.74, in their convention
exp(-i w t); its coefficients come from miepython. Unpolarised in effect: S1 and S2 differ by less
than a hundredth at these angles. Speckle of stray light: Goodman, "Speckle phenomena in optics",
2007, section 3.2.

Not modelled: the curvature of the beam across a particle (its waist is about three radii wide, and
a plane wave is assumed), depth (the waist is long), reflections at walls, light that two particles
scatter on to each other, the size of a pixel (light is taken at its centre).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError

GRID = 0.1e-6  # m, diameters are rounded to this: a hundredth of a ring's width
RADII = 2048  # of the sensor at which scattering is calculated; a ring is some 500 of them wide
LARGEST = 60e-6  # m, of a diameter
SMALLEST = 0.5e-6
FIELDS = 1 << 28  # bytes of fields that are kept; those of 64x48 pixels fit many times over


@dataclass(frozen=True)
class Optics:
    """A laser, a channel and a sensor. Lengths in metres."""

    width: int = 64  # pixels
    height: int = 48
    pitch: float = 150e-6  # from pixel to pixel
    distance: float = 50e-3  # z, from the channel to the sensor
    wavelength: float = 632.8e-9  # in air: HeNe
    medium: float = 1.331  # n: water
    waist: float = 25e-6  # w, radius at 1/e^2 of the light
    stray: float = 2e-6  # mean stray light, in units of the light on the axis of the waist
    grain: float = 1.0  # of the stray light's speckle, pixels
    contrast: float = 0.8  # of the speckle: standard deviation / mean

    @property
    def wave_number(self) -> float:
        """K in air, 1/m."""
        return 2 * np.pi / self.wavelength


def size_parameter(diameter: float, optics: Optics) -> float:
    """X = pi d n / wavelength."""
    return float(np.pi * diameter * optics.medium / optics.wavelength)


def coefficients(x: float, index: float) -> NDArray[np.complex128]:
    """(terms,) complex128, (2 j + 1) / (j (j + 1)) (a_j + b_j) / 2 of a sphere, j from 1.

    x : size parameter
    index : refractive index of the sphere divided by that of the medium

    Times `angular_functions` and summed, this is S(theta) = (S1 + S2) / 2.
    """
    import miepython

    a, b = miepython.coefficients(index, x)
    j = np.arange(1, len(a) + 1)
    return np.asarray((2 * j + 1) / (j * (j + 1)) * (a + b) / 2, np.complex128)


def angular_functions(angles: NDArray[np.float64], terms: int) -> NDArray[np.float64]:
    """(terms, angles) float64, pi_j + tau_j of Bohren and Huffman, eq. 4.47, j from 1.

    angles : (angles,) float64, in the medium, rad
    """
    mu = np.cos(angles)
    pi_before, pi = np.zeros_like(mu), np.ones_like(mu)
    out = np.empty((terms, len(mu)))
    for j in range(1, terms + 1):
        out[j - 1] = pi + (j * mu * pi - (j + 1) * pi_before)
        pi_before, pi = pi, ((2 * j + 1) * mu * pi - (j + 1) * pi_before) / j
    return out


def scattering_amplitude(
    diameter: float, index: float, angles: NDArray[np.float64], optics: Optics
) -> NDArray[np.complex128]:
    """(angles,) complex128, S = (S1 + S2) / 2 of a sphere (diameter in m, index in vacuum)."""
    terms = coefficients(size_parameter(diameter, optics), index / optics.medium)
    return np.asarray(terms @ angular_functions(angles, len(terms)), np.complex128)


def beam_field(
    x: NDArray[np.float64], y: NDArray[np.float64], optics: Optics
) -> NDArray[np.complex128]:
    """E_r on the sensor at x, y (m, from the axis)."""
    rayleigh = np.pi * optics.waist**2 / optics.wavelength
    ratio = optics.distance / rayleigh
    spread = np.sqrt(1 + ratio**2)
    size = np.exp(-(x**2 + y**2) / (optics.waist * spread) ** 2) / spread
    return np.asarray(size * np.exp(-1j * np.arctan(ratio)), np.complex128)


def speckle(random: np.random.Generator, optics: Optics) -> NDArray[np.float64]:
    """(height, width) float64, light with mean 1: even, with fully developed speckle over it.

    Speckle is the square of circular Gaussian fields smoothed by a Gaussian of `grain` / 2 pixels;
    1 - `contrast` of the light is even.
    """
    shape = (optics.height, optics.width)
    fields = np.fft.fft2(random.normal(size=(2, *shape)))
    steps = np.fft.fftfreq(shape[0])[:, None] ** 2 + np.fft.fftfreq(shape[1]) ** 2
    smooth = np.fft.ifft2(fields * np.exp(-0.5 * (np.pi * optics.grain) ** 2 * steps)).real
    light = (smooth**2).sum(0)
    return np.asarray(1 + optics.contrast * (light / light.mean() - 1))


class Scattering:
    """Fields of spheres on a sensor, calculated once for each diameter, and again where they are
    more than fit `FIELDS`.

    `x`, `y` : (width,), (height,) float64, columns and rows of the sensor from the axis, m.
    """

    def __init__(self, optics: Optics, centre: tuple[float, float] = (0.0, 0.0)) -> None:
        """`centre` is where the axis meets the sensor, m from its middle."""
        self.optics = optics
        self.x = (np.arange(optics.width) - (optics.width - 1) / 2) * optics.pitch - centre[0]
        self.y = (np.arange(optics.height) - (optics.height - 1) / 2) * optics.pitch - centre[1]
        self._rho = np.hypot(self.x[None, :], self.y[:, None])
        self._radii = np.linspace(0, self._rho.max(), RADII)
        # as many terms as the largest sphere asked for needs; made anew when a larger one comes
        self._functions = np.empty((0, RADII))
        self._fields: dict[tuple[int, float], NDArray[np.complex128]] = {}

    def field(self, diameter: float, index: float) -> NDArray[np.complex128]:
        """(height, width) complex128, A of a sphere on the axis; diameters on a grid of 0.1 um."""
        key = (round(diameter / GRID), index)
        found = self._fields.pop(key, None)
        if found is None:
            found = self._calculate(key[0] * GRID, index)
            while len(self._fields) >= self.room:
                del self._fields[next(iter(self._fields))]  # the one that was not asked for longest
        self._fields[key] = found
        return found

    @property
    def room(self) -> int:
        """How many fields are kept."""
        return int(max(1, FIELDS // (16 * self._rho.size)))

    def _calculate(self, diameter: float, index: float) -> NDArray[np.complex128]:
        o = self.optics
        terms = coefficients(size_parameter(diameter, o), index / o.medium)
        if len(terms) > len(self._functions):
            angles = self._radii / (o.medium * o.distance)
            self._functions = angular_functions(angles, len(terms) * 5 // 4)
        functions = self._functions[: len(terms)]
        real = np.interp(self._rho, self._radii, terms.real @ functions)
        imaginary = np.interp(self._rho, self._radii, terms.imag @ functions)
        scale = 1j / (o.wave_number * o.medium**2 * o.distance)
        return np.asarray(scale * (real + 1j * imaginary))

    def across(self, y: float) -> NDArray[np.complex128]:
        """(height, 1) complex128, what a distance `y` (m) from the axis makes of a field."""
        o = self.optics
        phase = o.wave_number / o.distance * (0.5 * y * y - self.y * y)
        return np.asarray((np.exp(-((y / o.waist) ** 2)) * np.exp(1j * phase))[:, None])


def require_miepython(node: str) -> Any:
    """The module miepython; NodeError says how to install it."""
    try:
        import miepython
    except ImportError as error:
        raise NodeError(
            node,
            f"{error.name} is not installed; install the extra: "
            "pip install streamflow-neuro[cytometry]",
        ) from error
    return miepython
