"""DVC stage: one model's responses to one evaluation set, all seeds.

python -m stages.respond <family|student> <teacher|method> <evaluation set>
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.evaluation.respond import respond
from distill.project.errors import run_stage
from distill.project.files import read_json, read_jsonl, write_jsonl
from distill.project.progress import Progress
from distill.text.settings import PromptSettings
from distill.text.tokenizers import load_tokenizer
from stages.experiment import read_experiment


def main() -> None:
    """Write responses/<who>/<what>/<set>.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", help="a family (for its teacher) or a student")
    parser.add_argument("what", help="teacher, or a method")
    parser.add_argument("set", help="an evaluation set of params.yaml")
    arguments = parser.parse_args()
    experiment = read_experiment(arguments.who, arguments.what)
    # The template a model was trained with comes with the model: nobody can pair it with another one.
    prompt = PromptSettings.model_validate(read_json(experiment.output / "meta.json")["prompt"])
    rows = read_jsonl(Path("evaluation") / f"{arguments.set}.jsonl")
    model = experiment.load(experiment.output)
    total = len(rows) * len(experiment.evaluation.seeds)
    with Progress(f"responses@{arguments.who}-{arguments.what}-{arguments.set}", total, unit="response") as progress:
        answers = respond(
            model,
            load_tokenizer(experiment.output),
            prompt,
            rows,
            experiment.evaluation,
            arguments.set,
            experiment.hardware.decode_batch,
            progress.advance,
        )
    write_jsonl(Path("responses") / arguments.who / arguments.what / f"{arguments.set}.jsonl", answers)


if __name__ == "__main__":
    run_stage(main)
