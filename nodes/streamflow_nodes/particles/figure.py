"""One page of panels that shows what a run of a cytometer gave. Arrays in, PNG bytes out."""

from __future__ import annotations

import io
import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .rows import MERGED, OVERLAP

# Okabe and Ito's colours: told apart by colour-blind readers too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY, INK = "#8A8F98", "#22262C"
STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E7E9EC",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.fontsize": 9,
}


class Picture(NamedTuple):
    """What the sensor saw of one class: summed events per cell, and of how many particles."""

    counts: NDArray[np.int64]
    """(polarities, rows, columns): OFF, then ON"""
    particles: int
    pixels: int
    """Sensor pixels along each side of one cell."""


class Score(NamedTuple):
    """How the decisions compare with the truth (see `particle_scorer`)."""

    confusion: dict[str, dict[str, int]]
    correct: float
    interval: tuple[float, float]


class Page(NamedTuple):
    """What to draw. `particles` are `PARTICLE` rows, one in `stride` of all `total`."""

    particles: NDArray[Any]
    stride: int
    total: int
    counts: dict[str, int]
    pictures: dict[str, Picture]
    score: Score | None
    title: str
    note: str
    deadline_us: int


def draw(page: Page, dpi: int) -> bytes:
    """The page as a PNG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = sorted(page.counts, key=lambda name: (-page.counts[name], name))[: len(COLOURS)]
    colours = dict(zip(sorted(names), COLOURS, strict=False))
    panels = [_scatter, _rate, _delay, _probability]
    if page.pictures:
        panels.insert(3, _pictures)
    if page.score:
        panels.append(_confusion)
    if len(panels) == 5:
        panels.append(_width)
    columns = 2 if len(panels) == 4 else 3
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5 * columns + 0.4, 8.2), dpi=dpi, facecolor="white")
        FigureCanvasAgg(figure)
        outer = figure.add_gridspec(
            2, columns, left=0.78 / (4.5 * columns), right=1 - 0.22 / (4.5 * columns),
            bottom=0.075, top=0.875, wspace=0.26, hspace=0.34,
        )  # fmt: skip
        _headline(figure, page, colours)
        for at, panel in enumerate(panels):
            panel(figure, outer[at // columns, at % columns], page, colours)
        out = io.BytesIO()
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def plain(text: str) -> str:
    """`text` as matplotlib shows it letter by letter, in characters that every font has."""
    return text.encode("ascii", "backslashreplace").decode().replace("$", r"\$")


def _headline(figure: Any, page: Page, colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    width = figure.get_figwidth()
    left, right = 0.25 / width, 1 - 0.22 / width
    figure.text(left, 0.975, plain(page.title), fontsize=15, fontweight="bold", va="top")
    said = f"{page.total:,} particles"
    if page.stride > 1:
        said += f"; the panels are drawn from one in {page.stride}"
    figure.text(left, 0.935, said, va="top", color="#5A6069")
    if page.note:
        figure.text(
            right, 0.975, plain(page.note), va="top", ha="right", color="#8A4B00",
            bbox={"boxstyle": "round,pad=0.35", "facecolor": "#FFF3E0", "edgecolor": "#F0B35A"},
        )  # fmt: skip
    marks = [
        Line2D([], [], color=colour, marker="o", linestyle="", markersize=7)
        for colour in colours.values()
    ]
    labels = [f" {plain(name) or 'no class'}: {page.counts[name]:,}" for name in colours]
    if (other := page.total - sum(page.counts[name] for name in colours)) > 0:
        marks.append(Line2D([], [], color=GREY, marker="o", linestyle="", markersize=7))
        labels.append(f" other classes: {other:,}")
    if marks:
        figure.legend(
            marks, labels, loc="upper right", ncols=len(marks), bbox_to_anchor=(right, 0.936),
            borderpad=0, borderaxespad=0, handletextpad=0.1,
        )  # fmt: skip


def _panel(figure: Any, place: Any, title: str, x: str, y: str, *, empty: bool) -> Any:
    axes = figure.add_subplot(place)
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True)
    if empty:
        axes.text(
            0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", color=GREY
        )  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
    return axes


def _aside(axes: Any, text: str) -> None:
    """A remark at the right end of the title's line."""
    axes.set_title(text, loc="right", fontsize=8.5, fontweight="normal", color="#5A6069")


def _groups(page: Page, colours: dict[str, str]) -> list[tuple[str, str, NDArray[Any]]]:
    """(name, colour, rows) of the classes that have a colour, then of all the others."""
    labels = np.array(_labels(page.particles), dtype=str)
    groups = [(name, colour, page.particles[labels == name]) for name, colour in colours.items()]
    rest = page.particles[~np.isin(labels, list(colours))]
    return [*groups, ("other classes", GREY, rest)] if len(rest) else groups


def _labels(rows: NDArray[Any]) -> list[str]:
    return [name.decode(errors="backslashreplace") for name in rows["class"].tolist()]


def _limit(values: NDArray[Any], share: float = 0.995) -> float:
    """An axis end that a few outliers do not push away from the bulk."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 1.0
    inner, largest = float(np.quantile(finite, share)), float(finite.max())
    return 1.08 * (largest if largest < 1.5 * inner else inner) or 1.0


def _scatter(figure: Any, place: Any, page: Page, colours: dict[str, str]) -> None:
    rows = page.particles
    axes = _panel(
        figure, place, "Scatter", "FSC-A: events of the passage",
        "SSC-A: events far from the centre", empty=not len(rows),
    )  # fmt: skip
    if not len(rows):
        return
    size, alpha = (14, 0.65) if len(rows) < 2000 else (4, 0.3)
    is_flagged = (rows["flags"] & (OVERLAP | MERGED)) != 0
    # In the order of the stream, so that no class covers another one.
    shades = np.array([colours.get(name, GREY) for name in _labels(rows)], dtype=str)
    for is_shown, marker, width in ((~is_flagged, "o", 0.0), (is_flagged, "x", 0.9)):
        axes.scatter(
            rows["events"][is_shown], rows["outer_events"][is_shown], c=shades[is_shown].tolist(),
            s=size, alpha=alpha, marker=marker, linewidths=width,
        )  # fmt: skip
    axes.set_xlim(0, _limit(rows["events"].astype(float)))
    axes.set_ylim(0, _limit(rows["outer_events"].astype(float)))
    if is_flagged.any():
        _aside(axes, "x: several particles in one window")


def _rate(figure: Any, place: Any, page: Page, colours: dict[str, str]) -> None:
    times = page.particles["time_us"] * 1e-6
    times = times[np.isfinite(times)]
    axes = _panel(
        figure, place, "Rate", "stream time, s", "decisions per second", empty=not len(times)
    )
    if not len(times):
        return
    first, last = np.quantile(times, [0, 1])
    span = max(last - first, 1e-3)
    width = _round_up(span / 30)
    edges = np.arange(np.floor(first / width), np.floor(last / width) + 2) * width
    top = 0.0
    for _, colour, group in _groups(page, colours):
        own = group["time_us"] * 1e-6
        heights = np.histogram(own[np.isfinite(own)], edges)[0] * page.stride / width
        axes.stairs(heights, edges, color=colour, linewidth=1.5)
        top = max(top, float(heights.max()))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.12 * top or 1)
    _aside(axes, f"in bins of {width:g} s")


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, ... times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999))


def _delay(figure: Any, place: Any, page: Page, colours: dict[str, str]) -> None:
    delays = (page.particles["decided_us"] - page.particles["time_us"]) * 1e-3
    delays = delays[np.isfinite(delays)]
    axes = _panel(
        figure, place, "Delay", "decided after the passage's centre, ms of stream time",
        "particles", empty=not len(delays),
    )  # fmt: skip
    if not len(delays):
        return
    low, deadline = min(0.0, float(np.quantile(delays, 0.005))), page.deadline_us * 1e-3
    high = max(_limit(delays), deadline * 1.12)
    edges = np.linspace(low, max(high, low + 1e-3), 61)
    for _, colour, group in _groups(page, colours):
        own = (group["decided_us"] - group["time_us"]) * 1e-3
        heights = np.histogram(own[np.isfinite(own)], edges)[0] * page.stride
        axes.stairs(heights, edges, color=colour, fill=True, alpha=0.25)
        axes.stairs(heights, edges, color=colour, linewidth=1.3)
    axes.axvline(deadline, color=INK, linestyle="--", linewidth=1)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    axes.text(
        deadline, 0.985, " deadline", transform=axes.get_xaxis_transform(), va="top", rotation=90,
        ha="right", fontsize=8.5,
    )  # fmt: skip
    median, high = np.quantile(delays, [0.5, 0.99])
    late = 100 * float((delays > deadline).mean())
    _aside(axes, f"median {median:.2f} ms, 99 % {high:.2f} ms, late {late:.2g} %")


def _bars(
    figure: Any,
    place: Any,
    page: Page,
    colours: dict[str, str],
    words: tuple[str, str, str],
    bounds: tuple[float, float],
) -> None:
    """A histogram per class of a field within bounds; words: field, title, label of the axis."""
    field, title, label = words
    finite = np.isfinite(page.particles[field])
    axes = _panel(figure, place, title, label, "particles", empty=not finite.any())
    if not finite.any():
        return
    edges = np.linspace(*bounds, 51)
    for _, colour, group in _groups(page, colours):
        heights = np.histogram(group[field][np.isfinite(group[field])], edges)[0] * page.stride
        axes.stairs(heights, edges, color=colour, fill=True, alpha=0.25)
        axes.stairs(heights, edges, color=colour, linewidth=1.3)
    axes.set_xlim(*bounds)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05)


def _probability(figure: Any, place: Any, page: Page, colours: dict[str, str]) -> None:
    given = page.particles["probability"]
    given = given[np.isfinite(given)]
    low = min(0.5, float(given.min())) if len(given) else 0.0
    words = ("probability", "Certainty", "probability of the class decided for")
    _bars(figure, place, page, colours, words, (max(0.0, np.floor(low * 10) / 10), 1.0))


def _width(figure: Any, place: Any, page: Page, colours: dict[str, str]) -> None:
    words = ("width_us", "Duration", "FSC-W: duration of the passage, us")
    _bars(figure, place, page, colours, words, (0.0, _limit(page.particles["width_us"])))


def _pictures(figure: Any, place: Any, page: Page, colours: dict[str, str]) -> None:
    shown = [name for name in colours if name in page.pictures][:4]
    pictures = [page.pictures[name] for name in shown]
    means = [picture.counts / picture.particles for picture in pictures]
    brightest = max(float(np.quantile(mean, 0.999)) for mean in means) or 1.0
    panel = figure.add_subplot(place)
    panel.set_axis_off()
    panel.set_title("Pictures")
    _aside(panel, "mean events per particle" + _cell(pictures[0].pixels))
    grid = place.subgridspec(
        2, len(shown) + 1, wspace=0.1, hspace=0.12, width_ratios=[1] * len(shown) + [0.05]
    )
    for (row, polarity), (column, name) in itertools.product(
        enumerate(("ON", "OFF")), enumerate(shown)
    ):
        axes, picture = figure.add_subplot(grid[row, column]), pictures[column]
        _, height, width = picture.counts.shape
        image = axes.imshow(
            means[column][1 - row], cmap="magma", vmin=0, vmax=brightest, interpolation="nearest",
            extent=(0, width * picture.pixels, height * picture.pixels, 0),
        )  # fmt: skip
        axes.text(
            0.03, 0.95, f"{plain(name) or 'no class'} {polarity}", transform=axes.transAxes,
            color="white", fontsize=8.5, va="top",
        )  # fmt: skip
        axes.tick_params(labelleft=column == 0, labelbottom=row == 1)
        axes.set_ylabel("y, pixels" if column == 0 else "")
        axes.set_xlabel("x, pixels" if row == 1 else "")
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, cax=figure.add_subplot(grid[:, -1]))
    bar.outline.set_visible(False)


def _cell(pixels: int) -> str:
    return " and pixel" if pixels == 1 else f" and {pixels}x{pixels} pixels"


def _confusion(figure: Any, place: Any, page: Page, colours: dict[str, str]) -> None:
    score = page.score
    if score is None:
        raise ValueError("a page without a score has no confusion to draw")
    confusion = score.confusion
    true = sorted(name for name in confusion if not name.startswith("("))
    named = {name for row in confusion.values() for name in row} | set(true)
    said = [*sorted(named - {"(late)", "(missed)"}), "(late)", "(missed)"]
    rows = true + [name for name in ("(debris)", "(nothing)") if name in confusion]
    counts = np.array([[confusion[row].get(column, 0) for column in said] for row in rows])
    axes = figure.add_subplot(place)
    axes.set_title("Confusion")
    if not counts.size:
        axes.text(0.5, 0.5, "nothing to show", ha="center", color=GREY)
        axes.set_axis_off()
        return
    is_class = np.arange(len(rows)) < len(true)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # debris and nothing cannot be decided rightly: no colour
    axes.imshow(shares * is_class[:, None], cmap="Blues", vmin=0, vmax=1.1, aspect="auto")
    for i, j in np.ndindex(counts.shape):
        if counts[i, j] or is_class[i]:
            axes.text(
                j, i, f"{counts[i, j]:,}\n{100 * shares[i, j]:.1f} %", ha="center", va="center",
                color="white" if is_class[i] and shares[i, j] > 0.6 else INK, linespacing=1.3,
            )  # fmt: skip
    axes.set_xticks(range(len(said)), [plain(name.strip("()")) or "no class" for name in said])
    axes.set_yticks(range(len(rows)), [plain(name.strip("()")) or "no class" for name in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("true")
    axes.set_xlabel("decided")
    low, high = (100 * bound for bound in score.interval)
    _aside(axes, f"right and in time {100 * score.correct:.1f} % ({low:.1f} to {high:.1f})")
