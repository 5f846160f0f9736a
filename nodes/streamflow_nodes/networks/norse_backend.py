"""A network run by Norse, to compare with: what its own importer makes of the file, step by step.

Norse (Pehle and Pedersen, 2021, "Norse: a deep learning library for spiking neural networks") is
asked with `norse.torch.from_nir`, in float32 and unbatched. Its importer, version 1.1, lacks some
of NIR and leaves out parameters without saying so; those networks are refused here, each with the
unit, instead of being run as something else.

What a connection in a cycle gives in the first step is `rules.recurrent_start`: Norse by itself has
`nothing` (`nirtorch` knows no output to take yet); for `bias` it is given the connection's bias.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .nir_file import NetworkError
from .rules import Rules
from .wiring import Unit, Wiring

SUPPORTED = (
    "Input", "Output", "Affine", "Linear", "Conv2d", "SumPool2d", "Flatten", "IF", "LIF", "CubaLIF",
)  # fmt: skip
# parameters that Norse's importer does not look at, and the one value with which that is right
_UNREAD = {
    "IF": {"r": 1.0, "v_reset": 0.0},
    "LIF": {"r": 1.0, "v_reset": 0.0},
    # it would make the synapse leak to v_leak as well
    "CubaLIF": {"v_reset": 0.0, "v_leak": 0.0},
    "SumPool2d": {"padding": 0.0},
}


def _check_unit(unit: Unit, rules: Rules) -> None:
    """NetworkError where Norse's importer would make something else of the unit."""
    what = f"unit {unit.name!r} ({unit.kind})"
    if unit.kind not in SUPPORTED:
        raise NetworkError(
            f"{what}: Norse 1.1 does not import it; it imports {', '.join(SUPPORTED)}: use the "
            "back end numba"
        )
    if unit.kind in ("Affine", "Linear") and unit.parameters["weight"].ndim != 2:
        raise NetworkError(
            f"{what} has weights of {unit.parameters['weight'].ndim} axes; Norse 1.1 takes 2: use "
            "the back end numba"
        )
    for name, value in _UNREAD.get(unit.kind, {}).items():
        found = np.asarray(unit.parameters[name])
        if (found != value).any():
            odd = found.reshape(-1)[np.flatnonzero(found != value)[0]]
            raise NetworkError(
                f"{what} has {name} {odd:g}; Norse 1.1 imports it as if it were {value:g}: use "
                "the back end numba"
            )
    if unit.kind in ("IF", "LIF") and rules.reset != "value":
        raise NetworkError(
            f"{what}: Norse 1.1 resets it to a value only (it takes reset: subtract for CubaLIF); "
            "use the back end numba"
        )


def _check_rules(wiring: Wiring, rules: Rules) -> None:
    is_recurrent = any(link.recurrent for unit in wiring.units.values() for link in unit.inputs)
    told = {
        "integrator": (rules.integrator, "euler"),
        "synaptic_delay": (rules.synaptic_delay, 0),
        "recurrent_delay": (rules.recurrent_delay if is_recurrent else 1, 1),
    }
    for rule, (given, only) in told.items():
        if given != only:
            raise NetworkError(f"{rule} is {given}; Norse 1.1 has {only} only: use numba")


class NorseBackend:
    """`Backend` by Norse: see the module. The state is this instance's own.

    Needs the extra `norse`. PyTorch runs in one thread of this process.
    """

    def load(self, wiring: Wiring, rules: Rules) -> None:
        wiring.check_dt(rules.dt)
        _check_rules(wiring, rules)
        for unit in wiring.units.values():
            _check_unit(unit, rules)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import norse.torch as norse
                import torch
        except ImportError as error:
            raise NetworkError(
                f"the back end norse needs Norse, which is not here ({error}): "
                "pip install 'streamflow-neuro[norse]'"
            ) from error
        torch.set_num_threads(1)
        self._torch, self._rules, self._wiring = torch, rules, wiring
        # names of our own: nirtorch writes dots as underscores, which may make two names one
        self._names = {name: f"n{number}" for number, name in enumerate(wiring.units)}
        reset = (
            norse.functional.reset.reset_value if rules.reset == "value"
            else norse.functional.reset.reset_subtract
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls what nirtorch deprecates
            self._network = norse.from_nir(
                self._renamed(), ignore_warnings=True, reset_method=reset,
                dt=1.0 if rules.dt is None else rules.dt,
            )  # fmt: skip
        self._check_order()
        self._input, self._output = wiring.only_input(), wiring.only_output()
        self._begin = self._seeds() if rules.recurrent_start == "bias" else {}
        self._state: Any = None
        self._rest = self._resting()

    def _renamed(self) -> Any:
        import nir

        graph = self._wiring.to_nir()
        for node in graph.nodes.values():  # torch takes whole numbers as ints of Python only
            for name in ("stride", "padding", "dilation", "kernel_size"):
                if hasattr(node, name) and not isinstance(getattr(node, name), str):
                    setattr(node, name, tuple(int(n) for n in getattr(node, name)))
            for name in ("groups", "start_dim", "end_dim"):
                if hasattr(node, name):
                    setattr(node, name, int(getattr(node, name)))
        nodes = {self._names[name]: node for name, node in graph.nodes.items()}
        edges = [(self._names[a], self._names[b]) for a, b in graph.edges]
        return nir.NIRGraph(nodes, edges, type_check=False)

    def _check_order(self) -> None:
        """NetworkError where Norse would take values of an earlier step that are not recurrent.

        It steps units in the order of a walk from the input, and what a unit takes from one that
        comes after it is of the step before, whether or not the two are in a cycle.
        """
        order = {node.name: at for at, node in enumerate(self._network.execution_order)}
        units = self._wiring.units
        late = {
            (link.source, u.name) for u in units.values() for link in u.inputs if link.recurrent
        }
        for unit in units.values():
            for link in unit.inputs:
                is_late = order[self._names[link.source]] >= order[self._names[unit.name]]
                if is_late and not self._closes(link.source, unit.name, late):
                    raise NetworkError(
                        f"Norse 1.1 runs {unit.name!r} before {link.source!r}, from which it takes "
                        "its input, and so one step late: use the back end numba"
                    )

    def _closes(self, source: str, target: str, late: set[tuple[str, str]]) -> bool:
        """Whether the edge, or one before it in a chain of connections, is a recurrent one."""
        while (source, target) not in late:
            unit = self._wiring.units[source]
            if unit.is_neuron or len(unit.inputs) != 1:
                return False
            source, target = unit.inputs[0].source, source
        return True

    def _seeds(self) -> dict[str, Any]:
        """What connections that are fed by recurrent edges alone give before there are spikes."""
        torch = self._torch
        seeds: dict[str, Any] = {}
        for name, unit in self._wiring.units.items():
            direct = [self._names[link.source] for link in unit.inputs if not link.recurrent]
            if unit.is_neuron or not unit.inputs or any(source not in seeds for source in direct):
                continue
            into = sum((seeds[source] for source in direct), torch.zeros(unit.input_shape))
            with torch.no_grad():
                seeds[self._names[name]] = getattr(self._network, self._names[name])(into)
        return seeds

    def _resting(self) -> dict[str, Any]:
        """V of every unit of neurons before the first step."""
        torch, units = self._torch, self._wiring.units
        return {
            name: torch.from_numpy(
                np.array(units[name].parameters.get("v_leak", np.zeros(units[name].output_shape)))
            ).float()
            for name in self._wiring.neurons
        }

    def step(
        self, frame: NDArray[Any], names: Sequence[str] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        torch = self._torch
        # a copy: what arrives may be read-only, which torch warns of
        x = torch.tensor(np.asarray(frame, np.float32).reshape(self._input.output_shape).copy())
        with torch.no_grad():
            given, self._state = self._network(x, self._before())
        wanted = (*self._wiring.spiking, self._output.name)
        return {
            name: self._cached(name) if name != self._output.name else self._shaped(given)
            for name in wanted
            if names is None or name in names
        }

    def _shaped(self, given: Any) -> NDArray[np.float32]:
        """What the Output gives, in its shape."""
        value: NDArray[np.float32] = given.numpy().reshape(self._output.output_shape)
        return value.copy()

    def _before(self) -> Any:
        """The state of the last step; None, or what is seeded, before the first."""
        if self._state is not None or not self._begin:
            return self._state
        from nirtorch.graph_executor import GraphExecutorState

        return GraphExecutorState({}, dict(self._begin))

    def _cached(self, name: str) -> NDArray[np.float32]:
        value: NDArray[np.float32] = self._state.cache[self._names[name]].numpy()
        return value.reshape(self._wiring.units[name].output_shape).copy()

    def _neurons(self, name: str) -> list[Any]:
        """The synapse's current, where there is one, and v, as tensors."""
        state = self._state.state[self._names[name]][0]
        if self._wiring.units[name].kind == "CubaLIF":
            return [state[0].v, state[1].v]
        return [state.v]

    def membrane(self, name: str) -> NDArray[np.float32]:
        if name not in self._rest:
            raise KeyError(name)
        v = self._rest[name] if self._state is None else self._neurons(name)[-1]
        shape = self._wiring.units[name].output_shape
        membrane: NDArray[np.float32] = np.broadcast_to(v.detach().numpy(), shape).copy()
        return membrane

    def snapshot(self) -> dict[str, Any]:
        if self._state is None:
            return {}
        state = {f"given {key}": value.numpy().copy() for key, value in self._state.cache.items()}
        for name in self._wiring.neurons:
            for number, value in enumerate(self._neurons(name)):
                state[f"state {number} {self._names[name]}"] = value.numpy().copy()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        if not state:
            self._state = None
            return
        from nirtorch.graph_executor import GraphExecutorState
        from norse.torch.functional.iaf import IAFFeedForwardState
        from norse.torch.functional.leaky_integrator_box import LIBoxState
        from norse.torch.functional.lif_box import LIFBoxFeedForwardState

        def tensor(key: str) -> Any:
            return self._torch.from_numpy(np.array(state[key]))

        cache = {key[6:]: tensor(key) for key in state if key.startswith("given ")}
        neurons: dict[str, Any] = {}
        for name in self._wiring.neurons:
            own, kind = self._names[name], self._wiring.units[name].kind
            first = tensor(f"state 0 {own}")
            if kind == "CubaLIF":
                both = (LIBoxState(first), LIFBoxFeedForwardState(tensor(f"state 1 {own}")))
                neurons[own] = (both,)
            else:
                made = IAFFeedForwardState if kind == "IF" else LIFBoxFeedForwardState
                neurons[own] = (made(first),)
        self._state = GraphExecutorState(neurons, cache)

    def results(self) -> dict[str, Any]:
        return {
            "backend": "norse",
            "version": version("norse"),
            "torch": version("torch"),
            "rules": self._rules.as_dict(),
        }

    def close(self) -> None:
        """Nothing to release."""
