"""Samples reach the file exactly and once; what is on disk can be played at any moment."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from streamflow_nodes.audio.formats import DATA_AT, encode, wav_head
from streamflow_nodes.audio.samples import sample_time
from streamflow_nodes.sinks.audio_file_writer import AudioFileWriter

from streamflow.errors import DeviceError, NodeError
from streamflow.packet import Packet, Samples
from streamflow.testing import drive

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from runs import Run

soundfile = pytest.importorskip("soundfile")

RATE = 8000
FORMATS = [("wav", "int16"), ("wav", "int24"), ("wav", "float32"), ("flac", "int16"),
           ("flac", "int24")]  # fmt: skip


def packet(frames: Any, first: int = 0, rate: int = RATE) -> Packet[Samples]:
    array = np.asarray(frames, np.float32)
    array = array[:, None] if array.ndim == 1 else array
    start, stop = sample_time(first, rate), sample_time(first + len(array), rate)
    return Packet(start, stop, Samples(array.copy(), rate, first))


def packets(frames: Any, sizes: list[int], first: int = 7) -> list[Packet[Samples]]:
    """`frames` in packets of the given sizes, and what remains in a last one."""
    out, at = [], 0
    for size in [*sizes, len(frames)]:
        out.append(packet(frames[at : at + size], first + at))
        at = min(at + size, len(frames))
    return out


def read(path: Path, dtype: str = "float32") -> Any:
    return soundfile.read(path, dtype=dtype, always_2d=True)[0]


@pytest.mark.parametrize(("suffix", "encoding"), FORMATS)
@settings(deadline=None, max_examples=6)
@given(data=st.data())
def test_every_value_comes_back_bit_for_bit_however_it_was_cut(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, encoding: str, data: Any
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    shape = data.draw(st.tuples(st.integers(1, 30), st.integers(1, 3)))
    if encoding == "float32":
        values = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(-4, 4, width=32)))
    else:
        scale = 1 << (15 if encoding == "int16" else 23)
        whole = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(-scale, scale - 1)))
        values = (whole / scale).astype(np.float32)
    sizes = data.draw(st.lists(st.integers(0, 9), max_size=4))
    given_settings = {"encoding": encoding}

    for name, parts in (("one", []), ("many", sizes)):
        path = str(folder / f"{name}.{suffix}")
        out = drive(
            AudioFileWriter({"path": path, **given_settings}), samples=packets(values, parts)
        )
        assert not any(out.faults.values())
        assert out.results["frames"] == len(values)

    assert (folder / f"one.{suffix}").read_bytes() == (folder / f"many.{suffix}").read_bytes()
    np.testing.assert_array_equal(read(folder / f"one.{suffix}"), values)
    assert sorted(p.name for p in folder.iterdir()) == [f"many.{suffix}", f"one.{suffix}"]


@pytest.mark.parametrize(("suffix", "encoding"), FORMATS)
@pytest.mark.parametrize(("cut", "extra"), [(0, 2), (3, 0), (3, 3)])
def test_a_restart_repeats_and_loses_no_sample(
    tmp_path: Path, suffix: str, encoding: str, cut: int, extra: int
) -> None:
    values = np.linspace(-1, 0.9, 60, dtype=np.float32).reshape(30, 2)
    each = packets(values, [5] * 5)
    path, journal = tmp_path / f"a.{suffix}", tmp_path / f"a.{suffix}.part.wav"
    first = AudioFileWriter({"path": str(path), "encoding": encoding})
    first.open()
    drive(first, samples=each[:cut], opened=True, end=False)
    state = first.snapshot()
    drive(first, samples=each[cut : cut + extra], opened=True, end=False)
    grown = journal if suffix == "flac" else path
    assert len(read(grown)) == 5 * (cut + extra)  # whole at that moment, as a crash leaves it
    first.close()

    second = AudioFileWriter({"path": str(path), "encoding": encoding})
    second.open()
    second.restore(state)
    if cut:
        assert len(read(grown)) == 5 * cut
    out = drive(second, samples=each[cut:], opened=True)
    undisturbed = tmp_path / f"b.{suffix}"
    drive(AudioFileWriter({"path": str(undisturbed), "encoding": encoding}), samples=each)

    assert path.read_bytes() == undisturbed.read_bytes()
    assert out.results["frames"] == 30
    assert not journal.exists()


def test_missing_samples_become_silence_and_repeated_ones_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    ramp = np.arange(1, 31, dtype=np.float32) / 32768

    out = drive(
        AudioFileWriter({"path": str(path)}),
        samples=[
            packet(ramp[:10], 100),
            packet(ramp[15:20], 115),
            packet(ramp[18:22], 118),
            packet(ramp[16:18], 119),
        ],
    )

    expected = ramp[:22].copy()
    expected[10:15] = 0
    np.testing.assert_array_equal(read(path)[:, 0], expected)
    assert out.faults["missing_sample"] == 5
    assert out.faults["repeated_sample"] == 2 + 2
    assert out.results["first"] == 100


def test_what_is_too_loud_is_limited_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    loud = [1.0, 1.0001, -1.0, -2.0, np.inf, np.nan, 0.49999 / 32768, 0.50001 / 32768]

    out = drive(AudioFileWriter({"path": str(path)}), samples=[packet(loud)])

    assert read(path, "int16")[:, 0].tolist() == [32767, 32767, -32768, -32768, 0, 0, 0, 1]
    assert out.faults["clipped"] == 2  # 1.0 is one step beyond, which is rounding
    assert out.faults["not_finite"] == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (packet([0.0], 1, RATE + 1), "1 channels at 8001 Hz after 1 at 8000 Hz"),
        (packet([[0.0, 0.0]], 1), "2 channels at 8000 Hz after 1"),
        (packet([0.0], 3601 * RATE), "gaps of at most 3600 s"),
        (Packet(1, 2, Samples(np.zeros((2, 1)), RATE, 1)), "float64.*expected float32"),  # type: ignore[arg-type]  # that is the point
    ],
)
def test_another_stream_in_the_middle_is_refused(
    tmp_path: Path, more: Packet[Samples], message: str
) -> None:
    node = AudioFileWriter({"path": str(tmp_path / "a.wav")})

    with pytest.raises(NodeError, match=message):
        drive(node, samples=[packet([0.5]), more])

    assert read(tmp_path / "a.wav").tolist() == [[0.5]]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_on_a_full_disk_whole_packets_remain_by_every_policy(tmp_path: Path, suffix: str) -> None:
    """Noise, which FLAC cannot make smaller, in packets of 2000 bytes; 45 of 64 have room."""
    noise = np.random.default_rng(1).uniform(-1, 1, 64_000).astype(np.float32)
    each = packets(noise, [1000] * 63, first=0)
    integers = np.rint(noise * 32768).clip(-32768, 32767).astype(np.int16)
    stop, rotate, fail = (tmp_path / name / f"a.{suffix}" for name in ("stop", "rotate", "fail"))
    spare = {"when_disk_full": "rotate", "spare": [str(tmp_path / "spare")]}

    with largest_file(91_000):
        stopped = drive(
            AudioFileWriter({"path": str(stop), "when_disk_full": "stop_writing"}), samples=each
        )
        rotated = drive(AudioFileWriter({"path": str(rotate), **spare}), samples=each)
        with pytest.raises(DeviceError, match="free space"):
            drive(AudioFileWriter({"path": str(fail)}), samples=each)

    assert stopped.faults["not_written"] == 19_000
    kept = [entry["path"] for entry in rotated.results["files"]]
    assert [Path(path).parent.name for path in kept] == ["rotate", "spare"]
    parts = [read(Path(path), "int16")[:, 0] for path in kept]
    np.testing.assert_array_equal(np.concatenate(parts), integers)
    left = fail if suffix == "wav" else fail.with_name(f"{fail.name}.part.wav")
    for path in (stop, left):
        there = path if path.exists() else path.with_name(f"{path.name}.part.wav")
        np.testing.assert_array_equal(read(there, "int16")[:, 0], integers[:45_000])


@pytest.mark.parametrize(
    ("path", "encoding"), [("a.mp3", "int16"), ("a", "int16"), ("a.flac", "float32")]
)
def test_a_format_that_cannot_be_written_is_refused(path: str, encoding: str) -> None:
    with pytest.raises(NodeError, match=r"ends in \.wav, or in \.flac with the encoding"):
        AudioFileWriter({"path": path, "encoding": encoding}).open()


def test_more_channels_than_flac_has_are_refused(tmp_path: Path) -> None:
    node = AudioFileWriter({"path": str(tmp_path / "a.flac")})

    with pytest.raises(NodeError, match=r"9 channels .* room for 8 channels"):
        drive(node, samples=[packet(np.zeros((4, 9)))])


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")

    with pytest.raises(NodeError, match="device or a pipe"):
        AudioFileWriter({"path": str(tmp_path / "a.wav")}).open()


@pytest.mark.parametrize(
    ("suffix", "samples"), [("wav", []), ("flac", []), ("flac", [packet(np.empty((0, 2)))])]
)
def test_nothing_at_all_leaves_nothing_of_an_older_file(
    tmp_path: Path, suffix: str, samples: list[Packet[Samples]]
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"results of an earlier run")

    out = drive(AudioFileWriter({"path": str(path)}), samples=samples)

    assert path.exists() == (suffix == "wav")
    assert suffix == "flac" or not path.read_bytes()
    assert out.results["frames"] == 0
    assert not (tmp_path / f"a.{suffix}.part.wav").exists()


def test_an_empty_packet_gives_a_wav_file_without_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"

    drive(AudioFileWriter({"path": str(path)}), samples=[packet(np.empty((0, 2)))])

    assert soundfile.info(path).samplerate == RATE
    assert read(path).shape == (0, 2)


def test_a_file_beyond_four_gigabytes_is_rf64_with_true_sizes(tmp_path: Path) -> None:
    path, data = tmp_path / "a.wav", (1 << 32) + 8000
    head = wav_head(48_000, 2, "int16", data)
    with path.open("wb") as file:  # sparse
        file.write(head)
        file.seek(DATA_AT + data - 4)
        file.write(encode(np.array([[0.5, -0.5]], np.float32), "int16")[0])

    with soundfile.SoundFile(path) as sound:
        frames = sound.frames
        sound.seek(frames - 1)
        last = sound.read(1)

    assert len(head) == DATA_AT
    assert frames == data // 4
    assert last.tolist() == [[0.5, -0.5]]


GRAPH = """
name: copy
clock: paced
nodes:
  input: {kind: audio_file, settings: {path: whole.wav, block_size: 200}}
  output: {kind: audio_file_writer, inputs: {samples: input.samples}, settings: {path: copy.wav}}
processes:
  out: {nodes: [output], restart: on_failure}
"""


def test_a_killed_writer_goes_on_bit_for_bit(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).integers(-30_000, 30_000, 2 * RATE, dtype=np.int16)
    soundfile.write(tmp_path / "whole.wav", noise, RATE)
    it = Run(tmp_path, GRAPH)
    path = tmp_path / "copy.wav"
    it.wait_for(lambda: path.exists() and path.stat().st_size > 2000)

    it.kill("out")

    assert it.end() == 0, it.err
    np.testing.assert_array_equal(read(path, "int16")[:, 0], noise)
    assert it.report["nodes"]["output"]["restarts"] == 1
