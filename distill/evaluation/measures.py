"""Where the measures of each model lie: numbers as they were measured, before any mean or interval is made of them.

responses/<who>/<what>/<set>.jsonl            answers
responses/<who>/<what>/<set>.losses.json      loss on each reference
measures/<who>/<what>/predictions.json        labelled prompts
measures/<student>/<method>/traces.parquet    divergences at each token
measures/<family>/teacher/samples.parquet     the teacher's text for those
measures/<student>/reference.json             what those follow from in the family
"""

from __future__ import annotations

from pathlib import Path

MEASURES = Path("measures")


def answers_path(who: str, what: str, name: str) -> Path:
    """The answers of a model to an evaluation set."""
    return Path("responses") / who / what / f"{name}.jsonl"


def losses_path(who: str, what: str, name: str) -> Path:
    """Its loss on each reference of the set."""
    return Path("responses") / who / what / f"{name}.losses.json"


def predictions_path(who: str, what: str) -> Path:
    """Its predictions on the labelled sets."""
    return MEASURES / who / what / "predictions.json"


def traces_path(student: str, method: str) -> Path:
    """Divergences between a student's model and its teacher."""
    return MEASURES / student / method / "traces.parquet"


def samples_path(family: str) -> Path:
    """What the teacher wrote for those divergences."""
    return MEASURES / family / "teacher" / "samples.parquet"


def reference_path(student: str) -> Path:
    """What the divergences of a student's models follow from in its family."""
    return MEASURES / student / "reference.json"
