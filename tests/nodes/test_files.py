"""Result files hold whole records, whatever happens to the process or the disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.files.records import RecordFile, file_digest, replace_file

from streamflow.errors import DeviceError


def test_missing_parent_folders_are_created(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "a" / "b" / "rows.txt", "sink")

    file.append(b"row\n")
    file.close()

    assert (tmp_path / "a" / "b" / "rows.txt").read_bytes() == b"row\n"


def test_an_older_file_is_kept_until_there_is_something_to_write(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(b"a longer text of an earlier run\n")

    file = RecordFile(path, "sink")
    before = path.read_bytes()
    file.append(b"new\n")
    file.close()

    assert before == b"a longer text of an earlier run\n"
    assert path.read_bytes() == b"new\n"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=9), max_size=8), st.integers(0, 8), st.binary(max_size=5))
def test_after_a_restart_no_record_is_repeated_or_lost(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], at: int, torn: bytes
) -> None:
    path = tmp_path_factory.mktemp("restart") / "rows"
    at = min(at, len(records))
    first = RecordFile(path, "sink")
    first.begin()
    for record in records[:at]:
        first.append(record)
    length = first.length
    for record in [*records[at:], torn]:  # written, but not covered by the snapshot
        first.append(record)
    first.close()

    second = RecordFile(path, "sink")
    second.restore(length)
    for record in records[at:]:
        second.append(record)
    second.close()

    assert path.read_bytes() == b"".join(records)


def test_a_file_that_shrank_since_the_snapshot_is_an_error(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "rows", "sink")

    with pytest.raises(DeviceError, match="holds 0 bytes, but 12 were written"):
        file.restore(12)


def test_two_writers_of_one_file_are_refused(tmp_path: Path) -> None:
    first = RecordFile(tmp_path / "rows", "one")

    with pytest.raises(DeviceError, match=r"two: .* is being written by another node"):
        RecordFile(tmp_path / "rows", "two")
    first.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_without_space_is_one_clear_error() -> None:
    file = RecordFile("/dev/full", "sink")

    with pytest.raises(DeviceError, match="sink: cannot write /dev/full: No space left"):
        file.append(b"row\n")


FILL = """
import resource, sys
from streamflow.errors import DeviceError
from streamflow_nodes.files.records import RecordFile
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
file = RecordFile(sys.argv[1], "sink")
try:
    while True:
        file.append(b"0123456789abcdefghijklmnopqrs\\n")
except DeviceError as error:
    print(error)
"""


def test_a_full_disk_leaves_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "rows"

    run = subprocess.run(
        [sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, check=True
    )

    # 1000 bytes take 33 records of 30 and a third of the next, which must not stay
    assert path.read_bytes() == b"0123456789abcdefghijklmnopqrs\n" * 33
    assert "File too large" in run.stdout
    assert "keeps its 990 bytes" in run.stdout


def test_a_folder_in_the_way_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="Is a directory; give a path"):
        RecordFile(tmp_path, "sink")
    with pytest.raises(DeviceError, match="sink: cannot write"):
        replace_file(tmp_path, b"", "sink")
    assert not [p for p in tmp_path.parent.iterdir() if p.name.startswith(f".{tmp_path.name}")]


def test_only_bytes_that_are_there_can_be_overwritten(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "rows", "sink")
    file.append(b"head 0\nrow\n")

    file.overwrite(5, b"1")
    with pytest.raises(ValueError, match="of a file of 11"):
        file.overwrite(10, b"12")
    file.close()
    file.close()

    assert (tmp_path / "rows").read_bytes() == b"head 1\nrow\n"


def test_a_replaced_file_is_whole_and_leaves_no_draft(tmp_path: Path) -> None:
    replace_file(tmp_path / "new" / "figure.png", b"first", "sink")
    replace_file(tmp_path / "new" / "figure.png", b"second", "sink")

    assert os.listdir(tmp_path / "new") == ["figure.png"]
    assert (tmp_path / "new" / "figure.png").read_bytes() == b"second"


def test_a_digest_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"weights" * 300_000)

    digest = file_digest(tmp_path / "model", "sink")

    assert digest == hashlib.sha256(b"weights" * 300_000).hexdigest()
    with pytest.raises(DeviceError, match=r"cannot read .*: No such file"):
        file_digest(tmp_path / "absent", "sink")
