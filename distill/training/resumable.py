"""transformers' Trainer with stored states of ours in place of its own, which are pickles, one set a process.

What `distill/training/unfinished.py` writes holds no code and can be taken up by another number of processes or another
ZeRO stage.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer

from distill.parallel.engine import PlainState, TrainedState
from distill.parallel.processes import ALONE, Processes
from distill.training.unfinished import checkpoint_folder, store, stored


class ResumableTrainer(Trainer):
    """See above; the loop, the schedule and when to store are the Trainer's."""

    processes: Processes = ALONE

    def _trained_state(self) -> TrainedState:
        assert self.model is not None
        if not self.is_deepspeed_enabled:
            assert self.optimizer is not None
            return PlainState(self.model, self.optimizer)
        from distill.parallel.zero import ZeroState

        engine: Any = self.model_wrapped
        return ZeroState(engine, self.model, engine.zero_optimization_stage())

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        scratch, state = Path(str(self.args.output_dir)), self._trained_state()
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(checkpoint_folder(scratch, self.state.best_global_step))
        if self.is_world_process_zero():
            store(scratch, self.state, state.weights(), state.moments())
        else:  # they take part in putting together what is divided
            deque(chain(state.weights(), state.moments()), maxlen=0)
        self.processes.wait()  # or one that ends now would have the writer ended with it

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)  # type: ignore[no-untyped-call]
        if resume_from_checkpoint is not None:
            self._trained_state().restore(*stored(Path(resume_from_checkpoint)))
            _set_step(self.lr_scheduler, self.state.global_step)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Nothing: the above has done it."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing: the draws of a step are keyed by it."""

    def _load_best_model(self) -> None:
        weights, _ = stored(Path(str(self.state.best_model_checkpoint)))
        self._trained_state().restore(weights, {})


def _set_step(scheduler: Any, step: int) -> None:
    """Let a new scheduler stand where it stood after `step` updates: its rates follow from the step alone."""
    rates = [base * function(step) for base, function in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    scheduler.last_epoch, scheduler._step_count, scheduler._last_lr = step, step + 1, rates
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
