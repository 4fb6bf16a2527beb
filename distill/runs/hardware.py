"""The half of a profile that fits the machine."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, field_validator

from distill.project.settings import Settings


class HardwareSettings(Settings):
    """What fits the machine and changes no result beyond rounding; never tracked by DVC."""

    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads; null leaves torch's own choice. Rounding depends on it."""
    micro_batch: Annotated[int, Field(ge=1)] = 8
    """Sequences a forward and backward pass; accumulation fills the global batch."""
    decode_batch: Annotated[int, Field(ge=1)] = 64
    """Prompts decoded at once."""
    cache_teacher: bool = True
    """Keep the teacher's hidden states of all training rows in memory instead of running it every epoch."""
    save_every: Annotated[int, Field(ge=1)] = 200
    """Optimiser steps between two stored states of an unfinished run."""
    on_collapse: Literal["stop", "warn", "ignore"] = "stop"
    """When MiniLLM's reverse KL explodes or its answers or entropy collapse (`distill/minillm/collapse.py`). What a
    run comes to is the same where it comes to anything; a loss or gradient that is not finite always stops it."""
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Trackers that show a run's curves while it is under way (docs/trackers.md); DVC keeps the curves anyway."""

    @field_validator("report_to")
    @classmethod
    def _installed(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if find_spec(name) is None:
                wanted = "-e '.[trackers]' -c constraints.txt" if name == "tensorboard" else name
                raise ValueError(f"`{name}` is not installed here; run `.venv/bin/pip install {wanted}` or leave it out")
        return names
