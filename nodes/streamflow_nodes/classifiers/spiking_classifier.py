"""Classifies bursts with a spiking network that sees every event of the burst."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import NodeError
from streamflow.node import Emission, FilePath, Fraction, In, Microseconds, Node, Out, Settings
from streamflow.packet import Events, Packet, Table

from ..events.packets import Sensor, check_sensor, no_words, words_of
from ..kernels.burst_measures import cells_and_steps
from ..networks.compiler import Program, compile_network
from ..networks.engine import State
from ..networks.nir_file import NetworkError
from ..networks.rules import Integrator, Reset, Rules
from ..networks.wiring import read_network
from ..particles.bursts import cell_size, inner_window, warm_up
from ..particles.model_outputs import Readout


class SpikingClassifierSettings(Settings, frozen=True, kw_only=True):
    """Which network, and the rules that its file does not say."""

    model: FilePath
    """A NIR file with one Input (2, rows, columns) and one Output, which has one value or neuron
    for each class; any network between them."""
    classes: tuple[str, ...]
    """Names of the classes; without names in the model, one output for each, in this order."""
    window: Microseconds = 600
    """The middle of the burst that the network is given (us)."""
    dt: Microseconds = 50
    """Time step of the network (us)."""
    integrator: Integrator = "euler"
    reset: Reset = "value"
    """After a spike the membrane goes to v_reset (value), or down by the threshold (subtract)."""
    deadline: Microseconds = 5000
    """A decision later than this after the particle's centre (stream time) is flagged `late`."""
    act_above: Fraction = 0.0
    """A less probable decision is flagged `aborted`, as late, merged and debris ones are."""


class BurstNetwork(Protocol):
    """A network that is run from rest over the events of one burst.

    The node's is `SpikingClassifier.network` once it is open; another may be put in its place.
    """

    def run(
        self, cells: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], int]:
        """The output summed over all steps, (outputs,) float64, and how many cells are no inputs.

        `cells` : (n,) int64, the input that each event excites, in time order; `ends` : (steps,)
        int64, where in `cells` each step ends.
        """


class SpikingClassifier(Node[SpikingClassifierSettings], stateless=True):
    """The particles of each burst, from a spiking network that is run over the burst's events.

    The network is at rest before each burst. In the middle `window` of the burst it makes
    window / dt steps; in each, every event adds its cell's row of weights to the first layer
    (several events in a step and cell count several times), and all layers follow without delay.
    The scores are the output summed over the steps: spike counts when the last node is a LIF or
    CubaLIF, else the weighted spikes of the layer before. What they stand for, the model's metadata
    `outputs` say: `streamflow_nodes.particles.model_outputs`. A network with one output for each
    class gives one particle for each burst; others can give none (a neighbour's tail), or two where
    two particles made one burst, with diameters and flags.

    The equations are in `streamflow_nodes.networks.rules`; sums and states are float64, so that the
    order of a step's events does not matter. Time step, integrator and reset are settings, as NIR
    leaves them open (Pedersen et al. 2024, "Neuromorphic intermediate representation"), and stand
    in the results. A model whose metadata say otherwise (dt_us, window_us, classes, integrator,
    reset) is refused. Classifying bursts with an SNN follows Abreu, Gouda, Lugnan and Bienstman
    (2023), "Flow cytometry with event-based vision and spiking neuromorphic hardware".

    `decided_us` is the burst's stop. State: none. Events outside the sensor are left out and
    counted as `outside_sensor`, decisions after the deadline as `late`.

        spiking:
          kind: spiking_classifier
          inputs: {bursts: bursts.bursts}
          settings: {model: model.nir, classes: [A, B], dt: 50}
    """

    bursts = In(Events)
    particles = Out(Table)
    faults = ("outside_sensor", "late")

    def open(self) -> None:
        s = self.settings
        if s.window % s.dt:
            raise NodeError(
                self.name, f"settings: window {s.window} us is not a multiple of dt {s.dt} us"
            )
        try:
            wiring = read_network(s.model)
            output = wiring.only_output()
            program = compile_network(
                wiring,
                Rules(s.dt * 1e-6, s.integrator, s.reset),
                totals=[output.name],
                precision="double",
            )
        except NetworkError as error:
            text = str(error)
            raise NodeError(self.name, text if s.model in text else f"{s.model}: {text}") from error
        shape = wiring.only_input().output_shape
        self._check_model(shape, output.size, wiring.metadata)
        self.network: BurstNetwork = _FloatNetwork(program, output.name)
        _, self._rows, self._columns = shape
        self._ends = np.zeros(s.window // s.dt, np.int64)
        self._sensor: Sensor | None = None
        warm_up(no_words())
        cells = np.empty(0, np.int64)
        cells_and_steps(no_words(), 0, 1, 1, 1, 1, 1, cells, self._ends)
        self.network.run(cells, self._ends)

    def _check_model(self, shape: tuple[int, ...], size: int, metadata: dict[str, Any]) -> None:
        s = self.settings
        if len(shape) != 3 or shape[0] != 2:
            raise NodeError(
                self.name,
                f"{s.model}: its input has shape {shape}; expected (2, rows, columns): OFF and ON "
                "events by cell",
            )
        outputs = _text(metadata.get("outputs", ",".join(s.classes))).split(",")
        if size != len(outputs):
            raise NodeError(
                self.name,
                f"{s.model}: {size} outputs for the {len(outputs)} names {outputs}; "
                "name each output in the setting classes, or in the model's metadata (outputs)",
            )
        self._readout = Readout(
            self, outputs, list(s.classes), deadline=s.deadline, act_above=s.act_above
        )
        chosen = {
            "dt_us": s.dt,
            "window_us": s.window,
            "classes": ",".join(s.classes),
            "integrator": s.integrator,
            "reset": s.reset,
        }
        for what, value in chosen.items():
            trained = _text(metadata.get(what, value))
            if trained != value:
                raise NodeError(
                    self.name,
                    f"{s.model}: trained with {what} {trained}, and the settings say {value}: "
                    "change the setting, or train again",
                )

    def on_bursts(self, packet: Packet[Events]) -> Iterator[Emission]:
        words = words_of(self, packet)
        self._sensor = check_sensor(self, self._sensor, packet)
        factor = cell_size(self, packet, self._rows, self._columns)
        start, _ = inner_window(self, packet, self.settings.window)
        cells, ends = np.empty(words.size // 2, np.int64), self._ends
        outside = cells_and_steps(
            words, start, self.settings.dt, len(ends), factor, self._rows, self._columns,
            cells, ends,
        )  # fmt: skip
        if outside:
            self.count_fault("outside_sensor", outside)
        scores, _ = self.network.run(cells, ends)
        rows = self._readout.rows(packet, words, scores)
        if rows is not None:
            yield self.particles(Table(rows), packet.start, packet.stop)

    def results(self) -> dict[str, Any]:
        s = self.settings
        return {
            "model": s.model,
            "dt_us": s.dt,
            "window_us": s.window,
            "integrator": s.integrator,
            "reset": s.reset,
            "readout": "sum of the output over the window",
            "deadline_us": s.deadline,
        }


class _FloatNetwork:
    """Our engine as a `BurstNetwork`."""

    def __init__(self, program: Program, output: str) -> None:
        self._state, self._output = State(program), output

    def run(
        self, cells: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], int]:
        """See `BurstNetwork`."""
        self._state.rest()
        _, _, outside = self._state.run(cells, ends)
        return self._state.totals(self._output).reshape(-1), outside


def _text(value: Any) -> Any:
    """Text as NIR files give it back, bytes on some versions of h5py."""
    return value.decode() if isinstance(value, bytes) else value
