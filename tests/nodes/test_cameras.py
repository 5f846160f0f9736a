"""What stands between the node and the drivers, as far as it goes without a camera.

There was no camera. dv-processing's part is read through its own network stream, an input with the
same calls as a camera; neuromorphic-drivers' part through recorded EVT3 bytes in the driver's own
status objects. Every call that needs a camera is checked to exist in the installed driver, and to
be made up to the point where the camera is missing.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dv_processing as dv
import faery
import neuromorphic_drivers as nd
import numpy as np
import pytest
from neuromorphic_drivers.generated import unions
from neuromorphic_drivers.status import RawRingStatus, RawStatus
from streamflow_nodes.events import cameras
from streamflow_nodes.events.cameras import (
    SWITCHES,
    Found,
    Inivation,
    Prophesee,
    Unplugged,
    Wanted,
    choose,
    dv_biases,
    prophesee_configuration,
)

from streamflow.errors import DeviceError

INDOOR = Path(__file__).resolve().parents[1] / "data" / "indoor_640x480_evt3.raw"
EVK3 = Found("prophesee", "Prophesee EVK3 HD", "a3", nd.Name.PROPHESEE_EVK3_HD)
EVK4 = Found("prophesee", "Prophesee EVK4", "b4", nd.Name.PROPHESEE_EVK4)
DAVIS = Found("inivation", "DAVIS", "c5")
LIMIT = 20.0


def recording() -> Any:
    return faery.events_stream_from_file(INDOOR).to_array()


def recorded_bytes() -> bytes:
    content = INDOOR.read_bytes()
    return content[content.index(b"% end\n") + 6 :]


def rows_of(words: Any) -> Any:
    """(n, 4) int64: time, x, y, polarity."""
    places = words[1::2]
    columns = (words[::2], places & 0xFFFF, places >> 16 & 0xFFFF, places >> 32 & 1)
    return np.stack(columns, axis=1)


def expected_rows() -> Any:
    events = recording()
    return np.stack([events[name].astype(np.int64) for name in ("t", "x", "y", "on")], axis=1)


def reads_until_unplugged(camera: Any) -> tuple[list[Any], str]:
    """What a camera gives until it is gone, and why it is."""
    reads, end = [], time.monotonic() + LIMIT
    try:
        while time.monotonic() < end:
            reads.append(camera.read(0.0))
    except Unplugged as gone:
        return reads, str(gone)
    raise AssertionError("it was never unplugged")


# --- which camera -------------------------------------------------------------------------------


def test_the_only_camera_is_taken_and_one_of_several_by_its_serial_number() -> None:
    assert choose([EVK4], "auto", None) is EVK4
    assert choose([EVK3, EVK4, DAVIS], "auto", "b4") is EVK4


def test_several_cameras_without_a_serial_number_are_one_clear_error() -> None:
    with pytest.raises(DeviceError, match=r"several cameras fit \(.*a3, .*b4\).*'serial'"):
        choose([EVK3, EVK4], "prophesee", None)


def test_no_camera_is_one_clear_error_with_what_was_looked_for_and_what_to_do() -> None:
    with pytest.raises(DeviceError) as raised:
        choose([DAVIS], "prophesee", "b4")

    for part in ("Prophesee EVK3 HD or EVK4", "b4", "DAVIS c5", "cable", "udev"):
        assert part in str(raised.value)


def test_a_machine_without_a_usb_bus_is_told_apart_from_one_without_a_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cameras, "USB_BUS", tmp_path / "usb")

    with pytest.raises(DeviceError, match=r"found: none, and no USB bus: .*usb is missing"):
        choose([], "auto", None)
    (tmp_path / "usb").mkdir()
    with pytest.raises(DeviceError, match=r"found: none\)"):
        choose([], "auto", None)


def test_a_camera_without_permission_says_which_rule_to_install() -> None:
    locked = Found("prophesee", "Prophesee EVK4", "b4", nd.Name.PROPHESEE_EVK4, "Access denied")

    with pytest.raises(DeviceError, match=r"Access denied.*install-udev-rules"):
        choose([locked], "auto", None)


@pytest.mark.parametrize(
    ("camera", "module", "name"),
    [
        (Inivation, "dv_processing", "dv-processing"),
        (Prophesee, "neuromorphic_drivers", "neuromorphic-drivers"),
    ],
)
def test_a_missing_library_names_the_extra_to_install(
    camera: Any, module: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(DeviceError, match=rf"{name}: pip install 'streamflow-neuro\[events\]'"):
        camera.find()


def test_looking_for_cameras_gives_a_list_with_and_without_a_usb_bus() -> None:
    for camera in (Inivation, Prophesee):
        assert isinstance(camera.find(), list)


# --- iniVation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DAVIS", "DVXplorer", "DVXplorerM", "DVS128"])
def test_every_call_that_is_made_exists_in_dv_processing(name: str) -> None:
    model = getattr(dv.io.camera, name)

    for call in ("getNextEventBatch", "isRunning", "getEventResolution", "setCropArea",
                 "setTimeInterval"):  # fmt: skip
        assert callable(getattr(model, call)), call
    switches = {each for each in dir(model) if each.startswith("setImuRunning")}
    switches |= {each for each in dir(model) if each == "setFramesRunning"}
    assert switches <= set(SWITCHES)
    for field in ("cameraModel", "serialNumber"):
        assert hasattr(dv.io.camera.USBDevice.DeviceDescriptor, field)


def test_dv_processing_takes_a_region_as_four_numbers() -> None:
    # setCropArea needs a camera; this filter has the same argument type
    store = dv.EventStore()
    for x in range(5):
        store.push_back(x, x, 1, True)
    region = dv.EventRegionFilter((1, 0, 3, 2))

    region.accept(store)

    assert region.generateEvents().numpy()["x"].tolist() == [1, 2, 3]
    for call in (dv.io.camera.CameraInputBase.setCropArea, dv.EventRegionFilter.__init__):
        assert "tuple_xywh" in str(call.__doc__)


WRITER = """
import sys, time, numpy as np, dv_processing as dv
port, rows = int(sys.argv[1]), np.load(sys.argv[2])
stream = dv.io.Stream.EventStream(0, "events", "simulated", (640, 480))
writer = dv.io.NetworkWriter("127.0.0.1", port, stream)
print("listening", flush=True)
while writer.getClientCount() == 0:
    time.sleep(0.005)
store = dv.EventStore()
for t, x, y, p in rows.tolist():
    store.push_back(t, x, y, bool(p))
writer.writeEvents(store)
time.sleep(60)
"""


def test_a_dv_stream_is_read_event_for_event_and_its_end_is_an_unplugged_camera(
    tmp_path: Path,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    camera, expected, end = Inivation(), expected_rows(), time.monotonic() + LIMIT
    np.save(tmp_path / "rows.npy", expected)
    command = [sys.executable, "-c", WRITER, str(port), str(tmp_path / "rows.npy")]

    # a process of its own: a writer that is closed waits for its reader and never returns
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        camera.take(dv.io.NetworkReader("127.0.0.1", port))
        found: list[Any] = []
        while sum(map(len, found)) < len(expected):
            assert time.monotonic() < end
            read = camera.read(0.01)
            assert (read.reached, read.faults) == (None, {})
            found.append(rows_of(read.words))
        writer.kill()

    np.testing.assert_array_equal(np.concatenate(found), expected)
    reads, reason = reads_until_unplugged(camera)
    assert all(len(read.words) == 0 for read in reads)
    assert reason
    camera.close()


def test_an_unplugged_dv_camera_cannot_be_opened() -> None:
    with pytest.raises(Unplugged):
        Inivation().open(Found("inivation", "DAVIS", "none", "no such serial number"), Wanted())


def test_a_dv_camera_that_goes_while_it_is_opened_is_unplugged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Going:  # simulated: there is no camera
        def getEventResolution(self) -> Any:  # the driver's name
            raise RuntimeError("control transfer failed: no device")

    monkeypatch.setattr(dv.io.camera, "open", lambda *_: Going())

    with pytest.raises(Unplugged, match="no device"):
        Inivation().open(DAVIS, Wanted())


def test_a_bus_that_dv_processing_cannot_look_at_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> Any:
        raise RuntimeError("libusb: access denied")

    monkeypatch.setattr(dv.io.camera, "discover", refuse)

    with pytest.raises(DeviceError, match=r"cannot look at the USB bus \(libusb: .*'prophesee'"):
        Inivation.find()


def test_the_rate_limit_of_an_inivation_camera_is_refused_with_who_has_it() -> None:
    with pytest.raises(DeviceError, match=r"DAVIS c5 has no 'rate_limit'.*EVK3 HD and EVK4"):
        Inivation().open(DAVIS, Wanted(rate_limit=1_000_000))


def test_biases_go_to_the_call_that_the_model_has() -> None:
    made: list[Any] = []

    class Davis:  # simulated: the enumerations are the driver's own
        SensorModel = dv.io.camera.DAVIS.SensorModel
        Davis346BiasCF = dv.io.camera.DAVIS.Davis346BiasCF

        def getSensorModel(self) -> Any:  # the driver's name
            return self.SensorModel.DAVIS346

        def setDavis346BiasCoarseFine(self, *given: Any) -> None:
            made.append(given)

    class Dvxplorer:
        def setContrastThresholdOn(self, value: int) -> None:
            made.append(("on", value))

        def setContrastThresholdOff(self, value: int) -> None:
            made.append(("off", value))

    dv_biases(Davis())["on"](5 * 256 + 255)
    dv_biases(Dvxplorer())["contrast_threshold_off"](9)

    assert made == [(Davis.Davis346BiasCF.On, 5, 255), ("off", 9)]
    for model, call in (("DAVIS", "setDavis346BiasCoarseFine"), ("DAVIS", "getSensorModel"),
                        ("DVXplorer", "setContrastThresholdOn"), ("DVS128", "setBias"),
                        ("DVXplorerM", "setContrastThresholdOff")):  # fmt: skip
        assert callable(getattr(getattr(dv.io.camera, model), call))
    assert "refr" in [name.lower() for name in dv.io.camera.DVS128.Bias.__members__]


# --- Prophesee ----------------------------------------------------------------------------------


class RawDevice:
    """Simulated: the driver's device in raw mode, which has `packets` to give and is then gone.

    A packet is (bytes, overflow indices, packets dropped so far), or None where none has come.
    """

    def __init__(self, *packets: tuple[bytes, list[int], int] | None) -> None:
        self._packets: Iterator[Any] = iter(packets)
        self.closed = False

    def __next__(self) -> tuple[RawStatus, bytes | None]:
        try:
            packet = next(self._packets)
        except StopIteration:
            raise RuntimeError("Usb(NoDevice)") from None  # what the driver raises
        if packet is None:
            return RawStatus(0.0, None), None
        data, overflows, dropped = packet
        return RawStatus(0.0, RawRingStatus(0.0, 0, 1, False, overflows, dropped)), data

    def close(self) -> None:
        self.closed = True


def all_of(camera: Prophesee) -> tuple[Any, list[Any]]:
    """Every event until the camera is gone, and every read."""
    reads, reason = reads_until_unplugged(camera)
    assert "NoDevice" in reason
    return np.concatenate([rows_of(read.words) for read in reads]), reads


@pytest.mark.parametrize("size", [2, 1001, 65_536])
def test_recorded_evt3_bytes_are_decoded_however_usb_cuts_them(size: int) -> None:
    data, camera = recorded_bytes(), Prophesee()
    data = data[:2_000] if size == 2 else data
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    camera.take(RawDevice(*((piece, [], 0) for piece in pieces), None))

    rows, reads = all_of(camera)

    expected = expected_rows()[: len(rows)]
    np.testing.assert_array_equal(rows, expected)
    assert len(rows) == len(expected_rows()) or size == 2
    assert max(read.reached for read in reads if read.reached is not None) >= rows[-1][0]
    assert all(not any(read.faults.values()) for read in reads)


@pytest.mark.parametrize("at", range(20_000, 20_020, 2))
def test_usb_packets_that_were_dropped_are_counted_and_every_event_is_a_true_one(at: int) -> None:
    data, camera = recorded_bytes(), Prophesee()
    first, second, third = data[:at], data[40_000 + at : 60_000], data[60_000 + at // 4 * 2 :]
    camera.take(RawDevice((first + second, [len(first)], 7), (third, [0], 12)))

    rows, reads = all_of(camera)

    assert [read.faults["usb_dropped"] for read in reads] == [7, 5]
    events = [tuple(row) for row in expected_rows().tolist()]
    assert {tuple(row) for row in rows.tolist()} <= set(events)
    assert len(rows) > len(events) // 4


def test_events_after_a_gap_wait_for_words_that_say_their_time_and_row() -> None:
    known = [0x8001, 0x6005, 0x0007, 0x2003]  # time 4096 + 5, row 7, an event at column 3
    gap = [0x2004, 0x8003, 0x2005, 0x6002, 0x2006]  # no time, half a time, no row
    after = [0x0008, 0x2007]  # row 8, an event at column 7, at time 3 x 4096 + 2
    data = [np.array(words, "<u2").tobytes() for words in (known + gap, after)]
    camera = Prophesee()
    camera.take(RawDevice((data[0] + data[1], [8], 1)))

    rows, (read,) = all_of(camera)

    assert rows.tolist() == [[4101, 3, 7, 0], [12_290, 7, 8, 0]]
    assert read.faults == {"untimed": 3, "unknown_word": 0, "usb_dropped": 1}
    assert read.reached == 12_290


def test_half_a_word_before_a_gap_is_not_joined_to_what_comes_after_it() -> None:
    sound, again = [0x8001, 0x6005, 0x0007, 0x2003], [0x8003, 0x6001, 0x0002, 0x2001]
    data = [np.array(words, "<u2").tobytes() for words in (sound, again)]
    camera = Prophesee()
    camera.take(RawDevice((data[0] + b"\x04", [], 0), (data[1], [0], 1)))

    rows, _ = all_of(camera)

    assert rows.tolist() == [[4101, 3, 7, 0], [12_289, 1, 2, 0]]


def test_a_gap_may_be_longer_than_one_usb_packet() -> None:
    sound, lost = [0x8001, 0x6005, 0x0007, 0x2003], [0x2004, 0x0009]
    again = [0x2004, 0x8003, 0x6001, 0x0002, 0x2001]
    data = [np.array(words, "<u2").tobytes() for words in (sound, lost, again)]
    camera = Prophesee()
    camera.take(RawDevice((data[0], [], 0), (data[1], [0], 1), (data[2], [], 1)))

    rows, reads = all_of(camera)

    assert rows.tolist() == [[4101, 3, 7, 0], [12_289, 1, 2, 0]]
    assert sum(read.faults["untimed"] for read in reads) == 2


def test_a_camera_that_is_plugged_in_again_begins_with_a_clean_decoder() -> None:
    camera = Prophesee()
    camera.take(RawDevice((np.array([0x8FFF, 0x0001, 0x2001], "<u2").tobytes() + b"\x05", [], 3)))
    all_of(camera)
    camera.close()
    camera.take(RawDevice((np.array([0x8001, 0x0002, 0x2002], "<u2").tobytes(), [], 0)))

    rows, (read,) = all_of(camera)

    assert rows.tolist() == [[4096, 2, 2, 0]]
    assert not any(read.faults.values())


@pytest.mark.parametrize(
    ("found", "family"), [(EVK3, nd.prophesee_evk3_hd), (EVK4, nd.prophesee_evk4)]
)
def test_what_is_wanted_reaches_the_driver_as_its_own_configuration(
    found: Found, family: Any
) -> None:
    wanted = Wanted({"diff_on": 90, "refr": 7}, (100, 50, 320, 240), 20_000_000)

    made = prophesee_configuration(family, found, wanted)

    back: Any = unions.deserialize_configuration(found.descriptor, made.serialize())
    assert (back.biases.diff_on, back.biases.refr) == (90, 7)
    assert back.rate_limiter.maximum_events_per_period / back.rate_limiter.reference_period_us == 20
    columns = np.unpackbits(np.array(back.x_mask, "<u8").view(np.uint8), bitorder="little")
    rows = np.unpackbits(np.array(back.y_mask, "<u8").view(np.uint8), bitorder="little")
    assert np.flatnonzero(columns[:1280] == 0).tolist() == list(range(100, 420))
    assert np.flatnonzero(rows[:720] == 0).tolist() == list(range(50, 290))
    assert back.mask_intersection_only is False


def test_nothing_wanted_leaves_the_driver_its_defaults() -> None:
    made = prophesee_configuration(nd.prophesee_evk4, EVK4, Wanted())

    assert made == nd.prophesee_evk4.Configuration()


def test_a_bias_that_the_model_lacks_is_one_clear_error_with_those_it_has() -> None:
    with pytest.raises(DeviceError, match=r"EVK4 b4 has no bias 'on'; expected one of: pr, fo"):
        prophesee_configuration(nd.prophesee_evk4, EVK4, Wanted({"on": 1}))


def test_a_region_outside_the_sensor_is_one_clear_error() -> None:
    with pytest.raises(DeviceError, match=r"\[1200, 0, 100, 10\].*1280x720"):
        prophesee_configuration(nd.prophesee_evk4, EVK4, Wanted(region=(1200, 0, 100, 10)))


def test_a_bias_outside_the_cameras_bounds_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bound = nd.prophesee_evk4.Bounds(-30, 140)
    device = SimpleNamespace(
        biases_bounds=lambda: nd.prophesee_evk4.BiasesBounds(diff_on=bound),
        properties=lambda: nd.prophesee_evk4.Properties(),
        update_configuration=lambda configuration: None,
    )
    monkeypatch.setattr(nd, "open", lambda **options: device)  # simulated: there is no camera

    assert Prophesee().open(EVK4, Wanted({"diff_on": 140})) == (1280, 720)
    with pytest.raises(DeviceError, match=r"'diff_on' of .*EVK4 b4 cannot be 141; expected -30 to"):
        Prophesee().open(EVK4, Wanted({"diff_on": 141}))


def test_an_unplugged_prophesee_camera_cannot_be_opened() -> None:
    with pytest.raises(Unplugged):
        Prophesee().open(EVK4, Wanted({"diff_on": 1}, (0, 0, 64, 64), 1_000_000))


@pytest.mark.parametrize("call", ["biases_bounds", "update_configuration", "properties"])
def test_a_prophesee_camera_that_goes_while_it_is_opened_is_unplugged_and_let_go(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Going:  # simulated: there is no camera
        closed = False

        def __getattr__(self, name: str) -> Any:
            if name == call:
                raise RuntimeError("Usb(NoDevice)")
            bounds = nd.prophesee_evk4.BiasesBounds(diff_on=nd.prophesee_evk4.Bounds(0, 9))
            return lambda *_: bounds

        def close(self) -> None:
            self.closed = True

    device, camera = Going(), Prophesee()
    monkeypatch.setattr(nd, "open", lambda **options: device)

    with pytest.raises(Unplugged, match="NoDevice"):
        camera.open(EVK4, Wanted({"diff_on": 1}))
    camera.close()

    assert device.closed
