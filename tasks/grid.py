"""A sweep's file, read: the points of a grid over settings.

targets: [results]                       # stages to build in each point (default: all)
metric: tiny.minillm.toy_id.rouge_l      # best first by this one
grid:                                    # every combination of these values
  "profiles/toy.yaml:recipe.students.tiny.minillm.teacher_mix_alpha": [0.0, 0.2, 0.5]
  "params.yaml:seed": [0, 1]
points:                                  # and these, by name
  no length normalisation: {"profiles/toy.yaml:recipe.students.tiny.minillm.length_norm": false}
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.errors import RebuildError

_KEYS = {"targets", "metric", "grid", "points"}


@dataclass(frozen=True)
class Point:
    """One combination of settings."""

    name: str
    """Short, and fit for a folder: `teacher_mix_alpha=0.2,seed=1`."""
    settings: Mapping[str, Any]
    """`file:key` → value."""


@dataclass(frozen=True)
class Sweep:
    """The content of a sweep's file."""

    name: str
    targets: tuple[str, ...]
    metric: str
    points: tuple[Point, ...]


def read_sweep(path: Path) -> Sweep:
    """Read `sweeps/<name>.yaml`. Raises: RebuildError with what is wrong in it."""
    try:
        content = YAML(typ="safe").load(path)
    except (OSError, YAMLError) as error:
        raise RebuildError(f"{path} cannot be read: {error}\nSee tasks/grid.py for an example.") from error
    faults = list(_faults(content)) if isinstance(content, dict) else ["it must hold keys and values"]
    if faults:
        raise RebuildError("\n".join([f"{path} is not a sweep:", *faults, "See tasks/grid.py for an example."]))
    grid, named = content.get("grid") or {}, content.get("points") or {}
    points = _combinations(grid) if grid else []
    points += [Point(_slug(name), settings) for name, settings in named.items()]
    return Sweep(path.stem, tuple(content.get("targets") or ()), content["metric"], tuple(points))


def _faults(content: Mapping[str, Any]) -> Iterator[str]:
    grid, named, targets = (content.get(key) for key in ("grid", "points", "targets"))
    yield from (f"unknown key {key!r}" for key in content if key not in _KEYS)
    if not isinstance(content.get("metric"), str):
        yield "`metric` must name one metric"
    if not isinstance(targets or [], list) or not all(isinstance(target, str) for target in targets or []):
        yield "`targets` must be a list of stages"
    settings: list[Any] = []
    if not isinstance(grid or {}, dict):
        yield "`grid` must hold file:key: [values]"
    elif grid:
        yield from (
            f"{key}: give a list of values" for key, row in grid.items() if not isinstance(row, list) or not row
        )
        settings += grid
    if not isinstance(named or {}, dict) or not all(isinstance(point, dict) for point in (named or {}).values()):
        yield "`points` must hold name: {file:key: value}"
    elif named:
        settings += [key for point in named.values() for key in point]
    yield from (f"{key}: write a setting as file:key" for key in settings if ":" not in str(key))
    if not grid and not named:
        yield "neither `grid` nor `points` is given"


def _combinations(grid: Mapping[str, list[Any]]) -> list[Point]:
    # A setting with one value is the same in every point, so it is no part of their names.
    short = _short_names([key for key, row in grid.items() if len(row) > 1])
    points = []
    for row in itertools.product(*grid.values()):
        settings = dict(zip(grid, row, strict=True))
        name = ",".join(f"{word}={settings[key]}" for key, word in short.items())
        points.append(Point(_slug(name or "only"), settings))
    return points


def _short_names(keys: list[str]) -> dict[str, str]:
    """The last words of each setting, as many as tell it from the others."""
    words = {key: re.split(r"[.:]", key) for key in keys}
    for count in range(1, 20):
        short = {key: ".".join(parts[-count:]) for key, parts in words.items()}
        if len(set(short.values())) == len(keys):
            return short
    return {key: key for key in keys}


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.,=_-]+", "-", name)


def write_settings(root: Path, settings: Mapping[str, Any]) -> None:
    """Write `settings` into the YAML files of a clone, keeping their comments and order.

    Raises: RebuildError when a file, or the section a setting belongs to, does not exist.
    """
    for place, value in settings.items():
        file, _, dotted = place.partition(":")
        *sections, last = dotted.split(".")
        yaml = YAML()
        yaml.preserve_quotes = True
        yaml.width = 4096  # never fold a long line that was one line before
        path = root / file
        if not path.exists():
            raise RebuildError(f"{place}: there is no {file}.\nName a file of settings of this commit.")
        content = yaml.load(path)
        inner = content
        for section in sections:
            if not isinstance(inner, dict) or section not in inner:
                raise RebuildError(f"{place}: {file} has no section {section!r}.\nCheck the setting's spelling.")
            inner = inner[section]
        if inner.get(last) != value:
            inner[last] = value
            yaml.dump(content, path)
