"""The graphs of the NIR paper, against what the platforms recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from streamflow_nodes.networks.compiler import compile_network
from streamflow_nodes.networks.engine import State
from streamflow_nodes.networks.nir_file import NetworkError
from streamflow_nodes.networks.numba_backend import NumbaBackend
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.runs import run_network
from streamflow_nodes.networks.wiring import read_network, wire

from streamflow.cli import main

GRAPHS = Path(__file__).resolve().parents[1] / "data" / "nir"
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "nir"
ALL = ["lif_norse", "lif_rockpool", "braille_noDelay_bias_zero",
       "braille_noDelay_bias_zero_subgraph"]  # fmt: skip


def test_the_lif_neuron_is_norse_s_to_the_spike_and_the_fifth_decimal(tmp_path: Path) -> None:
    recorded = np.load(GRAPHS / "lif_expected.npz")
    np.save(tmp_path / "in.npy", recorded["x"])
    file, source, target = (str(p) for p in (GRAPHS / "lif_norse.nir", tmp_path / "in.npy",
                                             tmp_path / "out.npz"))  # fmt: skip
    rest = ["--input", source, "--output", target, "--dt", "1e-4", "--membranes"]

    assert main(["model", "run", file, *rest]) == 0
    euler = np.load(target)
    assert main(["model", "run", file, *rest, "--integrator", "exact", "--reset", "subtract"]) == 0
    exact = np.load(target)

    assert (euler["1"][:, 0] == recorded["norse_s"].ravel()).all()
    assert np.abs(euler["1.membrane"][:, 0] - recorded["norse_v"].ravel()).max() < 1e-5
    assert (exact["1"][:, 0] == recorded["exact_s"].ravel()).all()
    rules = json.loads(str(exact["rules"]))
    assert (rules["dt"], rules["integrator"], rules["reset"]) == (1e-4, "exact", "subtract")


@pytest.mark.parametrize(
    ("graph", "layer"),
    [("braille_noDelay_bias_zero", "lif1.lif"),
     ("braille_noDelay_bias_zero_subgraph", "lif1.lif1")],
)  # fmt: skip
def test_the_recurrent_network_is_snntorch_s_and_norse_s_to_the_spike(
    graph: str, layer: str
) -> None:
    recorded = np.load(GRAPHS / "braille_bias_zero_expected.npz")
    wiring = read_network(GRAPHS / f"{graph}.nir")

    as_snntorch, _ = run_network(NumbaBackend(), wiring, Rules(1e-4), recorded["x"])
    rules = Rules(1e-4, recurrent_start="nothing")
    as_norse, _ = run_network(NumbaBackend(), wiring, rules, recorded["x"])

    assert as_snntorch[layer].shape == (256, 38)
    assert (as_snntorch[layer] == recorded["act_snntorch"]).all()
    assert (as_norse[layer] == recorded["act_norse"]).all()


@pytest.mark.parametrize("reset", ["value", "subtract"])
def test_the_convolutional_network_counts_digits_as_norse_does(reset: Any) -> None:
    if not SHARED.exists():
        pytest.skip("the N-MNIST recordings are share-alike and not in this repository")
    data = dict(np.load(SHARED / "nmnist100" / "nmnist_test100.npz"))
    expected = np.load(SHARED / "nmnist100" / "scnn_expected.npz")
    wiring = read_network(SHARED / "cnn_sinabs.nir")
    state = State(compile_network(wiring, Rules(reset=reset), totals=["output"]))
    counts = []
    spans = list(zip(data["offsets"][:-1], data["offsets"][1:], strict=True))
    longest = max((data["t"][last - 1] - data["t"][first]) // 1000 for first, last in spans)
    for first, last in spans:
        t, p, y, x = (data[name][first:last].astype(np.int64) for name in "tpyx")
        frame = (t - t[0]) // 1000
        ends = np.searchsorted(frame, np.arange(1, frame[-1] + 1)).astype(np.int64)
        if reset == "subtract":  # recorded with silence after: what is left above th goes on firing
            ends = np.concatenate([ends, np.full(longest - len(ends), ends[-1])])
        state.rest()
        state.run(((p * 34 + y) * 34 + x)[: ends[-1]].copy(), ends)
        counts.append(state.totals("output").astype(int))
    counts, labels = np.array(counts), data["labels"]

    if reset == "value":
        assert (counts.argmax(axis=1) == labels).all()
        assert (counts == expected["norse_counts"]).all(axis=1).sum() >= 98
    else:
        assert (counts.argmax(axis=1) == labels).sum() == 97
        assert (counts == expected["ref_if_subtract_counts"]).all(axis=1).sum() >= 98


@pytest.mark.parametrize("name", ALL)
def test_every_paper_graph_is_shown_checked_and_converted_to_what_nir_reads(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, converted = str(GRAPHS / f"{name}.nir"), str(tmp_path / "flat.nir")

    assert main(["model", "show", file, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert main(["model", "check", file]) == 0
    assert main(["model", "convert", file, converted]) == 0

    again = wire(nir.read(converted))
    assert list(again.units) == [layer["name"] for layer in shown["layers"]]
    assert again.repairs == ()
    assert bool(shown["repairs"]) == (name in ("lif_rockpool", ALL[-1]))
    assert shown["totals"]["synapses"] == sum(
        unit.parameters["weight"].size
        for unit in again.units.values()
        if "weight" in unit.parameters
    )


def test_what_has_more_than_one_reading_is_refused_with_the_reason(tmp_path: Path) -> None:
    one = np.ones(3)
    nodes = {"input": nir.Input(np.array([3])), "if": nir.IF(one, one), "fc": nir.Linear(np.eye(3)),
             "output": nir.Output(np.array([3]))}  # fmt: skip

    def refused(edges: list[tuple[str, str]], what: str, changed: Any = None) -> None:
        graph = nir.NIRGraph({**nodes, **(changed or {})}, edges, type_check=False)
        nir.write(tmp_path / "odd.nir", graph)
        with pytest.raises(NetworkError, match=what):
            read_network(tmp_path / "odd.nir")

    line = [("input", "if"), ("if", "fc"), ("fc", "output")]
    refused([*line, ("if", "fc")], "'if' to 'fc' is there more than once")
    refused([("input", "a"), ("b", "fc"), ("fc", "output")], "edges name 'a', 'b'")
    refused([("input", "if"), ("if", "output")], "no way leads from an Input to 'fc'")
    refused(line, r"'if' gives \(3,\) and 'fc' \(Linear\) takes \(4,\)",
            {"fc": nir.Linear(np.ones((3, 4)))})  # fmt: skip
    (tmp_path / "text.nir").write_text("no")
    with pytest.raises(NetworkError, match="not a readable NIR network"):
        read_network(tmp_path / "text.nir")


def test_rules_that_do_not_fit_name_the_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(GRAPHS / "braille_noDelay_bias_zero.nir")
    np.save(tmp_path / "in.npy", np.zeros((4, 12)))
    rest = ["--input", str(tmp_path / "in.npy"), "--output", str(tmp_path / "out.npz")]

    assert main(["model", "run", file, *rest]) == 1
    assert "dt is missing" in (told := capsys.readouterr().err)
    assert "'lif1.lif' (CubaLIF)" in told
    assert main(["model", "check", file, "--dt", "0.1"]) == 2
    assert "shorter than the time step" in capsys.readouterr().err
    np.save(tmp_path / "in.npy", np.zeros((4, 11)))
    assert main(["model", "run", file, *rest, "--dt", "1e-4"]) == 1
    assert "expected (steps, 12)" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()
