"""Validation during training: sample one response a prompt as the final evaluation does, and score Rouge-L."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.generation.decode import sample_responses
from distill.generation.settings import SamplingSettings
from distill.models.parts import backbone, label_logprobs
from distill.parallel.processes import ALONE, Processes
from distill.project.errors import TrainingError
from distill.project.randomness import key
from distill.runs.selection import By
from distill.text.batches import IGNORED, collate
from distill.text.examples import Example
from distill.text.rouge import mean_rouge_l
from distill.text.words import PAPER, Words, legibility


def decode_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of a response: special tokens left out, surrounding whitespace stripped."""
    text = tokenizer.decode(list(ids), skip_special_tokens=True)
    return str(text).strip()


class Validation:
    """A validation set bound to a tokenizer and decoding settings; call it with a model."""

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: PreTrainedTokenizerBase,
        sampling: SamplingSettings,
        max_new_tokens: int,
        batch_size: int,
        seed: int,
        processes: Processes = ALONE,
        words: Words = PAPER,
    ) -> None:
        """The same `seed` draws the same uniform numbers at every validation of a run.

        Several `processes` call it together; each answers its share of the examples.
        """
        self.processes = processes
        self.examples, self.tokenizer, self.sampling = examples, tokenizer, sampling
        self.max_new_tokens, self.batch_size, self.seed = max_new_tokens, batch_size, seed
        self.words = words

    def selector(self, wanted: By) -> By:
        """What is to choose checkpoints: what is `wanted`, or the loss where Rouge-L can read hardly any reference."""
        return "loss" if legibility(([e.reference] for e in self.examples), self.words).blind else wanted

    def __call__(self, model: PreTrainedModel) -> dict[str, float]:
        """`rouge_l` (0-100), `loss` (nats a token of the reference responses) and `response_tokens` (mean).

        Raises: TrainingError when the loss is not finite; such a model has nothing to sample from.
        """
        # Before the sampling, which has no distribution to draw from where logits are nan.
        loss = reference_loss(model, self.examples, self.batch_size, self.processes)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the validation loss is {loss}: the weights are no numbers any more; lower `learning_rate` "
                "or raise `warmup_steps`"
            )
        mine = self.processes.share(self.examples)
        responses = sample_responses(
            model,
            [e.prompt_ids for e in mine],
            # By the row and not its place in a share: neither processes nor the step change a draw, so that a change
            # in Rouge-L comes from the weights.
            [key(self.seed, "validation", e.index) for e in mine],
            max_new_tokens=self.max_new_tokens,
            eos_id=int(self.tokenizer.eos_token_id),
            batch_size=self.batch_size,
            sampling=self.sampling,
        )
        # In the order before sharing, which is that of the references.
        answers = self.processes.joined([response.ids for response in responses])
        texts = [decode_text(self.tokenizer, ids) for ids in answers]
        return {
            "rouge_l": mean_rouge_l(texts, [[e.reference] for e in self.examples], self.words),
            "loss": loss,
            "response_tokens": sum(map(len, answers)) / len(answers),
        }


@torch.no_grad()
def reference_loss(
    model: PreTrainedModel, examples: Sequence[Example], batch_size: int, processes: Processes = ALONE
) -> float:
    """-log q of the reference responses, a mean over their tokens; each process adds its share."""
    was_training = model.training
    model.eval()
    ordered = processes.share(sorted(examples, key=lambda e: len(e.prompt_ids) + len(e.response_ids)))
    total, tokens = 0.0, 0
    for start in range(0, len(ordered), batch_size):
        group = ordered[start : start + batch_size]
        batch = {name: values.to(model.device) for name, values in collate(group).items()}
        labels = batch["labels"][:, 1:]
        # Right padding needs no mask in a causal model: no real token looks at it.
        hidden = backbone(model)(input_ids=batch["input_ids"], use_cache=False).last_hidden_state[:, :-1]
        kept = labels != IGNORED
        known = label_logprobs(model, hidden[kept], labels[kept])
        total -= float(known.sum())
        tokens += len(known)
    model.train(was_training)
    # Totals and one division: a mean of means would weigh a short share like a long one.
    sums = processes.sum(torch.tensor([total, tokens], dtype=torch.float64))
    return float(sums[0] / sums[1])
