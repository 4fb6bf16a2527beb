"""The files of results/ and analyses/, read back: each has the shape that `stages.results` gives it, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.project.files import damaged, read_json

_SCORES = ("rouge_l", "exact_match", "reverse_kl", "judge")
"""Metrics that tables and cards read by name."""
_PARTS = ("models", "metrics", "significance", "exposure", "calibration", "lengths")


def read_metrics(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Model → set or analysis → metric, from results/<student>.json. Raises: DataError that names what is wrong."""
    content: dict[str, dict[str, dict[str, Any]]] = read_json(path)
    _refuse(path, _metric_faults(content))
    return content


def read_verdicts(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Reference → model → set → comparison, from results/<student>.significance.json. Raises: DataError."""
    content: dict[str, dict[str, dict[str, Any]]] = read_json(path)
    _refuse(path, _not_mappings(content, depth=3))
    return content


def read_models(path: Path) -> dict[str, dict[str, Any]]:
    """Model → its `label` and `tokens`, from results/<student>.models.json. Raises: DataError."""
    content: dict[str, dict[str, Any]] = read_json(path)
    _refuse(path, _not_mappings(content, depth=1))
    _refuse(path, (f"{name}.label is no text" for name, each in content.items() if not _is_text(each.get("label"))))
    return content


def read_summary(path: Path) -> dict[str, Any]:
    """What the report draws of one student, from analyses/<student>/summary.json. Raises: DataError."""
    content: dict[str, Any] = read_json(path)
    _refuse(path, (f"{part} is no mapping" for part in _PARTS if not isinstance(content.get(part), dict)))
    _refuse(path, _metric_faults(content["metrics"]))
    _refuse(path, _not_mappings(content["significance"], depth=3))
    return content


def _refuse(path: Path, faults: Iterator[str]) -> None:
    if fault := next(faults, None):
        raise damaged(path, fault)


def _not_mappings(content: dict[str, Any], depth: int, place: str = "") -> Iterator[str]:
    """The places down to `depth` that hold something else than a mapping."""
    for name, each in content.items():
        if not isinstance(each, dict):
            yield f"{place}{name} is no mapping"
        elif depth > 1:
            yield from _not_mappings(each, depth - 1, f"{place}{name}.")


def _metric_faults(content: dict[str, Any]) -> Iterator[str]:
    yield from _not_mappings(content, depth=2)
    for model, parts in content.items():
        for part, metrics in parts.items():
            place = f"{model}.{part}"
            yield from (
                f"{place}.{name} is no mapping"
                for name in _SCORES
                if name in metrics and not isinstance(metrics[name], dict)
            )
            if "rouge_l" in metrics and "mean" not in metrics["rouge_l"]:
                yield f"{place}.rouge_l has no mean"
            yield from _number_faults(metrics, place)


def _number_faults(content: dict[str, Any], place: str) -> Iterator[str]:
    """Numbers and intervals, at any depth, that are something else."""
    for name, each in content.items():
        if isinstance(each, dict):
            yield from _number_faults(each, f"{place}.{name}")
        elif name == "mean" or (name == "std" and each is not None):
            if not _is_number(each):
                yield f"{place}.{name} is no number"
        elif name in ("ci95", "per_seed") and not _are_numbers(each, 2 if name == "ci95" else None):
            yield f"{place}.{name} holds other things than {'two ' if name == 'ci95' else ''}numbers"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(value: object, count: int | None) -> bool:
    return isinstance(value, list) and all(map(_is_number, value)) and count in (None, len(value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)
