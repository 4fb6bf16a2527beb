"""DVC stage: token-mean loss of a teacher and its students on the references of every evaluation set.

python -m stages.loss <student>
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.evaluation.losses import summarize
from distill.project.errors import run_stage
from distill.project.files import read_jsonl, write_json
from distill.project.progress import Progress
from distill.project.table import read_table


def main() -> None:
    """Write analyses/<student>/loss.json, nats a token by set."""
    from distill.evaluation.likelihood import encode_rows, token_mean_losses
    from stages.experiment import read_experiment

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    experiment = read_experiment(parser.parse_args().student, "loss")
    tokenizer, table = experiment.tokenizer(), read_table()
    sets = {
        name: encode_rows(tokenizer, experiment.prompt, read_jsonl(Path("evaluation") / f"{name}.jsonl"))
        for name in table.datasets
    }
    folders = [experiment.teacher, *(Path("runs") / experiment.who / method for method in table.methods)]
    losses: dict[str, dict[str, list[float]]] = {name: {} for name in sets}
    with Progress(experiment.name, len(folders), unit="model") as progress:
        for folder in folders:
            model = experiment.load(folder)
            for name, examples in sets.items():
                losses[name][folder.name] = token_mean_losses(
                    model, examples, experiment.hardware.largest_micro_batch()
                )
            progress.advance()
    found = {name: summarize(by_model, experiment.seed) for name, by_model in losses.items()}
    write_json(Path("analyses") / experiment.who / "loss.json", found)


if __name__ == "__main__":
    run_stage(main)
