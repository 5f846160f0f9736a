"""The share of particles that were decided rightly is what a plain, slow reading of it gives."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.particles.rows import PARTICLE
from streamflow_nodes.particles.scoring import match, wilson
from streamflow_nodes.sinks.csv_file import CsvFile
from streamflow_nodes.sinks.particle_scorer import ParticleScorer

from streamflow.errors import DeviceError, NodeError
from streamflow.packet import Packet, Table
from streamflow.testing import drive, table

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
RECORDINGS = SHARED / "data" / "cytometry"
SCORED = (
    "particles", "decisions", "detected", "correct", "correct_isolated", "isolated",
    "accuracy_matched", "late", "false",
)  # fmt: skip
Truth = tuple[float, str, str, bool]
Decision = tuple[float, str, int]


def reference(truth: list[Truth], decisions: list[Decision], tolerance: float = 600) -> Any:
    """The definition, pair by pair: nearest first, each side once."""
    decisions = sorted(decisions)
    near = sorted(
        (abs(d[0] - t[0]), i, j)
        for i, t in enumerate(truth)
        for j, d in enumerate(decisions)
        if t[0] - tolerance <= d[0] <= t[0] + tolerance
    )
    pairs: dict[int, int] = {}
    for _, i, j in near:
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    real = [i for i, t in enumerate(truth) if t[2] != "debris"]
    alone = [i for i in real if truth[i][2] == "bead" and not truth[i][3]]
    matched = [i for i in real if i in pairs]
    late = [i for i in matched if decisions[pairs[i]][2] > truth[i][0] + 5000]
    right = [i for i in matched if i not in late and decisions[pairs[i]][1] == truth[i][1]]
    return {
        "particles": len(real),
        "decisions": len(decisions),
        "detected": len(matched) / max(1, len(real)),
        "correct": len(right) / max(1, len(real)),
        "correct_isolated": sum(i in right for i in alone) / max(1, len(alone)),
        "isolated": len(alone),
        "accuracy_matched": len(right) / max(1, len(matched)),
        "late": len(late) / max(1, len(real)),
        "false": (len(decisions) - len(pairs)) / max(1, len(decisions)),
    }


def write_truth(path: Path, truth: list[Truth]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "time_us", "class", "kind", "overlaps"])
        for i, (time, name, kind, overlaps) in enumerate(truth):
            writer.writerow([i, repr(time), name, kind, int(overlaps)])
    return path


def rows_of(decisions: list[Decision]) -> np.ndarray[Any, Any]:
    rows = np.zeros(len(decisions), PARTICLE)
    for row, (time, name, decided) in zip(rows, decisions, strict=True):
        row["time_us"], row["class"], row["decided_us"] = time, name.encode(), decided
    return rows


def packets(rows: np.ndarray[Any, Any], size: int) -> list[Packet[Table]]:
    return [table(rows[i : i + size].copy(), i, i + size) for i in range(0, len(rows), size)]


def scored(results: dict[str, Any]) -> dict[str, Any]:
    return {key: results[key] for key in SCORED}


# Whole microseconds on a small stretch: many equal distances, ties and chains of overlaps.
times = st.one_of(st.integers(0, 8000).map(float), st.floats(0, 8000, width=32))
truths = st.lists(
    st.tuples(times, st.sampled_from("AB"), st.sampled_from(["bead", "doublet", "debris"]),
              st.booleans()),
    max_size=14,
)  # fmt: skip
decided = st.lists(
    st.tuples(times, st.sampled_from(["A", "B", "", "é"]), st.integers(0, 20_000)), max_size=14
)


@settings(deadline=None)
@given(truth=truths, decisions=decided, size=st.integers(1, 14))
def test_the_score_is_the_definitions_however_the_rows_were_cut(
    tmp_path_factory: pytest.TempPathFactory,
    truth: list[Truth],
    decisions: list[Decision],
    size: int,
) -> None:
    path = write_truth(tmp_path_factory.mktemp("truth") / "t.csv", truth)

    out = drive(ParticleScorer({"truth": str(path)}), rows=packets(rows_of(decisions), size))

    assert scored(out.results) == reference(truth, decisions)
    json.dumps(out.results, allow_nan=False)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), gap=st.integers(300, 3000), late=st.integers(0, 40_000))
def test_settling_on_the_way_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, gap: int, late: int
) -> None:
    """A long stream, settled after every packet: only what is still open is kept."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    truth, decisions = recording(generator, 120, gap)
    shuffled = [decisions[i] for i in np.argsort(
        [d[0] + generator.uniform(0, late) for d in decisions], kind="stable"
    )]  # fmt: skip
    path = write_truth(tmp_path_factory.mktemp("truth") / "t.csv", truth)
    node = ParticleScorer({"truth": str(path), "reorder_us": 40_000})
    node.open()
    for packet in packets(rows_of(shuffled), 5):
        node._settle_at = 1
        drive(node, rows=[packet], opened=True, end=False)

    out = drive(node, rows=[], opened=True)

    assert scored(out.results) == reference(truth, decisions)
    assert out.faults["out_of_order"] == 0


def test_a_long_stream_keeps_only_what_is_open(tmp_path: Path) -> None:
    truth, decisions = recording(np.random.default_rng(5), 3000, 3000)
    path = write_truth(tmp_path / "t.csv", truth)
    node = ParticleScorer({"truth": str(path), "reorder_us": 100_000})
    node.open()

    drive(node, rows=packets(rows_of(decisions), 10), opened=True, end=False)

    # 9 s of stream; what is not yet settled is far less, whatever came before
    assert len(decisions) > 2500
    assert len(node.snapshot()["pending"]) < 1024
    assert scored(drive(node, rows=[], opened=True).results) == reference(truth, decisions)


def recording(
    generator: np.random.Generator, count: int, gap: float
) -> tuple[list[Truth], list[Decision]]:
    """Particles at random times, and decisions that miss, invent, err and come late."""
    at = np.cumsum(generator.exponential(gap, count)).round(1)
    truth: list[Truth] = []
    decisions: list[Decision] = []
    for time in at.tolist():
        kind = str(generator.choice(["bead", "bead", "bead", "doublet", "debris"]))
        name = str(generator.choice(["A", "B"]))
        truth.append((time, name, kind, bool(generator.integers(2))))
        for _ in range(int(generator.choice([0, 1, 1, 1, 2]))):
            centre = float(time + generator.normal(0, 250))
            said = name if generator.random() < 0.8 else "B"
            decisions.append((centre, said, int(time + generator.integers(0, 6000))))
    return truth, decisions


def real_truth(name: str) -> list[Truth]:
    path = RECORDINGS / f"{name}.truth.csv"
    if not path.exists():
        pytest.skip(f"the simulated recording {path} is absent")
    with open(path, newline="", encoding="utf-8") as file:
        return [
            (float(r["time_us"]), r["class"], r["kind"], r["overlaps"] == "1")
            for r in csv.DictReader(file)
        ]


def decisions_about(truth: list[Truth]) -> list[Decision]:
    generator = np.random.default_rng(7)
    out: list[Decision] = []
    for time, name, kind, overlaps in truth:
        if generator.random() < (0.4 if overlaps or kind == "debris" else 0.02):
            continue
        said = name if generator.random() < 0.93 else "AB"[name == "A"]
        out.append((time + generator.normal(0, 90), said, int(time + generator.gamma(2, 1000))))
    return out


@pytest.mark.parametrize("name", ["mixed_50", "mixed_200"])
def test_the_score_of_a_recording_is_that_of_the_scoring_script(tmp_path: Path, name: str) -> None:
    script = SHARED / "tools" / "score_particles.py"
    truth = real_truth(name)
    if not script.exists():
        pytest.skip(f"the scoring script {script} is absent")
    rows = rows_of(decisions_about(truth))
    spec = importlib.util.spec_from_file_location("score_particles", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drive(CsvFile({"path": str(tmp_path / "decisions.csv")}), rows=packets(rows, 3))

    out = drive(
        ParticleScorer({"truth": str(RECORDINGS / f"{name}.truth.csv")}), rows=packets(rows, 3)
    )

    with (
        open(RECORDINGS / f"{name}.truth.csv", encoding="utf-8") as truth_file,
        open(tmp_path / "decisions.csv", encoding="utf-8") as decision_file,
    ):
        theirs = module.score(list(csv.DictReader(truth_file)), list(csv.DictReader(decision_file)))
    assert scored(out.results) == theirs
    assert 0.5 < out.results["correct"] < 0.95


TRUTH: list[Truth] = [
    (1000.0, "A", "bead", False),
    (3000.0, "A", "bead", True),
    (3500.0, "B", "doublet", True),
    (8000.0, "B", "bead", False),
    (20_000.0, "A", "debris", False),
]


def test_every_particle_and_decision_is_somewhere_in_the_confusion(tmp_path: Path) -> None:
    path = write_truth(tmp_path / "t.csv", TRUTH)
    decisions: list[Decision] = [
        (1100.0, "A", 1500),  # right
        (3200.0, "B", 3900),  # nearest to the first of two that overlap: wrong
        (8100.0, "B", 13_001),  # right, but 5001 us after the centre
        (20_100.0, "B", 20_100),  # debris
        (50_000.0, "A", 50_000),  # nothing there
    ]

    results = drive(
        ParticleScorer({"truth": str(path)}), rows=packets(rows_of(decisions), 2)
    ).results

    assert results["confusion"] == {
        "A": {"A": 1, "B": 1},
        "B": {"(late)": 1, "(missed)": 1},
        "(debris)": {"B": 1},
        "(nothing)": {"A": 1},
    }
    assert results["correct"] == 0.25
    assert results["correct_interval"] == list(wilson(1, 4))
    assert results["correct_isolated"] == 0.5
    assert results["correct_isolated_interval"] == list(wilson(1, 2))
    assert results["kinds"]["debris"] == {"particles": 1, "detected": 1.0}
    assert results["kinds"]["overlapping"]["particles"] == 2
    assert results["kinds"]["doublet"]["detected"] == 0.0
    assert results["kinds"]["bead"]["correct"] == 1 / 3


@settings(deadline=None)
@given(cut=st.integers(0, 8))
def test_a_restart_changes_no_score(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    truth, decisions = recording(np.random.default_rng(3), 60, 1500)
    path = write_truth(tmp_path_factory.mktemp("truth") / "t.csv", truth)
    each = packets(rows_of(decisions), math.ceil(len(decisions) / 8))
    first = ParticleScorer({"truth": str(path), "reorder_us": 20_000})
    first.open()
    first._settle_at = 1
    drive(first, rows=each[:cut], opened=True, end=False)
    state = first.snapshot()

    second = ParticleScorer({"truth": str(path), "reorder_us": 20_000})
    second.open()
    second.restore(state)
    out = drive(second, rows=each[cut:], opened=True)

    assert scored(out.results) == reference(truth, decisions)


def test_without_truth_decisions_are_counted_per_class() -> None:
    rows = rows_of([(1.0, "B", 2), (2.0, "A", 3), (3.0, "B", 4)])

    out = drive(ParticleScorer(), rows=packets(rows, 2))

    assert out.results == {"truth": "no truth", "decisions": 3, "classes": {"A": 1, "B": 2}}


def test_no_decisions_at_all_miss_every_particle(tmp_path: Path) -> None:
    path = write_truth(tmp_path / "t.csv", TRUTH)

    results = drive(ParticleScorer({"truth": str(path)}), rows=[]).results

    assert results["confusion"]["A"] == {"(missed)": 2}
    assert (results["particles"], results["correct"], results["false"]) == (4, 0.0, 0.0)


def test_without_the_time_of_decision_nothing_is_late(tmp_path: Path) -> None:
    path = write_truth(tmp_path / "t.csv", TRUTH[:1])
    rows = np.array([(1000, "A")], [("time_us", "<i8"), ("class", "U4")])

    results = drive(ParticleScorer({"truth": str(path)}), rows=[table(rows, 0, 1)]).results

    assert (results["correct"], results["late"]) == (1.0, 0.0)


def test_hostile_decisions_match_nothing_and_are_counted(tmp_path: Path) -> None:
    path = write_truth(tmp_path / "t.csv", [*TRUTH, (9e6, "A", "bead", False)])
    rows = rows_of([(9e6, "A", 1), (1000.0, "A", 1), (math.nan, "A", 1), (math.inf, "A", 1)])
    rows["class"][3] = b"\xff"

    out = drive(ParticleScorer({"truth": str(path)}), rows=packets(rows, 1))

    assert out.faults == {"time_not_finite": 2, "out_of_order": 1}
    assert out.results["confusion"]["(nothing)"] == {"A": 2, "\\xff": 1}
    assert out.results["false"] == 0.75
    assert out.results["detected"] == 0.2
    json.dumps(out.results, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"lacks the columns \['time_us', 'class', 'kind', 'overlaps'\]"),
        ("time_us,class,kind\n1,A,bead\n", r"lacks the columns \['overlaps'\]"),
        ("time_us,class,kind,overlaps\nx,A,bead,0\n", r"t\.csv:2: time_us is 'x'"),
        ("time_us,class,kind,overlaps\nnan,A,bead,0\n", r"t\.csv:2: time_us is 'nan'"),
        ("time_us,class,kind,overlaps\n1,A,bead,0\n2,A,cell,0\n", r"t\.csv:3: kind is 'cell'"),
        ("time_us,class,kind,overlaps\n1,A,bead\n", r"overlaps is None; expected 0 or 1"),
        ("time_us,class,kind,overlaps\n1,,bead,1\n", r"class is empty"),
        ("\xff", r"is not text"),
    ],
)
def test_a_malformed_truth_is_an_error_before_any_data_flows(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    node = ParticleScorer({"truth": str(tmp_path / "t.csv")}, name="score")

    with pytest.raises(DeviceError, match=message):
        node.open()


def test_a_missing_truth_is_an_error_before_any_data_flows(tmp_path: Path) -> None:
    node = ParticleScorer({"truth": str(tmp_path / "absent.csv")}, name="score")

    with pytest.raises(DeviceError, match=r"score: cannot read truth .*absent\.csv: No such file"):
        node.open()


def test_rows_without_what_is_scored_are_an_error() -> None:
    with pytest.raises(NodeError, match=r"rows without \['class'\]; they have \['time_us'\]"):
        drive(ParticleScorer(), rows=[table(np.zeros(1, [("time_us", "f8")]), 0, 1)])


def test_class_names_too_long_to_keep_are_an_error() -> None:
    rows = np.zeros(1, [("time_us", "f8"), ("class", "S65")])

    with pytest.raises(NodeError, match="at most 64"):
        drive(ParticleScorer(), rows=[table(rows, 0, 1)])


def test_matching_takes_the_nearest_pair_first() -> None:
    truth, decisions = np.array([100.0, 160.0, 900.0]), np.array([130.0, 150.0])

    # 160-150 is nearest; then 100-130, though 160-130 ties with it
    assert match(truth, decisions, 600).tolist() == [0, 1, -1]
    assert match(truth, decisions, 25).tolist() == [-1, 1, -1]
    assert match(np.empty(0), decisions, 600).tolist() == []


def test_an_interval_is_the_published_one() -> None:
    # Newcombe 1998, Table I, method 3: 81/263, 15/148, 0/20, 1/29
    for (successes, trials), expected in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson(successes, trials) == pytest.approx(expected, abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)
