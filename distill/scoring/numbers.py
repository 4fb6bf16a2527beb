"""Tables of everything else that was measured: by evaluation set, and by analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distill.analyses.calibration import BINS
from distill.scoring.names import CALIBRATION, EXPOSURE, KL
from distill.scoring.results import StudentTable
from distill.scoring.tables import Cell, ResultTable, TableRow

# metric of a set in results/<student>.json → heading, digits
_BY_SET = {
    "exact_match": ("Exact match", 1),
    "response_tokens": ("Response tokens", 1),
    "truncated": ("Cut off, %", 1),
    "distinct_4": ("Distinct-4, %", 1),
    "repeated_4": ("Repeated-4, %", 1),
    "loss": ("Loss", 2),
}


def by_set(experiment: StudentTable, metrics: Mapping[str, Any], name: str) -> ResultTable:
    """What was measured on one evaluation set beside Rouge-L."""
    shown = {m: how for m, how in _BY_SET.items() if any(m in metrics[model][name] for model in experiment.models)}
    return ResultTable(
        title=name,
        columns=tuple(heading for heading, _ in shown.values()),
        rows=tuple(
            TableRow(
                experiment.label(model),
                tuple(_cell(metrics[model][name].get(m), digits) for m, (_, digits) in shown.items()),
            )
            for model in experiment.models
        ),
        notes=(
            "Distinct-4: distinct over all word 4-grams, pooled over the set, a mean over sampling seeds. Repeated-4: "
            "share of an answer's 4-grams that occurred before in it. Loss: nats a token of the references.",
        ),
    )


def by_analysis(experiment: StudentTable, metrics: Mapping[str, Any]) -> ResultTable:
    """Divergences, exposure bias and calibration, which are not measured on the evaluation sets."""
    sets = dict.fromkeys(name for model in experiment.models for name in metrics[model].get(CALIBRATION, {}))
    columns = {
        "Reverse KL": (KL, "reverse_kl", 3),
        "Forward KL": (KL, "forward_kl", 3),
        "Excess error, %": (EXPOSURE, "error", 1),
        "Excess a token, %": (EXPOSURE, "error_a_token", 1),
        "Excess as released, %": (EXPOSURE, "error_as_released", 1),
    }
    rows = []
    for model in experiment.models:
        own = metrics[model]
        cells = [_cell(own.get(part, {}).get(name), digits) for part, name, digits in columns.values()]
        for name in sets:
            cells += [_cell(own[CALIBRATION][name][metric], 1) for metric in ("accuracy", "ece", "word_mass")]
        rows.append(TableRow(experiment.label(model), tuple(cells)))
    headings = [f"{metric}, {name}" for name in sets for metric in ("Accuracy", "ECE", "Word mass")]
    return ResultTable(
        title="",
        columns=(*columns, *headings),
        rows=tuple(rows),
        notes=(
            "KL in nats a token: reverse on the model's own samples, forward on the teacher's. Excess error: see "
            "exposure bias; as released: what the authors' code computes. Accuracy and expected calibration error by "
            "the probabilities of the label words, in "
            f"{BINS} bins; word mass is what those words had together.",
        ),
    )


def in_parts(table: ResultTable) -> list[ResultTable]:
    """The table of `by_analysis` in pieces that fit a screen: divergence and exposure bias; two labelled sets each."""
    first = [place for place, column in enumerate(table.columns) if column.startswith("Accuracy, ")]
    starts = [0, *first[::2]]
    pieces = [slice(start, stop) for start, stop in zip(starts, [*starts[1:], None], strict=True)]
    titles = ["Divergence and exposure bias", *["Calibration"] * (len(pieces) - 1)]
    return [
        replace(
            table,
            title=title,
            columns=table.columns[piece],
            rows=tuple(replace(row, cells=row.cells[piece]) for row in table.rows),
            notes=table.notes if piece is pieces[-1] else (),
        )
        for title, piece in zip(titles, pieces, strict=True)
    ]


def _cell(entry: Mapping[str, Any] | None, digits: int) -> Cell:
    if entry is None:
        return Cell("–")
    mean, *bounds = (f"{value:.{digits}f}".replace("-", "−") for value in (entry["mean"], *entry.get("ci95", ())))
    return Cell(mean, detail=f"[{', '.join(bounds)}]" if bounds else "")
