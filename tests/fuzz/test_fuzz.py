"""No bytes make a reader do anything but read or refuse. `make fuzz` looks for longer.

Besides that, each input that fuzzing has found to do otherwise, as a test of its own.
"""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.events.readers import _aedat4_info
from targets import TARGETS, changed, folder

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "number", "insert", "cut", "remove", "repeat"]),
        st.floats(0, 1),
        st.one_of(st.sampled_from([0, 1, 127, 255, (1 << 32) - 1]), st.integers(0, (1 << 64) - 1)),
    ),
    max_size=5,
)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_read_or_refused(name: str) -> None:
    target = TARGETS[name]
    seeds, try_one = target.seeds(), target.prepare()

    @settings(max_examples=80 if target.ours else 25)
    @given(st.sampled_from(seeds), CHANGES)
    def every(seed: bytes, changes: list[tuple[str, float, int]]) -> None:
        try_one(changed(seed, changes))

    every()

    assert True in map(try_one, seeds)  # else the first check has refused everything


def test_an_evt_header_whose_format_says_nothing_is_refused() -> None:
    try_one = TARGETS["EVT3"].prepare()

    assert not try_one(b"% format\n% end\n" + bytes(8))


def test_an_aedat4_description_that_is_no_text_is_refused_before_faery_ends_the_process() -> None:
    # in a process of its own: faery 0.7.1 aborts
    seed = TARGETS["AEDAT4"].seeds()[0]
    at = seed.index(b"<dv version")
    path = folder() / "abort.aedat4"
    path.write_bytes(seed[: at + 10] + b"\xc9\xff" + seed[at + 12 :])
    code = (
        "import sys; from streamflow_nodes.events.readers import open_recording; "
        "from streamflow_nodes.events.recording import Layout; "
        "open_recording(sys.argv[1], Layout())"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 1
    assert "the AEDAT4 header cannot be read ('utf-8' codec" in done.stderr


def test_an_aedat4_table_said_to_lie_far_beyond_the_file_is_not_looked_for() -> None:
    # the header's second field, which our own files leave out, says where the table begins
    seed = TARGETS["AEDAT4"].seeds()[0]
    table = b"<dv/>\0\0\0" + struct.pack("<q", 1 << 60)
    header = struct.pack("<I4sHHHHHxxiII", 20, b"IOHE", 10, 28, 0, 20, 4, 12, 4, 5) + table

    assert _aedat4_info(header) == (b"<dv/>", 1 << 60)
    TARGETS["AEDAT4"].prepare()(seed[:14] + struct.pack("<I", len(header)) + header + bytes(100))
