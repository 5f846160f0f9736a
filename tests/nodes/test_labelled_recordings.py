"""A dataset's recordings as one stream: what lies where, what is refused, and going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamflow_nodes.sources.labelled_recordings import LabelledRecordings

from streamflow.errors import DeviceError
from streamflow.testing import drive


def archive(path: Path, **changes: Any) -> str:
    """Three recordings: of 3 events, of none, and of 2; some not in time order, one outside."""
    arrays: dict[str, Any] = {
        "t": np.array([700, 2100, 1900, 50, 3050], np.int32),
        "x": np.array([1, 33, 5, 0, 40], np.uint8),
        "y": np.array([2, 0, 33, 7, 1], np.uint8),
        "p": np.array([1, 0, 1, 1, 0], np.uint8),
        "labels": np.array([7, 1, 2]),
        "offsets": np.array([0, 3, 3, 5]),
        "ids": np.array([60001, 60002, 60003]),
        **changes,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return str(path)


def test_recordings_follow_each_other_at_aligned_times_with_a_row_each(tmp_path: Path) -> None:
    node = LabelledRecordings(
        {"path": archive(tmp_path / "a.npz"), "gap": 0.0005, "packet_duration": 0.0007}
    )

    out = drive(node)

    assert out.items("events").tolist() == [
        (0, 1, 2, 1), (1400, 33, 0, 0), (1400, 5, 33, 1), (2000, 0, 7, 1),
    ]  # fmt: skip
    assert out.items("trials").tolist() == [
        (0, 1000, b"7", b"60001"), (2000, 3000, b"2", b"60003"),
    ]  # fmt: skip
    assert out.faults == {"outside_sensor": 1, "time_backward": 1, "empty": 1}
    spans = [(packet.start, packet.stop) for packet in out["events"]]
    assert spans == [(0, 700), (700, 1400), (1400, 2000), (2000, 2700), (2700, 3000)]
    assert out.results["played"] == 3


def test_a_source_that_was_restarted_goes_on_with_the_next_packet(tmp_path: Path) -> None:
    settings = {"path": archive(tmp_path / "a.npz"), "gap": 0.0005, "packet_duration": 0.0003}
    whole = list(produced(LabelledRecordings(settings)))

    for taken in range(1, len(whole)):
        first, second = LabelledRecordings(settings), LabelledRecordings(settings)
        emitted = produced(first)
        for _ in range(taken):
            next(emitted)
        second.open()
        second.restore(first.snapshot())
        rest = [(e.port, e.packet.start, e.packet.data.array.tolist()) for e in second.produce()]

        assert rest == whole[taken:]
        assert second.fault_counts == {"outside_sensor": 1, "time_backward": 1, "empty": 1}


def produced(node: LabelledRecordings) -> Any:
    node.open()
    for emission in node.produce():
        yield emission.port, emission.packet.start, emission.packet.data.array.tolist()


def test_the_published_form_is_read_with_its_labels_and_clock_overflows(tmp_path: Path) -> None:
    def event(x: int, y: int, p: int, t: int) -> bytes:
        return bytes([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255])

    for label in ("3", "8"):
        (tmp_path / "Test" / label).mkdir(parents=True)
    (tmp_path / "Test/3/00003.bin").write_bytes(event(5, 6, 1, 70_000) + event(7, 33, 0, 0x7FFFFF))
    # row 240 is no event: 2^13 us passed
    (tmp_path / "Test/8/00001.bin").write_bytes(
        event(1, 2, 0, 8000) + event(0, 240, 0, 0) + event(3, 4, 1, 10)
    )

    out = drive(LabelledRecordings({"path": str(tmp_path / "Test"), "gap": 0.1}))

    assert out.items("trials")[["class", "recording"]].tolist() == [
        (b"3", b"00003.bin"), (b"8", b"00001.bin"),
    ]  # fmt: skip
    events = out.items("events")
    assert np.diff(events["timestamp"]).tolist()[::2] == [0x7FFFFF - 70_000, 8192 + 10 - 8000]
    assert events[["x", "y", "polarity"]].tolist() == [(5, 6, 1), (7, 33, 0), (1, 2, 0), (3, 4, 1)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": None}, "no labels"),
        ({"t": np.zeros(4, np.int32)}, "do not fit together"),
        ({"offsets": np.array([0, 3, 2, 5])}, "do not fit together"),
        ({"offsets": np.array([0, 3, 3, 6])}, "do not fit together"),
        ({"x": np.zeros(5)}, "do not fit together"),
        ({"labels": np.array([{}, {}, {}], object)}, "Python objects, which are never loaded"),
    ],
)
def test_a_dataset_that_does_not_hold_together_is_one_error(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = archive(tmp_path / "a.npz", **changes)

    with pytest.raises(DeviceError, match=words):
        LabelledRecordings({"path": path}).open()


def test_what_is_no_dataset_says_what_one_is(tmp_path: Path) -> None:
    (tmp_path / "cut.bin").write_bytes(b"1234567")
    (tmp_path / "empty").mkdir()

    for name, words in (("none.npz", "no such file"), ("empty", "no .bin file"), ("cut.bin", "")):
        with pytest.raises(DeviceError, match=f"{words}.*") as caught:
            drive(LabelledRecordings({"path": str(tmp_path / name)}))
        assert str(tmp_path / name) in str(caught.value)
