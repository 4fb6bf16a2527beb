"""DVC stage: how probable one model finds the words that answer each labelled prompt.

python -m stages.calibration <family|student> <teacher|method>
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.evaluation import measures
from distill.evaluation.predictions import Predictions, predict, write_predictions
from distill.project.errors import DataError, run_stage
from distill.project.files import read_jsonl
from distill.project.progress import Progress
from distill.project.settings import lookup, read_yaml
from distill.project.table import PARAMS


def main() -> None:
    """Write measures/<who>/<what>/predictions.json, by labelled set."""
    from distill.evaluation.likelihood import encode_words, word_logprobs
    from stages.cell import read_cell

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", help="a family (for its teacher) or a student")
    parser.add_argument("what", help="teacher, or a method")
    arguments = parser.parse_args()
    cell = read_cell(arguments.who, arguments.what)
    names = lookup(read_yaml(PARAMS), "calibration", PARAMS)
    found: dict[str, Predictions] = {}
    if not names:
        write_predictions(measures.predictions_path(arguments.who, arguments.what), found)
        return
    model = cell.load()
    with Progress(cell.stage("calibration"), len(names), unit="set") as progress:
        for name in names:
            rows = read_jsonl(Path("labelled") / f"{name}.jsonl")
            examples, kept = encode_words(cell.tokenizer, cell.prompt, rows)
            if not kept:
                raise DataError(f"no prompt of `{name}` is within max_prompt_tokens; raise it or drop the set")
            batch = cell.experiment.hardware.largest_micro_batch()
            logprobs = word_logprobs(model, examples, len(rows[0]["words"]), batch)
            answers = [rows[place]["answer"] for place in kept]
            found[name] = predict(logprobs.double().numpy(), answers, len(rows) - len(kept))
            progress.advance()
    write_predictions(measures.predictions_path(arguments.who, arguments.what), found)


if __name__ == "__main__":
    run_stage(main)
