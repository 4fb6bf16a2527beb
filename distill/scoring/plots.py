"""Charts of Rouge-L by method and of training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.project.errors import DataError
from distill.scoring.drawing import INK, LINE, Chart, axes_of, colors, to_svg
from distill.scoring.names import label
from distill.scoring.results import StudentTable

_POINTS_A_LINE = 300

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


def score_chart(experiment: StudentTable, metrics: Mapping[str, Any], name: str) -> Chart:
    """Horizontal bars of Rouge-L on one evaluation set, with the 95 % interval over prompts and seeds."""
    models = experiment.models
    scores = [metrics[model][name]["rouge_l"] for model in models]
    means = [score["mean"] for score in scores]
    # a percentile interval need not hold the mean exactly, and matplotlib refuses negative error bars
    lows = [max(0.0, mean - score["ci95"][0]) for mean, score in zip(means, scores, strict=True)]
    highs = [max(0.0, score["ci95"][1] - mean) for mean, score in zip(means, scores, strict=True)]
    palette = colors(experiment.methods)
    figure, axes = axes_of(height=0.34 * len(models) + 0.5)
    places = range(len(models))
    axes.barh(
        places,
        means,
        xerr=[lows, highs],
        color=[palette[model] for model in models],
        height=0.68,
        error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2},
    )
    # one scale for all sets, so that the charts side by side can be compared
    room = 1.18 * max(1.0, *(end for each in experiment.sets for end in _ends(experiment, metrics, each)))
    for place, mean, end in zip(places, means, _ends(experiment, metrics, name), strict=True):
        axes.text(end + 0.015 * room, place, f"{mean:.1f}", va="center", fontsize=9, color=INK)
    axes.set_yticks(places, [label(model) for model in models])
    axes.invert_yaxis()
    axes.set_xlim(0, room)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    spoken = "; ".join(f"{label(model)} {mean:.1f}" for model, mean in zip(models, means, strict=True))
    return to_svg(figure, f"Rouge-L on {name}", spoken, experiment.student)


def curve_chart(experiment: StudentTable, quantity: str, curves: Mapping[str, Curve]) -> Chart:
    """One quantity over training steps, a line for each model that has it."""
    palette = colors(experiment.methods)
    figure, axes = axes_of(height=2.5)
    ends = []
    for model, curve in curves.items():
        steps, values = thin(curve)
        few = len(steps) <= _POINTS_A_LINE // 10
        axes.plot(steps, values, color=palette[model], linewidth=1.6, marker="o" if few else None, markersize=3)
        if values:
            ends.append(f"{label(model)} {values[-1]:.4g} after {steps[-1]:.0f} steps")
    axes.set_xlabel("step", color=INK, fontsize=9)
    axes.grid(color=LINE, linewidth=0.6)
    title = QUANTITIES.get(quantity, quantity.replace("_", " ").capitalize())
    return to_svg(figure, title, "At the end: " + "; ".join(ends), experiment.student)


def score_charts(experiment: StudentTable, metrics: Mapping[str, Any]) -> list[Chart]:
    """One bar chart for each evaluation set."""
    return [score_chart(experiment, metrics, name) for name in experiment.sets]


def curve_charts(experiment: StudentTable, curves: Mapping[str, Mapping[str, Curve]]) -> Sequence[Chart]:
    """One line chart for each quantity that any model recorded."""
    return [curve_chart(experiment, quantity, by_model) for quantity, by_model in curves.items()]
