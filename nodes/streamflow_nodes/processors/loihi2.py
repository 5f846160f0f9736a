"""Runs a spiking network on Loihi 2, in its emulation, or in Lava's model of it."""

from __future__ import annotations

import msgspec

from streamflow.errors import NodeError
from streamflow.node import Node

from ..networks.loihi2_backend import Loihi2Backend
from ..networks.loihi2_devices import Asked, Device, make_device
from ..networks.nir_file import NetworkError
from ..networks.rules import Rules
from ..networks.stepping import Stepper
from ..networks.stepping import _Framed as Framed
from .spiking_network import SpikingNetwork, SpikingNetworkSettings


class Loihi2Settings(SpikingNetworkSettings, frozen=True, kw_only=True):
    """Those of `spiking_network`, and what is to answer."""

    backend: Asked = "auto"  # type: ignore[assignment]  # another set of words for the same setting
    """auto: a chip where a driver finds one, else the emulator; lava: Lava's bit-accurate models,
    in an interpreter that has them (`python:` on the process)."""


class Loihi2(SpikingNetwork, Node[Loihi2Settings]):
    """What `spiking_network` gives, under Loihi 2's integer rules: the same ports, the same words.

    The model is a file that `streamflow model quantise` wrote, whose integers are run as they are,
    or a float one, which is quantised to 8 bits by its weights alone. What answered is in the
    results as `answered`: the chip's driver, `emulator` or `lava`. The emulator equals Lava's
    bit-accurate models bit for bit, and a recorded neuron of a chip; no chip was at hand for more
    (docs/fixed-point.md). Inputs are whole numbers: events of a step count.

    `lava` needs `synaptic_delay: 1`, gives its outputs only, and cannot be restarted. A step is
    acknowledged when it has answered, so a slow device slows its source, as credits say.

    Reset is by value; everything else that Loihi 2 cannot represent is refused with the layer and
    the value. State: the network's, the open step, the open window (not with a chip or Lava).

        digits: {kind: loihi2, inputs: {events: camera.events},
                 settings: {model: digits.nir, step: 0.001, backend: emulator}}
    """

    settings: Loihi2Settings

    def open(self) -> None:
        asked = self.settings
        try:
            devices = [make_device(asked.backend) for _ in range(asked.instances)]
        except NetworkError as error:
            raise NodeError(self.name, f"settings: {error}") from error
        if asked.rest_after is not None and devices[0].name != "emulator":
            raise NodeError(
                self.name,
                f"settings: rest_after, which {devices[0].name} cannot do: its state is out of "
                "reach; leave it out, or use backend emulator",
            )
        # there it is one back end of several; which device stands behind it is said here
        self.settings = msgspec.structs.replace(asked, backend="loihi2")
        try:
            super().open()
        finally:
            self.settings = asked
        if devices[0].name != "emulator":
            self._steppers = [self._on(device) for device in devices]

    def _on(self, device: Device) -> Stepper:
        s, backend = self.settings, Loihi2Backend(device)
        rules = Rules(
            s.dt, s.integrator, s.reset, s.recurrent_delay, s.synaptic_delay, s.recurrent_start
        )
        try:
            backend.load(self._wiring, rules)
        except NetworkError as error:
            raise NodeError(self.name, f"{s.model}: {error}") from error
        return Framed(backend, self._wiring, s.tap or (self._output(),))
