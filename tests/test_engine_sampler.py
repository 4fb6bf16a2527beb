"""What is drawn: the mixture's distribution by chi-square over 10^5 draws, truncated sampling, keyed numbers."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from distill.generation.decode import Mixture, Response, inverse_cdf, restrict, sample_responses, uniforms
from distill.generation.settings import SamplingSettings
from distill.project.randomness import key
from tests.tiny_models import ARCHITECTURES, EOS, tiny_model

VOCABULARY, LONGEST = 6, 3
# Of different lengths, so that two are left-padded beside the third; pad is eos, which one of them also holds.
PROMPTS = [[3], [1, EOS, 2], [5, 4, 3, 2, 1, 1, 2]]
DRAWS = 8_400  # of each prompt, for each architecture: 100,800 in all
MANY = 34_000  # the same by the slow test: 102,000 for each architecture


@cache
def pair(architecture: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Student and teacher, whose padded vocabulary is longer (trap 5)."""
    student = tiny_model(architecture, vocabulary=VOCABULARY, width=8, dtype=torch.float32)
    teacher = tiny_model(architecture, vocabulary=VOCABULARY + 2, seed=1, width=16, dtype=torch.float32)
    return student, teacher


@cache
@torch.no_grad()
def next_token(model: PreTrainedModel, ids: tuple[int, ...], sampling: SamplingSettings | None) -> Tensor:
    """The distribution after `ids` by a plain pass over them alone, unpadded, [VOCABULARY]."""
    logits = model(input_ids=torch.tensor([ids])).logits[0, -1, :VOCABULARY].double()
    return slow_restriction(logits, sampling) if sampling else logits.softmax(-1)


def slow_restriction(logits: Tensor, sampling: SamplingSettings) -> Tensor:
    """Temperature, then the `top_k` largest, then the smallest set of them that holds `top_p`, by a loop."""
    probabilities = (logits / sampling.temperature).softmax(-1)
    order = sorted(range(len(logits)), key=lambda i: -float(probabilities[i]))
    order = order[: sampling.top_k or len(order)]
    total = sum(float(probabilities[i]) for i in order)
    kept, mass = [], 0.0
    for i in order:
        if mass >= sampling.top_p:
            break
        kept.append(i)
        mass += float(probabilities[i]) / total
    found = torch.zeros_like(probabilities)
    found[kept] = probabilities[kept] / probabilities[kept].sum()
    return found


def distribution(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    prompt: list[int],
    alpha: float,
    sampling: SamplingSettings | None = None,
) -> dict[tuple[int, ...], float]:
    """The probability of every response, by enumeration."""
    found: dict[tuple[int, ...], float] = {}
    for n in range(LONGEST):
        for prefix in product(range(1, VOCABULARY), repeat=n):
            ids = (*prompt, *prefix)
            now = (1 - alpha) * next_token(student, ids, sampling)
            if alpha:
                now = now + alpha * next_token(teacher, ids, sampling)
            before = found.pop(prefix, 1.0)
            found.update({(*prefix, token): before * float(now[token]) for token in range(VOCABULARY)})
    return found


def p_value(drawn: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Chi-square test of counts against probabilities; cells that expect fewer than 5 are taken together."""
    draws = sum(drawn.values())
    assert not drawn.keys() - {cell for cell, probability in expected.items() if probability > 0}
    small = [cell for cell, probability in expected.items() if probability * draws < 5]
    cells = [(drawn[cell], probability * draws) for cell, probability in expected.items() if cell not in small]
    rest = (sum(drawn[cell] for cell in small), draws * sum(expected[cell] for cell in small))
    if rest[1] >= 5:
        cells.append(rest)
    statistic = sum((count - mean) ** 2 / mean for count, mean in cells)
    return float(torch.special.gammaincc(torch.tensor((len(cells) - 1) / 2), torch.tensor(statistic / 2)))


def draw(
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    mixture: Mixture | None = None,
    sampling: SamplingSettings | None = None,
    purpose: str = "draw",
    batch_size: int = 2_100,
) -> list[Response]:
    keys = [key(0, purpose, i) for i in range(len(prompts))]
    return sample_responses(
        model,
        prompts,
        keys,
        max_new_tokens=LONGEST,
        eos_id=EOS,
        batch_size=batch_size,
        sampling=sampling,
        mixture=mixture,
    )


def counted(responses: list[Response]) -> list[Counter[tuple[int, ...]]]:
    """Counts of responses to each prompt, prompts taking turns."""
    return [Counter(tuple(r.ids) for r in responses[i :: len(PROMPTS)]) for i in range(len(PROMPTS))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("draws", [DRAWS, pytest.param(MANY, marks=pytest.mark.slow)])
def test_draws_follow_the_mixture(architecture: str, draws: int) -> None:
    student, teacher = pair(architecture)
    drawn = counted(draw(student, PROMPTS * draws, mixture=Mixture(teacher, 0.3)))
    for counts, prompt in zip(drawn, PROMPTS, strict=True):
        assert sum(counts.values()) == draws
        assert p_value(counts, distribution(student, teacher, prompt, 0.3)) > 1e-3
        # The test is sharp: a tenth more or less of the teacher would not pass.
        assert p_value(counts, distribution(student, teacher, prompt, 0.4)) < 1e-6


def test_draws_without_a_mixture_follow_the_model() -> None:
    student, teacher = pair("gpt2")
    alone = draw(student, PROMPTS * 1_500)
    for counts, prompt in zip(counted(alone), PROMPTS, strict=True):
        assert p_value(counts, distribution(student, teacher, prompt, 0.0)) > 1e-3
    scored = draw(student, PROMPTS * 1_500, mixture=Mixture(teacher, 0.0))
    assert [r.ids for r in scored] == [r.ids for r in alone]


def test_exact_divergences_are_what_estimators_of_them_come_to() -> None:
    """k1 = -r and k3 = e^r - 1 - r with r = log p - log q: each has the mean KL(q || p) given the prefix."""
    q, p = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
    r = (p / q).log()
    exact = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(q @ -r) == pytest.approx(exact) and float(q @ (r.exp() - 1 - r)) == pytest.approx(exact)
    student, teacher = pair("gpt2")
    responses = draw(student, PROMPTS * 1_500, mixture=Mixture(teacher, 0.0))
    kl = torch.cat([response.kl for response in responses]).double()
    r = torch.cat([response.teacher_logprobs - response.logprobs for response in responses]).double()
    for estimates in (-r, r.exp() - 1 - r):
        error = estimates - kl
        assert abs(error.mean()) < 4 * error.std() / len(error) ** 0.5
        assert error.std() / len(error) ** 0.5 < 0.02 * kl.mean(), "the test is sharp"


def test_draws_of_the_teacher_alone() -> None:
    """alpha 1: the student only scores what the teacher writes."""
    student, teacher = pair("gpt2")
    responses = draw(student, PROMPTS * 1_500, mixture=Mixture(teacher, 1.0))
    for counts, prompt in zip(counted(responses), PROMPTS, strict=True):
        assert p_value(counts, distribution(student, teacher, prompt, 1.0)) > 1e-3
        assert p_value(counts, distribution(student, teacher, prompt, 0.8)) < 1e-6
    for response in responses[:30]:
        torch.testing.assert_close(response.behaviour_logprobs, response.teacher_logprobs, rtol=1e-5, atol=1e-5)
        assert (response.logprobs - response.teacher_logprobs).abs().max() > 1e-3


@pytest.mark.parametrize("sampling", [SamplingSettings(temperature=0.7, top_p=0.8), SamplingSettings(top_k=3)])
def test_draws_follow_truncated_sampling(sampling: SamplingSettings) -> None:
    student, teacher = pair("gpt2")
    drawn = draw(student, PROMPTS * 1_500, mixture=Mixture(teacher, 0.3), sampling=sampling)
    for counts, prompt in zip(counted(drawn), PROMPTS, strict=True):
        assert p_value(counts, distribution(student, teacher, prompt, 0.3, sampling)) > 1e-3


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-4, 4), min_size=2, max_size=9, unique_by=lambda x: round(x, 3)),
    st.floats(0.2, 3),
    st.floats(0.05, 1),
    st.integers(0, 10),
)
def test_truncation_agrees_with_a_loop(scores: list[float], temperature: float, top_p: float, top_k: int) -> None:
    sampling = SamplingSettings(temperature=temperature, top_p=top_p, top_k=top_k)
    logits = torch.tensor(scores, dtype=torch.float64)
    found = restrict(logits[None], sampling).softmax(-1)[0]
    torch.testing.assert_close(found, slow_restriction(logits, sampling))


def test_truncation_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()

    def kept(**given: float) -> list[int]:
        found = restrict(logits, SamplingSettings.model_validate(given))[0]
        return [i for i in range(3) if math.isfinite(found[i])]

    assert kept() == kept(top_p=1) == kept(top_k=0) == kept(top_k=9) == [0, 1, 2]
    assert kept(top_k=2) == kept(top_p=0.6) == [0, 1]
    assert kept(top_k=1) == kept(top_p=0.4) == kept(top_p=0.01) == [0]
    assert torch.equal(restrict(logits, None), logits)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-9, 0.1, 0.5, 2.0]), min_size=1, max_size=8), st.floats(0, 1))
@example([0.5, 0.5, 0.0], 1.0)  # a draw rounded up to the end
@example([0.0, 0.1, 0.5], 0.0)
def test_a_token_of_probability_zero_is_never_drawn(masses: list[float], uniform: float) -> None:
    if not any(masses):
        masses[0] = 1.0
    for dtype in (torch.float32, torch.float64):
        probabilities = torch.tensor([masses], dtype=dtype)
        (token,) = inverse_cdf(probabilities, torch.tensor([uniform])).tolist()
        assert masses[token] > 0
        # The first token whose cumulative mass is beyond the point, to rounding.
        point = uniform * sum(masses)
        assert sum(masses[:token]) <= point * (1 + 1e-6)
        assert sum(masses[: token + 1]) >= point * (1 - 1e-6)


def test_uniform_numbers_belong_to_their_key_alone() -> None:
    three = uniforms([5, 6, 7], 4)
    assert torch.equal(uniforms([7, 5], 4), three[[2, 0]])
    assert uniforms([], 4).shape == (0, 4)
    # A longer limit leaves the first numbers as they were.
    assert torch.equal(uniforms([5], 40)[:, :4], three[:1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_neither_batch_size_nor_order_changes_a_draw(architecture: str) -> None:
    student, teacher = pair(architecture)
    prompts = (PROMPTS * 14)[:40]
    mixture = Mixture(teacher, 0.3)
    whole = draw(student, prompts, mixture=mixture)
    for size in (1, 7, 16):
        assert [r.ids for r in draw(student, prompts, mixture=mixture, batch_size=size)] == [r.ids for r in whole]
    keys = [key(0, "draw", i) for i in range(40)][::-1]
    backwards = sample_responses(
        student, prompts[::-1], keys, max_new_tokens=LONGEST, eos_id=EOS, batch_size=7, mixture=mixture
    )
    assert [r.ids for r in backwards[::-1]] == [r.ids for r in whole]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_that_leave_the_batch_change_nothing(architecture: str) -> None:
    """A batch that rows leave one by one, against batches of one, which no row leaves before the end."""
    student, teacher = (tiny_model(architecture, vocabulary=16, seed=seed) for seed in (0, 1))
    together, alone = (
        sample_responses(
            student,
            PROMPTS * 3,
            [key(1, "row", i) for i in range(9)],
            max_new_tokens=24,
            eos_id=EOS,
            batch_size=size,
            mixture=Mixture(teacher, 0.3),
            keep="teacher states",
        )
        for size in (9, 1)
    )
    lengths = [len(r.ids) for r in together]
    assert len(set(lengths)) > 3 and max(lengths) > 17, lengths
    for one, other in zip(together, alone, strict=True):
        assert (one.ids, one.truncated) == (other.ids, other.truncated)
        for name in ("logprobs", "teacher_logprobs", "behaviour_logprobs", "kl", "teacher_hidden"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-5)
