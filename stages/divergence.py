"""DVC stage: reverse and forward KL between a teacher and one student's model at every token of validation responses.

python -m stages.divergence <student> <method>
"""

from __future__ import annotations

import argparse

from distill.evaluation import measures
from distill.evaluation.traces import Trace, read_samples, write_traces
from distill.project.errors import DataError, run_stage
from distill.project.progress import Progress


def main() -> None:
    """Write measures/<student>/<method>/traces.parquet."""
    from distill.evaluation.divergence import sample, trace
    from distill.text.examples import read_examples
    from distill.text.tokenizers import id_count
    from stages.cell import read_cell

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    parser.add_argument("method")
    arguments = parser.parse_args()
    cell = read_cell(arguments.student, arguments.method)
    experiment = cell.experiment
    seeds = experiment.evaluation.seeds
    prompts = [example.prompt_ids for example in read_examples(experiment.data / "valid.parquet")]
    samples = read_samples(measures.samples_path(experiment.family))
    if list(samples) != list(seeds) or any(len(each) != len(prompts) for each in samples.values()):
        raise DataError("the teacher's samples are not those of these prompts and seeds; run `dvc repro` to make them")
    student, teacher = cell.load(), experiment.load(experiment.teacher)
    batch = experiment.hardware.largest_micro_batch()
    own: list[Trace] = []
    teachers: list[Trace] = []
    with Progress(cell.stage("divergence"), len(seeds), unit="seed") as progress:
        for seed in seeds:
            responses = sample(
                student,
                prompts,
                seed,
                max_new_tokens=cell.prompt.max_response_tokens,
                eos_id=int(cell.tokenizer.eos_token_id),
                vocabulary=id_count(cell.tokenizer),
                batch_size=experiment.hardware.decode_batch,
            )
            ids, states = [response.ids for response in responses], [response.hidden for response in responses]
            own += trace(student, teacher, "own", prompts, seed, ids, batch, states)
            teachers += trace(student, teacher, "teacher", prompts, seed, samples[seed], batch)
            progress.advance()
    write_traces(measures.traces_path(arguments.student, arguments.method), {"own": own, "teacher": teachers})


if __name__ == "__main__":
    run_stage(main)
