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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.errors import RebuildError
from tasks.point_settings import place_fault

_LONGEST = 200
"""Characters of a sweep's and a point's name together; file systems take 255 in one name, and git adds some."""
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
    except (OSError, YAMLError, ValueError, RecursionError) as error:
        raise RebuildError(f"{path} cannot be read: {error}\nSee tasks/grid.py for an example.") from error
    faults = list(_faults(content)) if isinstance(content, dict) else ["it must hold keys and values"]
    if not faults:
        grid, named = content.get("grid") or {}, content.get("points") or {}
        points = _combinations(grid) if grid else []
        names = [(point.name, point.name) for point in points] + [(str(name), _slug(str(name))) for name in named]
        points += [Point(_slug(str(name)), settings) for name, settings in named.items()]
        faults = list(_name_faults(path.stem, names))
    if faults:
        raise RebuildError("\n".join([f"{path} is not a sweep:", *faults, "See tasks/grid.py for an example."]))
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
    yield from filter(None, map(place_fault, dict.fromkeys(settings)))
    if not grid and not named:
        yield "neither `grid` nor `points` is given"


def _name_faults(sweep: str, points: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Names that cannot be a folder, a branch and an experiment, each of its own, also where letter case is ignored.

    `points` are the names as given and as slugs.
    """
    if _slug(sweep) != sweep or not _is_name(sweep):
        yield f"{sweep!r} cannot be a sweep's name: call the file by letters, digits and -"
    takers: dict[str, list[str]] = {}
    for given, slug in points:
        takers.setdefault(slug.lower(), []).append(given)
        if not _is_name(slug):
            yield f"a point cannot be called {given!r}: give it another name under `points`, of letters, digits and -"
        elif len(f"{sweep}-{slug}") > _LONGEST:
            yield f"the name of point {given[:40]}… is too long: give it a shorter one under `points`"
    yield from (
        f"points {', '.join(map(repr, names))} would share the name {slug}: give each its own, or leave one out"
        for slug, names in takers.items()
        if len(names) > 1
    )


def _is_name(slug: str) -> bool:
    """Whether git takes a slug as the last part of a branch's name; this also rules out `.` and `..`."""
    return bool(slug) and ".." not in slug and not slug.startswith((".", "-")) and not slug.endswith((".", ".lock"))


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
    """A name fit for a folder and a branch: other characters become one dash."""
    return re.sub(r"[^A-Za-z0-9.,=_-]+", "-", name)
