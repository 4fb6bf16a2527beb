"""What all charts of the report share: axes, colours, and the way to SVG text.

No scripts, no network, the same bytes for the same numbers. Ink and grid are CSS variables of the page (`--ink`,
`--line`), so that a chart follows its light or dark theme. Charts are narrow, a phone wide; the page lays several
side by side where there is room.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill.scoring.names import TEACHER, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers, seen on white as on black; grey is the teacher
_TEACHER_COLOR = "#8a8a8a"
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b0a000", "#7a5cd6")
# two greys that occur nowhere else stand in the SVG until they become CSS variables
INK, LINE = "#010203", "#040506"
WIDTH = 4.4  # inches: 317 points, about a phone's width
_DOT_ROW = 0.135  # inches of height for one model in a group


@dataclass(frozen=True)
class Chart:
    """One drawing: its title, what a screen reader says, and the `<svg>` element."""

    title: str
    description: str
    svg: str


@dataclass(frozen=True)
class Dot:
    """A value with the ends of its whisker."""

    value: float
    low: float
    high: float


def colors(methods: Sequence[str]) -> dict[str, str]:
    """The colour of each model, the same in every chart."""
    return {TEACHER: _TEACHER_COLOR, **{m: _COLORS[i % len(_COLORS)] for i, m in enumerate(methods)}}


def axes_of(height: float) -> tuple[Figure, Axes]:
    """An empty chart of the page's width and `height` inches."""
    # Figure itself, not pyplot: no global state, no windowing system
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.set_axisbelow(True)
    return figure, axes


def to_svg(figure: Figure, title: str, description: str, salt: str) -> Chart:
    """The finished chart; `salt` must differ between the charts of one page."""
    import matplotlib

    stream = io.StringIO()
    # the salt makes ids repeat from run to run, and differ between the charts of one page
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt + title}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = stream.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", drawing, flags=re.DOTALL)
    # sized by the page; group ids (axes_1, …) would occur once in every chart
    drawing = re.sub(r'^(<svg[^>]*?) width="[^"]*"', r"\1", drawing)
    drawing = re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", drawing)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    drawing = drawing.replace("<svg ", '<svg aria-hidden="true" ', 1)
    return Chart(title, description, drawing.replace(INK, "var(--ink)").replace(LINE, "var(--line)"))


def dots(
    title: str, groups: Mapping[str, Mapping[str, Dot]], palette: Mapping[str, str], salt: str, unit: str = ""
) -> Chart:
    """A row for each model in each group, its value as a dot with a whisker; a model without a colour is in ink."""
    rows = sum(len(group) for group in groups.values())
    figure, axes = axes_of(height=_DOT_ROW * (rows + 1.5 * len(groups)) + 0.55)
    place, ticks = 0.0, []
    for number, group in enumerate(groups.values()):
        first = place
        for model, dot in group.items():
            color = palette.get(model, INK)
            axes.plot([dot.low, dot.high], [place, place], color=color, linewidth=1.4, solid_capstyle="butt")
            axes.plot([dot.value], [place], color=color, marker="o", markersize=4.2, linestyle="none")
            place += 1
        ticks.append((first + place - 1) / 2)
        if number < len(groups) - 1:
            axes.axhline(place + 0.25, color=LINE, linewidth=0.6)
        place += 1.5
    axes.set_yticks(ticks, list(groups))
    axes.set_ylim(place - 1, -1)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    if unit:
        axes.set_xlabel(unit, color=INK, fontsize=9)
    spoken = [
        f"{name}: " + ", ".join(f"{label(m)} {dot.value:.4g}" for m, dot in g.items()) for name, g in groups.items()
    ]
    return to_svg(figure, title, "; ".join(spoken), salt)
