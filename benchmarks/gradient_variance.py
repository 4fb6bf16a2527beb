"""The variance of MiniLLM's gradient on the toy profile: sampled rewards, a closed-form baseline, expected rewards.

For two students (the start of training, and the trained one), two mixing weights and five seeds, the gradients of
mini-batches of 64 rollouts are taken at fixed weights, through the production loss, from the same rollouts for every
estimator.

    python -m benchmarks.gradient_variance        writes docs/variance_table.md; about 3 CPU minutes

trace        mean squared distance of a rollout's gradient from the mean: 64 times that of a mini-batch's
relative     trace over the squared length of the mean gradient
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from math import nan, sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.workspace import ROOT
from distill.models.loading import load_model
from distill.models.parts import head, shared_vocabulary
from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.losses import packed_loss
from distill.on_policy.packing import micro_batches
from distill.on_policy.passes import response_hidden
from distill.on_policy.rollouts import Collection, assemble, collect
from distill.project.files import write_text
from distill.text.examples import read_examples
from distill.text.tokenizers import load_tokenizer

STUDENTS = {"Start of training": "runs/tiny/init", "Trained student": "runs/tiny/minillm"}
ALPHAS = (0.0, 0.2)
SEEDS = (0, 1, 2, 3, 4)
BATCHES, BATCH = 8, 64
LONGEST, PROMPTS = 80, 1000

# Neither whitened nor divided by lengths: such factors depend on the samples and would bias an estimate.
PLAIN = {
    "whiten": "none",
    "length_norm": False,
    "discount": 1.0,
    "normalise": "sequences",
    "single_step_weighted": True,
}
LONG_PART = {"single_step": False}
# Groups that estimate the same gradient at alpha 0; in each, ratios are to the first.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "exact": {
        "sampled, from r_t, no single step": {"rewards": "sampled", "return_from": "current", "single_step": False},
        "the same with the closed-form baseline": {
            "rewards": "sampled",
            "return_from": "current",
            "single_step": False,
            "baseline": "closed_form",
        },
        "expected, from r_t, single step": {"rewards": "expected", "return_from": "current"},
        "sampled, from r_(t+1), single step": {"rewards": "sampled", "return_from": "next"},
        "expected, from r_(t+1), single step": {"rewards": "expected", "return_from": "next"},
    },
    "default, whole": {
        "sampled rewards": {"rewards": "sampled"},
        "sampled rewards, closed-form baseline": {"rewards": "sampled", "baseline": "closed_form"},
        "expected rewards": {},
    },
    "default, long part": {
        "sampled rewards": {"rewards": "sampled"},
        "sampled rewards, closed-form baseline": {"rewards": "sampled", "baseline": "closed_form"},
        "expected rewards": {},
    },
    "default, single step": {"single step alone": {"policy_gradient": False}},
}


@dataclass
class Moments:
    """Sums over the mini-batch gradients of one estimator, by seed."""

    total: dict[int, Tensor] = field(default_factory=dict)
    squares: dict[int, float] = field(default_factory=dict)

    def add(self, seed: int, gradient: Tensor) -> None:
        """Take in one mini-batch's gradient, [parameters]."""
        self.total[seed] = self.total.get(seed, torch.zeros(())) + gradient
        self.squares[seed] = self.squares.get(seed, 0.0) + float(gradient.square().sum())

    def traces(self) -> list[float]:
        """Trace of the covariance of one rollout's gradient, by seed."""
        # Squared distances from the seed's own mean, over n - 1: unbiased for one mini-batch. A mean of BATCH rollouts
        # has 1 / BATCH of one rollout's variance, so that factor is put back.
        return [
            BATCH * (self.squares[seed] - float(total.square().sum()) / BATCHES) / (BATCHES - 1)
            for seed, total in self.total.items()
        ]

    def squared_mean(self) -> float:
        """|E g|^2 without the bias of squaring a noisy mean; nan where noise hides it."""
        count = BATCHES * len(self.total)
        whole = float(sum(self.total.values(), torch.zeros(())).square().sum())
        # The squared sum less the squares leaves n (n - 1) products of different mini-batches, whose noise has mean 0.
        found = (whole - sum(self.squares.values())) / (count * (count - 1))
        return found if found > 0 else nan

    def relative(self) -> tuple[float, float]:
        """Trace over |E g|^2, and its standard error by leaving out one seed at a time."""
        seeds = set(self.total)
        without = [self._of(seeds - {seed}) for seed in sorted(seeds)]
        parts = [mean(part.traces()) / part.squared_mean() for part in without]
        count = len(parts)
        # The jackknife's factor: values that share all seeds but one lie n - 1 times closer together than single seeds.
        error = sqrt((count - 1) / count * sum((part - mean(parts)) ** 2 for part in parts))
        return mean(self.traces()) / self.squared_mean(), error

    def _of(self, seeds: set[int]) -> Moments:
        return Moments({s: self.total[s] for s in seeds}, {s: self.squares[s] for s in seeds})


def settings_of(group: str, given: dict[str, Any], alpha: float) -> MiniLLMSettings:
    """The settings of one estimator."""
    base = {"max_steps": 1, "learning_rate": 1e-3, "rollouts": BATCHES * BATCH, "minibatch": BATCH}
    plain = PLAIN if group == "exact" else {}
    found = MiniLLMSettings(**{**base, **plain, **given, "teacher_mix_alpha": alpha})
    # Unchecked, because expected rewards without the single step are refused as an update of its own.
    return found.model_copy(update=LONG_PART) if group == "default, long part" else found


def gradient(
    student: PreTrainedModel, teacher: PreTrainedModel, collection: Collection, chosen: range, settings: MiniLLMSettings
) -> Tensor:
    """The gradient of one mini-batch, all parameters end to end."""
    student.zero_grad()
    vocabulary = shared_vocabulary(student, teacher)
    for batch in micro_batches(collection, chosen, settings, MiniLLM(), BATCH, torch.device("cpu")):
        hidden = response_hidden(student, batch.ids, batch.positions)
        loss, _ = packed_loss(MiniLLM(), settings, hidden, head(student), head(teacher), batch.packed, vocabulary)
        loss.backward()
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


def measure(student: PreTrainedModel, teacher: PreTrainedModel, alpha: float) -> dict[tuple[str, str], Moments]:
    """All estimators on the same rollouts."""
    prompts = [example.prompt_ids for example in read_examples(ROOT / "data/toy/train.parquet", PROMPTS)]
    eos = load_tokenizer(ROOT / "data/toy/tokenizer").eos_token_id
    estimators = {(g, n): settings_of(g, given, alpha) for g, members in GROUPS.items() for n, given in members.items()}
    found = {name: Moments() for name in estimators}
    sampling = settings_of("exact", {}, alpha)
    # One draw of rollouts for all estimators: what differs between them does not come from other samples.
    for seed in SEEDS:
        rollouts = collect(
            student,
            teacher,
            prompts,
            sampling,
            MiniLLM(),
            number=0,
            seed=seed,
            max_new_tokens=LONGEST,
            eos_id=int(str(eos)),
            batch_size=256,
        )
        for name, settings in estimators.items():
            collection = assemble(rollouts.prompts, rollouts.responses, settings, MiniLLM(), LONGEST)
            for start in range(0, BATCHES * BATCH, BATCH):
                chosen = range(start, start + BATCH)
                found[name].add(seed, gradient(student, teacher, collection, chosen, settings))
    return found


def table(found: dict[tuple[str, str], Moments]) -> list[str]:
    """One line an estimator. Ratios of traces are to the group's first: a mean over seeds, ± standard deviation."""
    lines = ["| group | estimator | trace | ratio | length of mean | relative |", "|---|---|---:|---:|---:|---:|"]
    for (group, name), moments in found.items():
        traces, known = moments.traces(), found[group, next(iter(GROUPS[group]))].traces()
        # Seed by seed, over the same rollouts: what the rollouts of a seed have in common cancels.
        ratios = [trace / other for trace, other in zip(traces, known, strict=True)]
        value, error = moments.relative()
        cells = [group, name, f"{mean(traces):.3g}", f"{mean(ratios):.2f} ± {stdev(ratios):.2f}"]
        cells += [f"{sqrt(moments.squared_mean()):.3g}", f"{value:.0f} ± {error:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure both students and write the tables."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    # One thread adds in the same order every time, and its CPU seconds hold no waiting of others.
    torch.set_num_threads(1)
    began = time.process_time()
    teacher = load_model(ROOT / "runs/toy/teacher", "float32").eval().requires_grad_(False)
    text = []
    for title, folder in STUDENTS.items():
        student = load_model(ROOT / Path(folder), "float32").eval()
        for alpha in ALPHAS:
            lines = ["", f"## {title}, α = {alpha:g}", "", *table(measure(student, teacher, alpha))]
            print("\n".join(lines), flush=True)
            text += lines
    spent = f"{time.process_time() - began:.0f} CPU s"
    said = f"{len(SEEDS)} seeds of {BATCHES} mini-batches of {BATCH} rollouts each; {spent}."
    write_text(ROOT / "docs/variance_table.md", "\n".join(["# Variance of the gradient", "", said, *text]) + "\n")


if __name__ == "__main__":
    main()
