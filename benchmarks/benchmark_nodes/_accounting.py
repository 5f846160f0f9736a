"""Takes the accounting out of this process's worker, and puts it back.

What is taken out: the ledgers of both ends of an edge (packets and items produced, acknowledged,
received, handled, bytes, the most that waited), the counts of nodes, the latency histograms, what
the board says of who is busy, how long edges were full, and the copy of it all to the board. What
stays is the protocol (sequence numbers, credits, which packets are under way, what a packet says)
and the heartbeat, without which the supervisor would end the process.

The methods are the engine's own, less the statements that only count, so there is no second engine
that could be quicker for another reason. Only while nothing is under way: what a ledger was given
for a packet must be taken out by the same ledger.
"""

from __future__ import annotations

import ast
import gc
import inspect
import textwrap
import time
from collections.abc import Callable
from typing import Any

from streamflow.accounts import REFRESH_S, Accounts
from streamflow.consumer_end import InLink
from streamflow.edge import Receiver, Sender
from streamflow.producer_end import OutLink, Output
from streamflow.worker import Worker

COUNTERS = {
    "packets_in", "packets_out", "items_in", "items_out",
    "produced", "produced_items", "acknowledged", "acknowledged_items",
    "received", "handled", "handled_items", "duplicates", "bytes", "items", "waiting_max",
}  # fmt: skip
CALLS = {"latency", "_busy", "_note_blocked"}
METHODS: list[tuple[type, str]] = [
    (Sender, "pass_on"), (Sender, "offer"), (Sender, "acknowledge"),
    (Receiver, "accept"), (Receiver, "handle"),
    (Output, "stage"), (Output, "_offer"),
    (Worker, "_give"), (Worker, "_emit"), (Worker, "_take_in"), (Worker, "_work_node"),
    (Worker, "_work_source"),
]  # fmt: skip


class _Stripper(ast.NodeTransformer):
    """Removes statements that only count."""

    def __init__(self) -> None:
        self.removed = 0

    def _gone(self, node: ast.stmt) -> ast.stmt | None:
        self.removed += 1
        return None

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt | None:
        target = node.target
        counts = isinstance(target, ast.Attribute) and target.attr in COUNTERS
        counts |= isinstance(target, ast.Name) and target.id in COUNTERS
        return self._gone(node) if counts else node

    def visit_Assign(self, node: ast.Assign) -> ast.stmt | None:
        target = node.targets[0]
        counts = isinstance(target, ast.Attribute) and target.attr in COUNTERS
        return self._gone(node) if counts else node

    def visit_Expr(self, node: ast.Expr) -> ast.stmt | None:
        call = node.value
        counts = (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in CALLS
        )
        return self._gone(node) if counts else node

    def visit_If(self, node: ast.If) -> ast.stmt | None:
        self.generic_visit(node)
        if not node.body and not node.orelse:
            return None  # what it asked was only for the count
        if not node.body:
            node.body = [ast.Pass()]
        return node


def _without_unused(function: ast.FunctionDef) -> None:
    """Leave out `now = time...()` where nothing reads it any more."""
    read = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }

    def is_unused(node: ast.stmt) -> bool:
        return (
            isinstance(node, ast.Assign)
            and isinstance(target := node.targets[0], ast.Name)
            and target.id not in read
        )

    for node in ast.walk(function):
        for block in ("body", "orelse"):
            inside = getattr(node, block, None)
            if isinstance(inside, list):
                left = [one for one in inside if not is_unused(one)]
                setattr(node, block, left or ([ast.Pass()] if block == "body" else []))


def stripped(owner: type, name: str) -> Callable[..., Any]:
    """The method without the statements that only count; an error when it has none."""
    method = getattr(owner, name)
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    stripper = _Stripper()
    stripper.visit(tree)
    if not stripper.removed:
        raise SystemExit(f"{owner.__name__}.{name} counts nothing: correct METHODS")
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    _without_unused(function)
    scope: dict[str, Any] = {}
    code = compile(ast.fix_missing_locations(tree), f"<{owner.__name__}.{name} uncounted>", "exec")
    exec(code, method.__globals__, scope)
    made: Callable[..., Any] = scope[name]
    return made


class Accounting:
    """The accounting of this process; `count(False)` takes it out."""

    def __init__(self, *, commits: bool) -> None:
        """With `commits` what goes to the board is what a successor needs, and stays."""
        self._with = {(owner, name): getattr(owner, name) for owner, name in METHODS}
        self._without = {(owner, name): stripped(owner, name) for owner, name in METHODS}
        if not commits:
            key = (Accounts, "write")
            self._with[key], self._without[key] = Accounts.write, _keep_time
        self._edges = [found for found in gc.get_objects() if isinstance(found, OutLink | InLink)]

    def count(self, on: bool) -> None:
        """Count from now on, or do not."""
        for (owner, name), method in (self._with if on else self._without).items():
            setattr(owner, name, method)

    @property
    def idle(self) -> bool:
        """Whether every packet that left this process was acknowledged."""
        return all(edge.sender.settled for edge in self._edges if isinstance(edge, OutLink))


def _keep_time(_accounts: Accounts, _captured: int) -> float:
    """The board as it is: the loop only must not ask at once again."""
    return time.monotonic() + REFRESH_S
