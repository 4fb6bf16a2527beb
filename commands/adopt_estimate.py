"""What an adopted family takes on this machine, and a size of it that fits the time one has."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commands.adopt_table import read_commented, replace_comment, write_commented
from commands.doctor_outlook import Outlook, measured_here, outlook
from distill.on_policy.settings import OnPolicySettings
from distill.preflight.findings import gibibytes
from distill.preflight.machine import read_machine
from distill.preflight.report import duration
from distill.project.errors import DistillError
from distill.project.settings import Settings
from distill.project.table import profile_path
from distill.training.settings import SupervisedSettings

SECONDS = 10.0
"""The limit of the measurement."""
_EPOCHS, _ROLLOUTS, _MINIBATCH = 3, 64, 16
_FEWEST_ROWS, _FEWEST_CHECKED, _FEWEST_STEPS = 32, 16, 8
_HALVINGS = 10
# A total within this factor of what was asked for is left as it is.
_NEARLY = 1.2


@dataclass(frozen=True)
class SmallerSize:
    """A smaller size of a family's recipe: what `share` of rows and steps leaves."""

    rows: int
    valid: int
    tests: int
    steps: int | None
    """The most `max_steps` that a method on own samples keeps; None without one."""

    def of(self, settings: Settings) -> dict[str, Any]:
        """The fields of a method's section that change."""
        if isinstance(settings, OnPolicySettings):
            steps = min(settings.max_steps, self.steps or settings.max_steps)
            rollouts = min(settings.rollouts, _ROLLOUTS)
            minibatch = min(settings.minibatch, _MINIBATCH)
            changed = {
                "max_steps": steps,
                "warmup_steps": min(settings.warmup_steps, steps // 10),
                "evaluate_every": min(settings.evaluate_every, steps),
                "rollouts": rollouts,
                "minibatch": rollouts if rollouts % minibatch else minibatch,
            }
        elif isinstance(settings, SupervisedSettings):
            epochs = min(settings.epochs, _EPOCHS)
            changed = {"epochs": epochs, "evaluate_every": min(settings.evaluate_every, epochs)}
        else:
            changed = {}
        return {name: value for name, value in changed.items() if value != getattr(settings, name)}

    def told(self, name: str, valid_file: bool) -> list[str]:
        """The lines to change, for a person; `valid_file`: whether validation rows have a file of their own."""
        valid = f"valid.limit: {self.valid}" if valid_file else f"valid_rows: {self.valid}"
        steps = (
            "" if self.steps is None else f"; max_steps: {self.steps}, rollouts: {_ROLLOUTS}, minibatch: {_MINIBATCH}"
        )
        return [
            f"  profiles/{name}.yaml       data.rows: {{teacher: {self.rows}, student: {self.rows}}}, "
            f"{valid}; epochs: {_EPOCHS} at most{steps}",
            f"  evalsets/{name}_test.yaml  limit: {self.tests}",
        ]


def tell_cost(name: str, hours: float | None) -> None:
    """Print what the family `name` takes here, and a size that fits `hours` (one); with `hours` given, write it."""
    student = f"{name}-student"
    print("Measuring this machine, for at most ten seconds …", file=sys.stderr)
    try:
        found, findings = outlook(read_machine(Path()), [student], count=True)
        found = measured_here(found, lambda text: None, SECONDS)
    except DistillError as error:
        print(f"Time and memory are not known: {error}")
        return
    for finding in findings:
        print(finding)
    if not found.stages() or not found.known:
        print("Time and memory here: `make doctor` tells them, once the models' and the rows' files are on this disk.")
        return
    total, together = found.total(), found.heaviest()
    longest = max(found.stages(), key=lambda stage: stage.seconds)
    needed = sum(stage.memory for stage in together)
    memory = f"{gibibytes(needed)} of {gibibytes(found.machine.memory)} memory"
    side = f" ({' and '.join(stage.name for stage in together)} side by side)" if len(together) > 1 else ""
    print(
        f"Here it takes about {duration(total)} ({longest.name} {duration(longest.seconds)}), {memory}{side} and "
        f"{gibibytes(found.disk)} of disk."
    )
    asked = (hours or 1.0) * 3600
    if total <= _NEARLY * asked:
        return
    within = duration(asked)
    size = fitting(found, student, asked)
    if size is None:
        print(f"No part of it fits {within} here: take a smaller model or another machine.")
        return
    if hours is None:
        print(f"To fit {within}, change these lines (`--hours {asked / 3600:g}` writes them):")
    else:
        write_size(name, student, size, found, within)
        print(f"Written so that it fits {within}:")
    print("\n".join(size.told(name, found.profiles[name].recipe.data.valid is not None)))


def fitting(found: Outlook, student: str, seconds: float) -> SmallerSize | None:
    """The largest size whose stages take at most `seconds` in all; None where the smallest takes longer."""
    (row,) = found.rows
    family = found.table.students[student].family
    profile = found.profiles[family]
    steps = [
        part.max_steps for part in _trained(profile.recipe, student).values() if isinstance(part, OnPolicySettings)
    ]
    rows, valid = row.lengths.rows or 0, row.lengths.valid or 0
    own = f"{family}_test"
    tests = found.measured.datasets.get(own, 0)
    for halved in range(_HALVINGS):
        share = 0.5**halved
        size = SmallerSize(
            max(_FEWEST_ROWS, round(rows * share)),
            min(valid, max(_FEWEST_CHECKED, round(valid * share))),
            min(tests, max(_FEWEST_CHECKED, round(tests * share))),
            max(_FEWEST_STEPS, round(max(steps) * share)) if steps else None,
        )
        smaller = found.resized(
            _resized(profile, student, size), replace(row.lengths, valid=size.valid), {own: size.tests}
        )
        if smaller.total() <= seconds:
            return size
    return None


def _trained(recipe: Any, student: str) -> Mapping[str, Settings]:
    trained: Mapping[str, Settings] = recipe.students[student].trained
    return trained


def _resized(profile: Any, student: str, size: SmallerSize) -> Any:
    """The profile with the sections of `size`."""
    recipe = profile.recipe
    own = recipe.students[student]
    sections = {name: part.model_copy(update=size.of(part)) for name, part in own.trained.items()}
    teacher = recipe.teacher
    if teacher.sft is not None:
        teacher = teacher.model_copy(update={"sft": teacher.sft.model_copy(update=size.of(teacher.sft))})
    limits = recipe.data.rows.model_copy(update={"teacher": size.rows, "student": size.rows})
    changed = {
        "data": recipe.data.model_copy(update={"rows": limits}),
        "teacher": teacher,
        "students": {**recipe.students, student: own.model_copy(update=sections)},
    }
    return profile.model_copy(update={"recipe": recipe.model_copy(update=changed)})


def write_size(name: str, student: str, size: SmallerSize, found: Outlook, within: str) -> None:
    """Write `size` into the family's profile and evaluation set; what else stands there stays as it is.

    The recipe's note, which stands below the results, says that it was cut to fit `within`.
    """
    path, profile = profile_path(name), found.profiles[name].recipe
    content = read_commented(path)
    recipe = content["recipe"]
    recipe["note"] = f"{recipe['note']}; rows, epochs and steps cut to fit {within}"
    data = recipe["data"]
    data["rows"].update(teacher=size.rows, student=size.rows)
    if "valid" in data:
        data["valid"]["limit"] = size.valid
    else:
        data["valid_rows"] = size.valid
    for field in ("rows", "valid", "valid_rows"):
        replace_comment(data, field, f"to fit {within}")
    if profile.teacher.sft is not None:
        recipe["teacher"]["sft"].update(size.of(profile.teacher.sft))
    for section, settings in _trained(profile, student).items():
        recipe["students"][student][section].update(size.of(settings))
    write_commented(path, content)
    tests = Path("evalsets") / f"{name}_test.yaml"
    described = read_commented(tests)
    described["limit"] = size.tests
    write_commented(tests, described)
