"""One student's results: the scores of its teacher and of all methods, gathered into one file.

`results/<student>.json` holds numbers only, nested as model → evaluation set → metric, so that
`dvc metrics diff` reads well; verdicts in words go to a file beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from distill.judging.summary import read_summary
from distill.project.errors import DataError, SettingsError
from distill.project.files import read_json
from distill.project.randomness import key
from distill.project.seeds import SeedSetting
from distill.project.settings import lookup, parse, read_yaml
from distill.scoring import statistics
from distill.scoring.names import (
    CALIBRATION,
    EXPOSURE,
    KL,
    LENGTHS,
    LOSS,
    REFERENCE_METHOD,
    RESERVED,
    TEACHER,
    label,
)
from distill.scoring.paired import compare_scores
from distill.scoring.stored import read_models
from distill.scoring.trust import guesses, withheld
from distill.text.words import name_with_words

_METRICS = ("rouge_l", "exact_match", "response_tokens", "truncated", "distinct_4", "repeated_4")
EXPOSURE_METRICS = ("error", "error_a_token", "error_as_released")
_DIGITS = 4

Metrics = dict[str, dict[str, dict[str, Any]]]
Analyses = Mapping[str, Mapping[str, Any]]
"""Analysis (`divergence`, `exposure`, `calibration`, `loss`, `lengths`) to what `distill/analyses/` made of it."""


@dataclass(frozen=True)
class StudentTable:
    """What params.yaml names for one student."""

    student: str
    family: str
    methods: tuple[str, ...]
    sets: tuple[str, ...]
    seed: int
    judged: tuple[str, ...] = ()
    """The sets an LLM judges answers to; none while the judge is off."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Model to its name in tables, where params.yaml or the last results say one."""

    words: Mapping[str, str] = field(default_factory=dict)
    """Evaluation set to the words of its Rouge-L, where they are not the paper's."""

    def set_name(self, name: str) -> str:
        """An evaluation set's name beside its Rouge-L."""
        return name_with_words(name, self.words.get(name))

    def measured(self, metrics: Mapping[str, Any]) -> StudentTable:
        """The same with the words of Rouge-L that its results name."""
        scores = {name: metrics.get(TEACHER, {}).get(name, {}).get("rouge_l", {}) for name in self.sets}
        return replace(self, words={name: score["words"] for name, score in scores.items() if "words" in score})

    @property
    def models(self) -> tuple[str, ...]:
        """The rows of the results table: the teacher, then the methods in the order of params.yaml."""
        return (TEACHER, *self.methods)

    def label(self, model: str) -> str:
        """A model's name in tables."""
        return self.labels.get(model) or label(model)

    def home(self, model: str) -> str:
        """Who owns a model in the path grammar `<who>/<what>`: the family has the teacher."""
        return self.family if model == TEACHER else self.student


def students(params: Path) -> list[str]:
    """The names of the students in params.yaml, in its order."""
    return [str(name) for name in lookup(read_yaml(params), "students", params)]


def read_student(params: Path, student: str) -> StudentTable:
    """The part of params.yaml that speaks of one student.

    Raises: SettingsError for an unknown student, or a name that the results file needs for itself.
    """
    content = read_yaml(params)
    sets = tuple(str(name) for name in lookup(content, "datasets", params))
    if taken := sorted(set(RESERVED) & set(sets)):
        raise SettingsError(f"{params}: `{taken[0]}` is a name the results need for themselves; rename that set")
    return StudentTable(
        student=student,
        family=str(lookup(content, f"students.{student}.family", params)),
        methods=tuple(str(name) for name in lookup(content, "methods", params)),
        sets=sets,
        seed=parse({"seed": lookup(content, "seed", params)}, SeedSetting, str(params)).seed,
        labels=labels_of(params, student),
        judged=tuple(name for name in content.get("judge", {}).get("datasets", []) if name in sets),
    )


def _labels(content: Any, params: Path) -> dict[str, str]:
    labels = {} if content is None else content
    if not isinstance(labels, dict) or not all(isinstance(each, str) for each in labels.values()):
        raise SettingsError(f"{params}: `labels` must give a text for each name; write e.g. `labels: {{kd: My KD}}`")
    return labels


def labels_of(params: Path, student: str) -> dict[str, str]:
    """Model to its name in tables: that of params.yaml, else that of the last results, which need no checkpoint."""
    path = params.parent / "results" / f"{student}.models.json"
    last = {name: str(each["label"]) for name, each in read_models(path).items()} if path.is_file() else {}
    return last | _labels(read_yaml(params).get("labels"), params)


def _cell(score: Mapping[str, Any], seed: int) -> dict[str, Any]:
    metrics = {name: dict(score[name]) for name in _METRICS if name in score}
    interval = statistics.bootstrap_interval(score["per_example"], seed)
    # a list, as per_seed is: DVC shows numbers only, so neither crowds `dvc metrics diff`
    metrics["rouge_l"]["ci95"] = [round(bound, _DIGITS) for bound in interval]
    if len(score["ids"]) < statistics.FEWEST_PROMPTS:
        metrics["rouge_l"]["prompts"] = len(score["ids"])
    return metrics


def read_scores(experiment: StudentTable, root: Path) -> dict[str, dict[str, Any]]:
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


def metrics(
    experiment: StudentTable, scores: Mapping[str, Mapping[str, Any]], analyses: Analyses, root: Path
) -> Metrics:
    """The content of results/<student>.json: model → set → metric, and model → analysis → metric.

    A set that is judged has a metric `judge` too, without a score where the judge's budget did not reach.
    """
    gathered: Metrics = {}
    for model in experiment.models:
        gathered[model] = {}
        for name in experiment.sets:
            cell = _cell(scores[model][name], key(experiment.seed, "interval", model, name))
            lengths = analyses["lengths"][name]["models"][model]
            cell["rouge_l_by_length"] = lengths["rouge_l"]
            cell["response_tokens"] = {
                part: value for part, value in lengths["response_tokens"].items() if part in ("mean", "ci95", "prompts")
            }
            cell |= {part: lengths[part] for part in ("repeated_4",) if part in lengths}
            cell["loss"] = analyses["loss"][name]["models"][model]
            if guesses(analyses["loss"][name], model):
                cell["loss"] = {**cell["loss"], "guessing": analyses["loss"][name]["guessing"]}
            if name in experiment.judged:
                cell["judge"] = read_summary(root, experiment.home(model), model, name)
            gathered[model][name] = cell
        if model in analyses["divergence"]["models"]:
            gathered[model][KL] = analyses["divergence"]["models"][model]
        if model in analyses["exposure"]["models"]:
            found = analyses["exposure"]["models"][model]
            gathered[model][EXPOSURE] = {part: found[part] for part in EXPOSURE_METRICS}
        gathered[model][CALIBRATION] = {
            name: {part: content["models"][model][part] for part in ("accuracy", "ece", "word_mass")}
            for name, content in analyses["calibration"].items()
        }
    return gathered


def significance(
    experiment: StudentTable, scores: Mapping[str, Mapping[str, Any]], analyses: Analyses
) -> dict[str, dict[str, Any]]:
    """Every model as reference against every other on the same prompts: reference → model → set → comparison.

    Difference and verdict are the reference's. The analyses' comparisons stand beside the sets, under their names.
    """
    compared = {
        name: compare_scores(
            {model: scores[model][name]["per_example"] for model in experiment.models},
            partial(_seed, experiment.seed, name),
        )
        for name in experiment.sets
    }
    verdicts: dict[str, dict[str, Any]] = {}
    for a in experiment.models:
        verdicts[a] = {}
        for b in (model for model in experiment.models if model != a):
            own = {name: entries[a][b] for name, entries in compared.items()}
            for name, analysis in ((KL, "divergence"), (EXPOSURE, "exposure")):
                if b in analyses[analysis]["against"].get(a, {}):
                    own[name] = analyses[analysis]["against"][a][b]
            for name, analysis in ((CALIBRATION, "calibration"), (LOSS, "loss"), (LENGTHS, "lengths")):
                own[name] = {each: content["against"][a][b] for each, content in analyses[analysis].items()}
            verdicts[a][b] = withheld(own, analyses["loss"], a, b)
    return verdicts


def _seed(seed: int, name: str, model: str) -> int:
    return key(seed, "comparison", model, name)


def of_reference_method(verdicts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of results/<student>.significance.json: MiniLLM as the only reference; empty without MiniLLM."""
    return {name: each for name, each in verdicts.items() if name == REFERENCE_METHOD}


def described(experiment: StudentTable, root: Path) -> dict[str, dict[str, str]]:
    """Each model's `label`, and where its training `tokens` come from as its checkpoint says; "" where it does not.

    The content of results/<student>.models.json. A label of params.yaml counts before that of a checkpoint.
    """
    params, found = root / "params.yaml", {}
    chosen = _labels(read_yaml(params).get("labels"), params)
    for model in experiment.models:
        path = root / "runs" / experiment.home(model) / model / "meta.json"
        meta = read_json(path) if path.exists() else {}
        found[model] = {
            "label": chosen.get(model) or label(model, meta),
            "tokens": str(meta.get("tokens") or ""),
        }
    return found


def summary(
    gathered: Metrics,
    verdicts: Mapping[str, Any],
    analyses: Analyses,
    models: Mapping[str, Mapping[str, str]],
    note: str,
    doubts: Sequence[str] = (),
) -> dict[str, Any]:
    """What the report draws of one student, beside curves and samples: the content of analyses/<student>/summary.json.

    `note` is `recipe.note` of the family's profile; `doubts` are sentences on the models that training started from.
    """
    drawn = {"exposure": _drawn(analyses["exposure"])}
    drawn |= {
        name: {each: _drawn(content) for each, content in analyses[name].items()} for name in ("calibration", "lengths")
    }
    return {
        "note": note,
        "doubts": list(doubts),
        "models": models,
        "metrics": gathered,
        "significance": verdicts,
        **drawn,
    }


def _drawn(analysis: Mapping[str, Any]) -> dict[str, Any]:
    """An analysis without its comparisons, which stand under `significance`."""
    return {part: content for part, content in analysis.items() if part != "against"}


def plot_rows(experiment: StudentTable, gathered: Metrics) -> str:
    """The content of results/<student>.csv: `method,set,rouge_l,std`, one line for each cell; of one seed no `std`."""
    lines = ["method,set,rouge_l,std"]
    for model in experiment.models:
        for name in experiment.sets:
            cell = gathered[model][name]["rouge_l"]
            lines.append(f"{model},{name},{cell['mean']},{cell.get('std', '')}")
    return "\n".join(lines) + "\n"
