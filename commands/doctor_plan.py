"""What the training stages of one row will do and take: the doctor's view of a profile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from commands.recipe import Profile
from distill.models.settings import LoraSettings, ModelSettings
from distill.on_policy.settings import OnPolicySettings
from distill.preflight.lengths import Lengths
from distill.preflight.memory_estimate import (
    Device,
    Estimate,
    Loss,
    Placement,
    PlannedRun,
    estimate,
    sampling_estimate,
)
from distill.preflight.models import PlannedModel, origin_of, vocabulary_size
from distill.preflight.shapes import Shape
from distill.preflight.workload import (
    Batches,
    Work,
    on_policy_work,
    pretraining_work,
    reading_work,
    sampling_work,
    supervised_work,
)
from distill.project.table import Table
from distill.runs.hardware import HardwareSettings
from distill.training.settings import SupervisedSettings

_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
# A vocabulary to judge by while there is no tokenizer to count: GPT-2's.
_VOCABULARY = 50_257
# Words that answer a labelled prompt, and tokens of one, about.
_WORDS, _WORD_TOKENS = 2.5, 2


@dataclass(frozen=True)
class Plan:
    """One stage: what it writes, does and takes."""

    name: str
    output: Path
    model: Literal["teacher", "student"]
    """Whose passes most of the work is."""
    work: Work | None
    """None while nobody knows how many rows there are."""
    memory: Estimate | None
    """None for stages that hold no model."""
    weights: float
    """Bytes of the checkpoint."""
    needs: tuple[str, ...] = ()
    """Stages that come before it."""

    @property
    def built(self) -> bool:
        """Whether its output is there; whether that is up to date is DVC's to say."""
        return (self.output / "meta.json").is_file() or self.output.is_file()


@dataclass(frozen=True)
class Measured:
    """What the finished models are measured on."""

    datasets: Mapping[str, int]
    """Evaluation set → prompts."""
    labelled: Mapping[str, int]
    """Labelled set → prompts."""
    seeds: int
    """Answers to each prompt."""


@dataclass(frozen=True)
class StudentPlan:
    """A student of the table with all that the estimates need."""

    student: str
    origins: Mapping[str, PlannedModel]
    """`teacher` and `student`."""
    lengths: Lengths
    plans: tuple[Plan, ...]


def placement(hardware: HardwareSettings, device: Device, devices: int) -> Placement:
    """The estimate's view of `hardware` on a machine with so many `devices`."""
    written = hardware.model_dump()
    # What is not said there, or found out only when the stage runs, keeps the estimate's own default.
    asked: dict[str, Any] = {
        "device": device,
        "teacher_offload": (written.get("teacher") or {}).get("offload"),
        "teacher_shard": (written.get("teacher") or {}).get("shard"),
        **{field.name: written.get(field.name) for field in fields(Placement) if field.name in written},
    }
    if asked.get("processes") == "devices":
        asked["processes"] = max(1, devices)
    return Placement(**{name: value for name, value in asked.items() if value not in (None, "auto")})


def plan_row(
    table: Table,
    profile: Profile,
    student: str,
    lengths: Lengths,
    device: Device,
    devices: int,
    measured: Measured | None = None,
) -> StudentPlan:
    """Everything about one student whose family's data have these `lengths`."""
    family, recipe = table.students[student].family, profile.recipe
    trained = recipe.tokenizer.train
    vocabulary = vocabulary_size(Path("data") / family / "tokenizer", trained.vocab_size if trained else _VOCABULARY)

    def origin(model: ModelSettings) -> PlannedModel:
        return origin_of(model, vocabulary, os.environ)

    models = {"teacher": recipe.teacher.origin, "student": recipe.students[student].origin}
    origins = {role: origin(model) for role, model in models.items() if model is not None}
    teacher, small = (origins[role].shape if role in origins else None for role in ("teacher", "student"))
    if teacher is None or small is None:
        return StudentPlan(student, origins, lengths, ())
    place = placement(profile.hardware, device, devices)
    plans = plan_stages(table, profile, student, lengths, teacher, small, place, measured)
    return StudentPlan(student, origins, lengths, plans)


def plan_stages(
    table: Table,
    profile: Profile,
    student: str,
    lengths: Lengths,
    teacher: Shape,
    small: Shape,
    place: Placement,
    measured: Measured | None = None,
) -> tuple[Plan, ...]:
    """The stages that make the teacher and every method, for models of these shapes, and those that measure them."""
    family, own, recipe = table.students[student].family, profile.recipe.students[student], profile.recipe
    planner, runs = _Planner(profile, lengths, teacher, small, place), Path("runs") / family
    plans = [planner.base(f"teacher_base@{family}", runs / "base", recipe.teacher.origin, "teacher")]
    teaches = f"teacher@{family}"
    if recipe.teacher.sft is not None:
        plans.append(planner.on_rows(teaches, runs / "teacher", recipe.teacher.sft, teacher, None, (plans[0].name,)))
    if recipe.pseudo is not None:
        samples = getattr(recipe.pseudo, "samples_per_prompt", 1)
        plans.append(planner.sampled(f"pseudo@{family}", runs / "pseudo.parquet", samples, (teaches,)))
    plans.append(planner.base(f"base@{student}", Path("runs") / student / "base", own.origin, "student"))
    finished = [("teacher", teaches)]
    for name in dict.fromkeys(["init", *table.methods]):
        settings = own.trained.get(name)  # None where it is left out or taken finished
        stage, output = f"{name}@{student}", Path("runs") / student / name
        if name != "init" and own.sections.get(name) is not None:
            finished.append((name, stage))
        if settings is None:
            continue
        method = own.methods[name]
        needs: tuple[str, ...] = (f"{method.start}@{student}",)
        if method.own_samples or method.objective.NEEDS_TEACHER:
            needs += (teaches,)
        if method.teacher_samples:
            needs += (f"pseudo@{family}",)
        if isinstance(settings, OnPolicySettings):
            plans.append(planner.on_own_samples(stage, output, settings, needs))
        elif isinstance(settings, SupervisedSettings):
            read = teacher if method.objective.NEEDS_TEACHER else None
            plans.append(planner.on_rows(stage, output, settings, small, read, needs))
    if measured is not None:
        plans += planner.measuring(family, student, finished, measured)
    return tuple(plans)


@dataclass(frozen=True)
class _Planner:
    profile: Profile
    lengths: Lengths
    teacher: Shape
    student: Shape
    place: Placement

    @property
    def _batches(self) -> Batches:
        return Batches(self.place.micro_batch, self.place.decode_batch)

    def base(self, name: str, output: Path, model: ModelSettings | None, whose: Literal["teacher", "student"]) -> Plan:
        """The model that training starts from: fresh and pretrained, or only pointed to."""
        shape = self.teacher if whose == "teacher" else self.student
        if model is None or model.pretrain is None:
            return Plan(name, output, whose, Work(0, 0.0, 0.0), None, 0.0)
        settings = model.pretrain
        run = self._run("rows", shape, None, settings.batch_size, None)
        # Of all tokens but the first of a window the logits are held, and nothing is validated.
        run = replace(run, prompt=1, response=settings.sequence_length - 1, validated=0)
        work = pretraining_work(settings, shape)
        return Plan(name, output, whose, work, estimate(run, self.place), shape.parameters * run.width)

    def _rows(self, limit: int | None) -> int | None:
        known = self.lengths.rows
        return known if limit is None or known is None else min(limit, known)

    def on_rows(
        self,
        name: str,
        output: Path,
        settings: SupervisedSettings,
        model: Shape,
        teacher: Shape | None,
        needs: tuple[str, ...],
    ) -> Plan:
        """A stage that trains on rows."""
        limits = self.profile.recipe.data.rows
        rows = self._rows(limits.teacher if name.startswith("teacher@") else limits.student)
        rows = rows and rows * getattr(settings, "samples_per_prompt", 1)
        cached = self.place.cache_teacher and teacher is not None
        work = None
        if rows:
            work = supervised_work(settings, rows, self.lengths, model, teacher, cached, self._batches)
        states = round((rows or 0) * self.lengths.response) if cached else 0
        loss: Loss = "rows, teacher" if teacher else "rows"
        run = self._run(loss, model, teacher, settings.batch_size, settings.lora, cached_tokens=states)
        whose: Literal["teacher", "student"] = "teacher" if name.startswith("teacher@") else "student"
        return Plan(name, output, whose, work, estimate(run, self.place), model.parameters * run.width, needs)

    def on_own_samples(self, name: str, output: Path, settings: OnPolicySettings, needs: tuple[str, ...]) -> Plan:
        """A stage that trains on own samples."""
        run = self._run(
            "own samples",
            self.student,
            self.teacher,
            settings.minibatch,
            settings.lora,
            rollouts=settings.rollouts,
            plain_text=(settings.lm_batch, settings.lm_length) if settings.lm_coef else (0, 0),
            plain_text_teacher=settings.lm_kd_ratio > 0,
            reads_rows=settings.needs_rows,
        )
        work = on_policy_work(settings, self.lengths, self.student, self.teacher, self._batches)
        weights = self.student.parameters * run.width
        return Plan(name, output, "student", work, estimate(run, self.place), weights, needs)

    def sampled(self, name: str, output: Path, samples: int, needs: tuple[str, ...]) -> Plan:
        """The teacher's responses."""
        rows = self._rows(self.profile.recipe.data.rows.student)
        work = sampling_work(rows * samples, self.lengths, self.teacher, self._batches) if rows else None
        return Plan(name, output, "teacher", work, self._reading(self.teacher), 0.0, needs)

    def measuring(self, family: str, student: str, finished: list[tuple[str, str]], measured: Measured) -> list[Plan]:
        """The stages that measure the `finished` models (method, stage)."""
        plans = []
        lengths, batches, seeds = self.lengths, self._batches, measured.seeds
        valid, samples = lengths.valid or 0, f"teacher_samples@{family}"
        place = Path("measures")
        drawn = sampling_work(valid * seeds, lengths, self.teacher, batches)
        output = place / family / "teacher/samples.parquet"
        memory = self._reading(self.teacher)
        plans.append(Plan(samples, output, "teacher", drawn, memory, 0.0, (f"teacher@{family}",)))
        for what, stage in finished:
            whose: Literal["teacher", "student"] = "teacher" if what == "teacher" else "student"
            shape = self.teacher if whose == "teacher" else self.student
            who, memory = (family, student)[whose == "student"], self._reading(shape)
            kind = "teacher_" if whose == "teacher" else ""  # as dvc.yaml names its blocks
            for name, prompts in measured.datasets.items():
                work = sampling_work(prompts * seeds, lengths, shape, batches)
                work += reading_work(prompts, lengths, shape, batches)
                output = Path("responses") / who / what / f"{name}.jsonl"
                plans.append(Plan(f"{kind}responses@{who}-{what}-{name}", output, whose, work, memory, 0.0, (stage,)))
            # Each word of a label is read after its prompt; the labels are some tokens long.
            read = sum(measured.labelled.values()) * _WORDS
            brief = replace(lengths, response=_WORD_TOKENS, response_p95=_WORD_TOKENS)
            work = reading_work(read, brief, shape, batches)
            output = place / who / what / "predictions.json"
            plans.append(Plan(f"{kind}calibration@{who}-{what}", output, whose, work, memory, 0.0, (stage,)))
            if whose == "student":
                work = sampling_work(valid * seeds, lengths, shape, batches)
                # Both models read the student's samples and the teacher's; the student's states of its own are kept.
                reading = reading_work(2 * valid * seeds, lengths, shape, batches)
                work += replace(reading, own=replace(reading.own, read=reading.own.read / 2), teacher=reading.own)
                output = place / student / what / "traces.parquet"
                both = self._reading(shape, self.teacher)
                plans.append(Plan(f"divergence@{student}-{what}", output, whose, work, both, 0.0, (samples, stage)))
        return plans

    def _reading(self, shape: Shape, teacher: Shape | None = None) -> Estimate:
        """The memory of a stage that only samples and scores."""
        return sampling_estimate(self._run("rows", shape, teacher, 1, None), self.place)

    def _run(
        self, loss: Loss, student: Shape, teacher: Shape | None, batch: int, lora: LoraSettings | None, **more: Any
    ) -> PlannedRun:
        recipe = self.profile.recipe
        lengths, prompt = self.lengths, recipe.prompt
        # Own samples may be as long as the limit, whatever the data hold.
        response = prompt.max_response_tokens if loss == "own samples" else lengths.longest_response
        if more.pop("reads_rows", False):
            response = max(response, lengths.longest_response)
        # The row of the longest response: most logits, and with what is left to its prompt most tokens.
        before = lengths.longest_prompt if loss == "own samples" else lengths.longest_sequence - response
        validated = lengths.valid or (0 if lengths.known else 1000)
        width = _WIDTHS[recipe.dtype]
        held = (self.profile.hardware.model_dump().get("teacher") or {}).get("dtype") or recipe.dtype
        return PlannedRun(
            loss,
            student,
            teacher,
            batch,
            prompt=before,
            response=response,
            width=width,
            teacher_width=_WIDTHS[held],
            validated=validated,
            validated_tokens=lengths.validation_tokens(min(self.place.decode_batch, validated)),
            adapter=None if lora is None else student.adapter(lora.r, lora.targets is not None),
            decoded=lengths.longest_prompt + prompt.max_response_tokens,
            **more,
        )
