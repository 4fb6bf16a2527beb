"""Collecting responses to train on (Algorithm 1, first lines) and packing them into micro-batches.

A response is sampled from the student or from its mixture with the teacher, or, for a share of the prompts, it is the
data's own.

The decode already knows both models' log-probabilities, KL(q||p) and the teacher's hidden states, so nothing is
scored again. That reuse is only right while the decode agrees with a teacher-forced pass; `require_agreement`
checks it on the first collection of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.generation.decode import Mixture, Response, sample_responses, similar_lengths
from distill.models.parts import backbone, head, precise, shared_vocabulary
from distill.on_policy.losses import Packed
from distill.parallel.processes import ALONE, Processes
from distill.project.errors import TrainingError
from distill.project.randomness import key, permutation, rng

if TYPE_CHECKING:
    from distill.on_policy.objective import OwnSampleObjective
    from distill.on_policy.settings import OnPolicySettings

# Largest difference in log-probability between decode and teacher-forced pass: rounding, not a wrong mask.
AGREEMENT = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}


@dataclass(frozen=True)
class Collection:
    """The rollouts of one collection, with their advantages before whitening, [R, T]."""

    prompts: list[list[int]]
    responses: list[Response]
    advantages: Tensor
    mask: Tensor
    sampled: Tensor
    """[R], whether each response was sampled; the others are the data's."""

    def metrics(self) -> dict[str, float]:
        """What a person watches: reverse KL a token, response length, share cut at the limit; of samples if any."""
        sampled = [r for r, own in zip(self.responses, self.sampled.tolist(), strict=True) if own]
        watched = sampled or self.responses
        tokens = sum(len(r.ids) for r in watched)
        return {
            "reverse_kl": sum(float(r.kl.sum()) for r in watched) / tokens,
            "response_tokens": tokens / len(watched),
            "truncated": sum(r.truncated for r in watched) / len(watched),
        }

    @property
    def read_tokens(self) -> int:
        """Tokens of the responses that were not sampled."""
        return sum(len(r.ids) for r, own in zip(self.responses, self.sampled.tolist(), strict=True) if not own)

    def decode_counts(self, batch_size: int) -> dict[str, int]:
        """What decoding it in batches of `batch_size` took of one model: `tokens` drawn, real `positions` fed (the last
        token of a response is not), all positions with the prompts' padding (`padded`), and rows times steps (`slots`).
        """
        places = self.sampled.nonzero().flatten().tolist()
        prompts, responses = [self.prompts[i] for i in places], [self.responses[i] for i in places]
        tokens = sum(len(r.ids) for r in responses)
        padding, slots = 0, 0
        for chosen in similar_lengths(prompts, batch_size):
            widest = max(len(prompts[i]) for i in chosen)
            padding += sum(widest - len(prompts[i]) for i in chosen)
            slots += len(chosen) * max(len(responses[i].ids) for i in chosen)
        positions = sum(map(len, prompts)) + tokens - len(responses)
        return {"tokens": tokens, "positions": positions, "padded": positions + padding, "slots": slots}


def prompt_stream(count: int, seed: int, start: int, length: int) -> list[int]:
    """Places `start` … `start + length - 1` of an endless stream of `count` prompts, shuffled anew each epoch."""
    orders: dict[int, list[int]] = {}
    chosen = []
    for place in range(start, start + length):
        epoch, offset = divmod(place, count)
        if epoch not in orders:
            orders[epoch] = permutation(count, seed, "prompts", epoch)
        chosen.append(orders[epoch][offset])
    return chosen


def sampled_prompts(share: float, seed: int, start: int, length: int) -> list[bool]:
    """Which places `start` … `start + length - 1` of the prompt stream are sampled for, each with chance `share`.

    Keyed by the place alone: neither processes nor a resume change a draw.
    """
    return [share >= 1 or rng(seed, "own share", start + i).random() < share for i in range(length)]


def collect(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    prompts: Sequence[list[int]],
    settings: OnPolicySettings,
    objective: OwnSampleObjective,
    *,
    number: int,
    seed: int,
    max_new_tokens: int,
    eos_id: int,
    batch_size: int,
    data: Sequence[list[int]] = (),
    on_batch: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
    settle: Callable[[], None] | None = None,
) -> Collection:
    """Collect responses to the prompts of collection `number` of a run, divided over `processes`.

    They are sampled from the mixture of teacher and student, but for the share of prompts that keep their response of
    the `data`. `settle` is called when this process needs no more of the teacher.
    """
    first = number * settings.rollouts
    places = prompt_stream(len(prompts), seed, first, settings.rollouts)
    chosen = [prompts[i] for i in places]
    sampled = sampled_prompts(settings.own_share, seed, first, settings.rollouts)
    mine = processes.share(list(zip(places, sampled, range(first, first + settings.rollouts), strict=True)))
    own = [(prompts[place], key(seed, "rollout", turn)) for place, drawn, turn in mine if drawn]
    responses = sample_responses(
        student,
        [prompt for prompt, _ in own],
        [random for _, random in own],
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        batch_size=batch_size,
        mixture=Mixture(teacher, settings.teacher_mix_alpha) if settings.teacher_mix_alpha else None,
        vocabulary=shared_vocabulary(student, teacher),
        keep="teacher states" if settings.teacher_mix_alpha else "own states",
        on_batch=on_batch,
    )
    if not settings.teacher_mix_alpha:
        score_with_teacher(student, teacher, [prompt for prompt, _ in own], responses, batch_size)
    if not all(drawn for _, drawn, _ in mine):
        given = [place for place, drawn, _ in mine if not drawn]
        read = read_responses(student, teacher, [prompts[i] for i in given], [data[i] for i in given], batch_size)
        drawn_ones, given_ones = iter(responses), iter(read)
        responses = [next(drawn_ones if drawn else given_ones) for _, drawn, _ in mine]
    if settle is not None:
        settle()
    return assemble(chosen, processes.joined(responses), settings, objective, max_new_tokens, sampled)


@torch.no_grad()
def read_responses(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    batch_size: int,
) -> list[Response]:
    """Responses of the data with all that sampling would have told of them: one pass of each model."""
    found: list[Response] = []
    nothing = torch.empty(0)
    vocabulary = shared_vocabulary(student, teacher)
    for start in range(0, len(prompts), batch_size):
        group = responses[start : start + batch_size]
        ids, positions = right_pad(prompts[start : start + batch_size], group)
        states = response_hidden(student, ids.to(student.device), positions.to(student.device))
        for row, hidden in zip(group, states.split([len(row) for row in group]), strict=True):
            known = _picked(head(student)(hidden)[:, :vocabulary], torch.tensor(row, device=hidden.device)).cpu()
            found.append(
                Response(
                    ids=list(row),
                    truncated=False,
                    logprobs=known,
                    behaviour_logprobs=known,
                    teacher_logprobs=nothing,
                    kl=nothing,
                    teacher_hidden=nothing,
                    hidden=hidden.cpu(),
                )
            )
    score_with_teacher(student, teacher, prompts, found, batch_size)
    return found


@torch.no_grad()
def score_with_teacher(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    prompts: Sequence[list[int]],
    responses: Sequence[Response],
    batch_size: int,
) -> None:
    """Fill in the teacher's part of responses the student sampled alone: one teacher pass (1 F_t) a response."""
    vocabulary = shared_vocabulary(student, teacher)
    order = sorted(range(len(responses)), key=lambda i: len(prompts[i]) + len(responses[i].ids))
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        ids, positions = right_pad([prompts[i] for i in members], [responses[i].ids for i in members])
        states = response_hidden(teacher, ids.to(teacher.device), positions.to(teacher.device))
        for i, hidden in zip(members, states.split([len(responses[i].ids) for i in members]), strict=True):
            response = responses[i]
            logp = precise(head(teacher)(hidden)[:, :vocabulary]).log_softmax(-1)
            logq = precise(head(student)(response.hidden.to(hidden.device))[:, :vocabulary]).log_softmax(-1)
            tokens = torch.tensor(response.ids, device=hidden.device)[:, None]
            response.teacher_logprobs = logp.gather(-1, tokens).squeeze(-1).cpu()
            response.kl = (logq.exp() * (logq - logp)).sum(-1).cpu()
            response.teacher_hidden = hidden.cpu()
            response.hidden = torch.empty(0)


def assemble(
    prompts: list[list[int]],
    responses: list[Response],
    settings: OnPolicySettings,
    objective: OwnSampleObjective,
    longest: int,
    sampled: Sequence[bool] | None = None,
) -> Collection:
    """Responses with their advantages on the grid [R, T]; T is `longest`, the limit of sampling, or a longer row's."""
    width = max(longest, *(len(response.ids) for response in responses))
    mask = torch.zeros(len(responses), width, dtype=torch.bool)
    for row, response in enumerate(responses):
        mask[row, : len(response.ids)] = True

    def grid(name: str) -> Tensor:
        known = torch.cat([getattr(response, name) for response in responses])
        return known.new_zeros(mask.shape).masked_scatter(mask, known)

    found = objective.advantages(settings, grid("teacher_logprobs"), grid("logprobs"), grid("kl"), mask)
    own = torch.tensor([True] * len(responses) if sampled is None else list(sampled))
    return Collection(prompts, responses, found, mask, own)


@dataclass(frozen=True)
class MicroBatch:
    """Right-padded sequences [B, P+T] and where their response tokens' predictions lie among the B * (P+T)."""

    ids: Tensor
    positions: Tensor
    """Flat indices [N] of the positions that predict the packed tokens."""
    packed: Packed
    real: int
    """How many of the B * (P+T) positions are no padding."""


def micro_batches(
    collection: Collection,
    chosen: Sequence[int],
    settings: OnPolicySettings,
    objective: OwnSampleObjective,
    size: int,
    device: torch.device,
    processes: Processes = ALONE,
) -> list[MicroBatch]:
    """Split one mini-batch into micro-batches of similar length; together they are exactly its mean.

    Whitening and normalisation see the whole mini-batch, so the split changes no update; with several
    `processes` these are the micro-batches of this one.
    """
    mask = collection.mask[list(chosen)]
    scaled = objective.scaled(settings, collection.advantages[list(chosen)], mask)
    tokens = int(mask.sum())
    # "sequences": sum over a response's tokens, mean over responses.
    weight = 1.0 / tokens if settings.normalise == "tokens" else 1.0 / len(chosen)

    def length(row: int) -> int:
        return len(collection.prompts[chosen[row]]) + len(collection.responses[chosen[row]].ids)

    rows = processes.share(sorted(range(len(chosen)), key=length))
    return [
        _pack(collection, [(chosen[r], scaled[r]) for r in rows[start : start + size]], weight, device)
        for start in range(0, len(rows), size)
    ]


def _pack(
    collection: Collection, members: Sequence[tuple[int, Tensor]], weight: float, device: torch.device
) -> MicroBatch:
    prompts = [collection.prompts[i] for i, _ in members]
    responses = [collection.responses[i] for i, _ in members]
    ids, positions = right_pad(prompts, [response.ids for response in responses])
    old_logprobs = torch.cat([r.logprobs for r in responses]).to(device)
    packed = Packed(
        tokens=torch.cat([torch.tensor(r.ids) for r in responses]).to(device),
        old_logprobs=old_logprobs,
        behaviour_logprobs=torch.cat([r.behaviour_logprobs for r in responses]).to(device),
        advantages=torch.cat([a[: len(r.ids)] for (_, a), r in zip(members, responses, strict=True)]).to(device),
        weights=torch.full_like(old_logprobs, weight),
        teacher_hidden=torch.cat([r.teacher_hidden for r in responses]).to(device),
    )
    real = sum(map(len, prompts)) + len(old_logprobs) - len(members)
    return MicroBatch(ids.to(device), positions.to(device), packed, real)


def right_pad(prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """(ids [B, P+T-1], flat positions [N] that predict the response tokens, in order)."""
    # The last token is only ever predicted, never fed.
    fed = [prompt + response[:-1] for prompt, response in zip(prompts, responses, strict=True)]
    width = max(map(len, fed))
    ids = torch.zeros(len(fed), width, dtype=torch.long)
    positions = []
    for row, (sequence, prompt, response) in enumerate(zip(fed, prompts, responses, strict=True)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        first = row * width + len(prompt) - 1
        positions.append(torch.arange(first, first + len(response)))
    return ids, torch.cat(positions)


def response_hidden(model: PreTrainedModel, ids: Tensor, positions: Tensor) -> Tensor:
    """Hidden states of the positions that predict response tokens, [N, H].

    Padding is on the right, where a causal model's real tokens never look: no mask is needed.
    """
    hidden: Tensor = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1)[positions]


@torch.no_grad()
def require_agreement(student: PreTrainedModel, teacher: PreTrainedModel, batch: MicroBatch, vocabulary: int) -> float:
    """Check the decode's log-probabilities against a teacher-forced pass; return the largest difference.

    Raises: TrainingError when they differ by more than rounding, naming the model.
    """
    tokens = batch.packed.tokens

    def gap(model: PreTrainedModel, known: Tensor, name: str) -> float:
        limit = AGREEMENT.get(model.dtype, 0.5)
        forced = _picked(head(model)(response_hidden(model, batch.ids, batch.positions))[:, :vocabulary], tokens)
        found = (forced - known).abs().max().item()
        if not found <= limit:
            raise TrainingError(
                f"the {name}'s log-probabilities from decoding and from a plain pass differ by {found:.3g} "
                f"(at most {limit} is rounding): this model's positions or cache are not handled; "
                "please report the architecture, or use a GPT-2, OPT, LLaMA or Qwen2 model"
            )
        return found

    decoded = _picked(head(teacher)(batch.packed.teacher_hidden)[:, :vocabulary], tokens)
    return max(gap(student, batch.packed.old_logprobs, "student"), gap(teacher, decoded, "teacher"))


def _picked(logits: Tensor, tokens: Tensor) -> Tensor:
    return precise(logits).log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
