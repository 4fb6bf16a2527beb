"""What all charts of the report share: axes, rows of dots, names at lines, and the way to SVG text.

No scripts, no network, the same bytes for the same numbers. Ink and grid are CSS variables of the page (`--ink`,
`--line`), so that a chart follows its light or dark theme. Charts are narrow, a phone wide; the page lays several
side by side where there is room. What is drawn of one model carries its name (`data-model`), so that the page can
fade the others.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill.scoring.looks import FEW, Panel, Style, styles
from distill.scoring.rosters import Roster

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# two greys that occur nowhere else stand in the SVG until they become CSS variables
INK, LINE = "#010203", "#040506"
WIDTH = 4.4  # inches: 317 points, about a phone's width
_DOT_ROW = 0.135  # inches of height for one model in a group
_NAMED_ROW = 0.185  # the same where its name stands beside it


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


def belongs(artist: Artist, model: str) -> None:
    """Note on what is drawn that it is of `model`."""
    artist.set_gid(f"model:{model}")


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
    drawing = re.sub(r'<g id="model:([^"]*)"', r'<g data-model="\1"', drawing)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    drawing = drawing.replace("<svg ", '<svg aria-hidden="true" ', 1)
    return Chart(title, description, drawing.replace(INK, "var(--ink)").replace(LINE, "var(--line)"))


def dots(title: str, groups: Mapping[str, Mapping[str, Dot]], roster: Roster, salt: str, unit: str = "") -> list[Chart]:
    """A row for each model in each group, its value as a dot with a whisker; a model the roster lacks is in ink.

    Few models are told by colour, all groups in one chart; of many each has its name beside it, a chart for a group.
    """
    if len({name for group in groups.values() for name in group}) <= FEW + 1:
        return [_colored_dots(title, groups, roster, salt, unit)]
    ends = [end for group in groups.values() for dot in group.values() for end in (dot.low, dot.value, dot.high)]
    room = 0.04 * (max(ends) - min(ends) or 1.0)
    limits = (min(ends) - room, max(ends) + room)
    return [
        _named_dots(f"{title}, {' '.join(name.split())}", group, roster, salt, unit, limits)
        for name, group in groups.items()
        if group
    ]


def _dot(axes: Axes, place: float, model: str, dot: Dot, look: Style) -> None:
    whisker = axes.plot([dot.low, dot.high], [place, place], color=look.color, linewidth=1.4, solid_capstyle="butt")
    value = axes.plot([dot.value], [place], color=look.color, marker=look.marker, markersize=4.2, linestyle="none")
    for artist in (*whisker, *value):
        belongs(artist, model)


def _colored_dots(title: str, groups: Mapping[str, Mapping[str, Dot]], roster: Roster, salt: str, unit: str) -> Chart:
    looks = styles(roster)
    rows = sum(len(group) for group in groups.values())
    figure, axes = axes_of(height=_DOT_ROW * (rows + 1.5 * len(groups)) + 0.55)
    place, ticks = 0.0, []
    for number, group in enumerate(groups.values()):
        first = place
        for model, dot in group.items():
            _dot(axes, place, model, dot, looks.get(model, Style(INK)))
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
    spoken = [f"{name}: " + ", ".join(_spoken(group, roster)) for name, group in groups.items()]
    return to_svg(figure, title, "; ".join(spoken), salt)


def _named_dots(
    title: str, group: Mapping[str, Dot], roster: Roster, salt: str, unit: str, limits: tuple[float, float]
) -> Chart:
    looks = styles(roster)
    figure, axes = axes_of(height=_NAMED_ROW * len(group) + 0.6)
    for place, (model, dot) in enumerate(group.items()):
        _dot(axes, place, model, dot, looks.get(model, Style(INK)))
    name_rows(axes, list(group), roster)
    axes.set_xlim(*limits)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    if unit:
        axes.set_xlabel(unit, color=INK, fontsize=9)
    return to_svg(figure, title, ", ".join(_spoken(group, roster)), salt)


def name_rows(axes: Axes, models: Sequence[str], roster: Roster) -> None:
    """Write the models' names at rows 0, 1, …, from top to bottom."""
    size = 9 if len(models) <= FEW + 1 else 7.5
    axes.set_yticks(range(len(models)), [roster.label(model) for model in models], fontsize=size)
    for text, model in zip(axes.get_yticklabels(), models, strict=True):
        text.set_parse_math(False)
        belongs(text, model)
    axes.set_ylim(len(models) - 0.4, -0.6)


def _spoken(group: Mapping[str, Dot], roster: Roster) -> list[str]:
    return [f"{roster.label(model)} {dot.value:.4g}" for model, dot in group.items()]


Line = tuple[Sequence[float], Sequence[float]]


def context(axes: Axes, lines: Mapping[str, Line], panel: Panel) -> None:
    """Draw the lines of the other panels' models thin and without colour, so that all panels have one scale."""
    for model, (across, up) in lines.items():
        if model not in panel.models:
            axes.plot(across, up, color=LINE, linewidth=0.7)


def name_ends(axes: Axes, lines: Mapping[str, Line], panel: Panel, roster: Roster) -> None:
    """Write each model's name at the end of its line, on the right of the chart, no two on one another."""
    ends = {model: lines[model][1][-1] for model in panel.models if model in lines and len(lines[model][1])}
    low, high = axes.get_ylim()
    apart = (high - low) * 0.085
    places: list[float] = []
    ordered = sorted(ends, key=lambda model: ends[model])
    for number, model in enumerate(ordered):
        # as low as its neighbour below allows, and low enough to leave room for those above
        place = min(max(ends[model], low), high - apart * (len(ordered) - 1 - number))
        places.append(max(place, places[-1] + apart) if places else place)
    looks = styles(roster)
    beside = axes.get_yaxis_transform()
    for model, place in zip(ordered, places, strict=True):
        look = looks[model]
        # the name in ink beside a piece of its line: small text in a light colour is hard to read
        piece = axes.plot(
            [1.015, 1.065],
            [place, place],
            transform=beside,
            color=look.color,
            linestyle=look.dash,
            linewidth=1.6,
            clip_on=False,
        )
        text = axes.text(1.08, place, roster.label(model), transform=beside, va="center", fontsize=7.5, color=INK)
        text.set_parse_math(False)
        for artist in (*piece, text):
            belongs(artist, model)
    axes.set_ylim(low, high)
