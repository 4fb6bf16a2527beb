"""What the training stages of one row will do and take: the doctor's view of a profile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from commands.recipe import Profile
from distill.models.settings import LoraSettings, ModelSettings
from distill.on_policy.settings import OnPolicySettings
from distill.preflight.memory_estimate import Device, Estimate, Loss, Placement, PlannedRun, estimate
from distill.preflight.models import PlannedModel, origin_of, vocabulary_size
from distill.preflight.shapes import Shape
from distill.preflight.workload import Lengths, Work, on_policy_work, read_lengths, sampling_work, supervised_work
from distill.project.table import Table
from distill.runs.hardware import HardwareSettings
from distill.training.settings import SupervisedSettings

_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
# A vocabulary to judge by while there is no tokenizer to count: GPT-2's.
_VOCABULARY = 50_257


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
    """None for stages that only sample, which take less than training the same model."""
    weights: float
    """Bytes of the checkpoint."""

    @property
    def built(self) -> bool:
        """Whether its output is there; whether that is up to date is DVC's to say."""
        return (self.output / "meta.json").is_file() or self.output.is_file()


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


def plan_row(table: Table, profile: Profile, student: str, device: Device, devices: int) -> StudentPlan:
    """Everything about one student. Raises: DataError when the data's audit cannot be read."""
    family, recipe = table.students[student].family, profile.recipe
    data = Path("data") / family
    trained = recipe.tokenizer.train
    vocabulary = vocabulary_size(data / "tokenizer", trained.vocab_size if trained else _VOCABULARY)

    def origin(model: ModelSettings) -> PlannedModel:
        return origin_of(model, vocabulary, os.environ)

    models = {"teacher": recipe.teacher.origin, "student": recipe.students[student].origin}
    origins = {role: origin(model) for role, model in models.items() if model is not None}
    world = recipe.data.world
    lengths = read_lengths(data, recipe.prompt, world.train if world else None)
    teacher, small = (origins[role].shape if role in origins else None for role in ("teacher", "student"))
    if teacher is None or small is None:
        return StudentPlan(student, origins, lengths, ())
    place = placement(profile.hardware, device, devices)
    return StudentPlan(student, origins, lengths, plan_stages(table, profile, student, lengths, teacher, small, place))


def plan_stages(
    table: Table, profile: Profile, student: str, lengths: Lengths, teacher: Shape, small: Shape, place: Placement
) -> tuple[Plan, ...]:
    """The teacher's stage and those of every method, for models of these shapes."""
    family, own, recipe = table.students[student].family, profile.recipe.students[student], profile.recipe
    planner, runs = _Planner(profile, lengths, teacher, small, place), Path("runs") / family
    plans = []
    if recipe.teacher.sft is not None:
        plans.append(planner.on_rows(f"teacher@{family}", runs / "teacher", recipe.teacher.sft, teacher, None))
    if recipe.pseudo is not None:
        samples = recipe.pseudo.samples_per_prompt
        plans.append(planner.sampled(f"pseudo@{family}", runs / "pseudo.parquet", samples, teacher))
    for name in dict.fromkeys(["init", *table.methods]):
        settings = own.trained.get(name)  # None where it is left out or taken finished
        stage, output = f"{name}@{student}", Path("runs") / student / name
        if isinstance(settings, OnPolicySettings):
            plans.append(planner.on_own_samples(stage, output, settings))
        elif isinstance(settings, SupervisedSettings):
            read = teacher if own.methods[name].objective.NEEDS_TEACHER else None
            plans.append(planner.on_rows(stage, output, settings, small, read))
    return tuple(plans)


@dataclass(frozen=True)
class _Planner:
    profile: Profile
    lengths: Lengths
    teacher: Shape
    student: Shape
    place: Placement

    def _rows(self, limit: int | None) -> int | None:
        known = self.lengths.rows
        return known if limit is None or known is None else min(limit, known)

    def on_rows(
        self, name: str, output: Path, settings: SupervisedSettings, model: Shape, teacher: Shape | None
    ) -> Plan:
        """A stage that trains on rows."""
        limits = self.profile.recipe.data.rows
        rows = self._rows(limits.teacher if name.startswith("teacher@") else limits.student)
        rows = rows and rows * getattr(settings, "samples_per_prompt", 1)
        cached = self.place.cache_teacher and teacher is not None
        work = supervised_work(settings, rows, self.lengths, model, teacher, cached) if rows else None
        states = round((rows or 0) * self.lengths.response) if cached else 0
        loss: Loss = "rows, teacher" if teacher else "rows"
        run = self._run(loss, model, teacher, settings.batch_size, settings.lora, cached_tokens=states)
        whose: Literal["teacher", "student"] = "teacher" if name.startswith("teacher@") else "student"
        return Plan(name, output, whose, work, estimate(run, self.place), model.parameters * run.width)

    def on_own_samples(self, name: str, output: Path, settings: OnPolicySettings) -> Plan:
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
        work = on_policy_work(settings, self.lengths, self.student, self.teacher)
        return Plan(name, output, "student", work, estimate(run, self.place), self.student.parameters * run.width)

    def sampled(self, name: str, output: Path, samples: int, model: Shape) -> Plan:
        """The teacher's responses."""
        rows = self._rows(self.profile.recipe.data.rows.student)
        work = sampling_work(rows * samples, self.lengths, model) if rows else None
        return Plan(name, output, "teacher", work, None, 0.0)

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
