"""Objectives: one file in distill/objectives/ each, found by the name that a stage's command gives.

The same file serves rows of the data, the teacher's samples and the student's own. No torch is imported here: `check`
and `doctor` read settings through this module in a second.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from pydantic import create_model

from distill.project.errors import SettingsError
from distill.project.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

_FOLDER = Path(__file__).resolve().parents[1] / "objectives"


class Objective(Protocol):
    """A module in distill/objectives/: it has `token_losses`, or `on_own_samples` where it needs those, or both."""

    @property
    def ObjectiveSettings(self) -> type[Settings]:  # noqa: N802 - the class in the module
        """The settings of its formula; they stand in a method's section beside those of the training."""

    @property
    def NEEDS_TEACHER(self) -> bool:  # noqa: N802 - a constant of the module
        """Whether its losses read the teacher's logits."""

    @property
    def LABEL(self) -> str:  # noqa: N802 - a constant of the module
        """Its name in tables, as the literature writes it."""


class RowObjective(Objective, Protocol):
    """An objective that gives a loss for each token of any response."""

    def token_losses(
        self,
        settings: Any,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        progress: float,
    ) -> Tensor:
        """Loss of each response token in nats, [N].

        Logits are [N, V] over the shared vocabulary, in float32 or better; labels [N] are the tokens; `progress` is
        the share of training done, from 0 to 1, for objectives that change over it.
        """


def objective_names() -> list[str]:
    """The names of all objectives, as commands give them."""
    return sorted(path.stem for path in _FOLDER.iterdir() if not path.name.startswith("_"))


def load_objective(name: str) -> Objective:
    """The objective of a name such as `kd` or, as commands give it, `kd.py`. Raises: SettingsError for another name."""
    name = name.removesuffix(".py")
    if name not in objective_names():
        known = ", ".join(objective_names())
        raise SettingsError(f"no objective `{name}` in distill/objectives; write {name}.py or use one of: {known}")
    # The one import by name: the commands in dvc.yaml name the file, and tests hold that `deps:` do too.
    return cast(Objective, import_module(f"distill.objectives.{name}"))


def load_row_objective(name: str) -> RowObjective:
    """The same, of one that can be learnt from rows. Raises: SettingsError for one that needs own samples."""
    found = load_objective(name)
    if not hasattr(found, "token_losses"):
        raise SettingsError(f"objective `{name}` needs own samples; train it by stages.on_own_samples")
    return cast(RowObjective, found)


E = TypeVar("E", bound=Settings)


def with_objective(training: type[E], objective: Objective) -> type[E]:
    """The settings of a method's section: those of the `training` and those of the objective's formula.

    Where both have a setting of one name, the objective's default counts.
    """
    name = f"{objective.ObjectiveSettings.__module__.rpartition('.')[2]}_{training.__name__}"
    return cast("type[E]", create_model(name, __base__=(objective.ObjectiveSettings, training)))
