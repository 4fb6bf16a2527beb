"""Charts of the analyses: exposure bias, divergences, calibration, loss, diversity, lengths, repetition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distill.scoring.drawing import INK, LINE, Chart, Dot, axes_of, colors, dots, to_svg
from distill.scoring.names import EXPOSURE, KL, label
from distill.scoring.results import StudentTable

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


def exposure_chart(experiment: StudentTable, summary: Summary) -> Chart:
    """ExAccErr(l) over the length l, with its 95 % interval over prompts."""
    palette = colors(experiment.methods)
    figure, axes = axes_of(height=2.7)
    ends = []
    for method, found in summary[EXPOSURE]["models"].items():
        curve = found["curve"]
        lengths = range(1, len(curve["error"]) + 1)
        axes.fill_between(lengths, curve["low"], curve["high"], color=palette[method], alpha=0.14, linewidth=0)
        axes.plot(lengths, curve["error"], color=palette[method], linewidth=1.6)
        ends.append(f"{label(method)} {found['error']['mean']:.1f}")
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("response length l, tokens", color=INK, fontsize=9)
    axes.grid(color=LINE, linewidth=0.6)
    return to_svg(figure, "Excess accumulated error (%)", "At the end: " + "; ".join(ends), experiment.student)


def divergence_chart(experiment: StudentTable, summary: Summary) -> Chart:
    """Reverse and forward KL on both kinds of samples."""
    metrics = summary["metrics"]
    groups = {
        shown: {model: with_interval(metrics[model][KL][name]) for model in experiment.methods if KL in metrics[model]}
        for name, shown in _KL_NAMES.items()
    }
    palette = colors(experiment.methods)
    return dots("Divergence from the teacher", groups, palette, experiment.student, "nats a token")


def reliability_chart(experiment: StudentTable, summary: Summary, name: str) -> Chart:
    """Share of right answers over confidence on one labelled set; on the diagonal a model is as right as it is sure."""
    palette = colors(experiment.methods)
    figure, axes = axes_of(height=3.2)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    models = summary["calibration"][name]["models"]
    least = 1.0
    for model in experiment.models:
        bins = models[model]["reliability"]
        examples = sum(each["count"] for each in bins)
        confidence = [each["confidence"] for each in bins]
        accuracy = [each["accuracy"] for each in bins]
        least = min(least, *confidence)
        axes.plot(confidence, accuracy, color=palette[model], linewidth=1.2, alpha=0.75)
        sizes = [6 + 90 * each["count"] / examples for each in bins]
        axes.scatter(confidence, accuracy, s=sizes, color=palette[model], linewidths=0)
    axes.set_xlim(max(0.0, least - 0.05), 1.02)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("confidence", color=INK, fontsize=9)
    axes.set_ylabel("share of right answers", color=INK, fontsize=9)
    axes.grid(color=LINE, linewidth=0.6)
    spoken = "; ".join(f"{label(m)} error {models[m]['ece']['mean']:.1f}" for m in experiment.models)
    return to_svg(figure, f"Reliability on {name}", spoken, experiment.student)


def set_chart(
    experiment: StudentTable, title: str, unit: str, dot: Callable[[str, str], Dot | None], salt: str = ""
) -> Chart:
    """A group for each evaluation set; `dot` gives the value of (model, set), None where there is none."""
    groups: dict[str, dict[str, Dot]] = {}
    for name in experiment.sets:
        found = {model: dot(model, name) for model in (REFERENCE, *experiment.models)}
        groups[name] = {model: value for model, value in found.items() if value is not None}
    return dots(title, groups, colors(experiment.methods), experiment.student + salt, unit)


def metric_chart(experiment: StudentTable, summary: Summary, metric: str, title: str, unit: str) -> Chart:
    """One metric of results/<student>.json on every evaluation set."""
    metrics = summary["metrics"]

    def dot(model: str, name: str) -> Dot | None:
        entry = metrics.get(model, {}).get(name, {}).get(metric)
        return with_interval(entry) if entry else None

    return set_chart(experiment, title, unit, dot)


def length_chart(experiment: StudentTable, summary: Summary) -> Chart:
    """Response lengths beside the references': the median, and from the tenth to the ninetieth percentile."""
    lengths = summary["lengths"]

    def dot(model: str, name: str) -> Dot | None:
        found = lengths[name]
        entry = found["references"] if model == REFERENCE else found["models"][model]["response_tokens"]
        return Dot(entry["p50"], entry["p10"], entry["p90"])

    return set_chart(experiment, "Response length", "tokens: median, 10 % to 90 %; references on top", dot)


def bucket_chart(experiment: StudentTable, summary: Summary, name: str) -> Chart:
    """Rouge-L on one evaluation set by the length of the reference in tokens."""
    found = summary["lengths"][name]
    groups = {
        f"{bucket}\n({count})": {
            model: with_interval(found["models"][model]["rouge_l"][bucket]) for model in experiment.models
        }
        for bucket, count in found["references"]["examples"].items()
    }
    title = f"Rouge-L by reference length, {name}"
    return dots(title, groups, colors(experiment.methods), experiment.student, "Rouge-L; rows: tokens (prompts)")


def charts(experiment: StudentTable, summary: Summary) -> dict[str, list[Chart]]:
    """The charts of each analysis, by the name of the page's section."""
    metrics = summary["metrics"]
    return {
        "exposure": [exposure_chart(experiment, summary)] if experiment.methods else [],
        "divergence": [divergence_chart(experiment, summary)] if experiment.methods else [],
        "calibration": [reliability_chart(experiment, summary, name) for name in summary["calibration"]],
        "diversity": [
            metric_chart(experiment, summary, "loss", "Loss on the references", "nats a token"),
            *(
                metric_chart(experiment, summary, metric, title, "%")
                for metric, title in (("distinct_4", "Distinct 4-grams"), ("repeated_4", "Repeated 4-grams"))
                if any(metric in metrics[m][name] for m in experiment.models for name in experiment.sets)
            ),
        ],
        "lengths": [
            length_chart(experiment, summary),
            *(bucket_chart(experiment, summary, name) for name in experiment.sets),
        ],
    }
