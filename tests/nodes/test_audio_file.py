"""A sound file comes out sample for sample, whatever it is and however it is cut."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamflow_nodes.audio.samples import sample_time
from streamflow_nodes.sources.audio_file import AudioFile

from streamflow.errors import DeviceError
from streamflow.testing import Driven, drive

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from runs import run

soundfile = pytest.importorskip("soundfile")
SPEECH = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "audio" / "speech"


def sound(frames: int, channels: int = 1) -> Any:
    """Deterministic noise, (frames, channels) int16."""
    generator = np.random.default_rng(frames + channels)
    return generator.integers(-(1 << 15), 1 << 15, (frames, channels), dtype=np.int16)


def check_times(out: Driven) -> None:
    """Packets follow each other in index and time."""
    first = out["samples"][0].data.first
    for packet in out["samples"]:
        data = packet.data
        assert data.first == first
        first += len(data)
        assert packet.start == sample_time(data.first, data.rate)
        assert packet.stop == sample_time(first, data.rate)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "ogg", "mp3"])
def test_every_format_comes_out_as_soundfile_reads_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, sound(10_000, 2), 44_100)
    whole, rate = soundfile.read(path, dtype="float32", always_2d=True)

    out = drive(AudioFile({"path": str(path), "block_size": 777}))

    np.testing.assert_array_equal(out.items("samples"), whole)
    check_times(out)
    assert {p.data.rate for p in out["samples"]} == {rate}
    assert out.results["frames"] == len(whole) == 10_000
    assert not any(out.faults.values())


@settings(deadline=None, max_examples=30)
@given(
    frames=st.integers(0, 300),
    block=st.integers(1, 400),
    first=st.integers(0, 299),
    channels=st.sampled_from(["all", "mono", "stereo"]),
    stop=st.integers(1, 20),
    suffix=st.sampled_from(["wav", "ogg"]),
)
def test_a_restart_goes_on_with_the_next_packet(
    tmp_path_factory: pytest.TempPathFactory,
    frames: int, block: int, first: int, channels: str, stop: int, suffix: str,
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("restart") / f"a.{suffix}"
    soundfile.write(path, sound(frames), 11_025)
    given_settings = {
        "path": str(path), "block_size": block, "first": first if first < frames else 0,
        "channels": channels,
    }  # fmt: skip
    whole = drive(AudioFile(given_settings))
    before = AudioFile(given_settings)

    begun = drive(before, limit=stop, end=False)
    after = AudioFile(given_settings)
    after.open()
    after.restore(before.snapshot())
    before.close()
    rest = drive(after, opened=True)

    both = [*begun["samples"], *rest["samples"]]
    assert [p.start for p in both if len(p.data)] == [
        p.start for p in whole["samples"] if len(p.data)
    ]
    np.testing.assert_array_equal(
        np.concatenate([p.data.array for p in both]), whole.items("samples")
    )
    check_times(whole)
    assert rest.results["frames"] == whole.results["frames"]


def test_a_loop_goes_on_in_index_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(100), 8000)
    node = {"path": str(path), "block_size": 64, "first": 20, "loop": True}

    out = drive(AudioFile(node), limit=5)

    lap = sound(100)[20:].astype(np.float32) / 32768
    np.testing.assert_array_equal(out.items("samples"), np.concatenate([lap, lap, lap])[: 160 + 64])
    assert out["samples"][0].data.first == 20
    check_times(out)


def test_channels_are_mixed_or_doubled(tmp_path: Path) -> None:
    two, one = tmp_path / "two.wav", tmp_path / "one.wav"
    soundfile.write(two, np.array([[0.5, 0.25], [-1.0, 0.5]], np.float32), 8000, "FLOAT")
    soundfile.write(one, np.array([0.5, -1.0], np.float32), 8000, "FLOAT")

    mono = drive(AudioFile({"path": str(two), "channels": "mono"}))
    stereo = drive(AudioFile({"path": str(one), "channels": "stereo"}))

    assert mono.items("samples").tolist() == [[0.375], [-0.25]]
    assert stereo.items("samples").tolist() == [[0.5, 0.5], [-1.0, -1.0]]


def test_what_is_no_number_becomes_zero_and_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.array([0.5, np.nan, -np.inf, 0.25], np.float32), 8000, "FLOAT")

    out = drive(AudioFile({"path": str(path)}))

    assert out.items("samples")[:, 0].tolist() == [0.5, 0, 0, 0.25]
    assert out.faults == {"not_finite": 2, "truncated": 0}


@pytest.mark.parametrize(("suffix", "exact"), [("wav", True), ("flac", False), ("mp3", False)])
def test_a_cut_file_gives_what_it_holds_and_counts_the_rest(
    tmp_path: Path, suffix: str, exact: bool
) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"a.{suffix}"
    soundfile.write(whole, sound(48_000), 48_000)
    data = whole.read_bytes()
    path.write_bytes(data[: len(data) // 2])

    out = drive(AudioFile({"path": str(path), "block_size": 100}))

    held = len(out.items("samples"))
    expected = soundfile.read(whole, dtype="float32", always_2d=True)[0]
    assert 19_000 < held < 25_000
    assert out.faults["truncated"] == 48_000 - held
    if exact or suffix == "flac":
        np.testing.assert_array_equal(out.items("samples"), expected[:held])


def test_a_file_without_samples_says_its_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.empty((0, 2), np.float32), 22_050)

    (packet,) = drive(AudioFile({"path": str(path)}))["samples"]

    assert packet.data.array.shape == (0, 2)
    assert packet.data.rate == 22_050


def text(path: Path) -> None:
    path.write_text("not a sound")


def folder(path: Path) -> None:
    path.mkdir()


def nothing(path: Path) -> None:
    """Is not there."""


def three_channels(path: Path) -> None:
    soundfile.write(path, sound(10, 3), 8000, format="WAV")


@pytest.mark.parametrize(
    ("make", "more", "message"),
    [
        (text, {}, "no sound that libsndfile can read .*convert it"),
        (folder, {}, "is a folder.*give a file"),
        (nothing, {}, "cannot be read .*check the setting 'path'"),
        (three_channels, {"channels": "stereo"}, "has 3 channels.*give 'all' or 'mono'"),
        (three_channels, {"first": 10}, "has 10 frames.*lower it"),
    ],
)
def test_what_cannot_be_played_is_one_error(
    tmp_path: Path, make: Any, more: dict[str, Any], message: str
) -> None:
    make(tmp_path / "a.raw")
    node = AudioFile({"path": str(tmp_path / "a.raw"), **more})

    with pytest.raises(DeviceError, match=message):
        drive(node)


GRAPH = """
name: copy
nodes:
  input: {kind: audio_file, settings: {path: none.wav}}
  output: {kind: audio_file_writer, inputs: {samples: input.samples}, settings: {path: none.wav}}
"""


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_graph_copies_a_file_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    source = next(iter(sorted(SPEECH.rglob("*.flac"))), None)
    if source is None:  # then a sound made here has to do
        source = tmp_path / "made.flac"
        soundfile.write(source, sound(40_001), 44_100)
    paths = ["--set", f"input.path={source}", "--set", f"output.path=clean.{suffix}"]

    it = run(tmp_path / "run", GRAPH, *paths)

    assert it.code == 0, it.err  # type: ignore[attr-defined]  # set by `run`
    noisy, rate = soundfile.read(source, dtype="int16")
    clean, rate_of_clean = soundfile.read(tmp_path / "run" / f"clean.{suffix}", dtype="int16")
    np.testing.assert_array_equal(noisy, clean)
    assert rate == rate_of_clean
    assert not any(n for node in it.report["nodes"].values() for n in node["faults"].values())
