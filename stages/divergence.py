"""DVC stage: reverse and forward KL between the teacher and every method's student, on the validation prompts.

python -m stages.divergence <student>
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.evaluation.divergence import divergence
from distill.project.errors import run_stage
from distill.project.files import write_json
from distill.project.progress import Progress
from distill.project.table import read_table
from distill.text.examples import read_examples
from stages.experiment import read_experiment


def main() -> None:
    """Write scores/<student>/divergence.json: nats a token by method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    experiment = read_experiment(parser.parse_args().student, "divergence")
    methods = read_table().methods
    prompts = [example.prompt_ids for example in read_examples(experiment.data / "valid.parquet")]
    eos_id = int(experiment.tokenizer().eos_token_id)
    teacher = experiment.load(experiment.teacher)
    found = {}
    with Progress(experiment.name, len(methods), unit="model") as progress:
        for method in methods:
            found[method] = divergence(
                experiment.load(Path("runs") / experiment.who / method),
                teacher,
                prompts,
                seeds=experiment.evaluation.seeds,
                max_new_tokens=experiment.prompt.max_response_tokens,
                eos_id=eos_id,
                batch_size=experiment.hardware.decode_batch,
            )
            progress.advance()
    write_json(Path("scores") / experiment.who / "divergence.json", found)


if __name__ == "__main__":
    run_stage(main)
