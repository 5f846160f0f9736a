"""Where each counter of a process lies on its board, and how boards become a run report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NODE = (
    "packets_in", "packets_out", "items_in", "items_out", "state_lost", "time", "finished",
    "progress",
)  # fmt: skip
FAULTS = 12  # words a node has for its named faults
IN = (
    "received", "handled", "duplicates", "handled_items", "received_through", "handled_through",
    "watermark", "ended", "bytes",
)  # fmt: skip
OUT = (
    "produced", "produced_items", "acknowledged", "acknowledged_items", "dropped", "dropped_items",
    "lost", "lost_items", "in_flight", "waiting", "waiting_max", "blocked_ns", "bytes", "watermark",
    "sent_bytes", "sent_plain",
)  # fmt: skip
LOCAL = (
    "produced", "produced_items", "handled", "handled_items", "bytes", "watermark", "ended",
    "waiting_max",
)  # fmt: skip
OUTPUT = ("sequence", "items")
PROCESS = ("snapshot_half", "snapshot_bytes", "commits", "recoveries", "captured")
VERBS = ("open", "advance", "finish", "snapshot", "restore", "results", "close")
"""What a node may be busy with besides its inputs: the board's PORT says -1 for the first, ..."""


class Layout:
    """Offsets of every counter of one process, the same in the worker and in the supervisor.

    `nodes` are node names, the others edge names (`outputs`: `node.port`).
    """

    def __init__(
        self,
        nodes: Sequence[str],
        ins: Sequence[str],
        outs: Sequence[str],
        locals_: Sequence[str],
        outputs: Sequence[str],
    ) -> None:
        self.offsets: dict[tuple[str, str], int] = {("process", "process"): 0}
        at = len(PROCESS)
        for group, names, width in (
            ("node", nodes, len(NODE) + FAULTS),
            ("in", ins, len(IN)),
            ("out", outs, len(OUT)),
            ("local", locals_, len(LOCAL)),
            ("output", outputs, len(OUTPUT)),
        ):
            for name in names:
                self.offsets[group, name] = at
                at += width
        self.words = at
        self.fillable = [*outs, *locals_]  # edges that a worker may wait for, in its own order
        self.histograms = {name: index for index, name in enumerate([*ins, *locals_])}

    def read(self, words: Sequence[int], group: str, name: str) -> dict[str, int]:
        """The counters of one node or edge end out of a board's words."""
        fields = {"node": NODE, "in": IN, "out": OUT, "local": LOCAL, "output": OUTPUT}
        names = PROCESS if group == "process" else fields[group]
        at = self.offsets[group, name]
        return dict(zip(names, words[at : at + len(names)], strict=True))

    def read_faults(self, words: Sequence[int], node: str, names: Sequence[str]) -> dict[str, int]:
        """A node's named faults."""
        at = self.offsets["node", node] + len(NODE)
        return dict(zip(names, words[at : at + len(names)], strict=False))


EDGE_KEYS = (
    "produced", "acknowledged", "in_flight", "dropped", "lost", "received", "handled", "duplicates",
    "held", "items", "bytes", "waiting_max", "blocked_s",
)  # fmt: skip


def shared_edge(out: dict[str, int], into: dict[str, int]) -> dict[str, Any]:
    """One edge between processes, from both of its ends."""
    return {
        "produced": out["produced"],
        "acknowledged": out["acknowledged"],
        "in_flight": out["in_flight"],
        "dropped": out["dropped"],
        "lost": out["lost"],
        "received": into["received"],
        "handled": into["handled"],
        "duplicates": into["duplicates"],
        "held": into["received"] - into["handled"] - into["duplicates"],
        "items": out["produced_items"],
        "items_acknowledged": out["acknowledged_items"],
        "items_dropped": out["dropped_items"],
        "items_lost": out["lost_items"],
        "items_handled": into["handled_items"],
        "bytes": into["bytes"],
        "waiting": out["waiting"],
        "waiting_max": out["waiting_max"],
        "blocked_s": round(out["blocked_ns"] / 1e9, 3),
    }


def far_edge(out: dict[str, int], into: dict[str, int]) -> dict[str, Any]:
    """One edge to another host: as `shared_edge`, and what went over the wire."""
    sent = {"sent_bytes": out["sent_bytes"], "sent_plain": out["sent_plain"]}
    return shared_edge(out, into) | sent


def reference_edge(local: dict[str, int]) -> dict[str, Any]:
    """One edge inside a process: handing over and acknowledging are the same thing."""
    held = local["produced"] - local["handled"]
    return {
        "produced": local["produced"],
        "acknowledged": local["handled"],
        "in_flight": held,
        "dropped": 0,
        "lost": 0,
        "received": local["produced"],
        "handled": local["handled"],
        "duplicates": 0,
        "held": held,
        "items": local["produced_items"],
        "items_acknowledged": local["handled_items"],
        "items_dropped": 0,
        "items_lost": 0,
        "items_handled": local["handled_items"],
        "bytes": local["bytes"],
        "waiting": held,
        "waiting_max": local["waiting_max"],
        "blocked_s": 0.0,
    }


def balance(edge: dict[str, Any]) -> list[str]:
    """What does not add up in an edge's ledger; empty when all of it does."""
    wrong = []
    explained = edge["acknowledged"] + edge["in_flight"] + edge["dropped"] + edge["lost"]
    if edge["produced"] != explained:
        wrong.append(f"produced {edge['produced']}, explained {explained}")
    taken = edge["handled"] + edge["duplicates"] + edge["held"]
    if edge["received"] != taken:
        wrong.append(f"received {edge['received']}, explained {taken}")
    if edge["in_flight"] == 0 and edge["acknowledged"] != edge["handled"]:
        wrong.append(f"acknowledged {edge['acknowledged']}, handled {edge['handled']}")
    if edge["in_flight"] == 0 and edge["items_acknowledged"] != edge["items_handled"]:
        wrong.append(f"{edge['items_acknowledged']} items acknowledged, "
                     f"{edge['items_handled']} handled")  # fmt: skip
    return wrong
