"""Camera events in 8 bytes: exact, or refused; whatever a network brings is events or an error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from runs import Run
from test_hosts import Waiting

from streamflow.errors import GraphError, PacketError
from streamflow.graph import load
from streamflow.packet import EVENT
from streamflow.packing import EVENTS8, codec, pack_events, unpack

SAMPLE = Path(__file__).resolve().parents[2] / "graphs" / "flow_cytometry" / "sample.raw"
PROPERTY = settings(max_examples=100, deadline=None)
int16, int64 = st.integers(-(2**15), 2**15 - 1), st.integers(-(2**63), 2**63 - 1)
anything = st.lists(st.tuples(int64, int16, int16, st.integers(-128, 127)), min_size=1, max_size=20)
inside = st.tuples(
    st.integers(0, 2**33 - 1), st.integers(0, 32767), st.integers(0, 32767), st.integers(0, 1)
)


def events(rows: list[tuple[int, int, int, int]]) -> NDArray[Any]:
    array = np.zeros(len(rows), EVENT)
    array[:] = rows
    return array


def fits(rows: list[tuple[int, int, int, int]]) -> bool:
    """The rule, as the docs say it."""
    first = rows[0][0]
    return all(
        0 <= t - first < 2**33 and x >= 0 and y >= 0 and polarity in (0, 1)
        for t, x, y, polarity in rows
    )


@PROPERTY
@given(
    st.integers(-(2**62), 2**62), st.lists(inside, max_size=60), st.tuples(*[st.integers(0, 1)] * 3)
)
@example(0, [(2**33 - 1, 32767, 32767, 1)], (0, 0, 0))
def test_events_that_fit_come_back_exactly_in_8_bytes_each(
    origin: int, rows: list[tuple[int, int, int, int]], first: tuple[int, int, int]
) -> None:
    array = events([(origin, *first), *((origin + t, x, y, p) for t, x, y, p in rows)])

    packed = pack_events(array.tobytes())

    assert packed is not None
    assert len(packed) == 8 + 8 * len(array)
    back = unpack(EVENTS8, packed, array.nbytes)
    assert back.tobytes() == array.tobytes()


@PROPERTY
@given(anything)
@example([(0, 0, 0, 0), (2**33, 0, 0, 0)])
@example([(5, 0, 0, 0), (4, 0, 0, 0)])
@example([(0, -1, 0, 0)])
@example([(0, 0, -1, 1)])
@example([(0, 0, 0, 2)])
@example([(0, 0, 0, -1)])
@example([(-(2**63), 0, 0, 0), (2**63 - 1, 0, 0, 0)])
def test_events_are_packed_just_where_the_rule_lets_them(
    rows: list[tuple[int, int, int, int]],
) -> None:
    packed = pack_events(events(rows).tobytes())

    assert (packed is not None) == fits(rows)


def test_what_lies_in_the_spare_bytes_of_an_event_does_not_matter() -> None:
    array = np.frombuffer(os.urandom(16 * 200), EVENT).copy()
    array["timestamp"] = np.arange(200)
    array["x"] &= 0x7FFF
    array["y"] &= 0x7FFF
    array["polarity"] &= 1

    packed = pack_events(array.tobytes())

    assert packed is not None
    back = unpack(EVENTS8, packed, array.nbytes).view(EVENT)
    assert all(np.array_equal(back[name], array[name]) for name in array.dtype.names or ())


@PROPERTY
@given(st.binary(max_size=200), st.integers(-16, 400))
def test_any_bytes_are_events_or_a_packet_error(data: bytes, nbytes: int) -> None:
    try:
        back = unpack(EVENTS8, data, nbytes)
    except PacketError:
        return
    assert (len(back), len(data)) == (nbytes, 8 + nbytes // 2)
    assert back.view(EVENT)["x"].min() >= 0


def test_a_payload_without_events_is_sent_as_it_is() -> None:
    assert codec("events8").pack(b"") is None


def test_events8_is_refused_where_something_else_travels(tmp_path: Path) -> None:
    (tmp_path / "graph.yaml").write_text(f"""
nodes:
  camera: {{kind: event_file, settings: {{path: {SAMPLE}, width: 64, height: 48}}}}
  bursts: {{kind: burst_trigger, inputs: {{events: camera.events}}}}
  count:
    kind: count_classifier
    inputs: {{bursts: bursts.bursts}}
    settings: {{model: {SAMPLE.with_name("linear.npz")}}}
  rows:
    kind: csv_file
    inputs: {{rows: {{from: count.particles, compress: events8}}}}
    settings: {{path: rows.csv}}
""")
    with pytest.raises(
        GraphError, match=r"compress: events8 packs Events, but count\.particles carries Table"
    ):
        load(tmp_path / "graph.yaml")


def test_a_recording_goes_to_another_host_and_back_in_half_the_bytes(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path / "there", None, "--listen", "127.0.0.1:*", "--insecure")
    run = Run(
        tmp_path / "run",
        f"""
name: packed
insecure: true
hosts: {{there: {{address: "{waiting.address}"}}}}
nodes:
  camera:
    kind: event_file
    settings: {{path: {SAMPLE}, width: 64, height: 48, packet_duration: 0.02}}
  crop:
    kind: crop
    inputs: {{events: {{from: camera.events, compress: events8}}}}
    settings: {{x: 0, y: 0, width: 64, height: 48}}
  plain:
    kind: event_file_writer
    inputs: {{events: camera.events}}
    settings: {{path: plain.raw}}
  back:
    kind: event_file_writer
    inputs: {{events: {{from: crop.kept, compress: events8}}}}
    settings: {{path: back.raw}}
processes:
  away: {{nodes: [crop], host: there}}
""",
    )
    code = run.end()
    assert code == 0, run.err
    waiting.stop()
    written = [(tmp_path / "run" / name).read_bytes() for name in ("plain.raw", "back.raw")]
    assert written[0] == written[1]
    for name in ("camera.events -> crop.events", "crop.kept -> back.events"):
        edge = run.report["edges"][name]
        assert edge["transport"] == "tcp"
        assert edge["sent_plain"] == 0
        assert edge["bytes"] == 16 * edge["items"]
        assert 8 * edge["items"] < edge["sent_bytes"] < 8 * edge["items"] + 200 * edge["produced"]
