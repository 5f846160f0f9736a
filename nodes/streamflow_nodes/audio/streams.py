"""What every node that takes audio does with a packet before its mathematics see it.

A stream of samples has one rate and one number of channels, and its samples are numbered: `first`
is the index of a packet's first sample. `SampleStream` holds a stream to that and hands its samples
on without holes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamflow.node import Node
from streamflow.packet import Packet, Samples

from .samples import Format, finite, refused, require_samples, sample_time

FloatSamples = NDArray[np.float32]
"""(frames, channels) float32; full scale is 1."""

FAULTS = ("missing_sample", "repeated_sample", "not_finite")
"""What a `SampleStream` counts: the faults that a node with one has to declare."""

LONGEST_GAP = 3600
"""Seconds of missing samples that are taken as silence; more is no gap but another stream."""
LONGEST_REPEAT = 10
"""Seconds that the sample index may go back; more is another stream too."""


class SampleStream:
    """One input's samples in the order of their index, each of them once.

    - Missing samples (the index jumps ahead) become silence, and are counted as `missing_sample`.
    - Samples whose index was there already are left out, and counted as `repeated_sample`.
    - NaN and infinity become 0, and are counted as `not_finite`: one of them would stay in every
      filter behind for good.

    `rate` (Hz) and `channels` are 0 before the first packet; `next` is the index after the newest
    sample. Stream time of a sample is counted from the first packet's, at the nominal rate, so it
    does not depend on how the samples were cut into packets.
    """

    def __init__(self, node: Node[Any], port: str = "samples") -> None:
        self._node, self._port, self._format = node, port, Format()
        self.rate = self.channels = 0
        self.next = self.first = 0
        self.start = 0  # stream time of the sample `first`, us

    @property
    def has_begun(self) -> bool:
        """Whether a packet has come."""
        return self.rate > 0

    def take(self, packet: Packet[Samples]) -> Iterator[FloatSamples]:
        """The packet's samples, read-only and contiguous, with silence before them where some miss.

        Raises NodeError when they are not (frames, channels) float32, when rate or channels are not
        those so far, and when the index jumps ahead by more than an hour or back by more than 10 s.
        """
        array = self._check(packet)
        ahead = packet.data.first - self.next
        if not -LONGEST_REPEAT * self.rate <= ahead <= LONGEST_GAP * self.rate:
            raise refused(
                self._node,
                packet,
                f"the sample {packet.data.first} where {self.next} was due; expected gaps of at "
                f"most {LONGEST_GAP} s and repetitions of at most {LONGEST_REPEAT} s: give every "
                "stream a node of its own",
            )
        if ahead > 0:
            self._node.count_fault("missing_sample", ahead)
            for at in range(0, ahead, self.rate):  # in seconds: a long gap needs no long array
                yield self._taken(np.zeros((min(self.rate, ahead - at), self.channels), np.float32))
        elif ahead < 0 and len(array):
            self._node.count_fault("repeated_sample", min(-ahead, len(array)))
            array = array[-ahead:]
        if len(array):
            array, wrong = finite(array)
            self._node.count_fault("not_finite", wrong)
            yield self._taken(np.ascontiguousarray(array))

    def time(self, index: int) -> int:
        """Stream time (us) at which the sample `index` begins."""
        return self.start + sample_time(index, self.rate) - sample_time(self.first, self.rate)

    def snapshot(self) -> dict[str, Any]:
        """The stream's state; empty before the first packet."""
        if not self.has_begun:
            return {}
        return {
            f"{self._port}_{key}": getattr(self, key)
            for key in ("rate", "channels", "next", "first", "start")
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `snapshot` gave, from among the node's own state."""
        for key in ("rate", "channels", "next", "first", "start"):
            setattr(self, key, int(state.get(f"{self._port}_{key}", 0)))
        self._format.rate, self._format.channels = self.rate, self.channels

    def _check(self, packet: Packet[Samples]) -> FloatSamples:
        array = require_samples(self._node, packet)
        self._format.check(self._node, packet, "put `resample` behind each source")
        if not self.has_begun:
            self.rate, self.channels = self._format.rate, self._format.channels
            self.next = self.first = int(packet.data.first)
            self.start = packet.start
        return array

    def _taken(self, array: FloatSamples) -> FloatSamples:
        self.next += len(array)
        array = array[:]  # a view: the flag below is not to be set on what belongs to another
        array.flags.writeable = False  # as packets arrive: kernels know no other type
        return array


class KeptSamples:
    """The samples of one input that wait: those from `first` up to its stream's `next`."""

    def __init__(self, node: Node[Any], port: str) -> None:
        self._port = port
        self.stream = SampleStream(node, port)
        self._held: list[FloatSamples] = []
        self.count = 0

    @property
    def first(self) -> int:
        return self.stream.next - self.count

    def add(self, array: FloatSamples) -> None:
        self._held.append(array)
        self.count += len(array)

    def before(self, time: int) -> int:
        """The first sample that waits and does not begin before `time` (us)."""
        low, high = self.first, self.stream.next
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.stream.time(middle) < time else (low, middle)
        return low

    def get(self, first: int, end: int) -> FloatSamples:
        """The samples from `first` to before `end`, which wait."""
        return self._whole()[first - self.first : end - self.first]

    def drop(self, end: int) -> None:
        """Keep the samples from `end` on."""
        gone = min(self.count, end - self.first)
        if gone > 0:
            whole = self._whole()
            self._held, self.count = [whole[gone:]], self.count - gone

    def snapshot(self) -> dict[str, Any]:
        state = self.stream.snapshot()
        return {**state, f"{self._port}_held": self._whole()} if self.count else state

    def restore(self, state: dict[str, Any]) -> None:
        self.stream.restore(state)
        held = state.get(f"{self._port}_held")
        self._held, self.count = ([], 0) if held is None else ([held], len(held))

    def _whole(self) -> FloatSamples:
        if len(self._held) != 1:
            nothing = no_samples(max(1, self.stream.channels))
            self._held = [np.concatenate([nothing, *self._held])]
        return self._held[0]


def sample_at(time: int, rate: int) -> int:
    """The sample that begins nearest to `time` (us): the inverse of `sample_time` to 500 kHz."""
    return (2 * rate * time + 1_000_000) // 2_000_000


def no_samples(channels: int = 1) -> FloatSamples:
    """No samples, typed as packets arrive (read-only): what a kernel is warmed up with."""
    array = np.empty((0, channels), np.float32)
    array.flags.writeable = False
    return array
