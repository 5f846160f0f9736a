"""Everything that reads bytes nobody vouches for, one function each: `try_one(data)`.

It gives True when the bytes were read and False when they were refused with the error that the
reader declares. Anything else that is raised is a finding. The seeds are small valid inputs, made
by our own writers or by the libraries that own the format.
"""

from __future__ import annotations

import io
import itertools
import socket
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from streamflow import control, edge_messages, packet, yaml_file
from streamflow.edge import NEVER, Sender
from streamflow.errors import (
    DeviceError,
    GraphError,
    NodeError,
    PacketError,
    StreamflowError,
    TransportError,
)
from streamflow.packet import EVENT, SPIKE, Events, Packet, Samples, Spikes, Table, Tensor, Text

SHIPPED = Path(__file__).resolve().parents[2] / "graphs"
PAYLOADS = (Events, Samples, Spikes, Tensor, Table, Text)


class Target(NamedTuple):
    """One reader: what fuzzing gives it, and what it may raise."""

    name: str
    prepare: Callable[[], Callable[[bytes], bool]]
    """Makes `try_one`; what it needs is opened and compiled before."""
    seeds: Callable[[], list[bytes]]
    ours: bool = True
    """Whether the decoder is ours, or a library's behind our checks."""


@cache
def folder() -> Path:
    """Where inputs are put for readers that take a path; in memory where that is possible."""
    memory = Path("/dev/shm")
    keep = tempfile.TemporaryDirectory(
        prefix="fuzz-", dir=memory if memory.is_dir() else None, ignore_cleanup_errors=True
    )
    _kept.append(keep)
    return Path(keep.name)


_kept: list[Any] = []  # removed when the process ends


def _refused(error: StreamflowError | ValueError, names: str | Path) -> bool:
    """False, as what was refused gives, when the error names what it is about and is no novel."""
    if str(names) not in str(error) or len(str(error)) > 200_000:
        raise AssertionError(f"an error that does not name {names}: {str(error)[:500]}")
    return False


# --- what comes over an edge ----------------------------------------------------------------------


def _events(count: int = 40) -> Any:
    array = np.zeros(count, EVENT)
    array["timestamp"] = 1000 + 37 * np.arange(count)
    array["x"], array["y"] = np.arange(count) % 32, np.arange(count) % 24
    array["polarity"] = np.arange(count) % 2
    return array


def _packets() -> list[Packet[Any]]:
    rows = np.zeros(3, [("time_us", "<f8"), ("class", "S4"), ("at", "<i2", (2,))])
    spikes = np.zeros(4, SPIKE)
    payloads = [
        Events(_events(), 32, 24),
        Samples(np.zeros((8, 2), np.float32), 16000, 5),
        Spikes(spikes, 7),
        Tensor(np.arange(12.0).reshape(3, 4), ("time", "unit"), 100),
        Table(rows),
        Text.of("read me"),
        Events(_events(0), 32, 24),
    ]
    return [Packet(10, 20, payload) for payload in payloads]


def _packet_seeds() -> list[bytes]:
    return [bytes([PAYLOADS.index(type(p.data))]) + packet.encode(p) for p in _packets()]


def _read_packet() -> Callable[[bytes], bool]:
    def try_one(data: bytes) -> bool:
        kind = PAYLOADS[data[0] % len(PAYLOADS)] if data else Text
        message = data[1:]
        try:
            read: Packet[Any] = packet.decode(message, kind)
        except PacketError:
            return False
        assert read.data.array.nbytes <= len(message)
        len(read.data)
        packet.encode(read)  # what was let in can be passed on
        return True

    return try_one


def _read_description() -> Callable[[bytes], bool]:
    """The words alone, behind a header that is always right, so that each input gets to them."""

    def try_one(data: bytes) -> bool:
        kind = PAYLOADS[data[0] % len(PAYLOADS)] if data else Text
        length = data[1] if len(data) > 1 else 0
        raw = np.zeros(length, np.uint8)
        try:
            read = packet.rebuild(kind, data[2:], raw)
        except PacketError:
            return False
        assert read.array.nbytes <= length
        return True

    return try_one


def _description_seeds() -> list[bytes]:
    seeds = []
    for each in _packets():
        nbytes = each.data.array.nbytes
        if nbytes < 256:
            meta = packet.describe(each.data).lstrip(b"\0")
            seeds.append(bytes([PAYLOADS.index(type(each.data)), nbytes]) + meta)
    return seeds


def _read_header() -> Callable[[bytes], bool]:
    def try_one(data: bytes) -> bool:
        try:
            header = packet.read_header(data)
        except PacketError:
            return False
        assert header.meta <= len(data)
        return True

    return try_one


def _read_message() -> Callable[[bytes], bool]:
    """What a consumer sends back: its greeting, credits; and watermarks, at both ends' logic."""

    def try_one(data: bytes) -> bool:
        sender = Sender("block", 64, 8)
        for sequence in range(1, 12):
            sender.offer(sequence, 1)
        try:
            kind = packet.kind_of(data)
            if kind == packet.HELLO:
                hello = edge_messages.read_hello(data)
                sender.connect(
                    hello.window, hello.received_through, hello.handled_through, hello.held
                )
                sender.reconcile(hello.handled, hello.handled_items, hello.held)
            elif kind == packet.CREDIT:
                sender.connect(8, 0, 0, ())
                while sender.take() is not None:
                    pass
                sender.acknowledge(edge_messages.read_credits(data))
            elif kind in (packet.TICK, packet.END):
                edge_messages.read_watermark(data)
            else:
                return False
        except PacketError:
            return False
        sender.take()
        return True

    return try_one


def _message_seeds() -> list[bytes]:
    hello = edge_messages.Hello(packet.WIRE_VERSION, 8, 5, 4, 4, 40, (3, 5), False)
    marks = edge_messages.MARK
    return [
        marks[packet.HELLO] + msgspec.msgpack.encode(hello),
        marks[packet.CREDIT] + struct.pack("<3Q", 1, 2, 3),
        marks[packet.TICK] + struct.pack("<qQQ", 5, 0, 0),
        marks[packet.END] + struct.pack("<qQQ", 5, 7, 1),
    ]


def _unpack_events() -> Callable[[bytes], bool]:
    from streamflow.packing import EVENTS8, unpack

    def try_one(data: bytes) -> bool:
        nbytes = int.from_bytes(data[:4], "little")
        try:
            raw = unpack(EVENTS8, data[4:], nbytes)
        except PacketError:
            return False
        assert raw.nbytes == nbytes
        assert raw.nbytes < 2 * len(data)
        return True

    return try_one


def _packed_event_seeds() -> list[bytes]:
    from streamflow.packing import pack_events

    seeds = []
    for count in (2, 40):
        array = _events(count)
        packed = pack_events(array.tobytes())
        assert packed is not None
        seeds.append(array.nbytes.to_bytes(4, "little") + packed)
    return seeds


def _read_control() -> Callable[[bytes], bool]:
    def try_one(data: bytes) -> bool:
        ours, theirs = socket.socketpair()
        connection = control.Control(ours)
        try:
            with theirs:
                # half of the inputs say their length themselves
                head = b"" if data[:1] < b"\x80" else struct.pack("<II", len(data) - 1, 0)
                theirs.sendall(head + data[1:])
            for message in connection.receive():
                assert isinstance(message["op"], str)
        except TransportError:
            assert not connection.open
            return False
        finally:
            connection.close()
        return True

    return try_one


def _control_seeds() -> list[bytes]:
    body = msgspec.msgpack.encode({"op": "ready", "faults": {"a": 1}, "results": [1.5, "x", b"y"]})
    return [b"\xff" + body, b"\0" + struct.pack("<II", len(body), 0) + body]


# --- graph files ----------------------------------------------------------------------------------


def _read_yaml() -> Callable[[bytes], bool]:
    def try_one(data: bytes) -> bool:
        try:
            yaml_file.plain(yaml_file.parse(data, "graph.yaml"))
        except GraphError as error:
            return _refused(error, "graph.yaml")
        return True

    return try_one


def _yaml_seeds() -> list[bytes]:
    return [
        b"nodes:\n  a: {kind: window, settings: {length: 0x10, on: [true, 1.5e3, ~, .inf]}}\n",
        b"a: &x {b: \"\\u00e4\", c: 'd'}\nb: [*x, *x, <<]\n? [1]\n: |\n  text\n",
        *(path.read_bytes() for path in sorted(SHIPPED.glob("*/graph.yaml"))),
    ]


def _read_graph() -> Callable[[bytes], bool]:
    from streamflow import graph

    path = folder() / "graph.yaml"

    def try_one(data: bytes) -> bool:
        path.write_bytes(data)
        try:
            graph.load(path)
        except GraphError:
            return False
        return True

    return try_one


def _graph_seeds() -> list[bytes]:
    small = b"""nodes:
  camera: {kind: event_file, settings: {path: a.raw}}
  quiet: {kind: hot_pixels, inputs: {events: {from: camera.events, when_full: block, capacity: 4}}}
  out: {kind: event_file_writer, inputs: {events: quiet.events}, settings: {path: b.es}}
processes: {hot: {nodes: [camera, quiet], restart: {when: on_failure, maximum: 3}}}
limits: {drain_seconds: 5}
"""
    return [small, *(path.read_bytes() for path in sorted(SHIPPED.glob("*/graph.yaml")))]


# --- recordings -----------------------------------------------------------------------------------

HEADERS = {
    "EVT2": b"% evt 2.0\n% geometry 32x24\n% end\n",
    "EVT3": b"% evt 3.0\n% format EVT3;height=24;width=32\n% end\n",
    "DAT": b"% Version 2\n% Width 32\n% Height 24\n% end\n\x0c\x08",
}


def _recorded(form: str) -> bytes:
    from streamflow_nodes.events.formats import FORMATS

    chosen = FORMATS[form]
    registers = np.array(chosen.registers, np.int64)
    head = chosen.head((32, 24), 1000, registers)
    return head + chosen.encode(_events().view(np.int64), 24, registers)


def _read_recording(suffix: str, most: int = 4_000_000) -> Callable[[], Callable[[bytes], bool]]:
    """`most` bounds the events that small inputs may give: EVT3 has 12 in a word, HDF5 repeats."""

    def prepare() -> Callable[[bytes], bool]:
        from streamflow_nodes.events.readers import open_recording
        from streamflow_nodes.events.recording import Layout

        path = folder() / f"a{suffix}"
        layouts = (
            Layout(width=32, height=24),
            Layout(width=128, height=128, columns="x,y,p,t", delimiter=";"),
        )

        def try_one(data: bytes) -> bool:
            path.write_bytes(data)
            for layout in layouts:
                try:
                    recording = open_recording(str(path), layout)
                    count = 0
                    for words in recording.chunks():
                        assert words.dtype == np.int64
                        assert words.flags.writeable
                        count += len(words) // 2
                except DeviceError as error:
                    _refused(error, path)
                else:
                    assert count <= most, f"{count} events in {len(data)} bytes"
                    return True
            return False

        for seed in _any_seeds():  # compiles
            try_one(seed)
        return try_one

    return prepare


def _any_seeds() -> list[bytes]:
    return [_recorded("evt2"), _recorded("evt3"), _recorded("es"), _recorded("csv"), _dat()]


def _evt2_seeds() -> list[bytes]:
    return [_recorded("evt2"), HEADERS["EVT2"] + bytes(range(64))]


def _evt3_seeds() -> list[bytes]:
    return [_recorded("evt3"), HEADERS["EVT3"] + bytes(range(64))]


def _dat() -> bytes:
    words = np.zeros((20, 2), "<u4")
    words[:, 0], words[:, 1] = 1000 + np.arange(20), np.arange(20) | 3 << 14
    return HEADERS["DAT"] + words.tobytes()


def _dvs128() -> bytes:
    words = np.zeros((20, 2), ">u4")
    words[:, 0], words[:, 1] = np.arange(20) << 1, 1000 + np.arange(20)
    return b"#!AER-DAT2.0\r\n# chip DVS128\r\n" + words.tobytes()


def _csv_seeds() -> list[bytes]:
    return [_recorded("csv"), b"# c\n1,2,1,1000\n3;4;0;2000\n", b"x y p t\r\n1 2 -1 7\r\n"]


def _npz_seeds() -> list[bytes]:
    array = _events(10)
    one, apart, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    names = {"t": "timestamp", "x": "x", "y": "y", "p": "polarity"}
    columns = {name: array[field] for name, field in names.items()}
    np.savez(apart, width=np.int64(32), height=np.int64(24), **columns)
    np.savez_compressed(packed, **columns)
    np.savez(one, events=np.rec.fromarrays(list(columns.values()), names="t,x,y,p"))
    return [apart.getvalue(), packed.getvalue(), one.getvalue()]


def _hdf5_seeds() -> list[bytes]:
    import h5py

    columns = [("t", "timestamp"), ("x", "x"), ("y", "y"), ("p", "polarity")]
    seeds = []
    for options in ({}, {"chunks": (8,), "compression": "gzip"}):
        path = folder() / "seed.h5"
        with h5py.File(path, "w") as file:
            for name, field in columns:
                file.create_dataset(f"events/{name}", data=_events(16)[field], **options)
            file["t_offset"] = np.int64(5)
        seeds.append(path.read_bytes())
    return seeds


def _parquet_seeds() -> list[bytes]:
    import pyarrow
    from pyarrow import parquet

    array = _events(16)
    table = pyarrow.table(
        {"t": array["timestamp"], "x": array["x"], "y": array["y"], "p": array["polarity"]}
    )
    out = io.BytesIO()
    parquet.write_table(table, out, compression="zstd")
    return [out.getvalue()]


def _bag_seeds() -> list[bytes]:
    from rosbags import rosbag1
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    from streamflow_nodes.events.ros_readers import DEFINITION, MESSAGE

    types = get_typestore(Stores.ROS1_NOETIC)
    types.register(get_types_from_msg(DEFINITION, MESSAGE))
    Message, Header = types.types[MESSAGE], types.types["std_msgs/msg/Header"]
    Time = types.types["builtin_interfaces/msg/Time"]
    words = np.frombuffer(_recorded("evt3").partition(b"% end\n")[2], np.uint8)
    path = folder() / "seed.bag"
    path.unlink(missing_ok=True)
    with rosbag1.Writer(path) as writer:
        topic = writer.add_connection("/events", MESSAGE, typestore=types)
        for number in range(2):
            header = Header(seq=number, stamp=Time(1, 0), frame_id="")
            message = Message(
                header=header, height=24, width=32, seq=number, time_base=0, encoding="evt3",
                is_bigendian=False, events=words,
            )  # fmt: skip
            writer.write(topic, number, types.serialize_ros1(message, MESSAGE))
    return [path.read_bytes()]


def _play_recording() -> Callable[[bytes], bool]:
    """The node with its order, gaps and slices, not the decoder alone."""
    from streamflow_nodes.sources.event_file import EventFile

    path = folder() / "play.raw"
    paths = {b"%": path, b"E": path.with_suffix(".es"), b"P": path.with_suffix(".npz")}

    def try_one(data: bytes) -> bool:
        path = paths.get(data[:1], paths[b"%"].with_suffix(".csv"))
        path.write_bytes(data)
        node = EventFile(
            {"path": str(path), "width": 32, "height": 24, "packet_duration": 0.1}, name="camera"
        )
        before = NEVER
        try:
            node.open()
            for emission in itertools.islice(node.produce(), 200):
                start, array = emission.packet.start, emission.packet.data.array
                assert before <= start <= emission.packet.stop
                assert (array["timestamp"] >= start).all()
                before = start
            node.results()
        except (DeviceError, NodeError):
            return False
        finally:
            node.close()
        return True

    for seed in _any_seeds():
        try_one(seed)
    return try_one


# --- datagrams ------------------------------------------------------------------------------------


def _take_datagrams() -> Callable[[bytes], bool]:
    """A node of each format, which goes on through all inputs as it would through a day of them."""
    from streamflow_nodes.kernels.udp_events import LAYOUTS
    from streamflow_nodes.sources.udp_events import UdpEvents

    nodes = [UdpEvents({"port": 0, "width": 32, "height": 24, "format": form}) for form in LAYOUTS]
    for node in nodes:
        node.open()
        node.close()  # its socket: what is decoded here did not come through one
    times = itertools.count(0, 1_000_000)

    def try_one(data: bytes) -> bool:
        node = nodes[data[0] % len(nodes)] if data else nodes[0]
        cut = data[1] if len(data) > 1 else 0
        body = data[2:]
        lengths = [min(cut, len(body)), max(0, len(body) - cut)]
        node._view[: len(body)] = body
        now = node._begun_ns + next(times)
        before = node._stream.time if hasattr(node._stream, "time") else None
        node._decode(len(body), lengths, now)
        for start, stop, array in itertools.islice(node._stream.slices(now), 1000):
            assert start <= stop
            assert array["x"].max(initial=0) < 32
            assert array["y"].max(initial=0) < 24
            assert (np.diff(array["timestamp"]) >= 0).all()
            assert before is None or start >= before
        return True

    return try_one


def _datagram_seeds() -> list[bytes]:
    timed = struct.pack("<QHHB", 1000, 3, 4, 1) + struct.pack("<QHHB", 1010, 5, 6, 0)
    short = struct.pack("<IHH", 1000, 3, 4 | 1 << 15) * 2
    spif = struct.pack("<II", 0x80030004, 0x00010002)
    return [bytes([k, 13]) + body for k, body in enumerate((timed, short, spif, spif * 2))]


# --- models, truth, rows --------------------------------------------------------------------------


def _read_nir() -> Callable[[bytes], bool]:
    from streamflow_nodes.networks.compiler import compile_network
    from streamflow_nodes.networks.nir_file import NetworkError
    from streamflow_nodes.networks.rules import Rules
    from streamflow_nodes.networks.wiring import read_network

    path = folder() / "model.nir"

    def try_one(data: bytes) -> bool:
        path.write_bytes(data)
        try:
            wiring = read_network(path)
        except NetworkError as error:
            return _refused(error, path)
        try:
            compile_network(wiring, Rules(5e-5))
        except NetworkError:  # names the node; who has read the file names that
            return False
        return True

    return try_one


def _nir_seeds() -> list[bytes]:
    import nir

    units = np.full(3, 1e-3)
    nodes = {
        "input": nir.Input(np.array([2, 1, 2])),
        "flat": nir.Flatten(np.array([2, 1, 2]), 0, -1),
        "affine": nir.Affine(np.ones((3, 4)), np.zeros(3)),
        "lif": nir.LIF(units, units, units, units, units),
        "output": nir.Output(np.array([3])),
    }
    graph = nir.NIRGraph(
        nodes, list(itertools.pairwise(nodes)), metadata={"dt_us": 50}, type_check=False
    )
    seeds = []
    for compression in ("gzip", None):
        path = folder() / "seed.nir"
        nir.write(path, graph, compression=compression)
        seeds.append(path.read_bytes())
    return seeds


def _read_any_nir() -> Callable[[bytes], bool]:
    from streamflow_nodes.networks.nir_file import NetworkError
    from streamflow_nodes.networks.wiring import read_network

    path = folder() / "any.nir"

    def try_one(data: bytes) -> bool:
        path.write_bytes(data)
        try:
            read_network(path)
        except NetworkError as error:
            return _refused(error, path)
        return True

    return try_one


def _read_linear_rnn() -> Callable[[bytes], bool]:
    from streamflow_nodes.linear_rnn.model_file import read_model

    path = folder() / "model.safetensors"

    def try_one(data: bytes) -> bool:
        path.write_bytes(data)
        try:
            model = read_model(path)
        except DeviceError as error:
            return _refused(error, path)
        assert model.outputs > 0
        return True

    return try_one


def _linear_rnn_seeds() -> list[bytes]:
    from streamflow_nodes.linear_rnn.model_file import write_model

    half, one = np.full(2, 0.5, np.float32), np.ones((3, 3), np.float32)
    recurrent = {
        "lambda_re": -half, "lambda_im": half, "dt": half, "B_re": np.ones((2, 3), np.float32),
        "B_im": np.ones((2, 3), np.float32), "C_re": np.ones((3, 2), np.float32),
        "C_im": np.ones((3, 2), np.float32), "D": np.ones(3, np.float32), "gate.weight": one,
        "gate.bias": np.zeros(3, np.float32),
    }  # fmt: skip
    layers = [
        {"type": "dense", "name": "encoder", "activation": "relu"},
        {"type": "s5", "name": "s5", "norm": "none", "gate": "half1", "skip": True},
        {"type": "dense", "name": "decoder", "activation": "none"},
    ]
    tensors = {"encoder.weight": one, "decoder.weight": np.diag(np.ones(3, np.float32))}
    tensors |= {f"s5.{name}": array for name, array in recurrent.items()}
    path = folder() / "seed.safetensors"
    write_model(path, layers, tensors)
    return [path.read_bytes()]


def _read_model() -> Callable[[bytes], bool]:
    from streamflow_nodes.classifiers.count_classifier import CountClassifier

    path = folder() / "model.npz"

    def try_one(data: bytes) -> bool:
        path.write_bytes(data)
        node = CountClassifier({"model": str(path)})
        try:
            node.open()
        except NodeError as error:
            return _refused(error, "model")
        node.close()
        return True

    for seed in _model_seeds():
        assert try_one(seed)
    return try_one


def _model_seeds() -> list[bytes]:
    fields = {
        "weights": np.ones((2, 8)), "bias": np.zeros(2), "mean": np.zeros(8),
        "scale": np.ones(8), "grid": np.array([2, 2]), "window_us": np.int64(600),
        "classes": np.array(["A", "B"]),
    }  # fmt: skip
    plain, packed = io.BytesIO(), io.BytesIO()
    np.savez(plain, **fields)
    np.savez_compressed(packed, slices=np.int64(1), power=np.float64(1), **fields)
    return [plain.getvalue(), packed.getvalue()]


def _read_truth() -> Callable[[bytes], bool]:
    from streamflow_nodes.particles.scoring import read_truth

    path = folder() / "truth.csv"

    def try_one(data: bytes) -> bool:
        path.write_bytes(data)
        try:
            particles = read_truth(str(path), "score")
        except DeviceError as error:
            return _refused(error, path)
        assert all(np.isfinite(particle.time) for particle in particles)
        return True

    return try_one


def _truth_seeds() -> list[bytes]:
    return [b'time_us,class,kind,overlaps\n1000.5,A,bead,0\n2000,"B,C",debris,1\n']


def _score_rows() -> Callable[[bytes], bool]:
    """Tables of any rows, as they come over an edge, at the sinks that take particles."""
    from streamflow_nodes.sinks.csv_file import CsvFile
    from streamflow_nodes.sinks.fcs_file import FcsFile
    from streamflow_nodes.sinks.particle_scorer import ParticleScorer

    out = folder()

    def try_one(data: bytes) -> bool:
        try:
            rows: Packet[Any] = packet.decode(data[1:], Table)
        except PacketError:
            return False
        which = data[0] % 3
        if which == 0:
            node: Any = ParticleScorer()
        elif which == 1:
            node = CsvFile({"path": str(out / "rows.csv")})
        else:
            node = FcsFile({"path": str(out / "rows.fcs"), "classes": ["A", "B"]})
        try:
            node.open()
            try:
                list(node.on_rows(rows) or ())
                list(node.finish() or ())
                msgspec.json.encode(node.results())
            finally:
                node.close()
        except StreamflowError:
            return False
        return True

    for seed in _row_seeds():
        assert try_one(seed)
    return try_one


def _row_seeds() -> list[bytes]:
    from streamflow_nodes.particles.rows import PARTICLE

    rows = np.zeros(3, PARTICLE)
    rows["class"], rows["time_us"] = b"A", [1000, 2000, np.nan]
    rows["decided_us"], rows["diameter_um"] = 3000, np.nan
    message = packet.encode(Packet(0, 5000, Table(rows)))
    return [bytes([which]) + message for which in range(3)]


TARGETS = {
    target.name: target
    for target in (
        Target("packet header", _read_header, lambda: [packet.encode(p) for p in _packets()]),
        Target("packet", _read_packet, _packet_seeds),
        Target("packet description", _read_description, _description_seeds),
        Target("greeting and credits", _read_message, _message_seeds),
        Target("events in 8 bytes", _unpack_events, _packed_event_seeds),
        Target("control messages", _read_control, _control_seeds),
        Target("YAML", _read_yaml, _yaml_seeds),
        Target("graph check", _read_graph, _graph_seeds),
        Target("EVT2", _read_recording(".raw"), _evt2_seeds),
        Target("EVT3", _read_recording(".raw"), _evt3_seeds),
        Target("DAT", _read_recording(".dat"), lambda: [_dat()]),
        Target("AEDAT2", _read_recording(".aedat"), lambda: [_dvs128()]),
        Target("ES", _read_recording(".es"), lambda: [_recorded("es")]),
        Target("N-MNIST", _read_recording(".bin"), lambda: [bytes(range(60))]),
        Target("CSV", _read_recording(".csv"), _csv_seeds),
        Target("NPZ", _read_recording(".npz"), _npz_seeds),
        Target("event_file", _play_recording, _any_seeds),
        Target("UDP datagrams", _take_datagrams, _datagram_seeds),
        Target("model (.npz)", _read_model, _model_seeds),
        Target("truth (CSV)", _read_truth, _truth_seeds),
        Target("particle rows", _score_rows, _row_seeds),
        Target("model (NIR)", _read_nir, _nir_seeds, ours=False),
        Target("any network (NIR)", _read_any_nir, _nir_seeds, ours=False),
        Target("linear RNN (safetensors)", _read_linear_rnn, _linear_rnn_seeds, ours=False),
        Target("AEDAT4", _read_recording(".aedat4"), lambda: [_recorded("aedat4")], ours=False),
        Target("HDF5", _read_recording(".h5"), _hdf5_seeds, ours=False),
        Target("Parquet", _read_recording(".parquet"), _parquet_seeds, ours=False),
        Target("ROS 1 bag", _read_recording(".bag"), _bag_seeds, ours=False),
    )
}


def changed(seed: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    """`seed` with bytes set, inserted, cut off, left out or repeated: at a share of its length."""
    data = bytearray(seed)
    for what, place, value in changes:
        at = int(place * max(0, len(data) - 1))
        if what == "set" and data:
            data[at] = value & 255
        elif what == "insert":
            data[at:at] = value.to_bytes(8, "little")
        elif what == "number" and data:
            data[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
        elif what == "cut":
            del data[at:]
        elif what == "remove":
            del data[at : at + value % 17]
        elif what == "repeat":
            data[at:at] = data[at : at + value % 65]
    return bytes(data)
