"""All analyses of one student, from the numbers that each of its models left; no model is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from distill.analyses import calibration, divergence, exposure, lengths, losses
from distill.evaluation import answer_sheet, measures
from distill.evaluation.guessing import guessing_loss
from distill.evaluation.predictions import Predictions, read_predictions
from distill.evaluation.traces import read_traces
from distill.project.errors import DataError
from distill.project.files import read_json, read_jsonl
from distill.scoring.results import Analyses, StudentTable


def analyse(experiment: StudentTable, scores: Mapping[str, Mapping[str, Any]], root: Path) -> Analyses:
    """Divergence, exposure bias, calibration, loss and lengths, with intervals and comparisons; files below `root`.

    Raises: DataError when a file is missing, or models were measured on different prompts.
    """
    traces = {
        method: read_traces(root / measures.traces_path(experiment.student, method)) for method in experiment.methods
    }
    return {
        "divergence": divergence.summarize(traces, experiment.seed),
        "exposure": exposure.exposure(traces, experiment.seed),
        "calibration": _calibration(experiment, root),
        "loss": _losses(experiment, root),
        "lengths": _lengths(experiment, scores, root),
    }


def _calibration(experiment: StudentTable, root: Path) -> dict[str, Any]:
    by_set: dict[str, dict[str, Predictions]] = {}
    for model in experiment.models:
        # A file holds all sets of one model; a comparison needs all models on one set.
        for name, own in read_predictions(root / measures.predictions_path(experiment.home(model), model)).items():
            by_set.setdefault(name, {})[model] = own
    found = {}
    for name, by_model in by_set.items():
        # Paired tests take the n-th prompt of every model for the same one; unequal counts show that it is not.
        counts = {(len(each.correct), each.prompts_too_long) for each in by_model.values()}
        if len(counts) > 1 or len(by_model) < len(experiment.models):
            raise DataError(f"the models of {experiment.student} saw different prompts of `{name}`; run `dvc repro`")
        [(examples, too_long)] = counts
        found[name] = {
            "examples": examples,
            "prompts_too_long": too_long,
            **calibration.summarize(by_model, experiment.seed),
        }
    return found


def _losses(experiment: StudentTable, root: Path) -> dict[str, Any]:
    tokenizer = _tokenizer(experiment, root)
    vocabulary = tokenizer.get_vocab_size()
    references = {}
    for name in experiment.sets:
        rows = read_jsonl(root / "evaluation" / f"{name}.jsonl")
        texts = [row["output"][0] for row in rows]
        # One more kind of token ends each of them.
        references[name] = [
            [*encoding.ids, vocabulary] for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)
        ]
    found = {}
    for name, own in references.items():
        measured = {
            model: read_json(root / measures.losses_path(experiment.home(model), model, name), shape=list)
            for model in experiment.models
        }
        others = [each for other, theirs in references.items() if other != name for each in theirs]
        guess = round(guessing_loss(own, vocabulary + 1, others), 4)
        found[name] = {**losses.summarize(measured, experiment.seed), "guessing": guess}
    return found


def _lengths(experiment: StudentTable, scores: Mapping[str, Mapping[str, Any]], root: Path) -> dict[str, Any]:
    tokenizer = _tokenizer(experiment, root)
    found = {}
    for name in experiment.sets:
        answered, firsts = {}, [""]
        for model in experiment.models:
            path = root / measures.answers_path(experiment.home(model), model, name)
            sheet = answer_sheet.read(path, root / "evaluation" / f"{name}.jsonl")
            if sheet.tokens is None:
                raise DataError(f"{path} does not tell every response's length in tokens; make it with `dvc repro`")
            # References belong to the set, so every model's sheet has the same ones.
            firsts = [references[0] for references in sheet.references]
            answered[model] = lengths.Answered(
                np.array(scores[model][name]["per_example"]),
                np.array(sheet.tokens, dtype=np.float64),
                sheet.texts,
                sheet.words,
            )
        # Special tokens are no part of a reference's text: they would move it to another bucket.
        tokens = [len(encoding.ids) for encoding in tokenizer.encode_batch(firsts, add_special_tokens=False)]
        found[name] = lengths.summarize(answered, tokens, experiment.seed)
    return found


def _tokenizer(experiment: StudentTable, root: Path) -> Tokenizer:
    return read_tokenizer(root / "data" / experiment.family / "tokenizer" / "tokenizer.json")


def read_tokenizer(path: Path) -> Tokenizer:
    """The family's tokenizer without transformers, which takes seconds to import. Raises: DataError."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; run `dvc repro`, or give the family a tokenizer with that file")
    tokenizer = Tokenizer.from_file(str(path))
    # Text stays text, as in training; and what was saved with truncation or padding would otherwise count wrong.
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
