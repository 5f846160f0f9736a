"""Disks that fail (EIO), as sinks meet them: the C library's writes to one file begin to fail.

A real disk with errors cannot be had in a test. A shared object that stands before the C library
(LD_PRELOAD) lets `write` and `pwrite` of files of one name fail from one byte on, or their `fsync`.
Sinks, engine and processes are the real ones.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from runs import Run

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

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    off_t at = lseek(fd, 0, SEEK_CUR);
    if (at >= 0 && !getenv("BROKEN_SYNC") && broken(fd, at + size)) return -1;
    return real(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    if (!getenv("BROKEN_SYNC") && broken(fd, at + size)) return -1;
    return real(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    if (!getenv("BROKEN_SYNC") && broken(fd, at + size)) return -1;
    return real(fd, data, size, at);
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
