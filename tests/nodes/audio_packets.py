"""Packets of samples for the tests of audio nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from streamflow_nodes.audio.samples import sample_time

from streamflow.packet import Packet, Samples
from streamflow.testing import drive


def noise(frames, channels=1, seed=0, level=0.1):
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal((frames, channels))).astype(np.float32)


def packet(array, rate=16000, first=0, offset=0):
    """`offset` is the stream time of the sample with the index 0, us."""
    start, stop = (offset + sample_time(index, rate) for index in (first, first + len(array)))
    return Packet(start, stop, Samples(array, rate, first))


def cut(array, sizes, rate=16000, first=0, offset=0):
    """The samples in packets of these sizes, over and over again."""
    packets, at, turn = [], 0, 0
    while at < len(array):
        size = sizes[turn % len(sizes)]
        packets.append(packet(array[at : at + size], rate, first + at, offset))
        at, turn = at + size, turn + 1
    return packets


def seen(out, port):
    """What was emitted, as far as it must not depend on how samples were cut: items and indices."""
    packets = out[port]
    array = out.items(port)
    first = packets[0].data.first if packets and isinstance(packets[0].data, Samples) else 0
    span = (packets[0].start, packets[-1].stop) if packets else None
    return array.shape, array.tobytes(), first, span


def in_two_lives(make, packets, stop, port, other="samples"):
    """What a node emits when it is restarted after `stop` packets, from its snapshot."""
    before, after = make(), make()
    first = drive(before, end=False, **{other: packets[:stop]})
    after.open()
    after.restore(before.snapshot())
    second = drive(after, opened=True, **{other: packets[stop:]})
    arrays = [packet.data.array for packet in (*first[port], *second[port])]
    return np.concatenate(arrays) if arrays else np.empty(0)


def recording(kind="speech", split="val"):
    """A real recording of the data sets beside the checkout, and its rate."""
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "audio" / kind / split
    if not folder.is_dir():
        pytest.skip(f"no recordings in {folder}")
    array, rate = soundfile.read(min(folder.glob("*.flac")), dtype="float32", always_2d=True)
    return array, rate
