"""MiniLLM against every other model, in words, and whether that is what the paper saw.

Every comparison is paired, on the same prompts; its verdict is MiniLLM's. The paper's directions are those of its
Tables 1 to 3 and Figure 6; it gives no intervals of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distill.scoring.names import CALIBRATION, EXPOSURE, KL, LOSS, REFERENCE_METHOD, label
from distill.scoring.results import StudentTable
from distill.scoring.tables import Cell, ResultTable, TableRow

_BASELINES = ("sft", "kd", "seqkd")

Comparisons = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Measure:
    """One thing that was compared."""

    name: str
    comparisons: Comparisons
    """Other model → comparison of MiniLLM with it."""
    claimed: tuple[str, ...] = ()
    """The baselines that MiniLLM is better than in the paper."""
    digits: int = 1
    """Digits after the point that differences are shown with."""


def measures(experiment: StudentTable, verdicts: Mapping[str, Any]) -> Iterator[Measure]:
    """Everything that results/<student>.significance.json compares, buckets of reference length left out."""
    against = verdicts.get(REFERENCE_METHOD, {})

    def found(*path: str) -> Comparisons:
        picked = {}
        for model, content in against.items():
            for step in path:
                content = content.get(step, {})
            if "verdict" in content:
                picked[model] = content
        return picked

    for name in experiment.sets:
        yield Measure(f"Rouge-L, {name}", found(name), _BASELINES)
    yield Measure("Reverse KL, own samples", found(KL, "reverse_kl"), _BASELINES, 3)
    yield Measure("Forward KL, teacher's samples", found(KL, "forward_kl"), digits=3)
    yield Measure("Excess accumulated error, %", found(EXPOSURE, "error"), _BASELINES)
    yield Measure("Excess error a token, %", found(EXPOSURE, "error_a_token"))
    sets = dict.fromkeys(name for content in against.values() for name in content.get(CALIBRATION, {}))
    for name in sets:
        yield Measure(f"Accuracy, {name}", found(CALIBRATION, name, "accuracy"), ("kd", "seqkd"))
        yield Measure(f"Calibration error, {name}", found(CALIBRATION, name, "ece"), ("kd", "seqkd"))
    for name in experiment.sets:
        yield Measure(f"Loss on references, {name}", found(LOSS, name), digits=3)


def build(experiment: StudentTable, verdicts: Mapping[str, Any]) -> ResultTable | None:
    """The verdicts as a table, a row for each measure and a column for each other model; None if none was made."""
    others = [model for model in experiment.models if model in verdicts.get(REFERENCE_METHOD, {})]
    rows = [
        TableRow(measure.name, tuple(_cell(measure, model) for model in others))
        for measure in measures(experiment, verdicts)
        if measure.comparisons
    ]
    if not rows:
        return None
    return ResultTable(
        title=f"{label(REFERENCE_METHOD)} against",
        columns=tuple(label(model) for model in others),
        rows=tuple(rows),
        notes=(
            "Verdicts on MiniLLM, with the difference and its 95 % interval: paired bootstrap over prompts, and a "
            "permutation test that must agree. They speak of other prompts and samples, not of other training runs.",
            "✓ as in the paper, ✗ the other way round; no mark where the paper claims nothing or nothing is settled.",
        ),
    )


def _cell(measure: Measure, model: str) -> Cell:
    compared = measure.comparisons.get(model)
    if compared is None:
        return Cell("–")
    difference, low, high = (
        f"{value:+.{measure.digits}f}".replace("-", "−") for value in (compared["difference"], *compared["ci95"])
    )
    return Cell(
        compared["verdict"],
        detail=f"{difference} [{low}, {high}]",
        sign=_mark(measure, model, compared["verdict"]),
        tone={"better": "good", "worse": "bad"}.get(compared["verdict"], ""),
    )


def _mark(measure: Measure, model: str, verdict: str) -> str:
    return {"better": "✓", "worse": "✗"}.get(verdict, "") if model in measure.claimed else ""


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def directions(experiment: StudentTable, verdicts: Mapping[str, Any]) -> list[str]:
    """A sentence for each direction of the paper: against which baselines it holds here."""
    sentences = []
    for measure in measures(experiment, verdicts):
        by_verdict: dict[str, list[str]] = {}
        for model in measure.claimed:
            if model in measure.comparisons:
                by_verdict.setdefault(measure.comparisons[model]["verdict"], []).append(label(model))
        told = [
            f"{words} {_listed(by_verdict[verdict])}"
            for verdict, words in (
                ("better", "holds against"),
                ("not distinguishable", "is not settled against"),
                ("worse", "is reversed against"),
            )
            if verdict in by_verdict
        ]
        if told:
            sentences.append(f"{measure.name}: the paper's direction {', '.join(told)}.")
    return sentences
