import pytest
from streamflow_nodes.processors.crop import Crop

from streamflow.errors import NodeError
from streamflow.testing import drive, events


def test_coordinates_count_from_the_corner_of_the_rectangle():
    rows = [(1, 10, 20, 0), (2, 9, 20, 1), (3, 10, 19, 1), (4, 13, 22, 1), (5, 14, 22, 1)]

    out = drive(Crop({"x": 10, "y": 20, "width": 4, "height": 3}), events=[events(rows)])

    packet = out["kept"][0].data
    assert packet.array.tolist() == [(1, 0, 0, 0), (4, 3, 2, 1)]
    assert (packet.width, packet.height) == (4, 3)


def test_the_whole_sensor_is_every_event_untouched():
    rows = [(t, (t * 37) % 640, (t * 53) % 480, t % 2) for t in range(500)]

    out = drive(Crop({"width": 640, "height": 480}), events=[events(rows)])

    assert out.items("kept").tolist() == rows


def test_a_rectangle_over_the_edge_is_an_error_that_says_what_fits():
    with pytest.raises(NodeError, match=r"x 600..699, y 0..99 does not fit .* 640x480"):
        drive(Crop({"x": 600, "width": 100, "height": 100}), events=[events([(1, 1, 1, 1)])])


def test_a_rectangle_without_size_is_refused():
    with pytest.raises(NodeError, match="settings"):
        Crop({"width": 0, "height": 5})
