"""What the documents say, held against what there is."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from streamflow.cli import program
from streamflow.graph import shipped
from streamflow.testing import drive, events
from streamflow.yaml_file import parse, plain

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "graphs").glob("*/README.md")),
]
RECORDS = sorted((ROOT / "docs" / "adr").glob("*.md"))
MIRROR = ROOT / "examples" / "my_nodes"
SCHEMA = ROOT / "docs" / "run-report.schema.json"
HEADINGS = ["Context", "Decision", "Options", "Consequences", "What would reverse it"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.M | re.S)


def execute(block: str, names: dict[str, Any]) -> None:
    """Run a block as a module of its own, without this one's `from __future__` lines."""
    exec(compile(block, "document", "exec", dont_inherit=True), names)


def commands(document: Path, word: str) -> list[str]:
    """What follows `word` in code: to the end of its line, continued lines included."""
    text = document.read_text().replace("\\\n", " ")
    lines = re.findall(r"^    (.*)$", text, re.M) + re.findall(r"`([^`\n]+)`", text)
    found = [re.sub(r"\s+#.*", "", line) for line in lines]
    return [
        rest
        for line in found
        for rest in re.findall(rf"(?:^|\s|/){word} ([a-z-].*?)(?:$|\||>)", line)
    ]


# --- links and names ------------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@each_document
def test_every_link_within_the_repository_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(there), target


@each_document
def test_every_command_and_option_exists(document: Path) -> None:
    context = click.Context(program)
    for line in commands(document, "streamflow"):
        words = line.split()
        command: click.Command | None = program
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            word = words.pop(0)
            if word.isupper():  # `streamflow COMMAND --help`
                break
            command = command.get_command(context, word)
        assert command is not None, line
        known = {name for parameter in command.get_params(context) for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}, line


@each_document
def test_every_make_target_exists(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()

    for line in commands(document, "make"):
        assert re.search(rf"^{line.split()[0]}:", makefile, re.M), line


@each_document
def test_every_script_that_is_called_exists(document: Path) -> None:
    for line in commands(document, "python"):
        if not line.startswith("-"):
            assert (ROOT / line.split()[0]).is_file(), line


def test_every_test_that_is_named_exists() -> None:
    defined = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }

    for document in DOCUMENTS:
        for name in re.findall(r"`(test_\w+)`", document.read_text()):
            assert name in defined, f"{name_of(document)}: {name}"


def test_every_document_can_be_found_from_the_readme() -> None:
    found, look = set(), [ROOT / "README.md"]
    while look:
        document = look.pop()
        if document in found:
            continue
        found.add(document)
        for target in re.findall(r"\]\(([^)\s#]+\.md)", document.read_text()):
            if not target.startswith("http"):
                look.append((document.parent / target).resolve())

    missing = set(DOCUMENTS) - found - {ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"}
    assert {path for path in missing if path.is_relative_to(ROOT / "docs")} == set()


# --- decision records -----------------------------------------------------------------------------


def test_decision_records_are_numbered_without_a_gap() -> None:
    numbers = [int(path.name[:4]) for path in RECORDS]

    assert numbers == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("record", RECORDS, ids=name_of)
def test_a_decision_record_has_its_five_parts_on_one_page(record: Path) -> None:
    text = record.read_text()

    assert re.match(rf"# {int(record.name[:4])}\. \S", text)
    assert re.findall(r"^## (.*)$", text, re.M) == HEADINGS
    assert len(text.splitlines()) <= 70


def test_the_index_lists_every_decision_record() -> None:
    listed = re.findall(r"\]\(adr/([^)]+)\)", (ROOT / "docs" / "index.md").read_text())

    assert listed == [path.name for path in RECORDS]


# --- what is shown is what runs -------------------------------------------------------------------


@pytest.mark.parametrize("document", ["README.md", "docs/add-a-node.md"])
def test_the_node_that_is_shown_is_the_examples(document: str) -> None:
    shown = blocks(ROOT / document, "python")[0]

    assert shown == (MIRROR / "my_nodes" / "mirror.py").read_text()


def test_the_readmes_node_runs() -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    execute(blocks(ROOT / "README.md", "python")[0], names)
    packet = events([(5, 0, 2, 1)], width=8, height=4)

    out = drive(names["Mirror"]({"axis": "x"}), events=[packet])

    assert out.items("mirrored").tolist() == [(5, 7, 2, 1)]


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "python")], ids=name_of)
def test_the_python_of_a_document_runs_from_top_to_bottom(document: Path) -> None:
    names: dict[str, Any] = {"__name__": "document"}

    for block in blocks(document, "python"):
        execute(block, names)


def test_the_node_of_the_guide_counts_the_same_however_often_time_advances_and_after_a_restart():
    names: dict[str, Any] = {"__name__": "document"}
    for block in blocks(ROOT / "docs" / "add-a-node.md", "python"):
        execute(block, names)
    make, packet = names["RowsPerPeriod"], names["packet"]
    stream = [packet(start, 1) for start in (0, 30, 99, 100, 420, 430)]
    whole = drive(make({"period": 100}), rows=stream).items("counts").tolist()

    first, second = make({"period": 100}), make({"period": 100})
    before = drive(first, rows=stream[:2], end=False)["counts"]
    second.open()
    second.restore(first.snapshot())
    after = drive(second, rows=stream[2:], opened=True)

    assert whole == [(0, 3), (100, 1), (400, 2)]
    assert before == []
    assert after.items("counts").tolist() == whole


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "yaml")], ids=name_of)
def test_every_graph_that_is_shown_fits_the_schema(document: Path) -> None:
    schema = json.loads((ROOT / "docs" / "graph.schema.json").read_text())

    for block in blocks(document, "yaml"):
        jsonschema.Draft202012Validator(schema).validate(plain(parse(block, document.name)))


def streamflow(
    folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamflow.cli", *arguments], cwd=folder, check=False,
        env={**os.environ, "COLUMNS": "400", **environment}, capture_output=True, text=True,
        timeout=100,
    )  # fmt: skip


def test_the_readmes_graph_runs(tmp_path: Path) -> None:
    (tmp_path / "graph.yaml").write_text(blocks(ROOT / "README.md", "yaml")[0])
    sample = shipped()["flow_cytometry"].parent / "sample.raw"
    shutil.copy(sample, tmp_path / "recording.raw")

    done = streamflow(
        tmp_path, "run", "graph.yaml", "--set", "camera.width=64", "--set", "camera.height=48"
    )

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "quiet.raw").stat().st_size > 100_000


def test_the_picture_of_the_graph_is_what_draw_gives() -> None:
    done = streamflow(ROOT, "draw", "flow_cytometry", "--format", "svg")

    committed = (ROOT / "docs" / "pictures" / "flow_cytometry.svg").read_text()
    assert done.stdout == committed, (
        "streamflow draw flow_cytometry --output docs/pictures/flow_cytometry.svg"
    )


# --- the example package --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the example package."""
    source, target = tmp_path_factory.mktemp("source") / "my_nodes", tmp_path_factory.mktemp("site")
    shutil.copytree(MIRROR, source, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index",
         "--no-build-isolation", "--disable-pip-version-check", "--target", target, source],
        check=True, capture_output=True, timeout=100,
    )  # fmt: skip
    return target


def test_the_examples_own_test_passes(installed: Path, tmp_path: Path) -> None:
    shutil.copy(MIRROR / "test_mirror.py", tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "test_mirror.py"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_an_installed_package_gives_its_kinds_to_graphs(installed: Path, tmp_path: Path) -> None:
    told = streamflow(tmp_path, "nodes", "mirror", PYTHONPATH=str(installed))
    done = streamflow(
        tmp_path, "run", str(MIRROR), "--report", "report.json", PYTHONPATH=str(installed)
    )

    assert told.returncode == 0
    assert "keeps no state: a restart loses nothing" in told.stdout
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    nodes = report["nodes"]
    assert nodes["recorder"]["items_in"] == nodes["camera"]["items_out"] > 0
    assert (tmp_path / "mirrored.raw").exists()


# --- the run report -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What `make demo` prints, and its report."""
    folder = tmp_path_factory.mktemp("run")
    truth = shipped()["flow_cytometry"].parent / "sample.truth.csv"
    done = streamflow(
        folder, "run", "flow_cytometry", "--report", "report.json", "--set", f"score.truth={truth}"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "report.json").read_text())


def test_the_readme_quotes_what_the_sample_run_prints(
    sample_run: tuple[str, dict[str, Any]],
) -> None:
    (quoted,) = re.findall(r"^    (particles \d+, .*)$", (ROOT / "README.md").read_text(), re.M)

    assert quoted in " ".join(sample_run[0].split())  # lines are wrapped


def valid(report: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(report)


def test_the_report_of_a_whole_run_fits_the_schema(sample_run: tuple[str, dict[str, Any]]) -> None:
    valid(sample_run[1])


def test_reports_of_a_running_graph_fit_the_schema(tmp_path: Path) -> None:
    done = streamflow(tmp_path, "run", "flow_cytometry", "--clock", "paced", "--json")

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) >= 3
    assert any(process["pid"] for line in lines for process in line["processes"].values())
    for line in lines:
        valid(line)


def test_the_report_of_a_failed_run_fits_the_schema(tmp_path: Path) -> None:
    done = streamflow(
        tmp_path, "run", "flow_cytometry", "--set", "camera.path=absent.raw", "--report", "r.json"
    )

    report = json.loads((tmp_path / "r.json").read_text())
    assert done.returncode == 1
    assert report["outcome"] == "failed"
    assert "absent.raw" in report["error"]
    valid(report)


def test_the_page_on_the_report_tells_every_key_of_the_schema_and_no_other() -> None:
    schema = json.loads(SCHEMA.read_text())
    text = (ROOT / "docs" / "run-report.md").read_text()
    parts = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.M | re.S))

    def told(title: str) -> set[str]:
        rows = re.findall(r"^\| (`.*?) \|", parts[title], re.M)
        return {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert told("The run") == set(schema["properties"])
    for title, part in (("`nodes`", "node"), ("`processes`", "process"), ("`edges`", "edge")):
        assert told(title) == set(schema["$defs"][part]["properties"])
    latency = set(schema["$defs"]["latency"]["properties"])
    assert latency <= set(re.findall(r"`(\w+)`", parts["`latency_us`"]))
