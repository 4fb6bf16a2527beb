"""Every model against one that a reader picks, as tables and in words, and whether that is what the paper saw.

Comparisons are paired, on the same prompts. An entry of `significance` speaks of the picked model, the reference,
minus the other; a table has the other as its row, so there the entry is turned round. The paper's directions are
those of its Tables 1 to 3 and Figure 6, of MiniLLM against three baselines; it gives no intervals of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distill.scoring.names import CALIBRATION, EXPOSURE, KL, LOSS, REFERENCE_METHOD
from distill.scoring.results import StudentTable
from distill.scoring.rosters import Roster
from distill.scoring.tables import SIGNS, Cell, ResultTable, TableRow, rare_signs, turned
from distill.scoring.trust import BOTH_GUESS

_BASELINES = ("sft", "kd", "seqkd")

Comparisons = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Measure:
    """One thing that was compared."""

    part: str
    """The table it stands in."""
    name: str
    comparisons: Comparisons
    """Other model → comparison of the reference with it."""
    claimed: tuple[str, ...] = ()
    """The baselines that MiniLLM is better than in the paper."""
    digits: int = 1
    """Digits after the point that differences are shown with."""
    lower: bool = True
    """Lower is better."""

    @property
    def column(self) -> str:
        """Its heading, with an arrow towards what is better."""
        return f"{self.name} {'↓' if self.lower else '↑'}"


def measures(experiment: StudentTable, significance: Mapping[str, Any], reference: str) -> Iterator[Measure]:
    """Everything that is compared with one reference, buckets of reference length left out."""
    against = significance.get(reference, {})

    def found(*path: str) -> Comparisons:
        picked = {}
        for model, content in against.items():
            for step in path:
                content = content.get(step, {})
            if "verdict" in content:
                picked[model] = content
        return picked

    for name in experiment.sets:
        yield Measure("Rouge-L", experiment.set_name(name), found(name), _BASELINES, lower=False)
    part = "Divergence and exposure bias"
    yield Measure(part, "Reverse KL, own samples", found(KL, "reverse_kl"), _BASELINES, 3)
    yield Measure(part, "Forward KL, teacher's samples", found(KL, "forward_kl"), digits=3)
    yield Measure(part, "Excess accumulated error, %", found(EXPOSURE, "error"), _BASELINES)
    yield Measure(part, "Excess error as released, %", found(EXPOSURE, "error_as_released"), _BASELINES)
    yield Measure(part, "Excess error a token, %", found(EXPOSURE, "error_a_token"))
    contents = [content for each in significance.values() for content in each.values()]
    sets = dict.fromkeys(name for content in contents for name in content.get(CALIBRATION, {}))
    for name in sets:
        claimed = ("kd", "seqkd")
        yield Measure("Calibration", f"Accuracy, {name}", found(CALIBRATION, name, "accuracy"), claimed, lower=False)
        yield Measure("Calibration", f"Calibration error, {name}", found(CALIBRATION, name, "ece"), claimed)
    for name in experiment.sets:
        yield Measure("Loss on the references", name, found(LOSS, name), digits=3)


def build(
    experiment: StudentTable, roster: Roster, significance: Mapping[str, Any], reference: str
) -> list[ResultTable]:
    """A table for each kind of measure: a row for each model, a column for each measure.

    Differences are the row's model minus the reference. Every reference has the same tables and columns, those with
    a comparison of any two models; there are none where nothing was compared.
    """
    columns = dict.fromkeys(
        (measure.part, measure.name)
        for each in significance
        for measure in measures(experiment, significance, each)
        if measure.comparisons
    )
    parts: dict[str, list[Measure]] = {}
    for measure in measures(experiment, significance, reference):
        if (measure.part, measure.name) in columns:
            parts.setdefault(measure.part, []).append(measure)
    return [_table(part, own, roster, reference) for part, own in parts.items()]


_NOTES = (
    "Each model minus the one that it is compared with, and the 95 % interval of the difference: ▲ better, ▼ worse, "
    "≈ not distinguishable, by a paired bootstrap over prompts and a permutation test that must agree. They speak "
    "of other prompts and samples, not of other training runs. ↑ higher is better, ↓ lower is better.",
    "✓ as in the paper, ✗ the other way round; no mark where the paper claims nothing or nothing is settled.",
)


def notes(significance: Mapping[str, Any]) -> tuple[str, ...]:
    """What stands below the tables of `build`."""
    rare = rare_signs(entries(significance))
    return _NOTES if rare == "." else (*_NOTES, rare.removeprefix(", "))


def entries(content: Any) -> Iterator[Mapping[str, Any]]:
    """Every comparison in `significance`, however deep it stands."""
    if isinstance(content, Mapping):
        if "verdict" in content:
            yield content
        for inner in content.values():
            yield from entries(inner)


def _table(part: str, own: list[Measure], roster: Roster, reference: str) -> ResultTable:
    rows = []
    for model in roster.models:
        if model.name == reference:
            cells = [Cell("compared with"), *(Cell("") for _ in own)]
        else:
            found = [measure.comparisons.get(model.name) for measure in own]
            cells = [
                _summary([turned(each["verdict"]) for each in found if each]),
                *(_cell(measure, model.name, reference) for measure in own),
            ]
        rows.append(TableRow(model.label, tuple(cells), section=roster.section(model.name), model=model.name))
    return ResultTable(part, ("verdict", *(measure.column for measure in own)), tuple(rows), ())


def _summary(verdicts: list[str]) -> Cell:
    counts = Counter(verdicts)
    return Cell(", ".join(f"{counts[each]} {each}" for each in SIGNS if counts[each]) or "–")


def _cell(measure: Measure, model: str, reference: str) -> Cell:
    compared = measure.comparisons.get(model)
    if compared is None:
        return Cell("–")
    # turned round: the entry is the reference minus this model
    low, high = (-bound for bound in reversed(compared["ci95"]))
    difference, low, high = (
        # adding 0 makes a negative zero positive
        f"{round(value, measure.digits) + 0.0:+.{measure.digits}f}".replace("-", "−")
        for value in (-compared["difference"], low, high)
    )
    verdict = turned(compared["verdict"])
    return Cell(
        difference,
        detail=f"[{low}, {high}]",
        sign=SIGNS[verdict],
        mark=_mark(measure, model, reference, verdict),
        tone={"better": "good", "worse": "bad"}.get(verdict, ""),
    )


def _mark(measure: Measure, model: str, reference: str, verdict: str) -> str:
    """Whether the verdict on `model` is the paper's, where the two are MiniLLM and one of its baselines."""
    if reference == REFERENCE_METHOD and model in measure.claimed:
        return {"worse": "✓", "better": "✗"}.get(verdict, "")
    if model == REFERENCE_METHOD and reference in measure.claimed:
        return {"better": "✓", "worse": "✗"}.get(verdict, "")
    return ""


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def directions(experiment: StudentTable, roster: Roster, significance: Mapping[str, Any]) -> list[str]:
    """A sentence for each direction of the paper, of MiniLLM: against which baselines it holds here."""
    sentences = []
    for measure in measures(experiment, significance, REFERENCE_METHOD):
        by_verdict: dict[str, list[str]] = {}
        for model in measure.claimed:
            if model in measure.comparisons:
                by_verdict.setdefault(measure.comparisons[model]["verdict"], []).append(roster.label(model))
        told = [
            f"{words} {_listed(by_verdict[verdict])}"
            for verdict, words in (
                ("better", "holds against"),
                ("not distinguishable", "is not settled against"),
                ("worse", "is reversed against"),
                ("too few prompts", "cannot be settled by so few prompts against"),
                (BOTH_GUESS, "is not judged, for both read no better than guessing, against"),
            )
            if verdict in by_verdict
        ]
        if told:
            name = f"{measure.part}, {measure.name}" if measure.part == "Rouge-L" else measure.name
            sentences.append(f"{name}: the paper's direction {', '.join(told)}.")
    return sentences
