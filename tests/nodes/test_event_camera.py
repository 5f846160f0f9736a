"""A live camera becomes a stream whose time never goes back, unplugged or not.

There was no camera: `SimulatedCamera` stands where a driver's adapter does, replays events, is
unplugged and comes back. The adapters themselves are tested in `test_cameras.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import faery
import numpy as np
import pytest
from streamflow_nodes.events.cameras import Found, Read, Unplugged, Wanted
from streamflow_nodes.sources.event_camera import EventCamera

from streamflow.errors import DeviceError, NodeError
from streamflow.packet import EVENT

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from runs import run

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live import LIMIT, Live, Rows

INDOOR = Path(__file__).resolve().parents[1] / "data" / "indoor_640x480_evt3.raw"
ONE = Found("simulated", "simulated camera", "s1")


def words_of(rows: Rows) -> Any:
    array = np.zeros(len(rows), EVENT)
    array[:] = rows
    return array.view(np.int64)


def brings(*rows: tuple[int, int, int, int], reached: int | None = None, **faults: int) -> Read:
    return Read(words_of(list(rows)), reached, faults)


class Plug:
    """The bus and what the camera on it will deliver, one list of reads for each time it is open.

    After its reads a camera is silent, or unplugged where the list ends with `None`.
    """

    def __init__(self, *sessions: list[Read | None], size: tuple[int, int] = (64, 48)) -> None:
        self.sessions, self.size = list(sessions), size
        self.on_the_bus = True
        self.openings: list[Wanted] = []
        self.closings = 0
        self.is_open = False


class SimulatedCamera:
    """A camera behind the interface that the drivers' adapters have."""

    faults: ClassVar[tuple[str, ...]] = ()
    plug: ClassVar[Plug]

    def __init__(self) -> None:
        self._reads: Iterator[Read | None] = iter(())

    @classmethod
    def find(cls) -> list[Found]:
        return [ONE] if cls.plug.on_the_bus else []

    def open(self, found: Found, wanted: Wanted) -> tuple[int, int]:
        self.plug.openings.append(wanted)
        if self.plug.is_open:
            raise Unplugged("another program has it")  # as drivers say when it was never closed
        if not self.plug.sessions:
            raise Unplugged("it does not answer")
        self._reads = iter(self.plug.sessions.pop(0))
        self.plug.is_open = True
        return self.plug.size

    def read(self, seconds: float) -> Read:
        for read in self._reads:
            if read is None:
                raise Unplugged("pulled out")
            return read
        time.sleep(seconds)
        return brings()

    def close(self) -> None:
        self.plug.closings += 1
        self.plug.is_open = False


class Filming(Live):
    """A node with a simulated camera, which may go on from a predecessor's `state`."""

    def __init__(self, plug: Plug, state: dict[str, Any] | None = None, **options: Any) -> None:
        self.plug = plug
        driver = type("PluggedCamera", (SimulatedCamera,), {"plug": plug})
        node = type("SimulatedEventCamera", (EventCamera,), {"drivers": {"simulated": driver}})
        made = node(options)
        made.open()
        if state is not None:
            made.restore(state)
        super().__init__(made)

    def until(self, count: int) -> None:
        """Wait for `count` events, then end the run."""
        self.wait(lambda: len(self.rows) >= count)
        self.stop()


@pytest.mark.parametrize("size", [37, 2_000, 20_000])
def test_a_recording_comes_out_event_for_event_however_it_is_read(size: int) -> None:
    theirs = faery.events_stream_from_file(INDOOR).to_array()
    rows = [(int(t), int(x), int(y), int(p)) for t, x, y, p in theirs.tolist()]
    reads: list[Read | None] = [brings(*rows[at : at + size]) for at in range(0, len(rows), size)]

    filming = Filming(Plug(reads, size=(640, 480)))
    filming.until(len(rows))

    assert filming.rows == rows
    assert filming.faults == {}
    filming.check_time()
    with_events = [packet for packet in filming.packets if len(packet.data)]
    assert all(packet.stop - packet.start == 500 for packet in with_events)
    assert all(packet.start % 500 == 0 for packet in filming.packets)
    results = filming.node.results()
    assert (results["events"], results["serial"], results["width"]) == (len(rows), "s1", 640)


def test_silence_lets_stream_time_pass_at_the_speed_of_the_clock() -> None:
    filming = Filming(Plug([brings((1_000_000, 1, 1, 1))]), silence=0.01)

    begun = time.monotonic()
    filming.wait(lambda: bool(filming.packets) and filming.packets[-1].stop > 1_150_000)
    took = time.monotonic() - begun
    filming.stop()

    assert took > 0.1  # 150 ms of stream time, less what `open` may have had before
    assert filming.rows == [(1_000_000, 1, 1, 1)]
    filming.check_time()


def test_a_camera_that_tells_its_time_closes_slices_without_waiting() -> None:
    reads: list[Read | None] = [
        brings((1_000_100, 1, 1, 1), reached=1_000_200), brings(reached=1_000_600),
    ]  # fmt: skip
    filming = Filming(Plug(reads), silence=1000)

    filming.until(1)

    first = filming.packets[0]
    assert (first.start, first.stop, len(first.data)) == (1_000_000, 1_000_500, 1)


def test_a_camera_that_tells_an_impossible_time_moves_nothing() -> None:
    reads: list[Read | None] = [
        brings((1_000_100, 1, 1, 1), reached=5_000_000_000), brings((1_000_700, 2, 2, 1)),
    ]  # fmt: skip
    filming = Filming(Plug(reads), silence=1000)

    filming.until(1)

    assert filming.rows == [(1_000_100, 1, 1, 1), (1_000_700, 2, 2, 1)]
    assert filming.faults == {}


def test_a_replugged_camera_goes_on_and_the_gap_is_as_long_as_it_was() -> None:
    plug = Plug(
        [brings((50_000_000, 1, 1, 1)), None],
        [brings((12, 2, 2, 1), (512, 3, 3, 0)), None],
        [brings((99_000_000, 4, 4, 1))],
    )

    begun = time.monotonic()
    filming = Filming(plug)
    filming.until(4)
    took = time.monotonic() - begun

    times = [row[0] for row in filming.rows]
    assert [row[1:] for row in filming.rows] == [(1, 1, 1), (2, 2, 1), (3, 3, 0), (4, 4, 1)]
    assert times[0] == 50_000_000
    assert times[2] - times[1] == 500  # one camera's times keep their distance
    for gap in (times[1] - times[0], times[3] - times[2]):
        assert 100_000 <= gap <= took * 1_000_000  # the first attempt comes after 0.1 s
    filming.check_time()
    assert filming.faults == {"disconnected": 2}
    assert 0.2 <= filming.node.results()["disconnected_s"] <= took
    assert len(plug.openings) == 3
    assert plug.closings == 3  # each time it was gone, and at the end


def test_stream_time_goes_on_while_the_camera_is_unplugged() -> None:
    plug = Plug([brings((1_000_000, 1, 1, 1)), None])
    filming = Filming(plug, silence=0.005)

    plug.on_the_bus = False
    filming.wait(lambda: bool(filming.packets) and filming.packets[-1].stop > 1_200_000)
    filming.stop()

    filming.check_time()
    assert filming.rows == [(1_000_000, 1, 1, 1)]
    assert filming.faults == {"disconnected": 1}


def test_a_camera_that_does_not_come_back_in_time_ends_the_run_with_one_clear_error() -> None:
    plug = Plug([brings((1, 1, 1, 1)), None])
    filming = Filming(plug, reconnect=0.3)
    filming.join()
    filming.node.close()

    assert isinstance(filming.error, DeviceError)
    assert "simulated camera s1 was unplugged and did not come back within 0.3 s" in str(
        filming.error
    )
    assert "it does not answer" in str(filming.error)
    assert 1 < len(plug.openings) <= 3  # 0.1 s, then 0.2 s: it is not hammered


def test_a_camera_of_another_size_is_not_taken_for_the_same_one() -> None:
    plug = Plug([brings((1, 1, 1, 1)), None], [brings((1, 1, 1, 1))], [brings((1, 1, 1, 1))])
    filming = Filming(plug, reconnect=0.4)
    plug.size = (32, 32)
    filming.join()
    filming.node.close()

    assert len(plug.openings) >= 3  # it is let go in between: another may be plugged in
    assert "came back with 32x32 pixels, not 64x48" in str(filming.error)


def test_a_camera_hands_over_long_before_its_silence_would_count() -> None:
    plug = Plug([brings((1, 1, 1, 1))])

    filming = Filming(plug, packet_duration=1.0, silence=0.02)
    filming.stop()

    assert plug.openings[0].interval <= 0.01


@pytest.mark.parametrize("setting", ["packet_duration", "silence"])
def test_an_endless_duration_is_one_clear_error(setting: str) -> None:
    with pytest.raises(NodeError, match=f"{setting} is inf s; expected"):
        Filming(Plug([]), **{setting: float("inf")})


def test_what_the_driver_says_was_lost_is_in_the_faults() -> None:
    reads: list[Read | None] = [
        brings((1, 1, 1, 1), usb_dropped=3),
        brings((2, 1, 1, 1), usb_dropped=2, untimed=5, unknown_word=1),
    ]

    filming = Filming(Plug(reads))
    filming.until(2)

    assert filming.faults == {"usb_dropped": 5, "untimed": 5, "unknown_word": 1}


def test_a_camera_whose_time_jumps_is_not_believed_at_once_and_then_followed() -> None:
    reads: list[Read | None] = [
        brings((200_000_000, 1, 1, 1)),
        brings((900_000_000, 2, 2, 1)),  # one wrong time: left out
        brings((200_000_010, 3, 3, 1)),
        brings((50, 4, 4, 1)),  # the camera's clock begins anew
        brings((60, 5, 5, 1), (70, 6, 6, 1)),
    ]

    filming = Filming(Plug(reads), silence=1)
    filming.until(4)

    assert [row[1] for row in filming.rows] == [1, 3, 5, 6]
    assert filming.rows[3][0] - filming.rows[2][0] == 10
    assert filming.rows[2][0] >= 200_000_010
    assert filming.faults == {"time_jump": 2, "time_restart": 1}
    filming.check_time()


def test_late_and_misplaced_events_are_counted() -> None:
    rows = [(10_000, 1, 1, 1), (9_000, 2, 2, 1), (10_001, 64, 1, 1), (10_002, 3, 3, 1)]

    clamp, drop = (
        Filming(Plug([brings(*rows)])),
        Filming(Plug([brings(*rows)]), backward_time="drop"),
    )
    clamp.until(3)
    drop.until(2)

    assert [row[0] for row in clamp.rows] == [10_000, 10_000, 10_002]
    assert [row[0] for row in drop.rows] == [10_000, 10_002]
    assert clamp.faults == drop.faults == {"time_backward": 1, "outside_sensor": 1}


def test_settings_reach_the_driver_and_a_region_that_is_not_kept_is_counted() -> None:
    plug = Plug([brings((1, 8, 4, 1), (2, 15, 11, 1), (3, 16, 4, 1), (4, 8, 12, 0))])

    filming = Filming(
        plug,
        region=[8, 4, 8, 8],
        biases={"diff_on": 12},
        rate_limit=1_000_000,
        packet_duration=0.002,
    )
    filming.until(4)

    assert plug.openings == [Wanted({"diff_on": 12}, (8, 4, 8, 8), 1_000_000, 0.002)]
    assert filming.faults == {"outside_region": 2}


def test_a_restarted_node_goes_on_in_stream_time_with_a_camera_that_began_anew() -> None:
    first = Filming(Plug([brings((70_000_000, 1, 1, 1))]), silence=0.005)
    first.wait(lambda: bool(first.packets))
    state = first.node.snapshot()
    first.stop()

    second = Filming(Plug([brings((3, 2, 2, 1))]), state)
    second.until(1)

    assert second.packets[0].start >= state["passed"]
    assert second.rows[0][0] >= state["passed"]
    assert second.faults == {}
    assert second.node.results()["events"] == 2


def test_how_long_a_camera_was_gone_is_added_up_over_restarts() -> None:
    first = Filming(Plug([brings((1, 1, 1, 1)), None], [brings((1, 1, 1, 1))]), silence=0.005)
    first.wait(lambda: first.node.results()["disconnected_s"] > 0)
    first.stop()

    second = Filming(Plug([], [brings((1, 1, 1, 1))]), first.node.snapshot())
    second.stop()

    assert second.node.results()["disconnected_s"] == first.node.results()["disconnected_s"] > 0.1


def test_a_run_that_ends_waits_for_the_camera_for_milliseconds_only() -> None:
    filming = Filming(Plug([brings((1, 1, 1, 1))]))
    filming.wait(lambda: filming.node.results()["packets"] > 0)

    begun = time.monotonic()
    filming.stop()

    assert time.monotonic() - begun < LIMIT / 4
    assert filming.plug.closings == 1


def test_closing_meets_a_read_neither_halfway_nor_afterwards() -> None:
    filming = Filming(Plug([brings((1, 1, 1, 1))]))
    filming.wait(lambda: filming.node.results()["packets"] > 0)

    filming.node.close()  # as after a failure elsewhere: the clock has not been stopped
    filming.join()

    assert filming.error is None
    assert filming.plug.closings == 1


# --- without a camera -----------------------------------------------------------------------------


def cameras_on_the_bus() -> int:
    return sum(len(driver.find()) for driver in EventCamera.drivers.values())


@pytest.mark.parametrize(
    ("device", "named"),
    [
        ("auto", "iniVation or Prophesee camera"),
        ("inivation", "iniVation camera"),
        ("prophesee", "Prophesee EVK3 HD or EVK4"),
    ],
)
def test_no_camera_is_one_clear_error(device: str, named: str) -> None:
    if cameras_on_the_bus():
        pytest.skip("an event camera is plugged in")

    with pytest.raises(DeviceError, match=f"no {named} on the USB bus .*cable.*udev"):
        EventCamera({"device": device}).open()


def test_a_graph_without_its_camera_fails_with_that_error(tmp_path: Path) -> None:
    if cameras_on_the_bus():
        pytest.skip("an event camera is plugged in")

    it = run(
        tmp_path,
        "clock: realtime\n"
        "nodes:\n"
        "  camera: {kind: event_camera, settings: {serial: none, region: [0, 0, 64, 64]}}\n",
    )

    assert it.end() == 1
    assert "no iniVation or Prophesee camera with the serial number none" in it.err
    assert it.report["outcome"] == "failed"


@pytest.mark.parametrize(
    "wrong",
    [{"region": [0, 0, 5]}, {"biases": {"pr": "high"}}, {"reconnect": -1}, {"device": "webcam"}],
)
def test_settings_are_checked_before_anything_starts(wrong: dict[str, Any]) -> None:
    with pytest.raises(NodeError, match="settings"):
        EventCamera(wrong)
