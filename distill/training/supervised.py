"""Supervised training (SFT, KD, SeqKD, pretraining): transformers' Trainer with our loss, order and selection.

What is ours: the loss is an objective's per-token loss over response tokens divided by the global count of
them (trap 3); validation samples responses and scores Rouge-L; rows come in a keyed order. The rest (AdamW,
schedule, accumulation, resume after a kill) is the Trainer's.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from distill.models.lora import has_adapter, trainable
from distill.models.parts import backbone, head, precise, shared_vocabulary
from distill.project.errors import DivergedError, TrainingError
from distill.project.progress import Progress
from distill.runs.curves import Curves
from distill.runs.hardware import HardwareSettings
from distill.runs.interrupt import StopRequest, stop_after_step
from distill.runs.trackers import callbacks
from distill.text.batches import IGNORED, collate
from distill.text.examples import Example
from distill.training.batches import ExampleDataset, KeyedSampler
from distill.training.settings import SupervisedSettings
from distill.training.unfinished import curves_of, newest_checkpoint, seal_checkpoint

Validate = Callable[[PreTrainedModel], dict[str, float]]


class Objective(Protocol):
    """What a module in `distill/objectives/` offers."""

    NEEDS_TEACHER: bool

    def token_losses(
        self, settings: Any, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor
    ) -> Tensor:
        """Loss of each response token, [N]; logits are [N, V] in float32 or better, labels [N]."""


class TeacherSignal:
    """The teacher's distribution at response tokens, from hidden states kept once or computed each time."""

    def __init__(self, teacher: PreTrainedModel, examples: Sequence[Example], batch: int, keep: bool) -> None:
        """Run the teacher over all examples now when `keep`; its hidden states stay on the CPU."""
        self.teacher = teacher.eval().requires_grad_(False)
        self.kept: dict[int, Tensor] = {}
        if keep:
            ordered = sorted(examples, key=lambda e: len(e.prompt_ids) + len(e.response_ids))
            for start in range(0, len(ordered), batch):
                group = ordered[start : start + batch]
                inputs = {k: v.to(teacher.device) for k, v in collate(group).items()}
                pieces = self._hidden(inputs).split([len(e.response_ids) for e in group])
                self.kept.update((e.index, piece.cpu()) for e, piece in zip(group, pieces, strict=True))

    def logits(self, inputs: dict[str, Tensor], vocabulary: int) -> Tensor:
        """Teacher logits [N, vocabulary] at the tokens that `labels` marks."""
        with torch.no_grad():
            if self.kept:
                hidden = torch.cat([self.kept[row] for row in inputs["rows"].tolist()]).to(self.teacher.device)
            else:
                hidden = self._hidden(inputs)
            return precise(head(self.teacher)(hidden)[:, :vocabulary])

    @torch.no_grad()
    def _hidden(self, inputs: dict[str, Tensor]) -> Tensor:
        states = backbone(self.teacher)(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state
        kept: Tensor = states[:, :-1][inputs["labels"][:, 1:] != IGNORED]
        return kept


class SupervisedTrainer(Trainer):
    """Trainer with an objective of ours. `validate` returns `loss` and `rouge_l`."""

    def __init__(
        self,
        model: PreTrainedModel,
        arguments: TrainingArguments,
        examples: Sequence[Example],
        settings: SupervisedSettings,
        objective: Objective,
        teacher: TeacherSignal | None,
        validate: Validate | None,
        watch: _Watch,
        seed: int,
    ) -> None:
        """See `train_supervised`, which is the way in."""
        dataset = ExampleDataset(examples)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=dataset,
            eval_dataset=dataset,  # never read: `evaluate` below is ours
            data_collator=collate,
            callbacks=[watch],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # the loss below divides by the global token count itself
        self.settings, self.teacher = settings, teacher
        self.objective: Objective = objective
        self.validate, self.seed = validate, seed
        self.vocabulary = shared_vocabulary(model, teacher.teacher) if teacher else None
        # The micro-batches of one optimiser step, to be shown when its gradient is not finite.
        self.recent: deque[dict[str, Tensor]] = deque(maxlen=arguments.gradient_accumulation_steps)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        assert isinstance(self.train_dataset, ExampleDataset)
        lengths = [len(e.prompt_ids) + len(e.response_ids) for e in self.train_dataset.examples]
        return KeyedSampler(lengths, self.settings.batch_size, self.seed)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum of token losses over the global number of response tokens of this optimiser step.

        Raises: TrainingError when the whole step has no such token (trap 9) or the loss is not finite.
        """
        labels = inputs["labels"][:, 1:]
        kept = labels != IGNORED
        count = num_items_in_batch if num_items_in_batch is not None else kept.sum()
        if count == 0:
            raise TrainingError(
                "a batch has no response token to train on; raise `prompt.max_response_tokens` or drop empty rows"
            )
        teacher_logits = None
        if self.teacher is not None and self.vocabulary is not None:
            teacher_logits = self.teacher.logits(inputs, self.vocabulary)
        logits = model(input_ids=inputs["input_ids"], kept=kept)[:, : self.vocabulary]
        losses = self.objective.token_losses(self.settings, precise(logits), teacher_logits, labels[kept])
        # The count is over all processes, and their gradients are averaged: so multiply by their number (trap 3).
        loss = losses.sum() / count * self.accelerator.num_processes
        self.recent.append(inputs)
        self._require_finite("loss", float(loss.detach()), [inputs])
        return (loss, {}) if return_outputs else loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # Called between backward and update: one update with it would leave no weight finite.
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        self._require_finite("gradient norm", float(norm), self.recent)
        return norm

    def _require_finite(self, name: str, value: float, batches: Iterable[dict[str, Tensor]]) -> None:
        if not math.isfinite(value):
            raise DivergedError(
                f"step {self.state.global_step}: the {name} is {value}; lower `learning_rate` "
                f"(now {self.settings.learning_rate}) or raise `warmup_steps`",
                _written_out(batches),
            )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Our validation in place of a loss over an evaluation set."""
        assert self.validate is not None and isinstance(self.model, PreTrainedModel)
        found = self.validate(self.model)
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # Of a model with an adapter only that is kept: the frozen rest is loaded with the base.
        assert self.model is not None
        if has_adapter(self.model):
            whole = self.model.state_dict() if state_dict is None else state_dict
            state_dict = {name: whole[name] for name in trainable(self.model)}
        super()._save(output_dir, state_dict)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            seal_checkpoint(Path(str(self.args.output_dir)), self.state.global_step)


def response_logits(model: PreTrainedModel, input_ids: Tensor, kept: Tensor) -> Tensor:
    """Logits [N, V] at the positions of `input_ids` [B, L] that `kept` [B, L-1] marks; the head runs there only.

    Padding is on the right, where a causal model's real tokens never look: no mask is needed.
    """
    hidden = backbone(model)(input_ids=input_ids, use_cache=False).last_hidden_state[:, :-1]
    logits: Tensor = head(model)(hidden[kept])
    return logits


def _written_out(batches: Iterable[dict[str, Tensor]]) -> list[dict[str, Any]]:
    """Collated batches as JSON-like rows: where each stands in the file, its tokens, and those it is trained on."""
    found = []
    for batch in batches:
        columns = (batch[name].tolist() for name in ("rows", "input_ids", "attention_mask", "labels"))
        for row, ids, mask, labels in zip(*columns, strict=True):
            response = [label for label in labels if label != IGNORED]
            found.append({"row": row, "input_ids": ids[: sum(mask)], "response_ids": response})
    return found


class _Watch(TrainerCallback):
    """After each step: progress, a stored state when it is time or somebody asked to stop."""

    def __init__(self, progress: Progress, stop: StopRequest, save_every: int) -> None:
        self.progress, self.stop, self.save_every = progress, stop, save_every
        self.shown: dict[str, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.advance(1, **self.shown)
        if self.stop:
            control.should_training_stop = True
        if self.stop or state.global_step % self.save_every == 0:
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.shown = {"loss": float(logs["loss"])}


def train_supervised(
    name: str,
    model: PreTrainedModel,
    examples: Sequence[Example],
    settings: SupervisedSettings,
    objective: Objective,
    hardware: HardwareSettings,
    scratch: Path,
    seed: int,
    teacher: PreTrainedModel | None = None,
    validate: Validate | None = None,
) -> Curves:
    """Train `model` in place and leave it with the selected weights; unfinished state lives in `scratch`.

    Raises: TrainingError when there is nothing to train on or the loss is not finite; KeyboardInterrupt or
    Terminated, once the state is stored, when the process is asked to stop.
    """
    steps_an_epoch = -(-len(examples) // settings.batch_size)
    arguments = _arguments(settings, hardware, scratch, seed, steps_an_epoch, validate is not None)
    signal = None
    if objective.NEEDS_TEACHER:
        if teacher is None:
            raise TrainingError(f"{name} needs a teacher; run its teacher stage first (`dvc repro`)")
        signal = TeacherSignal(teacher, examples, hardware.micro_batch, hardware.cache_teacher)
    last = newest_checkpoint(scratch)
    start = int(last.name.rpartition("-")[2]) if last else 0
    with Progress(name, steps_an_epoch * settings.epochs, start=start) as progress, stop_after_step() as stop:
        watch = _Watch(progress, stop, hardware.save_every)
        trainer = SupervisedTrainer(model, arguments, examples, settings, objective, signal, validate, watch, seed)
        for tracker in callbacks(hardware.report_to, name):
            trainer.add_callback(tracker)
        # Trained through the module's own call, so that wrappers (DDP, DeepSpeed) see the forward they expect.
        model.forward = partial(response_logits, model)
        try:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        finally:
            del model.forward
    model.eval()
    return curves_of(trainer.state.log_history, every=max(1, steps_an_epoch // 4))


def _arguments(
    settings: SupervisedSettings,
    hardware: HardwareSettings,
    scratch: Path,
    seed: int,
    steps_an_epoch: int,
    validated: bool,
) -> TrainingArguments:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    micro = min(hardware.micro_batch, settings.batch_size // processes)
    if settings.batch_size % (micro * processes):
        raise TrainingError(
            f"`batch_size` {settings.batch_size} is not a multiple of micro_batch {micro} x {processes} processes; "
            "change `hardware.micro_batch`"
        )
    every = settings.evaluate_every * steps_an_epoch
    kept: dict[str, Any] = {"eval_strategy": "no", "save_strategy": "no"}
    if validated:
        kept = {
            "eval_strategy": "steps",
            "eval_steps": every,
            "save_strategy": "steps",
            "save_steps": every,
            "load_best_model_at_end": True,
            "metric_for_best_model": f"eval_{settings.select}",
            "greater_is_better": settings.select == "rouge_l",
        }
    return TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // (micro * processes),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr": min(settings.min_learning_rate, settings.learning_rate)},
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch",
        seed=seed,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        log_level="error",
        **kept,
    )
