"""Speech and noise of one folder, mixed: fixed mixes to measure with, endless ones to train on.

The folder holds `speech/SPLIT/SPEAKER-*.flac` and `noise/SPLIT/KIND_*.flac`, 16 kHz mono. A mix is
`speech + gain * noise`, the gain setting the ratio of their energies over the whole clip. Fixed
mixes (`fixed_mixes`) are a function of folder, split, count and seed alone and change nothing but
gain. Training mixes (`TrainingMixes`) also change the sound: see there. Needs soundfile and scipy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import fftconvolve
from simulated import KNOTS, RATE, SimulatedNoises, Wave

SNR_DB = (-5.0, 20.0)  # of a fixed mix, uniform: the range of the N-DNS challenge
LEVEL_DBFS = (-35.0, -15.0)  # RMS of a fixed mix, uniform; likewise
RECENT = 96  # crops and changed noises kept to be used again: mixing must keep up with training
FEW = 16  # of simulated coloured noises
MANY = 64  # of other simulated noises
SMOOTH = np.linspace(0, RATE / 2, 257)  # Hz, where it is computed
SILENCE = 1e-9  # energy per sample under which there is nothing to scale


@dataclass(frozen=True)
class Mix:
    """One mix: noisy = clean + noise, at `snr_db` before anything else was done to it."""

    noisy: Wave
    clean: Wave
    snr_db: float
    name: str


@dataclass(frozen=True)
class Corpus:
    """The recordings of one split: (samples,) int16 each, by speaker and by kind of noise."""

    speech: dict[str, list[NDArray[np.int16]]]
    noise: dict[str, list[NDArray[np.int16]]]


def load(folder: Path, split: str) -> Corpus:
    """Returns the recordings of `split` (train, val or test).

    Raises:
        SystemExit: no such recordings, or not 16 kHz mono.
    """
    return Corpus(_read(folder / "speech" / split, "-"), _read(folder / "noise" / split, "_"))


def _read(folder: Path, separator: str) -> dict[str, list[NDArray[np.int16]]]:
    recordings: dict[str, list[NDArray[np.int16]]] = {}
    for path in sorted(folder.glob("*.flac")):
        wave, rate = soundfile.read(path, dtype="int16")
        if rate != RATE or wave.ndim != 1:
            raise SystemExit(f"{path}: {rate} Hz, {wave.ndim} channels; expected 16 kHz mono")
        recordings.setdefault(path.name.split(separator)[0], []).append(wave)
    if not recordings:
        raise SystemExit(f"{folder}: no FLAC files; give the folder that holds speech/ and noise/")
    return recordings


def fixed_mixes(
    folder: Path,
    split: str,
    count: int = 60,
    seed: int = 99,
    seconds: float = 5.0,
    snrs_db: tuple[float, ...] = (),
) -> Iterator[Mix]:
    """Yields `count` mixes to measure with, the same ones for the same arguments.

    Speech and noise are drawn file by file; the SNR is uniform in `SNR_DB`, or goes round
    `snrs_db`; the level of the mix is uniform in `LEVEL_DBFS`, lowered where it would clip.
    """
    speech = sorted((folder / "speech" / split).glob("*.flac"))
    noise = sorted((folder / "noise" / split).glob("*.flac"))
    if not speech or not noise:
        raise SystemExit(f"{folder}: no speech/{split}/*.flac or no noise/{split}/*.flac")
    random = np.random.default_rng(seed)
    samples = round(seconds * RATE)
    for number in range(count):
        one, other = speech[random.integers(len(speech))], noise[random.integers(len(noise))]
        clean = _cut(soundfile.read(one, dtype="float32")[0], samples, random)
        added = _cut(soundfile.read(other, dtype="float32")[0], samples, random)
        drawn = float(random.uniform(*SNR_DB))
        snr_db = snrs_db[number % len(snrs_db)] if snrs_db else drawn
        level = float(random.uniform(*LEVEL_DBFS))
        noisy, clean = mix(clean, added, snr_db, level)
        yield Mix(noisy, clean, snr_db, f"{one.stem}+{other.stem}")


def _cut(wave: Wave, samples: int, random: np.random.Generator) -> Wave:
    """`samples` of a wave from a random place, without their mean; a shorter one is repeated."""
    if len(wave) <= samples:
        cut = np.resize(wave, samples)
    else:
        start = int(random.integers(len(wave) - samples + 1))
        cut = wave[start : start + samples]
    return cut - cut.mean()


def mix(clean: Wave, noise: Wave, snr_db: float, level_dbfs: float) -> tuple[Wave, Wave]:
    """Returns the noisy and the clean wave: their RMS is `level_dbfs` for the noisy one."""
    energy, other = float(clean @ clean), float(noise @ noise)
    if other > SILENCE * len(noise):
        noise = noise * np.float32(np.sqrt(energy / other / 10 ** (snr_db / 10)))
    noisy = clean + noise
    power = float(noisy @ noisy) / len(noisy)
    gain = 10 ** (level_dbfs / 20) / np.sqrt(power + SILENCE)
    gain = np.float32(min(gain, 0.99 / (np.abs(noisy).max() + SILENCE)))
    return noisy * gain, clean * gain


class TrainingMixes:
    """Endless mixes of a training split, never the same twice; a function of the seed alone.

    Speech: a crop of one reader, 0.9 to 1.12 times as fast, its spectrum tilted by up to 6 dB,
    one in seven in a simulated room (white noise that decays exponentially, J. A. Moorer, 1979;
    the reverberant speech is the target). Noise: one, two or three recordings of any kind, 0.7 to
    1.4 times as fast, tilted by up to 9 dB, some backwards; or babble (3 to 8 other readers, most
    in a room), alone or with recorded noise; or simulated noise (coloured, modulated). The SNR is
    uniform in -8..24 dB; one in twelve is 24..40 dB, so that clean speech is left alone.

    A share of `plain` mixes is made as the fixed ones are, without any of that; in a share of
    `varied` ones among them, the recordings are changed all the same, so that they are not learned
    by heart: voice and noise as above, one noise in four with another one under it. A share
    `spliced` of the varied voices are two readers in turn, and a share `simulated` of the varied
    noises are simulated ones, or such a one over a recording: coloured noise, noise in bands,
    tones that glide or stay, and strokes that ring, whose numbers are random over wide ranges.
    """

    def __init__(
        self, corpus: Corpus, seconds: float, seed: int, plain: float = 0.0, varied: float = 0.0,
        simulated: float = 0.0, spliced: float = 0.0,
    ) -> None:  # fmt: skip
        self.corpus, self.plain, self.varied = corpus, plain, varied
        self.share_simulated, self.spliced = simulated, spliced
        self.recordings = [wave for kind in sorted(corpus.noise) for wave in corpus.noise[kind]]
        self.samples = round(seconds * RATE)
        self.begin(seed)
        self.crops: deque[tuple[str, Wave]] = deque(maxlen=RECENT)
        self.simulated: deque[Wave] = deque(maxlen=FEW)
        self.made: deque[Wave] = deque(maxlen=MANY)
        self.recent: deque[Wave] = deque(maxlen=RECENT)
        self.speakers = sorted(corpus.speech)
        self.kinds = sorted(corpus.noise)
        lengths = np.array([sum(map(len, corpus.noise[kind])) for kind in self.kinds], float)
        files = np.array([len(corpus.noise[kind]) for kind in self.kinds], float)
        # kinds of few seconds must not be drawn so often that they are learned by heart, and one
        # recording says less of its kind than many
        weights = np.sqrt(lengths) * files**0.25
        self.weights = weights / weights.sum()
        lengths = np.array([sum(map(len, corpus.speech[name])) for name in self.speakers], float)
        self.speech_weights = lengths / lengths.sum()

    def begin(self, seed: int | list[int]) -> None:
        """From here on, the mixes of this seed, but for the sounds that are kept for later."""
        self.random = np.random.default_rng(seed)
        self.noises = SimulatedNoises(self.samples, self.random)

    def batch(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns noisy and clean waves, (count, samples) float32 both."""
        pairs = [self._pair() for _ in range(count)]
        return np.stack([noisy for noisy, _ in pairs]), np.stack([clean for _, clean in pairs])

    def _pair(self) -> tuple[Wave, Wave]:
        random = self.random
        if random.random() < self.plain:
            name = self.speakers[random.integers(len(self.speakers))]
            if random.random() < self.varied:
                speech, noise = self._voice(name), self._varied()
            else:
                speech = self._crop(self.corpus.speech[name][0], self.samples, repeat=True)
                noise = self._crop(self._any_recording(), self.samples, repeat=True)
            snr, level = random.uniform(*SNR_DB), random.uniform(*LEVEL_DBFS)
            return mix(speech - speech.mean(), noise - noise.mean(), float(snr), float(level))
        if len(self.crops) == RECENT and random.random() < 0.75:
            speaker, clean = self.crops[random.integers(RECENT)]
        else:
            speaker = str(random.choice(self.speakers, p=self.speech_weights))
            clean = self._speech(speaker)
            self.crops.append((speaker, clean))
        noise = self._noise(speaker)
        snr = random.uniform(24, 40) if random.random() < 1 / 12 else random.uniform(-8, 24)
        return mix(clean, noise, float(snr), float(random.uniform(-40, -10)))

    def _speech(self, speaker: str) -> Wave:
        """A crop of a reader; a recording shorter than it lies somewhere in silence."""
        random = self.random
        recordings = self.corpus.speech[speaker]
        wave = recordings[random.integers(len(recordings))]
        speed = random.uniform(0.9, 1.12)
        return self._changed(wave, speed, 6.0, random.random() < 1 / 7, repeat=False)

    def _voice(self, speaker: str) -> Wave:
        """A reader, now and then followed by another one at about the same level."""
        random = self.random
        first = self._speech(speaker)
        if random.random() >= self.spliced:
            return first
        other = self._speech(self.speakers[random.integers(len(self.speakers))])
        energy = float(other @ other) / len(other) + SILENCE
        gain = 10 ** (random.uniform(-4, 4) / 20) * np.sqrt(float(first @ first) / len(first))
        turn = np.arange(self.samples) - random.uniform(0.15, 0.85) * self.samples
        share = np.clip(turn / (0.02 * RATE), 0, 1).astype(np.float32)  # fades within 20 ms
        return first * (1 - share) + other * share * np.float32(gain / np.sqrt(energy))

    def _changed(
        self, wave: NDArray[np.int16], speed: float, most_db: float, room: bool, repeat: bool
    ) -> Wave:
        """A crop from a random place, `speed` times as fast, coloured, perhaps in a room.

        The colour is a smooth random response of up to `most_db` each way. All of it is done to
        one spectrum: mixing must keep up with training. So a room's tail wraps round the crop.
        """
        random = self.random
        spectrum = rfft(self._crop(wave, next_fast_len(round(self.samples * speed)), repeat))
        spectrum = spectrum[: self.samples // 2 + 1]
        gains = random.uniform(-most_db, most_db, len(KNOTS)) * random.random()
        response = np.exp(np.interp(SMOOTH, KNOTS, gains) * (np.log(10) / 20))
        spectrum *= np.interp(
            np.arange(len(spectrum)) * (len(SMOOTH) / len(spectrum)),
            np.arange(len(SMOOTH)),
            response,
        )
        if room:
            spectrum *= rfft(self._room(), self.samples)[: len(spectrum)]
        return np.asarray(irfft(spectrum, self.samples), np.float32)

    def _room(self) -> Wave:
        """The response of a simulated room: the direct sound, then noise that fades by 60 dB."""
        random = self.random
        tail = round(random.uniform(0.08, 0.5) * RATE)
        decay = random.standard_normal(tail, np.float32)
        decay *= np.exp(np.linspace(0, -3 * np.log(10), tail, dtype=np.float32))
        ratio = 10 ** (random.uniform(-12, 6) / 20)  # reverberant to direct sound
        decay *= np.float32(ratio / np.sqrt(decay @ decay))
        decay[: round(random.uniform(0, 0.02) * RATE)] = 0
        decay[0] = 1.0
        return decay

    def _crop(self, wave: NDArray[np.int16], samples: int, repeat: bool) -> Wave:
        random = self.random
        if len(wave) >= samples:
            start = int(random.integers(len(wave) - samples + 1))
            return wave[start : start + samples].astype(np.float32) / 32768
        if repeat:
            return (
                np.resize(np.roll(wave, int(random.integers(len(wave)))), samples).astype(
                    np.float32
                )
                / 32768
            )
        crop = np.zeros(samples, np.float32)
        start = int(random.integers(samples - len(wave) + 1))
        crop[start : start + len(wave)] = wave.astype(np.float32) / 32768
        return crop

    def _noise(self, speaker: str) -> Wave:
        draw = self.random.random()
        if draw < 0.11:
            return self._babble(speaker)
        if draw < 0.17:
            return self._together([self._babble(speaker), self._recorded()])
        if draw < 0.22:
            return self._simulated()
        if draw < 0.28:
            return self._together([self._simulated(), self._recorded()])
        if draw < 0.50:
            return self._together([self._recorded() for _ in range(2 + (draw < 0.34))])
        return self._recorded()

    def _any_recording(self) -> NDArray[np.int16]:
        """Any noise of the corpus, all alike likely, as for the fixed mixes."""
        return self.recordings[self.random.integers(len(self.recordings))]

    def _varied(self) -> Wave:
        """A recording changed at random, now and then over another one."""
        random = self.random
        waves = []
        count = 1 + (random.random() < 0.25)
        if random.random() < self.share_simulated:
            waves.append(self._made())
            count = int(random.random() < 0.5)
        for _ in range(count):
            wave = self._any_recording()
            if random.random() < 0.25:
                wave = wave[::-1]
            speed = float(np.exp(random.uniform(-0.4, 0.4)))
            waves.append(self._changed(wave, speed, 9.0, random.random() < 0.1, repeat=True))
            if self.share_simulated and random.random() < 0.2:
                waves[-1] = waves[-1] * self.noises.swell()
            if self.share_simulated and random.random() < 0.15:
                waves[-1] = self.noises.bands(waves[-1])
        return waves[0] if len(waves) == 1 else self._together(waves)

    def _together(self, waves: list[Wave]) -> Wave:
        total = np.zeros(self.samples, np.float32)
        for wave in waves:
            gain = 10 ** (self.random.uniform(-8, 0) / 20)
            total += np.float32(gain / np.sqrt(wave @ wave / len(wave) + SILENCE)) * wave
        return total

    def _recorded(self) -> Wave:
        """A recording changed at random, or mostly a recent one turned: that is quick."""
        random = self.random
        if len(self.recent) == RECENT and random.random() < 0.8:
            return self._turned(self.recent)
        recordings = self.corpus.noise[str(random.choice(self.kinds, p=self.weights))]
        wave = recordings[random.integers(len(recordings))]
        if random.random() < 0.2:
            wave = wave[::-1]
        speed = random.uniform(0.7, 1.4) if random.random() < 0.6 else 1.0
        room = random.random() < 0.1
        changed = self._changed(wave, speed, 9.0, room, repeat=True)
        self.recent.append(changed)
        return changed

    def _babble(self, speaker: str) -> Wave:
        random = self.random
        others = [self.speakers[i] for i in random.integers(len(self.speakers), size=9)]
        voices = [name for name in others if name != speaker][: int(random.integers(3, 9))]
        crops = [self._crop(self.corpus.speech[name][0], self.samples, True) for name in voices]
        together = self._together(crops)
        if random.random() < 0.75:
            spectrum = rfft(together) * rfft(self._room(), self.samples)
            together = np.asarray(irfft(spectrum, self.samples), np.float32)
        return together

    def _simulated(self) -> Wave:
        """Simulated coloured noise, or mostly a recent one turned: that is quick."""
        if len(self.simulated) == FEW and self.random.random() < 0.8:
            return self._turned(self.simulated)
        self.simulated.append(self.noises.noise())
        return self.simulated[-1]

    def _made(self) -> Wave:
        """Simulated noise of a kind drawn at random, perhaps in a room."""
        if self.random.random() < 0.15:
            return self._simulated()
        if len(self.made) == MANY and self.random.random() < 0.6:
            return self._turned(self.made)
        wave = self.noises.any()
        if self.random.random() < 0.3:
            wave = fftconvolve(wave, self._room())[: self.samples].astype(np.float32)
        self.made.append(wave)
        return wave

    def _turned(self, waves: deque[Wave]) -> Wave:
        wave = waves[self.random.integers(len(waves))]
        return np.roll(wave, int(self.random.integers(len(wave))))
