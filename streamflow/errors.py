"""The exceptions a caller may catch.

StreamflowError
├── GraphError       the graph is wrong; holds every fault found, each with file and line
├── NodeError        a node's own code failed or broke its contract
├── PacketError      bytes that are not a packet, or a packet that is not what its port declares
├── TransportError   an edge, the run directory or the shared memory cannot work
└── DeviceError      a file or a device cannot give or take data
"""

from __future__ import annotations

from typing import NamedTuple


class StreamflowError(Exception):
    """Everything streamflow raises on purpose."""


class Fault(NamedTuple):
    """One thing wrong with a graph: where it stands and what to do about it."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


class GraphError(StreamflowError):
    """The graph is wrong. `faults` lists everything that was found, in file order."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


class NodeError(StreamflowError):
    """A node's own code failed; the cause is chained."""

    def __init__(self, node: str, what: str, *, kind: str = "", span: str = "") -> None:
        self.node, self.what, self.kind, self.span = node, what, kind, span
        where = f"node {node!r}" + (f" ({kind})" if kind else "")
        super().__init__(f"{where}: {what}" + (f" [{span}]" if span else ""))


class PacketError(StreamflowError):
    """Bytes that are not a packet, or a payload its port does not declare."""


class TransportError(StreamflowError):
    """An edge, the run directory or the shared memory cannot work."""


class DeviceError(StreamflowError):
    """A file or a device cannot give or take data: where, what, what was expected, what to do."""
