"""Where nodes and edges go when a graph is drawn: in layers, from sources on the left to sinks.

After Sugiyama, Tagawa and Toda (1981), "Methods for visual understanding of hierarchical system
structures": layers by longest path, edges that skip layers lead through bends, and few crossings by
ordering each layer by the median of its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

SWEEPS = 12


class Item(NamedTuple):
    """A node, or the bend of edge number `edge` where it passes through layer `layer`."""

    name: str
    edge: int = -1
    layer: int = -1


class Layout(NamedTuple):
    """The layers, each from top to bottom, and the items of every edge, producer first."""

    layers: list[list[Item]]
    paths: list[list[Item]]


def arrange(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> Layout:
    """Layers for `nodes` (producers first) that are joined by `edges` (producer, consumer)."""
    layer = _layers(nodes, edges)
    layers: list[list[Item]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name in nodes:
        layers[layer[name]].append(Item(name))
    paths = []
    for number, (source, sink) in enumerate(edges):
        bends = [Item("", number, step) for step in range(layer[source] + 1, layer[sink])]
        for bend in bends:
            layers[bend.layer].append(bend)
        paths.append([Item(source), *bends, Item(sink)])
    return Layout(_untangled(layers, layer, paths), paths)


def _layers(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Each node one layer after its last producer; sources just before their first consumer."""
    layer = dict.fromkeys(nodes, 0)
    for name in nodes:
        for source, sink in edges:
            if sink == name:
                layer[name] = max(layer[name], layer[source] + 1)
    consumed = {sink for _, sink in edges}
    for name in nodes:
        after = [layer[sink] for source, sink in edges if source == name]
        if after and name not in consumed:
            layer[name] = min(after) - 1
    return layer


def _untangled(
    layers: list[list[Item]], layer: Mapping[str, int], paths: Sequence[list[Item]]
) -> list[list[Item]]:
    """The layers in the order with the fewest crossings that the sweeps came across."""
    links = [
        [
            (path[index - layer[path[0].name]], path[index - layer[path[0].name] + 1])
            for path in paths
            if layer[path[0].name] <= index < layer[path[-1].name]
        ]
        for index in range(len(layers) - 1)
    ]
    best, fewest = [list(items) for items in layers], _crossings(layers, links)
    for sweep in range(SWEEPS):
        if fewest == 0:
            break
        down = sweep % 2 == 0
        order = range(1, len(layers)) if down else range(len(layers) - 2, -1, -1)
        for index in order:
            pairs = links[index - 1] if down else [(b, a) for a, b in links[index]]
            fixed = layers[index - 1] if down else layers[index + 1]
            layers[index] = _by_median(layers[index], fixed, pairs)
        crossings = _crossings(layers, links)
        if crossings < fewest:
            best, fewest = [list(items) for items in layers], crossings
    return best


def _by_median(
    items: list[Item], fixed: list[Item], pairs: Sequence[tuple[Item, Item]]
) -> list[Item]:
    place = {item: index for index, item in enumerate(fixed)}
    beside: dict[Item, list[int]] = {item: [] for item in items}
    for there, here in pairs:
        beside[here].append(place[there])
    key = {
        item: median(beside[item]) if beside[item] else float(index)
        for index, item in enumerate(items)
    }
    return sorted(items, key=key.__getitem__)


def _crossings(layers: list[list[Item]], links: list[list[tuple[Item, Item]]]) -> int:
    count = 0
    for index, pairs in enumerate(links):
        left = {item: place for place, item in enumerate(layers[index])}
        right = {item: place for place, item in enumerate(layers[index + 1])}
        ends = [(left[a], right[b]) for a, b in pairs]
        count += sum(
            (a - c) * (b - d) < 0 for n, (a, b) in enumerate(ends) for c, d in ends[n + 1 :]
        )
    return count


class Shape(NamedTuple):
    """An item's height, and how far below its top each edge leaves and arrives."""

    height: float
    outputs: dict[int, float]
    inputs: dict[int, float]


def heights(layout: Layout, shapes: Mapping[Item, Shape], gap: float) -> dict[Item, float]:
    """The top of every item, so that edges run as level as the order within layers allows."""
    top: dict[Item, float] = {}
    for layer in layout.layers:
        y = 0.0
        for item in layer:
            top[item] = y
            y += shapes[item].height + gap
    ends = [
        (number, source, sink)
        for number, path in enumerate(layout.paths)
        for source, sink in pairwise(path)
    ]
    wishes: dict[Item, list[tuple[Item, float]]] = {item: [] for item in top}
    for number, source, sink in ends:
        rise = shapes[source].outputs[number] - shapes[sink].inputs[number]
        wishes[sink].append((source, rise))
        wishes[source].append((sink, -rise))
    for _ in range(SWEEPS):
        for layer in [*layout.layers, *reversed(layout.layers)]:
            wanted = [
                sum(top[other] + rise for other, rise in wishes[item]) / len(wishes[item])
                if wishes[item]
                else top[item]
                for item in layer
            ]
            sizes = [shapes[item].height + gap for item in layer]
            top.update(zip(layer, _spread(wanted, sizes), strict=True))
    least = min(top.values(), default=0.0)
    return {item: y - least for item, y in top.items()}


def _spread(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Places near the wanted ones that keep the order and do not overlap."""
    down, up = list(wanted), list(wanted)
    for index in range(1, len(wanted)):
        down[index] = max(down[index], down[index - 1] + sizes[index - 1])
    for index in range(len(wanted) - 2, -1, -1):
        up[index] = min(up[index], up[index + 1] - sizes[index])
    return [(a + b) / 2 for a, b in zip(down, up, strict=True)]  # both fit, so their mean does
