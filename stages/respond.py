"""DVC stage: one model's responses to one evaluation set, all seeds, and its loss on the references.

python -m stages.respond <family|student> <teacher|method> <evaluation set>
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.evaluation import measures
from distill.project.errors import SettingsError, run_stage
from distill.project.files import read_jsonl, write_json, write_jsonl
from distill.project.progress import Progress
from distill.project.table import read_table


def main() -> None:
    """Write responses/<who>/<what>/<set>.jsonl and <set>.losses.json."""
    from distill.evaluation.likelihood import encode_rows, token_mean_losses
    from distill.evaluation.respond import respond
    from distill.evaluation.resumable import FinishedResponses
    from stages.cell import read_cell

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", help="a family (for its teacher) or a student")
    parser.add_argument("what", help="teacher, or a method")
    parser.add_argument("set", help="an evaluation set of params.yaml")
    arguments = parser.parse_args()
    sets = read_table().datasets
    if arguments.set not in sets:
        known = ", ".join(sets)
        raise SettingsError(f"`{arguments.set}` is no evaluation set of params.yaml; use one of: {known}")
    cell = read_cell(arguments.who, arguments.what)
    experiment = cell.experiment
    source = Path("evaluation") / f"{arguments.set}.jsonl"
    rows = read_jsonl(source)
    name = cell.stage("responses", arguments.set)
    finished = FinishedResponses(name, experiment.fingerprint(experiment.evaluation, experiment.output, source))
    model = cell.load()
    total = len(rows) * len(experiment.evaluation.seeds)
    with Progress(name, total, unit="response", start=len(finished.found)) as progress:
        answers = respond(
            model,
            cell.tokenizer,
            cell.prompt,
            rows,
            experiment.evaluation,
            arguments.set,
            experiment.hardware.decode_batch,
            finished,
            progress.advance,
        )
    references = encode_rows(cell.tokenizer, cell.prompt, rows)
    losses = token_mean_losses(model, references, experiment.hardware.largest_micro_batch())
    write_jsonl(measures.answers_path(arguments.who, arguments.what, arguments.set), answers)
    write_json(measures.losses_path(arguments.who, arguments.what, arguments.set), losses)
    finished.clear()


if __name__ == "__main__":
    run_stage(main)
