"""Supervised training in the Trainer's own words: its arguments, from the recipe and the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from distill.parallel.processes import Processes
from distill.project.errors import TrainingError
from distill.runs.hardware import HardwareSettings
from distill.training.settings import SupervisedSettings


def training_arguments(
    settings: SupervisedSettings,
    hardware: HardwareSettings,
    scratch: Path,
    seed: int,
    steps_an_epoch: int,
    validated: bool,
    processes: Processes,
    dtype: torch.dtype,
) -> TrainingArguments:
    """Arguments that fill the global batch by accumulation, whatever the machine.

    Raises: TrainingError when the batch cannot be divided as the machine wants it.
    """
    micro = hardware.largest_micro_batch(settings.batch_size // processes.count)
    if not micro or settings.batch_size % (micro * processes.count):
        raise TrainingError(
            f"`batch_size` {settings.batch_size} is not a multiple of micro_batch {micro} x {processes.count} "
            "processes; change `hardware.micro_batch`"
        )
    every = settings.evaluate_every * steps_an_epoch
    kept: dict[str, Any] = {"eval_strategy": "no", "save_strategy": "no"}
    if validated:
        kept = {
            "eval_strategy": "steps",
            "eval_steps": every,
            "save_strategy": "steps",
            "save_steps": every,
            "load_best_model_at_end": True,
            # Which is the best says `SupervisedTrainer`; the Trainer wants a name here all the same.
            "metric_for_best_model": f"eval_{settings.select}",
        }
    accumulated = settings.batch_size // (micro * processes.count)
    # At stage 0 DeepSpeed clips without telling the norm: there `SupervisedTrainer` clips itself.
    clip = 0.0 if hardware.zero_stage == 0 else settings.max_grad_norm
    if hardware.zero_stage is not None:
        from distill.parallel.zero import load_deepspeed, zero_config

        load_deepspeed()
        config = zero_config(hardware, dtype, micro, clip)
        kept["deepspeed"] = config | {"gradient_accumulation_steps": accumulated}
        kept["bf16"] = dtype == torch.bfloat16
    if hardware.gradient_checkpointing:
        kept |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    arguments = TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulated,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        # As a share of the peak, because DeepSpeed's optimizer does not tell the scheduler what that is.
        lr_scheduler_kwargs={"min_lr_rate": min(settings.min_learning_rate / settings.learning_rate, 1.0)},
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=clip,
        optim="adamw_torch",
        seed=seed,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        log_level="error",
        log_level_replica="error",  # or all processes but the first would give advice
        **kept,
    )
    if processes.count == 1 and arguments.n_gpu > 1:
        arguments._n_gpu = 1  # or the Trainer would divide each batch over all GPUs it sees, in threads
    return arguments
