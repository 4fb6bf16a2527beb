"""DVC stage: one model's responses to one evaluation set, all seeds.

python -m stages.respond <family|student> <teacher|method> <evaluation set>
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.project.errors import SettingsError, run_stage
from distill.project.files import read_json, read_jsonl, write_jsonl
from distill.project.progress import Progress
from distill.project.table import read_table
from distill.text.settings import PromptSettings


def main() -> None:
    """Write responses/<who>/<what>/<set>.jsonl."""
    from distill.evaluation.respond import respond
    from distill.evaluation.resumable import FinishedResponses
    from distill.text.tokenizers import load_tokenizer
    from stages.experiment import read_experiment

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", help="a family (for its teacher) or a student")
    parser.add_argument("what", help="teacher, or a method")
    parser.add_argument("set", help="an evaluation set of params.yaml")
    arguments = parser.parse_args()
    table = read_table()
    experiment = read_experiment(arguments.who, arguments.what)
    teacher = arguments.who == experiment.family
    models = ["teacher"] if teacher else table.methods
    if arguments.what not in models and not experiment.output.exists():
        raise SettingsError(f"`{arguments.what}` is no method of params.yaml; use one of: {', '.join(models)}")
    if arguments.set not in table.datasets:
        known = ", ".join(table.datasets)
        raise SettingsError(f"`{arguments.set}` is no evaluation set of params.yaml; use one of: {known}")
    # The template a model was trained with comes with the model: nobody can pair it with another one.
    prompt = PromptSettings.model_validate(read_json(experiment.output / "meta.json")["prompt"])
    source = Path("evaluation") / f"{arguments.set}.jsonl"
    rows = read_jsonl(source)
    name = f"teacher_responses@{arguments.who}" if teacher else f"responses@{arguments.who}-{arguments.what}"
    name = f"{name}-{arguments.set}"
    finished = FinishedResponses(name, experiment.fingerprint(experiment.evaluation, experiment.output, source))
    model = experiment.load(experiment.output)
    total = len(rows) * len(experiment.evaluation.seeds)
    with Progress(name, total, unit="response", start=len(finished.found)) as progress:
        answers = respond(
            model,
            load_tokenizer(experiment.output),
            prompt,
            rows,
            experiment.evaluation,
            arguments.set,
            experiment.hardware.decode_batch,
            finished,
            progress.advance,
        )
    write_jsonl(Path("responses") / arguments.who / arguments.what / f"{arguments.set}.jsonl", answers)
    finished.clear()


if __name__ == "__main__":
    run_stage(main)
