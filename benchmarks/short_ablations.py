"""The arms of `benchmarks.ablations` with large effects, in minutes: 96 steps at one learning rate, one seed.

It finds two faults of an implementation quickly: answers must shorten without length norm and whitening, and scores
must fall without the single step. Differences of less than about three points mean nothing here: nothing is swept and
nothing repeated.

    python -m benchmarks.short_ablations        writes docs/ablations_short_table.md; about 4 CPU minutes
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.ablations import ARMS
from benchmarks.workspace import ROOT
from distill.generation.settings import SamplingSettings
from distill.generation.validation import Validation
from distill.models.loading import load_model
from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from distill.on_policy.plaintext import token_stream
from distill.on_policy.rollouts import collect
from distill.project.files import write_text
from distill.text.examples import read_documents, read_examples
from distill.text.tokenizers import load_tokenizer

STEPS, RATE, LONGEST, ROWS = 96, 2e-3, 80, 1000
CHOSEN = (
    "default",
    "without length norm",
    "without single step",
    "unwhitened",
    "unwhitened, without length norm",
    "unwhitened, without single step",
    "without policy gradient",
    "without teacher mixing (alpha 0)",
    "alpha 1",
    "with L_PT",
    "preset paper",
    "preset reference",
    "weak start",
    "weak start, without teacher mixing",
    "weak start, without policy gradient",
)
HEAD = "| arm | valid Rouge-L: start, middle, end | answer tokens: start, end | reverse KL, own samples | collapse |"


def measure(name: str) -> str:
    """Train one arm; return its line of the table, measured at its last weights and not its best."""
    arm, data = ARMS[name], ROOT / "data/toy"
    tokenizer = load_tokenizer(data / "tokenizer")
    eos = int(str(tokenizer.eos_token_id))
    rows = [example.prompt_ids for example in read_examples(data / "train.parquet", ROWS)]
    plain = token_stream(tokenizer(read_documents(data / "corpus.parquet"))["input_ids"], eos)
    schedule: dict[str, Any] = {
        "max_steps": STEPS,
        "evaluate_every": STEPS // 2,
        "warmup_steps": 10,
        "schedule": "cosine",
    }
    settings = MiniLLMSettings(**schedule, learning_rate=RATE, **arm.settings)
    faults: list[str] = []
    own: list[float] = []

    def after_step(run: OnPolicyRun) -> None:
        if run.step == STEPS:
            alone = settings.model_copy(update={"teacher_mix_alpha": 0.0})
            last = collect(
                run.student,
                run.teacher,
                rows,
                alone,
                MiniLLM(),
                number=10_000,
                seed=0,
                max_new_tokens=LONGEST,
                eos_id=eos,
                batch_size=256,
            )
            own.append(last.metrics()["reverse_kl"])

    run = OnPolicyRun(
        load_model(ROOT / "runs/tiny" / arm.start, "float32"),
        load_model(ROOT / "runs/toy/teacher", "float32"),
        Task(rows, LONGEST, eos, plain),
        MiniLLM(),
        settings,
        Execution(64, 256),
        0,
        Validation(read_examples(data / "valid.parquet"), tokenizer, SamplingSettings(), LONGEST, 256, 0),
        lambda fault: faults.append(str(fault).partition(",")[0]),
    )
    run.train(after_step)
    rouge, tokens = (
        [value for _, value in run.curves.points[f"valid_{name}"]] for name in ("rouge_l", "response_tokens")
    )
    cells = [name, ", ".join(f"{value:.1f}" for value in rouge), f"{tokens[0]:.1f}, {tokens[-1]:.1f}"]
    return f"| {' | '.join([*cells, f'{own[0]:.2f}', faults[0] if faults else ''])} |"


def main() -> None:
    """Run the arms in order and write the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    lines = [HEAD, "|---|---|---|---:|---|"]
    for name in CHOSEN:
        lines.append(measure(name))
        print(lines[-1], flush=True)
    said = f"{STEPS} steps at {RATE:g}, seed 0, last weights; {time.process_time() - began:.0f} CPU s."
    write_text(ROOT / "docs/ablations_short_table.md", "\n".join([said, "", *lines]) + "\n")


if __name__ == "__main__":
    main()
