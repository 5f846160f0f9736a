"""Windows that hold enough events."""

from __future__ import annotations

from streamflow_nodes.processors.minimum_events import MinimumEvents
from streamflow_nodes.processors.window import Window

from streamflow.testing import cut, drive, events


def test_windows_with_enough_events_pass_and_keep_their_span():
    busy = {0: 3, 1: 2, 3: 4}
    rows = [(1000 * k + i, 0, 0, 1) for k, count in busy.items() for i in range(count)]
    whole = events(rows, width=1, height=1)

    for size in (1, 2, 100):
        windows = drive(Window({"duration": 0.001}), events=cut(whole, size))["windows"]
        kept = drive(MinimumEvents({"events": 3}), windows=windows)["kept"]
        assert [(p.start, p.stop, len(p.data)) for p in kept] == [(0, 1000, 3), (3000, 4000, 4)]
