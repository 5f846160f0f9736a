from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.networks.compiler import compile_network
from streamflow_nodes.networks.engine import State
from streamflow_nodes.networks.rules import Rules
from streamflow_nodes.networks.wiring import read_network
from streamflow_nodes.processors.spiking_network import SpikingNetwork

from streamflow.errors import NodeError
from streamflow.packet import SPIKE, Packet, Spikes, Tensor
from streamflow.testing import cut, drive, events

STEP = 1000  # us
SHAPE = (2, 6, 7)  # polarity, rows, columns


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A convolution with IF neurons, pooling, a recurrent LIF layer and a leaky readout."""
    rng = np.random.default_rng(3)

    def weights(*shape: int) -> Any:
        return rng.normal(0, 0.6, shape).astype(np.float32)

    one, five = np.ones((4, 6, 7), np.float32), np.ones(5, np.float32)
    nodes = {
        "input": nir.Input(np.array(SHAPE)),
        "conv": nir.Conv2d((6, 7), weights(4, 2, 3, 3), 1, 1, 1, 1, np.zeros(4, np.float32)),
        "if": nir.IF(one, one),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([4, 3, 3])}, 0, -1),
        "fc": nir.Linear(weights(5, 36)),
        "lif": nir.LIF(5e-3 * five, five, 0 * five, 0.05 * five),
        "rec": nir.Affine(weights(5, 5), 0.1 * five),
        "out": nir.Linear(weights(3, 5)),
        "li": nir.LI(np.full(3, 1e-2), np.ones(3), np.zeros(3)),
        "output": nir.Output(np.array([3])),
    }
    edges = [
        ("input", "conv"), ("conv", "if"), ("if", "pool"), ("pool", "flat"), ("flat", "fc"),
        ("fc", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "out"), ("out", "li"),
        ("li", "output"),
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "small.nir"
    nir.write(path, nir.NIRGraph(nodes, edges))
    return str(path)


def made(times: Any, x: Any, y: Any, polarity: Any, width: int = 7, height: int = 6) -> Packet[Any]:
    """A packet of events from their columns."""
    rows = zip(times, x, y, polarity, strict=True)
    return events([tuple(map(int, row)) for row in rows], width=width, height=height)


def some_events(seed: int, count: int = 300, span: int = 30_000) -> Packet[Any]:
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(5_000, 5_000 + span, count))
    y, x, polarity = (rng.integers(0, n, count) for n in (6, 7, 2))
    return made(times, x, y, polarity)


def frames_of(packet: Packet[Any]) -> Any:
    """Counts of each step from that of the packet's start to that of its last event."""
    a = packet.data.array
    first = packet.start // STEP
    out = np.zeros((int(a["timestamp"][-1]) // STEP - first + 1, *SHAPE), np.float32)
    np.add.at(out, (a["timestamp"] // STEP - first, a["polarity"], a["y"], a["x"]), 1)
    return out


def offline(model: str, frames: Any, name: str) -> Any:
    """What a layer gives in each step, from the engine without a node."""
    state = State(compile_network(read_network(model), Rules(1e-3)))
    out = []
    for frame in frames.reshape(len(frames), -1):
        cells = np.flatnonzero(frame)
        state.run(cells, np.array([len(cells)]), frame[cells])
        out.append(state.values(name).reshape(-1))
    return np.array(out)


def rows(spikes: Any) -> list[tuple[int, int]]:
    return [(int(t), int(u)) for t, u in spikes]


def test_events_numbers_and_spikes_give_what_the_network_gives_offline(model: str) -> None:
    packet = some_events(0)
    frames = frames_of(packet)
    rest = {"model": model, "dt": 1e-3, "tap": ["if", "lif"]}
    first = packet.start // STEP * STEP
    counts = Tensor(frames, ("time", "polarity", "y", "x"), STEP)
    cells = [
        (int(e["timestamp"]), int((e["polarity"] * 6 + e["y"]) * 7 + e["x"]))
        for e in packet.data.array
    ]
    units = Spikes(np.array(cells, SPIKE), 84)

    seen = drive(SpikingNetwork(rest), events=[packet])
    told = drive(SpikingNetwork(rest), values=[Packet(first, first + STEP * len(frames), counts)])
    heard = drive(SpikingNetwork(rest), units=[Packet(packet.start, packet.stop, units)])

    expected = []
    for offset, name in ((0, "if"), (168, "lif")):
        step, unit = np.nonzero(offline(model, frames, name))
        expected += [
            (first + int(s) * STEP, int(u) + offset) for s, u in zip(step, unit, strict=True)
        ]
    assert len(expected) > 50
    assert rows(seen.items("spikes")) == sorted(expected)
    assert rows(told.items("spikes")) == rows(heard.items("spikes")) == sorted(expected)
    assert seen.results["first_unit_of_layer"] == {"if": 0, "lif": 168}
    assert seen.results["reset"] == "value"


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(1, 60))
def test_the_result_does_not_depend_on_packets(model: str, seed: int, size: int) -> None:
    rest = {
        "model": model, "dt": 1e-3, "tap": ["if", "li"], "give": ["spikes", "membrane", "rates"],
        "window": 4000,
    }  # fmt: skip
    packet = some_events(seed)

    whole = drive(SpikingNetwork(rest), events=[packet])
    parts = drive(SpikingNetwork(rest), events=cut(packet, size))

    for port in ("spikes", "membrane", "rates"):
        assert np.array_equal(whole.items(port), parts.items(port))
    assert len(whole.items("membrane")) == len(frames_of(packet))
    spikes = whole.items("spikes")
    assert whole.items("rates")[:, :168].sum() * 4e-3 == pytest.approx(
        (spikes["unit"] < 168).sum(), rel=1e-5
    )


def test_it_goes_on_after_a_restart(model: str) -> None:
    rest = {"model": model, "dt": 1e-3, "tap": ["lif"], "give": ["spikes", "rates"]}
    before, *after = cut(some_events(5), 170)
    node, successor = SpikingNetwork(rest), SpikingNetwork(rest)

    first = drive(node, events=[before], end=False)
    state = node.snapshot()
    successor.open()
    successor.restore({k: v.copy() if hasattr(v, "copy") else v for k, v in state.items()})
    second = drive(successor, opened=True, events=after)

    whole = drive(SpikingNetwork(rest), events=[some_events(5)])
    both = rows(first.items("spikes")) + rows(second.items("spikes"))
    assert both == rows(whole.items("spikes"))
    rates = np.concatenate([first.items("rates"), second.items("rates")])
    assert np.array_equal(rates, whole.items("rates"))


def test_instances_side_by_side_are_as_if_alone(model: str) -> None:
    left, right = some_events(1), some_events(2)
    a, b = left.data.array.copy(), right.data.array.copy()
    b["x"] += SHAPE[2]
    both = np.concatenate([a, b])
    both = both[np.argsort(both["timestamp"], kind="stable")]
    packet = made(both["timestamp"], both["x"], both["y"], both["polarity"], width=14)
    rest = {"model": model, "dt": 1e-3, "tap": ["lif"]}

    joined = drive(SpikingNetwork({**rest, "instances": 2}), events=[packet]).items("spikes")

    # each is run over the same span of time: a silent step is a step of the leak, too
    for number, own in enumerate((left, right)):
        span = Packet(packet.start, packet.stop, own.data)
        alone = drive(SpikingNetwork(rest), events=[span]).items("spikes")
        mine = joined[joined["unit"] // 5 == number]
        assert rows(alone) == [(t, u - 5 * number) for t, u in rows(mine)]


def test_bad_input_is_one_clear_error(model: str) -> None:
    rest = {"model": model, "dt": 1e-3}
    big = made([10], [0], [0], [1], 64, 48)

    with pytest.raises(NodeError, match=r"sensor of 64x48 .* downsample or crop"):
        drive(SpikingNetwork(rest), events=[big])
    with pytest.raises(NodeError, match=r"dt is missing.*'lif'"):
        SpikingNetwork({"model": model, "step": 1e-3}).open()
    with pytest.raises(NodeError, match=r"tap 'lid' is not a layer; layers are: .*lif"):
        SpikingNetwork({**rest, "tap": ["lid"]}).open()
    with pytest.raises(NodeError, match="no such file"):
        SpikingNetwork({**rest, "model": str(Path(model).parent / "none.nir")}).open()
    with pytest.raises(NodeError, match="not a whole number of microseconds"):
        SpikingNetwork({"model": model, "dt": 1.5e-6}).open()
    tensor = Tensor(np.zeros((3, 2), np.float32), ("time", "x"))
    with pytest.raises(NodeError, match=r"values of shape \(3, 2\)"):
        drive(SpikingNetwork(rest), values=[Packet(0, 3000, tensor)])


def test_what_is_outside_or_late_is_counted_and_nothing_is_lost(model: str) -> None:
    packet = made([5000, 9000, 7900, 9100], [0, 9, 1, 2], [0] * 4, [1] * 4)
    later = made([8000, 9900], [1, 1], [0, 0], [1, 1])
    node = SpikingNetwork({"model": model, "dt": 1e-3, "tap": ["conv"], "give": ["rates"]})

    out = drive(node, events=[packet, later])

    assert out.faults == {"outside": 1, "late": 1}


def test_an_event_behind_a_newer_one_of_its_packet_counts_as_late_with_that_one(model: str) -> None:
    asked = {"model": model, "dt": 1e-3, "tap": ["conv"], "give": ["rates"], "window": 1000}
    x, y, polarity = [0, 3, 1, 2, 5, 4], [0, 5, 2, 1, 3, 4], [1, 0, 1, 1, 0, 1]
    unsorted = made([5000, 8000, 6000, 7000, 8100, 9100], x, y, polarity)
    raised = made([5000, 8000, 8000, 8000, 8100, 9100], x, y, polarity)

    found = drive(SpikingNetwork(asked), events=[unsorted])
    expected = drive(SpikingNetwork(asked), events=[raised])

    assert (found.faults["late"], expected.faults["late"]) == (2, 0)
    np.testing.assert_array_equal(found.items("rates"), expected.items("rates"))
