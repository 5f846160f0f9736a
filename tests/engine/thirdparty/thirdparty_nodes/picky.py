"""A source with settings of every sort."""

from __future__ import annotations

from typing import Literal

import msgspec

from streamflow import Node, Out, Settings, Text
from streamflow.node import FilePath, Fraction


class Gain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of its own."""

    value: float
    table: FilePath | None = None


class PickySettings(Settings, frozen=True, kw_only=True):
    """One of each."""

    files: list[FilePath]
    share: Fraction = 0.5
    mode: Literal["fast", "slow"] = "fast"
    limit: int | None = None
    note: str | None = None
    names: list[str] = []
    by_name: dict[str, int] = {}
    pair: tuple[int, str] = (1, "a")
    gain: Gain | None = None
    weights: dict[str, FilePath] = {}

    def __post_init__(self) -> None:
        if self.mode == "slow" and self.limit is None:
            raise ValueError("mode slow needs a limit")


class Picky(Node[PickySettings]):
    """Nothing."""

    lines = Out(Text)
    produce = Node.produce
