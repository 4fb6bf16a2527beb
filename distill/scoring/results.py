"""One student's results: the scores of its teacher and of all methods, gathered into one file.

`results/<student>.json` holds numbers only, nested as model → evaluation set → metric, so that
`dvc metrics diff` reads well; verdicts in words go to a file beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.judging import summary
from distill.project.errors import DataError, SettingsError
from distill.project.files import read_json
from distill.project.randomness import key
from distill.project.settings import lookup, read_yaml
from distill.scoring import statistics

TEACHER = "teacher"
REFERENCE_METHOD = "minillm"
KL = "kl"

_METRICS = ("rouge_l", "exact_match", "response_tokens", "truncated", "distinct_4", "repeated_4")
_DIGITS = 4

Metrics = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Experiment:
    """What params.yaml names for one student."""

    student: str
    family: str
    methods: tuple[str, ...]
    sets: tuple[str, ...]
    seed: int
    judged: tuple[str, ...] = ()
    """The sets an LLM judges answers to; none while the judge is off."""

    @property
    def models(self) -> tuple[str, ...]:
        """The rows of the results table: the teacher, then the methods in the order of params.yaml."""
        return (TEACHER, *self.methods)

    def home(self, model: str) -> str:
        """Who owns a model in the path grammar `<who>/<what>`: the family has the teacher."""
        return self.family if model == TEACHER else self.student


def students(params: Path) -> list[str]:
    """The names of the students in params.yaml, in its order."""
    return [str(name) for name in lookup(read_yaml(params), "students", params)]


def read_experiment(params: Path, student: str) -> Experiment:
    """The part of params.yaml that speaks of one student.

    Raises: SettingsError for an unknown student, or a name that the results file needs for itself.
    """
    content = read_yaml(params)
    sets = tuple(str(name) for name in lookup(content, "datasets", params))
    if KL in sets:
        raise SettingsError(f"{params}: `{KL}` is the results' name for divergences; rename that evaluation set")
    return Experiment(
        student=student,
        family=str(lookup(content, f"students.{student}.family", params)),
        methods=tuple(str(name) for name in lookup(content, "methods", params)),
        sets=sets,
        seed=int(lookup(content, "seed", params)),
        judged=tuple(name for name in content.get("judge", {}).get("datasets", []) if name in sets),
    )


def _rounded(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same nesting with each number rounded."""
    return {
        name: _rounded(value) if isinstance(value, Mapping) else round(float(value), _DIGITS)
        for name, value in content.items()
    }


def _cell(score: Mapping[str, Any], seed: int) -> dict[str, Any]:
    metrics = {name: dict(score[name]) for name in _METRICS if name in score}
    interval = statistics.bootstrap_interval(score["per_example"], seed)
    # a list, as per_seed is: DVC shows numbers only, so neither crowds `dvc metrics diff`
    metrics["rouge_l"]["ci95"] = [round(bound, _DIGITS) for bound in interval]
    return metrics


def read_scores(experiment: Experiment, root: Path) -> dict[str, dict[str, Any]]:
    """The score files of all models: model → set → content of scores/<who>/<what>/<set>.json below `root`.

    Raises: DataError when one is missing, or a model was scored on other prompts than its teacher.
    """
    scores = {
        model: {
            name: read_json(root / "scores" / experiment.home(model) / model / f"{name}.json")
            for name in experiment.sets
        }
        for model in experiment.models
    }
    for model, by_set in scores.items():
        for name, score in by_set.items():
            if score["ids"] != scores[TEACHER][name]["ids"]:
                raise DataError(
                    f"{model} and the teacher were scored on different prompts of `{name}`; run `dvc repro`"
                )
    return scores


def metrics(experiment: Experiment, scores: Mapping[str, Mapping[str, Any]], root: Path) -> Metrics:
    """The content of results/<student>.json: model → set → metric, and model → `kl` where it was measured.

    A set that is judged has a metric `judge` too, without a score where the judge's budget did not reach.
    """
    gathered: Metrics = {}
    for model in experiment.models:
        gathered[model] = {
            name: _cell(scores[model][name], key(experiment.seed, "interval", model, name)) for name in experiment.sets
        }
        for name in experiment.judged:
            gathered[model][name]["judge"] = summary.read_summary(root, experiment.home(model), model, name)
    divergences = root / "scores" / experiment.student / "divergence.json"
    if divergences.exists():
        for model, found in read_json(divergences).items():
            gathered[model][KL] = _rounded(found)
    return gathered


def significance(experiment: Experiment, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """MiniLLM against every other model on the same prompts: model → set → difference and verdict of MiniLLM.

    Empty where params.yaml does not name MiniLLM.
    """
    if REFERENCE_METHOD not in experiment.methods:
        return {}
    verdicts: dict[str, Any] = {}
    for model in experiment.models:
        if model == REFERENCE_METHOD:
            continue
        verdicts[model] = {}
        for name in experiment.sets:
            compared = statistics.compare(
                scores[REFERENCE_METHOD][name]["per_example"],
                scores[model][name]["per_example"],
                key(experiment.seed, "comparison", model, name),
            )
            verdicts[model][name] = {
                "difference": round(compared.difference, _DIGITS),
                "ci95": [round(bound, _DIGITS) for bound in compared.interval],
                "standard_error": round(compared.standard_error, _DIGITS),
                "p_value": round(compared.p_value, _DIGITS),
                "verdict": compared.verdict,
            }
    return {REFERENCE_METHOD: verdicts}


def plot_rows(experiment: Experiment, gathered: Metrics) -> str:
    """The content of results/<student>.csv: `method,set,rouge_l,std`, one line for each cell."""
    lines = ["method,set,rouge_l,std"]
    for model in experiment.models:
        for name in experiment.sets:
            cell = gathered[model][name]["rouge_l"]
            lines.append(f"{model},{name},{cell['mean']},{cell['std']}")
    return "\n".join(lines) + "\n"
