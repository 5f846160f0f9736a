"""What the fork server loads for those that are restarted, and what it will not load."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from streamflow.compilation import load_compiled
from streamflow.launch import ForkServer

KERNEL = """
from numba import njit

@njit(cache=True, nogil=True)
def scaled(value):
    return value * {factor}
"""


@pytest.fixture
def server() -> Iterator[ForkServer]:
    made = ForkServer()
    yield made
    made.stop()


def answer(server: ForkServer, operation: str) -> dict[str, Any]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for message in server.control.receive():
            if message["op"] == operation:
                return message
        time.sleep(0.01)
    raise AssertionError(f"no {operation!r}")


def mapped(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_it_loads_what_the_graph_needs_and_has_one_thread(server: ForkServer) -> None:
    pid = answer(server, "preloaded")["pid"]
    assert "h5py" not in mapped(pid)

    server.control.send("load", kinds=["burst_trigger", "spiking_classifier", "csv_file"])

    assert answer(server, "loaded")["why"] == ""
    assert "h5py" in mapped(pid)  # of the spiking classifier's models
    assert len(os.listdir(f"/proc/{pid}/task")) == 1


@pytest.mark.parametrize("dismissed", [True, False])
def test_the_runs_folder_goes_with_it_unless_it_was_dismissed(
    tmp_path: Path, dismissed: bool
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "e0.1").touch()
    server = ForkServer()
    answer(server, "preloaded")
    server.control.send("serve", directory=str(folder))

    if dismissed:
        server.stop()
    else:  # all that it sees at first of an owner who was killed
        server.control.close()
        server.process.wait(60)

    assert folder.exists() is dismissed


def test_a_package_that_starts_threads_or_does_not_promise_is_left_to_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = (
        "import threading, time\n"
        "from streamflow import Node, Settings\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "class {name}(Node[Settings]):\n    pass\n"
    )
    for package, promise in (("careless_nodes", "FORK_SAFE = True\n"), ("silent_nodes", "")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(promise)
        name = package.removesuffix("_nodes")
        (tmp_path / package / f"{name}.py").write_text(kind.format(name=name.title()))
        (tmp_path / f"{package}-1.0.dist-info").mkdir()
        (tmp_path / f"{package}-1.0.dist-info" / "entry_points.txt").write_text(
            f"[streamflow.nodes]\n{name} = {package}\n"
        )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    said = {}
    for name in ("silent", "careless"):
        server = ForkServer()
        answer(server, "preloaded")
        server.control.send("load", kinds=[name])
        said[name] = answer(server, "loaded")["why"]
        server.stop()

    assert said["silent"] == ""
    assert "importing careless_nodes.careless starts a thread" in said["careless"]


def test_a_kernel_is_loaded_from_the_cache_and_never_compiled(tmp_path: Path) -> None:
    file = tmp_path / "kernels.py"
    file.write_text(KERNEL.format(factor=2))
    first = imported(file).scaled
    assert (first(2.0), first(3)) == (4.0, 6)

    kernel = imported(file).scaled
    assert len(list(load_compiled(kernel))) == 2

    assert len(kernel.overloads) == 2
    assert sum(kernel.stats.cache_hits.values()) == 2
    assert sum(kernel.stats.cache_misses.values()) == 0
    assert list(load_compiled(kernel)) == []  # all of it is there

    file.write_text(KERNEL.format(factor=30))
    os.utime(file, (1, 1))
    changed = imported(file).scaled
    assert list(load_compiled(changed)) == []  # what is cached is of another version
    assert changed(2.0) == 60.0


def imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernels_of_a_test", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
