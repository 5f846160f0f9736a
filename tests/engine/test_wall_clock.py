"""The wall clock may jump: nothing but labels and the age of files asks it.

Waits, deadlines, latencies and stream time go by the monotonic clock. This machine's wall clock is
shared and is not set here; what is shown is that nobody asks for it.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# what reads CLOCK_REALTIME, by the name under which it is reached
WALL = {
    ("time", "time"), ("time", "time_ns"), ("time", "localtime"), ("time", "gmtime"),
    ("time", "ctime"), ("time", "asctime"), ("time", "strftime"), ("datetime", "now"),
    ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"), ("time", "CLOCK_REALTIME"),
}  # fmt: skip
LABELS = {
    "nodes/streamflow_nodes/sinks/fcs_file.py": "$DATE, $BTIM and $ETIM of the file",
    "nodes/streamflow_nodes/sinks/rtdc_file.py": "date and time of the measurement",
    "streamflow/cli/doctor.py": "age of folders that other runs have left, whose times are such",
}


def asks_the_wall_clock(source: str) -> bool:
    """Whether the code reaches for any of `WALL`, or takes such a name out of its module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if (name, node.attr) in WALL:
                return True
        if isinstance(node, ast.ImportFrom) and any(
            (node.module, name.name) in WALL for name in node.names
        ):
            return True
    return False


def test_only_labels_come_from_the_wall_clock() -> None:
    files = [*ROOT.glob("streamflow/**/*.py"), *ROOT.glob("nodes/**/*.py")]

    asking = {
        str(path.relative_to(ROOT)) for path in files if asks_the_wall_clock(path.read_text())
    }

    assert len(files) > 80
    assert asking == set(LABELS)


def test_the_look_finds_what_it_looks_for() -> None:
    assert asks_the_wall_clock("import time\nstart = time.time()")
    assert asks_the_wall_clock("import datetime\nx = datetime.datetime.now()")
    assert asks_the_wall_clock("from time import time_ns")
    assert not asks_the_wall_clock("import time\nstart = time.monotonic_ns()")
