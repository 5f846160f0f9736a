"""Disks that fail (EIO), as sinks meet them: the C library's writes to one file begin to fail.

A real disk with errors cannot be had in a test. A shared object that stands before the C library
(LD_PRELOAD) lets `write` and `pwrite` of files of one name fail from one byte on, or their `fsync`.
Sinks, engine and processes are the real ones. `failing_disk.py` drives every sink on such a disk.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from failing_disk import DRAFTS, SOUND
from full_disk import EVENTS, PARTICLES, SINKS
from runs import Run
from test_full_disks import numbers

pytestmark = pytest.mark.timeout(300)  # the first of a fixture waits for all sinks

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int broken(int fd, off_t end) {
    const char *name = getenv("BROKEN_FILE"), *from = getenv("BROKEN_FROM");
    char link[64], path[4096];
    if (!name || !from || end <= atoll(from)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!strstr(path, name)) return 0;
    errno = EIO;
    return 1;
}

static size_t room(int fd, off_t at, size_t size) {  // what is taken before the disk fails
    if (!broken(fd, at + size)) return size;
    off_t from = atoll(getenv("BROKEN_FROM"));
    return at < from ? (size_t)(from - at) : 0;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    off_t at = lseek(fd, 0, SEEK_CUR);
    if (at >= 0 && !getenv("BROKEN_SYNC") && !(size = room(fd, at, size))) return -1;
    return real(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    if (!getenv("BROKEN_SYNC") && size && !(size = room(fd, at, size))) return -1;
    return real(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    if (!getenv("BROKEN_SYNC") && size && !(size = room(fd, at, size))) return -1;
    return real(fd, data, size, at);
}
int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    if (getenv("BROKEN_CUT") && size && broken(fd, 1 << 30)) return -1;
    return real(fd, size);
}
int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    if (getenv("BROKEN_CUT") && size && broken(fd, 1 << 30)) return -1;
    return real(fd, size);
}
int fsync(int fd) {
    REAL(fsync);
    off_t end = lseek(fd, 0, SEEK_END);
    if (getenv("BROKEN_SYNC") && broken(fd, end)) return -1;
    return real(fd);
}
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: what lets writes fail cannot be built")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", "shim.so", "shim.c", "-ldl"],
        cwd=folder, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return str(folder / "shim.so")


GRAPH = """
nodes:
  numbers: {kind: number_source, settings: {count: 300, rows: 20}}
  rows:
    kind: csv_file
    inputs: {rows: numbers.rows}
    settings: {path: rows.csv, when_disk_full: stop_writing}
"""


@pytest.mark.parametrize("sync", [False, True], ids=["write", "fsync"])
def test_a_disk_that_fails_ends_the_run_whatever_the_policy_and_whole_packets_remain(
    tmp_path: Path, shim: str, sync: bool
) -> None:
    broken = {"LD_PRELOAD": shim, "BROKEN_FILE": "rows.csv", "BROKEN_FROM": "20000"}
    if sync:  # everything is written, and then cannot be brought to the disk
        broken["BROKEN_SYNC"] = "1"
    it = Run(tmp_path, GRAPH, env=broken)

    assert it.end() == 1
    assert "node 'rows' (csv_file)" in it.report["error"]
    assert "rows.csv: Input/output error" in it.report["error"]
    text = (tmp_path / "rows.csv").read_text()
    numbers = [int(line.split(",")[0]) for line in text.splitlines()[1:]]
    assert numbers == list(range(len(numbers)))
    assert text.endswith("\n")
    assert len(numbers) % 20 == 0  # whole packets
    assert (len(numbers) == 6000) == sync


@pytest.fixture(scope="module")
def failed(
    tmp_path_factory: pytest.TempPathFactory, shim: str
) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The folder with what every sink left, and what it said."""
    for module in ("faery", "flowio", "h5py", "matplotlib", "pyarrow", "soundfile"):
        pytest.importorskip(module)
    out = tmp_path_factory.mktemp("failed")
    command = [
        sys.executable,
        "-W",
        "error",
        str(Path(__file__).with_name("failing_disk.py")),
        str(out),
    ]
    with (out / "err.txt").open("w") as said:
        done = subprocess.run(
            command, env={**os.environ, "LD_PRELOAD": shim}, stderr=said, check=False, timeout=280
        )
    assert done.returncode == 0, (out / "err.txt").read_text()[-3000:]
    return out, json.loads((out / "told.json").read_text())


FILES = [*SINKS, "wav", "flac", "spectrogram_plot"]
PAGES = ("plot", "spectrogram_plot")


def records(out: Path, name: str, what: str, told: dict[str, Any]) -> tuple[list[int], int, int]:
    """Which are on file, how many came, and how many in a packet."""
    folder = out / f"{name}-{what}"
    if name in ("wav", "flac"):
        import soundfile

        (file,) = (folder / "disk" / left for left in told["left"])
        values, _ = soundfile.read(file, dtype="int16")
        return (
            list(np.abs(values.astype(int)) + np.arange(len(values)) // 30_000 * 30_000),
            SOUND,
            500,
        )
    is_events = SINKS[name][0] == "EventFileWriter"
    found = numbers(folder, name, told)
    return (found, EVENTS, 250) if is_events else (found, PARTICLES, 20)


@pytest.mark.parametrize("what", ["write", "sync"])
@pytest.mark.parametrize("name", FILES)
def test_every_sink_says_what_failed_and_whole_packets_remain(
    failed: tuple[Path, dict[str, dict[str, Any]]], name: str, what: str
) -> None:
    out, told = failed[0], failed[1][f"{name} {what}"]

    assert told["error"].count("Input/output error") == 1
    assert f"{name}-{what}/disk/a." in told["error"]
    assert "another disk" in told["error"]
    assert told["faults"]["not_written"] == 0  # an error ends the run: nothing is counted away
    if name in PAGES:
        assert told["left"] == []  # half a page is no page
        return
    found, came, each = records(out, name, what, told)
    assert len(found) == len(set(found))
    assert 0 < len(found) <= came
    if name != "sort_trigger":  # logs what is decided, not what has just come
        assert found == list(range(len(found)))
        assert len(found) % each == 0
        # an .rtdc file is brought to the disk all the time
        assert (len(found) == came) == (what == "sync" and name != "rtdc_file")


@pytest.mark.parametrize("name", DRAFTS)
def test_a_file_that_cannot_be_built_leaves_all_records_in_its_journal(
    failed: tuple[Path, dict[str, dict[str, Any]]], name: str
) -> None:
    out, told = failed[0], failed[1][f"{name} draft"]

    assert "cannot build" in told["error"]
    assert f"all records are in {out}/{name}-draft/disk/{told['left'][0]}" in told["error"]
    found, came, _ = records(out, name, "draft", told)
    assert found == list(range(came))


def test_a_file_that_cannot_be_cut_says_where_its_whole_records_end(
    failed: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    out, told = failed[0], failed[1]["evt3 cut"]
    file = out / "evt3-cut/disk/a.raw"
    said = re.search(
        r"Input/output error.* cannot be cut either: beyond byte (\d+) ", told["error"]
    )

    assert said is not None
    assert file.stat().st_size > int(said[1])
    os.truncate(file, int(said[1]))
    found, _, each = records(out, "evt3", "cut", told)
    assert found == list(range(len(found)))
    assert len(found) >= each
    assert len(found) % each == 0


def test_a_dead_letter_that_cannot_be_written_leaves_no_half_of_it(
    failed: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    told = failed[1]["letter"]

    assert "Input/output error" in told["error"]
    assert told["left"] == ["node.rows.1.letter"]
