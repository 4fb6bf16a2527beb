"""Charts of the analyses: exposure bias, divergences, calibration, loss, diversity, lengths, repetition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distill.scoring.drawing import INK, LINE, Chart, Dot, axes_of, belongs, context, dots, name_ends, to_svg
from distill.scoring.looks import Panel, panels, styles
from distill.scoring.names import EXPOSURE, KL
from distill.scoring.results import StudentTable
from distill.scoring.rosters import Roster

REFERENCE = "reference"

_KL_NAMES = {
    "reverse_kl": "reverse,\nown\nsamples",
    "forward_kl": "forward,\nteacher's\nsamples",
    "reverse_kl_on_teacher_samples": "reverse,\nteacher's\nsamples",
    "forward_kl_on_own_samples": "forward,\nown\nsamples",
}

Summary = Mapping[str, Any]
"""The content of analyses/<student>/summary.json."""


def with_interval(entry: Mapping[str, Any]) -> Dot:
    """A mean and its 95 % interval; without one its standard deviation; without that the mean alone."""
    mean, spread = float(entry["mean"]), float(entry.get("std", 0.0))
    low, high = entry.get("ci95", (mean - spread, mean + spread))
    return Dot(mean, float(low), float(high))


def exposure_charts(experiment: StudentTable, roster: Roster, summary: Summary) -> list[Chart]:
    """ExAccErr(l) over the length l, with its 95 % interval over prompts; of many methods several panels."""
    models = summary[EXPOSURE]["models"]
    lines = {
        model: (range(1, len(models[model]["curve"]["error"]) + 1), models[model]["curve"]["error"]) for model in models
    }
    return [_exposure_panel(experiment, roster, models, lines, panel) for panel in panels(roster, list(models))]


def _exposure_panel(
    experiment: StudentTable, roster: Roster, models: Mapping[str, Any], lines: Mapping[str, Any], panel: Panel
) -> Chart:
    looks = styles(roster)
    figure, axes = axes_of(height=2.7)
    ends = []
    # many bands over one another must not hide their lines
    alpha = min(0.14, 0.4 / max(1, len(panel.models)))
    context(axes, lines, panel)
    for method in panel.models:
        lengths, errors = lines[method]
        curve, look = models[method]["curve"], looks[method]
        band = axes.fill_between(lengths, curve["low"], curve["high"], color=look.color, alpha=alpha, linewidth=0)
        drawn = axes.plot(lengths, errors, color=look.color, linestyle=look.dash, linewidth=1.6)
        for artist in (band, drawn[0]):
            belongs(artist, method)
        ends.append(f"{roster.label(method)} {models[method]['error']['mean']:.1f}")
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("response length l, tokens", color=INK, fontsize=9)
    axes.grid(color=LINE, linewidth=0.6)
    title = "Excess accumulated error (%)"
    if panel.title:
        # panels are read side by side: one scale, that of all intervals
        bounds = [bound for found in models.values() for part in ("low", "high") for bound in found["curve"][part]]
        axes.set_ylim(min(bounds), max(bounds))
        name_ends(axes, lines, panel, roster)
        title = f"{title}: {panel.title}"
    return to_svg(figure, title, "At the end: " + "; ".join(ends), experiment.student)


def divergence_charts(experiment: StudentTable, roster: Roster, summary: Summary) -> list[Chart]:
    """Reverse and forward KL on both kinds of samples."""
    metrics = summary["metrics"]
    groups = {
        shown: {
            model.name: with_interval(metrics[model.name][KL][name])
            for model in roster.methods
            if KL in metrics[model.name]
        }
        for name, shown in _KL_NAMES.items()
    }
    return dots("Divergence from the teacher", groups, roster, experiment.student, "nats a token")


def reliability_charts(experiment: StudentTable, roster: Roster, summary: Summary, name: str) -> list[Chart]:
    """Share of right answers over confidence on one labelled set; on the diagonal a model is as right as it is sure."""
    models = summary["calibration"][name]["models"]
    lines = {
        model: (
            [each["confidence"] for each in found["reliability"]],
            [each["accuracy"] for each in found["reliability"]],
        )
        for model, found in models.items()
    }
    return [
        _reliability_panel(experiment, roster, models, lines, name, panel)
        for panel in panels(roster, list(experiment.models))
    ]


def _reliability_panel(
    experiment: StudentTable,
    roster: Roster,
    models: Mapping[str, Any],
    lines: Mapping[str, Any],
    name: str,
    panel: Panel,
) -> Chart:
    looks = styles(roster)
    figure, axes = axes_of(height=3.2)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    context(axes, lines, panel)
    for model in panel.models:
        bins, look = models[model]["reliability"], looks[model]
        examples = sum(each["count"] for each in bins)
        confidence, accuracy = lines[model]
        drawn = axes.plot(confidence, accuracy, color=look.color, linestyle=look.dash, linewidth=1.2, alpha=0.75)
        sizes = [6 + 90 * each["count"] / examples for each in bins]
        found = axes.scatter(confidence, accuracy, s=sizes, color=look.color, marker=look.marker, linewidths=0)
        for artist in (drawn[0], found):
            belongs(artist, model)
    least = min(1.0, *(value for confidence, _ in lines.values() for value in confidence))
    axes.set_xlim(max(0.0, least - 0.05), 1.02)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("confidence", color=INK, fontsize=9)
    axes.set_ylabel("share of right answers", color=INK, fontsize=9)
    axes.grid(color=LINE, linewidth=0.6)
    title = f"Reliability on {name}"
    if panel.title:
        name_ends(axes, lines, panel, roster)
        title = f"{title}: {panel.title}"
    spoken = "; ".join(f"{roster.label(m)} error {models[m]['ece']['mean']:.1f}" for m in panel.models)
    return to_svg(figure, title, spoken, experiment.student)


def set_charts(
    experiment: StudentTable, roster: Roster, title: str, unit: str, dot: Callable[[str, str], Dot | None]
) -> list[Chart]:
    """A group for each evaluation set; `dot` gives the value of (model, set), None where there is none."""
    groups: dict[str, dict[str, Dot]] = {}
    for name in experiment.sets:
        found = {model: dot(model, name) for model in (REFERENCE, *(model.name for model in roster.models))}
        groups[name] = {model: value for model, value in found.items() if value is not None}
    return dots(title, groups, roster, experiment.student, unit)


def metric_charts(
    experiment: StudentTable, roster: Roster, summary: Summary, metric: str, title: str, unit: str
) -> list[Chart]:
    """One metric of results/<student>.json on every evaluation set."""
    metrics = summary["metrics"]

    def dot(model: str, name: str) -> Dot | None:
        entry = metrics.get(model, {}).get(name, {}).get(metric)
        return with_interval(entry) if entry else None

    return set_charts(experiment, roster, title, unit, dot)


def length_charts(experiment: StudentTable, roster: Roster, summary: Summary) -> list[Chart]:
    """Response lengths beside the references': the median, and from the tenth to the ninetieth percentile."""
    lengths = summary["lengths"]

    def dot(model: str, name: str) -> Dot | None:
        found = lengths[name]
        entry = found["references"] if model == REFERENCE else found["models"][model]["response_tokens"]
        return Dot(entry["p50"], entry["p10"], entry["p90"])

    unit = "tokens: median, 10 % to 90 %; references on top"
    return set_charts(experiment, roster, "Response length", unit, dot)


def bucket_charts(experiment: StudentTable, roster: Roster, summary: Summary, name: str) -> list[Chart]:
    """Rouge-L on one evaluation set by the length of the reference in tokens."""
    found = summary["lengths"][name]
    groups = {
        f"{bucket}\n({count})": {
            model.name: with_interval(found["models"][model.name]["rouge_l"][bucket]) for model in roster.models
        }
        for bucket, count in found["references"]["examples"].items()
    }
    title = f"Rouge-L by reference length, {experiment.set_name(name)}"
    return dots(title, groups, roster, experiment.student, "Rouge-L; by tokens of the reference (prompts)")


def charts(experiment: StudentTable, roster: Roster, summary: Summary) -> dict[str, list[Chart]]:
    """The charts of each analysis, by the name of the page's section."""
    metrics = summary["metrics"]
    shown = {"loss": ("Loss on the references", "nats a token")}
    for metric, title in (("distinct_4", "Distinct 4-grams"), ("repeated_4", "Repeated 4-grams")):
        if any(metric in metrics[m][name] for m in experiment.models for name in experiment.sets):
            shown[metric] = (title, "%")
    return {
        "exposure": exposure_charts(experiment, roster, summary) if experiment.methods else [],
        "divergence": divergence_charts(experiment, roster, summary) if experiment.methods else [],
        "calibration": [
            chart for name in summary["calibration"] for chart in reliability_charts(experiment, roster, summary, name)
        ],
        "diversity": [
            chart
            for metric, (title, unit) in shown.items()
            for chart in metric_charts(experiment, roster, summary, metric, title, unit)
        ],
        "lengths": [
            *length_charts(experiment, roster, summary),
            *(chart for name in experiment.sets for chart in bucket_charts(experiment, roster, summary, name)),
        ],
    }
