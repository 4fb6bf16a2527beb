"""Sample responses for the report: every prompt with its references, and what each model answered to it.

They go onto the page as one block of JSON, which the page's script lays out; prompts and a teacher's answers stand
there once, whichever students share them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.project.files import read_json, read_jsonl
from distill.scoring.results import StudentTable
from distill.scoring.rosters import Roster

# A page may weigh 20 MB, of which charts and tables need a part.
_BYTES = 15_000_000


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` positions of `count`, evenly spread, always the same."""
    taken = min(count, wanted)
    return [position * count // taken for position in range(taken)]


def collect(
    experiments: Sequence[StudentTable], rosters: Sequence[Roster], root: Path, most_bytes: int = _BYTES
) -> dict[str, Any]:
    """The block of JSON: `sets`, `students` and `answers`, of each evaluation set's first sampling seed.

    Where it would be over `most_bytes`, every set keeps an evenly spread part of its prompts. A response is
    `[text, Rouge-L, 1 if cut off]`. Raises: DataError where a file is missing or damaged.
    """
    names = list(dict.fromkeys(name for experiment in experiments for name in experiment.sets))
    prompts = {name: read_jsonl(root / "evaluation" / f"{name}.jsonl") for name in names}
    models = {
        f"{experiment.home(model)}/{model}": experiment.sets
        for experiment in experiments
        for model in experiment.models
    }
    answers = {
        model: {name: _answers(root, model, name, prompts[name]) for name in sets} for model, sets in models.items()
    }
    share = most_bytes / max(1, _size([prompts, answers]))
    kept = {name: spread(len(rows), max(1, int(len(rows) * min(1.0, share)))) for name, rows in prompts.items()}
    return {
        "sets": {
            name: {
                "total": len(rows),
                "prompts": [
                    [rows[i]["id"], rows[i]["instruction"], rows[i]["input"], rows[i]["category"], rows[i]["output"]]
                    for i in kept[name]
                ],
            }
            for name, rows in prompts.items()
        },
        "students": [
            {
                "name": experiment.student,
                "sets": list(experiment.sets),
                "models": [[f"{experiment.home(m.name)}/{m.name}", m.name, m.label] for m in roster.models],
            }
            for experiment, roster in zip(experiments, rosters, strict=True)
        ],
        "answers": {
            model: {name: [rows[i] for i in kept[name]] for name, rows in by_set.items()}
            for model, by_set in answers.items()
        },
    }


def _answers(root: Path, model: str, name: str, prompts: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    rows = read_jsonl(root / "responses" / f"{model}/{name}.jsonl")
    first = min(row["seed"] for row in rows)
    by_id = {row["id"]: row for row in rows if row["seed"] == first}
    # score files keep seeds ascending and examples in the order of the evaluation file
    points = read_json(root / "scores" / f"{model}/{name}.json")["per_example"][0]
    return [
        [by_id[prompt["id"]]["text"], round(score, 1), int(bool(by_id[prompt["id"]].get("truncated")))]
        for prompt, score in zip(prompts, points, strict=True)
    ]


def _size(content: Any) -> int:
    return len(json.dumps(content, ensure_ascii=False).encode())


def as_script(content: Mapping[str, Any]) -> str:
    """The block as text that may stand inside a `<script>` element: no `<` ever ends it."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
