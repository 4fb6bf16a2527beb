"""What is to come: every stage of the table with its work, and the time that all of them take on this machine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from commands.check import check_profile, read_calibration, read_evalset
from commands.doctor_plan import Measured, Plan, StudentPlan, placement, plan_row
from commands.recipe import Profile
from distill.generation.settings import EvaluationSettings
from distill.preflight.findings import Finding
from distill.preflight.lengths import Lengths, count_lines, counted_lengths, guessed_lengths, read_lengths
from distill.preflight.machine import Machine
from distill.preflight.memory_estimate import Device
from distill.preflight.rough_speeds import IMPORTS, rough_prices
from distill.preflight.schedule import SLOTS, Timed, heaviest, makespan
from distill.preflight.workload import Batches, Units
from distill.project.errors import DistillError
from distill.project.settings import section
from distill.project.table import PARAMS, Table, read_table

# Prompts of a set whose rows cannot be counted yet.
_UNKNOWN_ROWS = 500
# A stage in all, in times its imports: DVC's own part, imports, loading and saving; and without a model.
_STAGE, _SMALL_STAGE = 2.5, 1.8
# A checkpoint lies in the workspace and in DVC's cache; an unfinished run keeps two states of weights and moments.
_COPIES = 2
_UNFINISHED = 2 * 4


@dataclass(frozen=True)
class Outlook:
    """The stages of some students, and what a unit of their work costs here."""

    table: Table
    profiles: Mapping[str, Profile]
    """By family."""
    rows: tuple[StudentPlan, ...]
    measured: Measured
    machine: Machine
    slots: int = SLOTS
    prices: Mapping[tuple[str, str], Units] = field(default_factory=dict)
    """(student, role) → seconds a unit."""
    imports: float = IMPORTS
    """CPU seconds in which a stage imports its libraries."""

    def seconds(self, student: str, plan: Plan) -> float | None:
        """The seconds of a stage's work on free cores, without its start; None while nobody knows."""
        own, teacher = (self.prices.get((student, role)) for role in (plan.model, "teacher"))
        if plan.work is None or own is None or teacher is None:
            return None
        return plan.work.own.seconds(own) + plan.work.teacher.seconds(teacher)

    def stages(self, unbuilt: bool = False) -> list[Timed]:
        """Every stage once, with its start; with `unbuilt` those whose output is not there."""
        found = {}
        for row in self.rows:
            for plan in row.plans:
                if not (unbuilt and plan.built):
                    took = (self.seconds(row.student, plan) or 0.0) + _STAGE * self.imports
                    memory = 0.0
                    if plan.memory is not None:
                        # Beside GPUs, of which each stage has its own, stages share the CPU's memory.
                        memory = plan.memory.host_peak if self.machine.gpus else plan.memory.peak
                    found[plan.name] = Timed(plan.name, took, memory, plan.needs)
        return list(found.values())

    @property
    def known(self) -> bool:
        """Whether every stage's seconds are."""
        return all(self.seconds(row.student, plan) is not None for row in self.rows for plan in row.plans)

    def total(self, unbuilt: bool = False) -> float:
        """Seconds of `make repro` on this machine, its cores free: from nothing, or of what is not built."""
        stages = self.stages(unbuilt)
        models = [stage for stage in stages if "responses@" in stage.name]
        # Preparing, scoring and reporting hold no model and take little more than their imports.
        small = 0 if not stages else 2 * len(self.rows) + len(self.profiles) + len(self.table.datasets) + 2
        alone = [Timed(f"score {stage.name}", _SMALL_STAGE * self.imports, 0.0, (stage.name,)) for stage in models]
        alone += [Timed(f"small stage {number}", _SMALL_STAGE * self.imports, 0.0) for number in range(small)]
        return makespan([*stages, *alone], self.lanes)

    def resized(self, profile: Profile, lengths: Lengths, tests: Mapping[str, int]) -> Outlook:
        """The same for the one student there is with another profile, lengths and prompts of some sets."""
        (row,) = self.rows
        measured = replace(self.measured, datasets={**self.measured.datasets, **tests})
        device: Device = "cuda" if self.machine.gpus else "cpu"
        gpus = len(self.machine.gpus)
        planned = plan_row(self.table, profile, row.student, lengths, device, gpus, measured)
        return replace(self, profiles=dict.fromkeys(self.profiles, profile), rows=(planned,), measured=measured)

    @property
    def lanes(self) -> int:
        """Stages that run at full speed side by side."""
        if self.machine.gpus:
            return max(1, min(self.slots, len(self.machine.gpus)))
        threads = max((threads_of(profile, self.machine) for profile in self.profiles.values()), default=1)
        return max(1, min(self.slots, self.machine.cores // threads))

    def heaviest(self) -> tuple[Timed, ...]:
        """The stages with most memory that run at once, of those that are not built."""
        stages = self.stages(unbuilt=True)
        return heaviest(stages, self.slots) if stages else ()

    @property
    def disk(self) -> float:
        """Bytes that building everything which is not there will write."""
        plans = {plan.output: plan for row in self.rows for plan in row.plans if not plan.built}.values()
        return sum(_COPIES * plan.weights for plan in plans) + max((_UNFINISHED * p.weights for p in plans), default=0)


def outlook(
    machine: Machine, students: Sequence[str], count: bool, slots: int = SLOTS
) -> tuple[Outlook, list[Finding]]:
    """The stages of `students`, at rough prices; with `count` rows that are not prepared yet are read and tokenised.

    The findings say why some could not be. Raises: SettingsError.
    """
    table = read_table()
    families = dict.fromkeys(table.students[student].family for student in students)
    profiles = {family: check_profile(family) for family in families}
    found: list[Finding] = []
    lengths = {family: _lengths(family, table, profile, count, found) for family, profile in profiles.items()}
    measured = _measured(table, profiles)
    rows = []
    for student in students:
        family = table.students[student].family
        device: Device = "cuda" if machine.gpus else "cpu"
        gpus, known = len(machine.gpus), lengths[family]
        rows.append(plan_row(table, profiles[family], student, known, device, gpus, measured))
    prices = {}
    for row in rows:
        profile = profiles[table.students[row.student].family]
        width = 4 if profile.recipe.dtype == "float32" else 2
        context = row.lengths.prompt + row.lengths.response
        for role, origin in row.origins.items():
            if origin.shape is not None:
                threads = threads_of(profile, machine)
                prices[row.student, role] = rough_prices(origin.shape, context, width, bool(machine.gpus), threads)
    return Outlook(table, profiles, tuple(rows), measured, machine, slots, prices), found


def measured_here(found: Outlook, tell: Callable[[str], None], seconds: float | None = None) -> Outlook:
    """The same at prices that are measured now, which takes at most `seconds` (twenty) by the clock."""
    imports = _imported()
    from distill.preflight import speeds

    prices: dict[tuple[str, str], Units] = dict(found.prices)
    rows = [row for row in found.rows if any(origin.shape for origin in row.origins.values())]
    end = time.monotonic() + (speeds.SECONDS if seconds is None else seconds)
    measured: dict[object, dict[str, Units]] = {}
    for number, row in enumerate(rows):
        profile = found.profiles[found.table.students[row.student].family]
        place = placement(profile.hardware, "cpu", 1)
        shapes = {role: origin.shape for role, origin in row.origins.items() if origin.shape is not None}
        key = (tuple(shapes.items()), row.lengths, place)
        if key not in measured:
            share = (end - time.monotonic()) / (len(rows) - number)
            batches = Batches(place.micro_batch, place.decode_batch)
            threads, dtype = profile.hardware.threads, profile.recipe.dtype
            try:
                measured[key] = speeds.calibrate(shapes, row.lengths, batches, threads, dtype, share, tell)
            except (ValueError, RuntimeError) as error:  # no small model of an unusual shape, or no memory for it
                tell(f"{row.student} could not be measured, its times are rough guesses: {error}")
                measured[key] = {}
        prices |= {(row.student, role): units for role, units in measured[key].items()}
    return replace(found, prices=prices, imports=imports)


def _imported() -> float:
    """Import what stages import; the CPU seconds that took, or the usual ones where some of it was there."""
    absent, began = "torch" not in sys.modules, time.process_time()
    import distill.preflight.speeds  # noqa: F401

    return time.process_time() - began if absent else IMPORTS


def threads_of(profile: Profile, machine: Machine) -> int:
    """The threads of a stage on a CPU."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return profile.hardware.threads or (int(asked) if asked.isdigit() and int(asked) else machine.cores)


def _lengths(family: str, table: Table, profile: Profile, count: bool, found: list[Finding]) -> Lengths:
    data, recipe = Path("data") / family, profile.recipe
    if (data / "report.json").is_file():
        return read_lengths(data, recipe.prompt, None)
    base = Path(table.families[family])
    guessed = guessed_lengths(recipe.data, recipe.prompt, base)
    source = recipe.tokenizer.source
    on_hub = [part for part in (recipe.data.train, recipe.data.valid) if part is not None and part.hub is not None]
    if not count:
        return guessed
    prepare = f"`dvc repro prepare@{family}` counts them"
    if on_hub or (source is not None and source.hub is not None and guessed.rows is None):
        found.append(Finding("ok", f"{family}, rows", f"still on the hub, so that work is guessed or `?`; {prepare}"))
        return guessed
    try:
        return counted_lengths(recipe.data, recipe.prompt, recipe.tokenizer, base)
    except DistillError as error:
        found.append(Finding("warn", f"{family}, rows", f"cannot be prepared: {error}"))
        return guessed


def _measured(table: Table, profiles: Mapping[str, Profile]) -> Measured:
    seeds = len(section(PARAMS, "evaluation", EvaluationSettings).seeds)
    worlds = [profile.recipe.data.world for profile in profiles.values() if profile.recipe.data.world is not None]
    drawn = worlds[0].test if worlds else _UNKNOWN_ROWS
    datasets = {name: _prompts(name, Path(place), drawn) for name, place in table.datasets.items()}
    labelled = {name: _lines(Path(f"labelled/{name}.jsonl")) or drawn for name in read_calibration()}
    return Measured(datasets, labelled, seeds)


def _prompts(name: str, place: Path, drawn: int) -> int:
    """Prompts of an evaluation set, or what is thought of it before it is read."""
    ready = _lines(Path(f"evaluation/{name}.jsonl"))
    if ready is not None:
        return ready
    settings = read_evalset(name)
    file = place / settings.file if place.is_dir() and settings.file else place
    counted = _lines(file) if settings.hub is None and file.suffix.lower() == ".jsonl" else None
    return min(counted or drawn, settings.limit or counted or drawn)


def _lines(path: Path) -> int | None:
    return count_lines(path) if path.is_file() else None
