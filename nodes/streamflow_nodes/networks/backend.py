"""What runs a network: one interface for our engine, Norse, and Loihi 2 or its emulation."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from .nir_file import NetworkError
from .rules import Rules
from .wiring import Wiring

BackendName = Literal["numba", "norse", "loihi2"]

_CLASSES = {
    "numba": ("numba_backend", "NumbaBackend"),
    "norse": ("norse_backend", "NorseBackend"),
    "loihi2": ("loihi2_backend", "Loihi2Backend"),
}


class Backend(Protocol):
    """A network that is stepped; made without arguments, then `load`ed once.

    The state is the instance's own: any number of back ends live side by side.
    """

    def load(self, wiring: Wiring, rules: Rules) -> None:
        """Get ready to step, at rest. NetworkError, with the unit's name, for what this back end
        cannot run under these rules: it refuses what it would have to run otherwise.
        """  # fmt: skip

    def step(
        self, frame: NDArray[Any], names: Sequence[str] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """One time step: what every spiking unit and every Output unit gives, by its name.

        frame : numbers of the one Input, in its shape (channels first), or flat in C order
        names : which of these units to give, and no others; None is all of them. The whole network
            is stepped in any case: what is not named is only not fetched. Units that are neither
            spiking nor an Output give nothing here, named or not: see `membrane`.
        Gives fresh float32 arrays in the units' shapes; spikes are 0 or 1.
        """

    def membrane(self, name: str) -> NDArray[np.float32]:
        """The potential of a unit's neurons after the last step and its resets, in its shape.

        KeyError when the unit has none.
        """

    def snapshot(self) -> dict[str, Any]:
        """The state as a flat dict of arrays and numbers: `restore` goes on as if nothing was."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `snapshot` gave."""

    def results(self) -> dict[str, Any]:
        """What answers (name, version, chip or emulator) and under which rules: plain values."""

    def close(self) -> None:
        """Release devices and processes; may be called twice."""


def make_backend(name: str) -> Backend:
    """The back end of that name, not loaded yet; NetworkError when there is none here.

    A back end whose library is missing says so in `load`.
    """
    if name not in _CLASSES:
        expected = ", ".join(get_args(BackendName))
        raise NetworkError(f"no back end {name!r}; expected one of: {expected}")
    module, class_name = _CLASSES[name]
    try:
        found = importlib.import_module(f".{module}", __package__)
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.{module}":
            raise
        raise NetworkError(
            f"this build of streamflow has no back end {name!r}; use numba"
        ) from error
    made: Backend = getattr(found, class_name)()
    return made
