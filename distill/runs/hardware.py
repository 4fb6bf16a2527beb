"""The `hardware` half of a profile: settings of the machine."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, field_validator

from distill.project.settings import Settings

# The first size to try with `micro_batch: auto` while no whole batch is known.
_FIRST_TRIED = 64


class TeacherHardware(Settings):
    """Placement of the teacher, which is only read."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of its weights; null takes the recipe's. Half precision rounds its distribution."""
    offload: bool = False
    """Keep it in the CPU's memory while the student is updated (MiniLLM)."""
    shard: bool = False
    """Divide its layers between the processes; each is put together while it computes (MiniLLM)."""


class HardwareSettings(Settings):
    """Settings of the machine, which change no result beyond rounding; DVC does not track them."""

    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads; null leaves torch's own choice. Rounding depends on it."""
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = 8
    """Sequences a forward and backward pass; accumulation fills the global batch. `auto` finds the most that fit."""
    decode_batch: Annotated[int, Field(ge=1)] = 64
    """Prompts decoded at once."""
    cache_teacher: bool = True
    """Keep the teacher's hidden states of all training rows in memory instead of running it every epoch."""
    save_every: Annotated[int, Field(ge=1)] = 200
    """Optimiser steps between two stored states of an unfinished run."""
    on_collapse: Literal["stop", "warn", "ignore"] = "stop"
    """Reaction to an explosion of MiniLLM's reverse KL or a collapse of its answers or entropy
    (`distill/on_policy/collapse.py`). A run that finishes gives the same weights under all three; a loss or gradient
    that is not finite always stops it."""
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Trackers that show a run's curves during the run (docs/trackers.md); DVC keeps the curves anyway."""

    processes: Annotated[int, Field(ge=1)] | Literal["devices", "slurm"] = 1
    """Processes of a training stage on this machine; `devices`: one for each visible GPU; `slurm`: one for each task of
    the Slurm allocation, on all its machines."""
    hostfile: str | None = None
    """File with a line `<host> slots=<processes>` for each machine; replaces `processes`."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port on which the processes meet, on the machine that starts the stage; null chooses a free one."""
    patience: Annotated[int, Field(ge=1)] = 1800
    """Seconds a process waits for the others in one exchange before the run ends."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    """DeepSpeed's ZeRO: divides moments (1), gradients (2), weights (3); null trains without DeepSpeed."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """Part of a divided student in the CPU's memory: AdamW's state, or the weights too (stage 3)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    teacher: TeacherHardware = TeacherHardware()
    """Placement of the teacher."""

    @field_validator("report_to")
    @classmethod
    def _installed(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if find_spec(name) is None:
                wanted = "-e '.[trackers]' -c constraints.txt" if name == "tensorboard" else name
                raise ValueError(
                    f"`{name}` is not installed here; run `.venv/bin/pip install {wanted}` or leave it out"
                )
        return names

    def in_one_process(self) -> HardwareSettings:
        """The same machine without DeepSpeed, for work that is too small to divide."""
        return self.model_copy(update={"processes": 1, "hostfile": None, "zero_stage": None, "offload": "none"})

    def largest_micro_batch(self, batch: int | None = None) -> int:
        """The first micro-batch to try, at most `batch`: a process's share of the global batch, if known."""
        if self.micro_batch == "auto":
            return batch or _FIRST_TRIED
        return self.micro_batch if batch is None else min(self.micro_batch, batch)
