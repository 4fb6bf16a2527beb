"""The gradient estimator on a case small enough to enumerate: every response, weighted by its probability.

Four tokens (one of them eos), at most three of them, tables of random logits for student q and teacher p, in
float64. The exact gradient of KL[q || p] comes from autograd through the sum over all 40 responses; the
estimator's expectation from the production loss. Relative bias = |E[estimate] - exact| / |exact|, a mean over 30
pairs of tables:

    rewards    return   single step   alpha 0   alpha 0.2   alpha 0.5
    sampled    next     yes           0         0.25        0.62        the paper's combination
    expected   next     yes           0         0.11        0.28
    expected   current  yes           0         0.11        0.28        the default's
    sampled    current  no            0         0.25        0.62        with or without the closed-form baseline
    sampled    current  yes           0.95      1.00        1.19        the reference's: single step counted twice
    sampled    next     no            0.95      0.92        1.01        single step missing
    none       -        yes           0.56      0.56        0.61        single step alone

With alpha > 0 the per-step weight w_t stands in for the product of weights over the response; with the product,
the first four are exact again. Length norm and discount change what is estimated, at every alpha.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.generation.decode import Response
from distill.models.parts import backbone, head
from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.returns import advantages
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.losses import Packed, packed_loss, weighted_loss
from distill.on_policy.packing import micro_batches
from distill.on_policy.passes import response_hidden
from distill.on_policy.rollouts import assemble, score_with_teacher
from tests.tiny_models import EOS, tiny_model

VOCABULARY, LONGEST, TABLES = 4, 3, 30
PREFIXES = [prefix for n in range(LONGEST) for prefix in product(range(1, VOCABULARY), repeat=n)]
RESPONSES = [(*prefix, EOS) for prefix in PREFIXES] + list(product(range(1, VOCABULARY), repeat=LONGEST))
LENGTHS = torch.tensor([len(response) for response in RESPONSES])
# Row of the tables that predicts each token, and the token itself, responses end to end.
ROWS = torch.tensor([PREFIXES.index(response[:t]) for response in RESPONSES for t in range(len(response))])
TOKENS = torch.tensor([token for response in RESPONSES for token in response])
MASK = torch.arange(LONGEST) < LENGTHS[:, None]


def minillm(**given: Any) -> MiniLLMSettings:
    """No whitening, norm, discount or clip unless `given`: what should be exact."""
    plain: dict[str, Any] = {
        "max_steps": 1,
        "learning_rate": 1e-3,
        "teacher_mix_alpha": 0.0,
        "whiten": "none",
        "length_norm": False,
        "discount": 1.0,
        "normalise": "sequences",
        "single_step_weighted": True,
    }
    # Settings hold the clip below 1; a weight of the teacher's samples (alpha 1) may be far above 2.
    return MiniLLMSettings(**{**plain, **given}).model_copy(update={"clip_range": 1e9})


def of_response(table: Tensor) -> Tensor:
    """Sum over each response's tokens of a table of log-probabilities, [responses]."""
    return torch.stack([values.sum() for values in table[ROWS, TOKENS].split(LENGTHS.tolist())])


def tables(seed: int) -> tuple[Tensor, Tensor]:
    """Logits of student (trainable) and teacher, [prefixes, VOCABULARY]."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, len(PREFIXES), VOCABULARY, dtype=torch.float64, generator=generator)
    return student.clone().requires_grad_(), teacher


def exact_gradient(student: Tensor, teacher: Tensor) -> Tensor:
    """Gradient of sum over y of q(y) (log q(y) - log p(y))."""
    logq, logp = of_response(student.log_softmax(-1)), of_response(teacher.log_softmax(-1))
    (gradient,) = torch.autograd.grad((logq.exp() * (logq - logp)).sum(), student)
    return gradient


def expected_gradient(settings: MiniLLMSettings, student: Tensor, teacher: Tensor, full_weights: bool) -> Tensor:
    """Mean over the behaviour policy of the production loss's gradient.

    `full_weights` multiplies each response's loss by the product of q/p~ over its tokens in place of the
    per-step one.
    """
    alpha = settings.teacher_mix_alpha
    logq, logp = student.detach().log_softmax(-1), teacher.log_softmax(-1)
    behaviour = (alpha * logp.exp() + (1 - alpha) * logq.exp()).log()
    kl = (logq.exp() * (logq - logp)).sum(-1)

    def grid(values: Tensor) -> Tensor:
        return values.new_zeros(MASK.shape).masked_scatter(MASK, values)

    known = (grid(logp[ROWS, TOKENS]), grid(logq[ROWS, TOKENS]), grid(kl[ROWS]), MASK)
    weights = of_response(behaviour).exp().repeat_interleave(LENGTHS)
    if full_weights:
        product_of_weights = (of_response(logq) - of_response(behaviour)).exp().repeat_interleave(LENGTHS)
        weights = weights * product_of_weights / (logq - behaviour)[ROWS, TOKENS].exp()
    packed = Packed(
        tokens=TOKENS,
        old_logprobs=logq[ROWS, TOKENS],
        behaviour_logprobs=behaviour[ROWS, TOKENS],
        advantages=advantages(settings, *known)[MASK],
        weights=weights,
        teacher_hidden=teacher[ROWS],
    )
    loss, _ = weighted_loss(MiniLLM(), settings, student[ROWS], teacher[ROWS], packed)
    (gradient,) = torch.autograd.grad(loss, student)
    return gradient


@cache
def mean_bias(settings: MiniLLMSettings, full_weights: bool = False) -> float:
    """Relative bias of the estimator, a mean over random tables."""
    found = []
    for seed in range(TABLES):
        student, teacher = tables(seed)
        exact = exact_gradient(student, teacher)
        estimate = expected_gradient(settings, student, teacher, full_weights)
        found.append(float((estimate - exact).norm() / exact.norm()))
    return fmean(found)


SOUND: dict[str, dict[str, Any]] = {
    "sampled, next": {"rewards": "sampled", "return_from": "next"},
    "expected, next": {"rewards": "expected", "return_from": "next"},
    "expected, current": {"rewards": "expected", "return_from": "current"},
    "sampled, current, no single step": {"rewards": "sampled", "return_from": "current", "single_step": False},
    "closed-form baseline": {
        "rewards": "sampled",
        "return_from": "current",
        "single_step": False,
        "baseline": "closed_form",
    },
}
TWICE: dict[str, Any] = {"rewards": "sampled", "return_from": "current"}
ALONE: dict[str, Any] = {"rewards": "sampled", "return_from": "next", "policy_gradient": False}


def test_the_enumeration_is_whole() -> None:
    student, _ = tables(0)
    assert len(RESPONSES) == len(set(RESPONSES)) == 40
    assert float(of_response(student.log_softmax(-1)).exp().sum().detach()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("form", ["paper", "sign_aware"])
def test_sound_combinations_are_exact_without_mixing(name: str, form: str) -> None:
    for weighted in (True, False):  # w_t is 1 here
        settings = minillm(**SOUND[name], clip_form=form, single_step_weighted=weighted)
        assert mean_bias(settings) < 1e-12


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
def test_sound_combinations_are_exact_with_mixing_and_full_weights(name: str, alpha: float) -> None:
    assert mean_bias(minillm(**SOUND[name], teacher_mix_alpha=alpha), full_weights=True) < 1e-12


@pytest.mark.parametrize(("alpha", "sampled", "expected"), [(0.2, 0.253, 0.114), (0.5, 0.619, 0.277)])
def test_bias_of_the_per_step_weight(alpha: float, sampled: float, expected: float) -> None:
    """Expected rewards are less biased: their mean is under q, sampled later rewards come from the mixture."""
    for name, given in SOUND.items():
        known = expected if given["rewards"] == "expected" else sampled
        assert mean_bias(minillm(**given, teacher_mix_alpha=alpha)) == pytest.approx(known, abs=0.002), name


@pytest.mark.parametrize("weighted", [True, False])
def test_the_single_step_weight_changes_no_expectation(weighted: bool) -> None:
    """The drawn token does not enter KL at its own position, and the mean of w_t is 1."""
    given: dict[str, Any] = {**SOUND["expected, current"], "teacher_mix_alpha": 0.5}
    assert mean_bias(minillm(**given, single_step_weighted=weighted)) == pytest.approx(mean_bias(minillm(**given)))


def test_sampled_own_reward_beside_the_single_step_counts_it_twice() -> None:
    assert mean_bias(minillm(**TWICE)) == pytest.approx(0.951, abs=0.002)
    for seed in range(TABLES):
        student, teacher = tables(seed)
        excess = expected_gradient(minillm(**TWICE), student, teacher, False) - exact_gradient(student, teacher)
        single = expected_gradient(minillm(**ALONE), student, teacher, False)
        torch.testing.assert_close(excess, single, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["sampled, next", "expected, next", "expected, current"])
def test_without_the_single_step_these_would_lack_it(name: str) -> None:
    """The refused combinations: made without the settings' check, to show why it is there."""
    with pytest.raises(ValueError, match="turn `single_step` on or use"):
        minillm(**SOUND[name], single_step=False)
    refused = minillm(**SOUND[name]).model_copy(update={"single_step": False})
    assert mean_bias(refused) == pytest.approx(0.951, abs=0.002)
    for seed in range(TABLES):
        student, teacher = tables(seed)
        lack = exact_gradient(student, teacher) - expected_gradient(refused, student, teacher, False)
        single = expected_gradient(minillm(**ALONE), student, teacher, False)
        torch.testing.assert_close(lack, single, rtol=0, atol=1e-12)


def test_the_closed_form_baseline_adds_the_own_divergence_alone() -> None:
    student, teacher = tables(0)
    with_it, without = (minillm(**SOUND[name]) for name in ("closed-form baseline", "sampled, current, no single step"))
    logq, logp = student.detach().log_softmax(-1), teacher.log_softmax(-1)
    kl = (logq.exp() * (logq - logp)).sum(-1)
    best, own, divergence = (values[ROWS][-LONGEST:][None] for values in (logp.amax(-1), logq.amax(-1), kl))
    mask = torch.ones(1, LONGEST, dtype=torch.bool)
    difference = advantages(with_it, best, own, divergence, mask) - advantages(without, best, own, divergence, mask)
    torch.testing.assert_close(difference, divergence)


def test_bias_of_what_changes_the_objective() -> None:
    own = SOUND["expected, current"]
    assert mean_bias(minillm(**own, discount=0.95)) == pytest.approx(0.037, abs=0.002)
    assert mean_bias(minillm(**own, length_norm=True)) == pytest.approx(0.468, abs=0.002)
    assert mean_bias(minillm(**SOUND["sampled, next"], length_norm=True)) == pytest.approx(0.272, abs=0.002)
    assert mean_bias(minillm(**ALONE)) == pytest.approx(0.555, abs=0.002)


@pytest.mark.parametrize("name", SOUND)
def test_the_whole_chain_is_exact_for_a_transformer(name: str) -> None:
    """Scoring, advantages, packing, chunked heads and backward of a GPT-2, over all responses to one prompt."""
    settings = minillm(**SOUND[name])
    student, teacher = (tiny_model(vocabulary=VOCABULARY, width=8, layers=1, seed=seed) for seed in (0, 1))
    prompt = [2, 1]

    def whole(model: torch.nn.Module, response: tuple[int, ...]) -> Tensor:
        logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        found: Tensor = logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None]).squeeze(-1)
        return found

    logq = [whole(student, response) for response in RESPONSES]
    total = torch.stack([values.sum() for values in logq])
    with torch.no_grad():
        logp = torch.stack([whole(teacher, response).sum() for response in RESPONSES])
    exact = torch.autograd.grad((total.exp() * (total - logp)).sum(), list(student.parameters()))

    nothing = torch.empty(0)
    collected = []
    for response, logprobs in zip(RESPONSES, logq, strict=True):
        ids = torch.tensor([[*prompt, *response[:-1]]])
        hidden = backbone(student)(input_ids=ids).last_hidden_state[0, len(prompt) - 1 :].detach()
        known = logprobs.detach()
        ended = response[-1] == EOS
        collected.append(Response(list(response), not ended, known, nothing, known, nothing, nothing, hidden))
    score_with_teacher(student, teacher, [prompt] * len(RESPONSES), collected, batch_size=7)
    collection = assemble([prompt] * len(RESPONSES), collected, settings, MiniLLM(), LONGEST)
    student.zero_grad()
    for row, probability in enumerate(total.detach().exp()):
        (batch,) = micro_batches(collection, [row], settings, MiniLLM(), 1, torch.device("cpu"))
        states = response_hidden(student, batch.ids, batch.positions)
        loss, _ = packed_loss(
            MiniLLM(), settings, states, head(student), head(teacher), batch.packed, VOCABULARY, chunk=2
        )
        (probability * loss).backward()
    for parameter, gradient in zip(student.parameters(), exact, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
