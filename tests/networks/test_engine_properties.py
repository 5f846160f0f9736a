"""The compiled engine against the slow reference: every primitive, whole networks, every rule.

Networks are made of eighths (see `graphs`), so that nothing rounds and equal means the same bits.
"""

from __future__ import annotations

import itertools
from typing import Any

import nir
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import run, stateless
from streamflow_nodes.networks.compiler import compile_network
from streamflow_nodes.networks.engine import State
from streamflow_nodes.networks.numba_backend import NumbaBackend
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.wiring import wire

import graphs

resets = st.sampled_from(["value", "subtract"])


def loaded(graph: Any, **rules: Any) -> NumbaBackend:
    backend = NumbaBackend()
    backend.load(wire(graph), Rules(**rules))
    return backend


def steps(backend: NumbaBackend, x: Any) -> dict[str, Any]:
    given = [backend.step(frame) for frame in x]
    return {name: np.array([step[name] for step in given]) for name in given[0]}


def check(graph: Any, x: Any, **rules: Any) -> None:
    """AssertionError unless engine and reference give the same numbers in every step."""
    expected = run(graph, x, **rules)
    backend, wiring = loaded(graph, **rules), wire(graph)

    given = steps(backend, x)

    assert set(given) == {*wiring.spiking, *wiring.outputs}
    for name, values in given.items():
        np.testing.assert_array_equal(values, expected.given[name], err_msg=name)
    for name in wiring.neurons:
        np.testing.assert_array_equal(
            backend.membrane(name), expected.membrane[name][-1], err_msg=f"v of {name}"
        )


@pytest.mark.parametrize("kind", graphs.OTHERS)
@settings(max_examples=20)
@given(graphs.generators(), st.booleans(), st.sampled_from([0, 1, 2]))
def test_each_primitive_without_a_membrane_is_the_reference_s(
    kind: str, rng: np.random.Generator, graded: bool, delay: int
) -> None:
    node, shape = graphs.single(kind, rng)
    graph = graphs.chain(shape, node)

    check(graph, graphs.frames(rng, graph, graded=graded), dt=graphs.DT, synaptic_delay=delay)


@pytest.mark.parametrize("kind", graphs.OTHERS)
@settings(max_examples=10)
@given(graphs.generators(), st.booleans())
def test_each_primitive_drives_neurons_as_the_reference_does(
    kind: str, rng: np.random.Generator, graded: bool
) -> None:
    node, shape = graphs.single(kind, rng)
    given = np.shape(stateless(np.zeros(shape), node))
    graph = graphs.chain(shape, node, graphs.neurons("IF", rng, given, plain=False))

    check(graph, graphs.frames(rng, graph, graded=graded), dt=graphs.DT)


@pytest.mark.parametrize("kind", graphs.NEURONS)
@settings(max_examples=20)
@given(graphs.generators(), st.booleans(), resets)
def test_each_kind_of_neuron_is_the_reference_s(
    kind: str, rng: np.random.Generator, graded: bool, reset: str
) -> None:
    graph = graphs.chain((2, 3), graphs.neurons(kind, rng, (2, 3), plain=False))

    check(graph, graphs.frames(rng, graph, graded=graded), dt=graphs.DT, reset=reset)


@settings(max_examples=60)
@given(graphs.generators(), resets, st.sampled_from([1, 2]), st.sampled_from([0, 1, 2]))
def test_whole_networks_nested_recurrent_and_branching_are_the_reference_s(
    rng: np.random.Generator, reset: str, recurrent_delay: int, synaptic_delay: int
) -> None:
    graph = graphs.whole(rng, list(graphs.NEURONS), plain=False)

    check(
        graph, graphs.frames(rng, graph), dt=graphs.DT, reset=reset,
        recurrent_delay=recurrent_delay, synaptic_delay=synaptic_delay,
    )  # fmt: skip


@settings(max_examples=15)
@given(graphs.generators(), resets)
def test_the_exact_integrator_is_the_reference_s_but_for_rounding(
    rng: np.random.Generator, reset: str
) -> None:
    kind = str(rng.choice(["LI", "LIF", "CubaLI", "CubaLIF"]))
    neurons = graphs.neurons(kind, rng, (5,), plain=False)
    graph = graphs.chain((4,), graphs.affine(rng, 4, 5), neurons)
    x = graphs.frames(rng, graph)
    rules = {"dt": graphs.DT, "integrator": "exact", "reset": reset}
    expected = run(graph, x, **rules)
    (name,) = wire(graph).neurons
    backend = loaded(graph, **rules)

    for step, frame in enumerate(x):
        given = backend.step(frame)
        # thresholds are odd sixteenths and decays powers of e: no v comes near enough to doubt
        np.testing.assert_allclose(given["output"], expected.output[step], atol=1e-5)
        np.testing.assert_allclose(backend.membrane(name), expected.membrane[name][step], atol=1e-5)


@settings(max_examples=30)
@given(graphs.generators(), st.integers(0, graphs.STEPS))
def test_it_goes_on_from_a_snapshot_and_instances_do_not_touch_each_other(
    rng: np.random.Generator, taken: int
) -> None:
    graph = graphs.whole(rng, list(graphs.NEURONS), plain=False)
    x, noise = graphs.frames(rng, graph), graphs.frames(rng, graph, graded=True)
    rules = {"dt": graphs.DT, "recurrent_delay": 2, "synaptic_delay": 1}
    whole, first, second, other = (loaded(graph, **rules) for _ in range(4))

    expected = [whole.step(frame) for frame in x]
    found = []
    for frame, disturbance in zip(x[:taken], noise, strict=False):
        found.append(first.step(frame))
        other.step(disturbance)
    second.step(noise[-1])  # what was there before must not matter
    second.restore(first.snapshot())
    for frame, disturbance in zip(x[taken:], noise, strict=False):
        found.append(second.step(frame))
        other.step(disturbance)

    for mine, theirs in zip(found, expected, strict=True):
        for name in theirs:
            np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    for name in wire(graph).neurons:
        np.testing.assert_array_equal(second.membrane(name), whole.membrane(name))


ONE, LIMITS = np.ones(2, np.float32), np.array([1.0, 0.875], np.float32)


@pytest.mark.parametrize(
    ("node", "drive"),  # the drive that brings the first step's v, or value, to 1
    [
        (nir.IF(ONE, LIMITS, 0 * ONE), 1),
        (nir.LIF(2 * graphs.DT * ONE, ONE, 0 * ONE, LIMITS, 0 * ONE), 2),
        (nir.CubaLIF(*(2 * graphs.DT * ONE,) * 2, ONE, 0 * ONE, LIMITS, 0 * ONE, w_in=ONE), 4),
        (nir.Threshold(LIMITS), 1),
    ],
    ids=["IF", "LIF", "CubaLIF", "Threshold"],
)
def test_a_neuron_fires_above_its_threshold_and_not_at_it(node: Any, drive: int) -> None:
    backend = loaded(graphs.chain((2,), node), dt=graphs.DT)

    fired = steps(backend, np.full((1, 2), drive, np.float32))["output"]

    assert fired.tolist() == [[0.0, 1.0]]


def test_what_a_subtraction_leaves_above_the_threshold_fires_on_in_silence() -> None:
    one = np.ones(200, np.float32)
    backend = loaded(graphs.chain((200,), nir.IF(one, one, 0 * one)), reset="subtract")
    x = np.zeros((5, 200), np.float32)
    x[0, 77], x[1, 199] = 3.5, 2.5

    fired = steps(backend, x)["output"]

    assert [np.flatnonzero(step).tolist() for step in fired] == [[77], [77, 199], [77, 199], [], []]


@pytest.mark.parametrize("size", [70, 5000], ids=["few words", "words with a summary"])
@pytest.mark.parametrize("precision", ["single", "double"])
def test_neither_the_order_of_cells_nor_cells_that_are_no_inputs_change_a_bit(
    precision: Any, size: int
) -> None:
    rng = np.random.default_rng(5)
    weight = (rng.choice([-1, 1], (3, size)) * rng.uniform(0.1, 4, (3, size))).astype(np.float32)
    graph = graphs.chain((size,), nir.Linear(weight), nir.I(np.ones(3)))
    wiring = wire(graph)
    program = compile_network(wiring, Rules(dt=1.0), precision=precision)
    (name,) = wiring.neurons
    once = rng.choice(size, 40, replace=False)
    cases = (once, np.concatenate([once, once[:25], once[:10], once[:10]]))
    strangers = ([], [-1], [size], [-(1 << 62), -1, size, 1 << 62])

    for cells, extra in itertools.product(cases, strangers):
        counts = np.bincount(cells, minlength=size)
        given = np.concatenate([cells, np.array(extra, np.int64)])
        found = []
        for number in range(4):
            order = np.sort(given) if number == 0 else rng.permutation(given)
            state = State(program)
            _, outside = state.step(order)
            found.append(state.potential(name))
            assert outside == len(extra)
            np.testing.assert_allclose(found[-1], weight.astype(float) @ counts, rtol=1e-4)

        assert len({potential.tobytes() for potential in found}) == 1


def test_arrays_of_another_type_order_or_length_are_refused() -> None:
    graph = graphs.chain((4,), nir.IF(np.ones(4), np.ones(4)))
    state = State(compile_network(wire(graph), Rules()))
    cells, ends = np.array([0, 2]), np.array([2])

    for bad in (cells.astype(np.int32), cells.astype(np.float64)):
        with pytest.raises(TypeError, match="expected int64, int64, float32"):
            state.run(bad, ends)
    with pytest.raises(TypeError, match="float64"):
        state.run(cells, ends, np.ones(2))
    for wrong in (
        (np.array([0, 9, 2])[::2], ends), (cells, np.array([3])), (cells, np.array([-1])),
        (cells, np.array([2, 1])[1:], np.ones(1, np.float32)), (np.zeros((2, 8), int), ends),
        (cells, np.array(2)), (cells, ends, np.ones((2, 1), np.float32)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected contiguous arrays of one dimension"):
            state.run(*wrong)
    with pytest.raises(ValueError, match="begin -1"):
        state.run(cells, ends, begin=-1)

    assert state.steps == 0
    assert state.run(cells, ends)[0] == 1


def test_arrays_of_another_type_order_or_length_are_refused_for_one_step() -> None:
    graph = graphs.chain((4,), nir.IF(np.ones(4), np.ones(4)))
    state = State(compile_network(wire(graph), Rules()))
    cells, one = np.array([0, 2]), np.ones(2, np.float32)

    for bad in ((cells.astype(np.int32),), (cells.astype(float),), (cells, np.ones(2))):
        with pytest.raises(TypeError, match="expected int64, int64, float32"):
            state.step(*bad)
    for wrong in (
        (np.array([0, 9, 2])[::2],), (np.zeros((2, 8), int),), (np.array(2),), (cells, one[:1]),
        (cells, np.ones(4, np.float32)[::2]), (cells, one[:, None]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected contiguous arrays of one dimension"):
            state.step(*wrong)

    assert state.steps == 0


@pytest.mark.parametrize("is_graded", [False, True])
def test_single_steps_record_and_leave_what_many_in_a_call_do(is_graded: bool) -> None:
    rng = np.random.default_rng(3)
    weight = rng.normal(0, 0.4, (120, 40)).astype(np.float32)
    one = np.ones(120, np.float32)
    graph = graphs.chain((40,), nir.Linear(weight), nir.LIF(0.01 * one, 10 * one, 0 * one, one))
    program = compile_network(wire(graph), Rules(dt=0.001), watch=["output"])
    together, apart = (State(program, records=120 * 50) for _ in range(2))
    counts = rng.integers(0, 40, 50)  # of 120 neurons, sometimes more than views are ready for
    cells = rng.integers(-1, 42, counts.sum())  # in any order, some of them no inputs
    values = rng.normal(1, 1, cells.size).astype(np.float32) if is_graded else None
    ends = np.cumsum(counts)

    done, records, outside = together.run(cells, ends, values)
    rows, strange = [], 0
    for first, last in zip([0, *ends[:-1]], ends, strict=True):
        given, out = apart.step(cells[first:last], None if values is None else values[first:last])
        rows.append(given.copy())
        strange += out

    assert done == 50
    assert max(len(r) for r in rows) > 33
    assert outside == strange == ((cells < 0) | (cells >= 40)).sum()
    np.testing.assert_array_equal(np.concatenate(rows), records)
    assert apart.state.tobytes() == together.state.tobytes()
    assert apart.marks.tobytes() == together.marks.tobytes()
