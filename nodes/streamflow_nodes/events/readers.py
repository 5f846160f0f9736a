"""Event recordings on disk: which format a file has, its sensor, and its events in chunks.

`open_recording` looks at a file's first bytes (and, where a format has no mark of its own, at its
name), refuses what is not a recording of events, and gives chunks of events as the file says them:
in file order, coordinates unchecked. Nothing reads a whole file into memory.
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from streamflow.errors import DeviceError
from streamflow.packet import EVENT

from ..files.bounded import NPZ_FAULTS, npy_header, open_npz
from ..files.records import library
from ..kernels import event_records as records
from ..kernels import evt
from .column_readers import open_hdf5, open_parquet
from .recording import (
    BLOCK,
    COLUMN_NAMES,
    EventWords,
    Layout,
    Recording,
    count_skipped,
    evt3_events,
    fill_column,
    opened,
)  # fmt: skip
from .ros_readers import ROS_EVT3, is_ros2_folder, open_ros1, open_ros2

EXPECTED = (
    "expected EVT2 or EVT3 .raw, DAT, AEDAT4, AEDAT2 of a DVS128, Event Stream .es, N-MNIST .bin, "
    "CSV (.csv or .txt), NPZ, HDF5, Parquet or a ROS bag"
)
# Prophesee headers name the plugin that drove the camera where they do not give the geometry.
SENSORS = {
    "genx320": (320, 320),
    "imx636": (1280, 720),
    "gen41": (1280, 720),
    "gen4": (1280, 720),
    "gen31": (640, 480),
    "gen3": (640, 480),
}


def open_recording(path: str, layout: Layout) -> Recording:
    """The recording in the file `path`; DeviceError when it is none that can be read.

    The layout's `width` and `height` are for a file that does not say how large its sensor is; they
    must agree with one that does.
    """
    if is_ros2_folder(path):
        recording = open_ros2(path, layout.topic)
    else:
        with opened(path) as file:
            head = file.read(BLOCK)
        if not head:
            raise DeviceError(
                f"{path}: the file is empty; {EXPECTED}; copy it again, or record it again"
            )
        recording = _recognised(path, head, layout)
    width, height = layout.width, layout.height
    if recording.width is None and None not in (width, height):
        recording.width, recording.height = width, height
    _check_sensor(recording, width, height)
    return recording


def _recognised(path: str, head: bytes, layout: Layout) -> Recording:
    """The recording by its first bytes, then by its name."""
    if head.startswith(b"#!AER-DAT4"):
        return _open_aedat4(path)
    if head.startswith(b"#!AER-DAT2"):
        return _open_aedat2(path, head, layout.width, layout.height)
    if head.startswith(b"Event Stream"):
        return _open_es(path, head)
    if head.startswith(b"PK\x03\x04"):
        return _open_npz(path)
    if head.startswith(b"%"):
        return _open_prophesee(path, head)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return open_hdf5(path, layout.dataset)
    if head.startswith(b"PAR1"):
        return open_parquet(path)
    if head.startswith(b"#ROSBAG V2"):
        return open_ros1(path, layout.topic)
    if head.startswith((b"SQLite format 3\0", b"\x89MCAP0\r\n")):
        return open_ros2(path, layout.topic)
    suffix = Path(path).suffix.lower()
    if suffix == ".bin":
        return _open_nmnist(path)
    if suffix in (".csv", ".txt"):
        return _open_csv(path, head, layout)
    found = "is not a recording of events"
    for mark, name in (
        (b"#!AER-DAT", "is AEDAT of a version that is not read"),
        (b"#ROSBAG", "is a ROS bag of a version that is not read"),
    ):
        if head.startswith(mark):
            found = name
    if suffix == ".raw":
        found = "has no '% evt' header, so nothing says which EVT format it has"
    raise DeviceError(
        f"{path}: {found} (it begins with {head[:12]!r}); {EXPECTED}: convert it, or give "
        "another file"
    )


def _check_sensor(recording: Recording, width: int | None, height: int | None) -> None:
    """DeviceError when the sensor's size is unknown, impossible, or not what the settings say."""
    path, known = recording.path, (recording.width, recording.height)
    if None in known:
        raise DeviceError(
            f"{path}: the {recording.format} file does not say how large its sensor is; expected "
            "the settings 'width' and 'height' (pixels): set both, such as 640 and 480, or 34 and "
            "34 for N-MNIST"
        )
    if not all(side is not None and 0 < side <= 32767 for side in known):
        raise DeviceError(
            f"{path}: the header says that the sensor has {known[0]}x{known[1]} pixels; expected "
            "1 to 32767 each way: the file is damaged"
        )
    for name, said, side in (("width", width, known[0]), ("height", height, known[1])):
        if said is not None and said != side:
            raise DeviceError(
                f"{path}: the file says that its sensor has {known[0]}x{known[1]} pixels, the "
                f"setting '{name}' says {said}: leave '{name}' out"
            )


def _blocks(recording: Recording, offset: int, record: int) -> Iterator[bytes]:
    """The file from `offset` in blocks of whole records of `record` bytes; counts a cut one."""
    size = BLOCK // record * record
    with opened(recording.path) as file:
        whole = max(1, os.fstat(file.fileno()).st_size)
        file.seek(offset)
        while block := _read(file, recording.path, size):
            recording.read = min(1.0, file.tell() / whole)
            if len(block) % record:
                recording.counts["truncated"] += 1
                block = block[: len(block) // record * record]
            if block:
                yield block


def _read(file: BinaryIO, path: str, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise DeviceError(
            f"{path}: reading stopped at byte {file.tell()} ({error.strerror}); expected the rest "
            "of the recording: check the disk, or copy the file"
        ) from error


# --- Prophesee: EVT2, EVT3, DAT -------------------------------------------------------------------


def _open_prophesee(path: str, head: bytes) -> Recording:
    lines, offset = _header_lines(path, head)
    words = {line.split()[0].lower(): line.split()[1:] for line in lines if line.split()}
    width, height = _geometry(lines, words)
    if "evt" not in words and "format" not in words and "version" in words:
        return _open_dat(path, head, offset, words, width, height)
    version = _evt_version(words)
    if version not in ("2", "3"):
        raise DeviceError(
            f"{path}: the header says EVT {version or 'nothing'}; expected '% evt 2.0' or "
            "'% evt 3.0': convert the file with the camera maker's tools"
        )
    start = _header_time(path, words)
    recording = Recording(path, f"EVT{version}", width, height, lambda: iter(()))
    recording.chunks = lambda: _evt_chunks(recording, offset, version == "3", start)
    return recording


def _header_lines(path: str, head: bytes) -> tuple[list[str], int]:
    """The header's lines without their '%', and where the data starts."""
    lines: list[str] = []
    at = 0
    # data may begin with the byte of '%' too: only printable lines of "% text" are the header
    while match := re.compile(rb"%(?: ([ -~\t\x80-\xff]*))?\r?\n").match(head, at):
        at = match.end()
        lines.append((match.group(1) or b"").decode("latin-1").strip())
        if lines[-1] == "end":
            break
    if at == 0 or at >= BLOCK:
        raise DeviceError(
            f"{path}: begins with '%' but has no Prophesee header of lines '% name value'; "
            f"{EXPECTED}: the file is damaged"
        )
    return lines, at


def _geometry(lines: list[str], words: dict[str, list[str]]) -> tuple[int | None, int | None]:
    """Width and height as a Prophesee header gives them, else by the sensor it names."""
    text = "\n".join(lines)
    if match := re.search(r"^geometry (\d{1,6})x(\d{1,6})\b", text, re.MULTILINE):
        return int(match[1]), int(match[2])
    width = re.search(r"\bwidth[= ](\d{1,6})\b", text, re.IGNORECASE)
    height = re.search(r"\bheight[= ](\d{1,6})\b", text, re.IGNORECASE)
    if width and height:
        return int(width[1]), int(height[1])
    plugin = " ".join(words.get("plugin_name", []) + words.get("sensor_name", []))
    for sensor, size in SENSORS.items():
        if sensor in plugin.lower():
            return size
    return None, None


def _evt_version(words: dict[str, list[str]]) -> str:
    """'2', '2.1' or '3', else what the header says."""
    said = (words.get("evt") or [""])[0]
    if not said and "format" in words:
        said = (
            (words["format"] or [""])[0]
            .split(";")[0]
            .upper()
            .removeprefix("EVT")
            .replace("21", "2.1")
        )
    return said.removesuffix(".0")


def _header_time(path: str, words: dict[str, list[str]]) -> int:
    """What the header's '% t0' adds to every time (us); 0 without it."""
    said = (words.get("t0") or ["0"])[0]
    if not re.fullmatch(r"\d{1,18}", said):
        raise DeviceError(
            f"{path}: the header says t0 {said[:30]!r}; expected microseconds: it is damaged"
        )
    return int(said)


def _evt_chunks(
    recording: Recording, offset: int, is_evt3: bool, start: int
) -> Iterator[EventWords]:
    registers = evt.new_registers()
    for block in _blocks(recording, offset, 2 if is_evt3 else 4):
        if is_evt3:
            events = evt3_events(np.frombuffer(block, "<u2"), registers, recording.counts)
        else:
            words = np.frombuffer(block, "<u4")
            events = np.empty(2 * len(words), np.int64)
            events = events[: 2 * evt.decode_evt2(words, registers, events)]
            count_skipped(registers, recording.counts)
        if start:
            events[::2] += start
        yield events


def _open_dat(
    path: str,
    head: bytes,
    offset: int,
    words: dict[str, list[str]],
    width: int | None,
    height: int | None,
) -> Recording:
    version = (words.get("version") or ["2"])[0]
    mark = head[offset : offset + 2]
    if version not in ("1", "2") or mark not in (b"\x00\x08", b"\x0c\x08"):
        raise DeviceError(
            f"{path}: DAT version {version} with records {mark.hex(' ')}; expected version 1 or 2 "
            "with change-detection events of 8 bytes (00 08 or 0c 08): it holds something else, "
            "such as triggers, or is damaged"
        )

    def chunks() -> Iterator[EventWords]:
        registers = np.array([-1, 0], np.int64)
        for block in _blocks(recording, offset + 2, 8):
            events = np.empty(2 * (len(block) // 8), np.int64)
            records.decode_dat(np.frombuffer(block, "<u4"), int(version), registers, events)
            yield events

    recording = Recording(path, "DAT", width, height, chunks)
    return recording


# --- AEDAT, Event Stream, N-MNIST -----------------------------------------------------------------


def _open_aedat4(path: str) -> Recording:
    faery = library("faery", path, "events")
    _check_aedat4_header(path)
    with _faery_errors(path, "opened"):
        stream = faery.events_stream_from_file(path, file_type="aedat")
        width, height = stream.dimensions()

    def chunks() -> Iterator[EventWords]:
        batches = iter(stream)
        while True:
            batch = None
            with _faery_errors(path, "read on", recording):
                batch = next(batches, None)
            if batch is None:
                return
            words = np.empty(2 * len(batch), np.int64)
            records.decode_faery(batch.view(np.uint8), words)
            yield words

    recording = Recording(path, "AEDAT4", width, height, chunks)
    return recording


def _check_aedat4_header(path: str) -> None:
    """DeviceError when the header says that it is longer than the file, or holds no text.

    faery would reserve what the header says before it reads, and it ends the process (Rust's abort)
    where the description is not UTF-8.
    """
    with opened(path) as file:
        length = int.from_bytes(file.read(18)[14:], "little")
        if not 0 < length <= Path(path).stat().st_size - 18:
            raise DeviceError(
                f"{path}: the AEDAT4 header says {length} bytes, which the file does not have; "
                "expected a whole header: the file is cut off or damaged"
            )
        header = file.read(min(length, AEDAT4_HEADER + 1))
    try:
        if length > AEDAT4_HEADER:
            raise ValueError(f"{length} bytes, over {AEDAT4_HEADER}")
        info, end = _aedat4_info(header)
        info.decode()
    except (ValueError, struct.error) as error:
        raise DeviceError(
            f"{path}: the AEDAT4 header cannot be read ({error}); expected a description of the "
            "streams in UTF-8: the file is damaged"
        ) from error
    _check_aedat4_packets(path, 18 + length, end)


AEDAT4_HEADER = 1 << 20  # bytes
AEDAT4_PACKET = 1 << 26  # bytes that a packet which is cut off may say that it has


def _aedat4_info(header: bytes) -> tuple[bytes, int]:
    """What an AEDAT4 header, a flatbuffer, has as its third and second fields.

    They are the description, and where in the file its table of packets begins (0: it has none).
    """

    def at(form: str, place: int) -> int:
        if place < 0:
            raise ValueError("it points before its beginning")
        return int(struct.unpack_from(form, header, place)[0])

    table = at("<I", 0)
    fields = table - at("<i", table)
    size = at("<H", fields)
    offset = at("<H", fields + 6) if size >= 8 else 0
    end = max(0, at("<q", table + offset)) if offset else 0
    offset = at("<H", fields + 8) if size >= 10 else 0
    if not offset:
        return b"", end
    text = table + offset + at("<I", table + offset)
    length = at("<I", text)
    if text + 4 + length > len(header):
        raise ValueError("its description ends beyond it")
    return header[text + 4 : text + 4 + length], end


def _check_aedat4_packets(path: str, at: int, end: int) -> None:
    """DeviceError where a packet says that it goes far beyond the file: faery would reserve it."""
    with opened(path) as file:
        whole = os.fstat(file.fileno()).st_size
        while at < min(end or whole, whole):
            file.seek(at)
            length = int.from_bytes(file.read(8)[4:], "little")
            if length > max(AEDAT4_PACKET, whole - at):
                raise DeviceError(
                    f"{path}: an AEDAT4 packet says {length} bytes, which the file does not have; "
                    "expected whole packets: the file is damaged"
                )
            if not length:
                return  # what follows are no packets
            at += 8 + length


@contextmanager
def _faery_errors(path: str, verb: str, recording: Recording | None = None) -> Iterator[None]:
    """Turn faery's errors into DeviceError, and a file that ends inside a packet into a count."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic in Rust arrives as a BaseException
        if recording is not None and "failed to fill whole buffer" in str(error):
            recording.counts["truncated"] += 1
            return
        raise DeviceError(
            f"{path}: the AEDAT4 file cannot be {verb} ({error}); expected a recording with a "
            "stream of events: it is damaged, or was made without events"
        ) from error


def _open_aedat2(path: str, head: bytes, width: int | None, height: int | None) -> Recording:
    offset = 0
    while match := re.compile(rb"#[ -~\t\x80-\xff]*\r?\n").match(head, offset):
        offset = match.end()
    chip = b"DVS128" in head[:offset].upper()
    if not chip and (width, height) != (128, 128):
        raise DeviceError(
            f"{path}: the AEDAT2 file holds addresses and does not say of which sensor (it may be "
            "a cochlea); expected a DVS128: if it is one, set 'width' and 'height' to 128; convert "
            "a recording of another sensor to AEDAT4"
        )

    def chunks() -> Iterator[EventWords]:
        registers = np.array([-1, 0, 0], np.int64)
        for block in _blocks(recording, offset, 8):
            events = np.empty(2 * (len(block) // 8), np.int64)
            count = records.decode_dvs128(np.frombuffer(block, np.uint8), registers, events)
            recording.counts["triggers"] = int(registers[2])
            yield events[: 2 * count]

    recording = Recording(path, "AEDAT2", 128, 128, chunks)
    return recording


def _open_es(path: str, head: bytes) -> Recording:
    kinds = {0: "generic data", 1: "DVS events", 2: "ATIS events", 4: "colour events"}
    kind = head[15] if len(head) > 15 else -1
    if len(head) < 20 or head[12] != 2 or kind != 1:
        what = kinds.get(kind, "something unknown") if len(head) > 15 else "nothing: it is cut off"
        raise DeviceError(
            f"{path}: the Event Stream file (version {head[12] if len(head) > 12 else '?'}) holds "
            f"{what}; expected version 2 with DVS events: convert it, or give another file"
        )
    width, height = int.from_bytes(head[16:18], "little"), int.from_bytes(head[18:20], "little")

    def chunks() -> Iterator[EventWords]:
        registers = np.zeros(5, np.int64)
        for block in _blocks(recording, 20, 1):
            events = np.empty(2 * (len(block) // 5 + 1), np.int64)
            data = np.frombuffer(block, np.uint8)
            yield events[: 2 * records.decode_es(data, height, registers, events)]
        if registers[1]:
            recording.counts["truncated"] += 1

    recording = Recording(path, "ES", width, height, chunks)
    return recording


def _open_nmnist(path: str) -> Recording:
    def chunks() -> Iterator[EventWords]:
        registers = np.zeros(1, np.int64)
        for block in _blocks(recording, 0, 5):
            events = np.empty(2 * (len(block) // 5), np.int64)
            count = records.decode_nmnist(np.frombuffer(block, np.uint8), registers, events)
            yield events[: 2 * count]

    recording = Recording(path, "N-MNIST", None, None, chunks)
    return recording


# --- CSV ------------------------------------------------------------------------------------------


def _open_csv(path: str, head: bytes, layout: Layout) -> Recording:
    columns, header_lines, offset = _columns(path, head, layout)

    def chunks() -> Iterator[EventWords]:
        result, line = np.zeros(3, np.int64), header_lines
        delimiter = ord(layout.delimiter)
        for text in _whole_lines(recording, offset):
            data = np.frombuffer(text, np.uint8)
            events = np.empty(2 * text.count(b"\n"), np.int64)
            count = records.decode_csv(data, columns, delimiter, layout.scale, result, events)
            if result[0] != records.GOOD:
                raise _bad_line(path, text, line, result)
            line += int(result[1])
            yield events[: 2 * count]

    recording = Recording(path, "CSV", None, None, chunks)
    return recording


def _columns(path: str, head: bytes, layout: Layout) -> tuple[NDArray[np.int64], int, int]:
    """Where time, x, y and polarity stand, how many lines the header has and its length."""
    at = lines = 0
    names, first = layout.columns, ""
    while at < len(head):
        end = head.find(b"\n", at)
        end = len(head) if end < 0 else end + 1
        first = head[at:end].decode("latin-1").strip()
        if first and not first.startswith("#"):
            if re.match(r"[A-Za-z_\"']", first):
                names, at, lines = names or first, end, lines + 1
            break
        at, lines = end, lines + 1
    separator = None if layout.delimiter in " \t" and "," not in names else layout.delimiter
    if layout.columns:
        separator = ","
    known = [COLUMN_NAMES.get(name.strip().lower(), "") for name in names.split(separator)]
    if any(known.count(name) != 1 for name in "txyp"):
        raise DeviceError(
            f"{path}: nothing says which column is which (first line: {first[:60]!r}"
            + (f", columns: {names[:60]!r}" if names else "")
            + "); expected a header that names t, x, y and p, or the setting 'columns' such as "
            "'x,y,p,t' (and 'delimiter' where it is not a comma)"
        )
    return np.array([known.index(name) for name in "txyp"], np.int64), lines, at


def _whole_lines(recording: Recording, offset: int) -> Iterator[bytes]:
    """The file from `offset` in blocks that end with a newline."""
    rest = b""
    for block in _blocks(recording, offset, 1):
        text = rest + block
        cut = text.rfind(b"\n") + 1
        rest = text[cut:]
        if len(rest) > BLOCK // 4:
            raise DeviceError(
                f"{recording.path}: a line of over {BLOCK // 4} bytes; expected lines of text "
                "such as '12,34,1,56': it is not CSV"
            )
        if cut:
            yield text[:cut]
    if rest:
        yield rest + b"\n"


def _bad_line(path: str, text: bytes, line: int, result: NDArray[np.int64]) -> DeviceError:
    wrong, at, column = (int(value) for value in result)
    content = text.split(b"\n")[at].decode("latin-1").strip()
    what = {
        records.NOT_A_NUMBER: f"column {column + 1} is not a number",
        records.MISSING_COLUMN: f"there are only {column + 1} columns",
        records.TOO_LARGE: f"column {column + 1} is too large",
        records.HAS_DECIMALS: f"column {column + 1} has decimals",
    }[wrong]
    todo = (
        "set 'time_unit' to 's' if times are in seconds"
        if wrong == records.HAS_DECIMALS
        else "correct the line, or the settings 'columns' and 'delimiter'"
    )
    return DeviceError(
        f"{path}:{line + at + 1}: {what} ({content[:80]!r}); expected numbers for t, x, y and p: "
        f"{todo}"
    )


# --- NPZ ------------------------------------------------------------------------------------------


def _open_npz(path: str) -> Recording:
    try:
        archive = open_npz(path)
        members = {Path(name).stem.lower(): name for name in archive.namelist()}
        columns = _npz_columns(archive, members)
        size = [_npz_number(archive, members, side) for side in ("width", "height")]
    except NPZ_FAULTS as error:
        raise DeviceError(
            f"{path}: {error}; expected an NPZ archive with one-dimensional numbers t (us), x, y "
            "and p of one length, or one array with those fields: save it again with numpy.savez"
        ) from error

    def chunks() -> Iterator[EventWords]:
        try:
            yield from _npz_chunks(archive, columns)
        except NPZ_FAULTS as error:
            raise DeviceError(
                f"{path}: the archive is damaged from here on ({error}); copy it or save it again"
            ) from error

    return Recording(path, "NPZ", size[0], size[1], chunks)


def _npz_columns(
    archive: zipfile.ZipFile, members: dict[str, str]
) -> dict[str, tuple[str, str | None]]:
    """For each of t, x, y, p: the member that holds it, and the field in it."""
    found: dict[str, tuple[str, str | None]] = {}
    for stem, member in members.items():
        with archive.open(member) as stream:
            shape, _, dtype = npy_header(stream)
        if len(shape) != 1:
            continue
        if dtype.names is None and stem in COLUMN_NAMES:
            found[COLUMN_NAMES[stem]] = (member, None)
        for name in dtype.names or ():
            if name.lower() in COLUMN_NAMES:
                found[COLUMN_NAMES[name.lower()]] = (member, name)
        for name, (where, part) in found.items():
            kind = (dtype[part] if part else dtype).base.kind if where == member else "i"
            if kind not in "iub":
                raise ValueError(f"{name} does not hold whole numbers (times are in us)")
    if missing := [name for name in "txyp" if name not in found]:
        raise ValueError(f"nothing in it is called {' or '.join(missing)}")
    return found


def _npz_number(archive: zipfile.ZipFile, members: dict[str, str], name: str) -> int | None:
    if name not in members:
        return None
    with archive.open(members[name]) as stream:
        shape, _, dtype = npy_header(stream)
        if shape != () or dtype.kind not in "iu":
            raise ValueError(f"{name} is not a whole number")
        return int(np.frombuffer(stream.read(dtype.itemsize), dtype)[0])


def _npz_chunks(
    archive: zipfile.ZipFile, columns: dict[str, tuple[str, str | None]]
) -> Iterator[EventWords]:
    """Chunks of events, each column's member read as a stream of its own."""
    streams: dict[str, Any] = {}
    dtypes: dict[str, np.dtype[Any]] = {}
    lengths = set()
    for member, _ in columns.values():
        if member not in streams:
            streams[member] = archive.open(member)
            shape, _, dtypes[member] = npy_header(streams[member])
            lengths.add(shape[0])
    if len(lengths) != 1:
        raise ValueError(f"t, x, y and p have different lengths: {sorted(lengths)}")
    left = lengths.pop()
    while left > 0:
        count = min(left, BLOCK // EVENT.itemsize * 4)
        arrays = {}
        for member, stream in streams.items():
            raw = stream.read(count * dtypes[member].itemsize)
            if len(raw) != count * dtypes[member].itemsize:
                raise ValueError("an array ends before its header says")
            arrays[member] = np.frombuffer(raw, dtypes[member])
        events = np.zeros(count, EVENT)
        for name, (member, part) in columns.items():
            column = arrays[member] if part is None else arrays[member][part]
            fill_column(events, name, column)
        left -= count
        yield events.view(np.int64)


def warm_up(recording: Recording) -> None:
    """Compile what decoding `recording` needs, with arrays as they will arrive."""
    data, events = np.frombuffer(b"", np.uint8), np.empty(0, np.int64)
    registers = np.zeros(9, np.int64)
    if recording.format == "EVT2":
        evt.decode_evt2(data.view("<u4"), registers, events)
    elif recording.format in ("EVT3", ROS_EVT3):
        evt.count_evt3(data.view("<u2"))
        evt.decode_evt3(data.view("<u2"), registers, events)
    elif recording.format == "DAT":
        records.decode_dat(data.view("<u4"), 2, registers, events)
    elif recording.format == "AEDAT4":
        records.decode_faery(np.empty(0, np.uint8), events)
    elif recording.format == "AEDAT2":
        records.decode_dvs128(data, registers, events)
    elif recording.format == "ES":
        records.decode_es(data, 1, registers[:5], events)
    elif recording.format == "N-MNIST":
        records.decode_nmnist(data, registers, events)
    elif recording.format == "CSV":
        records.decode_csv(data, registers[:4], 44, 1, registers, events)
