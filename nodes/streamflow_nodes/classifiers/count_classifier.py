"""Classifies bursts by where their events fell: a linear model on count images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow.errors import NodeError
from streamflow.node import Emission, FilePath, Fraction, In, Microseconds, Node, Out, Settings
from streamflow.packet import Events, Packet, Table

from ..events.packets import Sensor, check_sensor, no_words, words_of
from ..files.bounded import NPZ_FAULTS, read_npz
from ..kernels.burst_measures import count_image
from ..particles.bursts import cell_size, inner_window, warm_up
from ..particles.model_outputs import Readout

FIELDS = ("weights", "bias", "mean", "scale", "grid", "window_us", "classes")


class CountClassifierSettings(Settings, frozen=True, kw_only=True):
    """Which model."""

    model: FilePath
    """An .npz: weights (outputs, features), bias (outputs,), mean and scale (features,) float64;
    grid (rows, columns), window_us int64; classes, text; if there are more outputs than classes,
    outputs, text, their names (`streamflow_nodes.particles.model_outputs`); if the window is cut in
    equal parts that are counted apart, slices int64, their number; and, if it is not 0.5, the
    power float64 that counts are raised to. Features are the 2 rows columns counts of each slice
    in turn.
    """
    deadline: Microseconds = 5000
    """A decision later than this after the particle's centre (stream time) is flagged `late`."""
    act_above: Fraction = 0.0
    """A less probable decision is flagged `aborted`, as late, merged and debris ones are."""


class CountClassifier(Node[CountClassifierSettings], stateless=True):
    """The particles of each burst, from the burst's images of event counts and a linear model.

    The events in the middle `window_us` of the burst are counted by polarity and cell of a grid, in
    each slice of that time. With n the counts (slices 2 rows columns, OFF first):

        s = weights . (n^power - mean) / scale + bias

    What the scores s stand for, the model says: `streamflow_nodes.particles.model_outputs`. With
    one output for each class, every burst gives one particle; models can also give none (a
    neighbour's tail), or two where two particles made one burst, with diameters and flags.

    Logistic regression on count images of triggered bursts follows Abreu, Gouda, Lugnan and
    Bienstman (2023), "Flow cytometry with event-based vision and spiking neuromorphic hardware";
    a power of 0.5, which evens out counting noise, is our deviation; theirs is 1.

    `decided_us` is the burst's stop. State: none. Events outside the sensor are left out and
    counted as `outside_sensor`, decisions after the deadline as `late`.

        linear:
          kind: count_classifier
          inputs: {bursts: bursts.bursts}
          settings: {model: linear.npz}
    """

    bursts = In(Events)
    particles = Out(Table)
    faults = ("outside_sensor", "late")

    def open(self) -> None:
        model = self._read()
        rows, columns = (int(n) for n in model["grid"])
        self._rows, self._columns = rows, columns
        self._window = int(model["window_us"])
        self._power = float(model["power"])
        self._readout = Readout(
            self,
            [str(name) for name in model["outputs"]],
            [str(name) for name in model["classes"]],
            deadline=self.settings.deadline,
            act_above=self.settings.act_above,
        )
        self._weights = np.asarray(model["weights"] / model["scale"], np.float64)
        self._bias = np.asarray(model["bias"] - self._weights @ model["mean"], np.float64)
        self._images = np.zeros((int(model["slices"]), 2, rows, columns))
        self._sensor: Sensor | None = None
        warm_up(no_words())
        count_image(no_words(), 0, 1, 1, self._images[0])

    def _read(self) -> dict[str, Any]:
        path = self.settings.model
        try:
            model = read_npz(path)
        except FileNotFoundError as error:
            raise NodeError(self.name, f"{path}: no such file; expected a model (.npz)") from error
        except NPZ_FAULTS as error:
            raise NodeError(self.name, f"{path}: not a readable model (.npz): {error}") from error
        if missing := [field for field in FIELDS if field not in model]:
            raise NodeError(self.name, f"{path}: has no {missing}; expected {list(FIELDS)}")
        self._check_types(model)
        if model["grid"].shape != (2,) or model["window_us"].shape != () or model["grid"].min() < 1:
            raise NodeError(
                self.name,
                f"{path}: grid {model['grid']} and window_us {model['window_us']}; expected "
                "(rows, columns) and one number of microseconds",
            )
        model = {
            "outputs": model["classes"],
            "slices": np.array(1),
            "power": np.array(0.5),
        } | model
        slices, window = model["slices"], int(model["window_us"])
        if slices.shape != () or not 1 <= slices <= window or window % slices:
            raise NodeError(
                self.name, f"{path}: slices is {slices}; expected a divisor of window_us {window}"
            )
        outputs, features = (
            len(model["outputs"]),
            2 * int(slices) * math.prod(model["grid"].tolist()),
        )
        for field, shape in {
            "weights": (outputs, features),
            "bias": (outputs,),
            "mean": (features,),
            "scale": (features,),
        }.items():
            if model[field].shape != shape or not np.isfinite(model[field]).all():
                raise NodeError(
                    self.name,
                    f"{path}: {field} has shape {model[field].shape}; expected {shape}, finite, "
                    f"for {outputs} outputs on a grid of {model['grid'].tolist()}",
                )
        power = model["power"]
        if power.shape != () or not 0 < power < np.inf:
            raise NodeError(self.name, f"{path}: power is {power}; expected one number above 0")
        if not (model["scale"] > 0).all():
            raise NodeError(self.name, f"{path}: scale must be above 0")
        return model

    def _check_types(self, model: dict[str, Any]) -> None:
        """NodeError unless numbers are numbers and names are a list of text."""
        wanted = dict.fromkeys(("weights", "bias", "mean", "scale", "power"), "iuf")
        wanted |= dict.fromkeys(("grid", "window_us", "slices"), "iu")
        wanted |= dict.fromkeys(("classes", "outputs"), "US")
        for field, kinds in wanted.items():
            if field in model and model[field].dtype.kind not in kinds:
                raise NodeError(
                    self.name,
                    f"{self.settings.model}: {field} holds {model[field].dtype}; expected "
                    + {"iuf": "numbers", "iu": "whole numbers", "US": "text"}[kinds],
                )
            if (
                kinds == "US"
                and field in model
                and (model[field].ndim != 1 or not model[field].size)
            ):
                raise NodeError(
                    self.name,
                    f"{self.settings.model}: {field} has shape {model[field].shape}; expected a "
                    "list of names",
                )

    def on_bursts(self, packet: Packet[Events]) -> Iterator[Emission]:
        words = words_of(self, packet)
        self._sensor = check_sensor(self, self._sensor, packet)
        factor = cell_size(self, packet, self._rows, self._columns)
        start, _ = inner_window(self, packet, self._window)
        length = self._window // len(self._images)
        outside = 0
        for image in self._images:
            outside += count_image(words, start, start + length, factor, image)
            start += length
        if outside:
            self.count_fault("outside_sensor", outside)
        counts = self._images.reshape(-1) ** self._power
        rows = self._readout.rows(packet, words, self._weights @ counts + self._bias)
        if rows is not None:
            yield self.particles(Table(rows), packet.start, packet.stop)

    def results(self) -> dict[str, Any]:
        return {
            "model": self.settings.model,
            "window_us": self._window,
            "grid": [self._rows, self._columns],
            "slices": len(self._images),
            "deadline_us": self.settings.deadline,
        }
