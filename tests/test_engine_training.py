"""Whole MiniLLM runs: thirty steps bring the exact reverse KL down, with every kind of settings."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from tests.tiny_models import EOS, tiny_model

VOCABULARY, LONGEST = 5, 3
PROMPTS = [[3], [1, 2], [4, 4, 1], [2, 3]]


@torch.no_grad()
def logprobs(model: PreTrainedModel, prompt: list[int], responses: Tensor) -> Tensor:
    """log-probability of each of `responses` [R, T] as a whole, [R]."""
    ids = torch.cat([torch.tensor([prompt]).expand(len(responses), -1), responses], dim=1)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, len(prompt) - 1 : -1]
    found: Tensor = logits.double().log_softmax(-1).gather(-1, responses[..., None]).squeeze(-1).sum(-1)
    return found


def exact_kl(student: PreTrainedModel, teacher: PreTrainedModel) -> float:
    """KL[student || teacher] of whole responses, a mean over prompts, by enumeration."""
    inner = range(1, VOCABULARY)
    grids = [torch.tensor([(*p, EOS) for p in product(inner, repeat=n)]) for n in range(LONGEST)]
    grids.append(torch.tensor(list(product(inner, repeat=LONGEST))))
    kl = 0.0
    for prompt, responses in product(PROMPTS, grids):
        logq, logp = (logprobs(model, prompt, responses) for model in (student, teacher))
        kl += float((logq.exp() * (logq - logp)).sum()) / len(PROMPTS)
    return kl


def distilled(**given: Any) -> tuple[OnPolicyRun, PreTrainedModel]:
    """A 30-step run on a student that starts far from its teacher; the start comes beside it."""
    chosen: dict[str, Any] = {"max_steps": 30, "learning_rate": 5e-3, "warmup_steps": 2, "evaluate_every": 10}
    settings = MiniLLMSettings(**chosen, rollouts=64, minibatch=32, inner_epochs=2, **given)
    start, student, teacher = (
        tiny_model(vocabulary=VOCABULARY, layers=1, seed=s, dtype=torch.float32) for s in (0, 0, 1)
    )

    def validate(model: PreTrainedModel) -> dict[str, float]:
        return {"rouge_l": -exact_kl(model, teacher)}

    run = OnPolicyRun(
        student, teacher, Task(PROMPTS, LONGEST, EOS), MiniLLM(), settings, Execution(32, 64), 0, validate
    )
    run.train()
    return run, start


CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "on policy": {"teacher_mix_alpha": 0.0},
    "the teacher's samples alone": {"teacher_mix_alpha": 1.0},
    "paper": {"preset": "paper"},
    "reference": {"preset": "reference"},
    "sampled, no single step": {"rewards": "sampled", "single_step": False},
    "single step alone": {"policy_gradient": False},
}


@pytest.mark.parametrize("name", CASES)
def test_thirty_steps_reduce_reverse_kl(name: str) -> None:
    run, start = distilled(**CASES[name])
    before, after = exact_kl(start, run.teacher), exact_kl(run.student, run.teacher)
    assert after < 0.5 * before
    # The run's own curve, of fresh rollouts, tells the same story.
    curve = [value for _, value in run.curves.points["reverse_kl"]]
    assert curve[-1] < 0.5 * curve[0]
