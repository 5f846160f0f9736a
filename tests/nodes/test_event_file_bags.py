"""ROS bags give the events of their topic, or one error that says why they cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamflow_nodes.events.ros_readers import DEFINITION, MESSAGE
from streamflow_nodes.sources.event_file import EventFile

from streamflow.errors import DeviceError
from streamflow.testing import Driven, drive

pytest.importorskip("rosbags")
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "events"
INDOOR = Path(__file__).resolve().parents[1] / "data" / "indoor_640x480_evt3.raw"
TOPIC = "/event_camera/events"
Array = np.ndarray[Any, Any]


def read(path: Path, **options: Any) -> Driven:
    return drive(EventFile({"path": str(path), **options}))


def same(found: Array, expected: Array) -> None:
    assert len(found) == len(expected)
    for name in ("timestamp", "x", "y", "polarity"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def indoor_words() -> bytes:
    content = INDOOR.read_bytes()
    return content[content.index(b"% end\n") + 6 :]


def indoor() -> Array:
    return drive(EventFile({"path": str(INDOOR)})).items("events")


def pieces(size: int = 2001) -> list[bytes]:
    """The sample recording's words, cut into messages as a driver would."""
    words = indoor_words()
    return [words[at : at + 2 * size] for at in range(0, len(words), 2 * size)]


def typestore(is_ros1: bool) -> Any:
    store = get_typestore(Stores.ROS1_NOETIC if is_ros1 else Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(DEFINITION, MESSAGE))
    return store


def message(store: Any, seq: int, words: bytes, **changes: Any) -> Any:
    stamp = store.types["builtin_interfaces/msg/Time"](sec=seq, nanosec=0)
    header_type = store.types["std_msgs/msg/Header"]
    number = {"seq": seq} if "seq" in header_type.__dataclass_fields__ else {}
    fields: dict[str, Any] = {
        "header": header_type(stamp=stamp, frame_id="camera", **number),
        "height": 480, "width": 640, "seq": seq, "time_base": 0, "encoding": "evt3",
        "is_bigendian": False, "events": np.frombuffer(words, np.uint8), **changes,
    }  # fmt: skip
    return store.types[MESSAGE](**fields)


def ros1(
    path: Path, topics: dict[str, list[dict[str, Any]]], compression: str | None = None
) -> Path:
    store = typestore(is_ros1=True)
    writer = rosbag1.Writer(path)
    if compression:
        writer.set_compression(rosbag1.Writer.CompressionFormat[compression])
    with writer:
        for topic, messages in topics.items():
            connection = writer.add_connection(topic, MESSAGE, typestore=store)
            for at, fields in enumerate(messages):
                raw = store.serialize_ros1(message(store, **fields), MESSAGE)
                writer.write(connection, 1000 * at, raw)
    return path


def ros2(path: Path, messages: list[dict[str, Any]], storage: Any) -> Path:
    store = typestore(is_ros1=False)
    with rosbag2.Writer(path, version=9, storage_plugin=storage) as writer:
        connection = writer.add_connection(TOPIC, MESSAGE, typestore=store)
        text = writer.add_connection("/note", "std_msgs/msg/String", typestore=store)
        note = store.types["std_msgs/msg/String"](data="hello")
        writer.write(text, 0, store.serialize_cdr(note, "std_msgs/msg/String"))
        for at, fields in enumerate(messages):
            raw = store.serialize_cdr(message(store, **fields), MESSAGE)
            writer.write(connection, 1000 * at, raw)
    return path


def numbered(parts: list[bytes]) -> list[dict[str, Any]]:
    return [{"seq": 10 + at, "words": part} for at, part in enumerate(parts)]


def test_a_real_bag_equals_a_decoder_of_its_words() -> None:
    path = SHARED / "evt3_640x480_event_camera_msgs.bag"
    if not path.exists():
        pytest.skip(f"{path.name} is not here: it is too large to travel with the code")
    store = typestore(is_ros1=True)
    with rosbag1.Reader(path) as bag:
        words = [store.deserialize_ros1(raw, MESSAGE).events for _, _, raw in bag.messages()]
    joined = path.parent / "evt3_640x480_ros_extract.raw"

    out = read(path)

    assert len(words) == 517
    same(out.items("events"), drive(EventFile({"path": str(joined)})).items("events"))
    assert out.results["events"] == 343474
    assert out.results["triggers"] == 4157
    assert (out.results["width"], out.results["height"]) == (640, 480)
    assert not any(out.faults.values())


@pytest.mark.parametrize("compression", [None, "BZ2", "LZ4"])
def test_a_ros1_bag_gives_its_events(compression: str | None, tmp_path: Path) -> None:
    path = ros1(tmp_path / "a.bag", {TOPIC: numbered(pieces())}, compression)

    out = read(path)

    same(out.items("events"), indoor())
    assert out.results["format"] == "ROS EVT3"
    assert not any(out.faults.values())


@pytest.mark.parametrize("storage", ["SQLITE3", "MCAP"])
def test_a_ros2_bag_gives_its_events_as_a_folder_and_as_a_file(
    storage: str, tmp_path: Path
) -> None:
    folder = ros2(tmp_path / "bag", numbered(pieces()), rosbag2.StoragePlugin[storage])
    (file,) = (path for path in folder.iterdir() if path.suffix in (".db3", ".mcap"))

    same(read(folder).items("events"), indoor())
    same(read(file).items("events"), indoor())


def test_big_endian_words_are_turned_round(tmp_path: Path) -> None:
    swapped = np.frombuffer(indoor_words(), "<u2").astype(">u2").tobytes()
    fields = {"seq": 0, "words": swapped, "is_bigendian": True}

    same(read(ros1(tmp_path / "a.bag", {TOPIC: [fields]})).items("events"), indoor())


def test_messages_that_are_missing_are_counted(tmp_path: Path) -> None:
    messages = numbered(pieces())
    del messages[3:5]

    out = read(ros1(tmp_path / "a.bag", {TOPIC: messages}))

    assert out.faults["lost_message"] == 2


def test_half_a_word_at_the_end_of_a_message_is_counted(tmp_path: Path) -> None:
    messages = numbered([part + b"\x20" for part in pieces()])

    out = read(ros1(tmp_path / "a.bag", {TOPIC: messages}))

    same(out.items("events"), indoor())
    assert out.faults["truncated"] == len(messages)


def test_of_several_topics_one_is_named(tmp_path: Path) -> None:
    topics = {"/left/events": numbered(pieces()[:1]), "/right/events": numbered(pieces())}
    path = ros1(tmp_path / "a.bag", topics)

    with pytest.raises(DeviceError, match=r"2 topics .*/left/events, /right/events.*'topic'"):
        read(path)
    with pytest.raises(DeviceError, match=r"names '/middle'; .*: /left/events, /right/events"):
        read(path, topic="/middle")
    same(read(path, topic="/right/events").items("events"), indoor())


def test_a_topic_without_messages_ends_at_once(tmp_path: Path) -> None:
    out = read(ros1(tmp_path / "a.bag", {TOPIC: []}), width=640, height=480)

    assert out["events"] == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoding": "mono"}, "message 2 of the topic is 'mono'"),
        ({"width": 320}, "of a sensor of 320x480"),
    ],
)
def test_a_message_of_another_kind_is_refused(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    messages = numbered(pieces()[:3])
    messages[1] |= changes

    with pytest.raises(DeviceError, match=says):
        read(ros1(tmp_path / "a.bag", {TOPIC: messages}))


def test_a_bag_without_events_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    with rosbag1.Writer(tmp_path / "a.bag") as writer:
        writer.add_connection("/note", "std_msgs/msg/String", typestore=store)

    with pytest.raises(DeviceError, match="its types are std_msgs/msg/String"):
        read(tmp_path / "a.bag")


def test_messages_of_another_version_are_refused(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg(DEFINITION.replace("uint64 seq\n", ""), MESSAGE))
    with rosbag1.Writer(tmp_path / "a.bag") as writer:
        writer.add_connection(TOPIC, MESSAGE, typestore=store)

    with pytest.raises(DeviceError, match="another version of the package"):
        read(tmp_path / "a.bag", width=640, height=480)


def cut_off(path: Path) -> None:
    whole = ros1(path.with_name("whole.bag"), {TOPIC: numbered(pieces())}).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def huge_record(path: Path) -> None:
    content = bytearray(ros1(path.with_name("whole.bag"), {TOPIC: numbered(pieces())}).read_bytes())
    content[13:17] = b"\xff\xff\xff\x7f"  # the length of the first header
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.bag", cut_off),
        ("a.bag", huge_record),
        ("a.bag", lambda path: path.write_bytes(b"#ROSBAG V2.0\n")),
        ("a.db3", lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(2000))),
        ("a.mcap", lambda path: path.write_bytes(b"\x89MCAP0\r\n" + bytes(2000))),
    ],
    ids=["cut off", "huge record", "only the first line", "database of zeros", "mcap of zeros"],
)
def test_a_damaged_bag_is_one_clear_error(name: str, make: Any, tmp_path: Path) -> None:
    path = tmp_path / name
    make(path)

    with pytest.raises(DeviceError, match="the ROS bag cannot be read") as caught:
        read(path)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize("storage", [None, "SQLITE3", "MCAP"])
def test_bags_with_changed_bytes_are_read_or_refused(storage: str | None, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    if storage is None:
        path = ros1(tmp_path / "a.bag", {TOPIC: numbered(pieces())})
    else:
        folder = ros2(tmp_path / "bag", numbered(pieces()), rosbag2.StoragePlugin[storage])
        (path,) = (path for path in folder.iterdir() if path.suffix in (".db3", ".mcap"))
    whole = path.read_bytes()
    refused = 0
    for _ in range(25):
        content = bytearray(whole)
        # half of the changes near the ends, where the structure is
        for place in random.choice([*range(600), *range(len(whole) - 600, len(whole))], 4):
            content[place] = random.integers(0, 256)
        path.write_bytes(content)
        try:
            read(path, packet_duration=1.0)
        except DeviceError:
            refused += 1

    assert refused > 0


def test_a_database_under_another_name_is_told_how_to_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"SQLite format 3\0" + bytes(100))

    with pytest.raises(DeviceError, match=r"does not end in \.db3"):
        read(tmp_path / "a.sqlite")


WITHOUT = """
import sys
sys.modules["rosbags"] = None
from streamflow_nodes.sources.event_file import EventFile
EventFile({"path": sys.argv[1]}).open()
"""


def test_a_missing_library_is_named_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    (tmp_path / "a.bag").write_bytes(b"#ROSBAG V2.0\n")

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path / "a.bag")],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip

    assert "needs rosbags: pip install 'streamflow-neuro[files]'" in done.stderr
