import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.processors.join import Join

from streamflow.errors import NodeError
from streamflow.testing import drive, table

LEFT = np.dtype([("time_us", "f8"), ("id", "i4")])
RIGHT = np.dtype([("at", "i8"), ("score", "f4"), ("class", "S3")])
steps = st.lists(st.integers(0, 40), max_size=30)


def left_rows(times):
    return np.array([(t, n) for n, t in enumerate(times)], LEFT)


def right_rows(times):
    return np.array([(t, n / 2, b"c%d" % (n % 10)) for n, t in enumerate(times)], RIGHT)


def packets(rows, column, size):
    """The rows in packets of `size`, each starting at its first row."""
    out = []
    for at in range(0, len(rows), size):
        times = rows[column][at : at + size]
        out.append(table(rows[at : at + size], int(times[0]), int(times[-1]) + 1))
    return out


def join(left, right, size=1000, other=1000, **setting):
    return drive(
        Join({"right_time": "at", "tolerance": 20e-6, **setting}),
        left=packets(left, "time_us", size),
        right=packets(right, "at", other),
    )


def rows_of(out):
    return [row for p in out["joined"] for row in p.data.array.tolist()]


@settings(max_examples=60, deadline=None)
@given(
    left=steps, right=steps, size=st.integers(1, 9), other=st.integers(1, 9),
    keep=st.sampled_from(["keep", "drop"]),
)  # fmt: skip
def test_any_cut_gives_each_left_row_its_nearest_right_row(left, right, size, other, keep):
    lefts = left_rows(np.cumsum(left, dtype=int))
    rights = right_rows(np.cumsum(right, dtype=int))

    out = join(lefts, rights, size, other, unmatched=keep)

    expected = []
    for time, number in lefts.tolist():
        near = [r for r in rights.tolist() if abs(r[0] - time) <= 20]
        best = min(near, key=lambda r: (abs(r[0] - time), r[0]), default=None)
        if best is not None:
            expected.append((time, number, *best))
        elif keep == "keep":
            expected.append((time, number, None))
    found = [
        row if keep == "drop" else row[:-1] for row in rows_of(out) if keep == "drop" or row[-1]
    ]
    assert found == [row for row in expected if row[2] is not None]
    kept_ids = [row[1] for row in rows_of(out)]
    assert kept_ids == [row[1] for row in expected]
    matched = len([row for row in expected if row[2] is not None])
    assert out.results == {"joined": matched, "unmatched": len(lefts) - matched}


def test_columns_are_named_after_their_side():
    out = join(left_rows([100]), right_rows([101]))

    joined = out["joined"][0].data.array
    assert joined.dtype.names == (
        "left_time_us",
        "left_id",
        "right_at",
        "right_score",
        "right_class",
    )
    assert joined.tolist() == [(100.0, 0, 101, 0.0, b"c0")]


def test_a_row_kept_without_a_partner_says_so():
    out = join(left_rows([100, 500]), right_rows([101]), unmatched="keep")

    rows = out["joined"][-1].data.array
    assert out.items("joined")["matched"].tolist() == [True, False]
    assert np.isnan(rows["right_score"][-1])
    assert (rows["right_at"][-1], rows["right_class"][-1]) == (0, b"")


def test_without_any_right_row_kept_rows_leave_at_the_end():
    out = join(left_rows([100, 500]), right_rows([]), unmatched="keep")

    assert rows_of(out) == [(100.0, 0, False), (500.0, 1, False)]
    assert out.results == {"joined": 0, "unmatched": 2}


def test_a_left_row_leaves_once_stream_time_has_passed_its_tolerance():
    node = Join({"right_time": "at", "tolerance": 20e-6})
    node.open()
    node.on_left(table(left_rows([100]), 100, 101))
    node.on_right(table(right_rows([105]), 105, 106))
    assert node.holds_from == 100
    assert list(node.advance(120)) == []

    emitted = list(node.advance(121))

    assert [e.packet.data.array["left_id"].tolist() for e in emitted] == [[0]]
    assert node.holds_from is None


def test_a_restarted_node_goes_on_as_if_nothing_had_happened():
    lefts = packets(left_rows(range(0, 900, 30)), "time_us", 3)
    rights = packets(right_rows(range(7, 900, 45)), "at", 3)
    setting = {"right_time": "at", "tolerance": 12e-6, "unmatched": "keep"}
    whole = drive(Join(setting), left=lefts, right=rights)

    before, after = Join(setting), Join(setting)
    before.open()
    out = []
    for packet in lefts[:4]:
        before.on_left(packet)
    for packet in rights[:2]:
        before.on_right(packet)
    out += list(before.advance(240))
    after.open()
    after.restore(before.snapshot())
    for packet in lefts[4:]:
        after.on_left(packet)
    for packet in rights[2:]:
        after.on_right(packet)
    out += list(after.finish())

    found = [row for e in out for row in e.packet.data.array.tolist()]
    assert repr(found) == repr(rows_of(whole))  # repr: NaN equals itself there
    assert after.results() == whole.results


def test_rows_before_their_packet_or_without_a_time_are_counted_and_have_no_partner():
    lefts = left_rows([50, 200, np.nan])
    node = Join({"right_time": "at", "unmatched": "keep"})

    out = drive(
        node,
        left=[table(lefts, 100, 300)],
        right=[table(right_rows([40, 201]), 100, 300)],
    )

    assert out.faults == {"late": 3}
    assert out.items("joined")["matched"].tolist() == [False, True, False]


def test_a_missing_time_column_is_an_error_that_lists_what_there_is():
    with pytest.raises(
        NodeError, match=r"left rows have no column 'when' .*time_us, id.*left_time"
    ):
        join(left_rows([1]), right_rows([1]), left_time="when")


def test_rows_that_change_their_columns_are_an_error():
    other = np.zeros(1, [("time_us", "f8")])

    with pytest.raises(NodeError, match="a stream keeps its columns"):
        drive(Join(), left=[table(left_rows([1]), 1, 2), table(other, 2, 3)])
