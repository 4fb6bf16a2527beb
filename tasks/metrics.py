"""What changed in the numbers and the settings of a clone since a commit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.clone import dvc

# A metric named neither here nor there is shown without a verdict: nobody said which way is up.
_HIGHER_IS_BETTER = ("rouge", "exact_match", "accuracy", "win_rate", "judge", "score")
_LOWER_IS_BETTER = ("loss", "nll", "perplexity", "kl", "ece", "error")
_SPREAD = ("std", "ci95", "per_seed")


@dataclass(frozen=True)
class Value:
    """A number with its 95 % interval, where the metrics file gives one."""

    mean: float
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        spread = "" if self.interval is None else f" [{self.interval[0]:.4g}, {self.interval[1]:.4g}]"
        return f"{self.mean:.4g}{spread}"


@dataclass(frozen=True)
class Change:
    """One metric before and after."""

    name: str
    """File stem and keys: `tiny.minillm.toy_id.rouge_l`."""
    old: Value | None
    new: Value | None

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `within noise`, `new`, `gone`, or `changed` where neither direction is better.

        Two values whose intervals overlap are within noise; without intervals every difference counts.
        """
        if self.old is None or self.new is None:
            return "new" if self.old is None else "gone"
        up = _direction(self.name)
        if self.old.interval and self.new.interval:
            apart = self.old.interval[1] < self.new.interval[0] or self.new.interval[1] < self.old.interval[0]
        else:
            apart = self.old.mean != self.new.mean
        if not apart:
            return "within noise"
        if up == 0:
            return "changed"
        return "better" if (self.new.mean - self.old.mean) * up > 0 else "worse"


def _direction(name: str) -> int:
    # The innermost word that says something: in `loss_study.rouge_l` it is rouge_l.
    for word in reversed(name.lower().split(".")):
        if any(part in word for part in _LOWER_IS_BETTER):
            return -1
        if any(part in word for part in _HIGHER_IS_BETTER):
            return 1
    return 0


def lower_is_better(name: str) -> bool:
    """Whether a metric's name says that less is better, as a loss."""
    return _direction(name) < 0


def metric_changes(root: Path, files: list[str], rev: str) -> list[Change]:
    """Every metric in `files` (JSON) whose value differs between commit `rev` and the working tree."""
    changes = []
    for path in files:
        stem = Path(path).stem
        old = dict(values(_at(root, path, rev), stem))
        new = dict(values(json.loads((root / path).read_text()), stem)) if (root / path).exists() else {}
        names = [*new, *(name for name in old if name not in new)]
        changes += [Change(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]
    return changes


def values(content: Any, name: str) -> Iterator[tuple[str, Value]]:
    """A metrics file's numbers by dotted name; {"mean": …, "ci95": [low, high]} is one, with its interval."""
    if isinstance(content, bool):
        return
    if isinstance(content, int | float):
        yield name, Value(float(content))
    elif isinstance(content, Mapping) and isinstance(content.get("mean"), int | float):
        ends = content.get("ci95")
        yield name, Value(float(content["mean"]), (float(ends[0]), float(ends[1])) if ends else None)
    elif isinstance(content, Mapping):
        for key, inner in content.items():
            if key not in _SPREAD:
                yield from values(inner, f"{name}.{key}")


def _at(root: Path, path: str, rev: str) -> Any:
    """A metrics file at a commit, from git or from DVC's cache; {} where the commit has none."""
    in_git = subprocess.run(["git", "show", f"{rev}:{path}"], cwd=root, capture_output=True, text=True, check=False)
    if in_git.returncode == 0:
        return json.loads(in_git.stdout)
    from dvc.api import read
    from dvc.exceptions import DvcException

    try:
        return json.loads(read(path, repo=str(root), rev=rev))
    except (DvcException, FileNotFoundError):
        return {}


def setting_changes(root: Path, rev: str) -> dict[str, tuple[Any, Any]]:
    """The settings that differ between commit `rev` and the working tree: `file:key` → (old, new)."""
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(dvc(root, "params", "diff", "--json", rev) or "{}")
    return {
        f"{path}:{key}": (pair.get("old"), pair.get("new"))
        for path, keys in found.items()
        for key, pair in keys.items()
    }
