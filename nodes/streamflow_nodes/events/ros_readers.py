"""Recordings in ROS bags: EVT3 words in `event_camera_msgs/EventPacket`, message by message."""

from __future__ import annotations

import bz2
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError

from ..files.records import library
from ..kernels import evt
from .recording import EventWords, Recording, evt3_events

ROS_EVT3 = "ROS EVT3"
CHUNK_LIMIT = 1 << 26  # bytes of a chunk of a ROS 1 bag, which is decompressed as a whole
PIECE = 1 << 17  # words decoded at a time
MESSAGE = "event_camera_msgs/msg/EventPacket"
# The message as its package defines it. What a bag itself says of its messages is not used:
# rosbags makes Python code of definitions.
DEFINITION = """std_msgs/Header header
uint32 height
uint32 width
uint64 seq
uint64 time_base
string encoding
bool is_bigendian
uint8[] events
"""


def is_ros2_folder(path: str) -> bool:
    """Whether `path` is a folder as `ros2 bag record` makes it."""
    return Path(path, "metadata.yaml").is_file()


@dataclass(frozen=True)
class _Dialect:
    """ROS 1 or ROS 2: its bags and how its messages are written."""

    ros: Any
    """The module of rosbags that reads its bags."""
    digest: str
    """Of the message's definition."""
    decode: Callable[[bytes], Any]


def open_ros1(path: str, topic: str) -> Recording:
    """The events in a ROS 1 bag."""
    types = _types(path, "ROS1_NOETIC")
    ros = library("rosbags.rosbag1", path, "files")
    digest = types.generate_msgdef(MESSAGE)[1]
    return _open(
        path, topic, _Dialect(ros, digest, lambda raw: types.deserialize_ros1(raw, MESSAGE))
    )


def open_ros2(path: str, topic: str) -> Recording:
    """The events in a ROS 2 bag: a folder, or a `.db3` or `.mcap` file."""
    if Path(path).is_file() and Path(path).suffix not in (".db3", ".mcap"):
        raise DeviceError(
            f"{path}: is a database or MCAP file whose name does not end in .db3 or .mcap; "
            "expected a ROS 2 bag: rename it if it is one"
        )
    types = _types(path, "ROS2_HUMBLE")
    ros = library("rosbags.rosbag2", path, "files")
    digest = types.hash_rihs01(MESSAGE)
    return _open(
        path, topic, _Dialect(ros, digest, lambda raw: types.deserialize_cdr(raw, MESSAGE))
    )


def _types(path: str, store: str) -> Any:
    """ROS's types, with the message among them."""
    typesys = library("rosbags.typesys", path, "files")
    types = typesys.get_typestore(typesys.Stores[store])
    types.register(typesys.get_types_from_msg(DEFINITION, MESSAGE))
    return types


def _open(path: str, wanted: str, dialect: _Dialect) -> Recording:
    ros = dialect.ros
    with _bag_errors(path, ros), _reader(path, ros) as bag:
        topic = _chosen(path, bag, wanted)
        first = next(_messages(path, bag, topic, dialect), None)

    def chunks() -> Iterator[EventWords]:
        registers = evt.new_registers()
        with _bag_errors(path, ros), _reader(path, ros) as bag:
            total = sum(c.msgcount for c in bag.connections if c.topic == topic)
            last = None
            for count, message in enumerate(_messages(path, bag, topic, dialect), 1):
                if last is not None and message.seq > last + 1:
                    recording.counts["lost_message"] += message.seq - last - 1
                last = message.seq
                _check_message(path, message, count, recording)
                recording.read = min(1.0, count / max(1, total))
                words = _words(message, recording)
                for at in range(0, len(words), PIECE):  # a word can hold 12 events
                    yield evt3_events(words[at : at + PIECE], registers, recording.counts)

    width = None if first is None else int(first.width)
    height = None if first is None else int(first.height)
    recording = Recording(path, ROS_EVT3, width, height, chunks)
    return recording


@contextmanager
def _reader(path: str, ros: Any) -> Iterator[Any]:
    """The open bag, whose ROS 1 chunks decompress to `CHUNK_LIMIT` bytes at the most."""
    with ros.Reader(path) as bag:
        chunks = getattr(bag, "chunks", {})  # of ROS 1 only; rosbags 0.11 has them as tuples
        for place, chunk in chunks.items():
            chunks[place] = chunk._replace(
                decompressor=partial(_decompressed, chunk.decompressor, path)
            )
        yield bag


def _decompressed(original: Callable[[bytes], bytes], path: str, data: bytes) -> bytes:
    """What `original` makes of a chunk; ValueError where that is more than `CHUNK_LIMIT` bytes."""
    if data.startswith(b"BZh"):
        stream: Any = bz2.BZ2Decompressor()
    elif data.startswith(b"\x04\x22\x4d\x18"):
        stream = library("lz4.frame", path, "files").LZ4FrameDecompressor()
    else:
        return original(data)
    content: bytes = stream.decompress(data, max_length=CHUNK_LIMIT)
    if not stream.eof or stream.unused_data:
        raise ValueError(f"a chunk is cut off, or becomes more than {CHUNK_LIMIT} bytes")
    return content


@contextmanager
def _bag_errors(path: str, ros: Any) -> Iterator[None]:
    """Turn what rosbags raises on damaged bags into DeviceError."""
    serde, types = (
        library("rosbags.serde", path, "files"),
        library("rosbags.typesys", path, "files"),
    )
    apsw = library("apsw", path, "files")  # rosbags's SQLite
    zstd = library("rosbags.rosbag2.reader", path, "files").zstd
    faults = (
        ros.ReaderError, serde.SerdeError, types.TypesysError, apsw.Error, zstd.ZstdError, OSError,
        ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError,
        EOFError, RuntimeError, struct.error, MemoryError,
    )  # fmt: skip
    try:
        yield
    except faults as error:
        raise DeviceError(
            f"{path}: the ROS bag cannot be read ({error}); expected a whole bag with an index: "
            "it is damaged, or its recorder was killed (then `rosbag reindex` or `ros2 bag "
            "reindex` repairs it)"
        ) from error


def _chosen(path: str, bag: Any, wanted: str) -> str:
    """The topic with events; DeviceError unless there is one, or `wanted` is one."""
    topics: list[str] = sorted({c.topic for c in bag.connections if c.msgtype == MESSAGE})
    known = ", ".join(topics[:20]) or "none"
    if wanted:
        if wanted in topics:
            return wanted
        raise DeviceError(
            f"{path}: the setting 'topic' names {wanted!r}; topics with {MESSAGE} there: {known}"
        )
    if not topics:
        others = sorted({str(c.msgtype) for c in bag.connections})[:20]
        raise DeviceError(
            f"{path}: no topic of the bag holds {MESSAGE}; its types are "
            f"{', '.join(others) or 'none'}: record the driver's topic of events"
        )
    if len(topics) > 1:
        raise DeviceError(
            f"{path}: {len(topics)} topics of the bag hold events ({known}); expected one: name "
            "it with the setting 'topic'"
        )
    return topics[0]


def _messages(path: str, bag: Any, topic: str, dialect: _Dialect) -> Iterator[Any]:
    """The messages of a topic, in the bag's order."""
    chosen = [c for c in bag.connections if c.topic == topic and c.msgtype == MESSAGE]
    for connection in chosen:
        # bags without definitions have no digest
        if connection.digest and connection.digest != dialect.digest:
            raise DeviceError(
                f"{path}: {MESSAGE} of topic {topic} has the digest {connection.digest[:80]}; "
                f"expected {dialect.digest}: another version of the package wrote it"
            )
    for _, _, raw in bag.messages(chosen):
        yield dialect.decode(raw)


def _words(message: Any, recording: Recording) -> NDArray[np.uint16]:
    """The message's EVT 3.0 words; half a word at its end is counted."""
    raw = message.events.tobytes()
    if len(raw) % 2:
        recording.counts["truncated"] += 1
        raw = raw[:-1]
    return np.frombuffer(raw, ">u2" if message.is_bigendian else "<u2").astype("<u2", copy=False)


def _check_message(path: str, message: Any, count: int, recording: Recording) -> None:
    found = (message.encoding, int(message.width), int(message.height))
    if found != ("evt3", recording.width, recording.height):
        raise DeviceError(
            f"{path}: message {count} of the topic is {found[0][:40]!r} of a sensor of "
            f"{found[1]}x{found[2]} pixels; expected 'evt3' of {recording.width}x"
            f"{recording.height} in all: convert the bag to .raw, or record with encoding evt3"
        )
