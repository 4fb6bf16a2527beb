"""The MiniLLM training loop: Algorithm 1 of the paper.

    repeat
        collect S = {(x, y)}, y ~ alpha p + (1 - alpha) q          `collect`
        for each inner epoch, for each mini-batch of S
            theta <- theta - eta * grad [L_long + L_single + lm_coef * L_PT]

How it differs from the paper: what `MiniLLMSettings` lists, each a setting. How it differs from the authors'
code: nothing the decode knew is computed again, prompts are never padded in updates, and every random number
is keyed by (seed, purpose, step, example), so that a stopped run goes on to the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.minillm import collapse
from distill.minillm.ledger import CostLedger
from distill.minillm.losses import METRICS, packed_loss
from distill.minillm.plaintext import draw_sequences, plaintext_loss
from distill.minillm.rollouts import (
    Collection,
    MicroBatch,
    collect,
    micro_batches,
    require_agreement,
    response_hidden,
)
from distill.minillm.schedule import learning_rate
from distill.models.lora import trainable
from distill.models.parts import head, require_plain_head, shared_vocabulary
from distill.project.errors import DivergedError, TrainingError
from distill.project.randomness import permutation
from distill.runs.curves import Curves

if TYPE_CHECKING:
    from distill.minillm.settings import MiniLLMSettings


@dataclass(frozen=True)
class Task:
    """What is distilled: prompts to sample on, and how responses end."""

    prompts: Sequence[list[int]]
    max_new_tokens: int
    eos_id: int
    plain_text: Tensor | None = None
    """Token stream of D_PT; needed when `lm_coef` > 0."""


@dataclass(frozen=True)
class Machine:
    """Sizes that fit the machine and change no update."""

    micro_batch: int
    """Sequences a forward and backward pass."""
    decode_batch: int
    """Prompts decoded at once."""


Validate = Callable[[PreTrainedModel], dict[str, float]]


class MiniLLMRun:
    """One run: the state of Algorithm 1 and its steps. `student` is trained in place."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        task: Task,
        settings: MiniLLMSettings,
        machine: Machine,
        seed: int,
        validate: Validate,
        on_collapse: collapse.OnCollapse = collapse.stop,
    ) -> None:
        """`validate` scores the student; its `rouge_l` chooses the checkpoint that is kept. `on_collapse` is
        called with each collection that shows the student collapsed, and may raise.

        Raises: ModelError when one of the models cannot be taken as backbone and head; TrainingError when
        there is nothing to train on.
        """
        if not task.prompts:
            raise TrainingError("there is no prompt to sample responses for; check the prepared training data")
        if settings.lm_coef and task.plain_text is None:
            raise TrainingError("`lm_coef` > 0 needs plain text; give `recipe.data.corpus` or set `lm_coef: 0`")
        for model in (student, teacher):
            require_plain_head(model)
        # No dropout in the student: the ratio must be 1 before the first update.
        self.student, self.teacher = student.eval(), teacher.eval().requires_grad_(False)
        self.task, self.settings, self.machine, self.seed = task, settings, machine, seed
        self.validate, self.on_collapse = validate, on_collapse
        self.vocabulary = shared_vocabulary(student, teacher)
        self.optimiser = torch.optim.AdamW(
            trainable(student).values(),  # all parameters, or a LoRA adapter's
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=1e-8,
            weight_decay=settings.weight_decay,
        )
        self.step = 0
        self.collection: Collection | None = None
        self.curves, self.ledger = Curves(), CostLedger()
        self.best_rouge, self.best_step = float("-inf"), 0
        self.best_weights: dict[str, Tensor] = {}

    def train(self, after_step: Callable[[MiniLLMRun], None] | None = None) -> None:
        """Run Algorithm 1 from where the state stands; the student ends with its best weights."""
        if self.step == 0:
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
        self.student.load_state_dict(self.best_weights, strict=False)

    @contextmanager
    def at_best(self) -> Iterator[None]:
        """Inside, the student has its best weights so far; afterwards those it had."""
        now = {name: parameter.detach().clone() for name, parameter in trainable(self.student).items()}
        self.student.load_state_dict(self.best_weights, strict=False)
        try:
            yield
        finally:
            self.student.load_state_dict(now, strict=False)

    def _collect(self) -> None:
        number = self.step // self.settings.steps_per_collection
        with self.ledger.timed("collect"):
            self.collection = collect(
                self.student,
                self.teacher,
                self.task.prompts,
                self.settings,
                number=number,
                seed=self.seed,
                max_new_tokens=self.task.max_new_tokens,
                eos_id=self.task.eos_id,
                batch_size=self.machine.decode_batch,
            )
        counts = self.collection.decode_counts(self.machine.decode_batch)
        tokens, mixed = counts["tokens"], self.settings.teacher_mix_alpha > 0
        self.ledger.count(
            "collect",
            **counts,
            student_decode=tokens,
            teacher_decode=tokens if mixed else 0,
            teacher_forward=0 if mixed else tokens,
        )
        if number == 0:
            few = range(min(4, self.settings.rollouts))
            (batch,) = self._micro_batches(list(few), size=len(few))
            with self.ledger.timed("check"):
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
        return order[index * settings.minibatch : (index + 1) * settings.minibatch]

    def _micro_batches(self, chosen: list[int], size: int) -> list[MicroBatch]:
        assert self.collection is not None
        return micro_batches(self.collection, chosen, self.settings, size, self.student.device)

    def _update(self, chosen: list[int]) -> None:
        """One optimiser step on L_long + L_single + lm_coef * L_PT."""
        settings = self.settings
        rate = learning_rate(settings, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with self.ledger.timed("update"):
            totals = torch.zeros(1 + len(METRICS), device=self.student.device)
            for batch in self._micro_batches(chosen, self.machine.micro_batch):
                hidden = response_hidden(self.student, batch.ids, batch.positions)
                loss, metrics = packed_loss(
                    settings, hidden, head(self.student), head(self.teacher), batch.packed, self.vocabulary
                )
                loss.backward()
                totals += torch.cat([loss.detach()[None], metrics])
                tokens = len(batch.packed.tokens)
                self.ledger.count(
                    "update",
                    tokens=tokens,
                    positions=batch.real,
                    padded=batch.ids.numel(),
                    student_forward=tokens,
                    student_backward=2 * tokens,
                )
        plain = self._plaintext() if settings.lm_coef else None
        with self.ledger.timed("update"):
            norm = torch.nn.utils.clip_grad_norm_(trainable(self.student).values(), settings.max_grad_norm)
            self._require_finite(float(totals[0]), float(norm), chosen)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
        values = dict(zip(("loss", *METRICS), totals.tolist(), strict=True))
        values.pop("reverse_kl")  # the curve of that name is of fresh rollouts
        if plain is not None:
            values["loss"] += settings.lm_coef * plain
            values["plain_text"] = plain
        self.curves.add(self.step, learning_rate=rate, grad_norm=float(norm), **values)

    def _plaintext(self) -> float:
        settings, stream = self.settings, self.task.plain_text
        assert stream is not None  # checked when the run was made
        ids = draw_sequences(stream, settings.lm_batch, settings.lm_length, self.seed, self.step)
        self.ledger.count("plain_text", tokens=ids.numel())
        with self.ledger.timed("plain_text"):
            loss = plaintext_loss(self.student, self.teacher, ids.to(self.student.device), settings)
            (settings.lm_coef * loss).backward()
            return float(loss.detach())

    def _require_finite(self, loss: float, norm: float, chosen: Sequence[int]) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(f"the loss is {loss} and the gradient norm {norm}", chosen)

    def _diverged(self, symptom: str, chosen: Sequence[int]) -> DivergedError:
        assert self.collection is not None
        return DivergedError(
            f"step {self.step}: {symptom}; {collapse.remedy(self.settings)}",
            collapse.rows(self.collection, chosen),
        )

    def _validate(self) -> None:
        with self.ledger.timed("validate"):
            found = self.validate(self.student)
        self.curves.add(self.step, **{f"valid_{name}": value for name, value in found.items()})
        if found["rouge_l"] > self.best_rouge:
            self.best_rouge, self.best_step = found["rouge_l"], self.step
            self.best_weights = {n: p.detach().cpu().clone() for n, p in trainable(self.student).items()}
