"""SFT, KD and SeqKD through the Trainer: accumulation, padding, masks, order of rows, selection, refusals."""

from __future__ import annotations

import math
import types
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.evaluation.likelihood import response_logprobs
from distill.generation.validation import reference_loss
from distill.models import parts
from distill.models.parts import head, rows_of
from distill.objectives import kd, sft
from distill.parallel.processes import ALONE
from distill.project.errors import DivergedError, TrainingError
from distill.project.progress import Progress
from distill.runs.curves import Curves
from distill.runs.hardware import HardwareSettings
from distill.runs.selection import By, fallback
from distill.runs.stopping import StopRequest
from distill.text.batches import IGNORED, collate
from distill.text.examples import Example
from distill.training import supervised
from distill.training.arguments import training_arguments
from distill.training.batches import ExampleDataset, KeyedSampler
from distill.training.objective import RowObjective, with_objective
from distill.training.settings import SupervisedSettings
from distill.training.supervised import (
    Lesson,
    SupervisedTrainer,
    response_logits,
    train_supervised,
)
from distill.training.teacher_signal import TeacherSignal
from tests.tiny_models import ARCHITECTURES, EOS, tiny_model

ROWS = 20


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress notes go to .resume/ below the working directory."""
    monkeypatch.chdir(tmp_path)


def examples(count: int = ROWS) -> list[Example]:
    """Rows of all lengths; the prompts hold eos too, and so do responses, at their end."""
    draw = torch.Generator().manual_seed(0)
    rows = []
    for i in range(count):
        prompt, response = (torch.randint(1, 11, (1 + (i * k) % 7,), generator=draw).tolist() for k in (3, 5))
        rows.append(Example(i, [EOS, *prompt], [*response, EOS], "text"))
    return rows


def recipe(module: Any = sft, **given: Any) -> Any:
    small = {"learning_rate": 1e-2, "batch_size": 8, "epochs": 2, "warmup_steps": 2}
    return with_objective(SupervisedSettings, module)(**{**small, **given})


def trained(
    micro_batch: int,
    *,
    model: PreTrainedModel | None = None,
    rows: Sequence[Example] | None = None,
    objective: Any = sft,
    cache_teacher: bool = True,
    **given: Any,
) -> tuple[PreTrainedModel, Curves]:
    model = tiny_model(spread=0.2) if model is None else model
    hardware = HardwareSettings(micro_batch=micro_batch, cache_teacher=cache_teacher)
    settings = given.pop("settings", None) or recipe(objective)
    rows = examples() if rows is None else rows
    scratch = Path(f"scratch-{micro_batch}")
    teacher, validate, select = (given.pop(name, None) for name in ("teacher", "validate", "select"))
    lesson = Lesson("test", rows, settings, objective, 0, teacher, validate, select)
    curves = train_supervised(model, lesson, hardware, scratch, **given)
    return model, curves


def same_weights(one: PreTrainedModel, other: PreTrainedModel, tolerance: float = 1e-9) -> None:
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


# --- one update -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [sft, kd], ids=["sft", "kd"])
def test_a_batch_of_8_is_two_accumulated_fours(objective: Any) -> None:
    """Six steps, the last of each epoch short; rows of all lengths, so the fours differ in tokens (trap 3)."""
    teacher = tiny_model(vocabulary=14, seed=1) if objective is kd else None
    whole, curves = trained(8, objective=objective, teacher=teacher)
    for micro_batch in (4, 2, 1):
        split, other = trained(micro_batch, objective=objective, teacher=teacher)
        same_weights(split, whole)
        assert other.points["loss"] == [[step, pytest.approx(v, rel=1e-5)] for step, v in curves.points["loss"]]


def slow_sft(model: PreTrainedModel, rows: Sequence[Example]) -> Tensor:
    """-log q of each response token, a mean over all of them, one row alone at a time."""
    terms = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.prompt_ids + row.response_ids])).logits[0]
        logq = logits[len(row.prompt_ids) - 1 : -1].log_softmax(-1)
        terms.append(-logq[range(len(row.response_ids)), row.response_ids])
    return torch.cat(terms).mean()


def trainer(model: PreTrainedModel, rows: Sequence[Example], objective: Any = sft, **given: Any) -> SupervisedTrainer:
    settings = recipe(objective)
    signal = given.get("teacher") and TeacherSignal(given["teacher"], rows, 4, keep=given["keep"])
    arguments = training_arguments(settings, HardwareSettings(), Path("scratch"), 0, 3, False, ALONE, model.dtype)
    watch = supervised._Watch(Progress("test", 1), StopRequest(), 100, ALONE, 0)
    return SupervisedTrainer(model, arguments, Lesson("test", rows, settings, objective, 0), signal, watch)


def batch_loss(made: SupervisedTrainer, rows: Sequence[Example]) -> Tensor:
    """The loss of one batch, by the forward that training uses."""
    model = torch.nn.Module()
    assert isinstance(made.model, PreTrainedModel)
    model.forward = partial(response_logits, made.model)
    loss: Tensor = made.compute_loss(model, collate(rows))
    return loss


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_of_a_padded_batch_is_that_of_its_rows(architecture: str) -> None:
    model, rows = tiny_model(architecture), examples(7)
    expected = slow_sft(model, rows)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    loss = batch_loss(trainer(model, rows), rows)
    loss.backward()
    tolerance = 1e-10 if architecture in ("gpt2", "opt") else 1e-5
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=tolerance, atol=tolerance)
    assert reference_loss(model, rows, batch_size=3) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("ours", "theirs"), [(11, 14), (14, 11)])
def test_kd_over_padded_vocabularies(keep: bool, ours: int, theirs: int) -> None:
    """Only ids that both have are compared; teacher states kept or computed anew give the same (trap 5)."""
    student, teacher = tiny_model(vocabulary=ours), tiny_model(vocabulary=theirs, width=24, seed=1)
    rows = examples(5)
    terms = []
    for row in rows:
        ids, here = torch.tensor([row.prompt_ids + row.response_ids]), slice(len(row.prompt_ids) - 1, -1)
        logq = student(input_ids=ids).logits[0, here, :11].log_softmax(-1)
        logp = teacher(input_ids=ids).logits[0, here, :11].log_softmax(-1)
        cross_entropy = -logq[range(len(row.response_ids)), row.response_ids]
        terms.append(0.5 * cross_entropy + 0.5 * (logp.exp() * (logp - logq)).sum(-1))
    found = batch_loss(trainer(student, rows, kd, teacher=teacher, keep=keep), rows[::-1])
    torch.testing.assert_close(found, torch.cat(terms).mean(), rtol=1e-10, atol=1e-12)


def test_the_first_eos_is_trained_and_padding_is_not() -> None:
    """Pad id = eos id (trap 1): labels come from lengths."""
    batch = collate([Example(4, [EOS, 3], [5, EOS], ""), Example(9, [2], [EOS], ""), Example(1, [7], [8, 8, 8], "")])
    assert batch["input_ids"].tolist() == [[EOS, 3, 5, EOS], [2, EOS, 0, 0], [7, 8, 8, 8]]
    assert batch["labels"].tolist() == [
        [IGNORED, IGNORED, 5, EOS],
        [IGNORED, EOS, IGNORED, IGNORED],
        [IGNORED, 8, 8, 8],  # cut at the limit: no eos to learn
    ]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["rows"].tolist() == [4, 9, 1]


def test_half_precision_reaches_objectives_as_float32() -> None:
    """Trap 12, for every objective that is or will be written."""
    seen: list[torch.dtype] = []

    def token_losses(settings: Any, student: Tensor, teacher: Tensor | None, labels: Tensor, progress: float) -> Tensor:
        assert teacher is not None
        seen.extend((student.dtype, teacher.dtype))
        return student.logsumexp(-1)

    objective = cast(RowObjective, types.SimpleNamespace(NEEDS_TEACHER=True, token_losses=token_losses))
    student, teacher = (tiny_model(seed=seed, dtype=torch.bfloat16) for seed in (0, 1))
    made = trainer(student, examples(3), kd, teacher=teacher, keep=True)
    made.lesson = replace(made.lesson, objective=objective)
    batch_loss(made, examples(3))
    assert seen == [torch.float32, torch.float32]


# --- what is not trainable ------------------------------------------------------------------------------------------


def test_a_step_without_a_response_token_is_an_error() -> None:
    """Trap 9. A micro-batch without one is none, as long as its step has some: or the machine would decide."""
    empty = [Example(i, [1, 2], [], "") for i in range(8)]
    with pytest.raises(TrainingError, match="no row has a response token"):
        ExampleDataset(empty)
    model = tiny_model()
    with pytest.raises(TrainingError, match="a batch has no response token"):
        batch_loss(trainer(model, examples(2)), empty[:2])
    mixed = [*empty[:3], *examples(5)]
    whole, _ = trained(8, rows=mixed)
    split, _ = trained(1, rows=mixed)
    same_weights(split, whole)


def test_a_loss_that_is_no_longer_finite_stops_the_run() -> None:
    model = tiny_model()
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(DivergedError, match="the loss is nan; lower `learning_rate`") as stopped:
        trained(4, model=model, rows=examples(8))
    shown = stopped.value.rows
    assert len(shown) == 4, "the micro-batch in which it happened"
    for row in shown:
        example = examples(8)[row["row"]]
        assert row["input_ids"] == example.prompt_ids + example.response_ids
        assert row["response_ids"] == example.response_ids


def test_a_gradient_that_is_not_finite_stops_before_the_update() -> None:
    def token_losses(settings: Any, student: Tensor, teacher: Tensor | None, labels: Tensor, progress: float) -> Tensor:
        return (student - student.detach()).abs().sum(-1).sqrt()  # 0, with an infinite slope

    model, objective = tiny_model(), types.SimpleNamespace(NEEDS_TEACHER=False, token_losses=token_losses)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(DivergedError, match="the gradient norm is nan; lower `learning_rate`") as stopped:
        trained(4, model=model, objective=objective, settings=recipe())
    assert len(stopped.value.rows) == 8, "all micro-batches of the step"
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def test_unfit_arguments_are_refused() -> None:
    with pytest.raises(TrainingError, match="not a multiple of micro_batch 3"):
        trained(3)
    with pytest.raises(TrainingError, match="needs a teacher"):
        trained(8, objective=kd)


# --- rows and selection ---------------------------------------------------------------------------------------------


def test_rows_come_in_an_order_that_seed_and_epoch_fix() -> None:
    lengths = [(i * 7) % 13 for i in range(100)]
    sampler = KeyedSampler(lengths, 8, seed=0)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(first) == sorted(second) == list(range(100))
    assert list(KeyedSampler(lengths, 8, seed=1)) != first

    def batches(order: list[int]) -> list[list[int]]:
        return [order[start : start + 8] for start in range(0, 96, 8)]

    # Not only the order of batches is another, but also who shares one.
    assert not set(map(frozenset, batches(first))) & set(map(frozenset, batches(second)))
    # Batches hold rows of similar length: far less padding than in a random order.
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches(first)]
    assert sum(spread) / len(spread) < 3


def test_the_trainer_takes_rows_in_that_order_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    compute = SupervisedTrainer.compute_loss

    def note(self: SupervisedTrainer, model: Any, inputs: dict[str, Any], *args: Any, **given: Any) -> Any:
        seen.extend(inputs["rows"].tolist())
        return compute(self, model, inputs, *args, **given)

    monkeypatch.setattr(SupervisedTrainer, "compute_loss", note)
    trained(4)
    sampler = KeyedSampler([len(e.prompt_ids) + len(e.response_ids) for e in examples()], 8, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    assert seen == first + list(sampler)


def test_losses_without_a_gradient_form_a_few_logits_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny_model(spread=0.2), examples()
    whole = reference_loss(model, rows, 8), response_logprobs(model, rows, 8)
    vocabulary = rows_of(head(model))
    monkeypatch.setattr(parts, "_LOGITS_AT_ONCE", 5 * vocabulary)
    seen: list[int] = []
    head(model).register_forward_hook(lambda _, __, logits: seen.append(logits.numel()))
    assert reference_loss(model, rows, 8) == pytest.approx(whole[0], rel=1e-12)
    torch.testing.assert_close(response_logprobs(model, rows, 8), whole[1], rtol=1e-12, atol=1e-12)
    assert max(seen) == 5 * vocabulary < sum(seen)


@pytest.mark.parametrize(
    ("select", "by", "flat", "best"),
    [("rouge_l", None, False, 6), ("loss", None, False, 9), ("rouge_l", None, True, 9), ("rouge_l", "loss", False, 9)],
)
def test_the_selected_weights_are_what_remains(select: str, by: By | None, flat: bool, best: int) -> None:
    """Four epochs of three steps; Rouge-L is best after the second unless `flat`, the loss after the third."""
    found = {3: (10.0, 3.0), 6: (30.0, 2.0), 9: (20.0, 1.0), 12: (15.0, 4.0)}
    if flat:
        found = {step: (0.0, loss) for step, (_, loss) in found.items()}
    seen: dict[int, list[Tensor]] = {}

    def validate(model: PreTrainedModel) -> dict[str, float]:
        step = 3 * (len(seen) + 1)
        seen[step] = [parameter.detach().clone() for parameter in model.parameters()]
        return {"rouge_l": found[step][0], "loss": found[step][1]}

    model, curves = trained(4, validate=validate, settings=recipe(epochs=4, select=select), select=by)
    assert not model.training
    told = fallback(curves.points, recipe(select=select).select, by or recipe(select=select).select)
    assert (told is not None) == (flat or by == "loss")
    assert told is None or "lowest validation loss is kept, 1 at step 9" in told
    for parameter, kept in zip(model.parameters(), seen[best], strict=True):
        assert torch.equal(parameter, kept)
    assert curves.points["valid_rouge_l"] == [[step, values[0]] for step, values in found.items()]
    assert [step for step, _ in curves.points["loss"]] == list(range(1, 13))
    # the Trainer's warm-up counts from 0: its first step moves nothing
    assert curves.points["learning_rate"][:3] == [[1, 0.0], [2, 5e-3], [3, 1e-2]]


def test_training_learns() -> None:
    model, curves = trained(8, settings=recipe(epochs=10))
    losses = [value for _, value in curves.points["loss"]]
    assert losses[-1] < 0.7 * losses[0]
    assert slow_sft(model, examples()) < 0.7 * slow_sft(tiny_model(spread=0.2), examples())
