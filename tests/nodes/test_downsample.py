import pytest
from streamflow_nodes.processors.downsample import Downsample

from streamflow.errors import NodeError
from streamflow.testing import drive, events


@pytest.mark.parametrize("factor", [1, 2, 3, 7, 10, 20, 479, 640, 32767])
def test_coordinates_are_divided_and_all_else_is_kept(factor):
    rows = [(t, t % 640, (t * 7) % 480, t % 2) for t in range(2000)]

    out = drive(Downsample({"factor": factor}), events=[events(rows)])

    assert out.items("kept").tolist() == [(t, x // factor, y // factor, p) for t, x, y, p in rows]


def test_a_sensor_that_does_not_divide_keeps_its_last_column_and_row():
    out = drive(Downsample({"factor": 20}), events=[events([(1, 70, 50, 1)], width=71, height=51)])

    packet = out["kept"][0].data
    assert (packet.width, packet.height) == (4, 3)
    assert packet.array.tolist() == [(1, 3, 2, 1)]


def test_the_largest_sensor_divides_exactly():
    rows = [(x, x, x, 0) for x in range(32767)]

    out = drive(Downsample({"factor": 11}), events=[events(rows, width=32767, height=32767)])

    assert out.items("kept")["x"].tolist() == [x // 11 for x in range(32767)]


def test_a_factor_of_zero_is_refused():
    with pytest.raises(NodeError, match="settings"):
        Downsample({"factor": 0})
