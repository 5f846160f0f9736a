"""The test that goes with the node: python -m pytest examples/my_nodes."""

import numpy as np
import pytest
from my_nodes.mirror import Mirror

from streamflow.errors import NodeError
from streamflow.testing import cut, drive, events

PACKET = events([(0, 0, 1, 1), (10, 7, 2, 0), (20, 3, 5, 1)], width=8, height=6)


@pytest.mark.parametrize(
    ("axis", "x", "y"), [("x", [7, 0, 4], [1, 2, 5]), ("y", [0, 7, 3], [4, 3, 0])]
)
def test_events_lie_where_a_mirror_shows_them(axis, x, y):
    out = drive(Mirror({"axis": axis}), events=[PACKET]).items("mirrored")

    assert out["x"].tolist() == x
    assert out["y"].tolist() == y
    assert out["timestamp"].tolist() == [0, 10, 20]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_how_the_recording_was_cut_does_not_matter(size):
    whole = drive(Mirror(), events=[PACKET]).items("mirrored")

    parts = drive(Mirror(), events=cut(PACKET, size)).items("mirrored")

    np.testing.assert_array_equal(parts, whole)


def test_a_packet_without_events_gives_no_packet():
    out = drive(Mirror(), events=[events([], width=8, height=6)])

    assert out["mirrored"] == []


def test_another_axis_is_refused():
    with pytest.raises(NodeError, match="axis"):
        Mirror({"axis": "z"})
