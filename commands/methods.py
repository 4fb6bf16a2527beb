"""The methods that dvc.yaml can train: what each learns by, and where its tokens come from, read from its command.

python -m stages.on_rows ${key} ${method} ${objective} ${start}                       rows of the data
python -m stages.on_rows ${key} ${method} ${objective} ${start} --teacher-samples     the teacher's samples
python -m stages.on_own_samples ${key} ${method} ${objective}                         own samples
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from distill.on_policy.settings import OnPolicySettings
from distill.project.errors import SettingsError
from distill.project.settings import Settings, read_yaml
from distill.training.objective import Objective, load_objective, with_objective
from distill.training.settings import SampledRowsSettings, SupervisedSettings

_DVC = Path("dvc.yaml")
# `init` is no method: it is the start of those on own samples.
START = "init"
_STARTS = ("base", START)


@dataclass(frozen=True)
class Method:
    """One training block of dvc.yaml."""

    name: str
    """The block, the section of a profile, and the folder below runs/<student>/."""
    objective: Objective
    own_samples: bool
    """Trained on the student's own samples, else on rows."""
    teacher_samples: bool
    """The rows are the teacher's samples, else the data's."""
    start: str
    """`base` or `init`: the checkpoint that training starts from."""
    words: tuple[str, ...]
    """Its command after `python -m`, with `who` for the student."""

    def command(self, who: str) -> list[str]:
        """Module and arguments that train it for `who`."""
        return [who if word == "who" else word for word in self.words]

    @property
    def training(self) -> type[Settings]:
        """The settings of its training, without those of the formula."""
        if self.own_samples:
            return OnPolicySettings
        return SampledRowsSettings if self.teacher_samples else SupervisedSettings

    @property
    def settings(self) -> type[Settings]:
        """The settings of its section in a profile."""
        return with_objective(self.training, self.objective)


def read_methods(path: Path = _DVC) -> dict[str, Method]:
    """Every method that dvc.yaml can train, and `init`, by name, in its order.

    Raises: SettingsError when a block does not say what it trains, or names an objective that is not there or not fit.
    """
    blocks = read_yaml(path)["stages"]
    found = (_method(name, block.get("do", block), path) for name, block in blocks.items() if "foreach" in block)
    return {method.name: method for method in found if method is not None}


def _method(name: str, block: Mapping[str, Any], path: Path) -> Method | None:
    variables = {key: str(value) for each in block.get("vars", []) for key, value in each.items()}
    if "method" not in variables:
        return None
    if variables["method"] != name:
        raise SettingsError(f"{path}: block {name} has `method: {variables['method']}`; write `method: {name}`")
    try:
        words = Template(block["cmd"]).substitute(variables, key="who").split()
        own, given = words[2] == "stages.on_own_samples", words[5]
        start = START if own else words[6]
    except KeyError as missing:
        raise SettingsError(f"{path}: block {name} has no {missing} in its `vars`; add it") from None
    except (ValueError, IndexError):
        raise SettingsError(
            f"{path}: block {name}: its `cmd` names no training; use a template of the others"
        ) from None
    objective = load_objective(given)
    if start not in _STARTS:
        raise SettingsError(f"{path}: block {name} has `start: {start}`; write {' or '.join(_STARTS)}")
    file = Path(str(getattr(objective, "__file__", given)))
    watched = file.parent.name if file.name == "__init__.py" else file.name
    if given != watched:
        raise SettingsError(f"{path}: block {name} has `objective: {given}`, which DVC cannot watch; write {watched}")
    reads_teacher = any(str(dep).endswith("/teacher") for dep in block.get("deps", []))
    if objective.NEEDS_TEACHER and not reads_teacher:
        raise SettingsError(f"{path}: block {name}: {given} needs the teacher; use the template `with_teacher`")
    if own and not objective.NEEDS_TEACHER:
        raise SettingsError(f"{path}: block {name}: {given} learns nothing from own samples; use `on_data`")
    if not own and not hasattr(objective, "token_losses"):
        raise SettingsError(f"{path}: block {name}: {given} needs own samples; use the template `on_own_samples`")
    return Method(name, objective, own, "--teacher-samples" in words, start, tuple(words[2:]))
