"""What results files, tables and charts call things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEACHER = "teacher"
REFERENCE_METHOD = "minillm"
"""The method that is compared with every other model."""

# Keys of a model in results/<student>.json that stand beside the names of its evaluation sets.
KL, EXPOSURE, CALIBRATION, LOSS, LENGTHS = "kl", "exposure", "calibration", "loss", "lengths"
RESERVED = (KL, EXPOSURE, CALIBRATION, LOSS, LENGTHS)


def label(model: str, meta: Mapping[str, Any] | None = None) -> str:
    """A model's name in tables: the one that its checkpoint's `meta` brings, else the name of its section."""
    return "Teacher" if model == TEACHER else str((meta or {}).get("label") or model)
