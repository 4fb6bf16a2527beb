"""What must not change an update: micro-batches, padding, order, the machine; and what must not change at all."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.models.parts import head
from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.returns import whitened
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from distill.on_policy.losses import Packed, packed_loss, weighted_loss
from distill.on_policy.packing import MicroBatch, micro_batches
from distill.on_policy.passes import response_hidden
from distill.on_policy.rollouts import Collection, assemble, collect, prompt_stream
from distill.project.errors import DivergedError, TrainingError
from tests.tiny_models import ARCHITECTURES, EOS, checksum, tiny_model

PROMPTS = [[3], [1, EOS, 2], [5, 4, 3, 2, 1, 1, 2], [9, 8], [7, 7, 7, 7]]
ROLLOUTS, LONGEST = 8, 10
CPU = torch.device("cpu")


def minillm(**given: Any) -> MiniLLMSettings:
    small = {"max_steps": 6, "learning_rate": 1e-2, "warmup_steps": 0, "evaluate_every": 3}
    return MiniLLMSettings(**{**small, "rollouts": ROLLOUTS, "minibatch": ROLLOUTS, "inner_epochs": 2, **given})


@cache
def models(architecture: str = "gpt2") -> tuple[PreTrainedModel, PreTrainedModel]:
    """Student and teacher with padded vocabularies of different sizes."""
    return tiny_model(architecture), tiny_model(architecture, vocabulary=14, width=24, seed=1)


@cache
def rollouts(architecture: str, settings: MiniLLMSettings, width: int = LONGEST) -> Collection:
    student, teacher = models(architecture)
    collection = collect(
        student,
        teacher,
        PROMPTS,
        settings,
        MiniLLM(),
        number=0,
        seed=0,
        max_new_tokens=LONGEST,
        eos_id=EOS,
        batch_size=3,
    )
    return assemble(collection.prompts, collection.responses, settings, MiniLLM(), width)


def gradient(architecture: str, settings: MiniLLMSettings, batches: list[MicroBatch]) -> list[Tensor]:
    """Loss, metrics and all gradients of accumulated micro-batches."""
    student, teacher = models(architecture)
    student.zero_grad()
    totals = torch.zeros(1 + len(MiniLLM.metrics), dtype=torch.float64)
    for batch in batches:
        hidden = response_hidden(student, batch.ids, batch.positions)
        loss, metrics = packed_loss(
            MiniLLM(), settings, hidden, head(student), head(teacher), batch.packed, 11, chunk=6
        )
        loss.backward()
        totals += torch.cat([loss.detach()[None], metrics])
    return [totals, *(p.grad.clone() for p in student.parameters() if p.grad is not None)]


def same(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


PRESETS = ["default", "paper", "reference"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("preset", PRESETS)
def test_micro_batches_add_up(architecture: str, preset: str) -> None:
    """8 x 1 = 4 x 2 = 3 + 3 + 2 = 1 x 8. LLaMA's and Qwen2's norms round to float32 inside."""
    settings = minillm(preset=preset)
    collection, chosen = rollouts(architecture, settings), range(ROLLOUTS)
    whole = gradient(architecture, settings, micro_batches(collection, chosen, settings, MiniLLM(), 8, CPU))
    assert len(whole) > 10
    for size in (1, 2, 3, 4):
        split = micro_batches(collection, chosen, settings, MiniLLM(), size, CPU)
        assert len(split) == -(-ROLLOUTS // size)
        same(gradient(architecture, settings, split), whole, 1e-11 if architecture in ("gpt2", "opt") else 2e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_packed_loss_is_that_of_whole_sequences(preset: str) -> None:
    """Against one unpadded pass a response over the full logits, in the order of collection: no buckets, no chunks."""
    settings = minillm(preset=preset)
    collection = rollouts("gpt2", settings)
    packed = gradient("gpt2", settings, micro_batches(collection, range(ROLLOUTS), settings, MiniLLM(), 3, CPU))
    student, teacher = models()
    scaled = whitened(collection.advantages, collection.mask, settings.whiten)
    tokens = int(collection.mask.sum())
    student.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for prompt, response, values in zip(collection.prompts, collection.responses, scaled, strict=True):
        ids, length = torch.tensor([prompt + response.ids]), len(response.ids)
        here = slice(len(prompt) - 1, -1)
        with torch.no_grad():
            theirs = teacher(input_ids=ids).logits[0, here, :11]
        known = Packed(
            tokens=torch.tensor(response.ids),
            old_logprobs=response.logprobs,
            behaviour_logprobs=response.behaviour_logprobs,
            advantages=values[:length],
            weights=values.new_full((length,), 1 / ROLLOUTS if preset == "paper" else 1 / tokens),
            teacher_hidden=response.teacher_hidden,
        )
        loss, _ = weighted_loss(MiniLLM(), settings, student(input_ids=ids).logits[0, here], theirs, known)
        loss.backward()
        total += loss.detach()
    torch.testing.assert_close(packed[0][0], total, rtol=1e-10, atol=1e-12)
    same(packed[1:], [p.grad for p in student.parameters() if p.grad is not None], 1e-10)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_changes_no_loss_and_no_gradient(architecture: str) -> None:
    """Neither more columns on the right nor what stands in them."""
    settings = minillm()
    (batch,) = micro_batches(rollouts(architecture, settings), range(ROLLOUTS), settings, MiniLLM(), ROLLOUTS, CPU)
    whole = gradient(architecture, settings, [batch])
    rows, width = batch.ids.shape
    junk = torch.randint(11, (rows, 5), generator=torch.Generator().manual_seed(0))
    row, column = batch.positions // width, batch.positions % width
    wider = replace(batch, ids=torch.cat([batch.ids, junk], dim=1), positions=row * (width + 5) + column)
    same(gradient(architecture, settings, [wider]), whole, 1e-11 if architecture in ("gpt2", "opt") else 2e-6)


@pytest.mark.parametrize("whiten", ["none", "tokens", "grid"])
def test_a_higher_response_limit_matters_to_the_grid_alone(whiten: str) -> None:
    settings = minillm(whiten=whiten)
    found = [
        gradient(
            "gpt2", settings, micro_batches(rollouts("gpt2", settings, width), range(8), settings, MiniLLM(), 8, CPU)
        )
        for width in (LONGEST, LONGEST + 30)
    ]
    if whiten == "grid":
        assert not torch.allclose(found[0][0], found[1][0])
    else:
        same(found[0], found[1], 1e-12)


def test_the_order_within_a_mini_batch_changes_nothing() -> None:
    settings = minillm()
    collection = rollouts("gpt2", settings)
    forth = gradient("gpt2", settings, micro_batches(collection, [0, 3, 5, 6], settings, MiniLLM(), 2, CPU))
    back = gradient("gpt2", settings, micro_batches(collection, [6, 3, 0, 5], settings, MiniLLM(), 2, CPU))
    same(forth, back, 1e-12)


def test_rewards_and_weights_carry_no_gradient() -> None:
    """Trap 4, although the student was collected from with its gradients on."""
    settings = minillm()
    student, _ = models()
    assert all(parameter.requires_grad for parameter in student.parameters())
    collection = rollouts("gpt2", settings)
    assert not collection.advantages.requires_grad
    for batch in micro_batches(collection, range(ROLLOUTS), settings, MiniLLM(), 4, CPU):
        for name, value in vars(batch.packed).items():
            assert not value.requires_grad, name


def test_prompts_come_in_whole_shuffled_epochs() -> None:
    stream = prompt_stream(5, seed=0, start=0, length=20)
    for epoch in range(4):
        assert sorted(stream[5 * epoch : 5 * epoch + 5]) == list(range(5))
    assert len({tuple(stream[5 * e : 5 * e + 5]) for e in range(4)}) > 1
    # Any window of the stream is the same window of the stream.
    assert prompt_stream(5, seed=0, start=7, length=9) == stream[7:16]
    assert prompt_stream(5, seed=1, start=0, length=20) != stream


# --- the run --------------------------------------------------------------------------------------------------------


def new_run(settings: MiniLLMSettings, machine: Execution, **given: Any) -> OnPolicyRun:
    task = Task(PROMPTS, LONGEST, EOS, torch.arange(200) % 11)
    student, teacher = tiny_model(spread=0.2), tiny_model(vocabulary=14, width=24, seed=1)
    return OnPolicyRun(student, teacher, given.get("task", task), MiniLLM(), settings, machine, 0, checksum)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_machine_changes_no_result(alpha: float) -> None:
    settings = minillm(teacher_mix_alpha=alpha, lm_coef=0.1, minibatch=4, lm_batch=2, lm_length=6)
    runs = [new_run(settings, machine) for machine in (Execution(1, 3), Execution(4, 64))]
    for run in runs:
        run.train()
    assert runs[0].validations.kept.step == runs[1].validations.kept.step
    for mine, other in zip(runs[0].student.parameters(), runs[1].student.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
    assert runs[0].curves.points.keys() == runs[1].curves.points.keys()
    for name, points in runs[0].curves.points.items():
        assert [step for step, _ in points] == [step for step, _ in runs[1].curves.points[name]]


def test_every_rollout_is_used_once_an_inner_epoch() -> None:
    settings = minillm(rollouts=8, minibatch=2, inner_epochs=3, max_steps=30)
    assert settings.steps_per_collection == 12
    run = new_run(settings, Execution(4, 8))
    used: list[int] = []
    for run.step in range(24):
        used += run._minibatch()
    epochs = [used[start : start + 8] for start in range(0, 48, 8)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_the_first_step_is_on_policy() -> None:
    """Before any update q = q_old: without mixing all ratios are 1, nothing is clipped."""
    run = new_run(minillm(teacher_mix_alpha=0.0, max_steps=1, whiten="none"), Execution(4, 8))
    run.train()
    assert run.curves.last("clipped") == 0.0
    assert run.collection is not None
    mean = run.collection.advantages[run.collection.mask].mean()
    assert run.curves.last("policy") == pytest.approx(-float(mean), rel=1e-5)


def test_the_teacher_stays_as_it_is() -> None:
    run = new_run(minillm(), Execution(4, 8))
    before = [parameter.clone() for parameter in run.teacher.parameters()]
    run.train()
    for parameter, old in zip(run.teacher.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.grad is None


@pytest.mark.parametrize("flat", [False, True])
def test_the_best_weights_are_what_remains(flat: bool) -> None:
    """By Rouge-L; by the loss, which is lowest at the same step, where Rouge-L never varies."""
    run = new_run(minillm(max_steps=9), Execution(4, 8))
    seen = {}

    def watch(model: PreTrainedModel) -> dict[str, float]:
        # Best at the second of the validations after steps 0, 3, 6, 9.
        seen[run.step] = [parameter.detach().clone() for parameter in model.parameters()]
        score = {0: 1.0, 3: 5.0, 6: 4.0, 9: 2.0}[run.step]
        return {"rouge_l": 0.0, "loss": 9.0 - score} if flat else {"rouge_l": score}

    run.validate = watch
    run.train()
    assert run.validations.kept[:2] == (3, 0.0 if flat else 5.0)
    for parameter, best in zip(run.student.parameters(), seen[3], strict=True):
        assert torch.equal(parameter, best)


def test_a_run_that_is_no_longer_finite_stops_before_the_update() -> None:
    run = new_run(minillm(), Execution(4, 8))
    run._collect()
    assert run.collection is not None
    run.collection.responses[0].logprobs[:] = torch.nan
    run.collection.responses[0].behaviour_logprobs[:] = torch.nan
    before = [parameter.detach().clone() for parameter in run.student.parameters()]
    with pytest.raises(
        DivergedError, match=r"step 0: the loss is nan .* lower `learning_rate` \(now 0.01\)"
    ) as stopped:
        run._update(list(range(ROLLOUTS)))
    shown = stopped.value.rows
    assert [row["prompt_ids"] for row in shown] == run.collection.prompts
    assert all(math.isnan(value) for value in shown[0]["logprobs"])
    for parameter, old in zip(run.student.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def test_a_run_with_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(TrainingError, match="no prompt"):
        new_run(minillm(), Execution(4, 8), task=Task([], LONGEST, EOS))
    with pytest.raises(TrainingError, match="needs plain text"):
        new_run(minillm(lm_coef=1.0), Execution(4, 8), task=Task(PROMPTS, LONGEST, EOS))
