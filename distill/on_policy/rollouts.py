"""Collecting responses to train on (Algorithm 1, first lines).

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
from distill.models.parts import head, label_logprobs, precise, shared_vocabulary
from distill.on_policy.passes import response_hidden, right_pad
from distill.parallel.processes import ALONE, Processes
from distill.project.randomness import key, permutation, rng

if TYPE_CHECKING:
    from distill.on_policy.objective import OwnSampleObjective
    from distill.on_policy.settings import OnPolicySettings


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
        # Data responses keep their length whatever the student does, so a mean with them would hide a collapse.
        sampled = [r for r, own in zip(self.responses, self.sampled.tolist(), strict=True) if own]
        watched = sampled or self.responses
        tokens = sum(len(r.ids) for r in watched)
        return {
            # One division at the end: a mean of each response's mean would weigh tokens of short ones more.
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
            # A batch steps as often as its longest response: tokens / slots is the share of rows still written.
            slots += len(chosen) * max(len(responses[i].ids) for i in chosen)
        positions = sum(map(len, prompts)) + tokens - len(responses)
        return {"tokens": tokens, "positions": positions, "padded": positions + padding, "slots": slots}


def prompt_stream(count: int, seed: int, start: int, length: int) -> list[int]:
    """Places `start` … `start + length - 1` of an endless stream of `count` prompts, shuffled anew each epoch."""
    orders: dict[int, list[int]] = {}
    chosen = []
    for place in range(start, start + length):
        # The order is keyed by the epoch, not shuffled from the one before: a resumed run needs no history.
        epoch, offset = divmod(place, count)
        if epoch not in orders:
            orders[epoch] = permutation(count, seed, "prompts", epoch)
        chosen.append(orders[epoch][offset])
    return chosen


def sampled_prompts(share: float, seed: int, start: int, length: int) -> list[bool]:
    """Which places `start` … `start + length - 1` of the prompt stream are sampled for, each with chance `share`.

    Keyed by the place alone: neither processes nor a resume change a draw.
    """
    # random() lies in [0, 1): below a share of 0 it never is, and below 1 always, so that 1 needs no draw.
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
    # The key is the turn in the whole run, so that a response is the same in whichever process it is sampled.
    mine = processes.share(list(zip(places, sampled, range(first, first + settings.rollouts), strict=True)))
    own = [(prompts[place], key(seed, "rollout", turn)) for place, drawn, turn in mine if drawn]
    responses = sample_responses(
        student,
        [prompt for prompt, _ in own],
        [random for _, random in own],
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        batch_size=batch_size,
        # With alpha 0 the teacher need not decode: one pass over finished responses reads all tokens at once.
        mixture=Mixture(teacher, settings.teacher_mix_alpha) if settings.teacher_mix_alpha else None,
        vocabulary=shared_vocabulary(student, teacher),
        # Kept own states let that pass form KL(q||p) from the student's head alone, without a second student pass.
        keep="teacher states" if settings.teacher_mix_alpha else "own states",
        on_batch=on_batch,
    )
    if not settings.teacher_mix_alpha:
        score_with_teacher(student, teacher, [prompt for prompt, _ in own], responses, batch_size)
    if not all(drawn for _, drawn, _ in mine):
        given = [place for place, drawn, _ in mine if not drawn]
        read = read_responses(student, teacher, [prompts[i] for i in given], [data[i] for i in given], batch_size)
        # Back to the order of turns, since `joined` takes the shares apart by place.
        drawn_ones, given_ones = iter(responses), iter(read)
        responses = [next(drawn_ones if drawn else given_ones) for _, drawn, _ in mine]
    # Before `joined`, or this process would wait there while the others wait for it in a pass of the teacher.
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
        # Positions come row after row, so that lengths alone cut the states into responses.
        states = response_hidden(student, ids.to(student.device), positions.to(student.device))
        for row, hidden in zip(group, states.split([len(row) for row in group]), strict=True):
            known = label_logprobs(student, hidden, torch.tensor(row, device=hidden.device), vocabulary).cpu()
            found.append(
                Response(
                    ids=list(row),
                    truncated=False,
                    logprobs=known,
                    # No draw to correct for: with q itself as behaviour the ratio is 1 before the first update.
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
    # Similar lengths waste little on padding; results go back by index, so the order has no other effect.
    order = sorted(range(len(responses)), key=lambda i: len(prompts[i]) + len(responses[i].ids))
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        ids, positions = right_pad([prompts[i] for i in members], [responses[i].ids for i in members])
        states = response_hidden(teacher, ids.to(teacher.device), positions.to(teacher.device))
        for i, hidden in zip(members, states.split([len(responses[i].ids) for i in members]), strict=True):
            response = responses[i]
            # Both cut before the softmax: distributions over the same ids, or the KL would not be one.
            logp = precise(head(teacher)(hidden)[:, :vocabulary]).log_softmax(-1)
            logq = precise(head(student)(response.hidden.to(hidden.device))[:, :vocabulary]).log_softmax(-1)
            tokens = torch.tensor(response.ids, device=hidden.device)[:, None]
            response.teacher_logprobs = logp.gather(-1, tokens).squeeze(-1).cpu()
            # From logarithms: where exp(log q) underflows to 0 the difference is still finite, and the term 0, not nan.
            response.kl = (logq.exp() * (logq - logp)).sum(-1).cpu()
            response.teacher_hidden = hidden.cpu()
            # Updates change the student, so that its states are stale from here on; the teacher's stay true.
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
    # The limit, not this collection's longest row: whitening over the grid counts the padding as well.
    width = max(longest, *(len(response.ids) for response in responses))
    mask = torch.zeros(len(responses), width, dtype=torch.bool)
    for row, response in enumerate(responses):
        mask[row, : len(response.ids)] = True

    def grid(name: str) -> Tensor:
        known = torch.cat([getattr(response, name) for response in responses])
        # True places of the mask are filled row by row, the order in which the responses were put end to end.
        return known.new_zeros(mask.shape).masked_scatter(mask, known)

    found = objective.advantages(settings, grid("teacher_logprobs"), grid("logprobs"), grid("kl"), mask)
    own = torch.tensor([True] * len(responses) if sampled is None else list(sampled))
    return Collection(prompts, responses, found, mask, own)
