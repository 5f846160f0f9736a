"""Files that say more than they hold, or hold more than they seem to: one error, soon, in little
memory. Each is opened in a process whose address space is limited.
"""  # fmt: skip

from __future__ import annotations

import bz2
import itertools
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

ROOM = 512 << 20  # bytes that a reader may ask for at the most,
MEMORY = 256 << 20  # and that it may use, with what loading its kernels takes
CPU_S = 5.0  # generous for a machine that is shared; a bomb would take minutes
EVENTS, MODEL, NETWORK, TRUTH = "events", "model", "network", "truth"
ZEROS = bytes(1 << 20)


def npy(shape: tuple[int, ...], descr: str, content: bytes = b"") -> bytes:
    """A .npy file that says what it likes."""
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    head = head.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + content


def zipped(path: Path, members: dict[str, bytes], zeros: int = 0) -> None:
    """An archive of members, each followed by so many MiB of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(content)
                for _ in range(zeros):
                    member.write(ZEROS)


def npz_of_huge_arrays(path: Path) -> None:
    zipped(path, {name: npy((10**12,), "'<i8'") for name in ("t", "x", "y", "p", "weights")})


def npz_of_huge_items(path: Path) -> None:
    descr = "[('t', '<i8'), ('x', '<i8'), ('y', '<i8'), ('p', '<i8'), ('pad', '|V600000000')]"
    zipped(path, {"weights": npy((3,), descr)}, zeros=200)


def npz_of_many_members(path: Path) -> None:
    zipped(path, {f"a{number}": b"" for number in range(5000)})


def npz_of_too_much(path: Path) -> None:
    zipped(path, {"weights": npy((600 << 17,), "'<f8'")})


def hdf5(path: Path, **options: Any) -> None:
    with h5py.File(path, "w") as file:
        for name in "txyp":
            file.create_dataset(f"events/{name}", dtype="<i8", **options)


def hdf5_of_huge_columns(path: Path) -> None:
    hdf5(path, shape=(10**12,), chunks=(1024,))


def hdf5_of_huge_chunks(path: Path) -> None:
    hdf5(path, shape=(1 << 28,), chunks=(1 << 28,), compression="gzip")


def inflating(count: int) -> bytes:
    """So many MiB of zeros, deflated: one MiB is, and what came of it is repeated."""
    packer = zlib.compressobj()
    first = packer.compress(ZEROS) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(ZEROS) + packer.flush(zlib.Z_FULL_FLUSH)
    adler = (count << 20) % 65521 << 16 | 1
    return first + again * (count - 1) + b"\x03\x00" + struct.pack(">I", adler)


def hdf5_whose_chunk_inflates(path: Path) -> None:
    data = inflating(2000)
    with h5py.File(path, "w") as file:
        for name in "txyp":
            dataset = file.create_dataset(
                f"events/{name}", (64,), "<i8", chunks=(64,), compression="gzip"
            )
            dataset.id.write_direct_chunk((0,), data)


def network(path: Path) -> None:
    graph = nir.NIRGraph.from_list(nir.Affine(np.ones((2, 8)), np.zeros(2)))
    nir.write(path, graph)


def network_of_huge_weights(path: Path) -> None:
    network(path)
    with h5py.File(path, "a") as file:
        file.create_dataset("node/huge", (10**6, 10**6), "<f4", chunks=(100, 100))


def network_whose_chunk_inflates(path: Path) -> None:
    network(path)
    with h5py.File(path, "a") as file:
        dataset = file.create_dataset("node/big", (64,), "<i8", chunks=(64,), compression="gzip")
        dataset.id.write_direct_chunk((0,), inflating(2000))


def network_of_groups_in_groups(path: Path) -> None:
    # two ways from each group to the next: 2^60 ways to the last
    network(path)
    with h5py.File(path, "a") as file:
        groups = [file["node"].create_group("g0")]
        for _ in range(60):
            groups.append(groups[-1].create_group("a"))
        for above, below in itertools.pairwise(groups):
            above["b"] = below


def network_that_leads_elsewhere(path: Path) -> None:
    network(path)
    other = path.with_name("other.h5")
    with h5py.File(other, "w") as file:
        file["secret"] = 5
    with h5py.File(path, "a") as file:
        file["node/secret"] = h5py.ExternalLink(str(other), "/secret")


def network_of_repeated_text(path: Path) -> None:
    network(path)
    with h5py.File(path, "a") as file:
        kind = h5py.string_dtype()
        file.create_dataset("node/metadata/text", (900,), kind, fillvalue="x" * 60_000)


def damage_first_text(path: Path, number: int, size: int) -> None:
    """Let the first item of HDF5's heap of texts say that it is `number` and so many bytes long."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<H6xQ", data, data.index(b"GCOL") + 16, number, size)
    path.write_bytes(data)


def network_whose_texts_go_round(path: Path) -> None:
    network(path)
    damage_first_text(path, 0, 0)


def network_whose_texts_wrap_round(path: Path) -> None:
    network(path)
    damage_first_text(path, 1, (1 << 64) - 16)


def network_of_many_texts(path: Path) -> None:
    network(path)
    items = struct.pack("<H6xQ", 1, 0) * (3 << 19)
    with path.open("ab") as file:
        file.write(struct.pack("<4sB3xQ", b"GCOL", 1, 16 + len(items)) + items)


def hdf5_whose_texts_lie_far_away(path: Path) -> None:
    hdf5(path, shape=(4,))
    with h5py.File(path, "a") as file:
        file.attrs["geometry"] = "32x24"
    damage_first_text(path, 1, 1 << 63)
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, data.index(b"GCOL") + 8, (1 << 64) - 1)
    path.write_bytes(data)


def hdf5_whose_texts_go_round(path: Path) -> None:
    hdf5(path, shape=(4,))
    with h5py.File(path, "a") as file:
        file.attrs["geometry"] = "32x24"
    damage_first_text(path, 0, 0)


def bag_whose_chunk_inflates(path: Path) -> None:
    from rosbags import rosbag1
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    from streamflow_nodes.events.ros_readers import DEFINITION, MESSAGE

    types = get_typestore(Stores.ROS1_NOETIC)
    types.register(get_types_from_msg(DEFINITION, MESSAGE))
    packer = bz2.BZ2Compressor(1)
    data = b"".join(packer.compress(ZEROS) for _ in range(150)) + packer.flush()
    writer = rosbag1.Writer(path)
    writer.set_compression(writer.CompressionFormat.BZ2)
    with writer:
        topic = writer.add_connection("/events", MESSAGE, typestore=types)
        writer.compressor = lambda _: data
        writer.write(topic, 1, bytes(60))


def csv_without_lines(path: Path) -> None:
    sparse(path, 3 << 30)


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def truth_without_end(path: Path) -> None:
    path.write_text("time_us,class,kind,overlaps\n")
    os.truncate(path, 1 << 34)


def truth_that_never_comes(path: Path) -> None:
    os.mkfifo(path)


def aedat4_with_a_huge_header(path: Path) -> None:
    path.write_bytes(b"#!AER-DAT4.0\r\n" + struct.pack("<I", 0xFFFFFFF0) + bytes(100))


def aedat4_with_a_long_header(path: Path) -> None:
    path.write_bytes(b"#!AER-DAT4.0\r\n" + struct.pack("<I", 1 << 31))
    os.truncate(path, (1 << 31) + 100)


def aedat4_with_a_huge_packet(path: Path) -> None:
    from streamflow_nodes.events.formats import FORMATS

    head = FORMATS["aedat4"].head((32, 24), None, np.zeros(0, np.int64))
    path.write_bytes(head + struct.pack("<iI", 0, 0x9C000002) + bytes(100))


BOMBS: dict[str, tuple[str, str, Callable[[Path], None], str]] = {
    make.__name__ + "_" + reader: (reader, suffix, make, says)
    for reader, suffix, make, says in (
        (EVENTS, ".npz", npz_of_huge_arrays, "ends before its header says"),
        (EVENTS, ".npz", npz_of_huge_items, "an item of an array has 600000032 bytes"),
        (EVENTS, ".npz", npz_of_many_members, "it has 5000 members"),
        (EVENTS, ".h5", hdf5_of_huge_columns, "says that it has 1000000000000 rows"),
        (EVENTS, ".h5", hdf5_of_huge_chunks, "has chunks of 2147483648 bytes"),
        (EVENTS, ".h5", hdf5_whose_chunk_inflates, "a chunk that becomes more than its 512 bytes"),
        (EVENTS, ".h5", hdf5_whose_texts_go_round, "goes round for ever"),
        (EVENTS, ".h5", hdf5_whose_texts_lie_far_away, "cannot be read"),
        (EVENTS, ".csv", csv_without_lines, "a line of over"),
        (EVENTS, ".aedat4", aedat4_with_a_huge_header, "which the file does not have"),
        (EVENTS, ".aedat4", aedat4_with_a_long_header, "over 1048576"),
        (EVENTS, ".aedat4", aedat4_with_a_huge_packet, "an AEDAT4 packet says 2617245698 bytes"),
        (EVENTS, ".bag", bag_whose_chunk_inflates, "becomes more than 67108864 bytes"),
        (MODEL, ".npz", npz_of_huge_arrays, "more than 268435456 bytes"),
        (MODEL, ".npz", npz_of_huge_items, "an item of an array has 600000032 bytes"),
        (MODEL, ".npz", npz_of_many_members, "it has 5000 members"),
        (MODEL, ".npz", npz_of_too_much, "more than 268435456 bytes"),
        (NETWORK, ".nir", network_of_huge_weights, "more than 268435456 bytes"),
        (NETWORK, ".nir", network_whose_chunk_inflates, "a chunk that becomes more than its 512"),
        (NETWORK, ".nir", network_of_groups_in_groups, "is there twice"),
        (NETWORK, ".nir", network_that_leads_elsewhere, "is a link to another place"),
        (NETWORK, ".nir", network_of_repeated_text, "more than 1048576 characters"),
        (NETWORK, ".nir", network_whose_texts_go_round, "goes round for ever"),
        (NETWORK, ".nir", network_whose_texts_wrap_round, "goes round for ever"),
        (NETWORK, ".nir", network_of_many_texts, "more than 1048576 items"),
        (TRUTH, ".csv", truth_without_end, "has more than 67108864 bytes"),
        (TRUTH, ".csv", truth_that_never_comes, "is no file"),
    )
}

# Opens each file in a child of its own, with room for so much more than what is loaded already.
OPEN = """
import json, os, resource, sys, time
from pathlib import Path
import h5py, numpy
from streamflow_nodes.classifiers.count_classifier import CountClassifier
from streamflow_nodes.classifiers.spiking_classifier import SpikingClassifier
from streamflow_nodes.sinks.particle_scorer import ParticleScorer
from streamflow_nodes.sources.event_file import EventFile

def status(word):
    (line,) = [l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(word)]
    return int(line.split()[1]) * 1024

def attempt(reader, path, room):
    Path("/proc/self/clear_refs").write_text("5")
    before, begun = status("VmRSS"), time.process_time()
    limit = status("VmSize") + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    error = None
    try:
        if reader == "events":
            node = EventFile({"path": path, "width": 32, "height": 24, "columns": "x,y,p,t"})
            node.open()
            for emission in node.produce():
                pass
        elif reader == "model":
            CountClassifier({"model": path}).open()
        elif reader == "network":
            SpikingClassifier({"model": path, "classes": ["A", "B"]}).open()
        else:
            ParticleScorer({"truth": path}).open()
    except BaseException as caught:
        error = caught
    return {
        "class": type(error).__name__, "says": str(error),
        "bytes": status("VmHWM") - before, "seconds": time.process_time() - begun,
    }

found = {}
for name, reader, path, room in json.loads(sys.stdin.read()):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, json.dumps(attempt(reader, path, room)).encode())
        os._exit(0)
    os.close(write)
    with open(read) as file:
        found[name] = file.read()
    os.waitpid(child, 0)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each bomb."""
    folder = tmp_path_factory.mktemp("bombs")
    asked = []
    for name, (reader, suffix, make, _) in BOMBS.items():
        path = folder / f"{make.__name__}{suffix}"
        if not path.exists():
            make(path)
        asked.append([name, reader, str(path), ROOM])

    done = subprocess.run(
        [sys.executable, "-c", OPEN], input=json.dumps(asked), capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    return {name: json.loads(said or "{}") for name, said in json.loads(done.stdout).items()}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_one_error_and_little_memory(
    name: str, opened: dict[str, Any]
) -> None:
    reader, _, _, says = BOMBS[name]
    found = opened[name]

    assert found["class"] == ("DeviceError" if reader in (EVENTS, TRUTH) else "NodeError"), found
    assert says in found["says"]
    assert len(found["says"]) < 2000
    assert found["bytes"] < MEMORY
    assert found["seconds"] < CPU_S
