"""Simulated noises of random numbers over wide ranges: what no recording of a small corpus has.

A network that has heard few recordings learns those; it must also have met hiss in one band, a hum,
beeps, and rumbles, whose spectra no recording had. All are (samples,) float32 at 16 kHz, of any
level. Needs scipy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, rfft
from scipy.signal import fftconvolve

Wave = NDArray[np.float32]
"""(samples,) float32, full scale 1."""
RATE = 16_000
KNOTS = np.array([0, 100, 300, 900, 2700, 5400, 8000])  # Hz, where a random response is set


class SimulatedNoises:
    """Noises of `samples` samples; a function of what `random` gives."""

    def __init__(self, samples: int, random: np.random.Generator) -> None:
        self.samples, self.random = samples, random

    def noise(self) -> Wave:
        """Gaussian noise of a random spectral slope and colour, half of it slowly modulated."""
        random = self.random
        spectrum = rfft(random.standard_normal(self.samples, np.float32))
        hertz = np.linspace(0, RATE / 2, len(spectrum))
        slope = np.maximum(hertz, 20.0) ** -random.uniform(0, 1.3)
        gains = random.uniform(-12, 12, len(KNOTS)) * random.random()
        colour = 10 ** (np.interp(hertz, KNOTS, gains) / 20)
        wave = np.asarray(irfft(spectrum * (slope * colour), self.samples), np.float32)
        return wave * self.swell(15.0, 40) if random.random() < 0.5 else wave

    def any(self) -> Wave:
        """One of the others than `noise`, drawn at random."""
        draw = self.random.random()
        if draw < 0.25:
            return self.tones()
        if draw < 0.48:
            return self.strokes()
        if draw < 0.84:
            wave = self.bands(self.random.standard_normal(self.samples, np.float32))
            return wave * self.swell() if self.random.random() < 0.5 else wave
        return self.beeps()

    def tones(self) -> Wave:
        """A harmonic sound of a gliding pitch, coloured, in bursts or going on: cries, engines."""
        random = self.random
        points = int(random.integers(3, 40))
        base = np.exp(random.uniform(np.log(30), np.log(1800)))
        glide = random.uniform(0, 0.5) * random.random()
        pitch = base * np.exp(glide * np.cumsum(random.standard_normal(points)) / np.sqrt(points))
        at = np.linspace(0, points - 1, self.samples)
        phase = np.cumsum(np.interp(at, np.arange(points), pitch)) / RATE
        if random.random() < 0.5:  # vibrato, or the roughness of an engine
            rate, depth = random.uniform(3, 40), random.uniform(0, 0.15)
            phase += depth * np.sin(2 * np.pi * rate * np.arange(self.samples) / RATE)
        # harmonics, each `sharp` times as strong as the one below it: a geometric series
        sharp = np.float32(random.uniform(0, 0.97))
        circle = np.exp(2j * np.pi * phase).astype(np.complex64)
        wave = np.asarray((circle / (1 - sharp * circle)).real, np.float32)
        wave -= wave.mean()
        breath = 10 ** (random.uniform(-40, -5) / 20) * np.sqrt(float(wave @ wave) / len(wave))
        wave += np.float32(breath) * random.standard_normal(self.samples, np.float32)
        return self._coloured(wave, 15.0) * self._bursts()

    def strokes(self) -> Wave:
        """Strokes that ring and fade, regular or at random: clocks, dishes, rain, fire."""
        random = self.random
        rate = np.exp(random.uniform(np.log(0.7), np.log(400)))  # in a second
        count = max(1, round(rate * self.samples / RATE))
        if random.random() < 0.4:
            at = (np.arange(count) + random.uniform(0, 1)) / count
            at += random.standard_normal(count) * random.uniform(0, 0.1) / count
        else:
            at = random.uniform(0, 1, count)
        where = np.clip((at * self.samples).astype(int), 0, self.samples - 1)
        hits = np.zeros(self.samples, np.float32)
        np.add.at(hits, where, 10 ** (random.uniform(-25, 0, count) / 20).astype(np.float32))
        fade = np.exp(random.uniform(np.log(0.0008), np.log(0.12)))  # s, to 1/e
        time = np.arange(min(self.samples, max(64, int(7 * fade * RATE)))) / RATE
        ring = np.zeros(len(time))
        for _ in range(int(random.integers(1, 6))):
            pitch = np.exp(random.uniform(np.log(150), np.log(7000)))
            ring += random.uniform(0.1, 1) * np.sin(2 * np.pi * pitch * time)
        ring = ring * random.random() + random.standard_normal(len(time)) * random.random()
        ring *= np.exp(-time / fade)
        wave = fftconvolve(hits, ring.astype(np.float32))[: self.samples]
        return self._coloured(np.asarray(wave, np.float32), 12.0)

    def beeps(self) -> Wave:
        """Steady tones that have nothing to do with each other, going on or in bursts."""
        random = self.random
        time = np.arange(self.samples) / RATE
        wave = random.standard_normal(self.samples) * 10 ** (random.uniform(-50, -15) / 20)
        for _ in range(int(random.integers(1, 8))):
            pitch = np.exp(random.uniform(np.log(60), np.log(7500)))
            wave += 10 ** (random.uniform(-20, 0) / 20) * np.sin(2 * np.pi * pitch * time)
        wave = np.asarray(wave, np.float32)
        return wave * self._bursts() if random.random() < 0.4 else wave

    def bands(self, wave: Wave) -> Wave:
        """A wave through steep bands of random edges, each up to 50 dB below the others."""
        random = self.random
        edges = np.exp(np.sort(random.uniform(np.log(50), np.log(8000), random.integers(1, 8))))
        gains = 10 ** (random.uniform(-50, 0, len(edges) + 1) / 20)
        spectrum = rfft(wave)
        hertz = np.linspace(0, RATE / 2, len(spectrum))
        spectrum *= gains[np.searchsorted(edges, hertz)]
        return np.asarray(irfft(spectrum, len(wave)), np.float32)

    def swell(self, most_db: float = 20.0, points: int = 60) -> Wave:
        """(samples,) a gain that wanders between 0 and -`most_db` dB, slowly or quickly."""
        count = int(self.random.integers(2, points))
        depths = 10 ** (self.random.uniform(-most_db, 0, count) / 20)
        at = np.linspace(0, count - 1, self.samples)
        return np.interp(at, np.arange(count), depths).astype(np.float32)

    def _bursts(self) -> Wave:
        """(samples,) a gain: sounds of random lengths between silences, or one that swells."""
        random = self.random
        if random.random() < 0.4:
            return self.swell()
        gain = np.zeros(self.samples, np.float32)
        mean, pause = np.exp(random.uniform(np.log(0.05), np.log(1.5), 2))  # s
        start = int(random.uniform(0, pause) * RATE)
        while start < self.samples:
            length = max(320, int(random.exponential(mean) * RATE))
            stop = min(self.samples, start + length)
            shape = np.sin(np.linspace(0, np.pi, length)) ** random.uniform(0.2, 1.5)
            gain[start:stop] = 10 ** (random.uniform(-12, 0) / 20) * shape[: stop - start]
            start = stop + int(random.exponential(pause) * RATE)
        return gain + np.float32(1e-4)

    def _coloured(self, wave: Wave, most_db: float) -> Wave:
        """A wave through a smooth random response of up to `most_db` each way."""
        spectrum = rfft(wave)
        gains = self.random.uniform(-most_db, most_db, len(KNOTS))
        hertz = np.linspace(0, RATE / 2, len(spectrum))
        spectrum *= 10 ** (np.interp(hertz, KNOTS, gains) / 20)
        return np.asarray(irfft(spectrum, len(wave)), np.float32)
