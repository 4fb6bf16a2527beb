"""Sampling responses from one model, or token by token from a mixture of two (paper Eq. 4).

    p~(y_t | y_<t, x) = alpha * p(y_t | y_<t, x) + (1 - alpha) * q(y_t | y_<t, x)

Both models advance over stock transformers models, with their own caches where these are exact
(`distill.generation.probe`). Rows that have ended leave the batch. Each draw is the inverse of the mixture's
cumulative distribution at a uniform number keyed by the example, so neither batch size nor row order changes what is
drawn. Everything the method later needs about a token (both log-probabilities, KL(q||p) at its position, the teacher's
hidden state) falls out of the decode.

Shapes: B batch, P prompt, T response, V vocabulary, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.generation.frontier import Frontier, places
from distill.generation.probe import DecodingModel, decoding_model
from distill.models.parts import head, precise, shared_vocabulary
from distill.runs.out_of_memory import Fitting

if TYPE_CHECKING:  # settings need pydantic; the decode itself runs where only torch and transformers are
    from distill.generation.settings import SamplingSettings

Keep = Literal["nothing", "own states", "teacher states"]


@dataclass(frozen=True)
class Mixture:
    """The teacher's part in the decode: `alpha` p + (1 - `alpha`) q; alpha 0 only scores with the teacher."""

    teacher: PreTrainedModel
    alpha: float


@dataclass
class Response:
    """One sampled response; tensors have length T, on the CPU. Mixture-only fields are empty without one."""

    ids: list[int]
    """Token ids, the end-of-sequence token included unless `truncated`."""
    truncated: bool
    """The response was cut at the limit and has no end-of-sequence token."""
    logprobs: Tensor
    """log q(y_t) under the sampling model at temperature 1, [T]."""
    teacher_logprobs: Tensor
    """log p(y_t) under the teacher at temperature 1, [T]."""
    behaviour_logprobs: Tensor
    """log of the probability with which the token was drawn, [T]."""
    kl: Tensor
    """KL(q || p) over the whole vocabulary at each position, [T]."""
    teacher_hidden: Tensor
    """The teacher's last hidden states, [T, H]; only when asked for."""
    hidden: Tensor
    """The sampling model's own last hidden states, [T, H]; only when asked for."""


def uniforms(keys: Sequence[int], length: int) -> Tensor:
    """Uniform numbers in [0, 1), [len(keys), length]; row i depends on keys[i] alone."""
    # A generator for each row, on the CPU: neither the rows beside it nor the device changes a row's numbers.
    rows = [torch.rand(length, generator=torch.Generator().manual_seed(key)) for key in keys]
    return torch.stack(rows) if rows else torch.empty(0, length)


def inverse_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [B] drawn from `probabilities` [B, V] at `uniform` [B]; zero-probability tokens are never drawn."""
    cumulative = probabilities.cumsum(-1)
    # Not 1: a float32 sum over the vocabulary is off by some rounding, and u is scaled to it instead.
    total = cumulative[:, -1:]
    # Rounding may put u * total at total itself, which no token would answer to.
    point = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    # `right`: the first token whose sum exceeds the point. One of probability 0 only repeats the sum before it.
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1)


def restrict(logits: Tensor, sampling: SamplingSettings | None) -> Tensor:
    """Apply temperature, top-k and top-p to logits [B, V]; dropped tokens become -inf. None leaves them."""
    if sampling is None:
        return logits
    logits = logits / sampling.temperature
    if sampling.top_k:
        kth = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        # Ties with the k-th all stay: the order of equals in a sort is nothing to choose by.
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        # The mass before a token, without its own: the token that crosses top_p stays, so one always does.
        beyond = probabilities.cumsum(-1) - probabilities >= sampling.top_p
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    return logits


def similar_lengths(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """The prompts' indices in batches of at most `size`, shortest first: how `sample_responses` decodes them."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    return [order[start : start + size] for start in range(0, len(order), size)]


@torch.no_grad()
def sample_responses(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    *,
    max_new_tokens: int,
    eos_id: int,
    batch_size: int,
    sampling: SamplingSettings | None = None,
    mixture: Mixture | None = None,
    vocabulary: int | None = None,
    keep: Keep = "nothing",
    on_batch: Callable[[int], None] | None = None,
) -> list[Response]:
    """Sample one response for each prompt, in the order of the prompts.

    `keys[i]` fixes every draw of response i; without `sampling` draws are plain ancestral ones. Prompts are decoded
    in batches of similar length, halved where memory does not suffice. Ids from `vocabulary` on are never drawn, nor
    are ids that only one model of a mixture has. `keep` names the last hidden states to keep; `on_batch` gets the
    number of responses that each batch finished.
    """
    responses: dict[int, Response] = {}
    was_training = model.training
    # With dropout the kept log-probabilities would belong to a model that exists for one draw.
    model.eval()
    if mixture is not None:
        mixture.teacher.eval()
    order = [i for chosen in similar_lengths(prompts, batch_size) for i in chosen]

    def decode(start: int, size: int) -> dict[int, Response]:
        chosen = order[start : start + size]
        # To the limit and from the start: a batch halved and tried again draws the same tokens.
        draws = uniforms([keys[i] for i in chosen], max_new_tokens).to(model.device)
        batch = _Batch(model, [prompts[i] for i in chosen], draws, eos_id, sampling, mixture, vocabulary, keep)
        return dict(zip(chosen, batch.run(), strict=True))

    fitting = Fitting(batch_size, "the decoding batch")
    while len(responses) < len(order):
        batch = fitting.run(partial(decode, len(responses)))
        responses.update(batch)
        if on_batch is not None:
            on_batch(len(batch))
    model.train(was_training)
    return [responses[i] for i in range(len(prompts))]


class _Batch:
    """One batch of prompts being decoded.

    Results lie in tensors [B, T] by the row's place in the batch as it began; a row leaves when it has ended.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        draws: Tensor,
        eos_id: int,
        sampling: SamplingSettings | None,
        mixture: Mixture | None,
        vocabulary: int | None,
        keep: Keep,
    ) -> None:
        self.student = decoding_model(model, len(prompts))
        self.teacher = decoding_model(mixture.teacher, len(prompts)) if mixture else None
        self.alpha = mixture.alpha if mixture else 0.0
        shared = shared_vocabulary(model, mixture.teacher if mixture else model)
        self.vocabulary = shared if vocabulary is None else min(shared, vocabulary)
        self.draws, self.eos_id, self.sampling = draws, eos_id, sampling
        self.keep = keep
        self.front = Frontier(prompts, eos_id, model.device)
        self.rows = torch.arange(len(prompts), device=model.device)
        self.lengths = torch.zeros(len(prompts), dtype=torch.long, device=model.device)
        self.tokens = torch.zeros(draws.shape, dtype=torch.long, device=model.device)
        self.found: dict[str, Tensor] = {}

    def run(self) -> list[Response]:
        """Decode until every row has ended or reached the limit, the width of `draws`."""
        for step in range(self.draws.shape[1]):
            tokens = self._draw(step)
            self.lengths[self.rows] += 1
            if not self._follow(tokens):
                break
        return self._responses()

    def _draw(self, step: int) -> Tensor:
        """Draw a token for each row in the batch, [B], and keep its probabilities and states."""
        hidden = self._advance(self.student, step)
        if self.keep == "own states":
            self._keep("hidden", step, hidden)
        logits = self._logits(self.student, hidden)
        # log q is the model's own, at temperature 1; only what is drawn from knows temperature and cuts.
        logq = logits.log_softmax(-1)
        behaviour = restrict(logits, self.sampling).softmax(-1)
        if self.teacher is None:
            tokens = inverse_cdf(behaviour, self.draws[self.rows, step])
        else:
            hidden = self._advance(self.teacher, step)
            logits = self._logits(self.teacher, hidden)
            logp = logits.log_softmax(-1)
            # Probabilities are mixed, not logits (Eq. 4), each model cut by itself. Alpha 0 leaves q to the last bit.
            behaviour = self.alpha * restrict(logits, self.sampling).softmax(-1) + (1 - self.alpha) * behaviour
            tokens = inverse_cdf(behaviour, self.draws[self.rows, step])
            self._keep("teacher_logprobs", step, _pick(logp, tokens))
            # From logarithms, which stay finite where a probability underflows: such a term is 0, not nan.
            self._keep("kl", step, (logq.exp() * (logq - logp)).sum(-1))
            if self.keep == "teacher states":
                self._keep("teacher_hidden", step, hidden)
        self._keep("logprobs", step, _pick(logq, tokens))
        # Finite: no token of probability 0 is drawn.
        self._keep("behaviour_logprobs", step, _pick(behaviour, tokens).log())
        self.tokens[self.rows, step] = tokens
        return tokens

    def _advance(self, model: DecodingModel, step: int) -> Tensor:
        feed = model.advance if step else model.read
        return feed(self.front.ids, self.front.mask, self.front.positions)

    def _logits(self, model: DecodingModel, hidden: Tensor) -> Tensor:
        """Scores [B, V] in float32 or better, whatever the model's own precision (trap 12)."""
        scores: Tensor = head(model.model)(hidden)
        # Cut before any softmax, so that both models are distributions over the same ids.
        return precise(scores[:, : self.vocabulary])

    def _keep(self, name: str, step: int, values: Tensor) -> None:
        if name not in self.found:
            self.found[name] = values.new_zeros((*self.draws.shape, *values.shape[1:]))
        self.found[name][self.rows, step] = values

    def _follow(self, tokens: Tensor) -> bool:
        """Make the drawn tokens the next input, without the rows they end; False when no row is left."""
        alive = tokens != self.eos_id
        if not alive.all():
            index = places(alive)
            for model in (self.student, self.teacher):
                if model is not None:
                    model.keep_rows(index)
            self.front.keep_rows(index)
            tokens, self.rows = tokens[index], self.rows[index]
        self.front.append(tokens)
        return len(tokens) > 0

    def _responses(self) -> list[Response]:
        lengths, tokens = self.lengths.tolist(), self.tokens.cpu()
        found = {name: values.cpu() for name, values in self.found.items()}
        none = torch.empty(0)

        def cut(name: str, row: int) -> Tensor:
            return found[name][row, : lengths[row]].clone() if name in found else none

        responses = []
        for row, length in enumerate(lengths):
            ids = tokens[row, :length].tolist()
            responses.append(
                Response(
                    ids=ids,
                    truncated=ids[-1] != self.eos_id,
                    logprobs=cut("logprobs", row),
                    teacher_logprobs=cut("teacher_logprobs", row),
                    behaviour_logprobs=cut("behaviour_logprobs", row),
                    kl=cut("kl", row),
                    teacher_hidden=cut("teacher_hidden", row),
                    hidden=cut("hidden", row),
                )
            )
        return responses


def _pick(values: Tensor, tokens: Tensor) -> Tensor:
    """The entry of each row of `values` [B, V] at its token, [B]."""
    return values.gather(-1, tokens[:, None]).squeeze(-1)
