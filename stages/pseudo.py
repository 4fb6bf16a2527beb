"""DVC stage: the teacher's own responses to the students' training prompts, for SeqKD.

python -m stages.pseudo <family>
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distill.generation.decode import sample_responses
from distill.generation.settings import PseudoSettings
from distill.generation.validation import decode_text
from distill.models.checkpoints import RunRecord
from distill.project.errors import run_stage
from distill.project.files import replace_file
from distill.project.progress import Progress
from distill.project.randomness import key
from distill.project.settings import section
from distill.text.examples import read_examples
from stages.experiment import read_experiment


def main() -> None:
    """Write runs/<family>/pseudo.parquet: one row a prompt and sample, samples of a prompt apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family")
    experiment = read_experiment(parser.parse_args().family, "pseudo")
    settings = section(experiment.profile, "recipe.pseudo", PseudoSettings)
    record = RunRecord()
    tokenizer = experiment.tokenizer()
    examples = read_examples(experiment.data / "train.parquet", experiment.rows.student)
    pairs = [(example, sample) for sample in range(settings.samples_per_prompt) for example in examples]
    with Progress(experiment.name, len(pairs), unit="response") as progress:
        responses = sample_responses(
            experiment.load(experiment.teacher),
            [example.prompt_ids for example, _ in pairs],
            [key(experiment.seed, "pseudo", example.index, sample) for example, sample in pairs],
            max_new_tokens=experiment.prompt.max_response_tokens,
            eos_id=int(tokenizer.eos_token_id),
            batch_size=experiment.hardware.decode_batch,
            sampling=settings.sampling,
            on_batch=progress.advance,
        )
    table = pa.table(
        {
            "sample": pa.array([sample for _, sample in pairs], pa.int32()),
            "prompt_ids": pa.array([example.prompt_ids for example, _ in pairs], pa.list_(pa.int32())),
            "response_ids": pa.array([response.ids for response in responses], pa.list_(pa.int32())),
            "output": [decode_text(tokenizer, response.ids) for response in responses],
        }
    )
    with replace_file(Path("runs") / experiment.family / "pseudo.parquet") as aside:
        pq.write_table(table, aside)
    record.write(Path("runs") / experiment.family / "pseudo.run.json")


if __name__ == "__main__":
    run_stage(main)
