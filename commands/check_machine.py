"""What `commands.check` says about the machine's half of a profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.on_policy.settings import OnPolicySettings
from distill.parallel.faults import batch_faults, machine_faults, micro_batch_faults
from distill.runs.hardware import HardwareSettings
from distill.training.settings import SupervisedSettings


def hardware_faults(hardware: HardwareSettings, dtype: str, sections: Mapping[str, Any]) -> list[str]:
    """What the machine's settings ask for and cannot be, for the training `sections` by their places."""
    lora = any(getattr(part, "lora", None) is not None for part in sections.values())
    if faults := machine_faults(hardware, dtype, lora):
        return faults  # those of batches would follow from them
    accumulated: dict[str, int] = {}
    divided: dict[str, int] = {}
    for place, settings in sections.items():
        if isinstance(settings, SupervisedSettings):
            accumulated[f"{place}.batch_size"] = settings.batch_size
        elif isinstance(settings, OnPolicySettings):
            divided[f"{place}.minibatch"] = settings.minibatch
            if settings.lm_coef:
                divided[f"{place}.lm_batch"] = settings.lm_batch
                for name in ("offload", "shard") if settings.lm_kd_ratio else ():
                    if getattr(hardware.teacher, name):
                        wants = f"wants the teacher in every update; use hardware.teacher.{name}: false"
                        faults.append(f"{place}.lm_kd_ratio {wants}")
    return faults + batch_faults(hardware, accumulated | divided) + micro_batch_faults(hardware, accumulated)
