"""Divergences by hand, by a slow float64 loop, at their limits; one objective on rows and on own samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.objectives import jsd, kd, reverse_kl, sft, skew_kl
from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from distill.on_policy.objective import OwnSampleObjective, own_sample_objective
from distill.on_policy.rollouts import sampled_prompts
from distill.on_policy.settings import OnPolicySettings
from distill.project.errors import SettingsError
from distill.runs.hardware import HardwareSettings
from distill.text.examples import Example
from distill.training.objective import load_objective, load_row_objective, objective_names, with_objective
from distill.training.settings import SupervisedSettings
from distill.training.supervised import Lesson, train_supervised
from tests.tiny_models import EOS, tiny_model

F64 = torch.float64
# q = (3/4, 1/4), p = (1/2, 1/2)
Q, P = (0.75, 0.25), (0.5, 0.5)


def losses(objective: Any, q: Any, p: Any, **settings: Any) -> Tensor:
    """Losses of rows of probabilities, [N]."""
    student, teacher = (torch.as_tensor(each, dtype=F64).reshape(-1, len(P)).log() for each in (q, p))
    labels = torch.zeros(len(student), dtype=torch.long)
    found: Tensor = objective.token_losses(objective.ObjectiveSettings(**settings), student, teacher, labels, 0.0)
    return found


def kl(a: Any, b: Any) -> float:
    """KL(a || b), one term after the other."""
    return math.fsum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x)


def mixed(share: float, a: Any, b: Any) -> list[float]:
    return [share * x + (1 - share) * y for x, y in zip(a, b, strict=True)]


def test_values_by_hand() -> None:
    log = math.log
    assert losses(reverse_kl, Q, P).item() == pytest.approx(0.75 * log(1.5) + 0.25 * log(0.5))
    # The mixture is 5/8 and 3/8.
    halves = 0.5 * (0.5 * log(0.8) + 0.5 * log(4 / 3)) + 0.5 * (0.75 * log(1.2) + 0.25 * log(2 / 3))
    assert losses(jsd, Q, P).item() == pytest.approx(halves)
    assert losses(jsd, Q, P, scale="even").item() == pytest.approx(4 * halves)
    # a = 1/5: mixtures (0.7, 0.3) and (0.55, 0.45)
    forward = losses(skew_kl, Q, P, direction="forward", skew=0.2).item()
    assert forward == pytest.approx(0.5 * log(0.5 / 0.7) + 0.5 * log(0.5 / 0.3))
    backward = losses(skew_kl, Q, P, direction="reverse", skew=0.2).item()
    assert backward == pytest.approx(0.75 * log(0.75 / 0.55) + 0.25 * log(0.25 / 0.45))


SLOW = [
    (reverse_kl, {}, lambda q, p: kl(q, p)),
    (jsd, {"beta": 0.3}, lambda q, p: 0.3 * kl(p, mixed(0.3, p, q)) + 0.7 * kl(q, mixed(0.3, p, q))),
    (skew_kl, {"direction": "forward", "skew": 0.3}, lambda q, p: kl(p, mixed(0.3, p, q))),
    (skew_kl, {"direction": "reverse", "skew": 0.3}, lambda q, p: kl(q, mixed(0.3, q, p))),
]


@pytest.mark.parametrize(("objective", "settings", "slow"), SLOW)
def test_against_a_slow_loop_and_finite_differences(objective: Any, settings: dict[str, Any], slow: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(5, 7, generator=draw, dtype=F64) for _ in range(2))
    choice, labels = objective.ObjectiveSettings(**settings), torch.zeros(5, dtype=torch.long)
    found = objective.token_losses(choice, student, teacher, labels, 0.0)
    rows = zip(student.softmax(-1).tolist(), teacher.softmax(-1).tolist(), strict=True)
    assert found.tolist() == pytest.approx([slow(q, p) for q, p in rows], rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda logits: objective.token_losses(choice, logits, teacher, labels, 0.0), (student.requires_grad_(),)
    )


def test_limits() -> None:
    forward, backward = kl(P, Q), kl(Q, P)
    assert losses(jsd, Q, P, beta=1e-6).item() == pytest.approx(0, abs=1e-6), "towards 0 the divergence vanishes"
    for beta, limit in ((1e-6, forward), (1 - 1e-6, backward), (0, forward), (1, backward)):
        assert losses(jsd, Q, P, beta=beta, scale="even").item() == pytest.approx(limit, rel=1e-5)
    assert losses(jsd, Q, P, beta=0, scale="even").item() == losses(kd, Q, P, kd_ratio=1).item()
    for direction, limit in (("forward", forward), ("reverse", backward)):
        assert losses(skew_kl, Q, P, direction=direction, skew=0).item() == pytest.approx(limit)
        for skew in (0.1, 0.5, 0.9):
            apart = losses(skew_kl, [1 - 1e-300, 1e-300], [1e-300, 1 - 1e-300], direction=direction, skew=skew)
            assert apart.item() == pytest.approx(-math.log(skew)), "its greatest value"
    for beta in (0.1, 0.5, 0.9):
        parts = [
            losses(skew_kl, Q, P, direction="forward", skew=beta).item(),
            losses(skew_kl, Q, P, direction="reverse", skew=1 - beta).item(),
        ]
        assert losses(jsd, Q, P, beta=beta).item() == pytest.approx(beta * parts[0] + (1 - beta) * parts[1])
    with pytest.raises(ValueError, match="use `scale: even`, or kd or reverse_kl"):
        jsd.ObjectiveSettings(beta=0)


def test_near_the_teacher_all_betas_have_one_scale_when_even() -> None:
    near = [0.5 + 1e-4, 0.5 - 1e-4]
    even = [losses(jsd, near, P, beta=beta, scale="even").item() for beta in (0.1, 0.5, 0.9)]
    assert even == pytest.approx([even[0]] * 3, rel=1e-3)


@pytest.mark.parametrize("objective", [jsd, skew_kl])
def test_probabilities_that_underflow_in_float32_leave_numbers(objective: Any) -> None:
    student, teacher = torch.tensor([[0.0, 300.0, -300.0]]), torch.tensor([[300.0, 0.0, -300.0]])
    student.requires_grad_()
    found = objective.token_losses(objective.ObjectiveSettings(), student, teacher, torch.tensor([0]), 0.0)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert torch.isfinite(found).all()
    assert torch.isfinite(gradient).all()


# --- found by name --------------------------------------------------------------------------------------------------


def test_every_file_of_the_folder_is_an_objective() -> None:
    assert {"jsd", "kd", "minillm", "reverse_kl", "sft", "skew_kl"} <= set(objective_names())
    for name in objective_names():
        found = load_objective(name)
        assert found.LABEL
        assert isinstance(found.NEEDS_TEACHER, bool)
        assert with_objective(OnPolicySettings, found).model_validate({"learning_rate": 1e-3, "max_steps": 1})
    assert load_objective("kd.py") is load_objective("kd")


def test_a_name_that_is_none() -> None:
    with pytest.raises(SettingsError, match=r"no objective `kdd` in distill/objectives; write kdd.py or use one of: "):
        load_objective("kdd.py")
    with pytest.raises(SettingsError, match=r"objective `minillm` needs own samples; train it by stages.on_own_sample"):
        load_row_objective("minillm")


# --- on own samples -------------------------------------------------------------------------------------------------

PROMPTS = [[1 + i % 5, 2, 3 + i % 3] for i in range(12)]
RESPONSES = [[4 + i % 6, *[1 + (i * k) % 9 for k in range(i % 4)], EOS] for i in range(12)]
SIZES = {"rollouts": 12, "minibatch": 6, "inner_epochs": 2, "max_steps": 6, "learning_rate": 1e-2, "warmup_steps": 0}


def run_of(objective: OwnSampleObjective, settings: OnPolicySettings, responses: Any = ()) -> OnPolicyRun:
    student, teacher = tiny_model(spread=0.2), tiny_model(seed=1, spread=0.2)
    task = Task(PROMPTS, 6, EOS, None, responses)
    run = OnPolicyRun(student, teacher, task, objective, settings, Execution(3, 5), 0, lambda _: {"rouge_l": 0.0})
    run.train()
    return run


def of_rows(objective: Any, **given: Any) -> tuple[OwnSampleObjective, OnPolicySettings]:
    return own_sample_objective(objective), with_objective(OnPolicySettings, objective)(**SIZES | given)


def test_reverse_kl_on_own_samples_is_the_single_step_to_the_bit() -> None:
    single = MiniLLMSettings(**SIZES, teacher_mix_alpha=0.0, policy_gradient=False)  # type: ignore[arg-type]
    ours, theirs = run_of(*of_rows(reverse_kl)), run_of(MiniLLM(), single)
    assert ours.curves.points["loss"] == theirs.curves.points["loss"]
    for mine, other in zip(ours.student.parameters(), theirs.student.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_own_share_of_none_is_training_on_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole-batch steps of plain AdamW at one rate: the two engines draw the same rows, in another order."""
    monkeypatch.chdir(tmp_path)
    same = {"rollouts": 12, "minibatch": 12, "inner_epochs": 1, "max_steps": 5, "betas": (0.9, 0.999)}
    own = run_of(*of_rows(jsd, own_share=0.0, weight_decay=0.01, **same), RESPONSES)
    rows = [Example(i, p, r, "") for i, (p, r) in enumerate(zip(PROMPTS, RESPONSES, strict=True))]
    settings = with_objective(SupervisedSettings, jsd)(
        learning_rate=1e-2, min_learning_rate=1e-2, batch_size=12, epochs=5
    )
    student, teacher = tiny_model(spread=0.2), tiny_model(seed=1, spread=0.2)
    hardware = HardwareSettings(micro_batch=12)
    curves = train_supervised(student, Lesson("test", rows, settings, jsd, 0, teacher), hardware, Path("scratch"))
    mine, theirs = ([value for _, value in each.points["loss"]] for each in (own.curves, curves))
    assert mine[0] == pytest.approx(theirs[0], rel=1e-5)
    assert mine[-1] == pytest.approx(theirs[-1], rel=1e-3)
    assert mine[-1] < 0.9 * mine[0]


def test_a_share_of_own_samples_is_drawn_by_place_alone() -> None:
    drawn = sampled_prompts(0.3, seed=5, start=0, length=4000)
    assert sum(drawn) / 4000 == pytest.approx(0.3, abs=0.03)
    assert sampled_prompts(0.3, seed=5, start=1000, length=10) == drawn[1000:1010]
    assert all(sampled_prompts(1.0, 0, 0, 50)) and not any(sampled_prompts(0.0, 0, 0, 50))
    run = run_of(*of_rows(jsd, own_share=0.5), RESPONSES)
    assert run.collection is not None
    own = run.collection.sampled.tolist()
    assert 0 < sum(own) < len(own)
    known = {tuple(prompt): response for prompt, response in zip(PROMPTS, RESPONSES, strict=True)}
    for prompt, response, sampled in zip(run.collection.prompts, run.collection.responses, own, strict=True):
        assert sampled or response.ids == known[tuple(prompt)]
        assert len(response.logprobs) == len(response.kl) == len(response.teacher_logprobs) == len(response.ids)


def test_a_policy_gradient_refuses_rows_of_the_data() -> None:
    with pytest.raises(ValueError, match="needs responses that were sampled; set `own_share: 1`"):
        MiniLLMSettings(**SIZES, own_share=0.5)  # type: ignore[arg-type]


def test_progress_goes_from_the_start_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[float] = []

    class Watched:
        """SFT that notes the progress it is told."""

        NEEDS_TEACHER = False
        LABEL = "watched"
        ObjectiveSettings = sft.ObjectiveSettings

        def token_losses(self, settings: Any, student: Any, teacher: Any, labels: Any, progress: float) -> Tensor:
            seen.append(progress)
            return sft.token_losses(settings, student, None, labels, progress)

    run_of(own_sample_objective(Watched()), OnPolicySettings(**SIZES))  # type: ignore[arg-type]
    assert sorted(set(seen)) == pytest.approx([i / 6 for i in range(6)])
    seen.clear()
    rows = [Example(i, p, r, "") for i, (p, r) in enumerate(zip(PROMPTS, RESPONSES, strict=True))]
    settings = SupervisedSettings(learning_rate=1e-3, batch_size=6, epochs=2)
    train_supervised(tiny_model(), Lesson("t", rows, settings, Watched(), 0), HardwareSettings(), Path("scratch"))
    assert sorted(set(seen)) == [0, 0.25, 0.5, 0.75]
