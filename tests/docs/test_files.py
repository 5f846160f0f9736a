"""What docs/files.md says is read and written is, and nothing else."""

from __future__ import annotations

import re
import struct
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamflow_nodes.sinks.event_file_writer import EventFileWriter, EventFileWriterSettings
from streamflow_nodes.sources.event_file import EventFile

from streamflow.packet import EVENT
from streamflow.testing import drive, events

ROOT = Path(__file__).resolve().parents[2]
NODES = ROOT / "nodes" / "streamflow_nodes"
SIZED = {"width": 128, "height": 128}
TWO = np.array([(5, 1, 2, 1), (6, 3, 4, 0)], EVENT)


def table() -> dict[str, tuple[str, str]]:
    """Format: what the page says of reading and of writing it."""
    text = (ROOT / "docs" / "files.md").read_text()
    rows = re.findall(r"^\| (.*) \|$", text[: text.index("AEDAT4 is read with")], re.M)[1:]
    cells = [row.split(" | ") for row in rows]
    return {row[0]: (row[1], row[2]) for row in cells}


WRITTEN = {row: said[1].strip("`") for row, said in table().items() if said[1] != "no"}


def dat(path: Path) -> None:
    path.write_bytes(b"% Version 2\n\x0c\x08" + struct.pack("<4I", 5, 1, 6, 2))


def dvs128(path: Path) -> None:
    path.write_bytes(b"#!AER-DAT2.0\n" + struct.pack(">4I", 2, 5, 4, 6))


def nmnist(path: Path) -> None:
    path.write_bytes(bytes([1, 1, 0, 0, 5, 2, 2, 0, 0, 6]))


def npz(path: Path) -> None:
    np.savez(path, events=TWO)


def bag(path: Path) -> None:
    rosbag1 = pytest.importorskip("rosbags.rosbag1")
    typesys = pytest.importorskip("rosbags.typesys")
    from streamflow_nodes.events.ros_readers import DEFINITION, MESSAGE

    store = typesys.get_typestore(typesys.Stores.ROS1_NOETIC)
    store.register(typesys.get_types_from_msg(DEFINITION, MESSAGE))
    with rosbag1.Writer(path) as writer:
        writer.add_connection("/events", MESSAGE, typestore=store)


OTHERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "DAT": (".dat", dat),
    "AEDAT2": (".aedat", dvs128),
    "N-MNIST": (".bin", nmnist),
    "NPZ": (".npz", npz),
    "ROS EVT3": (".bag", bag),
}


@pytest.mark.parametrize("name", sorted(set(table()) - set(WRITTEN)))
def test_a_format_that_is_said_to_be_read_is(name: str, tmp_path: Path) -> None:
    suffix, make = OTHERS[name]
    path = tmp_path / f"a{suffix}"
    make(path)

    out = drive(EventFile({"path": str(path), **SIZED}))

    assert suffix in table()[name][0]
    assert out.results["format"] == name


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_a_format_that_is_said_to_be_written_is(name: str, tmp_path: Path) -> None:
    for module in {"AEDAT4": ["faery"], "HDF5": ["h5py"], "Parquet": ["pyarrow"]}.get(name, []):
        pytest.importorskip(module)
    suffix = re.findall(r"`(\.\w+)`", table()[name][0])[0]
    path = tmp_path / f"a{suffix}"

    node = EventFileWriter({"path": str(path), "format": WRITTEN[name]})
    drive(node, events=[events(TWO, **SIZED)])
    out = drive(EventFile({"path": str(path), **SIZED}))

    assert out.results["format"] == name
    assert out.items("events").tolist() == TWO.tolist()


def test_every_format_that_the_code_reads_is_on_the_page() -> None:
    source = "".join(path.read_text() for path in (NODES / "events").glob("*readers.py"))
    named = set(re.findall(r'Recording\(\s*path, f?"([^"]+)"', source))
    # one line stands for the versions that are let through before it
    (versions,) = re.findall(r'if version not in \("(\d)", "(\d)"\):', source)
    named = (named - {"EVT{version}"}) | {f"EVT{version}" for version in versions}
    constants = re.findall(r"Recording\(\s*path, ([A-Z]\w+)", source)
    named |= {re.findall(rf'^{name} = "(.*)"$', source, re.M)[0] for name in constants}

    assert named == set(table())


def test_every_format_that_the_code_writes_is_on_the_page() -> None:
    kinds = typing.get_type_hints(EventFileWriterSettings)["format"]
    chosen = {
        name for part in typing.get_args(kinds) for name in typing.get_args(part)
    }  # the literal's, of `Literal[...] | None`

    assert chosen == set(WRITTEN.values())
