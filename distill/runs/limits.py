"""Limits on the training rows of teacher and students.

A module of its own, because training reads no other part of the data's settings.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from distill.project.settings import Settings


class RowLimits(Settings):
    """Numbers of first rows of `train.parquet`; null takes all."""

    teacher: Annotated[int, Field(ge=1)] | None = None
    """Rows the teacher is fine-tuned on."""
    student: Annotated[int, Field(ge=1)] | None = None
    """Rows the students are trained on and prompts they are distilled with."""
