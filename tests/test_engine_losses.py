"""Every loss by hand-worked values, by formulas of its gradient, and the chunked head against plain autograd."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill.losses.token_statistics import token_statistics
from distill.models.parts import backbone, head, precise
from distill.objectives import kd, sft
from distill.objectives.minillm.objective import MiniLLM, policy_loss, ratio
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.losses import Packed, packed_loss, weighted_loss
from distill.on_policy.plaintext import draw_sequences, plaintext_loss, token_stream
from distill.on_policy.schedule import learning_rate
from tests.tiny_models import ARCHITECTURES, EOS, tiny_model

F64 = torch.float64


def minillm(**given: Any) -> MiniLLMSettings:
    return MiniLLMSettings(max_steps=10, learning_rate=1e-3, **given)


def packed(tokens: int, vocabulary: int, *, seed: int = 0, dtype: torch.dtype = F64) -> Packed:
    """N random tokens with random advantages, weights and old probabilities."""
    draw = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=F64).to(dtype)

    return Packed(
        tokens=torch.randint(vocabulary, (tokens,), generator=draw),
        old_logprobs=-noise(tokens).abs(),
        behaviour_logprobs=-noise(tokens).abs(),
        advantages=noise(tokens),
        weights=noise(tokens).abs(),
        teacher_hidden=noise(tokens, 5),
    )


# --- the clipped objective ------------------------------------------------------------------------------------

# ratio, advantage -> loss and its slope in the ratio, for each form, clip range 0.2
CLIPPED = [
    (1.5, 1.0, (-1.2, 0.0), (-1.2, 0.0)),  # already too likely: no further push
    (1.5, -1.0, (1.5, 1.0), (1.2, 0.0)),  # too likely and bad: only the sign-aware form still pushes it down
    (0.5, 1.0, (-0.5, -1.0), (-0.5, -1.0)),
    (0.5, -1.0, (0.8, 0.0), (0.5, 1.0)),  # already unlikely and bad: the printed form pushes on
    (1.0, 2.0, (-2.0, -2.0), (-2.0, -2.0)),  # on policy both are the plain policy gradient
    (1.1, -3.0, (3.3, 3.0), (3.3, 3.0)),
]


@pytest.mark.parametrize(("rho", "advantage", "sign_aware", "paper"), CLIPPED)
def test_clipped_objective_by_hand(
    rho: float, advantage: float, sign_aware: tuple[float, float], paper: tuple[float, float]
) -> None:
    for form, (value, slope) in (("sign_aware", sign_aware), ("paper", paper)):
        point = torch.tensor([rho], dtype=F64, requires_grad=True)
        loss = policy_loss(point, torch.tensor([advantage], dtype=F64), 0.2, form)
        (found,) = torch.autograd.grad(loss.sum(), point)
        assert [float(loss.detach()), float(found)] == pytest.approx([value, slope]), form


def test_the_written_out_gradient_is_that_of_finite_differences() -> None:
    draw = torch.Generator().manual_seed(0)
    mine, theirs = (3 * torch.randn(6, 7, generator=draw, dtype=F64) for _ in range(2))
    tokens = torch.randint(7, (6,), generator=draw)
    logp = theirs.log_softmax(-1)

    def statistics(logits: Tensor) -> tuple[Tensor, ...]:
        return token_statistics(logits, theirs, tokens)

    logq = mine.log_softmax(-1)
    logprobs, kl, entropy = statistics(mine)
    torch.testing.assert_close(logprobs, logq[range(6), tokens])
    torch.testing.assert_close(kl, nn.functional.kl_div(logp, logq, log_target=True, reduction="none").sum(-1))
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=mine).entropy())
    assert torch.autograd.gradcheck(lambda logits: statistics(logits)[:2], (mine.requires_grad_(),))


def test_ratio_is_against_what_the_token_was_drawn_from() -> None:
    known = Packed(
        tokens=torch.tensor([0]),
        old_logprobs=torch.tensor([0.2]).log(),
        behaviour_logprobs=torch.tensor([0.4]).log(),  # e.g. 0.2 * 1.2 + 0.8 * 0.2
        advantages=torch.zeros(1),
        weights=torch.ones(1),
        teacher_hidden=torch.zeros(1, 1),
    )
    now = torch.tensor([0.3]).log()
    assert float(ratio(minillm(), now, known)) == pytest.approx(0.3 / 0.4)
    assert float(ratio(minillm(importance_weight=False), now, known)) == pytest.approx(0.3 / 0.2)


# --- both terms ---------------------------------------------------------------------------------------------------


def test_terms_and_metrics_by_hand() -> None:
    """Two tokens over two words: q = (3/4, 1/4), p = (1/2, 1/2) and q = p = (1/2, 1/2)."""
    student = torch.tensor([[0.75, 0.25], [0.5, 0.5]], dtype=F64).log()
    teacher = torch.tensor([[0.5, 0.5], [0.5, 0.5]], dtype=F64).log()
    known = Packed(
        tokens=torch.tensor([0, 1]),
        old_logprobs=torch.tensor([0.75, 0.5], dtype=F64).log(),
        behaviour_logprobs=torch.tensor([0.5, 0.5], dtype=F64).log(),
        advantages=torch.tensor([2.0, -3.0], dtype=F64),
        weights=torch.tensor([0.5, 0.25], dtype=F64),
        teacher_hidden=teacher,
    )
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    # ratios 1.5 and 1; the first is clipped at 1.2
    policy, single = 0.5 * -2.4 + 0.25 * 3.0, 0.5 * kl
    loss, metrics = weighted_loss(MiniLLM(), minillm(single_step_weighted=False), student, teacher, known)
    found = dict(zip(MiniLLM.metrics, metrics.tolist(), strict=True))
    assert float(loss) == pytest.approx(policy + single)
    assert found["policy"] == pytest.approx(policy)
    assert found["single_step"] == found["reverse_kl"] == pytest.approx(single)
    assert found["clipped"] == pytest.approx(0.5)  # by weight
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found["entropy"] == pytest.approx(0.5 * entropy + 0.25 * math.log(2))

    weighted, metrics = weighted_loss(MiniLLM(), minillm(single_step_weighted=True), student, teacher, known)
    assert float(weighted) == pytest.approx(policy + 1.5 * single)
    assert metrics[MiniLLM.metrics.index("reverse_kl")].item() == pytest.approx(single)  # reported without the weight
    alone, _ = weighted_loss(MiniLLM(), minillm(policy_gradient=False), student, teacher, known)
    assert float(alone) == pytest.approx(single)
    without, _ = weighted_loss(MiniLLM(), minillm(preset="reference", single_step=False), student, teacher, known)
    assert float(without) == pytest.approx(policy)


@pytest.mark.parametrize("weighted", [True, False])
def test_gradient_has_the_form_of_the_paper(weighted: bool) -> None:
    """-A rho grad log q(y) + w KL's gradient q (log q/p - KL); w and A are constants (trap 4)."""
    vocabulary, count = 6, 9
    known = packed(count, vocabulary)
    logits = torch.randn(2, count, vocabulary, dtype=F64)
    student, teacher = logits[0].requires_grad_(), logits[1]
    choice = minillm(preset="paper", clip_range=0.999999, single_step_weighted=weighted)
    known = Packed(**{**vars(known), "behaviour_logprobs": student.detach().log_softmax(-1).amax(-1)})
    loss, metrics = weighted_loss(MiniLLM(), choice, student, teacher, known)
    (found,) = torch.autograd.grad(loss, student)
    q, logq, logp = student.detach().softmax(-1), student.detach().log_softmax(-1), teacher.log_softmax(-1)
    rho = (logq[range(count), known.tokens] - known.behaviour_logprobs).exp()[:, None]
    score = torch.eye(vocabulary, dtype=F64)[known.tokens] - q
    kl = (q * (logq - logp)).sum(-1, keepdim=True)
    single = q * (logq - logp - kl) * (rho if weighted else 1)
    expected = known.weights[:, None] * (single - known.advantages[:, None] * rho * score)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert not metrics.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_only_what_the_logits_came_in(dtype: torch.dtype) -> None:
    """Softmax and sums run in float32 (trap 12)."""
    student, teacher = (torch.randn(2, 7, 300) * 4).to(dtype)
    known = packed(7, 300, dtype=torch.float32)
    for choice in (minillm(), minillm(preset="paper")):
        found, _ = weighted_loss(MiniLLM(), choice, student, teacher, known)
        assert found.dtype == torch.float32
        assert torch.equal(found, weighted_loss(MiniLLM(), choice, student.float(), teacher.float(), known)[0])
    assert precise(student).dtype == torch.float32
    assert precise(torch.zeros(1, dtype=F64)).dtype == F64


# --- the chunked head ---------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 20),
    chunk=st.integers(1, 24),
    vocabulary=st.integers(2, 9),
    student_rows=st.integers(0, 3),
    teacher_rows=st.integers(0, 3),
    bias=st.booleans(),
    preset=st.sampled_from(["default", "paper", "reference"]),
)
def test_chunked_head_gives_the_gradients_of_autograd(
    tokens: int, chunk: int, vocabulary: int, student_rows: int, teacher_rows: int, bias: bool, preset: str
) -> None:
    """For hidden states, weight and bias, with either vocabulary padded (trap 5)."""
    torch.manual_seed(tokens)
    ours = nn.Linear(4, vocabulary + student_rows, bias=bias, dtype=F64)
    theirs = nn.Linear(5, vocabulary + teacher_rows, bias=False, dtype=F64)
    hidden = torch.randn(tokens, 4, dtype=F64, requires_grad=True)
    known = packed(tokens, vocabulary)
    wanted = [hidden, *ours.parameters()]
    whole, whole_metrics = weighted_loss(
        MiniLLM(),
        minillm(preset=preset),
        ours(hidden)[:, :vocabulary],
        theirs(known.teacher_hidden)[:, :vocabulary],
        known,
    )
    expected = torch.autograd.grad(3.0 * whole, wanted)
    loss, metrics = packed_loss(MiniLLM(), minillm(preset=preset), hidden, ours, theirs, known, vocabulary, chunk)
    torch.testing.assert_close(loss, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(metrics, whole_metrics, rtol=1e-12, atol=1e-12)
    for mine, theirs_gradient in zip(torch.autograd.grad(3.0 * loss, wanted), expected, strict=True):
        torch.testing.assert_close(mine, theirs_gradient, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chunked_head_reaches_every_parameter_of_a_model(architecture: str) -> None:
    """Tied embeddings get the head's gradient and the input's."""
    model, teacher_head = tiny_model(architecture), nn.Linear(5, 11, dtype=F64)
    ids = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(0))
    known = packed(18, 11)

    def hidden() -> Tensor:
        states: Tensor = backbone(model)(input_ids=ids).last_hidden_state
        return states.flatten(0, 1)

    logits = head(model)(hidden())
    whole, _ = weighted_loss(MiniLLM(), minillm(), logits, teacher_head(known.teacher_hidden), known)
    expected = torch.autograd.grad(whole, list(model.parameters()))
    loss, _ = packed_loss(MiniLLM(), minillm(), hidden(), head(model), teacher_head, known, 11, chunk=7)
    loss.backward()
    for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-9, msg=name)


# --- supervised objectives ----------------------------------------------------------------------------------------


def test_sft_by_hand() -> None:
    logits = torch.tensor([[0.2, 0.8], [0.5, 0.5]], dtype=F64).log() + 3.0
    choice = sft.ObjectiveSettings()
    found = sft.token_losses(choice, logits, None, torch.tensor([1, 0]), 0.0)
    assert found.tolist() == pytest.approx([-math.log(0.8), math.log(2)])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_kd_by_hand(share: float) -> None:
    """p = (1/4, 3/4), q = (1/2, 1/2), the data says word 0."""
    student = torch.tensor([[0.5, 0.5]], dtype=F64).log()
    teacher = torch.tensor([[0.25, 0.75]], dtype=F64).log()
    choice = kd.ObjectiveSettings(kd_ratio=share)
    found = kd.token_losses(choice, student, teacher, torch.tensor([0]), 0.0)
    forward_kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert float(found) == pytest.approx((1 - share) * math.log(2) + share * forward_kl)


def test_kd_pulls_towards_a_mixture_of_data_and_teacher() -> None:
    logits = torch.randn(2, 4, 6, dtype=F64)
    student, teacher = logits[0].requires_grad_(), logits[1]
    labels = torch.tensor([0, 3, 5, 3])
    choice = kd.ObjectiveSettings(kd_ratio=0.3)
    (found,) = torch.autograd.grad(kd.token_losses(choice, student, teacher, labels, 0.0).sum(), student)
    target = 0.7 * torch.eye(6, dtype=F64)[labels] + 0.3 * teacher.softmax(-1)
    torch.testing.assert_close(found, student.detach().softmax(-1) - target)


# --- L_PT ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_plain_text_loss_agrees_with_a_loop(share: float) -> None:
    student, teacher = tiny_model(seed=0), tiny_model(seed=1, vocabulary=14)
    ids = torch.randint(11, (2, 5), generator=torch.Generator().manual_seed(0))
    terms = []
    for row in ids:
        logq = student(input_ids=row[None]).logits[0].log_softmax(-1)
        p = teacher(input_ids=row[None]).logits[0, :, :11].softmax(-1)
        terms += [-(1 - share) * logq[t, row[t + 1]] - share * (p[t] * logq[t]).sum() for t in range(4)]
    found = plaintext_loss(student, teacher, ids, minillm(lm_kd_ratio=share))
    torch.testing.assert_close(found, torch.stack(terms).mean(), rtol=1e-10, atol=1e-12)


def test_plain_text_windows_are_keyed_and_whole() -> None:
    stream = token_stream([[1, 2, 3], [4], [5, 6, 7, 8]], EOS)
    assert stream.tolist() == [1, 2, 3, EOS, 4, EOS, 5, 6, 7, 8, EOS]
    drawn = draw_sequences(stream, 200, 4, seed=0, step=7)
    starts = {tuple(stream[i : i + 4].tolist()) for i in range(len(stream) - 3)}
    assert {tuple(row) for row in drawn.tolist()} == starts  # every place, the last one too
    assert torch.equal(drawn, draw_sequences(stream, 200, 4, seed=0, step=7))
    assert not torch.equal(drawn, draw_sequences(stream, 200, 4, seed=0, step=8))


# --- the learning rate --------------------------------------------------------------------------------------------


def test_learning_rate_by_hand() -> None:
    shape: dict[str, Any] = {"max_steps": 12, "learning_rate": 0.8, "warmup_steps": 4, "min_learning_rate": 0.2}
    constant = MiniLLMSettings(**shape)
    assert [learning_rate(constant, step) for step in (0, 1, 3, 4, 11)] == pytest.approx([0.2, 0.4, 0.8, 0.8, 0.8])
    cosine = MiniLLMSettings(**shape, schedule="cosine")
    # half-way down the cosine (step 8 of 4…12) lies the mean of peak and floor
    assert [learning_rate(cosine, step) for step in (3, 4, 8, 12)] == pytest.approx([0.8, 0.8, 0.5, 0.2])


def test_a_teacher_of_another_precision_may_go_on_with_a_collection() -> None:
    """Its hidden states were kept in float32, and the run was resumed with the teacher in bfloat16."""
    tokens, vocabulary = 6, 7
    known = packed(tokens, vocabulary, dtype=torch.float32)
    hidden, student_head = torch.randn(tokens, 4), nn.Linear(4, vocabulary)
    teacher_head = nn.Linear(5, vocabulary)
    whole, _ = packed_loss(MiniLLM(), minillm(), hidden, student_head, teacher_head, known, vocabulary)
    half, _ = packed_loss(
        MiniLLM(), minillm(), hidden, student_head, teacher_head.to(torch.bfloat16), known, vocabulary
    )
    torch.testing.assert_close(half, whole, rtol=0.02, atol=0.02)
