"""Nothing that a run is given is unpickled: not packets, not snapshots, not models."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from runs import TESTKINDS, Run
from streamflow_nodes.classifiers.count_classifier import CountClassifier
from streamflow_nodes.classifiers.spiking_classifier import SpikingClassifier
from streamflow_nodes.sources.event_file import EventFile

from streamflow.errors import DeviceError, NodeError
from streamflow.graph import shipped

# Runs first in every Python of a run, as `sitecustomize`. Numba's own cache of compiled kernels is
# pickled; it is what `cache_directory` guards, and the only exception.
WATCH = """
import os, pickle, sys

def tell(what):
    modules, frame = [], sys._getframe(1)
    while frame is not None:
        modules.append(frame.f_globals.get("__name__", "?"))
        frame = frame.f_back
    who = "numba" if "numba.core.caching" in modules else " < ".join(modules[1:9])
    with open(os.environ["WATCH"], "a") as file:
        file.write(f"{os.getpid()} {what} {who}\\n")

def watched(name, original):
    def call(*arguments, **options):
        tell(name)
        return original(*arguments, **options)
    return call

class Unpickler(pickle.Unpickler):
    def __init__(self, *arguments, **options):
        tell("Unpickler")
        super().__init__(*arguments, **options)

import _pickle
for module in (pickle, _pickle):
    for name in ("load", "loads"):
        setattr(module, name, watched(name, getattr(module, name)))
    module.Unpickler = Unpickler
# whatever way it is reached, unpickling an object looks its class up
sys.addaudithook(lambda event, _: tell(event) if event == "pickle.find_class" else None)
tell("watched")
os.register_at_fork(after_in_child=lambda: tell("watched"))
"""


class Trap:
    """What a hostile pickle does: it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def environment(folder: Path) -> dict[str, str]:
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    path = f"{folder / 'watch'}{os.pathsep}{TESTKINDS}"
    return {"PYTHONPATH": path, "WATCH": str(folder / "pickles.txt")}


def told(folder: Path) -> list[list[str]]:
    return [line.split(" ", 2) for line in (folder / "pickles.txt").read_text().splitlines()]


def test_the_watch_sees_each_way_of_unpickling(tmp_path: Path) -> None:
    code = (
        "import io, pickle, _pickle, datetime\n"
        "data = pickle.dumps(datetime.date(2020, 1, 1))\n"
        "pickle.loads(data); _pickle.loads(data); pickle.load(io.BytesIO(data))\n"
        "pickle.Unpickler(io.BytesIO(data)).load()\n"
    )

    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment(tmp_path)}, check=True
    )

    what = [what for _, what, _ in told(tmp_path)]
    assert what.count("pickle.find_class") == 4
    assert [what.count(way) for way in ("loads", "load", "Unpickler")] == [2, 1, 1]


def test_a_run_with_every_way_of_data_and_crashes_unpickles_nothing(tmp_path: Path) -> None:
    text = shipped()["flow_cytometry"].read_text().replace("restart: on_failure", RESTART)
    home = shipped()["flow_cytometry"].parent
    for name in ("sample.raw", "model.nir", "linear.npz"):
        text = text.replace(name, str(home / name))
    run = Run(tmp_path / "run", text, "--clock", "paced", env=environment(tmp_path))

    alive = set()
    for victim in ("hot", "files"):
        packets = run.wait_for(lambda: run.last_look().get("nodes", {}))["decisions"]["packets_in"]
        run.wait_for(lambda: run.last_look()["nodes"]["decisions"]["packets_in"] > packets)  # noqa: B023  # called at once
        alive |= {*run.pids().values()}
        run.kill(victim)
    code = run.end()

    assert code == 0, run.err
    processes = run.report["processes"]
    assert [processes[name]["restarts"] for name in ("hot", "files")] == [1, 1]
    sizes = [edge["bytes"] / edge["produced"] for edge in run.report["edges"].values()]
    assert min(sizes) < 16_384 < max(sizes)  # in the message, and in shared memory
    seen = told(tmp_path)
    watched = {int(pid) for pid, what, _ in seen if what == "watched"}
    assert alive | {run.process.pid} <= watched
    assert len(watched) >= 2 + len(processes) + 2  # with the fork server, and those that died
    assert [line for line in seen if line[1] != "watched" and line[2] != "numba"] == []


RESTART = "restart: {when: on_failure, backoff: 0.01}"


def test_a_pickle_in_place_of_a_model_is_refused_and_not_loaded(tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    np.savez(tmp_path / "model.npz", weights=trap)
    np.save(tmp_path / "model.npy", trap, allow_pickle=True)

    for name, says in (("model.npz", "Python objects"), ("model.npy", "not a readable model")):
        with pytest.raises(NodeError, match=says):
            CountClassifier({"model": str(tmp_path / name)}).open()

    assert not (tmp_path / "sprung").exists()
    np.load(tmp_path / "model.npy", allow_pickle=True)  # what the file would have done
    assert (tmp_path / "sprung").exists()


def test_a_pickle_in_place_of_events_is_refused_and_not_loaded(tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    np.savez(tmp_path / "a.npz", t=trap, x=trap, y=trap, p=trap)

    with pytest.raises(DeviceError, match="Python objects, which are never loaded"):
        EventFile({"path": str(tmp_path / "a.npz")}).open()

    assert not (tmp_path / "sprung").exists()


def test_python_objects_in_a_nir_file_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.nir"
    shape = np.array([2, 2, 2])
    graph = nir.NIRGraph.from_list(
        nir.Input(shape), nir.Flatten({"input": shape}, 0, -1),
        nir.Affine(np.ones((2, 8)), np.zeros(2)),
    )  # fmt: skip
    nir.write(path, graph)
    with h5py.File(path, "a") as file:
        file["node"]["trap"] = np.void(pickle.dumps(Trap(tmp_path / "sprung")))

    # what no node of NIR has is left where it is: the network is the one without it
    SpikingClassifier({"model": str(path), "classes": ["A", "B"]}).open()

    assert not (tmp_path / "sprung").exists()
