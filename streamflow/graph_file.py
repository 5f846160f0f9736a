"""What a graph file may hold. The checks, the JSON Schema and the YAML reference read it here."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .clock import Pace
from .edge import Policy
from .packing import Compression

MEBIBYTE = 1 << 20
NAME = re.compile(r"[a-z][a-z0-9_]*")
ORIGIN = re.compile(rf"{NAME.pattern}\.{NAME.pattern}")
RESERVED = ("affinity", "priority", "memory_limit")
OnError = Literal["stop", "skip_and_count", "dead_letter"]
ADDRESS = r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}"

Count = Annotated[int, Meta(ge=1, le=1 << 20)]
Bytes = Annotated[int, Meta(ge=4096, le=1 << 34)]
Duration = Annotated[float, Meta(gt=0, le=1e9)]
_NAMED = Meta(pattern=f"^{NAME.pattern}$")


def is_loopback(address: str) -> bool:
    """Whether `name:port` can only be reached from this machine."""
    name = address.rpartition(":")[0].strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class RestartSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens when a process dies."""

    when: Annotated[
        Literal["never", "on_failure"],
        Meta(description="`never`: the graph fails; `on_failure`: a successor takes over"),
    ] = "never"
    maximum: Annotated[Count, Meta(description="restarts allowed within `window`")] = 5
    window: Annotated[Duration, Meta(description="seconds over which restarts are counted")] = 60.0
    backoff: Annotated[
        Duration,
        Meta(description="seconds before the first restart; doubles with each, up to 30"),
    ] = 0.1


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds that hold for the whole graph."""

    inline_bytes: Annotated[
        int,
        Meta(ge=0, le=MEBIBYTE, description="payloads up to this many bytes travel in the message"),
    ] = 16384
    handler_seconds: Annotated[
        Duration, Meta(description="seconds a handler may take before its process counts as hung")
    ] = 30.0
    drain_seconds: Annotated[
        Duration, Meta(description="seconds that a stopping graph may take to empty its edges")
    ] = 10.0
    dead_letters: Annotated[
        Count, Meta(description="packets that a node may leave in `dead_letters/` before it fails")
    ] = 1000
    start_seconds: Annotated[
        Duration, Meta(description="seconds that all nodes together may take to open")
    ] = 120.0


class InputFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an input's packets come from and what happens when they come too fast."""

    origin: Annotated[
        str,
        Meta(
            description="the producer's port, as `node.output`",
            pattern=f"^{ORIGIN.pattern}$",
        ),
    ] = msgspec.field(name="from")
    when_full: Annotated[
        Policy,
        Meta(
            description="`block` loses nothing: the producer waits. The others lose packets and "
            "count them: `drop_oldest` and `drop_newest` of those waiting; `latest` keeps one"
        ),
    ] = "block"
    capacity: Annotated[
        Count | None,
        Meta(description="packets that may wait at the producer (64; 1 for `latest`)"),
    ] = None
    window: Annotated[
        Count | None,
        Meta(description="packets that may be on their way (8 for `block`, 1 for the others)"),
    ] = None
    max_packet: Annotated[Bytes, Meta(description="bytes that one packet may have")] = 16 * MEBIBYTE
    compress: Annotated[
        Compression,
        Meta(
            description="how payloads are packed on their way to another host: `lz4` or `zstd` "
            "(extra `hosts`); `events8`: camera events in 8 bytes each"
        ),
    ] = "none"


class NodeFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One node of the graph."""

    kind: Annotated[str, Meta(description="what the node is: see `streamflow nodes`")]
    inputs: Annotated[
        dict[str, str | InputFile],
        Meta(description="for each input the `node.output` it is fed from, or a mapping with more"),
    ] = {}
    settings: Annotated[dict[str, Any], Meta(description="the settings of this kind")] = {}
    on_error: Annotated[
        OnError,
        Meta(
            description="what follows when a handler raises: `stop` ends its process; "
            "`skip_and_count` goes on with the next packet and counts the fault `errors`; "
            "`dead_letter` keeps the packet and the traceback in `dead_letters/` besides"
        ),
    ] = "stop"


class HostFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine that waits, with `streamflow host`, for its part of a graph."""

    address: Annotated[
        str,
        Meta(pattern=f"^{ADDRESS}$", description="where it listens, as `name:port`"),
    ]
    key: Annotated[
        str | None,
        Meta(
            description="file with its public key, relative to the graph file; needed unless "
            "the address is this machine's own or the graph is `insecure`"
        ),
    ] = None


class ProcessFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nodes that share a process. Between them packets pass by reference."""

    nodes: Annotated[
        list[str], Meta(min_length=1, description="names of nodes; each in one process at most")
    ]
    restart: Annotated[
        Literal["never", "on_failure"] | RestartSpec,
        Meta(description="what happens when the process dies"),
    ] = "never"
    python: Annotated[
        str | None,
        Meta(description="another Python interpreter, relative to the graph file or on the PATH"),
    ] = None
    host: Annotated[
        str | None,
        Meta(description="name of the host (see `hosts`) where it runs; by default this machine"),
    ] = None


class GraphFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A graph of nodes. Edges are written at the consumer, under `inputs`."""

    nodes: Annotated[
        dict[Annotated[str, _NAMED], NodeFile], Meta(min_length=1, description="nodes by name")
    ]
    name: Annotated[
        Annotated[str, _NAMED] | None,
        Meta(description="the graph's name (by default that of its folder or file)"),
    ] = None
    processes: Annotated[
        dict[Annotated[str, _NAMED], ProcessFile],
        Meta(description="processes by name; a node that none lists has its own"),
    ] = {}
    hosts: Annotated[
        dict[Annotated[str, _NAMED], HostFile],
        Meta(description="other machines that processes run on, by name"),
    ] = {}
    insecure: Annotated[
        bool,
        Meta(description="whether edges to other hosts may go without keys and encryption"),
    ] = False
    clock: Annotated[
        Pace,
        Meta(
            description="`fast`: recordings as fast as they can be handled; `paced`: at the speed "
            "they were made; `realtime`: devices set the pace"
        ),
    ] = "fast"
    speed: Annotated[
        Annotated[float, Meta(gt=0, le=1e6)], Meta(description="times the speed, when `paced`")
    ] = 1.0
    limits: Annotated[Limits, Meta(description="bounds for the whole graph")] = Limits()
