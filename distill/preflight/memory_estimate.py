"""The peak memory of a training stage: a pure function of shapes and settings, without torch or a model.

A peak is the largest of a few moments: the end of a forward pass, the start and the end of a backward pass, the
optimiser's step, a decode, a validation. Each is a sum over the tensors held then. Lengths are those of the prepared
data, or else the limits of the prompt settings: the estimate is for the worst batch, which is the one that fails.

Tests compare it with the peak resident memory of fresh processes (docs/doctor.md). Not counted: on a GPU, the CUDA
context (about 0.5 GiB).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from distill.preflight.shapes import Shape

Parts = Mapping[str, float]
"""The memory held at one moment: name → bytes."""

Device = Literal["cpu", "cuda"]
Loss = Literal["rows", "rows, teacher", "own samples"]

FLOAT32 = 4
# A process that has imported torch, transformers and this project, before any model; measured on Linux.
LIBRARIES = 480 * 2**20
# Tensors [tokens, vocabulary] in float32 that are alive at once: (end of the forward pass, in the backward pass).
_LOGITS = {
    "rows": (2, 3),
    "rows, teacher": (7, 6),
    "own samples": (6, 4),
    "plain text": (2, 3),
    "plain text, teacher": (5, 5),
}
# The same for one decoded token of a row: of one model, of a mixture of two.
_DECODED = (5, 9)
# The workspace of a backward pass beside the kept activations, in tensors [tokens, ffn]; and the share of passing
# memory that the allocator cannot reuse. Both were fitted to the first three shapes of benchmarks/training_memory.py.
_WORKSPACE = 6
_SLACK = 0.15
# Tokens on which distill.losses.chunked_head runs the output heads at once.
_CHUNK = 512
# Logits that a loss without a gradient forms at once (`positions_at_once` of distill.models.parts).
_SCORED = 2**25
# Tokens whose logits the loss on an evaluation set's references forms at once (distill.evaluation.likelihood).
_POSITIONS = 2048
# Tokens of a prompt that distill.generation.cache reads at a time.
_READ = 1024


@dataclass(frozen=True)
class Placement:
    """The layout of a run on the machine: the estimate's view of `hardware`."""

    device: Device = "cpu"
    micro_batch: int = 8
    decode_batch: int = 64
    cache_teacher: bool = True
    processes: int = 1
    zero_stage: int = 0
    """ZeRO divides moments (1), gradients (2), weights (3) by the number of processes."""
    offload: Literal["none", "optimizer", "all"] = "none"
    gradient_checkpointing: bool = False
    teacher_offload: bool = False
    teacher_shard: bool = False
    """The teacher's layers are divided by the number of processes (own samples)."""

    def share(self, stage: int) -> float:
        """The share that one process holds of tensors which ZeRO divides from `stage` on."""
        return 1 / self.processes if self.zero_stage >= stage else 1.0


@dataclass(frozen=True)
class PlannedRun:
    """One training stage."""

    loss: Loss
    student: Shape
    teacher: Shape | None
    """None where the loss needs none."""
    batch: int
    """Sequences an optimiser step, over all processes."""
    prompt: int
    """Tokens of the longest prompt; of a row of `response` tokens where a limit is on both together."""
    response: int
    """Tokens of the longest response."""
    width: int = FLOAT32
    """Bytes of a number of the student."""
    teacher_width: int = FLOAT32
    rollouts: int = 0
    """Own samples: responses a collection."""
    plain_text: tuple[int, int] = (0, 0)
    """Own samples: sequences and tokens of each in L_PT."""
    plain_text_teacher: bool = False
    """L_PT mixes in the teacher's distribution."""
    cached_tokens: int = 0
    """Rows: response tokens whose teacher states are kept in the CPU's memory."""
    validated: int = 0
    """Rows of the validation set."""
    validated_tokens: int = 0
    """Response tokens of its longest batch; 0: `response` in every row."""
    adapter: int | None = None
    """Parameters of a LoRA adapter; then nothing else is trained."""
    decoded: int = 0
    """Tokens of the longest prompt and the longest answer sampled after it; 0: `prompt` + `response`."""

    @property
    def trained(self) -> int:
        """Parameters that have gradients and moments."""
        return self.student.parameters if self.adapter is None else self.adapter

    @property
    def head_gradient(self) -> int:
        """Bytes of the output head's gradient."""
        return self.student.embedding * self.width if self.adapter is None else 0


@dataclass(frozen=True)
class Estimate:
    """Bytes, by moment and by holder."""

    device: Mapping[str, Parts]
    """On the GPU; on a machine without one, everything."""
    host: Parts
    """In the CPU's memory while the device is a GPU; empty otherwise."""

    @property
    def moment(self) -> str:
        """The moment with the most memory."""
        return max(self.device, key=lambda moment: sum(self.device[moment].values()))

    @property
    def peak(self) -> float:
        """Bytes at that moment."""
        return sum(self.device[self.moment].values())

    @property
    def host_peak(self) -> float:
        """Bytes of the CPU's memory beside a GPU."""
        return sum(self.host.values())


def estimate(run: PlannedRun, place: Placement) -> Estimate:
    """The memory of one process of a training stage."""
    micro = max(1, min(place.micro_batch, run.batch // place.processes))
    held, host = _standing(run, place)
    gradients = run.trained * run.width * place.share(2)
    # Gradients of an earlier pass stand beside the activations of the next one; a single pass starts with none.
    accumulates = run.batch // place.processes > micro or run.plain_text[0] > 0
    moments: dict[str, Parts] = {}
    for name, rows, length, tokens, kind in _passes(run, micro):
        kept = {"activations": activations(run.student, rows * length, length, run, place)}
        forward, backward = (count * tokens * run.student.vocabulary * FLOAT32 for count in _LOGITS[kind])
        work = _WORKSPACE * rows * length * run.student.ffn * run.width
        before = {"gradients": gradients if accumulates else 0.0}
        head = run.head_gradient
        moments[f"{name}, forward"] = {**held, **before, **_slack(kept | {"logits": forward, "workspace": work})}
        kept |= {"logits": backward, "workspace": work}
        moments[f"{name}, backward"] = {**held, **before, "head's gradient": head, **_slack(kept)}
    # Tied weights get a second gradient, from the embedding, before the two are added.
    moments["end of backward"] = {**held, "gradients": gradients, "head's gradient": run.head_gradient}
    step = run.trained * run.width * place.share(1) if place.device == "cuda" else 0.0
    biggest = 2 * run.head_gradient
    moments["optimiser's step"] = {**held, "gradients": gradients, "workspace": max(step, biggest)}
    # Divided weights are gathered in every process to sample with.
    whole = {"gathered weights": run.student.parameters * run.width * (1 - place.share(3))}
    if run.loss == "own samples":
        decode = _decoding(run, place, run.teacher, min(place.decode_batch, run.rollouts))
        moments["rollouts"] = {**held, **whole, **decode}
    if run.validated:
        rows = min(place.decode_batch, run.validated)
        moments["validation, answers"] = {**held, **whole, **_decoding(run, place, None, rows)}
        tokens = run.validated_tokens or rows * run.response
        moments["validation, loss"] = {**held, **whole, **_scoring(run, rows, tokens, tokens)}
    if place.device == "cpu":
        return Estimate({moment: {**parts, **host} for moment, parts in moments.items()}, {})
    return Estimate(moments, host)


def sampling_estimate(run: PlannedRun, place: Placement) -> Estimate:
    """The memory of a stage that samples from the student and scores responses with it, and trains nothing."""
    held: dict[str, float] = {"student": run.student.parameters * run.width}
    if run.teacher is not None:
        held["teacher"] = run.teacher.parameters * run.teacher_width
    answers = {**held, **_decoding(run, place, None, place.decode_batch)}
    rows = place.micro_batch
    device = {"answers": answers, "loss": {**held, **_scoring(run, rows, rows * run.response, _POSITIONS)}}
    host = {"libraries": float(LIBRARIES)}
    if place.device == "cpu":
        return Estimate({moment: {**parts, **host} for moment, parts in device.items()}, {})
    return Estimate(device, host)


def _scoring(run: PlannedRun, rows: int, tokens: int, most: int) -> dict[str, float]:
    """A pass over `rows` rows with `tokens` response tokens, of which the head takes at most `most` at a time."""
    tokens = min(tokens, most, max(1, _SCORED // run.student.vocabulary))
    logits = 2 * tokens * run.student.vocabulary * FLOAT32
    states = 4 * rows * (run.prompt + run.response) * max(run.student.hidden, run.student.ffn) * run.width
    return _slack({"logits": logits, "hidden states": states})


def _slack(passing: dict[str, float]) -> dict[str, float]:
    """Memory that comes and goes, with the allocator's loss on it."""
    return {**passing, "allocator": _SLACK * sum(passing.values())}


def _standing(run: PlannedRun, place: Placement) -> tuple[dict[str, float], dict[str, float]]:
    """The memory held from the first step to the last: on the device, in the CPU's memory."""
    student = run.student.parameters * run.width
    held: dict[str, float] = {"student": student * place.share(3)}
    host: dict[str, float] = {"libraries": LIBRARIES}
    # AdamW keeps two numbers a parameter: means of the gradient and of its square.
    moments = 2 * run.trained * run.width * place.share(1)
    if place.offload == "none":
        held["AdamW's moments"] = moments
    else:
        host["AdamW's moments"] = moments
    if run.teacher is not None:
        teacher: float = run.teacher.parameters * run.teacher_width
        if place.teacher_shard and run.loss == "own samples":
            # The embedding and the head stay whole in every process; only the layers are divided.
            whole = run.teacher.vocabulary * run.teacher.hidden * (1 if run.teacher.tied else 2) * run.teacher_width
            teacher = whole + (teacher - whole) / place.processes
        (host if place.teacher_offload else held)["teacher"] = teacher
        states = run.cached_tokens if run.loss == "rows, teacher" else run.rollouts * run.response
        host["teacher's hidden states"] = states * run.teacher.hidden * run.teacher_width
    if run.loss == "own samples":
        host["best weights so far"] = student
    return held, host


def _passes(run: PlannedRun, micro: int) -> list[tuple[str, int, int, int, str]]:
    """The passes with gradients: name, rows, tokens of a row, tokens whose logits are held, kind of loss."""
    length = run.prompt + run.response
    tokens = micro * run.response
    if run.loss != "own samples":
        return [("batch", micro, length, tokens, run.loss)]
    passes = [("update", micro, length, min(tokens, _CHUNK), "own samples")]
    if run.plain_text[0]:
        rows, words = min(micro, run.plain_text[0]), run.plain_text[1]
        kind = "plain text, teacher" if run.plain_text_teacher else "plain text"
        passes.append(("plain text", rows, words, rows * words, kind))
    return passes


def activations(shape: Shape, tokens: int, length: int, run: PlannedRun, place: Placement) -> float:
    """Bytes that a forward pass over `tokens` keeps for the backward pass, in rows of `length`."""
    layer = shape.layer_activations * run.width
    # Training on own samples is without dropout.
    if run.loss != "own samples":
        # On a CPU a mask is as wide as the number it masks, on a GPU one byte.
        mask = run.width if place.device == "cpu" else 1
        if shape.dropout:
            layer += 2 * shape.hidden * mask
        if shape.attention_dropout and place.device == "cpu":
            layer += 3 * shape.heads * length * run.width  # no fused kernel there: scores, mask and their product
    ends = 3 * shape.hidden * run.width
    if place.gradient_checkpointing:
        # Every layer's input is kept; one layer at a time has all its activations, while it is computed again.
        return tokens * (shape.layers * shape.hidden * run.width + layer + ends)
    return tokens * (shape.layers * layer + ends)


def _decoding(run: PlannedRun, place: Placement, teacher: Shape | None, rows: int) -> dict[str, float]:
    """A decode of `rows` rows to the limit, from the student or from its mixture with the teacher."""
    length = run.decoded or run.prompt + run.response
    caches = rows * length * run.student.cache * run.width
    states = 0.0
    if teacher is not None:
        caches += rows * length * teacher.cache * run.teacher_width
        states = 2 * rows * run.response * teacher.hidden * run.teacher_width
    widest = max(shape.ffn for shape in (run.student, teacher) if shape is not None)
    return {
        "key-value caches": caches,
        "hidden states": states,
        "logits": _DECODED[teacher is not None] * rows * run.student.vocabulary * FLOAT32,
        "reading prompts": 4 * max(_READ, run.prompt) * widest * run.width,
    }
