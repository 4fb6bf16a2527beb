"""AdamW over one process's whole model, or over copies of it in several processes whose gradients are summed.

`ZeroEngine` in `zero.py` does the same with DeepSpeed, which divides state, gradients or weights between processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distill.models.lora import trainable
from distill.parallel.processes import ALONE, Processes

Named = dict[str, Tensor]
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class AdamWSettings:
    """What an engine needs to know of the recipe."""

    learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    max_grad_norm: float

    def over(self, parameters: Any) -> torch.optim.AdamW:
        """The AdamW of torch itself, whose rounding is the same everywhere, and which needs no compiler."""
        return torch.optim.AdamW(
            parameters, lr=self.learning_rate, betas=self.betas, eps=1e-8, weight_decay=self.weight_decay
        )


class TrainedState(Protocol):
    """What a training goes on from, whole, whatever the processes divide: the same for any number of them.

    Every process calls a method and goes through what it gives, tensors on the CPU; those of all but the first process
    may be empty.
    """

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """What is trained, by the model's own names, in the precision it is trained in."""

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """AdamW's state as `<parameter>/<key>`; nothing before its first step."""

    def restore(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        """Take back what they gave; without `moments` the weights alone."""


class PlainState:
    """Of a model that each process holds whole."""

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """`optimiser` updates `model`, or its adapter."""
        self.model, self.optimiser = model, optimiser

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `TrainedState`."""
        # No copy on a CPU: whoever keeps them past the next update has to make one.
        return ((name, parameter.detach().cpu()) for name, parameter in trainable(self.model).items())

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """See `TrainedState`."""
        for name, parameter in trainable(self.model).items():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                yield f"{name}/{key}", torch.as_tensor(value).cpu()

    def restore(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        """See `TrainedState`."""
        with torch.no_grad():
            for name, parameter in trainable(self.model).items():
                # In place: the optimiser and the losses hold these very tensors.
                parameter.copy_(weights[name])
                if f"{name}/step" in moments:
                    self.optimiser.state[parameter] = {
                        # A copy of its own: `moments` may be shared, and AdamW writes into it.
                        key: moments[f"{name}/{key}"].to("cpu" if key == "step" else parameter.device, copy=True)
                        for key in MOMENTS
                    }


class Engine(Protocol):
    """What trains a model. All its methods are called by every process at once."""

    processes: Processes
    trained: nn.Module
    """The losses as a module; calling it computes them on the weights that are trained."""
    is_divided: bool
    """Whether weights or gradients lie in pieces, so that a pass that failed in one process has failed in all."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this process's part of the loss; parts of all processes add up."""

    def step(self, learning_rate: float, check: Callable[[float], None]) -> float:
        """Clip, update and forget the gradients; their norm before clipping, which `check` has seen."""

    def forget(self) -> None:
        """Drop the gradients of an update that is begun again."""

    def whole(self) -> AbstractContextManager[None]:
        """Inside, the student holds all of its weights, for decoding, scoring and saving."""

    def weights(self) -> Named:
        """The student's weights in the precision they are trained in, on the CPU; empty but on the first process."""

    def moments(self) -> Named:
        """AdamW's state as `<parameter>/<key>`, on the CPU; empty but on the first process."""

    def restore(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        """Take back what `weights` and `moments` gave to a run of any number of processes."""

    def finish(self, weights: Mapping[str, Tensor]) -> None:
        """End training; on the first process the student then holds `weights`, whole."""


class PlainEngine:
    """Whole models, no library but torch."""

    is_divided = False

    def __init__(
        self, student: nn.Module, trained: nn.Module, settings: AdamWSettings, processes: Processes = ALONE
    ) -> None:
        """`trained` computes losses on `student`, which is updated in place."""
        self.student, self.trained, self.processes = student, trained, processes
        self.settings = settings
        self.optimiser = settings.over(trainable(student).values())  # all parameters, or a LoRA adapter's
        self._state = PlainState(student, self.optimiser)

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        loss.backward()

    def step(self, learning_rate: float, check: Callable[[float], None]) -> float:
        """See `Engine`."""
        for group in self.optimiser.param_groups:
            # From the step each time, so that no scheduler has a state to store.
            group["lr"] = learning_rate
        parameters = trainable(self.student).values()
        # Summed, not averaged: each loss already holds the divisor of the whole mini-batch.
        # Before the norm: clipping each part by itself would not clip their sum.
        for parameter in parameters:
            if parameter.grad is not None:
                self.processes.sum(parameter.grad)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm))
        # Before the update: a norm that is no number never reaches weights or moments.
        check(norm)
        self.optimiser.step()
        self.forget()
        return norm

    def forget(self) -> None:
        """See `Engine`."""
        # None, not zeros: the memory is free while responses are sampled.
        self.optimiser.zero_grad(set_to_none=True)

    def whole(self) -> AbstractContextManager[None]:
        """See `Engine`: it always is."""
        return nullcontext()

    def weights(self) -> Named:
        """See `Engine`."""
        return dict(self._state.weights()) if self.processes.is_first else {}

    def moments(self) -> Named:
        """See `Engine`."""
        return dict(self._state.moments()) if self.processes.is_first else {}

    def restore(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        self._state.restore(weights, moments)

    def finish(self, weights: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        if self.processes.is_first:
            # Not strict: with an adapter the frozen base is absent, and a tied head stands there once.
            self.student.load_state_dict(weights, strict=False)
