"""The wheel, as someone gets it who has no checkout."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "-o", folder, ROOT],
        check=True,
        capture_output=True,
        timeout=100,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that holds the wheel; its dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=100)
    python = folder / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel],
        check=True,
        capture_output=True,
        timeout=100,
    )
    # A plain line, so that the .pth files of this environment, the checkout's among them, have no
    # effect there: what is imported as streamflow is what the wheel brought.
    (target,) = folder.glob("lib/python*/site-packages")
    (target / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder


def run(folder: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [folder / "bin" / arguments[0], *arguments[1:]],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_wheel_holds_two_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    top = {name.partition("/")[0] for name in names}

    assert {name for name in top if not name.endswith(".dist-info")} == {
        "streamflow",
        "streamflow_nodes",
    }
    assert len(top) == 3


def test_the_wheel_holds_every_module_and_every_graph(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "streamflow", "nodes/streamflow_nodes", "graphs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if tracked.returncode:
        pytest.skip("not a git checkout: the list of files to expect is not known")

    missing = [
        path
        for path in tracked.stdout.split()
        if (ROOT / path).exists()
        and path.replace("nodes/streamflow_nodes", "streamflow_nodes", 1).replace(
            "graphs/", "streamflow/graphs/", 1
        )
        not in names
    ]

    assert missing == []


def test_the_installed_command_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    code = (
        "import streamflow, streamflow_nodes; print(streamflow.__file__, streamflow_nodes.__file__)"
    )

    found = run(installed, tmp_path, "python", "-c", code)

    assert found.returncode == 0, found.stderr
    assert all(Path(path).is_relative_to(installed) for path in found.stdout.split())


def test_kinds_are_found_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    listed = run(installed, tmp_path, "streamflow", "nodes")

    assert listed.returncode == 0, listed.stderr
    kinds = {line.split()[0] for line in listed.stdout.splitlines() if line.startswith("  ")}
    folders = ("sources", "processors", "classifiers", "sinks")
    files = {
        path.stem
        for folder in folders
        for path in (ROOT / "nodes" / "streamflow_nodes" / folder).glob("[!_]*.py")
    }
    assert kinds == files


def test_every_shipped_graph_checks_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    graphs = sorted(path.parent.name for path in (ROOT / "graphs").glob("*/graph.yaml"))
    assert graphs, "the checkout has graphs to ship"

    for name in graphs:
        checked = run(installed, tmp_path, "streamflow", "check", name)

        assert checked.returncode == 0, checked.stderr
        assert "process" in checked.stdout


def test_a_wrong_graph_is_told_by_the_installed_command(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("nodes:\n  a: {kind: event_flie}\n")

    checked = run(installed, tmp_path, "streamflow", "check", "wrong.yaml")

    assert checked.returncode == 2
    assert "wrong.yaml:2: node 'a': unknown kind 'event_flie'; did you mean 'event_file'?" in (
        checked.stderr
    )
