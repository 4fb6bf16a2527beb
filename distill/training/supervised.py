"""Training on rows (SFT, KD, SeqKD, pretraining): transformers' Trainer with our loss, order and selection.

What is ours: the loss is an objective's per-token loss over response tokens divided by the global count of
them (trap 3); validation samples responses and scores Rouge-L; rows come in a keyed order. The rest (AdamW,
schedule, accumulation, resume after a kill) is the Trainer's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from distill.models.parts import backbone, head, precise, shared_vocabulary
from distill.parallel.processes import ALONE, Processes
from distill.project.errors import DivergedError, TrainingError
from distill.project.progress import Progress
from distill.project.randomness import key
from distill.runs.curves import Curves
from distill.runs.hardware import HardwareSettings
from distill.runs.out_of_memory import Fitting
from distill.runs.selection import By, Validations
from distill.runs.stopping import StopRequest, stop_after_step
from distill.runs.trackers import callbacks
from distill.text.batches import IGNORED, collate
from distill.text.examples import Example
from distill.training.arguments import training_arguments
from distill.training.batches import EpochOrder, ExampleDataset, KeyedSampler
from distill.training.objective import RowObjective
from distill.training.resumable import ResumableTrainer
from distill.training.settings import SupervisedSettings
from distill.training.teacher_signal import TeacherSignal
from distill.training.unfinished import curves_of, newest_checkpoint

Validate = Callable[[PreTrainedModel], dict[str, float]]
Whole = Callable[[], AbstractContextManager[PreTrainedModel]]


@dataclass(frozen=True)
class Lesson:
    """What is learnt, from which rows, and how the student is judged: the same on any machine."""

    name: str
    """The stage's, for progress and messages."""
    examples: Sequence[Example]
    settings: SupervisedSettings
    """Of the training and of the objective's formula together."""
    objective: RowObjective
    seed: int
    teacher: PreTrainedModel | None = None
    """Needed where the objective says so."""
    validate: Validate | None = None
    """Scores the student: `loss` and `rouge_l`; without it the last weights are kept."""
    select: By | None = None
    """What chooses the checkpoint in place of the settings' `select`, where Rouge-L can decide nothing."""

    @property
    def by(self) -> By:
        """What chooses the checkpoint."""
        return self.select or self.settings.select


class SupervisedTrainer(ResumableTrainer):
    """Trainer with an objective of ours. `validate` returns `loss` and `rouge_l`."""

    def __init__(
        self,
        model: PreTrainedModel,
        arguments: TrainingArguments,
        lesson: Lesson,
        teacher: TeacherSignal | None,
        watch: _Watch,
        whole: Whole | None = None,
        processes: Processes = ALONE,
    ) -> None:
        """See `train_supervised`, which is the way in; `whole` gives a divided model with all its weights."""
        dataset = ExampleDataset(lesson.examples)
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
        self.lesson, self.settings, self.teacher, self.processes = lesson, lesson.settings, teacher, processes
        self.whole: Whole = whole or (lambda: nullcontext(model))
        self.pieces = Fitting(int(arguments.per_device_train_batch_size), "the micro-batch")
        self.update: tuple[int, list[dict[str, Any]]] = (-1, [])
        self.vocabulary = shared_vocabulary(model, teacher.teacher) if teacher else None
        self.clips_itself, self.norm = self.is_deepspeed_enabled and not arguments.max_grad_norm, 0.0
        # The micro-batches of one optimiser step, to be shown when its gradient is not finite.
        self.recent: deque[dict[str, Tensor]] = deque(maxlen=arguments.gradient_accumulation_steps)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        assert isinstance(self.train_dataset, ExampleDataset)
        lengths = [len(e.prompt_ids) + len(e.response_ids) for e in self.train_dataset.examples]
        sampler = KeyedSampler(lengths, self.settings.batch_size, self.lesson.seed, fill=self.processes.count > 1)
        self.add_callback(EpochOrder(sampler))
        return sampler

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As the Trainer's; out of memory, the update is begun again in smaller pieces, whose gradients add up.

        Where a pass is shared with other processes it cannot be: there the launcher begins again.
        """
        if self.processes.count > 1 or self.is_deepspeed_enabled:
            return super().training_step(model, inputs, num_items_in_batch)
        step, earlier = self.update
        if step != self.state.global_step:
            earlier = []
        self.update = (self.state.global_step, [*earlier, inputs])

        again: list[dict[str, Any]] = []

        def attempt(size: int) -> Tensor:
            for batch in again:
                self._in_pieces(model, batch, num_items_in_batch, size)
            return self._in_pieces(model, inputs, num_items_in_batch, size)

        def undo() -> None:
            model.zero_grad()
            again[:] = earlier

        return self.pieces.run(attempt, undo)

    def _in_pieces(self, model: nn.Module, batch: dict[str, Any], count: Tensor | int | None, size: int) -> Tensor:
        """Add the gradients of a micro-batch, `size` rows at a time; its loss."""
        parts = [
            super(SupervisedTrainer, self).training_step(
                model, {name: values[start : start + size] for name, values in batch.items()}, count
            )
            for start in range(0, len(batch["rows"]), size)
        ]
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]

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
                "a batch has no response token to train on; raise `max_response_tokens` or `max_sequence_tokens` of "
                "`prompt`, or drop empty rows"
            )
        teacher_logits = None
        if self.teacher is not None and self.vocabulary is not None:
            teacher_logits = self.teacher.logits(inputs, self.vocabulary)
        logits = model(input_ids=inputs["input_ids"], kept=kept)[:, : self.vocabulary]
        progress = self.state.global_step / max(1, self.state.max_steps)
        losses = self.lesson.objective.token_losses(
            self.settings, precise(logits), teacher_logits, labels[kept], progress
        )
        # The count is over all processes, and their gradients are averaged: so multiply by their number (trap 3).
        loss = losses.sum() / count * self.accelerator.num_processes
        self.recent.append(inputs)
        self._require_finite("loss", float(loss.detach()), [inputs])
        return (loss, {}) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> Any:
        """As the Trainer's; at DeepSpeed's stage 0 it clips, since DeepSpeed would not tell the norm."""
        made = self.optimizer is None  # the Trainer asks more than once
        optimiser = super().create_optimizer(model)
        if made and self.clips_itself:
            optimiser.register_step_pre_hook(self._clip)
        return optimiser

    def _clip(self, *_: Any) -> None:
        assert self.model is not None
        self.norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm))
        self._require_finite("gradient norm", self.norm, self.recent)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if self.clips_itself:
            return self.norm
        # Called between backward and update: one update with it would leave no weight finite.
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        self._require_finite("gradient norm", float(norm), self.recent)
        return norm

    def _require_finite(self, name: str, value: float, batches: Iterable[dict[str, Tensor]]) -> None:
        # A sum is finite where all are, so that all processes end together and the first can write the evidence.
        value = float(self.processes.sum(torch.tensor(value, dtype=torch.float64)))
        if not math.isfinite(value):
            raise DivergedError(
                f"step {self.state.global_step}: the {name} is {value}; lower `learning_rate` "
                f"(now {self.settings.learning_rate}) or raise `warmup_steps`",
                self.processes.joined(_written_out(batches)),
            )

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As the Trainer's, by our rule; the log holds every validation, of a run that was continued too."""
        log = [e for e in self.state.log_history if "eval_rouge_l" in e]
        found = Validations(self.lesson.by, [(e["step"], e["eval_rouge_l"], e["eval_loss"]) for e in log])
        if found.kept is not found.found[-1]:
            return False
        self.state.best_metric, self.state.best_global_step = metrics[f"eval_{found.by}"], self.state.global_step
        return True

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Our validation in place of a loss over an evaluation set."""
        assert self.lesson.validate is not None
        with self.whole() as model:
            found = self.lesson.validate(model)
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


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
    """Around each step: draws keyed by it; progress; a stored state when it is time or somebody asked to stop."""

    def __init__(self, progress: Progress, stop: StopRequest, save_every: int, processes: Processes, seed: int) -> None:
        self.progress, self.stop, self.save_every, self.processes = progress, stop, save_every, processes
        self.seed = seed
        self.shown: dict[str, float] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Dropout's: the one draw that depends on the number of processes, each of which sees rows of its own.
        torch.manual_seed(key(self.seed, "dropout", state.global_step, self.processes.rank))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.advance(1, **self.shown)
        stopping = self.stop.agreed(self.processes.any)
        if stopping:
            control.should_training_stop = True
        if stopping or state.global_step % self.save_every == 0:
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.shown = {"loss": float(logs["loss"])}


def train_supervised(
    model: PreTrainedModel, lesson: Lesson, hardware: HardwareSettings, scratch: Path, processes: Processes = ALONE
) -> Curves:
    """Train `model` in place and leave it with the selected weights; unfinished state lives in `scratch`.

    All `processes` call it, each with the same model, which all hold whole in the end.

    Raises: TrainingError when there is nothing to train on or the loss is not finite; KeyboardInterrupt or
    Terminated, once the state is stored, when the process is asked to stop.
    """
    settings, examples, seed = lesson.settings, lesson.examples, lesson.seed
    steps_an_epoch = -(-len(examples) // settings.batch_size)
    arguments = training_arguments(
        settings, hardware, scratch, seed, steps_an_epoch, lesson.validate is not None, processes, model.dtype
    )
    signal = None
    if lesson.objective.NEEDS_TEACHER:
        if lesson.teacher is None:
            raise TrainingError(f"{lesson.name} needs a teacher; run its teacher stage first (`dvc repro`)")
        micro = hardware.largest_micro_batch()
        signal = TeacherSignal(lesson.teacher, examples, micro, hardware.cache_teacher, processes)
    last = processes.first(newest_checkpoint(scratch) if processes.is_first else None)
    start = int(last.name.rpartition("-")[2]) if last else 0
    shown, steps = processes.is_first, steps_an_epoch * settings.epochs
    with (
        trained_in_place(model, hardware) as (trained, whole),
        Progress(lesson.name, steps, start=start, shown=shown) as progress,
        stop_after_step() as stop,
    ):
        watch = _Watch(progress, stop, hardware.save_every, processes, seed)
        trainer = SupervisedTrainer(trained, arguments, lesson, signal, watch, whole, processes)
        trainer.args.run_name = lesson.name  # MLflow's runs would have names out of a hat
        for tracker in callbacks(hardware.report_to, lesson.name):
            trainer.add_callback(tracker)
        # Trained through the module's own call, so that wrappers (DDP, DeepSpeed) see the forward they expect.
        trained.forward = partial(response_logits, trained)
        try:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        finally:
            del trained.forward
            if hardware.gradient_checkpointing:
                trained.gradient_checkpointing_disable()
    model.eval()
    return curves_of(trainer.state.log_history, every=max(1, steps_an_epoch // 4))


@contextmanager
def trained_in_place(model: PreTrainedModel, hardware: HardwareSettings) -> Iterator[tuple[PreTrainedModel, Whole]]:
    """What to train in place of `model`, and how to have it whole meanwhile; in the end `model` is."""
    if hardware.zero_stage != 3:
        yield model, lambda: nullcontext(model)
        return
    from distill.parallel.zero import divided

    with divided(model) as inner_and_whole:
        yield inner_and_whole
