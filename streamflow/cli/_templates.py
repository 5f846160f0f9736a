"""What `streamflow new` writes."""

from __future__ import annotations

PROCESSOR = '''\
"""`{kind}`: events of one polarity."""

from __future__ import annotations

from typing import Literal

from streamflow import Events, In, Node, Out, Packet, Settings
from streamflow.node import Emissions


class {node}Settings(Settings, frozen=True, kw_only=True):
    """Which events to keep."""

    polarity: Literal["on", "off"] = "on"
    """The polarity that is kept."""


class {node}(Node[{node}Settings], stateless=True):
    """The events of one polarity.

    Nothing is emitted for a packet of which nothing is kept. Keeps no state.

        rising: {{kind: {kind}, inputs: {{events: camera.events}}, settings: {{polarity: on}}}}
    """

    events = In(Events)
    kept = Out(Events)

    def open(self) -> None:
        self._polarity = 1 if self.settings.polarity == "on" else 0

    def on_events(self, packet: Packet[Events]) -> Emissions:
        events = packet.data
        # indexing copies: what is yielded must be fresh, and the input's array is read-only
        kept = events.array[events.array["polarity"] == self._polarity]
        if len(kept):
            yield self.kept(Events(kept, events.width, events.height), packet.start, packet.stop)
'''

PROCESSOR_TEST = """\
import numpy as np
import pytest
from {kind} import {node}, {node}Settings
from streamflow.testing import cut, drive, events

PACKET = events([(0, 1, 1, 1), (10, 2, 1, 0), (20, 3, 1, 1), (30, 4, 1, 0)], width=8, height=8)


@pytest.mark.parametrize(("polarity", "times"), [("on", [0, 20]), ("off", [10, 30])])
def test_only_events_of_the_polarity_are_kept(polarity, times):
    node = {node}({node}Settings(polarity=polarity))

    out = drive(node, events=[PACKET])

    assert out.items("kept")["timestamp"].tolist() == times


@pytest.mark.parametrize("size", [1, 2, 3])
def test_how_the_recording_was_cut_does_not_matter(size):
    whole = drive({node}(), events=[PACKET]).items("kept")

    parts = drive({node}(), events=cut(PACKET, size)).items("kept")

    np.testing.assert_array_equal(parts, whole)


def test_a_packet_of_which_nothing_is_kept_gives_no_packet():
    out = drive({node}(), events=[events([(5, 0, 0, 0)])])

    assert out["kept"] == []
"""

SOURCE = '''\
"""`{kind}`: a dot that crosses the sensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamflow import EVENT, Events, Node, Out, Settings
from streamflow.node import Emission, Microseconds, Positive


class {node}Settings(Settings, frozen=True, kw_only=True):
    """How far the dot goes and how fast."""

    packets: Positive = 100
    """Packets until the stream ends."""
    step: Microseconds = 1000
    """Stream time of one packet, in which the dot moves by one pixel."""
    width: Positive = 64
    height: Positive = 48
    """Sensor size in pixels."""


class {node}(Node[{node}Settings]):
    """One ON event per packet, at a dot that crosses the sensor from left to right, and again.

    Keeps the number of packets made: a restarted node goes on with the next one.

        dot: {{kind: {kind}, settings: {{packets: 100}}}}
    """

    events = Out(Events)

    def open(self) -> None:
        self._made = 0

    def produce(self) -> Iterator[Emission]:
        s = self.settings
        while self._made < s.packets:
            start = self._made * s.step
            if not self.clock.wait_until(start + s.step):  # the run is being stopped
                return
            array = np.array([(start, self._made % s.width, s.height // 2, 1)], EVENT)
            self._made += 1
            yield self.events(Events(array, s.width, s.height), start, start + s.step)

    def snapshot(self) -> dict[str, Any]:
        return {{"made": self._made}}

    def restore(self, state: dict[str, Any]) -> None:
        self._made = int(state["made"])
'''

SOURCE_TEST = """\
from {kind} import {node}, {node}Settings
from streamflow.testing import drive


def test_the_dot_moves_by_one_pixel_a_packet_and_starts_again():
    node = {node}({node}Settings(packets=5, width=4, height=3))

    out = drive(node)

    assert out.items("events")["x"].tolist() == [0, 1, 2, 3, 0]


def test_packets_follow_each_other_without_a_gap():
    out = drive({node}({node}Settings(packets=3, step=10)))

    assert [(p.start, p.stop) for p in out["events"]] == [(0, 10), (10, 20), (20, 30)]


def test_a_restarted_node_goes_on_with_the_next_packet():
    settings = {node}Settings(packets=4)
    first, second = {node}(settings), {node}(settings)
    drive(first, limit=2, end=False)
    second.open()
    second.restore(first.snapshot())

    out = drive(second, opened=True)

    assert out.items("events")["x"].tolist() == [2, 3]
"""

SINK = '''\
"""`{kind}`: counts events."""

from __future__ import annotations

from typing import Any

from streamflow import Events, In, Node, Packet, Settings


class {node}Settings(Settings, frozen=True, kw_only=True):
    """Nothing to set yet."""


class {node}(Node[{node}Settings]):
    """The number of ON and of OFF events, in the run report.

    Emits nothing. Keeps the two counts.

        count: {{kind: {kind}, inputs: {{events: camera.events}}}}
    """

    events = In(Events)

    def open(self) -> None:
        self._on = self._off = 0

    def on_events(self, packet: Packet[Events]) -> None:
        on = int(packet.data.array["polarity"].sum())
        self._on += on
        self._off += len(packet.data) - on

    def results(self) -> dict[str, Any]:
        return {{"on": self._on, "off": self._off}}

    def snapshot(self) -> dict[str, Any]:
        return {{"on": self._on, "off": self._off}}

    def restore(self, state: dict[str, Any]) -> None:
        self._on, self._off = int(state["on"]), int(state["off"])
'''

SINK_TEST = """\
import pytest
from {kind} import {node}
from streamflow.testing import cut, drive, events

PACKET = events([(0, 1, 1, 1), (10, 2, 1, 0), (20, 3, 1, 1)], width=8, height=8)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_both_polarities_are_counted_however_the_recording_was_cut(size):
    out = drive({node}(), events=cut(PACKET, size))

    assert out.results == {{"on": 2, "off": 1}}


def test_a_restarted_node_goes_on_counting():
    first, second = {node}(), {node}()
    drive(first, events=[PACKET], end=False)
    second.open()
    second.restore(first.snapshot())

    out = drive(second, opened=True, events=[PACKET])

    assert out.results == {{"on": 4, "off": 2}}
"""

NODES = {"source": SOURCE, "processor": PROCESSOR, "sink": SINK}
TESTS = {"source": SOURCE_TEST, "processor": PROCESSOR_TEST, "sink": SINK_TEST}

GRAPH = """\
# Checked by `streamflow check {name}`, drawn by `streamflow draw {name}`.
name: {name}
nodes:
  camera:
    kind: event_file
    settings: {{path: sample.csv, width: 64, height: 48}}
  quiet:
    kind: background_activity
    inputs: {{events: camera.events}}
    settings: {{window: 0.005}}
  recorder:
    kind: event_file_writer
    inputs: {{events: quiet.kept}}
    settings: {{path: quiet.raw}}
processes:
  hot: {{nodes: [quiet, recorder], restart: on_failure}}
"""

GRAPH_README = """\
# {name}

Reads a recording, removes background activity and writes what is left to `quiet.raw`, in the
folder where you stand.

    streamflow check {name}    # is it right, and how would it run?
    streamflow draw {name}     # what does it look like?
    streamflow run {name}      # run it

`sample.csv` is made up: a dot that crosses a sensor of 64 x 48 pixels, in noise. Take a recording
of your own with `--set camera.path=FILE`. `streamflow nodes` lists what else a graph can be made
of; `streamflow nodes background_activity` tells all about one kind.
"""


def sample_csv() -> str:
    """A dot crossing 64 x 48 pixels in noise, as CSV: 0.32 s, the same every time."""
    rows, state = [], 1
    for step in range(64):
        for place in range(8):
            rows.append((step * 5000 + place * 10, step, 20 + place, 1))
            # noise from a linear congruential generator: no two platforms may differ
            state = (state * 1103515245 + 12345) % (1 << 31)
            noise = (state >> 8) % 64, (state >> 14) % 48, (state >> 20) & 1
            rows.append((step * 5000 + 1000 + place * 400, *noise))
    lines = [",".join(map(str, row)) for row in sorted(rows)]
    return "\n".join(["t,x,y,p", *lines]) + "\n"
