"""The speed of this machine, measured for at most twenty seconds on models as wide as the ones to be trained.

The models have few layers and random weights. Measured are pieces that add up to a stage: layers and head in training,
the reading of prompts, the steps of a decode. A piece grows until it takes its share of the time, or is as large as in
the stage. On a CPU the clock is the process's own CPU time, divided by its threads: other work on the machine does not
count, so the seconds are those of free cores.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from distill.generation.decode import sample_responses
from distill.models.parts import backbone, head, precise
from distill.preflight.lengths import Lengths
from distill.preflight.shapes import Shape
from distill.preflight.small_models import random_model, shrunk
from distill.preflight.workload import Batches, Units

SECONDS = 20.0
"""The limit of all measurements together, by the clock on the wall."""
_NEW_TOKENS = 4
_LONGEST = 512
_FIRST_TOKENS = 128
_HEAD_TOKENS = 512
_SAMPLED_ROWS = 512
_READ_ROWS, _BRIEF = 16, 8
_GROWTH, _TIMES = 4, 4
# Bytes that are read from memory in a second.
_CPU_READS, _GPU_READS = 8e9, 1e12
# Seconds of an optimiser's step, a parameter, where no time is left to measure it.
_UPDATE = 8e-9
# What the Trainer does beside the passes in a step, in seconds of one core.
_OVERHEAD = 0.004

Tell = Callable[[str], None]
T = TypeVar("T")


def calibrate(
    shapes: Mapping[str, Shape],
    lengths: Lengths,
    batches: Batches,
    threads: int | None = None,
    dtype: str = "float32",
    seconds: float | None = None,
    tell: Tell = lambda text: None,
) -> dict[str, Units]:
    """Train and sample with a small model like each of `shapes`: name → seconds a unit.

    Each is measured by itself, because a wide model does more operations a second than a narrow one. `seconds` is the
    limit by the wall clock (`SECONDS`); `tell` gets a line about each piece before it is measured.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    small = {name: shrunk(shape) for name, shape in shapes.items()}
    distinct = list(dict.fromkeys(small.values()))
    end = time.monotonic() + (SECONDS if seconds is None else seconds)
    found: dict[Shape, _Pieces] = {}
    for number, shape in enumerate(distinct):
        share = (end - time.monotonic()) / (len(distinct) - number)
        names = " and ".join(name for name, each in small.items() if each == shape)
        bench = _Bench(shape, lengths, batches, dtype, time.monotonic() + share)
        found[shape] = bench.pieces(partial(_told, tell, names))
    return {name: found[small[name]].prices(shape, small[name], bench.length) for name, shape in shapes.items()}


def _told(tell: Tell, names: str, what: str) -> None:
    tell(f"measuring this machine: {names}, {what}")


@dataclass(frozen=True)
class _Pieces:
    """What was measured of a small model, in seconds."""

    trained: float
    learnt: float
    read: float
    layers: tuple[float, float]
    """Of a step in the layers, and of each row in it."""
    beside: tuple[float, float]
    """The same of head and draw."""
    update: float
    """Of a parameter."""

    def prices(self, shape: Shape, small: Shape, length: int) -> Units:
        """Seconds a unit of the model of this `shape`, of which the `small` one was measured."""
        whole, part = (s.forward_operations(length / 2, head=False) for s in (shape, small))
        layers, head = whole / part, shape.embedding / small.embedding
        return Units(
            trained=self.trained * layers,
            learnt=self.learnt * head,
            read=self.read * layers,
            # A forward pass is a third of forward and backward.
            scored=self.learnt * head / 3,
            steps=self.layers[0] * layers + self.beside[0] * head,
            sampled=self.layers[1] * layers + self.beside[1] * head,
            updates=self.update * shape.parameters + _OVERHEAD,
        )


@dataclass
class _Bench:
    """A small model, and the time until which it may be measured."""

    shape: Shape
    lengths: Lengths
    batches: Batches
    dtype: str
    end: float

    def __post_init__(self) -> None:
        longest = min(self.shape.positions, _LONGEST)
        self.length = max(2, min(round(self.lengths.padded_row(self.batches.micro, self.batches.micro)), longest))
        whole = self.lengths.prompt + self.lengths.generated / 2
        self.context = max(1, min(round(whole), longest - _NEW_TOKENS))
        self.model = random_model(self.shape, longest + _NEW_TOKENS, getattr(torch, self.dtype))
        self.until = self.end

    def pieces(self, tell: Tell) -> _Pieces:
        """Measure all pieces, each in its share of the time that is left."""

        def shared(parts: int, name: str) -> None:
            tell(name)
            self.until = time.monotonic() + max(0.0, self.end - time.monotonic()) / parts

        shared(3, "the layers in training")
        trained = self._train_layers()
        shared(3, "the head in training")
        learnt = self._train_head()
        shared(1, "sampling")
        read, layers, beside = self._sample()
        return _Pieces(trained, learnt, read, layers, beside, self._update())

    def _grown(
        self, sizes: list[int], work: Callable[[int], T], share: float = 1.0, power: float = 1.0
    ) -> Iterator[tuple[int, T]]:
        """Call `work` with growing sizes until this `share` of the piece's time is over; the last size a few times.

        Its time is expected to grow as size ** `power`.
        """
        until = time.monotonic() + share * (self.until - time.monotonic())
        place, again = 0, 0
        first = work(sizes[0])  # warms up
        if time.monotonic() > until:
            yield sizes[0], first
            return
        while True:
            began = time.monotonic()
            yield sizes[place], work(sizes[place])
            took = time.monotonic() - began
            if place + 1 < len(sizes) and began + took * (1 + (sizes[place + 1] / sizes[place]) ** power) < until:
                place += 1
                continue
            again += 1
            if again >= _TIMES or time.monotonic() + took > until:
                return

    def _train_layers(self) -> float:
        """Seconds a token, forward and backward through the small model's layers."""
        shortest = min(self.length, _FIRST_TOKENS)
        rows = _powers(1, self.batches.micro)
        sizes = dict.fromkeys([shortest, *(row * self.length for row in rows)])

        def work(tokens: int) -> float:
            shape = (1, tokens) if tokens < self.length else (tokens // self.length, self.length)
            fed = torch.randn(*shape, self.shape.hidden, device=self.model.device, dtype=self.model.dtype)
            fed.requires_grad_()

            def run() -> None:
                backbone(self.model)(inputs_embeds=fed, use_cache=False).last_hidden_state.sum().backward()

            return _timed(run) / tokens

        return _best(self._grown(list(sizes), work))

    def _train_head(self) -> float:
        """Seconds a token, forward and backward through head and loss."""

        def work(tokens: int) -> float:
            hidden = torch.randn(tokens, self.shape.hidden, device=self.model.device, dtype=self.model.dtype)
            hidden.requires_grad_()

            def run() -> None:
                precise(head(self.model)(hidden)).log_softmax(-1)[:, 0].sum().backward()

            return _timed(run) / tokens

        # As many tokens as a micro-batch has; own samples take them in chunks.
        most = max(16, min(_HEAD_TOKENS, round(self.batches.micro * self.lengths.response)))
        return _best(self._grown(_powers(min(most, _FIRST_TOKENS), most), work))

    @torch.no_grad()
    def _sample(self) -> tuple[float, tuple[float, float], tuple[float, float]]:
        """Seconds a prompt token in the layers; those of a step and of a row in it, in the layers and beside them."""
        self.model.eval()
        most = min(self.batches.decode, _SAMPLED_ROWS)
        long = _least(
            self._grown(_powers(1, min(most, _READ_ROWS)), lambda rows: self._decoded(rows, self.context), 0.5)
        )
        # Reading prompts takes most of a decode's time: steps of many rows are measured after short ones.
        brief = min(self.context, _BRIEF)
        short = _least(self._grown(_powers(1, most), lambda rows: self._decoded(rows, brief), power=0.5))
        body, rest = (_line({rows: times[place] for rows, times in short.items()}) for place in (1, 2))
        rows = max(long)
        # What a longer context costs, each row has to pay: at least the reading of its keys and values, which for few
        # rows lie in the processor's own caches.
        kept = self.shape.cache * self.context * self.model.dtype.itemsize
        context = kept / (_GPU_READS if torch.cuda.is_available() else _CPU_READS)
        if rows >= _GROWTH:
            context = max(context, (long[rows][1] - body[0] - body[1] * rows) / rows)
        return long[rows][0], (body[0], body[1] + context), rest

    def _decoded(self, rows: int, context: int) -> tuple[float, float, float]:
        """Seconds a prompt token, and of one step of `rows` rows in the layers and beside them."""
        clock = _Clock(self.model)
        prompts = [[1] * context] * rows
        keys = list(range(rows))
        sample_responses(
            self.model, prompts, keys, max_new_tokens=_NEW_TOKENS, eos_id=-1, batch_size=rows, keep="own states"
        )
        clock.close()
        # The last calls are the steps; those before them read the prompts.
        reads, steps = clock.calls[: 1 - _NEW_TOKENS], clock.calls[1 - _NEW_TOKENS :]
        return (
            sum(call.inside for call in reads) / (rows * context),
            min(call.inside for call in steps),
            min(call.before for call in steps),
        )

    def _update(self) -> float:
        """Seconds of an optimiser's step, a parameter."""
        if time.monotonic() > self.end:
            return _UPDATE
        trained = [p for p in self.model.parameters() if p.grad is not None]
        optimiser = torch.optim.AdamW(trained, lr=1e-6)
        return min(_timed(lambda: optimiser.step()) for _ in range(2)) / sum(p.numel() for p in trained)


@dataclass
class _Call:
    """One call of a backbone."""

    inside: float
    before: float
    """Seconds since the call before ended."""


class _Clock:
    """The seconds in the calls of a model's backbone and between them."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.calls: list[_Call] = []
        self.began = self.ended = _now()
        part = backbone(model)
        self.hooks = [
            part.register_forward_pre_hook(self._before),
            part.register_forward_hook(self._after),
        ]

    def close(self) -> None:
        """Leave the model as it was."""
        for hook in self.hooks:
            hook.remove()

    def _before(self, part: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.began = _now()

    def _after(self, part: nn.Module, inputs: tuple[Any, ...], out: Any) -> None:
        now = _now()
        self.calls.append(_Call(now - self.began, self.began - self.ended))
        self.ended = now


def _now() -> float:
    """Seconds of the clock that counts."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def _timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = _now()
    work()
    return _now() - began


def _least(measured: Iterator[tuple[int, tuple[float, ...]]]) -> dict[int, tuple[float, ...]]:
    """The smallest times of each size: what disturbs only adds."""
    found: dict[int, tuple[float, ...]] = {}
    for size, times in measured:
        found[size] = tuple(map(min, zip(times, found.get(size, times), strict=True)))
    return found


def _best(measured: Iterator[tuple[int, float]]) -> float:
    """The smallest time at the largest size."""
    found = _least((size, (seconds,)) for size, seconds in measured)
    return found[max(found)][0]


def _line(times: Mapping[int, float]) -> tuple[float, float]:
    """Seconds of a step, and of each row in it: through the fewest and the most rows measured."""
    few, many = min(times), max(times)
    if few == many:
        return 0.0, times[many] / many
    row = max(0.0, (times[many] - times[few]) / (many - few))
    return max(0.0, times[many] - row * many), row


def _powers(first: int, most: int) -> list[int]:
    """`first`, four times that and so on, and at last `most`."""
    grown = itertools.takewhile(lambda size: size < most, (first * _GROWTH**i for i in itertools.count()))
    return [*grown, most]
