"""A plan as a picture: SVG, Mermaid, or characters for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from .graph import NodeSpec
from .layout import Item, Shape, arrange, heights
from .plan import EdgePlan, Plan
from .text import size

# --- SVG: lengths in pixels -----------------------------------------------------------------------

LETTER = 7.2  # a wide guess at the width of a letter of 13 px: browsers' fonts differ
PORT = 20.0  # from port to port
HEAD = 48.0  # name and kind
GAP_X, GAP_Y, MARGIN, TITLE = 90.0, 34.0, 26.0, 58.0
COLOURS = ("#3b6fb6", "#b5651d", "#3f8f5f", "#8a4fa3", "#b03a48", "#2f8f8f", "#8c7a1f", "#5b7a8c")
ALONE = "#98a2b3"

_STYLE = """\
text{font:12px ui-sans-serif,system-ui,'DejaVu Sans',Helvetica,Arial,sans-serif;fill:#1f2430}
.title{font-size:16px;font-weight:600}
.name{font-size:13px;font-weight:600}
.kind,.port,.note{font-size:11px;fill:#667085}
.process{font-size:11px;font-weight:600}
.policy{font-size:11px;fill:#667085;paint-order:stroke;stroke:#ffffff;stroke-width:5px}
.edge{fill:none;stroke:#8791a3;stroke-width:1.6}
.reference{stroke:#5d6b82;stroke-width:3}
.lossy{stroke-dasharray:6 4}"""


class _Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float


def svg(plan: Plan) -> str:
    """The plan as an SVG image: nodes of one process share a colour, thick edges pass by reference,
    broken ones may lose packets.
    """  # fmt: skip
    return _Svg(plan).text()


class _Svg:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        names = list(plan.graph.nodes)
        ends = [(edge.spec.source, edge.spec.node) for edge in plan.edges]
        self.layout = arrange(names, ends)
        self.shapes = {item: self._shape(item) for layer in self.layout.layers for item in layer}
        shared = [process.name for process in plan.processes if len(process.nodes) > 1]
        self.colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(shared)}
        self.boxes = self._boxes()

    def _shape(self, item: Item) -> Shape:
        if not item.name:
            return Shape(PORT, {item.edge: PORT / 2}, {item.edge: PORT / 2})
        node = self.plan.graph.nodes[item.name]
        outputs, inputs = _ports(self.plan, node)
        rows = max(len(node.inputs), len(node.outputs))
        return Shape(
            HEAD + rows * PORT,
            {edge: HEAD + row * PORT + PORT / 2 - 4 for edge, row in outputs.items()},
            {edge: HEAD + row * PORT + PORT / 2 - 4 for edge, row in inputs.items()},
        )

    def _width(self, item: Item) -> float:
        if not item.name:
            return 0.0
        node = self.plan.graph.nodes[item.name]
        inputs = max((len(edge.input) for edge in node.inputs), default=0)
        ports = inputs + max(map(len, node.outputs), default=0) + 3
        return max(
            120.0, max(len(node.name) * 1.1, len(self._kind(node)) * 0.9, ports) * LETTER + 28
        )

    def _boxes(self) -> dict[Item, _Box]:
        tops = heights(self.layout, self.shapes, GAP_Y)
        boxes, x = {}, MARGIN
        for layer in self.layout.layers:
            width = max(self._width(item) for item in layer)
            for item in layer:
                boxes[item] = _Box(x, TITLE + tops[item], width, self.shapes[item].height)
            x += width + GAP_X
        return boxes

    def text(self) -> str:
        graph = self.plan.graph
        right = max(box.x + box.width for box in self.boxes.values()) + MARGIN
        bottom = max(box.y + box.height for box in self.boxes.values()) + MARGIN + 24
        width = max(right, 2 * MARGIN + len(graph.name) * 9, 420)
        note = "thick: by reference · thin: shared memory · broken: may lose packets, counted"
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{bottom:.0f}" '
            f'viewBox="0 0 {width:.0f} {bottom:.0f}" role="img" aria-label="{escape(graph.name)}">',
            f"<style>{_STYLE}</style>",
            f'<rect width="{width:.0f}" height="{bottom:.0f}" fill="#ffffff"/>',
            _text(MARGIN, 30, graph.name, "title"),
            *self._processes(),
            *(self._edge(edge) for edge in self.plan.edges),
            *(self._node(node) for node in graph.nodes.values()),
            _text(MARGIN, bottom - 14, note, "note"),
            "</svg>",
        ]
        return "\n".join(part for part in parts if part) + "\n"

    def _processes(self) -> list[str]:
        """A field behind the nodes of a process, where no other node lies in between."""
        fields = []
        for process in self.plan.processes:
            if process.name not in self.colours:
                continue
            own = [self.boxes[Item(name)] for name in process.nodes]
            left, top = min(box.x for box in own) - 13, min(box.y for box in own) - 24
            right = max(box.x + box.width for box in own) + 13
            bottom = max(box.y + box.height for box in own) + 11
            others = [box for item, box in self.boxes.items() if item.name not in process.nodes]
            if any(
                box.x < right and box.x + box.width > left and box.y < bottom
                and box.y + box.height > top for box in others
            ):  # fmt: skip
                continue
            colour = self.colours[process.name]
            fields.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
                f'height="{bottom - top:.1f}" rx="12" fill="{colour}" fill-opacity="0.08" '
                f'stroke="{colour}" stroke-opacity="0.35"/>'
                + _text(left + 12, top + 16, process.name, "process", colour)
            )
        return fields

    def _node(self, node: NodeSpec) -> str:
        box = self.boxes[Item(node.name)]
        colour = self.colours.get(node.process, ALONE)
        where = f"process {node.process}"
        parts = [
            f"<g><title>{escape(f'{node.name}: {node.kind}, {where}')}</title>",
            f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
            f'height="{box.height:.1f}" rx="7" fill="#ffffff" stroke="{colour}" '
            'stroke-width="1.6"/>',
            _text(box.x + 13, box.y + 20, node.name, "name"),
            _text(box.x + 13, box.y + 35, self._kind(node), "kind"),
        ]
        for row, edge in enumerate(node.inputs):
            parts.append(self._port(box.x, box.y, row, edge.input, colour, "start"))
        for row, output in enumerate(node.outputs):
            parts.append(self._port(box.x + box.width, box.y, row, output, colour, "end"))
        return "\n".join([*parts, "</g>"])

    def _kind(self, node: NodeSpec) -> str:
        """The node's kind, and the process that it shares with others."""
        return node.kind + (f" · {node.process}" if node.process in self.colours else "")

    def _port(self, x: float, top: float, row: int, name: str, colour: str, anchor: str) -> str:
        y = top + HEAD + row * PORT + PORT / 2 - 4
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}" stroke="#ffffff"/>'
        return dot + _text(x + (13 if anchor == "start" else -13), y + 4, name, "port", "", anchor)

    def _edge(self, edge: EdgePlan) -> str:
        path, number = self.layout.paths[edge.index], edge.index
        source, sink = self.boxes[path[0]], self.boxes[path[-1]]
        points = [(source.x + source.width, source.y + self.shapes[path[0]].outputs[number])]
        for bend in path[1:-1]:
            box = self.boxes[bend]
            y = box.y + PORT / 2
            points += [(box.x, y), (box.x + box.width, y)]
        points.append((sink.x, sink.y + self.shapes[path[-1]].inputs[number]))
        line = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
        for (x0, y0), (x1, y1) in pairwise(points):
            half = (x0 + x1) / 2
            line += f" C{half:.1f} {y0:.1f} {half:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
        spec = edge.spec
        classes = "edge" + (" reference" if edge.transport == "reference" else "")
        label = ""
        if spec.when_full != "block":
            classes += " lossy"
            (x0, y0), (x1, y1) = points[-2:]
            label = _text((x0 + x1) / 2, (y0 + y1) / 2 - 7, spec.when_full, "policy", "", "middle")
        title = (
            f"{spec.name}: {edge.transport}, {spec.when_full}, {spec.capacity} + {spec.window} "
            f"packets, at most {size(edge.memory)}"
        )
        return f'<path class="{classes}" d="{line}"><title>{escape(title)}</title></path>{label}'


def _text(
    x: float, y: float, text: str, style: str, colour: str = "", anchor: str = "start"
) -> str:
    fill = f' style="fill:{colour}"' if colour else ""
    place = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}"{place}{fill}>{escape(text)}</text>'


def _ports(plan: Plan, node: NodeSpec) -> tuple[dict[int, int], dict[int, int]]:
    """For each edge that leaves and that arrives, the row of its port on the node."""
    outputs = {
        edge.index: node.outputs.index(edge.spec.output)
        for edge in plan.edges
        if edge.spec.source == node.name
    }
    inputs = {
        edge.index: [spec.input for spec in node.inputs].index(edge.spec.input)
        for edge in plan.edges
        if edge.spec.node == node.name
    }
    return outputs, inputs


# --- Mermaid --------------------------------------------------------------------------------------


def mermaid(plan: Plan) -> str:
    """The plan as a Mermaid flow chart, for Markdown that renders it."""
    lines = ["flowchart LR"]
    for process in plan.processes:
        nodes = [f'n_{name}["{name}<br/><small>{plan.graph.nodes[name].kind}</small>"]'
                 for name in process.nodes]  # fmt: skip
        if len(nodes) == 1:
            lines.append(f"  {nodes[0]}")
        else:
            lines.append(f'  subgraph p_{process.name}["process {process.name}"]')
            lines += [f"    {node}" for node in nodes]
            lines.append("  end")
    for edge in plan.edges:
        spec = edge.spec
        names = spec.output if spec.output == spec.input else f"{spec.output} to {spec.input}"
        lossy = spec.when_full != "block"
        label = f"{names}, {spec.when_full}" if lossy else names
        arrow = "-.->" if lossy else "==>" if edge.transport == "reference" else "-->"
        lines.append(f'  n_{spec.source} {arrow}|"{label}"| n_{spec.node}')
    return "\n".join(lines) + "\n"


# --- terminal: lengths in characters --------------------------------------------------------------

UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
_LINES = dict(zip(range(16), " ╵╷│╴┘┐┤╶└┌├─┴┬┼", strict=True))


def terminal(plan: Plan) -> str:
    """The plan as text, for a terminal with a fixed-width font."""
    return _Terminal(plan).text()


class _Terminal:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        ends = [(edge.spec.source, edge.spec.node) for edge in plan.edges]
        self.layout = arrange(list(plan.graph.nodes), ends)
        self.labels = {item: self._label(item) for layer in self.layout.layers for item in layer}
        self.shapes = {item: self._shape(item) for item in self.labels}
        self.tops = self._tops()
        self.lines: dict[tuple[int, int], int] = {}  # (row, column) -> where lines lead from there
        self.letters: dict[tuple[int, int], str] = {}

    def _label(self, item: Item) -> list[str]:
        """What stands in the item's box."""
        if not item.name:
            return []
        node = self.plan.graph.nodes[item.name]
        inputs, outputs = [edge.input for edge in node.inputs], list(node.outputs)
        rows = max(len(inputs), len(outputs))
        inputs += [""] * (rows - len(inputs))
        outputs += [""] * (rows - len(outputs))
        left = max(map(len, inputs), default=0)
        ports = [f"{a:{left}}  {b}" for a, b in zip(inputs, outputs, strict=True)]
        process = [] if node.process == node.name else [f"in {node.process}"]
        width = max(map(len, [node.name, node.kind, *process, *ports]))
        ports = [f"{a:{left}}{b:>{width - left}}" for a, b in zip(inputs, outputs, strict=True)]
        return [text.ljust(width) for text in [node.name, node.kind, *process, *ports]]

    def _shape(self, item: Item) -> Shape:
        if not item.name:
            return Shape(1, {item.edge: 0}, {item.edge: 0})
        node, label = self.plan.graph.nodes[item.name], self.labels[item]
        outputs, inputs = _ports(self.plan, node)
        first = 1 + len(label) - max(len(node.inputs), len(node.outputs))
        return Shape(
            len(label) + 2,
            {edge: first + row for edge, row in outputs.items()},
            {edge: first + row for edge, row in inputs.items()},
        )

    def _tops(self) -> dict[Item, int]:
        exact, tops = heights(self.layout, self.shapes, 1), {}
        for layer in self.layout.layers:
            free = 0
            for item in layer:
                tops[item] = max(free, round(exact[item]))
                free = tops[item] + int(self.shapes[item].height) + 1
        return tops

    def text(self) -> str:
        x = 0
        for index, layer in enumerate(self.layout.layers):
            width = max((len(self.labels[item][0]) + 4 for item in layer if item.name), default=1)
            for item in layer:
                if item.name:
                    self._box(item, x, width)
                else:
                    self._horizontal(self.tops[item], x - 1, x + width)
            x += width
            if index + 1 < len(self.layout.layers):
                x += self._channel(index, x)
        places = [*self.lines, *self.letters]
        rows, columns = max(r for r, _ in places) + 1, max(c for _, c in places) + 1
        picture = [
            "".join(
                self.letters.get((row, column)) or _LINES[self.lines.get((row, column), 0)]
                for column in range(columns)
            ).rstrip()
            for row in range(rows)
        ]
        return "\n".join(picture) + "\n"

    def _box(self, item: Item, x: int, width: int) -> None:
        top, label = self.tops[item], self.labels[item]
        bottom, right = top + len(label) + 1, x + width - 1
        self._horizontal(top, x, right)
        self._horizontal(bottom, x, right)
        self._vertical(x, top, bottom)
        self._vertical(right, top, bottom)
        pad = width - 4
        for row, text in enumerate(label, top + 1):
            port = text if len(text) == pad else self._widened(text, pad)
            for column, letter in enumerate(port, x + 2):
                self.letters[row, column] = letter

    @staticmethod
    def _widened(text: str, width: int) -> str:
        """A row of a label in a wider box: outputs stay at the right-hand side."""
        left, gap, right = text.rpartition("  ")
        if gap and right and not right.isspace():
            return left + " " * (width - len(left) - len(right)) + right
        return text.ljust(width)

    def _channel(self, index: int, x: int) -> int:
        """Draw what leads from one layer to the next, beginning at column x; its width."""
        rows: dict[tuple[Item, int], list[int]] = {}  # (from where, its row) -> rows it leads to
        heads = []
        for edge in self.plan.edges:
            path = self.layout.paths[edge.index]
            for source, sink in pairwise(path):
                if source not in self.layout.layers[index]:
                    continue
                start = self.tops[source] + int(self.shapes[source].outputs[edge.index])
                stop = self.tops[sink] + int(self.shapes[sink].inputs[edge.index])
                rows.setdefault((source, start), []).append(stop)
                if sink.name:
                    heads.append(stop)
        tracks = _tracks([(start, stops) for (_, start), stops in rows.items()])
        width = len(tracks) + 4
        for track, (start, stops) in enumerate(tracks, x + 1):
            self._horizontal(start, x - 1, track)
            self._vertical(track, min(start, *stops), max(start, *stops))
            for stop in stops:
                self._horizontal(stop, track, x + width)
        for stop in heads:
            self.letters[stop, x + width - 1] = "▶"
        return width

    def _horizontal(self, row: int, left: int, right: int) -> None:
        for column in range(left, right):
            self.lines[row, column] = self.lines.get((row, column), 0) | RIGHT
            self.lines[row, column + 1] = self.lines.get((row, column + 1), 0) | LEFT

    def _vertical(self, column: int, top: int, bottom: int) -> None:
        for row in range(top, bottom):
            self.lines[row, column] = self.lines.get((row, column), 0) | DOWN
            self.lines[row + 1, column] = self.lines.get((row + 1, column), 0) | UP


def _tracks(bundles: Sequence[tuple[int, list[int]]]) -> list[tuple[int, list[int]]]:
    """Bundles of edges (row they come from, rows they lead to) in an order for their verticals.

    One that comes from the row where another arrives must turn off before that one turns in.
    """
    left, ordered = list(bundles), []
    while left:
        free = [
            bundle for bundle in left
            if not any(other[0] in bundle[1] for other in left if other is not bundle)
        ]  # fmt: skip
        chosen = (free or left)[0]  # a swap of two rows has no such order
        left.remove(chosen)
        ordered.append(chosen)
    return ordered
