"""How models look in every chart of the report: colour, dash, marker; and which of many share a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distill.scoring.names import TEACHER
from distill.scoring.rosters import GROUPS, Roster

FEW = 8
"""As many lines or colours as one chart holds; where there are more methods, they are split or named one by one."""

_TEACHER_COLOR = "#8a8a8a"
# Okabe and Ito's palette: told apart by colour-blind readers, seen on white as on black; grey is the teacher
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b0a000", "#7a5cd6")
# a hue for each origin of training tokens, in shades that are all seen on white as on black
_SHADES = dict(
    zip(
        GROUPS,
        (
            ("#2a78c2", "#7fb4ea", "#4a5fd0", "#2fa3b8"),
            ("#d07a00", "#f0b440", "#a8662a", "#bfa400"),
            ("#1f8f50", "#7cc77a", "#6a8f1a", "#16a596"),
            ("#d03a4e", "#f08aa4", "#9a52cc", "#d45fc0"),
        ),
        strict=True,
    )
)
_DASHES = ("solid", "dashed", "dotted")
_MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True)
class Style:
    """How a model looks in every chart."""

    color: str
    dash: str = "solid"
    """A line style of matplotlib and of CSS."""
    marker: str = "o"


@dataclass(frozen=True)
class Panel:
    """The models that one chart has in colour."""

    title: str
    """What sets it apart from the other panels of the same chart; empty if it is the only one."""
    models: tuple[str, ...]


def styles(roster: Roster) -> dict[str, Style]:
    """The look of each model: a hue for the origin of its training tokens; shade, dash and marker within it.

    Where nothing says what any model learns from, each has a hue of its own as long as they last.
    """
    looks = {TEACHER: Style(_TEACHER_COLOR)}
    for _, group in roster.groups:
        shades = _SHADES.get(group[0].tokens, _COLORS)
        for place, model in enumerate(group):
            # neighbours differ in dash too where a shade of one hue must tell them apart
            turn = place // len(shades) if shades is _COLORS else place
            looks[model.name] = Style(
                shades[place % len(shades)], _DASHES[turn % len(_DASHES)], _MARKERS[turn % len(_MARKERS)]
            )
    return looks


def panels(roster: Roster, drawn: Sequence[str]) -> list[Panel]:
    """The models in `drawn` as one panel if they are few, else a panel for each group, the teacher in all of them."""
    teacher = tuple(name for name in drawn if name == TEACHER)
    if len(drawn) - len(teacher) <= FEW:
        return [Panel("", tuple(model.name for model in roster.models if model.name in drawn))]
    found = []
    for title, group in roster.groups:
        names = [model.name for model in group if model.name in drawn]
        parts = -(-len(names) // FEW)
        for part in range(parts):
            own = names[part * len(names) // parts : (part + 1) * len(names) // parts]
            suffix = f"{part + 1} of {parts}" if parts > 1 else ""
            found.append(Panel(", ".join(each for each in (_in_a_title(title), suffix) if each), (*teacher, *own)))
    return found


def _in_a_title(heading: str) -> str:
    return heading[:1].lower() + heading[1:]
