"""What runs a network of Loihi's integers: a chip, Lava's models of it, or our emulator.

One interface, `Device`, so that what comes after Lava is one more class. A driver for a chip is a
package with an entry point in the group `streamflow.loihi2`: a class with the methods of `Device`
and a class method `probe()`, which is true where a chip answers.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import queue
import signal
import time
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .loihi2_network import (
    INPUT,
    Connection,
    Loihi2Emulator,
    Loihi2Network,
    Population,
    matrix_of,
    sign_mode_of,
)
from .nir_file import NetworkError

Asked = Literal["auto", "hardware", "lava", "emulator"]
DRIVERS = "streamflow.loihi2"
BLOCK = 64  # steps that Lava is told to run at once, each of which waits for its input
PATIENCE = 60.0  # seconds for an answer of Lava: a step takes milliseconds, its start seconds


class Device(Protocol):
    """Runs one network; made without arguments, then `load`ed once. NetworkError for what it cannot
    run.
    """  # fmt: skip

    name: str

    def load(self, network: Loihi2Network, outputs: Sequence[str]) -> None:
        """Get ready, at rest; what the populations `outputs` give is asked for later."""

    def step(self, frame: NDArray[np.int32]) -> None:
        """One step with what each input gives, (inputs,) int32; returns when it is done."""

    def messages(self, name: str) -> NDArray[np.int32]:
        """What each neuron of an output sent in the last step: (n,) int32, in NIR's order."""

    def value(self, name: str) -> NDArray[np.int32]:
        """The v of an output's neurons after the last step, or the sums of a readout."""

    def snapshot(self) -> dict[str, Any]:
        """The state, flat; NetworkError where it cannot be had."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `snapshot` gave."""

    def close(self) -> None:
        """Release what is held; may be called twice."""


class EmulatorDevice:
    """Our emulator: bit for bit what `docs/fixed-point.md` says."""

    name = "emulator"

    def load(self, network: Loihi2Network, outputs: Sequence[str]) -> None:
        self._emulator = Loihi2Emulator(network)

    def step(self, frame: NDArray[np.int32]) -> None:
        self._emulator.step(frame)

    def messages(self, name: str) -> NDArray[np.int32]:
        return self._emulator.messages(name)

    def value(self, name: str) -> NDArray[np.int32]:
        return self._emulator.state(name, "v")

    def snapshot(self) -> dict[str, Any]:
        return self._emulator.snapshot()

    def restore(self, state: dict[str, Any]) -> None:
        self._emulator.restore(state)

    def close(self) -> None:
        """There is nothing to release."""


def make_device(asked: str) -> Device:
    """The device asked for, not loaded yet; NetworkError where there is none.

    `auto` is a chip where a driver finds one, else the emulator: never Lava, which is 100 times
    slower and answers no better.
    """
    if asked == "emulator":
        return EmulatorDevice()
    if asked == "lava":
        return LavaDevice()
    driver = _driver()
    if driver is not None:
        made: Device = driver()
        return made
    if asked == "auto":
        return EmulatorDevice()
    raise NetworkError(
        f"no Loihi 2 answers here: {_lava_says()}, and no driver of the entry points {DRIVERS!r} "
        "finds a chip; install the vendor's driver, or use backend auto or emulator"
    )


def _driver() -> Any:
    """The first driver whose probe finds a chip."""
    for entry in importlib.metadata.entry_points(group=DRIVERS):
        driver = entry.load()
        if driver.probe():
            return driver
    return None


def _lava_says() -> str:
    """What Lava's own probe says of its extension for the chip, which only members get."""
    if importlib.util.find_spec("lava") is None:
        return "Lava is not installed"
    if _lava("utils.loihi").is_installed():
        return "Lava's extension for Loihi is here, which streamflow has no driver for"
    return "Lava is here without its extension for Loihi"


def _lava(module: str) -> Any:
    """A module of Lava, which is in no environment of ours: it needs a Python of its own."""
    return importlib.import_module(f"lava.{module}")


class LavaDevice:
    """Lava's bit-accurate models, through its Injector and Extractor, step by step.

    Lava needs an interpreter of Python 3.10: `python:` on the node's process. Its connections
    answer a step later, so the network must have `synaptic_delay` 1. Each step waits for its answer
    before the next is given, so no more is under way than the edge's credits allow.
    """

    name = "lava"

    def load(self, network: Loihi2Network, outputs: Sequence[str]) -> None:
        try:
            config = _lava("magma.core.run_configs").Loihi2SimCfg
            extractor, injector = _lava("proc.io.extractor"), _lava("proc.io.injector")
        except ImportError as error:
            raise NetworkError(
                f"backend lava: Lava is not installed for this Python {platform.python_version()} "
                f"({error}); it needs Python 3.10: `make .venv-lava/lava.stamp`, and name that "
                "interpreter with python: on the node's process"
            ) from error
        _check_for_lava(network, outputs)
        self._outputs = list(outputs)
        self._inputs = int(np.prod(network.input_shape))
        self._injector = injector.Injector(shape=(self._inputs,))
        populations = _lava_populations(network)
        ports = _lava_connections(network, self._injector.out_port, populations)
        self._extractors = {}
        for name in self._outputs:
            size = network.population(name).size
            self._extractors[name] = extractor.Extractor(shape=(size,))
            sources = [populations[name].s_out] if name in populations else ports[name]
            for port in sources:
                port.connect(self._extractors[name].in_port)
        self._bias = {p.name: _bias(p) for p in network.populations if p.kind == "readout"}
        # both have two models without a tag: the tag alone would find none
        self._config = config(
            select_tag="fixed_pt",
            exception_proc_model_map={
                injector.Injector: _whole_injector(injector),
                extractor.Extractor: extractor.PyLoihiExtractorModel,
            },
        )
        self._steps = _lava("magma.core.run_conditions").RunSteps
        self._left = 0
        self._failed = False
        self._given: dict[str, NDArray[np.int32]] = {}
        self._running = False

    def step(self, frame: NDArray[np.int32]) -> None:
        if self._left == 0:
            if self._running:
                self._injector.wait()
            else:
                _end_with_parent()
            self._running, self._left = True, BLOCK
            self._injector.run(self._steps(BLOCK, blocking=False), self._config)
        self._injector.send(frame.astype(np.float64))
        for name, extractor in self._extractors.items():
            self._wait_for(extractor)
            self._given[name] = np.rint(extractor.receive()).astype(np.int32)
        self._left -= 1

    def _wait_for(self, extractor: Any) -> None:
        """Until an answer is there; NetworkError if Lava's processes fail, or none comes.

        `receive` alone waits for ever, and Lava tells of a process that failed only in `wait`.
        """
        answers = extractor.out_port.external_pipe_csp_recv_port._queue
        until = time.monotonic() + PATIENCE
        while True:
            try:
                answers.get(timeout=0.5, peek=True)
                return
            except queue.Empty:
                self._raise_failure()
            if time.monotonic() > until:
                self._failed = True
                raise NetworkError(
                    f"backend lava: no answer for {PATIENCE:.0f} s; use backend emulator, which "
                    "is the same bit for bit"
                )

    def _raise_failure(self) -> None:
        """NetworkError if one of Lava's processes has raised an error or is gone."""
        for actor in self._actors():
            if actor.exception:
                said = str(actor.exception[1]).strip().splitlines()[-1]
            elif actor.exitcode:
                said = f"exit status {actor.exitcode}"
            else:
                continue
            self._failed = True
            raise NetworkError(f"backend lava: one of Lava's processes failed: {said}")

    def _actors(self) -> list[Any]:
        runtime = self._injector.runtime
        return [] if runtime is None else list(runtime._messaging_infrastructure.actors)

    def messages(self, name: str) -> NDArray[np.int32]:
        return self._of(name).copy()

    def value(self, name: str) -> NDArray[np.int32]:
        if name not in self._bias:
            raise NetworkError(f"backend lava gives the spikes of {name!r}, not its membrane")
        return np.asarray(self._of(name) + self._bias[name], np.int32)

    def _of(self, name: str) -> NDArray[np.int32]:
        if name not in self._given:
            raise NetworkError(f"backend lava gives {self._outputs}, not {name!r}; tap one of them")
        return self._given[name]

    def snapshot(self) -> dict[str, Any]:
        raise NetworkError(
            "backend lava cannot give its state while it runs: use restart: never, or backend "
            "emulator, which is the same bit for bit"
        )

    restore: Any = snapshot

    def close(self) -> None:
        if not getattr(self, "_running", False):
            return
        self._running = False
        try:
            if not self._failed:
                self._end()
        finally:
            if self._failed:
                self._kill()

    def _end(self) -> None:
        rest = np.zeros(self._inputs, np.int32)
        while self._left:  # Lava ends between runs only, and each of its steps waits for an input
            self.step(rest)
        self._injector.wait()
        self._injector.stop()

    def _kill(self) -> None:
        """End processes that do not answer any more: Lava's own `stop` would wait for them."""
        for actor in self._actors():
            if actor.is_alive():
                actor.kill()
        runtime = self._injector.runtime
        if runtime is not None:
            runtime._is_started = runtime._is_running = False
            runtime._messaging_infrastructure.stop()


def _whole_injector(injector: Any) -> Any:
    """Lava's model of its Injector, which gives integers.

    Lava's own gives floats, and its Dense fails when it shifts the sum of such messages.
    """
    ports, kinds = _lava("magma.core.model.py.ports"), _lava("magma.core.model.py.type")
    port = kinds.LavaPyType(ports.PyOutPort.VEC_DENSE, np.int32)
    return type("WholeInjector", (injector.PyLoihiInjectorModel,), {"out_port": port})


def _end_with_parent() -> None:
    """Let the kernel end Lava's processes if this one is killed: they would wait for ever."""
    global _watched
    if _watched or platform.system() != "Linux":
        return
    libc, die = ctypes.CDLL(None), 1  # PR_SET_PDEATHSIG of prctl(2)
    os.register_at_fork(after_in_child=lambda: libc.prctl(die, signal.SIGKILL))
    _watched = True


_watched = False


def _check_for_lava(network: Loihi2Network, outputs: Sequence[str]) -> None:
    def refuse(what: str) -> None:
        raise NetworkError(f"backend lava: {what}; use backend emulator")

    if network.synaptic_delay != 1:
        raise NetworkError(
            f"backend lava: synaptic_delay is {network.synaptic_delay}; each of Lava's layers "
            "answers one step later: set synaptic_delay 1"
        )
    for population in network.populations:
        if population.kind not in ("lif", "readout"):
            refuse(f"population {population.name!r} is a {population.kind}, which is not mapped")
        if np.any(population.refractory):
            refuse(f"population {population.name!r} has a refractory time, which Lava has in float "
                   "only")  # fmt: skip
        if population.kind == "lif" and not population.spikes:
            refuse(f"population {population.name!r} has no threshold")
    for connection in network.connections:
        if connection.kind == "direct":
            refuse(f"connection {connection.name} has no weights to be a Lava connection")


def _lava_populations(network: Loihi2Network) -> dict[str, Any]:
    """Lava's LIF for each population of neurons, with values of its own for each where they differ.

    Lava declares one du, dv and vth for all; its arithmetic takes one for each.
    """
    process = _lava("proc.lif.process").LIF
    made = {}
    for p in network.populations:
        if p.kind != "lif":
            continue
        lif = process(
            shape=(p.size,), bias_mant=_each(p, "bias_mant"), bias_exp=_each(p, "bias_exp")
        )
        for what in ("du", "dv", "vth"):
            value = np.asarray(getattr(p, what))
            var = getattr(lif, what)
            var.init = _each(p, what) if value.size > 1 else int(value.reshape(-1)[0])
            if value.size > 1:
                var.shape = (p.size,)
        made[p.name] = lif
    return made


def _each(population: Population, what: str) -> NDArray[np.int32]:
    value = np.asarray(getattr(population, what)).reshape(-1)
    return np.broadcast_to(value, population.size).astype(np.int32)


def _bias(population: Population) -> NDArray[np.int32]:
    return _each(population, "bias_mant") << _each(population, "bias_exp")


def _lava_connections(
    network: Loihi2Network, input_port: Any, populations: dict[str, Any]
) -> dict[str, list[Any]]:
    """The ports that lead into each population without neurons; the others are connected."""
    dense, sign_mode = _lava("proc.dense.process"), _lava("utils.weightutils").SignMode
    ports: dict[str, list[Any]] = {}
    for connection in network.connections:
        weights = matrix_of(network, connection).astype(np.int32)
        options = {
            "weights": weights,
            "weight_exp": connection.weight_exp,
            "num_weight_bits": connection.weight_bits,
            "sign_mode": sign_mode[_mode(connection, weights).upper()],
            "num_message_bits": 24 if connection.source == INPUT else 0,
        }
        if connection.delay or connection.delays is not None:
            delays = connection.delay + (
                0 if connection.delays is None else np.asarray(connection.delays)
            )
            made: Any = dense.DelayDense(
                delays=np.broadcast_to(delays, weights.shape).astype(int).copy(), **options
            )
        else:
            made = dense.Dense(**options)
        source = populations[connection.source].s_out if connection.source != INPUT else input_port
        source.connect(made.s_in)
        if connection.target in populations:
            made.a_out.connect(populations[connection.target].a_in)
        else:
            ports.setdefault(connection.target, []).append(made.a_out)
    return ports


def _mode(connection: Connection, weights: NDArray[np.int32]) -> str:
    return connection.sign_mode or sign_mode_of(weights)
