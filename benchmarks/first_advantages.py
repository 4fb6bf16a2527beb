"""First advantages of the ablations' arms: the mean of the end-of-sequence token and of all other tokens.

Their difference is an arm's push towards ending the answers, before any training.

    python -m benchmarks.first_advantages        writes docs/first_advantages_table.md; seconds
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.ablations import ARMS
from benchmarks.workspace import ROOT
from distill.models.loading import load_model
from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.returns import whitened
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.rollouts import Collection, assemble, collect
from distill.project.files import write_text
from distill.text.examples import read_examples
from distill.text.tokenizers import load_tokenizer

CHOSEN = (
    "default",
    "without length norm",
    "sampled rewards",
    "unwhitened",
    "unwhitened, without length norm",
    "whitened over the padded grid",
    "preset paper",
    "preset reference",
)
LONGEST = 80
SIZE = {"max_steps": 1, "learning_rate": 1e-3, "rollouts": 512, "minibatch": 512}


def line(name: str, rollouts: Collection) -> str:
    """One arm's line of the table."""
    settings = MiniLLMSettings.model_validate({**SIZE, **ARMS[name].settings})
    collection = assemble(rollouts.prompts, rollouts.responses, settings, MiniLLM(), LONGEST)
    values = whitened(collection.advantages, collection.mask, settings.whiten)
    ends = torch.zeros_like(collection.mask)
    for row, response in enumerate(collection.responses):
        ends[row, len(response.ids) - 1] = not response.truncated
    end, rest, all_ = values[ends], values[collection.mask & ~ends], values[collection.mask]
    cells = [f"{end.mean():.2f}", f"{rest.mean():.2f}", f"{end.mean() - rest.mean():.2f}", f"{all_.std():.2f}"]
    return f"| {' | '.join([name, *cells])} |"


def main() -> None:
    """Sample once, from the mixture of the default, and write the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    student, teacher = (load_model(ROOT / "runs" / name, "float32").eval() for name in ("tiny/init", "toy/teacher"))
    prompts = [example.prompt_ids for example in read_examples(ROOT / "data/toy/train.parquet", 1000)]
    settings = MiniLLMSettings.model_validate(SIZE)
    eos = int(str(load_tokenizer(ROOT / "data/toy/tokenizer").eos_token_id))
    rollouts = collect(
        student,
        teacher,
        prompts,
        settings,
        MiniLLM(),
        number=0,
        seed=0,
        max_new_tokens=LONGEST,
        eos_id=eos,
        batch_size=256,
    )
    lines = ["| arm | end of sequence | other tokens | difference | standard deviation |", "|---|---:|---:|---:|---:|"]
    lines += [line(name, rollouts) for name in CHOSEN]
    print("\n".join(lines))
    write_text(ROOT / "docs/first_advantages_table.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
