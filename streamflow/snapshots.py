"""Keeps the state of a process's nodes, and what waits between them, for a successor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from .memory import Vault, decode_state, encode_state
from .packet import encode
from .runner import Local, Runner

Running = Callable[[Runner, str], AbstractContextManager[None]]
"""Around the call of a node's verb: the board says who is busy, an error names the node."""


class Snapshots:
    """The snapshots of one process, in its vault by turns in one half and the other.

    `half`, `bytes` and `commits` go to the board: the commit of the counters makes current what
    was written here before it.
    """

    def __init__(
        self, vault: Vault, runners: list[Runner], locals_: Collection[Local], running: Running
    ) -> None:
        """`runners` are those whose nodes have `snapshot()`."""
        self.half = self.bytes = self.commits = 0
        self._vault, self._runners, self._locals = vault, runners, locals_
        self._running = running

    def take(self) -> None:
        """Write the states of the nodes and the packets that wait inside the process."""
        nodes = dict(self._states())
        waiting = {
            local.name: [encode(packet) for _, packet in local.target.order.queued(local.port)]
            for local in self._locals if local.waiting
        }  # fmt: skip
        self.bytes = 0
        if nodes or waiting:
            data = encode_state({"nodes": nodes, "waiting": waiting})
            self._vault.write(1 - self.half, data)
            self.half = 1 - self.half
            self.bytes = len(data)
        self.commits += 1

    def _states(self) -> Iterator[tuple[str, msgspec.Raw]]:
        for runner in self._runners:
            with self._running(runner, "snapshot"):
                if runner.source is None:
                    state: Any = runner.node.snapshot()
                else:
                    state = runner.source.state
                if state is not None:
                    yield runner.node.name, msgspec.Raw(encode_state(state))

    def read(self) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
        """The last states by node, and by edge the packets that waited, encoded."""
        if not self.bytes:
            return {}, {}
        kept = decode_state(self._vault.read(self.half, self.bytes))
        return kept["nodes"], kept["waiting"]
