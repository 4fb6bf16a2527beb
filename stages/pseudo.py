"""DVC stage: responses to the students' training prompts, for SeqKD: the teacher's own, or those of a server.

python -m stages.pseudo <family>
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distill.generation.decode import sample_responses
from distill.generation.validation import decode_text
from distill.judging.settings import ApiPseudoSettings, LocalPseudoSettings, PseudoSection
from distill.models.checkpoints import RunRecord
from distill.project.errors import run_stage
from distill.project.files import replace_file
from distill.project.progress import Progress
from distill.project.randomness import key
from distill.project.settings import lookup, parse, read_yaml
from distill.text.examples import Example, read_examples
from stages.experiment import Experiment, read_experiment
from stages.pseudo_server import responses_of_server


def main() -> None:
    """Write runs/<family>/pseudo.parquet: one row a prompt and sample, samples of a prompt apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family")
    experiment = read_experiment(parser.parse_args().family, "pseudo")
    section = {"pseudo": lookup(read_yaml(experiment.profile), "recipe.pseudo", experiment.profile)}
    settings = parse(section, PseudoSection, f"{experiment.profile}: recipe").pseudo
    record = RunRecord()
    examples = read_examples(experiment.data / "train.parquet", experiment.rows.student)
    pairs = [(example, sample) for sample in range(settings.samples_per_prompt) for example in examples]
    unanswered: dict[str, int] = {}
    if isinstance(settings, ApiPseudoSettings):
        table, unanswered = responses_of_server(experiment, settings, pairs)
    else:
        table = _responses_of_teacher(experiment, settings, pairs)
    with replace_file(Path("runs") / experiment.family / "pseudo.parquet") as aside:
        pq.write_table(table, aside)
    record.write(Path("runs") / experiment.family / "pseudo.run.json", unanswered=unanswered)


def _responses_of_teacher(
    experiment: Experiment, settings: LocalPseudoSettings, pairs: Sequence[tuple[Example, int]]
) -> pa.Table:
    tokenizer = experiment.tokenizer()
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
    return pa.table(
        {
            "sample": pa.array([sample for _, sample in pairs], pa.int32()),
            "prompt_ids": pa.array([example.prompt_ids for example, _ in pairs], pa.list_(pa.int32())),
            "response_ids": pa.array([response.ids for response in responses], pa.list_(pa.int32())),
            "output": [decode_text(tokenizer, response.ids) for response in responses],
        }
    )


if __name__ == "__main__":
    run_stage(main)
