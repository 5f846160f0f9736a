"""The network that rests in silence, and the one that is Norse's: against networks run alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.networks.numba_backend import NumbaBackend
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.wiring import read_network
from streamflow_nodes.processors.norse_network import NorseNetwork
from streamflow_nodes.processors.spiking_network import SpikingNetwork

from streamflow.errors import NodeError
from streamflow.packet import EVENT
from streamflow.testing import cut, drive, events

SIZE, STEP = 4, 100  # pixels each way, us


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Input (2, 4, 4) -> Flatten -> Affine -> IF 6 -> Affine -> LIF 3; membranes remember."""
    rng = np.random.default_rng(2)

    def weights(*shape: int) -> Any:
        return (rng.integers(-6, 9, shape) / 16).astype(np.float32)

    one = np.ones(6, np.float32)
    lif = {"tau": 2e-3, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.3, "v_reset": 0.0}
    shape = np.array([2, SIZE, SIZE])
    graph = nir.NIRGraph.from_list(
        nir.Input(shape), nir.Flatten({"input": shape}, 0, -1),
        nir.Affine(weights(6, 32), np.zeros(6, np.float32)), nir.IF(one, one, 0 * one),
        nir.Affine(4 * weights(3, 6), np.zeros(3, np.float32)),
        nir.LIF(**{name: np.full(3, value, np.float32) for name, value in lif.items()}),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "model.nir"
    nir.write(path, graph)
    return path


def recording(seed: int, gaps: list[int]) -> Any:
    """Events with silences of `gaps` steps between groups."""
    rng, start, groups = np.random.default_rng(seed), 0, []
    for gap in [0, *gaps]:
        start += gap * STEP
        count = int(rng.integers(1, 30))
        group = np.zeros(count, EVENT)
        group["timestamp"] = start + np.sort(rng.integers(0, 3 * STEP, count))
        group["x"], group["y"] = rng.integers(0, SIZE, (2, count))
        group["polarity"] = rng.integers(0, 2, count)
        groups.append(group)
        start = int(group["timestamp"][-1]) // STEP * STEP + STEP
    joined = b"".join(group.tobytes() for group in groups)
    return np.frombuffer(joined, EVENT)


def settings_of(model: Path, **other: Any) -> dict[str, Any]:
    return {"model": str(model), "dt": 1e-3, "step": STEP * 1e-6, **other}


def expected(model: Path, array: Any, rest_after: int) -> list[tuple[int, int]]:
    """The slow way: a frame for each step, and a new network after `rest_after` empty ones."""

    def fresh() -> NumbaBackend:
        backend = NumbaBackend()
        backend.load(read_network(model), Rules(dt=1e-3))
        return backend

    out, network, silent = [], fresh(), 0
    for step in range(int(array["timestamp"][-1]) // STEP + 1):
        inside = array[array["timestamp"] // STEP == step]
        frame = np.zeros((2, SIZE, SIZE), np.float32)
        np.add.at(frame, (inside["polarity"], inside["y"], inside["x"]), 1)
        silent = 0 if len(inside) else silent + 1
        spikes = network.step(frame)["output"]
        out += [(step * STEP, int(unit)) for unit in np.flatnonzero(spikes)]
        if silent == rest_after:
            network = fresh()
    return out


@settings(max_examples=25)
@given(st.integers(0, 999), st.lists(st.integers(0, 9), max_size=4), st.integers(1, 12))
def test_after_silence_a_trial_finds_the_network_at_rest_however_packets_are_cut(
    model: Path, seed: int, gaps: list[int], size: int
) -> None:
    array = recording(seed, gaps)
    whole = events(array, width=SIZE, height=SIZE, start=0)
    node = SpikingNetwork(settings_of(model, rest_after=5 * STEP * 1e-6))

    out = drive(node, events=cut(whole, size))

    assert out.items("spikes").tolist() == expected(model, array, 5)


def test_it_goes_on_after_a_restart_in_the_middle_of_silence_and_of_trials(model: Path) -> None:
    array = recording(7, [8, 3, 6])
    pieces = cut(events(array, width=SIZE, height=SIZE, start=0), 4)
    chosen = settings_of(model, rest_after=5 * STEP * 1e-6)

    for taken in range(1, len(pieces)):
        first, second = SpikingNetwork(chosen), SpikingNetwork(chosen)
        for node in (first, second):
            node.open()
        found: list[Any] = []
        for number, packet in enumerate(pieces):
            node = first if number < taken else second
            if number == taken:
                second.restore(first.snapshot())
            found += node.advance(packet.start)
            found += node.on_events(packet)
        found += second.finish()
        spikes = [tuple(s) for e in found for s in e.packet.data.array.tolist()]

        assert spikes == expected(model, array, 5)


def test_a_rest_that_is_no_whole_number_of_steps_is_one_error(model: Path) -> None:
    with pytest.raises(NodeError, match="not a multiple of the step of 100 us"):
        SpikingNetwork(settings_of(model, rest_after=250e-6)).open()


def test_norse_network_takes_the_place_of_spiking_network(model: Path) -> None:
    pytest.importorskip("norse", reason="the extra norse is not installed")
    whole = events(recording(3, [2, 8]), width=SIZE, height=SIZE, start=0)
    chosen = settings_of(model, give=["spikes", "membrane", "rates"], window=1000)

    ours, theirs = (
        drive(kind(chosen), events=cut(whole, 9)) for kind in (SpikingNetwork, NorseNetwork)
    )

    assert len(ours.items("spikes")) > 5
    assert theirs.items("spikes").tolist() == ours.items("spikes").tolist()
    for port in ("membrane", "rates"):
        np.testing.assert_allclose(theirs.items(port), ours.items(port), atol=1e-5)
    assert theirs.results["backend"] == "norse"
