"""DVC stage: reverse and forward KL between a teacher and every method's student, on the validation prompts.

python -m stages.divergence <student>
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from distill.evaluation.traces import Traces, summarize, write_traces
from distill.project.errors import run_stage
from distill.project.files import write_json
from distill.project.progress import Progress
from distill.project.table import read_table


def main() -> None:
    """Write analyses/<student>/divergence.json, nats a token by method, and the traces it is made of."""
    from distill.evaluation.divergence import sample, trace
    from distill.text.examples import read_examples
    from distill.text.tokenizers import id_count
    from stages.experiment import read_experiment

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    experiment = read_experiment(parser.parse_args().student, "divergence")
    methods, seeds = read_table().methods, experiment.evaluation.seeds
    prompts = [example.prompt_ids for example in read_examples(experiment.data / "valid.parquet")]
    tokenizer = experiment.tokenizer()
    draw = partial(
        sample,
        prompts=prompts,
        max_new_tokens=experiment.prompt.max_response_tokens,
        eos_id=int(tokenizer.eos_token_id),
        vocabulary=id_count(tokenizer),
        batch_size=experiment.hardware.decode_batch,
    )
    batch = experiment.hardware.largest_micro_batch()
    teacher = experiment.load(experiment.teacher)
    found: dict[str, Traces] = {}
    with Progress(experiment.name, 1 + len(methods), unit="model") as progress:
        keep = experiment.hardware.cache_teacher
        reference = {seed: draw(teacher, seed=seed, keep_states=keep) for seed in seeds}
        progress.advance()
        for method in methods:
            student = experiment.load(Path("runs") / experiment.who / method)
            own, teachers = [], []
            for seed in seeds:
                responses = draw(student, seed=seed)
                own += trace(student, teacher, "own", prompts, seed, responses, batch)
                teachers += trace(student, teacher, "teacher", prompts, seed, reference[seed], batch)
            found[method] = {"own": own, "teacher": teachers}
            progress.advance()
    folder = Path("analyses") / experiment.who
    write_traces(folder / "traces.parquet", found)
    write_json(folder / "divergence.json", summarize(found, experiment.seed))


if __name__ == "__main__":
    run_stage(main)
