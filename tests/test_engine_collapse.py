"""Collapse: what counts as one, that a run which really collapses is caught, and that looking changes no number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy import collapse
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from distill.project.errors import DivergedError
from distill.runs.curves import Curves
from tests.tiny_models import EOS, checksum, tiny_model

PROMPTS = [[3], [1, EOS, 2], [5, 4, 3, 2, 1, 1, 2], [9, 8], [7, 7, 7, 7]]
# The paper's objective without what holds it: raw sums of log-ratios reward ending at once.
SHORT: dict[str, Any] = {
    "whiten": "none",
    "discount": 1.0,
    "rewards": "sampled",
    "length_norm": False,
    "single_step": False,
}


def curves(kl: list[float], length: list[float], entropy: list[float], steps: int = 2) -> Curves:
    """One value a collection; entropies stand for each of its `steps` updates, the newest has none yet."""
    found = Curves()
    for i, (divergence, tokens) in enumerate(zip(kl, length, strict=True)):
        found.add(i * steps, reverse_kl=divergence, response_tokens=tokens)
    for step in range((len(kl) - 1) * steps):
        found.add(step, entropy=entropy[step // steps])
    return found


def judged(
    kl: tuple[float, ...] = (1.2,) * 6, length: tuple[float, ...] = (20.0,) * 6, entropy: tuple[float, ...] = (1.0,) * 6
) -> str | None:
    return collapse.symptom(curves(list(kl), list(length), list(entropy)), 2)


def test_symptoms_by_hand() -> None:
    assert judged() is None
    # The threshold is max(2 * 1.2, 1.2 + 1).
    assert judged(kl=(1.2, 1.2, 1.2, 2.41, 2.41, 2.41)) == "the reverse KL exploded, from 1.2 to 2.41 nats a token"
    assert judged(kl=(1.2, 1.2, 1.2, 2.39, 2.39, 2.39)) is None
    assert judged(kl=(0.1, 0.1, 0.1, 1.0, 1.0, 1.0)) is None, "less than a nat above the start"
    short = (20.0, 20.0, 9.0, 4.9, 4.0, 4.9)
    assert judged(length=short) == "the responses collapsed, from 20 to 4.9 tokens"
    assert judged(length=short, kl=(1.2, 1.2, 1.2, 1.3, 1.3, 1.3)) is not None
    assert judged(length=short, kl=(1.2, 1.2, 1.2, 0.9, 0.9, 0.9)) is None, "it learned to end its responses"
    half = (20.0, 20.0, 20.0, 11.9, 9.0, 11.0)
    assert judged(length=half, kl=(1.2, 1.2, 1.2, 1.5, 1.5, 1.5)) == "the responses collapsed, from 20 to 11 tokens"
    assert judged(length=half, kl=(1.2, 1.2, 1.2, 1.4, 1.4, 1.4)) is None, "hardly farther from the teacher"
    # Entropies are of the five collections before the newest.
    frozen = judged(entropy=(1.0, 1.0, 0.02, 0.029, 0.01, 9.0))
    assert frozen == "the student's entropy collapsed, from 1 to 0.01 nats a token"
    assert judged(entropy=(1.0, 1.0, 0.04, 0.029, 0.01, 9.0)) is None


def test_judging_leaves_the_curves_as_they_were() -> None:
    found = Curves()
    found.add(0, reverse_kl=1.0, response_tokens=20.0)
    assert collapse.symptom(found, 2) is None
    assert list(found.points) == ["reverse_kl", "response_tokens"]


@pytest.mark.parametrize("place", range(1, 5))
def test_less_than_three_in_a_row_is_no_collapse(place: int) -> None:
    kl = [1.2] * 6
    kl[place : place + 2] = [9.0, 9.0][: 6 - place]
    assert judged(kl=tuple(kl)) is None


def test_the_first_collections_are_never_judged() -> None:
    for count in (1, 2, 3):
        kl = (1.0, 9.0, 9.0)[:count]
        assert judged(kl=kl, length=(20.0,) * count, entropy=(1.0,) * count) is None
    assert judged(kl=(1.0, 9.0, 9.0, 9.0), length=(20.0,) * 4, entropy=(1.0,) * 4) is not None


def test_the_fix_names_what_is_off_and_would_have_mattered() -> None:
    def fix(**given: Any) -> str:
        return collapse.remedy(MiniLLMSettings(max_steps=1, learning_rate=3e-3, **given), MiniLLM())

    assert fix() == "lower `learning_rate` (now 0.003) or raise `warmup_steps`"
    assert fix(**SHORT).startswith("set `whiten: tokens`, set `length_norm: true`, set `single_step: true`, lower ")
    assert fix(policy_gradient=False, whiten="none") == fix()


def new_run(
    on_collapse: Callable[[DivergedError], None] = collapse.stop, teacher: PreTrainedModel | None = None, **given: Any
) -> OnPolicyRun:
    chosen: dict[str, Any] = {"learning_rate": 3e-2, "warmup_steps": 0, "max_steps": 28, "evaluate_every": 5}
    chosen |= {"rollouts": 32, "minibatch": 16, "inner_epochs": 2, "teacher_mix_alpha": 0.0}
    student = tiny_model(spread=0.2, dtype=torch.float32)
    if teacher is None:
        teacher = tiny_model(vocabulary=14, width=24, seed=1, dtype=torch.float32)
    settings = MiniLLMSettings(**{**chosen, **given})
    return OnPolicyRun(
        student,
        teacher,
        Task(PROMPTS, 24, EOS),
        MiniLLM(),
        settings,
        Execution(16, 32),
        0,
        checksum,
        on_collapse,
    )


def test_what_describes_a_token_does_not_depend_on_how_the_loss_is_normalised() -> None:
    """The first update, whose rollouts and probabilities are the same."""
    first = {}
    for form in ("tokens", "sequences"):
        run = new_run(normalise=form, max_steps=1)
        run.train()
        first[form] = {name: run.curves.points[name][0][1] for name in ("entropy", "clipped", "policy", "single_step")}
    for name in ("entropy", "clipped"):
        assert first["tokens"][name] == pytest.approx(first["sequences"][name], rel=1e-5)
    assert 0 < first["sequences"]["entropy"] < math.log(11)
    assert first["sequences"]["single_step"] > 2 * first["tokens"]["single_step"], "the loss itself sums a response"


def lengths(run: OnPolicyRun) -> list[float]:
    return [value for _, value in run.curves.points["response_tokens"]]


def test_a_run_that_learns_to_end_at_once_is_stopped() -> None:
    run = new_run(**SHORT)
    with pytest.raises(DivergedError, match=r"step 12: the responses collapsed, from 11.* set `whiten: tokens`") as it:
        run.train()
    assert max(lengths(run)[1:]) < 0.25 * lengths(run)[0]
    assert run.collection is not None
    assert [row["response_ids"] for row in it.value.rows] == [r.ids for r in run.collection.responses]
    for row in it.value.rows:
        assert len(row["advantages"]) == len(row["reverse_kl"]) == len(row["response_ids"])


def test_a_run_that_freezes_is_stopped() -> None:
    with pytest.raises(DivergedError, match="the student's entropy collapsed"):
        new_run(learning_rate=1.0).train()


def test_a_run_whose_divergence_explodes_is_stopped() -> None:
    """Its student starts near the teacher and is thrown off by far too high a rate."""
    run = new_run(teacher=tiny_model(spread=0.2, dtype=torch.float32), learning_rate=1.0)
    with torch.no_grad():
        for parameter in run.student.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            parameter.add_(0.1 * noise)
    with pytest.raises(DivergedError, match=r"step 12: the reverse KL exploded, from 0\.3.* lower `learning_rate`"):
        run.train()


def test_a_healthy_run_is_left_alone() -> None:
    new_run().train()


def test_a_run_that_is_let_go_on_is_the_run_that_nobody_watches() -> None:
    """Neither the verdict nor writing out the best weights at each one leaves a trace in what follows."""
    seen = []

    def watch(fault: DivergedError) -> None:
        seen.append(str(fault))
        with run.at_best():
            assert all(torch.equal(p, run.best_weights[n]) for n, p in run.student.named_parameters())

    run, alone = new_run(watch, **SHORT), new_run(lambda fault: None, **SHORT)
    run.train()
    alone.train()
    assert len(seen) >= 2
    assert run.curves.state() == alone.curves.state()
    for mine, other in zip(run.student.parameters(), alone.student.parameters(), strict=True):
        assert torch.equal(mine, other)
