"""How far a student q is from its teacher p at every token of a response: KL(q || p) and KL(p || q).

Both are exact sums over the vocabulary rather than sampled log-ratios, at the prefixes of two kinds of responses:
the student's own samples and the teacher's. What is made of them stands in distill/analyses/.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.evaluation.traces import Source, Trace
from distill.generation.decode import Response, sample_responses
from distill.models.parts import backbone, head, positions_at_once, shared_vocabulary
from distill.project.randomness import key
from distill.text.batches import IGNORED, collate
from distill.text.examples import Example

# Positions whose two distributions over the vocabulary stand in memory at once; of a large vocabulary fewer.
_POSITIONS = 1024


def sample(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    seed: int,
    *,
    max_new_tokens: int,
    eos_id: int,
    batch_size: int,
    vocabulary: int | None = None,
    keep_states: bool = True,
) -> list[Response]:
    """One plain ancestral sample for each prompt; two models get the same random numbers.

    Ids from `vocabulary` on are never drawn: the other model, which is to read the sample, may lack them.

    `keep_states` keeps the model's last hidden states with them, which saves `trace` a pass.
    """
    return sample_responses(
        model,
        prompts,
        # Neither model nor batch is in the key: what differs between two models' samples comes from the models.
        [key(seed, "divergence", i) for i in range(len(prompts))],
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        batch_size=batch_size,
        vocabulary=vocabulary,
        keep="own states" if keep_states else "nothing",
    )


@torch.no_grad()
def trace(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    source: Source,
    prompts: Sequence[list[int]],
    seed: int,
    responses: Sequence[list[int]],
    batch_size: int,
    states: Sequence[Tensor] = (),
) -> list[Trace]:
    """Both divergences at every token of the `responses` of one seed, in the order of the prompts.

    `source` says whose samples they are: the student's `own`, or the `teacher`'s. `states` are the last hidden states
    [T, H] of the model that wrote them, where its decode kept them; without them it reads them once more.
    """
    student.eval()
    teacher.eval()
    rows = zip(prompts, responses, strict=True)
    examples = [Example(i, prompt, ids, "") for i, (prompt, ids) in enumerate(rows)]
    # Rows of like length share a batch, which leaves less padding to compute.
    examples.sort(key=lambda e: len(e.prompt_ids) + len(e.response_ids))
    traces: dict[int, Trace] = {}
    for start in range(0, len(examples), batch_size):
        group = examples[start : start + batch_size]
        stored = [states[example.index] for example in group] if states else []
        reverse, forward = divergences(
            student,
            teacher,
            hidden_states(student, group, stored if source == "own" else []),
            hidden_states(teacher, group, stored if source == "teacher" else []),
        )
        # The tokens of all rows lie end to end, without padding between them.
        first = 0
        for example in group:
            own = slice(first, first := first + len(example.response_ids))
            traces[example.index] = Trace(example.index, seed, reverse[own].tolist(), forward[own].tolist())
    return [traces[i] for i in range(len(examples))]


def hidden_states(model: PreTrainedModel, group: Sequence[Example], stored: Sequence[Tensor]) -> Tensor:
    """The last hidden states that predict the group's response tokens, row after row, [tokens, H]; `stored` if kept."""
    if stored:
        # Each was kept when its token was drawn from it, so no shift by one is needed.
        return torch.cat(list(stored)).to(model.device)
    batch = {name: values.to(model.device) for name, values in collate(group).items()}
    # The token at position t is predicted from position t - 1. Right padding needs no mask in a causal model.
    states: Tensor = backbone(model)(input_ids=batch["input_ids"], use_cache=False).last_hidden_state[:, :-1]
    return states[batch["labels"][:, 1:] != IGNORED]


def divergences(
    student: PreTrainedModel, teacher: PreTrainedModel, student_states: Tensor, teacher_states: Tensor
) -> tuple[Tensor, Tensor]:
    """(KL(q || p), KL(p || q)) from the last hidden states of both, [tokens] each."""
    # Cut to the ids that both models have before the softmax, so that both sum to 1 over the same ids.
    vocabulary = shared_vocabulary(student, teacher)
    reverse, forward = [], []
    size = min(_POSITIONS, positions_at_once(student), positions_at_once(teacher))
    for start in range(0, len(student_states), size):
        # float32: half precision would lose the many small terms of a sum over the vocabulary.
        logq, logp = (
            head(model)(states[start : start + size])[:, :vocabulary].float().log_softmax(-1)
            for model, states in ((student, student_states), (teacher, teacher_states))
        )
        # From logarithms, which stay finite where a probability underflows: such a term is 0, not nan.
        reverse.append((logq.exp() * (logq - logp)).sum(-1))
        forward.append((logp.exp() * (logp - logq)).sum(-1))
    return torch.cat(reverse).cpu(), torch.cat(forward).cpu()
