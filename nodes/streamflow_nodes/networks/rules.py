"""What NIR leaves open and a result depends on: time step, integration, reset and delays."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from .nir_file import NetworkError

Integrator = Literal["euler", "exact"]
Reset = Literal["value", "subtract"]
RecurrentStart = Literal["bias", "nothing"]


@dataclass(frozen=True)
class Rules:
    """How the units of a network step.

    With I the summed input of a unit in this step:

        I, IF            v = v + r I                                     (jumps: no dt in it)
        LI, LIF          v = v + g ((v_leak - v) + r I)                  g of tau
        CubaLI, CubaLIF  i = i + g ((w_in I) - i)                        g of tau_syn, then
                         v = v + g ((v_leak - v) + r i)                  g of tau_mem, the new i
        spike where v > v_threshold (strictly); then v = v_reset (`reset: value`) or
        v = v - v_threshold (`reset: subtract`)

    with g = dt / tau (`integrator: euler`) or g = 1 - exp(-dt / tau) (`exact`: the solution for an
    input that is constant over the step). v begins at v_leak where a unit has one, else at 0; i at
    0. IF without dt is what Norse does with spike counts.

    `dt` is in the unit of the file's time constants, which NIR means to be seconds; None where the
    graph holds none. `recurrent_delay` is how many steps old what comes along an edge that closes
    a cycle is. `synaptic_delay` is how many steps later what a unit gives reaches a connection
    (Affine, Linear, Conv1d, Conv2d): 0 as NIR's equations say, 1 as in Lava. A recurrent edge into
    a connection takes the greater of the two, not both. Before the first step all is 0 on the way:
    a connection that is fed by recurrent edges alone then gives its bias (`recurrent_start: bias`,
    as snnTorch), or is left out in the first step, bias and all (`nothing`, as Norse).

    Source: Pedersen et al. (2024), "Neuromorphic intermediate representation"; which platform
    follows which rule is in docs/networks.md.
    """

    dt: float | None = None
    integrator: Integrator = "euler"
    reset: Reset = "value"
    recurrent_delay: int = 1
    synaptic_delay: int = 0
    recurrent_start: RecurrentStart = "bias"

    def __post_init__(self) -> None:
        """NetworkError for a rule that no network can be run under."""
        if self.dt is not None and not 0 < self.dt < float("inf"):
            raise NetworkError(f"dt is {self.dt}; expected seconds above 0")
        if self.integrator not in get_args(Integrator):
            raise NetworkError(f"integrator is {self.integrator!r}; expected euler or exact")
        if self.reset not in get_args(Reset):
            raise NetworkError(f"reset is {self.reset!r}; expected value or subtract")
        if self.recurrent_delay < 1:
            raise NetworkError(
                f"recurrent_delay is {self.recurrent_delay}; expected at least 1 step: without one "
                "a cycle has no first unit"
            )
        if self.recurrent_start not in get_args(RecurrentStart):
            raise NetworkError(
                f"recurrent_start is {self.recurrent_start!r}; expected bias or nothing"
            )
        if self.recurrent_start == "nothing" and max(self.recurrent_delay, self.synaptic_delay) > 1:
            raise NetworkError(
                "recurrent_start nothing is what Norse does, with delays of at most one step; "
                f"recurrent_delay is {self.recurrent_delay}, synaptic_delay {self.synaptic_delay}"
            )
        if self.synaptic_delay < 0:
            raise NetworkError(f"synaptic_delay is {self.synaptic_delay}; expected 0 or more steps")

    def as_dict(self) -> dict[str, Any]:
        """The rules as plain values, to be recorded with every result."""
        return asdict(self)
