"""DVC stage: responses to the students' training prompts, for SeqKD: the teacher's own, or those of a server.

python -m stages.pseudo <family>
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill.judging.settings import ApiPseudoSettings, LocalPseudoSettings, PseudoSection
from distill.project.errors import run_stage
from distill.project.files import replace_file
from distill.project.progress import Progress
from distill.project.randomness import key
from distill.project.settings import lookup, parse

if TYPE_CHECKING:
    import pyarrow as pa

    from distill.text.examples import Example
    from stages.experiment import Experiment


def main() -> None:
    """Write runs/<family>/pseudo.parquet: one row a prompt and sample, samples of a prompt apart."""
    import pyarrow.parquet as pq

    from distill.models.checkpoints import RunRecord
    from distill.runs.resume import RESUME_FOLDER
    from distill.text.examples import read_examples
    from stages.experiment import read_experiment
    from stages.pseudo_server import responses_of_server

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family")
    experiment = read_experiment(parser.parse_args().family, "pseudo")
    section = {"pseudo": lookup(experiment.content, "recipe.pseudo", experiment.profile)}
    settings = parse(section, PseudoSection, f"{experiment.profile}: recipe").pseudo
    record = RunRecord()
    if settings is None:  # no method of the profile learns from them
        with replace_file(Path("runs") / experiment.family / "pseudo.parquet") as aside:
            pq.write_table(_as_table([], [], []), aside)
        record.write(Path("runs") / experiment.family / "pseudo.run.json", unanswered={})
        return
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
    shutil.rmtree(RESUME_FOLDER / experiment.name, ignore_errors=True)


def _responses_of_teacher(
    experiment: Experiment, settings: LocalPseudoSettings, pairs: Sequence[tuple[Example, int]]
) -> pa.Table:
    from distill.evaluation.resumable import FinishedResponses, sample_remaining
    from distill.generation.validation import decode_text
    from distill.text.tokenizers import id_count

    tokenizer = experiment.tokenizer()
    source = experiment.data / "train.parquet"
    finished = FinishedResponses(experiment.name, experiment.fingerprint(settings, experiment.teacher, source))
    with Progress(experiment.name, len(pairs), unit="response", start=len(finished.found)) as progress:
        responses = sample_remaining(
            experiment.load(experiment.teacher),
            [example.prompt_ids for example, _ in pairs],
            [key(experiment.seed, "pseudo", example.index, sample) for example, sample in pairs],
            finished,
            max_new_tokens=experiment.prompt.max_response_tokens,
            eos_id=int(tokenizer.eos_token_id),
            batch_size=experiment.hardware.decode_batch,
            sampling=settings.sampling,
            vocabulary=id_count(tokenizer),  # a student may lack the teacher's padding rows
            on_batch=progress.advance,
        )
    ids = [response.ids for response in responses]
    return _as_table(pairs, ids, [decode_text(tokenizer, each) for each in ids])


def _as_table(pairs: Sequence[tuple[Example, int]], ids: Sequence[list[int]], texts: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            "sample": pa.array([sample for _, sample in pairs], pa.int32()),
            "prompt_ids": pa.array([example.prompt_ids for example, _ in pairs], pa.list_(pa.int32())),
            "response_ids": pa.array(ids, pa.list_(pa.int32())),
            "output": pa.array(texts, pa.string()),
        }
    )


if __name__ == "__main__":
    run_stage(main)
