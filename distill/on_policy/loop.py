"""The training loop on own samples: Algorithm 1 of MiniLLM's paper, for any objective.

    repeat
        collect S = {(x, y)}, y ~ alpha p + (1 - alpha) q          `collect`
        for each inner epoch, for each mini-batch of S
            theta <- theta - eta * grad [L_objective + lm_coef * L_PT]

How it differs from the paper: as the settings list, one by one. How it differs from the authors'
code: nothing the decode knew is computed again, prompts are never padded in updates, and every random number
is keyed by (seed, purpose, step, example), so that a stopped run goes on to the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.generation.probe import require_decodable
from distill.models.lora import trainable
from distill.models.parts import shared_vocabulary
from distill.on_policy import collapse
from distill.on_policy.divided import DividedTeacher
from distill.on_policy.ledger import CostLedger
from distill.on_policy.packing import micro_batches, require_agreement
from distill.on_policy.plaintext import draw_sequences
from distill.on_policy.rollouts import Collection, collect
from distill.on_policy.schedule import learning_rate
from distill.on_policy.update import OffloadedTeacher, UpdateLoss, checkpointed
from distill.parallel.engine import AdamWSettings, Engine, PlainEngine
from distill.parallel.processes import ALONE, Processes
from distill.project.errors import DivergedError, TrainingError
from distill.project.randomness import permutation
from distill.runs.curves import Curves
from distill.runs.out_of_memory import Fitting
from distill.runs.selection import By, Validations

if TYPE_CHECKING:
    from distill.on_policy.objective import OwnSampleObjective
    from distill.on_policy.settings import OnPolicySettings
    from distill.runs.hardware import HardwareSettings


@dataclass(frozen=True)
class Task:
    """What is distilled: prompts to sample on, and how responses end."""

    prompts: Sequence[list[int]]
    max_new_tokens: int
    eos_id: int
    plain_text: Tensor | None = None
    """Token stream of D_PT; needed when `lm_coef` > 0."""
    responses: Sequence[list[int]] = ()
    """The data's responses to the prompts; needed when `own_share` < 1."""


@dataclass(frozen=True)
class Execution:
    """Sizes that fit the machine and change no update."""

    micro_batch: int
    """Sequences a forward and backward pass."""
    decode_batch: int
    """Prompts decoded at once."""
    processes: Processes = ALONE
    """Rollouts and micro-batches are divided between them."""
    zero: HardwareSettings | None = None
    """Train with DeepSpeed as it says; None without."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass."""
    offload_teacher: bool = False
    """Keep the teacher in the CPU's memory during updates."""
    shard_teacher: bool = False
    """Divide the teacher between the processes."""


Validate = Callable[[PreTrainedModel], dict[str, float]]


class OnPolicyRun:
    """One run: its state and its steps. `student` is trained in place."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        task: Task,
        objective: OwnSampleObjective,
        settings: OnPolicySettings,
        machine: Execution,
        seed: int,
        validate: Validate,
        on_collapse: collapse.OnCollapse = collapse.stop,
        select: By = "rouge_l",
    ) -> None:
        """`settings` are those of training on own samples and of the objective's formula together.

        `validate` scores the student; its `rouge_l`, or its `loss` where `select` says so, chooses the checkpoint that
        is kept. `on_collapse` is called with each collection that shows the student collapsed, and may raise.

        Raises: ModelError when one of the models cannot be decoded; TrainingError when
        there is nothing to train on.
        """
        if not task.prompts:
            raise TrainingError("there is no prompt to sample responses for; check the prepared training data")
        if settings.needs_rows and len(task.responses) != len(task.prompts):
            raise TrainingError("`own_share` under 1 needs the data's response to each prompt; set `own_share: 1`")
        if settings.lm_coef and task.plain_text is None:
            raise TrainingError("`lm_coef` > 0 needs plain text; give `recipe.data.corpus` or set `lm_coef: 0`")
        if (machine.offload_teacher or machine.shard_teacher) and settings.lm_coef and settings.lm_kd_ratio:
            keys = "{offload: false, shard: false}"
            raise TrainingError(f"`lm_kd_ratio` > 0 needs the teacher in every update; set `teacher: {keys}`")
        for model in (student, teacher):
            require_decodable(model)
        # No dropout in the student: the ratio must be 1 before the first update.
        self.student, self.teacher = student.eval(), teacher.eval().requires_grad_(False)
        self.task, self.settings, self.machine, self.seed = task, settings, machine, seed
        self.objective = objective
        self.validate, self.on_collapse = validate, on_collapse
        self.vocabulary = shared_vocabulary(student, teacher)
        self.processes = machine.processes
        self.offloaded = OffloadedTeacher(teacher) if machine.offload_teacher else None
        shared = machine.shard_teacher and self.processes.count > 1
        self.divided = DividedTeacher(teacher, self.processes) if shared else None
        self.engine = self._engine()
        self.micro_batch = Fitting(machine.micro_batch, "the micro-batch", self.processes.any)
        self.step = 0
        self.collection: Collection | None = None
        self.curves, self.ledger = Curves(), CostLedger()
        self.validations = Validations(select)
        self.best_weights: dict[str, Tensor] = {}

    def _engine(self) -> Engine:
        recipe, machine = self.settings, self.machine
        settings = AdamWSettings(recipe.learning_rate, recipe.betas, recipe.weight_decay, recipe.max_grad_norm)
        losses = partial(
            UpdateLoss,
            teacher=self.teacher,
            settings=recipe,
            objective=self.objective,
            vocabulary=self.vocabulary,
            progress=lambda: self.step / recipe.max_steps,
            teacher_head=self.offloaded.head if self.offloaded else None,
        )
        if machine.zero is None:
            return PlainEngine(self.student, losses(self.student), settings, machine.processes)
        from distill.parallel.zero import ZeroEngine

        return ZeroEngine(self.student, losses, settings, machine.zero, machine.processes)

    def train(self, after_step: Callable[[OnPolicyRun], None] | None = None) -> None:
        """Run Algorithm 1 from where the state stands; the student ends with its best weights."""
        if self.step == 0:
            # The untrained start competes too: a run that only harms the student gives it back unharmed.
            self._validate()
        while self.step < self.settings.max_steps:
            if self.collection is None or self.step % self.settings.steps_per_collection == 0:
                self._collect()
            self._update(self._minibatch())
            self.step += 1
            if self.step % self.settings.evaluate_every == 0 or self.step == self.settings.max_steps:
                self._validate()
            if after_step is not None:
                after_step(self)
        self.engine.finish(self.best_weights)

    @contextmanager
    def at_best(self) -> Iterator[None]:
        """Inside, the student has its best weights so far; afterwards those it had. For the first process alone."""
        parameters = trainable(self.student)
        # References suffice: below, parameters are pointed elsewhere and nothing writes into these.
        now = {name: parameter.data for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            # A copy: what trains on meanwhile must not write into the best.
            parameter.data = self.best_weights[name].to(self.student.device, parameter.dtype, copy=True)
        try:
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = now[name]

    def _collect(self) -> None:
        with self.offloaded.loaded() if self.offloaded else nullcontext():
            self._sample()

    def _sample(self) -> None:
        # From the step alone: a resumed run asks for the same prompts with the same draws.
        number = self.step // self.settings.steps_per_collection
        with self.ledger.timed("collect"), self.engine.whole():
            self.collection = collect(
                self.student,
                self.teacher,
                self.task.prompts,
                self.settings,
                self.objective,
                data=self.task.responses,
                number=number,
                seed=self.seed,
                max_new_tokens=self.task.max_new_tokens,
                eos_id=self.task.eos_id,
                batch_size=self.machine.decode_batch,
                processes=self.processes,
                settle=self.divided.settle if self.divided else None,
            )
        counts = self.collection.decode_counts(self.machine.decode_batch)
        tokens, mixed = counts["tokens"], self.settings.teacher_mix_alpha > 0
        read = self.collection.read_tokens
        self.ledger.count(
            "collect",
            **counts,
            student_decode=tokens,
            student_forward=read,
            teacher_decode=tokens if mixed else 0,
            # Without a mixture the teacher reads what was sampled afterwards, one forward a token.
            teacher_forward=read + (0 if mixed else tokens),
        )
        if number == 0:
            # Sampled ones where there are any: those of the data come from such a pass themselves.
            few = (self.collection.sampled.nonzero().flatten().tolist() or list(range(self.settings.rollouts)))[:4]
            # Not shared out: every process checks the same rows, so that all raise or none does.
            (batch,) = micro_batches(self.collection, few, self.settings, self.objective, len(few), self.student.device)
            with self.ledger.timed("check"), self.engine.whole():
                require_agreement(self.student, self.teacher, batch, self.vocabulary)
            self.ledger.count("check", tokens=len(batch.packed.tokens), positions=batch.real, padded=batch.ids.numel())
        self.curves.add(self.step, **self.collection.metrics())
        symptom = collapse.symptom(self.curves, self.settings.steps_per_collection)
        if symptom is not None:
            self.on_collapse(self._diverged(symptom, range(self.settings.rollouts)))

    def _minibatch(self) -> list[int]:
        """The rollouts of this step: a slice of this inner epoch's permutation. A pure function of the step."""
        settings = self.settings
        number, within = divmod(self.step, settings.steps_per_collection)
        epoch, index = divmod(within, settings.rollouts // settings.minibatch)
        order = permutation(settings.rollouts, self.seed, "inner epoch", number, epoch)
        # `rollouts` is a multiple of `minibatch`: each inner epoch takes every response exactly once.
        return order[index * settings.minibatch : (index + 1) * settings.minibatch]

    def _update(self, chosen: list[int]) -> None:
        """One optimiser step on the objective's loss + lm_coef * L_PT."""
        rate = learning_rate(self.settings, self.step)
        gradients = partial(self._gradients, chosen)
        if self.engine.is_divided:  # a pass that fails in one process leaves the others waiting
            totals, counts = gradients(self.micro_batch.size)
        else:
            totals, counts = self.micro_batch.run(gradients, self.engine.forget)
        known = self.processes.sum(counts).tolist()
        self._count(known)
        with self.ledger.timed("update"):
            # Sums over processes, not means: each part already holds the divisor of the whole mini-batch.
            loss, plain, *metrics = self.processes.sum(totals).tolist()
            norm = self.engine.step(rate, partial(self._require_finite, loss + plain, chosen))
        values = dict(zip(self.objective.metrics, metrics, strict=True))
        values.pop("reverse_kl", None)  # the curve of that name is of fresh rollouts
        if self.settings.normalise == "sequences":  # what describes a token stays a mean over tokens
            # Its weights were 1 / responses; times responses / tokens they are 1 / tokens.
            values |= {name: values[name] * len(chosen) / known[0] for name in ("clipped", "entropy") if name in values}
        if self.settings.lm_coef:
            # The coefficient taken out again, so that curves of different ones compare.
            values["plain_text"] = plain / self.settings.lm_coef
        self.curves.add(self.step, learning_rate=rate, grad_norm=norm, loss=loss + plain, **values)
        if self.micro_batch.halvings:
            self.curves.add(self.step, micro_batch=self.micro_batch.size)

    def _gradients(self, chosen: list[int], size: int) -> tuple[Tensor, Tensor]:
        """Accumulate this process's gradients.

        What is returned adds up over processes: [loss, L_PT's part, *metrics], and [tokens, real positions,
        positions, plain-text tokens].
        """
        assert self.collection is not None
        device = self.student.device
        # New at each attempt: what an attempt without enough memory had added must not count twice.
        totals = torch.zeros(2 + len(self.objective.metrics), device=device)
        counts = torch.zeros(4, dtype=torch.long)
        trained, backward = self.engine.trained, self.engine.backward
        with self.ledger.timed("update"), checkpointed(trained, self.machine.gradient_checkpointing):
            for batch in micro_batches(
                self.collection, chosen, self.settings, self.objective, size, device, self.processes
            ):
                loss, metrics = trained(batch)
                backward(loss)
                # Detached: what is only shown must not hold on to a graph.
                totals += torch.cat([loss.detach()[None], loss.new_zeros(1), metrics])
                counts += torch.tensor([len(batch.packed.tokens), batch.real, batch.ids.numel(), 0])
        if self.settings.lm_coef:
            with self.ledger.timed("plain_text"), checkpointed(trained, self.machine.gradient_checkpointing):
                for ids in self._windows(size):
                    # Windows are equally long, so that a mean over all is a mean of means.
                    loss = trained(ids)[0] * (len(ids) / self.settings.lm_batch)
                    backward(loss)
                    totals[1] += loss.detach()
                    counts[3] += ids.numel()
        return totals, counts

    def _windows(self, size: int) -> list[Tensor]:
        """The plain text of this step that falls to this process, in micro-batches [B, L]."""
        settings, stream = self.settings, self.task.plain_text
        assert stream is not None  # checked when the run was made
        ids = draw_sequences(stream, settings.lm_batch, settings.lm_length, self.seed, self.step)
        # Each process draws all windows and takes its share: the count of processes changes no draw.
        mine = torch.stack(self.processes.share(list(ids))).to(self.student.device)
        return list(mine.split(size))

    def _count(self, counts: list[int]) -> None:
        tokens, real, padded, plain = counts
        self.ledger.count(
            "update",
            tokens=tokens,
            positions=real,
            padded=padded,
            student_forward=tokens,
            student_backward=2 * tokens,
        )
        if plain:
            self.ledger.count("plain_text", tokens=plain)

    def _require_finite(self, loss: float, chosen: Sequence[int], norm: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(f"the loss is {loss} and the gradient norm {norm}", chosen)

    def _diverged(self, symptom: str, chosen: Sequence[int]) -> DivergedError:
        assert self.collection is not None
        return DivergedError(
            f"step {self.step}: {symptom}; {collapse.remedy(self.settings, self.objective)}",
            collapse.rows(self.collection, chosen),
        )

    def _validate(self) -> None:
        with self.ledger.timed("validate"), self.engine.whole():
            found = self.validate(self.student)
        self.curves.add(self.step, **{f"valid_{name}": value for name, value in found.items()})
        if self.validations.add(self.step, found):
            # Copies: on a CPU these are the live weights, which the next update overwrites.
            self.best_weights = {name: weights.clone() for name, weights in self.engine.weights().items()}
