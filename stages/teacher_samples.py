"""DVC stage: what a family's teacher writes to the validation prompts, for the divergences of its students.

python -m stages.teacher_samples <family>
"""

from __future__ import annotations

import argparse

from distill.evaluation import measures
from distill.evaluation.traces import write_samples
from distill.project.errors import run_stage
from distill.project.progress import Progress


def main() -> None:
    """Write measures/<family>/teacher/samples.parquet: token ids, one plain sample a prompt and sampling seed."""
    from distill.evaluation.divergence import sample
    from distill.text.examples import read_examples
    from distill.text.tokenizers import id_count
    from stages.cell import read_cell

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family")
    cell = read_cell(parser.parse_args().family, "teacher")
    experiment = cell.experiment
    prompts = [example.prompt_ids for example in read_examples(experiment.data / "valid.parquet")]
    seeds, teacher = experiment.evaluation.seeds, cell.load()
    samples: dict[int, list[list[int]]] = {}
    with Progress(f"teacher_samples@{experiment.family}", len(seeds), unit="seed") as progress:
        for seed in seeds:
            responses = sample(
                teacher,
                prompts,
                seed,
                max_new_tokens=cell.prompt.max_response_tokens,
                eos_id=int(cell.tokenizer.eos_token_id),
                vocabulary=id_count(cell.tokenizer),
                batch_size=experiment.hardware.decode_batch,
                keep_states=False,
            )
            samples[seed] = [response.ids for response in responses]
            progress.advance()
    write_samples(measures.samples_path(experiment.family), samples)


if __name__ == "__main__":
    run_stage(main)
