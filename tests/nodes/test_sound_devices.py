"""Sound devices: their callbacks as PortAudio calls them, and PortAudio itself where it is.

No sound card was had. The rings are tested by calling the callbacks; `sound_card.py` runs both
nodes on the real PortAudio and ALSA with devices that end in a pipe and in a file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.audio.devices import InputRing, OutputRing, choose_device, portaudio

from streamflow.errors import DeviceError

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sound_card import CONFIG

BLOCK, RATE = 64, 8000
SLOW, FAST = 32, 10**9  # Hz: no callback here is two blocks (4 s) late, or each is (128 ns)


def time_info(begun: float = 0.0) -> Any:
    return SimpleNamespace(inputBufferAdcTime=begun, currentTime=begun + 0.005)


def status(wrong: bool = False) -> Any:
    return SimpleNamespace(input_overflow=wrong, output_underflow=wrong)


def block(number: int) -> Any:
    return np.full((BLOCK, 1), number, np.float32)


def taken(ring: InputRing) -> list[tuple[int, float]]:
    """First index and value of every block that waits."""
    out = []
    while (found := ring.take()) is not None:
        out.append((found[0], float(found[1][0, 0])))
    return out


def test_a_full_ring_loses_the_newest_and_the_index_counts_it() -> None:
    ring = InputRing(RATE, 1, BLOCK, 4 * BLOCK / RATE)

    for number in range(6):
        ring.callback(block(number), BLOCK, time_info(), status())
    before = taken(ring)
    ring.callback(block(6), BLOCK, time_info(), status())

    assert before == [(0, 0), (64, 1), (128, 2), (192, 3)]
    assert taken(ring) == [(6 * BLOCK, 6)]
    assert ring.dropped == 2 * BLOCK
    ring.close()


@pytest.mark.parametrize(("rate", "cause"), [(SLOW, "device"), (FAST, "late")])
def test_an_overflow_has_a_cause_and_a_length(rate: int, cause: str) -> None:
    ring = InputRing(rate, 1, BLOCK, 10 * BLOCK / rate)
    ring.begin()

    ring.callback(block(0), BLOCK, time_info(100.0), status())
    at = 100.0 + 4 * BLOCK / rate
    ring.callback(block(1), BLOCK, time_info(at), status(wrong=True))
    ring.callback(block(2), BLOCK, time_info(at + BLOCK / rate), status())

    if cause == "device":  # at the other rate four blocks are less than a clock's rounding
        assert ring.lost == 3 * BLOCK
        assert [first for first, _ in taken(ring)] == [0, 4 * BLOCK, 5 * BLOCK]
    assert {"late": ring.late, "device": ring.device} == {"late": 0, "device": 0, cause: 1}
    ring.close()


def test_a_callback_allocates_no_samples() -> None:
    ring = InputRing(RATE, 2, 1 << 15, 10.0)
    output = OutputRing(RATE, 2, 1 << 15, 1.0, 20.0)
    data = np.ones((1 << 15, 2), np.float32)
    output.put(data)
    info, fine = time_info(), status()
    ring.callback(data, len(data), info, fine)
    output.callback(data, len(data), info, fine)

    tracemalloc.start()
    ring.callback(data, len(data), info, fine)
    output.callback(data, len(data), info, fine)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < data.nbytes / 10
    ring.close()
    output.close()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 90)), max_size=60))
def test_what_is_played_is_what_came_with_silence_between(steps: list[tuple[bool, int]]) -> None:
    ring = OutputRing(100, 1, 16, 0.3, 0.8)
    sent, heard = 0, []

    for is_put, count in steps:
        if is_put:
            wanted = np.arange(sent + 1, sent + count + 1, dtype=np.float32)[:, None]
            sent += ring.put(wanted)
            assert ring.waiting <= 80
        else:
            out = np.full((count, 1), -1, np.float32)
            ring.callback(out, count, time_info(), status())
            heard.append(out[:, 0])
            if not np.any(np.concatenate(heard)):
                assert ring.waiting < 30  # playing begins when 0.3 s wait
    ring.is_ending = True
    starved = ring.starved
    while ring.waiting:
        out = np.empty((16, 1), np.float32)
        ring.callback(out, 16, time_info(), status())
        heard.append(out[:, 0])

    whole = np.concatenate(heard) if heard else np.empty(0)
    np.testing.assert_array_equal(whole[whole != 0], np.arange(1, sent + 1))
    if np.any(whole):
        first = int(np.argmax(whole != 0))
        assert starved <= np.count_nonzero(whole[first:] == 0) + 16
    assert ring.starved == starved  # the end is no fault
    ring.close()


def test_skipping_leaves_no_more_than_the_buffer() -> None:
    ring = OutputRing(100, 1, 10, 0.2, 1.0)
    ring.put(np.arange(1, 101, dtype=np.float32)[:, None])
    out = np.empty((10, 1), np.float32)

    ring.skip()
    ring.callback(out, 10, time_info(), status())

    assert out[:, 0].tolist() == list(range(81, 91))
    assert ring.skipped == 80
    assert ring.put(np.ones((200, 1), np.float32)) == 90
    ring.close()


def test_without_any_device_the_error_says_so() -> None:
    nothing = SimpleNamespace(query_devices=list, default=SimpleNamespace(device={"input": -1}))

    with pytest.raises(DeviceError, match="the system has no default; there are: none at all"):
        choose_device(nothing, "mic", None, "input")


def test_without_portaudio_the_error_says_what_to_install() -> None:
    if _has_portaudio():
        pytest.skip("PortAudio is installed here")

    with pytest.raises(DeviceError, match=r"apt install libportaudio2|pip install"):
        portaudio("mic")


def _has_portaudio() -> bool:
    """Without importing sounddevice, which opens every device there is."""
    return bool(find_spec("sounddevice") and find_library("portaudio"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `sound_card.py` said."""
    if not _has_portaudio():
        pytest.skip("no PortAudio here: apt install libportaudio2")
    folder = tmp_path_factory.mktemp("card")
    (folder / "asound.conf").write_text(CONFIG.format(folder=folder))
    os.mkfifo(folder / "feed")
    run = subprocess.run(
        [sys.executable, "-W", "error", str(Path(__file__).with_name("sound_card.py")), folder],
        env={**os.environ, "ALSA_CONFIG_PATH": str(folder / "asound.conf")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads((folder / "told.json").read_text())


def test_portaudio_records_what_a_device_gives(told: dict[str, Any]) -> None:
    recorded = told["recorded"]

    assert recorded["is_exact"]
    assert recorded["firsts"][:124] == list(range(0, 124 * 256, 256))
    assert recorded["results"]["device"].startswith("feed")
    assert recorded["closed_s"] < 20  # a driver that hangs is left to itself


def test_a_device_that_comes_back_goes_on_later(told: dict[str, Any]) -> None:
    recorded = told["recorded"]

    # in what came: one sample at full scale, one that is no number, zeros for more than a second
    wrong = {"clipped": 1, "not_finite": 1, "silent": 1}
    assert recorded["faults"] == {"disconnected": 1, **wrong}
    assert recorded["results"]["disconnected_s"] > 0
    steps = np.diff(recorded["firsts"])
    assert np.count_nonzero(steps > 256) == 1
    assert np.all(np.diff(recorded["starts"]) >= 0)


def test_portaudio_plays_every_sample(told: dict[str, Any]) -> None:
    played = told["played"]

    assert played["is_exact"]
    assert played["results"]["frames"] == 24_000
    assert played["faults"]["clipped"] == played["faults"]["not_finite"] == 2
    others = ("not_played", "skipped", "disconnected", "underflow_late", "underflow_device")
    assert not any(played["faults"][name] for name in others)


def test_a_device_that_is_not_there_is_one_error_with_all_that_are(told: dict[str, Any]) -> None:
    for error, what in zip(told["errors"], ("0 match 'violin'", "0 match 77", "match 'e'"),
                           strict=True):  # fmt: skip
        assert what in error
        assert "feed" in error
        assert "tape" in error
        assert "setting 'device'" in error
