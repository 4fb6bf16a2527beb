"""Sample responses for the report: one prompt, its references, and what every model answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.project.files import read_jsonl
from distill.scoring.results import Experiment
from distill.scoring.tables import label


@dataclass(frozen=True)
class Response:
    """What one model answered, and its Rouge-L."""

    model: str
    name: str
    text: str
    rouge_l: float
    truncated: bool


@dataclass(frozen=True)
class Sample:
    """One prompt with the responses of all models, teacher first."""

    set: str
    id: int | str
    instruction: str
    input: str
    category: str
    references: tuple[str, ...]
    responses: tuple[Response, ...]
    winners: tuple[str, ...]
    """The methods (not the teacher) with the highest Rouge-L; none where no answer scored."""


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` positions of `count`, evenly spread, always the same."""
    taken = min(count, wanted)
    return [position * count // taken for position in range(taken)]


def choose(
    experiment: Experiment, scores: Mapping[str, Mapping[str, Any]], root: Path, wanted: int = 50
) -> list[Sample]:
    """About `wanted` prompts spread over all evaluation sets, with the responses of each set's first seed.

    `scores` are those of `results.read_scores`. Raises: DataError where a file is missing or damaged.
    """
    each = -(-wanted // len(experiment.sets))
    samples: list[Sample] = []
    for name in experiment.sets:
        rows = read_jsonl(root / "evaluation" / f"{name}.jsonl")
        answers = {model: _first_seed(experiment, model, name, root) for model in experiment.models}
        samples += [
            _sample(experiment, scores, name, position, rows[position], answers) for position in spread(len(rows), each)
        ]
    return samples


def _first_seed(experiment: Experiment, model: str, name: str, root: Path) -> dict[int | str, dict[str, Any]]:
    rows = read_jsonl(root / "responses" / experiment.home(model) / model / f"{name}.jsonl")
    first = min(row["seed"] for row in rows)
    return {row["id"]: row for row in rows if row["seed"] == first}


def _sample(
    experiment: Experiment,
    scores: Mapping[str, Mapping[str, Any]],
    name: str,
    position: int,
    row: Mapping[str, Any],
    answers: Mapping[str, Mapping[int | str, Mapping[str, Any]]],
) -> Sample:
    # score files keep seeds ascending and examples in the order of the evaluation file
    points = {model: float(scores[model][name]["per_example"][0][position]) for model in experiment.models}
    best = max((points[method] for method in experiment.methods), default=0.0)
    return Sample(
        set=name,
        id=row["id"],
        instruction=row["instruction"],
        input=row.get("input", ""),
        category=row.get("category", ""),
        references=tuple(row["output"]),
        responses=tuple(
            Response(
                model,
                label(model),
                answers[model][row["id"]]["text"],
                points[model],
                bool(answers[model][row["id"]].get("truncated", False)),
            )
            for model in experiment.models
        ),
        winners=tuple(method for method in experiment.methods if best > 0 and points[method] == best),
    )
