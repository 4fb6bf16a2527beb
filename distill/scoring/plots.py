"""Charts of Rouge-L by method and of training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.project.errors import DataError
from distill.scoring.drawing import INK, LINE, Chart, axes_of, belongs, context, name_ends, name_rows, to_svg
from distill.scoring.looks import FEW, Panel, panels, styles
from distill.scoring.names import TEACHER
from distill.scoring.results import StudentTable
from distill.scoring.rosters import Roster

_POINTS_A_LINE = 300
_POINTS_BEHIND = 60  # of a line that is only background

QUANTITIES = {
    "valid_rouge_l": "Validation Rouge-L",
    "reverse_kl": "Reverse KL to the teacher (nats a token)",
    "loss": "Training loss",
    "valid_loss": "Validation loss (nats a token)",
}
"""The curves that a reader wants to see first, with their titles."""
_LAST = "learning_rate"

Curve = tuple[list[float], list[float]]


def read_curve(path: Path) -> Curve:
    """Steps and values of a curve file: a header `step<TAB>name`, then one line for each point.

    Raises: DataError naming file and line where a line is something else.
    """
    steps: list[float] = []
    values: list[float] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[1:], start=2):
        try:
            step, value = line.split("\t")
            steps.append(float(step))
            values.append(float(value))
        except ValueError:
            raise DataError(f"{path}:{number} is not `step<TAB>value`; run the stage that wrote it again") from None
    return steps, values


def read_curves(experiment: StudentTable, root: Path) -> dict[str, dict[str, Curve]]:
    """Quantity → model → curve, read from runs/<who>/<what>.curves/*.tsv; an absent folder gives none."""
    curves: dict[str, dict[str, Curve]] = {}
    for model in experiment.models:
        folder = root / "runs" / experiment.home(model) / f"{model}.curves"
        for path in sorted(folder.glob("*.tsv")):
            curves.setdefault(path.stem, {})[model] = read_curve(path)
    first = list(QUANTITIES)
    rank = {name: first.index(name) if name in first else len(first) for name in curves}
    order = sorted(curves, key=lambda name: (name == _LAST, rank[name], name))
    return {name: curves[name] for name in order}


def thin(curve: Curve, points: int = _POINTS_A_LINE) -> Curve:
    """The curve with runs of neighbouring points averaged, so that it has at most `points`."""
    steps, values = curve
    run = -(-len(steps) // points) or 1
    starts = range(0, len(steps), run)

    def averaged(series: list[float]) -> list[float]:
        return [sum(series[i : i + run]) / len(series[i : i + run]) for i in starts]

    return averaged(steps), averaged(values)


def _ends(experiment: StudentTable, metrics: Mapping[str, Any], name: str) -> list[float]:
    """Where the bar or its whisker ends, for each model."""
    scores = [metrics[model][name]["rouge_l"] for model in experiment.models]
    return [max(score["mean"], score["ci95"][1]) for score in scores]


def score_chart(experiment: StudentTable, roster: Roster, metrics: Mapping[str, Any], name: str) -> Chart:
    """Horizontal bars of Rouge-L on one evaluation set, with the 95 % interval over prompts and seeds.

    Many methods are sorted by it, below the teacher.
    """
    models = [model.name for model in roster.models]
    scores = {model: metrics[model][name]["rouge_l"] for model in models}
    if len(roster.methods) > FEW:
        models.sort(key=lambda model: (model != TEACHER, -scores[model]["mean"]))
    looks = styles(roster)
    figure, axes = axes_of(height=(0.34 if len(models) <= FEW + 1 else 0.215) * len(models) + 0.5)
    ends = dict(zip(experiment.models, _ends(experiment, metrics, name), strict=True))
    # one scale for all sets, so that the charts side by side can be compared
    room = 1.18 * max(1.0, *(end for each in experiment.sets for end in _ends(experiment, metrics, each)))
    for place, model in enumerate(models):
        mean, (low, high) = scores[model]["mean"], scores[model]["ci95"]
        # a percentile interval need not hold the mean exactly, and matplotlib refuses negative error bars
        errors = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
        error = {"ecolor": INK, "elinewidth": 1.0, "capsize": 2}
        bars = axes.barh([place], [mean], xerr=errors, color=looks[model].color, height=0.68, error_kw=error)
        number = axes.text(ends[model] + 0.015 * room, place, f"{mean:.1f}", va="center", fontsize=9, color=INK)
        whisker = bars.errorbar.lines if bars.errorbar else (None, (), ())
        for artist in (*bars.patches, *whisker[1], *whisker[2], number):
            belongs(artist, model)
    name_rows(axes, models, roster)
    axes.set_xlim(0, room)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    spoken = "; ".join(f"{roster.label(model)} {scores[model]['mean']:.1f}" for model in models)
    return to_svg(figure, f"Rouge-L on {experiment.set_name(name)}", spoken, experiment.student)


def _curve_panel(
    experiment: StudentTable, roster: Roster, title: str, curves: Mapping[str, Curve], panel: Panel
) -> Chart:
    looks = styles(roster)
    figure, axes = axes_of(height=2.5)
    ends = []
    context(axes, {model: thin(curve, _POINTS_BEHIND) for model, curve in curves.items()}, panel)
    lines = {model: thin(curves[model]) for model in panel.models}
    for model, (steps, values) in lines.items():
        few = len(steps) <= _POINTS_A_LINE // 10
        look = looks[model]
        marker = look.marker if few else None
        drawn = axes.plot(
            steps, values, color=look.color, linestyle=look.dash, linewidth=1.6, marker=marker, markersize=3
        )
        belongs(drawn[0], model)
        if values:
            ends.append(f"{roster.label(model)} {values[-1]:.4g} after {steps[-1]:.0f} steps")
    axes.set_xlabel("step", color=INK, fontsize=9)
    axes.grid(color=LINE, linewidth=0.6)
    if panel.title:
        name_ends(axes, lines, panel, roster)
    whole = f"{title}: {panel.title}" if panel.title else title
    return to_svg(figure, whole, "At the end: " + "; ".join(ends), experiment.student)


def curve_chart(experiment: StudentTable, roster: Roster, quantity: str, curves: Mapping[str, Curve]) -> list[Chart]:
    """One quantity over training steps, a line for each model that has it; of many models several panels."""
    title = QUANTITIES.get(quantity, quantity.replace("_", " ").capitalize())
    return [_curve_panel(experiment, roster, title, curves, panel) for panel in panels(roster, list(curves))]


def score_charts(experiment: StudentTable, roster: Roster, metrics: Mapping[str, Any]) -> list[Chart]:
    """One bar chart for each evaluation set."""
    return [score_chart(experiment, roster, metrics, name) for name in experiment.sets]


def curve_charts(
    experiment: StudentTable, roster: Roster, curves: Mapping[str, Mapping[str, Curve]]
) -> Sequence[Chart]:
    """The line charts of each quantity that any model recorded."""
    return [
        chart for quantity, by_model in curves.items() for chart in curve_chart(experiment, roster, quantity, by_model)
    ]
