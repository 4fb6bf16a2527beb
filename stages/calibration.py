"""DVC stage: accuracy and calibration of a teacher and its students by the probabilities of label words.

python -m stages.calibration <student>
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.evaluation.calibration import Predictions, predict, summarize
from distill.project.errors import DataError, run_stage
from distill.project.files import fresh_dir, read_jsonl, write_json, write_text
from distill.project.progress import Progress
from distill.project.settings import lookup, read_yaml
from distill.project.table import PARAMS, read_table


def main() -> None:
    """Write analyses/<student>/calibration.json by set, and reliability diagrams that DVC draws."""
    from distill.evaluation.likelihood import encode_words, word_logprobs
    from stages.experiment import read_experiment

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    experiment = read_experiment(parser.parse_args().student, "calibration")
    tokenizer = experiment.tokenizer()
    sets = {}
    for name in lookup(read_yaml(PARAMS), "calibration", PARAMS):
        rows = read_jsonl(Path("labelled") / f"{name}.jsonl")
        examples, kept = encode_words(tokenizer, experiment.prompt, rows)
        if not kept:
            raise DataError(f"no prompt of `{name}` is within max_prompt_tokens; raise it or drop the set")
        sets[name] = (rows, examples, kept)
    folders = [experiment.teacher, *(Path("runs") / experiment.who / method for method in read_table().methods)]
    predictions: dict[str, dict[str, Predictions]] = {name: {} for name in sets}
    with Progress(experiment.name, len(folders), unit="model") as progress:
        for folder in folders:
            model = experiment.load(folder)
            for name, (rows, examples, kept) in sets.items():
                words = len(rows[0]["words"])
                logprobs = word_logprobs(model, examples, words, experiment.hardware.largest_micro_batch())
                answers = [rows[place]["answer"] for place in kept]
                predictions[name][folder.name] = predict(logprobs.double().numpy(), answers)
            progress.advance()
    found = {
        name: {
            "examples": len(sets[name][2]),
            "prompts_too_long": len(sets[name][0]) - len(sets[name][2]),
            **summarize(by_model, experiment.seed),
        }
        for name, by_model in predictions.items()
    }
    target = Path("analyses") / experiment.who
    with fresh_dir(target / "reliability") as aside:
        for name, content in found.items():
            for model, summary in content["models"].items():
                lines = [f"{each['confidence']}\t{each['accuracy']}" for each in summary["reliability"]]
                write_text(aside / f"{name}.{model}.tsv", "\n".join(["confidence\taccuracy", *lines]) + "\n")
    write_json(target / "calibration.json", found)


if __name__ == "__main__":
    run_stage(main)
