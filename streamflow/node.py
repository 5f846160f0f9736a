"""Nodes: settings, typed ports and handlers. The only thing most people ever write."""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec
import numpy as np

from .clock import Clock
from .errors import NodeError
from .packet import Array, Packet, Payload

P = TypeVar("P", bound=Payload)
S = TypeVar("S", bound="Settings")

Seconds = Annotated[float, msgspec.Meta(gt=0)]
"""A positive duration in seconds."""
Microseconds = Annotated[int, msgspec.Meta(gt=0)]
"""A positive duration in whole microseconds of stream time."""
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
"""A number from 0 to 1."""
Positive = Annotated[int, msgspec.Meta(gt=0)]
"""A whole number above 0."""
FilePath = Annotated[str, msgspec.Meta(min_length=1, extra={"path": "input"})]
"""A file to read. In a graph file it is relative to that file; with `--set`, to where you stand."""
OutputPath = Annotated[str, msgspec.Meta(min_length=1, extra={"path": "output"})]
"""A file to write: always relative to where you stand, so that a shipped graph writes there."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node's settings: subclass with typed fields; types, ranges and defaults are all checked."""


class In(Generic[P]):
    """An input port. Declare as a class attribute; the handler is `on_<name>(self, packet)`."""

    def __init__(self, payload: type[P], *, optional: bool = False) -> None:
        self.payload, self.optional, self.name = payload, optional, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


class Emission(msgspec.Struct, frozen=True, gc=False):
    """What a handler yields: a packet and the port it leaves by."""

    port: str
    packet: Packet[Any]


Lender = Callable[[tuple[int, ...], Any], Array]


class Out(Generic[P]):
    """An output port. Declare as a class attribute; call it to make what a handler yields."""

    def __init__(self, payload: type[P]) -> None:
        self.payload, self.name = payload, ""
        self.lender: Lender | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __call__(self, data: P, start: int, stop: int, captured: int = 0) -> Emission:
        """The packet of `data` covering `[start, stop)` us of stream time, ready to be yielded.

        The array must be fresh (or a loan): the packet is immutable once yielded. `captured` is
        when the data was captured (monotonic ns); 0 takes that of the input being handled.
        """
        return Emission(self.name, Packet(int(start), int(stop), data, captured))

    def loan(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised array to fill and yield: where possible it lies in the edge's memory,
        so that nothing is copied. At most one loan per port at a time.
        """  # fmt: skip
        shape = (shape,) if isinstance(shape, int) else shape
        if self.lender is not None:
            return self.lender(shape, dtype)
        return np.empty(shape, dtype)


Emissions = Iterable[Emission] | None


class Node(Generic[S]):
    """Settings, ports and handlers; see `docs/add-a-node.md`.

    Verbs, all optional but the handlers: `open`, `on_<input>`, `advance`, `finish`, `close`, and
    `produce` for sources; `snapshot`/`restore` where state should survive a restart; `results` for
    what a node says in the run report.

    Class keyword `stateless=True` promises that a handler's output depends on its packet and the
    settings alone; without it and without `snapshot`, a restart counts as lost state.
    """

    settings_type: ClassVar[type[Settings]] = Settings
    inputs: ClassVar[dict[str, In[Any]]] = {}
    outputs: ClassVar[dict[str, Out[Any]]] = {}
    stateless: ClassVar[bool] = False
    faults: ClassVar[tuple[str, ...]] = ()
    """Names of what can be wrong with the data and is counted rather than fatal."""

    progress: float | None = None
    """How much of its data a source has given, from 0 to 1; None where the end is not known."""

    holds_from: int | None = None
    """Earliest stream time (us) that a later packet of this node may still start at, while the node
    holds something back; None when it holds nothing. Downstream stream time waits for it."""

    def __init_subclass__(cls, *, stateless: bool = False, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.stateless = stateless
        ports = {
            name: value
            for base in reversed(cls.__mro__)
            for name, value in vars(base).items()
            if isinstance(value, (In, Out))
        }
        cls.inputs = {name: port for name, port in ports.items() if isinstance(port, In)}
        cls.outputs = {name: port for name, port in ports.items() if isinstance(port, Out)}
        for base in getattr(cls, "__orig_bases__", ()):
            for argument in typing.get_args(base):
                if isinstance(argument, type) and issubclass(argument, Settings):
                    cls.settings_type = argument
        _check_handlers(cls)

    def __init__(self, settings: S | dict[str, Any] | None = None, *, name: str = "") -> None:
        kind = kind_of(type(self))
        self.name = name or kind
        plain = msgspec.to_builtins(settings) if settings is not None else {}
        try:
            self.settings: S = msgspec.convert(plain, self.settings_type)  # type: ignore[assignment]  # S is what the class was parametrised with
        except msgspec.ValidationError as error:
            raise NodeError(self.name, f"settings: {error}", kind=kind) from error
        self.clock = Clock()
        self.log = logging.getLogger(f"streamflow.node.{self.name}")
        self.fault_counts: dict[str, int] = dict.fromkeys(type(self).faults, 0)
        for port in type(self).outputs.values():
            bound = Out(port.payload)
            bound.name = port.name
            vars(self)[port.name] = bound

    def count_fault(self, fault: str, times: int = 1) -> None:
        """Count something wrong with the data that the node carried on from (see `faults`)."""
        self.fault_counts[fault] += times

    def open(self) -> None:
        """Allocate, load, compile: everything that takes time, before any data flows."""

    def produce(self) -> Iterator[Emission]:
        """Sources only: yield packets in stream-time order until the data ends."""
        return iter(())

    def advance(self, time: int) -> Emissions:
        """Every input before stream time `time` (us) has been handled; yield what that completes.

        How often this is called is not defined, so nothing that is emitted may depend on it.
        """
        return None

    def finish(self) -> Emissions:
        """The stream has ended: yield what is still held."""
        return None

    def close(self) -> None:
        """Release files and devices. Called once, also after a failure."""

    def snapshot(self) -> dict[str, Any]:
        """The node's state as a flat dict of arrays, numbers, strings and bytes."""
        raise NotImplementedError  # a marker: `is_snapshotting` asks whether a class overrides it

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `snapshot` gave. Called after `open`; arrays are writable copies."""
        raise NotImplementedError  # as snapshot

    def results(self) -> dict[str, Any]:
        """What the node says in the run report, after `finish`: plain JSON values."""
        return {}

    @classmethod
    def is_source(cls) -> bool:
        """Whether the node makes its own data."""
        return cls.produce is not Node.produce

    @classmethod
    def is_snapshotting(cls) -> bool:
        """Whether the node's state survives a restart."""
        return cls.snapshot is not Node.snapshot

    @classmethod
    def is_sink(cls) -> bool:
        """Whether data ends here."""
        return not cls.outputs


RESERVED = {"time"}


def kind_of(node_class: type[Node[Any]]) -> str:
    """The kind a graph file calls this class: its name in snake case."""
    name = node_class.__name__
    return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


def _check_handlers(cls: type[Node[Any]]) -> None:
    """Fail at import when ports and handlers disagree: the earliest a mistake can be seen."""
    for name, port in cls.inputs.items():
        handler = getattr(cls, f"on_{name}", None)
        if handler is None:
            raise TypeError(
                f"{cls.__name__}: input {name!r} needs a method on_{name}(self, packet)"
            )
        _check_annotation(cls, handler, port)
    for name in dir(cls):
        if name.startswith("on_") and callable(getattr(cls, name)) and name[3:] not in cls.inputs:
            known = ", ".join(cls.inputs) or "none"
            raise TypeError(f"{cls.__name__}: {name} handles no input; declared inputs: {known}")
    if cls.is_source() and cls.inputs:
        raise TypeError(f"{cls.__name__}: a source has produce() and no inputs")
    if cls.is_snapshotting() != (cls.restore is not Node.restore):
        raise TypeError(f"{cls.__name__}: snapshot and restore belong together")
    if cls.stateless and cls.is_snapshotting():
        raise TypeError(f"{cls.__name__}: a stateless node has nothing to snapshot")


def _check_annotation(cls: type[Node[Any]], handler: Any, port: In[Any]) -> None:
    """Compare `packet: Packet[X]` in the handler with the port's payload, where it is written."""
    parameters = list(inspect.signature(handler).parameters.values())
    if len(parameters) != 2:
        raise TypeError(f"{cls.__name__}.on_{port.name} takes (self, packet)")
    written = parameters[1].annotation
    text = written if isinstance(written, str) else getattr(written, "__name__", str(written))
    if isinstance(written, str) and "[" in text:
        text = text[text.index("[") + 1 : text.rindex("]")]
    elif args := typing.get_args(written):
        text = getattr(args[0], "__name__", str(args[0]))
    else:
        return
    text = text.split(".")[-1]
    if text not in (port.payload.__name__, "Any"):
        raise TypeError(
            f"{cls.__name__}: input {port.name!r} carries {port.payload.__name__}, "
            f"but on_{port.name} is annotated with {text}"
        )


def check_emission(node: Node[Any], emission: Emission, watermark: int) -> None:
    """NodeError when an emission breaks what consumers rely on.

    `watermark` is the stream time that the node has let pass on that port.
    """
    port, packet = type(node).outputs.get(emission.port), emission.packet
    if port is None:
        what = f"emitted on {emission.port!r}, not one of its outputs"
    elif type(packet.data) is not port.payload:
        found, declared = type(packet.data).__name__, port.payload.__name__
        what = f"emitted {found} on {port.name!r}, which declares {declared}"
    elif packet.stop < packet.start:
        what = f"emitted a packet that stops ({packet.stop}) before {packet.start}"
    elif packet.start < watermark:
        what = (
            f"emitted a packet on {port.name!r} that starts at {packet.start}, before stream time "
            f"{watermark} which it had let pass: keep packets in order, and set holds_from while "
            "something older is held back"
        )
    else:
        return
    raise NodeError(node.name, what, kind=kind_of(type(node)))
