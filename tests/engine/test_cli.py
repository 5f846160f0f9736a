from __future__ import annotations

import fcntl
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamflow.cli import main, program
from streamflow.yaml_file import parse, plain

THIRDPARTY = Path(__file__).parent / "thirdparty"
ROOT = Path(__file__).resolve().parents[2]

GOOD = "nodes:\n  a: {kind: ramp}\n  b: {kind: relay, inputs: {values: a.values}}\n"
BAD = "nodes:\n  a: {kind: rmap}\n  b: {kind: relay}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The test package is installed; a folder of its own holds the graphs and the runtime files."""
    monkeypatch.syspath_prepend(THIRDPARTY)
    importlib.invalidate_caches()
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(GOOD)
    Path("bad.yaml").write_text(BAD)
    # a path to a socket has to be short
    with tempfile.TemporaryDirectory(prefix="sf-") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        yield tmp_path


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    """What `code` prints in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )


# --- the program ----------------------------------------------------------------------------------


def test_help_lists_every_command_with_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0

    out = capsys.readouterr().out
    for name in ("check", "nodes", "draw", "new", "doctor"):
        assert f"  {name} " in out
    assert "Check a graph without starting it" in out


def test_help_and_check_load_neither_numba_nor_zmq() -> None:
    code = (
        "import sys; from streamflow.cli import main; main(['--help']); "
        "main(['check', 'bad.yaml']); "
        "print([name for name in ('numba', 'zmq', 'rich', 'matplotlib') if name in sys.modules])"
    )

    assert fresh(code).stdout.splitlines()[-1] == "[]"


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    import click

    for name in program.list_commands(click.Context(program)):
        assert main([name, "--help"]) == 0, name
        assert "Usage: streamflow" in capsys.readouterr().out


def test_a_misspelt_command_is_answered_with_the_right_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["chekc", "good.yaml"]) == 2

    assert "did you mean 'check'?" in capsys.readouterr().err


def test_a_wrong_option_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "good.yaml", "--frobnicate"]) == 2

    assert "--frobnicate" in capsys.readouterr().err


def test_a_device_error_exits_1_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", "good.yaml", "--output", "nowhere/x.svg"]) == 1

    assert capsys.readouterr().err == (
        "streamflow: nowhere/x.svg cannot be written: No such file or directory\n"
    )


def test_a_reader_that_goes_away_is_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} -m streamflow.cli nodes --markdown | head -n 1"

    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=60, cwd=folder
    )

    assert done.stdout == "# The graph file\n"
    assert "Traceback" not in done.stderr


# --- check ----------------------------------------------------------------------------------------


def test_check_prints_the_plan_of_a_right_graph(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "good.yaml"]) == 0

    out = capsys.readouterr().out
    assert out.startswith("good: 2 nodes, 2 processes, 1 edge, clock fast\n")
    assert "a.values -> b.values  shared" in out


def test_check_tells_all_faults_of_a_wrong_graph_and_exits_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["check", "bad.yaml", "--set", "c.x=1"]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "bad.yaml:2: node 'a': unknown kind 'rmap'; did you mean 'ramp'?",
        "bad.yaml:3: node 'b': input 'values' is not connected; "
        "expected `inputs: {values: node.output}`",
        "--set c.x=1: the graph has no node 'c'; it has: a, b",
    ]


def test_check_takes_overrides_and_a_clock(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "good.yaml", "--set", "a.count=4", "--clock", "paced", "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    assert said["nodes"]["a"]["settings"]["count"] == 4
    assert said["clock"] == "paced"


def test_check_as_json_says_how_the_graph_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "good.yaml", "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    assert said["valid"] is True
    assert said["edges"]["a.values -> b.values"]["transport"] == "shared"
    assert said["processes"]["b"]["nodes"] == ["b"]
    assert said["memory"] == 72 * (16 << 20)
    assert len(said["digest"]) == 64


def test_check_as_json_says_what_is_wrong_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "bad.yaml", "--json"]) == 2

    said = json.loads(capsys.readouterr().out)
    assert said["valid"] is False
    assert [(fault["file"], fault["line"]) for fault in said["faults"]] == [
        ("bad.yaml", 2),
        ("bad.yaml", 3),
    ]


# --- nodes ----------------------------------------------------------------------------------------


def test_nodes_lists_every_kind_under_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodes", "--package", "thirdparty_nodes"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert "thirdparty_nodes processors" in lines
    assert any(line.split() == ["ramp", "Numbers", "that", "rise", "by", "one."] for line in lines)


def test_nodes_tells_all_about_one_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodes", "ramp"]) == 0

    out = capsys.readouterr().out
    assert "out  values  Tensor" in out
    assert "step: number > 0, s; default 0.001" in out
    assert "Stream time of a packet." in out
    assert "loses its state" in out


def test_nodes_tells_about_one_kind_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodes", "joiner", "--json"]) == 0

    (said,) = json.loads(capsys.readouterr().out)
    assert said["inputs"][2] == {"name": "third", "payload": "Tensor", "optional": True}


def test_nodes_answers_a_misspelt_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodes", "rmap"]) == 2

    assert "no node kind 'rmap'; did you mean 'ramp'?" in capsys.readouterr().err


def test_nodes_refuses_a_package_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodes", "--package", "nosuch"]) == 2

    assert "no node package nosuch is installed" in capsys.readouterr().err


def test_a_kind_that_cannot_be_imported_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodes", "needs_extra"]) == 2

    assert "pip install 'thirdparty-nodes[exotic]'" in capsys.readouterr().err


# --- draw -----------------------------------------------------------------------------------------


def test_draw_writes_text_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", "good.yaml"]) == 0

    assert "├────▶┤ values  passed │" in capsys.readouterr().out


def test_draw_writes_svg_to_a_file_called_so(folder: Path) -> None:
    assert main(["draw", "good.yaml", "--output", "good.svg"]) == 0

    assert (folder / "good.svg").read_text().startswith("<svg ")


def test_draw_writes_mermaid_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", "good.yaml", "--format", "mermaid"]) == 0

    assert capsys.readouterr().out.startswith("flowchart LR\n")


# --- new ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["source", "processor", "sink"])
def test_a_new_node_passes_its_own_test_as_it_is(folder: Path, role: str) -> None:
    assert main(["new", "node", f"my_{role}", "--role", role]) == 0

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", f"test_my_{role}.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_a_new_node_is_a_kind_once_a_package_holds_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = folder / "site" / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[streamflow.nodes]\nmine = mine\n")
    (folder / "site" / "mine").mkdir()
    (folder / "site" / "mine" / "__init__.py").touch()
    monkeypatch.chdir(folder / "site" / "mine")
    assert main(["new", "node", "dot", "--role", "source"]) == 0
    monkeypatch.syspath_prepend(folder / "site")
    importlib.invalidate_caches()
    Path("g.yaml").write_text("nodes: {a: {kind: dot, settings: {packets: 3}}}\n")

    assert main(["check", "g.yaml"]) == 0


def test_a_new_node_never_overwrites_a_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.py").write_text("precious")

    assert main(["new", "node", "mine"]) == 2

    assert (folder / "mine.py").read_text() == "precious"
    assert "mine.py exists already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["My-Node", "1st", "class", "a b", "../x"])
def test_a_new_node_has_a_name_that_a_graph_can_use(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(folder.iterdir())

    assert main(["new", "node", name]) == 2

    assert set(folder.iterdir()) == before
    assert "expected small letters" in capsys.readouterr().err


def test_a_new_node_is_not_called_like_a_kind_that_exists(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["new", "node", "ramp"]) == 2

    assert "kind 'ramp' exists already" in capsys.readouterr().err


def test_a_new_graph_is_right_as_it_is(folder: Path) -> None:
    assert main(["new", "graph", "mine"]) == 0

    assert sorted(path.name for path in (folder / "mine").iterdir()) == [
        "README.md",
        "graph.yaml",
        "sample.csv",
    ]
    assert main(["check", "mine"]) == 0
    said = plain(parse((folder / "mine" / "graph.yaml").read_bytes(), "graph.yaml"))
    assert said["name"] == "mine"


def test_a_new_graph_runs_as_it_is(folder: Path) -> None:
    main(["new", "graph", "mine"])

    done = subprocess.run(
        [sys.executable, "-m", "streamflow.cli", "run", "mine", "--report", "report.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert report["outcome"] == "completed"
    assert (folder / "quiet.raw").stat().st_size > 0


def test_a_new_graph_never_overwrites_a_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine").mkdir()

    assert main(["new", "graph", "mine"]) == 2

    assert list((folder / "mine").iterdir()) == []
    assert "exists already" in capsys.readouterr().err


# --- doctor ---------------------------------------------------------------------------------------


def findings(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, list[dict[str, str]]]:
    capsys.readouterr()
    main(["doctor", "--json", *options])
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(capsys.readouterr().out):
        found.setdefault(finding["subject"], []).append(finding)
    return found


def test_doctor_looks_at_all_that_graphs_need(capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(capsys)

    for subject in (
        "Python", "dependencies", "extra [events]", "node packages", "memory files (memfd)",
        "passing descriptors (SCM_RIGHTS)", "watching processes (pidfd)", "memory", "/dev/shm",
        "kernel cache", "runtime directory",
    ):  # fmt: skip
        assert subject in found
    assert "numpy" in found["dependencies"][0]["what"]


def test_doctor_knows_the_unrelated_distribution_of_the_same_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "distribution streamflow" not in findings(capsys)
    info = folder / "site" / "streamflow-0.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: streamflow\nVersion: 0.2\n")
    monkeypatch.syspath_prepend(folder / "site")
    importlib.invalidate_caches()

    (clash,) = findings(capsys)["distribution streamflow"]

    assert clash["state"] == "fault"
    assert clash["what"] == "0.2 is installed beside streamflow-neuro, and is not related to it"
    assert "pip uninstall streamflow" in clash["remedy"]
    assert main(["doctor"]) == 1


def test_doctor_tells_entry_points_that_lead_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = folder / "site" / "gone-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gone\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[streamflow.nodes]\ngone = gone_nodes\n")
    monkeypatch.syspath_prepend(folder / "site")
    importlib.invalidate_caches()

    states = {f["what"]: f["state"] for f in findings(capsys)["node packages"]}

    assert states["entry point 'gone': package 'gone_nodes' is not installed"] == "fault"


def test_doctor_says_when_the_kernel_cache_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/nowhere")

    (cache,) = findings(capsys)["kernel cache"]

    assert cache["state"] == "note"
    assert "set NUMBA_CACHE_DIR" in cache["remedy"]


@pytest.fixture
def runs(folder: Path) -> Iterator[Path]:
    """A runtime directory with one run that lives (its lock is held) and two that died."""
    base = Path(os.environ["XDG_RUNTIME_DIR"], "streamflow")
    base.mkdir(mode=0o700)
    for name in ("living", "dead"):
        (base / name).mkdir()
        (base / name / "lock").touch()
        (base / name / "e1.1").touch()
    (base / "unborn").mkdir()
    os.utime(base / "unborn", (time.time() - 3600,) * 2)
    (base / "newborn").mkdir()
    (base / ".newborn").mkdir()
    (base / ".newborn" / "lock").touch()  # a moment before it is taken
    with (base / "living" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield base


def test_doctor_finds_what_dead_runs_left_and_leaves_it(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = findings(capsys)

    assert [f["what"] for f in found["leftover"]] == [
        f"{runs / 'dead'} is of a run that died",
        f"{runs / 'unborn'} is of a run that died",
    ]
    assert found["runtime directory"][0]["what"] == f"{runs}, 3 running"
    assert sorted(path.name for path in runs.iterdir()) == [
        ".newborn", "dead", "living", "newborn", "unborn",
    ]  # fmt: skip


def test_doctor_cleans_what_dead_runs_left_and_nothing_else(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    findings(capsys, "--clean")

    assert sorted(path.name for path in runs.iterdir()) == [".newborn", "living", "newborn"]
    assert "leftover" not in findings(capsys)


def test_doctor_refuses_a_runtime_directory_that_others_can_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = Path(os.environ["XDG_RUNTIME_DIR"], "streamflow")
    runtime.mkdir(mode=0o755)
    runtime.chmod(0o755)

    (found,) = findings(capsys)["runtime directory"]

    assert found["state"] == "fault"
    assert "mode 755" in found["what"]
