"""DVC stage: Rouge-L by reference length, response length and repetition of a teacher and its students.

python -m stages.lengths <student>
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from distill.evaluation import answer_sheet
from distill.evaluation.lengths import Answered, summarize
from distill.project.errors import DataError, run_stage
from distill.project.files import fresh_dir, write_json, write_text
from distill.scoring.results import read_scores, read_student


def main() -> None:
    """Write analyses/<student>/lengths.json by set, and Rouge-L by bucket that DVC draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    experiment = read_student(Path("params.yaml"), parser.parse_args().student)
    tokenizer = read_tokenizer(Path("data") / experiment.family / "tokenizer" / "tokenizer.json")
    scores = read_scores(experiment, Path())
    found = {}
    for name in experiment.sets:
        answered, firsts = {}, [""]
        for model in experiment.models:
            path = Path("responses") / experiment.home(model) / model / f"{name}.jsonl"
            sheet = answer_sheet.read(path, Path("evaluation") / f"{name}.jsonl")
            if sheet.tokens is None:
                raise DataError(f"{path} does not tell every response's length in tokens; make it with `dvc repro`")
            firsts = [references[0] for references in sheet.references]
            answered[model] = Answered(
                np.array(scores[model][name]["per_example"]), np.array(sheet.tokens, dtype=np.float64), sheet.texts
            )
        tokens = [len(encoding.ids) for encoding in tokenizer.encode_batch(firsts, add_special_tokens=False)]
        found[name] = summarize(answered, tokens, experiment.seed)
    target = Path("analyses") / experiment.student
    with fresh_dir(target / "lengths") as aside:
        for name, content in found.items():
            for model, summary in content["models"].items():
                lines = [f"{bucket}\t{entry['mean']}" for bucket, entry in summary["rouge_l"].items()]
                write_text(aside / f"{name}.{model}.tsv", "\n".join(["reference_tokens\trouge_l", *lines]) + "\n")
    write_json(target / "lengths.json", found)


def read_tokenizer(path: Path) -> Tokenizer:
    """The family's tokenizer without transformers, which takes seconds to import. Raises: DataError."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; run `dvc repro`, or give the family a tokenizer with that file")
    tokenizer = Tokenizer.from_file(str(path))
    # What was saved with truncation or padding would otherwise count wrong.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


if __name__ == "__main__":
    run_stage(main)
