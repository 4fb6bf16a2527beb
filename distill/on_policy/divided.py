"""A teacher divided between processes: each keeps a part of every layer, which is whole only while it computes.

So all processes take part in every pass of it, though they sample responses of their own: one whose responses are
done goes along with the others (`DividedTeacher.settle`). What a pass gives is the same to the bit, since weights are
put together as they were. Embeddings and output head stay whole everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel

from distill.models.parts import backbone
from distill.parallel.processes import Processes, device
from distill.project.errors import TrainingError
from distill.project.foreign import is_out_of_memory


class DividedTeacher:
    """Divides a teacher, in place, from here on."""

    def __init__(self, teacher: PreTrainedModel, processes: Processes) -> None:
        """`teacher`, whole and on any device, ends where this process computes; all processes do this."""
        inner = backbone(teacher)
        layers = list(_layers(inner))
        inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
        outside = {id(parameter) for parameter in teacher.parameters()} - inside
        for layer in layers:
            _DividedLayer(layer, processes, outside)
        nn.Module.to(teacher, device())
        # The forward as it was: a process that goes along with a pass must not announce one.
        self.processes, self.compute = processes, inner.forward
        inner.forward = self._together

    def settle(self) -> None:
        """Take part in the passes of the other processes until none of them wants another."""
        while self.processes.any(False):
            with torch.no_grad():
                # One token is the least that gathers each layer once; what it gives is of no use.
                self.compute(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device()), use_cache=False)

    def _together(self, *arguments: Any, **given: Any) -> Any:
        """A pass of the backbone, which is said to the other processes before it begins.

        Raises: TrainingError where memory does not suffice.
        """
        self.processes.any(True)
        try:
            return self.compute(*arguments, **given)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # The others are in the middle of this pass: it cannot be tried again in halves.
            raise TrainingError(
                "memory does not suffice for a pass of the divided teacher; lower `hardware.decode_batch`"
            ) from error


class _DividedLayer:
    """One layer: its weights as bytes, of which this process keeps its share."""

    def __init__(self, layer: nn.Module, processes: Processes, outside: set[int]) -> None:
        # The widest numbers first, so that each begins at a multiple of its width.
        own = [parameter for parameter in layer.parameters() if id(parameter) not in outside]
        self.parameters = sorted(own, key=lambda parameter: -parameter.element_size())
        self.shapes = [parameter.shape for parameter in self.parameters]
        parts = [parameter.detach().contiguous().flatten().view(torch.uint8) for parameter in self.parameters]
        self.ends = list(accumulate(map(len, parts)))
        self.processes = processes
        whole = torch.cat(parts)
        # Rounded up and filled with zeros, since all_gather wants equal pieces.
        share = -(-len(whole) // processes.count)
        whole = nn.functional.pad(whole, (0, share * processes.count - len(whole)))
        # A copy: a slice would keep the bytes of the whole layer in memory.
        self.mine = whole[processes.rank * share :][:share].to(device(), copy=True)
        self._drop()
        layer.register_forward_pre_hook(self._gather)
        # After an error too, or the layer would stay whole.
        layer.register_forward_hook(self._drop, always_call=True)

    def _gather(self, *_: Any) -> None:
        whole = self.mine.new_empty(len(self.mine) * self.processes.count)
        # The pieces are views of `whole`, so that the bytes arrive end to end and need no joining.
        dist.all_gather(list(whole.split(len(self.mine))), self.mine)
        for parameter, shape, end in zip(self.parameters, self.shapes, self.ends, strict=True):
            start = end - shape.numel() * parameter.element_size()
            parameter.data = whole[start:end].view(parameter.dtype).view(shape)

    def _drop(self, *_: Any) -> None:
        for parameter in self.parameters:
            parameter.data = parameter.data.new_empty(0)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that a model repeats, not the parts of them."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _layers(child)
