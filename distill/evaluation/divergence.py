"""How far a student q is from its teacher p at every token of a response: KL(q || p) and KL(p || q).

Both are exact sums over the vocabulary rather than sampled log-ratios, at the prefixes of two kinds of responses:
the student's own samples and the teacher's. What is made of them stands in `traces.py` and `exposure.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.evaluation.traces import Trace
from distill.generation.decode import sample_responses
from distill.models.parts import backbone, head, shared_vocabulary
from distill.project.randomness import key
from distill.text.batches import IGNORED, collate
from distill.text.examples import Example

# Positions whose two distributions over the vocabulary stand in memory at once.
_POSITIONS = 1024


def sample(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    *,
    max_new_tokens: int,
    eos_id: int,
    batch_size: int,
) -> list[list[int]]:
    """One plain ancestral sample for each seed and prompt, seed by seed; two models get the same random numbers."""
    pairs = [(seed, i) for seed in seeds for i in range(len(prompts))]
    responses = sample_responses(
        model,
        [prompts[i] for _, i in pairs],
        [key(seed, "divergence", i) for seed, i in pairs],
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        batch_size=batch_size,
    )
    return [response.ids for response in responses]


@torch.no_grad()
def trace(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    responses: Sequence[list[int]],
    batch_size: int,
) -> list[Trace]:
    """Both divergences at every token of `responses`, which lie as `sample` gives them."""
    places = [(seed, i) for seed in seeds for i in range(len(prompts))]
    examples = [
        Example(row, prompts[i], ids, "") for row, ((_, i), ids) in enumerate(zip(places, responses, strict=True))
    ]
    examples.sort(key=lambda e: len(e.prompt_ids) + len(e.response_ids))
    traces: dict[int, Trace] = {}
    student.eval()
    teacher.eval()
    for start in range(0, len(examples), batch_size):
        group = examples[start : start + batch_size]
        reverse, forward = _divergences(student, teacher, group)
        first = 0
        for example in group:
            own = slice(first, first := first + len(example.response_ids))
            seed, prompt = places[example.index]
            traces[example.index] = Trace(prompt, seed, reverse[own].tolist(), forward[own].tolist())
    return [traces[row] for row in range(len(places))]


def _divergences(student: PreTrainedModel, teacher: PreTrainedModel, group: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """(KL(q || p), KL(p || q)) at the response tokens of a batch, row after row."""
    batch = {name: values.to(student.device) for name, values in collate(group).items()}
    # The token at position t is predicted from position t - 1. Right padding needs no mask in a causal model.
    kept = batch["labels"][:, 1:] != IGNORED
    hidden = [
        backbone(model)(input_ids=batch["input_ids"], use_cache=False).last_hidden_state[:, :-1][kept]
        for model in (student, teacher)
    ]
    vocabulary = shared_vocabulary(student, teacher)
    reverse, forward = [], []
    for start in range(0, len(hidden[0]), _POSITIONS):
        logq, logp = (
            head(model)(states[start : start + _POSITIONS])[:, :vocabulary].float().log_softmax(-1)
            for model, states in zip((student, teacher), hidden, strict=True)
        )
        reverse.append((logq.exp() * (logq - logp)).sum(-1))
        forward.append((logp.exp() * (logp - logq)).sum(-1))
    return torch.cat(reverse).cpu(), torch.cat(forward).cpu()
