"""Gives every reader of untrusted bytes as many damaged inputs as there is time for.

    python benchmarks/fuzz.py --minutes 20 [--only EVT3 YAML] [--out docs/results/fuzz.md]

Half of the inputs are seeds of `tests/fuzz/targets.py` with a few places changed; the other half
Atheris (libFuzzer) makes of what has reached new code in `streamflow` and `streamflow_nodes`.
Compiled kernels and libraries are not instrumented, so there it sees results only. A finding is any
exception but the one that the reader declares, a process that dies, one input that takes over a
second of processor time, or a process over 1 GiB. A finding is kept in a file, whose name is
printed, and the exit code is 1. Needs the extra `fuzz`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import io
import mmap
import os
import pkgutil
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "fuzz"))

COUNTS = struct.Struct("<4Q")  # inputs tried, inputs read, slowest input (ns), its length
SLOW_NS = 1_000_000_000
MEMORY_MB = 1024
LONGEST = 65536  # bytes of an input
CHANGES = ("set", "set", "number", "insert", "remove", "repeat", "cut")
WORD = 1 << 64
STUCK_S = (
    120  # libFuzzer ends a process whose input takes so long by the clock, busy machine or not
)
ENDS = {70: f"stuck for {STUCK_S} s by the clock", 71: f"over {MEMORY_MB} MB"}  # by exit code


class Outcome(NamedTuple):
    """What came of one target."""

    tried: int
    read: int
    slowest_ns: int
    seconds: float
    peak_mb: float
    finding: str


# --- one target in a process of its own -----------------------------------------------------------


def fuzz(name: str, seconds: int, place: Path) -> None:
    """Fuzz one target for so long; does not return."""
    import atheris
    import streamflow_nodes.kernels as kernels

    for module in pkgutil.iter_modules(kernels.__path__, kernels.__name__ + "."):
        importlib.import_module(module.name)  # Numba cannot compile what is instrumented
    with atheris.instrument_imports(include=["streamflow", "streamflow_nodes"]):
        from targets import TARGETS, changed

        target = TARGETS[name]
        corpus = place / "corpus"
        corpus.mkdir()
        seeds = target.seeds()
        for number, seed in enumerate(seeds):
            (corpus / f"seed{number}").write_bytes(seed)
        try_one = target.prepare()
    with (place / "counts").open("r+b") as file:
        counts = mmap.mmap(file.fileno(), COUNTS.size)
    tried = read = slowest = longest = 0

    def one(data: bytes) -> None:
        nonlocal tried, read, slowest, longest
        tried += 1
        begun = time.process_time_ns()
        good = try_one(data)
        took = time.process_time_ns() - begun
        read += good
        if took > slowest:
            slowest, longest = took, len(data)
        COUNTS.pack_into(counts, 0, tried, read, slowest, longest)
        if took > SLOW_NS:
            raise TimeoutError(f"{took / 1e9:.1f} s of processor time for {len(data)} bytes")

    def mutate(data: bytes, longest: int, number: int) -> bytes:
        """Half of the inputs stay near a seed: libraries tell libFuzzer nothing of their paths."""
        chance = random.Random(number)
        if chance.random() < 0.5:
            return bytes(atheris.Mutate(data, longest))
        changes = [
            (chance.choice(CHANGES), chance.random(), chance.choice((0, 1, 255, number, -1)) % WORD)
            for _ in range(chance.randint(1, 4))
        ]
        return changed(chance.choice(seeds), changes)[:longest]

    options = [
        f"-max_total_time={seconds}", f"-timeout={STUCK_S}", f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={LONGEST}", f"-artifact_prefix={place}/", "-verbosity=0", "-detect_leaks=0",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


def run(name: str, seconds: int, kept: Path) -> Outcome:
    """Fuzz one target in a child; what came of it."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        place = Path(folder)
        (place / "counts").write_bytes(bytes(COUNTS.size))
        command = [sys.executable, __file__, "--target", name, str(seconds), str(place)]
        begun = time.monotonic()
        with (place / "said").open("w") as said:
            child = subprocess.Popen(command, stdout=said, stderr=said, cwd=place)
            _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        took = time.monotonic() - begun
        tried, read, slowest, _ = COUNTS.unpack((place / "counts").read_bytes())
        finding = _finding(place, child.returncode, kept / f"{name.replace(' ', '_')}.finding")
    return Outcome(tried, read, slowest, took, used.ru_maxrss / 1024, finding)


def _finding(place: Path, code: int, kept: Path) -> str:
    """What went wrong, with the input kept beside it; '' when nothing did."""
    if code == 0:
        return ""
    said = (place / "said").read_text(errors="replace")
    for found in place.glob("*-*"):  # crash-, timeout-, oom- and a digest
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(found.read_bytes())
    lines = [line for line in said.splitlines() if "Error" in line or "Exception" in line]
    what = (lines or [ENDS.get(code, "no exception")])[0].strip()[:150]
    return f"exit code {code}: {what}; input in {kept}"


# --- all of them ----------------------------------------------------------------------------------


def main() -> int:
    if sys.argv[1:2] == ["--target"]:
        fuzz(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    from targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="for all targets together")
    parser.add_argument("--only", nargs="+", choices=TARGETS, metavar="TARGET", default=[])
    parser.add_argument("--out", type=Path, help="write the table there too")
    parser.add_argument("--kept", type=Path, default=Path("out/fuzz"), help="for findings")
    arguments = parser.parse_args()
    try:
        import atheris  # noqa: F401  # only whether it is there
    except ImportError:
        print("fuzz.py needs atheris: pip install 'streamflow-neuro[fuzz]'", file=sys.stderr)
        return 2

    names = arguments.only or list(TARGETS)
    seconds = max(1, round(60 * arguments.minutes / len(names)))
    outcomes = {}
    for name in names:
        outcomes[name] = found = run(name, seconds, arguments.kept)
        print(f"{name}: {found.tried} inputs, {found.finding or 'nothing found'}", flush=True)
    text = report(outcomes, seconds)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)
    return int(any(found.finding for found in outcomes.values()))


def report(outcomes: dict[str, Outcome], seconds: int) -> str:
    """The page of results."""
    from _table import print_machine, print_table
    from targets import TARGETS

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print("# Fuzzing\n")
        print(
            f"Written by `benchmarks/fuzz.py` on {datetime.date.today()}: {seconds} s a target.\n"
        )
        print_machine()
        for ours, title in ((True, "Our own readers"), (False, "Libraries behind our checks")):
            chosen = {name: found for name, found in outcomes.items() if TARGETS[name].ours == ours}
            if not chosen:
                continue
            total = sum(found.tried for found in chosen.values())
            print_table(
                f"## {title}\n\n{total:,} inputs.",
                ["reader", "inputs", "of them read", "slowest (ms CPU)", "peak (MB)", "found"],
                [
                    [
                        name, f"{found.tried:,}", f"{found.read:,}",
                        f"{found.slowest_ns / 1e6:.0f}", f"{found.peak_mb:.0f}",
                        found.finding or "nothing",
                    ]
                    for name, found in chosen.items()
                ],
            )  # fmt: skip
    return out.getvalue()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
