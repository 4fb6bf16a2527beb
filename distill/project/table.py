"""The table in params.yaml: students, families, methods and evaluation sets of this commit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from distill.project.errors import SettingsError
from distill.project.seeds import Seed
from distill.project.settings import Settings, parse, read_yaml

PARAMS = Path("params.yaml")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")  # longer ones make names of files that no disk takes
_TABLE_KEYS = ("students", "families", "datasets", "methods", "trained", "labels", "seed")


class StudentRow(Settings):
    """One row of the table of students."""

    family: str
    """The family whose teacher, data and prompt this student shares; its recipe stands in that profile."""


class Table(Settings):
    """Rows and columns that `dvc repro` builds."""

    students: dict[str, StudentRow]
    """Student name to its row."""
    families: dict[str, str]
    """Family name to the file or folder of its training rows, which DVC watches."""
    datasets: dict[str, str]
    """Evaluation set to the file or folder that holds it; evalsets/<name>.yaml says how to read it."""
    methods: dict[str, dict[str, StudentRow]]
    """Methods that are trained and evaluated, each with the rows of all students (`sft: *students`)."""
    trained: dict[str, dict[str, StudentRow]]
    """The same again (`*methods`), for the training blocks of dvc.yaml."""
    labels: dict[str, str] = Field(default={})
    """Method to its name in tables; without one, the name that its objective brings."""
    seed: Seed = 0
    """Every random number is keyed by it."""

    @field_validator("methods", mode="before")
    @classmethod
    def _with_students(cls, given: Any) -> Any:
        if isinstance(given, list):
            raise ValueError("each method names its students: write `sft: *students` for `- sft`")  # noqa: TRY004 - pydantic's
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Table:
        names = [*self.students, *self.families, *self.datasets, *self.methods]
        for name in names:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"the name `{name}` may hold letters, digits, `_` and `-` only, 80 at most, because DVC builds "
                    "stage names from it (no dots: write opt-1b3)"
                )
        for student, row in self.students.items():
            if row.family not in self.families:
                known = ", ".join(self.families)
                raise ValueError(f"student `{student}` names family `{row.family}`; the families are: {known}")
        if both := self.students.keys() & self.families.keys():
            raise ValueError(f"`{both.pop()}` is both a student and a family; their folders in runs/ would collide")
        if not self.methods:
            raise ValueError("`methods` names none, so there is nothing to compare; name one, e.g. `sft: *students`")
        for method, rows in self.methods.items():
            if rows != self.students:
                raise ValueError(f"method `{method}` must name the rows of all students; write `{method}: *students`")
        if self.trained != self.methods:
            raise ValueError("`trained` must be the rows of `methods`; write `methods: &methods`, `trained: *methods`")
        return self


def read_table(path: Path = PARAMS) -> Table:
    """Read the table. Raises: SettingsError with every fault at once."""
    content = {k: v for k, v in read_yaml(path).items() if k in _TABLE_KEYS}
    return parse(content, Table, str(path))


def profile_path(family: str) -> Path:
    """The path of a family's profile. Raises: SettingsError when there is none."""
    path = Path("profiles") / f"{family}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none yet"
        raise SettingsError(f"family `{family}` has no profile {path}; write it or use one of: {known}")
    return path


def read_profile(family: str) -> dict[str, Any]:
    """A family's profile as it is written.

    Raises: SettingsError when there is none, or when it holds a key of params.yaml.
    """
    path = profile_path(family)
    content = read_yaml(path)
    recipe = content.get("recipe")
    inside = set(content) | (set(recipe) if isinstance(recipe, dict) else set())
    # Both have students and methods, as a table here and as recipes there.
    if twice := sorted(inside & set(read_yaml(PARAMS)) - {"students", "methods"}):
        raise SettingsError(
            f"{path}: {', '.join(twice)} stand(s) in {PARAMS} too; a setting lives in one place: keep one"
        )
    return content


def family_of(who: str, table: Table) -> str:
    """The family of a student, or the family itself. Raises: SettingsError for an unknown name."""
    if who in table.families:
        return who
    if who in table.students:
        return table.students[who].family
    known = ", ".join([*table.students, *table.families])
    raise SettingsError(f"`{who}` is neither a student nor a family of params.yaml; known are: {known}")
