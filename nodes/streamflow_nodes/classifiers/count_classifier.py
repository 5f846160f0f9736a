"""Classifies bursts by where their events fell: a linear model on count images."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow.errors import NodeError
from streamflow.node import Emission, FilePath, In, Node, Out, Settings
from streamflow.packet import Events, Packet, Table

from ..bursts import cell_size, class_names, inner_window, particle, softmax, warm_up
from ..event_packets import Sensor, check_sensor, no_words, words_of
from ..kernels.burst_measures import count_image

FIELDS = ("weights", "bias", "mean", "scale", "grid", "window_us", "classes")


class CountClassifierSettings(Settings, frozen=True, kw_only=True):
    """Which model."""

    model: FilePath
    """An .npz: weights (classes, 2 rows columns), bias (classes,), mean and scale (2 rows columns,)
    float64; grid (rows, columns), window_us int64; classes, text; and, if it is not 0.5, the power
    float64 that counts are raised to."""


class CountClassifier(Node[CountClassifierSettings], stateless=True):
    """One particle for each burst, its class from the burst's image of event counts.

    The events in the middle `window_us` of the burst are counted by polarity and cell of a grid.
    With n the counts (2 rows columns, OFF first):

        s = weights . (n^power - mean) / scale + bias,   probability = softmax(s)

    Logistic regression on count images of triggered bursts follows Abreu, Gouda, Lugnan and
    Bienstman (2023), "Flow cytometry with event-based vision and spiking neuromorphic hardware";
    a power of 0.5, which evens out counting noise, is our deviation; theirs is 1.

    Every burst gives one row; `decided_us` is the burst's stop. State: none. Events outside the
    sensor are left out and counted as `outside_sensor`.

        linear:
          kind: count_classifier
          inputs: {bursts: bursts.bursts}
          settings: {model: linear.npz}
    """

    bursts = In(Events)
    particles = Out(Table)
    faults = ("outside_sensor",)

    def open(self) -> None:
        model = self._read()
        rows, columns = (int(n) for n in model["grid"])
        self._rows, self._columns = rows, columns
        self._window = int(model["window_us"])
        self._power = float(model.get("power", 0.5))
        self._names = class_names(self, [str(name) for name in model["classes"]])
        self._weights = np.asarray(model["weights"] / model["scale"], np.float64)
        self._bias = np.asarray(model["bias"] - self._weights @ model["mean"], np.float64)
        self._image = np.zeros((2, rows, columns))
        self._sensor: Sensor | None = None
        warm_up(no_words())
        count_image(no_words(), 0, 1, 1, self._image)

    def _read(self) -> dict[str, Any]:
        path = self.settings.model
        try:
            with np.load(path, allow_pickle=False) as file:
                model = {field: file[field] for field in file.files}
        except FileNotFoundError as error:
            raise NodeError(self.name, f"{path}: no such file; expected a model (.npz)") from error
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise NodeError(self.name, f"{path}: not a readable model (.npz): {error}") from error
        if missing := [field for field in FIELDS if field not in model]:
            raise NodeError(self.name, f"{path}: has no {missing}; expected {list(FIELDS)}")
        if model["grid"].shape != (2,) or model["window_us"].shape != () or model["grid"].min() < 1:
            raise NodeError(
                self.name,
                f"{path}: grid {model['grid']} and window_us {model['window_us']}; expected "
                "(rows, columns) and one number of microseconds",
            )
        classes, features = len(model["classes"]), 2 * int(np.prod(model["grid"]))
        for field, shape in {
            "weights": (classes, features),
            "bias": (classes,),
            "mean": (features,),
            "scale": (features,),
        }.items():
            if model[field].shape != shape or not np.isfinite(model[field]).all():
                raise NodeError(
                    self.name,
                    f"{path}: {field} has shape {model[field].shape}; expected {shape}, finite, "
                    f"for {classes} classes on a grid of {model['grid'].tolist()}",
                )
        power = model.get("power", np.array(0.5))
        if power.shape != () or not 0 < power < np.inf:
            raise NodeError(self.name, f"{path}: power is {power}; expected one number above 0")
        if not (model["scale"] > 0).all():
            raise NodeError(self.name, f"{path}: scale must be above 0")
        return model

    def on_bursts(self, packet: Packet[Events]) -> Iterator[Emission]:
        words = words_of(self, packet)
        self._sensor = check_sensor(self, self._sensor, packet)
        factor = cell_size(self, packet, self._rows, self._columns)
        start, stop = inner_window(self, packet, self._window)
        outside = count_image(words, start, stop, factor, self._image)
        if outside:
            self.count_fault("outside_sensor", outside)
        probability = softmax(self._weights @ (self._image**self._power).reshape(-1) + self._bias)
        best = int(probability.argmax())
        row = particle(packet, words, self._names[best], float(probability[best]))
        yield self.particles(Table(row), packet.start, packet.stop)

    def results(self) -> dict[str, Any]:
        return {
            "model": self.settings.model,
            "window_us": self._window,
            "grid": [self._rows, self._columns],
        }
