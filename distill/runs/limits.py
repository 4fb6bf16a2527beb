"""How much of the prepared training rows each model sees. Apart from the rest: training reads only this."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from distill.project.settings import Settings


class RowLimits(Settings):
    """The first so many rows of `train.parquet`, all of them where null."""

    teacher: Annotated[int, Field(ge=1)] | None = None
    """Rows the teacher is fine-tuned on."""
    student: Annotated[int, Field(ge=1)] | None = None
    """Rows the students are trained on and prompts they are distilled with."""
