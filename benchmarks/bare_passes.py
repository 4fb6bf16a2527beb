"""The passes of a finished MiniLLM cycle, repeated alone: the bound that the engine's cost is compared with.

No sampling, statistics, losses or optimiser; the same models, cache, batches and lengths, and the heads where the
cycle applies them.
"""

from __future__ import annotations

import time

import torch
from transformers import PreTrainedModel

from distill.generation.cache import CachedModel
from distill.generation.decode import similar_lengths
from distill.generation.frontier import left_pad
from distill.models.parts import head
from distill.objectives.minillm.objective import MiniLLM
from distill.on_policy.loop import OnPolicyRun
from distill.on_policy.packing import micro_batches
from distill.on_policy.passes import response_hidden
from distill.project.randomness import permutation


def bare_seconds(run: OnPolicyRun) -> dict[str, float]:
    """CPU seconds of the last collection's decode passes (`collect`) and of its updates' (`update`)."""
    assert run.collection is not None
    prompts = run.collection.prompts
    lengths = [len(response.ids) for response in run.collection.responses]
    began = time.process_time()
    for chosen in similar_lengths(prompts, run.machine.decode_batch):
        for model in (run.student, run.teacher):
            # The longest first, so that rows leave at the end of the batch and none is moved.
            order = sorted(chosen, key=lambda i: -lengths[i])
            _decode(model, [prompts[i] for i in order], [lengths[i] for i in order])
    return {"collect": time.process_time() - began, "update": _update_seconds(run)}


@torch.no_grad()
def _decode(model: PreTrainedModel, prompts: list[list[int]], lengths: list[int]) -> None:
    """Feed the prompts and every response token but its last; `lengths` descend."""
    cached = CachedModel(model, len(prompts))
    ids, mask = left_pad(prompts, 0, model.device)
    # The first real token has position 0; padding before it is masked, so its position does not matter.
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    head(model)(cached.read(ids, mask, positions))
    # A response's last token is only predicted, never fed, so a row takes one step less than it has tokens.
    for step in range(1, lengths[0]):
        rows = sum(length > step for length in lengths)
        if rows < len(mask):
            cached.keep_rows(torch.arange(rows))
        mask = torch.cat([mask[:rows], mask.new_ones(rows, 1)], dim=-1)
        positions = positions[:rows, -1:] + 1
        # Any ids cost the same, so those of the prompts stand for the tokens that were sampled.
        head(model)(cached.advance(ids[:rows, :1], mask, positions))


def _update_seconds(run: OnPolicyRun) -> float:
    """Forward and backward passes of all inner epochs, and the teacher's head beside them."""
    settings, collection = run.settings, run.collection
    assert collection is not None
    number = run.settings.max_steps // run.settings.steps_per_collection - 1
    batches = []
    for epoch in range(settings.inner_epochs):
        order = permutation(settings.rollouts, run.seed, "inner epoch", number, epoch)
        for first in range(0, len(order), settings.minibatch):
            chosen = order[first : first + settings.minibatch]
            batches += micro_batches(
                collection, chosen, settings, MiniLLM(), run.machine.micro_batch, run.student.device
            )
    # Batches were built before the clock starts: packing is not a pass.
    began = time.process_time()
    for batch in batches:
        logits = head(run.student)(response_hidden(run.student, batch.ids, batch.positions))
        with torch.no_grad():
            head(run.teacher)(batch.packed.teacher_hidden)
        # The backward pass costs the same for any gradient of this shape.
        logits.backward(torch.full_like(logits, 1e-6))
    seconds = time.process_time() - began
    run.student.zero_grad(set_to_none=True)
    return seconds
