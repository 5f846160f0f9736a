"""`reblock`: the same samples in blocks of one size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow.node import Emission, In, Node, Out, Positive, Settings
from streamflow.packet import Packet, Samples

from ..audio.streams import FAULTS, FloatSamples, SampleStream, no_samples


class ReblockSettings(Settings, frozen=True, kw_only=True):
    """How long a block is."""

    block_size: Positive = 480
    """Frames (samples of each channel) in a block: 480 are 10 ms at 48 kHz."""


class Reblock(Node[ReblockSettings]):
    """The samples that come in, in blocks of `block_size`; the last one holds what is left.

    A block leaves when it is full, so samples wait for `block_size - 1` others at most. State: the
    block being filled. Missing samples become silence and are counted, as are repeated ones and NaN
    (`SampleStream`).

        blocks: {kind: reblock, inputs: {samples: file.samples}, settings: {block_size: 160}}
    """

    samples = In(Samples)
    blocks = Out(Samples)
    faults = FAULTS

    def open(self) -> None:
        self._stream = SampleStream(self)
        self._held: list[FloatSamples] = []
        self._count = 0  # samples that wait

    def on_samples(self, packet: Packet[Samples]) -> Iterator[Emission]:
        size = self.settings.block_size
        for array in self._stream.take(packet):
            end = self._stream.next
            for at in range(0, len(array), size):
                piece = array[at : at + size]
                room = size - self._count
                self._add(piece[:room])
                if self._count == size:
                    yield self._block(end - len(array) + at + min(room, len(piece)))
                    self._add(piece[room:])
        self._hold()

    def finish(self) -> Iterator[Emission]:
        if self._count:
            yield self._block(self._stream.next)

    def snapshot(self) -> dict[str, Any]:
        return {**self._stream.snapshot(), "held": self._whole()}

    def restore(self, state: dict[str, Any]) -> None:
        self._stream.restore(state)
        self._held, self._count = [], 0
        self._add(state["held"])
        self._hold()

    def _add(self, piece: FloatSamples) -> None:
        if len(piece):
            self._held.append(piece)
            self._count += len(piece)

    def _whole(self) -> FloatSamples:
        return np.concatenate([no_samples(max(1, self._stream.channels)), *self._held])

    def _block(self, end: int) -> Emission:
        """The block being filled, whose last sample is the one before `end`."""
        stream, first = self._stream, end - self._count
        block = Samples(self._whole(), stream.rate, first)
        self._held, self._count = [], 0
        return self.blocks(block, stream.time(first), stream.time(end))

    def _hold(self) -> None:
        if self._stream.has_begun:
            self.holds_from = self._stream.time(self._stream.next - self._count)
