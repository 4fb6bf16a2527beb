"""DeepSpeed's ZeRO under the same losses and the same AdamW: what each process need not hold whole.

    stage 0  nothing is divided      1  AdamW's moments      2  and the gradients      3  and the weights

DeepSpeed is imported here alone, and only when a profile asks for it: its first use compiles a small extension
(about a minute; needs g++ and ninja).
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.models.parts import head
from distill.parallel.engine import MOMENTS, AdamWSettings, Named
from distill.parallel.processes import Processes, device
from distill.project.errors import TrainingError
from distill.runs.hardware import HardwareSettings

# Weights gathered at once while a whole copy is made, so that not all of them lie twice on one device.
_GATHERED_TOGETHER = 16


def zero_config(
    hardware: HardwareSettings, dtype: torch.dtype, micro_batch: int, max_grad_norm: float
) -> dict[str, Any]:
    """DeepSpeed's configuration for a training stage."""
    stage = hardware.zero_stage
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "contiguous_gradients": True}
    if hardware.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if hardware.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        # Everything is divided: small weights kept whole would only hide a mistake in small tests.
        zero["stage3_param_persistence_threshold"] = 0
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_clipping": max_grad_norm,
        "zero_optimization": zero,
        # torch's AdamW: DeepSpeed's own are compiled for minutes and round differently.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": sys.maxsize,
    }
    if dtype == torch.bfloat16:
        # Added in float32: a sum in bfloat16 loses a micro-batch's small gradients.
        config |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    return config


def load_deepspeed() -> Any:
    """The library, quiet, and able to compile its extension in an environment that was not activated.

    Raises: TrainingError where there is no compiler.
    """
    bin_folder = str(Path(sys.executable).parent)  # where its ninja is
    if bin_folder not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}"
    # It calls functions that torch has since renamed, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if shutil.which("g++") is None or shutil.which("ninja") is None:
        raise TrainingError(
            "DeepSpeed compiles a small extension and finds no g++ or no ninja on PATH; install them "
            "(apt-get install g++, pip install ninja) or set `hardware.zero_stage: null`"
        )
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo")
    return deepspeed


class ZeroEngine:
    """One run's model under `deepspeed.initialize`; see `distill.parallel.engine.Engine` for what each method is."""

    def __init__(
        self,
        student: PreTrainedModel,
        losses: Callable[[PreTrainedModel], nn.Module],
        settings: AdamWSettings,
        hardware: HardwareSettings,
        processes: Processes,
    ) -> None:
        """`losses` makes the module that is trained from the model it computes them on.

        At stage 3 that is a copy, which DeepSpeed divides, and `student` stays an ordinary model without weights.
        """
        self.deepspeed = load_deepspeed()
        self.student, self.processes, self.stage = student, processes, hardware.zero_stage
        # From stage 2 on the backward pass itself exchanges gradients: one that fails leaves the others waiting.
        self.is_divided = (self.stage or 0) >= 2
        self.norm = 0.0
        inner = student
        if self.stage == 3:
            # Two models: DeepSpeed's hooks gather each layer anew at every decoded token, the plain one is filled once.
            inner = copy.deepcopy(student)
            _empty(student)
        self.inner = inner
        module = losses(inner)
        optimiser = settings.over(module.parameters())
        clip = settings.max_grad_norm
        if self.stage == 0:
            # There DeepSpeed clips without telling the norm.
            optimiser.register_step_pre_hook(lambda *_: self._clip(settings.max_grad_norm))
            clip = 0.0
        # 1 is nominal: micro-batches differ in size, and the tokens' weights carry the mean.
        config = zero_config(hardware, inner.dtype, 1, clip)
        config["managed_gradient_accumulation"] = False  # the loop knows when an update is complete
        self.trained, *_ = self.deepspeed.initialize(model=module, optimizer=optimiser, config=config)
        self._state = ZeroState(self.trained, inner, self.stage or 0)
        if self.stage == 3:
            # The head's weight is used beside its module's own forward, chunk by chunk.
            for parameter in head(inner).parameters():
                self.deepspeed.zero.register_external_parameter(module, parameter)

    def backward(self, loss: Tensor) -> None:
        """DeepSpeed means over processes; ours are parts of one sum."""
        # Times the count, which the mean divides out. No scaling by accumulation: the weights hold it.
        self.trained.backward(loss * self.processes.count, scale_wrt_gas=False)

    def step(self, learning_rate: float, check: Callable[[float], None]) -> float:
        """The norm is known after the update only: a run that `check` ends stores nothing of it."""
        for group in self.trained.optimizer.param_groups:
            group["lr"] = learning_rate
        self.trained.step()
        if self.stage:
            self.norm = float(self.trained.get_global_grad_norm())
        check(self.norm)
        return self.norm

    def _clip(self, most: float) -> None:
        self.norm = float(torch.nn.utils.clip_grad_norm_(self.inner.parameters(), most))

    def forget(self) -> None:
        """Only where gradients are not divided yet."""
        self.trained.zero_grad()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """At stage 3 every process fills its copy, and empties it again."""
        if self.stage != 3:
            yield
            return
        with _filled(self.student, self.inner):
            yield

    def weights(self) -> Named:
        """In float32 where that is what AdamW updates."""
        return self._kept(self._state.weights())

    def moments(self) -> Named:
        """See `Engine`."""
        return self._kept(self._state.moments())

    def _kept(self, named: Iterator[tuple[str, Tensor]]) -> Named:
        """All processes put tensors together, the first keeps them."""
        # Not skipped on the others: each step of the iterator gathers, and waits for all of them. Copies, since a
        # value on a CPU may be the live one.
        return {name: value.clone() for name, value in named if self.processes.is_first}

    def restore(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        """See `Engine`; every process reads the same stored state."""
        self._state.restore(weights, moments)

    def finish(self, weights: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        if self.processes.is_first:
            for name, parameter in self.student.named_parameters():
                parameter.data = weights[name].to(device(), parameter.dtype)


class ZeroState:
    """Of a model under `deepspeed.initialize`: whole, whatever its processes divide.

    See `distill.parallel.engine.TrainedState`.
    """

    def __init__(self, trained: Any, model: nn.Module, stage: int) -> None:
        """`trained` is DeepSpeed's engine, `model` what it divides at this ZeRO `stage`."""
        self.trained, self.model, self.stage = trained, model, stage
        self.deepspeed = load_deepspeed()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """In float32 where that is what AdamW updates."""
        return self._collected(None)

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """AdamW's step is one number for all."""
        states = self._states()
        if not states or not next(iter(states.values())):
            return
        self._link_states()
        # All parameters step together, so that any one's count is everyone's.
        step = torch.as_tensor(next(iter(states.values()))["step"]).cpu()
        for key in MOMENTS[1:]:
            for name, value in self._collected(key):
                yield f"{name}/{key}", value
        for name, _ in self.model.named_parameters():
            yield f"{name}/step", step.clone()

    def restore(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        """Every process reads the same stored state."""
        tensors = self.deepspeed.utils
        for name, parameter in self.model.named_parameters():
            value = weights[name]
            # The first process's writing is what goes back into the pieces.
            with self.deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self.stage == 3):
                parameter.data.copy_(value)
            if self.stage:
                # AdamW updates this copy: left as it was, the first step would bring the old weights back.
                tensors.safe_set_full_fp32_param(parameter, value.float().to(device()))
        if not moments:
            return
        # Before the values: a run that has made no step has no moments to write into.
        self._make_states(next(moments[name] for name in moments if name.endswith("/step")))
        for name, parameter in self.model.named_parameters():
            for key in MOMENTS[1:]:
                value = moments[f"{name}/{key}"]
                if self.stage:
                    tensors.safe_set_full_optimizer_state(parameter, value.to(device()), key)
                else:
                    self._states()[parameter][key].copy_(value)

    def _collected(self, key: str | None) -> Iterator[tuple[str, Tensor]]:
        """Every parameter, or its moment `key`, put together."""
        tensors = self.deepspeed.utils
        for name, parameter in self.model.named_parameters():
            if not self.stage:
                value = parameter.detach() if key is None else self._states()[parameter][key]
            elif key is None:
                value = tensors.safe_get_full_fp32_param(parameter)
            else:
                value = tensors.safe_get_full_optimizer_state(parameter, key)
            yield name, value.detach().cpu()

    def _states(self) -> dict[Any, dict[str, Any]]:
        """AdamW's own states: of parameters at stage 0, of flat pieces of them above."""
        optimiser = self.trained.optimizer
        return cast(dict[Any, dict[str, Any]], (optimiser.optimizer if self.stage else optimiser).state)

    def _make_states(self, step: Tensor) -> None:
        """Moments of zero for every piece, as AdamW makes them at its first step."""
        optimiser = self.trained.optimizer
        if not self.stage:
            pieces = list(self.model.parameters())
        elif self.stage == 3:
            pieces = optimiser.fp32_partitioned_groups_flat
        elif self.stage == 1 and next(self.model.parameters()).dtype == torch.bfloat16:
            # DeepSpeed has another optimizer for this.
            pieces = optimiser.fp32_groups_flat_partition
        else:
            pieces = optimiser.single_partition_of_fp32_groups
        for piece in pieces:
            self._states()[piece] = {
                "step": step.clone(),
                "exp_avg": torch.zeros_like(piece),
                "exp_avg_sq": torch.zeros_like(piece),
            }
        self._link_states()

    def _link_states(self) -> None:
        """Let DeepSpeed find the moments of each parameter: it looks once, when the first of its groups has any."""
        if self.stage in (1, 2):
            self.trained.optimizer._hp_optimizer_states_linked = False
            self.trained.optimizer._lazy_init_hp_params_optimizer_state()


@contextmanager
def divided(model: PreTrainedModel) -> Iterator[tuple[PreTrainedModel, Callable[[], Any]]]:
    """A copy of `model` for DeepSpeed to divide, and how to have `model` whole meanwhile; in the end it is."""
    inner = copy.deepcopy(model)
    _empty(model)
    yield inner, lambda: _filled(model, inner)
    _fill(model, inner)


@contextmanager
def _filled(model: PreTrainedModel, inner: PreTrainedModel) -> Iterator[PreTrainedModel]:
    _fill(model, inner)
    try:
        yield model
    finally:
        _empty(model)


def _fill(model: nn.Module, inner: nn.Module) -> None:
    """Copy divided weights, whole, into the model that was made `_empty`; all processes do."""
    gathered = load_deepspeed().zero.GatheredParameters
    pairs = list(zip(model.parameters(), inner.parameters(), strict=True))
    for start in range(0, len(pairs), _GATHERED_TOGETHER):
        some = pairs[start : start + _GATHERED_TOGETHER]
        with gathered([theirs for _, theirs in some]):
            for mine, theirs in some:
                # A copy: the gathered weights are freed where the block ends.
                mine.data = theirs.detach().to(device(), copy=True)


def _empty(model: nn.Module) -> None:
    """Free a model's weights; it keeps its shape otherwise, and takes them back."""
    for parameter in model.parameters():
        parameter.data = parameter.data.new_empty(0)
    # Buffers keep their values, and go where the weights will be filled in.
    nn.Module.to(model, device())
