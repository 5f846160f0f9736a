"""The back end that runs Norse: against its own recordings, the slow reference, and its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from hypothesis import given, settings
from reference import run
from streamflow_nodes.networks.nir_file import NetworkError
from streamflow_nodes.networks.norse_backend import NorseBackend
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.wiring import read_network, wire

import graphs

pytest.importorskip("norse", reason="the extra norse is not installed")

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "nir"
needs_data = pytest.mark.skipif(
    not DATA.exists(), reason="the NIR paper's graphs and recordings are not here"
)
KINDS = ["IF", "LIF", "CubaLIF"]


def loaded(network: Any, **rules: Any) -> NorseBackend:
    backend = NorseBackend()
    backend.load(network, Rules(**rules))
    return backend


def steps(backend: NorseBackend, x: Any) -> dict[str, Any]:
    given = [backend.step(frame) for frame in x]
    return {name: np.array([step[name] for step in given]) for name in given[0]}


@needs_data
def test_the_paper_s_graphs_give_what_norse_gave_when_they_were_recorded() -> None:
    lif = np.load(DATA / "lif_expected.npz")
    braille = np.load(DATA / "braille_bias_zero_expected.npz")

    of_lif = steps(loaded(read_network(DATA / "lif_norse.nir"), dt=1e-4), lif["x"])
    recurrent = read_network(DATA / "braille_noDelay_bias_zero.nir")
    of_braille = steps(loaded(recurrent, dt=1e-4, recurrent_start="nothing"), braille["x"])
    with_bias = steps(loaded(recurrent, dt=1e-4), braille["x"])

    assert (of_lif["1"][:, 0] == lif["norse_s"]).all()
    assert (of_braille["lif1.lif"] == braille["act_norse"]).all()
    assert (with_bias["lif1.lif"] == braille["act_snntorch"]).all()


@settings(max_examples=25)
@given(graphs.generators())
def test_norse_gives_what_the_equations_say(rng: np.random.Generator) -> None:
    nested = bool(rng.integers(2))
    form = rng.integers(2)
    if form:
        graph = graphs.convolutional(rng, KINDS, plain=True)
    else:
        graph = graphs.recurrent(rng, KINDS, plain=True, nested=nested)
    x = graphs.frames(rng, graph)
    backend = loaded(wire(graph), dt=graphs.DT)

    expected = run(graph, x, dt=graphs.DT)
    given = steps(backend, x)

    assert set(given) == {*wire(graph).spiking, "output"}
    for name in wire(graph).neurons:
        np.testing.assert_array_equal(given[name], expected.given[name], err_msg=name)
        np.testing.assert_array_equal(backend.membrane(name), expected.membrane[name][-1])


def test_it_goes_on_from_a_snapshot_as_if_nothing_had_been() -> None:
    rng = np.random.default_rng(3)
    graph = graphs.recurrent(rng, ["CubaLIF", "IF"], plain=True, nested=False)
    x = graphs.frames(rng, graph)
    whole, first, second = (loaded(wire(graph), dt=graphs.DT) for _ in range(3))

    expected = steps(whole, x)
    steps(first, x[:3])
    second.restore(first.snapshot())
    rest = steps(second, x[3:])

    assert any(values.any() for values in rest.values())
    for name, values in rest.items():
        np.testing.assert_array_equal(values, expected[name][3:])


def lif(**other: float) -> Any:
    p = {"tau": 0.01, "r": 1.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0, **other}
    return nir.LIF(**{name: np.full(2, value, np.float32) for name, value in p.items()})


@pytest.mark.parametrize(
    ("node", "rules", "words"),
    [
        (lif(r=2.0), {}, "r 2; Norse 1.1 imports it as if it were 1"),
        (lif(v_reset=-0.5), {}, "v_reset -0.5"),
        (lif(), {"reset": "subtract"}, "resets it to a value only"),
        (lif(), {"integrator": "exact"}, "integrator is exact"),
        (lif(), {"synaptic_delay": 1}, "synaptic_delay is 1"),
        (nir.Threshold(np.ones(2)), {}, "does not import it"),
        (nir.I(np.ones(2)), {}, "does not import it"),
        (nir.Scale(np.ones(2)), {}, "does not import it"),
        (nir.Delay(np.zeros(2)), {}, "does not import it"),
    ],
)
def test_what_norse_would_run_otherwise_is_refused_with_the_unit(
    node: Any, rules: dict[str, Any], words: str
) -> None:
    with pytest.raises(NetworkError, match=words):
        loaded(wire(graphs.chain((2,), node)), dt=0.001, **rules)


def test_two_ways_of_unequal_length_that_norse_runs_a_step_apart_are_refused() -> None:
    graph = graphs.skipping(np.random.default_rng(8), KINDS, plain=True)

    with pytest.raises(NetworkError, match="runs 'e' before 'd'"):
        loaded(wire(graph), dt=graphs.DT)
