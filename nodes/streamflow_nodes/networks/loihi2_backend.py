"""Runs a network under Loihi 2's integer rules: `streamflow model run X.nir --backend loihi2`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .loihi2_devices import Device, EmulatorDevice
from .loihi2_network import Loihi2Error
from .nir_file import NetworkError
from .quantise import KEY, Quantised, from_arrays, quantise
from .rules import Rules
from .wiring import Wiring

MESSAGE = (1 << 23) - 1
"""The largest graded message: 24 bits with a sign."""

log = logging.getLogger("streamflow.loihi2")


class Loihi2Backend:
    """A device (the emulator) behind the interface of all back ends: see `backend.Backend`.

    A file that holds integers (`streamflow model quantise`) runs as they are. Another is quantised
    to 8 bits by its weights alone, and the results say so.
    """

    def __init__(self, device: Device | None = None) -> None:
        self._device: Device = EmulatorDevice() if device is None else device

    def load(self, wiring: Wiring, rules: Rules) -> None:
        """Get ready, at rest; Loihi2Error, with the unit and the value, for what does not fit."""
        if KEY in wiring.metadata:
            self.quantised = from_arrays(wiring.metadata)
            _check_rules(self.quantised, rules)
            self._how = f"the file's integers, {self.quantised.bits} bits"
        else:
            self.quantised = quantise(wiring, rules)
            self._how = "quantised to 8 bits by the weights alone"
            log.info("loihi2: %s", self._how)
        self._wiring = wiring
        self._spiking = [name for name in wiring.spiking if self._gives(name)]
        self._device.load(self.quantised.network, self._asked())

    def _gives(self, name: str) -> bool:
        """Whether the device gives that layer: Lava gives its outputs only."""
        return self._device.name != "lava" or name in self.quantised.outputs.values()

    def _asked(self) -> list[str]:
        names = [*self._spiking, *self.quantised.outputs.values()]
        return list(dict.fromkeys(names))

    def step(
        self, frame: NDArray[Any], names: Sequence[str] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """One step; spikes are 0 or 1, readouts in the float network's units."""
        self._device.step(whole_numbers(frame))
        every = (*self._spiking, *self.quantised.outputs)
        return {name: self._given(name) for name in every if names is None or name in names}

    def _given(self, name: str) -> NDArray[np.float32]:
        """What a unit gave: messages, or what a readout holds."""
        source = self.quantised.outputs.get(name, name)
        if source not in self._spiking:
            return self.membrane(source)
        sent = self._device.messages(source).astype(np.float32)
        return sent.reshape(self._wiring.units[source].output_shape)

    def membrane(self, name: str) -> NDArray[np.float32]:
        """The membrane in the float network's units: rest + scale * v."""
        scale, rest = self.quantised.scales[name], self.quantised.rests[name]
        value = rest + scale * self._device.value(name)
        return value.astype(np.float32).reshape(self._wiring.units[name].output_shape)

    def snapshot(self) -> dict[str, Any]:
        """The whole state."""
        return self._device.snapshot()

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `snapshot` gave."""
        self._device.restore(state)

    def results(self) -> dict[str, Any]:
        """What answered, with which integers, under which rules."""
        return {
            "backend": "loihi2",
            "answered": self._device.name,
            "integers": self._how,
            "rules": self.quantised.rules.as_dict(),
        }

    def close(self) -> None:
        """Release the device."""
        self._device.close()


def whole_numbers(frame: NDArray[Any]) -> NDArray[np.int32]:
    """The frame as messages, (inputs,) int32; NetworkError for what no message can carry."""
    flat = np.asarray(frame).reshape(-1)
    whole = flat.astype(np.int32)
    if (whole != flat).any() or (np.abs(whole) > MESSAGE).any():
        bad = flat[(whole != flat) | (np.abs(whole) > MESSAGE)][0]
        raise NetworkError(
            f"an input of {bad:g}; Loihi's messages are whole numbers up to {MESSAGE}: count "
            "events, or scale and round"
        )
    return whole


def _check_rules(quantised: Quantised, rules: Rules) -> None:
    """The rules went into the integers: others would be another network."""
    made, asked = quantised.rules.as_dict(), rules.as_dict()
    if asked["dt"] is None:
        asked["dt"] = made["dt"]
    for what, value in made.items():
        if asked[what] != value:
            raise Loihi2Error(
                f"quantised with {what} {value}, and {what} {asked[what]} is asked for: ask for "
                f"{value}, or quantise the float network again"
            )
