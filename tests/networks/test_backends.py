"""What all back ends have in common: how a step is asked for what it gives."""

from __future__ import annotations

import nir
import numpy as np
import pytest
from streamflow_nodes.networks.backend import Backend, make_backend
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.wiring import wire

import graphs


@pytest.fixture(params=["numba", "norse", "loihi2"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "norse":
        pytest.importorskip("norse", reason="the extra norse is not installed")
    one = np.ones(2, np.float32)
    layers = [nir.Linear(3 * np.eye(2, dtype=np.float32)), nir.IF(one, one, 0 * one)]
    made = make_backend(request.param)
    made.load(wire(graphs.chain((2,), *layers, *layers)), Rules(dt=1.0))
    return made


def test_a_step_gives_the_units_that_are_named_and_no_others(backend: Backend) -> None:
    frame = np.array([1, 0], np.float32)
    asked: tuple[list[str] | None, ...] = (
        None,
        ["n1"],
        ["output"],
        ["output", "n3"],
        [],
        ["n0", "nothing"],
    )

    given = [backend.step(frame, names) for names in asked]

    assert [set(step) for step in given] == [
        {"n1", "n3", "output"}, {"n1"}, {"output"}, {"output", "n3"}, set(), set(),
    ]  # fmt: skip
    for step in given:  # every step is whole: the second layer fires as well, whoever is named
        for name, fired in step.items():
            assert fired.dtype == np.float32, name
            assert fired.tolist() == [1, 0], name
    before = given[0]["output"].copy()
    backend.step(0 * frame)
    assert given[0]["output"].tolist() == before.tolist()  # fresh arrays
    backend.close()
