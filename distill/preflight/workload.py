"""The work of one row's stages, counted from settings and the data's lengths: steps, tokens, units of cost."""

from __future__ import annotations

from dataclasses import dataclass, fields

from distill.models.settings import PretrainSettings
from distill.on_policy.settings import OnPolicySettings
from distill.preflight.lengths import Lengths
from distill.preflight.shapes import Shape
from distill.training.settings import SupervisedSettings

# A backward pass costs twice a forward pass.
_TRAINED = 3
# Batches that supervised training sorts by length together (distill.training.batches).
_POOL = 8


@dataclass(frozen=True)
class Units:
    """What one model does, in units that each have a price; or these prices, in seconds a unit."""

    trained: float = 0.0
    """Tokens that pass the layers forward and backward, padding included."""
    learnt: float = 0.0
    """Tokens that pass the head and a loss forward and backward."""
    read: float = 0.0
    """Tokens that pass the layers forward, padding included."""
    scored: float = 0.0
    """Tokens that pass the head forward."""
    steps: float = 0.0
    """Steps of a decode, whatever the number of rows in it."""
    sampled: float = 0.0
    """Tokens sampled."""
    updates: float = 0.0
    """Steps of the optimiser."""

    def __add__(self, other: Units) -> Units:
        """Both together."""
        return Units(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def seconds(self, prices: Units) -> float:
        """The seconds that these units take at these `prices`."""
        return float(sum(getattr(self, each.name) * getattr(prices, each.name) for each in fields(self)))


@dataclass(frozen=True)
class Work:
    """One stage."""

    steps: int
    """Optimiser steps."""
    trained: float
    """Tokens that pass forward and backward."""
    generated: float
    """Tokens sampled, one at a time."""
    operations: float = 0.0
    """Floating point operations of the passes over whole sequences."""
    decoding: float = 0.0
    """Floating point operations of sampling, which runs at another speed."""
    own: Units = Units()
    """Of the model that the stage trains or samples from."""
    teacher: Units = Units()
    """Of the teacher beside it."""

    def __add__(self, other: Work) -> Work:
        """Both one after the other; numbers add up field by field."""
        return Work(
            self.steps + other.steps,
            self.trained + other.trained,
            self.generated + other.generated,
            self.operations + other.operations,
            self.decoding + other.decoding,
            self.own + other.own,
            self.teacher + other.teacher,
        )


@dataclass(frozen=True)
class Batches:
    """How many sequences the machine takes at once."""

    micro: int = 8
    decode: int = 64


def supervised_work(
    settings: SupervisedSettings,
    rows: int,
    lengths: Lengths,
    student: Shape,
    teacher: Shape | None,
    cached: bool,
    batches: Batches = Batches(),
) -> Work:
    """A stage on `rows` rows; a `cached` teacher reads each row once, another every epoch."""
    length = lengths.prompt + lengths.response
    # Rounded up: the last, smaller batch of an epoch is a step too.
    steps = -(-rows // settings.batch_size) * settings.epochs
    trained, answers = float(rows * settings.epochs) * length, float(rows * settings.epochs) * lengths.response
    # The head runs on response tokens alone; a weight costs a product and an addition.
    operations = _TRAINED * (_body(student, length) * trained + 2 * student.embedding * answers)
    pool = min(rows, _POOL * settings.batch_size)
    padded = lengths.padded_row(pool, min(batches.micro, settings.batch_size))
    own = Units(trained=rows * settings.epochs * padded, learnt=answers, updates=steps)
    beside = Units()
    if teacher is not None:
        # A frozen teacher only runs forward; kept states spare its body in later epochs, but not its head.
        operations += _body(teacher, length) * (rows * length if cached else trained) + 2 * teacher.embedding * answers
        beside = Units(read=rows * padded * (1 if cached else settings.epochs), scored=answers)
    checks = settings.epochs // settings.evaluate_every
    done = Work(steps, trained, 0.0, operations, 0.0, own, beside)
    return done + _validations(checks, lengths, student, batches)


def pretraining_work(settings: PretrainSettings, student: Shape) -> Work:
    """Language modelling of a fresh model: every token but the first of a window is predicted."""
    tokens = float(settings.steps * settings.batch_size * settings.sequence_length)
    operations = _TRAINED * student.forward_operations(settings.sequence_length / 2) * tokens
    return Work(
        settings.steps, tokens, 0.0, operations, 0.0, Units(trained=tokens, learnt=tokens, updates=settings.steps)
    )


def on_policy_work(
    settings: OnPolicySettings, lengths: Lengths, student: Shape, teacher: Shape, batches: Batches = Batches()
) -> Work:
    """Rollouts of the student or of both models, rows that are read in their place, updates, plain text."""
    length = lengths.prompt + lengths.generated
    collections = -(-settings.max_steps // settings.steps_per_collection)
    sampled = collections * settings.rollouts * settings.own_share
    read = collections * settings.rollouts - sampled
    generated = sampled * lengths.generated
    # The teacher samples along in a mixture; otherwise it reads what the student has sampled.
    samplers = (student, teacher) if settings.teacher_mix_alpha else (student,)
    decoding = sum(s.forward_operations(length / 2) for s in samplers) * generated
    # Prompts are read below the head: the logits of their last position are those of the first sampled token.
    decoding += sum(_body(s, length) for s in samplers) * sampled * lengths.prompt
    sequences = settings.max_steps * settings.minibatch
    plain = settings.max_steps * settings.lm_batch * settings.lm_length if settings.lm_coef else 0
    operations = _TRAINED * (_body(student, length) * sequences * length)
    operations += _body(student, length) * read * length
    operations += _body(teacher, length) * (read if settings.teacher_mix_alpha else read + sampled) * length
    # The teacher's states were kept in the decode, so an update runs its head alone.
    operations += 2 * (_TRAINED * student.embedding + teacher.embedding) * sequences * lengths.generated
    operations += _TRAINED * student.forward_operations(settings.lm_length) * plain
    if settings.lm_kd_ratio:
        operations += teacher.forward_operations(settings.lm_length) * plain
    done = Work(settings.max_steps, sequences * length + plain, generated, operations, decoding)
    # A collection is decoded by itself, so its last batch may be a small one.
    decode = _decode(round(settings.rollouts * settings.own_share), lengths, batches.decode, collections)
    padded = lengths.padded_row(settings.minibatch, batches.micro)
    answers = sequences * lengths.generated
    own = decode + Units(
        trained=sequences * padded + plain, learnt=answers + plain, read=read * padded, updates=settings.max_steps
    )
    alone = Units(read=sampled * padded, scored=generated)
    beside = (decode if settings.teacher_mix_alpha else alone) + Units(read=read * padded, scored=answers)
    if settings.lm_kd_ratio:
        beside += Units(read=plain, scored=plain)
    checks = 1 + settings.max_steps // settings.evaluate_every
    return done + Work(0, 0, 0, own=own, teacher=beside) + _validations(checks, lengths, student, batches)


def sampling_work(responses: float, lengths: Lengths, shape: Shape, batches: Batches = Batches()) -> Work:
    """A stage that only samples `responses` responses."""
    generated = responses * lengths.generated
    # A sampled token sees the whole prompt and, on average, half of the response.
    decoding = shape.forward_operations(lengths.prompt + lengths.generated / 2) * generated
    decoding += _body(shape, lengths.prompt) * responses * lengths.prompt
    return Work(0, 0.0, generated, 0.0, decoding, _decode(round(responses), lengths, batches.decode))


def reading_work(rows: float, lengths: Lengths, shape: Shape, batches: Batches = Batches()) -> Work:
    """A pass over `rows` rows that scores their responses."""
    operations = rows * shape.forward_operations(lengths.response) * (lengths.prompt + lengths.response)
    padded = lengths.padded_row(max(1, round(rows)), batches.micro)
    return Work(0, 0.0, 0.0, operations, 0.0, Units(read=rows * padded, scored=rows * lengths.response))


def _decode(responses: int, lengths: Lengths, batch: int, times: int = 1) -> Units:
    """`responses` responses in batches of similar prompts, `times` over."""
    if not responses:
        return Units()
    full, rest = divmod(responses, batch)
    steps = full * lengths.decode_steps(batch) + (lengths.decode_steps(rest) if rest else 0.0)
    prompts = responses * lengths.padded_prompt(responses, batch)
    return Units(read=times * prompts, steps=times * steps, sampled=times * responses * lengths.generated)


def _body(shape: Shape, length: float) -> float:
    """Operations of a token's forward pass below the head, in a sequence of `length`: it sees half of it on average."""
    return shape.forward_operations(length / 2, head=False)


def _validations(checks: int, lengths: Lengths, student: Shape, batches: Batches) -> Work:
    """`checks` validations: each answers every row once and reads its reference."""
    rows = lengths.valid or 0
    answers = sampling_work(checks * rows, lengths, student)
    # Each validation decodes by itself; its references are read in batches of a decode's size.
    reading = reading_work(checks * rows, lengths, student, Batches(batches.decode, batches.decode))
    units = _decode(rows, lengths, batches.decode, checks) + reading.own
    return Work(0, 0.0, answers.generated, reading.operations, answers.decoding, units)
