"""A MiniLLM cycle with the passes of the authors' released code: the baseline for our cost.

Written plainly over the same stock models, the same random numbers and preset `reference`, so that its losses equal
ours to rounding. Passes that the released code makes and ours does not (sampler, reward, losses):

    2 D_s + D_t     mixed decode, then a student-only decode that feeds nothing but a logged reverse KL
    3 F_s + 3 F_t   the rollouts scored twice by each model, the student-only responses once
    4 (3 F_s + F_t) each inner epoch trains the student and runs the frozen teacher again

Every sequence is padded to the longest prompt and the response limit, a batch decodes until its slowest row ends,
and logits are [B, P+T, V] float32. Left out, in its favour: the stored top-k masks, engine and half-precision upkeep.

Shapes: B batch, P prompt, T response limit, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from distill.generation.decode import inverse_cdf, uniforms
from distill.generation.frontier import left_pad
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.rollouts import prompt_stream
from distill.on_policy.schedule import learning_rate
from distill.project.randomness import key, permutation


@dataclass(frozen=True)
class Store:
    """Padded rollouts [B, …] with what the scoring passes found."""

    prompts: Tensor
    prompt_mask: Tensor
    responses: Tensor
    mask: Tensor
    """Valid response tokens [B, T]."""
    logprobs: Tensor
    """log q_old."""
    rewards: Tensor
    weights: Tensor
    """q_old / ((1 - alpha) q_old + alpha p)."""

    def rows(self, index: Tensor) -> Store:
        """Some of the rollouts."""
        return Store(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@torch.no_grad()
def decode(
    models: Sequence[tuple[PreTrainedModel, float]], prompts: Tensor, mask: Tensor, draws: Tensor, end: int
) -> tuple[Tensor, Tensor]:
    """(tokens [B, T], valid [B, T]) sampled from the mixture of `models` with their shares."""
    caches = [DynamicCache(config=model.config) for model, _ in models]
    tokens, valid = torch.full_like(draws, end, dtype=torch.long), torch.zeros_like(draws, dtype=torch.bool)
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    ids, positions = prompts, (mask.cumsum(-1) - 1).clamp(min=0)
    for step in range(draws.shape[1]):
        mixture = torch.zeros(())
        for (model, share), cache in zip(models, caches, strict=True):
            out = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            # Probabilities are mixed, not logits (Eq. 4).
            mixture = mixture + share * out.logits[:, -1].float().softmax(-1)
        drawn = inverse_cdf(mixture, draws[:, step])
        tokens[:, step] = torch.where(ended, end, drawn)
        # Before `ended` takes in this token: the end-of-sequence token itself is part of the response.
        valid[:, step] = ~ended
        ended |= drawn == end
        if ended.all():
            break
        ids, positions = tokens[:, step : step + 1], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)
    return tokens, valid


def response_logits(
    model: PreTrainedModel, prompts: Tensor, prompt_mask: Tensor, tokens: Tensor, valid: Tensor
) -> Tensor:
    """Logits that predict each response token, [B, T, V], cut out of those of the whole padded sequence."""
    mask = torch.cat([prompt_mask, valid.to(prompt_mask.dtype)], dim=-1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model(
        input_ids=torch.cat([prompts, tokens], dim=-1), attention_mask=mask, position_ids=positions, use_cache=False
    )
    # The last position of the prompt, P - 1, predicts the first response token; the last one of all predicts nothing.
    logits: Tensor = out.logits[:, prompts.shape[1] - 1 : -1]
    return logits.float()


def picked(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of tokens, [B, T]."""
    return logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)


class ReferenceCycle:
    """The baseline's training loop; `train` runs whole cycles and returns the losses."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        prompts: Sequence[list[int]],
        settings: MiniLLMSettings,
        response_tokens: int,
        end: int,
        seed: int,
    ) -> None:
        self.student, self.teacher = student.eval(), teacher.eval().requires_grad_(False)
        self.prompts, self.settings, self.end, self.seed = prompts, settings, end, seed
        self.response_tokens = response_tokens
        self.optimiser = torch.optim.AdamW(
            student.parameters(), lr=0.0, betas=settings.betas, eps=1e-8, weight_decay=settings.weight_decay
        )
        self.logged_kl, self.collect_seconds = 0.0, 0.0

    def train(self) -> list[float]:
        """Collect and update until `max_steps`; the loss of every step."""
        settings, losses = self.settings, list[float]()
        for number in range(settings.max_steps // settings.steps_per_collection):
            began = time.process_time()
            store = self.collect(number)
            self.collect_seconds += time.process_time() - began
            for epoch in range(settings.inner_epochs):
                order = torch.tensor(permutation(settings.rollouts, self.seed, "inner epoch", number, epoch))
                for rows in order.split(settings.minibatch):
                    losses.append(self.update(store.rows(rows), len(losses)))
        return losses

    @torch.no_grad()
    def collect(self, number: int) -> Store:
        """Collection `number`, a mini-batch of prompts at a time."""
        first, count = number * self.settings.rollouts, self.settings.rollouts
        chosen = [self.prompts[i] for i in prompt_stream(len(self.prompts), self.seed, first, count)]
        prompts, prompt_mask = left_pad(chosen, self.end, torch.device("cpu"))
        chunks = []
        for rows in torch.arange(count).split(self.settings.minibatch):
            names = [first + int(row) for row in rows]
            chunks.append(self._score(prompts[rows], prompt_mask[rows], names))
        return Store(**{f.name: torch.cat([getattr(chunk, f.name) for chunk in chunks]) for f in fields(Store)})

    def _score(self, prompts: Tensor, prompt_mask: Tensor, names: list[int]) -> Store:
        alpha, student, teacher = self.settings.teacher_mix_alpha, self.student, self.teacher
        # Keyed by the rollout's number over all collections, so that batches change no draw.
        draws = uniforms([key(self.seed, "rollout", name) for name in names], self.response_tokens)
        shares = [(teacher, alpha), (student, 1 - alpha)]
        tokens, valid = decode(shares, prompts, prompt_mask, draws, self.end)
        rollout = (prompts, prompt_mask, tokens, valid)
        logprobs = picked(response_logits(student, *rollout), tokens) * valid
        # Padding gets a reward of 0, so sums over the grid are sums over responses.
        rewards = (picked(response_logits(teacher, *rollout), tokens) - logprobs) * valid / self.settings.reward_scale
        if self.settings.reward_clip is not None:
            rewards = rewards.clamp(-self.settings.reward_clip, self.settings.reward_clip)
        # A second set of responses, used for one logged number only.
        draws = uniforms([key(self.seed, "logged", name) for name in names], self.response_tokens)
        logged, logged_valid = decode([(student, 1.0)], prompts, prompt_mask, draws, self.end)
        alone = (prompts, prompt_mask, logged, logged_valid)
        gap = picked(response_logits(teacher, *alone), logged) - picked(response_logits(student, *alone), logged)
        # At samples of q the mean of exp(gap) is 1: this has the mean of -gap, KL(q || p), and is never below 0.
        self.logged_kl = float(((gap.exp() - 1 - gap) * logged_valid).sum() / logged_valid.sum())
        # The rollouts once more, for the importance weights.
        q = picked(response_logits(student, *rollout), tokens).exp()
        p = picked(response_logits(teacher, *rollout), tokens).exp()
        # Tokens were drawn from the mixture instead of q; the weight makes up for it and is at most 1 / (1 - alpha).
        return Store(*rollout, logprobs, rewards, q / ((1 - alpha) * q + alpha * p))

    def update(self, batch: Store, step: int) -> float:
        """One optimiser step on a mini-batch."""
        rollout = (batch.prompts, batch.prompt_mask, batch.responses, batch.mask)
        student_logits = response_logits(self.student, *rollout)
        with torch.no_grad():
            teacher_logits = response_logits(self.teacher, *rollout)
        loss = self.loss(student_logits, teacher_logits, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.settings.max_grad_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, step)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss.detach())

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, batch: Store) -> Tensor:
        """Clipped policy loss plus single-step reverse KL, both means over valid tokens."""
        clip = self.settings.clip_range
        advantages = self.advantages(batch)
        # q over q_old, times q_old over the mixture: the ratio to what the token was drawn from.
        rho = (picked(student_logits, batch.responses) - batch.logprobs).exp() * batch.weights
        # The larger loss of the two: clipping may take a gain away, never add one.
        policy = torch.maximum(-advantages * rho, -advantages * rho.clamp(1 - clip, 1 + clip))
        q = student_logits.softmax(-1)
        # Cross-entropy less entropy is KL(q || p), exact over the vocabulary.
        entropy = -(q * student_logits.log_softmax(-1)).sum(-1)
        cross_entropy = -(q * teacher_logits.log_softmax(-1)).sum(-1)
        return ((policy + cross_entropy - entropy) * batch.mask).sum() / batch.mask.sum()

    def advantages(self, batch: Store) -> Tensor:
        """Discounted returns over the tokens that remain, whitened over the padded grid, [B, T]."""
        returns = torch.zeros_like(batch.rewards)
        running = torch.zeros(len(returns))
        # Backwards, so that each return is one step from the next; rewards past the end are 0.
        for t in reversed(range(returns.shape[1])):
            running = batch.rewards[:, t] + self.settings.discount * running
            returns[:, t] = running
        remaining = batch.mask.flip(1).cumsum(1).flip(1)
        returns = returns / remaining.clamp(min=1) * batch.mask
        variance, mean = torch.var_mean(returns, correction=0)
        return (returns - mean) * torch.rsqrt(variance + 1e-8)
